//! The ways to choose a model other than the body, and what they must not open.

mod common;

use access::{Decision, Grant, Mode, ModelLimit, Policy, Reason};
use catalogue::{Credential, CredentialHeader, ServerRecord};
use common::{Call, World, globs, key, rate, server_with};
use std::sync::Arc;

/// Alice may use all models except `dear`; the operator may do everything, management included.
fn world(servers: Vec<ServerRecord>) -> World {
    let mut operator = key("operator", "*", None, None);
    operator.manage = true;
    World::new(Policy::new(vec![key("alice", "[!d]*", None, None), operator], Vec::new()), servers)
}

fn usual() -> World {
    world(vec![
        server_with("many", &["cheap", "dear"], &[]),
        server_with("lone", &["org/lone"], &[("aliases", "solo"), ("single_model", "true")]),
        server_with("fast", &["tiny"], &[("select.query", "fast=true")]),
        server_with("large", &["llama"], &[("select.header_regexp", "X-Model: .*70b")]),
        server_with("small", &["llama"], &[("select.header", "X-Model-Size: 8b")]),
        server_with("code", &["coder", "dear-coder"], &[("select.host", "code.example.com")]),
    ])
}

fn alice() -> Call {
    Call::new("mg-alice")
}

fn chat(model: &str) -> Call {
    Call::chat("mg-alice", model)
}

fn grant(world: &World, call: &Call) -> Grant {
    match world.decide(call) {
        Decision::Allow(grant) => grant,
        Decision::Deny(denial) => panic!("{call:?}: {}", denial.reason),
    }
}

/// The servers that a request reaches by its route.
fn reaches(world: &World, call: &Call) -> String {
    let route = grant(world, call).route.expect("a route");
    let pool = world.catalogue.pool_of_route(route.as_str()).expect("a pool");
    let group = pool.groups.iter().find(|group| group.route == route).expect("a group");
    group.ready.iter().map(|s| s.spec.name.as_str()).collect::<Vec<_>>().join(",")
}

#[test]
fn a_path_chooses() {
    let world = usual();
    for (call, server) in [
        (chat("cheap").uri("/models/cheap/v1/chat/completions"), "many"),
        (chat("org/lone").uri("/models/org/lone/v1/chat/completions"), "lone"),
        (chat("org/lone").uri("/models/solo/v1/chat/completions"), "lone"),
        (chat("solo").uri("/openai/deployments/org/lone/chat/completions?api-version=1"), "lone"),
        (alice().uri("/models/org/lone/predict").json("{}"), "lone"),
        (alice().uri("/models/org/lone/predict").json("[{}]"), "lone"),
        (alice().uri("/models/org/lone/predict").header("content-type", "image/png").body("x"), "lone"),
        (alice().uri("/models/org/lone/predict").body("x"), "lone"),
        (Call { method: "GET", ..alice().uri("/models/org/lone/v1/models") }, "lone"),
    ] {
        assert_eq!(reaches(&world, &call), server, "{call:?}");
    }
}

