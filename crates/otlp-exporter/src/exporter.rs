//! The tasks that send what is recorded. Without settings there is none of them.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::Client;
use telemetry::{Batch, Sampler, SettledBatch, Telemetry};
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        watch,
    },
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    Endpoint, Settings,
    destination::{ExportError, client},
    gen_ai::GenAi,
    log::LogLayer,
    message::{export, rejected},
    metric::Metric,
    queue::{ExportCounts, Queue, Signal},
    span,
};

/// The pauses between the attempts to send one batch; then it is dropped.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
const PROTOBUF: &str = "application/x-protobuf";

/// Says which program serves a model, if one does.
pub type ProviderOf = Box<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// What is exported comes from here.
pub struct ExporterSources {
    /// The decisions, and what became of admitted requests.
    pub telemetry: Arc<Telemetry>,
    /// The program that serves a model.
    pub provider: ProviderOf,
    /// All metrics at this moment.
    pub metrics: Box<dyn Fn() -> Vec<Metric> + Send + Sync>,
}

impl fmt::Debug for ExporterSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterSources")
    }
}

/// What programs are called that nobody knows.
const UNKNOWN_PROVIDER: &str = "other";

/// Sends spans, metrics and the log.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    start: SystemTime,
    spans: Option<Arc<Queue>>,
    lines: Option<Arc<Queue>>,
    metrics: Arc<ExportCounts>,
    gather: Option<JoinHandle<()>>,
    senders: Vec<JoinHandle<()>>,
    /// Stops gathering, and then sending.
    stops: [watch::Sender<bool>; 2],
}

impl Exporter {
    /// An exporter that waits for [`start`](Self::start); lines of the log are kept until then.
    pub fn new(settings: Settings) -> Self {
        let queue = |endpoint: &Option<Endpoint>| {
            endpoint.as_ref().map(|endpoint| Arc::new(Queue::new(endpoint.capacity, endpoint.batch)))
        };
        let (spans, lines) = (queue(&settings.traces), queue(&settings.logs));
        let stops = [(); 2].map(|()| watch::Sender::new(false));
        Self {
            settings,
            start: SystemTime::now(),
            spans,
            lines,
            metrics: Arc::default(),
            gather: None,
            senders: Vec::new(),
            stops,
        }
    }

    /// What puts lines of the log into the queue, if they are exported.
    pub fn log_layer(&self) -> Option<LogLayer> {
        self.lines.as_ref().map(|queue| LogLayer(Arc::clone(queue)))
    }

    /// Which requests have spans, if spans are exported.
    pub fn sampler(&self) -> Option<Sampler> {
        self.settings.traces.as_ref().map(|_| self.settings.sampler)
    }

    /// What became of each signal that is exported.
    pub fn counts(&self) -> Vec<(Signal, Arc<ExportCounts>)> {
        let of_queue = |queue: &Option<Arc<Queue>>| queue.as_ref().map(|queue| Arc::clone(&queue.counts));
        let metrics = self.settings.metrics.as_ref().map(|_| Arc::clone(&self.metrics));
        let all = [
            (Signal::Traces, of_queue(&self.spans)),
            (Signal::Metrics, metrics),
            (Signal::Logs, of_queue(&self.lines)),
        ];
        all.into_iter().filter_map(|(signal, counts)| Some((signal, counts?))).collect()
    }

