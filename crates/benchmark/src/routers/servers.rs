//! Simulated servers that speak as vLLM does, and take as long, in real time, as a machine of `choice-simulator`.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use choice_simulator::{Load, Machine};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::contenders::MODEL;

/// Some servers, until it is dropped.
pub(super) struct MachinesInTime {
    pub(super) urls: Vec<String>,
    all: Vec<Arc<MachineInTime>>,
    _tasks: JoinSet<()>,
}

struct MachineInTime {
    load: Load,
    cache_tokens: usize,
    /// Seconds of the machine in one.
    speed: f64,
    state: Mutex<Now>,
    asked: Notify,
}

struct Now {
    machine: Machine,
    begun: Instant,
    /// By the place in the load.
    open: HashMap<usize, mpsc::UnboundedSender<Bytes>>,
}

impl MachinesInTime {
    pub(super) async fn start(load: &Load, count: usize, cache_tokens: usize, speed: f64) -> Self {
        let (mut urls, mut all, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            urls.push(format!("http://{}", listener.local_addr().expect("an address")));
            let machine = Machine::new(cache_tokens, load.block_tokens);
            let now = Now { machine, begun: Instant::now(), open: HashMap::new() };
            let state = Mutex::new(now);
            let one = Arc::new(MachineInTime {
                load: load.clone(),
                cache_tokens,
                speed,
                state,
                asked: Notify::new(),
            });
            let routes = Router::new()
                .route("/health", get(async || ""))
                .route("/v1/models", get(models))
                .route("/metrics", get(metrics))
                .route("/v1/chat/completions", post(chat))
                .with_state(Arc::clone(&one));
            let driven = Arc::clone(&one);
            tasks.spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
            tasks.spawn(async move { driven.run().await });
            all.push(one);
        }
        Self { urls, all, _tasks: tasks }
    }

    /// The time begins now.
    pub(super) fn forget_time(&self) {
        self.all.iter().for_each(|one| one.now().begun = Instant::now());
    }

    /// The share of the prompts' tokens that were in servers' caches, and the share of the time in which they did all they can.
    pub(super) fn sums(&self) -> (f64, f64) {
        let (mut asked, mut cached, mut full, mut elapsed) = (0.0, 0.0, 0.0, 0.0);
        for one in &self.all {
            let now = one.now();
            let (of_one, found) = now.machine.hits();
            asked += of_one;
            cached += found;
            full += now.machine.full();
            elapsed += one.seconds(&now);
        }
        (cached / asked, full / elapsed)
    }
}

impl MachineInTime {
    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.state.lock().expect("nobody panics")
    }

    fn seconds(&self, now: &Now) -> f64 {
        now.begun.elapsed().as_secs_f64() * self.speed
    }

    /// Ends each step when it is over.
    async fn run(&self) {
        loop {
            let ends = {
                let mut now = self.now();
                let seconds = self.seconds(&now);
                while let Some(at) = now.machine.ends().filter(|at| *at <= seconds) {
                    self.end_step(&mut now, at);
                }
                now.machine.ends().map(|at| now.begun + Duration::from_secs_f64(at / self.speed))
            };
            match ends {
                Some(ends) => tokio::select! {
                    () = sleep_until(ends) => {}
                    () = self.asked.notified() => {}
                },
                None => self.asked.notified().await,
            }
        }
    }

    fn end_step(&self, now: &mut Now, at: f64) {
        let happened = now.machine.end(&self.load.requests, at);
        for place in happened.first {
            if let Some(open) = now.open.get(&place) {
                // Whoever does not listen any more is answered all the same, as with servers that have begun.
                let _ = open.send(piece(&json!({ "content": "a" }), None));
            }
        }
        for place in happened.ended {
            if let Some(open) = now.open.remove(&place) {
                let _ = open.send(piece(&json!({}), Some("stop")));
                let _ = open.send(Bytes::from_static(b"data: [DONE]\n\n"));
            }
        }
        now.machine.begin(&self.load.requests, at);
    }

    fn ask(&self, place: usize) -> mpsc::UnboundedReceiver<Bytes> {
        let (open, pieces) = mpsc::unbounded_channel();
        let mut now = self.now();
        let seconds = self.seconds(&now);
        while let Some(at) = now.machine.ends().filter(|at| *at <= seconds) {
            self.end_step(&mut now, at);
        }
        now.open.insert(place, open);
        now.machine.ask(place, &self.load.requests[place], seconds);
        if now.machine.ends().is_none() {
            now.machine.begin(&self.load.requests, seconds);
        }
        drop(now);
        self.asked.notify_one();
        pieces
    }
}

fn piece(delta: &Value, finish_reason: Option<&str>) -> Bytes {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
    let chunk = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice] });
    Bytes::from(format!("data: {chunk}\n\n"))
}

async fn models(State(_): State<Arc<MachineInTime>>) -> Json<Value> {
    Json(
        json!({ "object": "list", "data": [{ "id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 262_144 }] }),
    )
}

/// The place of a request in the load is the last word of its prompt; one without is answered at once.
async fn chat(State(one): State<Arc<MachineInTime>>, Json(body): Json<Value>) -> Response {
    let prompt = body["messages"][0]["content"].as_str().unwrap_or_default();
    let place = prompt.rsplit_once('#').and_then(|(_, place)| place.parse().ok());
    let place = place.filter(|place| *place < one.load.requests.len());
    let Some(place) = place else {
        let message = json!({ "role": "assistant", "content": "a" });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        return Json(json!({ "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice] }))
            .into_response();
    };
    let pieces = stream::unfold(one.ask(place), async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces.map(Ok::<_, Infallible>)))
        .into_response()
}

/// What Modelgate reads of vLLM's page (<https://docs.vllm.ai/en/stable/usage/metrics.html>), in real seconds.
async fn metrics(State(one): State<Arc<MachineInTime>>) -> String {
    let counters = one.now().machine.counters(one.cache_tokens as f64);
    let number = |value: Option<f64>| value.unwrap_or(0.0);
    let cached = number(counters.cached_tokens);
    let rows = [
        ("num_requests_running", f64::from(counters.running.unwrap_or(0))),
        ("num_requests_waiting", f64::from(counters.waiting.unwrap_or(0))),
        ("prompt_tokens_total", number(counters.read_tokens) + cached),
        ("prefix_cache_queries_total", number(counters.asked_tokens)),
        ("prefix_cache_hits_total", cached),
        ("request_prefill_time_seconds_sum", number(counters.read_seconds) / one.speed),
        ("inter_token_latency_seconds_sum", number(counters.answer_seconds) / one.speed),
        ("inter_token_latency_seconds_count", number(counters.answer_tokens)),
    ];
    let mut page: String = rows
        .iter()
        .map(|(name, value)| format!("vllm:{name}{{engine=\"0\",model_name={MODEL:?}}} {value}\n"))
        .collect();
    let blocks = one.cache_tokens / 16;
    page.push_str(&format!(
        "vllm:cache_config_info{{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"{blocks}\"}} 1.0\n"
    ));
    page
}
