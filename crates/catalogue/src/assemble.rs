//! Server records in, catalogue out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use limits::{Limits, Subject};

use crate::{
    Credential, GivenModelSettings, Labelled, ModelCard, ModelGlobs, ModelName, ModelSettings, Problem,
    RouteId, Selector, ServerId, ServerRecord, ServerState, Severity,
};

mod branch;
mod door;
mod draft;

pub use door::Door;
use draft::Draft;

/// An immutable snapshot of all that is known.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub(crate) generation: u64,
    servers: BTreeMap<ServerId, Arc<ServerRecord>>,
    pools: BTreeMap<ModelName, Arc<Pool>>,
    /// The same pools for look-ups by name; a hash is quicker than a walk down the tree.
    by_name: HashMap<ModelName, Arc<Pool>>,
    selections: Vec<Selection>,
    may_have_any_model: bool,
    by_route: HashMap<RouteId, Arc<Pool>>,
    problems: Vec<Problem>,
    hints: Vec<Problem>,
    containers: Vec<Labelled>,
}

/// The pools of servers that only some requests choose.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    /// What those requests have.
    pub selector: Arc<Selector>,
    pools: BTreeMap<ModelName, Arc<Pool>>,
    may_have_any_model: bool,
}

/// The servers that serve one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// What clients call it.
    pub model: ModelName,
    /// The model that it is another name for; itself, if it is none.
    pub canonical: ModelName,
    /// What a request must have to get there, beside the model's name.
    pub selector: Option<Arc<Selector>>,
    /// What the servers say about it: from each field, the first server (by id) that fills it in;
    /// the context length is the smallest of all, since any of them may get the request.
    pub card: ModelCard,
    /// The servers that get its requests.
    pub ready: Vec<Arc<ServerRecord>>,
    /// Those that serve it but get no requests now.
    pub waiting: Vec<Arc<ServerRecord>>,
    /// The ready servers by the credential that they demand: `/auth` sets one credential for a
    /// request before Traefik chooses a server, so it chooses the group. The first is to be used.
    pub groups: Vec<RouteGroup>,
    /// How its requests are spread.
    pub settings: ModelSettings,
    /// What the settings are made of: of each, what counts.
    pub given: GivenModelSettings,
    /// Those of them that [`ModelOverrides`] give; of the others, the first server (by id) that has one.
    pub overridden: GivenModelSettings,
    /// Another model whose servers get a part of the requests.
    pub canary: Option<Branch>,
    /// Another model whose servers get copies of requests.
    pub mirror: Option<Branch>,
    /// The model for which limits are counted: the one that it stands for, so that all its names count together.
    pub subject: Subject,
    /// The limits that the servers ask for, if they ask for any.
    pub own_limits: Option<OwnLimits>,
    choice: Choice,
}

/// The limits that the servers of a pool ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnLimits {
    /// For whom they are counted. Servers that only some requests choose may ask for other limits than the rest, and a
    /// count has but one rate, so these have counts of their own.
    pub subject: Subject,
    /// The limits; at least one.
    pub limits: Limits,
}

/// Ready servers of a pool that demand the same credential, or none.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteGroup {
    /// What Traefik calls it.
    pub route: RouteId,
    /// What all of its servers demand.
    pub credential: Option<Arc<Credential>>,
    /// At least one server.
    pub ready: Vec<Arc<ServerRecord>>,
    /// What its requests meet: its servers and those of the canary and the mirror, each kind once.
    pub doors: Vec<Door>,
}

/// A part of a pool's requests that goes to another model's servers, which accept its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Branch {
    /// The other model.
    pub model: ModelName,
    /// How large a part, in percent.
    pub percent: u8,
    /// The other model's ready servers; at least one.
    pub ready: Vec<Arc<ServerRecord>>,
}

/// Settings that the operator gives for models by name, whatever their servers say.
#[derive(Debug, Clone, Default)]
pub struct ModelOverrides(Vec<(ModelGlobs, GivenModelSettings)>);

