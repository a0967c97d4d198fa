//! `GET /metrics` of the admin listener, in the text format of OpenMetrics 1.0
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>), which Prometheus and parsers of its
//! older text format can read.
//!
//! All values are read on request. Other parts of Modelgate add theirs with [`Shared::add_metrics`].
//!
//! ```text
//! budgets.rs          budgets of which something is spent
//! family.rs           families of samples and of histograms
//! tallies.rs          consumers, models and servers, of which a bounded number have series
//! process.rs          this process, as all Prometheus clients report themselves
//! prometheus_text.rs  the older text format
//! ```

mod budgets;
mod family;
mod process;
mod prometheus_text;
pub(crate) mod tallies;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use catalogue::{Catalogue, Readiness, ServerRecord};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::Registry,
};
use telemetry::Latencies;

pub use self::family::{Family, HistogramFamily, HistogramSample, MetricKind, Sample};
use crate::Shared;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

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
    let text = exposition(&shared);
    let text = if open_metrics { text } else { prometheus_text::of(&text) };
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

impl Shared {
    /// All that `/metrics` tells: counters and gauges, and histograms.
    pub fn figures(&self) -> (Vec<Family>, Vec<HistogramFamily>) {
        let Figures { histograms, families } = figures(self);
        (families, histograms)
    }
}

fn exposition(shared: &Shared) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures(shared)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

fn figures(shared: &Shared) -> Figures {
    let totals = shared.telemetry().totals();
    let loaded = shared.catalogue().load();
    let mut families = vec![requests(&totals)];
    families.extend(catalogue(loaded.as_deref()));
    families.push(polls(shared));
    families.push(not_shown(&totals));
    let tallies = tallies::all(shared, loaded.as_deref());
    families.extend(tallies.families);
    families.extend(budgets::families(shared));
    families.extend(process::families());
    let (waiting, waited) = shared.choices().waiting().figures();
    families.extend(waiting);
    families.extend(shared.metrics.families());
    let mut histograms = vec![decision_time(&totals.latencies), waited];
    histograms.extend(tallies.histograms);
    Figures { histograms, families }
}

fn decision_time(latencies: &Latencies) -> HistogramFamily {
    let mut below = 0;
    let bucket = |(limit, up_to): (Option<Duration>, u64)| {
        let within = up_to - below;
        below = up_to;
        (limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64()), within)
    };
    let sample = HistogramSample {
        label: None,
        sum: latencies.sum().as_secs_f64(),
        count: latencies.count(),
        buckets: latencies.up_to().map(bucket).collect(),
    };
    HistogramFamily {
        name: "modelgate_decision_seconds",
        help: "How long decisions took, from the question to the answer",
        samples: vec![sample],
    }
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
        for state in ServerRecord::STATE_NAMES {
            let count = catalogue.servers().filter(|server| server.state_name() == state).count();
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
            family.with(&[("address", &instance.address.to_string())], at.as_secs_f64())
        },
    )
}

/// All metrics of one answer.
#[derive(Debug)]
struct Figures {
    histograms: Vec<HistogramFamily>,
    families: Vec<Family>,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families.iter().try_for_each(|family| family.encode(&mut encoder))?;
        self.histograms.iter().try_for_each(|family| family.encode(&mut encoder))?;
        let mut build = encoder.encode_descriptor(
            "modelgate_build",
            "Which Modelgate this is",
            None,
            MetricType::Info,
        )?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use telemetry::{Allowed, Decided, MAX_REASONS, OTHERS, Refused, TallyBounds};

    use super::*;
    use crate::testing;

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

    /// A server called `gpu`, two of the same name, and one request to each of them and to one that is gone.
    fn with_settled_requests() -> Arc<Shared> {
        use metering::{Ending, MeteredEndpoint, RequestId, UsageKind, UsedTokens};
        use telemetry::{AnsweringServer, SettledRequest};
        let (mut publisher, reader) = catalogue::channel();
        let servers = [("gpu", "a"), ("twin", "b"), ("twin", "c")].map(|(name, id)| {
            let mut server = testing::server(name, &[]);
            server.spec.id = catalogue::ServerId::docker(id);
            server
        });
        publisher.publish(testing::catalogue_of(servers));
        let shared = Shared::with_catalogue(reader);
        let (opener, _openings) = metering::queue(1);
        shared.meter(opener);
        let settled = |id: &str, ending, status| {
            let server = AnsweringServer { id: format!("docker:{id}").into(), name: "old".into() };
            Arc::new(SettledRequest {
                request: RequestId(1),
                consumer: "team".into(),
                model: "llama".into(),
                endpoint: MeteredEndpoint::ChatCompletions,
                server: Some(server),
                ending,
                status: Some(status),
                time_to_first_token: Some(Duration::from_millis(1)),
                duration: None,
                kind: UsageKind::Exact,
                used: UsedTokens { prompt: 5, cached: Some(4), completion: 7 },
                cost: 1_500_000_000,
                span: None,
            })
        };
        let all = [
            settled("a", Ending::Finished, 200),
            settled("b", Ending::Refused, 400),
            settled("c", Ending::Refused, 503),
            settled("gone", Ending::Aborted, 499),
        ];
        shared.telemetry().settled(&all, Instant::now());
        shared.telemetry().corrected("team", "llama", [5, -3], Instant::now());
        shared
    }

