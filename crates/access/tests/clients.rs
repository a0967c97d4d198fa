//! What clients send that is out of the ordinary: where it passes, and where not.

mod common;

use access::{Decision, Mode, Policy};
use catalogue::{Kind, ServerRecord};
use common::{Call, World, key, server_with};

/// Alice may use all but what begins with `d`.
fn world() -> World {
    let of_kind = |name: &str, models: &[&str], kind: Kind| ServerRecord {
        listed_as: kind,
        ..server_with(name, models, &[])
    };
    let servers = vec![
        of_kind("ollama", &["llama3:latest", "dear"], Kind::Ollama),
        of_kind("vllm", &["sole"], Kind::Vllm),
        of_kind("adapters", &["base", "lora"], Kind::Vllm),
        of_kind("cpp", &["tiny"], Kind::LlamaCpp),
        of_kind("unknown", &["app"], Kind::Other),
        // Of these two, one reads bodies as nobody knows.
        of_kind("here", &["both"], Kind::Ollama),
        of_kind("there", &["both"], Kind::Other),
        of_kind("account", &["gpt"], Kind::Provider),
        server_with("single", &["own"], &[("single_model", "true")]),
    ];
    World::new(Policy::new(vec![key("alice", "[!d]*", None, None)], Vec::new()), servers)
}

fn alice() -> Call {
    Call::new("mg-alice")
}

fn model_of(world: &World, call: &Call) -> Option<String> {
    match world.decide(call) {
        Decision::Allow(grant) => grant.model.map(|model| model.as_str().to_owned()),
        Decision::Deny(_) => None,
    }
}

const TYPES: [&[&str]; 4] = [
    &[],
    &["application/x-www-form-urlencoded"],
    &["text/plain;charset=UTF-8"],
    &["application/json; version=1"],
];

fn typed(types: &[&str], uri: &str, body: &str) -> Call {
    types.iter().fold(alice().uri(uri).body(body), |call, value| call.header("content-type", value))
}

