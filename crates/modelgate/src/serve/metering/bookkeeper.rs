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
use metering::{BookRow, Books, Calibration, Counters, Ending, RequestSettlement, Terms};
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
            match (settlement.server.take(), catalogue.as_deref()) {
                (Some(server), _) => books.settled(&server, settlement),
                (None, Some(catalogue)) if settlement.ending != Ending::Refused => {
                    let model = [&*settlement.model];
                    books.settled_somewhere(|url| may_reach(catalogue, |open| model.contains(&open), url));
                }
                (None, _) => {}
            }
        }
    }

    /// Enters what a server has counted, and corrects what a balance says. All openings until now must have been entered.
    pub(super) async fn read(&mut self, reading: &MetricsReading, calibration: &mut Calibration) {
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
            // Each of several Modelgates would correct its own requests up to what all have used.
            exclusive: server.spec.settings.metering_exclusive && self.is_alone(),
            leaves_out_cached: figures.leaves_out_cached,
            repeats_prompts: figures.repeats_prompts,
        };
        let is_idle = figures.is_idle() && !self.open.may_reach(catalogue, &reading.url);
        let url = Arc::from(reading.url.as_str());
        let balance = lock(&self.books).read(&url, counters, terms, is_idle, calibration, SystemTime::now());
        if let Some(mut balance) = balance {
            self.sums.add(&balance.row);
            debug!(server = %url, row = ?balance.row, corrected = balance.corrections.len(), "balanced");
            self.shared.correct_by_counters(&mut balance.corrections).await;
        }
    }

    fn is_alone(&self) -> bool {
        self.shared.shared_counting().is_none_or(|counting| counting.limits().replicas() < 2)
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

/// Whether a request to a model for which `is_open` is true may be at this server. Where the model is not known, it may be at any.
fn may_reach(catalogue: &Catalogue, is_open: impl Fn(&str) -> bool, url: &str) -> bool {
    let is_it = |server: &Arc<ServerRecord>| server.spec.url.as_str() == url;
    let leads_there = |pool: &Pool| {
        let canary = pool.canary.iter().flat_map(|branch| &branch.ready);
        pool.ready.iter().chain(&pool.waiting).chain(canary).any(is_it)
    };
    is_open("") || catalogue.pools().any(|pool| is_open(pool.model.as_str()) && leads_there(pool))
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

    fn may_reach(&self, catalogue: &Catalogue, url: &ServerUrl) -> bool {
        may_reach(catalogue, |model| self.0.contains_key(model), url.as_str())
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
    }
}
