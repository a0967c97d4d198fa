//! Handles a connection: reads the request, records it, determines its model, and answers.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Json, Response},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    Options, answers, control,
    endpoint::Endpoint,
    form::Form,
    native,
    respond::{EVENT_STREAM, error, not_found, served_model, text, unable, unavailable},
    socket, spans,
    state::{RawListing, Received, State},
    stream::Events,
    tools,
    work::Work,
};
use crate::tls::TlsListener;

/// Serves until `stop` is ready, then ends as uvicorn does on SIGTERM: stops listening, closes idle connections,
/// finishes the requests in flight.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_state(listener, State::new(options), stop).await
}

pub(super) async fn serve_state(
    listener: TcpListener,
    state: Arc<State>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let identity = state.options.tls.clone();
    if let Some((exporter, spans)) = state.take_spans() {
        tokio::spawn(spans::export(exporter, spans));
    }
    let app = Router::new().fallback(answer).with_state(state);
    match identity {
        Some(identity) => {
            axum::serve(TlsListener::new(listener, &identity)?, app).with_graceful_shutdown(stop).await
        }
        None => axum::serve(listener, app).with_graceful_shutdown(stop).await,
    }
}

async fn answer(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    // A client that disconnects while it sends gets no answer anyway.
    let Ok(body) = to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut response = if state.options.own_host_only && !host.starts_with("127.0.0.1:") {
        StatusCode::FORBIDDEN.into_response()
    } else if parts.uri.path().starts_with("/sim/") {
        control::answer(&state, &parts.method, &parts.uri, &parts.headers, &body)
    } else {
        route(&state, &mut parts, &body).await
    };
    if let Ok(name) = HeaderValue::from_str(&state.options.name) {
        response.headers_mut().insert("x-sim-server", name);
    }
    response
}

/// A request's body as far as the server understands it.
enum Content {
    Json(Value),
    Form(Form),
    Other,
}

impl Content {
    fn read(headers: &HeaderMap, body: &Bytes) -> Self {
        let content_type =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(form) = Form::read(content_type, body) {
            return Self::Form(form);
        }
        // Like Python's decoder, serde_json keeps the last of two equal keys.
        serde_json::from_slice(body).map_or(Self::Other, Self::Json)
    }

    fn model(&self) -> Option<&str> {
        match self {
            Self::Json(body) => body["model"].as_str(),
            Self::Form(form) => form.model.as_deref(),
            Self::Other => None,
        }
    }
}

async fn route(state: &Arc<State>, parts: &mut Parts, body: &Bytes) -> Response {
    let content = Content::read(&parts.headers, body);
    state.remember(received(parts, body, &content));
    let uri = parts.uri.clone();
    let path = uri.path();
    let api_path = path.strip_prefix(state.options.base_path.trim_end_matches('/'));
    if path != "/health" && !has_required_key(state, &parts.headers) {
        return error(401, "AuthenticationError", "Unauthorized", None);
    }
    if api_path == Some("/realtime") {
        return socket::answer(state, parts).await;
    }
    if let Some(response) = native::answer(state, &parts.method, path, body).await {
        return response;
    }
    match (parts.method.as_str(), path) {
        ("GET", "/health") if state.is_loading() || !state.switches().healthy => unavailable(),
        ("GET", "/health") => StatusCode::OK.into_response(),
        ("GET", "/metrics") => {
            state.turn_page().await;
            text("text/plain; version=0.0.4; charset=utf-8", answers::metrics(state))
        }
        ("POST" | "GET", "/predict") => predict(state, path, &content).await,
        // Ollama answers `Ollama is running`.
        ("GET", "/") => text("text/plain", "running"),
        ("GET", _) if api_path == Some("/models") => models(state),
        ("POST", _) => match api_path.and_then(Endpoint::find) {
            Some(endpoint) => infer(state, endpoint, &parts.headers, &content).await,
            None => not_found(),
        },
        _ => not_found(),
    }
}

