//! Servers that Modelgate chooses for each request, with a real Traefik before them.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use common::{KEY, LAYERED, LLAMA_KEY, NEWEST, Stack, config_of, noon, send, server, stack_of};
use reqwest::Response;
use serde_json::{Value, json};
use testkit::{
    Stopwatch, cpu_time,
    load::{ChatAnswer, Load, Until},
    modelgate::{Modelgate, optimised},
    need,
    program::Program,
    redis::{Redis, redis_server},
    sim::{FailureMode, Options, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio::task::JoinHandle;

const CACHE: &str = "strategy: cache";
const ADMIN: &str = "an-admin-token-of-the-tests-0123456789";
/// After this time a request is no longer counted as on its way to a server, in addition to what that says (`server_choice`).
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// Servers with one setting, and no more than that.
async fn with(version: &str, sims: &[Sim], setting: &str, more: &str) -> Option<Stack> {
    let servers: Vec<(&Sim, &str)> = sims.iter().map(|sim| (sim, setting)).collect();
    let version_line = format!("{more}\ntraefik: {{ version: {version:?} }}\n");
    let stack = stack_of(version, &config_of(&servers, &version_line)).await?;
    stack.wait_for("llama").await;
    Some(stack)
}

fn sims<const N: usize>(names: [&str; N]) -> [Sim; N] {
    names.map(|name| Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named(name, &["llama"]) }))
}

/// The beginning of a conversation: some 1,000 tokens that no other has.
fn opening(number: usize) -> Vec<Value> {
    let text = (0..500).map(|word| format!("{number}-{word}")).collect::<Vec<_>>().join(" ");
    vec![
        json!({ "role": "system", "content": "You are helpful." }),
        json!({ "role": "user", "content": text }),
    ]
}

fn question(messages: &[Value]) -> Value {
    json!({ "model": "llama", "messages": messages, "max_tokens": 10 })
}

/// Conversations of two turns: how many second turns came to the first one's server, and which servers answered.
async fn conversations(stack: &Stack, count: usize) -> (usize, BTreeSet<String>) {
    let mut open = Vec::new();
    for number in 0..count {
        let messages = opening(number);
        let answer = send(stack.post("/v1/chat/completions", &question(&messages))).await;
        assert_eq!(answer.status(), 200);
        open.push((messages, server(&answer)));
    }
    let (mut stayed, mut servers) = (0, BTreeSet::new());
    for (mut messages, first) in open {
        messages.push(json!({ "role": "assistant", "content": "Yes." }));
        messages.push(json!({ "role": "user", "content": "And then?" }));
        let answer = send(stack.post("/v1/chat/completions", &question(&messages))).await;
        stayed += usize::from(server(&answer) == first);
        servers.insert(first);
    }
    (stayed, servers)
}

/// A conversation stays with the server that knows its beginning; without the strategy about a third does.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_goes_where_the_first_was() {
    for version in LAYERED {
        let servers = sims(["a", "b", "c"]);
        let Some(stack) = with(version, &servers, CACHE, "").await else { continue };
        let (stayed, answering) = conversations(&stack, 30).await;
        assert!(stayed >= 29, "{version}: {stayed} of 30 stayed");
        assert_eq!(answering.len(), 3, "{version}: and they are spread");
        let received = servers[0].posts();
        let chosen =
            received.last().and_then(|post| post.header("x-inference-server")).expect("a server's route");
        assert!(chosen.starts_with("llama-"), "{version}: {chosen}");
        // What a client writes there is removed: this one goes where its beginning is.
        let forged =
            stack.post("/v1/chat/completions", &question(&opening(0))).header("x-inference-server", "none");
        let (first, again) =
            (send(forged).await, send(stack.post("/v1/chat/completions", &question(&opening(0)))).await);
        assert_eq!(server(&first), server(&again), "{version}");
    }
}

/// Waits until a Modelgate knows of another one.
async fn know_each_other(stack: &Stack) {
    testkit::eventually(Duration::from_secs(60), || async {
        (stack.modelgate.readyz().await["shared_limits"]["replicas"] == 2).then_some(())
    })
    .await;
}

/// Two Modelgates, each behind a Traefik of its own, with one Redis: each chooses by what both have sent.
///
/// Regression: each knew only what it had sent itself. So the second turn of a conversation that came through the other Traefik went
/// to any server.
#[tokio::test(flavor = "multi_thread")]
async fn two_modelgates_choose_as_one() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let servers = sims(["a", "b", "c"]);
    let shared = format!("shared_limits: {{ url: {:?}, timeout: 1s }}", redis.url());
    let (one, other) =
        (with(NEWEST, &servers, CACHE, &shared).await, with(NEWEST, &servers, CACHE, &shared).await);
    let Some(stacks) = one.zip(other).map(|(one, other)| [one, other]) else { return };
    let count = async |stack: &Stack, direction: &str| {
        figure(stack, &format!("modelgate_choices_passed_on_total{{direction=\"{direction}\"}}")).await
    };
    for stack in &stacks {
        know_each_other(stack).await;
    }
    let mut open = Vec::new();
    for number in 0..30 {
        let messages = opening(number);
        let first = send(stacks[number % 2].post("/v1/chat/completions", &question(&messages))).await;
        open.push((number, messages, server(&first)));
    }
    let both_heard = || async {
        (count(&stacks[0], "received").await >= 15.0 && count(&stacks[1], "received").await >= 15.0)
            .then_some(())
    };
    testkit::eventually(Duration::from_secs(60), both_heard).await;
    let (mut stayed, mut answering) = (0, BTreeSet::new());
    for (number, mut messages, first) in open {
        messages.push(json!({ "role": "assistant", "content": "Yes." }));
        messages.push(json!({ "role": "user", "content": "And then?" }));
        let second = send(stacks[(number + 1) % 2].post("/v1/chat/completions", &question(&messages))).await;
        stayed += usize::from(server(&second) == first);
        answering.insert(first);
    }
    assert!(stayed >= 29, "{stayed} of 30 stayed");
    assert_eq!(answering.len(), 3, "and they are spread");
    for stack in &stacks {
        assert_eq!(count(stack, "dropped").await, 0.0);
        // Each counts what it has sent itself: its half, and what was asked until the model was there.
        let page = send(stack.client.get(format!("{}/metrics", stack.modelgate.admin_url()))).await;
        let page = page.text().await.expect("a page");
        let of_servers = page.lines().filter(|line| line.starts_with("modelgate_server_chosen_total{"));
        let own: f64 = of_servers.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        assert!((30.0..45.0).contains(&own), "{own}: {page}");
    }
}

