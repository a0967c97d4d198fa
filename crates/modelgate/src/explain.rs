//! `modelgate explain`: why a container, a model or a request is routed as it is, or is not.
//!
//! It looks once, as the running Modelgate does again and again, and decides with the same code.
//! No request is counted and nothing is sent to a model.

mod known;
mod request;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, io, process::ExitCode};

use catalogue::{Catalogue, Labelled, Outcome, Pool, Problem, ServerRecord, Severity, Subject};
use clap::Subcommand;
use serde_json::Value;

use crate::{config::Config, serve};

pub(crate) use request::RequestArgs;

/// What to explain.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Explain {
    /// Why a container, or a server of the configuration, is routed or not
    Container {
        /// Its name, or that of its service in Compose
        name: String,
    },
    /// Where the requests for a model go
    Model {
        /// The name that clients use
        name: String,
    },
    /// What would become of a request
    Request(RequestArgs),
    /// The labels of a middleware for a router of your own, which leads to a model
    Middleware {
        /// The name of the model
        model: String,
    },
}

/// `modelgate explain …`.
#[expect(clippy::print_stdout, reason = "a command's answer goes to its user")]
pub(crate) fn explain(config: &Config, what: &Explain) -> ExitCode {
    serve::finish(text(config, what).map(|text| print!("{text}")))
}

fn text(config: &Config, what: &Explain) -> io::Result<String> {
    // Containers and servers are looked at only for what is about them.
    let catalogue = || serve::survey(config);
    match what {
        Explain::Container { name } => container(&*catalogue()?, name).map_err(io::Error::other),
        Explain::Model { name } => model(&*catalogue()?, config, name).map_err(io::Error::other),
        Explain::Request(args) => request::explain(&*catalogue()?, config, args),
        Explain::Middleware { model } => Ok(middleware(config, model)),
    }
}

/// What is rendered for `modelgate@http`, as labels.
fn middleware(config: &Config, model: &str) -> String {
    let host = config.traefik.advertise.as_ref().map_or("modelgate".into(), ToString::to_string);
    let authority = format!("{host}:{}", config.listen.requests.port());
    let labels = traefik_config::check_labels(&serve::options(config), &authority, model);
    let mut text = labels.join("\n");
    text.push('\n');
    text
}

fn container(catalogue: &Catalogue, name: &str) -> Result<String, String> {
    let labelled: Vec<&Labelled> = catalogue.containers().iter().filter(|c| c.is_called(name)).collect();
    let names: BTreeSet<&str> = labelled.iter().map(|c| c.name.as_str()).chain([name]).collect();
    let found: Vec<&ServerRecord> =
        catalogue.servers().map(AsRef::as_ref).filter(|s| names.contains(s.spec.name.as_str())).collect();
    let all = catalogue.problems().iter().chain(catalogue.hints());
    let problems: Vec<&Problem> = all.filter(|p| names.iter().any(|name| is_about(p, name))).collect();
    if found.is_empty() && problems.is_empty() && labelled.is_empty() {
        return Err(format!(
            "no container and no server is called {name:?}. A container is looked at if it has the label \
             inference.enable=true; known are:{}",
            known::lines(&known::all(catalogue))
        ));
    }
    let mut text = String::new();
    for server in &found {
        describe(&mut text, server, catalogue);
    }
    for container in labelled.iter().filter(|c| !found.iter().any(|server| server.spec.name == c.name)) {
        describe_other(&mut text, container);
    }
    for problem in problems {
        let what = if problem.severity() == Severity::Hint { "hint" } else { "problem" };
        let _ = writeln!(text, "{what}: {} [{}]", problem.finding, problem.finding.code());
        let _ = writeln!(text, "  to do: {}", problem.finding.advice());
    }
    Ok(text)
}

/// A container that is no server. Its problems, if it has some, are told after it.
fn describe_other(text: &mut String, container: &Labelled) {
    let (state, todo) = match &container.outcome {
        Outcome::NotEnabled => ("not routed: its label inference.enable is false".into(), None),
        Outcome::Rejected | Outcome::Server => ("not routed".into(), None),
        Outcome::Down(state) => {
            let why = state.why().map(|why| format!(": {why}")).unwrap_or_default();
            (format!("{}{why}", state.name()), state.why().map(catalogue::Finding::advice))
        }
    };
    let _ = writeln!(text, "{:<10} {}", "container", container.name);
    let _ = writeln!(text, "{:<10} {state}", "state");
    if let Some(todo) = todo {
        let _ = writeln!(text, "  to do: {todo}");
    }
}