/// What a request could choose besides the model that it is for, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Nothing: whatever a request says, it gets this model. Its body need not be read.
    Nothing,
    /// The server runs just this model, and refuses other names. A request that names none gets this one.
    Sole,
    /// One model is known of the server, which may run others.
    Unknown,
    /// The server has several models.
    Several,
}

/// Whether a pool can take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least one server is ready.
    Ready,
    /// None is ready, at least one is starting.
    Starting,
    /// None is ready or starting; at least one runs, but has been withdrawn.
    Draining,
    /// None runs any more.
    Stopped,
}

impl Pool {
    /// Whether it can take requests.
    pub fn readiness(&self) -> Readiness {
        if !self.ready.is_empty() {
            Readiness::Ready
        } else if self.waiting.iter().any(|s| matches!(s.state, ServerState::Starting(_))) {
            Readiness::Starting
        } else if self.waiting.iter().any(|s| matches!(s.state, ServerState::Draining(_))) {
            Readiness::Draining
        } else {
            Readiness::Stopped
        }
    }

    /// The route that Traefik is to send its requests to, if a server is ready.
    pub fn group(&self) -> Option<&RouteGroup> {
        self.groups.first()
    }

    /// What a request could choose of the servers besides this model: the most that one of them offers.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Whether it is among the models of these patterns, by its name or by that of the model that it stands for: whoever
    /// may use a model may call it by its other names. It does not hold the other way round.
    pub fn is_among(&self, models: &ModelGlobs) -> bool {
        models.matches(self.model.as_str())
            || self.canonical != self.model && models.matches(self.canonical.as_str())
    }
}

impl Selection {
    /// The pool of a model.
    pub fn pool(&self, model: &str) -> Option<&Arc<Pool>> {
        self.pools.get(model)
    }

    /// Whether one of its servers is loading, and nobody knows yet which models that one has.
    pub fn may_have_any_model(&self) -> bool {
        self.may_have_any_model
    }

    /// All pools, by model name.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }
}

impl ModelOverrides {
    /// Settings with the patterns of the models that they are for. For each setting, the first
    /// entry counts that matches and has it.
    pub fn new(entries: Vec<(ModelGlobs, GivenModelSettings)>) -> Self {
        Self(entries)
    }

    fn of(&self, model: &ModelName) -> GivenModelSettings {
        let mut given = GivenModelSettings::default();
        for (globs, settings) in &self.0 {
            if globs.matches(model.as_str()) {
                given.fill_in(settings);
            }
        }
        given
    }
}

impl Catalogue {
    /// Puts a catalogue together. Servers that serve one name form one pool.
    pub fn assemble(records: impl IntoIterator<Item = ServerRecord>, problems: Vec<Problem>) -> Self {
        Self::assemble_with(records.into_iter().map(Arc::new), problems, &ModelOverrides::default())
    }