/// A long answer is under way at one server: other requests go to the other, as soon as the servers have told that these have ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_less_busy_server_gets_a_request() {
    let servers = sims(["a", "b"]);
    let Some(stack) = with(NEWEST, &servers, "strategy: least-busy", "").await else { return };
    servers.iter().for_each(|sim| sim.set_latency(Duration::from_secs(30)));
    let long = tokio::spawn(send(stack.post("/v1/chat/completions", &question(&opening(1)))));
    let busy = testkit::eventually(Duration::from_secs(10), || async {
        servers.iter().find(|sim| sim.running_and_waiting().0 == 1).map(|sim| sim.name().to_owned())
    })
    .await;
    servers.iter().for_each(|sim| sim.set_latency(Duration::ZERO));
    let mut answering = BTreeSet::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        answering.insert(server(&stack.chat("llama").await));
    }
    assert!(answering.len() == 1 && !answering.contains(&busy), "{answering:?}, and {busy} is busy");
    long.abort();
}

/// One of three servers is gone, under load: with 3.7 no request fails; before, those that it had accepted may.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_costs_no_request() {
    for (version, may_lose_accepted) in [("3.6.2", true), ("3.6.15", true), ("3.7.0", false), (NEWEST, false)]
    {
        let [a, b, c] = sims(["a", "b", "c"]);
        [&a, &b, &c].iter().for_each(|sim| sim.set_latency(Duration::from_millis(50)));
        let all = [a, b, c];
        let Some(stack) = with(version, &all, CACHE, "").await else { continue };
        let load = Load::chat(&stack.traefik.url(), "llama", ChatAnswer::Whole).key(KEY).connections(32);
        let [a, b, c] = all;
        let (report, ()) = tokio::join!(load.until(Until::Elapsed(Duration::from_secs(4))).run(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(a);
        });
        println!(
            "{version}: {} answers, {:?}, {:?}, {:?}",
            report.answers(),
            report.statuses,
            report.servers,
            report.errors
        );
        assert!(report.answered(200) > 300, "{version}: {:?}", report.statuses);
        assert!(report.errors.is_empty(), "{version}: {:?}", report.errors);
        assert_eq!(report.servers.len(), 3, "{version}: {:?}", report.servers);
        let lost = report.answers() - report.answered(200);
        match may_lose_accepted {
            true => assert!(lost <= 32 && report.answered(502) == lost, "{version}: {:?}", report.statuses),
            false => assert_eq!(lost, 0, "{version}: {:?}", report.statuses),
        }
        drop((b, c));
    }
}

/// What a server answers itself reaches the client as it is, unless it is one of the statuses that another server is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_servers_stay_theirs() {
    let servers = sims(["a", "b"]);
    let Some(stack) = with(NEWEST, &servers, CACHE, "").await else { return };
    let failing =
        |status| FailureMode { status: Some(status), retry_after: Some(7), ..FailureMode::default() };
    let ask = || async { send(stack.post("/v1/chat/completions", &question(&opening(1)))).await };
    servers.iter().for_each(|sim| sim.set_failure(failing(429)));
    let answer = ask().await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"7".parse().expect("a value"))
    );
    for status in [500, 503] {
        servers.iter().for_each(|sim| sim.set_failure(failing(status)));
        let answer = ask().await;
        assert_eq!(answer.status(), status);
        assert!(answer.text().await.expect("a body").contains("error"), "{status}");
    }
    servers[0].set_failure(failing(502));
    servers[1].set_failure(FailureMode::default());
    for _ in 0..6 {
        assert_eq!(server(&ask().await), "b", "the other one is asked");
    }
}

