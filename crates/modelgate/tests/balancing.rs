//! How the requests for one model are spread over its servers, by a real Traefik.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{KEY, LAYERED, NEWEST, Stack, chat, config_of, refusal, send, server, spread, stack_of};
use testkit::sim::{FailureMode, Options, Sim};

/// Servers of one model, by name, with settings.
async fn with(version: &str, servers: &[(&Sim, &str)], more: &str) -> Option<Stack> {
    let version_line = format!("{more}\ntraefik: {{ version: {version:?} }}\n");
    let stack = stack_of(version, &config_of(servers, &version_line)).await?;
    stack.wait_for("llama").await;
    Some(stack)
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_shares() {
    let (a, b, c) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]), Sim::start("c", &["llama"]));
    for version in LAYERED {
        let servers = [(&a, "weight: 5"), (&b, "weight: 3"), (&c, "weight: 2")];
        let Some(stack) = with(version, &servers, "").await else { continue };
        assert_eq!(spread(&stack, "llama", 20).await, counts(&[("a", 10), ("b", 6), ("c", 4)]), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_gets_requests_only_while_the_primary_is_gone() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    for version in LAYERED {
        let Some(stack) = with(version, &[(&a, ""), (&b, "priority: 1")], "").await else { continue };
        assert_eq!(spread(&stack, "llama", 10).await, counts(&[("a", 10)]), "{version}");
    }
    let Some(stack) = with(NEWEST, &[(&a, ""), (&b, "priority: 1")], "").await else { return };
    let address = a.addr();
    drop(a);
    testkit::eventually(Duration::from_secs(60), || async {
        let response = stack.chat("llama").await;
        (response.status() == 200 && server(&response) == "b").then_some(())
    })
    .await;
    let _a = Sim::start_at(address, Options::named("a", &["llama"]));
    testkit::eventually(Duration::from_secs(60), || async {
        (server(&stack.chat("llama").await) == "a").then_some(())
    })
    .await;
    assert_eq!(spread(&stack, "llama", 10).await, counts(&[("a", 10)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_takes_over_on_an_error_status() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    let servers = [(&a, "failover: { status: 500-599 }"), (&b, "priority: 1")];
    let Some(stack) = with(NEWEST, &servers, "").await else { return };
    assert_eq!(spread(&stack, "llama", 4).await, counts(&[("a", 4)]));
    a.set_failure(FailureMode { status: Some(503), ..FailureMode::default() });
    assert_eq!(spread(&stack, "llama", 4).await, counts(&[("b", 4)]));
    a.set_failure(FailureMode { status: Some(429), retry_after: Some(7), ..FailureMode::default() });
    let response = stack.chat("llama").await;
    assert_eq!(response.status(), 429, "not one of the statuses");
    assert_eq!(response.headers()["retry-after"], "7", "a server's own answer is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_sticks() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    let sticky = "sticky: { cookie: llm_backend, secure: true, same_site: lax, max_age: 1h }";
    for version in LAYERED {
        let Some(stack) = with(version, &[(&a, sticky), (&b, sticky)], "").await else { continue };
        let first = stack.chat("llama").await;
        let cookie = first.headers()["set-cookie"].to_str().expect("text").to_owned();
        for part in ["llm_backend=", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=3600"] {
            assert!(cookie.contains(part), "{version}: {part} in {cookie}");
        }
        let pair = cookie.split(';').next().expect("the pair").to_owned();
        for _ in 0..6 {
            let request = stack.post("/v1/chat/completions", &chat("llama")).header("cookie", &pair);
            assert_eq!(server(&send(request).await), server(&first), "{version}");
        }
        assert_eq!(spread(&stack, "llama", 4).await, counts(&[("a", 2), ("b", 2)]), "{version}: without it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_are_traefiks() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    for strategy in ["wrr", "p2c", "hrw", "leasttime"] {
        let setting = format!("strategy: {strategy}");
        let Some(stack) = with(NEWEST, &[(&a, &setting), (&b, &setting)], "").await else { continue };
        let servers = spread(&stack, "llama", 12).await;
        match strategy {
            "wrr" => assert_eq!(servers, counts(&[("a", 6), ("b", 6)])),
            "hrw" => assert_eq!(servers.len(), 1, "one client stays with one server: {servers:?}"),
            _ => assert_eq!(servers.values().sum::<usize>(), 12),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_part_and_a_mirror_a_copy() {
    let a = Sim::start("a", &["llama"]);
    let next = Sim::start_with(Options { accept_any: true, ..Options::named("next", &["llama-next"]) });
    for version in LAYERED {
        let next_server = (&next, "accepts: any");
        let canary = [(&a, "canary: { model: llama-next, percent: 25 }"), next_server];
        let Some(stack) = with(version, &canary, "").await else { continue };
        assert_eq!(spread(&stack, "llama", 12).await, counts(&[("a", 9), ("next", 3)]), "{version}");
        drop(stack);
        let mirror = [(&a, "mirror: { model: llama-next, percent: 50 }"), next_server];
        let stack = with(version, &mirror, "").await.expect("started before");
        next.forget_requests();
        assert_eq!(spread(&stack, "llama", 10).await, counts(&[("a", 10)]), "{version}");
        // Whether the first of two is copied depends on how many came before.
        let enough = || async { (4..=6).contains(&next.posts().len()).then_some(()) };
        testkit::eventually(Duration::from_secs(60), enough).await;
        assert!(
            next.posts().iter().all(|copy| copy.model.as_deref() == Some("llama") && copy.body_length > 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_does_not_know_the_name_is_told_and_left_out() {
    let (a, next) = (Sim::start("a", &["llama"]), Sim::start("next", &["llama-next"]));
    let servers = [(&a, "canary: { model: llama-next, percent: 50 }"), (&next, "")];
    let Some(stack) = with(NEWEST, &servers, "").await else { return };
    assert_eq!(spread(&stack, "llama", 6).await, counts(&[("a", 6)]));
    let problems = stack.modelgate.readyz().await["problems"].to_string();
    assert!(problems.contains("does not answer to"), "{problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_cut_only_where_told() {
    let slow =
        Options { latency: Duration::from_millis(2500), ..Options::named("slow", &["llama", "patient"]) };
    let slow = Sim::start_with(slow);
    let more = "models:\n  - { match: llama, timeout: { response_header: 1s }, retry: { attempts: 1 } }\n  - { match: patient, timeout: { response_header: 120s } }\n";
    for version in LAYERED {
        let Some(binary) = testkit::need(testkit::traefik::traefik_binary(version), version) else {
            continue;
        };
        drop(binary);
        let yaml = config_of(&[(&slow, "")], &format!("{more}traefik: {{ version: {version:?} }}\n"));
        let stack = stack_of(version, &yaml).await.expect("it starts");
        stack.wait_for("patient").await;
        // Uncut, it would be a 200 as well.
        assert_eq!(stack.chat("llama").await.status(), 504, "{version}");
        assert_eq!(stack.chat("patient").await.status(), 200, "{version}: longer than the answer takes");
    }
}

/// Long enough that requests that are under way still are when others have been refused.
const LONG: Duration = Duration::from_secs(8);

async fn until_two_run(sim: &Sim) {
    testkit::eventually(Duration::from_secs(60), || async {
        (sim.running_and_waiting().0 == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_are_limited_per_model_and_per_key() {
    for (setting, keys, expected) in [
        ("concurrency: { max: 2, native: true }", [KEY, common::LLAMA_KEY], [true, false]),
        ("concurrency: { per_key: 2, native: true }", [KEY, common::LLAMA_KEY], [true, true]),
    ] {
        let slow = Sim::start("slow", &["llama"]);
        let Some(stack) = with(NEWEST, &[(&slow, setting)], "").await else { continue };
        slow.set_latency(LONG);
        let ask = |key: &'static str| {
            let request = stack.client.post(format!("{}/v1/chat/completions", stack.traefik.url()));
            tokio::spawn(refusal(request.bearer_auth(key).json(&chat("llama"))))
        };
        let under_way = [ask(keys[0]), ask(keys[0])];
        until_two_run(&slow).await;
        let (mine, others) = (ask(keys[0]), ask(keys[1]));
        let (status, body) = mine.await.expect("an answer");
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (429, Some("too_many_requests")),
            "{setting}: {body}"
        );
        assert_eq!([true, others.await.expect("an answer").0 == 200], expected, "{setting}");
        for request in under_way {
            assert_eq!(request.await.expect("an answer").0, 200);
        }
    }
}

/// The header by which Traefik counts is Modelgate's: two keys of one consumer count together.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_are_limited_per_consumer() {
    let slow = Sim::start("slow", &["llama"]);
    let yaml = config_of(&[(&slow, "concurrency: { per_consumer: 2 }")], "");
    let yaml = yaml.replace("consumer: bob", "consumer: alice");
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    stack.wait_for("llama").await;
    slow.set_latency(LONG);
    let ask = |key: &'static str| {
        let request = stack.client.post(format!("{}/v1/chat/completions", stack.traefik.url()));
        tokio::spawn(refusal(request.bearer_auth(key).json(&chat("llama"))))
    };
    let under_way = [ask(KEY), ask(common::LLAMA_KEY)];
    until_two_run(&slow).await;
    assert_eq!(ask(common::LLAMA_KEY).await.expect("an answer").0, 429);
    for request in under_way {
        assert_eq!(request.await.expect("an answer").0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_own_429_is_left_alone_unless_told_otherwise() {
    let busy = Sim::start("busy", &["llama"]);
    let Some(stack) = with(NEWEST, &[(&busy, "concurrency: { max: 9 }")], "").await else { return };
    busy.set_failure(FailureMode { status: Some(429), retry_after: Some(33), ..FailureMode::default() });
    let response = stack.chat("llama").await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "33");
}

#[tokio::test(flavor = "multi_thread")]
async fn traefiks_own_checks_leave_a_server_out_and_take_it_back() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    let check = "healthcheck: { path: /health, interval: 1s, timeout: 500ms, status: 200 }";
    for version in LAYERED {
        a.set_healthy(true);
        let Some(stack) = with(version, &[(&a, check), (&b, check)], "").await else { continue };
        let settled = |wanted: BTreeMap<String, usize>| {
            let stack = &stack;
            testkit::eventually(Duration::from_secs(60), move || {
                let wanted = wanted.clone();
                async move { (spread(stack, "llama", 4).await == wanted).then_some(()) }
            })
        };
        settled(counts(&[("a", 2), ("b", 2)])).await;
        // Modelgate asks for the list of models, which still answers: it is Traefik that looks at /health.
        a.set_healthy(false);
        settled(counts(&[("b", 4)])).await;
        a.set_healthy(true);
        settled(counts(&[("a", 2), ("b", 2)])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_leave_a_server_out_for_a_while() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    let passive = "passive_healthcheck: { max_failed_attempts: 2, failure_window: 5s }";
    for version in LAYERED {
        a.set_failure(FailureMode::default());
        let Some(stack) = with(version, &[(&a, passive), (&b, passive)], "").await else { continue };
        a.set_failure(FailureMode { status: Some(500), ..FailureMode::default() });
        let mut failed = 0;
        for _ in 0..20 {
            failed += usize::from(stack.chat("llama").await.status() == 500);
        }
        assert!((1..=4).contains(&failed), "{version}: {failed} of 20 met the broken server");
        a.set_failure(FailureMode::default());
        testkit::eventually(Duration::from_secs(60), || async {
            spread(&stack, "llama", 4).await.contains_key("a").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_model_may_differ_in_base_path_and_host() {
    let root = Options { base_path: String::new(), ..Options::named("root", &["llama"]) };
    let (root, usual) = (Sim::start_with(root), Sim::start("usual", &["llama"]));
    for version in LAYERED {
        let servers = [(&root, "base_path: /, pass_host_header: false"), (&usual, "")];
        let Some(stack) = with(version, &servers, "").await else { continue };
        root.forget_requests();
        usual.forget_requests();
        for _ in 0..6 {
            let request =
                stack.post("/v1/chat/completions", &chat("llama")).header("host", "llm.example.com");
            assert_eq!(send(request).await.status(), 200, "{version}");
        }
        for (sim, path, host) in [
            (&root, "/chat/completions", root.addr().to_string()),
            (&usual, "/v1/chat/completions", "llm.example.com".to_owned()),
        ] {
            let posts = sim.posts();
            assert_eq!(posts.len(), 3, "{version}: {}", sim.name());
            assert!(posts.iter().all(|p| p.path == path), "{version}: {posts:?}");
            assert!(posts.iter().all(|p| p.header("host") == Some(host.as_str())), "{version}: {posts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_take_requests_that_choose_it_and_others_too() {
    let (a, both) = (Sim::start("a", &["llama"]), Sim::start("both", &["llama"]));
    let servers = [(&a, ""), (&both, "select: { query: fast=true, others: true }")];
    let Some(stack) = with(NEWEST, &servers, "").await else { return };
    assert_eq!(spread(&stack, "llama", 4).await, counts(&[("a", 2), ("both", 2)]));
    for _ in 0..4 {
        let request = stack.post("/v1/chat/completions?fast=true", &chat("llama"));
        assert_eq!(server(&send(request).await), "both");
    }
}
