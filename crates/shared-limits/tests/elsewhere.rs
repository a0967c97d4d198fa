//! Redis in other forms: a cluster whose slots move, and one that speaks TLS.

mod common;

use std::{ptr, time::Duration};

use common::{connect, demand, is_admitted, plenty, until_empty, until_up};
use shared_limits::{Options, Outcome, SharedLimits};
use testkit::{
    eventually, free_port, need,
    redis::{Redis, redis_server},
    tls::Authority,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A node of a cluster, and its port for other nodes.
async fn node(program: &str) -> (Redis, u16) {
    let bus = free_port();
    let args = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
    (Redis::start_with(program, &args).await, bus)
}

async fn id_of(node: &Redis) -> String {
    let answer = node.ask("CLUSTER MYID").await;
    answer.lines().last().expect("the id").to_owned()
}

/// Waits until every node knows which of them has the slot.
async fn until_known(nodes: [&Redis; 2], owner: &Redis) {
    let elsewhere = owner.port().to_string();
    let knows = async |node: &Redis| {
        let answer = node.ask("EXISTS {modelgate}:x").await;
        let is_right = if ptr::eq(node, owner) { answer == ":0" } else { answer.ends_with(&elsewhere) };
        is_right && node.ask("CLUSTER INFO").await.contains("cluster_state:ok")
    };
    eventually(Duration::from_secs(60), || async {
        (knows(nodes[0]).await && knows(nodes[1]).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_slot_is_followed_through_a_cluster() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let ((a, _), (b, bus)) = (node(program).await, node(program).await);
    let slot: u16 = a.ask("CLUSTER KEYSLOT {modelgate}").await[1..].parse().expect("a slot");
    let others = format!("CLUSTER ADDSLOTSRANGE 0 {} {} 16383", slot - 1, slot + 1);
    assert_eq!(a.ask(&others).await, "+OK");
    assert_eq!(b.ask(&format!("CLUSTER ADDSLOTS {slot}")).await, "+OK");
    assert_eq!(a.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", b.port())).await, "+OK");
    until_known([&a, &b], &b).await;

    // Connects to the node that does not have the slot.
    let limits = connect(&a.url()).await;
    until_up(&limits).await;
    let demands = [demand(1, HOUR, 2), plenty(2), plenty(3)];
    let short = demand(4, Duration::from_millis(1), 100);
    assert!(is_admitted(&limits.admit(&[short], &[]).await));
    assert_eq!(limits.failures(), 0);

    // A slot can move only while it is empty; the probe's key exists for some milliseconds.
    let give = format!("CLUSTER SETSLOT {slot} NODE {}", id_of(&a).await);
    until_empty(&b).await;
    eventually(Duration::from_secs(60), || async {
        b.ask("DEL {modelgate}:replicas {modelgate}:epoch").await;
        (b.ask(&give).await == "+OK").then_some(())
    })
    .await;
    assert_eq!(a.ask(&give).await, "+OK");
    until_known([&a, &b], &a).await;
    eventually(Duration::from_secs(60), || async {
        is_admitted(&limits.admit(&demands[1..], &[]).await).then_some(())
    })
    .await;
    for _ in 0..2 {
        assert!(is_admitted(&limits.admit(&demands, &[]).await));
    }
    assert!(!is_admitted(&limits.admit(&demands, &[]).await), "two are the burst");
}

#[tokio::test]
async fn a_server_with_tls_is_trusted_by_its_authority() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    testkit::install_crypto();
    let authority = Authority::new();
    let identity = authority.identity(&["127.0.0.1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (certificate, key) = (file("cert", &identity.certificate_pem), file("key", &identity.key_pem));
    let (ca, port) = (file("ca", authority.pem()), free_port().to_string());
    let tls = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-ca-cert-file", &ca];
    let shown = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
    let _redis = Redis::start_with(program, &[&tls[..], &shown].concat()).await;

    let url = format!("rediss://127.0.0.1:{port}");
    let connect = async |authorities| {
        let options = Options { authorities, timeout: Duration::from_secs(1), ..Options::default() };
        SharedLimits::connect(&url, options).await.expect("valid options")
    };
    let limits = connect(Some(authority.pem().as_bytes().to_vec())).await;
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await), "{limits:?}");
    for other in [None, Some(Authority::new().pem().as_bytes().to_vec())] {
        let limits = connect(other).await;
        assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable, "{limits:?}");
    }
}
