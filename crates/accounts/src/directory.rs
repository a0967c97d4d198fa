//! Resolves the references between accounts, so that a decision finds everything it needs in one place.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use access::{Consumer, Key, ModelGlobs, PlanOfKey};

use crate::{Account, AccountKind, ConsumerSpec, KeySpec, Plan, pool::Pool};

/// Plans and consumers by name. Those that were added first take precedence: the configuration file's over the store's.
#[derive(Debug, Default)]
pub struct Directory {
    /// Plans, each with the name that all its keys share in memory.
    plans: HashMap<Arc<str>, Arc<Plan>>,
    consumers: HashMap<String, Arc<Consumer>>,
    /// The consumers that were declared; all others have no limits.
    declared: HashMap<String, ConsumerSpec>,
    /// Missing plans to which keys refer; these keys are not in force.
    missing: HashSet<String>,
    pool: Pool,
}

/// A plan, with the name that all its keys share in memory.
type NamedPlan = (Arc<str>, Arc<Plan>);

/// An account that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{kind} {name:?} is not in force: {why}")]
pub struct Unusable {
    /// Its kind.
    pub kind: AccountKind,
    /// Its name.
    pub name: String,
    /// The reason, and the remedy.
    pub why: Unfit,
}

/// Why an account is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Unfit {
    /// An account of the same name takes precedence.
    #[error("the configuration file has one of that name; rename or delete one of the two")]
    Taken,
    /// Its plan does not exist.
    #[error("its plan {0:?} does not exist; add the plan or choose another one")]
    WithoutPlan(String),
}

impl Directory {
    /// Adds a plan.
    ///
    /// # Errors
    /// There is already a plan of that name.
    pub fn add_plan(&mut self, plan: Plan) -> Result<(), Unusable> {
        if self.plans.contains_key(plan.name.as_str()) {
            return Err(Unusable::taken(AccountKind::Plan, &plan.name));
        }
        self.plans.insert(plan.name.as_str().into(), Arc::new(plan));
        Ok(())
    }

    /// Adds a consumer.
    ///
    /// # Errors
    /// There is already a consumer of that name, or it refers to a plan that does not exist. In the second case its keys are
    /// refused, because without the plan it would be unlimited.
    pub fn add_consumer(&mut self, spec: ConsumerSpec) -> Result<(), Unusable> {
        if self.declared.contains_key(&spec.name) {
            return Err(Unusable::taken(AccountKind::Consumer, &spec.name));
        }
        let name = spec.name.clone();
        self.replace_consumer(&name, Some(spec))
    }

    /// Replaces the plan of this name, or removes it. Consumers and keys that refer to it stay as they were until
    /// [`Self::resolve`] and [`Self::relink`]. Returns whether keys that were left out have waited for this plan.
    pub fn replace_plan(&mut self, name: &str, plan: Option<Plan>) -> bool {
        let Some(plan) = plan else {
            self.plans.remove(name);
            return false;
        };
        // The name stays the one that its keys share.
        self.plans.entry(name.into()).insert_entry(Arc::new(plan));
        self.missing.remove(name)
    }

    /// Replaces the consumer of this name, or removes it. Keys stay as they were until [`Self::relink`].
    ///
    /// # Errors
    /// It refers to a plan that does not exist. Then its keys are refused.
    pub fn replace_consumer(&mut self, name: &str, spec: Option<ConsumerSpec>) -> Result<(), Unusable> {
        match spec {
            Some(spec) => self.declared.insert(name.to_owned(), spec),
            None => self.declared.remove(name),
        };
        self.resolve(name)
    }

    /// Resolves a consumer's reference to its plan again.
    ///
    /// # Errors
    /// As for [`Self::replace_consumer`].
    pub fn resolve(&mut self, name: &str) -> Result<(), Unusable> {
        let (consumer, fault) = match self.declared.get(name) {
            None => (Consumer::new(name), Ok(())),
            Some(spec) => match self.plan_of(spec) {
                Ok(plan) => (spec.with_plan(plan.as_ref().map(|(_, plan)| plan.as_ref())), Ok(())),
                Err(fault) => (Consumer { disabled: true, ..spec.with_plan(None) }, Err(fault)),
            },
        };
        self.consumers.insert(name.to_owned(), Arc::new(consumer));
        fault
    }

