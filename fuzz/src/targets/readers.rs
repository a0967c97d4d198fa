//! What is read as the model is what real servers' readers read, or they refuse the request, too.

use std::sync::LazyLock;

use crate::{
    lenient::percent_decode,
    readers::{GO, PYTHON, Part, ValuesRead, ask},
    world::{ALICE, Asked, ROOT, SmallWorld, server},
};

/// Behind the gate any model may be named; Ollama's own endpoints read only bodies for its own models.
static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| {
    SmallWorld::new("*", vec![server("lenient", &["tiny", "dwarf"], &[("kind", "ollama")])])
});

static IN_URI: LazyLock<SmallWorld> = LazyLock::new(|| {
    SmallWorld::new("[!d]*", vec![server("a", &["cheap", "org/cheap", "/data/cheap", "dear"], &[])])
});

/// Asserts that each reading finds this model and nothing else.
fn assert_all_read(readings: &[ValuesRead], model: Option<&str>, what: &str) {
    for (at, reading) in readings.iter().enumerate() {
        let Some(found) = reading else { continue };
        let found: Vec<&str> = found.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let expected: Vec<&str> = model.into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(found, expected, "{what}, reading {at}");
    }
}

/// JSON bodies. The first byte says whether Ollama's own endpoint is asked.
pub(crate) fn json(data: &[u8]) {
    let Some((way, body)) = data.split_first() else { return };
    let is_ollama = way & 1 != 0;
    let asked = match is_ollama {
        true => Asked::new(ALICE, "POST", "/api/show").body("application/json", body),
        false => Asked::new(ROOT, "POST", "/v1/chat/completions").body("application/json", body).at_gate(),
    };
    let Ok(grant) = WORLD.decide(&asked) else { return };
    if body.is_empty() {
        return;
    }
    let model = grant.model.as_ref().map(catalogue::ModelName::as_str);
    let go = ask(&GO, Part::Json, body);
    let [_, _, _, show] = &go[..] else { panic!("four readings: {go:?}") };
    if is_ollama {
        return assert_all_read(std::slice::from_ref(show), model, "Go");
    }
    // The last one is Ollama's alone.
    assert_all_read(&go[..3], model, "Go");
    assert_all_read(&ask(&PYTHON, Part::Json, body), model, "Python");
}

/// Multipart bodies, after a line with their `Content-Type`.
pub(crate) fn multipart(data: &[u8]) {
    let Some(line) = data.iter().position(|b| *b == b'\n') else { return };
    let (content_type, body) = (&data[..line], &data[line + 1..]);
    let mut asked = Asked::new(ROOT, "POST", "/v1/audio/transcriptions").at_gate();
    let Ok(value) = http::HeaderValue::from_bytes(content_type) else { return };
    asked.headers.insert(http::header::CONTENT_TYPE, value);
    asked.body = body;
    let Ok(grant) = WORLD.decide(&asked) else { return };
    // JSON is read by others.
    if body.is_empty() || !content_type.to_ascii_lowercase().starts_with(b"multipart/") {
        return;
    }
    let model = grant.model.as_ref().map(catalogue::ModelName::as_str);
    assert_all_read(&ask(&GO, Part::Multipart, data), model, "Go");
    assert_all_read(&ask(&PYTHON, Part::Multipart, data), model, "Python");
}

/// Targets of requests.
pub(crate) fn uri(data: &[u8]) {
    let Ok(uri) = std::str::from_utf8(data) else { return };
    let Ok(grant) = IN_URI.decide(&Asked::new(ALICE, "GET", uri)) else { return };
    let model = grant.model.expect("a route is for a model");
    // Otherwise only the query can name it.
    let is_in_path = ["/models/", "/openai/deployments/"].iter().any(|prefix| uri.starts_with(prefix));
    let [in_go, go, cleaned] = &ask(&GO, Part::Uri, data)[..] else { panic!("three readings") };
    let [in_starlette, in_python, python] = &ask(&PYTHON, Part::Uri, data)[..] else {
        panic!("three readings")
    };
    for reading in [in_go, in_starlette, in_python] {
        let Some(found) = reading else { continue };
        let is_found = found.iter().map(String::as_str).eq([model.as_str()]);
        assert!(is_found || is_in_path && found.is_empty(), "{found:?}, not {model}");
    }
    let raw = uri.split('?').next().unwrap_or_default();
    let decoded = String::from_utf8(percent_decode(raw.as_bytes())).expect("UTF-8");
    // A name may begin with an encoded slash; Traefik removes it before any server cleans the path.
    let begins_with_slash = decoded.contains("//");
    let all = [go, python].into_iter().chain((!begins_with_slash).then_some(cleaned));
    for path in all.flatten() {
        assert_eq!(path[..], [decoded.as_str()], "{raw}");
    }
}
