//! `plans:`, `consumers:`, `keys:`, `jwt:` and `models:` — who may use which model, and how often.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use access::{Consumer, Issuer, IssuerKeys, Key, KeyDigest, Limits, ModelGlobs, Per, Rate, TokenPlan, Unit};
use catalogue::{GivenModelSettings, ServerSettings, Setting};
use serde_yaml::Value;

use super::{
    section::Section,
    traefik::{NETWORK, network},
};

/// What names of keys and consumers may be. A consumer goes into a header.
pub(crate) const NAME: &str = "1 to 64 letters, digits and ._@:-";
const SHA256: &str =
    "64 hexadecimal digits, the SHA-256 of an API key as `modelgate keys generate` prints it";
const TIME: &str = "a time such as 2027-01-01T00:00:00Z";
const GLOB: &str = "the name of a model, or a pattern with * and ? such as \"llama*\"";

/// The list of keys that one key in clear stands for. It is kept as a digest only, as in the file.
pub(super) fn from_clear(key: &str) -> Result<Value, &'static str> {
    // It must survive the way through a header (RFC 9110 §5.5); nothing is trimmed silently.
    if !(1..=512).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("allowed: 1 to 512 visible ASCII characters, without spaces");
    }
    let digest = KeyDigest::of(key).to_hex();
    let entry = [("name", "default"), ("consumer", "default"), ("sha256", digest.as_str())];
    let entry = entry.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    Ok(Value::Sequence(vec![Value::Mapping(entry)]))
}

/// One entry of `plans:`: limits that keys and consumers refer to.
struct Plan {
    name: String,
    models: Option<ModelGlobs>,
    limits: Limits,
    limits_per_model: Limits,
}

/// Who may use Modelgate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// API keys.
    pub(crate) keys: Vec<Key>,
    /// Identity providers whose tokens are taken.
    pub(crate) issuers: Vec<JwtIssuer>,
    /// Consumers by name.
    pub(crate) consumers: HashMap<String, Arc<Consumer>>,
}

/// One entry of `jwt:`.
#[derive(Debug, Clone)]
pub(crate) struct JwtIssuer {
    /// What its tokens stand for; its keys come later.
    pub(crate) issuer: Issuer,
    /// Where its keys are; without it, its `.well-known/openid-configuration` says so.
    pub(crate) jwks_url: Option<String>,
}

/// `plans:`, `consumers:`, `keys:` and `jwt:`.
pub(super) fn read(
    plans: Vec<Section<'_>>,
    consumers: Vec<Section<'_>>,
    keys: Vec<Section<'_>>,
    issuers: Vec<Section<'_>>,
) -> Accounts {
    let plans = read_plans(plans);
    let mut consumers = read_consumers(consumers, &plans);
    let mut read: Vec<(usize, Key)> = Vec::with_capacity(keys.len());
    // By name and by digest, so that 100,000 keys are not compared with each other.
    let (mut names, mut digests) = (HashMap::new(), HashMap::new());
    for (i, mut section) in keys.into_iter().enumerate() {
        if let Some(key) = read_one(&mut section, &plans, &mut consumers) {
            if let Some(other) = names.insert(key.name.clone(), i) {
                let message =
                    format!("keys[{other}] is called {:?} too; allowed: a name of its own", key.name);
                section.error("name", message);
            }
            if let Some(other) = digests.insert(key.digest, i) {
                section
                    .error("sha256", format!("is the same as in keys[{other}]; allowed: each API key once"));
            }
            read.push((i, key));
        }
        section.finish();
    }
    let keys = read.into_iter().map(|(_, key)| key).collect();
    let issuers = issuers.into_iter().filter_map(|section| read_issuer(section, &plans)).collect();
    Accounts { keys, issuers, consumers }
}