    /// A key with everything that a decision needs. A consumer that was not declared has no limits.
    ///
    /// # Errors
    /// The key refers to a plan that does not exist.
    pub fn key(&mut self, spec: KeySpec) -> Result<Key, Unusable> {
        let plan = self.plan_of(&spec).inspect_err(|_| self.missing.extend(spec.plan.clone()))?;
        let of_plan = plan.map(|(name, plan)| {
            let models = spec.models.is_none();
            let (limits, limits_per_model) = (spec.limits.is_none(), spec.limits_per_model.is_none());
            (PlanOfKey { name, models, limits, limits_per_model }, plan)
        });
        let consumer = match self.consumers.get(&spec.consumer) {
            Some(consumer) => Arc::clone(consumer),
            None => {
                let consumer = Arc::new(Consumer::new(&spec.consumer));
                self.consumers.insert(spec.consumer, Arc::clone(&consumer));
                consumer
            }
        };
        let key = Key {
            models: spec.models.map_or_else(ModelGlobs::all, |models| self.pool.models(&models)),
            limits: self.pool.limits(spec.limits.unwrap_or_default()),
            limits_per_model: self.pool.limits(spec.limits_per_model.unwrap_or_default()),
            previous: spec.previous.map(|previous| (previous.sha256, previous.until)),
            manage: spec.manage,
            stored_data: spec.stored_data,
            expires: spec.expires,
            disabled: spec.disabled,
            networks: spec.networks,
            ..Key::new(spec.name, consumer, spec.sha256)
        };
        Ok(match of_plan {
            Some((takes, plan)) => with_plan(key, takes, &plan),
            None => key,
        })
    }

    /// The key, linked to the present versions of its consumer and its plan.
    ///
    /// # Errors
    /// Its plan no longer exists.
    pub fn relink(&mut self, key: &Key) -> Result<Key, Unusable> {
        let consumer = Arc::clone(self.consumers.get(&key.consumer.name).unwrap_or(&key.consumer));
        let key = Key { consumer, ..key.clone() };
        let Some(takes) = key.plan.clone() else { return Ok(key) };
        match self.plans.get(&takes.name) {
            Some(plan) => Ok(with_plan(key, takes, plan)),
            None => {
                self.missing.insert(takes.name.to_string());
                Err(Unusable::without_plan(AccountKind::Key, &key.name, &takes.name))
            }
        }
    }

    /// A plan by name.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name).map(AsRef::as_ref)
    }

    /// All plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values().map(AsRef::as_ref)
    }

    /// The names of all plans, sorted.
    pub fn plan_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.plans().map(|plan| plan.name.clone()).collect();
        names.sort();
        names
    }

    /// All declared consumers, by name. Others have no limits.
    pub fn consumers(&self) -> impl Iterator<Item = (&String, &Arc<Consumer>)> {
        self.consumers.iter().filter(|(name, _)| self.declared.contains_key(*name))
    }

    /// The names of the consumers that refer to a plan.
    pub fn consumers_with<'a>(&'a self, plan: &'a str) -> impl Iterator<Item = &'a String> {
        self.declared.values().filter(move |spec| spec.plan() == Some(plan)).map(|spec| &spec.name)
    }

    fn plan_of<A: Account>(&self, account: &A) -> Result<Option<NamedPlan>, Unusable> {
        let Some(name) = account.plan() else { return Ok(None) };
        let found = self.plans.get_key_value(name).map(|(name, plan)| (Arc::clone(name), Arc::clone(plan)));
        found.map(Some).ok_or_else(|| Unusable::without_plan(A::KIND, account.name(), name))
    }
}

/// Fills in from the plan what the key does not have itself.
fn with_plan(key: Key, takes: PlanOfKey, plan: &Plan) -> Key {
    let models = || plan.models.as_ref().map_or_else(ModelGlobs::all, |models| models.globs().clone());
    let limits_per_model = || plan.limits_per_model.clone().unwrap_or_default();
    Key {
        models: if takes.models { models() } else { key.models },
        limits: if takes.limits { plan.limits.clone().unwrap_or_default() } else { key.limits },
        limits_per_model: if takes.limits_per_model { limits_per_model() } else { key.limits_per_model },
        priority: plan.priority,
        plan: Some(takes),
        ..key
    }
}

impl Unusable {
    /// The error if an account of the same name takes precedence.
    pub fn taken(kind: AccountKind, name: &str) -> Self {
        Self { kind, name: name.to_owned(), why: Unfit::Taken }
    }

