//! Which of a server's paths a request may reach.
//!
//! Each known kind of server has a list of its routes (`vllm.txt`, …), with its version and source. Only what the list calls
//! open is open, by method and path. A path that is not listed needs a key that may manage servers. On a server of unknown kind
//! (`other.txt`) everything is open except paths that are known to manage a server of any kind
//! ([`closed`](crate::read::closed)) or to hold data stored for everybody.

mod table;

use std::{borrow::Cow, sync::LazyLock};

use catalogue::{BasePath, Door, Kind, RouteGroup};

use crate::read::{folded, segments};
use table::Table;
pub use table::{Class, Route};

/// The prefixes of an API's paths.
const APIS: &[&str] = &["api", "openai", "v1", "v2", "v3"];

macro_rules! table {
    ($file:literal) => {{
        static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(include_str!($file)));
        &TABLE
    }};
}

fn table(kind: Kind) -> &'static Table {
    match kind {
        Kind::Vllm => table!("vllm.txt"),
        Kind::Sglang => table!("sglang.txt"),
        Kind::LlamaCpp | Kind::LlamaCppRouter => table!("llamacpp.txt"),
        Kind::Ollama => table!("ollama.txt"),
        Kind::Tei => table!("tei.txt"),
        Kind::LlamaSwap => table!("llama-swap.txt"),
        Kind::Provider => table!("provider.txt"),
        Kind::Other => table!("other.txt"),
    }
}

/// All known routes of a kind.
pub fn routes_of(kind: Kind) -> &'static [Route] {
    table(kind).routes()
}

/// The class of a path in the list of a kind, if it is listed.
pub fn listed(kind: Kind, method: &str, path: &str) -> Option<Class> {
    table(kind).class(method, path)
}

/// The source of a kind's list of routes.
pub fn source_of(kind: Kind) -> &'static str {
    table(kind).source()
}

/// The class of a request at a door. `seen` is its path without the model's name and without the server's own base path.
/// `None`: the kind of server is known, but the path is not.
pub(crate) fn class(door: &Door, method: &str, seen: &str) -> Option<Class> {
    let path = path_at(seen, &door.base_path);
    if !door.paths.is_empty() {
        return door.paths.iter().any(|open| open.opens(&path)).then_some(Class::Open);
    }
    let table = table(door.kind);
    let listed = table.class(method, &path).or_else(|| {
        // The server's paths below its own base path are listed below /v1.
        let below = path.strip_prefix(door.base_path.as_str()).filter(|_| !door.base_path.is_default())?;
        below.starts_with('/').then(|| table.class(method, &format!("/v1{below}"))).flatten()
    });
    match door.kind {
        Kind::Other => Some(listed.unwrap_or_else(|| class_of_unknown(method, &path))),
        _ => listed,
    }
}

/// Whether every server of a group is known to answer prompts in Ollama's API.
pub fn speaks_ollama(group: &RouteGroup) -> bool {
    let opens = |door: &Door, path| class(door, "POST", path) == Some(Class::Open);
    let answers =
        |door: &Door| ["/api/chat", "/api/generate", "/api/embed"].iter().any(|path| opens(door, path));
    group.doors.iter().all(answers)
}

/// The class of a path on a server of unknown kind.
///
/// Such a server may have its API below other prefixes, ignore the case of a path, and remove parameters.
pub(crate) fn class_of_unknown(method: &str, path: &str) -> Class {
    let path = folded(path);
    let mut names: Vec<&str> = segments(path.trim_matches('/')).collect();
    let prefixes = names.iter().take_while(|name| APIS.contains(name)).count();
    // Without a prefix, files and batches may mean anything.
    let is_api = prefixes > 0 || matches!(names.first(), Some(&("responses" | "conversations")));
    names.drain(..prefixes);
    let listed = || table(Kind::Other).class(method, &format!("/v1/{}", names.join("/")));
    is_api.then(listed).flatten().unwrap_or(Class::Open)
}

/// The path as the server sees it.
fn path_at<'p>(seen: &'p str, base: &BasePath) -> Cow<'p, str> {
    match seen.strip_prefix("/v1/") {
        Some(rest) if !base.is_default() => format!("{}/{rest}", base.as_str()).into(),
        _ => seen.into(),
    }
}

/// Whether this is an API's path (`/v1/…`, `/api/…`) on which servers read a model's name from the body, and use their default
/// model if there is none. An application's own `/generate` or `/predict` is not.
pub(crate) fn takes_a_model(path: &str) -> bool {
    /// Even without a prefix these are paths of OpenAI's and Anthropic's APIs.
    const ROOTS: &[&str] = &["chat", "completions", "embeddings", "messages", "responses"];
    const ENDPOINTS: &[&str] = &[
        "apply-template",
        "chat",
        "classify",
        "compact",
        "completion",
        "completions",
        "count_tokens",
        "detokenize",
        "edits",
        "embed",
        "embed_all",
        "embed_sparse",
        "embedding",
        "embeddings",
        "encode",
        "generate",
        "generate_stream",
        "generations",
        "infer",
        "infill",
        "input_tokens",
        "messages",
        "moderations",
        "ocr",
        "pooling",
        "rerank",
        "reranking",
        "responses",
        "score",
        "show",
        "speech",
        "tokenize",
        "transcriptions",
        "translations",
        "variations",
    ];
    let is_one_of = |name: &str, of: &[&str]| of.iter().any(|known| name.eq_ignore_ascii_case(known));
    let mut names = segments(path.trim_end_matches('/'));
    let is_api = names.clone().any(|name| is_one_of(name, APIS))
        || names.clone().nth(1).is_some_and(|first| is_one_of(first, ROOTS));
    is_api && names.next_back().is_some_and(|last| is_one_of(last, ENDPOINTS))
}

#[cfg(test)]
mod tests;