/// Ollama's documentation has no `Content-Type` in its commands, and curl says then that it is a form.
#[test]
fn ollama_takes_json_of_any_type_and_it_is_read_as_closely() {
    let world = world();
    for types in TYPES {
        for uri in ["/api/chat", "/api/show", "/v1/chat/completions", "/models/llama3/api/chat"] {
            let call = typed(types, uri, r#"{"model":"llama3","messages":[]}"#);
            assert_eq!(model_of(&world, &call).as_deref(), Some("llama3"), "{call:?}: {}", world.code(&call));
        }
        for (body, code) in [
            // As strictly as ever.
            (r#"{"model":"llama3","model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3","Model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3","mod\u0065l":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3"}{"model":"dear"}"#, "unsupported_content_type"),
            ("\u{feff}{\"model\":\"llama3\"}", "unsupported_content_type"),
            ("model=llama3", "unsupported_content_type"),
            (r#"["llama3"]"#, "unsupported_content_type"),
            // What is forbidden answers like what is not there.
            (r#"{"model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"duck"}"#, "unsupported_content_type"),
            ("{}", "unsupported_content_type"),
            // Nobody else reads it so, or nobody knows.
            (r#"{"model":"sole"}"#, "unsupported_content_type"),
            (r#"{"model":"tiny"}"#, "unsupported_content_type"),
            (r#"{"model":"app"}"#, "unsupported_content_type"),
            (r#"{"model":"both"}"#, "unsupported_content_type"),
            (r#"{"model":"gpt"}"#, "unsupported_content_type"),
        ] {
            for uri in ["/api/chat", "/v1/chat/completions"] {
                let call = typed(types, uri, body);
                assert_eq!(world.code(&call), code, "{call:?}");
            }
        }
        let disagrees = typed(types, "/models/llama3/api/chat", r#"{"model":"other"}"#);
        assert_eq!(world.code(&disagrees), "model_ambiguous");
        let gate = Mode::Gate { model: None, body_forwarded: true, single_model: false };
        let own_router = typed(types, "/api/chat", r#"{"model":"llama3"}"#).mode(gate);
        assert_eq!(world.code(&own_router), "unsupported_content_type", "nobody knows where it leads");
    }
    let body = r#"{"model":"llama3","messages":[]}"#;
    for (call, code) in [
        (
            typed(&["text/plain"], "/api/chat", body).header("content-encoding", "zstd"),
            "unsupported_encoding",
        ),
        (typed(&["text/plain", "application/json"], "/api/chat", body), "unsupported_content_type"),
        (typed(&["multipart/mixed; boundary=b"], "/api/chat", body), "unsupported_content_type"),
        (typed(&["text/plain, multipart/form-data"], "/api/chat", body), "unsupported_content_type"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
    // What a server with one model gets unread, it gets as before, whatever stands in it.
    for name in ["tiny", "own"] {
        let call = typed(&["text/plain"], &format!("/models/{name}/v1/x"), r#"{"model":"dear"}"#);
        let open = typed(&["text/plain"], &format!("/models/{name}/v1/embeddings"), r#"{"model":"dear"}"#);
        assert_eq!(model_of(&world, if name == "own" { &call } else { &open }).as_deref(), Some(name));
    }
}

/// Ollama's client in Go sends `"name": ""` with each question about a model.
#[test]
fn an_empty_name_is_nothing_to_ollama_alone() {
    let world = world();
    let show = |body: &str| alice().uri("/api/show").json(body);
    for (body, code) in [
        (r#"{"model":"llama3","system":"","template":"","options":null,"name":""}"#, "ok"),
        (r#"{"name":"","model":"llama3:latest"}"#, "ok"),
        (r#"{"name":"llama3"}"#, "ok"),
        (r#"{"model":"llama3","name":"dear"}"#, "model_ambiguous"),
        (r#"{"model":"llama3","name":"","name":"dear"}"#, "model_ambiguous"),
        (r#"{"model":"llama3","Name":""}"#, "model_ambiguous"),
        (r#"{"model":"dear","name":""}"#, "model_ambiguous"),
        (r#"{"model":"app","name":""}"#, "model_ambiguous"),
        (r#"{"model":"both","name":""}"#, "model_ambiguous"),
    ] {
        assert_eq!(world.code(&show(body)), code, "{body}");
    }
    let chat = alice().uri("/api/chat").json(r#"{"model":"llama3","name":""}"#);
    assert_eq!(world.code(&chat), "model_ambiguous", "it is no field there");
}

/// Codex asks for a WebSocket first, without a model, and tried for seconds.
#[test]
fn a_websocket_for_what_is_asked_by_post_is_told_so() {
    let world = world();
    let socket = |uri: &str| {
        let call = Call { method: "GET", ..alice().uri(uri) };
        call.header("sec-websocket-key", "x").header("sec-websocket-version", "13")
    };
    for uri in [
        "/v1/responses",
        "/v1/responses?model=sole",
        "/models/sole/v1/responses",
        "/models/lora/v1/responses",
        "/models/gpt/v1/responses",
        "/openai/deployments/sole/responses",
        "/v1/chat/completions?model=base",
    ] {
        assert_eq!(world.code(&socket(uri)), "websocket_not_served", "{uri}");
    }
    for (call, code) in [
        (socket("/v1/realtime"), "model_missing"),
        (socket("/v1/realtime?model=sole"), "ok"),
        (socket("/v1/realtime?model=base"), "model_missing"),
        (socket("/v1/responses?model=dear"), "model_not_found"),
        (socket("/v1/responses?model=duck"), "model_not_found"),
        (socket("/v1/responses?model=sole").header("x-model", "tiny"), "model_ambiguous"),
        (socket("/v1/metrics"), "closed_path"),
        // Nobody knows what the server makes of them; its owner does.
        (socket("/models/own/v1/responses"), "ok"),
        (Call { method: "GET", ..alice().uri("/v1/responses") }, "model_missing"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}
