//! Modelgate is replaced while requests come: by SIGTERM and a new start, in place, and one of two; and one of two is killed.

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use common::{KEY, NEWEST, config};
use testkit::{
    load::{ChatAnswer, Load, Report, Until},
    modelgate::{Modelgate, Ports},
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
const CONNECTIONS: usize = 32;

/// Sends requests until `meanwhile` is over, and a second longer.
async fn under_load(traefik: &Traefik, meanwhile: impl Future<Output = ()>) -> Report {
    let load = Load::chat(&traefik.url(), "llama", ChatAnswer::Streamed).key(KEY).connections(CONNECTIONS);
    let (end, ended) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(load.until(Until::Told(ended)).run());
    tokio::time::sleep(Duration::from_millis(500)).await;
    meanwhile.await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    end.send_replace(true);
    load.await.expect("a report")
}

fn assert_none_failed(report: &Report, log: &str) {
    let total = report.answers();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.answered(200), total, "{:?}\n{log}", report.statuses);
    assert!(total > 10 * CONNECTIONS, "{total} requests show nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_while_modelgate_restarts_on_sockets_that_are_kept_or_is_upgraded_in_place() {
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let sim = Sim::start("gpu", &["llama"]);
    let builder = Modelgate::builder(BINARY, &config(&[&sim], "")).keep_state().hand_over_sockets();
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    let report = under_load(&traefik, async {
        for _ in 0..3 {
            modelgate.restart().await;
            modelgate.upgrade().await;
        }
    })
    .await;
    assert_none_failed(&report, &modelgate.log());
    let slowest = report.latencies.iter().max().expect("requests");
    assert!(*slowest < Duration::from_secs(10), "a request waited for {slowest:?}");
}

/// A Docker host that refuses keeps a first start waiting for four seconds; what was known before does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_answers_at_once_with_what_was_known_before_and_believes_it_no_longer_than_the_server_does() {
    let sim = Sim::start("gpu", &["llama"]);
    let docker = format!("docker: {{ endpoint: \"tcp://127.0.0.1:{}\" }}\n", testkit::free_port());
    let builder = Modelgate::builder(BINARY, &config(&[&sim], &docker)).keep_state();
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let file = modelgate.folder().join("state/servers.json");
    testkit::eventually(Duration::from_secs(60), || async { file.exists().then_some(()) }).await;
    for is_killed in [false, true] {
        if is_killed {
            modelgate.kill();
        }
        let since = testkit::Stopwatch::start();
        modelgate.restart().await;
        modelgate.wait_ready().await;
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}\n{}", since.elapsed(), modelgate.log());
        assert_eq!(modelgate.readyz().await["models"][0]["ready"], true);
    }
    modelgate.stop().await;
    sim.stop().await;
    modelgate.restart().await;
    let is_withdrawn = || async { (modelgate.readyz().await["models"][0]["ready"] == false).then_some(()) };
    testkit::eventually(Duration::from_secs(60), is_withdrawn).await;
    assert_eq!(modelgate.readyz().await["servers"][0]["state"], "starting");
}

/// Two Modelgates with the same ports and the same state, at two addresses of the name `modelgate`.
struct Two {
    first: Modelgate,
    second: Modelgate,
    traefik: Traefik,
}

impl Two {
    async fn start(traefik: &Path, config: &str, state: &Path) -> Self {
        let one = |address: [u8; 4], ports: Option<Ports>| {
            let builder = Modelgate::builder(BINARY, config).bind(address).env("MODELGATE_STATE_DIR", state);
            ports.into_iter().fold(builder, testkit::modelgate::Builder::ports).start()
        };
        let mut first = one([127, 0, 0, 1], None).await;
        let ports = Ports { admin: testkit::free_port(), ..first.ports() };
        let mut second = one([127, 0, 0, 2], Some(ports)).await;
        first.wait_ready().await;
        second.wait_ready().await;
        let endpoint = format!("http://modelgate:{}/traefik", ports.provider);
        let hosts = "127.0.0.1 localhost\n127.0.0.1 modelgate\n127.0.0.2 modelgate\n";
        let traefik = Traefik::builder(traefik).endpoint(endpoint).hosts(hosts).start().await;
        traefik.wait_configured().await;
        Self { first, second, traefik }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_while_each_of_two_is_replaced_and_what_was_asked_of_one_that_is_killed_is_all_that_does()
 {
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let sim = Sim::start("gpu", &["llama"]);
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&[&sim], "");
    let mut two = Two::start(&traefik, &config, folder.path()).await;
    let report = under_load(&two.traefik, async {
        for _ in 0..2 {
            for modelgate in [&mut two.first, &mut two.second] {
                modelgate.restart().await;
                modelgate.wait_ready().await;
            }
        }
    })
    .await;
    assert_none_failed(&report, &two.first.log());
    let report = under_load(&two.traefik, async {
        two.first.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        two.first.restart().await;
        two.first.wait_ready().await;
        two.second.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    // Traefik had asked the one that was killed about so many at most, twice.
    let failed = report.answers() - report.answered(200) + report.errors.len();
    assert!(failed <= 2 * CONNECTIONS, "{:?} {:?}", report.statuses, report.errors);
    assert!(report.answered(200) > 10 * CONNECTIONS, "{:?}", report.statuses);
    // The secrets of the state are nobody else's.
    for entry in fs::read_dir(folder.path()).expect("the state") {
        let path = entry.expect("an entry").path();
        let mode = path.metadata().expect("it is there").permissions().mode();
        let is_public = path.ends_with("ca.pem");
        assert!(is_public || mode & 0o077 == 0, "{}: {mode:o}", path.display());
    }
}
