//! `alerts:` — who is told when something needs attention.

use std::{env, fs, time::Duration};

use ::alerts::{Form, Patience, QUIET, QuietHours, SECRET, Secret, URL, Webhook, WebhookUrl};
use config_reader::Section;

/// `alerts:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AlertsConfig {
    /// Who is told; nobody if it is empty.
    pub(crate) webhooks: Vec<Webhook>,
    /// How soon and how often.
    pub(crate) patience: Patience,
    /// The URL of the dashboard, without a path, for links.
    pub(crate) dashboard: Option<String>,
    /// From which difference on, in percent of the tokens that a server has counted, its books differ too much.
    pub(crate) books_difference: u32,
}

const DASHBOARD: &str = "https://HOST[:PORT] or http://HOST[:PORT], without a path";
const NAME: &str = "1 to 64 letters, digits and any of - _ .";

pub(super) fn read(mut section: Section<'_>) -> AlertsConfig {
    const HOUR: Duration = Duration::from_secs(3_600);
    let after = section.duration("after", Duration::ZERO..=HOUR);
    let repeat = section.duration("repeat", Duration::ZERO..=HOUR * 24 * 365);
    let dashboard = section.get("dashboard", DASHBOARD, dashboard);
    let books_difference = section.number("books_difference", 1..=100);
    let webhooks = webhooks(section.sections("webhooks"));
    section.finish();
    let repeat = repeat.unwrap_or(HOUR * 24);
    AlertsConfig {
        webhooks,
        patience: Patience {
            after: after.unwrap_or(Duration::from_secs(30)),
            repeat: (!repeat.is_zero()).then_some(repeat),
        },
        dashboard,
        books_difference: books_difference.unwrap_or(5),
    }
}

fn dashboard(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    (!host.is_empty() && host.chars().all(is_plain)).then(|| text.trim_end_matches('/').to_owned())
}

fn webhooks(sections: Vec<Section<'_>>) -> Vec<Webhook> {
    let mut webhooks: Vec<Webhook> = Vec::with_capacity(sections.len());
    for mut section in sections {
        if let Some(webhook) = webhook(&mut section) {
            if webhooks.iter().any(|other| other.name == webhook.name) {
                section.error(
                    "name",
                    format!("another webhook is called {:?}; allowed: a name of its own", webhook.name),
                );
            } else {
                webhooks.push(webhook);
            }
        }
        section.finish();
    }
    webhooks
}

fn webhook(section: &mut Section<'_>) -> Option<Webhook> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = section.get("name", NAME, |text| {
        ((1..=64).contains(&text.len()) && text.chars().all(is_plain)).then(|| text.to_owned())
    });
    section.require("name", NAME);
    let form = section.one_of("form", &Form::WORDS).unwrap_or(Form::Standard);
    let in_clear = section.secret("url", URL, |text| text.parse::<WebhookUrl>().ok());
    let kept = kept(section, "url_from", URL, |text| text.parse::<WebhookUrl>().ok());
    if section.has("url") == section.has("url_from") {
        section.error(
            "url",
            format!("needs exactly one of url, {URL}, and url_from, which says where that is kept"),
        );
    }
    let secret = |text: &str| text.parse::<Secret>().ok();
    let current = self::kept(section, "secret", SECRET, secret);
    let previous = self::kept(section, "previous_secret", SECRET, secret);
    if section.has("previous_secret") && !section.has("secret") {
        section.error("previous_secret", "needs secret, the one that takes its place");
    }
    let quiet = section.get("quiet", QUIET, |text| text.parse::<QuietHours>().ok());
    let wants_warnings = section.bool("warnings").unwrap_or(false);
    let secrets = current.into_iter().chain(previous).collect();
    Some(Webhook { name: name?, url: in_clear.or(kept)?, form, secrets, quiet, wants_warnings })
}

/// Reads where a secret is kept: `{ env: VARIABLE }` or `{ file: PATH }`. Secrets are never in the file, because people show the
/// file to each other.
fn kept<T>(
    parent: &mut Section<'_>,
    key: &'static str,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let is_given = parent.has(key);
    let mut section = parent.section(key);
    let from_env =
        section.try_get("env", "the name of an environment variable", |name| match env::var(name) {
            Ok(text) => parse(&text).ok_or_else(|| format!("its value is not allowed: {allowed}")),
            Err(_) => Err("this variable is not set, or is not UTF-8".into()),
        });
    let from_file = section.try_get("file", "the path of a file", |path| match fs::read_to_string(path) {
        Ok(text) => parse(text.trim_end_matches(['\r', '\n']))
            .ok_or_else(|| format!("its content is not allowed: {allowed}")),
        Err(error) => Err(error.to_string()),
    });
    if is_given && section.has("env") == section.has("file") {
        section.error(
            "env",
            format!("{key} needs exactly one of env, an environment variable, and file, a path"),
        );
    }
    section.finish();
    from_env.or(from_file)
}