fn read_issuer(mut section: Section<'_>, plans: &[Plan]) -> Option<JwtIssuer> {
    const URL: &str = "an http or https URL, as it stands in a token's iss";
    const AUDIENCE: &str = "a name that must be in a token's aud";
    const CLAIM: &str = "the name of a claim";
    let url = |text: &str| {
        let fits = text.starts_with("https://") || text.starts_with("http://");
        let plain = text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['@', '#', '`']);
        (fits && plain && text.len() <= 512).then(|| text.to_owned())
    };
    let word = |text: &str| {
        ((1..=256).contains(&text.len()) && !text.contains(char::is_control)).then(|| text.to_owned())
    };
    let issuer = section.get("issuer", URL, url);
    section.require("issuer", URL);
    let audience = section.list("audience", AUDIENCE, word);
    section.require("audience", &format!("a list, each {AUDIENCE}"));
    if let Some(audience) = &audience {
        section.require_some("audience", audience);
    }
    let jwks_url = section.get("jwks_url", "the http or https URL of a JSON Web Key Set", url);
    let consumer_claim = section.get("consumer_claim", CLAIM, word);
    let plan_claim = section.get("plan_claim", CLAIM, word);
    let default_plan = plan(&mut section, plans);
    let models = models(&mut section);
    section.finish();
    let token_plan = |plan: &Plan| TokenPlan {
        models: models.clone().or_else(|| plan.models.clone()).unwrap_or_else(ModelGlobs::all),
        limits: plan.limits.clone(),
        limits_per_model: plan.limits_per_model.clone(),
    };
    let without =
        || TokenPlan { models: models.clone().unwrap_or_else(ModelGlobs::all), ..TokenPlan::default() };
    let issuer = Issuer {
        issuer: issuer?,
        audience: audience?,
        consumer_claim: consumer_claim.unwrap_or_else(|| "sub".into()),
        plan_claim,
        plans: plans.iter().map(|plan| (plan.name.clone(), token_plan(plan))).collect(),
        default_plan: default_plan.map_or_else(without, token_plan),
        keys: IssuerKeys::default(),
    };
    Some(JwtIssuer { issuer, jwks_url })
}

fn read_plans(sections: Vec<Section<'_>>) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    for mut section in sections {
        let name = section.get("name", NAME, name);
        section.require("name", NAME);
        if let Some(name) = name.as_ref().filter(|name| plans.iter().any(|p| p.name == **name)) {
            section.error("name", format!("another plan is called {name:?} too; allowed: a name of its own"));
        }
        let models = models(&mut section);
        let (limits, limits_per_model) =
            (limits(&mut section, "limit"), limits(&mut section, "limit_per_model"));
        section.finish();
        if let Some(name) = name {
            let (limits, limits_per_model) =
                (limits.unwrap_or_default(), limits_per_model.unwrap_or_default());
            plans.push(Plan { name, models, limits, limits_per_model });
        }
    }
    plans
}

fn read_consumers(sections: Vec<Section<'_>>, plans: &[Plan]) -> HashMap<String, Arc<Consumer>> {
    let mut consumers = HashMap::new();
    for mut section in sections {
        let name = section.get("name", NAME, name);
        section.require("name", NAME);
        let plan = plan(&mut section, plans);
        let own = (limits(&mut section, "limit"), limits(&mut section, "limit_per_model"));
        let disabled = section.bool("disabled").unwrap_or(false);
        if let Some(name) = name {
            let mut consumer = Consumer::new(&name);
            consumer.limits = own.0.or_else(|| plan.map(|p| p.limits.clone())).unwrap_or_default();
            consumer.limits_per_model =
                own.1.or_else(|| plan.map(|p| p.limits_per_model.clone())).unwrap_or_default();
            consumer.disabled = disabled;
            if consumers.insert(name.clone(), Arc::new(consumer)).is_some() {
                section.error(
                    "name",
                    format!("another consumer is called {name:?} too; allowed: a name of its own"),
                );
            }
        }
        section.finish();
    }
    consumers
}

/// The plan that an entry refers to.
fn plan<'p>(section: &mut Section<'_>, plans: &'p [Plan]) -> Option<&'p Plan> {
    let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    let allowed = match names.is_empty() {
        true => "the name of a plan, and there are none: see plans".to_owned(),
        false => format!("the name of a plan: {}", names.join(", ")),
    };
    section.get("plan", &allowed, |text| plans.iter().find(|p| p.name == text))
}

/// `models:` — settings of the models that a pattern matches, whatever their servers say.
pub(super) fn read_models(sections: Vec<Section<'_>>) -> Vec<(ModelGlobs, GivenModelSettings)> {
    let read = |mut section: Section<'_>| {
        let models = section.try_get("match", GLOB, |text| glob(text).and_then(|g| globs(&[g])));
        section.require("match", GLOB);
        let mut given = GivenModelSettings::default();
        section.settings(&mut ServerSettings::default(), &mut given, Setting::is_of_model);
        if let Err(fault) = given.check() {
            section.error(fault.split(' ').next().unwrap_or_default(), fault);
        }
        if section.has_only("match") {
            section.error(
                "match",
                "is all there is; allowed: with at least one setting, such as limit or timeout",
            );
        }
        section.finish();
        Some((models?, given))
    };
    sections.into_iter().filter_map(read).collect()
}

