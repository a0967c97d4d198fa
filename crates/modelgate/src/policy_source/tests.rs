//! Property test: applying changes one by one gives the same result as a full reload.

use std::{collections::BTreeMap, fmt};

use access::KeyDigest;
use accounts::PreviousKey;
use limits::{Limits, Rate};
use proptest::{collection::vec, option, prelude::*};

use accounts::Account;

use super::{update::Update, *};
use crate::config::Env;
use store::NotReadable;

/// The file has an issuer because issuers must follow changes, too.
const FILE: &str = r#"
plans: [{ name: p0, limit: { requests_per_minute: 3 } }]
consumers: [{ name: c0, plan: p0 }]
keys: [{ name: k0, consumer: c1, plan: p0, sha256: "K0" }, { name: shared, consumer: c0, sha256: "K9" }]
jwt: [{ issuer: "https://id.example", audience: [a] }]
"#;

fn config(yaml: &str) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("modelgate.yaml");
    std::fs::write(&path, yaml.replace("K0", &digest(0).to_hex()).replace("K9", &digest(9).to_hex()))
        .expect("written");
    match Config::load(Some(&path), &Env::from_iter([("HOME", "/")])) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn digest(number: u32) -> KeyDigest {
    KeyDigest::of(&format!("mg-{number}"))
}

/// A store: the accounts that can be read, and those that cannot.
#[derive(Debug, Clone, Default)]
struct Fake {
    plans: BTreeMap<String, Option<Plan>>,
    consumers: BTreeMap<String, Option<ConsumerSpec>>,
    keys: BTreeMap<String, Option<KeySpec>>,
}

#[derive(Debug, Clone)]
enum Change {
    Plan(String, Option<Option<Plan>>),
    Consumer(String, Option<Option<ConsumerSpec>>),
    Key(String, Option<Option<KeySpec>>),
}

impl Fake {
    fn change(&mut self, change: &Change) -> (AccountKind, String) {
        fn put<A: Clone>(all: &mut BTreeMap<String, A>, name: &str, value: &Option<A>) -> String {
            match value {
                Some(value) => drop(all.insert(name.to_owned(), value.clone())),
                None => drop(all.remove(name)),
            }
            name.to_owned()
        }
        match change {
            Change::Plan(name, plan) => (AccountKind::Plan, put(&mut self.plans, name, plan)),
            Change::Consumer(name, consumer) => {
                (AccountKind::Consumer, put(&mut self.consumers, name, consumer))
            }
            Change::Key(name, key) => (AccountKind::Key, put(&mut self.keys, name, key)),
        }
    }

    fn read<A: Clone + Account>(all: &BTreeMap<String, Option<A>>) -> (Vec<A>, Vec<Unreadable>) {
        let bad =
            |name: &String| Unreadable { kind: A::KIND, name: name.clone(), why: NotReadable::OtherName };
        let unreadable = all.iter().filter(|(_, account)| account.is_none()).map(|(name, _)| bad(name));
        (all.values().flatten().cloned().collect(), unreadable.collect())
    }

    /// A full reload, as the store sync does it.
    fn all(&self, config: &Config, known: &Policy) -> PolicySource {
        let (plans, bad_plans) = Self::read(&self.plans);
        let (mut consumers, bad_consumers) = Self::read(&self.consumers);
        consumers.extend(bad_consumers.iter().map(refused));
        let stored = Accounts { plans, consumers, keys: Vec::new() };
        let mut policy_source = PolicySource::new(config, &KeySets::default(), stored);
        policy_source.leave_out(bad_plans);
        policy_source.leave_out(bad_consumers);
        let (keys, unreadable) = Self::read(&self.keys);
        policy_source.add_keys(keys, unreadable, known);
        policy_source
    }