/// With metering, a server that fails is avoided, and is chosen again once it answers. Two Modelgates with one Redis tell each other.
///
/// Regression: it failed at once, so it was always the one with the least to do, and more than half of all requests were sent there first.
/// Then, what the other Modelgate had sent there was taken for tries that had not failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_avoided_and_comes_back() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let servers = sims(["a", "b", "c"]);
    let shared = format!("shared_limits: {{ url: {:?}, timeout: 1s }}", redis.url());
    let one = metered(&servers, "strategy: least-busy", &shared).await;
    let other = metered(&servers, "strategy: least-busy", &shared).await;
    let Some(stacks) = one.zip(other).map(|(one, other)| [one, other]) else { return };
    for stack in &stacks {
        know_each_other(stack).await;
    }
    servers.iter().for_each(|sim| sim.set_latency(Duration::from_millis(200)));
    servers[0].set_failure(FailureMode { status: Some(503), ..FailureMode::default() });
    let asked = async |seconds: u64| {
        servers.iter().for_each(Sim::forget_requests);
        let load = |stack: &Stack| {
            let load = Load::chat(&stack.traefik.url(), "llama", ChatAnswer::Whole).key(KEY).connections(8);
            load.until(Until::Elapsed(Duration::from_secs(seconds)))
        };
        let (one, other) = tokio::join!(load(&stacks[0]).run(), load(&stacks[1]).run());
        let posts = servers.each_ref().map(|sim| sim.posts().len());
        println!("{:?}, {:?}, {posts:?}", one.statuses, other.statuses);
        posts[0] as f64 / posts.iter().sum::<usize>() as f64
    };
    asked(4).await;
    let share = asked(4).await;
    assert!(share < 0.1, "{share} of what was sent");
    servers[0].set_failure(FailureMode::default());
    testkit::eventually(Duration::from_secs(60), || async { (asked(2).await > 0.2).then_some(()) }).await;
}

/// Concurrency is counted for all servers together, and aliases and models of the same servers share the routers.
#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_counted_over_all_servers() {
    for version in LAYERED {
        let servers = sims(["a", "b", "c"]);
        servers.iter().for_each(|sim| sim.set_latency(Duration::from_millis(400)));
        let setting = format!("{CACHE}, concurrency: {{ max: 4 }}");
        let Some(stack) = with(version, &servers, &setting, "").await else { continue };
        let url = stack.traefik.url();
        let load =
            Load::chat(&url, "llama", ChatAnswer::Whole).key(KEY).connections(12).until(Until::Sent(12));
        let report = load.run().await;
        assert_eq!(report.statuses, BTreeMap::from([(200, 4), (429, 8)]), "{version}");
    }
}

/// Whoever may not use a model reaches none of its servers, and what cannot be chosen for goes in turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_choice_opens_nothing_and_other_requests_go_in_turn() {
    let both = |name: &str| {
        Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named(name, &["llama", "qwen"]) })
    };
    let servers = [both("a"), both("b")];
    let Some(stack) = with(NEWEST, &servers, CACHE, "").await else { return };
    let body = json!({ "model": "qwen", "messages": opening(1) });
    let post = |key: &str| {
        let url = format!("{}/v1/chat/completions", stack.traefik.url());
        stack.client.post(url).bearer_auth(key).json(&body)
    };
    assert_eq!(send(post(KEY)).await.status(), 200);
    servers.iter().for_each(Sim::forget_requests);
    assert_eq!(send(post(LLAMA_KEY)).await.status(), 404);
    assert!(servers.iter().all(|sim| sim.posts().is_empty()));
    let mut answering = BTreeMap::new();
    for _ in 0..8 {
        let answer = send(stack.get("/models/llama/health")).await;
        *answering.entry(server(&answer)).or_insert(0) += 1;
    }
    assert_eq!(answering, BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 4)]));
}

/// Servers with one setting, and an API that tells of requests.
async fn observed(servers: &[Sim], setting: &str) -> Option<Stack> {
    let traefik = need(traefik_binary(NEWEST), "Traefik")?;
    let servers: Vec<(&Sim, &str)> = servers.iter().map(|sim| (sim, setting)).collect();
    let config = config_of(&servers, "\ntraefik: { version: \"3.7.15\" }\n");
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config);
    let mut modelgate = builder.env("MODELGATE_ADMIN_TOKEN", ADMIN).start().await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    let stack = Stack { traefik, modelgate, client: testkit::client() };
    stack.wait_for("llama").await;
    Some(stack)
}

/// With a Traefik that tells what has become of requests.
async fn metered(servers: &[Sim], setting: &str, more: &str) -> Option<Stack> {
    let binary = need(traefik_binary(NEWEST), "Traefik")?;
    let servers: Vec<(&Sim, &str)> = servers.iter().map(|sim| (sim, setting)).collect();
    let telemetry = testkit::free_port();
    let listen = format!("listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}");
    let config = config_of(&servers, &format!("\ntraefik: {{ version: {NEWEST:?} }}\n{listen}\n{more}\n"));
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &config).await;
    modelgate.wait_ready().await;
    let endpoint = [format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs")];
    let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint());
    let traefik = builder.telling(&endpoint).start().await;
    traefik.wait_configured().await;
    let stack = Stack { traefik, modelgate, client: testkit::client() };
    stack.wait_for("llama").await;
    Some(stack)
}

/// The list of requests says why; `explain request` and "Try a request" do, too. A server whose page cannot be read is not avoided.
#[tokio::test(flavor = "multi_thread")]
async fn a_choice_is_explained() {
    let servers = sims(["a", "b"]);
    let Some(stack) = observed(&servers, CACHE).await else { return };
    let body = question(&opening(1));
    let first = server(&send(stack.post("/v1/chat/completions", &body)).await);
    // Until its prompt is believed to be read, another server may answer the same one as soon.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(server(&send(stack.post("/v1/chat/completions", &body)).await), first);
    let listed = testkit::eventually(Duration::from_secs(10), || async {
        let url = format!("{}/api/v1/requests?limit=1", stack.modelgate.admin_url());
        let requests: Value =
            send(stack.client.get(url).bearer_auth(ADMIN)).await.json().await.expect("JSON");
        let chosen = requests["items"][0]["chosen"].clone();
        (chosen["expected_cached_tokens"].as_u64() > Some(0)).then_some(chosen)
    })
    .await;
    assert_eq!((listed["server"].as_str(), &listed["among"]), (Some(&*first), &json!(2)), "{listed}");
    let (cached, prompt) = (listed["expected_cached_tokens"].as_f64(), listed["prompt_tokens"].as_f64());
    assert!(cached > prompt.map(|prompt| prompt * 0.7), "{listed}");
    // On a busy machine a survey may miss a server.
    testkit::eventually(Duration::from_secs(60), || async {
        let told = explained(&stack, &body).await;
        let parts = [
            "is chosen among 2: about 0 of the prompt's ",
            "; from the next best, ",
            "to the service failover-",
        ];
        parts.iter().all(|part| told.contains(part)).then_some(())
    })
    .await;
}

