//! The security boundary, from outside: a key that may use one model reaches no other.
//!
//! The readers' own tests list every trick; this file tests the order of the decision, the combinations of places that name a
//! model, and each known trick once end to end.

mod common;

use access::{Decision, Mode, Policy, Reason, Unreadable, Where};
use catalogue::{
    Catalogue, LifecycleFinding, ModelName, NoConnection, ProbeFault, ProbeFinding, ProbedServer, RouteId,
    ServerRecord, ServerState,
};
use common::{Call, World, key, server, server_with};
use proptest::prelude::*;

/// Alice may use `cheap` and `lone`; `cheap` and `dear` share a server, `lone` has its own.
fn world() -> World {
    let starting = ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
    World::new(
        Policy::new(vec![key("alice", "[!d]*", None, None)], Vec::new()),
        vec![
            server("a", ServerState::Ready, &["cheap", "dear"]),
            server_with("b", &["lone"], &[("single_model", "true")]),
            server("c", starting, &["soon"]),
            server("d", ServerState::Draining(LifecycleFinding::Frozen.into()), &["gone"]),
            server("e", ServerState::Stopped(LifecycleFinding::Stopped.into()), &["crashed"]),
        ],
    )
}

fn alice() -> Call {
    Call::new("mg-alice")
}

fn form(parts: &str) -> Call {
    alice()
        .header("content-type", "multipart/form-data; boundary=xyz")
        .body(parts.replace('\n', "\r\n"))
        .uri("/v1/audio/transcriptions")
}

#[test]
fn an_allowed_request_learns_its_route() {
    let Decision::Allow(grant) = world().decide(&Call::chat("mg-alice", "cheap")) else { panic!("refused") };
    assert_eq!(grant.route, Some(RouteId::of(&ModelName::new("cheap").expect("a name"))));
    assert_eq!(
        (
            grant.model.as_ref().expect("a model").as_str(),
            grant.consumer.name.as_str(),
            grant.key.name.as_str()
        ),
        ("cheap", "alice", "alice")
    );
}

#[test]
fn a_refusal_says_what_is_known() {
    let denial = |call: &Call| match world().decide(call) {
        Decision::Deny(denial) => (denial.reason.code(), denial.consumer.is_some(), denial.model),
        Decision::Allow(_) => panic!("allowed"),
    };
    assert_eq!(denial(&Call::chat("mg-eve", "dear")), ("invalid_api_key", false, None));
    assert_eq!(denial(&alice().json("{}")), ("model_missing", true, None));
    assert_eq!(denial(&Call::chat("mg-alice", "dear")), ("model_not_found", true, Some("dear".into())));
}

#[test]
fn unknown_and_forbidden_models_look_the_same() {
    for model in ["dear", "does-not-exist"] {
        let reason = world().reason(&Call::chat("mg-alice", model));
        assert_eq!(reason, Some(Reason::ModelNotFound { model: model.into() }));
    }
}

