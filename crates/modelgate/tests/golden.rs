//! Each golden document is decoded by each Traefik that it is meant for, and every router, middleware and
//! service in it is built without a fault.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::get};
use serde_json::{Value, json};
use testkit::{
    need,
    traefik::{Traefik, traefik_binary},
};

const LAYERED: &[&str] = &["3.6.2", "3.6.15", "3.7.0", "3.7.15"];
const SINCE_3_7: &[&str] = &["3.7.0", "3.7.15"];

/// The documents, and the Traefiks that they are meant for. What an old one knows, later ones know.
const DOCUMENTS: [(&str, &[&str]); 14] = [
    ("empty", LAYERED),
    ("oldest", LAYERED),
    ("newest", SINCE_3_7),
    ("tls", SINCE_3_7),
    ("traced", SINCE_3_7),
    ("balanced", SINCE_3_7),
    ("balanced-3-6-2", LAYERED),
    ("edge", LAYERED),
    ("dashboard", LAYERED),
    ("dashboard-edge", SINCE_3_7),
    ("flat-edge", &["3.0.4", "3.5.3"]),
    ("flat-3-0", &["3.0.4", "3.3.6", "3.5.3", "3.6.15", "3.7.15"]),
    ("flat-3-3", &["3.3.6", "3.5.3", "3.6.15", "3.7.15"]),
    ("flat-3-5", &["3.5.3"]),
];

#[tokio::test]
async fn every_golden_document_is_decoded_by_the_traefiks_it_is_meant_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cert, key) = client_certificate(folder.path());
    for (name, versions) in DOCUMENTS {
        let document = document(name, &cert, &key);
        let routers = document["http"]["routers"].as_object().expect("routers");
        let expected: Vec<String> = routers.keys().cloned().collect();
        let endpoint = serve(document.to_string()).await;
        for version in versions {
            let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { continue };
            let acme = folder.path().join(format!("acme-{name}-{version}.json"));
            let traefik = Traefik::builder(binary)
                .endpoint(&endpoint)
                .arg("--entrypoints.websecure.address=127.0.0.1:0")
                // One each: a Traefik that is killed may leave half a file behind.
                .arg(format!("--certificatesresolvers.le.acme.storage={}", acme.display()))
                .start()
                .await;
            testkit::eventually(Duration::from_secs(60), || async {
                let all = traefik.api("/api/http/routers?per_page=1000").await;
                let there = |name: &String| all.as_array().into_iter().flatten().any(|r| is_called(r, name));
                (expected.iter().all(there) || faults_in_log(&traefik).next().is_some()).then_some(())
            })
            .await;
            let faults: Vec<String> =
                faults(&traefik.api("/api/rawdata").await).chain(faults_in_log(&traefik)).collect();
            assert!(faults.is_empty(), "{name} on {version}: {faults:#?}");
        }
    }
}

/// The document, with a router by hand that uses the middleware for such, and with a certificate that is there.
fn document(name: &str, cert: &Path, key: &Path) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../traefik-config/golden");
    let snapshot = fs::read_to_string(format!("{folder}/{name}.snap")).expect("the golden document");
    let document = snapshot.splitn(3, "---\n").nth(2).expect("what follows the header");
    let document = document
        .replace("/etc/traefik/modelgate.crt", &cert.to_string_lossy())
        .replace("/etc/traefik/modelgate.key", &key.to_string_lossy());
    let mut document: Value = serde_json::from_str(&document).expect("JSON");
    document["http"]["routers"]["by-hand"] =
        json!({ "rule": "Path(`/by-hand`)", "middlewares": ["modelgate"], "service": "modelgate" });
    document
}

/// Where entry points have options of their own, Traefik makes a router for each: `web-<name>@http`.
fn is_called(router: &Value, name: &str) -> bool {
    let found = router["name"].as_str().and_then(|found| found.strip_suffix("@http"));
    found.is_some_and(|found| found == name || found.ends_with(&format!("-{name}")))
}

async fn serve(document: String) -> String {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let endpoint = format!("http://{}/", listener.local_addr().expect("an address"));
    let document = Arc::new(document);
    let app = Router::new().route("/", get(move || async move { document.to_string() }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    endpoint
}

fn client_certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["traefik".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.join("client.crt"), folder.join("client.key"));
    fs::write(&cert, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (cert, key)
}

/// Everything of ours that Traefik holds to be faulty.
fn faults(raw: &Value) -> impl Iterator<Item = String> {
    ["routers", "middlewares", "services"].into_iter().flat_map(move |kind| {
        let all = raw[kind].as_object().into_iter().flatten();
        let faulty = all.filter(|(name, entry)| {
            let healthy = entry["status"] == "enabled" && entry["error"].is_null();
            name.ends_with("@http") && !healthy
        });
        faulty.map(move |(name, entry)| format!("{kind}: {name}: {} {}", entry["status"], entry["error"]))
    })
}

/// Errors in the log. Certificates cannot be had here, and no server answers: both do not count.
fn faults_in_log(traefik: &Traefik) -> impl Iterator<Item = String> {
    let log = traefik.log();
    let errors = log.lines().filter(|line| {
        line.contains("ERR") && !line.to_lowercase().contains("acme") && !line.contains("Health check failed")
    });
    errors.map(str::to_owned).collect::<Vec<_>>().into_iter()
}
