//! Some accounts of the store have changed: only they, and what refers to them, are put together anew.

use std::{collections::HashMap, sync::Arc};

use access::{Edit, Key, Policy};
use accounts::{Accounts, ConsumerSpec, Kind, Plan, Unusable};
use store::{AccountFinding, Unreadable};

use super::{PolicySource, names::Names, refused};

/// Accounts of the store as they are now.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Which; those of them that are in neither list are not there any more.
    pub(crate) names: Names,
    pub(crate) now: Accounts,
    pub(crate) unreadable: Vec<Unreadable>,
}

impl PolicySource {
    /// Puts changed accounts of the store in force. Whether that is all; if not, something that was left out may be usable
    /// now, and everything is to be read anew. What was taken away is out of force in any case.
    #[must_use]
    pub(crate) fn apply(&mut self, update: Update) -> bool {
        let Update { names, mut now, unreadable } = update;
        let unreadable_consumers = unreadable.iter().filter(|bad| bad.kind == Kind::Consumer);
        now.consumers.extend(unreadable_consumers.map(refused));
        self.problems.retain(|problem| !names.has(problem));
        self.leave_out(unreadable);
        // What keys may refer to and is another now.
        let mut changed = Names::default();
        let mut is_all = self.apply_plans(&names, now.plans, &mut changed);
        self.apply_consumers(&names, now.consumers, &mut changed);
        let mut policy = Policy::clone(&self.policy);
        is_all &= self.relink(&mut policy, &names, &changed);
        let added: Vec<Arc<Key>> = self.usable(now.keys).into_iter().map(Arc::new).collect();
        policy.add_keys(added.iter().cloned());
        is_all &= !added.iter().any(|key| policy.is_contested(key));
        self.policy = Arc::new(if changed.is_empty() { policy } else { self.with_issuers(policy) });
        is_all
    }

    /// Whether no key that was left out has waited for one of these plans.
    fn apply_plans(&mut self, names: &Names, now: Vec<Plan>, changed: &mut Names) -> bool {
        let mut is_all = true;
        self.stored.plans.retain(|plan| !names.contains(Kind::Plan, &plan.name));
        self.stored.plans.extend(now.iter().cloned());
        let mut now: HashMap<String, Plan> = now.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        for name in names.of_kind(Kind::Plan) {
            let plan = now.remove(name);
            if self.in_file.contains(Kind::Plan, name) {
                self.problems.extend(
                    plan.map(|plan| AccountFinding::Unusable(Unusable::taken(Kind::Plan, &plan.name))),
                );
                continue;
            }
            // Of a key that is out of force already, because another one is the same, only a reading of everything tells
            // that its plan is missing as well.
            is_all &= plan.is_some() || !self.policy.has_contested();
            is_all &= !self.directory.replace_plan(name, plan);
            changed.extend([(Kind::Plan, name.clone())]);
            // Those that have changed themselves come next.
            let others =
                self.directory.consumers_with(name).filter(|name| !names.contains(Kind::Consumer, name));
            let consumers: Names = others.map(|name| (Kind::Consumer, name.clone())).collect();
            self.problems.retain(|problem| !consumers.has(problem));
            for name in consumers.of_kind(Kind::Consumer) {
                self.problems.extend(self.directory.resolve(name).err().map(AccountFinding::Unusable));
                changed.extend([(Kind::Consumer, name.clone())]);
            }
        }
        is_all
    }

    fn apply_consumers(&mut self, names: &Names, now: Vec<ConsumerSpec>, changed: &mut Names) {
        self.stored.consumers.retain(|consumer| !names.contains(Kind::Consumer, &consumer.name));
        self.stored.consumers.extend(now.iter().cloned());
        let mut now: HashMap<String, ConsumerSpec> =
            now.into_iter().map(|consumer| (consumer.name.clone(), consumer)).collect();
        for name in names.of_kind(Kind::Consumer) {
            let spec = now.remove(name);
            let replaced = match self.in_file.contains(Kind::Consumer, name) {
                true => spec.map_or(Ok(()), |_| Err(Unusable::taken(Kind::Consumer, name))),
                false => {
                    changed.extend([(Kind::Consumer, name.clone())]);
                    self.directory.replace_consumer(name, spec)
                }
            };
            self.problems.extend(replaced.err().map(AccountFinding::Unusable));
        }
    }

    /// Takes out the store's keys of these names, and gives all others what they refer to as it is now. Whether none of
    /// those that are out has kept another one from being in force.
    fn relink(&mut self, policy: &mut Policy, names: &Names, changed: &Names) -> bool {
        let Self { policy: before, directory, in_file, problems, .. } = self;
        let mut is_all = true;
        policy.edit_keys(|key| {
            let (consumer, plan) = (&key.consumer.name, key.plan.as_ref().map(|plan| &*plan.name));
            let edit = if names.contains(Kind::Key, &key.name) && !in_file.contains(Kind::Key, &key.name) {
                Edit::Remove
            } else if changed.contains(Kind::Consumer, consumer)
                || plan.is_some_and(|plan| changed.contains(Kind::Plan, plan))
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
