//! A small load generator: some connections, each with one request at a time. It counts the answers, by status and by server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// When the load ends. Requests in flight at that moment are finished and counted.
#[derive(Clone, Debug)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many requests over all connections.
    Sent(usize),
    /// When this becomes true.
    Told(watch::Receiver<bool>),
}

/// How the answer to a chat request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatAnswer {
    /// Token by token, as server-sent events.
    Streamed,
    /// As one JSON document.
    Whole,
}

/// The requests to send, and the load.
#[derive(Clone, Debug)]
pub struct Load {
    url: String,
    body: String,
    headers: HeaderMap,
    connections: usize,
    until: Until,
    /// Between the beginnings of two requests of a connection; `None`: as fast as they are answered.
    pace: Option<Duration>,
    client: Client,
}

/// A request whose answer was missing or incomplete.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The connection failed or broke off.
    #[error("{0:?}")]
    BrokeOff(Arc<reqwest::Error>),
    /// The stream has no last event.
    #[error("the stream has no last event")]
    Unfinished,
}

impl From<reqwest::Error> for Lost {
    fn from(error: reqwest::Error) -> Self {
        Self::BrokeOff(Arc::new(error))
    }
}

/// The results.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each status came.
    pub statuses: BTreeMap<u16, usize>,
    /// From sending a request to the end of its answer; failed requests are left out.
    pub latencies: Vec<Duration>,
    /// How often each simulated server answered (`X-Sim-Server`).
    pub servers: BTreeMap<String, usize>,
    /// Connections that were refused or broke, incomplete answers, streams without their last event.
    pub errors: Vec<Lost>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Load {
    /// POSTs a JSON body to a URL: 100 requests over 4 connections, unless told otherwise.
    pub fn post(url: impl Into<String>, body: &serde_json::Value) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self {
            url: url.into(),
            body: body.to_string(),
            headers,
            connections: 4,
            until: Until::Sent(100),
            pace: None,
            client: crate::client(),
        }
    }

    /// POSTs a chat request for a model to `<base>/v1/chat/completions`.
    pub fn chat(base: &str, model: &str, answer: ChatAnswer) -> Self {
        let message = serde_json::json!({"role": "user", "content": "Hello"});
        let stream = answer == ChatAnswer::Streamed;
        let body = serde_json::json!({"model": model, "stream": stream, "messages": [message]});
        Self::post(format!("{base}/v1/chat/completions"), &body)
    }

    /// Sends `Authorization: Bearer <key>`.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// Sends a header.
    ///
    /// # Panics
    /// If HTTP does not allow the name or the value.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    /// How many requests are under way at once, each on its own connection (with HTTP/1.1).
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// When it ends.
    #[must_use]
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// So many requests a second over all connections, and not as many as there can be.
    ///
    /// # Panics
    /// If that is not a positive number.
    #[must_use]
    pub fn rate(mut self, per_second: f64) -> Self {
        let connections = u32::try_from(self.connections).expect("a number of connections");
        self.pace = Some(Duration::from_secs_f64(f64::from(connections) / per_second));
        self
    }

    /// Another client than [`crate::client`], for example one with HTTP/2 or a CA.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Runs to the end.
    pub async fn run(self) -> Report {
        let started = Instant::now();
        let load = Arc::new(self);
        let sent = Arc::new(AtomicUsize::new(0));
        let mut connections = JoinSet::new();
        for _ in 0..load.connections {
            connections.spawn(Arc::clone(&load).work(started, Arc::clone(&sent)));
        }
        let mut report = connections.join_all().await.into_iter().fold(Report::default(), Report::add);
        report.elapsed = started.elapsed();
        report
    }

    async fn work(self: Arc<Self>, started: Instant, sent: Arc<AtomicUsize>) -> Report {
        let mut report = Report::default();
        loop {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let is_over = match &self.until {
                Until::Elapsed(duration) => started.elapsed() >= *duration,
                Until::Sent(count) => number >= *count,
                Until::Told(end) => *end.borrow(),
            };
            if is_over {
                return report;
            }
            let begin = Instant::now();
            match self.send().await {
                Ok((status, server)) => report.count(status, server, begin.elapsed()),
                Err(error) => report.errors.push(error),
            }
            if let Some(pace) = self.pace {
                tokio::time::sleep(pace.saturating_sub(begin.elapsed())).await;
            }
        }
    }

    async fn send(&self) -> Result<(StatusCode, Option<String>), Lost> {
        let request = self.client.post(&self.url).headers(self.headers.clone()).body(self.body.clone());
        let answer = request.send().await?;
        let status = answer.status();
        let header =
            |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let server = header("x-sim-server");
        let is_stream = header("content-type").is_some_and(|value| value.starts_with("text/event-stream"));
        let body = answer.bytes().await?;
        if is_stream && !is_complete(&body) {
            return Err(Lost::Unfinished);
        }
        Ok((status, server))
    }
}

impl Report {
    /// How many requests were answered with a status.
    #[must_use]
    pub fn answered(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// All answers, whatever their status.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.latencies.len()
    }

    /// Answers per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.answers() as f64 / self.elapsed.as_secs_f64()
    }

    fn count(&mut self, status: StatusCode, server: Option<String>, latency: Duration) {
        *self.statuses.entry(status.as_u16()).or_default() += 1;
        if let Some(server) = server {
            *self.servers.entry(server).or_default() += 1;
        }
        self.latencies.push(latency);
    }

    fn add(mut self, other: Self) -> Self {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (server, count) in other.servers {
            *self.servers.entry(server).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self.errors.extend(other.errors);
        self
    }
}

/// OpenAI's streams end with `[DONE]`, Anthropic's with `message_stop`.
fn is_complete(body: &[u8]) -> bool {
    body.ends_with(b"data: [DONE]\n\n") || body.ends_with(b"{\"type\":\"message_stop\"}\n\n")
}