/// An adapter stays at the server that has it loaded, but for a clearly shorter queue elsewhere; requests for the model itself do not
/// follow it. The list of requests says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_an_adapter_goes_where_it_is_loaded() {
    const ADAPTER: &str = "llama-sql";
    let servers = ["a", "b"].map(|name| {
        Sim::start_with(Options {
            owned_by: "vllm".into(),
            adapters: vec![ADAPTER.to_owned(), "llama-other".to_owned()],
            ..Options::named(name, &["llama", ADAPTER, "llama-other"])
        })
    });
    let Some(stack) = observed(&servers, "strategy: least-busy").await else { return };
    stack.wait_for(ADAPTER).await;
    let pages = servers.each_ref().map(Sim::pages);
    testkit::eventually(Duration::from_secs(60), || async {
        servers.iter().zip(pages).all(|(sim, pages)| sim.pages() >= pages + 2).then_some(())
    })
    .await;
    servers.iter().for_each(|sim| sim.set_latency(Duration::from_secs(60)));
    let long = tokio::spawn(send(stack.post("/v1/chat/completions", &common::chat(ADAPTER))));
    let owner = testkit::eventually(Duration::from_secs(10), || async {
        servers.iter().find(|sim| sim.running_and_waiting().0 == 1).map(|sim| sim.name().to_owned())
    })
    .await;
    servers.iter().for_each(|sim| sim.set_latency(Duration::ZERO));
    for _ in 0..3 {
        assert_eq!(server(&stack.chat(ADAPTER).await), owner, "the other one would have to load it");
        // In the last turns the server has said that it is running there.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_ne!(server(&stack.chat("llama").await), owner, "that one is less busy");
    }
    testkit::eventually(Duration::from_secs(10), || async {
        let url = format!("{}/api/v1/requests?limit=2", stack.modelgate.admin_url());
        let listed: Value = send(stack.client.get(url).bearer_auth(ADMIN)).await.json().await.expect("JSON");
        let items = listed["items"].as_array().expect("a list").iter();
        let known: Vec<(&Value, &Value)> =
            items.map(|item| (&item["model"], &item["chosen"]["has_adapter"])).collect();
        (known == [(&json!("llama"), &Value::Null), (&json!(ADAPTER), &json!(true))]).then_some(())
    })
    .await;
    // More than 0.2 s of reading wait there after the first of these.
    let mut answering = BTreeSet::new();
    for number in 0..4 {
        let body = json!({ "model": ADAPTER, "messages": opening(number), "max_tokens": 10 });
        answering.insert(server(&send(stack.post("/v1/chat/completions", &body)).await));
    }
    assert_eq!(answering.len(), 2, "one long queue is worse than loading it once more");
    long.abort();
}

