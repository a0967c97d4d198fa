//! `alerts:` — who is told when something needs attention.

use std::time::Duration;

use ::alerts::{
    Form, MAIL_ADDRESS, MailAddress, MailAuthorities, MailLogin, MailRoute, MailSecurity, Patience, QUIET,
    QuietHours, SECRET, Secret, URL, Way, Webhook, WebhookUrl,
};
use config_reader::Section;
use serde_yaml::{Mapping, Value};

use super::files::{self, kept};

/// `alerts:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AlertsConfig {
    /// Who is told, by webhook or by mail; nobody if it is empty.
    pub(crate) webhooks: Vec<Webhook>,
    /// How soon and how often.
    pub(crate) patience: Patience,
    /// The URL of the dashboard, without a path, for links.
    pub(crate) dashboard: Option<String>,
    /// From which difference on, in percent of the tokens that a server has counted, its books differ too much.
    pub(crate) books_difference: u32,
    /// Whether it is told when a key is used from a network from which it was not used before.
    pub(crate) new_networks: bool,
}

const DASHBOARD: &str = "https://HOST[:PORT] or http://HOST[:PORT], without a path";
const NAME: &str = "1 to 64 letters, digits and any of - _ .";

pub(super) fn read(mut section: Section<'_>) -> AlertsConfig {
    const HOUR: Duration = Duration::from_secs(3_600);
    let after = section.duration("after", Duration::ZERO..=HOUR);
    let repeat = section.duration("repeat", Duration::ZERO..=HOUR * 24 * 365);
    let dashboard = section.get("dashboard", DASHBOARD, dashboard);
    let books_difference = section.number("books_difference", 1..=100);
    let new_networks = section.bool("new_networks").unwrap_or(false);
    let mut webhooks = Vec::new();
    read_each(section.sections("webhooks"), webhook, &mut webhooks);
    read_each(section.sections("mail"), mail, &mut webhooks);
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
        new_networks,
    }
}

fn dashboard(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    (!host.is_empty() && host.chars().all(is_plain)).then(|| text.trim_end_matches('/').to_owned())
}

/// The paths of the webhooks and mailboxes of a name: `alerts.mail[0].`.
pub(super) fn paths_of(name: &str, root: &Mapping) -> impl Iterator<Item = String> {
    let is_called = move |item: &Value| match item.get("name") {
        Some(Value::String(text)) => text == name,
        // Numbers are names, too.
        Some(Value::Number(number)) => number.to_string() == name,
        _ => false,
    };
    let of_list = move |list: &'static str| {
        let items = root.get("alerts").and_then(|alerts| alerts.get(list)).and_then(Value::as_sequence);
        let numbered = items.into_iter().flatten().enumerate();
        numbered.filter(move |(_, item)| is_called(item)).map(move |(n, _)| format!("alerts.{list}[{n}]."))
    };
    ["webhooks", "mail"].into_iter().flat_map(of_list)
}

fn read_each(
    sections: Vec<Section<'_>>,
    read: impl Fn(&mut Section<'_>) -> Option<Webhook>,
    all: &mut Vec<Webhook>,
) {
    for mut section in sections {
        if let Some(webhook) = read(&mut section) {
            if all.iter().any(|other| other.name == webhook.name) {
                section.error(
                    "name",
                    format!(
                        "another receiver of alerts is called {:?}; allowed: a name of its own",
                        webhook.name
                    ),
                );
            } else {
                all.push(webhook);
            }
        }
        section.finish();
    }
}

fn name(section: &mut Section<'_>) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = section.get("name", NAME, |text| {
        ((1..=64).contains(&text.len()) && text.chars().all(is_plain)).then(|| text.to_owned())
    });
    section.require("name", NAME);
    name
}

/// What webhooks and mail have in common: quiet hours, and whether warnings are told.
fn wishes(section: &mut Section<'_>) -> (Option<QuietHours>, bool) {
    let quiet = section.get("quiet", QUIET, |text| text.parse::<QuietHours>().ok());
    (quiet, section.bool("warnings").unwrap_or(false))
}

fn webhook(section: &mut Section<'_>) -> Option<Webhook> {
    let name = name(section);
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
    let (quiet, wants_warnings) = wishes(section);
    let secrets = current.into_iter().chain(previous).collect();
    let way = Way::Web { url: in_clear.or(kept)?, form, secrets };
    Some(Webhook { name: name?, way, quiet, wants_warnings })
}

const MAIL_SERVER: &str = "HOST[:PORT], such as mail.example.com:587";

fn mail(section: &mut Section<'_>) -> Option<Webhook> {
    let name = name(section);
    let security = section.one_of("security", &MailSecurity::WORDS).unwrap_or(MailSecurity::StartTls);
    let server = section.get("server", MAIL_SERVER, |text| mail_server(text, security));
    section.require("server", MAIL_SERVER);
    let user = section.get("user", "the name with which Modelgate signs in", |text| Some(text.to_owned()));
    let password = kept(section, "password", "a password", |text| Some(text.to_owned()));
    if section.has("user") != section.has("password") {
        section.error("user", "user and password go together; allowed: both, or neither");
    }
    if section.has("user") && security == MailSecurity::None {
        section.error(
            "security",
            "found \"none\", with which a password would be sent in clear; allowed: starttls, tls",
        );
    }
    let authorities = section.try_get("ca", "the path of a file with certificates in PEM", |path| {
        let pem = files::read(path).map_err(|error| error.to_string())?;
        MailAuthorities::from_pem(&pem).ok_or_else(|| "it has no certificate".to_owned())
    });
    let from = section.get("from", MAIL_ADDRESS, |text| text.parse::<MailAddress>().ok());
    section.require("from", MAIL_ADDRESS);
    let to = section.list("to", MAIL_ADDRESS, |text| text.parse::<MailAddress>().ok()).unwrap_or_default();
    section.require_some("to", &to);
    let (quiet, wants_warnings) = wishes(section);
    let (host, port) = server?;
    let login = user.zip(password).map(|(user, password)| MailLogin { user, password });
    let to = Some(to).filter(|to| !to.is_empty())?;
    let route = MailRoute { host, port, security, login, authorities, from: from?, to };
    Some(Webhook { name: name?, way: Way::Mail(Box::new(route)), quiet, wants_warnings })
}

/// The usual ports are those of submission (RFC 6409, RFC 8314), and 25 without encryption.
fn mail_server(text: &str, security: MailSecurity) -> Option<(String, u16)> {
    let usual = match security {
        MailSecurity::StartTls => 587,
        MailSecurity::Tls => 465,
        MailSecurity::None => 25,
    };
    let is_v6 = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_v6 || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0)?)
        }
        _ => (text, usual),
    };
    let plain = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || is_v6 && c == ':';
    (!plain.is_empty() && plain.chars().all(is_plain)).then(|| (plain.to_owned(), port))
}
