//! Partial reload: when some accounts of the store have changed, only these and the accounts that refer to them are rebuilt.

use std::{collections::HashMap, sync::Arc};

use access::{Edit, Key, Policy, RevokedKey};
use accounts::{AccountKind, Accounts, ConsumerSpec, Plan, Unusable};
use store::{AccountFinding, Unreadable};

use super::{PolicySource, names::AccountNames, refused};

/// Accounts of the store as they are now.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// The changed accounts; those that are in neither list have been deleted.
    pub(crate) names: AccountNames,
    pub(crate) now: Accounts,
    pub(crate) unreadable: Vec<Unreadable>,
    /// The keys of these names that were revoked.
    pub(crate) revoked: Vec<RevokedKey>,
}

impl PolicySource {
    /// Puts changed accounts of the store in force. Returns whether that is complete; if not, an account that was left out may be
    /// usable now, and a full reload is needed. Deleted accounts are out of force in either case.
    #[must_use]
    pub(crate) fn apply(&mut self, update: Update) -> bool {
        let Update { names, mut now, unreadable, revoked } = update;
        let unreadable_consumers = unreadable.iter().filter(|bad| bad.kind == AccountKind::Consumer);
        now.consumers.extend(unreadable_consumers.map(refused));
        self.problems.retain(|problem| !names.has(problem));
        self.leave_out(unreadable);
        // The plans and consumers that have changed and that keys may refer to.
        let mut changed = AccountNames::default();
        let mut is_all = self.apply_plans(&names, now.plans, &mut changed);
        self.apply_consumers(&names, now.consumers, &mut changed);
        let mut policy = Policy::clone(&self.policy);
        is_all &= self.relink(&mut policy, &names, &changed);
        let added: Vec<Arc<Key>> = self.usable(now.keys).into_iter().map(Arc::new).collect();
        policy.add_keys(added.iter().cloned());
        is_all &= !added.iter().any(|key| policy.is_contested(key));
        if !revoked.is_empty() || !policy.revoked().is_empty() {
            policy.revoked_mut().forget(|key| names.contains(AccountKind::Key, &key.name));
            policy.revoked_mut().add(revoked);
        }
        self.policy = Arc::new(if changed.is_empty() { policy } else { self.with_issuers(policy) });
        is_all
    }

    /// Applies changed plans. Returns whether no left-out key was waiting for one of them.
    fn apply_plans(&mut self, names: &AccountNames, now: Vec<Plan>, changed: &mut AccountNames) -> bool {
        let mut is_all = true;
        self.stored.plans.retain(|plan| !names.contains(AccountKind::Plan, &plan.name));
        self.stored.plans.extend(now.iter().cloned());
        let mut now: HashMap<String, Plan> = now.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        for name in names.of_kind(AccountKind::Plan) {
            let plan = now.remove(name);
            if self.in_file.contains(AccountKind::Plan, name) {
                self.problems.extend(
                    plan.map(|plan| AccountFinding::Unusable(Unusable::taken(AccountKind::Plan, &plan.name))),
                );
                continue;
            }
            // A key may be out of force because another key has the same digest. Only a full reload finds that its plan is
            // missing as well.
            is_all &= plan.is_some() || !self.policy.has_contested();
            is_all &= !self.directory.replace_plan(name, plan);
            changed.extend([(AccountKind::Plan, name.clone())]);
            // Consumers that have changed themselves are handled next.
            let others = self
                .directory
                .consumers_with(name)
                .filter(|name| !names.contains(AccountKind::Consumer, name));
            let consumers: AccountNames = others.map(|name| (AccountKind::Consumer, name.clone())).collect();
            self.problems.retain(|problem| !consumers.has(problem));
            for name in consumers.of_kind(AccountKind::Consumer) {
                self.problems.extend(self.directory.resolve(name).err().map(AccountFinding::Unusable));
                changed.extend([(AccountKind::Consumer, name.clone())]);
            }
        }
        is_all
    }

    fn apply_consumers(&mut self, names: &AccountNames, now: Vec<ConsumerSpec>, changed: &mut AccountNames) {
        self.stored.consumers.retain(|consumer| !names.contains(AccountKind::Consumer, &consumer.name));
        self.stored.consumers.extend(now.iter().cloned());
        let mut now: HashMap<String, ConsumerSpec> =
            now.into_iter().map(|consumer| (consumer.name.clone(), consumer)).collect();
        for name in names.of_kind(AccountKind::Consumer) {
            let spec = now.remove(name);
            let replaced = match self.in_file.contains(AccountKind::Consumer, name) {
                true => spec.map_or(Ok(()), |_| Err(Unusable::taken(AccountKind::Consumer, name))),
                false => {
                    changed.extend([(AccountKind::Consumer, name.clone())]);
                    self.directory.replace_consumer(name, spec)
                }
            };
            self.problems.extend(replaced.err().map(AccountFinding::Unusable));
        }
    }

    /// Removes the store's keys of these names, and links all other keys to the present plans and consumers. Returns whether none
    /// of the removed keys kept another one from being in force.
    fn relink(&mut self, policy: &mut Policy, names: &AccountNames, changed: &AccountNames) -> bool {
        let Self { policy: before, directory, in_file, problems, .. } = self;
        let mut is_all = true;
        policy.edit_keys(|key| {
            let (consumer, plan) = (&key.consumer.name, key.plan.as_ref().map(|plan| &*plan.name));
            let edit = if names.contains(AccountKind::Key, &key.name)
                && !in_file.contains(AccountKind::Key, &key.name)
            {
                Edit::Remove
            } else if changed.contains(AccountKind::Consumer, consumer)
                || plan.is_some_and(|plan| changed.contains(AccountKind::Plan, plan))
            {
                match directory.relink(key) {
                    Ok(relinked) if relinked == **key => Edit::Keep,
                    Ok(relinked) => Edit::Change(Arc::new(relinked)),
                    Err(unusable) => {
                        problems.push(AccountFinding::Unusable(unusable));
                        Edit::Remove
                    }
                }
            } else {
                Edit::Keep
            };
            is_all &= !matches!(edit, Edit::Remove) || !before.is_contested(key);
            edit
        });
        is_all
    }
}
