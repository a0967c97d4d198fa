//! Models, servers, and the state of Modelgate itself.

use std::{sync::Arc, time::Instant};

use axum::{Json, extract::State};
use catalogue::{Catalogue, Finding, Pool, ProblemSubject, Readiness, ServerRecord, Source};
use serde_json::{Value, json};
use telemetry::Performance;

use super::{Problem, extract::Query};
use crate::Admin;

/// The answer before the first survey: nothing is known yet.
pub(super) const SURVEYING: &str = "the first survey of servers is not finished";

/// `GET /models`
pub(crate) async fn models(State(admin): State<Admin>, query: Query) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(|| Problem::unavailable(SURVEYING))?;
    let items: Vec<Value> = catalogue.pools().map(|pool| model(&admin, pool)).collect();
    Ok(Json(json!({ "items": items })))
}

fn model(admin: &Admin, pool: &Pool) -> Value {
    let names =
        |servers: &[Arc<ServerRecord>]| servers.iter().map(|s| s.spec.name.clone()).collect::<Vec<_>>();
    json!({
        "name": pool.model.as_str(),
        "canonical": pool.canonical.as_str(),
        "chosen_by": pool.selector.as_ref().map(ToString::to_string),
        "state": match pool.readiness() {
            Readiness::Ready => "ready",
            Readiness::Starting => "starting",
            Readiness::Draining => "draining",
            Readiness::Stopped => "stopped",
        },
        "ready": names(&pool.ready),
        "waiting": names(&pool.waiting),
        "routes": pool.groups.iter().map(|group| group.route.as_str()).collect::<Vec<_>>(),
        "context_length": pool.card.context_length,
        "last_minutes": admin
            .shared
            .telemetry()
            .of_model(pool.canonical.as_str(), Instant::now())
            .as_ref()
            .map(last_minutes),
    })
}

fn last_minutes(performance: &Performance) -> Value {
    let recent = &performance.recent;
    json!({
        "seconds": performance.span.as_secs(),
        "answered": recent.finished,
        "refused": recent.refused,
        "failed": recent.failed,
        "aborted": recent.aborted,
        "unknown": recent.unknown,
        "prompt_tokens_per_second": performance.per_second(recent.prompt_tokens),
        "completion_tokens_per_second": performance.per_second(recent.completion_tokens),
        "first_token_seconds_p50": performance.first_token_p50.map(|time| time.as_secs_f64()),
        "first_token_seconds_p95": performance.first_token_p95.map(|time| time.as_secs_f64()),
    })
}

/// `GET /servers`
pub(crate) async fn servers(State(admin): State<Admin>, query: Query) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(|| Problem::unavailable(SURVEYING))?;
    let items: Vec<Value> = catalogue.servers().map(|found| server(&admin, catalogue, found)).collect();
    let problem = |(problem, severity): (&catalogue::Problem, catalogue::Severity)| {
        json!({
            "about": problem.subject.to_string(),
            "code": problem.finding.code(),
            "message": problem.finding.to_string(),
            "severity": severity.name(),
        })
    };
    let problems: Vec<Value> = catalogue.weighed().map(problem).collect();
    Ok(Json(json!({ "items": items, "problems": problems })))
}

fn server(admin: &Admin, catalogue: &Catalogue, server: &ServerRecord) -> Value {
    let metering = admin.shared.metering_of(server);
    let performance = admin.shared.telemetry().of_server(server.spec.id.as_str(), Instant::now());
    let spec = &server.spec;
    let is_about = |subject: &ProblemSubject| matches!(subject, ProblemSubject::Container(n) | ProblemSubject::Server(n) if *n == spec.name);
    let problems = catalogue.problems().iter().chain(catalogue.hints());
    let problems = problems.filter(|problem| is_about(&problem.subject));
    json!({
        "id": spec.id.as_str(),
        "name": spec.name,
        "url": spec.url.as_str(),
        "source": match &spec.source { Source::Docker { .. } => "docker", Source::File => "file" },
        "state": server.state_name(),
        "why": server.state.why().map(ToString::to_string),
        "code": server.state.why().map(Finding::code),
        "models": server.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        "problems": problems.map(|problem| problem.finding.to_string()).collect::<Vec<_>>(),
        "metering": {
            "code": metering.code(),
            "message": metering.to_string(),
            "advice": metering.advice(),
        },
        "last_minutes": performance.as_ref().map(last_minutes),
    })
}

/// `GET /status`
pub(crate) async fn status(State(admin): State<Admin>, query: Query) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let shared = &admin.shared;
    let loaded = shared.catalogue().load();
    let known = loaded.as_deref().map(|catalogue| {
        json!({
            "models": catalogue.pools().count(),
            "servers": catalogue.servers().count(),
            "problems": catalogue.problems().len(),
        })
    });
    let statuses = shared.statuses();
    let of = |name: &str| statuses.iter().find(|(other, _)| *other == name).map(|(_, status)| status.clone());
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": known.is_some(),
        "known": known,
        "keys_in_force": shared.policy().key_count(),
        "store": of("store"),
        "shared_limits": of("shared_limits"),
    })))
}
