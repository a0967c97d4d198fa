//! Containers of a real Docker Engine, discovered and routed through a real Traefik.

mod common;

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use common::{KEY, NEWEST, Stack, chat, refusal, server};
use testkit::{
    Stopwatch,
    docker::{self, Container, Engine, Image, Network, RunOptions, StandIn},
    eventually,
    load::{ChatAnswer, Load, Until},
    median, need,
    traefik::traefik_binary,
};

const SOON: Duration = Duration::from_secs(60);

/// One test at a time: some of them measure.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn docker_stack() -> Option<(Stack, String)> {
    docker_stack_of(NEWEST).await
}

async fn docker_stack_of(version: &str) -> Option<(Stack, String)> {
    need(docker::available().await, "a Docker Engine")?;
    let image = need(docker::sim_image().await, "the image of the simulated server")?;
    let mut yaml = String::new();
    let _ = writeln!(
        yaml,
        "traefik: {{ version: {version} }}\ndocker:\n  endpoint: {}",
        Engine::local().endpoint()
    );
    Some((common::stack(version, &[], &yaml).await?, image))
}

fn options(image: &str, name: &str, model: &str) -> RunOptions {
    RunOptions::new(image)
        .name(name)
        .label("inference.enable", "true")
        .env("SIM_NAME", name)
        .env("SIM_MODELS", model)
}

fn with_health(options: RunOptions) -> RunOptions {
    options.health("/sim-server healthcheck", Duration::from_millis(500))
}

async fn run(options: RunOptions) -> Container {
    Container::run(options).await.expect("a container")
}

async fn wait_for_status(stack: &Stack, model: &str, wanted: u16) {
    eventually(SOON, || async { (stack.chat(model).await.status() == wanted).then_some(()) }).await;
}

/// When the first native 503 arrives. A request every 10 ms, none waiting for another: one that was
/// let pass just before the server went hangs until Traefik gives up connecting.
async fn first_refusal(stack: &Stack, model: &str) -> SystemTime {
    let mut requests = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let request = stack.post("/v1/chat/completions", &chat(model));
                requests.spawn(async move { (refusal(request).await, SystemTime::now()) });
            }
            Some(Ok(((status, body), at))) = requests.join_next() => {
                if status == 503 && body["error"]["code"] == "model_not_ready" {
                    return at;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_container_is_live_soon_after_it_is_healthy_and_refused_at_once_when_killed() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    let (mut to_live, mut to_refusal) = (Vec::new(), Vec::new());
    for round in 0..7 {
        let model = format!("dk-live-{round}");
        let container = run(with_health(options(&image, &model, &model))).await;
        container.wait_health("healthy", SOON).await.expect("healthy");
        let healthy = Stopwatch::start();
        eventually(SOON, || async { (stack.chat(&model).await.status() == 200).then_some(()) }).await;
        to_live.push(healthy.elapsed());

        let stopwatch = Stopwatch::start();
        let (kill, refused) = tokio::join!(container.kill(), first_refusal(&stack, &model));
        let held_up = stopwatch.held_up();
        kill.expect("killed");
        // Not from the command on, which takes its time; the engine tells of it before it does it.
        let died = container.inspect().await.expect("a container")["State"]["FinishedAt"].take();
        let died = humantime::parse_rfc3339(died.as_str().expect("a time")).expect("a time");
        to_refusal.push(refused.duration_since(died).unwrap_or_default().saturating_sub(held_up));
    }
    println!("live after {to_live:?}; refused after {to_refusal:?}");
    assert!(median(&to_live) < Duration::from_millis(500), "{to_live:?}");
    assert!(median(&to_refusal) < Duration::from_millis(100), "{to_refusal:?}");
}

#[tokio::test]
async fn a_stopped_replica_fails_no_request_but_those_already_on_it() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    let a = run(with_health(options(&image, "dk-stop-a", "dk-stop"))).await;
    let b = run(with_health(options(&image, "dk-stop-b", "dk-stop"))).await;
    for container in [&a, &b] {
        container.wait_health("healthy", SOON).await.expect("healthy");
    }
    let servers = async |wanted: usize| {
        eventually(SOON, || async {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..6 {
                let answer = stack.chat("dk-stop").await;
                if answer.status() == 200 {
                    seen.insert(server(&answer));
                }
            }
            (seen.len() == wanted).then_some(())
        })
        .await;
    };
    servers(2).await;
    let load = Load::chat(&stack.traefik.url(), "dk-stop", ChatAnswer::Whole)
        .key(KEY)
        .connections(8)
        .until(Until::Elapsed(Duration::from_secs(5)));
    let (report, stopped) = tokio::join!(load.run(), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        a.stop().await
    });
    stopped.expect("stopped");
    println!("{} answers, statuses {:?}, errors {:?}", report.answers(), report.statuses, report.errors);
    assert!(report.answered(200) > 100, "{report:?}");
    // The server finishes what it has begun before it exits, so none of those is lost either.
    assert_eq!(report.answers(), report.answered(200), "{:?}", report.statuses);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    servers(1).await;
}

