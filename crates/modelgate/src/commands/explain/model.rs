//! Where the requests for a model go.

use std::{collections::BTreeSet, fmt::Write as _};

use catalogue::{Catalogue, Pool};
use serde_json::Value;

use super::known::{self, list};
use crate::{config::Config, survey, wiring};

pub(super) fn explain(catalogue: &Catalogue, config: &Config, name: &str) -> Result<String, String> {
    let pools: Vec<&Pool> =
        catalogue.pools().map(AsRef::as_ref).filter(|p| p.model.as_str() == name).collect();
    if pools.is_empty() {
        return Err(no_such_model(catalogue, name));
    }
    let document: Value = serde_json::from_slice(&survey::document(catalogue, config).to_json())
        .map_err(|e| format!("the rendered document: {e}"))?;
    let mut text = String::new();
    for pool in pools {
        describe_pool(&mut text, pool, &document);
    }
    let shortcomings = traefik_config::shortcomings(catalogue, &wiring::options(config));
    for shortcoming in shortcomings {
        let _ = writeln!(text, "Traefik {}: {shortcoming}", config.traefik.version);
    }
    Ok(text)
}

pub(super) fn no_such_model(catalogue: &Catalogue, name: &str) -> String {
    let known: BTreeSet<&str> = catalogue.pools().map(|p| p.model.as_str()).collect();
    let known: Vec<&str> = known.into_iter().collect();
    format!("no server has a model {name:?}; known are: {}{}", list(&known), known::not_ready(catalogue))
}

fn describe_pool(text: &mut String, pool: &Pool, document: &Value) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("model", pool.model.to_string());
    if pool.canonical != pool.model {
        line("alias of", pool.canonical.to_string());
    }
    if let Some(selector) = &pool.selector {
        line("chosen by", selector.to_string());
    }
    for server in pool.ready.iter().chain(&pool.waiting) {
        let why = server.state.why().map(|why| format!(": {why}")).unwrap_or_default();
        line("server", format!("{} at {}, {}{why}", server.spec.name, server.spec.url, server.state_name()));
    }
    for (what, branch) in [("canary", &pool.canary), ("mirror", &pool.mirror)] {
        if let Some(branch) = branch {
            line(what, format!("{} % to {}", branch.percent, branch.model));
        }
    }
    for group in &pool.groups {
        line("route", group.route.to_string());
        let routers = document["http"]["routers"].as_object().into_iter().flatten();
        for (name, router) in routers.filter(|(name, _)| name.starts_with(group.route.as_str())) {
            line("  router", format!("{name}: {}", router["rule"].as_str().unwrap_or_default()));
            if let Some(middlewares) = router["middlewares"].as_array() {
                let names: Vec<&str> = middlewares.iter().filter_map(Value::as_str).collect();
                line("  through", list(&names));
            }
            let service = router["service"].as_str().unwrap_or_default();
            line("  service", format!("{service}: {}", document["http"]["services"][service]));
        }
    }
    text.push('\n');
}