    /// The same, with settings that count more than what the servers say.
    #[expect(clippy::mutable_key_type, reason = "selectors are compared by their text")]
    pub fn assemble_with(
        records: impl IntoIterator<Item = Arc<ServerRecord>>,
        mut problems: Vec<Problem>,
        overrides: &ModelOverrides,
    ) -> Self {
        let servers: BTreeMap<_, _> = records.into_iter().map(|r| (r.spec.id.clone(), r)).collect();
        let mut drafts: BTreeMap<Option<Arc<Selector>>, BTreeMap<ModelName, Draft>> = BTreeMap::new();
        let mut any_model: BTreeSet<Option<Arc<Selector>>> = BTreeSet::new();
        for server in servers.values() {
            draft::check_settings(server, &mut problems);
            let selector = server.spec.settings.selector();
            let everybody = selector.is_none() || server.spec.settings.select_others;
            let places = selector.map(Some).into_iter().chain(everybody.then_some(None));
            for place in places {
                if server.may_have_any_model() {
                    any_model.insert(place.clone());
                }
                let pools = drafts.entry(place.clone()).or_default();
                for name in draft::names(server) {
                    pools.entry(name.name.clone()).or_default().add(server, &name);
                }
            }
        }
        branch::resolve(&mut drafts, overrides, &mut problems);
        let mut finished = drafts.into_iter().map(|(selector, pools)| {
            let finish = |(name, draft): (ModelName, Draft)| {
                let pool = Arc::new(draft.finish(name.clone(), selector.clone()));
                (name, pool)
            };
            (selector.clone(), pools.into_iter().map(finish).collect::<BTreeMap<_, _>>())
        });
        let mut pools = BTreeMap::new();
        let mut selections = Vec::new();
        for (selector, found) in &mut finished {
            match selector {
                None => pools = found,
                Some(selector) => {
                    let may_have_any_model = any_model.contains(&Some(Arc::clone(&selector)));
                    selections.push(Selection { selector, pools: found, may_have_any_model });
                }
            }
        }
        // The one with the most conditions is asked first, as Traefik does with rules.
        selections.sort_by_key(|s| std::cmp::Reverse(s.selector.conditions().len()));
        let by_name = pools.iter().map(|(name, pool)| (name.clone(), Arc::clone(pool))).collect();
        problems.sort();
        problems.dedup();
        let (hints, problems) = problems.into_iter().partition(|p: &Problem| p.severity() == Severity::Hint);
        let may_have_any_model = any_model.contains(&None);
        let found = Self { servers, pools, by_name, selections, may_have_any_model, ..Self::default() };
        let mut catalogue = Self { problems, hints, ..found };
        let routes = |pool: &Arc<Pool>| {
            let of = |group: &RouteGroup| (group.route.clone(), Arc::clone(pool));
            pool.groups.iter().map(of).collect::<Vec<_>>()
        };
        catalogue.by_route = catalogue.pools().flat_map(routes).collect();
        catalogue
    }

    /// The same, with the containers that are labelled, whatever became of them.
    #[must_use]
    pub fn with_containers(self, containers: Vec<Labelled>) -> Self {
        Self { containers, ..self }
    }

    /// Counts published catalogues from 1; 0 for one that was not published.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The pool of a model, for requests that choose no servers of their own.
    pub fn pool(&self, model: &str) -> Option<&Arc<Pool>> {
        self.by_name.get(model)
    }

    /// The pool that a route leads to, if one of its servers is ready.
    pub fn pool_of_route(&self, route: &str) -> Option<&Arc<Pool>> {
        self.by_route.get(route)
    }

    /// Whether a server for requests that choose no servers of their own is loading, and nobody knows yet which models it has.
    pub fn may_have_any_model(&self) -> bool {
        self.may_have_any_model
    }

    /// Whether any server is known for a name, whoever may choose it.
    pub fn knows(&self, model: &str) -> bool {
        self.by_name.contains_key(model) || self.selections.iter().any(|s| s.pool(model).is_some())
    }

    /// All pools: by model name, then those of the selections.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values().chain(self.selections.iter().flat_map(Selection::pools))
    }

    /// The servers that only some requests choose; the most demanding selector first.
    pub fn selections(&self) -> &[Selection] {
        &self.selections
    }

    /// All servers, by id.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<ServerRecord>> {
        self.servers.values()
    }

    /// What is wrong, sorted.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What may be as the operator wants it, and is worth a look once; sorted.
    pub fn hints(&self) -> &[Problem] {
        &self.hints
    }

    /// The containers that have the label `inference.enable`, whatever became of them.
    pub fn containers(&self) -> &[Labelled] {
        &self.containers
    }

    /// Whether both tell readers the same; the generation does not count.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.servers == other.servers
            && self.pools == other.pools
            && self.selections == other.selections
            && self.problems == other.problems
            && self.hints == other.hints
            && self.containers == other.containers
    }
}

#[cfg(test)]
mod tests;
