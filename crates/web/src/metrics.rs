//! `GET /metrics` of the admin listener, in the text format of OpenMetrics 1.0
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>), which Prometheus and parsers of its
//! older text format can read.
//!
//! Nothing is stored for it: all values are read on request. Other parts of Modelgate add theirs with [`Shared::add_metrics`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use catalogue::{Catalogue, Readiness};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use telemetry::{Latencies, Performance, RequestCounts};

use crate::Shared;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric family: one name, and a sample for each set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Letters and underscores, beginning with `modelgate_`; a counter's name without `_total`.
    pub name: &'static str,
    /// The help text, in one line.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// The samples; all have the same label names.
    pub samples: Vec<Sample>,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// The values only grow.
    Counter,
    /// The values go up and down.
    Gauge,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels with their values, which may be anything except secrets.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Family {
    /// A gauge without samples.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Gauge, samples: Vec::new() }
    }

    /// A counter without samples.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Counter, samples: Vec::new() }
    }

    /// Adds a sample.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value });
        self
    }
}

type FamilySource = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// The metrics of other parts.
#[derive(Default)]
pub(crate) struct Sources(Mutex<Vec<FamilySource>>);

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

impl Sources {
    pub(crate) fn add(&self, source: FamilySource) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    fn families(&self) -> Vec<Family> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().flat_map(|source| source()).collect()
    }
}

/// Answers only requests sent directly to this listener. Through a proxy it is closed: the dashboard may be public, and
/// scrapers cannot sign in.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if headers.contains_key("x-forwarded-for") {
        let why = "metrics are for who asks Modelgate's admin listener itself, and not through a proxy\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open_metrics = accepted
        .flat_map(|accept| accept.split(','))
        .any(|kind| kind.trim().starts_with("application/openmetrics-text"));
    let content_type = if open_metrics { OPEN_METRICS } else { PROMETHEUS };
    ([(header::CONTENT_TYPE, content_type)], exposition(&shared)).into_response()
}

