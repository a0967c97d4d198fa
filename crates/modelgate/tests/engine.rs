//! The Docker Engine itself restarts.

mod common;

use std::{fmt::Write as _, time::Duration};

use common::NEWEST;
use testkit::{
    docker::{self, Container, Daemon, RunOptions},
    need,
};

#[tokio::test]
async fn the_engine_restarts_and_no_route_is_lost() {
    if need(docker::available().await, "a Docker Engine").is_none() {
        return;
    }
    let Some(image) = need(docker::sim_image().await, "the image of the simulated server") else { return };
    let Some(mut daemon) = need(Daemon::start().await, "a Docker Engine of the test's own") else { return };
    daemon.engine().load_from_local(&image).await.expect("the image");
    let options = RunOptions::new(&image)
        .engine(daemon.engine())
        .name("engine")
        .label("inference.enable", "true")
        .env("SIM_MODELS", "engine-model")
        .health("/sim-server healthcheck", Duration::from_millis(500));
    let container = Container::run(options).await.expect("a container");
    let mut yaml = String::new();
    let _ = writeln!(yaml, "docker:\n  endpoint: {}", daemon.engine().endpoint());
    let Some(stack) = common::stack(NEWEST, &[], &yaml).await else { return };
    stack.wait_for("engine-model").await;

    daemon.stop().await;
    for _ in 0..20 {
        assert_eq!(stack.chat("engine-model").await.status(), 200, "while the engine is down");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let restarting = daemon.start_again();
    let asking = async {
        for _ in 0..60 {
            assert_eq!(stack.chat("engine-model").await.status(), 200, "while the engine comes back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (started, ()) = tokio::join!(restarting, asking);
    started.expect("the engine is back");
    assert_eq!(stack.chat("engine-model").await.status(), 200);

    // And it is followed again: what happens from now on is seen.
    container.kill().await.expect("killed");
    testkit::eventually(Duration::from_secs(60), || async {
        (stack.chat("engine-model").await.status() == 503).then_some(())
    })
    .await;
}
