//! What a simulated server remembers: its switches, the requests it received, and how many run and wait per model.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep,
};

use super::{
    Options,
    spans::{self, Exporter},
    work::{PROMPT_TOKENS, Work},
};

/// Enough for any test, and bounded for a container that runs for days.
const KEPT_REQUESTS: usize = 200;

/// One request as it reached the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query as they came, percent-encoding included.
    pub path: String,
    /// All headers in order, names in lower case, repeated ones repeated.
    pub headers: Vec<(String, String)>,
    /// The model that the server read from the body.
    pub model: Option<String>,
    /// Bytes of the body.
    pub body_length: usize,
}

impl Received {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A listing answered as it is, for hostile or broken servers.
#[derive(Clone, Debug)]
pub struct RawListing {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl RawListing {
    /// The bytes as a 200 answer that claims to be JSON.
    pub fn json(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, content_type: "application/json".to_owned(), body: body.into() }
    }
}

/// How inference requests fail. The default is not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailureMode {
    /// Every inference request is answered with this status.
    pub status: Option<u16>,
    /// Adds `Retry-After` to that answer.
    pub retry_after: Option<u32>,
    /// A streamed answer breaks off after this many chunks: the connection closes without an end.
    pub break_after: Option<usize>,
}

/// Shared by all requests of one server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: Options,
    started: Instant,
    switches: Mutex<Switches>,
    requests: Mutex<VecDeque<Received>>,
    counts: Mutex<BTreeMap<String, ModelCounts>>,
    slots: Arc<Semaphore>,
    abandoned: AtomicUsize,
    /// How many requests have found no slot, and waited.
    queued: AtomicUsize,
    /// How many pages of metrics were answered, and how many may be.
    pages: AtomicUsize,
    most_pages: watch::Sender<usize>,
    answer_now: Notify,
    spans: Option<mpsc::UnboundedSender<Vec<Span>>>,
    unsent: Mutex<Option<mpsc::UnboundedReceiver<Vec<Span>>>>,
}

