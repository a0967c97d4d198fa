//! Several Docker hosts, one of them behind TLS, as real Docker Engines.

mod common;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use catalogue::ServerState;
use common::{Discovery, engine::PrivateEngine, host, problems, state};
use discovery::{DockerEndpoint, DockerTls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use testkit::{
    docker::{self, Container, Engine, RunOptions},
    free_port, need,
};

/// The files for one side of a connection, in a folder of its own.
fn certificate(
    folder: &Path,
    side: &str,
    usage: ExtendedKeyUsagePurpose,
    ca: &Issuer<'_, KeyPair>,
) -> DockerTls {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().expect("a key");
    let pem = params.signed_by(&key, ca).expect("signed").pem();
    let at = |what: &str| folder.join(format!("{side}-{what}.pem"));
    fs::write(at("cert"), pem).expect("written");
    fs::write(at("key"), key.serialize_pem()).expect("written");
    DockerTls { ca: folder.join("ca.pem"), cert: at("cert"), key: at("key") }
}

fn authority(folder: &Path) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    fs::write(folder.join("ca.pem"), params.self_signed(&key).expect("signed").pem()).expect("written");
    Issuer::new(params, key)
}

async fn server(engine: &Engine, image: &str, name: &str, model: &str) -> Container {
    let options = RunOptions::new(image).engine(engine).name(name).label("inference.enable", "true");
    Container::run(options.env("SIM_MODELS", model)).await.expect("a container")
}

#[tokio::test]
async fn a_host_behind_tls_and_one_without_are_independent() {
    if need(docker::available().await, "a Docker Engine").is_none() {
        return;
    }
    let Some(image) = need(docker::sim_image().await, "the image of the simulated server") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ca = authority(folder.path());
    let engines = certificate(folder.path(), "engine", ExtendedKeyUsagePurpose::ServerAuth, &ca);
    let ours = certificate(folder.path(), "ours", ExtendedKeyUsagePurpose::ClientAuth, &ca);
    let address = format!("tcp://127.0.0.1:{}", free_port());
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let flags = [
        "--tlsverify".to_owned(),
        file("tlscacert", &engines.ca),
        file("tlscert", &engines.cert),
        file("tlskey", &engines.key),
        format!("--host={address}"),
    ];
    let Some(mut remote) = need(PrivateEngine::start(&flags).await, "a Docker Engine of the test's own")
    else {
        return;
    };
    remote.engine().load_from_local(&image).await.expect("the image");
    let far = server(remote.engine(), &image, "far", "hosts-far").await;
    let near = server(&Engine::local(), &image, "near", "hosts-near").await;
    let (far, near) = (format!("remote/{}", far.name()), (format!("local/{}", near.name()), near));

    // A third host never answers: the others' servers are published all the same, after a delay.
    let began = Instant::now();
    let local = Engine::local().endpoint();
    let discovery = Discovery::start(
        vec![
            host("remote", DockerEndpoint::Tls(address.clone(), ours)),
            host("local", DockerEndpoint::Unix(local.trim_start_matches("unix://").into())),
            host("gone", DockerEndpoint::Tcp(format!("tcp://127.0.0.1:{}", free_port()))),
        ],
        Vec::new(),
    );
    discovery.wait_state(&far, &ServerState::Ready).await;
    assert!(began.elapsed() > Duration::from_secs(3), "the missing one is waited for");
    discovery.wait_state(&near.0, &ServerState::Ready).await;
    let told = problems(&discovery.now().expect("published"));
    assert!(told.iter().any(|p| p.starts_with("source docker gone: tcp://127.0.0.1:")), "{told:?}");

    // Its end takes nothing away, and the other host is still followed.
    remote.kill();
    discovery
        .wait(|catalogue| {
            problems(catalogue).iter().any(|p| p.starts_with("source docker remote")).then_some(())
        })
        .await;
    near.1.kill().await.expect("killed");
    discovery
        .wait(|catalogue| matches!(state(catalogue, &near.0)?, ServerState::Stopped(_)).then_some(()))
        .await;
    assert_eq!(state(&discovery.now().expect("published"), &far), Some(ServerState::Ready));
}

#[tokio::test]
async fn an_engine_that_wants_a_certificate_refuses_another_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = authority(folder.path());
    let engines = certificate(folder.path(), "engine", ExtendedKeyUsagePurpose::ServerAuth, &ca);
    let address = format!("tcp://127.0.0.1:{}", free_port());
    let flags = [
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", engines.ca.display()),
        format!("--tlscert={}", engines.cert.display()),
        format!("--tlskey={}", engines.key.display()),
        format!("--host={address}"),
    ];
    let Some(engine) = need(PrivateEngine::start(&flags).await, "a Docker Engine of the test's own") else {
        return;
    };
    let other = tempfile::tempdir().expect("a folder");
    let stranger =
        certificate(other.path(), "stranger", ExtendedKeyUsagePurpose::ClientAuth, &authority(other.path()));
    let stranger = DockerTls { ca: engines.ca, ..stranger };
    let discovery = Discovery::start(
        vec![
            host("private", DockerEndpoint::Tls(address, stranger)),
            host(
                "socket",
                DockerEndpoint::Unix(engine.engine().endpoint().trim_start_matches("unix://").into()),
            ),
        ],
        Vec::new(),
    );
    // The other host has no container, so there is nothing to publish; what is waited for is reported all the same.
    let told = testkit::eventually(Duration::from_secs(60), || async { discovery.obstacles().pop() }).await;
    assert!(told.starts_with("source docker private: tcp://127.0.0.1:"), "{told}");
    assert!(told.contains("does not answer"), "{told}");
}