fn exposition(shared: &Shared) -> String {
    let totals = shared.telemetry().totals();
    let mut families = vec![requests(&totals)];
    families.extend(catalogue(shared.catalogue().load().as_deref()));
    families.push(polls(shared));
    families.push(not_shown(&totals));
    families.extend(performance(shared));
    families.extend(shared.metrics.families());
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures { latencies: totals.latencies, families }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

fn requests(totals: &telemetry::Totals) -> Family {
    let family = Family::counter(
        "modelgate_requests",
        "Requests by decision and, if refused, by reason. Most refusals are answers to Traefik's question; what it has no \
         route for, or too many of at once, is refused without one, or after it was allowed",
    );
    let allowed = family.with(&[("decision", "allowed"), ("reason", "")], totals.allowed as f64);
    totals.refused.iter().fold(allowed, |family, (code, count)| {
        family.with(&[("decision", "refused"), ("reason", code)], *count as f64)
    })
}

fn not_shown(totals: &telemetry::Totals) -> Family {
    let help = "Decisions that were counted, but were too many at once to be shown one by one";
    Family::counter("modelgate_decisions_not_shown", help).with(&[], totals.not_shown as f64)
}

/// What has become of admitted requests, by model and by server. At most [`telemetry::MAX_SUBJECTS`] of each have
/// samples, also some that are gone, and only with `listen.telemetry`.
fn performance(shared: &Shared) -> Vec<Family> {
    let (now, telemetry) = (Instant::now(), shared.telemetry());
    let models = telemetry.of_models(now);
    let servers = telemetry.of_servers(now);
    let loaded = shared.catalogue().load();
    let known = loaded.as_deref().map(unique_names).unwrap_or_default();
    let mut families = Vec::new();
    if !models.is_empty() {
        families.extend(ENDED_MODELS.families(models.iter().map(|(name, of)| (&**name, of))));
    }
    if !servers.is_empty() {
        let named = servers.iter().map(|(id, of)| (*known.get(&**id).unwrap_or(&&**id), of));
        families.extend(ENDED_SERVERS.families(named));
    }
    families
}

/// The names of servers by id, without those names that several servers have. Other servers are named by their id: no two
/// samples may have the same labels.
fn unique_names(catalogue: &Catalogue) -> BTreeMap<&str, &str> {
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for server in catalogue.servers() {
        ids.entry(&server.spec.name).or_default().push(server.spec.id.as_str());
    }
    let unique = ids.into_iter().filter_map(|(name, ids)| match ids[..] {
        [id] => Some((id, name)),
        _ => None,
    });
    unique.collect()
}

/// The names of the families about models, or about servers.
struct Ended {
    label: &'static str,
    requests: &'static str,
    tokens: &'static str,
    first_token: &'static str,
}

const ENDED_MODELS: Ended = Ended {
    label: "model",
    requests: "modelgate_model_requests",
    tokens: "modelgate_model_tokens",
    first_token: "modelgate_model_first_token_seconds",
};
const ENDED_SERVERS: Ended = Ended {
    label: "server",
    requests: "modelgate_server_requests",
    tokens: "modelgate_server_tokens",
    first_token: "modelgate_server_first_token_seconds",
};

impl Ended {
    fn families<'a>(&self, all: impl Iterator<Item = (&'a str, &'a Performance)>) -> [Family; 3] {
        let mut requests = Family::counter(
            self.requests,
            "Requests that have ended: answered, refused by the server (4xx), failed (other errors), aborted, or unknown",
        );
        let mut tokens = Family::counter(self.tokens, "Tokens that are exact or measured");
        let mut first_token =
            Family::gauge(self.first_token, "Time to first token over the last five minutes");
        for (name, performance) in all {
            let RequestCounts { finished, refused, failed, aborted, unknown, .. } = performance.total;
            for (ending, count) in [
                ("answered", finished),
                ("refused", refused),
                ("failed", failed),
                ("aborted", aborted),
                ("unknown", unknown),
            ] {
                requests = requests.with(&[(self.label, name), ("ending", ending)], count as f64);
            }
            let RequestCounts { prompt_tokens, completion_tokens, .. } = performance.total;
            for (kind, count) in [("prompt", prompt_tokens), ("completion", completion_tokens)] {
                tokens = tokens.with(&[(self.label, name), ("type", kind)], count as f64);
            }
            let times = [("0.5", performance.first_token_p50), ("0.95", performance.first_token_p95)];
            for (quantile, time) in times {
                if let Some(time) = time {
                    let labels = [(self.label, name), ("quantile", quantile)];
                    first_token = first_token.with(&labels, time.as_secs_f64());
                }
            }
        }
        [requests, tokens, first_token]
    }
}

/// Before the first survey the numbers are unknown.
fn catalogue(catalogue: Option<&Catalogue>) -> Vec<Family> {
    let mut models = Family::gauge("modelgate_models", "Names of models, by what state their servers are in");
    let mut servers = Family::gauge("modelgate_servers", "Inference servers, by state");
    let mut problems =
        Family::gauge("modelgate_problems", "What keeps servers, or parts of them, from being routed");
    let help =
        "Counts what was published about servers and models, from 1; 0 before the first survey is finished";
    let revision = Family::gauge("modelgate_catalogue_revision", help)
        .with(&[], catalogue.map_or(0, Catalogue::generation) as f64);
    if let Some(catalogue) = catalogue {
        for (state, name) in [
            (Readiness::Ready, "ready"),
            (Readiness::Starting, "starting"),
            (Readiness::Draining, "draining"),
            (Readiness::Stopped, "stopped"),
        ] {
            let count = catalogue.pools().filter(|pool| pool.readiness() == state).count();
            models = models.with(&[("state", name)], count as f64);
        }
        for state in ["ready", "starting", "draining", "stopped"] {
            let count = catalogue.servers().filter(|server| server.state.name() == state).count();
            servers = servers.with(&[("state", state)], count as f64);
        }
        problems = problems.with(&[], catalogue.problems().len() as f64);
    }
    vec![models, servers, problems, revision]
}

