//! The three kinds of accounts.

use std::time::SystemTime;

use access::{Consumer, InvalidGlob, KeyDigest, ModelGlobs, WaitPriority};
use config_reader::{NETWORK, Section, network};
use ipnet::IpNet;
use limits::Limits;
use serde_json::{Map, Value, json};

use crate::{Account, AccountKind, NAME, PlanNames, limits, limits_to_json, models, name};

const SHA256: &str =
    "64 hexadecimal digits, the SHA-256 of an API key as `modelgate keys generate` prints it";
const TIME: &str = "a time in UTC such as 2027-01-01T00:00:00Z";
const NOTE: &str = "up to 500 characters on one line";

/// Patterns for names of models, with the texts they were parsed from.
#[derive(Debug, Clone)]
pub struct Patterns {
    texts: Vec<String>,
    globs: ModelGlobs,
}

/// Named limits to which keys and consumers can refer.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its name; unique among plans.
    pub name: String,
    /// The models of keys that list none themselves.
    pub models: Option<Patterns>,
    /// The limits over all models.
    pub limits: Option<Limits>,
    /// The limits for each model on its own.
    pub limits_per_model: Option<Limits>,
    /// Who goes first among requests that wait for a server.
    pub priority: Option<WaitPriority>,
    /// A note by the operator.
    pub note: Option<String>,
}

/// An owner of keys: a person, a team, a program.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerSpec {
    /// Its name; unique among consumers.
    pub name: String,
    /// The plan that provides the limits that it does not have itself.
    pub plan: Option<String>,
    /// The limits over all its keys and models.
    pub limits: Option<Limits>,
    /// The limits for each model on its own, over all its keys.
    pub limits_per_model: Option<Limits>,
    /// Whether its keys are refused.
    pub disabled: bool,
    /// A note by the operator.
    pub note: Option<String>,
}

/// An API key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySpec {
    /// Its name; unique among keys.
    pub name: String,
    /// The consumer that owns it.
    pub consumer: String,
    /// The digest by which it is recognised.
    pub sha256: KeyDigest,
    /// The key that it replaced in a rotation.
    pub previous: Option<PreviousKey>,
    /// The plan that provides the models and limits that it does not have itself.
    pub plan: Option<String>,
    /// The models that it may use. If neither it nor its plan lists any, it may use all.
    pub models: Option<Patterns>,
    /// The limits over all models.
    pub limits: Option<Limits>,
    /// The limits for each model on its own.
    pub limits_per_model: Option<Limits>,
    /// Whether it may use paths that manage a server.
    pub manage: bool,
    /// Whether it may use what servers store for everybody.
    pub stored_data: bool,
    /// When it expires.
    pub expires: Option<SystemTime>,
    /// Whether it is refused.
    pub disabled: bool,
    /// The client networks from which it works; an empty list means any.
    pub networks: Vec<IpNet>,
    /// A note by the operator.
    pub note: Option<String>,
}

/// All accounts of the configuration file, or of the store.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accounts {
    /// Limits that keys and consumers refer to.
    pub plans: Vec<Plan>,
    /// Owners of keys.
    pub consumers: Vec<ConsumerSpec>,
    /// API keys.
    pub keys: Vec<KeySpec>,
}

/// The key that was replaced in a rotation, and until when it still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousKey {
    /// The digest by which it is recognised.
    pub sha256: KeyDigest,
    /// Until when it works.
    pub until: SystemTime,
}

