//! The paths that a key may use. Modelgate lets a key use everything that a model offers, or nothing.

use serde_json::{Map, Value};

use super::values::{text, texts};
use crate::commands::import::found::Findings;

/// Route groups that contain everything Modelgate serves, and patterns for every path.
const ALL: [&str; 3] = ["llm_api_routes", "*", "/*"];
/// Route groups that contain a part of that.
const PARTS: [&str; 2] = ["openai_routes", "anthropic_routes"];
/// Paths at which models are used; `*` is any one segment.
const PATHS: [&str; 17] = [
    "v1/chat/completions",
    "v1/completions",
    "v1/responses",
    "v1/messages",
    "v1/messages/count_tokens",
    "v1/embeddings",
    "v1/rerank",
    "v2/rerank",
    "v1/moderations",
    "v1/realtime",
    "v1/audio/speech",
    "v1/audio/transcriptions",
    "v1/audio/translations",
    "v1/images/generations",
    "v1/images/edits",
    "openai/deployments/*/chat/completions",
    "engines/*/chat/completions",
];

/// Types of keys that may use all paths at which models are used; other types may use none of them.
const KINDS: [&str; 2] = ["default", "llm_api"];

/// Checks the permitted paths. A key that may use only some of them is held.
///
/// # Errors
/// The key could use no model at all, such as one that may only read.
pub(super) fn check(row: &Map<String, Value>, findings: &mut Findings) -> Result<(), String> {
    if let Some(kind) = text(row, "key_type")?.filter(|kind| !KINDS.contains(kind)) {
        return Err(format!("its key_type is {kind:?}: it uses no models"));
    }
    let allowed = texts(row.get("allowed_routes"), "its allowed_routes")?;
    if allowed.is_empty() || allowed.iter().any(|route| ALL.contains(&route.as_str())) {
        return Ok(());
    }
    let mut shown = format!("{allowed:?}");
    if shown.chars().count() > 100 {
        shown = shown.chars().take(99).chain(['…']).collect();
    }
    match allowed.iter().any(|route| PARTS.contains(&route.as_str()) || uses_models(route)) {
        true => {
            let text = format!("its allowed_routes {shown}; here it may use its models by all paths");
            findings.hold("allowed_routes", text);
            Ok(())
        }
        false => Err(format!("its allowed_routes {shown} are none by which a model is used")),
    }
}

/// Whether a path at which models are used is the route or below it. In LiteLLM a route includes all paths below it, and a `*` at
/// its end matches anything.
fn uses_models(route: &str) -> bool {
    let Some(route) = route.strip_prefix('/') else { return false };
    let (route, is_open) = route.strip_suffix('*').map_or((route, false), |start| (start, true));
    let route = if is_open { route } else { route.trim_end_matches('/') };
    PATHS.iter().any(|path| {
        // LiteLLM also has each path without its version.
        let unversioned = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/"));
        [Some(*path), unversioned].into_iter().flatten().any(|path| leads_to(route, is_open, path))
    })
}

fn leads_to(route: &str, is_open: bool, path: &str) -> bool {
    let segments: Vec<&str> = route.split('/').collect();
    let mut path = path.split('/');
    segments.iter().enumerate().all(|(i, segment)| {
        let is_last = i + 1 == segments.len();
        path.next().is_some_and(|of_path| match is_last && is_open {
            true => of_path.starts_with(segment) || of_path == "*",
            false => of_path == *segment || (of_path == "*" && !segment.is_empty()),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_keys_that_may_use_a_model_are_taken() {
        let found = |allowed: Value| {
            let mut findings = Findings::default();
            let row = Map::from_iter([("allowed_routes".to_owned(), allowed)]);
            check(&row, &mut findings).map(|()| findings.holds.len())
        };
        for all in [
            json!(null),
            json!([]),
            json!(["llm_api_routes"]),
            json!(["info_routes", "llm_api_routes"]),
            json!(["/*"]),
        ] {
            assert_eq!(found(all.clone()), Ok(0), "{all}");
        }
        for part in [
            "openai_routes",
            "anthropic_routes",
            "/v1/chat/completions",
            "/chat/completions/",
            "/v1",
            "/v1/*",
            "/v1/chat*",
            "/v2/rerank",
            "/openai/deployments/{model}/chat/completions",
            "/openai/deployments/gpt*",
        ] {
            assert_eq!(found(json!(["/key/info", part])), Ok(1), "{part}");
        }
        for none in [
            "info_routes",
            "management_routes",
            "spend_tracking_routes",
            "/key/info",
            "/v1/models",
            "/v1/mod",
            "/v1/models/*",
            "/v1/chat/completions/x",
            "/v3/*",
            "",
            "/",
            "v1/chat/completions",
        ] {
            let said = found(json!([none])).expect_err(none);
            assert!(said.contains("none by which a model is used"), "{said}");
        }
        for malformed in [json!("llm_api_routes"), json!([1]), json!({})] {
            assert!(found(malformed.clone()).is_err(), "{malformed}");
        }
        let long = found(json!(["/x".repeat(200)])).expect_err("no model");
        assert!(long.chars().count() < 200, "{long}");
    }
}
