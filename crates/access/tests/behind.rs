//! What a key may reach on the servers behind its model besides that model: what they store for everybody, their management,
//! paths and bodies that nobody knows.

mod common;

use access::{Key, Mode, Policy};
use common::{Call, World, globs, key, server_with};

/// `plain` may use all models, `stored` also what servers store, `narrow` that for some models, `manager` manages servers.
fn world() -> World {
    let stored = Key { stored_data: true, ..key("stored", "*", None, None) };
    let narrow = Key { stored_data: true, models: globs("[!z]*"), ..key("narrow", "*", None, None) };
    let manager = Key { manage: true, ..key("manager", "*", None, None) };
    World::new(
        Policy::new(vec![key("plain", "*", None, None), stored, narrow, manager], Vec::new()),
        vec![
            server_with("a", &["sole"], &[("kind", "vllm")]),
            server_with("b", &["pair", "other"], &[("kind", "vllm")]),
            server_with("c", &["lone"], &[("kind", "vllm"), ("single_model", "true")]),
            server_with("d", &["app"], &[("single_model", "true")]),
            server_with("e", &["apps", "apps-2"], &[]),
            server_with("f", &["gpt"], &[("kind", "provider")]),
            server_with("g", &["gpt-lone"], &[("kind", "provider"), ("single_model", "true")]),
            server_with("h", &["swap"], &[("kind", "llama-swap")]),
        ],
    )
}

/// `[plain, stored, narrow, manager]` for one request.
fn codes(world: &World, call: impl Fn(Call) -> Call) -> [&'static str; 4] {
    ["plain", "stored", "narrow", "manager"].map(|name| world.code(&call(Call::new(&format!("mg-{name}")))))
}

fn all(code: &'static str) -> [&'static str; 4] {
    [code; 4]
}

fn routed(world: &World, model: &str, body_forwarded: bool) -> Mode<'static> {
    let pool = world.catalogue.pool(model).expect("a pool");
    let route = pool.group().expect("ready").route.to_string();
    Mode::Routed { route: route.leak(), body_forwarded }
}

/// What a server keeps belongs to no model: a key that may use one model would read the prompts of all others.
#[test]
fn stored_data_and_jobs_need_their_right() {
    let world = world();
    let no = "stored_data";
    for (method, uri, model, expected) in [
        ("GET", "/v1/responses/r1", "gpt", [no, "ok", "ok", no]),
        ("GET", "/v1/responses/r1", "sole", [no, "ok", "ok", no]),
        ("GET", "/v1/files/f1", "apps", [no, "ok", "ok", no]),
        // A job names models that nobody reads here.
        ("GET", "/v1/batches", "gpt", [no, "ok", no, no]),
        ("POST", "/v1/fine_tuning/jobs", "gpt", [no, "ok", no, no]),
    ] {
        let call = |call: Call| Call { method, ..call.uri(uri).header("x-model", model) };
        assert_eq!(codes(&world, call), expected, "{method} {uri} {model}");
    }
}

/// A path that is on no list may be new, and do anything.
#[test]
fn management_and_unknown_paths_need_their_right_and_a_server() {
    let world = world();
    let no = "closed_path";
    for (method, uri, model, expected) in [
        ("POST", "/models/sole/v1/new", None, [no, no, no, "ok"]),
        ("POST", "/v1/new", Some("sole"), all(no)),
        ("GET", "/models/sole/load", None, [no, no, no, "ok"]),
        ("GET", "/load", Some("sole"), all(no)),
        ("GET", "/models/gpt/v1/organization", None, [no, no, no, "ok"]),
        ("GET", "/v1/organization", Some("gpt"), all(no)),
        // An application's own path is no management.
        ("POST", "/models/app/v1/new", None, all("ok")),
        // What is stored, and what leads elsewhere, is not opened by the right to manage.
        ("DELETE", "/models/gpt/v1/files/models", None, [no, no, no, "stored_data"]),
        ("DELETE", "/models/swap/upstream/a/models", None, all(no)),
        ("DELETE", "/models/sole/v1/models/old", None, [no, no, no, "ok"]),
        // A list of models tells more than one key may know.
        ("GET", "/models/pair/v1/models", None, [no, no, no, "ok"]),
        ("GET", "/models/sole/v1/models", None, all("ok")),
    ] {
        let call = |call: Call| {
            let call = Call { method, ..call.uri(uri) };
            model.map_or(call.clone(), |model| call.header("x-model", model))
        };
        assert_eq!(codes(&world, call), expected, "{method} {uri} {model:?}");
    }
    let by_route = |call: Call| call.uri("/v1/new").mode(routed(&world, "sole", true));
    assert_eq!(codes(&world, by_route), [no, no, no, "ok"], "Traefik has chosen the server");
}