/// What `explain request` says of a chat request.
async fn explained(stack: &Stack, body: &Value) -> String {
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    let (key, body) = (format!("Authorization: Bearer {KEY}"), body.to_string());
    command.current_dir(stack.modelgate.folder()).args(["--config", "modelgate.yaml", "explain", "request"]);
    command.args(["-H", &key, "-d", &body, "/v1/chat/completions"]);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two servers of `llama` with room for two requests each, and one of `llama-small` with room for one; and what comes when they are
/// full. What the servers say of themselves is all that Modelgate knows of the requests that are under way there.
struct Full {
    stack: Stack,
    servers: [Sim; 2],
    small: Sim,
}

impl Full {
    const OTHER: &str = "mg-test-key-of-bob";
    const SMALL: &str = "llama-small";

    /// Requests for `llama` wait as long as they may, those for `llama-small` hardly. Bob's plan goes first, and allows five requests.
    async fn start() -> Option<Self> {
        let sim = |name: &str, model: &str, max_running| {
            Sim::start_with(Options {
                owned_by: "vllm".into(),
                max_running,
                ..Options::named(name, &[model])
            })
        };
        let servers = ["a", "b"].map(|name| sim(name, "llama", 2));
        let small = sim("c", Self::SMALL, 1);
        let setting = "strategy: least-busy, pick: { wait: 25s, max_requests: 2 }";
        let [a, b] = servers.each_ref().map(|sim| (sim, setting));
        let all = [a, b, (&small, "strategy: least-busy, pick: { wait: 500ms, max_requests: 1 }")];
        let more = format!(
            "plans: [{{ name: urgent, priority: high, limit: {{ requests_per_day: 5 }} }}]\n\
             consumers: [{{ name: bob, plan: urgent }}]\ntraefik: {{ version: \"3.7.15\" }}\ntime_zone: {}\n",
            noon()
        );
        let traefik = need(traefik_binary(NEWEST), "Traefik")?;
        let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config_of(&all, &more));
        let mut modelgate = builder.env("MODELGATE_ADMIN_TOKEN", ADMIN).start().await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
        traefik.wait_configured().await;
        let stack = Stack { traefik, modelgate, client: testkit::client() };
        stack.wait_for("llama").await;
        stack.wait_for(Self::SMALL).await;
        tokio::time::sleep(ON_ITS_WAY).await;
        Some(Self { stack, servers, small })
    }

    fn all(&self) -> [&Sim; 3] {
        [&self.servers[0], &self.servers[1], &self.small]
    }

    fn ask(&self, key: &str, model: &str) -> JoinHandle<Response> {
        let url = format!("{}/v1/chat/completions", self.stack.traefik.url());
        tokio::spawn(send(self.stack.client.post(url).bearer_auth(key).json(&common::chat(model))))
    }

    /// Others use the servers, and fill them; Modelgate has heard of it.
    async fn fill(&self) -> Vec<JoinHandle<Response>> {
        self.all().iter().for_each(|sim| sim.set_latency(Duration::from_secs(60)));
        let fillers = [(0, "llama"), (0, "llama"), (1, "llama"), (1, "llama"), (2, Self::SMALL)];
        let fillers = fillers.map(|(place, model)| {
            let url = format!("{}/v1/chat/completions", self.all()[place].url());
            tokio::spawn(send(self.stack.client.post(url).json(&common::chat(model))))
        });
        testkit::eventually(Duration::from_secs(60), || async {
            let is_known = self.would_wait("llama").await && self.would_wait(Self::SMALL).await;
            (is_known && self.at_servers() == (5, 0)).then_some(())
        })
        .await;
        fillers.into()
    }

    /// Whether Modelgate says that a request for the model would have to wait now.
    async fn would_wait(&self, model: &str) -> bool {
        let url = format!("{}/requests/try", self.stack.modelgate.admin_url());
        let fields = [("name", "alice"), ("body", &*common::chat(model).to_string())];
        let fields = reqwest::Url::parse_with_params("http://form", fields).expect("a URL");
        let request = self.stack.client.post(url).bearer_auth(ADMIN);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let page = send(request.body(fields.query().expect("fields").to_owned())).await;
        let page = page.text().await.expect("a page");
        assert!(page.contains("is chosen among"), "{page}");
        page.contains("all servers are full now, so it waits first")
    }

    /// The servers answer what they have, and what comes, at once.
    fn answer(&self) {
        for sim in self.all() {
            sim.set_latency(Duration::ZERO);
            sim.answer_now();
        }
    }

    /// How many requests run at the servers, and how many wait there.
    fn at_servers(&self) -> (usize, usize) {
        let counts = self.all().map(Sim::running_and_waiting);
        counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    /// Until so many requests are at the servers, and none waits there.
    async fn until_at_servers(&self, count: usize) {
        testkit::eventually(Duration::from_secs(60), || async {
            (self.at_servers() == (count, 0)).then_some(())
        })
        .await;
    }

    /// Whose requests the servers of `llama` have got through Modelgate.
    fn consumers(&self) -> Vec<String> {
        let posts = self.servers.iter().flat_map(Sim::posts);
        let mut consumers: Vec<String> =
            posts.filter_map(|post| post.header("x-inference-consumer").map(str::to_owned)).collect();
        consumers.sort();
        consumers
    }

    /// A figure of Modelgate's.
    async fn figure(&self, name: &str) -> f64 {
        figure(&self.stack, name).await
    }

    /// Until so many requests wait.
    async fn waiting(&self, count: f64) {
        self.until("modelgate_waiting_requests", count).await;
    }

    async fn until(&self, name: &str, value: f64) {
        testkit::eventually(Duration::from_secs(60), || async {
            (self.figure(name).await == value).then_some(())
        })
        .await;
    }

    /// How many waits have ended so, as it is written in the metrics.
    fn ended(how: &str) -> String {
        format!("modelgate_waits_total{{ended=\"{how}\"}}")
    }
}

/// A figure of Modelgate's.
async fn figure(stack: &Stack, name: &str) -> f64 {
    let page = send(stack.client.get(format!("{}/metrics", stack.modelgate.admin_url()))).await;
    let page = page.text().await.expect("a page");
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name);
    line.parse().expect("a number")
}

/// All servers of a model are full. Requests wait, those of a higher priority go first, and no server ever has more than it is to
/// have. Others are answered meanwhile. A client that leaves gives its place up; who waits too long is refused and has used
/// nothing of its limits; when Modelgate stops, all are told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_until_a_server_has_room() {
    let Some(mut full) = Full::start().await else { return };
    let before = full.figure(&Full::ended("server_free")).await;
    let fillers = full.fill().await;
    let mut all = Vec::new();
    for key in [KEY, Full::OTHER] {
        all.extend((0..3).map(|_| full.ask(key, "llama")));
        full.waiting(f64::from(u8::try_from(all.len()).expect("few"))).await;
    }
    let stopwatch = Stopwatch::start();
    assert_eq!(send(full.stack.get("/v1/models")).await.status(), 200);
    assert!(stopwatch.elapsed() < Duration::from_secs(1), "whoever need not wait is answered meanwhile");
    assert_eq!(full.figure("modelgate_waiting_requests").await, 6.0);
    those_of_a_higher_priority_go_first(&full, &fillers).await;
    full.answer();
    for answer in all {
        assert_eq!(answer.await.expect("an answer").status(), 200);
    }
    assert_eq!(full.all().map(Sim::queued), [0; 3], "none waits at a server");
    assert_eq!(full.figure(&Full::ended("server_free")).await - before, 6.0);
    assert_eq!(full.figure(&Full::ended("too_long")).await, 0.0);
    it_is_told_how_long_each_waited(&full, before).await;
    who_leaves_or_waits_too_long_has_used_nothing(&full).await;

    let fillers = full.fill().await;
    let waiting = full.ask(KEY, "llama");
    full.waiting(1.0).await;
    let stopwatch = Stopwatch::start();
    let (stopped, ()) = tokio::join!(full.stack.modelgate.stop(), async {
        let told = waiting.await.expect("an answer");
        assert!(stopwatch.elapsed() < Duration::from_secs(2), "{:?}", stopwatch.elapsed());
        assert_eq!(
            (told.status().as_u16(), &told.headers()["retry-after"]),
            (503, &"1".parse().expect("a value"))
        );
        assert!(told.text().await.expect("a body").contains("stopping"));
    });
    assert!(stopped.success());
    fillers.iter().for_each(JoinHandle::abort);
}