    /// Starts to send.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn start(&mut self, sources: ExporterSources) -> Result<(), ExportError> {
        let client = client(&self.settings.authorities)?;
        let sources = Arc::new(sources);
        let gen_ai = Arc::<Mutex<GenAi>>::default();
        let wants_metrics = self.settings.metrics.is_some();
        if self.spans.is_some() || wants_metrics {
            let gather = Gather {
                sources: Arc::clone(&sources),
                spans: self.spans.clone(),
                gen_ai: wants_metrics.then(|| Arc::clone(&gen_ai)),
            };
            // From now on, and not from when the task first runs.
            let (decisions, settled) = (sources.telemetry.subscribe(), sources.telemetry.subscribe_settled());
            self.gather = Some(tokio::spawn(gather.run(decisions, settled, self.stops[0].subscribe())));
        }
        let all = [
            (Signal::Traces, &self.settings.traces, self.spans.clone()),
            (Signal::Logs, &self.settings.logs, self.lines.clone()),
        ];
        for (signal, endpoint, queue) in all {
            if let (Some(endpoint), Some(queue)) = (endpoint, queue) {
                let counts = Arc::clone(&queue.counts);
                let sender = self.sender(signal, endpoint, &client, counts);
                self.senders.push(tokio::spawn(sender.send_items(queue)));
            }
        }
        if let Some(endpoint) = &self.settings.metrics {
            let sender = self.sender(Signal::Metrics, endpoint, &client, Arc::clone(&self.metrics));
            self.senders.push(tokio::spawn(sender.send_metrics(sources, gen_ai, self.start)));
        }
        for (signal, endpoint) in
            Signal::ALL.into_iter().zip([&self.settings.traces, &self.settings.metrics, &self.settings.logs])
        {
            if let Some(endpoint) = endpoint {
                info!(
                    signal = signal.name(),
                    collector = endpoint.destination.url.origin(),
                    "exporting to an OpenTelemetry collector"
                );
            }
        }
        Ok(())
    }

    fn sender(
        &self,
        signal: Signal,
        endpoint: &Endpoint,
        client: &Client,
        counts: Arc<ExportCounts>,
    ) -> Sender {
        Sender {
            signal,
            endpoint: endpoint.clone(),
            client: client.clone(),
            resource: self.settings.resource.clone(),
            counts,
            stop: self.stops[1].subscribe(),
            is_down: false,
        }
    }

    /// Sends what is there, for this long at most.
    pub async fn close(&mut self, longest: Duration) {
        let finish = async {
            let [gathering, sending] = &self.stops;
            gathering.send_replace(true);
            if let Some(gather) = self.gather.take() {
                let _ = gather.await;
            }
            sending.send_replace(true);
            for sender in self.senders.drain(..) {
                let _ = sender.await;
            }
        };
        let _ = timeout(longest, finish).await;
    }
}

/// Makes spans and sums of what telemetry has recorded. It never waits for a collector, so it is never late.
struct Gather {
    sources: Arc<ExporterSources>,
    spans: Option<Arc<Queue>>,
    gen_ai: Option<Arc<Mutex<GenAi>>>,
}

impl Gather {
    async fn run(
        self,
        mut decisions: broadcast::Receiver<Batch>,
        mut settled: broadcast::Receiver<SettledBatch>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue() {
            flow = tokio::select! {
                batch = decisions.recv() => self.decided(batch),
                batch = settled.recv() => self.settled(batch),
                _ = stop.wait_for(|stop| *stop) => ControlFlow::Break(()),
            };
        }
        self.sources.telemetry.collect(SystemTime::now());
        while let Some(batch) = left(decisions.try_recv()) {
            let _ = self.decided(batch);
        }
        while let Some(batch) = left(settled.try_recv()) {
            let _ = self.settled(batch);
        }
    }

    fn decided(&self, batch: Result<Batch, RecvError>) -> ControlFlow<()> {
        let batch = self.received(batch)?;
        let Some(queue) = &self.spans else { return ControlFlow::Continue(()) };
        // One look-up for each model of a batch.
        let mut providers: BTreeMap<&str, Option<&'static str>> = BTreeMap::new();
        for record in batch.iter().flat_map(|batch| batch.iter()) {
            if let Some(span) = &record.span {
                let provider = record.model().and_then(|model| {
                    *providers.entry(model).or_insert_with(|| (self.sources.provider)(model))
                });
                queue.push(span::of_decision(record, span, provider));
            }
        }
        ControlFlow::Continue(())
    }

    fn settled(&self, batch: Result<SettledBatch, RecvError>) -> ControlFlow<()> {
        let batch = self.received(batch)?;
        for settled in batch.iter().flat_map(|batch| batch.iter()) {
            let provider = (self.sources.provider)(&settled.model).unwrap_or(UNKNOWN_PROVIDER);
            if let (Some(queue), Some(span)) = (&self.spans, &settled.span) {
                queue.push(span::of_operation(settled, span, provider));
            }
            if let Some(gen_ai) = &self.gen_ai {
                lock(gen_ai).add(settled, provider);
            }
        }
        ControlFlow::Continue(())
    }

