//! Which requests share the counts of a limit, and against which servers' names a request is checked.

mod common;

use access::{Key, Mode, Policy};
use catalogue::ServerRecord;
use common::{Call, World, key, rate, server_with};

/// Alice may ask for each model once.
fn world(servers: Vec<ServerRecord>) -> World {
    let once = rate(1, 1);
    World::new(
        Policy::new(vec![key("alice", "*", None, Some(once)), key("bob", "*", None, None)], Vec::new()),
        servers,
    )
}

fn gate(model: Option<&'static str>) -> Mode<'static> {
    Mode::Gate { model, body_forwarded: true, single_model: false }
}

fn chat(model: &str) -> Call {
    Call::chat("mg-alice", model)
}

#[track_caller]
fn assert_codes<const N: usize>(world: &World, calls: [(Call, &str); N]) {
    for (call, code) in calls {
        assert_eq!(world.code(&call), code, "{call:?}");
    }
}

/// A client can invent any number of names, so they share one count. A name that the router's owner gives is one model.
#[test]
fn invented_names_share_a_count_and_a_gates_models_have_their_own() {
    let world = world(vec![server_with("a", &["llama"], &[])]);
    let (ok, limited) = ("ok", "rate_limit_exceeded");
    assert_codes(
        &world,
        [
            (chat("invented").mode(gate(None)), ok),
            (chat("another").mode(gate(None)), limited),
            (chat("llama").mode(gate(None)), ok),
            (chat("mine").mode(gate(Some("mine"))), ok),
            (chat("mine").mode(gate(Some("mine"))), limited),
            (chat("yours").mode(gate(Some("yours"))), ok),
            // The model has one count, by whatever router it is reached.
            (chat("llama").mode(gate(Some("llama"))), limited),
            (chat("llama"), limited),
        ],
    );
}

/// `quick` is another model where a request chooses its servers.
#[test]
fn names_are_checked_among_the_servers_that_traefik_has_chosen() {
    let world = world(vec![
        server_with("plain", &["big"], &[("aliases", "quick=big")]),
        server_with("fast", &["tiny", "small"], &[("aliases", "quick=tiny"), ("select.query", "fast=true")]),
    ]);
    let [selection] = world.catalogue.selections() else { panic!("one selection") };
    let routed = |route: String| Mode::Routed { route: route.leak(), body_forwarded: true };
    let to_tiny = || routed(selection.pool("tiny").expect("a pool").groups[0].route.to_string());
    let to_big = || routed(world.catalogue.pool("big").expect("a pool").groups[0].route.to_string());
    let bob = |model: &str| Call::chat("mg-bob", model);
    assert_codes(
        &world,
        [
            (bob("tiny").mode(to_tiny()), "ok"),
            (bob("quick").mode(to_tiny()), "ok"),
            (bob("quick").header("x-model", "tiny").mode(to_tiny()), "ok"),
            (bob("small").mode(to_tiny()), "model_ambiguous"),
            (bob("big").mode(to_tiny()), "model_ambiguous"),
            (bob("quick").mode(to_big()), "ok"),
            (bob("tiny").mode(to_big()), "model_ambiguous"),
            (bob("quick").header("x-model", "tiny").mode(to_big()), "model_ambiguous"),
        ],
    );
}

/// The owner of the router names a model, but the server behind it has several, and nobody has read the body.
#[test]
fn what_nobody_has_read_passes_a_gate_only_to_a_server_of_one_model() {
    let world = world(vec![
        server_with("many", &["cheap", "dear"], &[]),
        server_with("lone", &["lone"], &[("single_model", "true")]),
    ]);
    let narrow =
        Policy::new(vec![key("alice", "[!d]*", None, None), key("bob", "*", None, None)], Vec::new());
    let world = World { policy: narrow, ..world };
    let unread = |model, single_model| Mode::Gate { model: Some(model), body_forwarded: false, single_model };
    let asks = |name: &str, mode| (Call { body: Vec::new(), ..Call::new(&format!("mg-{name}")) }).mode(mode);
    assert_codes(
        &world,
        [
            (asks("alice", unread("cheap", false)), "model_missing"),
            (asks("alice", unread("lone", false)), "ok"),
            (asks("alice", unread("cheap", true)), "ok"),
            (asks("alice", unread("dear", true)), "model_not_found"),
            // Who may use all models may let the server choose.
            (asks("bob", unread("cheap", false)), "ok"),
        ],
    );
}

#[test]
fn a_name_in_a_path_may_have_seven_slashes() {
    let (seven, eight) = ("a/b/c/d/e/f/g/h", "b/b/c/d/e/f/g/h/i");
    let world = world(vec![server_with("a", &[seven], &[]), server_with("b", &[eight], &[])]);
    let path = |name: &str| Call::chat("mg-bob", name).uri(&format!("/models/{name}/v1/chat/completions"));
    assert_codes(
        &world,
        [(path(seven), "ok"), (path(eight), "model_not_found"), (Call::chat("mg-bob", eight), "ok")],
    );
}

/// What a server has stored for one client, another could have it answer with.
#[test]
fn a_body_refers_to_stored_data_only_by_a_key_that_may() {
    let trusted = Key { stored_data: true, ..key("bob", "*", None, None) };
    let world = World::new(
        Policy::new(vec![key("alice", "*", None, None), trusted], Vec::new()),
        vec![server_with("a", &["llama"], &[])],
    );
    let code = |name: &str, body: &str| {
        world.code(&Call::new(&format!("mg-{name}")).uri("/v1/responses").json(body))
    };
    for (body, is_stored) in [
        (r#"{"model":"llama","input":"x"}"#, false),
        (r#"{"model":"llama","input":"x","prompt":"a text"}"#, false),
        (r#"{"model":"llama","input":"x","prompt":{"id":"p"}}"#, true),
        (r#"{"model":"llama","input":"x","previous_response_id":"r"}"#, true),
        (r#"{"model":"llama","input":"x","Previous_Response_ID":"r"}"#, true),
        (r#"{"model":"llama","input":"x","conversation":"c"}"#, true),
        (
            r#"{"model":"llama","input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}"#,
            true,
        ),
    ] {
        assert_eq!(code("alice", body), if is_stored { "field_not_accepted" } else { "ok" }, "{body}");
        assert_eq!(code("bob", body), "ok", "{body}");
    }
}
