//! A simulated server inside the test process.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

use super::{FailureMode, Options, RawListing, Received, serve::serve_state, state::State};
use crate::free_port;

/// A running simulated server. Dropping it kills it, connections and all; [`Sim::stop`] lets it finish.
#[derive(Debug)]
pub struct Sim {
    addr: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    // The server has threads of its own: a test that blocks its runtime (a slow command, a long drop) must not make the server
    // look slow to Modelgate's probes.
    runtime: Option<Runtime>,
}

impl Sim {
    /// Starts a server with a name and models on a free loopback port.
    #[must_use]
    pub fn start(name: &str, models: &[&str]) -> Self {
        Self::start_with(Options::named(name, models))
    }

    /// Starts a server on a free loopback port.
    #[must_use]
    pub fn start_with(options: Options) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], free_port())), options)
    }

    /// Starts a server on an address, for example where another was before.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn start_at(addr: SocketAddr, options: Options) -> Self {
        let state = State::new(options);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime for the simulated server");
        let listener = std::net::TcpListener::bind(addr).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {addr}: {error}"));
        let addr = listener.local_addr().expect("the bound address");
        let (stop, stopped) = oneshot::channel();
        let serving_state = Arc::clone(&state);
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener for tokio");
            let stopped = async {
                let _ = stopped.await;
            };
            serve_state(listener, serving_state, stopped).await.expect("the simulated server serves");
        });
        Self { addr, state, stop: Some(stop), serving: Some(serving), runtime: Some(runtime) }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:<port>`, or `https://` with TLS, as a server's URL in Modelgate's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.state.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// The name in its answers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.options.name
    }

    /// The last 200 requests that it received, probes and health checks included.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.state.requests()
    }

    /// The requests that ask for something to be computed: those with POST.
    #[must_use]
    pub fn posts(&self) -> Vec<Received> {
        self.requests().into_iter().filter(|request| request.method == "POST").collect()
    }

    /// Forgets the requests received so far.
    pub fn forget_requests(&self) {
        self.state.forget_requests();
    }

    /// How many requests run now, and how many wait, over all models.
    #[must_use]
    pub fn running_and_waiting(&self) -> (usize, usize) {
        let counts = self.state.counts();
        (
            counts.values().map(|counts| counts.running).sum(),
            counts.values().map(|counts| counts.waiting).sum(),
        )
    }

    /// How many requests have had to wait since the start, because [`Options::max_running`] ran already.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.state.queued()
    }

    /// How many times `/metrics` was answered since the start.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.state.pages()
    }

    /// Answers `/metrics` only so many times more, until this is called again; `None`: always. Who asks meanwhile has to wait.
    pub fn allow_pages(&self, more: Option<usize>) {
        self.state.allow_pages(more);
    }

    /// Answers at once all requests whose answer is being delayed now ([`Self::set_latency`]).
    pub fn answer_now(&self) {
        self.state.answer_now();
    }

    /// How many clients left before their answer was complete.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.state.abandoned()
    }

    /// Makes `/health` answer 200 or 503.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.switches().healthy = healthy;
    }

    /// Replaces the models that it lists and serves.
    pub fn set_models(&self, models: &[&str]) {
        self.state.switches().models = models.iter().map(ToString::to_string).collect();
    }

    /// Makes the listing answer something of the test's choice, or `None` for the true listing again.
    pub fn set_raw_listing(&self, listing: Option<RawListing>) {
        self.state.switches().raw_listing = listing;
    }

    /// What Ollama's `/api/ps` lists from now on: the models, or none.
    pub fn set_loaded(&self, loaded: bool) {
        self.state.switches().loaded = Some(loaded);
    }

    /// Replaces the delay before an answer.
    pub fn set_latency(&self, latency: Duration) {
        self.state.switches().latency = latency;
    }

    /// Replaces the key that it demands, `None` for none.
    pub fn set_required_key(&self, key: Option<&str>) {
        self.state.switches().required_key = key.map(str::to_owned);
    }

    /// Makes inference requests fail; `FailureMode::default()` ends it.
    pub fn set_failure(&self, failure: FailureMode) {
        self.state.switches().failure = failure;
    }

    /// Stops as a server in a container does on SIGTERM: requests in flight are finished, then it is gone.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(serving) = self.serving.take() {
            let _ = serving.await;
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the end, so that the port is free again, is not allowed on a runtime's own thread.
            let _ = thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(2))).join();
        }
    }
}
