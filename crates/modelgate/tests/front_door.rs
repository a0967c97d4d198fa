//! What clients do to the front door that all of them share: none of it may take another's answer.

mod common;

use std::{sync::Arc, time::Duration};

use common::{KEY, LLAMA_KEY, NEWEST, Stack, chat, stack};
use serde_json::Value;
use testkit::sim::{Options, Sim};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Each loads the machine, and a server that does not answer a probe in time is withdrawn.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A client that asks and, a moment later, resets its connection.
async fn ask_and_reset(port: u16, after: Duration) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let body = chat("llama").to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    sleep(after).await;
    // Without lingering, closing resets.
    let _ = stream.set_zero_linger();
}

/// What was not answered with 200, of twelve requests.
async fn ask_on(stack: Arc<Stack>) -> Vec<String> {
    let mut failures = Vec::new();
    for _ in 0..12 {
        match stack.post("/v1/chat/completions", &chat("llama")).timeout(Duration::from_secs(60)).send().await
        {
            Ok(answer) if answer.status() == 200 => {}
            Ok(answer) => {
                let status = answer.status();
                failures.push(format!("{status}: {}", answer.text().await.unwrap_or_default()));
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures
}

/// Traefik asks about all requests over one HTTP/2 connection, and resets the stream of a client that has gone: after
/// 20 at once h2 closed the connection, and the others got bare 500s. No key is needed for it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_take_nobody_elses_answer() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    for version in ["3.6.2", NEWEST] {
        let Some(stack) = stack(version, &[&sim], "").await else { continue };
        stack.wait_for("llama").await;
        let stack = Arc::new(stack);
        let mut others: JoinSet<Vec<String>> = (0..32).map(|_| ask_on(Arc::clone(&stack))).collect();
        let mut failures = Vec::new();
        for rounds in 1.. {
            let port = stack.traefik.port();
            let leaving = (0..240).map(|i| ask_and_reset(port, Duration::from_millis(i % 8)));
            leaving.collect::<JoinSet<()>>().join_all().await;
            while let Some(told) = others.try_join_next() {
                failures.extend(told.expect("a client of ours"));
            }
            if others.is_empty() && rounds >= 10 {
                break;
            }
        }
        assert!(failures.is_empty(), "{version}: {} of 384: {failures:?}", failures.len());
    }
}

/// Sends bytes as they are, and reads the answer to its end: status and body.
async fn raw(port: u16, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    timeout(Duration::from_secs(60), stream.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

/// The head of a request whose connection ends with it.
fn head(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n{more}")
}

/// Headers of more than 16 KB in all were a bare 500, a length with zeros before it "too large", a URL with an ë "for
/// Traefik only".
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_cannot_be_served_are_told_why() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    for version in ["3.3.6", "3.6.2", NEWEST] {
        let more = format!("traefik: {{ version: {version:?} }}\n");
        let Some(stack) = stack(version, &[&sim], &more).await else { continue };
        // The flat layout chooses by the path.
        let path = "/models/llama/v1/chat/completions";
        testkit::eventually(Duration::from_secs(60), || async {
            (common::send(stack.post(path, &chat("llama"))).await.status() == 200).then_some(())
        })
        .await;
        let port = stack.traefik.port();
        let body = chat("llama").to_string();
        let json = "Content-Type: application/json\r\n";
        for (filler, expected) in [(0, 200), (20_000, 200), (60_000, 200), (70_000, 431), (1_000_000, 431)] {
            let more = format!("X-Long: {}\r\n", "x".repeat(filler));
            let post = head(
                &format!("POST {path}"),
                &format!("{more}{json}Content-Length: {}\r\n\r\n{body}", body.len()),
            );
            let list = head("GET /v1/models", &format!("{more}\r\n"));
            for (what, request) in [("POST", post), ("list", list)] {
                let (status, told) = raw(port, request.as_bytes()).await;
                assert_eq!(status, expected, "{version} {what} {filler}: {told}");
                let code = (status == 431).then_some("headers_too_large");
                assert_eq!(told["error"]["code"].as_str(), code, "{version} {what} {filler}");
            }
            // The same from clients that speak HTTP/2.
            let h2 = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().expect("a client");
            let request = h2.get(format!("{}/v1/models", stack.traefik.url())).bearer_auth(KEY);
            let (status, told) = common::refusal(request.header("x-long", "x".repeat(filler))).await;
            assert_eq!(status, expected, "{version} HTTP/2 {filler}: {told}");
        }
        for (line, length, code) in [
            (format!("POST {path}"), format!("00{}", body.len()), "invalid_content_length"),
            (format!("POST {path}?user=Zo\u{eb}"), body.len().to_string(), "invalid_url"),
        ] {
            let request = head(&line, &format!("{json}Content-Length: {length}\r\n\r\n{body}"));
            let (status, told) = raw(port, request.as_bytes()).await;
            assert_eq!((status, told["error"]["code"].as_str()), (400, Some(code)), "{version}: {told}");
        }
        let (status, told) = raw(port, head("GET /v1/limits?model=Zo\u{eb}", "\r\n").as_bytes()).await;
        assert_eq!((status, told["error"]["code"].as_str()), (400, Some("invalid_url")), "{version}: {told}");
    }
}

/// h2 ends a connection on which a URL is not UTF-8. Where the client's own URL is asked for (lists, refusals), all clients
/// shared one: 1,100 such requests, with no key, took 381 lists from four others.
#[tokio::test(flavor = "multi_thread")]
async fn urls_that_cannot_be_read_take_nobody_elses_answer() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    for version in ["3.0.4", "3.6.2", NEWEST] {
        let more = format!("traefik: {{ version: {version:?} }}\n");
        let Some(stack) = stack(version, &[&sim], &more).await else { continue };
        let stack = Arc::new(stack);
        testkit::eventually(Duration::from_secs(60), || async {
            (common::send(stack.get("/v1/models")).await.status() == 200).then_some(())
        })
        .await;
        let mut others: JoinSet<String> = (0..8).map(|_| list_on(Arc::clone(&stack))).collect();
        for i in 0..200 {
            let unread = head("GET /v1/models?a=\u{7f}", "\r\n").into_bytes();
            let unread: Vec<u8> = unread.into_iter().map(|b| if b == 0x7f { 0xeb } else { b }).collect();
            let (status, _) = raw(stack.traefik.port(), &unread).await;
            assert_eq!(status, 400, "{version}: {i}");
        }
        others.abort_all();
        while let Some(told) = others.join_next().await {
            // They go on until they are aborted; one that has ended has failed.
            assert!(told.is_err(), "{version}: {told:?}");
        }
    }
}

/// Asks for the models until an answer is not 200.
async fn list_on(stack: Arc<Stack>) -> String {
    loop {
        match stack.get("/v1/models").timeout(Duration::from_secs(60)).send().await {
            Ok(answer) if answer.status() == 200 => {}
            other => return format!("{other:?}"),
        }
    }
}

/// Keys of other gateways' clients: the headers in which they stand, once they are named; no server gets any of them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_other_headers_work_once_named_and_reach_no_server() {
    let _alone = ALONE.lock().await;
    // Before 3.3 nobody reads bodies, so only servers of one model are served.
    let sim = Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named("a", &["llama"]) });
    for version in ["3.0.4", "3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let more = format!(
            "requests: {{ key_headers: [apikey, X-Team-Key] }}\ntraefik: {{ version: {version:?} }}\n"
        );
        let Some(stack) = stack(version, &[&sim], &more).await else { continue };
        named_headers_work(version, &stack).await;
        sim.forget_requests();
        no_server_gets_a_key(version, &stack, &sim).await;
        a_key_in_another_place_is_refused(version, &stack).await;
        assert_eq!(sim.posts().len(), 2, "{version}: no refused request has reached the server");
    }
}

