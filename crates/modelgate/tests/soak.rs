//! A long run at half of what the machine can take, while servers come and go, the configuration is reloaded and keys change: nothing
//! fails, and memory, handles and the database do not grow.
//!
//! `cargo xtask soak --minutes N` runs it; without `MODELGATE_TEST_SOAK_MINUTES` it does nothing. With `MODELGATE_TEST_RELEASE` it takes
//! the optimised program.

mod common;

use std::{env, fs, path::Path, time::Duration};

use common::{KEY, NEWEST, config_of};
use serde_json::json;
use testkit::{
    free_port,
    load::{ChatAnswer, Load, Report, Until},
    median, memory,
    modelgate::{Modelgate, optimised},
    need,
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

const CONNECTIONS: usize = 32;
const TOKEN: &str = "an-admin-token-of-the-tests";
/// Between two changes of servers, configuration or keys.
const CHANGE: Duration = Duration::from_secs(2);
/// Between two readings.
const READING: Duration = Duration::from_secs(5);

/// What is measured every few seconds; in bytes, or a number of handles.
#[derive(Debug, Clone, Copy)]
struct SoakReading {
    memory: u64,
    handles: u64,
    database: u64,
    traefik_memory: u64,
    traefik_handles: u64,
}

struct Soaked {
    modelgate: Modelgate,
    traefik: Traefik,
    sims: [Sim; 3],
    telemetry: u16,
}

impl Soaked {
    async fn start(traefik: &Path) -> Self {
        let binary = optimised().unwrap_or_else(|_| env!("CARGO_BIN_EXE_modelgate").into());
        let telemetry = free_port();
        let sims = ["one", "two", "three"].map(|name| {
            let spans = Exporter { endpoint: format!("http://127.0.0.1:{telemetry}/v1/traces"), token: None };
            let named = Options::named(name, &["llama"]);
            Sim::start_with(Options { owned_by: "vllm".into(), spans: Some(spans), ..named })
        });
        let yaml = configuration(&sims, telemetry, 0);
        let mut modelgate = Modelgate::builder(binary, &yaml).keep_state().start().await;
        modelgate.wait_ready().await;
        let endpoint = [format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs")];
        let builder = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint());
        let traefik = builder.telling(&endpoint).start().await;
        traefik.wait_configured().await;
        Self { modelgate, traefik, sims, telemetry }
    }

    fn load(&self) -> Load {
        Load::chat(&self.traefik.url(), "llama", ChatAnswer::Streamed).key(KEY).connections(CONNECTIONS)
    }

    fn read(&self) -> SoakReading {
        let handles = |id: u32| fs::read_dir(format!("/proc/{id}/fd")).expect("it runs").count() as u64;
        let state = self.modelgate.folder().join("state");
        let files = fs::read_dir(state).expect("its state").flatten();
        let is_database = |name: &str| name.starts_with("modelgate.db");
        let files = files.filter(|file| is_database(&file.file_name().to_string_lossy()));
        let (id, traefik) = (self.modelgate.id(), self.traefik.id());
        SoakReading {
            memory: memory(id, "VmRSS"),
            handles: handles(id),
            database: files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum(),
            traefik_memory: memory(traefik, "VmRSS"),
            traefik_handles: handles(traefik),
        }
    }

    /// One change: a server comes or goes (and the limits of models change with it), a key is made, changed or taken away.
    async fn change(&self, number: usize) {
        let client = testkit::client();
        let url = format!("{}/api/v1/keys", self.modelgate.admin_url());
        let key = format!("{url}/soak-{}", number / 4 % 50);
        let request = match number % 4 {
            0 => {
                self.modelgate.write_config(&configuration(&self.sims, self.telemetry, number / 4));
                self.sims.iter().for_each(Sim::forget_requests);
                return;
            }
            1 => client.put(&key).json(&json!({ "consumer": "soak", "models": ["llama"] })),
            2 => client.patch(&key).json(&json!({ "note": format!("change {number}") })),
            _ => client.delete(&key),
        };
        let request = request.header("content-type", content_type(number)).bearer_auth(TOKEN);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "change {number}: {}", answer.text().await.unwrap_or_default());
    }
}

fn content_type(number: usize) -> &'static str {
    if number % 4 == 2 { "application/merge-patch+json" } else { "application/json" }
}

