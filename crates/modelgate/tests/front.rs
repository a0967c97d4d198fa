//! The chain of routers and middlewares before the models: what passes it, and what is left behind. Requests are
//! written and read byte by byte, since clients and servers of others hide what this is about.

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{Duration, Instant},
};

use common::{KEY, NEWEST};
use raw::{RawServer, ask, header, status};
use testkit::{
    modelgate::Modelgate,
    need,
    traefik::{Traefik, traefik_binary},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Both layouts, before and after Traefik shows bodies, on either side of each fault that is closed here.
const VERSIONS: [&str; 7] = ["3.0.4", "3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", NEWEST];
const SOON: Duration = Duration::from_secs(60);
const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"llama","messages":[]}"#;

struct Front {
    traefik: Traefik,
    _modelgate: Modelgate,
}

/// What a test adds to the configuration.
#[derive(Default)]
struct Additions {
    /// After a comma, between the braces of `traefik`.
    traefik: &'static str,
    /// Lines.
    more: &'static str,
}

impl Front {
    /// A server of `llama` and others with settings of their own, and routers by hand under `/mine`, `/sized` and `/socket`.
    async fn start(
        version: &str,
        settings: &Additions,
        llama: &RawServer,
        others: &[(RawServer, &str)],
    ) -> Option<Self> {
        let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
        let Additions { traefik, more } = settings;
        let servers = format!("traefik: {{ version: {version:?}{traefik} }}\n{more}servers:\n");
        let mut yaml = common::config(&[], &servers);
        let all = others.iter().map(|(server, settings)| (server, *settings));
        // Before 3.3 nobody reads bodies, so only servers of one model are served.
        let first = std::iter::once((llama, "single_model: true"));
        for (number, (server, settings)) in first.chain(all).enumerate() {
            let _ = writeln!(yaml, "  - {{ url: \"{}\", name: raw-{number}, {settings} }}", server.url);
        }
        let mut dynamic = String::from("http:\n  routers:\n");
        for (path, gate) in
            [("mine", "modelgate"), ("sized", "modelgate-sized"), ("socket", "modelgate-websockets")]
        {
            let _ = writeln!(
                dynamic,
                "    {path}: {{ rule: PathPrefix(`/{path}`), middlewares: [{gate}@http], service: mine }}"
            );
        }
        let _ = writeln!(
            dynamic,
            "  services:\n    mine: {{ loadBalancer: {{ servers: [{{ url: {:?} }}] }} }}",
            llama.url
        );
        let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
        modelgate.wait_ready().await;
        let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).dynamic(dynamic);
        let traefik = builder.start().await;
        let front = Self { traefik, _modelgate: modelgate };
        for path in [CHAT, "/mine", "/sized"] {
            let last = RefCell::new(String::new());
            let passes = testkit::within(SOON, || async {
                let answer = front.ask("POST", path, "", BODY).await;
                let passes = status(&answer) == 200;
                last.replace(answer);
                passes.then_some(())
            });
            assert!(passes.await.is_some(), "{version} {path}: {}", last.borrow());
        }
        Some(front)
    }

    /// With a key and a length. Each model is named where the flat layout looks as well.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        self.ask_as(KEY, method, path, &headers, body).await
    }

    /// Whether the first of two chunks is there well before the second; once of some times, since a busy machine may
    /// hold up this test, and a proxy that collects chunks does so each time.
    async fn streams(&self, model: &str) -> bool {
        for _ in 0..4 {
            let body = BODY.replace("llama", model);
            let mut connection =
                TcpStream::connect(("127.0.0.1", self.traefik.port())).await.expect("a connection");
            let request = format!(
                "POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nX-Answer: stream\r\nContent-Type: \
                 application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(request.as_bytes()).await.expect("sent");
            let (mut answer, mut first) = (Vec::new(), None);
            while !answer.ends_with(b"0\r\n\r\n") {
                assert!(connection.read_buf(&mut answer).await.expect("more") > 0, "it broke off");
                if String::from_utf8_lossy(&answer).contains("first") {
                    first.get_or_insert_with(Instant::now);
                }
            }
            if first.expect("a chunk").elapsed() > Duration::from_millis(300) {
                return true;
            }
        }
        false
    }

    async fn ask_as(&self, key: &str, method: &str, path: &str, headers: &str, body: &str) -> String {
        let model = if headers.contains("X-Model") { "" } else { "X-Model: llama\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: \
             application/json\r\n{model}{headers}\r\n{body}"
        );
        ask(self.traefik.port(), request.as_bytes()).await
    }
}

fn chunked(body: &str, trailers: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n{trailers}\r\n", body.len())
}

