//! Keeps the books: which server a settled request belongs to, when a server is idle, and what comes of a balance.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use catalogue::{Catalogue, Pool, ServerRecord, ServerUrl};
use discovery::metrics::MetricsReading;
use metering::{BookRow, Books, Calibration, Counters, RequestSettlement, Terms};
use tracing::debug;
use web::{Family, Metered, Shared};

/// The books, and what is needed to keep them.
pub(super) struct Bookkeeper {
    books: Arc<Mutex<Books<Metered>>>,
    open: OpenRequests,
    sums: Arc<Sums>,
    shared: Arc<Shared>,
}

/// How many requests of each model are open.
#[derive(Debug, Default)]
struct OpenRequests(HashMap<Arc<str>, u64>);

/// What has come of all balances.
#[derive(Debug, Default)]
pub(super) struct Sums {
    prompt: Side,
    completion: Side,
}

/// Tokens of prompts, or of answers.
#[derive(Debug, Default)]
struct Side {
    counted: AtomicU64,
    not_ours: AtomicU64,
    missing: AtomicU64,
}

impl Bookkeeper {
    /// From now on pages and the API show the books.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let books = Arc::new(Mutex::new(Books::new()));
        let shown = Arc::clone(&books);
        shared
            .books()
            .are_kept(move |server| lock(&shown).rows(server).map(|(hour, row)| (hour, *row)).collect());
        Self { books, open: OpenRequests::default(), sums: Arc::default(), shared: Arc::clone(shared) }
    }

    pub(super) fn sums(&self) -> Arc<Sums> {
        Arc::clone(&self.sums)
    }

    /// A request of this model is open.
    pub(super) fn opened(&mut self, model: &Arc<str>) {
        *self.open.0.entry(Arc::clone(model)).or_default() += 1;
    }

    /// Enters requests, which are open no more.
    pub(super) fn settled(&mut self, settlements: Vec<RequestSettlement<Metered>>) {
        if settlements.is_empty() {
            return;
        }
        let catalogue = self.shared.catalogue().load();
        let mut books = lock(&self.books);
        for mut settlement in settlements {
            self.open.close(&settlement.model);
            let told = settlement.server.take();
            let server = match &told {
                Some(server) => Some(&**server),
                None => catalogue.as_deref().and_then(|known| only_server(known, &settlement.model)),
            };
            if let Some(server) = server {
                books.settled(server, settlement);
            }
        }
    }

    /// Enters what a server has counted, and corrects what a balance says. All openings until now must have been entered.
    pub(super) fn read(&mut self, reading: &MetricsReading, calibration: &mut Calibration) {
        let catalogue = self.shared.catalogue().load();
        let Some(catalogue) = catalogue.as_deref() else { return };
        let Some(server) = catalogue.servers().find(|server| server.spec.url == reading.url) else {
            return;
        };
        let figures = &reading.figures;
        let counters = Counters {
            prompt: figures.prompt_tokens,
            cached: figures.cached_tokens,
            completion: figures.completion_tokens,
        };
        let terms = Terms {
            exclusive: server.spec.settings.metering_exclusive,
            leaves_out_cached: figures.leaves_out_cached,
            repeats_prompts: figures.repeats_prompts,
        };
        let is_idle = figures.is_idle() && !self.open.may_reach(catalogue, &reading.url);
        let url = Arc::from(reading.url.as_str());
        let balance = lock(&self.books).read(&url, counters, terms, is_idle, calibration, SystemTime::now());
        if let Some(balance) = balance {
            self.sums.add(&balance.row);
            debug!(server = %url, row = ?balance.row, corrected = balance.corrections.len(), "balanced");
            self.shared.correct_by_counters(&balance.corrections);
        }
    }

    /// Forgets what servers that are gone have counted.
    pub(super) fn sweep(&self) {
        if let Some(catalogue) = self.shared.catalogue().load().as_deref() {
            lock(&self.books).retain(|url| catalogue.servers().any(|server| server.spec.url.as_str() == url));
        }
    }
}