    fn update(&self, names: AccountNames) -> Update {
        fn only<A: Clone>(
            all: &BTreeMap<String, A>,
            names: &AccountNames,
            kind: AccountKind,
        ) -> BTreeMap<String, A> {
            let named = all.iter().filter(|(name, _)| names.contains(kind, name));
            named.map(|(name, account)| (name.clone(), account.clone())).collect()
        }
        let (plans, mut unreadable) = Self::read(&only(&self.plans, &names, AccountKind::Plan));
        let (consumers, bad) = Self::read(&only(&self.consumers, &names, AccountKind::Consumer));
        unreadable.extend(bad);
        let (keys, bad) = Self::read(&only(&self.keys, &names, AccountKind::Key));
        unreadable.extend(bad);
        Update { names, now: Accounts { plans, consumers, keys }, unreadable, revoked: Vec::new() }
    }
}

/// Everything that a policy contains, independent of the order of its maps: which key has which digest, and the text of
/// everything else.
fn said(policy_source: &PolicySource) -> (Vec<Option<Key>>, Vec<String>, Vec<AccountFinding>) {
    let keys =
        (0..10).map(|number| policy_source.policy.key(&digest(number)).map(|key| Key::clone(key))).collect();
    let everything = format!("{:?}", policy_source.policy);
    // The digests that two keys have claimed; they may include one that is no longer contested.
    let (before, contested) = everything.split_once("contested: {").expect("it is there");
    let (_, after) = contested.split_once('}').expect("its end");
    let words =
        [before, after].into_iter().flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '-'));
    let words = words.map(str::to_owned);
    let mut words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    words.sort();
    let mut problems = policy_source.problems();
    problems.sort();
    (keys, words, problems)
}

fn limits() -> impl Strategy<Value = Option<Limits>> {
    option::of((1..4_u32).prop_map(|amount| Rate::per_minute(amount, None).expect("a rate").into()))
}

fn models() -> impl Strategy<Value = Option<Patterns>> {
    let patterns = prop_oneof![Just("llama*"), Just("qwen"), Just("*b?")];
    option::of(patterns.prop_map(|text| Patterns::new(vec![text.to_owned()]).expect("a pattern")))
}

fn name(kind: &'static str, count: u32) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |number| format!("{kind}{number}"))
}

/// An account that is deleted, unreadable or valid.
fn state<A: Clone + fmt::Debug + 'static>(
    account: impl Strategy<Value = A> + 'static,
) -> impl Strategy<Value = Option<Option<A>>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(None)), 6 => account.prop_map(|account| Some(Some(account)))]
}

fn change() -> impl Strategy<Value = Change> {
    let plan = name("p", 3).prop_flat_map(|name| {
        let plan = (models(), limits(), limits()).prop_map({
            let name = name.clone();
            move |(models, limits, limits_per_model)| Plan {
                name: name.clone(),
                models,
                limits,
                limits_per_model,
                priority: None,
                note: None,
            }
        });
        state(plan).prop_map(move |plan| Change::Plan(name.clone(), plan))
    });
    let consumer = name("c", 4).prop_flat_map(|name| {
        let consumer = (option::of(self::name("p", 3)), limits(), any::<bool>()).prop_map({
            let name = name.clone();
            move |(plan, limits, disabled)| {
                let name = name.clone();
                ConsumerSpec { name, plan, limits, limits_per_model: None, disabled, note: None }
            }
        });
        state(consumer).prop_map(move |consumer| Change::Consumer(name.clone(), consumer))
    });
    let key = (0..4_u32).prop_flat_map(|number| {
        let name = format!("k{number}");
        // No two present keys of the store share a digest; previous keys may have any.
        let of = (self::name("c", 4), 0..2_u32, option::of(0..10_u32));
        let key = (of, option::of(self::name("p", 3)), models(), limits(), any::<bool>()).prop_map({
            let name = name.clone();
            move |((consumer, nth, previous), plan, models, limits, disabled)| {
                let own = if (number, nth) == (3, 1) { 9 } else { number * 2 + nth };
                let until = std::time::SystemTime::UNIX_EPOCH;
                let previous = previous.map(|was| PreviousKey { sha256: digest(was), until });
                let key = KeySpec::new(name.clone(), consumer, digest(own));
                KeySpec { previous, plan, models, limits, disabled, ..key }
            }
        });
        state(key).prop_map(move |key| Change::Key(name.clone(), key))
    });
    prop_oneof![plan, consumer, key]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_applied_is_what_would_be_read(batches in vec(vec(change(), 1..5), 1..25)) {
        let config = config(FILE);
        let mut store = Fake::default();
        let mut policy_source = store.all(&config, &Policy::default());
        for batch in batches {
            let names: AccountNames = batch.iter().map(|change| store.change(change)).collect();
            let whole = store.all(&config, &policy_source.policy);
            if policy_source.apply(store.update(names)) {
                prop_assert_eq!(said(&policy_source), said(&whole));
            } else {
                // The store sync does a full reload. It shares the memory of keys that have not changed.
                policy_source = whole;
            }
        }
    }
}

