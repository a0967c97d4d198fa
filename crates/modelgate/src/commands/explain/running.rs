//! Whether any Traefik knows the routes: only the running Modelgate sees who polls it.

use serde_json::Value;

use crate::{commands::healthcheck, config::Config};

/// What stands between Traefik and the running Modelgate, as that one tells callers on its own machine; empty if a Traefik
/// polls, or if this cannot be known from here.
pub(super) fn of_polls(config: &Config) -> Vec<String> {
    let Ok((_, body)) = healthcheck::ready(config) else {
        let admin = healthcheck::admin_of(config);
        return vec![format!(
            "no Modelgate answers at {admin} (listen.admin): without one, Traefik answers 500 to whatever it would ask it"
        )];
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let faults = body["polls"].as_array().into_iter().flatten();
    faults.filter_map(|fault| fault["message"].as_str().map(str::to_owned)).collect()
}