    fn without_plan(kind: AccountKind, name: &str, plan: &str) -> Self {
        Self { kind, name: name.to_owned(), why: Unfit::WithoutPlan(plan.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use access::{KeyDigest, WaitPriority};
    use limits::{Limits, Rate};

    use super::*;
    use crate::Patterns;

    fn plan(name: &str) -> Plan {
        let rate = Rate::per_minute(60, None).expect("a rate");
        let models = Patterns::new(vec!["llama*".into()]).ok();
        Plan {
            name: name.into(),
            models,
            limits: Some(rate.into()),
            limits_per_model: None,
            priority: None,
            note: None,
        }
    }

    fn consumer(name: &str, plan: Option<&str>) -> ConsumerSpec {
        let plan = plan.map(Into::into);
        ConsumerSpec {
            name: name.into(),
            plan,
            limits: None,
            limits_per_model: None,
            disabled: false,
            note: None,
        }
    }

    fn key(plan: Option<&str>) -> KeySpec {
        KeySpec { plan: plan.map(Into::into), ..KeySpec::new("alice", "team", KeyDigest::of("a")) }
    }

    #[test]
    fn what_is_not_given_comes_from_the_plan() {
        let mut directory = Directory::default();
        directory.add_plan(plan("gold")).expect("new");
        directory.add_consumer(consumer("team", Some("gold"))).expect("new");
        let alice = directory.key(key(Some("gold"))).expect("a key");
        assert_eq!((alice.limits.rates().len(), alice.consumer.limits.rates().len()), (1, 1));
        assert!(alice.may_use_name("llama3") && !alice.may_use_name("qwen"));
        let own = KeySpec { limits: Rate::per_minute(7, None).ok().map(Into::into), ..key(Some("gold")) };
        assert_eq!(directory.key(own).expect("a key").limits.rates()[0].amount(), 7);
        let bob = directory.key(KeySpec { consumer: "nobody".into(), ..key(None) }).expect("a key");
        assert!(bob.consumer.limits.is_empty() && bob.may_use_all());
    }

    /// The key's plan says who goes first, then its consumer's, and both follow a change of theirs.
    #[test]
    fn priority_comes_from_the_keys_plan_or_else_from_its_consumers() {
        let mut directory = Directory::default();
        let of = |name: &str, priority| Plan { priority, ..plan(name) };
        directory.add_plan(of("gold", Some(WaitPriority::High))).expect("new");
        directory.add_plan(of("batch", Some(WaitPriority::Low))).expect("new");
        directory.add_plan(of("plain", None)).expect("new");
        directory.add_consumer(consumer("team", Some("batch"))).expect("new");
        for (plan, expected) in [
            (Some("gold"), WaitPriority::High),
            (Some("plain"), WaitPriority::Low),
            (None, WaitPriority::Low),
        ] {
            assert_eq!(directory.key(key(plan)).expect("a key").priority(), expected, "{plan:?}");
        }
        let nobodys = KeySpec { consumer: "nobody".into(), ..key(Some("plain")) };
        assert_eq!(directory.key(nobodys).expect("a key").priority(), WaitPriority::Normal);
        let alice = directory.key(key(Some("gold"))).expect("a key");
        directory.replace_plan("gold", Some(of("gold", None)));
        directory.replace_plan("batch", Some(of("batch", Some(WaitPriority::High))));
        assert!(directory.resolve("team").is_ok());
        let bob = directory.key(key(Some("plain"))).expect("a key");
        for key in [alice, bob] {
            assert_eq!(directory.relink(&key).expect("its plan").priority(), WaitPriority::High);
        }
    }

    fn limits(amount: u32) -> Limits {
        Rate::per_minute(amount, None).expect("a rate").into()
    }

    /// Whatever an operator has written about a key must hold when it is used.
    #[test]
    fn a_key_has_all_that_was_written_about_it() {
        use std::time::{Duration, SystemTime};
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let spec = KeySpec {
            previous: Some(crate::PreviousKey { sha256: KeyDigest::of("old"), until }),
            models: Patterns::new(vec!["qwen".into()]).ok(),
            limits: Some(limits(1)),
            limits_per_model: Some(limits(2)),
            manage: true,
            stored_data: true,
            expires: Some(until),
            disabled: true,
            networks: vec!["10.0.0.0/8".parse().expect("a network")],
            ..key(None)
        };
        let mut directory = Directory::default();
        let made = directory.key(spec.clone()).expect("a key");
        assert_eq!((made.name.as_str(), made.digest), ("alice", KeyDigest::of("a")));
        assert!(made.models.matches("qwen") && !made.models.matches("llama"));
        assert_eq!((made.limits, made.limits_per_model), (limits(1), limits(2)));
        assert_eq!(made.previous, Some((KeyDigest::of("old"), until)));
        assert!(made.manage && made.stored_data && made.disabled && made.plan.is_none());
        assert_eq!((made.expires, made.networks), (Some(until), spec.networks.clone()));
        // With a plan, what it has itself stays its own, also when the plan changes.
        let own = Plan { limits: Some(limits(8)), limits_per_model: Some(limits(9)), ..plan("gold") };
        directory.add_plan(own).expect("new");
        let with_plan = directory.key(KeySpec { plan: Some("gold".into()), ..spec }).expect("a key");
        assert_eq!((with_plan.limits, with_plan.limits_per_model), (limits(1), limits(2)));
        assert!(with_plan.models.matches("qwen") && !with_plan.models.matches("llama"));
    }

    /// A plan or a consumer is changed: its keys are linked again, and none is made anew.
    #[test]
    fn keys_follow_their_plan_and_their_consumer() {
        let mut directory = Directory::default();
        let gold = |amount| Plan {
            limits: Some(limits(amount)),
            limits_per_model: Some(limits(amount + 1)),
            ..plan("gold")
        };
        assert!(!directory.replace_plan("gold", Some(gold(1))), "no key has waited for it");
        directory.add_plan(plan("silver")).expect("new");
        assert_eq!(directory.plan_names(), ["gold", "silver"]);
        assert_eq!(directory.plans().count(), 2);
        directory.add_consumer(consumer("team", Some("gold"))).expect("new");
        directory.add_consumer(consumer("other", Some("silver"))).expect("new");
        directory.add_consumer(consumer("free", None)).expect("new");
        assert_eq!(directory.consumers_with("gold").collect::<Vec<_>>(), ["team"]);
        let alice = directory.key(key(Some("gold"))).expect("a key");
        directory.key(KeySpec { consumer: "nobody".into(), ..key(None) }).expect("a key");
        let mut declared: Vec<_> = directory.consumers().map(|(name, _)| name.as_str()).collect();
        declared.sort_unstable();
        assert_eq!(declared, ["free", "other", "team"], "not those that only keys name");
        assert_eq!((&alice.limits, &alice.limits_per_model), (&limits(1), &limits(2)));
        assert_eq!(alice.plan.as_ref().map(|plan| &*plan.name), Some("gold"));

        directory.replace_plan("gold", Some(gold(5)));
        directory.resolve("team").expect("its plan is there");
        let again = directory.relink(&alice).expect("its plan is there");
        assert_eq!((&again.limits, &again.limits_per_model), (&limits(5), &limits(6)));
        assert_eq!(again.consumer.limits, limits(5));
        assert!(again.plan.is_some(), "it follows the next change as well");

        assert!(!directory.replace_plan("gold", None));
        directory.relink(&again).expect_err("no such plan");
        assert!(directory.replace_plan("gold", Some(gold(7))), "a key was left out for want of it");
        assert!(!directory.replace_plan("gold", Some(gold(7))), "once");
        directory.replace_consumer("team", Some(consumer("team", None))).expect("no plan");
        assert!(directory.relink(&again).expect("its plan is there").consumer.limits.is_empty());
    }

    #[test]
    fn a_consumer_has_of_its_plan_what_it_does_not_have_itself() {
        let amounts = |limits: &Limits| limits.rates().first().map(Rate::amount);
        let plan = |own, per_model| Plan { limits: own, limits_per_model: per_model, ..plan("gold") };
        let with = |own: Option<u32>, per_model: Option<u32>, plan: Option<&Plan>| {
            let (own, per_model) = (own.map(limits), per_model.map(limits));
            let spec =
                ConsumerSpec { limits: own, limits_per_model: per_model, ..consumer("team", Some("gold")) };
            let team = spec.with_plan(plan);
            assert_eq!((team.name.as_str(), team.disabled), ("team", false));
            (amounts(&team.limits), amounts(&team.limits_per_model))
        };
        let (both, neither) = (plan(Some(limits(1)), Some(limits(2))), plan(None, None));
        assert_eq!(with(None, None, Some(&both)), (Some(1), Some(2)));
        assert_eq!(with(Some(7), None, Some(&both)), (Some(7), Some(2)));
        assert_eq!(with(None, Some(8), Some(&both)), (Some(1), Some(8)));
        assert_eq!(with(Some(7), Some(8), Some(&neither)), (Some(7), Some(8)));
        assert_eq!((with(None, None, Some(&neither)), with(None, None, None)), ((None, None), (None, None)));
        assert!(ConsumerSpec { disabled: true, ..consumer("team", None) }.with_plan(None).disabled);
    }

    #[test]
    fn without_its_plan_nothing_is_unlimited() {
        let mut directory = Directory::default();
        let error = directory.add_consumer(consumer("team", Some("gold"))).expect_err("no such plan");
        assert_eq!((error.kind, error.name.as_str()), (AccountKind::Consumer, "team"));
        assert!(directory.key(key(None)).expect("a key").consumer.disabled);
        let error = directory.key(key(Some("gold"))).expect_err("no such plan");
        assert!(
            error.to_string().starts_with("key \"alice\" is not in force: its plan \"gold\" does not exist"),
            "{error}"
        );
    }

    #[test]
    fn the_first_of_a_name_counts() {
        let mut directory = Directory::default();
        directory.add_plan(plan("gold")).expect("new");
        assert!(directory.add_plan(Plan { limits: None, ..plan("gold") }).is_err());
        assert!(directory.plan("gold").expect("the first").limits.is_some());
        directory.add_consumer(consumer("team", None)).expect("new");
        assert!(directory.add_consumer(consumer("team", Some("gold"))).is_err());
        let (_, team) = directory.consumers().next().expect("the first");
        assert!(team.limits.is_empty());
    }
}
