//! What the servers and the operator say about a model, put together; canaries and mirrors.

use std::{collections::BTreeMap, sync::Arc};

use super::{Branch, ModelOverrides, draft::Draft};
use crate::{ModelName, Problem, Selector, ServerRecord};

type Drafts = BTreeMap<Option<Arc<Selector>>, BTreeMap<ModelName, Draft>>;

/// Puts settings together, then finds the servers that canaries and mirrors lead to.
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
            ("canary.model", settings.canary_model, settings.canary_percent.unwrap_or(10)),
            ("mirror.model", settings.mirror_model, settings.mirror_percent.unwrap_or(100)),
        ];
        let [canary, mirror] = asked
            .map(|(key, target, percent)| branch(key, name, target?, percent, draft, &everybody, problems));
        (draft.canary, draft.mirror) = (canary, mirror);
    }
}

fn conflict(
    key: &str,
    model: &ModelName,
    server: &ServerRecord,
    all: &[Arc<ServerRecord>],
    said: &crate::GivenModelSettings,
) -> String {
    let counts = said.get(key).unwrap_or_default();
    let first = all.iter().find(|s| s.spec.model_settings.get(key) == Some(counts));
    let first = first.map_or("another server", |s| s.spec.name.as_str());
    let here = server.spec.model_settings.get(key).unwrap_or_default();
    format!(
        "{key}={here:?}, but {first}, which serves {model:?} too, has {counts:?}, which counts: give all servers of a \
         model the same"
    )
}

/// The servers of the other model, if they can take this one's requests. Traefik cannot change the
/// name in a body, and `/auth` sets no second credential.
fn branch(
    key: &str,
    model: &ModelName,
    target: ModelName,
    percent: u8,
    draft: &Draft,
    pools: &BTreeMap<ModelName, Vec<Arc<ServerRecord>>>,
    problems: &mut Vec<Problem>,
) -> Option<Branch> {
    // Aliases inherit the setting from their servers, where it was not meant for them.
    if draft.ready().next().is_none() || target == *model || percent == 0 {
        return None;
    }
    let mut refuse = |message: String| {
        // Who asked for it: a server, or the operator for all of the model's.
        let asked = draft.servers.iter().find(|s| !s.spec.model_settings.is_empty());
        if let Some(server) = asked.or_else(|| draft.servers.first()) {
            problems.push(Problem::server(
                &server.spec.name,
                format!("{key}={:?} of {model:?}: {message}", target.as_str()),
            ));
        }
        None
    };
    let ready = match pools.get(&target) {
        Some(ready) if !ready.is_empty() => ready,
        Some(_) => return refuse("none of its servers is ready; until then it gets no requests".into()),
        None => return refuse("there is no such model; until then it gets no requests".into()),
    };
    if let Some(server) = ready.iter().find(|s| !s.accepts(model)) {
        return refuse(format!(
            "its server {} does not answer to {model:?}, and Traefik cannot change the name in a body: give that \
             server the name as an alias that it accepts, or accepts=any if it does not look",
            server.spec.name
        ));
    }
    // One that chooses by the name in the body would answer with this very model.
    let has_both = |server: &&Arc<ServerRecord>| {
        server.kind().names_choose() && server.models.iter().any(|card| card.name == *model)
    };
    if let Some(server) = ready.iter().find(has_both) {
        return refuse(format!(
            "its server {} has {model:?} as well and chooses by the name in the body, so its requests would stay with that \
             model",
            server.spec.name
        ));
    }
    let credentials = || draft.ready().chain(ready).map(|s| &s.spec.credential);
    if credentials().any(Option::is_some) {
        return refuse(
            "a request carries one credential, so servers that demand one cannot take part".into(),
        );
    }
    Some(Branch { model: target, percent, ready: ready.clone() })
}
