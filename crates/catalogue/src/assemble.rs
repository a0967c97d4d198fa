//! Server records in, catalogue out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{ModelCard, ModelName, Problem, RouteId, ServerId, ServerRecord, ServerState};

/// An immutable snapshot of all that is known.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub(crate) generation: u64,
    servers: BTreeMap<ServerId, Arc<ServerRecord>>,
    pools: BTreeMap<ModelName, Arc<Pool>>,
    /// The same pools for look-ups by name; a hash is quicker than a walk down the tree.
    by_name: HashMap<ModelName, Arc<Pool>>,
    problems: Vec<Problem>,
}

/// The servers that serve one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// What clients call it.
    pub model: ModelName,
    /// What Traefik calls it.
    pub route: RouteId,
    /// What the servers say about it: from each field, the first server (by id) that fills it in;
    /// the context length is the smallest of all, since any of them may get the request.
    pub card: ModelCard,
    /// The servers that get its requests.
    pub ready: Vec<Arc<ServerRecord>>,
    /// Those that serve it but get no requests now.
    pub waiting: Vec<Arc<ServerRecord>>,
}

/// Whether a pool can take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least one server is ready.
    Ready,
    /// None is ready, at least one is starting.
    Starting,
    /// None is ready or starting; they are being withdrawn or have stopped.
    Draining,
}

impl Pool {
    /// Whether it can take requests.
    pub fn readiness(&self) -> Readiness {
        if !self.ready.is_empty() {
            Readiness::Ready
        } else if self.waiting.iter().any(|s| matches!(s.state, ServerState::Starting(_))) {
            Readiness::Starting
        } else {
            Readiness::Draining
        }
    }
}

impl Catalogue {
    /// Puts a catalogue together. Servers that serve one name form one pool.
    pub fn assemble(records: impl IntoIterator<Item = ServerRecord>, mut problems: Vec<Problem>) -> Self {
        let servers: BTreeMap<_, _> = records.into_iter().map(|r| (r.spec.id.clone(), Arc::new(r))).collect();
        let mut drafts: BTreeMap<ModelName, Pool> = BTreeMap::new();
        for server in servers.values() {
            for card in &server.models {
                let pool = drafts.entry(card.name.clone()).or_insert_with(|| Pool {
                    model: card.name.clone(),
                    route: RouteId::of(&card.name),
                    card: ModelCard::named(card.name.clone()),
                    ready: Vec::new(),
                    waiting: Vec::new(),
                });
                merge(&mut pool.card, card);
                match server.state {
                    ServerState::Ready => pool.ready.push(Arc::clone(server)),
                    _ => pool.waiting.push(Arc::clone(server)),
                }
            }
        }
        let pools: BTreeMap<_, _> = drafts.into_iter().map(|(name, pool)| (name, Arc::new(pool))).collect();
        let by_name = pools.iter().map(|(name, pool)| (name.clone(), Arc::clone(pool))).collect();
        problems.sort();
        problems.dedup();
        Self { generation: 0, servers, pools, by_name, problems }
    }

    /// Counts published catalogues from 1; 0 for one that was not published.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The pool of a model.
    pub fn pool(&self, model: &str) -> Option<&Arc<Pool>> {
        self.by_name.get(model)
    }

    /// All pools, by model name.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// All servers, by id.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<ServerRecord>> {
        self.servers.values()
    }

    /// What is wrong, sorted.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether both tell readers the same; the generation does not count.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.servers == other.servers && self.problems == other.problems
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BasePath, HealthMode, ServerSpec, ServerUrl, Source};

    fn record(name: &str, state: ServerState, context: u64) -> ServerRecord {
        let model = ModelName::new("llama").expect("a name");
        ServerRecord {
            spec: ServerSpec {
                id: ServerId::file(name),
                name: name.into(),
                source: Source::File,
                url: ServerUrl::http(name, 8000),
                base_path: BasePath::default(),
                models: Vec::new(),
                health: HealthMode::Probe,
                incarnation: String::new(),
            },
            state,
            models: vec![ModelCard { context_length: Some(context), ..ModelCard::named(model) }],
        }
    }

    #[test]
    fn servers_of_one_model_form_one_pool() {
        let catalogue = Catalogue::assemble(
            [
                record("b", ServerState::Ready, 8192),
                record("a", ServerState::Starting("loading".into()), 4096),
            ],
            Vec::new(),
        );
        let pool = catalogue.pool("llama").expect("a pool");
        assert_eq!(pool.readiness(), Readiness::Ready);
        assert_eq!(pool.ready.iter().map(|s| s.spec.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(pool.waiting.len(), 1);
        assert_eq!(pool.card.context_length, Some(4096), "any server may get the request");
        assert!(catalogue.pool("other").is_none());
    }

    #[test]
    fn readiness_prefers_the_hopeful_word() {
        let readiness = |states: Vec<ServerState>| {
            let records = states.into_iter().enumerate().map(|(i, s)| record(&format!("s{i}"), s, 1));
            Catalogue::assemble(records, Vec::new()).pool("llama").expect("a pool").readiness()
        };
        let starting = || ServerState::Starting(String::new());
        let stopped = || ServerState::Stopped(String::new());
        assert_eq!(readiness(vec![stopped(), starting()]), Readiness::Starting);
        assert_eq!(readiness(vec![stopped(), ServerState::Draining(String::new())]), Readiness::Draining);
    }

    #[test]
    fn an_unchanged_catalogue_is_not_published_again() {
        let (mut publisher, reader) = crate::channel();
        assert!(reader.load().is_none());
        assert!(publisher.publish(Catalogue::assemble([record("a", ServerState::Ready, 1)], Vec::new())));
        assert!(!publisher.publish(Catalogue::assemble([record("a", ServerState::Ready, 1)], Vec::new())));
        assert!(publisher.publish(Catalogue::assemble([], Vec::new())));
        assert_eq!(reader.load().as_ref().expect("published").generation(), 2);
    }
}
