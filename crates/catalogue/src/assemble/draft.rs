//! A pool while servers are still added to it.

use std::{collections::HashSet, sync::Arc};

use limits::{Limits, Subject};

use super::{Branch, Choice, Door, OwnLimits, Pool, RouteGroup};
use crate::{
    Accepts, Credential, GivenModelSettings, Kind, ModelCard, ModelName, Problem, RouteId, Selector,
    ServerRecord, ServerState, SettingFinding,
};

/// A pool under construction.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The models of which the name is an alias on its servers; the name itself where they list it.
    pub(super) canonical: Vec<ModelName>,
    card: Option<ModelCard>,
    pub(super) servers: Vec<Arc<ServerRecord>>,
    pub(super) given: GivenModelSettings,
    pub(super) overridden: GivenModelSettings,
    pub(super) canary: Option<Branch>,
    pub(super) mirror: Option<Branch>,
}

/// Servers that demand the same credential, or none.
type Group = (Option<Arc<Credential>>, Vec<Arc<ServerRecord>>);

/// A name by which clients can ask for a server.
pub(super) struct Name<'a> {
    pub(super) name: ModelName,
    /// The model that answers to it.
    card: &'a ModelCard,
}

/// The names of a server: those that it lists, and its aliases.
pub(super) fn names(server: &ServerRecord) -> Vec<Name<'_>> {
    let listed = |name: &ModelName| server.models.iter().any(|m| m.name == *name);
    let mut names: Vec<Name<'_>> =
        server.models.iter().map(|card| Name { name: card.name.clone(), card }).collect();
    for alias in &server.spec.settings.aliases {
        let card = match &alias.of {
            Some(of) => server.models.iter().find(|m| m.name == *of),
            None => server.models.first().filter(|_| server.models.len() == 1),
        };
        if let Some(card) = card.filter(|_| !listed(&alias.name)) {
            names.push(Name { name: alias.name.clone(), card });
        }
    }
    for card in &server.models {
        let more = card.aliases.iter().filter(|alias| !listed(alias));
        names.extend(more.map(|alias| Name { name: alias.clone(), card }));
    }
    // Ollama takes `llama3` for `llama3:latest`.
    for card in server.models.iter().filter(|_| server.kind() == Kind::Ollama) {
        let short = card.name.as_str().strip_suffix(":latest").and_then(|short| ModelName::new(short).ok());
        if let Some(name) = short.filter(|short| !listed(short)) {
            names.push(Name { name, card });
        }
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.name.clone()));
    names
}

/// Reports settings of a server that its model list contradicts.
pub(super) fn check_settings(server: &ServerRecord, problems: &mut Vec<Problem>) {
    let count = server.models.len();
    if server.spec.settings.single_model && count > 1 {
        problems.push(Problem::server(&server.spec.name, SettingFinding::NotSingle { count }));
    }
    check_aliases(server, problems);
}

/// Reports aliases that lead nowhere, or that the server will refuse in a body.
fn check_aliases(server: &ServerRecord, problems: &mut Vec<Problem>) {
    let settings = &server.spec.settings;
    // Its models are not known yet.
    if server.models.is_empty() {
        return;
    }
    let mut problem = |finding| problems.push(Problem::server(&server.spec.name, finding));
    for alias in &settings.aliases {
        let name = &alias.name;
        let of = match (&alias.of, &server.models[..]) {
            (Some(of), models) if models.iter().any(|m| m.name == *of) => of,
            (Some(of), _) => {
                problem(SettingFinding::AliasOfNothing { alias: name.clone(), of: of.clone() });
                continue;
            }
            (None, [only]) => &only.name,
            (None, models) => {
                problem(SettingFinding::AliasOfSeveral { alias: name.clone(), count: models.len() });
                continue;
            }
        };
        let listed = server.models.iter().any(|m| m.name == *name);
        if !listed && server.kind() == Kind::Vllm && settings.accepts != Some(Accepts::Any) {
            problem(SettingFinding::AliasUnknownToVllm { alias: name.clone(), of: of.clone() });
        }
    }
}

