//! A simulated inference server that answers like [vLLM's OpenAI-compatible server]: the same paths, the same shapes,
//! and above all the same 404 for a model that it does not serve, so that a wrong route shows.
//!
//! In a test, [`Sim::start`] runs it on a loopback port, on threads of its own, so that a test that blocks does not
//! stop it. In a container the program `sim-server` runs the same code. Every answer says which server gave it: in the
//! header `X-Sim-Server` and in the text.
//!
//! | path | what |
//! |---|---|
//! | `GET {base}/models`, `POST {base}/chat/completions`, `completions`, `embeddings`, `responses`, `messages`, `audio/transcriptions` | as in vLLM; `stream: true` for chat, completions and messages, and a call of the first tool if the request insists on one |
//! | `POST {base}/rerank`, `moderations`, `images/generations`, `messages/count_tokens` | as in their API references |
//! | `GET {base}/realtime?model=` | a WebSocket that greets, then sends back what it gets |
//! | `/api/chat`, `generate`, `embed`, `show`, `tags`, `ps`, and `/` of one whose models are `library`'s | as in Ollama |
//! | `POST /completion`, `/infill`, `/tokenize` | as in llama.cpp |
//! | `GET /health`, `GET /metrics` | as in vLLM |
//! | `GET` and `POST /predict` | a FastAPI endpoint: `{"server": …, "path": …, "model_type": …}` |
//! | below `/sim/` | for the tests, see below |
//!
//! A test in another process changes a server by `POST` to these, one in the same process by the methods of [`Sim`]:
//!
//! | path and body | what |
//! |---|---|
//! | `/sim/health {"healthy": false}` | `/health` answers 503 |
//! | `/sim/models {"models": ["a"]}` | replaces the models |
//! | `/sim/models/raw` and any bytes (`?status=`) | the listing answers them, with their content type; `DELETE` ends it |
//! | `/sim/loaded {"loaded": false}` | what Ollama's `/api/ps` says |
//! | `/sim/latency {"milliseconds": 200}` | before an answer, or its first chunk |
//! | `/sim/key {"key": "secret"}` | the key without which all but `/health` is 401; `null` for none |
//! | `/sim/fail` and a [`FailureMode`] | requests for a model, and `/predict`, fail |
//!
//! `GET /sim/requests` gives the last 200 requests, each a [`Received`], and `DELETE` forgets them. Requests to `/sim/…`
//! itself are not among them.
//!
//! [vLLM's OpenAI-compatible server]: https://docs.vllm.ai/en/stable/serving/openai_compatible_server/

mod answers;
mod control;
mod endpoint;
mod form;
mod handle;
mod native;
mod respond;
mod serve;
mod socket;
mod spans;
mod state;
mod stream;
mod tools;
mod work;

pub use handle::Sim;
pub use serve::serve;
pub use spans::Exporter;
pub use state::{FailureMode, RawListing, Received};

use std::time::Duration;

use crate::tls::Identity;

/// How a simulated server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Says in every answer who gave it.
    pub name: String,
    /// The models it serves; any text is allowed.
    pub models: Vec<String>,
    /// Where the OpenAI endpoints are, `/v1` in vLLM.
    pub base_path: String,
    /// How long everything is answered with 503 after the start, as by a server that is still loading its weights.
    pub startup_delay: Duration,
    /// The delay between two chunks of a streamed answer.
    pub chunk_delay: Duration,
    /// How many chunks of text a streamed answer has.
    pub chunks: usize,
    /// The delay before an answer, or before the first chunk of a streamed one.
    pub latency: Duration,
    /// How many requests run at once; the others wait, and `vllm:num_requests_waiting` counts them.
    pub max_running: usize,
    /// Those of the models that are adapters of the first one.
    pub adapters: Vec<String>,
    /// How many adapters it holds at once (`max_lora`).
    pub max_adapters: usize,
    /// `max_model_len` of the listing.
    pub max_model_len: u32,
    /// `owned_by` of the listing: `vllm`, `sglang`, `llamacpp`, or `library` for Ollama.
    pub owned_by: String,
    /// Whether any model in a body is answered, as llama.cpp does.
    pub accept_any: bool,
    /// The secret without which everything but `/health` is answered 401.
    pub required_key: Option<String>,
    /// The header that carries the secret: `authorization` (after `Bearer `), `x-api-key`, `api-key` or any other.
    pub required_header: String,
    /// Whether requests for any other host than 127.0.0.1 get 403, as from an Ollama on a loopback address.
    pub own_host_only: bool,
    /// How long Ollama's `/api/ps` lists no model after the start.
    pub loaded_after: Duration,
    /// The certificate for TLS; `None`: no TLS.
    pub tls: Option<Identity>,
    /// Where spans are sent, as vLLM does; `None`: none are made.
    pub spans: Option<Exporter>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "sim".to_owned(),
            models: vec!["sim-model".to_owned()],
            base_path: "/v1".to_owned(),
            startup_delay: Duration::ZERO,
            chunk_delay: Duration::from_millis(10),
            chunks: 5,
            latency: Duration::ZERO,
            max_running: 1024,
            adapters: Vec::new(),
            max_adapters: 1,
            max_model_len: 8192,
            owned_by: "sim".to_owned(),
            accept_any: false,
            required_key: None,
            required_header: "authorization".to_owned(),
            own_host_only: false,
            loaded_after: Duration::ZERO,
            tls: None,
            spans: None,
        }
    }
}

impl Options {
    /// The defaults, under a name and with models.
    pub fn named(name: impl Into<String>, models: &[&str]) -> Self {
        Self {
            name: name.into(),
            models: models.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}