/// With 3.7 a request that a server took and dropped is asked again; before, just those are lost.
#[tokio::test]
async fn a_killed_server_of_three_costs_no_request_but_those_that_it_had_accepted() {
    let _alone = ALONE.lock().await;
    for (version, may_lose_accepted) in [("3.6.2", true), ("3.6.15", true), ("3.7.0", false), (NEWEST, false)]
    {
        let Some((stack, image)) = docker_stack_of(version).await else { continue };
        let mut containers = Vec::new();
        for name in ["dk-kill-a", "dk-kill-b", "dk-kill-c"] {
            let options = options(&image, name, "dk-kill").env("SIM_LATENCY_MS", "50");
            containers.push(run(with_health(options)).await);
        }
        eventually(SOON, || async {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..9 {
                let answer = stack.chat("dk-kill").await;
                if answer.status() == 200 {
                    seen.insert(server(&answer));
                }
            }
            (seen.len() == 3).then_some(())
        })
        .await;
        let load = Load::chat(&stack.traefik.url(), "dk-kill", ChatAnswer::Whole).key(KEY).connections(32);
        let (report, accepted) =
            tokio::join!(load.until(Until::Elapsed(Duration::from_secs(5))).run(), async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                containers[0].kill().await.expect("killed");
                // 32 connections have at most so many requests on one server.
                32
            });
        println!(
            "{version}: {} answers, statuses {:?}, errors {:?}",
            report.answers(),
            report.statuses,
            report.errors
        );
        assert!(report.answered(200) > 300, "{version}: {:?}", report.statuses);
        assert!(report.errors.is_empty(), "{version}: {:?}", report.errors);
        let lost = report.answers() - report.answered(200);
        match may_lose_accepted {
            // Traefik answers 502 to what a server had taken; a 503 or 504 would be one that had a choice.
            true => {
                let all_accepted = lost <= accepted && report.answered(502) == lost;
                assert!(all_accepted, "{version}: {:?}", report.statuses);
            }
            false => assert_eq!(lost, 0, "{version}: {:?}", report.statuses),
        }
    }
}

#[tokio::test]
async fn pause_and_restart_withdraw_and_bring_back() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    let container = run(with_health(options(&image, "dk-pause", "dk-pause"))).await;
    wait_for_status(&stack, "dk-pause", 200).await;
    container.pause().await.expect("paused");
    wait_for_status(&stack, "dk-pause", 503).await;
    container.unpause().await.expect("unpaused");
    wait_for_status(&stack, "dk-pause", 200).await;
    container.stop().await.expect("stopped");
    wait_for_status(&stack, "dk-pause", 503).await;
    container.start().await.expect("started");
    wait_for_status(&stack, "dk-pause", 200).await;
}

