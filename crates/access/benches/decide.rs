//! Measures how long a decision takes, by body size and number of keys.
//!
//! `cargo bench -p access`. Compare the ratios only: absolute figures depend on the machine.

use std::{hint::black_box, time::Instant};

use access::{Consumer, Decision, Key, KeyDigest, Mode, ModelGlobs, ModelLimit, Policy, Request, decide};
use catalogue::{Catalogue, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState, ServerUrl};
use http::{HeaderMap, HeaderValue, header};
use limits::{Limiters, Rate, SystemClock};

const ROUNDS: usize = 11;
/// Bytes read per round, so that rounds of small bodies are long enough to measure.
const ROUND_BYTES: usize = 16 << 20;

fn main() {
    let catalogue = catalogue();
    let policies = [10, 100_000].map(|keys| (keys, policy(keys)));
    let bodies = [("2 KB", 2 << 10), ("200 KB", 200 << 10), ("8 MB", 8 << 20)];
    let mut base = None;
    say(&format!("{:>8} {:>8} {:>14} {:>10} {:>9}", "keys", "body", "ns/decide", "ratio", "GB/s"));
    for (keys, policy) in &policies {
        for (label, size) in bodies {
            let headers = headers(keys / 2);
            for (kind, body) in [("", json_body(size)), ("form", form_body(size))] {
                let ns = measure(policy, &catalogue, &headers[usize::from(!kind.is_empty())], &body);
                let base = *base.get_or_insert(ns);
                let speed = body.len() as f64 / ns;
                say(&format!("{keys:>8} {label:>8} {ns:>14.0} {:>10.2} {speed:>9.2} {kind}", ns / base));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]
fn say(line: &str) {
    println!("{line}");
}

/// The median of several rounds, in nanoseconds per decision.
fn measure(policy: &Policy, catalogue: &Catalogue, headers: &HeaderMap, body: &[u8]) -> f64 {
    let limiters = Limiters::new(SystemClock::new());
    let request = Request {
        method: "POST",
        uri: "/v1/chat/completions",
        host: Some("llm.example.com"),
        headers,
        body,
        mode: Mode::Layered,
        trusted: false,
        from: None,
        now: std::time::SystemTime::UNIX_EPOCH,
    };
    let times = (ROUND_BYTES / body.len()).max(1);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..times {
                let decision = decide(policy, catalogue, &limiters, black_box(&request));
                assert!(matches!(black_box(decision), Decision::Allow(_)));
            }
            start.elapsed().as_nanos() as f64 / times as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Headers with a key from the middle of the policy, for JSON and for a form.
fn headers(key: usize) -> [HeaderMap; 2] {
    ["application/json", "multipart/form-data; boundary=----WebKitFormBoundaryAbc"].map(|kind| {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer mg-{key}")).expect("a header value");
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers
    })
}

/// A chat about a base64 image, which is most of the body; `model` comes first.
fn json_body(size: usize) -> Vec<u8> {
    let (head, tail) = (
        r#"{"model":"llama-7","stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"What\nis this?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,"#,
        r#""}}]}],"temperature":0.7}"#,
    );
    let image = "iVBORw0KGgoAAAANSUhEUgAA".repeat(size / 24);
    format!("{head}{}{tail}", &image[..size.saturating_sub(head.len() + tail.len()).min(image.len())])
        .into_bytes()
}

/// A sound file to transcribe.
fn form_body(size: usize) -> Vec<u8> {
    let disposition = "------WebKitFormBoundaryAbc\r\nContent-Disposition: form-data; name=";
    let mut body = format!("{disposition}\"file\"; filename=\"a.wav\"\r\n\r\n").into_bytes();
    body.extend((0..size).map(|i| ((i * i) >> 7) as u8));
    body.extend(
        format!("\r\n{disposition}\"model\"\r\n\r\nllama-7\r\n------WebKitFormBoundaryAbc--\r\n")
            .into_bytes(),
    );
    body
}

/// Keys with all three limits, wide enough never to refuse.
fn policy(keys: usize) -> Policy {
    let wide = Rate::per_minute(Rate::MAX, None).expect("a rate");
    let models = ModelGlobs::parse(&["llama*".to_owned()]).expect("a pattern");
    let consumer = std::sync::Arc::new(Consumer::new("someone"));
    let key = |i: usize| Key {
        models: models.clone(),
        limits: wide.into(),
        limits_per_model: wide.into(),
        ..Key::new(format!("key-{i}"), consumer.clone(), KeyDigest::of(&format!("mg-{i}")))
    };
    Policy::new(
        (0..keys).map(key).collect(),
        vec![ModelLimit { models: models.clone(), limits: wide.into() }],
    )
}

fn catalogue() -> Catalogue {
    let card = |i| ModelCard::named(ModelName::new(&format!("llama-{i}")).expect("a model name"));
    let server = ServerRecord {
        spec: ServerSpec::configured("a", ServerUrl::http("a", 8000)),
        state: ServerState::Ready,
        listed_as: catalogue::Kind::Other,
        has_others: false,
        models: (0..100).map(card).collect(),
    };
    Catalogue::assemble([server], Vec::new())
}