/// Two servers that stay, and in every other configuration a third.
fn configuration(sims: &[Sim; 3], telemetry: u16, number: usize) -> String {
    let servers = sims[..2 + number % 2].iter().map(|sim| (sim, "")).collect::<Vec<_>>();
    let more = format!(
        "listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\nadmin: {{ tokens: [{{ name: ada, sha256: \"{}\" }}] }}\n\
         models: [{{ match: \"llama*\", limit: {{ requests_per_second: {}, requests_per_day: 900000000 }} }}]\n",
        access::KeyDigest::of(TOKEN).to_hex(),
        100_000 + number
    );
    config_of(&servers, &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_and_nothing_grows() {
    let Some(minutes) = env::var("MODELGATE_TEST_SOAK_MINUTES").ok() else { return };
    let minutes: u64 = minutes.parse().expect("MODELGATE_TEST_SOAK_MINUTES is a number");
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let soaked = Soaked::start(&traefik).await;
    let fastest = soaked.load().until(Until::Elapsed(Duration::from_secs(15))).run().await;
    assert_none_failed(&fastest);
    let rate = fastest.rate() / 2.0;
    println!("the machine takes {:.0} requests a second; {minutes} minutes at {rate:.0}", fastest.rate());

    let (end, ended) = watch::channel(false);
    let load = soaked.load().rate(rate).until(Until::Told(ended));
    let load = tokio::spawn(load.run());
    let (start, mut readings, mut changes) = (Instant::now(), Vec::new(), 0);
    let mut reading_at = start;
    while start.elapsed() < Duration::from_secs(60 * minutes) {
        soaked.change(changes).await;
        changes += 1;
        if reading_at.elapsed() >= READING {
            reading_at = Instant::now();
            let reading = soaked.read();
            if readings.len() % 6 == 0 {
                println!("{:>5} s  {reading:?}", start.elapsed().as_secs());
            }
            readings.push(reading);
        }
        sleep(CHANGE).await;
    }
    end.send_replace(true);
    let report = load.await.expect("a report");
    println!("{} requests, {:.0} a second, {changes} changes", report.answers(), report.rate());
    assert_none_failed(&report);
    assert!(report.rate() > rate * 0.8, "{:.0} of {rate:.0} requests a second", report.rate());
    let log = soaked.modelgate.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    judge(&readings, changes);
}

fn assert_none_failed(report: &Report) {
    assert!(report.errors.is_empty(), "{} failed: {:?}", report.errors.len(), report.errors.first());
    assert_eq!(report.answered(200), report.answers(), "{:?}", report.statuses);
}

/// One of the figures of a reading.
type Figure = fn(&SoakReading) -> u64;

/// Compares the last quarter with the second: in the first, caches and pools fill.
#[expect(clippy::print_stdout, reason = "a long measurement is looked at")]
fn judge(readings: &[SoakReading], changes: usize) {
    let quarter = readings.len() / 4;
    assert!(quarter >= 5, "{} readings show nothing", readings.len());
    let middle = |of: Figure, part: usize| {
        let part = &readings[part * quarter..(part + 1) * quarter];
        let values: Vec<Duration> = part.iter().map(|reading| Duration::from_nanos(of(reading))).collect();
        u64::try_from(median(&values).as_nanos()).expect("a number of bytes")
    };
    const MB: u64 = 1 << 20;
    // Of the audit log each change is a row, and so is each revision of a key that followers are told.
    let of_changes = changes as u64 * 2048;
    let rows: [(&str, Figure, u64); 5] = [
        ("memory of Modelgate", |reading| reading.memory, 8 * MB),
        ("handles of Modelgate", |reading| reading.handles, 8),
        ("database", |reading| reading.database, MB + of_changes),
        ("memory of Traefik", |reading| reading.traefik_memory, 48 * MB),
        ("handles of Traefik", |reading| reading.traefik_handles, 16),
    ];
    let mut grown = Vec::new();
    for (what, of, allowed) in rows {
        let (before, after) = (middle(of, 1), middle(of, 3));
        println!("{what}: {before} in the second quarter, {after} in the last; it may grow by {allowed}");
        if after > before + allowed {
            grown.push(what);
        }
    }
    assert!(grown.is_empty(), "grown: {grown:?}");
}