fn key(name: &str, number: u32) -> KeySpec {
    KeySpec::new(name, "c1", digest(number))
}

fn store(changes: &[Change]) -> Fake {
    let mut store = Fake::default();
    for change in changes {
        store.change(change);
    }
    store
}

fn plan(name: &str, amount: u32) -> Plan {
    let limits = Rate::per_minute(amount, None).ok().map(Into::into);
    Plan { name: name.into(), models: None, limits, limits_per_model: None, priority: None, note: None }
}

fn disabled(name: &str) -> ConsumerSpec {
    ConsumerSpec {
        disabled: true,
        ..refused(&Unreadable { kind: AccountKind::Consumer, name: name.into(), why: NotReadable::OtherName })
    }
}

/// Applies a change, and returns whether it was complete without a full reload.
fn applied(policy_source: &mut PolicySource, store: &mut Fake, change: &Change) -> bool {
    let name = store.change(change);
    policy_source.apply(store.update(AccountNames::from_iter([name])))
}

#[test]
fn usual_changes_need_no_reading_of_everything() {
    let config = config(FILE);
    let with_plan = KeySpec { plan: Some("p1".into()), ..key("k1", 2) };
    let mut store = store(&[
        Change::Plan("p1".into(), Some(Some(plan("p1", 5)))),
        Change::Key("k1".into(), Some(Some(with_plan))),
        Change::Key("k2".into(), Some(Some(key("k2", 4)))),
    ]);
    let mut policy_source = store.all(&config, &Policy::default());
    let key = |policy_source: &PolicySource, number| {
        policy_source.policy.key(&digest(number)).cloned().expect("the key")
    };
    assert!(
        applied(&mut policy_source, &mut store, &Change::Plan("p2".into(), Some(Some(plan("p2", 5))))),
        "a new plan"
    );
    let others = key(&policy_source, 4);
    assert!(applied(&mut policy_source, &mut store, &Change::Plan("p1".into(), Some(Some(plan("p1", 7))))));
    assert_eq!(key(&policy_source, 2).limits.rates()[0].amount(), 7);
    assert!(Arc::ptr_eq(&others, &key(&policy_source, 4)), "who has another plan stays as it is");
    assert!(applied(
        &mut policy_source,
        &mut store,
        &Change::Consumer("c1".into(), Some(Some(disabled("c1"))))
    ));
    for number in [0, 2, 4] {
        assert!(key(&policy_source, number).consumer.disabled, "a key of the store, or of the file");
    }
    assert!(applied(&mut policy_source, &mut store, &Change::Consumer("c1".into(), None)));
    assert!(!key(&policy_source, 2).consumer.disabled);
    assert!(applied(&mut policy_source, &mut store, &Change::Key("k2".into(), None)));
    assert!(policy_source.policy.key(&digest(4)).is_none());
    assert_eq!(policy_source.problems(), []);
}

