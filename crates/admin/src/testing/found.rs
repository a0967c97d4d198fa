//! What discovery and the catalogue find of real containers' labels and real servers' answers, for tests: a finding that a
//! test makes up itself may be one that nothing ever finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use catalogue::{
    Catalogue, Configured, ContainerHealth, ContainerRecord, ContainerStatus, Cordons, Exposable,
    Interpretation, NetworkView, Problem, ProviderKind, Reader, Role, ServerRecord, ServerSpec, ServerState,
    StaticConfiguration, doors, interpret,
};
use discovery::{DockerEndpoint, DockerOptions, Sources};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What a server does with a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// Nobody listens.
    Refuse,
    /// It accepts it and sends nothing.
    Hang,
    /// It closes it at once.
    Close,
    /// It closes it in the middle of an answer.
    BreakOff,
    /// It answers with these statuses: the first to requests for its models, the second to all others. A 200 lists the model
    /// `llama`.
    Answer(u16, u16),
}

/// A server whose behaviour a test can change. It ends with the test.
pub(crate) struct ChangingServer {
    pub(crate) port: u16,
    does: watch::Sender<Does>,
}

impl ChangingServer {
    pub(crate) async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (sender, mut receiver) = watch::channel(does);
        tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let does = *receiver.borrow_and_update();
                if matches!(does, Does::Refuse) {
                    // A port on which nobody listens refuses. It is never opened again.
                    return drop(listener);
                }
                tokio::select! {
                    accepted = listener.accept() => kept.extend(serve(accepted.expect("a connection").0, does).await),
                    changed = receiver.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { port, does: sender }
    }

    /// Sets what it does from now on.
    pub(crate) fn now(&self, does: Does) {
        self.does.send_replace(does);
    }
}