#[tokio::test]
async fn without_a_healthcheck_the_server_is_probed_and_a_bad_label_is_named() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    let _bad = run(options(&image, "dk-bad", "dk-bad").label("inference.port", "abc")).await;
    let _good = run(options(&image, "dk-probe", "dk-probe").flag("--no-healthcheck")).await;
    wait_for_status(&stack, "dk-probe", 200).await;
    assert_eq!(stack.chat("dk-bad").await.status(), 404);
    let ready: serde_json::Value = stack
        .client
        .get(format!("{}/readyz", stack.modelgate.admin_url()))
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let problems = ready["problems"].to_string();
    assert!(problems.contains("dk-bad") && problems.contains("inference.port"), "{problems}");
    assert!(problems.contains("a number from 1 to 65535"), "{problems}");
}

#[tokio::test]
async fn a_healthy_container_without_a_model_list_is_named_with_what_to_do() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    let lost = options(&image, "dk-lost", "dk-lost").label("inference.api.base_path", "/nowhere");
    let _lost = run(with_health(lost)).await;
    let problem = "dk-lost: healthy, but /nowhere/models answers 404: set inference.models";
    eventually(SOON, || async {
        let ready = stack.modelgate.readyz().await;
        ready["problems"].to_string().contains(problem).then_some(())
    })
    .await;
}

/// A Traefik in a container, with the Docker provider and whatever else a test gives it.
async fn traefik_container(name: &str, flags: &[&str]) -> Option<(Container, String)> {
    let binary = need(traefik_binary(NEWEST), "Traefik")?;
    let image =
        need(StandIn::Traefik(binary).tag("modelgate-test/traefik:local").await, "an image of Traefik")?;
    let socket = Engine::local().endpoint().trim_start_matches("unix://").to_owned();
    let options = RunOptions::new(image).name(name).publish(80);
    let options = options.flag("--volume").flag(format!("{socket}:/var/run/docker.sock:ro"));
    let args = ["--entryPoints.web.address=:80", "--providers.providersThrottleDuration=100ms"];
    let options = args.iter().chain(flags).fold(options, |options, flag| options.arg(*flag));
    let container = run(options).await;
    let port = container.published_port(80).await.expect("published");
    Some((container, format!("http://127.0.0.1:{port}")))
}

/// What `/readyz` says of a container among its problems or hints.
async fn told(stack: &Stack, list: &str, container: &Container) -> Vec<String> {
    let ready = stack.modelgate.readyz().await;
    let all = ready[list].as_array().cloned().unwrap_or_default().into_iter();
    let all = all.filter_map(|one| one.as_str().map(str::to_owned));
    all.filter(|one| one.starts_with(&format!("container {}: ", container.name()))).collect()
}

/// Waits until what is said of a container holds.
async fn wait_told(stack: &Stack, container: &Container, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
    eventually(SOON, || async {
        let told = told(stack, "problems", container).await;
        holds(&told).then_some(told)
    })
    .await
}

