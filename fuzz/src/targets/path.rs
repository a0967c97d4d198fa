//! Paths: the model is the one whose name Traefik removes, and the rest leads nowhere else for any server.

use std::sync::LazyLock;

use crate::{
    lenient::percent_decode,
    world::{ALICE, Asked, SmallWorld, server},
};

static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| {
    let models = ["cheap", "org/cheap", "org/cheap/v1", "/data/cheap", "dear", "org/dear"];
    SmallWorld::new("{cheap,org/cheap,org/cheap/v1,/data/cheap}", vec![server("a", &models, &[])])
});

/// What only a key with `manage` may ask a server for, and no route of any kind of server has in its path.
const CLOSED: [&str; 8] = [
    "load_lora_adapter",
    "unload_lora_adapter",
    "sleep",
    "wake_up",
    "collective_rpc",
    "update_weights_from_disk",
    "flush_cache",
    "reset_prefix_cache",
];

/// The path follows the method, at the first blank.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (method, uri) = text.split_once(' ').unwrap_or(("POST", text));
    let asked = Asked::new(ALICE, method, uri);
    // With a body that names no model, or the one that the path may name.
    for body in [&b""[..], br#"{"model":"cheap"}"#, br#"{"model":"org/cheap"}"#] {
        let asked = Asked { headers: asked.headers.clone(), ..Asked::new(ALICE, method, uri) };
        let Ok(grant) = WORLD.decide(&asked.body("application/json", body)) else { continue };
        let model = grant.model.expect("a route is for a model");
        assert!(model.as_str().ends_with("cheap") || model.as_str() == "org/cheap/v1", "{model}");
        assert_leads_to(uri, model.as_str());
    }
}

fn assert_leads_to(uri: &str, model: &str) {
    let raw = uri.split('?').next().unwrap_or_default();
    let mut rest = raw;
    for prefix in ["/models/", "/openai/deployments/"] {
        let Some(names) = raw.strip_prefix(prefix) else { continue };
        // Traefik removes as many segments as the name has; an encoded slash does not end one.
        let end = (0..=names.len()).find(|end| {
            names.is_char_boundary(*end) && percent_decode(&names.as_bytes()[..*end]) == model.as_bytes()
        });
        rest = &names[end.unwrap_or_else(|| panic!("{raw:?} does not name {model:?}"))..];
        assert!(rest.is_empty() || rest.starts_with('/'), "{raw:?}: {model:?} goes on");
    }
    let decoded = String::from_utf8(percent_decode(rest.as_bytes())).expect("UTF-8");
    let lower = rest.to_ascii_lowercase();
    assert!(!lower.contains("%2f") && !lower.contains("%5c"), "{raw:?}: an encoded slash");
    assert!(!decoded.contains(['\\', '\0', '\r', '\n']), "{raw:?}");
    assert_eq!(decoded.matches('/').count(), rest.matches('/').count(), "{raw:?}");
    let mut segments = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    assert!(segments.clone().all(|segment| !matches!(segment, "." | "..")), "{raw:?}: a way up");
    assert!(!decoded.trim_end_matches('/').contains("//"), "{raw:?}: an empty segment");
    let closed = segments.find(|segment| CLOSED.iter().any(|closed| segment.eq_ignore_ascii_case(closed)));
    assert_eq!(closed, None, "{raw:?}");
    // Decoded once more, it is what it was: no server decodes twice to somewhere else.
    let twice = percent_decode(decoded.as_bytes());
    assert_eq!(twice, decoded.as_bytes(), "{raw:?}: encoded twice");
}