    /// What was missed are at least as many spans.
    fn received<T>(&self, batch: Result<T, RecvError>) -> ControlFlow<(), Option<T>> {
        match batch {
            Ok(batch) => ControlFlow::Continue(Some(batch)),
            Err(RecvError::Lagged(missed)) => {
                self.spans.iter().for_each(|queue| queue.counts.add_dropped(missed));
                ControlFlow::Continue(None)
            }
            Err(RecvError::Closed) => ControlFlow::Break(()),
        }
    }
}

/// What is left of a subscription.
fn left<T>(batch: Result<T, TryRecvError>) -> Option<Result<T, RecvError>> {
    match batch {
        Ok(batch) => Some(Ok(batch)),
        Err(TryRecvError::Lagged(missed)) => Some(Err(RecvError::Lagged(missed))),
        Err(TryRecvError::Empty | TryRecvError::Closed) => None,
    }
}

/// Nothing that is done while it is held can panic halfway.
fn lock(gen_ai: &Mutex<GenAi>) -> MutexGuard<'_, GenAi> {
    gen_ai.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one signal.
struct Sender {
    signal: Signal,
    endpoint: Endpoint,
    client: Client,
    resource: Vec<(String, String)>,
    counts: Arc<ExportCounts>,
    stop: watch::Receiver<bool>,
    is_down: bool,
}

impl Sender {
    async fn send_items(mut self, queue: Arc<Queue>) {
        loop {
            let is_last = tokio::select! {
                () = sleep(self.endpoint.delay) => false,
                () = queue.batch_is_there() => false,
                _ = self.stop.wait_for(|stop| *stop) => true,
            };
            loop {
                let items = queue.take();
                if items.is_empty() {
                    break;
                }
                let body = export(&self.resource, items.iter().map(Vec::as_slice));
                self.deliver(body.into(), items.len() as u64, &PAUSES).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Sums include what an export that failed would have told, so nothing is sent twice.
    async fn send_metrics(
        mut self,
        sources: Arc<ExporterSources>,
        gen_ai: Arc<Mutex<GenAi>>,
        start: SystemTime,
    ) {
        let mut tick = interval(self.endpoint.delay);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            let is_last = tokio::select! {
                _ = tick.tick() => false,
                _ = self.stop.wait_for(|stop| *stop) => true,
            };
            let now = SystemTime::now();
            let mut metrics = (sources.metrics)();
            metrics.extend(lock(&gen_ai).metrics());
            let items: Vec<Vec<u8>> = metrics.iter().map(|metric| metric.encode(start, now)).collect();
            let body = export(&self.resource, items.iter().map(Vec::as_slice));
            self.deliver(body.into(), items.len() as u64, &[]).await;
            if is_last {
                return;
            }
        }
    }

    /// Sends an export, and again after each pause unless Modelgate is about to stop.
    async fn deliver(&mut self, body: Bytes, items: u64, pauses: &[Duration]) {
        let mut pauses = pauses.iter();
        loop {
            match self.endpoint.destination.send(&self.client, PROTOBUF, body.clone()).await {
                Ok(answer) => {
                    let rejected = rejected(&answer).min(items);
                    self.counts.add_sent(items - rejected);
                    self.counts.add_dropped(rejected);
                    if std::mem::take(&mut self.is_down) {
                        info!(signal = self.signal.name(), "the OpenTelemetry collector takes exports again");
                    }
                    return;
                }
                Err(error) => {
                    self.failed(&error);
                    let pause = pauses.next().filter(|_| !error.is_final() && !*self.stop.borrow());
                    let Some(pause) = pause else {
                        self.counts.add_dropped(items);
                        return;
                    };
                    tokio::select! {
                        () = sleep((*pause).max(error.retry_after())) => {}
                        // One more attempt is made.
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                }
            }
        }
    }

    fn failed(&mut self, error: &ExportError) {
        self.counts.add_failure();
        if !std::mem::replace(&mut self.is_down, true) {
            let collector = self.endpoint.destination.url.origin();
            warn!(signal = self.signal.name(), collector, %error, "the OpenTelemetry collector does not take exports");
        }
    }
}

#[cfg(test)]
mod tests;
