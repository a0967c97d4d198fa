//! Decides about one request repeatedly, and does nothing else. The number of instructions that this takes says more about a
//! change than times on a busy machine do. `crates/modelgate/tests/speed.rs` runs it under Callgrind.

use std::{env, hint::black_box, sync::Arc, time::SystemTime};

use access::{Consumer, Decision, Key, KeyDigest, Mode, ModelGlobs, Policy, Request, decide};
use catalogue::{Catalogue, Kind, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState, ServerUrl};
use http::{HeaderMap, HeaderValue, header};
use limits::{Limiters, Rate, SystemClock};

/// `decisions KEYS MODELS BYTES TIMES`: the number of keys and of models, the length of the request's body, and the number of
/// decisions.
fn main() {
    let numbers: Vec<usize> = env::args().skip(1).map(|number| number.parse().expect("a number")).collect();
    let [keys, models, bytes, times] = numbers[..] else {
        panic!("KEYS MODELS BYTES TIMES, not {numbers:?}")
    };
    let (policy, catalogue) = (policy(keys), catalogue(models));
    let limiters = Limiters::new(SystemClock::new());
    let headers = headers(keys / 2);
    let body = body(models / 2, bytes);
    let request = Request {
        method: "POST",
        uri: "/v1/chat/completions",
        host: Some("llm.example.com"),
        headers: &headers,
        body: &body,
        mode: Mode::Layered,
        trusted: false,
        from: None,
        now: SystemTime::UNIX_EPOCH,
    };
    for _ in 0..times {
        let decision = decide(&policy, &catalogue, &limiters, black_box(&request));
        assert!(matches!(black_box(decision), Decision::Allow(_)), "it may pass");
    }
}

/// Keys with limits on requests and tokens that are too high ever to refuse.
fn policy(keys: usize) -> Policy {
    let requests = Rate::per_minute(Rate::MAX, None).expect("a rate");
    let consumer = Arc::new(Consumer::new("someone"));
    let models = ModelGlobs::parse(&["llama*".to_owned()]).expect("a pattern");
    let key = |i: usize| Key {
        models: models.clone(),
        limits: requests.into(),
        limits_per_model: requests.into(),
        ..Key::new(format!("key-{i}"), Arc::clone(&consumer), KeyDigest::of(&format!("mg-{i}")))
    };
    Policy::new((0..keys).map(key).collect(), Vec::new())
}

/// A catalogue with ten models on each server.
fn catalogue(models: usize) -> Catalogue {
    let card = |i| ModelCard::named(ModelName::new(&format!("llama-{i}")).expect("a model name"));
    let server = |i: usize| ServerRecord {
        spec: ServerSpec::configured(&format!("server-{i}"), ServerUrl::http("server", 8000)),
        state: ServerState::Ready,
        listed_as: Kind::Vllm,
        has_others: false,
        models: (i * 10..(i * 10 + 10).min(models)).map(card).collect(),
    };
    Catalogue::assemble((0..models.div_ceil(10)).map(server), Vec::new())
}

fn headers(key: usize) -> HeaderMap {
    let bearer = HeaderValue::from_str(&format!("Bearer mg-{key}")).expect("a header value");
    HeaderMap::from_iter([
        (header::AUTHORIZATION, bearer),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::USER_AGENT, HeaderValue::from_static("OpenAI/Python 2.8.0")),
    ])
}

/// A chat request with line breaks and quotes, as in real prompts.
fn body(model: usize, bytes: usize) -> Vec<u8> {
    const LINE: &str = r#"She said \"hello\" and went on to the next line of the file.\n"#;
    let start = format!(r#"{{"model":"llama-{model}","messages":[{{"role":"user","content":""#);
    let end = r#""}],"max_tokens":100,"temperature":0.7,"stream":true}"#;
    let lines = bytes.saturating_sub(start.len() + end.len()) / LINE.len();
    [start.as_str(), &LINE.repeat(lines), end].concat().into_bytes()
}
