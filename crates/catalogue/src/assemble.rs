//! Assembles server records into a catalogue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use limits::{Limits, Subject};

use crate::{
    Credential, GivenModelSettings, Labelled, ModelCard, ModelGlobs, ModelName, ModelSettings, OwnRouter,
    Problem, ProblemSubject, RouteId, Selector, ServerId, ServerRecord, ServerState, Severity, TraefikSeen,
};

mod branch;
mod door;
mod draft;
mod pick;

pub use door::Door;
use draft::Draft;
pub use pick::{Pick, PickBy, ServerRoute};

/// An immutable snapshot of everything known about servers and models.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub(crate) generation: u64,
    servers: BTreeMap<ServerId, Arc<ServerRecord>>,
    pools: BTreeMap<ModelName, Arc<Pool>>,
    /// The same pools, indexed by name: hashing is faster than walking the tree.
    by_name: HashMap<ModelName, Arc<Pool>>,
    selections: Vec<Selection>,
    may_have_any_model: bool,
    by_route: HashMap<RouteId, Arc<Pool>>,
    problems: Vec<Problem>,
    hints: Vec<Problem>,
    containers: Vec<Labelled>,
    own_routers: Vec<OwnRouter>,
    traefiks: Vec<TraefikSeen>,
    /// The names of models that were there before Modelgate's start, and whether it is so recent that any may come back.
    remembered: Arc<BTreeSet<String>>,
    is_returning: bool,
    has_unread: bool,
}

/// The pools of servers with `select.*`, which only matching requests reach.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    /// The conditions that those requests meet.
    pub selector: Arc<Selector>,
    pools: BTreeMap<ModelName, Arc<Pool>>,
    may_have_any_model: bool,
}

/// The servers that serve one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// What clients call it.
    pub model: ModelName,
    /// The model of which this name is an alias; the name itself if it is not an alias.
    pub canonical: ModelName,
    /// The conditions that a request must meet to reach this pool, besides naming the model.
    pub selector: Option<Arc<Selector>>,
    /// The servers' description of the model: each field is taken from the first server (by id) that fills it in. The context
    /// length is the smallest of all, since any server may get the request.
    pub card: ModelCard,
    /// The servers that get its requests.
    pub ready: Vec<Arc<ServerRecord>>,
    /// The servers of the model that get no requests now.
    pub waiting: Vec<Arc<ServerRecord>>,
    /// The ready servers, grouped by the credential that they demand: `/auth` sets one credential for a request before Traefik
    /// chooses a server, so `/auth` chooses the group. The first group is preferred.
    pub groups: Vec<RouteGroup>,
    /// How requests are balanced.
    pub settings: ModelSettings,
    /// The values from which `settings` is made, after precedence is applied.
    pub given: GivenModelSettings,
    /// The part of `given` that comes from [`ModelOverrides`]; each other value comes from the first server (by id) that has one.
    pub overridden: GivenModelSettings,
    /// Another model whose servers get a part of the requests.
    pub canary: Option<Branch>,
    /// Another model whose servers get copies of requests.
    pub mirror: Option<Branch>,
    /// The model for which limits are counted: the canonical one, so that all its names share their counts.
    pub subject: Subject,
    /// The limits that the servers set, if any.
    pub own_limits: Option<OwnLimits>,
    choice: Choice,
}

/// The limits that the servers of a pool set.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnLimits {
    /// The subject of their counts. Servers with a selector may set other limits than the rest of the model's servers, and a
    /// count has only one rate, so these limits have counts of their own.
    pub subject: Subject,
    /// The limits; at least one.
    pub limits: Limits,
}

/// Ready servers of a pool that demand the same credential, or none.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteGroup {
    /// Its name in Traefik.
    pub route: RouteId,
    /// The credential that all of its servers demand.
    pub credential: Option<Arc<Credential>>,
    /// At least one server.
    pub ready: Vec<Arc<ServerRecord>>,
    /// The kinds of server that its requests may meet: its own servers, the canary's and the mirror's, each kind once.
    pub doors: Vec<Door>,
    /// Among which servers Modelgate chooses for each request; `None`: Traefik chooses.
    pub pick: Option<Arc<Pick>>,
}

