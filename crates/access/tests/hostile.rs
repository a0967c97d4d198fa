//! Attempts to reach forbidden models by the newer ways to choose a model: none may succeed, and no answer may reveal that a
//! forbidden model exists.

mod common;

use std::sync::Arc;

use access::{Decision, Grant, Key, KeyDigest, Mode, Policy, Reason, explain};
use catalogue::{Choice, Credential, CredentialHeader, ServerRecord};
use common::{Call, World, globs, key, rate, server_with};
use limits::{Calendar, Limits, Per, Quota, Rate, Unit};
use proptest::prelude::*;

/// Alice may use all models except those that begin with `d`; the operator may manage servers, for `cheap` and `load`.
fn world(servers: Vec<ServerRecord>) -> World {
    let mut operator = key("operator", "{cheap,load}", None, None);
    operator.manage = true;
    let keys = vec![key("alice", "[!d]*", None, None), operator, key("root", "*", None, None)];
    World::new(Policy::new(keys, Vec::new()), servers)
}

fn usual() -> World {
    world(vec![
        server_with(
            "many",
            &["cheap", "dear", "deep/dear", "load"],
            &[("aliases", "budget=cheap,darling=dear")],
        ),
        server_with("lone", &["org/lone"], &[("aliases", "solo"), ("single_model", "true")]),
        server_with("hidden", &["dark"], &[]),
        server_with("unlucky", &["sleep"], &[]),
        server_with("fast", &["tiny"], &[("select.query", "fast=true")]),
        server_with("large", &["llama"], &[("select.header_regexp", "X-Model: .*70b")]),
        server_with("small", &["llama", "dwarf"], &[("select.header", "X-Model-Size: 8b")]),
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

fn assert_codes<const N: usize>(world: &World, calls: [(Call, &str); N]) {
    for (call, code) in calls {
        assert_eq!(world.code(&call), code, "{call:?}: {:?}", world.reason(&call).map(|r| r.to_string()));
    }
}

fn gate(model: Option<&'static str>) -> Mode<'static> {
    Mode::Gate { model, body_forwarded: true, single_model: false }
}

/// The mode of a request that Traefik has routed to one of a model's groups.
fn routed(world: &World, model: &str, group: usize) -> Mode<'static> {
    let route = world.catalogue.pool(model).expect("a pool").groups[group].route.to_string();
    Mode::Routed { route: route.leak(), body_forwarded: true }
}

/// Whatever else is in a request, a forbidden model gets the same answer as one that never existed.
#[test]
fn no_refusal_tells_that_a_forbidden_model_exists() {
    let world = usual();
    let calls: [fn(&str) -> Call; 10] = [
        chat,
        |name| chat("cheap").uri(&format!("/models/{name}/v1/chat/completions")),
        |name| chat(name).uri(&format!("/models/{name}/v1/chat/completions")),
        |name| alice().uri(&format!("/models/{name}/predict")).body("x"),
        |name| alice().json("{").uri(&format!("/openai/deployments/{name}/chat/completions")),
        |name| alice().uri(&format!("/models/{name}/v1/sleep")),
        |name| alice().uri(&format!("/models/{name}/api/tags")),
        |name| chat(name).header("x-model-size", "8b"),
        |name| chat("llama").header("x-model-size", "8b").uri(&format!("/models/{name}/v1/chat/completions")),
        // `darling` and `dusk` are aliases of `dear`, or of nothing.
        |name| chat(name).header("x-model", if name == "dear" { "darling" } else { "dusk" }),
    ];
    for call in calls {
        let told = |name: &str| {
            let reason = world.reason(&call(name)).expect("a refusal");
            (reason.code(), reason.to_string().replace(name, "…"))
        };
        assert_eq!(told("dear"), told("duck"), "{:?}", call("dear"));
        // A slash in the name must not show how much of it is known.
        assert_eq!(told("deep/dear"), told("deep/duck"), "{:?}", call("deep/dear"));
    }
}

#[test]
fn who_may_not_use_a_route_is_not_told_its_model() {
    let world = usual();
    let unnamed = alice().json("{}").mode(routed(&world, "dear", 0));
    let reason = world.reason(&unnamed).expect("a refusal");
    assert!(!reason.to_string().contains("dear"), "{reason}");
    assert_codes(
        &world,
        [
            (chat("dear").mode(routed(&world, "dear", 0)), "model_not_found"),
            (chat("cheap").mode(routed(&world, "dear", 0)), "model_not_found"),
            (chat("dear").mode(routed(&world, "cheap", 0)), "model_ambiguous"),
            (chat("darling").mode(routed(&world, "cheap", 0)), "model_ambiguous"),
            (chat("budget").mode(routed(&world, "cheap", 0)), "ok"),
        ],
    );
}

/// Traefik sends the request to the group of its route, whichever group would be chosen now.
#[test]
fn the_credential_of_one_leg_never_goes_to_another() {
    let mut cloud = server_with("cloud", &["llama"], &[("priority", "0")]);
    cloud.spec.credential = Credential::new(CredentialHeader::Bearer, "sk-1").map(Arc::new);
    let world = world(vec![cloud, server_with("local", &["llama"], &[("priority", "1")])]);
    let trusted = |group| Call { trusted: true, ..chat("llama").mode(routed(&world, "llama", group)) };
    let pool = world.catalogue.pool("llama").expect("a pool");
    assert!(pool.groups[0].credential.is_some() && pool.groups[1].credential.is_none());
    let (to_cloud, to_local) = (grant(&world, &trusted(0)), grant(&world, &trusted(1)));
    assert_eq!(to_cloud.credential.expect("a credential").reveal(), "Bearer sk-1");
    assert!(to_local.credential.is_none());
    assert_eq!(to_local.route.as_ref(), Some(&pool.groups[1].route));
    let stranger = chat("llama").mode(routed(&world, "llama", 0));
    assert_eq!(world.reason(&stranger), Some(Reason::UntrustedPeer));
}

#[test]
fn management_opens_one_server_and_no_prompts() {
    let world = usual();
    let operator = |uri: &str| Call::new("mg-operator").uri(uri);
    let lora = r#"{"lora_name":"x","lora_path":"/adapters/x"}"#;
    assert_codes(
        &world,
        [
            // Its body is about other things than the model in the path.
            (operator("/models/cheap/v1/load_lora_adapter").json(lora), "ok"),
            (operator("/models/cheap/api/pull").json(r#"{"model":"mistral"}"#), "ok"),
            (Call { method: "DELETE", ..operator("/models/cheap/v1/models/old") }, "ok"),
            (Call { method: "DELETE", ..alice().uri("/models/org/lone/v1/models/old") }, "closed_path"),
            (Call { method: "DELETE", ..alice().uri("/v1/models/org/lone?model=org/lone") }, "closed_path"),
            // A body that is not read must not hold a prompt.
            (operator("/models/cheap/invocations").json(r#"{"model":"dear"}"#), "closed_path"),
            (operator("/models/cheap/sleep/invocations").json(r#"{"model":"dear"}"#), "closed_path"),
            (operator("/models/cheap/init_weights_update_group").json("{}"), "closed_path"),
            (operator("/models/cheap/v1/chat/completions").json(r#"{"model":"dear"}"#), "model_ambiguous"),
            (operator("/models/dear/metrics"), "closed_path"),
            (operator("/models/dark/metrics"), "closed_path"),
            (operator("/models/cheap/metrics?model=dear"), "model_ambiguous"),
            // The name itself is a management path where nobody removes it.
            (alice().uri("/models/load").json("{}"), "closed_path"),
            (alice().uri("/models/load").json("{}").mode(gate(Some("load"))), "closed_path"),
            (alice().uri("/models/sleep/api/tags").json("{}"), "closed_path"),
        ],
    );
}

#[test]
fn a_server_must_see_which_of_its_models_is_meant() {
    let world = usual();
    let socket =
        |uri: &str| alice().uri(uri).header("sec-websocket-key", "x").header("sec-websocket-version", "13");
    assert_codes(
        &world,
        [
            // Whatever names the model before, the messages are still to come.
            (socket("/v1/realtime?model=cheap"), "model_missing"),
            (socket("/models/cheap/v1/realtime?model=cheap"), "model_missing"),
            (socket("/v1/realtime?model=dear"), "model_not_found"),
            (socket("/models/cheap/v1/realtime?model=dear"), "model_ambiguous"),
            (socket("/v1/realtime").header("x-model", "cheap"), "model_missing"),
            (socket("/models/cheap/v1/realtime"), "model_missing"),
            (socket("/models/org/lone/v1/realtime"), "ok"),
            (alice().uri("/models/cheap/v1/responses/resp_1"), "model_missing"),
            (alice().uri("/models/org/lone/v1/responses/resp_1"), "ok"),
            (alice().mode(routed(&world, "cheap", 0)), "model_missing"),
            // KServe and Azure name the model in the path.
            (chat("cheap").uri("/v2/models/dear/infer"), "closed_path"),
            (chat("cheap").uri("/v1/openai/deployments/dear/chat/completions"), "closed_path"),
            (chat("cheap").uri("/models/cheap/v1/models;x"), "closed_path"),
            (chat("org/lone").uri("/v2/models/dear/infer"), "ok"),
        ],
    );
}

/// vLLM takes the model from its WebSocket's messages.
#[test]
fn a_websocket_to_vllm_needs_a_server_with_one_model() {
    let vllm = |models: &[&str]| {
        let mut server = server_with("vllm", models, &[]);
        server.listed_as = catalogue::Kind::Vllm;
        world(vec![server])
    };
    let call = alice().uri("/v1/realtime?model=cheap").header("sec-websocket-version", "13");
    let call = Call { method: "GET", ..call };
    assert_eq!(vllm(&["cheap", "dear"]).code(&call), "model_missing");
    assert_eq!(vllm(&["cheap"]).code(&call), "ok");
}

#[test]
fn fields_that_other_gateways_read_are_refused() {
    assert_codes(
        &usual(),
        [
            (alice().json(r#"{"model":"cheap","models":["dear"]}"#), "field_not_accepted"),
            (alice().json(r#"{"model":"cheap","fallbacks":["dear"]}"#), "field_not_accepted"),
            (alice().uri("/v1/api/show").json(r#"{"model":"cheap","name":"dear"}"#), "model_ambiguous"),
            (alice().uri("/api/generate").json(r#"{"name":"cheap"}"#), "field_not_accepted"),
            (alice().uri("/api/generate").json(r#"{"model":"cheap","NAME":"dear"}"#), "model_ambiguous"),
            (chat("cheap").uri("/api/tags"), "closed_path"),
            (chat("cheap").uri("/models/org/lone/api/ps"), "model_ambiguous"),
            (alice().uri("/models/org/lone/api/ps"), "ok"),
            (alice().uri("/models/org/lone/v1/api/ps"), "closed_path"),
        ],
    );
}

#[test]
fn selectors_cannot_be_met_by_halves() {
    let world = usual();
    assert_codes(
        &world,
        [
            (chat("llama").header("x-model-size", "8b").header("x_model_size", "70b"), "model_not_found"),
            (chat("llama").header("x_model_size", "8b"), "model_not_found"),
            (chat("tiny").uri("/v1/x?fast=true&f%61st=false"), "model_not_found"),
            (chat("dear").header("x-model", "dear-70b"), "model_not_found"),
            (chat("cheap").header("x-model", "dear-70b"), "model_not_served_there"),
            (alice().header("x-model", "dear-70b").json("{}").uri("/v1/predict"), "ok"),
            (alice().header("x-model", "any-70b").header("x-model", "any").json("{}"), "model_ambiguous"),
            (chat("llama").header("x-model-size", "8b").header("x-model", "cheap"), "model_ambiguous"),
            (alice().uri("/models/cheap/v1/x?fast=true").json("{}"), "model_not_served_there"),
        ],
    );
    let reason = world.reason(&chat("cheap").header("x-model-size", "8b")).expect("a refusal");
    assert!(reason.to_string().contains("header x-model-size: 8b"), "{reason}");
}

#[test]
fn the_only_model_that_was_chosen_may_have_two_names() {
    let mut ollama = server_with("ollama", &["llama3:latest"], &[("select.host", "o.example")]);
    ollama.listed_as = catalogue::Kind::Ollama;
    let world = world(vec![ollama]);
    let grant = grant(&world, &Call { method: "GET", ..alice().host("o.example").uri("/api/version") });
    assert_eq!(grant.model.expect("a model").as_str(), "llama3:latest");
}

/// The limit is set on one server, the alias on another; servers with a selector have their own limits.
#[test]
fn no_other_name_and_no_selector_gets_around_a_limit() {
    let strict = [("limit.requests_per_minute", "60"), ("limit.burst", "1")];
    let loose = [("limit.requests_per_minute", "600"), ("limit.burst", "1"), ("select.query", "fast=true")];
    let world = world(vec![
        server_with("a", &["llama"], &strict),
        server_with("b", &["llama"], &[("aliases", "fast")]),
        server_with("c", &["llama"], &loose),
    ]);
    let chosen = || chat("llama").uri("/v1/x?fast=true");
    assert_codes(
        &world,
        [
            (chat("fast"), "ok"),
            (chat("llama"), "rate_limit_exceeded"),
            (chosen(), "ok"),
            (chosen(), "rate_limit_exceeded"),
            (chat("fast"), "rate_limit_exceeded"),
            (chat("llama"), "rate_limit_exceeded"),
        ],
    );
    world.clock.advance(std::time::Duration::from_millis(100));
    assert_codes(&world, [(chosen(), "ok"), (chat("llama"), "rate_limit_exceeded")]);
}

#[test]
fn a_gate_reads_paths_that_nobody_knows() {
    assert_codes(
        &usual(),
        [
            (chat("cheap").uri("/models/secret/predict").mode(gate(None)), "model_ambiguous"),
            (alice().uri("/models/dark/predict").json("{}").mode(gate(None)), "model_not_found"),
            (alice().uri("/models/dusk/predict").mode(gate(None)), "model_not_found"),
            (alice().uri("/models/mine/predict").mode(gate(None)), "ok"),
            (chat("mine").uri("/models/mine/predict").mode(gate(None)), "ok"),
            (alice().uri("/models/mine/predict").json("{}").mode(gate(None)), "model_missing"),
            (alice().uri("/models/mine/predict").body("x").mode(gate(None)), "unsupported_content_type"),
            (alice().uri("/models/mine/predict").body("x").mode(gate(Some("cheap"))), "closed_path"),
            (alice().uri("/mine/predict").json("{}").mode(gate(Some("mine"))), "ok"),
            (alice().uri("/mine/predict").body("x").mode(gate(Some("mine"))), "unsupported_content_type"),
            (alice().uri("/mine/predict").json("{}").mode(gate(Some("cheap"))), "model_missing"),
            (alice().uri("/models/org/lone/predict").body("x").mode(gate(Some("cheap"))), "model_ambiguous"),
            (alice().header("x-model", "cheap").uri("/v1/models").mode(gate(None)), "closed_path"),
            (Call { method: "GET", ..Call::new("mg-root").uri("/v1/models").mode(gate(None)) }, "ok"),
            (Call::new("mg-root").body("x").mode(gate(None)), "unsupported_content_type"),
            (Call::new("mg-root").uri("/v1/files").mode(gate(None)), "stored_data"),
            (chat("darling").mode(gate(None)), "model_not_found"),
            (chat("cheap").header("x-model", "budget").mode(gate(None)), "ok"),
            (chat("cheap").header("x-model", "darling").mode(gate(None)), "model_ambiguous"),
        ],
    );
}

#[test]
fn an_explanation_tells_no_secret() {
    let mut cloud = server_with("cloud", &["llama"], &[]);
    cloud.spec.credential = Credential::new(CredentialHeader::Bearer, "sk-secret").map(Arc::new);
    let world = world(vec![cloud]);
    let call = chat("llama").uri("/v1/chat/completions?key=sk-secret").header("cookie", "sk-secret");
    let call = Call { trusted: true, ..call };
    let headers = call.headers();
    let request = call.asked_with(&headers);
    let explanation = explain(&world.policy, &world.catalogue, &request);
    assert!(matches!(explanation.decision, Decision::Allow(_)));
    let all = format!("{explanation:?}");
    assert!(!all.contains("sk-secret") && !all.contains("mg-alice"), "{all}");
}

/// A limit is debited only within the explanation.
#[test]
fn an_explanation_takes_nothing() {
    let mut world = world(vec![server_with("a", &["llama"], &[])]);
    world.policy = Policy::new(vec![key("alice", "*", Some(rate(1, 1)), None)], Vec::new());
    let call = chat("llama");
    let headers = call.headers();
    let request = call.asked_with(&headers);
    for _ in 0..3 {
        let explanation = explain(&world.policy, &world.catalogue, &request);
        assert!(matches!(explanation.decision, Decision::Allow(_)));
    }
    assert!(world.limiters.is_empty());
    assert_eq!([world.code(&call), world.code(&call)], ["ok", "rate_limit_exceeded"]);
}

/// An operator sees what the client was told: the same limit, and the same time to wait.
#[test]
fn an_explanation_with_what_is_left_refuses_what_is_refused() {
    let per_day = Quota::new(7, Unit::Requests, Calendar::Day).expect("a quota");
    let per_hour = Rate::new(100, Unit::Tokens, Per::Hour, None).expect("a rate");
    let limits = Limits::new(vec![rate(60, 2), per_hour], vec![per_day]);
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let key = key(name, "*", None, None);
        Key { limits: limits.clone(), networks: vec!["10.0.0.0/8".parse().expect("a network")], ..key }
    });
    let mut world = world(vec![server_with("a", &["llama"], &[])]);
    world.policy = Policy::new(vec![alice, bob], Vec::new());
    let body = r#"{"model":"llama","max_tokens":20,"messages":[]}"#;
    let mut call = Call::new("mg-alice").json(body);
    call.from = "10.0.0.1".parse().ok();
    let headers = call.headers();
    let request = call.asked_with(&headers);
    let named = |name: &str| world.policy.keys().find(|key| key.name == name).expect("the key");
    // As operators do who know a key by its name alone: the same key under another digest.
    let explained = |request: &access::Request<'_>, key: &Key| {
        let key = Key { digest: KeyDigest::of("mg-tried"), previous: None, ..key.clone() };
        let policy = world.policy.with_this_key_alone(key);
        let headers = Call::new("mg-tried").json(body).headers();
        let explanation =
            explain(&policy, &world.catalogue, &access::Request { headers: &headers, ..*request });
        let left = world.limiters.left(&explanation.demands);
        (explanation.demands.reached(&left), explanation.decision)
    };
    let mut refusals = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let by_key = explain(&world.policy, &world.catalogue, &request);
        let expected = by_key.demands.reached(&world.limiters.left(&by_key.demands));
        let (by_name, decision) = explained(&request, named("alice"));
        assert!(matches!(decision, Decision::Allow(_)));
        let told = match world.reason(&call) {
            Some(Reason::LimitReached(reached)) => Some(reached),
            Some(other) => panic!("{other}"),
            None => None,
        };
        assert_eq!([expected, by_name], [told, told]);
        refusals.extend(told.map(|reached| reached.limit.to_string()));
        assert_eq!(explained(&request, named("bob")).0, None, "nobody else has used anything up");
        world.clock.advance(std::time::Duration::from_millis(if refusals.len() < 2 { 300 } else { 700_000 }));
    }
    assert_eq!(refusals.len(), 3, "{refusals:?}");
    // A key given by its name works no better than the key itself.
    let elsewhere = access::Request { from: None, ..request };
    let (reached, decision) = explained(&elsewhere, named("alice"));
    assert!(matches!(decision, Decision::Deny(denial) if denial.reason == Reason::WrongNetwork));
    assert_eq!(reached, None);
}

const NAMES: [&str; 9] =
    ["cheap", "dear", "budget", "darling", "org/lone", "solo", "deep/dear", "tiny", "other"];

/// The canonical model of a name in the usual world.
fn real(name: &str) -> &str {
    match name {
        "budget" => "cheap",
        "darling" => "dear",
        "solo" => "org/lone",
        other => other,
    }
}

fn a_name() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(NAMES.to_vec()))
}

/// A URI that names a model in its path, or begins with something else, and in its query.
fn uri(path: &str, rest: &str, query: Option<&str>, fast: bool) -> String {
    let path = format!("{path}{}", if path.is_empty() && rest.is_empty() { "/" } else { rest });
    let model = query.map(|name| format!("model={}", name.replace('/', "%2F")));
    let pairs: Vec<String> = [model, fast.then(|| "fast=true".into())].into_iter().flatten().collect();
    if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// However names are spread over a request, and whoever has chosen the route: an admitted request reaches only servers of
    /// the one model that it names, which the key may use.
    #[test]
    fn whatever_passes_names_one_model_that_is_allowed(
        (body, header, query, path) in (a_name(), a_name(), a_name(), a_name()),
        prefix in prop::sample::select(vec!["/models/", "/openai/deployments/"]),
        rest in prop::sample::select(vec!["/v1/chat/completions", "/predict", "", "/v1/models", "/api/show", "/metrics"]),
        json: bool,
        socket: bool,
        fast: bool,
        mode in 0..4usize,
        route in prop::sample::select(NAMES[..7].to_vec()),
    ) {
        let world = usual();
        let mut call = alice().uri(&uri(&path.map_or(String::new(), |name| format!("{prefix}{name}")), rest, query, fast));
        call.mode = match mode {
            0 => Mode::Layered,
            1 => routed(&world, route, 0),
            2 => gate(None),
            _ => gate(Some("budget")),
        };
        if let Some(name) = header {
            call = call.header("x-model", name);
        }
        if socket {
            call = call.header("sec-websocket-version", "13");
        }
        if let Some(name) = body {
            call = call.json(&format!(r#"{{"model":"{name}"}}"#));
        } else if json {
            call = call.json("{}");
        }
        if let Decision::Allow(grant) = world.decide(&call) {
            let model = grant.model.expect("alice may not use every model");
            prop_assert!(!real(model.as_str()).starts_with('d'), "{:?} {}", call, model);
            // If a router's owner says which model it is, an unknown path is the owner's.
            let path_names = path.filter(|name| !(mode == 3 && *name == "other"));
            for named in [body, header, query, path_names].into_iter().flatten() {
                prop_assert_eq!(real(named), real(model.as_str()), "{:?}", call);
            }
            prop_assert!(rest != "/metrics");
            match (&grant.route, call.mode) {
                (Some(given), Mode::Routed { route, .. }) => prop_assert_eq!(given.as_str(), route),
                (Some(_), Mode::Layered) => {}
                (None, Mode::Gate { .. }) => {}
                (given, mode) => prop_assert!(false, "{:?} {:?}", given, mode),
            }
            if let Some(route) = &grant.route {
                let pool = world.catalogue.pool_of_route(route.as_str()).expect("a pool");
                prop_assert_eq!(real(pool.model.as_str()), real(model.as_str()));
                let seen = if body.is_some() || json { body } else { query.or(header) };
                prop_assert!(pool.choice() < Choice::Several || seen.is_some(), "{:?}", call);
                prop_assert!(pool.choice() < Choice::Several || rest != "/v1/models", "{:?}", call);
                // Traefik removes as many segments as the pool's name has.
                if let (Some(path), Mode::Layered) = (path, call.mode) {
                    prop_assert_eq!(pool.model.as_str(), path);
                }
            }
        }
    }
}

#[test]
fn the_world_of_the_property_lets_something_pass() {
    let world = usual();
    let call =
        chat("budget").uri("/models/cheap/v1/chat/completions?model=cheap").header("x-model", "budget");
    assert_eq!(grant(&world, &call).model.expect("a model").as_str(), "cheap");
    assert!(globs("[!d]*").matches("cheap") && !globs("[!d]*").matches("darling"));
}
