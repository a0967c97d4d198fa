//! Each golden document is decoded by each Traefik that it is meant for.

use std::{fs, net::Ipv4Addr, sync::Arc};

use axum::{Router, routing::get};
use testkit::{
    need,
    traefik::{Traefik, traefik_binary},
};

#[tokio::test]
async fn every_golden_document_is_decoded_by_the_traefiks_it_is_meant_for() {
    for (name, versions) in [
        ("empty", &["3.6.2", "3.6.15", "3.7.15"][..]),
        ("oldest", &["3.6.2", "3.6.15", "3.7.15"]),
        ("newest", &["3.7.15"]),
        ("tls", &["3.7.15"]),
    ] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../traefik-config/golden");
        let snapshot = fs::read_to_string(format!("{folder}/{name}.snap")).expect("the golden document");
        let document = snapshot.splitn(3, "---\n").nth(2).expect("what follows the header").to_owned();
        let routers: serde_json::Value = serde_json::from_str(&document).expect("JSON");
        let expected = routers["http"]["routers"].as_object().expect("routers").len();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let endpoint = format!("http://{}/", listener.local_addr().expect("an address"));
        let served = Arc::new(document);
        let app = Router::new().route("/", get(move || async move { served.to_string() }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        for version in versions {
            let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { return };
            let traefik = Traefik::builder(binary).endpoint(&endpoint);
            let traefik = if name == "tls" {
                traefik
                    .arg("--entrypoints.websecure.address=127.0.0.1:0")
                    .arg("--certificatesresolvers.le.acme.storage=acme.json")
            } else {
                traefik
            };
            let traefik = traefik.start().await;
            testkit::eventually(std::time::Duration::from_secs(10), || async {
                let all = traefik.api("/api/http/routers?per_page=1000").await;
                let ours = all.as_array()?.iter().filter(|r| r["provider"] == "http").count();
                (ours == expected).then_some(())
            })
            .await;
            assert!(!traefik.log().contains("cannot decode configuration data"), "{name} on {version}");
        }
    }
}