/// What tests change while the server runs.
#[derive(Debug)]
pub(super) struct Switches {
    pub(super) healthy: bool,
    pub(super) models: Vec<String>,
    pub(super) raw_listing: Option<RawListing>,
    pub(super) failure: FailureMode,
    pub(super) latency: Duration,
    pub(super) required_key: Option<String>,
    /// The value that a test has set; otherwise it depends on the time since the start.
    pub(super) loaded: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ModelCounts {
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Tokens of prompts, and of answers, since the start.
    pub(super) prompt: usize,
    pub(super) generated: usize,
}

impl State {
    pub(super) fn new(options: Options) -> Arc<Self> {
        let switches = Switches {
            healthy: true,
            models: options.models.clone(),
            raw_listing: None,
            failure: FailureMode::default(),
            latency: options.latency,
            required_key: options.required_key.clone(),
            loaded: None,
        };
        let (spans, unsent) = options.spans.as_ref().map(|_| mpsc::unbounded_channel()).unzip();
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(options.max_running)),
            options,
            started: Instant::now(),
            switches: Mutex::new(switches),
            requests: Mutex::default(),
            counts: Mutex::default(),
            abandoned: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            most_pages: watch::Sender::new(usize::MAX),
            answer_now: Notify::new(),
            spans,
            unsent: Mutex::new(unsent),
        })
    }

    pub(super) fn switches(&self) -> MutexGuard<'_, Switches> {
        lock(&self.switches)
    }

    pub(super) fn is_loading(&self) -> bool {
        self.started.elapsed() < self.options.startup_delay
    }

    /// Whether Ollama's `/api/ps` lists the models.
    pub(super) fn is_loaded(&self) -> bool {
        self.switches().loaded.unwrap_or_else(|| self.started.elapsed() >= self.options.loaded_after)
    }

    /// The delay before an answer.
    pub(super) fn latency(&self) -> Duration {
        self.switches().latency
    }

    pub(super) fn remember(&self, request: Received) {
        let mut requests = lock(&self.requests);
        if requests.len() == KEPT_REQUESTS {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        lock(&self.requests).iter().cloned().collect()
    }

    pub(super) fn forget_requests(&self) {
        lock(&self.requests).clear();
    }

    /// The gauges of each model that is served or was asked for.
    pub(super) fn counts(&self) -> BTreeMap<String, ModelCounts> {
        let mut counts = lock(&self.counts).clone();
        for model in &self.switches().models {
            counts.entry(model.clone()).or_default();
        }
        counts
    }

    /// Where spans go, and the spans, for whoever sends them.
    pub(super) fn take_spans(&self) -> Option<(Exporter, mpsc::UnboundedReceiver<Vec<Span>>)> {
        self.options.spans.clone().zip(lock(&self.unsent).take())
    }

    pub(super) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// The delay before an answer, or less if [`Self::answer_now`] is called meanwhile.
    pub(super) async fn delay(&self) {
        let now = self.answer_now.notified();
        tokio::select! {
            () = sleep(self.latency()) => {}
            () = now => {}
        }
    }

    pub(super) fn answer_now(&self) {
        self.answer_now.notify_waiters();
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Allows so many more pages of metrics, or any number.
    pub(super) fn allow_pages(&self, more: Option<usize>) {
        self.most_pages.send_modify(|most| {
            *most = more.map_or(usize::MAX, |more| self.pages().saturating_add(more));
        });
    }

    /// Waits until one more page of metrics is allowed, and counts it.
    pub(super) async fn turn_page(&self) {
        let take = |most: &usize| {
            let more = |pages: usize| (pages < *most).then_some(pages + 1);
            self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        // Its sender lives as long as the state.
        let _ = self.most_pages.subscribe().wait_for(take).await;
    }

    /// Waits for one of the slots and holds it until the guard is dropped.
    pub(super) async fn run(self: &Arc<Self>, model: &str) -> Running {
        // Whoever finds a slot has not waited, not even for a moment in which the metrics are read.
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => {
                let _waiting = Waiting { state: Arc::clone(self), model: model.to_owned() };
                self.queued.fetch_add(1, Ordering::Relaxed);
                self.count(model, |counts| counts.waiting += 1);
                Arc::clone(&self.slots).acquire_owned().await.ok()
            }
        };
        self.count(model, |counts| counts.running += 1);
        Running {
            state: Arc::clone(self),
            model: model.to_owned(),
            finished: false,
            work: None,
            tokens: 0,
            _slot: slot,
        }
    }

    fn count(&self, model: &str, change: impl FnOnce(&mut ModelCounts)) {
        change(lock(&self.counts).entry(model.to_owned()).or_default());
    }
}

/// Counts a request as waiting; a client that disconnects meanwhile is no longer counted.
struct Waiting {
    state: Arc<State>,
    model: String,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.state.count(&self.model, |counts| counts.waiting -= 1);
    }
}

/// Counts a request as running until its answer is finished, or its client has disconnected.
#[derive(Debug)]
pub(super) struct Running {
    state: Arc<State>,
    model: String,
    finished: bool,
    work: Option<Work>,
    /// Of each of its answers.
    tokens: usize,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Running {
    /// The engine reads the prompts.
    pub(super) fn begin(&mut self, work: Work) {
        self.state.count(&self.model, |counts| counts.prompt += work.prompts * PROMPT_TOKENS);
        self.work = Some(work);
    }

    /// More tokens of each answer have been generated.
    pub(super) fn generated(&mut self, tokens: usize) {
        let Some(work) = &mut self.work else { return };
        let since_start = work.start.elapsed().unwrap_or_default();
        work.first_token.get_or_insert(since_start);
        self.tokens += tokens;
        let all = tokens * work.answers();
        self.state.count(&self.model, |counts| counts.generated += all);
    }

    /// Marks the answer as complete. A guard that is dropped before that belonged to a client that has disconnected.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        if let (Some(work), Some(spans)) = (self.work.take(), &self.state.spans) {
            // If nobody sends them any more, the server has stopped.
            let _ = spans.send(spans::of(&work, self.tokens));
        }
    }

    /// The server broke off: there is no span, and no client that has disconnected.
    pub(super) fn fail(&mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.count(&self.model, |counts| counts.running -= 1);
        if !self.finished {
            self.state.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ignores poisoning: a panic of one test must not affect another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
