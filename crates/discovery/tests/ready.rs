//! Readiness beyond "the port is open": `ready.path`, `ready.contains`, and a server's credential.

mod common;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use catalogue::{
    BasePath, Cordon, CordonKind, Credential, CredentialHeader, HealthMode, ServerSettings, ServerSpec,
    ServerState, ServerUrl, Source,
};
use common::{Discovery, problems, state};
use testkit::{
    sim::{Options, Sim},
    tls::Authority,
};

/// A server that lists the model `llama` and answers `/api/ps` as the test sets it.
#[derive(Clone)]
struct StubServer {
    address: SocketAddr,
    shared: Arc<Mutex<StubState>>,
}

struct StubState {
    ready: Box<dyn Fn() -> Response + Send>,
    /// Path and `Authorization` of each request.
    asked: Vec<(String, Option<String>)>,
}

impl StubServer {
    async fn start(ready: impl Fn() -> Response + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let shared = Arc::new(Mutex::new(StubState { ready: Box::new(ready), asked: Vec::new() }));
        let server = Self { address: listener.local_addr().expect("an address"), shared };
        let app = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    fn says(&self, ready: impl Fn() -> Response + Send + 'static) {
        self.lock().ready = Box::new(ready);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StubState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spec(&self, contains: Option<&str>) -> ServerSpec {
        let settings = ServerSettings {
            ready_path: Some("/api/ps".into()),
            ready_contains: contains.map(str::to_owned),
            ..ServerSettings::default()
        };
        ServerSpec {
            settings,
            ..ServerSpec::configured("ollama", ServerUrl::http("127.0.0.1", self.address.port()))
        }
    }
}

async fn answer(State(server): State<StubServer>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let credential = request.headers().get(header::AUTHORIZATION);
    let credential = credential.map(|value| value.to_str().expect("text").to_owned());
    let mut shared = server.lock();
    shared.asked.push((path.clone(), credential));
    match path.as_str() {
        "/v1/models" => r#"{"object":"list","data":[{"id":"llama","object":"model"}]}"#.into_response(),
        "/api/ps" => (shared.ready)(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test]
async fn a_model_must_be_loaded_and_stay_so() {
    let server = StubServer::start(|| r#"{"models":[]}"#.into_response()).await;
    let discovery = Discovery::start(Vec::new(), vec![server.spec(Some("\"llama:latest\""))]);
    let url = format!("http://{}/api/ps", server.address);
    let not_loaded =
        format!("GET {url} answers 200 without \"\\\"llama:latest\\\"\" in it, so it is not ready");
    discovery.wait_why("ollama", "starting", &not_loaded).await;
    let catalogue = discovery.now().expect("published");
    assert_eq!(problems(&catalogue), [format!("server ollama: {not_loaded}")]);
    assert!(catalogue.pool("llama").is_some_and(|pool| pool.ready.is_empty()));

    server.says(|| r#"{"models":[{"name":"llama:latest"}]}"#.into_response());
    discovery.wait_state("ollama", &ServerState::Ready).await;
    server.says(|| StatusCode::SERVICE_UNAVAILABLE.into_response());
    let unavailable = format!("GET {url} answers 503, so it is not ready");
    discovery.wait_why("ollama", "draining", &unavailable).await;
    server.says(|| r#"{"models":[{"name":"llama:latest"}]}"#.into_response());
    discovery.wait_state("ollama", &ServerState::Ready).await;
}

#[tokio::test]
async fn without_a_text_any_success_will_do() {
    let server = StubServer::start(|| StatusCode::NO_CONTENT.into_response()).await;
    let discovery = Discovery::start(Vec::new(), vec![server.spec(None)]);
    discovery.wait_state("ollama", &ServerState::Ready).await;
}

#[tokio::test]
async fn only_the_first_mebibyte_counts_and_the_rest_is_not_waited_for() {
    /// A mebibyte with the text at its end, or one byte later; after that the body never ends.
    fn endless(before: usize) -> Response {
        let head = [vec![b'x'; before], b"llama".to_vec()].concat();
        let head = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from(head))]);
        let body = futures_util::StreamExt::chain(
            head,
            futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[b'.'; 1024]))),
        );
        Body::from_stream(body).into_response()
    }
    const LIMIT: usize = (1 << 20) - "llama".len();
    let (within, beyond) =
        (StubServer::start(|| endless(LIMIT)).await, StubServer::start(|| endless(LIMIT + 1)).await);
    let discovery = Discovery::start(Vec::new(), vec![within.spec(Some("llama"))]);
    discovery.wait_state("ollama", &ServerState::Ready).await;
    let discovery = Discovery::start(Vec::new(), vec![beyond.spec(Some("llama"))]);
    discovery
        .wait(|catalogue| match state(catalogue, "ollama")? {
            ServerState::Starting(why) => why.to_string().contains("without \"llama\" in it").then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn the_credential_goes_to_the_server_and_nowhere_else() {
    const SECRET: &str = "sk-very-secret";
    let elsewhere = StubServer::start(|| StatusCode::OK.into_response()).await;
    let server = StubServer::start(|| StatusCode::OK.into_response()).await;
    let credential = Credential::new(CredentialHeader::Bearer, SECRET).map(Arc::new);
    let spec = ServerSpec { credential, ..server.spec(None) };
    let discovery = Discovery::start(Vec::new(), vec![spec]);
    discovery.wait_state("ollama", &ServerState::Ready).await;
    let asked = std::mem::take(&mut server.lock().asked);
    for path in ["/v1/models", "/api/ps"] {
        let sent = (path.to_owned(), Some(format!("Bearer {SECRET}")));
        assert!(asked.contains(&sent), "{path}: {asked:?}");
    }

    let there = format!("http://{}/api/ps", elsewhere.address);
    server
        .says(move || (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, there.clone())]).into_response());
    let redirected = format!("GET http://{}/api/ps answers 307, so it is not ready", server.address);
    discovery.wait_why("ollama", "draining", &redirected).await;
    assert!(elsewhere.lock().asked.is_empty(), "no redirect is followed");

    server.says(|| StatusCode::UNAUTHORIZED.into_response());
    let refused =
        format!("GET http://{}/api/ps answers 401: it does not take its credential", server.address);
    discovery.wait_why("ollama", "draining", &refused).await;
    let told = format!("{:?}", discovery.now());
    assert!(!told.contains(SECRET), "{told}");
    let why = state(&discovery.now().expect("published"), "ollama").and_then(|state| state.why().cloned());
    let why = why.expect("a reason");
    assert_eq!(why.code(), "credential_rejected");
    assert!(why.advice().starts_with("Correct its credential in its entry in servers:"), "{}", why.advice());
    let without = Discovery::start(Vec::new(), vec![server.spec(None)]);
    let why = without.wait(|catalogue| state(catalogue, "ollama")?.why().cloned()).await;
    assert_eq!(why.code(), "credential_wanted");
    assert!(why.advice().starts_with("Give it one in its entry in servers:"), "{}", why.advice());
}

#[tokio::test]
async fn an_operator_withdraws_a_server_and_resumes_it() {
    let server = StubServer::start(|| StatusCode::NO_CONTENT.into_response()).await;
    let discovery = Discovery::start(Vec::new(), vec![server.spec(None)]);
    discovery.wait_state("ollama", &ServerState::Ready).await;
    let id = server.spec(None).id;
    let cordon = Cordon { kind: CordonKind::Pause, by: "alice".into() };
    discovery.cordons.send_modify(|cordons| cordons.cordon(id.clone(), cordon.clone()));
    discovery.wait_state("ollama", &ServerState::Draining(cordon.finding())).await;
    discovery.cordons.send_modify(|cordons| assert!(cordons.resume(&id)));
    discovery.wait_state("ollama", &ServerState::Ready).await;
}

/// It is probed only while its HEALTHCHECK passes, so the fault is not visible in `docker ps`.
#[tokio::test]
async fn who_is_healthy_and_cannot_be_used_is_told_so() {
    let server = StubServer::start(|| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let of_docker = |spec: ServerSpec| ServerSpec {
        source: Source::Docker { container_id: "c1".into(), image: "vllm".into() },
        health: HealthMode::Docker,
        ..spec
    };
    for (spec, words) in [
        (
            ServerSpec { base_path: BasePath::parse("/api").expect("a path"), ..server.spec(None) },
            "healthy, but /api/models answers 404: set inference.models",
        ),
        (server.spec(None), "healthy, but /api/ps answers 503, so it is not ready"),
        (
            ServerSpec::configured("ollama", ServerUrl::http("127.0.0.1", 9)),
            "healthy, but cannot connect to http://127.0.0.1:9: ",
        ),
    ] {
        let discovery = Discovery::start(Vec::new(), vec![of_docker(spec)]);
        let why = discovery
            .wait(|catalogue| match state(catalogue, "ollama")? {
                ServerState::Starting(why) => Some(why.to_string()).filter(|why| why.starts_with(words)),
                _ => None,
            })
            .await;
        let problems = problems(&discovery.now().expect("published"));
        assert!(problems.contains(&format!("container ollama: {why}")), "{problems:?}");
    }
}

/// Regression: it was asked whether the server is running.
#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_called_that() {
    let authority = Authority::new();
    for (names, words) in [(["127.0.0.1"], "UnknownIssuer"), (["other.test"], "")] {
        let tls = Some(authority.identity(&names));
        let sim = Sim::start_with(Options { tls, ..Options::named("gpu", &["llama"]) });
        let url = ServerUrl::parse(&sim.url()).expect("a URL");
        let discovery = Discovery::start(Vec::new(), vec![ServerSpec::configured("gpu", url)]);
        let why = format!("the TLS certificate of {} is not trusted: ", sim.url());
        discovery
            .wait(|catalogue| match state(catalogue, "gpu")? {
                ServerState::Starting(found) => {
                    let told = found.to_string();
                    let is_it = found.code() == "certificate_untrusted" && told.starts_with(&why);
                    (is_it && told.contains(words) && !found.may_pass_by_itself()).then_some(())
                }
                _ => None,
            })
            .await;
    }
}
