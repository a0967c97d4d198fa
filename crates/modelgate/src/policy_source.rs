//! The keys and limits in force: those of the configuration file, then those of the store.
//!
//! The file takes precedence: an account of the store whose name or key is also in the file is left out and reported.

pub(crate) mod names;
#[cfg(test)]
mod tests;
pub(crate) mod update;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use access::{Consumer, Issuer, Key, ModelLimit, Policy, RevokedKey, TokenPlan};
use accounts::{AccountKind, Accounts, ConsumerSpec, Directory, KeySpec, Patterns, Plan, Unfit, Unusable};
use catalogue::{GivenModelSettings, ModelGlobs};
use store::{AccountFinding, Unreadable};

use self::names::AccountNames;
use crate::{
    config::{Config, JwtIssuer},
    jwks::KeySets,
};

/// The keys and limits of the file and the store, combined.
pub(crate) struct PolicySource {
    pub(crate) policy: Arc<Policy>,
    directory: Directory,
    /// The store's plans and consumers.
    stored: Accounts,
    /// The names of the file's accounts.
    in_file: AccountNames,
    issuers: Vec<JwtIssuer>,
    key_sets: KeySets,
    problems: Vec<AccountFinding>,
}

impl PolicySource {
    /// Combines the file with the store's plans and consumers; the store's keys are added afterwards.
    pub(crate) fn new(config: &Config, key_sets: &KeySets, stored: Accounts) -> Self {
        let accounts = &config.accounts.declared;
        let mut directory = Directory::default();
        let mut unusable = Vec::new();
        let plans = accounts.plans.iter().chain(&stored.plans);
        unusable.extend(plans.filter_map(|plan| directory.add_plan(plan.clone()).err()));
        let consumers = accounts.consumers.iter().chain(&stored.consumers);
        unusable.extend(consumers.filter_map(|consumer| directory.add_consumer(consumer.clone()).err()));
        // The file's references were checked when it was read.
        let keys = accounts.keys.iter().filter_map(|key| directory.key(key.clone()).ok()).collect();
        let policy = Policy::new(keys, model_limits(config))
            .with_time_zone(config.time_zone.clone())
            .with_key_headers(config.requests.key_headers.clone())
            .ignoring_foreign(config.requests.ignores_foreign);
        let mut policy_source = Self {
            policy: Arc::default(),
            directory,
            stored,
            in_file: AccountNames::of(accounts),
            issuers: config.accounts.issuers.clone(),
            key_sets: key_sets.clone(),
            problems: unusable.into_iter().map(AccountFinding::Unusable).collect(),
        };
        policy_source.policy = Arc::new(policy_source.with_issuers(policy));
        policy_source
    }

    /// Adds the store's keys. A key that is unchanged in `known` shares that key's memory.
    pub(crate) fn add_keys(&mut self, stored: Vec<KeySpec>, unreadable: Vec<Unreadable>, known: &Policy) {
        self.leave_out(unreadable);
        let usable = self.usable(stored).into_iter().map(|key| match known.key(&key.digest) {
            Some(known) if **known == key => Arc::clone(known),
            _ => Arc::new(key),
        });
        Arc::make_mut(&mut self.policy).add_keys(usable);
    }

    /// Adds keys that were revoked.
    pub(crate) fn revoke(&mut self, keys: Vec<RevokedKey>) {
        if !keys.is_empty() {
            Arc::make_mut(&mut self.policy).revoked_mut().add(keys);
        }
    }

    /// Forgets the revoked keys of consumers whose names were erased.
    pub(crate) fn forget_revoked_of(&mut self, erased: &HashSet<String>) {
        if !erased.is_empty() {
            Arc::make_mut(&mut self.policy).revoked_mut().forget(|key| erased.contains(&key.consumer));
        }
    }

    /// Records accounts of the store that cannot be read.
    pub(crate) fn leave_out(&mut self, unreadable: Vec<Unreadable>) {
        self.problems.extend(unreadable.into_iter().map(AccountFinding::Unreadable));
    }

    /// The policy while the store's keys have not been read: a key that is unknown now may turn out to exist.
    pub(crate) fn incomplete(mut self) -> Self {
        self.policy = Arc::new(Arc::unwrap_or_clone(self.policy).incomplete());
        self
    }

    /// The policy with a new file while the store does not answer: what the store said last stays in force.
    pub(crate) fn with_file(&self, config: &Config, key_sets: &KeySets) -> Self {
        let mut policy_source = Self::new(config, key_sets, self.stored.clone());
        let still: Vec<AccountFinding> =
            self.problems.iter().filter(|problem| policy_source.still_has(problem)).cloned().collect();
        policy_source.problems.extend(still);
        let of_store = |key: &&Arc<Key>| {
            [self, &policy_source]
                .iter()
                .all(|policy_source| !policy_source.in_file.contains(AccountKind::Key, &key.name))
        };
        let mut kept: Vec<&Arc<Key>> = self.policy.keys().filter(of_store).collect();
        // In the order in which the store returns keys: if two claim the same digest, the first applies.
        kept.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let directory = &mut policy_source.directory;
        // A key whose plan was only in the old file keeps that plan's settings until the store can be read again.
        let relinked = kept.into_iter().map(|key| match directory.relink(key) {
            Ok(changed) if changed != **key => Arc::new(changed),
            _ => Arc::clone(key),
        });
        let policy = Arc::make_mut(&mut policy_source.policy);
        policy.add_keys(relinked);
        policy.share_revoked_of(&self.policy);
        if self.policy.is_incomplete() { policy_source.incomplete() } else { policy_source }
    }

    /// Which accounts are not in force, and why.
    pub(crate) fn problems(&self) -> Vec<AccountFinding> {
        self.problems.clone()
    }

    /// Whether the problem of an account of the store remains with our file.
    fn still_has(&self, problem: &AccountFinding) -> bool {
        let AccountFinding::Unusable(unusable) = problem else { return true };
        // Plans and consumers have been checked again already.
        unusable.kind == AccountKind::Key
            && (unusable.why != Unfit::Taken || self.in_file.contains(AccountKind::Key, &unusable.name))
    }

    fn usable(&mut self, specs: Vec<KeySpec>) -> Vec<Key> {
        let mut keys = Vec::with_capacity(specs.len());
        for spec in specs {
            let key = match self.in_file.contains(AccountKind::Key, &spec.name) {
                true => Err(Unusable::taken(AccountKind::Key, &spec.name)),
                false => self.directory.key(spec),
            };
            match key {
                Ok(key) => keys.push(key),
                Err(unusable) => self.problems.push(AccountFinding::Unusable(unusable)),
            }
        }
        keys
    }

    /// The policy with its issuers linked to the present plans and consumers.
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

/// A placeholder for a consumer that cannot be read: its limits are unknown, so its keys are refused.
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
        priority: plan.priority,
    };
    let default = issuer.plan.as_ref().and_then(|name| directory.plan(name));
    let without = || TokenPlan { models: models(None), ..TokenPlan::default() };
    Issuer {
        plans: directory.plans().map(|plan| (plan.name.clone(), token_plan(plan))).collect(),
        default_plan: default.map_or_else(without, token_plan),
        ..key_sets.of(issuer)
    }
}

/// The limits of `models:`. They also apply to models for which no server is known.
fn model_limits(config: &Config) -> Vec<ModelLimit> {
    let limit = |(models, given): &(ModelGlobs, GivenModelSettings)| {
        let limits = given.resolve().limits;
        (!limits.is_empty()).then(|| ModelLimit { models: models.clone(), limits })
    };
    config.models.iter().filter_map(limit).collect()
}
