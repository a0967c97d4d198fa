//! From what refers to each other by name to what a decision needs.

use std::{collections::HashMap, sync::Arc};

use access::{Consumer, Key, ModelGlobs};

use crate::{Account, ConsumerSpec, KeySpec, Kind, Plan, kind::named};

/// Plans and consumers by name. Those that were put in first count: the configuration file's before the store's.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    plans: HashMap<String, Plan>,
    consumers: HashMap<String, Arc<Consumer>>,
    /// The names of those that were declared; others have no limits.
    declared: HashMap<String, ConsumerSpec>,
}

/// An account that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{account} is not in force: {why}")]
pub struct Unusable {
    /// Which: `key "alice"`.
    pub account: String,
    /// Why, and what helps.
    pub why: String,
}

impl Directory {
    /// Adds a plan.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn add_plan(&mut self, plan: Plan) -> Result<(), Unusable> {
        if self.plans.contains_key(&plan.name) {
            return Err(taken(Kind::Plan, &plan.name));
        }
        self.plans.insert(plan.name.clone(), plan);
        Ok(())
    }

    /// Adds a consumer.
    ///
    /// # Errors
    /// There is one of that name, or it refers to a plan that is not there. In the second case its keys are refused: with
    /// the plan its limits are gone.
    pub fn add_consumer(&mut self, spec: ConsumerSpec) -> Result<(), Unusable> {
        if self.declared.contains_key(&spec.name) {
            return Err(taken(Kind::Consumer, &spec.name));
        }
        let mut consumer = Consumer::new(&spec.name);
        let plan = self.plan_of(&spec);
        if let Ok(plan) = &plan {
            let of_plan =
                |limits: fn(&Plan) -> &Option<access::Limits>| plan.and_then(|plan| limits(plan).clone());
            consumer.limits =
                spec.limits.clone().or_else(|| of_plan(|plan| &plan.limits)).unwrap_or_default();
            consumer.limits_per_model = spec
                .limits_per_model
                .clone()
                .or_else(|| of_plan(|plan| &plan.limits_per_model))
                .unwrap_or_default();
        }
        consumer.disabled = spec.disabled || plan.is_err();
        let result = plan.map(|_| ());
        self.consumers.insert(spec.name.clone(), Arc::new(consumer));
        self.declared.insert(spec.name.clone(), spec);
        result
    }

    /// What a decision needs of a key. A consumer that nobody has declared has no limits.
    ///
    /// # Errors
    /// It refers to a plan that is not there.
    pub fn key(&mut self, spec: KeySpec) -> Result<Key, Unusable> {
        let plan = self.plan_of(&spec)?;
        let limits = spec.limits.or_else(|| plan?.limits.clone()).unwrap_or_default();
        let limits_per_model =
            spec.limits_per_model.or_else(|| plan?.limits_per_model.clone()).unwrap_or_default();
        let models = spec.models.as_ref().or_else(|| plan?.models.as_ref());
        let models = models.map_or_else(ModelGlobs::all, |models| models.globs().clone());
        let consumer = match self.consumers.get(&spec.consumer) {
            Some(consumer) => Arc::clone(consumer),
            None => {
                let consumer = Arc::new(Consumer::new(&spec.consumer));
                self.consumers.insert(spec.consumer, Arc::clone(&consumer));
                consumer
            }
        };
        Ok(Key {
            models,
            limits,
            limits_per_model,
            previous: spec.previous.map(|previous| (previous.sha256, previous.until)),
            manage: spec.manage,
            expires: spec.expires,
            disabled: spec.disabled,
            networks: spec.networks,
            ..Key::new(spec.name, consumer, spec.sha256)
        })
    }

    /// A plan by name.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// All plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
    }

    /// The names of all plans, sorted.
    pub fn plan_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.plans.keys().cloned().collect();
        names.sort();
        names
    }

    /// All consumers that were declared or own a key, by name.
    pub fn consumers(&self) -> &HashMap<String, Arc<Consumer>> {
        &self.consumers
    }

    fn plan_of<A: Account>(&self, account: &A) -> Result<Option<&Plan>, Unusable> {
        let Some(name) = account.plan() else { return Ok(None) };
        let missing = || Unusable {
            account: named(A::KIND, account.name()),
            why: format!("it has the plan {name:?}, which there is not; add the plan or choose another one"),
        };
        self.plans.get(name).map(Some).ok_or_else(missing)
    }
}

fn taken(kind: Kind, name: &str) -> Unusable {
    Unusable {
        account: named(kind, name),
        why: "the configuration file has one of that name; rename or delete one of the two".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use access::{KeyDigest, Rate};

    use super::*;
    use crate::Patterns;

    fn plan(name: &str) -> Plan {
        let rate = Rate::per_minute(60, None).expect("a rate");
        let models = Patterns::new(vec!["llama*".into()]).ok();
        Plan { name: name.into(), models, limits: Some(rate.into()), limits_per_model: None, note: None }
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
        assert!(alice.may_use("llama3") && !alice.may_use("qwen"));
        let own = KeySpec { limits: Rate::per_minute(7, None).ok().map(Into::into), ..key(Some("gold")) };
        assert_eq!(directory.key(own).expect("a key").limits.rates()[0].amount(), 7);
        let bob = directory.key(KeySpec { consumer: "nobody".into(), ..key(None) }).expect("a key");
        assert!(bob.consumer.limits.is_empty() && bob.may_use_all());
    }

    #[test]
    fn without_its_plan_nothing_is_unlimited() {
        let mut directory = Directory::default();
        let error = directory.add_consumer(consumer("team", Some("gold"))).expect_err("no such plan");
        assert_eq!(error.account, "consumer \"team\"");
        assert!(directory.key(key(None)).expect("a key").consumer.disabled);
        let error = directory.key(key(Some("gold"))).expect_err("no such plan");
        assert!(
            error.to_string().starts_with("key \"alice\" is not in force: it has the plan \"gold\""),
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
        assert!(directory.consumers()["team"].limits.is_empty());
    }
}