/// Handles a connection. Returns it if it is to stay open.
async fn serve(mut stream: TcpStream, does: Does) -> Option<TcpStream> {
    let (models, others) = match does {
        Does::Refuse | Does::Close => return None,
        Does::Hang => return Some(stream),
        Does::BreakOff => (0, 0),
        Does::Answer(models, others) => (models, others),
    };
    let mut request = vec![0; 8192];
    let length = stream.read(&mut request).await.ok()?;
    let is_models = String::from_utf8_lossy(&request[..length]).starts_with("GET /v1/models ");
    let list = r#"{"object":"list","data":[{"id":"llama","object":"model","owned_by":"test"}]}"#;
    let answer = match if is_models { models } else { others } {
        0 => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"object\":".to_owned(),
        status => {
            let length = list.len();
            format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{list}")
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    None
}

/// A running container, as Docker describes it, whose port is that of a server on this machine.
pub(crate) fn container(name: &str, port: u16, labels: &[(&str, &str)]) -> ContainerRecord {
    let own = [("inference.enable", "true".to_owned()), ("inference.port", port.to_string())];
    let given = labels.iter().map(|(label, value)| (*label, (*value).to_owned()));
    ContainerRecord {
        id: format!("id-of-{name}"),
        name: name.into(),
        image: "vllm".into(),
        labels: own.into_iter().chain(given).map(|(label, value)| (label.to_owned(), value)).collect(),
        status: ContainerStatus::Running,
        health: None,
        started_at: String::new(),
        networks: BTreeMap::from([("ai".into(), "127.0.0.1".into())]),
        network_mode: "ai".into(),
        exposed_ports: BTreeSet::new(),
        published_ports: Vec::new(),
    }
}

/// The same with a HEALTHCHECK that passes.
pub(crate) fn healthy(container: ContainerRecord) -> ContainerRecord {
    ContainerRecord { health: Some(ContainerHealth::Healthy), ..container }
}

/// What the catalogue makes of a container that it accepts as a server.
pub(crate) fn interpreted(container: &ContainerRecord) -> (ServerSpec, ServerState, Vec<Problem>) {
    match interpret(container, &NetworkView::default()) {
        (Interpretation::Server(spec, state), problems) => (*spec, state, problems),
        other => panic!("{other:?}"),
    }
}

/// What is wrong with a container by its labels.
pub(crate) fn problems(container: &ContainerRecord) -> Vec<Problem> {
    interpret(container, &NetworkView::default()).1
}

/// The state of a container that does not run.
pub(crate) fn down(container: &ContainerRecord) -> ServerState {
    match interpret(container, &NetworkView::default()) {
        (Interpretation::Down(state), _) => state,
        other => panic!("{other:?}"),
    }
}

/// The findings about a container behind a Traefik that exposes every container by default.
pub(crate) fn exposed(container: &ContainerRecord) -> Vec<Problem> {
    let exposable = Exposable {
        name: container.name.clone(),
        docker_name: container.name.clone(),
        labels: container.labels.clone(),
        ports: BTreeSet::from([8000]),
        role: Role::Server,
    };
    let command_line = StaticConfiguration::new(vec!["--providers.docker=true".into()], &[], &[]);
    doors(&[exposable], &[("traefik".into(), command_line.sight(ProviderKind::Docker))]).problems
}

/// The state of a container whose HEALTHCHECK has not passed yet.
pub(crate) fn pending() -> ServerState {
    of_health(ContainerHealth::Starting)
}

/// The state of a container whose HEALTHCHECK fails.
pub(crate) fn unhealthy() -> ServerState {
    of_health(ContainerHealth::Unhealthy)
}

fn of_health(health: ContainerHealth) -> ServerState {
    interpreted(&ContainerRecord { health: Some(health), ..container("gpu", 8000, &[]) }).1
}

/// The record of a container's server before its first probe.
pub(crate) fn record(container: &ContainerRecord) -> ServerRecord {
    let (spec, state, _) = interpreted(container);
    ServerRecord { spec, ..super::server("", state, &[]) }
}

/// Discovery at work, until it is dropped.
pub(crate) struct Discovery {
    pub(crate) cordons: watch::Sender<Cordons>,
    reader: Reader,
    task: JoinHandle<()>,
}

impl Discovery {
    /// Probes the servers of these containers.
    pub(crate) fn start(containers: &[ContainerRecord]) -> Self {
        Self::of(containers, Vec::new())
    }

    /// Watches the Docker Engine at a socket.
    pub(crate) fn of_docker(socket: &str) -> Self {
        let endpoint = DockerEndpoint::Unix(socket.into());
        Self::of(&[], vec![DockerOptions::new(DockerOptions::DEFAULT_NAME, endpoint)])
    }

    /// What keeps the first catalogue from being published.
    pub(crate) async fn obstacles(&self) -> Vec<Problem> {
        loop {
            match &self.reader.obstacles()[..] {
                [] => tokio::time::sleep(Duration::from_millis(20)).await,
                obstacles => return obstacles.to_vec(),
            }
        }
    }

    fn of(containers: &[ContainerRecord], docker: Vec<DockerOptions>) -> Self {
        // reqwest takes the process's default.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let servers = containers.iter().map(|container| interpreted(container).0).collect();
        let (_, configured) = watch::channel(Configured { servers, ..Configured::default() });
        let (cordons, held) = watch::channel(Cordons::default());
        let (_, traefik_peers) = watch::channel(BTreeSet::new());
        let (publisher, reader) = catalogue::channel();
        let sources = Sources {
            docker,
            configured,
            cordons: held,
            remembered: watch::channel(Arc::default()).1,
            traefik_peers,
            kept: None,
        };
        let task = tokio::spawn(async move {
            let ended = discovery::run(sources, publisher, std::future::pending()).await;
            panic!("discovery has ended: {ended:?}");
        });
        Self { cordons, reader, task }
    }

    /// Waits for a catalogue that meets a condition.
    pub(crate) async fn until(&self, wanted: impl Fn(&Catalogue) -> bool) -> Arc<Catalogue> {
        assert!(!self.task.is_finished(), "discovery has ended");
        let found = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                match &*self.reader.load() {
                    Some(catalogue) if wanted(catalogue) => return Arc::clone(catalogue),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("not found: {:?}", self.reader.load()))
    }

    /// Waits until all servers have been probed.
    pub(crate) async fn all_asked(&self) -> Arc<Catalogue> {
        use catalogue::{Finding, LifecycleFinding};
        let is_asked = |server: &Arc<ServerRecord>| {
            !matches!(
                server.state.why(),
                Some(Finding::Lifecycle(LifecycleFinding::ModelsNotAsked | LifecycleFinding::ReadyNotAsked))
            )
        };
        self.until(|catalogue| catalogue.servers().all(is_asked)).await
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}