/// The time itself instead of its age, so that the value does not depend on when it is read.
fn polls(shared: &Shared) -> Family {
    let help = "When each Traefik was heard of last, in seconds since 1970: its poll, or the end of one that was held";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shared.polls().instances().iter().fold(
        Family::gauge("modelgate_traefik_last_poll_seconds", help),
        |family, instance| {
            let at: Duration = now.saturating_sub(instance.silent_for);
            family.with(&[("instance", &instance.address.to_string())], at.as_secs_f64())
        },
    )
}

/// All metrics of one answer.
#[derive(Debug)]
struct Figures {
    latencies: Latencies,
    families: Vec<Family>,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.families {
            family.encode(&mut encoder)?;
        }
        self.encode_latencies(&mut encoder)?;
        let mut build = encoder.encode_descriptor(
            "modelgate_build",
            "Which Modelgate this is",
            None,
            MetricType::Info,
        )?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

impl Figures {
    fn encode_latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How long decisions took, from the question to the answer";
        let mut below = 0;
        let buckets: Vec<(f64, u64)> = self
            .latencies
            .up_to()
            .map(|(limit, up_to)| {
                let within = up_to - below;
                below = up_to;
                (limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64()), within)
            })
            .collect();
        let (sum, count) = (self.latencies.sum().as_secs_f64(), self.latencies.count());
        encoder
            .encode_descriptor("modelgate_decision_seconds", help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for Sample { labels, value } in &self.samples {
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            match (labels.as_slice(), self.kind) {
                ([], MetricKind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                ([], MetricKind::Gauge) => metric.encode_gauge(value)?,
                (labels, MetricKind::Counter) => {
                    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)?;
                }
                (labels, MetricKind::Gauge) => metric.encode_family(&labels)?.encode_gauge(value)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use telemetry::{Decided, Refused};

    use super::*;

    fn decide(shared: &Shared, refused: Option<Refused<'_>>, micros: u64) {
        shared.telemetry().decided(&Decided {
            at: UNIX_EPOCH,
            request_id: "req_1",
            client_request_id: None,
            consumer: None,
            key: None,
            model: Some("\"hostile\"\n"),
            from: None,
            method: "POST",
            uri: "/v1/chat/completions",
            refused,
            tokens: None,
            latency: Some(Duration::from_micros(micros)),
        });
    }

    /// The samples of a family, in order.
    fn samples(text: &str, family: &str) -> Vec<String> {
        let of_family =
            |line: &&str| line.split(['{', ' ']).next().is_some_and(|name| name.starts_with(family));
        text.lines().filter(of_family).map(str::to_owned).collect()
    }

    #[test]
    fn decisions_are_counted_by_reason_and_time() {
        let shared = Shared::empty();
        decide(&shared, None, 20);
        decide(&shared, None, 60);
        decide(&shared, Some(Refused { code: "missing_api_key", words: &"no key" }), 5);
        let text = exposition(&shared);
        assert_eq!(
            samples(&text, "modelgate_requests"),
            [
                "modelgate_requests_total{decision=\"allowed\",reason=\"\"} 2.0",
                "modelgate_requests_total{decision=\"refused\",reason=\"missing_api_key\"} 1.0",
            ]
        );
        let times = samples(&text, "modelgate_decision_seconds");
        assert_eq!(
            times[..2],
            ["modelgate_decision_seconds_sum 0.000085", "modelgate_decision_seconds_count 3"]
        );
        assert_eq!(times[2], "modelgate_decision_seconds_bucket{le=\"0.000032768\"} 2");
        assert_eq!(times[3], "modelgate_decision_seconds_bucket{le=\"0.000065536\"} 3");
        assert_eq!(times.last().expect("buckets"), "modelgate_decision_seconds_bucket{le=\"+Inf\"} 3");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_became_of_requests_is_told_by_model_and_by_server() {
        use metering::{Ending, RequestId, UsageKind, UsedTokens};
        use telemetry::{AnsweringServer, SettledRequest};
        let (mut publisher, reader) = catalogue::channel();
        let servers = [("gpu", "a"), ("twin", "b"), ("twin", "c")].map(|(name, id)| {
            let mut spec = catalogue::ServerSpec::configured(name, catalogue::ServerUrl::http(id, 8000));
            spec.id = catalogue::ServerId::docker(id);
            let state = catalogue::ServerState::Ready;
            let listed_as = catalogue::Kind::Vllm;
            catalogue::ServerRecord { spec, state, listed_as, has_others: false, models: Vec::new() }
        });
        publisher.publish(Catalogue::assemble(servers, Vec::new()));
        let shared = Shared::with_catalogue(reader);
        assert_eq!(samples(&exposition(&shared), "modelgate_model_"), Vec::<String>::new());
        let settled = |id: &str, ending, status| {
            let server = AnsweringServer { id: format!("docker:{id}").into(), name: "old".into() };
            Arc::new(SettledRequest {
                request: RequestId(1),
                model: "llama".into(),
                server: Some(server),
                ending,
                status: Some(status),
                time_to_first_token: Some(Duration::from_millis(1)),
                duration: None,
                kind: UsageKind::Exact,
                used: UsedTokens { prompt: 5, cached: None, completion: 7 },
            })
        };
        let all = [
            settled("a", Ending::Finished, 200),
            settled("b", Ending::Refused, 400),
            settled("c", Ending::Refused, 503),
            settled("gone", Ending::Aborted, 499),
        ];
        shared.telemetry().settled(&all, Instant::now());
        let text = exposition(&shared);
        let is_counted = |sample: &String| !sample.ends_with(" 0.0");
        let counted = |family| samples(&text, family).into_iter().filter(is_counted).collect::<Vec<_>>();
        assert_eq!(
            counted("modelgate_server_requests"),
            [
                "modelgate_server_requests_total{server=\"gpu\",ending=\"answered\"} 1.0",
                "modelgate_server_requests_total{server=\"docker:b\",ending=\"refused\"} 1.0",
                "modelgate_server_requests_total{server=\"docker:c\",ending=\"failed\"} 1.0",
                "modelgate_server_requests_total{server=\"docker:gone\",ending=\"aborted\"} 1.0",
            ]
        );
        assert_eq!(
            counted("modelgate_model_tokens"),
            [
                "modelgate_model_tokens_total{model=\"llama\",type=\"prompt\"} 20.0",
                "modelgate_model_tokens_total{model=\"llama\",type=\"completion\"} 28.0",
            ]
        );
        let times = samples(&text, "modelgate_model_first_token_seconds");
        assert!(times.len() == 2 && times[1].contains("quantile=\"0.95\"} 0.001015808"), "{times:?}");
    }

    #[test]
    fn before_the_first_survey_nobody_knows_how_many_models_there_are() {
        let text = exposition(&Shared::empty());
        assert_eq!(samples(&text, "modelgate_models"), Vec::<String>::new());
        assert_eq!(samples(&text, "modelgate_catalogue_revision"), ["modelgate_catalogue_revision 0.0"]);
    }

    #[test]
    fn other_parts_add_families_and_labels_may_hold_anything() {
        let shared = Shared::empty();
        let hostile = "a\"b\\c\nd";
        shared.add_metrics(move || {
            vec![
                Family::gauge("modelgate_limits_shared", "Whether limits are shared").with(&[], 1.0),
                Family::counter("modelgate_limits_errors", "Errors").with(&[("store", hostile)], 2.0),
            ]
        });
        let text = exposition(&shared);
        assert_eq!(samples(&text, "modelgate_limits_shared"), ["modelgate_limits_shared 1.0"]);
        let expected = "modelgate_limits_errors_total{store=\"a\\\"b\\\\c\\nd\"} 2.0";
        assert_eq!(samples(&text, "modelgate_limits_errors"), [expected]);
    }

    #[tokio::test]
    async fn the_content_type_is_the_one_that_was_asked_for() {
        let answer = async |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            let answer = handle(State(Shared::empty()), headers.collect()).await;
            let kind = answer.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
            (answer.status().as_u16(), kind)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(answer(&[("accept", prometheus)]).await, (200, OPEN_METRICS.into()));
        assert_eq!(answer(&[("accept", "text/plain")]).await, (200, PROMETHEUS.into()));
        assert_eq!(answer(&[]).await, (200, PROMETHEUS.into()));
        assert_eq!(answer(&[("x-forwarded-for", "203.0.113.9")]).await.0, 403);
    }
}