/// A GET was told to put the model into the body.
#[test]
fn a_request_without_a_model_is_told_the_ways_that_it_has() {
    let mut world = world();
    world.policy = Policy::new(vec![key("alice", "*", None, None)], Vec::new());
    let socket = |uri: &str| {
        let call = Call { method: "GET", ..alice().uri(uri) };
        call.header("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg==").header("sec-websocket-version", "13")
    };
    let get = |method, uri: &str| Call { method, ..alice().uri(uri) };
    for (call, told) in [
        (
            alice().json("{}"),
            "the request names no model: put it into \"model\" in the body; a path (/models/NAME/...), ",
        ),
        (alice(), "the request names no model: put it into \"model\" in the body; "),
        (
            get("GET", "/v1/voices"),
            "the request names no model: name it in the path (/models/NAME/...), in the header X-Model or in the query \
             (?model=NAME)",
        ),
        (
            get("DELETE", "/v1/voices/a"),
            "the request names no model: name it in the path (/models/NAME/...), in the",
        ),
        (
            Call { method: "DELETE", ..alice().uri("/v1/voices/a").json("{}") },
            "the request names no model: put it into \"model\" in the body; ",
        ),
        (
            socket("/v1/realtime"),
            "the request names no model: name it in the query (?model=NAME) or in the path (/models/NAME/...)",
        ),
        // Its server has several models, and does not see the name in the path.
        (
            get("DELETE", "/models/cheap/v1/voices/a"),
            "the server has several models and would not see which one is meant: name it in the header X-Model or in the query \
             (?model=NAME)",
        ),
        (
            Call { body: Vec::new(), ..get("POST", "/models/cheap/v1/voices") },
            "the server has several models and would not see which one is meant: put it into",
        ),
    ] {
        let reason = world.reason(&call).map(|reason| reason.to_string()).unwrap_or_default();
        assert!(reason.starts_with(told), "{call:?}: {reason}");
    }
    // What each way names is then found.
    for call in [
        get("GET", "/models/lone/v1/voices"),
        get("GET", "/v1/voices?model=lone"),
        get("GET", "/v1/voices").header("x-model", "lone"),
        get("DELETE", "/v1/voices/a?model=cheap"),
        get("DELETE", "/models/cheap/v1/voices/a").header("x-model", "cheap"),
        socket("/v1/realtime?model=lone"),
        socket("/models/lone/v1/realtime"),
    ] {
        assert_eq!(world.code(&call), "ok", "{call:?}");
    }
}

/// After a full restart clients heard that their models do not exist.
#[test]
fn while_a_server_of_unknown_models_loads_a_name_may_be_there_soon() {
    let refused = |fault| {
        let asked = ProbedServer::of(&server("x", ServerState::Ready, &[]).spec);
        ServerState::Starting(ProbeFinding { asked, fault }.into())
    };
    let cannot_connect =
        || refused(ProbeFault::CannotConnect { why: NoConnection::Refused, cause: "refused".into() });
    let wants_key = refused(ProbeFault::Unauthorized { path: "/v1/models".into(), status: 401 });
    let selected =
        |state: ServerState| ServerRecord { state, ..server_with("x", &[], &[("select.host", "b.example")]) };
    let mut named = server("x", cannot_connect(), &[]);
    named.spec.models = vec![ModelName::new("other").expect("a name")];
    let (soon, never) = ("model_not_known_yet", "model_not_found");
    for (loading, plain, on_host) in [
        (server("x", cannot_connect(), &[]), soon, soon),
        (server("x", ServerState::Starting(LifecycleFinding::HealthcheckPending.into()), &[]), soon, soon),
        // What does not pass by itself is not waited for, nor is a server whose models are known.
        (server("x", wants_key, &[]), never, never),
        (server("x", cannot_connect(), &["other"]), never, never),
        (named, never, never),
        (server("x", ServerState::Ready, &[]), never, never),
        (server("x", ServerState::Stopped(LifecycleFinding::Stopped.into()), &[]), never, never),
        // Only some requests choose it.
        (selected(cannot_connect()), never, soon),
    ] {
        let mut world = world();
        world.policy =
            Policy::new(vec![key("alice", "[!d]*", None, None), key("bob", "lone", None, None)], Vec::new());
        let servers = world.catalogue.servers().map(|known| (**known).clone()).chain([loading.clone()]);
        world.catalogue = Catalogue::assemble(servers, Vec::new());
        let in_path = |key: &str, name: &str| {
            Call::new(key).json("{}").uri(&format!("/models/{name}/v1/chat/completions"))
        };
        for model in ["new", "org/new"] {
            for call in [Call::chat("mg-alice", model), in_path("mg-alice", model)] {
                assert_eq!(world.code(&call), plain, "{loading:?} {call:?}");
                assert_eq!(world.code(&call.clone().host("b.example")), on_host, "{loading:?} {call:?}");
            }
        }
        // Whoever may not use a name hears the same, whether it is there or not.
        for (key, model) in
            [("mg-alice", "dear"), ("mg-alice", "d-none"), ("mg-bob", "cheap"), ("mg-bob", "new")]
        {
            for call in [Call::chat(key, model), in_path(key, model)] {
                let reason = Some(Reason::ModelNotFound { model: model.into() });
                assert_eq!(world.reason(&call), reason, "{loading:?} {call:?}");
                assert_eq!(world.reason(&call.host("b.example")), reason, "{loading:?}");
            }
        }
        assert_eq!(world.code(&Call::chat("mg-alice", "cheap")), "ok");
        assert_eq!(world.code(&Call::chat("mg-alice", "crashed")), "model_stopped");
    }
}