fn received(parts: &Parts, body: &Bytes, content: &Content) -> Received {
    let header = |(name, value): (&header::HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Received {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: parts.headers.iter().map(header).collect(),
        model: content.model().map(str::to_owned),
        body_length: body.len(),
    }
}

fn models(state: &State) -> Response {
    if state.is_loading() {
        return unavailable();
    }
    let raw = state.switches().raw_listing.clone();
    match raw {
        Some(RawListing { status, content_type, body }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        None => Json(answers::listing(state)).into_response(),
    }
}

/// Any body is accepted: some servers predict from an image.
async fn predict(state: &State, path: &str, content: &Content) -> Response {
    if let Some(refusal) = unable(state) {
        return refusal;
    }
    state.delay().await;
    let input = if let Content::Json(body) = content { body } else { &Value::Null };
    Json(answers::prediction(state, path, input)).into_response()
}

fn has_required_key(state: &State, headers: &HeaderMap) -> bool {
    let required = state.switches().required_key.clone();
    let Some(required) = required else { return true };
    let name = &state.options.required_header;
    let given = headers.get(name).and_then(|value| value.to_str().ok());
    let is_bearer = name.eq_ignore_ascii_case("authorization");
    let given = if is_bearer { given.and_then(|value| value.strip_prefix("Bearer ")) } else { given };
    given == Some(required.as_str())
}

async fn infer(state: &Arc<State>, endpoint: Endpoint, headers: &HeaderMap, content: &Content) -> Response {
    if let Some(refusal) = unable(state) {
        return refusal;
    }
    let model = match wanted_model(state, endpoint, content) {
        Ok(model) => model,
        Err(refusal) => return *refusal,
    };
    let json = match content {
        Content::Json(json) => json,
        Content::Form(_) | Content::Other => &Value::Null,
    };
    let work = Work::new(endpoint, headers, json);
    let mut running = state.run(&model).await;
    if endpoint.generates() {
        running.begin(work.clone());
    }
    state.delay().await;
    if let Some(events) = streamed(state, endpoint, &model, json, &work) {
        return events.answer(state, running, EVENT_STREAM);
    }
    if work.completes {
        running.generated(state.options.chunks);
    }
    running.finish();
    let file_size = if let Content::Form(form) = content { form.file_size } else { None };
    Json(match endpoint {
        Endpoint::Chat => tools::in_chat(json, answers::of_all(answers::chat(state, &model), state, &work)),
        Endpoint::Completions => answers::of_all(answers::completion(state, &model), state, &work),
        Endpoint::Embeddings => answers::embeddings(&model, json),
        Endpoint::Responses => answers::response(state, &model),
        Endpoint::Messages => {
            let text = answers::pieces(state, &model).concat();
            tools::in_message(json, answers::message(state, &model, Some(&text)))
        }
        Endpoint::CountTokens => json!({"input_tokens": 7}),
        Endpoint::Rerank => answers::rerank(&model, json),
        Endpoint::Moderations => answers::moderation(&model),
        Endpoint::Images => answers::image(),
        Endpoint::Transcriptions => answers::transcription(state, &model, file_size.unwrap_or_default()),
    })
    .into_response()
}

/// The model as vLLM chooses it: the one the body names, its only model if the body names none, 404 for any other.
fn wanted_model(state: &State, endpoint: Endpoint, content: &Content) -> Result<String, Box<Response>> {
    let is_form = matches!(content, Content::Form(_));
    if matches!(content, Content::Other) || is_form != (endpoint == Endpoint::Transcriptions) {
        return Err(Box::new(error(400, "BadRequestError", "the body cannot be read", None)));
    }
    served_model(state, content.model())
}

fn streamed(state: &State, endpoint: Endpoint, model: &str, request: &Value, work: &Work) -> Option<Events> {
    if request["stream"] != true {
        return None;
    }
    let with_usage = request["stream_options"]["include_usage"] == true;
    let usage = with_usage.then(|| work.usage(state.options.chunks));
    match endpoint {
        Endpoint::Chat => Some(Events::chat(state, model, usage)),
        Endpoint::Completions => Some(Events::completion(state, model, usage)),
        Endpoint::Messages => Some(Events::messages(state, model)),
        _ => None,
    }
}
