//! Unusual requests of real clients: where they pass, and where they are refused.

mod common;

use access::{Decision, Mode, Policy};
use catalogue::{Kind, ServerRecord};
use common::{Call, World, key, server_with};

/// Alice may use all models except those that begin with `d`.
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
        // One of these two is of unknown kind.
        of_kind("here", &["both"], Kind::Ollama),
        of_kind("there", &["both"], Kind::Other),
        of_kind("account", &["gpt"], Kind::Provider),
        of_kind("sglang", &["/data/models/Qwen"], Kind::Sglang),
        of_kind("words", &["sleep", "load", "org/tools", "deep/dear"], Kind::Vllm),
        server_with("single", &["own"], &[("single_model", "true")]),
        server_with("any", &["free"], &[("single_model", "true"), ("accepts", "any")]),
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

/// The commands in Ollama's documentation have no `Content-Type`, so curl declares a form.
#[test]
fn ollama_takes_json_of_any_type_and_it_is_read_as_closely() {
    let world = world();
    for types in TYPES {
        for uri in ["/api/chat", "/api/show", "/v1/chat/completions", "/models/llama3/api/chat"] {
            let call = typed(types, uri, r#"{"model":"llama3","messages":[]}"#);
            assert_eq!(model_of(&world, &call).as_deref(), Some("llama3"), "{call:?}: {}", world.code(&call));
        }
        for (body, code) in [
            // The reader is as strict as ever.
            (r#"{"model":"llama3","model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3","Model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3","mod\u0065l":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"llama3"}{"model":"dear"}"#, "unsupported_content_type"),
            ("\u{feff}{\"model\":\"llama3\"}", "unsupported_content_type"),
            ("model=llama3", "unsupported_content_type"),
            (r#"["llama3"]"#, "unsupported_content_type"),
            // A forbidden model gets the same answer as an unknown one.
            (r#"{"model":"dear"}"#, "unsupported_content_type"),
            (r#"{"model":"duck"}"#, "unsupported_content_type"),
            ("{}", "unsupported_content_type"),
            // Other kinds do not read it so, or may not.
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
    // A server with one model gets unread bodies as before, whatever they hold.
    for name in ["tiny", "own"] {
        let call = typed(&["text/plain"], &format!("/models/{name}/v1/x"), r#"{"model":"dear"}"#);
        let open = typed(&["text/plain"], &format!("/models/{name}/v1/embeddings"), r#"{"model":"dear"}"#);
        assert_eq!(model_of(&world, if name == "own" { &call } else { &open }).as_deref(), Some(name));
    }
}

/// Ollama's Go client sends `"name": ""` with each request about a model.
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

/// Codex requests a WebSocket first, without a model, and used to retry for seconds.
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
        // It is unknown how the server reads them, but the owner has opened them.
        (socket("/models/own/v1/messages"), "ok"),
        (Call { method: "GET", ..alice().uri("/v1/responses") }, "model_missing"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

/// Azure's clients and others that name the model in the path send `"model": null`.
#[test]
fn a_model_that_is_null_is_none_where_that_is_known() {
    let world = world();
    let null = |uri: &str| alice().uri(uri).json(r#"{"model":null,"messages":[]}"#);
    let sole = |body: &str| alice().uri("/models/sole/v1/chat/completions").json(body);
    for uri in [
        "/models/sole/v1/chat/completions",
        "/openai/deployments/sole/chat/completions",
        "/models/tiny/v1/chat/completions",
        "/models/own/v1/chat/completions",
    ] {
        assert_eq!(world.code(&null(uri)), "ok", "{uri}");
    }
    for (call, code) in [
        (null("/v1/chat/completions").header("x-model", "sole"), "ok"),
        // The request names no other model, or the refusal must not reveal which one.
        (null("/v1/chat/completions"), "model_invalid"),
        (null("/models/dear/v1/chat/completions"), "model_not_found"),
        (null("/models/duck/v1/chat/completions"), "model_not_found"),
        // A server with several models uses its default.
        (null("/models/lora/v1/chat/completions"), "model_missing"),
        (null("/models/llama3/v1/chat/completions"), "model_missing"),
        // It is unknown how these read it.
        (null("/models/app/v1/chat/completions"), "model_invalid"),
        (null("/models/app/predict"), "model_invalid"),
        (null("/models/gpt/v1/chat/completions"), "model_invalid"),
        (null("/models/both/v1/chat/completions"), "model_invalid"),
        (sole(r#"{"model":null,"model":"dear"}"#), "model_invalid"),
        (sole(r#"{"model":"sole","model":null}"#), "model_ambiguous"),
        (sole(r#"{"model":null,"Model":"dear"}"#), "model_invalid"),
        (sole(r#"{"model":null,"lora_path":"dear"}"#), "field_not_accepted"),
        (sole(r#"{"model":false}"#), "model_invalid"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn a_name_in_a_path_may_have_encoded_slashes_and_be_any_word() {
    let world = world();
    let chat = |uri: &str| alice().uri(uri).json(r#"{"messages":[]}"#);
    let named =
        |uri: &str, model: &str| alice().uri(uri).json(&format!(r#"{{"model":"{model}","messages":[]}}"#));
    for (call, model) in [
        (chat("/models/%2Fdata%2Fmodels%2FQwen/v1/chat/completions"), "/data/models/Qwen"),
        (chat("/openai/deployments/%2fdata%2fmodels%2fQwen/chat/completions"), "/data/models/Qwen"),
        (chat("/models/%2Fdata/models/Qwen/v1/chat/completions"), "/data/models/Qwen"),
        (named("/models/org%2Ftools/v1/chat/completions", "org/tools"), "org/tools"),
        (named("/models/org/tools/v1/chat/completions", "org/tools"), "org/tools"),
        (named("/models/sleep/v1/chat/completions", "sleep"), "sleep"),
        (named("/openai/deployments/load/chat/completions", "load"), "load"),
    ] {
        assert_eq!(model_of(&world, &call).as_deref(), Some(model), "{call:?}: {}", world.code(&call));
    }
    let own_router = Mode::Gate { model: None, body_forwarded: true, single_model: false };
    for (call, code) in [
        // The name must end where Traefik removes it.
        (chat("/models/sole%2Fv1/chat/completions"), "invalid_uri"),
        (chat("/models/sole/v1%2Fchat/completions"), "invalid_uri"),
        (chat("/models/org%2Ftools%2Fv1/chat/completions"), "invalid_uri"),
        (chat("/openai/deployments/sole/chat%2Fcompletions"), "invalid_uri"),
        (chat("/v1/chat%2Fcompletions").header("x-model", "sole"), "invalid_uri"),
        (chat("/models//data/models/Qwen/v1/chat/completions"), "invalid_uri"),
        (chat("/models/%2F%2Fdata/v1/chat/completions"), "invalid_uri"),
        (chat("/models/sole%2F..%2Fsleep/v1/sleep"), "invalid_uri"),
        (chat("/models/%252Froot%252Fmodels%252FQwen/v1/x"), "invalid_uri"),
        // Traefik matches the prefix literally, and would leave the name there: `/models/load` manages servers.
        (chat("/model%73/load"), "invalid_uri"),
        (chat("/%6dodels/sleep/v1/chat/completions"), "invalid_uri"),
        (chat("/openai%2Fdeployments/sole/chat/completions"), "invalid_uri"),
        // A forbidden model gets the same answer as an unknown one, however it is written.
        (chat("/models/deep%2Fdear/v1/chat/completions"), "model_not_found"),
        (chat("/models/deep%2Fduck/v1/chat/completions"), "model_not_found"),
        (chat("/models/%2Fdata%2Fdear/v1/chat/completions"), "model_not_found"),
        // After the name, everything that was closed stays closed.
        (chat("/models/sleep/sleep"), "closed_path"),
        (chat("/models/org%2Ftools/tools"), "closed_path"),
        (chat("/models/load/v1/load_lora_adapter"), "closed_path"),
        (chat("/models/load/models/load"), "closed_path"),
        (chat("/models/none/sleep"), "closed_path"),
        // A router of the user's own need not remove the name.
        (named("/models/sleep/v1/chat/completions", "sleep").mode(own_router), "closed_path"),
        (named("/models/org%2Fcheap/v1/x", "org/cheap").mode(own_router), "invalid_uri"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}: {:?}", world.reason(&call).map(|r| r.to_string()));
    }
}

/// Clients that require a model send any name, such as `gpt-4`, although the path names the model.
#[test]
fn a_placeholder_in_a_body_passes_where_the_server_takes_any_name() {
    let world = world();
    let body =
        |uri: &str, model: &str| alice().uri(uri).json(&format!(r#"{{"model":"{model}","messages":[]}}"#));
    let chat = |name: &str, model: &str| body(&format!("/models/{name}/v1/chat/completions"), model);
    let qwen = "%2Fdata%2Fmodels%2FQwen";
    for (name, model, served) in [
        ("tiny", "gpt-4", "tiny"),
        ("tiny", "", "tiny"),
        ("free", "default", "free"),
        (qwen, "default", "/data/models/Qwen"),
        // The name of a model that the key may not use counts as any other there.
        ("tiny", "dear", "tiny"),
        ("tiny", "duck", "tiny"),
    ] {
        let call = chat(name, model);
        assert_eq!(model_of(&world, &call).as_deref(), Some(served), "{call:?}: {}", world.code(&call));
    }
    for (call, code) in [
        // Another model of this gateway is meant.
        (chat("tiny", "sole"), "model_ambiguous"),
        (chat("free", "llama3"), "model_ambiguous"),
        (chat("tiny", "gpt-4").header("x-model", "sole"), "model_ambiguous"),
        (body("/models/tiny/v1/chat/completions?model=sole", "gpt-4"), "model_ambiguous"),
        (body("/models/tiny/v1/chat/completions?model=duck", "gpt-4"), "model_ambiguous"),
        // An adapter.
        (chat(qwen, "base:dear"), "model_ambiguous"),
        // These servers look at names, or it is unknown whether they do.
        (chat("sole", "gpt-4"), "model_ambiguous"),
        (chat("sole", "dear"), "model_ambiguous"),
        (chat("llama3", "gpt-4"), "model_ambiguous"),
        (chat("app", "gpt-4"), "model_ambiguous"),
        (chat("own", "gpt-4"), "model_ambiguous"),
        (chat("gpt", "gpt-4"), "model_ambiguous"),
        // Without a name in the path the body decides the route.
        (body("/v1/chat/completions", "gpt-4").header("x-model", "tiny"), "model_ambiguous"),
        (
            alice().uri("/models/tiny/v1/chat/completions").json(r#"{"model":"a","model":"b"}"#),
            "model_ambiguous",
        ),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn a_path_says_as_much_as_a_header_where_nothing_is_asked_of_a_model() {
    let world = world();
    let get = |uri: &str| Call { method: "GET", ..alice().uri(uri) };
    for path in ["/health", "/version", "/v1/models"] {
        let by_path = world.code(&get(&format!("/models/base{path}")));
        assert_eq!(by_path, if path == "/v1/models" { "closed_path" } else { "ok" }, "{path}");
        let by_header = world.code(&get(path).header("x-model", "base"));
        assert_eq!(by_path, by_header, "{path}");
    }
    let post = alice().uri("/models/base/v1/responses/resp_1/cancel");
    assert_eq!(world.code(&post), "stored_data");
    assert_eq!(world.code(&alice().uri("/models/base/tokenize")), "model_missing", "it asks for an answer");
    let silent = |call: Call| call.json(r#"{"messages":[]}"#);
    for call in [alice().uri("/models/base/v1/chat/completions"), alice().header("x-model", "base")] {
        assert_eq!(world.code(&silent(call)), "model_missing", "a body would get the default");
    }
    let socket = get("/models/base/v1/realtime").header("sec-websocket-key", "x");
    assert_eq!(world.code(&socket.header("sec-websocket-version", "13")), "model_missing");
    assert_eq!(
        access::model_in_path("/models/org%2Fa/v1/models", |name| name == "org/a"),
        Ok(Some(("org/a".into(), Some("/v1/models".into()))))
    );
    assert_eq!(access::model_in_path("/models/b/v1/models", |_| false), Ok(Some(("b".into(), None))));
    assert_eq!(access::model_in_path("/v1/models", |_| true), Ok(None));
    assert!(access::model_in_path("/models/a/v1%2Fmodels", |name| name == "a").is_err());
}
