//! JSON bodies: what is read as the model is what every other reading finds, and nothing else chooses one.

use std::sync::LazyLock;

use access::estimate;

use crate::{
    lenient::{OTHER_FIELDS, is_like},
    plain_json::{self, Plain},
    world::{ALICE, Asked, SmallWorld, server},
};

static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| {
    SmallWorld::new(
        "[!d]*",
        vec![
            server("strict", &["cheap", "dear"], &[("kind", "vllm")]),
            server("lenient", &["tiny", "dwarf"], &[("kind", "ollama")]),
        ],
    )
});

/// Where a body is sent: the path, and whether a `name` matters there.
const PLACES: [(&str, bool); 6] = [
    ("/v1/chat/completions", false),
    ("/v1/completions", false),
    ("/v1/responses", false),
    ("/v1/embeddings", false),
    ("/api/chat", true),
    ("/api/show", true),
];

/// The first byte chooses where the body is sent, and whether through a gate.
pub(crate) fn run(data: &[u8]) {
    let Some((way, body)) = data.split_first() else { return };
    let (uri, name_matters) = PLACES[usize::from(way & 0x7f) % PLACES.len()];
    let asked = Asked::new(ALICE, "POST", uri).body("application/json", body);
    let asked = if way & 0x80 == 0 { asked } else { asked.at_gate() };
    let Ok(grant) = WORLD.decide(&asked) else { return };
    let model = grant.model.as_ref().map(catalogue::ModelName::as_str);
    assert!(model.is_some_and(|model| !model.starts_with('d')), "Alice may not: {model:?}");
    if body.is_empty() {
        return;
    }
    assert_names_alone(body, model, name_matters);
    // It is counted while it is read, and must count the same when it is read for that alone.
    let counted = grant.sum.map(|sum| sum.tokens());
    let again = estimate::sum(uri, Some(body), grant.answer_tokens).tokens();
    assert_eq!(counted.unwrap_or(again), again, "tokens");
}

/// Asserts that whatever reads a body finds this model in it, or none.
pub(crate) fn assert_names_alone(body: &[u8], model: Option<&str>, name_matters: bool) {
    let fields = plain_json::fields(body).expect("an object");
    let is_named = |field: &&plain_json::PlainField| {
        is_like(&field.name, "model") || name_matters && is_like(&field.name, "name")
    };
    let mut found = 0;
    for field in fields.iter().filter(is_named) {
        match &field.value {
            Plain::Text(text) if Some(text.as_str()) == model => {
                assert!(
                    ["model", "name"].contains(&field.name.as_str()),
                    "{:?}: not every reader",
                    field.name
                );
                found += 1;
            }
            // Only Ollama takes these for nothing, so only at its endpoints.
            Plain::Text(text) if text.is_empty() && is_like(&field.name, "name") => {}
            Plain::Null => {}
            other => panic!("{:?} is {other:?}, read as {model:?}", field.name),
        }
    }
    assert_eq!(found > 0, model.is_some(), "{model:?}");
    for name in ["model", "name"] {
        let count = fields.iter().filter(|field| is_named(field) && is_like(&field.name, name)).count();
        assert!(count <= 1, "{count} fields like {name:?}");
    }
    let others = fields.iter().filter(|field| field.name != "model" && field.value != Plain::Null);
    for field in others {
        let like = OTHER_FIELDS.iter().find(|other| is_like(&field.name, other));
        assert!(like.is_none(), "{:?} is like {like:?}", field.name);
    }
}