/// A server that answers `101` has a tunnel to the client, past keys, models and limits (CVE-2026-88008); uvicorn does
/// not, and loses the body. Java's HTTP client asks for `h2c` by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_served_without_what_it_asks_to_switch_to() {
    let server = RawServer::start().await;
    for version in VERSIONS {
        let Some(front) = Front::start(version, &Additions::default(), &server, &[]).await else { continue };
        server.take();
        // Up to 3.3 Traefik takes up HTTP/2 itself (RFC 7540, 3.2), if all that belongs to it is there.
        let takes_up = ["3.0.4", "3.3.6"].contains(&version);
        let listed = if takes_up { "Upgrade" } else { "Upgrade, HTTP2-Settings" };
        let settings = format!("Connection: {listed}\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n");
        for upgrade in [
            "Upgrade: h2c\r\n",
            "upgrade: H2C\r\n",
            "Upgrade: h2c\r\nUpgrade: websocket\r\n",
            "Upgrade: websocket\r\nUpgrade: h2c\r\n",
            "Upgrade: websocket, h2c\r\n",
            "Upgrade: h2c,websocket\r\n",
            "Upgrade: websocket\r\n",
            "Upgrade: TLS/1.0\r\n",
            "Upgrade: websocket/13\r\n",
            "Upgrade: \r\n",
        ] {
            let headers = format!("{settings}{upgrade}");
            for (path, is_chunked) in
                [(CHAT, false), (CHAT, true), ("/mine", false), ("/mine", true), ("/sized", false)]
            {
                let answer = match is_chunked {
                    false => front.ask("POST", path, &headers, BODY).await,
                    true => {
                        let headers = format!("{headers}Transfer-Encoding: chunked\r\n");
                        front.ask_as(KEY, "POST", path, &headers, &chunked(BODY, "")).await
                    }
                };
                assert_eq!(status(&answer), 200, "{version} {path} {upgrade:?}: {answer}");
                let seen = server.take().pop().expect("a request");
                assert!(seen.contains(BODY), "{version} {path} {upgrade:?}: {seen}");
                for name in ["upgrade", "http2-settings"] {
                    assert_eq!(header(&seen, name), None, "{version} {path} {upgrade:?}: {seen}");
                }
            }
            // What Modelgate answers itself.
            let list = front.ask_as(KEY, "GET", "/v1/models", &headers, "").await;
            assert_eq!(status(&list), 200, "{version} {upgrade:?}: {list}");
        }
    }
}

/// A request that asks for a WebSocket among other things asks for that alone.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_websocket_is_asked_for() {
    let server = RawServer::start().await;
    for version in VERSIONS {
        for cors in ["", ", cors: { origins: [\"https://app.example.com\"] }"] {
            let Some(front) =
                Front::start(version, &Additions { traefik: cors, more: "" }, &server, &[]).await
            else {
                continue;
            };
            server.take();
            for (upgrade, path, is_kept) in [
                ("Upgrade: WebSocket\r\n", "/v1/realtime", true),
                ("Upgrade: websocket\r\nUpgrade: h2c\r\n", "/v1/realtime", true),
                ("Upgrade: h2c, websocket\r\n", "/v1/realtime", false),
                ("Upgrade: h2c\r\n", "/v1/realtime", false),
                ("Upgrade: h2c\r\n", "/socket", true),
                ("Upgrade: websocket\r\n", "/mine", false),
                ("Upgrade: websocket\r\n", "/sized", false),
            ] {
                let headers = format!(
                    "{upgrade}Connection: Upgrade, X-Inference-Consumer\r\nHTTP2-Settings: AAEA\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: \
                     https://app.example.com\r\n"
                );
                let answer = front.ask_as(KEY, "GET", path, &headers, "").await;
                assert_eq!(status(&answer), 200, "{version}{cors} {path} {upgrade:?}: {answer}");
                let seen = server.take().pop().expect("a request");
                let found = header(&seen, "upgrade");
                assert_eq!(
                    found,
                    is_kept.then_some("websocket"),
                    "{version}{cors} {path} {upgrade:?}: {seen}"
                );
                assert_eq!(
                    seen.to_lowercase().matches("upgrade: ").count(),
                    usize::from(is_kept),
                    "{version}: {seen}"
                );
                assert_eq!(header(&seen, "http2-settings"), None, "{version} {path}: {seen}");
                // A client could have a proxy drop what says who it is (RFC 9110, 7.6.1).
                assert_eq!(header(&seen, "x-inference-consumer"), Some("alice"), "{version} {path}: {seen}");
                let knows_origin = cors.is_empty() || !path.starts_with("/v1");
                assert_eq!(header(&seen, "origin").is_some(), knows_origin, "{version}{cors} {path}: {seen}");
            }
        }
    }
}

