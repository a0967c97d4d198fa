//! `/auth` as a whole, in memory: whatever a client sends gets an answer that reveals no key and leads to no other model.

use std::sync::{Arc, LazyLock};

use access::{Consumer, Key, KeyDigest, ModelGlobs, Policy};
use axum::body::{Body, to_bytes};
use catalogue::{Catalogue, Reader};
use http::{HeaderName, HeaderValue, Request, header::AUTHORIZATION};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use web::{CertificateAuthority, Parts, Requests, Settings, Shared};

use crate::world::{ALICE, now, server};

/// What is asked, by the first byte.
const QUESTIONS: [&str; 6] =
    ["/auth", "/auth?gate", "/auth?model=cheap", "/auth?key", "/auth?websocket", "/auth?gate&body=none"];

struct InMemory {
    runtime: Runtime,
    shared: Arc<Shared>,
    requests: Requests,
}

static SERVICE: LazyLock<InMemory> = LazyLock::new(|| {
    let models = ["cheap", "org/cheap", "dear"];
    let servers = vec![
        server("a", &models, &[("aliases", "budget=cheap,darling=dear")]),
        server("b", &["tiny", "dwarf"], &[("kind", "ollama")]),
        server("c", &["fast"], &[("select.query", "fast=true")]),
    ];
    let models = ModelGlobs::parse(&["[!d]*".to_owned()]).expect("a pattern");
    let alice = Key { models, ..Key::new("alice", Arc::new(Consumer::new("alice")), KeyDigest::of(ALICE)) };
    let shared = Arc::new(Shared::new(Parts {
        catalogue: Reader::of(Arc::new(Catalogue::assemble(servers, Vec::new()))),
        settings: Settings {
            trusted_networks: Vec::new(),
            traefik: traefik_config::RenderOptions::default(),
            advertise: None,
            hold: std::time::Duration::ZERO,
            telemetry: None,
            prices: prices::PriceList::default(),
            version_is_given: true,
            keeps_hard_budgets: true,
        },
        policy: Arc::new(Policy::new(vec![alice], Vec::new())),
        authority: CertificateAuthority::open(None, None).expect("an authority"),
        requests_port: 8101,
        traefik_peers: watch::channel(std::collections::BTreeSet::default()).0,
    }));
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    InMemory { runtime, requests: Requests::new(&shared), shared }
});

/// The first byte chooses the question, and whether it has Alice's key. Then lines: the method and the URI, headers, an empty line,
/// the body.
pub(crate) fn run(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let Some(request) = request(*way, rest) else { return };
    let service = &*SERVICE;
    let (status, headers, body) = service.runtime.block_on(async {
        let answer = service.requests.answer(request).await;
        let (parts, body) = answer.into_parts();
        (parts.status, parts.headers, to_bytes(body, 1 << 20).await.expect("a body"))
    });
    // What other tasks do.
    service.shared.telemetry().collect(now());
    service.shared.usage().take();
    let text = String::from_utf8_lossy(&body);
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    if status.is_success() {
        assert!(way & 0x80 == 0, "nobody's request passes");
        let model = header("x-inference-model");
        assert!(!["dear", "darling", "dwarf"].iter().any(|other| model == other.as_bytes()), "{headers:?}");
        assert!(body.is_empty(), "{text}");
    } else {
        assert!(status.is_client_error() || status == 503 || status == 501, "{status}: {text}");
        assert!(!text.contains(ALICE), "{text}");
        let says_json = header("content-type").starts_with(b"application/json");
        assert!(!says_json || serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{text}");
    }
    for (name, value) in &headers {
        let shown = String::from_utf8_lossy(value.as_bytes());
        assert!(!shown.contains(ALICE), "{name}: {shown}");
    }
}

fn request(way: u8, rest: &[u8]) -> Option<Request<Body>> {
    let mut lines = rest.split_inclusive(|b| *b == b'\n');
    let first = lines.next().unwrap_or_default().trim_ascii_end();
    let (method, uri) = std::str::from_utf8(first).ok()?.split_once(' ').unwrap_or(("POST", "/v1/x"));
    let question = QUESTIONS[usize::from(way & 0x7f) % QUESTIONS.len()];
    let mut request = Request::get(question);
    request = request.header("x-forwarded-method", method).header("x-forwarded-uri", uri);
    if way & 0x80 == 0 {
        request = request.header(AUTHORIZATION, format!("Bearer {ALICE}"));
    }
    let mut at = first.len() + 1;
    for line in lines {
        at += line.len();
        let line = line.trim_ascii_end();
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        // Traefik sets these itself, and a stranger does not know Alice's key.
        if name.as_str().starts_with("x-forwarded-") || way & 0x80 != 0 && holds_key(&line[colon + 1..]) {
            continue;
        }
        request = request.header(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    let body = rest.get(at..).unwrap_or_default().to_vec();
    request.body(Body::from(body)).ok()
}

fn holds_key(value: &[u8]) -> bool {
    value.windows(ALICE.len()).any(|window| window == ALICE.as_bytes())
}