/// Each door is shown to be one, without a key, by the same Traefik of which Modelgate says so.
#[tokio::test]
async fn what_traefik_leads_to_by_itself_is_named_and_is_no_false_alarm() {
    let _alone = ALONE.lock().await;
    let Some((stack, image)) = docker_stack().await else { return };
    const RULE: &str = "traefik.http.routers.left-over.rule";
    const MIDDLEWARES: &str = "traefik.http.routers.left-over.middlewares";
    let plain = run(options(&image, "dk-door", "dk-door").flag("--publish").flag("8000")).await;
    let closed = run(options(&image, "dk-closed", "dk-closed").label("traefik.enable", "false")).await;
    let left_over = options(&image, "dk-left", "dk-left").label("traefik.enable", "true");
    let left_over = run(left_over.label(RULE, "Host(`left.example`)")).await;
    let guarded = options(&image, "dk-guarded", "dk-guarded").label("traefik.enable", "true");
    let guarded = guarded.label("traefik.http.routers.guarded.rule", "Host(`guarded.example`)");
    let guarded = run(guarded.label(&MIDDLEWARES.replace("left-over", "guarded"), "modelgate@http")).await;
    stack.wait_for("dk-door").await;
    let published = told(&stack, "hints", &plain).await;
    assert!(published.len() == 1 && published[0].contains("published on every address"), "{published:?}");

    let ask = async |traefik: &str, host: &str, path: &str| {
        let request = stack.client.get(format!("{traefik}{path}")).header("host", host);
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    };
    let Some((traefik, url)) = traefik_container("dk-edge", &["--providers.docker=true"]).await else {
        return;
    };
    for (container, host, part) in [
        (&plain, plain.name(), "Traefik's provider exposes it by itself"),
        (&left_over, "left.example", "the router \"left-over\" in Traefik without Modelgate's check"),
    ] {
        for path in ["/v1/models", "/metrics"] {
            eventually(SOON, || async { (ask(&url, host, path).await == 200).then_some(()) }).await;
        }
        let told = wait_told(&stack, container, |told| !told.is_empty()).await;
        assert!(told.len() == 1 && told[0].contains(part), "{told:?}");
    }
    let host = format!("\"Host: {}\"", plain.name());
    assert!(told(&stack, "problems", &plain).await[0].contains(&host), "{host}");
    for (container, host) in
        [(&closed, closed.name()), (&guarded, "guarded.example"), (&guarded, guarded.name())]
    {
        assert_eq!(ask(&url, host, "/v1/models").await, 404, "{host}");
        assert_eq!(told(&stack, "problems", container).await, Vec::<String>::new());
    }

    drop(traefik);
    let strict = ["--providers.docker=true", "--providers.docker.exposedByDefault=false"];
    let Some((_traefik, url)) = traefik_container("dk-strict", &strict).await else { return };
    eventually(SOON, || async { (ask(&url, "left.example", "/v1/models").await == 200).then_some(()) }).await;
    assert_eq!(ask(&url, plain.name(), "/v1/models").await, 404);
    wait_told(&stack, &plain, <[String]>::is_empty).await;
    assert_eq!(told(&stack, "problems", &left_over).await.len(), 1);
    let hints = stack.modelgate.readyz().await["hints"].to_string();
    assert!(!hints.contains("cannot be seen from here"), "Traefik's command line says it: {hints}");
}

/// Looks a name up as Modelgate's HTTP client does: with the C library.
const FIND: &str = r#"
use std::net::ToSocketAddrs;
fn main() {
    let name = std::env::args().nth(1).unwrap();
    println!("found {:?}", name.to_socket_addrs().map(|found| found.collect::<Vec<_>>()));
}
"#;

/// Modelgate's image has one static program in it and no library. glibc's look-up of names could want some.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_program_alone_in_its_image_finds_containers_by_name() {
    let Some(()) = need(docker::available().await, "a Docker Engine") else { return };
    let Some(sim) = need(docker::sim_image().await, "the image of the simulated server") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (source, program) = (folder.path().join("find.rs"), folder.path().join("find"));
    std::fs::write(&source, FIND).expect("written");
    let mut rustc = std::process::Command::new("rustc");
    rustc.args(["-C", "target-feature=+crt-static", "-o"]).arg(&program).arg(&source);
    assert!(rustc.status().expect("rustc").success());
    let image = Image::new("modelgate-test/find").file(&program, "/find").entrypoint(&["/find"]);
    let image = image.build().await.expect("an image");
    let network = Network::create("find").await.expect("a network");
    let server = run(options(&sim, "find-server", "llama").network(&network).alias("inference-server")).await;
    let finder = run(RunOptions::new(image).network(&network).arg("inference-server:8000")).await;
    let expected = format!("found Ok([{}:8000])", server.ip_in(&network).await.expect("an address"));
    let said =
        eventually(SOON, || async { finder.logs().await.ok().filter(|said| said.contains("found")) }).await;
    assert!(said.contains(&expected), "{said}, not {expected}");
}
