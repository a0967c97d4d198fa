//! Queries: the model is what every other reading of the query finds.

use std::sync::LazyLock;

use crate::{
    lenient::{is_like, percent_decode},
    world::{ALICE, Asked, SmallWorld, server},
};

static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| {
    SmallWorld::new("{cheap,org/cheap}", vec![server("a", &["cheap", "org/cheap", "dear"], &[])])
});

pub(crate) fn run(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    let uri = format!("/v1/voices?{query}");
    let Ok(grant) = WORLD.decide(&Asked::new(ALICE, "GET", &uri)) else { return };
    let model = grant.model.expect("a route is for a model");
    let found: Vec<Vec<u8>> = query
        .split(['&', ';'])
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As long as somebody could decode it.
            let mut name = name.replace('+', " ").into_bytes();
            for _ in 0..3 {
                name = percent_decode(&name);
            }
            is_like(&String::from_utf8_lossy(&name), "model")
                .then(|| percent_decode(value.replace('+', " ").as_bytes()))
        })
        .collect();
    assert_eq!(found, [model.as_str().as_bytes()], "{query:?}");
    // The strictest reader finds it, too.
    let strict = query.split('&').filter_map(|pair| pair.strip_prefix("model="));
    let strict: Vec<Vec<u8>> = strict.map(|value| percent_decode(value.as_bytes())).collect();
    assert_eq!(strict, found, "{query:?}");
    assert!(model.as_str() != "dear");
}