#[test]
fn a_path_opens_nothing_else() {
    let world = usual();
    let png = |uri: &str| alice().uri(uri).header("content-type", "image/png").body("x");
    for (call, code) in [
        (chat("dear").uri("/models/cheap/v1/chat/completions"), "model_ambiguous"),
        (chat("cheap").uri("/models/dear/v1/chat/completions"), "model_not_found"),
        (chat("dear").uri("/models/dear/v1/chat/completions"), "model_not_found"),
        (chat("org/lone").uri("/models/org/v1/chat/completions"), "model_not_found"),
        (chat("cheap").uri("/models/cheap/v1/chat/completions?model=dear"), "model_ambiguous"),
        (chat("cheap").uri("/models/cheap/v1/chat/completions").header("x-model", "dear"), "model_ambiguous"),
        (alice().uri("/models/cheap/v1/chat/completions").json("{}"), "model_missing"),
        (png("/models/cheap/predict"), "unsupported_content_type"),
        (alice().uri("/models/cheap/v1/models"), "closed_path"),
        (alice().uri("/models/cheap/api/tags"), "closed_path"),
        (alice().uri("/models/org/lone/v1/load_lora_adapter").json("{}"), "closed_path"),
        (alice().uri("/models/org/lone/v1/models/load").json("{}"), "closed_path"),
        (alice().uri("/models/cheap%2f..%2fdear/x").json("{}"), "invalid_uri"),
        (alice().uri("/models/cheap/../dear/x").json("{}"), "invalid_uri"),
        (alice().uri("/models//cheap/x").json("{}"), "invalid_uri"),
        (alice().uri("/models/ch%2565ap/x").json("{}"), "invalid_uri"),
        (alice().uri("/models/cheap;x/v1/x").json("{}"), "model_not_found"),
        (alice().uri("/models/").json("{}"), "model_not_found"),
        (alice().uri("/openai/deployments/nothing/chat/completions").json("{}"), "model_not_found"),
        (alice().uri("/models/org/lone/x").json("{").header("x", "y"), "invalid_json"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn management_needs_the_right_and_a_server() {
    let world = usual();
    let operator = |uri: &str| Call::new("mg-operator").uri(uri);
    for (call, code) in [
        (operator("/models/org/lone/metrics"), "ok"),
        (operator("/models/cheap/v1/load_lora_adapter"), "ok"),
        (operator("/models/cheap/v1/models"), "ok"),
        (operator("/v1/load_lora_adapter"), "closed_path"),
        (operator("/models/cheap/cors-proxy"), "closed_path"),
        (alice().uri("/models/org/lone/metrics"), "closed_path"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn a_header_a_query_or_a_host_chooses_servers() {
    let world = usual();
    for (call, server) in [
        (chat("llama").header("x-model-size", "8b"), "small"),
        (chat("llama").header("x-model", "anything-70b"), "large"),
        (chat("tiny").uri("/v1/chat/completions?fast=true"), "fast"),
        (alice().json("{}").uri("/v1/x?fast=true"), "fast"),
        (chat("coder").host("Code.example.com:8443"), "code"),
        (chat("tiny").uri("/models/tiny/v1/chat/completions?fast=true"), "fast"),
    ] {
        assert_eq!(reaches(&world, &call), server, "{call:?}");
    }
    for (call, code) in [
        (chat("llama"), "model_not_found"),
        (chat("tiny"), "model_not_found"),
        (chat("llama").header("x-model-size", "8B"), "model_not_found"),
        (chat("llama").header("x-model-size", "8b").header("x-model-size", "70b"), "model_not_found"),
        (chat("cheap").header("x-model-size", "8b"), "model_not_served_there"),
        (chat("dear").header("x-model-size", "8b"), "model_not_found"),
        (chat("llama").uri("/v1/x?fast=true"), "model_not_served_there"),
        (chat("tiny").uri("/v1/x?fast=true&fast=true"), "model_not_found"),
        (chat("cheap").header("x-model", "dear"), "model_ambiguous"),
        // The key may use one of the two models there, but a body without a model could still reach the other.
        (alice().json("{}").host("code.example.com"), "model_missing"),
        (chat("dear-coder").host("code.example.com"), "model_not_found"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn an_alias_has_the_rights_and_limits_of_its_model() {
    let limits = vec![ModelLimit { models: globs("org/lone"), limits: rate(60, 2).into() }];
    let policy = Policy::new(vec![key("alice", "org/*", None, None), key("eve", "solo", None, None)], limits);
    let world = World::new(
        policy,
        vec![server_with("lone", &["org/lone"], &[("aliases", "solo"), ("single_model", "true")])],
    );
    assert_eq!(world.code(&chat("solo")), "ok", "by the model that it stands for");
    assert_eq!(world.code(&Call::chat("mg-eve", "org/lone")), "model_not_found");
    assert_eq!(world.code(&Call::chat("mg-eve", "solo")), "ok", "by its own name");
    assert_eq!(world.code(&chat("org/lone")), "rate_limit_exceeded", "two in all");
    let both = chat("solo").header("x-model", "org/lone").uri("/v1/x?model=solo");
    assert_eq!(world.code(&both), "rate_limit_exceeded", "they agree");
}

#[test]
fn a_limit_may_come_from_a_label() {
    let labels = [("limit.requests_per_minute", "60"), ("limit.burst", "1")];
    let world = world(vec![server_with("a", &["llama"], &labels)]);
    assert_eq!([world.code(&chat("llama")), world.code(&chat("llama"))], ["ok", "rate_limit_exceeded"]);
}

#[test]
fn ollama_reads_the_name_as_well() {
    let world = usual();
    let show = |body: &str| alice().uri("/api/show").json(body);
    for (call, code) in [
        (show(r#"{"model":"cheap"}"#), "ok"),
        (show(r#"{"name":"cheap"}"#), "ok"),
        (show(r#"{"name":"cheap","model":"cheap"}"#), "ok"),
        (show(r#"{"name":"dear","model":"cheap"}"#), "model_ambiguous"),
        (show(r#"{"model":"cheap","name":"dear"}"#), "model_ambiguous"),
        (show(r#"{"model":"cheap","Name":"dear"}"#), "model_ambiguous"),
        (show(r#"{"model":"cheap","n\u0061me":"dear"}"#), "model_ambiguous"),
        (show(r#"{"name":"cheap","name":"dear"}"#), "model_ambiguous"),
        (show(r#"{"name":"dear"}"#), "model_not_found"),
        (show(r#"{"name":7,"model":"cheap"}"#), "model_invalid"),
        (alice().uri("/api/pull").json(r#"{"model":"cheap"}"#), "closed_path"),
        (alice().json(r#"{"model":"cheap","name":"whatever"}"#), "ok"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn a_route_that_traefik_chose_binds() {
    let world = usual();
    let route = |model: &str| {
        let group =
            world.catalogue.pool(model).and_then(|pool| pool.group().map(|group| group.route.to_string()));
        &*group.expect("a route").leak()
    };
    let lone = |body_forwarded| Mode::Routed { route: route("org/lone"), body_forwarded };
    let cheap = |body_forwarded| Mode::Routed { route: route("cheap"), body_forwarded };
    for (call, code) in [
        (alice().mode(lone(false)), "ok"),
        (alice().json("{}").mode(lone(true)), "ok"),
        (chat("solo").mode(lone(true)), "ok"),
        (chat("cheap").mode(lone(true)), "model_ambiguous"),
        (alice().header("x-model", "cheap").mode(lone(false)), "model_ambiguous"),
        (alice().uri("/models/cheap/v1/x").mode(lone(false)), "model_ambiguous"),
        (chat("cheap").mode(cheap(true)), "ok"),
        (alice().json("{}").mode(cheap(true)), "model_missing"),
        (alice().mode(cheap(false)), "model_missing"),
        (chat("dear").mode(Mode::Routed { route: route("dear"), body_forwarded: true }), "model_not_found"),
        (alice().mode(Mode::Routed { route: "nothing", body_forwarded: true }), "model_draining"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

#[test]
fn a_gate_checks_what_can_be_checked() {
    let world = usual();
    let gate = |model, body_forwarded| Mode::Gate { model, body_forwarded, single_model: false };
    let single =
        |body_forwarded| Mode::Gate { model: Some("embeddings"), body_forwarded, single_model: true };
    let open = gate(None, true);
    for (call, code) in [
        (chat("not-in-the-catalogue").mode(open), "ok"),
        (chat("dear").mode(open), "model_not_found"),
        (alice().json("{}").mode(open), "model_missing"),
        (alice().json("{}").header("x-model", "cheap").mode(open), "model_missing"),
        (alice().mode(open), "model_missing"),
        (Call::new("mg-operator").mode(open), "ok"),
        (Call::new("mg-operator").json("{}").mode(open), "ok"),
        (alice().json("{}").mode(gate(Some("embeddings"), true)), "ok"),
        (alice().body("x").mode(gate(Some("embeddings"), true)), "unsupported_content_type"),
        (alice().body("x").mode(single(true)), "ok"),
        (alice().mode(gate(Some("embeddings"), false)), "model_missing"),
        (alice().mode(single(false)), "ok"),
        (chat("cheap").mode(single(true)), "model_ambiguous"),
        (alice().mode(gate(Some("dear"), true)), "model_not_found"),
        (chat("cheap").mode(gate(Some("embeddings"), true)), "model_ambiguous"),
        (alice().header("x-model", "cheap").mode(gate(None, false)), "model_missing"),
        (Call::new("mg-eve").mode(gate(Some("embeddings"), true)), "invalid_api_key"),
        (alice().uri("/mine/v1/sleep").mode(gate(Some("embeddings"), true)), "closed_path"),
    ] {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
    let grant = grant(&world, &chat("cheap").mode(open));
    assert_eq!((grant.route, grant.model.expect("a model").as_str()), (None, "cheap"));
}

#[test]
fn a_credential_goes_to_traefik_only() {
    let mut cloud = server_with("cloud", &["llama"], &[("priority", "1")]);
    cloud.spec.credential = Credential::new(CredentialHeader::Bearer, "sk-1").map(Arc::new);
    let alone = world(vec![cloud.clone()]);
    assert_eq!(alone.reason(&chat("llama")), Some(Reason::UntrustedPeer));
    let trusted = Call { trusted: true, ..chat("llama") };
    assert_eq!(grant(&alone, &trusted).credential.expect("a credential").reveal(), "Bearer sk-1");
    let both = world(vec![cloud, server_with("local", &["llama"], &[])]);
    assert_eq!((reaches(&both, &trusted), reaches(&both, &chat("llama"))), ("local".into(), "local".into()));
    assert!(grant(&both, &trusted).credential.is_none());
}

#[test]
fn a_websocket_key_is_kept_from_the_server() {
    let call = Call { headers: Vec::new(), ..alice() }.uri("/v1/realtime?model=org/lone");
    let call = call.header("sec-websocket-protocol", "realtime, openai-insecure-api-key.mg-alice");
    assert_eq!(grant(&usual(), &call).websocket_protocols.as_deref(), Some("realtime"));
    // The same before its limits are asked elsewhere.
    let (world, headers) = (usual(), call.headers());
    let pending = access::prepare(&world.policy, &world.catalogue, &call.asked_with(&headers));
    assert_eq!(pending.expect("allowed").websocket_protocols(), Some("realtime"));
}

/// A name that a client has invented is on no page and in no metric of models: there would be no end of them.
#[test]
fn a_grant_names_only_models_that_servers_or_operators_have_named() {
    let world = usual();
    let gate = |model| Mode::Gate { model, body_forwarded: true, single_model: false };
    for (call, known) in [
        (chat("cheap"), Some("cheap")),
        (chat("invented").mode(gate(None)), None),
        (alice().json("{}").mode(gate(Some("embeddings"))), Some("embeddings")),
        (Call::new("mg-operator").json("{}").mode(gate(None)), None),
    ] {
        assert_eq!(grant(&world, &call).known_model(), known, "{call:?}");
    }
}

#[test]
fn an_explanation_decides_the_same_and_says_how() {
    let world = usual();
    for call in [chat("cheap"), chat("dear"), chat("llama").header("x-model-size", "8b"), alice()] {
        let headers = call.headers();
        let request = call.asked_with(&headers);
        let explanation = access::explain(&world.policy, &world.catalogue, &request);
        let found = match &explanation.decision {
            Decision::Allow(_) => "ok",
            Decision::Deny(denial) => denial.reason.code(),
        };
        assert_eq!(found, world.code(&call));
        assert!(explanation.steps[0].contains("\"alice\""), "{:?}", explanation.steps);
        assert!(explanation.steps.iter().all(|step| !step.contains("mg-alice")), "no key in it");
    }
    // What cannot be read is explained where a server could choose by it.
    let png = |model: &str| {
        alice().uri(&format!("/models/{model}/predict")).header("content-type", "image/png").body("x")
    };
    let socket =
        alice().uri("/v1/realtime?model=cheap").header("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg==");
    for (call, is_told) in [
        (png("cheap"), true),
        (Call { method: "GET", ..socket }, true),
        (png("org/lone"), false),
        (chat("cheap"), false),
    ] {
        let headers = call.headers();
        let steps = access::explain(&world.policy, &world.catalogue, &call.asked_with(&headers)).steps;
        let is_about_reading = |step: &String| step.starts_with("what Modelgate cannot read");
        assert_eq!(steps.iter().any(is_about_reading), is_told, "{call:?}: {steps:?}");
    }
    // Only the servers of its own route may answer it.
    let mut cloud = server_with("cloud", &["llama"], &[("priority", "1")]);
    cloud.spec.credential = Credential::new(CredentialHeader::Bearer, "sk-1").map(Arc::new);
    let both = self::world(vec![cloud, server_with("local", &["llama"], &[])]);
    let (call, headers) = (chat("llama"), chat("llama").headers());
    let steps = access::explain(&both.policy, &both.catalogue, &call.asked_with(&headers)).steps;
    let may_answer: Vec<_> = steps.iter().filter(|step| step.ends_with("may answer it")).collect();
    assert_eq!(may_answer, ["local at http://local:8000 may answer it"]);
}
