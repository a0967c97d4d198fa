//! Tells operators about the store and about accounts that are not in force.

use std::{collections::HashSet, sync::Arc};

use catalogue::Severity;
use serde_json::json;
use store::{AccountFinding, Registry, State};
use tracing::warn;
use web::{Family, Shared};

use crate::policy_source::PolicySource;

/// Logs the accounts that have newly stopped being in force.
pub(super) fn report(policy_source: &PolicySource, registry: &Registry) {
    let known = registry.problems();
    let known: HashSet<&AccountFinding> = known.iter().collect();
    let problems = policy_source.problems();
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        warn!(problem = problem.to_string(), code = problem.code(), "an account is not in force");
    }
    registry.set_problems(problems);
}

/// Reports on `/readyz` and `/metrics` whether the store answers.
pub(super) fn show(shared: &Shared, registry: &Arc<Registry>) {
    let told = Arc::clone(registry);
    shared.add_status("store", move || describe(&told));
    let told = Arc::clone(registry);
    shared.add_metrics(move || {
        let up = f64::from(u8::from(*told.state() == State::Up));
        let family = Family::gauge("modelgate_store_up", "Whether the store answers.");
        if *told.state() == State::Off { Vec::new() } else { vec![family.with(&[], up)] }
    });
}

fn describe(registry: &Registry) -> serde_json::Value {
    /// How many accounts are listed there; 100,000 may be affected. The log names all.
    const MAX_ACCOUNTS_SHOWN: usize = 20;
    let kind = registry.store().ok().map(|store| store.url().kind());
    let mut described = match &*registry.state() {
        State::Off => json!({ "state": "off" }),
        State::Up => json!({ "state": "up", "kind": kind }),
        State::Down { since, why } => json!({
            "state": "down",
            "kind": kind,
            "since": humantime::format_rfc3339_seconds(*since).to_string(),
            "why": why,
        }),
    };
    let problems = registry.problems();
    if !problems.is_empty() {
        let mut named: Vec<String> =
            problems.iter().take(MAX_ACCOUNTS_SHOWN).map(ToString::to_string).collect();
        if let Some(others) = problems.len().checked_sub(MAX_ACCOUNTS_SHOWN).filter(|others| *others > 0) {
            named.push(format!("and {others} more; the log names all"));
        }
        described["problems"] = named.into();
        let findings = problems.iter().take(MAX_ACCOUNTS_SHOWN).map(|problem| {
            let (kind, name) = problem.account();
            web::finding_to_json(problem.code(), Severity::Bad, &format!("{kind} {name}"), problem)
        });
        described["findings"] = findings.collect();
    }
    described
}
