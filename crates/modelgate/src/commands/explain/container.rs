//! Why a container, or a server of the configuration, is routed or not.

use std::{collections::BTreeSet, fmt::Write as _};

use catalogue::{Catalogue, Labelled, Outcome, Problem, ServerRecord};
use web::{ServerMetering, TelemetryListener};

use super::known::{self, is_about, list};

/// `listener` is `listen.telemetry`.
pub(super) fn explain(
    catalogue: &Catalogue,
    listener: Option<&TelemetryListener>,
    name: &str,
) -> Result<String, String> {
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
        describe_metering(&mut text, server, listener);
    }
    for container in labelled.iter().filter(|c| !found.iter().any(|server| server.spec.name == c.name)) {
        describe_other(&mut text, container);
    }
    for problem in problems {
        let what = if problem.is_hint() { "hint" } else { "problem" };
        let _ = writeln!(text, "{what}: {} [{}]", problem.finding, problem.finding.code());
        let _ = writeln!(text, "  to do: {}", problem.finding.advice());
    }
    Ok(text)
}

/// Describes a container that is not a server. Its problems, if any, are printed after it.
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

/// How well the tokens of its requests are known, as far as its kind and the configuration tell.
fn describe_metering(text: &mut String, server: &ServerRecord, listener: Option<&TelemetryListener>) {
    let metering = ServerMetering::expected(server, listener);
    let _ = writeln!(text, "{:<10} {metering} [{}]", "tokens", metering.code());
    if let Some(advice) = metering.advice() {
        let _ = writeln!(text, "  to do: {advice}");
    }
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
    line("state", format!("{}{why}", server.state_name()));
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
        let route = pool.groups.iter().find(|group| group.ready.iter().any(|s| s.spec.id == spec.id));
        line(
            "routed",
            format!("as {:?} by route {}", pool.model.as_str(), route.map_or("none", |l| l.route.as_str())),
        );
    }
}