/// Three requests of each wait. The servers say once that they have room for four, and nothing more until these are there: how long
/// a request is on its way, and is missing in what a server says, does not matter.
async fn those_of_a_higher_priority_go_first(full: &Full, fillers: &[JoinHandle<Response>]) {
    full.servers.iter().for_each(|sim| sim.allow_pages(Some(0)));
    fillers.iter().for_each(JoinHandle::abort);
    full.until_at_servers(0).await;
    full.servers.iter().for_each(Sim::forget_requests);
    full.servers.iter().for_each(|sim| sim.allow_pages(Some(1)));
    full.waiting(2.0).await;
    full.until_at_servers(4).await;
    assert_eq!(full.servers.each_ref().map(Sim::running_and_waiting), [(2, 0); 2], "two at each");
    assert_eq!(
        full.consumers(),
        ["alice", "bob", "bob", "bob"],
        "of four places three go to who has priority"
    );
    full.servers.iter().for_each(|sim| sim.allow_pages(None));
}

/// By the list of requests; `before` is how many had waited before those six.
async fn it_is_told_how_long_each_waited(full: &Full, before: f64) {
    let url = format!("{}/api/v1/requests?limit=100", full.stack.modelgate.admin_url());
    let waited = testkit::eventually(Duration::from_secs(60), || async {
        let listed = send(full.stack.client.get(&url).bearer_auth(ADMIN)).await;
        let listed: Value = listed.json().await.expect("JSON");
        let items = listed["items"].as_array().expect("a list").iter();
        let waited: Vec<f64> = items.filter_map(|item| item["waited_seconds"].as_f64()).collect();
        (waited.len() as f64 >= before + 6.0).then_some(waited)
    })
    .await;
    assert!(waited.len() as f64 == before + 6.0, "{waited:?}");
    assert!(waited.iter().all(|seconds| *seconds > 0.0 && *seconds < 25.0), "{waited:?}");
}

/// Bob has used three of five.
async fn who_leaves_or_waits_too_long_has_used_nothing(full: &Full) {
    let left = full.figure(&Full::ended("client_left")).await;
    let fillers = full.fill().await;
    let leaver = full.ask(Full::OTHER, "llama");
    full.waiting(1.0).await;
    leaver.abort();
    full.until(&Full::ended("client_left"), left + 1.0).await;
    assert_eq!(full.figure("modelgate_waiting_requests").await, 0.0, "the place is given up");
    let refused = full.ask(Full::OTHER, Full::SMALL).await.expect("an answer");
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (503, &"5".parse().expect("a value"))
    );
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!((&body["error"]["code"], &body["error"]["param"]), (&json!("servers_busy"), &json!("model")));
    assert_eq!(full.figure(&Full::ended("too_long")).await, 1.0);
    assert_eq!((full.at_servers(), full.all().map(Sim::queued)), ((5, 0), [0; 3]), "nothing has come there");
    fillers.iter().for_each(JoinHandle::abort);
    full.answer();
    for expected in [200, 200, 429] {
        assert_eq!(full.ask(Full::OTHER, "llama").await.expect("an answer").status(), expected);
    }
}

/// Without a stated maximum the one server says itself that it is full, and how much it takes. Nothing is refused. From then on it
/// has an eighth more than that, at least one, so that the next one is at hand; the others wait at Modelgate.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_itself_that_it_is_full() {
    let options = Options { owned_by: "vllm".into(), max_running: 2, ..Options::named("a", &["llama"]) };
    let servers = [Sim::start_with(options)];
    let Some(stack) = with(NEWEST, &servers, "strategy: least-busy, pick: { wait: 25s }", "").await else {
        return;
    };
    let [sim] = &servers;
    let ask = || tokio::spawn(send(stack.post("/v1/chat/completions", &common::chat("llama"))));
    // Each request is at the server or waits at Modelgate, and not on its way: how many there, and how many here.
    let settled = async |count: usize| {
        testkit::eventually(Duration::from_secs(60), || async {
            let here = figure(&stack, "modelgate_waiting_requests").await as usize;
            let (running, waiting) = sim.running_and_waiting();
            (running + waiting + here == count).then_some((running, waiting, here))
        })
        .await
    };
    let answered = async |asked: Vec<JoinHandle<Response>>| {
        sim.set_latency(Duration::ZERO);
        sim.answer_now();
        for request in asked {
            assert_eq!(request.await.expect("an answer").status(), 200);
        }
    };

    // It is asked for more and more, until it has said so.
    sim.set_latency(Duration::from_secs(60));
    let (mut asked, began) = (Vec::new(), Stopwatch::start());
    loop {
        asked.push(ask());
        let (_, _, here) = settled(asked.len()).await;
        if here > 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "none of {} waits", asked.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(sim.queued() > 0, "before that some have waited at the server");
    answered(asked).await;

    // It says that it has nothing to do, and then nothing more until all have come.
    tokio::time::sleep(ON_ITS_WAY).await;
    let pages = sim.pages();
    testkit::eventually(Duration::from_secs(60), || async { (sim.pages() >= pages + 2).then_some(()) }).await;
    sim.allow_pages(Some(0));
    sim.set_latency(Duration::from_secs(60));
    let mut asked = Vec::new();
    for count in 1..=12_usize {
        asked.push(ask());
        let most = (count.min(2), usize::from(count > 2), count.saturating_sub(3));
        assert_eq!(settled(count).await, most, "running there, waiting there, waiting at Modelgate");
    }
    sim.allow_pages(None);
    answered(asked).await;
}