impl Patterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// One of the texts is not a pattern.
    pub fn new(texts: Vec<String>) -> Result<Self, InvalidGlob> {
        let globs = ModelGlobs::parse(&texts)?;
        Ok(Self { texts, globs })
    }

    /// The texts, as they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The matchers.
    pub fn globs(&self) -> &ModelGlobs {
        &self.globs
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl ConsumerSpec {
    /// The consumer as a decision needs it; what it does not have itself comes from its plan.
    pub fn with_plan(&self, plan: Option<&Plan>) -> Consumer {
        let limits = self.limits.as_ref().or_else(|| plan?.limits.as_ref());
        let per_model = self.limits_per_model.as_ref().or_else(|| plan?.limits_per_model.as_ref());
        Consumer {
            limits: limits.cloned().unwrap_or_default(),
            limits_per_model: per_model.cloned().unwrap_or_default(),
            priority: plan.and_then(|plan| plan.priority),
            disabled: self.disabled,
            ..Consumer::new(&self.name)
        }
    }
}

impl KeySpec {
    /// A key that may use every model, without limits.
    pub fn new(name: impl Into<String>, consumer: impl Into<String>, sha256: KeyDigest) -> Self {
        Self {
            name: name.into(),
            consumer: consumer.into(),
            sha256,
            previous: None,
            plan: None,
            models: None,
            limits: None,
            limits_per_model: None,
            manage: false,
            stored_data: false,
            expires: None,
            disabled: false,
            networks: Vec::new(),
            note: None,
        }
    }

    /// Replaces the key's digest. The old one works until `old_until`.
    pub fn rotate(&mut self, sha256: KeyDigest, old_until: SystemTime) {
        self.previous = Some(PreviousKey { sha256: self.sha256, until: old_until });
        self.sha256 = sha256;
    }
}

impl Account for Plan {
    const KIND: AccountKind = AccountKind::Plan;

    fn read(section: &mut Section<'_>, _: PlanNames<'_>) -> Option<Self> {
        let name = required_name(section, "name");
        let models = models(section);
        let (limits, limits_per_model) = (limits(section, "limit"), limits(section, "limit_per_model"));
        let priority = section.one_of("priority", &WaitPriority::ALL);
        let note = note(section);
        Some(Self { name: name?, models, limits, limits_per_model, priority, note })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&self) -> Option<&str> {
        None
    }

    fn among(accounts: &Accounts) -> &[Self] {
        &accounts.plans
    }

    fn to_json(&self) -> Value {
        let mut json = Map::from_iter([("name".to_owned(), self.name.as_str().into())]);
        put(&mut json, "models", self.models.as_ref().map(|models| json!(models.texts)));
        put_limits(&mut json, self.limits.as_ref(), self.limits_per_model.as_ref());
        put(&mut json, "priority", self.priority.map(|priority| priority.name().into()));
        put(&mut json, "note", self.note.as_deref().map(Value::from));
        Value::Object(json)
    }
}

impl Account for ConsumerSpec {
    const KIND: AccountKind = AccountKind::Consumer;

    fn read(section: &mut Section<'_>, plans: PlanNames<'_>) -> Option<Self> {
        let name = required_name(section, "name");
        let plan = plan(section, plans);
        let (limits, limits_per_model) = (limits(section, "limit"), limits(section, "limit_per_model"));
        let disabled = section.bool("disabled").unwrap_or(false);
        let note = note(section);
        Some(Self { name: name?, plan, limits, limits_per_model, disabled, note })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    fn among(accounts: &Accounts) -> &[Self] {
        &accounts.consumers
    }

    fn to_json(&self) -> Value {
        let mut json = Map::from_iter([("name".to_owned(), self.name.as_str().into())]);
        put(&mut json, "plan", self.plan.as_deref().map(Value::from));
        put_limits(&mut json, self.limits.as_ref(), self.limits_per_model.as_ref());
        put(&mut json, "disabled", self.disabled.then_some(Value::Bool(true)));
        put(&mut json, "note", self.note.as_deref().map(Value::from));
        Value::Object(json)
    }
}

impl Account for KeySpec {
    const KIND: AccountKind = AccountKind::Key;

    fn read(section: &mut Section<'_>, plans: PlanNames<'_>) -> Option<Self> {
        let name = required_name(section, "name");
        let consumer = required_name(section, "consumer");
        let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
        section.require("sha256", SHA256);
        let previous = previous(section);
        let plan = plan(section, plans);
        let models = models(section);
        let (limits, limits_per_model) = (limits(section, "limit"), limits(section, "limit_per_model"));
        let manage = section.bool("manage").unwrap_or(false);
        let stored_data = section.bool("stored_data").unwrap_or(false);
        let expires = time(section, "expires");
        let disabled = section.bool("disabled").unwrap_or(false);
        let networks = section.list("networks", NETWORK, network).unwrap_or_default();
        let note = note(section);
        let key = Self::new(name?, consumer?, digest?);
        Some(Self {
            previous,
            plan,
            models,
            limits,
            limits_per_model,
            manage,
            stored_data,
            expires,
            disabled,
            networks,
            note,
            ..key
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    fn consumer(&self) -> Option<&str> {
        Some(&self.consumer)
    }

    fn among(accounts: &Accounts) -> &[Self] {
        &accounts.keys
    }

    fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("name".into(), self.name.as_str().into());
        json.insert("consumer".into(), self.consumer.as_str().into());
        json.insert("sha256".into(), self.sha256.to_hex().into());
        let previous = |previous: &PreviousKey| json!({ "sha256": previous.sha256.to_hex(), "until": text(previous.until) });
        put(&mut json, "previous", self.previous.as_ref().map(previous));
        put(&mut json, "plan", self.plan.as_deref().map(Value::from));
        put(&mut json, "models", self.models.as_ref().map(|models| json!(models.texts)));
        put_limits(&mut json, self.limits.as_ref(), self.limits_per_model.as_ref());
        put(&mut json, "manage", self.manage.then_some(Value::Bool(true)));
        put(&mut json, "stored_data", self.stored_data.then_some(Value::Bool(true)));
        put(&mut json, "expires", self.expires.map(|time| text(time).into()));
        put(&mut json, "disabled", self.disabled.then_some(Value::Bool(true)));
        let networks: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        put(&mut json, "networks", (!networks.is_empty()).then(|| json!(networks)));
        put(&mut json, "note", self.note.as_deref().map(Value::from));
        Value::Object(json)
    }
}

fn put(json: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        json.insert(key.to_owned(), value);
    }
}

fn put_limits(json: &mut Map<String, Value>, limits: Option<&Limits>, per_model: Option<&Limits>) {
    put(json, "limit", limits.map(limits_to_json));
    put(json, "limit_per_model", per_model.map(limits_to_json));
}

fn text(time: SystemTime) -> String {
    humantime::format_rfc3339(time).to_string()
}

fn required_name(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let found = section.get(key, NAME, name);
    section.require(key, NAME);
    found
}

fn note(section: &mut Section<'_>) -> Option<String> {
    let fits = |text: &str| text.chars().count() <= 500 && !text.contains(char::is_control);
    section.get("note", NOTE, |text| fits(text).then(|| text.to_owned()))
}

/// Reads the plan that an entry refers to.
pub fn plan(section: &mut Section<'_>, plans: PlanNames<'_>) -> Option<String> {
    let Some(plans) = plans else { return section.get("plan", NAME, name) };
    let allowed = match plans.is_empty() {
        true => "the name of a plan, and there are none: see plans".to_owned(),
        false => format!("the name of a plan: {}", plans.join(", ")),
    };
    section.get("plan", &allowed, |text| plans.iter().find(|plan| *plan == text).cloned())
}

/// Reads `previous:`, the key that was replaced in a rotation and until when it still works.
fn previous(key: &mut Section<'_>) -> Option<PreviousKey> {
    let given = key.has("previous");
    let mut section = key.section("previous");
    let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
    let until = time(&mut section, "until");
    if given {
        section.require("sha256", SHA256);
        section.require("until", TIME);
    }
    section.finish();
    digest.zip(until).map(|(sha256, until)| PreviousKey { sha256, until })
}

fn time(section: &mut Section<'_>, key: &'static str) -> Option<SystemTime> {
    section.get(key, TIME, |text| humantime::parse_rfc3339(text).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{parse, parse_text};

    fn digest(of: &str) -> String {
        KeyDigest::of(of).to_hex()
    }

    fn errors<A: Account>(json: &Value, plans: PlanNames<'_>) -> Vec<String> {
        match parse::<A>(json, plans) {
            Ok(account) => panic!("{} was accepted", account.to_json()),
            Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn everything_survives_being_written_and_read() {
        let limit = json!({
            "requests_per_second": 5, "burst": 9, "requests_per_minute": 60, "requests_per_hour": 100,
            "tokens_per_minute": 1000, "tokens_burst": 2000,
            "requests_per_day": 1, "requests_per_month": 2, "tokens_per_day": 3, "tokens_per_month": 1_000_000_000_000_000_u64,
        });
        let key = json!({
            "name": "alice", "consumer": "team", "sha256": digest("a"),
            "previous": { "sha256": digest("b"), "until": "2027-01-01T00:00:00Z" },
            "plan": "gold", "models": ["llama*", "qwen"], "limit": limit, "limit_per_model": { "tokens_per_day": 7 },
            "manage": true, "stored_data": true, "expires": "2028-01-01T00:00:00Z", "disabled": true,
            "networks": ["10.0.0.0/8", "2001:db8::/32"], "note": "for the intern",
        });
        let read: KeySpec = parse(&key, Some(&["gold".into()])).expect("a key");
        assert_eq!(read.to_json(), key);
        assert_eq!(parse_text::<KeySpec>(&key.to_string(), None).expect("a key"), read);
        let consumer =
            json!({ "name": "team", "plan": "gold", "limit": limit, "disabled": true, "note": "x" });
        assert_eq!(parse::<ConsumerSpec>(&consumer, None).expect("a consumer").to_json(), consumer);
        let plan = json!({ "name": "gold", "models": ["*"], "limit_per_model": limit, "priority": "high" });
        assert_eq!(parse::<Plan>(&plan, None).expect("a plan").to_json(), plan);
    }

    #[test]
    fn all_that_is_wrong_is_named_and_no_secret_is_repeated() {
        let found = errors::<KeySpec>(
            &json!({ "name": "a b", "sha256": "mg-secret", "plan": "gold", "limit": { "burst": 0, "tokens_per_day": -1 }, "colour": 1 }),
            Some(&["silver".into()]),
        );
        let all = found.join("\n");
        for part in [
            "name: found \"a b\"",
            "consumer: is missing",
            "sha256",
            "plan: found \"gold\"",
            "silver",
            "limit.burst",
            "limit.tokens_per_day",
            "unknown key `colour`",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(!all.contains("mg-secret"), "{all}");
        assert_eq!(
            errors::<Plan>(&json!([1]), None),
            ["the document: found something else; allowed: an object with keys and values"]
        );
        assert!(parse_text::<Plan>("{", None).is_err());
    }

    /// A name with an error beside it would be used without what was meant.
    #[test]
    fn an_account_with_an_error_is_not_used() {
        let errors = errors::<Plan>(&json!({ "name": "gold", "limit": { "burst": 0 } }), None);
        assert!(errors.iter().any(|error| error.contains("limit.burst")), "{errors:?}");
        for note in ["x".repeat(501), "two\nlines".to_owned()] {
            assert!(parse::<Plan>(&json!({ "name": "gold", "note": note }), None).is_err(), "{note}");
        }
        let longest = "é".repeat(500);
        let plan = parse::<Plan>(&json!({ "name": "gold", "note": longest }), None).expect("a plan");
        assert_eq!(plan.note, Some(longest));
    }

    /// An account's name, its plan and its consumer.
    type Told<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

    /// Pages and the store treat all kinds alike.
    #[test]
    fn each_kind_knows_its_accounts() {
        fn told<'a, A: Account + 'a>(accounts: &'a Accounts) -> Vec<Told<'a>> {
            assert_eq!(AccountKind::of(A::KIND.as_str()), Some(A::KIND));
            A::among(accounts).iter().map(|one| (one.name(), one.plan(), one.consumer())).collect()
        }
        let plan = parse(&json!({ "name": "gold" }), None).expect("a plan");
        let team = parse(&json!({ "name": "team", "plan": "gold" }), None).expect("a consumer");
        let free = parse(&json!({ "name": "free" }), None).expect("a consumer");
        let key = KeySpec { plan: Some("gold".into()), ..KeySpec::new("alice", "team", KeyDigest::of("a")) };
        let accounts = Accounts { plans: vec![plan], consumers: vec![team, free], keys: vec![key] };
        assert_eq!(told::<Plan>(&accounts), [("gold", None, None)]);
        assert_eq!(told::<ConsumerSpec>(&accounts), [("team", Some("gold"), None), ("free", None, None)]);
        assert_eq!(told::<KeySpec>(&accounts), [("alice", Some("gold"), Some("team"))]);
        assert_eq!(AccountKind::of("nobody"), None);
    }

    #[test]
    fn patterns_are_the_same_if_their_texts_are() {
        let of = |text: &str| Patterns::new(vec![text.to_owned()]).expect("a pattern");
        assert_eq!((of("a*") == of("a*"), of("a*") == of("b*")), (true, false));
        assert_eq!(of("a*").texts(), ["a*"]);
    }

    #[test]
    fn a_rotated_key_remembers_what_it_was() {
        let (old, new) = (KeyDigest::of("old"), KeyDigest::of("new"));
        let mut key = KeySpec::new("alice", "team", old);
        key.rotate(new, SystemTime::UNIX_EPOCH);
        assert_eq!(
            (key.sha256, key.previous),
            (new, Some(PreviousKey { sha256: old, until: SystemTime::UNIX_EPOCH }))
        );
    }

    proptest! {
        #[test]
        fn any_limits_survive(numbers in prop::collection::vec(prop::option::of(1u32..=60_000_000), 10)) {
            let names = ["requests_per_second", "requests_per_minute", "requests_per_hour", "burst", "tokens_per_minute",
                "tokens_burst", "requests_per_day", "requests_per_month", "tokens_per_day", "tokens_per_month"];
            let mut limit = Map::new();
            for (name, number) in names.iter().zip(&numbers) {
                put(&mut limit, name, number.map(Value::from));
            }
            let given = json!({ "name": "p", "limit": limit });
            match parse::<Plan>(&given, None) {
                Ok(plan) => {
                    let again = parse::<Plan>(&plan.to_json(), None).expect("what it wrote itself");
                    prop_assert_eq!(again, plan);
                }
                // Errors occur only for a burst of 0, or if no number is given at all.
                Err(errors) => prop_assert!(errors.to_string().contains("burst") || numbers.iter().all(Option::is_none)),
            }
        }
    }
}
