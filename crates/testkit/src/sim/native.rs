//! The own APIs of [Ollama](https://github.com/ollama/ollama/blob/main/docs/api.md) and
//! [llama.cpp](https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md).

use axum::{
    http::{Method, header},
    response::{IntoResponse, Json, Response},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    answers,
    serve::{Content, served_model},
    state::State,
};

/// `None` if the path is none of theirs.
pub(super) async fn answer(
    state: &State,
    method: &Method,
    path: &str,
    content: &Content,
) -> Option<Response> {
    Some(match (method.as_str(), path) {
        ("GET", "/api/tags") => Json(models(state, true)).into_response(),
        ("GET", "/api/ps") => {
            let is_loaded = state.started.elapsed() >= state.options.loaded_after;
            Json(models(state, is_loaded)).into_response()
        }
        (
            "POST",
            "/api/chat" | "/api/generate" | "/api/embed" | "/api/show" | "/completion" | "/infill"
            | "/tokenize",
        ) => compute(state, path, content).await,
        _ => return None,
    })
}

fn models(state: &State, shown: bool) -> Value {
    let models = state.switches().models.clone();
    let shown = models.iter().filter(|_| shown).map(|model| json!({"name": model, "model": model}));
    json!({ "models": shown.collect::<Vec<_>>() })
}

async fn compute(state: &State, path: &str, content: &Content) -> Response {
    let Content::Json(body) = content else {
        return (axum::http::StatusCode::BAD_REQUEST, "bad body").into_response();
    };
    let model = match served_model(state, model_of(path, body)) {
        Ok(model) => model,
        Err(refusal) => return *refusal,
    };
    sleep(state.options.latency).await;
    let text = answers::pieces(state, &model).concat();
    let whole = match path {
        "/api/chat" => {
            json!({"model": model, "message": {"role": "assistant", "content": text}, "done": true})
        }
        "/api/generate" => json!({"model": model, "response": text, "done": true}),
        "/api/embed" => json!({"model": model, "embeddings": [[0.25, -0.5]]}),
        "/api/show" => json!({"details": {"family": "sim"}, "modelfile": "FROM sim"}),
        "/tokenize" => json!({"tokens": [1, 2, 3]}),
        _ => json!({"content": text, "stop": true}),
    };
    // Ollama streams unless told not to: one JSON value a line.
    if matches!(path, "/api/chat" | "/api/generate") && body["stream"] != false {
        let lines = format!("{}\n{whole}\n", json!({"model": model, "done": false}));
        return ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response();
    }
    Json(whole).into_response()
}

/// As Go's decoder reads it: the last field of the name in any case. `/api/show` takes `name` too.
fn model_of<'a>(path: &str, body: &'a Value) -> Option<&'a str> {
    let field = |name: &str| {
        let fields = body.as_object()?;
        fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .filter_map(|(_, v)| v.as_str())
            .next_back()
    };
    field("model").or_else(|| (path == "/api/show").then(|| field("name"))?)
}