impl Draft {
    pub(super) fn add(&mut self, server: &Arc<ServerRecord>, name: &Name<'_>) {
        if !self.canonical.contains(&name.card.name) {
            self.canonical.push(name.card.name.clone());
        }
        match &mut self.card {
            None => self.card = Some(ModelCard { name: name.name.clone(), ..name.card.clone() }),
            Some(card) => merge(card, name.card),
        }
        self.servers.push(Arc::clone(server));
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = &Arc<ServerRecord>> {
        self.servers.iter().filter(|s| s.state == ServerState::Ready)
    }

    pub(super) fn finish(self, model: ModelName, selector: Option<Arc<Selector>>) -> Pool {
        // An alias of several models is a model of its own.
        let canonical = match <[ModelName; 1]>::try_from(self.canonical) {
            Ok([only]) => only,
            Err(_) => model.clone(),
        };
        let branches = || self.canary.iter().chain(&self.mirror);
        let groups = groups(&self.servers, &model, selector.as_deref(), branches);
        let (ready, waiting): (Vec<Arc<ServerRecord>>, _) =
            self.servers.into_iter().partition(|s| s.state == ServerState::Ready);
        // A mirror's answers are dropped, but its servers do process the requests.
        let branched = self.canary.iter().chain(&self.mirror).flat_map(|branch| &branch.ready);
        let choice =
            ready.iter().chain(branched).map(|server| server.choice()).max().unwrap_or(Choice::Several);
        let settings = self.given.resolve();
        Pool {
            subject: Subject::of_model(canonical.as_str()),
            own_limits: own_limits(&settings.limits, &model, selector.as_deref()),
            canonical,
            selector,
            card: self.card.unwrap_or_else(|| ModelCard::named(model.clone())),
            ready,
            waiting,
            groups,
            settings,
            given: self.given,
            overridden: self.overridden,
            canary: self.canary,
            mirror: self.mirror,
            choice,
            model,
        }
    }
}

fn own_limits(limits: &Limits, model: &ModelName, selector: Option<&Selector>) -> Option<OwnLimits> {
    let subject = || match selector {
        None => Subject::of_model(model.as_str()),
        // Model names hold no line break, so the text is unique.
        Some(selector) => Subject::of_model(&format!("{model}\n{selector}")),
    };
    (!limits.is_empty()).then(|| OwnLimits { subject: subject(), limits: limits.clone() })
}

/// Groups servers by credential; the group with the most preferred server comes first. A group keeps its route while servers
/// come and go.
fn groups<'b, B: Iterator<Item = &'b Branch>>(
    servers: &[Arc<ServerRecord>],
    model: &ModelName,
    selector: Option<&Selector>,
    branches: impl Fn() -> B,
) -> Vec<RouteGroup> {
    let mut groups: Vec<Group> = Vec::new();
    for server in servers {
        let credential = &server.spec.credential;
        match groups.iter_mut().find(|(known, _)| known == credential) {
            Some((_, group)) => group.push(Arc::clone(server)),
            None => groups.push((credential.clone(), vec![Arc::clone(server)])),
        }
    }
    groups.sort_by_key(|(credential, group)| {
        (group.iter().map(|s| s.spec.settings.priority).min(), credential.is_some())
    });
    let group = |(credential, group): Group| {
        let part = match (&credential, selector) {
            (None, None) => None,
            (None, Some(selector)) => Some(selector.to_string()),
            // The secret could be guessed from its hash, so the group is named after its first server.
            (Some(_), selector) => {
                let selector = selector.map(ToString::to_string).unwrap_or_default();
                Some(format!("{selector}\n{}", group.first().map_or("", |s| s.spec.name.as_str())))
            }
        };
        let route = part.map_or_else(|| RouteId::of(model), |part| RouteId::of_part(model, &part));
        let ready: Vec<_> = group.into_iter().filter(|s| s.state == ServerState::Ready).collect();
        // A request with a credential goes to its own servers only, not to a canary or mirror.
        let doors = Door::all(&ready, branches().filter(|_| credential.is_none()));
        (!ready.is_empty()).then_some(RouteGroup { route, credential, ready, doors, pick: None })
    };
    groups.into_iter().filter_map(group).collect()
}

fn merge(into: &mut ModelCard, from: &ModelCard) {
    into.owned_by = into.owned_by.take().or_else(|| from.owned_by.clone());
    into.created = into.created.or(from.created);
    into.root = into.root.take().or_else(|| from.root.clone());
    into.parent = into.parent.take().or_else(|| from.parent.clone());
    into.context_length = match (into.context_length, from.context_length) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