/// Regression: a server that says how many requests it has, while Traefik tells ends, too, got more than it was to have. Its page had left
/// the first request out, so that the second one went on; then Traefik's record of the first came, and the third one went on as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_told_twice_makes_room_once() {
    const RECORDS: &str = "modelgate_receipts_total{kind=\"record\"}";
    let options = Options { owned_by: "vllm".into(), max_running: 1, ..Options::named("a", &["llama"]) };
    let sim = [Sim::start_with(options)];
    let setting = "strategy: least-busy, pick: { wait: 25s, max_requests: 1 }";
    let Some(stack) = metered(&sim, setting, "metering: { scrape: 600s }").await else { return };
    let [sim] = sim;
    let told = async |count: usize| {
        testkit::eventually(Duration::from_secs(60), || async {
            (figure(&stack, RECORDS).await >= count as f64).then_some(())
        })
        .await;
    };
    told(sim.posts().len()).await;
    let before = figure(&stack, RECORDS).await as usize;
    sim.set_latency(Duration::from_secs(60));
    let ask = || tokio::spawn(send(stack.post("/v1/chat/completions", &common::chat("llama"))));
    let settled = async |here: usize, there: usize| {
        testkit::eventually(Duration::from_secs(60), || async {
            let waiting = figure(&stack, "modelgate_waiting_requests").await as usize;
            ((waiting, sim.running_and_waiting().0) == (here, there)).then_some(())
        })
        .await;
    };
    let first = ask();
    settled(0, 1).await;
    let others = [ask(), ask()];
    settled(2, 1).await;
    // A page says that the first one is there.
    let pages = sim.pages();
    testkit::eventually(Duration::from_secs(60), || async { (sim.pages() >= pages + 2).then_some(()) }).await;
    sim.allow_pages(Some(0));
    sim.answer_now();
    assert_eq!(first.await.expect("an answer").status(), 200);
    // One more page says that it is gone, and no other one comes.
    sim.allow_pages(Some(1));
    settled(1, 1).await;
    told(before + 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((sim.running_and_waiting(), sim.queued()), ((1, 0), 0), "the third one waits at Modelgate");
    assert_eq!(figure(&stack, "modelgate_waiting_requests").await, 1.0);
    sim.allow_pages(None);
    sim.set_latency(Duration::ZERO);
    sim.answer_now();
    for answer in others {
        assert_eq!(answer.await.expect("an answer").status(), 200);
    }
    assert_eq!(sim.queued(), 0, "none has waited at the server");
}

/// 64 servers of one model: each has a router, and each gets requests.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_servers() {
    let names: Vec<String> = (0..64).map(|number| format!("s{number}")).collect();
    let servers: Vec<Sim> = names.iter().map(|name| Sim::start(name, &["llama"])).collect();
    let Some(stack) = with(NEWEST, &servers, CACHE, "").await else { return };
    let load = Load::chat(&stack.traefik.url(), "llama", ChatAnswer::Whole).key(KEY).connections(16);
    let report = load.until(Until::Sent(600)).run().await;
    assert_eq!(report.answered(200), 600, "{:?}", report.statuses);
    let idle = |servers: &[Sim]| servers.iter().filter(|server| server.posts().is_empty()).count();
    assert_eq!(idle(&servers), 0, "600 requests");
    servers.iter().for_each(Sim::forget_requests);
    // One after another they find all servers alike again whenever these have said that they are idle, each second, so chance decides:
    // that one of 64 is never drawn in a thousand happens once in a hundred thousand runs.
    for number in 0..1_000 {
        send(stack.post("/v1/chat/completions", &question(&opening(number)))).await;
        if idle(&servers) == 0 {
            break;
        }
    }
    assert_eq!(idle(&servers), 0, "1,000 requests, one after another");
}