/// Nothing that is done while it is held can panic halfway.
fn lock(books: &Mutex<Books<Metered>>) -> MutexGuard<'_, Books<Metered>> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server of a request of which Traefik has told nothing, if the model has only one.
fn only_server<'c>(catalogue: &'c Catalogue, model: &str) -> Option<&'c str> {
    let pool = catalogue.pool(model).filter(|pool| pool.canary.is_none())?;
    let mut servers = pool.ready.iter().chain(&pool.waiting);
    let first = servers.next()?;
    servers.next().is_none().then(|| first.spec.url.as_str())
}

impl OpenRequests {
    fn close(&mut self, model: &Arc<str>) {
        if let Some(open) = self.0.get_mut(model) {
            *open -= 1;
            if *open == 0 {
                self.0.remove(model);
            }
        }
    }

    /// Whether some open request may be at this server. Where the model is not known, it may be at any.
    fn may_reach(&self, catalogue: &Catalogue, url: &ServerUrl) -> bool {
        let is_open = |model: &str| self.0.contains_key(model);
        let is_it = |server: &Arc<ServerRecord>| server.spec.url == *url;
        let leads_there = |pool: &Pool| {
            let canary = pool.canary.iter().flat_map(|branch| &branch.ready);
            pool.ready.iter().chain(&pool.waiting).chain(canary).any(is_it)
        };
        is_open("") || catalogue.pools().any(|pool| is_open(pool.model.as_str()) && leads_there(pool))
    }
}

impl Sums {
    fn add(&self, row: &BookRow) {
        self.prompt.add(row.counted.prompt, row.settled.prompt);
        self.completion.add(row.counted.completion, row.settled.completion);
    }

    pub(super) fn families(&self) -> Vec<Family> {
        let mut counted = Family::counter(
            "modelgate_metering_counted_tokens",
            "Tokens that servers have counted themselves.",
        );
        let mut difference = Family::counter(
            "modelgate_metering_difference_tokens",
            "Tokens that servers have counted and nobody has settled (not_ours), or the other way round (missing).",
        );
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (of, side) in [("prompt", &self.prompt), ("completion", &self.completion)] {
            counted = counted.with(&[("type", of)], value(&side.counted));
            difference = difference
                .with(&[("type", of), ("difference", "not_ours")], value(&side.not_ours))
                .with(&[("type", of), ("difference", "missing")], value(&side.missing));
        }
        vec![counted, difference]
    }
}

impl Side {
    fn add(&self, counted: u64, settled: u64) {
        self.counted.fetch_add(counted, Ordering::Relaxed);
        self.not_ours.fetch_add(counted.saturating_sub(settled), Ordering::Relaxed);
        self.missing.fetch_add(settled.saturating_sub(counted), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, url: &str, model: &str) -> ServerRecord {
        let url = ServerUrl::parse(url).expect("a URL");
        ServerRecord {
            spec: catalogue::ServerSpec::configured(name, url),
            state: catalogue::ServerState::Ready,
            listed_as: catalogue::Kind::Vllm,
            has_others: false,
            models: vec![catalogue::ModelCard::named(catalogue::ModelName::new(model).expect("a name"))],
        }
    }

    #[test]
    fn an_open_request_is_at_any_server_that_may_have_got_it() {
        let (first, other) = ("http://10.0.0.1:8000", "http://10.0.0.2:8000");
        let servers = [record("a", first, "llama"), record("b", other, "qwen"), record("c", other, "phi")];
        let catalogue = Catalogue::assemble(servers, Vec::new());
        let mut open = OpenRequests::default();
        let reached = |open: &OpenRequests| {
            [first, other].map(|url| open.may_reach(&catalogue, &ServerUrl::parse(url).expect("a URL")))
        };
        assert_eq!(reached(&open), [false, false]);
        for (model, expected) in
            [("llama", [true, false]), ("phi", [false, true]), ("gone", [false, false]), ("", [true, true])]
        {
            *open.0.entry(model.into()).or_default() += 1;
            assert_eq!(reached(&open), expected, "{model}");
            open.close(&model.into());
            assert_eq!(reached(&open), [false, false], "{model}");
        }
        assert_eq!(only_server(&catalogue, "llama"), Some(first));
        assert_eq!(only_server(&catalogue, "gone"), None);
    }
}