#[test]
fn the_checks_have_an_order() {
    // Each call also has the faults of all that follow it.
    let bad_body = |call: Call| call.header("content-type", "text/plain").body("x");
    for (call, code) in [
        (bad_body(Call::new("mg-eve").uri("/v1/sleep")), "invalid_api_key"),
        (bad_body(alice().uri("/v1/../sleep")), "invalid_uri"),
        (bad_body(alice().uri("/v1/%73leep")), "closed_path"),
        (bad_body(alice()), "unsupported_content_type"),
        (Call::chat("mg-alice", "dear"), "model_not_found"),
        (Call::chat("mg-alice", "soon"), "model_starting"),
        (Call::chat("mg-alice", "gone"), "model_draining"),
        (Call::chat("mg-alice", "crashed"), "model_stopped"),
        (Call::chat("mg-alice", "cheap"), "ok"),
    ] {
        assert_eq!(world().code(&call), code, "{call:?}");
    }
}

#[test]
fn every_known_trick_is_refused() {
    let json = |body: &str| alice().json(body);
    let typed = |value: &str| alice().header("content-type", value).body(r#"{"model":"cheap"}"#);
    let part = "--xyz\nContent-Disposition: form-data; name=\"model\"";
    let utf16: Vec<u8> = r#"{"model":"dear"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (call, code) in [
        (json(r#"{"model":"cheap","model":"dear"}"#), "model_ambiguous"),
        (json(r#"{"model":"cheap","Model":"dear"}"#), "model_ambiguous"),
        (json(r#"{"model":"cheap","mod\u0065l":"dear"}"#), "model_ambiguous"),
        (json(r#"{"model":"cheap","lora_path":"dear"}"#), "field_not_accepted"),
        (json(r#"{"model":"cheap"}{"model":"dear"}"#), "invalid_json"),
        (json("\u{feff}{\"model\":\"cheap\"}"), "unsupported_encoding"),
        (json("").body(utf16), "unsupported_encoding"),
        (json(r#"{"model":"cheap"}"#).header("content-encoding", "gzip"), "unsupported_encoding"),
        (json(r#"{"model":"cheap"}"#).header("content-encoding", ""), "unsupported_encoding"),
        (
            json(r#"{"model":"cheap"}"#)
                .header("content-encoding", "identity")
                .header("content-encoding", "br"),
            "unsupported_encoding",
        ),
        (alice().body(r#"{"model":"cheap"}"#), "unsupported_content_type"),
        (typed("text/plain"), "unsupported_content_type"),
        (typed("application/x-www-form-urlencoded"), "unsupported_content_type"),
        (typed("application/json; charset=utf-16"), "unsupported_content_type"),
        (typed("application/json").header("content-type", "text/plain"), "unsupported_content_type"),
        (typed("multipart/form-data; boundary=xyz"), "invalid_multipart"),
        (form(&format!("{part}\n\ncheap\n{part}\n\ndear\n--xyz--\n")), "model_ambiguous"),
        (form(&format!("{part}; filename=\"x\"\n\ncheap\n--xyz--\n")), "invalid_multipart"),
        (form(&format!("--xyz--\n{part}\n\ncheap\n--xyz--\n")), "invalid_multipart"),
        (json(r#"{"model":"cheap"}"#).header("x-model", "dear"), "model_ambiguous"),
        (
            json(r#"{"model":"cheap"}"#).header("x-model", "cheap").header("x-model", "cheap"),
            "model_ambiguous",
        ),
        (json(r#"{"model":"cheap"}"#).uri("/v1/realtime?model=dear"), "model_ambiguous"),
        (json(r#"{"model":"cheap"}"#).uri("/v1/realtime?Model=dear"), "model_ambiguous"),
        (json(r#"{"model":"cheap"}"#).uri("/v1/realtime?mod%65l=dear"), "model_ambiguous"),
        (json(r#"{"model":"cheap"}"#).uri("/v1/realtime?x=1;model=dear"), "invalid_uri"),
        (json(r#"{"model":"cheap"}"#).uri("/v1/x/../load_lora_adapter"), "invalid_uri"),
        (json(r#"{"model":"cheap"}"#).uri("/v1/load%5Flora%5Fadapter/"), "closed_path"),
        (json(r#"{"model":"cheap "}"#), "model_invalid"),
        (json(r#"{"model":""}"#).header("x-model", "cheap"), "model_ambiguous"),
        (json(r#"{"model":""}"#), "model_invalid"),
        (json("{\"model\":\"ch\u{e9}ap\"}"), "model_invalid"),
        (json(r#"{"model":"cheap\u0000"}"#), "model_invalid"),
        (json(&format!(r#"{{"model":"{}"}}"#, "x".repeat(257))), "model_invalid"),
        (alice().header("x-model", "ch\u{e9}ap"), "model_invalid"),
        (alice(), "model_missing"),
    ] {
        assert_eq!(world().code(&call), code, "{call:?}");
    }
}

#[test]
fn refusals_of_the_kind_of_body_are_told_from_the_others() {
    let unreadable = |call: &Call| match world().reason(call) {
        Some(Reason::Unreadable(unreadable)) => (unreadable.is_media_type(), unreadable.param()),
        other => panic!("{other:?}"),
    };
    assert_eq!(unreadable(&alice().body("x")), (true, None));
    assert_eq!(unreadable(&alice().json("x").header("content-encoding", "gzip")), (true, None));
    assert_eq!(unreadable(&alice().json("\u{feff}{}")), (true, None));
    assert_eq!(unreadable(&alice().json("x")), (false, None));
    assert_eq!(unreadable(&alice().json("{}")), (false, Some("model")));
    assert_eq!(unreadable(&alice().json(r#"{"lora_path":"x"}"#)), (false, Some("lora_path")));
}

#[test]
fn places_that_name_a_model_must_agree() {
    let part = "--xyz\nContent-Disposition: form-data; name=\"model\"\n\ncheap\n--xyz--\n";
    for call in [
        Call::chat("mg-alice", "cheap"),
        Call::chat("mg-alice", "cheap").header("x-model", "cheap").uri("/v1/realtime?model=cheap"),
        alice().header("x-model", "cheap"),
        alice().uri("/v1/realtime?model=cheap"),
        form(part),
        form(part).header("x-model", "cheap"),
    ] {
        assert_eq!(world().code(&call), "ok", "{call:?}");
    }
    for (call, first, second) in [
        (Call::chat("mg-alice", "cheap").header("x-model", "Cheap"), Where::Json, Where::Header),
        (form(part).uri("/v1/x?model=lone"), Where::Form, Where::Query),
        (alice().header("x-model", "cheap").uri("/v1/x?model=lone"), Where::Header, Where::Query),
    ] {
        let expected = Unreadable::ModelsDisagree(first, second);
        assert_eq!(world().reason(&call), Some(Reason::Unreadable(expected)), "{call:?}");
    }
    for (place, words) in [
        (Where::Json, "the JSON body"),
        (Where::Form, "the multipart body"),
        (Where::Header, "the X-Model header"),
        (Where::Query, "the query"),
        (Where::Path, "the path"),
        (Where::Router, "the gateway's own settings"),
    ] {
        assert_eq!(place.to_string(), words);
    }
}

/// vLLM answers a body without `model` with its base model, whatever a header says: a key for one adapter would reach the base
/// model, and with it every adapter's.
#[test]
fn a_body_that_names_no_model_passes_only_where_the_server_has_no_choice() {
    let silent = |model: &str| alice().json(r#"{"input":"x"}"#).header("x-model", model);
    assert_eq!(world().code(&silent("lone")), "ok");
    assert_eq!(world().code(&silent("cheap")), "model_missing");
    assert_eq!(world().code(&silent("cheap").uri("/v1/x?model=cheap")), "model_missing");
    assert_eq!(world().code(&silent("dear")), "model_not_found", "says no more than that");
}

#[test]
fn reasons_never_repeat_the_key() {
    let calls = [
        Call::chat("mg-secret", "cheap"),
        Call::chat("mg-secret", "cheap").header("x-api-key", "mg-other-secret"),
        alice().json("{}"),
    ];
    for call in calls {
        let reason = world().reason(&call).expect("a refusal");
        assert!(!format!("{reason} {reason:?}").contains("secret"));
    }
    let headers = alice().headers();
    let request = access::Request {
        method: "GET",
        uri: "/v1/x?key=secret",
        host: None,
        headers: &headers,
        body: b"secret",
        mode: Mode::Layered,
        trusted: false,
        from: None,
        now: std::time::SystemTime::UNIX_EPOCH,
    };
    assert_eq!(format!("{request:?}"), "Request(GET /v1/x, 6 bytes)");
}

proptest! {
    #[test]
    fn no_request_panics_and_none_reaches_another_model(
        body in prop::collection::vec(any::<u8>(), 0..80),
        uri in "/(v1)?[/a-z%2.;?&=+]{0,20}",
        header in prop::option::of("[ -~]{0,12}"),
        content_type in prop::sample::select(vec!["application/json", "multipart/form-data; boundary=a"]),
    ) {
        let mut call = alice().uri(&uri).header("content-type", content_type).body(body);
        if let Some(header) = header {
            call = call.header("x-model", &header);
        }
        if let Decision::Allow(grant) = world().decide(&call) {
            let model = grant.model.expect("a route is for a model");
            prop_assert_ne!(model.as_str(), "dear");
            prop_assert_eq!(grant.route, Some(RouteId::of(&model)));
        }
    }
}

/// Found by the fuzz target `auth`: a client with its key in place of the model's name was told that there is no such model, with the
/// name, and so the key, in the answer and on the page with the latest decisions.
#[test]
fn a_key_in_place_of_a_model_is_not_told() {
    let clear = "mg-alice-0123456789";
    let alice = access::Key {
        digest: access::KeyDigest::of(clear),
        models: common::globs("*"),
        ..key("alice", "*", None, None)
    };
    let world =
        World::new(Policy::new(vec![alice], Vec::new()), vec![server("a", ServerState::Ready, &["cheap"])]);
    let alice = || Call::new(clear);
    let open = Mode::Gate { model: None, body_forwarded: true, single_model: false };
    for call in [
        Call::chat(clear, clear),
        Call::chat(clear, &format!("org/{clear}")),
        Call::chat(clear, clear).mode(open),
        alice().uri(&format!("/models/{clear}/v1/chat/completions")).json("{}"),
        alice().uri(&format!("/models/{clear}/v1/chat/completions")).json("{}").mode(open),
        alice().header("x-model", clear),
    ] {
        let Decision::Deny(denial) = world.decide(&call) else { panic!("allowed: {call:?}") };
        let told = format!("{:?} {:?} {}", denial.model, denial.reason, denial.reason);
        assert!(!told.contains(clear), "{told}");
        assert_eq!(denial.reason.code(), "model_invalid", "{told}");
    }
}
