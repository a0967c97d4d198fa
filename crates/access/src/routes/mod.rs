//! Which of a server's paths a request may reach.
//!
//! For each kind of server that is known there is a list of its routes (`vllm.txt`, …), with its version and where it was
//! read. What is open is what the list calls open, by method and path. A path that is not listed needs a key that may
//! manage servers. Of a server that is not known (`other.txt`) all is open but what is known to manage a server of any
//! kind ([`closed`](crate::read::closed)) and what is known to be stored for everybody.

mod table;

use std::{borrow::Cow, sync::LazyLock};

use catalogue::{BasePath, Door, Kind, RouteGroup};

use crate::read::{folded, segments};
use table::Table;
pub use table::{Class, Route};

/// What stands before an API's paths.
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

/// All that is known of a kind's routes.
pub fn routes_of(kind: Kind) -> &'static [Route] {
    table(kind).routes()
}

/// What the list of a kind says of a path, if it is there.
pub fn listed(kind: Kind, method: &str, path: &str) -> Option<Class> {
    table(kind).class(method, path)
}

/// What the list of a kind's routes was read from.
pub fn source_of(kind: Kind) -> &'static str {
    table(kind).source()
}

/// What a request would do at a door. `seen` is its path without what names a model, and without a server's own base
/// path. `None`: this kind of server is known, and the path is not.
pub(crate) fn class(door: &Door, method: &str, seen: &str) -> Option<Class> {
    let path = path_at(seen, &door.base_path);
    if !door.paths.is_empty() {
        return door.paths.iter().any(|open| open.opens(&path)).then_some(Class::Open);
    }
    let table = table(door.kind);
    let listed = table.class(method, &path).or_else(|| {
        // What the server has under its own base path is listed as under /v1.
        let below = path.strip_prefix(door.base_path.as_str()).filter(|_| !door.base_path.is_default())?;
        below.starts_with('/').then(|| table.class(method, &format!("/v1{below}"))).flatten()
    });
    match door.kind {
        Kind::Other => Some(listed.unwrap_or_else(|| class_of_unknown(method, &path))),
        _ => listed,
    }
}

/// Whether every server of a group answers prompts in Ollama's API, as far as it is known.
pub fn speaks_ollama(group: &RouteGroup) -> bool {
    let opens = |door: &Door, path| class(door, "POST", path) == Some(Class::Open);
    let answers =
        |door: &Door| ["/api/chat", "/api/generate", "/api/embed"].iter().any(|path| opens(door, path));
    group.doors.iter().all(answers)
}

/// What is known to be stored for everybody, at a server of which nothing else is known.
///
/// Such a server may have its API below other prefixes, read a path whatever its case, and cut parameters off.
pub(crate) fn class_of_unknown(method: &str, path: &str) -> Class {
    let path = folded(path);
    let mut names: Vec<&str> = segments(path.trim_matches('/')).collect();
    let prefixes = names.iter().take_while(|name| APIS.contains(name)).count();
    // Without a prefix, files and batches may be anybody's own word.
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

/// Whether this is an API's path (`/v1/…`, `/api/…`) on which servers look for a model's name in the body, and take their
/// default model if there is none. An application's own `/generate` or `/predict` is not.
pub(crate) fn takes_a_model(path: &str) -> bool {
    /// Without a prefix these are OpenAI's and Anthropic's all the same.
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
