//! The keys and limits in force: those of the configuration file, then those of the store.
//!
//! What the file says counts: an account of the store with a name or a key that the file has is left out, and named.

use std::{collections::HashSet, sync::Arc};

use access::{Issuer, Key, Limits, ModelLimit, Policy, TokenPlan};
use accounts::{Accounts, ConsumerSpec, Directory, KeySpec, Kind, Patterns, Plan};
use catalogue::{GivenModelSettings, ModelGlobs};
use store::Unreadable;

use crate::{
    config::{Config, JwtIssuer},
    jwks::KeySets,
};

/// Keys and limits, put together.
pub(crate) struct Book {
    pub(crate) policy: Policy,
    directory: Directory,
    /// The store's plans and consumers.
    stored: Accounts,
    /// The names of the file's keys.
    in_file: HashSet<String>,
    /// Accounts that are not in force, and why.
    pub(crate) problems: Vec<String>,
}

impl Book {
    /// Puts the file together with the store's plans and consumers; its keys are added afterwards.
    pub(crate) fn new(config: &Config, key_sets: &KeySets, stored: Accounts) -> Self {
        let accounts = &config.accounts.declared;
        let mut directory = Directory::default();
        let mut problems = Vec::new();
        let kept =
            Accounts { plans: stored.plans.clone(), consumers: stored.consumers.clone(), keys: Vec::new() };
        let plans = accounts.plans.iter().cloned().chain(stored.plans);
        problems.extend(plans.filter_map(|plan| directory.add_plan(plan).err()).map(|e| e.to_string()));
        let consumers = accounts.consumers.iter().cloned().chain(stored.consumers);
        problems.extend(consumers.filter_map(|c| directory.add_consumer(c).err()).map(|e| e.to_string()));
        let in_file: HashSet<String> = accounts.keys.iter().map(|key| key.name.clone()).collect();
        let of_file =
            accounts.keys.iter().cloned().filter_map(|key| directory.key(key).ok()).collect::<Vec<_>>();
        let issuers =
            config.accounts.issuers.iter().map(|issuer| with_plans(issuer, key_sets, &directory)).collect();
        let mut book = Self { policy: Policy::default(), directory, stored: kept, in_file, problems };
        book.policy = Policy::new(of_file, model_limits(config))
            .with_issuers(issuers, book.directory.consumers().clone())
            .with_time_zone(config.time_zone.clone());
        book
    }

    /// Adds keys of the store.
    pub(crate) fn add_keys(mut self, stored: Vec<KeySpec>, unreadable: &[Unreadable]) -> Self {
        self.leave_out(unreadable);
        let keys = self.usable(stored);
        self.policy = self.policy.with_keys(keys);
        self
    }

    /// Names accounts of the store that cannot be read.
    pub(crate) fn leave_out(&mut self, unreadable: &[Unreadable]) {
        self.problems.extend(unreadable.iter().map(|Unreadable { kind, name, why }| {
            let effect = if *kind == Kind::Consumer { "; until it can, its keys are refused" } else { "" };
            format!("{kind} {name:?} is not in force: it cannot be read: {why}{effect}")
        }));
    }

    /// The same with another file, while the store does not answer: what it said last stays.
    pub(crate) fn with_file(&self, config: &Config, key_sets: &KeySets) -> Self {
        let mut book = Self::new(config, key_sets, self.stored.clone());
        let of_store =
            |key: &&Arc<Key>| !self.in_file.contains(&key.name) && !book.in_file.contains(&key.name);
        let with_consumer = |key: &Arc<Key>| {
            let consumer = book.directory.consumers().get(&key.consumer.name).unwrap_or(&key.consumer);
            Key { consumer: Arc::clone(consumer), ..Key::clone(key) }
        };
        let kept: Vec<Key> = self.policy.keys().filter(of_store).map(with_consumer).collect();
        book.policy = book.policy.with_keys(kept);
        if self.policy.is_incomplete() {
            book.policy = book.policy.incomplete();
        }
        book
    }

    /// The same after keys of the store were changed or deleted: these names are what they are now.
    pub(crate) fn replace_keys(
        &mut self,
        names: &HashSet<String>,
        now: Vec<KeySpec>,
        unreadable: &[Unreadable],
    ) -> &Policy {
        let ours: HashSet<&str> =
            names.iter().map(String::as_str).filter(|name| !self.in_file.contains(*name)).collect();
        let concerns =
            |problem: &String| names.iter().any(|name| problem.starts_with(&format!("key {name:?} ")));
        self.problems.retain(|problem| !concerns(problem));
        self.leave_out(unreadable);
        let policy = self.policy.without_keys(&ours);
        let keys = self.usable(now);
        self.policy = policy.with_keys(keys);
        &self.policy
    }

    fn usable(&mut self, specs: Vec<KeySpec>) -> Vec<Key> {
        let mut keys = Vec::with_capacity(specs.len());
        for spec in specs {
            if self.in_file.contains(&spec.name) {
                let why = "the configuration file has one of that name; rename or delete one of the two";
                self.problems.push(format!("key {:?} is not in force: {why}", spec.name));
                continue;
            }
            match self.directory.key(spec) {
                Ok(key) => keys.push(key),
                Err(unusable) => self.problems.push(unusable.to_string()),
            }
        }
        keys
    }
}

/// What stands for a consumer that cannot be read: with its limits unknown, its keys are refused.
pub(crate) fn refused(Unreadable { name, .. }: &Unreadable) -> ConsumerSpec {
    ConsumerSpec {
        name: name.clone(),
        plan: None,
        limits: None,
        limits_per_model: None,
        disabled: true,
        note: None,
    }
}

fn with_plans(issuer: &JwtIssuer, key_sets: &KeySets, directory: &Directory) -> Issuer {
    let models = |of_plan: Option<&ModelGlobs>| {
        issuer.models.clone().or_else(|| of_plan.cloned()).unwrap_or_else(ModelGlobs::all)
    };
    let token_plan = |plan: &Plan| TokenPlan {
        models: models(plan.models.as_ref().map(Patterns::globs)),
        limits: plan.limits.clone().unwrap_or_default(),
        limits_per_model: plan.limits_per_model.clone().unwrap_or_default(),
    };
    let default = issuer.plan.as_ref().and_then(|name| directory.plan(name));
    let without = || TokenPlan { models: models(None), ..TokenPlan::default() };
    Issuer {
        plans: directory.plans().map(|plan| (plan.name.clone(), token_plan(plan))).collect(),
        default_plan: default.map_or_else(without, token_plan),
        ..key_sets.of(issuer)
    }
}

/// The limits of `models:`, which also hold for models that no server is known for.
fn model_limits(config: &Config) -> Vec<ModelLimit> {
    let limit = |(models, given): &(ModelGlobs, GivenModelSettings)| {
        let limits = Limits::from(&given.resolve());
        (!limits.is_empty()).then(|| ModelLimit { models: models.clone(), limits })
    };
    config.models.iter().filter_map(limit).collect()
}
