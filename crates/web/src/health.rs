//! `/healthz`, `/readyz` and `/metrics`: whether Modelgate itself is healthy, and which problems it sees.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use catalogue::{Finding, Problem, Readiness, Severity};
use serde_json::{Value, json};
use traefik_config::Shortcoming;

use crate::{PollFinding, Shared, finding_to_json, metrics};

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::handle))
        .with_state(shared)
}

/// Ready once the first survey is finished. Callers on this machine get details and problems; others get only numbers, since
/// addresses and problems are for users of the dashboard.
async fn ready(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    // A proxy on this machine may forward anybody's request.
    let is_local = peer.ip().to_canonical().is_loopback() && !headers.contains_key("x-forwarded-for");
    if *shared.stopping().borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "stopping" }))).into_response();
    }
    let loaded = shared.catalogue().load();
    let Some(catalogue) = loaded.as_deref() else {
        let mut body = json!({ "status": "starting", "reason": "the first survey is not finished" });
        if is_local {
            let obstacles = shared.catalogue().obstacles();
            body["problems"] = obstacles.iter().map(ToString::to_string).collect();
            let finding = |obstacle: &Problem| finding(obstacle, obstacle.finding.severity());
            body["findings"] = obstacles.iter().map(finding).collect();
        }
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    if !is_local {
        let body = json!({
            "status": "ready",
            "models": catalogue.pools().count(),
            "servers": catalogue.servers().count(),
            "problems": catalogue.problems().len(),
        });
        return Json(body).into_response();
    }
    let servers: Vec<_> = catalogue
        .servers()
        .map(|s| {
            json!({
                "name": s.spec.name,
                "url": s.spec.url.as_str(),
                "state": s.state_name(),
                "why": s.state.why().map(ToString::to_string),
                "code": s.state.why().map(Finding::code),
                "models": s.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let models: Vec<_> = catalogue
        .pools()
        .map(|p| {
            json!({
                "name": p.model.as_str(),
                "canonical": p.canonical.as_str(),
                "selector": p.selector.as_ref().map(ToString::to_string),
                "routes": p.groups.iter().map(|group| group.route.as_str()).collect::<Vec<_>>(),
                "ready": p.readiness() == Readiness::Ready,
                "servers": p.ready.len(),
            })
        })
        .collect();
    let shortcomings = traefik_config::shortcomings(catalogue, &shared.settings().traefik);
    let mut problems: Vec<String> = catalogue.problems().iter().map(ToString::to_string).collect();
    problems.extend(shortcomings.iter().map(ToString::to_string));
    let hints: Vec<String> = catalogue.hints().iter().map(ToString::to_string).collect();
    let findings = catalogue.weighed().map(|(problem, severity)| finding(problem, severity));
    let findings: Vec<Value> = findings.chain(shortcomings.iter().map(shortcoming)).collect();
    let mut body = json!({
        "status": "ready",
        "models": models,
        "servers": servers,
        "problems": problems,
        "advisories": shared.advisories(),
        "hints": hints,
        "findings": findings,
        "polls": shared.polls().unheard().iter().map(poll).collect::<Vec<_>>(),
    });
    for (name, status) in shared.statuses() {
        body[name] = status;
    }
    Json(body).into_response()
}

/// A problem or hint as JSON; programs use its code.
fn finding(problem: &Problem, severity: Severity) -> Value {
    let Problem { subject, finding, .. } = problem;
    finding_to_json(finding.code(), severity, &subject.to_string(), finding)
}

fn shortcoming(shortcoming: &Shortcoming) -> Value {
    finding_to_json(shortcoming.code(), Severity::Warn, "Traefik", shortcoming)
}

/// A problem of Traefik's polls.
fn poll(finding: &PollFinding) -> Value {
    finding_to_json(finding.code(), finding.severity(), "Traefik", finding)
}

#[cfg(test)]
mod tests {
    use catalogue::{Catalogue, LabelFinding, LifecycleFinding, ServerRecord, ServerState};
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::testing::server;

    async fn asked(shared: &Arc<Shared>) -> Value {
        let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4711)));
        let answer = ready(State(Arc::clone(shared)), peer, HeaderMap::new()).await;
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("JSON")
    }

    #[tokio::test]
    async fn what_is_told_has_codes_for_programs_beside_the_words() {
        let (mut publisher, reader) = catalogue::channel();
        let shared = Shared::with_catalogue(reader);
        let unknown = || Problem::container("vllm", LabelFinding::Unknown { label: "inference.prot".into() });
        publisher.waits_for(vec![unknown()]);
        let starting = asked(&shared).await;
        assert_eq!(starting["problems"][0], unknown().to_string());
        assert_eq!(starting["findings"][0]["code"], "label_unknown");
        let state = ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
        let gpu = ServerRecord { state, ..server("gpu", &[]) };
        let hint = catalogue::open_port("vllm", 32768, 8000);
        publisher.publish(Catalogue::assemble([gpu], vec![unknown(), hint.clone()]));
        let told = asked(&shared).await;
        assert_eq!(
            (&told["problems"], &told["hints"]),
            (&json!([unknown().to_string()]), &json!([hint.to_string()]))
        );
        let told_of = &told["servers"][0];
        assert_eq!(told_of["why"], "its HEALTHCHECK has not passed yet");
        assert_eq!(told_of["code"], "healthcheck_pending");
        let findings = told["findings"].as_array().expect("a list");
        let brief = |finding: &Value| {
            ["code", "severity", "about"].map(|key| finding[key].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(
            findings.iter().map(brief).collect::<Vec<_>>(),
            [["label_unknown", "bad", "container vllm"], ["port_published_to_all", "hint", "container vllm"],]
        );
        assert_eq!(findings[1]["message"], hint.finding.to_string());
        // Regression: it was "fault" here, and "warn" on pages and in metrics.
        publisher.publish(Catalogue::assemble([server("vllm", &["llama"])], vec![unknown()]));
        assert_eq!(asked(&shared).await["findings"][0]["severity"], "warn");
    }
}