/// TRACE would have a server send its credential back.
#[tokio::test(flavor = "multi_thread")]
async fn methods_that_nobody_decided_about_reach_no_server() {
    let server = RawServer::start().await;
    for version in VERSIONS {
        let Some(front) = Front::start(version, &Additions::default(), &server, &[]).await else { continue };
        for path in [CHAT, "/v1/models", "/models/llama/v1/chat/completions", "/mine", "/sized", "/socket"] {
            server.take();
            for method in ["TRACE", "PROPFIND", "post", "get", "Options", "FOO", "CONNECT"] {
                for body in ["", BODY] {
                    let answer = front.ask(method, path, "", body).await;
                    assert!((400..502).contains(&status(&answer)), "{version} {method} {path}: {answer}");
                    // Traefik refuses CONNECT itself (400, 405 or 501), and bodies of what is to be a WebSocket.
                    if method != "CONNECT" && (path != "/socket" || body.is_empty()) {
                        let allow = header(&answer, "allow").unwrap_or_default();
                        let expected = (405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
                        assert_eq!((status(&answer), allow), expected, "{version} {method} {path}: {answer}");
                    }
                }
            }
            assert_eq!(server.take(), Vec::<String>::new(), "{version} {path}");
        }
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let body = if ["POST", "PUT", "PATCH"].contains(&method) { BODY } else { "" };
            let answer = front.ask(method, CHAT, "", body).await;
            assert_ne!(status(&answer), 405, "{version} {method}: {answer}");
        }
    }
}

/// Traefik 3.3 to 3.7 sends trailers on that were announced, once ForwardAuth has read the body; uvicorn and others take
/// them for headers.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_reach_no_server() {
    let server = RawServer::start().await;
    for version in VERSIONS {
        let Some(front) = Front::start(version, &Additions::default(), &server, &[]).await else { continue };
        server.take();
        let trailers = "X-Inference-Consumer: forged\r\nAuthorization: Bearer forged\r\nX_Inference_Key: \
                        forged\r\nContent-Type: text/forged\r\nX-Anything: forged\r\n";
        for announced in ["Trailer: X-Inference-Consumer, Authorization, X_Inference_Key, X-Anything\r\n", ""]
        {
            let headers = format!("Transfer-Encoding: chunked\r\n{announced}");
            let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nllama\r\n--b--\r\n";
            let upload = format!("{headers}Content-Type: multipart/form-data; boundary=b\r\n");
            for (method, path, headers, body) in [
                ("POST", CHAT, &headers, chunked(BODY, trailers)),
                ("POST", "/v1/audio/transcriptions", &upload, chunked(form, trailers)),
                ("POST", "/mine", &headers, chunked(BODY, trailers)),
                ("GET", "/v1/realtime", &headers, format!("0\r\n{trailers}\r\n")),
                ("GET", "/mine", &headers, format!("0\r\n{trailers}\r\n")),
            ] {
                let answer = front.ask_as(KEY, method, path, headers, &body).await;
                for seen in server.take() {
                    assert!(!seen.contains("forged"), "{version} {method} {path}: {seen}");
                    assert_eq!(
                        header(&seen, "x-inference-consumer"),
                        Some("alice"),
                        "{version} {path}: {seen}"
                    );
                }
                assert!(path != CHAT || status(&answer) == 200, "{version} {method} {path}: {answer}");
            }
        }
    }
}

/// Traefik holds back a status that it tries again for, but not that chunks are to be sent at once: clients got `200`
/// without a header, and the last attempt's body.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_its_status_whether_it_has_a_length_or_not() {
    let llama = RawServer::start().await;
    let mut others = Vec::new();
    for settings in [
        "models: [plain]",
        "models: [once], retry: { attempts: 1 }",
        "models: [backed], healthcheck: { path: /v1/models }",
        "models: [backed], priority: 1",
        "models: [failing], failover: { status: \"400-599\" }",
        "models: [failing], priority: 1",
    ] {
        others.push((RawServer::start().await, settings));
    }
    for version in ["3.6.15", "3.7.0", NEWEST] {
        let Some(front) = Front::start(version, &Additions::default(), &llama, &others).await else {
            continue;
        };
        for model in ["plain", "once", "backed", "failing"] {
            let body = BODY.replace("llama", model);
            for said in
                ["502", "503", "429", "400", "502-chunked", "503-chunked", "429-chunked", "400-chunked"]
            {
                let headers = format!("X-Model: {model}\r\nX-Answer: {said}\r\n");
                let answer = front.ask("POST", CHAT, &headers, &body).await;
                let expected: u16 = said[..3].parse().expect("a status");
                assert_eq!(status(&answer), expected, "{version} {model} {said}: {answer}");
                let own = if said.ends_with("chunked") { "chunked" } else { "whole" };
                let is_replaced = expected == 502 && model != "once" && version != "3.6.15";
                assert_eq!(answer.contains(own), !is_replaced, "{version} {model} {said}: {answer}");
                assert!(!is_replaced || answer.contains("\"bad_gateway\""), "{version} {model}: {answer}");
            }
            assert!(front.streams(model).await, "{version} {model}: it came all at once");
        }
    }
}

