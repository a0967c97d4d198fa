//! `modelgate check`: checks the configuration, and optionally what servers answer.

use std::{
    path::{self, Path},
    process::ExitCode,
};

use catalogue::Catalogue;
use traefik_config::Claim;
use web::ServerMetering;

use crate::{
    config::{self, Config, Env},
    exit,
    output::say,
    survey, wiring,
};

/// Prints a summary of a valid configuration; `named` is the file that the command line names. With `servers`, containers and
/// servers are surveyed once.
pub(crate) fn check(named: Option<&Path>, config: &Config, servers: bool) -> ExitCode {
    let env = Env::of_this_process();
    let file = config::locate(named, &env);
    let name = file.as_ref().map_or_else(|| "no file".into(), |path| path.display().to_string());
    say!(
        "ok: {name}: {}, {} in the configuration{}",
        count(config.servers.len(), "server"),
        count(config.accounts.declared.keys.len(), "key"),
        not_counted(config.docker.is_wanted() && !servers, config.store.url.is_some())
    );
    print_origins(config, file.as_deref(), config::named_by(named, &env));
    for issuer in &config.accounts.issuers {
        say!("tokens of {}: {}", issuer.issuer.issuer, issuer.plans_in_words());
    }
    for warning in &config.warnings {
        say!("warning: {warning}");
    }
    say_advisories(config);
    if servers {
        return check_servers(config);
    }
    say_claim(&Catalogue::default(), config);
    ExitCode::SUCCESS
}

/// The published faults of the Traefik that the configuration names.
fn say_advisories(config: &Config) {
    if !config.traefik.version_is_given {
        say!("note: {}", web::UNKNOWN_TRAEFIK);
        return;
    }
    let version = config.traefik.version;
    let advisories = traefik_config::advisories(version);
    if let Some(newest) = advisories.iter().map(|advisory| advisory.mended).max() {
        say!(
            "published faults of Traefik {version}, which traefik.version names; Traefik {newest} or later mends {}:",
            if advisories.len() == 1 { "it" } else { "all" }
        );
    }
    for advisory in advisories {
        say!("  {advisory}");
    }
}

/// What other applications on the same Traefik may lose.
fn say_claim(catalogue: &Catalogue, config: &Config) {
    if let Some(claim) = Claim::of(catalogue, &wiring::options(config)) {
        say!("note: {claim}");
    }
}

/// Where each setting comes from that is not a default.
fn print_origins(config: &Config, file: Option<&Path>, named_by: &str) {
    if let Some(file) = file {
        let path = path::absolute(file).unwrap_or_else(|_| file.to_owned());
        say!("the file: {}, {named_by}", path.display());
    }
    let width = config.given.iter().map(|given| given.key.len()).max().unwrap_or_default();
    for given in &config.given {
        say!("  {:width$}  from {}", given.key, given.source);
    }
    let others = if config.given.is_empty() { "all settings" } else { "all other settings" };
    say!("  {others}: their defaults");
}

fn check_servers(config: &Config) -> ExitCode {
    let catalogue = match survey::survey(config) {
        Ok(catalogue) => catalogue,
        Err(error) => return exit::of(Err(error)),
    };
    for server in catalogue.servers() {
        let why = server.state.why().map(|why| format!(": {why}")).unwrap_or_default();
        say!("server {}: {}{why}", server.spec.name, server.state_name());
    }
    say_metering(&catalogue, config);
    for problem in catalogue.problems() {
        say!("problem: {problem} [{}]", problem.finding.code());
    }
    for shortcoming in traefik_config::shortcomings(&catalogue, &wiring::options(config)) {
        say!("problem: {shortcoming} [{}]", shortcoming.code());
    }
    for hint in catalogue.hints() {
        say!("hint: {hint} [{}]", hint.finding.code());
    }
    say_claim(&catalogue, config);
    if catalogue.problems().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How well the tokens of requests will be known, and which line makes them exact: said once for all servers of which the same
/// holds.
fn say_metering(catalogue: &Catalogue, config: &Config) {
    let listener = wiring::telemetry_listener(config);
    let mut told: Vec<(ServerMetering, Vec<&str>)> = Vec::new();
    for server in catalogue.servers() {
        let metering = ServerMetering::expected(server, listener.as_ref());
        match told.iter_mut().find(|(other, _)| other.to_string() == metering.to_string()) {
            Some((_, names)) => names.push(&server.spec.name),
            None => told.push((metering, vec![&server.spec.name])),
        }
    }
    for (metering, names) in told {
        say!("tokens of {}: {metering} [{}]", names.join(", "), metering.code());
        if let Some(advice) = metering.advice() {
            say!("  {advice}");
        }
    }
}

/// Where servers and keys may be besides the configuration, and which command lists them. The store is not opened for this: to
/// open it would migrate it, and the check of a newer Modelgate must not change the store of the one that runs.
fn not_counted(containers: bool, store: bool) -> String {
    let containers = containers.then_some("containers (see \"modelgate check --servers\")");
    let keys = store.then_some("keys in the store (see \"modelgate keys list\")");
    let others: Vec<&str> = containers.into_iter().chain(keys).collect();
    if others.is_empty() { String::new() } else { format!("; not counted: {}", others.join(", ")) }
}

fn count(n: usize, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{plural}")
}
