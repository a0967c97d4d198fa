//! Images, containers and networks on the machine's real Docker Engine, and a private engine beside it.

use std::time::Duration;

use serde_json::Value;
use testkit::{
    client,
    docker::{Container, Daemon, Engine, Image, Network, RunOptions, available, sim_image},
    eventually, need,
};

const TIMEOUT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(300);

async fn models(address: &str) -> Option<Vec<String>> {
    let answer = client()
        .get(format!("http://{address}/v1/models"))
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .ok()?;
    let listing: Value = answer.json().await.ok()?;
    listing["data"].as_array()?.iter().map(|card| card["id"].as_str().map(str::to_owned)).collect()
}

/// Waits until the container lists its models at its address, and returns them.
async fn models_of(container: &Container) -> Vec<String> {
    eventually(TIMEOUT, || async { models(&format!("{}:8000", container.ip().await.ok()?)).await }).await
}

#[tokio::test]
async fn a_container_with_a_health_check_lives_through_everything() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let image = sim_image().await.expect("the image is built");
    let options =
        RunOptions::new(&image).name("sim").label("inference.enable", "true").env("SIM_MODELS", "llama");
    let options = options.publish(8000).health("curl -f http://localhost:8000/health", INTERVAL);
    let container = Container::run(options).await.expect("the container starts");
    container.wait_health("healthy", TIMEOUT).await.expect("healthy");
    assert_eq!(models_of(&container).await, ["llama"]);
    let port = container.published_port(8000).await.expect("a published port");
    assert_eq!(models(&format!("127.0.0.1:{port}")).await, Some(vec!["llama".to_owned()]));
    let labels = container.inspect().await.expect("inspect")["Config"]["Labels"].take();
    assert_eq!(labels["inference.enable"], "true");
    assert!(container.logs().await.expect("logs").contains("llama"));
    assert_eq!(container.exec(&["/bin/sh", "-c", "echo $SIM_MODELS"]).await.as_deref(), Ok("llama"));

    let url = format!("http://{}:8000/sim/health", container.ip().await.expect("an address"));
    client().post(url).body("{\"healthy\": false}").send().await.expect("an answer");
    container.wait_health("unhealthy", TIMEOUT).await.expect("unhealthy");

    container.pause().await.expect("pauses");
    assert_eq!(models(&format!("{}:8000", container.ip().await.expect("an address"))).await, None);
    container.unpause().await.expect("goes on");
    container.restart().await.expect("restarts");
    container.wait_health("healthy", TIMEOUT).await.expect("healthy again");
    container.kill().await.expect("dies");
    assert!(container.ip().await.is_err());
    container.start().await.expect("starts again");
    assert_eq!(models_of(&container).await, ["llama"]);

    let id = container.id().to_owned();
    drop(container);
    assert!(Engine::local().docker(&["inspect", &id]).await.is_err(), "it was not removed");
}

#[tokio::test]
async fn sigterm_stops_pid_1_at_once() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let image = sim_image().await.expect("the image is built");
    let container = Container::run(RunOptions::new(image)).await.expect("the container starts");
    models_of(&container).await;
    container.stop().await.expect("stops");
    // 137 would say that the engine had to kill it.
    assert_eq!(container.inspect().await.expect("inspect")["State"]["ExitCode"], 0);
}

#[tokio::test]
async fn networks_are_joined_and_left() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let image = sim_image().await.expect("the image is built");
    let first = Network::create("first").await.expect("a network");
    let second = Network::create("second").await.expect("a network");
    let options = RunOptions::new(&image).network(&first).alias("llm");
    let server = Container::run(options).await.expect("the container starts");
    let other = Container::run(RunOptions::new(image).network(&first)).await.expect("the container starts");
    models_of(&server).await;
    let listing =
        other.exec(&["/usr/bin/curl", "-sf", "http://llm:8000/v1/models"]).await.expect("curl by name");
    assert!(listing.contains("sim-model"), "{listing}");

    server.connect(&second).await.expect("joins");
    assert_ne!(server.ip_in(&first).await, server.ip_in(&second).await);
    server.disconnect(&first).await.expect("leaves");
    assert!(server.ip_in(&first).await.is_err());
    assert!(server.ip_in(&second).await.is_ok());
}

#[tokio::test]
async fn an_image_is_built_again_only_when_it_changed() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let tag = format!("modelgate-test/rebuild:{}", std::process::id());
    let image = || Image::new(&tag).with_shell().entrypoint(&["/bin/sh", "-c", "cat /greeting"]);
    let id = async || Engine::local().docker(&["image", "inspect", "--format", "{{.Id}}", &tag]).await;
    image().text("/greeting", "one").build().await.expect("built");
    let first = id().await.expect("an id");
    image().text("/greeting", "one").build().await.expect("built");
    assert_eq!(id().await, Ok(first.clone()));
    image().text("/greeting", "two").build().await.expect("built");
    assert_ne!(id().await, Ok(first.clone()));
    assert!(Engine::local().docker(&["image", "inspect", &first]).await.is_err(), "the old image stays");
    assert_eq!(Engine::local().docker(&["run", "--rm", &tag]).await.as_deref(), Ok("two"));
    Engine::local().docker(&["image", "rm", &tag]).await.expect("removed");
}

#[tokio::test]
async fn a_private_engine_can_be_restarted_under_its_containers() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let Some(mut daemon) = need(Daemon::start().await, "a private dockerd") else { return };
    let image = sim_image().await.expect("the image is built");
    daemon.engine().load_from_local(&image).await.expect("loaded");
    let options = RunOptions::new(&image).engine(daemon.engine()).env("SIM_MODELS", "private");
    let container = Container::run(options).await.expect("the container starts");
    assert_eq!(models_of(&container).await, ["private"]);
    let address = format!("{}:8000", container.ip().await.expect("an address"));

    daemon.stop().await;
    assert!(daemon.engine().docker(&["version"]).await.is_err());
    assert!(models(&address).await.is_some(), "the container went down with its engine");
    daemon.start_again().await.expect("comes back");
    assert_eq!(models_of(&container).await, ["private"]);

    daemon.kill();
    assert!(models(&address).await.is_some(), "the container went down with its engine");
    daemon.start_again().await.expect("comes back");
    container.restart().await.expect("is still under the engine's control");
    assert_eq!(models_of(&container).await, ["private"]);
}
