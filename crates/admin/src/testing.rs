//! For tests: a dashboard without listeners.

pub(crate) mod found;

use std::{
    collections::BTreeSet,
    future::ready,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use access::{KeyDigest, Policy};
use accounts::Accounts;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, request::Builder},
};
use catalogue::{
    Catalogue, ModelCard, ModelName, Publisher, Reader, ServerRecord, ServerSpec, ServerState, ServerUrl,
};
use metering::{Ending, MeteredEndpoint, RequestId, UsageKind, UsedTokens};
use prices::{Amount, Price, PriceEntry, PriceList};
use store::{Registry, Store, StoreUrl};
use telemetry::{AnsweringServer, Decided, SettledRequest};
use tokio::sync::watch;
use tower::ServiceExt as _;
use web::TelemetryListener;

use crate::{
    Admin, AdminToken, AdminTokens, Authenticator, Parts, Program, Role, TestedWebhook, WebhookRow, router,
};

/// The token of an admin.
pub(crate) const ADMIN: &str = "token-of-alice-the-admin";
/// The token of a reader.
pub(crate) const READER: &str = "token-of-bob-the-reader";

/// A dashboard, and the inputs that it shows.
pub(crate) struct Dashboard {
    pub(crate) router: Router,
    pub(crate) admin: Admin,
    pub(crate) publisher: Publisher,
    shutdown: watch::Sender<bool>,
}

impl Dashboard {
    /// A dashboard that shows a catalogue.
    pub(crate) fn of(catalogue: Catalogue) -> Self {
        let (mut publisher, reader) = catalogue::channel();
        publisher.publish(catalogue);
        let (shutdown, stopped) = watch::channel(false);
        let admin = admin(reader, Arc::new(Registry::new(Accounts::default())), stopped);
        Self { router: router(admin.clone()), admin, publisher, shutdown }
    }

    /// A dashboard with an empty store of its own, which is removed with the folder.
    pub(crate) async fn with_store(catalogue: Catalogue, folder: &std::path::Path) -> Self {
        let dashboard = Self::of(catalogue);
        let store = Store::open(StoreUrl::in_folder(folder)).await.expect("a store");
        dashboard.admin.registry.set_store(store);
        dashboard
    }

    /// Admits requests of the key `alice` with the ids 1 to `count`.
    pub(crate) fn admits(&self, count: u128) {
        let telemetry = self.admin.shared.telemetry();
        for id in 1..=count {
            telemetry.decided(&Decided {
                at: SystemTime::UNIX_EPOCH,
                request_id: &RequestId(id).to_string(),
                client_request_id: None,
                consumer: Some("team"),
                key: Some("alice"),
                model: Some("llama"),
                from: None,
                method: "POST",
                uri: "/v1/chat/completions",
                refused: None,
                tokens: Some(1_002),
                latency: Some(Duration::from_micros(250)),
            });
        }
        telemetry.collect(SystemTime::UNIX_EPOCH);
    }

    /// Turns `listen.telemetry` on, and tells what became of requests.
    pub(crate) fn told(&self, requests: Vec<SettledRequest>) {
        let listener = TelemetryListener { authority: "modelgate:8103".into(), has_token: false };
        self.admin.shared.replace_settings(settings(Some(listener)));
        let requests: Vec<_> = requests.into_iter().map(Arc::new).collect();
        self.admin.shared.telemetry().settled(&requests, Instant::now());
    }

    /// Signals shutdown, as the program does.
    pub(crate) fn stop(&self) {
        self.shutdown.send_replace(true);
    }

    /// Sends a request with a token.
    pub(crate) async fn ask(&self, token: Option<&str>, request: Builder, body: &str) -> Response<Body> {
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        self.router.clone().oneshot(request).await.expect("an answer")
    }

    /// The page at a path, for an admin.
    pub(crate) async fn page(&self, path: &str) -> String {
        let response = self.ask(Some(ADMIN), Request::get(path).header("accept", "text/html"), "").await;
        assert_eq!(response.status(), 200, "{path}");
        text(response).await
    }
}

/// The body of an answer.
pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 64 << 20).await.expect("a body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// All models have a price.
fn prices() -> PriceList {
    let entry = PriceEntry {
        text: "*".into(),
        models: catalogue::ModelGlobs::all(),
        from: 0,
        price: Price { prompt: Amount(150_000_000), ..Price::default() },
    };
    PriceList::new("EUR".into(), vec![entry])
}

fn settings(telemetry: Option<TelemetryListener>) -> web::Settings {
    web::Settings {
        trusted_networks: Vec::new(),
        traefik: traefik_config::RenderOptions::default(),
        version_is_given: true,
        advertise: None,
        hold: Duration::from_secs(4),
        telemetry,
        prices: prices(),
        keeps_hard_budgets: true,
    }
}

/// What became of a request to the server `gpu`.
pub(crate) fn settled(id: u128, ending: Ending, status: Option<u16>) -> SettledRequest {
    SettledRequest {
        request: RequestId(id),
        consumer: "team".into(),
        model: "llama".into(),
        endpoint: MeteredEndpoint::ChatCompletions,
        server: Some(AnsweringServer { id: "file:gpu".into(), name: "gpu".into() }),
        ending,
        status,
        time_to_first_token: Some(Duration::from_millis(200)),
        duration: Some(Duration::from_millis(1_500)),
        kind: UsageKind::Exact,
        used: UsedTokens { prompt: 1_200, cached: Some(1_000), completion: 34 },
        cost: 0,
        span: None,
    }
}

fn admin(reader: Reader, registry: Arc<Registry>, stopped: watch::Receiver<bool>) -> Admin {
    let settings = settings(None);
    let authority = web::CertificateAuthority::open(None, None).expect("a CA");
    let (traefik_peers, _) = watch::channel(BTreeSet::new());
    let policy = Arc::new(Policy::default());
    let shared =
        web::Parts { catalogue: reader, settings, policy, authority, requests_port: 8101, traefik_peers };
    let shared = Arc::new(web::Shared::new(shared));
    let token =
        |name: &str, clear, role| AdminToken { name: name.into(), digest: KeyDigest::of(clear), role };
    let tokens = vec![token("alice", ADMIN, Role::Admin), token("bob", READER, Role::Reader)];
    let authenticator = Arc::new(Authenticator::new(AdminTokens::new(tokens)));
    let docker = vec![("docker".into(), "unix:///var/run/docker.sock".into())];
    let program = Program {
        docker,
        configuration: Box::new(|| "listen: {}\n# <b>bold</b>\n".into()),
        problems: Box::new(Vec::new),
        webhooks: Box::new(|| {
            ["chat", "pager"].map(|name| WebhookRow { name: name.into(), note: "slack".into() }).into()
        }),
        test_webhooks: Box::new(|| {
            let fault = Some("it answers 404 Not Found".to_owned());
            let tested = [("chat", None), ("pager", fault)];
            Box::pin(ready(tested.map(|(name, fault)| TestedWebhook { name: name.into(), fault }).into()))
        }),
    };
    let cordons = watch::Sender::default();
    Admin::new(Parts { authenticator, shared, registry, cordons, program, shutdown: stopped })
}

/// A server of the configuration.
pub(crate) fn server(name: &str, state: ServerState, models: &[&str]) -> ServerRecord {
    let card = |name: &&str| ModelCard::named(ModelName::new(name).expect("a name"));
    let spec = ServerSpec::configured(name, ServerUrl::http("10.0.0.1", 8000));
    ServerRecord {
        spec,
        state,
        listed_as: catalogue::Kind::Other,
        has_others: false,
        models: models.iter().map(card).collect(),
    }
}