/// A share of a pool's requests that goes to another model's servers, which accept this model's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Branch {
    /// The other model.
    pub model: ModelName,
    /// The share, in percent.
    pub percent: u8,
    /// The other model's ready servers; at least one.
    pub ready: Vec<Arc<ServerRecord>>,
}

/// Settings that the operator gives for models by name; they take precedence over what servers say.
#[derive(Debug, Clone, Default)]
pub struct ModelOverrides(Vec<(ModelGlobs, GivenModelSettings)>);

/// What a request could choose besides the model that it is for, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Nothing: every request gets this model, whatever it says. Its body need not be read.
    Nothing,
    /// The server runs only this model and refuses other names. A request without a model's name gets this model.
    Sole,
    /// Only one model of the server is known, but it may run others.
    Unknown,
    /// The server has several models.
    Several,
}

/// Whether a pool can take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least one server is ready.
    Ready,
    /// No server is ready; at least one is starting.
    Starting,
    /// No server is ready or starting; at least one is running but withdrawn.
    Draining,
    /// No server is running.
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

    /// The route to which Traefik is to send its requests, if a server is ready.
    pub fn group(&self) -> Option<&RouteGroup> {
        self.groups.first()
    }

    /// What a request could choose besides this model: the most that any of the servers offers.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Whether the patterns match its name or its canonical model's name: a key that may use a model may also use its aliases.
    /// A key that may use an alias may not use the model's other names.
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
    /// Settings, each with the patterns of the models that it is for. Each setting comes from the first entry that matches the
    /// model and has that setting.
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
    /// Assembles a catalogue. Servers of one model name form one pool.
    pub fn assemble(records: impl IntoIterator<Item = ServerRecord>, problems: Vec<Problem>) -> Self {
        Self::assemble_with(records.into_iter().map(Arc::new), problems, &ModelOverrides::default())
    }

    /// Like [`assemble`](Self::assemble), with settings that take precedence over those of the servers.
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
        let finished = drafts.into_iter().map(|(selector, pools)| {
            let finish = |(name, draft): (ModelName, Draft)| {
                let pool = draft.finish(name.clone(), selector.clone());
                (name, pool)
            };
            (selector.clone(), pools.into_iter().map(finish).collect::<BTreeMap<_, _>>())
        });
        let mut finished: BTreeMap<_, _> = finished.collect();
        pick::resolve(&mut finished, &mut problems);
        let mut pools = BTreeMap::new();
        let mut selections = Vec::new();
        for (selector, found) in finished {
            let found = found.into_iter().map(|(name, pool)| (name, Arc::new(pool))).collect();
            match selector {
                None => pools = found,
                Some(selector) => {
                    let may_have_any_model = any_model.contains(&Some(Arc::clone(&selector)));
                    selections.push(Selection { selector, pools: found, may_have_any_model });
                }
            }
        }
        // The selector with the most conditions is tried first, as Traefik does with rules.
        selections.sort_by_key(|s| std::cmp::Reverse(s.selector.conditions().len()));
        let by_name = pools.iter().map(|(name, pool)| (name.clone(), Arc::clone(pool))).collect();
        problems.sort();
        problems.dedup();
        let (hints, problems) = problems.into_iter().partition(Problem::is_hint);
        let may_have_any_model = any_model.contains(&None);
        let has_unread = servers.values().any(|server| server.is_unread());
        let found =
            Self { servers, pools, by_name, selections, may_have_any_model, has_unread, ..Self::default() };
        let mut catalogue = Self { problems, hints, ..found };
        let routes = |pool: &Arc<Pool>| {
            let of = |group: &RouteGroup| (group.route.clone(), Arc::clone(pool));
            pool.groups.iter().map(of).collect::<Vec<_>>()
        };
        catalogue.by_route = catalogue.pools().flat_map(routes).collect();
        catalogue
    }

    /// Adds the labelled containers, whatever became of them.
    #[must_use]
    pub fn with_containers(self, containers: Vec<Labelled>) -> Self {
        Self { containers, ..self }
    }

    /// Adds the routers that labels of containers define, which Traefik tries beside those of the document.
    #[must_use]
    pub fn with_own_routers(self, own_routers: Vec<OwnRouter>) -> Self {
        Self { own_routers, ..self }
    }

    /// Adds the Traefiks that poll and whose images name their version.
    #[must_use]
    pub fn with_traefiks(self, traefiks: Vec<TraefikSeen>) -> Self {
        Self { traefiks, ..self }
    }

    /// Adds the names of models that were there before Modelgate's start. Any of them may come back while `is_returning`; after
    /// that, while there is a server whose models nobody knows yet.
    #[must_use]
    pub fn with_remembered(self, remembered: Arc<BTreeSet<String>>, is_returning: bool) -> Self {
        Self { remembered, is_returning, ..self }
    }

    /// The number of this catalogue, counted from 1; 0 if it was not published.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The pool of a model, for requests that match no selector.
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

    /// Whether a model of this name was there before Modelgate's start, and is likely to come back.
    pub fn may_return(&self, model: &str) -> bool {
        (self.is_returning || self.has_unread) && self.remembered.contains(model)
    }

    /// Whether any server is known for a name, whoever may choose it.
    pub fn knows(&self, model: &str) -> bool {
        self.by_name.contains_key(model) || self.selections.iter().any(|s| s.pool(model).is_some())
    }

    /// All pools: those without a selector by model name, then those of the selections.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values().chain(self.selections.iter().flat_map(Selection::pools))
    }

    /// The selections, the most specific selector first.
    pub fn selections(&self) -> &[Selection] {
        &self.selections
    }

    /// All servers, by id.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<ServerRecord>> {
        self.servers.values()
    }

    /// The problems, sorted.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Hints: what may be intended but deserves one look; sorted.
    pub fn hints(&self) -> &[Problem] {
        &self.hints
    }

    /// The problems, then the hints, and how much each matters now.
    pub fn weighed(&self) -> impl Iterator<Item = (&Problem, Severity)> {
        let ready = self.servers().filter(|server| server.state == ServerState::Ready);
        let ready: HashSet<&str> = ready.map(|server| server.spec.name.as_str()).collect();
        self.problems.iter().chain(&self.hints).map(move |problem| {
            let is_ready = match &problem.subject {
                ProblemSubject::Source(_) => false,
                ProblemSubject::Container(name) | ProblemSubject::Server(name) => {
                    ready.contains(name.as_str())
                }
            };
            let Problem { finding, .. } = problem;
            (problem, if is_ready { finding.severity_at_ready() } else { finding.severity() })
        })
    }

    /// The containers that have the label `inference.enable`, whatever became of them.
    pub fn containers(&self) -> &[Labelled] {
        &self.containers
    }

    /// The routers that labels of containers define, as far as Docker shows them.
    pub fn own_routers(&self) -> &[OwnRouter] {
        &self.own_routers
    }

    /// The Traefiks that poll, as far as Docker shows their versions.
    pub fn traefiks(&self) -> &[TraefikSeen] {
        &self.traefiks
    }

    /// Whether both are equal apart from the generation.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.servers == other.servers
            && self.pools == other.pools
            && self.selections == other.selections
            && self.problems == other.problems
            && self.hints == other.hints
            && self.containers == other.containers
            && self.own_routers == other.own_routers
            && self.traefiks == other.traefiks
            && self.is_returning == other.is_returning
            && self.remembered == other.remembered
    }
}

#[cfg(test)]
mod tests;