/// A stranger that announces a large body, or none, and sends it never, held what had come of it in Traefik's memory for
/// as long as `readTimeout`.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_before_the_body_is_there_and_a_right_one_is_counted_once() {
    let server = RawServer::start().await;
    for version in VERSIONS.into_iter().filter(|version| *version != "3.0.4") {
        // What starts it all takes one of each.
        let limit = Additions {
            traefik: "",
            more: "models: [{ match: llama, limit: { requests_per_hour: 12, burst: 12 } }]\n",
        };
        let Some(front) = Front::start(version, &limit, &server, &[]).await else { continue };
        let upload = "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n";
        for (path, headers) in [
            (CHAT, "Content-Length: 1000000\r\n"),
            (CHAT, "Content-Length: 33554432\r\n"),
            (CHAT, "Transfer-Encoding: chunked\r\n"),
            ("/v1/audio/transcriptions", upload),
            ("/mine", "Content-Length: 33554432\r\n"),
            ("/mine", "Transfer-Encoding: chunked\r\n"),
        ] {
            // Of a body without a length Go reads up to 256 KiB before it sends any answer.
            let beginning = match headers.starts_with("Transfer") {
                true => format!("80000\r\n{}", "a".repeat(300_000)),
                false => "a".repeat(1_000),
            };
            let answer = front.ask_as("mg-wrong", "POST", path, headers, &beginning).await;
            assert_eq!(status(&answer), 401, "{version} {path} {headers}: {answer}");
            assert!(answer.contains("invalid_api_key"), "{version} {path} {headers}: {answer}");
        }
        server.take();
        let long = BODY.replace("[]", &format!("[\"{}\"]", "a".repeat(1_100_000)));
        let mut passed = 0;
        while status(&front.ask("POST", CHAT, "", &long).await) == 200 {
            passed += 1;
        }
        assert!((6..12).contains(&passed), "{version}: {passed} of 12, and each was asked about twice");
        let seen = server.take();
        assert!(
            seen.len() == passed && seen.iter().all(|seen| seen.contains(&long)),
            "{version}: all of it arrives"
        );
    }
}

/// Servers close connections that are idle (uvicorn after 5 s). A request that is sent at that moment is lost, and
/// being a POST, Go does not send it again by itself; with 3.7 Traefik does. Of 10,000 some 60 were lost without.
///
/// What is left: Go may notice that the connection has closed just when it is about to write. Traefik then says `500`,
/// which nobody can tell from a server's own and so is not asked again for. On a busy machine that was once in 80,000.
/// No server has seen such a request, so clients may send it again, as SDKs do.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_server_closes_cost_next_to_no_request() {
    const CLIENTS: u64 = 16;
    const TURNS: u64 = 100;
    /// A fifth of a percent, a third of what is lost without.
    const MAX_LOST: usize = 3;
    let server = RawServer::start().await;
    for version in ["3.7.0", NEWEST] {
        let Some(front) = Front::start(version, &Additions::default(), &server, &[]).await else { continue };
        let front = &front;
        server.take();
        let clients = (0..CLIENTS).map(|client| async move {
            let mut lost = Vec::new();
            for turn in 0..TURNS {
                let name = format!("X-Turn: {client}-{turn}\r\n");
                let answer = front.ask("POST", CHAT, &format!("X-Answer: close\r\n{name}"), BODY).await;
                if status(&answer) != 200 {
                    let is_traefiks_own = status(&answer) == 500
                        && answer.ends_with("\r\n\r\nInternal Server Error")
                        && header(&answer, "content-type").is_none();
                    assert!(is_traefiks_own, "{version}: {answer}");
                    lost.push(name);
                }
                // Before, at and after the moment at which the server closes.
                tokio::time::sleep(Duration::from_micros((client * 131 + turn * 37) % 2_000)).await;
            }
            lost
        });
        let lost: Vec<String> = futures_util::future::join_all(clients).await.into_iter().flatten().collect();
        let seen = server.take();
        assert!(seen.len() as u64 >= CLIENTS * TURNS - lost.len() as u64, "{version}: {} seen", seen.len());
        assert!(lost.len() <= MAX_LOST, "{version}: {} of {} lost", lost.len(), CLIENTS * TURNS);
        let is_seen = |name: &String| seen.iter().any(|request| request.contains(name.as_str()));
        assert!(!lost.iter().any(is_seen), "{version}: answered with an error, and a server had it");
    }
}
