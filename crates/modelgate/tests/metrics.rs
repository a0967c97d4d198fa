//! What is counted, who polls and what Traefik was told, with real Traefiks.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::Policy;
use catalogue::{
    Catalogue, ModelCard, ModelName, Publisher, ServerRecord, ServerSpec, ServerState, ServerUrl,
};
use common::{KEY, NEWEST, Stack, chat, config, openmetrics::Exposition, refusal, stack, stack_of};
use testkit::{
    Stopwatch, eventually, need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};
use tokio::{net::TcpListener, sync::watch};
use web::{CertificateAuthority, Listener, Listeners, Settings, Shared};

#[test]
fn the_strict_reader_refuses_what_scrapers_may_refuse() {
    let family = "# HELP a b\n# TYPE a gauge\n";
    let histogram = "# HELP h b\n# TYPE h histogram\n";
    let good = format!(
        "{family}a{{b=\"c\\\"\\n\"}} 1.5\n{histogram}h_sum 1\nh_count 2\nh_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\n# EOF\n"
    );
    let read = Exposition::parse(&good).expect("good");
    assert_eq!(read.value("a", "", &[("b", "c\"\n")]), 1.5);
    for bad in [
        "a 1\n".to_owned(),
        format!("{family}a 1"),
        format!("{family}a  1\n# EOF\n"),
        format!("{family}a 1\n\n# EOF\n"),
        format!("{family}a 1\na 1\n# EOF\n"),
        format!("{family}a 1\na{{b=\"c\"}} 1\n# EOF\n"),
        format!("{family}a{{b=\"c\"d\"}} 1\n# EOF\n"),
        format!("{family}a{{b=\"\\t\"}} 1\n# EOF\n"),
        format!("{family}a{{b=\"c\",b=\"d\"}} 1\n# EOF\n"),
        format!("{family}a_total 1\n# EOF\n"),
        format!("{family}a x\n# EOF\n"),
        format!("{family}a 1\n{family}a 2\n# EOF\n"),
        "# TYPE a gauge\na 1\n# EOF\n".to_owned(),
        "# HELP a b\n# TYPE a counter\na_total -1\n# EOF\n".to_owned(),
        format!("{histogram}h_sum 1\nh_count 2\nh_bucket{{le=\"1\"}} 2\n# EOF\n"),
        format!("{histogram}h_sum 1\nh_count 2\nh_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\n# EOF\n"),
    ] {
        assert!(Exposition::parse(&bad).is_err(), "{bad}");
    }
}

/// As Prometheus asks.
async fn scrape(stack: &Stack) -> (String, Exposition) {
    let url = format!("{}/metrics", stack.modelgate.admin_url());
    let accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5";
    let answer = stack.client.get(url).header("accept", accept).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.expect("text");
    let read = Exposition::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    (text, read)
}

