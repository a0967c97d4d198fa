//! The most tokens that a request can use, for budgets that may never be exceeded.
//!
//! A token of text is at least one byte, so a prompt has no more tokens than its body has bytes; what else the model reads (its
//! template, images, sounds, files) counts by stated maxima. An answer has no more than the request allows, or else than the
//! model's context holds.

use std::{borrow::Cow, collections::HashMap};

use serde_json::value::RawValue;

use super::{Count, answers_in_tokens, endpoint, without_query};

/// Tokens that a server's template adds to a prompt, at most: roles, a default system prompt, instructions for tools.
pub const TEMPLATE: u64 = 1_024;
/// Tokens of an image, at most.
pub const MOST_OF_IMAGE: u64 = 16_384;
/// Tokens of a sound, a video or a file, at most.
pub const MOST_OF_FILE: u64 = 65_536;
/// Tokens of an object's short fields, at most: a message's role, its template.
const OBJECT: u64 = 64;

/// The most tokens that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Those of the prompt.
    pub prompt: u64,
    /// Those of all answers together.
    pub completion: u64,
}

/// Why nobody knows the most tokens that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unbounded {
    /// It does not say how long the answer may be, and the length of the model's context is not known either.
    #[error("nothing says how long the answer may be: send {0}")]
    Answer(&'static str),
    /// The prompt is continued from what the server holds.
    #[error(
        "the server would add to the prompt what it holds already ({0:?}), and the model's context length is not known: send the whole prompt instead"
    )]
    History(&'static str),
    /// Its body does not pass through here.
    #[error("the gateway does not see the request's body, and the model's context length is not known")]
    Body,
    /// Its body is not JSON.
    #[error("the request's body is not JSON: send JSON, with a field that says how long the answer may be")]
    Unread,
    /// A WebSocket, over which any number of requests can be sent.
    #[error("over a WebSocket any number of requests can be sent: send single requests over HTTP")]
    WebSocket,
}

impl Unbounded {
    /// The field of the request that it is about.
    pub fn param(self) -> Option<&'static str> {
        match self {
            Self::Answer(field) | Self::History(field) => Some(field),
            Self::Body | Self::Unread | Self::WebSocket => None,
        }
    }
}

/// The most tokens that a request can use that has passed the reader. `None` stands for a body that there may be, but was not
/// handed over; `context` is the model's, in tokens, if all its servers tell it.
///
/// # Errors
/// Nobody knows.
pub fn bound(path: &str, body: Option<&[u8]>, context: Option<u64>) -> Result<Bound, Unbounded> {
    let path = without_query(path);
    let Some(body) = body else {
        let context = context.ok_or(Unbounded::Body)?;
        return Ok(Bound { prompt: context, completion: if answers_in_tokens(path) { context } else { 0 } });
    };
    if body.is_empty() {
        return Ok(Bound { prompt: 0, completion: 0 });
    }
    let bytes = body.len() as u64;
    let Some(count) = Count::of(body) else {
        if endpoint(path).is_some() {
            return Err(Unbounded::Unread);
        }
        // A form with a file, or text.
        return Ok(Bound { prompt: bytes.min(MOST_OF_FILE) + TEMPLATE, completion: 0 });
    };
    let answers = count.choices.max(1).saturating_mul(count.prompts.max(1));
    let prompts = count.prompts.max(1);
    let in_context =
        |tokens: u64, times: u64| context.map_or(tokens, |context| tokens.min(context.saturating_mul(times)));
    let completion = match answers_in_tokens(path).then(|| count.answer(path, None)) {
        None => 0,
        Some((_, Some(field))) => context.ok_or(Unbounded::Answer(field))?.saturating_mul(answers),
        Some((tokens, None)) => in_context(tokens, answers),
    };
    let prompt = match prompt(&count, path, body) {
        Err(field) => context.ok_or(Unbounded::History(field))?,
        Ok(tokens) if endpoint(path).is_some() => in_context(tokens, prompts),
        Ok(tokens) => tokens,
    };
    Ok(Bound { prompt, completion })
}