#[test]
fn a_plan_that_cannot_be_read_takes_its_keys_out_until_it_can() {
    let config = config(FILE);
    let with_plan = KeySpec { plan: Some("p1".into()), ..key("k1", 2) };
    let readable = Change::Plan("p1".into(), Some(Some(plan("p1", 5))));
    let mut store = store(&[readable.clone(), Change::Key("k1".into(), Some(Some(with_plan)))]);
    let mut policy_source = store.all(&config, &Policy::default());
    assert!(applied(&mut policy_source, &mut store, &Change::Plan("p1".into(), Some(None))));
    assert!(policy_source.policy.key(&digest(2)).is_none(), "with the plan its limits are gone");
    assert_eq!(policy_source.problems().len(), 2, "{:?}", policy_source.problems());
    assert!(!applied(&mut policy_source, &mut store, &readable), "the key was waiting for it");
}

#[test]
fn a_key_that_another_one_was_comes_into_force_when_that_is_gone() {
    let config = config(FILE);
    let previous = Some(PreviousKey { sha256: digest(4), until: std::time::SystemTime::UNIX_EPOCH });
    let rotated = KeySpec { previous, ..key("k1", 2) };
    let mut store = store(&[
        Change::Key("k1".into(), Some(Some(rotated))),
        Change::Key("k2".into(), Some(Some(key("k2", 4)))),
    ]);
    let mut policy_source = store.all(&config, &Policy::default());
    let owner =
        |policy_source: &PolicySource| policy_source.policy.key(&digest(4)).map(|key| key.name.clone());
    assert_eq!(owner(&policy_source).as_deref(), Some("k1"), "it was there first");
    assert!(!applied(&mut policy_source, &mut store, &Change::Key("k1".into(), None)));
    assert_eq!(owner(&policy_source), None, "what was taken away is out of force at once");
    assert_eq!(owner(&store.all(&config, &policy_source.policy)).as_deref(), Some("k2"));
}

#[test]
fn what_is_read_again_as_it_was_is_not_kept_twice() {
    let config = config(FILE);
    let mut store = store(&[
        Change::Key("k1".into(), Some(Some(key("k1", 2)))),
        Change::Key("k2".into(), Some(Some(key("k2", 4)))),
    ]);
    let before = store.all(&config, &Policy::default());
    store.change(&Change::Key("k2".into(), Some(Some(KeySpec { disabled: true, ..key("k2", 4) }))));
    let after = store.all(&config, &before.policy);
    let key = |policy_source: &PolicySource, number| {
        policy_source.policy.key(&digest(number)).cloned().expect("the key")
    };
    assert!(Arc::ptr_eq(&key(&before, 2), &key(&after, 2)));
    assert!(key(&after, 4).disabled && !key(&before, 4).disabled);
}

#[test]
fn another_file_changes_what_it_says_and_nothing_of_the_store() {
    let before = config(FILE);
    let with_plan = |plan: &str, spec: KeySpec| KeySpec { plan: Some(plan.into()), ..spec };
    let store = store(&[
        Change::Plan("p1".into(), Some(Some(plan("p1", 5)))),
        Change::Consumer("c2".into(), Some(None)),
        Change::Key("k1".into(), Some(Some(with_plan("p0", key("k1", 2))))),
        Change::Key("k2".into(), Some(Some(with_plan("p1", key("k2", 4))))),
        Change::Key("k3".into(), Some(None)),
    ]);
    let policy_source = store.all(&before, &Policy::default());
    let same = policy_source.with_file(&before, &KeySets::default());
    assert_eq!(said(&same), said(&policy_source));
    let other =
        policy_source.with_file(&config(&FILE.replace("minute: 3", "minute: 8")), &KeySets::default());
    let amount = |policy_source: &PolicySource, number| {
        policy_source.policy.key(&digest(number)).map(|key| key.limits.rates()[0].amount())
    };
    assert_eq!((amount(&other, 2), amount(&other, 4)), (Some(8), Some(5)));
    assert_eq!(other.problems(), policy_source.problems());
    let without = policy_source.with_file(&config("docker: { enabled: false }"), &KeySets::default());
    assert_eq!(amount(&without, 2), Some(3), "until the store says what it has now");
}