    #[test]
    fn what_became_of_requests_is_told_by_consumer_model_and_server() {
        let shared = with_settled_requests();
        let prices = prices::PriceList::new("EUR".into(), Vec::new());
        assert_eq!(samples(&exposition(&shared), "modelgate_consumer_cost"), [""; 0], "nothing has a price");
        shared.replace_settings(crate::Settings { prices, ..Shared::usual_settings() });
        let text = exposition(&shared);
        let counted = |family| {
            let is_counted = |sample: &String| !sample.ends_with(" 0.0");
            samples(&text, family).into_iter().filter(is_counted).collect::<Vec<_>>()
        };
        for (family, expected) in [
            (
                "modelgate_server_requests",
                &[
                    "_total{server=\"docker:b\",ending=\"refused\"} 1.0",
                    "_total{server=\"docker:c\",ending=\"failed\"} 1.0",
                    "_total{server=\"docker:gone\",ending=\"aborted\"} 1.0",
                    "_total{server=\"gpu\",ending=\"answered\"} 1.0",
                ][..],
            ),
            (
                "modelgate_model_tokens",
                &[
                    "_total{model=\"llama\",type=\"prompt\",known=\"exact\"} 20.0",
                    "_total{model=\"llama\",type=\"completion\",known=\"exact\"} 28.0",
                ],
            ),
            ("modelgate_consumer_cached_tokens", &["_total{consumer=\"team\"} 16.0"]),
            (
                "modelgate_model_corrected_tokens",
                &[
                    "_total{model=\"llama\",type=\"prompt\",direction=\"more\"} 5.0",
                    "_total{model=\"llama\",type=\"completion\",direction=\"less\"} 3.0",
                ],
            ),
            ("modelgate_consumer_cost", &["_total{consumer=\"team\",currency=\"EUR\",known=\"exact\"} 6.0"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|end| format!("{family}{end}")).collect();
            assert_eq!(counted(family), expected);
        }
        let times = samples(&text, "modelgate_model_first_token_seconds");
        assert_eq!(times.len(), 14);
        assert_eq!(times[0], "modelgate_model_first_token_seconds_sum{model=\"llama\"} 0.004");
        assert_eq!(times[2], "modelgate_model_first_token_seconds_bucket{le=\"0.025\",model=\"llama\"} 4");
        assert_eq!(samples(&text, "modelgate_server_ready").len(), 3);
    }

    /// Beyond the bounds everything is counted under one name, so that no number of consumers, models or servers makes
    /// Prometheus pay for it.
    #[test]
    fn a_thousand_consumers_and_two_hundred_models_have_a_bounded_number_of_series() {
        let shared = Shared::empty();
        let (opener, _openings) = metering::queue(1);
        shared.meter(opener);
        let now = Instant::now();
        let telemetry = shared.telemetry();
        let allowed = Allowed { requests: 1, ..Allowed::default() };
        for consumer in 0..1_000 {
            for model in 0..200 {
                telemetry.allowed(&format!("team-{consumer}"), &format!("model-{model}"), &allowed, now);
            }
            for reason in 0..2 * MAX_REASONS {
                let (consumer, model) = (format!("team-{consumer}"), format!("model-{}", consumer % 200));
                let reason = format!("reason_{reason}").leak();
                telemetry.refused(&consumer, Some(&model), reason, 1, now);
            }
        }
        let TallyBounds { consumers, models, servers } = TallyBounds::default();
        // As `tallies.rs` says, and what does not depend on them.
        let most = 32 * (consumers + 1) + 66 * (models + 1) + 41 * (servers + 1) + 200;
        let text = exposition(&shared);
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(series.len() <= most, "{} of {most}", series.len());
        let of = |family: &str| -> f64 {
            let all = samples(&text, family).into_iter().filter(|line| line.contains("decision=\"allowed\""));
            all.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
        };
        let named =
            |family: &str| samples(&text, family).iter().filter(|line| line.contains("\"allowed\"")).count();
        for (family, bound) in
            [("modelgate_consumer_decisions", consumers), ("modelgate_model_decisions", models)]
        {
            assert_eq!((of(family), named(family)), (200_000.0, bound + 1), "{family}: nothing is lost");
        }
        assert!(text.contains(&format!("consumer=\"{OTHERS}\",decision=\"refused\",reason=\"other\"")));
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
