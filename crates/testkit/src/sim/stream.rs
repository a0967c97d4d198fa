//! Streamed answers as [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html), or as Ollama's
//! lines of JSON, each piece sent when its time has come.

use std::{io, time::Duration, vec};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    answers,
    respond::text,
    state::{Running, State},
};

/// A streamed answer, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Events(Vec<Event>);

#[derive(Debug)]
struct Event {
    text: String,
    /// Part of the answer's text, so that the chunk delay goes before it.
    is_piece: bool,
}

impl Events {
    /// `POST /v1/chat/completions` with `stream: true`.
    pub(super) fn chat(state: &State, model: &str, usage: Option<Value>) -> Self {
        let mut events = Self::default();
        let chunk = |delta: Value, finish| answers::chat_chunk(model, &delta, finish);
        events.data(&chunk(json!({"role": "assistant", "content": ""}), None));
        for piece in answers::pieces(state, model) {
            events.piece(&chunk(json!({"content": piece}), None));
        }
        events.data(&chunk(json!({}), Some("stop")));
        events.end(usage.map(|usage| answers::usage_chunk(model, "chat.completion.chunk", &usage)))
    }

    /// `POST /v1/completions` with `stream: true`.
    pub(super) fn completion(state: &State, model: &str, usage: Option<Value>) -> Self {
        let mut events = Self::default();
        for piece in answers::pieces(state, model) {
            events.piece(&answers::completion_chunk(model, &piece, None));
        }
        events.data(&answers::completion_chunk(model, "", Some("stop")));
        events.end(usage.map(|usage| answers::usage_chunk(model, "text_completion", &usage)))
    }

    /// [`POST /v1/messages`](https://docs.anthropic.com/en/docs/build-with-claude/streaming) with `stream: true`.
    pub(super) fn messages(state: &State, model: &str) -> Self {
        let mut events = Self::default();
        events
            .named(json!({"type": "message_start", "message": answers::message(state, model, None)}), false);
        let empty = json!({"type": "text", "text": ""});
        events.named(json!({"type": "content_block_start", "index": 0, "content_block": empty}), false);
        for piece in answers::pieces(state, model) {
            let delta = json!({"type": "text_delta", "text": piece});
            events.named(json!({"type": "content_block_delta", "index": 0, "delta": delta}), true);
        }
        events.named(json!({"type": "content_block_stop", "index": 0}), false);
        let end = json!({"stop_reason": "end_turn", "stop_sequence": null});
        let usage = json!({"output_tokens": state.options.chunks});
        events.named(json!({"type": "message_delta", "delta": end, "usage": usage}), false);
        events.named(json!({"type": "message_stop"}), false);
        events
    }

    /// llama.cpp's `/completion` and `/infill` with `stream: true`: no `[DONE]` at the end.
    pub(super) fn llama_cpp(state: &State, model: &str) -> Self {
        let mut events = Self::default();
        for piece in answers::pieces(state, model) {
            events.piece(&json!({"content": piece, "stop": false}));
        }
        events.data(&json!({"content": "", "stop": true}));
        events
    }

    /// [Ollama's stream](https://github.com/ollama/ollama/blob/main/docs/api.md#streaming-responses): one JSON value a
    /// line; `line` makes one of a piece of text.
    pub(super) fn lines(state: &State, model: &str, line: impl Fn(&str, bool) -> Value) -> Self {
        let pieces = answers::pieces(state, model);
        let event =
            |text: &str, done: bool| Event { text: format!("{}\n", line(text, done)), is_piece: !done };
        let mut events: Vec<Event> = pieces.iter().map(|piece| event(piece, false)).collect();
        events.push(event("", true));
        Self(events)
    }

    fn data(&mut self, data: &Value) {
        self.0.push(Event { text: format!("data: {data}\n\n"), is_piece: false });
    }

    fn piece(&mut self, data: &Value) {
        self.0.push(Event { text: format!("data: {data}\n\n"), is_piece: true });
    }

    /// Anthropic's events carry their type twice: in the data and as the event's name.
    #[expect(clippy::needless_pass_by_value, reason = "the callers write the event in place")]
    fn named(&mut self, data: Value, is_piece: bool) {
        let kind = data["type"].as_str().unwrap_or_default();
        self.0.push(Event { text: format!("event: {kind}\ndata: {data}\n\n"), is_piece });
    }

    fn end(mut self, usage: Option<Value>) -> Self {
        if let Some(usage) = usage {
            self.data(&usage);
        }
        self.0.push(Event { text: "data: [DONE]\n\n".to_owned(), is_piece: false });
        self
    }

    /// The answer that sends the events; it occupies the request's slot until the last one is sent. It breaks off in the middle
    /// if the server was told so.
    pub(super) fn answer(self, state: &State, running: Running, content_type: &'static str) -> Response {
        let break_after = state.switches().failure.break_after;
        let delay = state.options.chunk_delay;
        let sending = Sending { events: self.0.into_iter(), running, delay, break_after, sent_pieces: 0 };
        let body = Body::from_stream(stream::unfold(sending, |mut sending| async move {
            sending.next().await.map(|item| (item, sending))
        }));
        text(content_type, body)
    }
}

struct Sending {
    events: vec::IntoIter<Event>,
    running: Running,
    delay: Duration,
    break_after: Option<usize>,
    sent_pieces: usize,
}

impl Sending {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let Some(event) = self.events.next() else {
            self.running.finish();
            return None;
        };
        if event.is_piece {
            if self.break_after == Some(self.sent_pieces) {
                // The server broke off, not the client.
                self.running.fail();
                return Some(Err(io::Error::other("told to break off")));
            }
            if self.sent_pieces > 0 {
                sleep(self.delay).await;
            }
            self.sent_pieces += 1;
            self.running.generated(1);
        }
        Some(Ok(Bytes::from(event.text)))
    }
}