/// A field that chooses an adapter or another model gets past the model's name.
#[test]
fn fields_are_read_as_the_server_behind_reads_them() {
    let world = world();
    let no = "field_not_accepted";
    let stored = [no, "ok", "ok", no];
    for (uri, body, expected) in [
        ("/v1/chat/completions", r#"{"model":"lone","lora_path":"x"}"#, all(no)),
        ("/v1/chat/completions", r#"{"model":"sole","lora_path":"x"}"#, all(no)),
        ("/v1/chat/completions", r#"{"model":"apps","lora_path":"x"}"#, all(no)),
        ("/v1/chat/completions", r#"{"model":"gpt","lora_path":"x"}"#, all(no)),
        // An application with one model may call anything so.
        ("/v1/chat/completions", r#"{"model":"app","lora_path":"x"}"#, all("ok")),
        // On a path of an application's own, fields mean what it says.
        ("/v1/responses", r#"{"model":"app","previous_response_id":"r"}"#, stored),
        ("/v1/responses", r#"{"model":"lone","previous_response_id":"r"}"#, stored),
        ("/predict", r#"{"model":"app","previous_response_id":"r"}"#, all("ok")),
        ("/predict", r#"{"model":"apps","previous_response_id":"r"}"#, all("ok")),
        // Only accounts, and applications with several models, read deeper.
        ("/v1/responses", r#"{"model":"gpt","tools":[{"type":"x","model":"other"}]}"#, all(no)),
        ("/v1/responses", r#"{"model":"apps","tools":[{"type":"x","model":"other"}]}"#, all(no)),
        ("/v1/responses", r#"{"model":"app","tools":[{"type":"x","model":"other"}]}"#, all("ok")),
        ("/v1/responses", r#"{"model":"sole","tools":[{"type":"x","model":"other"}]}"#, all("ok")),
        ("/v1/responses", r#"{"model":"gpt","input":[{"type":"input_file","file_id":"f"}]}"#, stored),
        ("/v1/responses", r#"{"model":"gpt","input":[{"type":"item_reference","id":"i"}]}"#, stored),
        ("/v1/responses", r#"{"model":"apps","input":[{"type":"input_file","file_id":"f"}]}"#, stored),
        ("/predict", r#"{"model":"apps","input":[{"type":"input_file","file_id":"f"}]}"#, all("ok")),
    ] {
        assert_eq!(codes(&world, |call| call.uri(uri).json(body)), expected, "{uri} {body}");
    }
}

/// A body that nobody reads passes only to a server that reads nothing in it either.
#[test]
fn an_unread_body_reaches_one_model_and_nothing_stored() {
    let world = world();
    let no = "unsupported_content_type";
    for (model, expected) in [
        ("app", all("ok")),
        ("lone", [no, "ok", "ok", no]),
        ("gpt-lone", [no, "ok", "ok", no]),
        ("sole", all(no)),
        ("gpt", all(no)),
        ("apps", all(no)),
    ] {
        let png = |call: Call| {
            call.uri(&format!("/models/{model}/v1/embeddings")).header("content-type", "image/png").body("x")
        };
        assert_eq!(codes(&world, png), expected, "{model}");
    }
    // A body without a name gets the server's default model, which nobody knows.
    let silent = |call: Call| call.uri("/v1/embeddings").json(r#"{"input":"x"}"#).header("x-model", "gpt");
    assert_eq!(codes(&world, silent), all("model_missing"));
    // Traefik before 3.3 hands over no body.
    let missing = "model_missing";
    for (model, expected) in [
        ("app", all("ok")),
        ("lone", all("ok")),
        ("gpt-lone", [missing, "ok", "ok", missing]),
        ("sole", all("ok")),
        ("gpt", all(missing)),
        ("apps", all(missing)),
    ] {
        let unseen = |call: Call| call.uri("/v1/embeddings").mode(routed(&world, model, false));
        assert_eq!(codes(&world, unseen), expected, "{model}");
    }
}

#[test]
fn a_gates_owner_says_which_model_and_not_which_adapter() {
    let world = world();
    let gate = |model, single_model| Mode::Gate { model, body_forwarded: true, single_model };
    // A key for all models may let the server choose.
    let refused = ["ok", "ok", "field_not_accepted", "ok"];
    for (mode, body, expected) in [
        (gate(Some("mine"), false), r#"{"lora_path":"x"}"#, refused),
        (gate(Some("mine"), true), r#"{"lora_path":"x"}"#, all("ok")),
        (gate(Some("mine"), false), r#"{"input":"x"}"#, all("ok")),
        (gate(None, false), r#"{"model":"mine","lora_path":"x"}"#, refused),
    ] {
        let call = |call: Call| call.uri("/mine").json(body).mode(mode);
        assert_eq!(codes(&world, call), expected, "{mode:?} {body}");
    }
}

/// The list of a server behind a router of the operator's own shows what other keys use.
#[test]
fn a_gate_shows_no_list_of_models() {
    let world = world();
    let mode = Mode::Gate { model: None, body_forwarded: true, single_model: false };
    let list =
        |call: Call| Call { method: "GET", ..call.uri("/v1/models").header("x-model", "mine") }.mode(mode);
    assert_eq!(codes(&world, list), ["ok", "ok", "closed_path", "ok"]);
}

/// A WebSocket's messages name their model unseen: a name in the query says nothing of them.
#[test]
fn a_gate_opens_a_websocket_only_to_keys_for_all_models() {
    let world = world();
    let mode = Mode::Gate { model: None, body_forwarded: true, single_model: false };
    let get = |call: Call| Call { method: "GET", ..call.uri("/mine?model=mine") }.mode(mode);
    assert_eq!(codes(&world, get), all("ok"));
    let socket = |call: Call| get(call).header("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg==");
    assert_eq!(codes(&world, socket), ["ok", "ok", "model_missing", "ok"]);
}

/// A form names files and adapters as a JSON body does.
#[test]
fn the_parts_of_a_form_are_read_like_fields() {
    let world = world();
    let no = "field_not_accepted";
    for (name, value, expected) in [
        ("file_ids", "f", [no, "ok", "ok", no]),
        ("lora_path", "x", all(no)),
        ("language", "en", all("ok")),
        // A text that is no reference: the words that a transcription begins with.
        ("prompt", "words", all("ok")),
    ] {
        let part = |name: &str, value: &str| {
            format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let form = |call: Call| {
            let body = format!("{}{}--xyz--\r\n", part("model", "lone"), part(name, value));
            let call = call.header("content-type", "multipart/form-data; boundary=xyz");
            call.uri("/v1/audio/transcriptions").body(body)
        };
        assert_eq!(codes(&world, form), expected, "{name}");
    }
}