/// What choosing costs: CPU time of Traefik and Modelgate for a request, without it and with it. With `MODELGATE_TEST_PICKING_COST`
/// and an optimised program only; it takes a minute on a quiet machine.
#[tokio::test(flavor = "multi_thread")]
async fn choosing_costs_little() {
    if env::var_os("MODELGATE_TEST_PICKING_COST").is_none() {
        return eprintln!("not measured: MODELGATE_TEST_PICKING_COST is not set");
    }
    let Some(binary) = need(optimised(), "the optimised program") else { return };
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let servers = sims(["a", "b", "c"]);
    let mut stacks = Vec::new();
    for setting in ["", CACHE] {
        let servers: Vec<(&Sim, &str)> = servers.iter().map(|sim| (sim, setting)).collect();
        let config = config_of(&servers, &format!("\ntraefik: {{ version: {NEWEST:?} }}\n"));
        let mut modelgate = Modelgate::start_with(&binary, &config).await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(&traefik).endpoint(modelgate.provider_endpoint()).start().await;
        traefik.wait_configured().await;
        let stack = Stack { traefik, modelgate, client: testkit::client() };
        stack.wait_for("llama").await;
        stacks.push(stack);
    }
    for (length, least) in [(2_000, 0.95), (200_000, 0.9)] {
        let body = question(&[json!({ "role": "user", "content": "a ".repeat(length / 2) })]);
        let mut ratios = Vec::new();
        for _ in 0..9 {
            let mut costs = Vec::new();
            for stack in &stacks {
                let url = format!("{}/v1/chat/completions", stack.traefik.url());
                let load = Load::post(url, &body)
                    .key(KEY)
                    .connections(32)
                    .until(Until::Elapsed(Duration::from_secs(2)));
                let cpu = || cpu_time(stack.traefik.id()) + cpu_time(stack.modelgate.id());
                let before = cpu();
                let report = load.run().await;
                assert_eq!(report.answered(200), report.answers(), "{:?}", report.statuses);
                costs.push((cpu() - before).as_secs_f64() / report.answers() as f64);
            }
            ratios.push(costs[0] / costs[1]);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{length} bytes: {ratios:.3?} of the speed without choosing, by CPU time");
        assert!(ratios[ratios.len() / 2] >= least, "{length}: {ratios:.3?}");
    }
}

/// Two real vLLMs: the second turn of a conversation finds the first in the server's cache; where requests go in turn, about half do.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_hits_the_cache_of_a_real_vllm() {
    const CONVERSATIONS: usize = 50;
    let (Some(folder), Some(start)) =
        (env::var_os("MODELGATE_TEST_VLLM_FOLDER"), env::var_os("MODELGATE_TEST_VLLM_START"))
    else {
        return eprintln!("no vLLM: MODELGATE_TEST_VLLM_FOLDER and MODELGATE_TEST_VLLM_START are not set");
    };
    let vllm = || {
        let server = Program::builder("bash");
        let port = server.port().to_string();
        server.arg(&start).arg(&folder).arg(port).arg("-").start()
    };
    let servers = [vllm().await, vllm().await];
    let traefik = need(traefik_binary(NEWEST), "Traefik").expect("Traefik");
    let mut hits = Vec::new();
    for (run, strategy) in ["wrr", "cache"].into_iter().enumerate() {
        let listed =
            servers.each_ref().map(|server| format!("{{ url: {:?}, strategy: {strategy} }}", server.url()));
        let more = format!("servers: [{}]\ntraefik: {{ version: {NEWEST:?} }}\n", listed.join(", "));
        let mut modelgate =
            Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &config_of(&[], &more)).await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(&traefik).endpoint(modelgate.provider_endpoint()).start().await;
        traefik.wait_configured().await;
        let stack = Stack { traefik, modelgate, client: testkit::client() };
        stack.wait_for("org/tiny").await;
        let messages = |number: usize| {
            let words = (0..250).map(|word| format!("{}-{word}", run * 1_000 + number));
            vec![json!({ "role": "user", "content": words.collect::<Vec<_>>().join(" ") })]
        };
        let ask = async |messages: &[Value]| {
            let body = json!({ "model": "org/tiny", "messages": messages, "max_tokens": 4 });
            let answer = send(stack.post("/v1/chat/completions", &body)).await;
            assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        };
        let mut order: Vec<usize> = (0..CONVERSATIONS).collect();
        let (mut asked, _) = looked_for_and_found(&stack, &servers, 0.0).await;
        for number in &order {
            ask(&messages(*number)).await;
            asked += 1.0;
        }
        // In an order that has nothing to do with the first one.
        order.sort_by_key(|number| number * 7_919 % 101 * 31 % 67);
        let mut found = 0;
        for number in order {
            let mut messages = messages(number);
            messages.push(json!({ "role": "assistant", "content": "Yes." }));
            messages.push(json!({ "role": "user", "content": "And then?" }));
            let (_, before) = looked_for_and_found(&stack, &servers, asked).await;
            asked += 1.0;
            ask(&messages).await;
            let (_, after) = looked_for_and_found(&stack, &servers, asked).await;
            found += usize::from(after >= before + 100.0);
        }
        println!("{strategy}: {found} of {CONVERSATIONS} second turns hit the cache");
        hits.push(found);
    }
    assert!(hits[1] >= 48, "{hits:?}");
    assert!((10..=40).contains(&hits[0]), "{hits:?}");
}

/// How many prompts all servers have counted, once there are so many, and `vllm:prefix_cache_hits_total`: tokens. A server counts both
/// together, on a busy machine some time after its answer.
async fn looked_for_and_found(stack: &Stack, servers: &[Program], prompts: f64) -> (f64, f64) {
    testkit::eventually(Duration::from_secs(60), || async {
        let (mut looked_for, mut found) = (0.0, 0.0);
        for server in servers {
            let page = send(stack.client.get(format!("{}/metrics", server.url()))).await.text().await;
            let page = page.expect("a page");
            let sum = |name: &str| {
                let of = page.lines().filter(|line| line.starts_with(name));
                of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
            };
            looked_for += sum("vllm:request_prompt_tokens_count{");
            found += sum("vllm:prefix_cache_hits_total{");
        }
        (looked_for >= prompts).then_some((looked_for, found))
    })
    .await
}
