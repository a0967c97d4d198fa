//! An Engine that does what a real one does not do on demand: odd answers, and single failures.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use discovery::DockerEndpoint;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast, task::JoinHandle};

/// Returns the lists and inspections that a test sets; ends when it is dropped.
pub(crate) struct FakeEngine {
    address: SocketAddr,
    engine: Arc<Engine>,
    task: JoinHandle<()>,
}

struct Engine {
    containers: Mutex<BTreeMap<String, Container>>,
    events: broadcast::Sender<Bytes>,
}

#[derive(Clone)]
struct Container {
    listed: Value,
    status: u16,
    inspected: Value,
}

impl FakeEngine {
    /// Starts on a port that was free, or on any port.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let engine = Arc::new(Engine { containers: Mutex::default(), events: broadcast::channel(16).0 });
        let version = || async { Json(json!({ "ApiVersion": "1.41", "MinAPIVersion": "1.24" })) };
        let app = Router::new()
            .route("/version", get(version))
            .route("/v1.41/containers/json", get(list))
            .route("/v1.41/containers/{id}/json", get(inspect))
            .route("/v1.41/events", get(events))
            .with_state(Arc::clone(&engine));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { address, engine, task }
    }

    pub(crate) fn endpoint(&self) -> DockerEndpoint {
        DockerEndpoint::Tcp(format!("tcp://{}", self.address))
    }

    /// Adds a labelled container that listens on a port of this machine. `change` makes it odd: the entry of the list, and the
    /// inspection with its status.
    pub(crate) fn has(&self, name: &str, port: u16, change: impl FnOnce(&mut Value, &mut u16, &mut Value)) {
        let labels = json!({ "inference.enable": "true" });
        let networks = json!({ "Networks": { "bridge": { "IPAddress": "127.0.0.1" } } });
        let mut listed = json!({
            "Id": name, "Names": [format!("/{name}")], "Image": "vllm", "Labels": labels, "State": "running",
            "NetworkSettings": networks
        });
        let mut inspected = json!({
            "Id": name, "Name": format!("/{name}"),
            "State": { "Status": "running", "Running": true, "StartedAt": "2026-11-01T00:00:00Z" },
            "Config": { "Image": "vllm", "Labels": labels, "ExposedPorts": { format!("{port}/tcp"): {} } },
            "HostConfig": { "NetworkMode": "bridge" }, "NetworkSettings": networks
        });
        let mut status = 200;
        change(&mut listed, &mut status, &mut inspected);
        self.containers().insert(name.to_owned(), Container { listed, status, inspected });
    }

    /// Has it looked at.
    pub(crate) fn event(&self, line: &str) {
        let _ = self.engine.events.send(format!("{line}\n").into());
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Container>> {
        self.engine.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Engine {
    fn containers(&self) -> BTreeMap<String, Container> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn list(State(engine): State<Arc<Engine>>) -> Json<Value> {
    Json(engine.containers().into_values().map(|container| container.listed).collect())
}

async fn inspect(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Response {
    let Some(container) = engine.containers().remove(&id) else {
        return (StatusCode::NOT_FOUND, Json(json!({ "message": "No such container" }))).into_response();
    };
    let status = StatusCode::from_u16(container.status).expect("a status");
    (status, Json(container.inspected)).into_response()
}

async fn events(State(engine): State<Arc<Engine>>) -> Body {
    let events =
        stream::unfold(
            engine.events.subscribe(),
            |mut events| async move { Some((events.recv().await, events)) },
        );
    Body::from_stream(events.map(|event| event.map_err(std::io::Error::other)))
}
