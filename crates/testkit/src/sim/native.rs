//! The native APIs of [Ollama](https://github.com/ollama/ollama/blob/main/docs/api.md) and
//! [llama.cpp](https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md).

use std::{fmt, sync::Arc};

use axum::{
    body::Bytes,
    http::{Method, StatusCode},
    response::{IntoResponse, Json, Response},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

use super::{
    answers,
    respond::{EVENT_STREAM, served_model, unable},
    state::State,
    stream::Events,
};

const LINES: &str = "application/x-ndjson";

/// A JSON object's fields in their order, including repeated ones.
struct OrderedFields(Vec<(String, Value)>);

impl OrderedFields {
    /// As [Go's decoder](https://pkg.go.dev/encoding/json#Unmarshal) reads it: the last field of that name in any case.
    fn of_go(&self, name: &str) -> Option<&Value> {
        let fields = self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value).next_back()
    }

    /// As llama.cpp's decoder reads it: the last field of exactly that name.
    fn exact(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for OrderedFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = OrderedFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(OrderedFields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The answer of a native API; `None` if the path belongs to neither.
pub(super) async fn answer(
    state: &Arc<State>,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> Option<Response> {
    Some(match (method.as_str(), path) {
        ("GET" | "HEAD", "/") if state.options.owned_by == "library" => "Ollama is running".into_response(),
        ("GET", "/api/tags") => Json(models(state, true)).into_response(),
        ("GET", "/api/ps") => Json(models(state, state.is_loaded())).into_response(),
        ("POST", "/api/chat" | "/api/generate" | "/api/embed" | "/api/show") => {
            match serde_json::from_slice(body) {
                Ok(fields) => ollama(state, path, &fields).await,
                Err(error) => ollama_error(StatusCode::BAD_REQUEST, &error.to_string()),
            }
        }
        ("POST", "/completion" | "/infill" | "/tokenize") => match serde_json::from_slice(body) {
            Ok(fields) => llama_cpp(state, path, &fields).await,
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
        _ => return None,
    })
}

fn models(state: &State, shown: bool) -> Value {
    let models = state.switches().models.clone();
    let shown = models.iter().filter(|_| shown).map(|model| json!({"name": model, "model": model}));
    json!({ "models": shown.collect::<Vec<_>>() })
}

async fn ollama(state: &Arc<State>, path: &str, fields: &OrderedFields) -> Response {
    if let Some(refusal) = unable(state) {
        return refusal;
    }
    let name = if path == "/api/show" { fields.of_go("name") } else { None };
    let wanted = fields.of_go("model").or(name).and_then(Value::as_str).unwrap_or_default();
    let Ok(model) = served_model(state, Some(wanted)) else {
        return ollama_error(StatusCode::NOT_FOUND, &format!("model '{wanted}' not found"));
    };
    let mut running = state.run(&model).await;
    state.delay().await;
    let said = |text: &str, done: bool| match path {
        "/api/chat" => {
            json!({"model": model, "message": {"role": "assistant", "content": text}, "done": done})
        }
        _ => json!({"model": model, "response": text, "done": done}),
    };
    let speaks = matches!(path, "/api/chat" | "/api/generate");
    // Ollama streams unless told not to.
    if speaks && fields.of_go("stream") != Some(&Value::Bool(false)) {
        return Events::lines(state, &model, said).answer(state, running, LINES);
    }
    running.finish();
    Json(match path {
        "/api/embed" => json!({"model": model, "embeddings": [[0.25, -0.5]]}),
        "/api/show" => {
            json!({"details": {"family": "sim"}, "model_info": {}, "modelfile": format!("FROM {model}")})
        }
        _ => said(&answers::pieces(state, &model).concat(), true),
    })
    .into_response()
}

fn ollama_error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

async fn llama_cpp(state: &Arc<State>, path: &str, fields: &OrderedFields) -> Response {
    if let Some(refusal) = unable(state) {
        return refusal;
    }
    let model = match served_model(state, fields.exact("model").and_then(Value::as_str)) {
        Ok(model) => model,
        Err(refusal) => return *refusal,
    };
    let mut running = state.run(&model).await;
    state.delay().await;
    if path != "/tokenize" && fields.exact("stream") == Some(&Value::Bool(true)) {
        return Events::llama_cpp(state, &model).answer(state, running, EVENT_STREAM);
    }
    running.finish();
    Json(match path {
        "/tokenize" => json!({"tokens": [1, 2, 3]}),
        _ => json!({"content": answers::pieces(state, &model).concat(), "stop": true}),
    })
    .into_response()
}
