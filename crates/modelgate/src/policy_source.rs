//! The keys and limits in force: those of the configuration file, then those of the store.
//!
//! What the file says counts: an account of the store with a name or a key that the file has is left out, and named.

pub(crate) mod names;
#[cfg(test)]
mod tests;
pub(crate) mod update;

use std::{collections::HashMap, sync::Arc};

use access::{Consumer, Issuer, Key, ModelLimit, Policy, TokenPlan};
use accounts::{Accounts, ConsumerSpec, Directory, KeySpec, Kind, Patterns, Plan, Unfit, Unusable};
use catalogue::{GivenModelSettings, ModelGlobs};
use store::{AccountFinding, Unreadable};

use self::names::Names;
use crate::{
    config::{Config, JwtIssuer},
    jwks::KeySets,
};

/// Keys and limits, put together.
pub(crate) struct PolicySource {
    pub(crate) policy: Arc<Policy>,
    directory: Directory,
    /// The store's plans and consumers.
    stored: Accounts,
    /// The names of the file's accounts.
    in_file: Names,
    issuers: Vec<JwtIssuer>,
    key_sets: KeySets,
    problems: Vec<AccountFinding>,
}

impl PolicySource {
    /// Puts the file together with the store's plans and consumers; its keys are added afterwards.
    pub(crate) fn new(config: &Config, key_sets: &KeySets, stored: Accounts) -> Self {
        let accounts = &config.accounts.declared;
        let mut directory = Directory::default();
        let mut unusable = Vec::new();
        let plans = accounts.plans.iter().chain(&stored.plans);
        unusable.extend(plans.filter_map(|plan| directory.add_plan(plan.clone()).err()));
        let consumers = accounts.consumers.iter().chain(&stored.consumers);
        unusable.extend(consumers.filter_map(|consumer| directory.add_consumer(consumer.clone()).err()));
        // What the file refers to is in it.
        let keys = accounts.keys.iter().filter_map(|key| directory.key(key.clone()).ok()).collect();
        let policy = Policy::new(keys, model_limits(config))
            .with_time_zone(config.time_zone.clone())
            .with_key_headers(config.requests.key_headers.clone())
            .ignoring_foreign(config.requests.ignores_foreign);
        let mut policy_source = Self {
            policy: Arc::default(),
            directory,
            stored,
            in_file: Names::of(accounts),
            issuers: config.accounts.issuers.clone(),
            key_sets: key_sets.clone(),
            problems: unusable.into_iter().map(AccountFinding::Unusable).collect(),
        };
        policy_source.policy = Arc::new(policy_source.with_issuers(policy));
        policy_source
    }

    /// Adds keys of the store. Of those that are `known` as they are now, there are no two in memory.
    pub(crate) fn add_keys(&mut self, stored: Vec<KeySpec>, unreadable: Vec<Unreadable>, known: &Policy) {
        self.leave_out(unreadable);
        let usable = self.usable(stored).into_iter().map(|key| match known.key(&key.digest) {
            Some(known) if **known == key => Arc::clone(known),
            _ => Arc::new(key),
        });
        Arc::make_mut(&mut self.policy).add_keys(usable);
    }

    /// Names accounts of the store that cannot be read.
    pub(crate) fn leave_out(&mut self, unreadable: Vec<Unreadable>) {
        self.problems.extend(unreadable.into_iter().map(AccountFinding::Unreadable));
    }

    /// The same without the keys of a store that has not been read: unknown ones may be known later.
    pub(crate) fn incomplete(mut self) -> Self {
        self.policy = Arc::new(Arc::unwrap_or_clone(self.policy).incomplete());
        self
    }

    /// The same with another file, while the store does not answer: what it said last stays.
    pub(crate) fn with_file(&self, config: &Config, key_sets: &KeySets) -> Self {
        let mut policy_source = Self::new(config, key_sets, self.stored.clone());
        let still: Vec<AccountFinding> =
            self.problems.iter().filter(|problem| policy_source.still_has(problem)).cloned().collect();
        policy_source.problems.extend(still);
        let of_store = |key: &&Arc<Key>| {
            [self, &policy_source]
                .iter()
                .all(|policy_source| !policy_source.in_file.contains(Kind::Key, &key.name))
        };
        let mut kept: Vec<&Arc<Key>> = self.policy.keys().filter(of_store).collect();
        // In the order in which the store gives them: of two that claim the same digest the first counts.
        kept.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let directory = &mut policy_source.directory;
        // A key whose plan has gone with the old file keeps what it had: it is for the store to say what it has now.
        let relinked = kept.into_iter().map(|key| match directory.relink(key) {
            Ok(changed) if changed != **key => Arc::new(changed),
            _ => Arc::clone(key),
        });
        Arc::make_mut(&mut policy_source.policy).add_keys(relinked);
        if self.policy.is_incomplete() { policy_source.incomplete() } else { policy_source }
    }

    /// Which accounts are not in force, and why.
    pub(crate) fn problems(&self) -> Vec<AccountFinding> {
        self.problems.clone()
    }

    /// Whether what was wrong with an account of the store still is, with our file.
    fn still_has(&self, problem: &AccountFinding) -> bool {
        let AccountFinding::Unusable(unusable) = problem else { return true };
        // Plans and consumers were looked at again.
        unusable.kind == Kind::Key
            && (unusable.why != Unfit::Taken || self.in_file.contains(Kind::Key, &unusable.name))
    }

    fn usable(&mut self, specs: Vec<KeySpec>) -> Vec<Key> {
        let mut keys = Vec::with_capacity(specs.len());
        for spec in specs {
            let key = match self.in_file.contains(Kind::Key, &spec.name) {
                true => Err(Unusable::taken(Kind::Key, &spec.name)),
                false => self.directory.key(spec),
            };
            match key {
                Ok(key) => keys.push(key),
                Err(unusable) => self.problems.push(AccountFinding::Unusable(unusable)),
            }
        }
        keys
    }

    /// The same policy with the identity providers' tokens as plans and consumers are now.
    fn with_issuers(&self, policy: Policy) -> Policy {
        if self.issuers.is_empty() {
            return policy;
        }
        let issuers = self.issuers.iter().map(|issuer| with_plans(issuer, &self.key_sets, &self.directory));
        let consumers: HashMap<String, Arc<Consumer>> =
            self.directory.consumers().map(|(name, consumer)| (name.clone(), Arc::clone(consumer))).collect();
        policy.with_issuers(issuers.collect(), consumers)
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
        let limits = given.resolve().limits;
        (!limits.is_empty()).then(|| ModelLimit { models: models.clone(), limits })
    };
    config.models.iter().filter_map(limit).collect()
}