fn url_of_llama(stack: &Stack) -> String {
    format!("{}/models/llama/v1/chat/completions", stack.traefik.url())
}

fn ask_with(stack: &Stack, header: &'static str, key: &str) -> reqwest::RequestBuilder {
    stack.client.post(url_of_llama(stack)).header(header, key).json(&chat("llama"))
}

async fn named_headers_work(version: &str, stack: &Stack) {
    let ask = |header: &'static str, key: &str| ask_with(stack, header, key);
    testkit::eventually(Duration::from_secs(60), || async {
        (common::send(ask("apikey", KEY)).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(common::send(ask("x-team-key", &format!("Bearer {KEY}"))).await.status(), 200, "{version}");
    for (header, key) in [("apikey", "mg-wrong"), ("x-goog-api-key", KEY), ("x_team_key", KEY)] {
        assert_eq!(common::send(ask(header, key)).await.status(), 401, "{version}: {header}");
    }
    let advisories = stack.modelgate.readyz().await["advisories"].to_string();
    assert_eq!(advisories.contains("CVE-2026-88011"), version != NEWEST, "{version}: {advisories}");
    let both = ask("apikey", KEY).bearer_auth(LLAMA_KEY);
    assert_eq!(common::send(both).await.status(), 401, "{version}: two keys");
}

async fn no_server_gets_a_key(version: &str, stack: &Stack, sim: &Sim) {
    let mut request = ask_with(stack, "apikey", KEY).bearer_auth(KEY);
    for header in WITHHELD {
        request = request.header(header, KEY);
    }
    let request = request.header("cookie", "session=kept").header("x-kept", "kept");
    assert_eq!(common::send(request).await.status(), 200, "{version}");
    let seen = &sim.posts()[0];
    let leaks: Vec<_> = seen.headers.iter().filter(|(_, value)| value.contains(KEY)).collect();
    assert!(leaks.is_empty(), "{version}: {leaks:?}");
    assert_eq!(
        (seen.header("cookie"), seen.header("x-kept")),
        (Some("session=kept"), Some("kept")),
        "{version}"
    );
}

/// In the URL, or in a header that nobody knows to hold keys.
async fn a_key_in_another_place_is_refused(version: &str, stack: &Stack) {
    let url = url_of_llama(stack);
    let in_url =
        |query: &str| stack.client.post(format!("{url}?{query}")).bearer_auth(KEY).json(&chat("llama"));
    let (status, told) = common::refusal(in_url(&format!("key={KEY}"))).await;
    assert_eq!((status, told["error"]["code"].as_str()), (400, Some("api_key_in_url")), "{version}: {told}");
    assert_eq!(common::send(in_url("key=somebody-elses")).await.status(), 200, "{version}");
    let unknown = ask_with(stack, "x-hf-token", KEY).bearer_auth(KEY);
    let (status, told) = common::refusal(unknown).await;
    assert_eq!(
        (status, told["error"]["code"].as_str()),
        (400, Some("api_key_in_header")),
        "{version}: {told}"
    );
    assert!(told.to_string().contains("x-hf-token"), "{told}");
}

/// Beside `Authorization` and `apikey`.
const WITHHELD: [&str; 14] = [
    "x_api_key",
    "api_key",
    "x.api.key",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x_goog_api_key",
    "x-litellm-api-key",
    "x-litellm-key",
    "ocp-apim-subscription-key",
    "x-auth-token",
    "proxy-authorization",
    "x_team_key",
    "sec_websocket_protocol",
];

/// Go's HTTP/2 server believes the first of two lengths, and Traefik's rules are content with any: a short one
/// beside it had a stranger's body, of any length, kept in Traefik's memory.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_lengths_the_longer_one_decides_how_a_request_is_treated() {
    let sim = Sim::start("a", &["llama"]);
    for version in ["3.3.6", "3.6.15", NEWEST] {
        let more = format!("traefik: {{ version: {version:?} }}\n");
        let Some(stack) = stack(version, &[&sim], &more).await else { continue };
        for lengths in [["2000000", "5"], ["5", "2000000"]] {
            let stream = TcpStream::connect(("127.0.0.1", stack.traefik.port())).await.expect("a connection");
            let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            // On 3.3.6 a model is named in the path.
            let url = format!("http://127.0.0.1:{}/models/llama/v1/chat/completions", stack.traefik.port());
            let mut request = http::Request::post(url).header("content-type", "application/json");
            request = request.header("authorization", "Bearer wrong");
            for length in lengths {
                request = request.header("content-length", length);
            }
            let (answer, mut body) =
                client.send_request(request.body(()).expect("a request"), false).expect("a stream");
            // Not all of it: the key comes first.
            let sent = body.send_data(vec![b'a'; 1_000].into(), false);
            let status = timeout(Duration::from_secs(30), answer)
                .await
                .map(|answer| answer.map(|a| a.status().as_u16()));
            // More than the first length said is an error of the stream.
            let is_refused = matches!(status, Ok(Ok(401) | Err(_)));
            assert!(is_refused, "{version} {lengths:?}: {sent:?} {status:?}");
            assert!(lengths[0] == "5" || matches!(status, Ok(Ok(401))), "{version} {lengths:?}: {status:?}");
        }
    }
}