/// The tokens of a prompt, without regard to the context; or the field because of which the server adds to it.
fn prompt(count: &Count, path: &str, body: &[u8]) -> Result<u64, &'static str> {
    const HISTORY: [&str; 2] = ["previous_response_id", "conversation"];
    let bytes = body.len() as u64;
    let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).unwrap_or_default();
    let is_given = |field: &&str| fields.get(*field).is_some_and(|value| value.get() != "null");
    if let Some(field) = HISTORY.into_iter().find(is_given) {
        return Err(field);
    }
    let text = match (count.images, count.files) {
        (0, 0) => bytes,
        // Without the bytes of images in base64.
        _ => {
            let objects = memchr::memchr_iter(b'{', body).count() as u64;
            bytes.min(count.ascii + 4 * count.other + OBJECT * objects)
        }
    };
    // The query is read once more with each document.
    let reads_in_pairs =
        path.rsplit('/').next().is_some_and(|last| ["rerank", "reranking", "score"].contains(&last));
    let longest = || {
        let list = |value: &&RawValue| {
            serde_json::from_str::<Vec<&RawValue>>(value.get()).map_or(1, |list| list.len())
        };
        fields.values().map(list).max().unwrap_or(1) as u64
    };
    let times = if reads_in_pairs { longest().max(1) } else { 1 };
    let media =
        count.images.saturating_mul(MOST_OF_IMAGE).saturating_add(count.files.saturating_mul(MOST_OF_FILE));
    let prompts = count.prompts.max(1);
    Ok(text.saturating_mul(times).saturating_add(media).saturating_add(TEMPLATE.saturating_mul(prompts)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::sum;

    const CHAT: &str = "/v1/chat/completions";

    fn of(path: &str, body: &str, context: Option<u64>) -> Result<(u64, u64), Unbounded> {
        bound(path, Some(body.as_bytes()), context).map(|bound| (bound.prompt, bound.completion))
    }

    #[test]
    fn a_request_is_bounded_by_its_bytes_and_by_what_it_allows() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"n":3,"max_tokens":50}"#;
        let bytes = body.len() as u64;
        assert_eq!(of(CHAT, body, None), Ok((bytes + TEMPLATE, 150)));
        assert_eq!(of(CHAT, body, Some(32)), Ok((32, 96)), "no more than the context holds");
        let open = body.replace(",\"max_tokens\":50", "");
        assert_eq!(of(CHAT, &open, None), Err(Unbounded::Answer("max_tokens")));
        assert_eq!(of("/v1/responses", &open, None), Err(Unbounded::Answer("max_output_tokens")));
        assert_eq!(of(CHAT, &open, Some(4_096)).map(|(_, completion)| completion), Ok(3 * 4_096));
        assert_eq!(of("/v1/embeddings", &open, None), Ok((open.len() as u64 + TEMPLATE, 0)));
        assert_eq!(bound(CHAT, None, None), Err(Unbounded::Body));
        let params =
            [Unbounded::Answer("n_predict"), Unbounded::History("conversation"), Unbounded::WebSocket];
        assert_eq!(params.map(Unbounded::param), [Some("n_predict"), Some("conversation"), None]);
        assert_eq!(of(CHAT, "max_tokens=5", None), Err(Unbounded::Unread));
        assert_eq!(of("/v1/audio/transcriptions", "a form", None), Ok((6 + TEMPLATE, 0)));
        assert_eq!(bound(CHAT, Some(b""), None), Ok(Bound { prompt: 0, completion: 0 }));
        let two = r#"{"prompt":["a","b"],"max_tokens":5}"#;
        assert_eq!(of("/v1/completions", two, None).map(|(_, completion)| completion), Ok(10));
        // By another spelling of the name, too.
        let history = r#"{"previous\u005fresponse_id":"x","input":"hi","max_output_tokens":5}"#;
        assert_eq!(of("/v1/responses", history, None), Err(Unbounded::History("previous_response_id")));
        assert_eq!(of("/v1/responses", history, Some(100)), Ok((100, 5)));
    }

    #[test]
    fn an_image_counts_its_maximum_and_not_its_bytes() {
        let data = "QUJD".repeat(100_000);
        let image = format!(
            r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}]}}"#
        );
        let (prompt, _) = of(CHAT, &image, None).expect("a bound");
        assert!((MOST_OF_IMAGE..MOST_OF_IMAGE + 2_000).contains(&prompt), "{prompt}");
        let text = |text: &str| {
            let part = r#"{"type":"text","text":"TEXT"},{"type":"image_url""#.replace("TEXT", text);
            of(CHAT, &image.replacen(r#"{"type":"image_url""#, &part, 1), None).expect("a bound").0
        };
        let empty = text("");
        assert_eq!(empty, prompt + OBJECT, "one object more");
        assert_eq!(text(&"a".repeat(100)), empty + 100, "a character of ASCII is a byte");
        assert_eq!(text(&"漢".repeat(100)), empty + 400, "another one is four at most");
        let rerank = r#"{"query":"why","documents":["a","b","c"]}"#;
        assert_eq!(of("/v1/rerank", rerank, None), Ok((3 * rerank.len() as u64 + TEMPLATE, 0)));
    }

    /// What is estimated, and corrected later, is within what was reserved.
    #[test]
    fn the_bound_is_never_below_the_estimate() {
        for (path, body) in [
            (CHAT, r#"{"messages":[{"role":"user","content":"äöü 漢字 😀"}],"max_tokens":1}"#),
            (
                CHAT,
                r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"QQ=="}}]}],"max_completion_tokens":9}"#,
            ),
            ("/v1/completions", r#"{"prompt":[[1,2,3],[4,5]],"n":2,"max_tokens":7}"#),
            (
                "/v1/messages",
                r#"{"max_tokens":3,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"text","data":"hello"}}]}]}"#,
            ),
            ("/v1/embeddings", r#"{"input":["a","b"]}"#),
            ("/api/chat", r#"{"messages":[],"options":{"num_predict":4}}"#),
        ] {
            let (most, estimate) =
                (of(path, body, None).expect(body), sum(path, Some(body.as_bytes()), None));
            assert!(most.0 >= estimate.prompt && most.1 >= estimate.answer, "{body}: {most:?} {estimate:?}");
        }
    }
}