fn is_about(problem: &Problem, name: &str) -> bool {
    matches!(&problem.subject, Subject::Container(n) | Subject::Server(n) if n == name)
}

fn describe(text: &mut String, server: &ServerRecord, catalogue: &Catalogue) {
    let spec = &server.spec;
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("server", spec.name.clone());
    line("id", spec.id.to_string());
    line("address", format!("{}, API below {}/", spec.url, spec.base_path.as_str()));
    let why = server.state.why().map(|why| format!(": {why}")).unwrap_or_default();
    line("state", format!("{}{why}", server.state.name()));
    let models: Vec<&str> = server.models.iter().map(|m| m.name.as_str()).collect();
    let origin = if spec.models.is_empty() { "it lists them" } else { "given by hand" };
    line("models", format!("{} ({origin})", list(&models)));
    if let Some(selector) = spec.settings.selector() {
        line("select", format!("only requests with {selector}"));
    }
    let of_server = spec.settings.given.iter().map(|(key, value)| (*key, value.as_str()));
    let settings: Vec<String> =
        of_server.chain(spec.model_settings.iter()).map(|(key, value)| format!("{key}={value}")).collect();
    if !settings.is_empty() {
        line("settings", settings.join(", "));
    }
    let pools = catalogue.pools().filter(|p| p.ready.iter().any(|s| s.spec.id == spec.id));
    for pool in pools {
        let route = pool.legs.iter().find(|leg| leg.ready.iter().any(|s| s.spec.id == spec.id));
        line(
            "routed",
            format!("as {:?} by route {}", pool.model.as_str(), route.map_or("none", |l| l.route.as_str())),
        );
    }
}

fn model(catalogue: &Catalogue, config: &Config, name: &str) -> Result<String, String> {
    let pools: Vec<&Pool> =
        catalogue.pools().map(AsRef::as_ref).filter(|p| p.model.as_str() == name).collect();
    if pools.is_empty() {
        return Err(no_such_model(catalogue, name));
    }
    let document: Value = serde_json::from_slice(&serve::document(catalogue, config).to_json())
        .map_err(|e| format!("the rendered document: {e}"))?;
    let mut text = String::new();
    for pool in pools {
        describe_pool(&mut text, pool, &document);
    }
    let shortcomings = traefik_config::shortcomings(catalogue, &serve::options(config));
    for shortcoming in shortcomings {
        let _ = writeln!(text, "Traefik {}: {shortcoming}", config.traefik.version);
    }
    Ok(text)
}

fn no_such_model(catalogue: &Catalogue, name: &str) -> String {
    let known: BTreeSet<&str> = catalogue.pools().map(|p| p.model.as_str()).collect();
    let known: Vec<&str> = known.into_iter().collect();
    format!("no server has a model {name:?}; known are: {}{}", list(&known), known::not_ready(catalogue))
}

fn describe_pool(text: &mut String, pool: &Pool, document: &Value) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("model", pool.model.to_string());
    if pool.stands_for != pool.model {
        line("stands for", pool.stands_for.to_string());
    }
    if let Some(selector) = &pool.selector {
        line("chosen by", selector.to_string());
    }
    for server in pool.ready.iter().chain(&pool.waiting) {
        let why = server.state.why().map(|why| format!(": {why}")).unwrap_or_default();
        line("server", format!("{} at {}, {}{why}", server.spec.name, server.spec.url, server.state.name()));
    }
    for (what, branch) in [("canary", &pool.canary), ("mirror", &pool.mirror)] {
        if let Some(branch) = branch {
            line(what, format!("{} % to {}", branch.percent, branch.model));
        }
    }
    for leg in &pool.legs {
        line("route", leg.route.to_string());
        let routers = document["http"]["routers"].as_object().into_iter().flatten();
        for (name, router) in routers.filter(|(name, _)| name.starts_with(leg.route.as_str())) {
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

fn list(items: &[&str]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}
