//! `plans:`, `consumers:`, `keys:`, `jwt:` and `models:` — who may use which model, and how often.

use std::collections::HashMap;

use access::{Issuer, IssuerKeys, KeyDigest, ModelGlobs, TokenPlan};
use accounts::{Account, Accounts as Declared, KeySpec, Plan};
use catalogue::{GivenModelSettings, ServerSettings, Setting};
use config_reader::Section;
use serde_yaml::Value;

/// The list of keys that a single key in clear stands for. Only its digest is kept, as in the file.
pub(super) fn from_clear(key: &str) -> Result<Value, &'static str> {
    // The key must pass through a header unchanged (RFC 9110 §5.5), so nothing may be trimmed.
    if !(1..=512).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("allowed: 1 to 512 visible ASCII characters, without spaces");
    }
    let digest = KeyDigest::of(key).to_hex();
    let entry = [("name", "default"), ("consumer", "default"), ("sha256", digest.as_str())];
    let entry = entry.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    Ok(Value::Sequence(vec![Value::Mapping(entry)]))
}

/// The file's accounts and identity providers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// Plans, consumers and keys.
    pub(crate) declared: Declared,
    /// Identity providers whose tokens are accepted.
    pub(crate) issuers: Vec<JwtIssuer>,
}

/// One entry of `jwt:`.
#[derive(Debug, Clone)]
pub(crate) struct JwtIssuer {
    /// How its tokens are understood; its keys and plans are added later.
    pub(crate) issuer: Issuer,
    /// The plan that applies if no claim names one.
    pub(crate) plan: Option<String>,
    /// The models that all its tokens may use, whatever their plan says.
    pub(crate) models: Option<ModelGlobs>,
    /// The URL of its keys; if absent, it is taken from its `.well-known/openid-configuration`.
    pub(crate) jwks_url: Option<String>,
}

impl JwtIssuer {
    /// Says which plan its tokens have.
    pub(crate) fn plans_in_words(&self) -> String {
        let otherwise = self.plan.as_ref().map(|plan| format!("plan {plan:?}"));
        match (&self.issuer.plan_claim, otherwise) {
            (Some(claim), Some(plan)) => format!("the plan that claim {claim:?} names, else {plan}"),
            (Some(claim), None) => format!("the plan that claim {claim:?} names; refused if it names none"),
            (None, Some(plan)) => plan,
            (None, None) => "no plan, so no limits".into(),
        }
    }
}

/// Reads `plans:`, `consumers:`, `keys:` and `jwt:`. The file may refer only to what it contains itself.
pub(super) fn read(
    plans: Vec<Section<'_>>,
    consumers: Vec<Section<'_>>,
    keys: Vec<Section<'_>>,
    issuers: Vec<Section<'_>>,
) -> Accounts {
    let plans: Vec<Plan> = read_all(plans, "plan", None);
    let plan_names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let consumers = read_all(consumers, "consumer", Some(&plan_names));
    let keys = read_keys(keys, &plan_names);
    let issuers = read_issuers(issuers, &plan_names);
    Accounts { declared: Declared { plans, consumers, keys }, issuers }
}

fn read_all<A: Account>(sections: Vec<Section<'_>>, kind: &str, plans: Option<&[String]>) -> Vec<A> {
    let mut accounts: Vec<A> = Vec::with_capacity(sections.len());
    for mut section in sections {
        if let Some(account) = A::read(&mut section, plans) {
            let name = account.name();
            if accounts.iter().any(|other| other.name() == name) {
                section.error(
                    "name",
                    format!("another {kind} is called {name:?} too; allowed: a name of its own"),
                );
            }
            accounts.push(account);
        }
        section.finish();
    }
    accounts
}

fn read_keys(sections: Vec<Section<'_>>, plans: &[String]) -> Vec<KeySpec> {
    let mut read = Vec::with_capacity(sections.len());
    // Looked up by name and by digest: comparing 100,000 keys with each other would be slow.
    let (mut names, mut digests) = (HashMap::new(), HashMap::new());
    for (i, mut section) in sections.into_iter().enumerate() {
        if let Some(key) = KeySpec::read(&mut section, Some(plans)) {
            if let Some(other) = names.insert(key.name.clone(), i) {
                let message =
                    format!("keys[{other}] is called {:?} too; allowed: a name of its own", key.name);
                section.error("name", message);
            }
            if let Some(other) = digests.insert(key.sha256, i) {
                section
                    .error("sha256", format!("is the same as in keys[{other}]; allowed: each API key once"));
            }
            read.push(key);
        }
        section.finish();
    }
    read
}

fn read_issuers(sections: Vec<Section<'_>>, plans: &[String]) -> Vec<JwtIssuer> {
    let mut issuers = Vec::with_capacity(sections.len());
    for mut section in sections {
        if let Some(entry) = read_issuer(&mut section, plans) {
            if issuers.iter().any(|earlier| hides(earlier, &entry)) {
                section.error("audience", NEVER_COUNTS);
            }
            issuers.push(entry);
        }
        section.finish();
    }
    issuers
}

const NEVER_COUNTS: &str = "an entry before it has the same issuer, consumer_claim and audience, so this one would never count; \
                            allowed: another audience or consumer_claim";

/// Whether an earlier entry accepts all tokens that a later one is for.
fn hides(earlier: &JwtIssuer, later: &JwtIssuer) -> bool {
    let (earlier, later) = (&earlier.issuer, &later.issuer);
    (&earlier.issuer, &earlier.consumer_claim) == (&later.issuer, &later.consumer_claim)
        && later.audience.iter().all(|one| earlier.audience.contains(one))
}

fn read_issuer(section: &mut Section<'_>, plans: &[String]) -> Option<JwtIssuer> {
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
    let plan = accounts::plan(section, Some(plans));
    let models = accounts::models(section).map(|models| models.globs().clone());
    let issuer = Issuer {
        issuer: issuer?,
        audience: audience?,
        consumer_claim: consumer_claim.unwrap_or_else(|| "sub".into()),
        // If a claim is configured to name plans, a token without it must not be unlimited.
        plan_required: plan_claim.is_some() && plan.is_none(),
        plan_claim,
        plans: HashMap::new(),
        default_plan: TokenPlan::default(),
        keys: IssuerKeys::default(),
    };
    Some(JwtIssuer { issuer, plan, models, jwks_url })
}

/// Reads `models:`, the settings of models by pattern. They take precedence over what servers say.
pub(super) fn read_models(sections: Vec<Section<'_>>) -> Vec<(ModelGlobs, GivenModelSettings)> {
    let read = |mut section: Section<'_>| {
        let models = section.try_get("match", accounts::GLOB, accounts::glob);
        section.require("match", accounts::GLOB);
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
