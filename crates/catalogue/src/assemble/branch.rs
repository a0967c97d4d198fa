//! Merges the settings of servers and operator for each model, and resolves canaries and mirrors.

use std::{collections::BTreeMap, sync::Arc};

use super::{Branch, ModelOverrides, draft::Draft};
use crate::{BranchFault, BranchKind, ModelName, Problem, Selector, ServerRecord, SettingFinding};

type Drafts = BTreeMap<Option<Arc<Selector>>, BTreeMap<ModelName, Draft>>;

/// Merges settings, then finds the servers of canaries and mirrors.
#[expect(clippy::mutable_key_type, reason = "selectors are compared by their text")]
pub(super) fn resolve(drafts: &mut Drafts, overrides: &ModelOverrides, problems: &mut Vec<Problem>) {
    for (name, draft) in drafts.values_mut().flatten() {
        draft.overridden = overrides.of(name);
        draft.given = draft.overridden.clone();
        let ordered: Vec<Arc<ServerRecord>> = draft.servers.clone();
        let mut said = crate::GivenModelSettings::default();
        for server in &ordered {
            for key in said.fill_in(&server.spec.model_settings) {
                problems
                    .push(Problem::server(&server.spec.name, conflict(key, name, server, &ordered, &said)));
            }
        }
        draft.given.fill_in(&said);
    }
    let everybody: BTreeMap<ModelName, Vec<Arc<ServerRecord>>> = match drafts.get(&None) {
        Some(pools) => {
            pools.iter().map(|(name, draft)| (name.clone(), draft.ready().cloned().collect())).collect()
        }
        None => BTreeMap::new(),
    };
    for (name, draft) in drafts.values_mut().flatten() {
        let settings = draft.given.resolve();
        let asked = [
            (BranchKind::Canary, settings.canary_model, settings.canary_percent.unwrap_or(10)),
            (BranchKind::Mirror, settings.mirror_model, settings.mirror_percent.unwrap_or(100)),
        ];
        let [canary, mirror] = asked.map(|(kind, target, percent)| {
            let asked = WantedBranch { kind, model: name, target: target?, percent };
            let found = asked.find(draft, &everybody)?;
            found.map_err(|fault| problems.extend(asked.problem(draft, fault))).ok()
        });
        (draft.canary, draft.mirror) = (canary, mirror);
    }
}

fn conflict(
    key: &'static str,
    model: &ModelName,
    server: &ServerRecord,
    all: &[Arc<ServerRecord>],
    said: &crate::GivenModelSettings,
) -> SettingFinding {
    let counts = said.get(key).unwrap_or_default();
    let first = all.iter().find(|s| s.spec.model_settings.get(key) == Some(counts));
    let first = first.map_or("another server", |s| s.spec.name.as_str());
    let here = server.spec.model_settings.get(key).unwrap_or_default();
    SettingFinding::Conflict {
        key,
        here: here.to_owned(),
        model: model.clone(),
        first: first.to_owned(),
        counts: counts.to_owned(),
    }
}

/// A canary or mirror that a model's settings ask for.
struct WantedBranch<'n> {
    kind: BranchKind,
    model: &'n ModelName,
    /// The other model.
    target: ModelName,
    percent: u8,
}

impl WantedBranch<'_> {
    /// The servers of the other model, if they can take this model's requests: Traefik cannot change the name in a body, and
    /// `/auth` sets no second credential. `None` if no request would go there.
    fn find(
        &self,
        draft: &Draft,
        pools: &BTreeMap<ModelName, Vec<Arc<ServerRecord>>>,
    ) -> Option<Result<Branch, BranchFault>> {
        // Aliases inherit the setting from their servers, but it was not meant for them.
        if draft.ready().next().is_none() || self.target == *self.model || self.percent == 0 {
            return None;
        }
        let ready = match pools.get(&self.target) {
            Some(ready) if !ready.is_empty() => ready,
            Some(_) => return Some(Err(BranchFault::NoneReady)),
            None => return Some(Err(BranchFault::NoSuchModel)),
        };
        let branch = || Branch { model: self.target.clone(), percent: self.percent, ready: ready.clone() };
        Some(self.fault(draft, ready).map_or_else(|| Ok(branch()), Err))
    }

    /// Why the other model's servers cannot take the requests, if they cannot.
    fn fault(&self, draft: &Draft, ready: &[Arc<ServerRecord>]) -> Option<BranchFault> {
        if let Some(server) = ready.iter().find(|s| !s.accepts(self.model.as_str())) {
            return Some(BranchFault::NameNotAccepted { server: server.spec.name.clone() });
        }
        // A server that chooses by the name in the body would answer with this very model.
        let has_both = |server: &&Arc<ServerRecord>| {
            server.kind().names_choose() && server.models.iter().any(|card| card.name == *self.model)
        };
        if let Some(server) = ready.iter().find(has_both) {
            return Some(BranchFault::HasBoth { server: server.spec.name.clone() });
        }
        let mut credentials = draft.ready().chain(ready).map(|s| &s.spec.credential);
        credentials.any(Option::is_some).then_some(BranchFault::Credential)
    }

    /// The problem, reported for whoever set the canary or mirror: a server, or the operator for all servers of the model.
    fn problem(&self, draft: &Draft, fault: BranchFault) -> Option<Problem> {
        let asked = draft.servers.iter().find(|s| !s.spec.model_settings.is_empty());
        let server = asked.or_else(|| draft.servers.first())?;
        let (model, target) = (self.model.clone(), self.target.clone());
        let finding = SettingFinding::Branch { kind: self.kind, model, target, fault };
        Some(Problem::server(&server.spec.name, finding))
    }
}
