//! A real Prometheus reads what a running Modelgate tells; `deploy/grafana` and `deploy/prometheus` are tested with it.

mod common;

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use common::{KEY, NEWEST, chat, config, send};
use serde_json::Value;
use testkit::{
    eventually, free_port,
    modelgate::Modelgate,
    need,
    prometheus::{Prometheus, prometheus},
    redis::{Redis, redis_server},
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The names after `alertname: ` or `- alert: `.
fn alerts(text: &str, before: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (_, from) = line.split_once(before)?;
        Some(from.split([',', ' ']).next().unwrap_or_default().to_owned())
    };
    text.lines().filter_map(name).collect()
}

#[test]
fn each_rule_fires_in_a_test_of_promtool() {
    let Some(programs) = need(prometheus(), "Prometheus") else { return };
    let tests = deploy("prometheus/rules_test.yml");
    let tests = tests.to_str().expect("text");
    for arguments in [["check", "rules", "--lint=all", "--lint-fatal"].as_slice(), &["test", "rules"]] {
        let path =
            if arguments[0] == "check" { tests.replace("rules_test", "rules") } else { tests.to_owned() };
        let arguments: Vec<&str> = arguments.iter().copied().chain([path.as_str()]).collect();
        if let Err(why) = programs.promtool(&arguments, b"") {
            panic!("{arguments:?}: {why}");
        }
    }
    let rules = alerts(&read("prometheus/rules.yml"), "- alert: ");
    let text = read("prometheus/rules_test.yml");
    // A list of expected alerts that is not empty stands on lines of its own.
    let firing: Vec<&str> = text.lines().filter(|line| !line.contains("exp_alerts: []")).collect();
    assert_eq!(alerts(&firing.join("\n"), "alertname: "), rules);
    assert!(rules.len() > 10, "{rules:?}");
}

/// What is needed for every family of metrics: a store, shared limits, prices, servers and a Traefik that tell, a server that
/// is not there, and one that demands a key.
struct Scraped {
    _sims: [Sim; 3],
    _redis: Redis,
    modelgate: Modelgate,
    traefik: Traefik,
}

async fn start(traefik: PathBuf, redis: &str) -> Scraped {
    let redis = Redis::start(redis).await;
    let telemetry = free_port();
    let of = |owner: &str, name: &str, model: &str| Options {
        owned_by: owner.to_owned(),
        ..Options::named(name, &[model])
    };
    let spans = Exporter { endpoint: format!("http://127.0.0.1:{telemetry}/v1/traces"), token: None };
    let sims = [
        Sim::start_with(Options { spans: Some(spans), ..of("vllm", "told", "llama") }),
        Sim::start_with(of("llamacpp", "quiet", "qwen")),
        Sim::start("locked", &["secret"]),
    ];
    sims[2].set_required_key(Some("a-key-that-modelgate-does-not-have"));
    let more = format!(
        "  - {{ url: \"http://127.0.0.1:{}\", name: gone, models: [lost] }}\nlisten: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\n\
         metering: {{ scrape: 1s }}\nshared_limits: {{ url: {:?} }}\n\
         prices: {{ currency: EUR, models: [{{ match: \"*\", prompt: 1, completion: 2 }}] }}\n",
        free_port(),
        redis.url()
    );
    let config = config(&[&sims[0], &sims[1], &sims[2]], &more);
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config).keep_state();
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let endpoint = [format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs")];
    let builder = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint());
    let traefik = builder.telling(&endpoint).start().await;
    traefik.wait_configured().await;
    Scraped { _sims: sims, _redis: redis, modelgate, traefik }
}

impl Scraped {
    /// Requests that are answered, and some that are refused.
    async fn ask(&self) {
        let url = format!("{}/v1/chat/completions", self.traefik.url());
        let client = testkit::client();
        for (model, key) in [("llama", KEY), ("qwen", KEY), ("nothing", KEY), ("llama", "mg-wrong")] {
            send(client.post(&url).bearer_auth(key).json(&chat(model))).await;
        }
    }
}

/// The queries of all panels, with the panel's title; Grafana's variables stand for everything.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/modelgate.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let query = move |target: Value| {
            let query = target["expr"].as_str().expect("a query").replace("$__rate_interval", "1m");
            let query = ["$instance", "$model", "$consumer", "$server"]
                .iter()
                .fold(query, |query, variable| query.replace(variable, ".*"));
            assert!(!query.contains('$'), "{title}: {query}");
            (title.clone(), query)
        };
        targets.into_iter().map(query).collect::<Vec<_>>()
    };
    panels.flat_map(of).collect()
}

/// Whether a query returns a number.
async fn has_value(prometheus: &Prometheus, query: &str) -> bool {
    let is_number = |series: &Value| {
        let value = series["value"][1].as_str().and_then(|value| value.parse::<f64>().ok());
        value.is_some_and(f64::is_finite)
    };
    prometheus.query(query).await.iter().any(is_number)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_what_prometheus_has_scraped_and_rules_fire() {
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let Some(programs) = need(prometheus(), "Prometheus") else { return };
    let Some(redis) = need(redis_server(), "Redis") else { return };
    let mut scraped = start(traefik, redis).await;
    let rules = scraped.modelgate.folder().join("rules.yml");
    // Without their patience.
    let text: String = read("prometheus/rules.yml")
        .lines()
        .filter(|line| !line.trim().starts_with("for: "))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&rules, text).expect("a file in a folder of the test's own");
    let admin = scraped.modelgate.admin_url();
    let target = admin.strip_prefix("http://").expect("plain HTTP");
    let prometheus = programs.start(target, &rules).await;

    let mut missing = queries();
    assert!(missing.len() > 25, "{}", missing.len());
    let stopwatch = testkit::Stopwatch::start();
    while !missing.is_empty() {
        scraped.ask().await;
        let mut still = Vec::new();
        for (title, query) in missing {
            if !has_value(&prometheus, &query).await {
                still.push((title, query));
            }
        }
        missing = still;
        assert!(stopwatch.elapsed() < Duration::from_secs(60), "nothing is shown by {missing:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let metrics = send(testkit::client().get(format!("{admin}/metrics"))).await.text().await.expect("text");
    if let Err(why) = programs.promtool(&["check", "metrics"], metrics.as_bytes()) {
        panic!("{why}");
    }
    for (stopped, expected) in [
        (false, ["ModelgateModelWithoutServers", "ModelgateServerDown"].as_slice()),
        (true, ["ModelgateDown"].as_slice()),
    ] {
        if stopped {
            scraped.modelgate.stop().await;
        }
        eventually(Duration::from_secs(60), || async {
            let firing = prometheus.firing().await;
            expected.iter().all(|alert| firing.iter().any(|fires| fires == alert)).then_some(())
        })
        .await;
    }
}