#[tokio::test]
async fn requests_are_counted_by_decision_and_reason() {
    let sim = Sim::start("a", &["llama", "qwen"]);
    let models = "models:\n  - { match: \"qwen\", limit: { requests_per_hour: 1, burst: 2 } }\n";
    // Keys have other names than their consumers.
    let config = ["alice", "bob"].iter().fold(config(&[&sim], models), |config, name| {
        config.replace(&format!("name: {name}, consumer"), &format!("name: {name}s-laptop, consumer"))
    });
    assert!(config.contains("name: alices-laptop, consumer: alice"), "{config}");
    let Some(stack) = stack_of(NEWEST, &config).await else { return };
    stack.wait_for("llama").await;
    let (_, before) = scrape(&stack).await;
    let stopwatch = Stopwatch::start();
    for _ in 0..5 {
        assert_eq!(stack.chat("llama").await.status(), 200);
    }
    for expected in [200, 200, 429, 429, 429] {
        assert_eq!(stack.chat("qwen").await.status(), expected);
    }
    let url = format!("{}/v1/chat/completions", stack.traefik.url());
    assert_eq!(refusal(stack.client.post(&url).json(&chat("llama"))).await.0, 401);
    assert_eq!(refusal(stack.client.post(&url).bearer_auth("mg-wrong").json(&chat("llama"))).await.0, 401);
    assert_eq!(stack.chat("a-secret-project").await.status(), 404);
    let (_, after) = scrape(&stack).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let more = |family: &str, end: &str, labels: &[(&str, &str)]| {
        after.value(family, end, labels) - before.value(family, end, labels)
    };
    for (decision, reason, count) in [
        ("allowed", "", 7.0),
        ("refused", "rate_limit_exceeded", 3.0),
        ("refused", "missing_api_key", 1.0),
        ("refused", "invalid_api_key", 1.0),
        ("refused", "model_not_found", 1.0),
    ] {
        let labels = [("decision", decision), ("reason", reason)];
        assert_eq!(more("modelgate_requests", "_total", &labels), count, "{decision} {reason}");
    }
    assert_eq!(more("modelgate_decision_seconds", "_count", &[]), 13.0);
    let time = more("modelgate_decision_seconds", "_sum", &[]);
    assert!(time > 0.0 && time < 13.0, "{time} s");
    for (family, state, count) in [
        ("modelgate_models", "ready", 2.0),
        ("modelgate_models", "starting", 0.0),
        ("modelgate_servers", "ready", 1.0),
        ("modelgate_servers", "stopped", 0.0),
    ] {
        assert_eq!(after.value(family, "", &[("state", state)]), count, "{family} {state}");
    }
    assert!(after.value("modelgate_catalogue_revision", "", &[]) >= 1.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(after.value("modelgate_build", "_info", &version), 1.0);
    // A poll is held for five seconds.
    let polled = after.value("modelgate_traefik_last_poll_seconds", "", &[("address", "127.0.0.1")]);
    let age = now - polled - stopwatch.held_up().as_secs_f64();
    assert!((-1.0..6.0).contains(&age), "polled {age} s ago");
    names_stand_only_where_they_may(&stack, after.value("modelgate_requests", "_total", &ALLOWED)).await;
}

const ALLOWED: [(&str, &str); 2] = [("decision", "allowed"), ("reason", "")];

/// Consumers have series of their own, and are in no others. Keys, and names that no model has, are in none.
async fn names_stand_only_where_they_may(stack: &Stack, allowed: f64) {
    // What is counted of each consumer follows ten times a second.
    let text = eventually(Duration::from_secs(60), || async {
        let (text, read) = scrape(stack).await;
        let labels: Vec<_> = [("consumer", "alice")].into_iter().chain(ALLOWED).collect();
        (read.value("modelgate_consumer_decisions", "_total", &labels) == allowed).then_some(text)
    })
    .await;
    for private in [KEY, "mg-", "a-secret-project", "alices-laptop", "bobs-laptop"] {
        assert!(!text.contains(private), "{private}:\n{text}");
    }
    let others = text.lines().filter(|line| !line.starts_with("modelgate_consumer_"));
    let told: Vec<_> = others.filter(|line| line.contains("alice") || line.contains("bob")).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn metrics_are_not_for_who_comes_through_a_proxy() {
    let sim = Sim::start("a", &["llama"]);
    let Some(stack) = stack(NEWEST, &[&sim], "").await else { return };
    let url = format!("{}/metrics", stack.modelgate.admin_url());
    let proxied = stack.client.get(&url).header("x-forwarded-for", "203.0.113.9").send().await;
    assert_eq!(proxied.expect("an answer").status(), 403);
    let plain = stack.client.get(&url).send().await.expect("an answer");
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
}

/// The listeners in this process, so that a test sees what a page would.
struct Served {
    publisher: Publisher,
    shared: Arc<Shared>,
    endpoint: String,
    _stop: watch::Sender<bool>,
}

impl Served {
    async fn start() -> Self {
        testkit::install_crypto();
        let (publisher, reader) = catalogue::channel();
        let version = NEWEST.parse().expect("a version");
        let settings = Settings {
            trusted_networks: Vec::new(),
            traefik: traefik_config::RenderOptions { version, ..Default::default() },
            version_is_given: true,
            advertise: None,
            hold: Duration::from_millis(4_500),
            telemetry: None,
            prices: prices::PriceList::default(),
            keeps_hard_budgets: true,
        };
        let bind = async || {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            Listener { socket, is_inherited: false }
        };
        let listeners = Listeners { provider: bind().await, requests: bind().await, admin: bind().await };
        let port = |listener: &Listener| listener.socket.local_addr().expect("an address").port();
        let endpoint = format!("http://127.0.0.1:{}/traefik", port(&listeners.provider));
        let authority = CertificateAuthority::open(None, None).expect("an authority");
        let (peers, _) = watch::channel(BTreeSet::new());
        let shared = Arc::new(Shared::new(web::Parts {
            catalogue: reader,
            settings,
            policy: Arc::new(Policy::default()),
            authority,
            requests_port: port(&listeners.requests),
            traefik_peers: peers,
        }));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(web::serve(listeners, Arc::clone(&shared), axum::Router::new(), stopped));
        Self { publisher, shared, endpoint, _stop: stop }
    }

    fn publish(&mut self, servers: &[(&str, ServerState)]) {
        let model = || ModelCard::named(ModelName::new("llama").expect("a model name"));
        let record = |(name, state): &(&str, ServerState)| ServerRecord {
            spec: ServerSpec::configured(name, ServerUrl::http(name, 8000)),
            state: state.clone(),
            listed_as: catalogue::Kind::Other,
            has_others: false,
            models: vec![model()],
        };
        assert!(self.publisher.publish(Catalogue::assemble(servers.iter().map(record), Vec::new())));
    }

    /// The number of the document that the one Traefik has.
    fn given(&self) -> Option<u64> {
        Some(self.shared.polls().instances().first()?.given?.revision)
    }
}

#[tokio::test]
async fn a_traefik_is_seen_to_poll_and_to_get_each_document() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let mut served = Served::start().await;
    served.publish(&[("server-a", ServerState::Ready)]);
    let mut traefik = Traefik::builder(&binary).endpoint(&served.endpoint).start().await;
    traefik.wait_configured().await;
    let polls = served.shared.polls();
    let instance = eventually(Duration::from_secs(60), || async {
        polls.instances().into_iter().next().filter(|instance| instance.waiting)
    })
    .await;
    assert_eq!(instance.address, IpAddr::from(Ipv4Addr::LOCALHOST));
    assert!(instance.user_agent.starts_with("Go-http-client/"), "{instance:?}");
    assert_eq!(instance.rendered_for.to_string(), NEWEST);
    assert_eq!((instance.silent_for, served.given()), (Duration::ZERO, Some(1)));
    assert_eq!(polls.warnings(), []);

    served.publish(&[("server-a", ServerState::Ready), ("server-b", ServerState::Ready)]);
    eventually(Duration::from_secs(60), || async { (served.given() == Some(2)).then_some(()) }).await;
    let history = served.shared.history();
    let revisions = history.revisions();
    assert_eq!(revisions[0].why, ["server server-b has appeared and is ready"]);
    let diff = history.diff(1, 2).expect("both are remembered");
    let added: Vec<_> = diff.lines().filter(|line| line.starts_with("+ ")).collect();
    assert!(added.iter().any(|line| line.contains("http://server-b:8000")), "{diff}");
    assert!(!added.iter().any(|line| line.contains("http://server-a:8000")), "{diff}");
    eventually(Duration::from_secs(60), || async {
        let services = traefik.api("/api/http/services").await.to_string();
        services.contains("http://server-b:8000").then_some(())
    })
    .await;

    // Held polls take their time, and that is no fault. A machine that is busy may delay one of them.
    eventually(Duration::from_secs(60), || async {
        let polls = served.shared.polls();
        let interval = polls.instances()[0].interval?;
        (interval > Duration::from_secs(4) && polls.warnings().is_empty()).then_some(())
    })
    .await;

    let stopwatch = Stopwatch::start();
    traefik.kill();
    let gone = eventually(Duration::from_secs(60), || async {
        served.shared.polls().instances().into_iter().find(|instance| !instance.waiting)
    })
    .await;
    let silent = gone.silent_for.saturating_sub(stopwatch.held_up());
    assert!(silent < Duration::from_secs(10), "{gone:?}");
}

#[tokio::test]
async fn a_poll_interval_that_is_too_long_is_told() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let mut served = Served::start().await;
    served.publish(&[("server-a", ServerState::Ready)]);
    let builder = Traefik::builder(&binary).endpoint(&served.endpoint).provider("7s", "5s", "100ms");
    let traefik = builder.start().await;
    traefik.wait_configured().await;
    // A machine that is busy may delay one of the polls.
    let warnings = eventually(Duration::from_secs(60), || async {
        let warnings = served.shared.polls().warnings();
        warnings
            .first()
            .is_some_and(|first| first.to_string().contains("polls every 7 s only"))
            .then_some(warnings)
    })
    .await;
    assert!(warnings[0].to_string().contains("--providers.http.pollInterval=100ms"), "{warnings:?}");
}

/// Traefik has not asked about it, and still operators see it among the rest.
#[tokio::test]
async fn what_is_too_large_is_counted_too() {
    let sim = Sim::start("a", &["llama"]);
    let Some(stack) = stack(NEWEST, &[&sim], "requests: { max_body: 2MiB }\n").await else { return };
    stack.wait_for("llama").await;
    let (_, before) = scrape(&stack).await;
    let url = format!("{}/v1/chat/completions", stack.traefik.url());
    let (status, body) = refusal(stack.client.post(&url).bearer_auth(KEY).body(vec![b'x'; 3 << 20])).await;
    assert_eq!((status, &body["error"]["code"]), (413, &"request_too_large".into()));
    let (_, after) = scrape(&stack).await;
    let more = |family: &str, end: &str, labels: &[(&str, &str)]| {
        after.value(family, end, labels) - before.value(family, end, labels)
    };
    let refused = [("decision", "refused"), ("reason", "request_too_large")];
    assert_eq!(more("modelgate_requests", "_total", &refused), 1.0);
    assert_eq!(more("modelgate_decision_seconds", "_count", &[]), 0.0, "it took no decision");
}