fn read_one(
    section: &mut Section<'_>,
    plans: &[Plan],
    consumers: &mut HashMap<String, Arc<Consumer>>,
) -> Option<Key> {
    let name = section.get("name", NAME, name);
    section.require("name", NAME);
    let consumer = section.get("consumer", NAME, self::name);
    section.require("consumer", NAME);
    let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
    section.require("sha256", SHA256);
    let previous = previous(section);
    let plan = plan(section, plans);
    let models = models(section).or_else(|| plan?.models.clone());
    let own = (limits(section, "limit"), limits(section, "limit_per_model"));
    let manage = section.bool("manage").unwrap_or(false);
    let expires = time(section, "expires");
    let disabled = section.bool("disabled").unwrap_or(false);
    let networks = section.list("networks", NETWORK, network).unwrap_or_default();
    let consumer = consumer?;
    let consumer = consumers.entry(consumer.clone()).or_insert_with(|| Arc::new(Consumer::new(consumer)));
    Some(Key {
        models: models.unwrap_or_else(ModelGlobs::all),
        limits: own.0.or_else(|| plan.map(|p| p.limits.clone())).unwrap_or_default(),
        limits_per_model: own.1.or_else(|| plan.map(|p| p.limits_per_model.clone())).unwrap_or_default(),
        previous,
        manage,
        expires,
        disabled,
        networks,
        ..Key::new(name?, Arc::clone(consumer), digest?)
    })
}

/// `previous:` — what the key was before it was rotated, and until when that still works.
fn previous(key: &mut Section<'_>) -> Option<(KeyDigest, SystemTime)> {
    let given = key.has("previous");
    let mut section = key.section("previous");
    let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
    let until = time(&mut section, "until");
    if given {
        section.require("sha256", SHA256);
        section.require("until", TIME);
    }
    section.finish();
    digest.zip(until)
}

fn time(section: &mut Section<'_>, key: &'static str) -> Option<SystemTime> {
    section.get(key, TIME, |text| humantime::parse_rfc3339(text).ok())
}

fn models(section: &mut Section<'_>) -> Option<ModelGlobs> {
    let models = section.try_list("models", GLOB, glob)?;
    section.require_some("models", &models);
    globs(&models).ok()
}

/// Limits by unit and time. `burst` is that of the shortest time for which requests are limited.
fn limits(section: &mut Section<'_>, key: &'static str) -> Option<Limits> {
    const REQUESTS: [(&str, Per); 3] = [
        ("requests_per_second", Per::Second),
        ("requests_per_minute", Per::Minute),
        ("requests_per_hour", Per::Hour),
    ];
    let given = section.has(key);
    let mut limit = section.section(key);
    let mut rates = Vec::new();
    let burst = limit.number("burst", 1..=Rate::MAX);
    for (name, per) in REQUESTS {
        if let Some(amount) = limit.number(name, 1..=Rate::MAX) {
            let burst = burst.filter(|_| rates.is_empty());
            rates.extend(Rate::new(amount, Unit::Requests, per, burst).ok());
        }
    }
    if burst.is_some() && rates.is_empty() {
        limit.error(
            "burst",
            "is given without a number of requests; allowed: with requests_per_minute or another",
        );
    }
    let tokens = limit.number("tokens_per_minute", 1..=Rate::MAX);
    let tokens_burst = limit.number("tokens_burst", 1..=Rate::MAX);
    if tokens_burst.is_some() && tokens.is_none() {
        limit.error("tokens_burst", "is given without tokens_per_minute");
    }
    rates.extend(tokens.and_then(|amount| Rate::new(amount, Unit::Tokens, Per::Minute, tokens_burst).ok()));
    if limit.is_empty() && given {
        limit.error(
            "requests_per_minute",
            "is missing; allowed: at least one of requests_per_second, requests_per_minute, requests_per_hour and \
             tokens_per_minute",
        );
    }
    limit.finish();
    given.then(|| Limits::new(rates))
}

/// A pattern that can be used; the reason if it cannot.
fn glob(text: &str) -> Result<String, String> {
    globs(&[text.into()]).map(|_| text.into())
}

fn globs(patterns: &[String]) -> Result<ModelGlobs, String> {
    ModelGlobs::parse(patterns).map_err(|invalid| format!("{}; allowed: {GLOB}", invalid.reason))
}

/// Checks the name of a key or a consumer.
pub(crate) fn name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._@:-".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}
