//! OpenAI's [realtime API](https://platform.openai.com/docs/guides/realtime-websocket), as far as a gateway sees it: a
//! WebSocket to `…/realtime?model=…`. It greets with its name, the model, and the subprotocols that were offered and the one
//! chosen, then sends back what it gets.

use std::sync::Arc;

use axum::{
    extract::{
        FromRequestParts as _,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{respond::served_model, state::State};

pub(super) async fn answer(state: &Arc<State>, parts: &mut Parts) -> Response {
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let wanted = query.split('&').find_map(|pair| pair.strip_prefix("model="));
    let model = match served_model(state, wanted) {
        Ok(model) => model,
        Err(refusal) => return *refusal,
    };
    let offered = parts.headers.get("sec-websocket-protocol").and_then(|v| v.to_str().ok());
    let offered = offered.unwrap_or_default().to_owned();
    let name = state.options.name.clone();
    match WebSocketUpgrade::from_request_parts(parts, &()).await {
        Ok(upgrade) => upgrade.protocols(["realtime"]).on_upgrade(async move |socket| {
            let chosen = socket.protocol().and_then(|chosen| chosen.to_str().ok());
            let greeting =
                json!({ "server": name, "model": model, "protocols": offered, "protocol": chosen });
            echo(socket, greeting.to_string()).await;
        }),
        Err(refusal) => refusal.into_response(),
    }
}

async fn echo(mut socket: WebSocket, greeting: String) {
    if socket.send(Message::Text(greeting.into())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Text(text) = message else { continue };
        if socket.send(Message::Text(text)).await.is_err() {
            return;
        }
    }
}
