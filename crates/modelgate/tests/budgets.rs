//! Budgets, with real parts: what requests cost by what they have used, and what is refused when the money is spent.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    KEY, NEWEST,
    auth::{self, Auth, file_key},
    refusal, send,
};
use futures_util::future::join_all;
use limits::{read_money, write_money};
use serde_json::{Value, json};
use testkit::{
    free_port,
    modelgate::Modelgate,
    need,
    redis::{Redis, redis_server},
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio::time::sleep;

const TOKEN: &str = "a-token-of-the-receiver";
/// The tokens of an answer, and how many its request allows.
const TOKENS: usize = 50;
const MAX_TOKENS: usize = 100;
/// A token of an answer costs 0.001, one of a prompt 0.000001.
const PRICES: &str = "prices: { currency: EUR, models: [{ match: llama, prompt: 1, completion: 1000 }] }\n";
/// A request reserves 0.1 for its answer, and at most 0.002 for its prompt: less than 0.5 % of this.
const BUDGET: &str = "20.4";
const CONNECTIONS: usize = 64;

/// A Modelgate with a Traefik and servers of its own.
struct Site {
    traefik: Traefik,
    _modelgate: Modelgate,
    _sims: [Sim; 2],
}

impl Site {
    async fn start(limit: &str, more: &str) -> Option<Self> {
        let binary = need(traefik_binary(NEWEST), "Traefik")?;
        let telemetry = free_port();
        let spans = || {
            let endpoint = format!("http://127.0.0.1:{telemetry}/v1/traces");
            Some(Exporter { endpoint, token: Some(TOKEN.to_owned()) })
        };
        let llama = Options { spans: spans(), chunks: TOKENS, ..Options::named("llama", &["llama"]) };
        let sims = [Sim::start_with(llama), Sim::start("free", &["qwen"])];
        let digest = access::KeyDigest::of(KEY).to_hex();
        let yaml = format!(
            "listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\nservers: [{{ url: \"{}\" }}, {{ url: \"{}\" }}]\n\
             keys: [{{ name: alice, consumer: team, sha256: \"{digest}\", limit: {{ {limit} }} }}]\n{PRICES}{more}",
            sims[0].url(),
            sims[1].url()
        );
        let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &yaml);
        let mut modelgate = builder.env("MODELGATE_LISTEN_TELEMETRY_TOKEN", TOKEN).start().await;
        modelgate.wait_ready().await;
        let told = [
            format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs"),
            format!("--accesslog.otlp.http.headers.Authorization=Bearer {TOKEN}"),
        ];
        let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).telling(&told);
        let traefik = traefik.start().await;
        traefik.wait_configured().await;
        let site = Self { traefik, _modelgate: modelgate, _sims: sims };
        for model in ["llama", "qwen"] {
            testkit::eventually(Duration::from_secs(60), || async {
                let models = send(site.get("/v1/models")).await.text().await.expect("a body");
                models.contains(model).then_some(())
            })
            .await;
        }
        Some(site)
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        testkit::client().get(format!("{}{path}", self.traefik.url())).bearer_auth(KEY)
    }

    fn chat(&self, client: &reqwest::Client, model: &str, more: &Value) -> reqwest::RequestBuilder {
        let mut body = common::chat(model);
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        client.post(format!("{}/v1/chat/completions", self.traefik.url())).bearer_auth(KEY).json(&body)
    }

    /// The one budget of the key, as it may see it: what is left, in units of 10⁻⁹.
    async fn left(&self) -> u64 {
        let limits: Value = send(self.get("/v1/limits")).await.json().await.expect("JSON");
        let budget = &limits["limits"][0];
        assert_eq!(
            (&budget["unit"], &budget["currency"], &budget["amount"]),
            (&"money".into(), &"EUR".into(), &BUDGET.into()),
            "{limits}"
        );
        read_money(budget["remaining"].as_str().expect("a text")).expect("an amount")
    }
}

/// What came of it.
#[derive(Default)]
struct Sum {
    /// What answers say they have cost, in units of 10⁻⁹.
    cost: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    enough: AtomicBool,
}

/// Asks until enough is spent; what is refused is sent again.
async fn spend(sites: &[Site], time: Duration) -> Arc<Sum> {
    let budget = read_money(BUDGET).expect("an amount");
    let (sum, until) = (Arc::new(Sum::default()), Instant::now() + time);
    let workers = (0..CONNECTIONS).map(|number| {
        let (site, sum, client) = (&sites[number % sites.len()], Arc::clone(&sum), testkit::client());
        async move {
            while Instant::now() < until && !sum.enough.load(Ordering::Relaxed) {
                let answer = send(site.chat(&client, "llama", &json!({ "max_tokens": MAX_TOKENS }))).await;
                let status = answer.status().as_u16();
                let body: Value = answer.json().await.expect("JSON");
                if status == 200 {
                    let tokens = |name: &str| body["usage"][name].as_u64().expect("usage");
                    let cost = tokens("prompt_tokens") * 1_000 + tokens("completion_tokens") * 1_000_000;
                    let spent = sum.cost.fetch_add(cost, Ordering::Relaxed) + cost;
                    sum.answered.fetch_add(1, Ordering::Relaxed);
                    // Not even one more would pass.
                    sum.enough.fetch_or(budget - spent < 100_000_000, Ordering::Relaxed);
                    assert!(spent <= budget, "{}", write_money(spent));
                } else {
                    assert_eq!((status, &body["error"]["code"]), (402, &"budget_exceeded".into()), "{body}");
                    sum.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    join_all(workers).await;
    sum
}

/// The settled sum is never above the budget, and nearly all of it can be spent.
#[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
async fn is_spent_and_never_exceeded(sites: &[Site]) {
    let (budget, begun) = (read_money(BUDGET).expect("an amount"), Instant::now());
    let sum = spend(sites, Duration::from_secs(20)).await;
    let cost = sum.cost.load(Ordering::Relaxed);
    eprintln!(
        "{} Modelgates, {CONNECTIONS} connections: {} of {BUDGET} spent by {} requests in {:?}, {} refused",
        sites.len(),
        write_money(cost),
        sum.answered.load(Ordering::Relaxed),
        begun.elapsed(),
        sum.refused.load(Ordering::Relaxed),
    );
    assert!(cost <= budget, "{} of {BUDGET}", write_money(cost));
    assert!(cost * 100 >= budget * 95, "{} of {BUDGET}", write_money(cost));
    // Once all is settled, each knows the same to the last unit.
    for site in sites {
        testkit::eventually(Duration::from_secs(20), || async {
            (site.left().await == budget - cost).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_budget_is_spent_and_never_exceeded() {
    let limit = format!("budget_total: {BUDGET}, budget_kind: hard");
    let Some(site) = Site::start(&limit, "").await else { return };
    let sites = [site];
    is_spent_and_never_exceeded(&sites).await;
    let [site] = sites;
    let client = testkit::client();
    let (status, body) = refusal(site.chat(&client, "llama", &json!({ "max_tokens": 10_000 }))).await;
    let error = &body["error"];
    assert_eq!(
        (status, &error["code"], &error["type"]),
        (402, &"budget_exceeded".into(), &"insufficient_quota".into())
    );
    let message = error["message"].as_str().expect("words");
    assert!(
        message.starts_with("The budget of 20.4 EUR in all for this API key is spent but for "),
        "{message}"
    );
    // Its context holds 8,192 tokens.
    assert!(message.contains("this request may cost 8.194"), "{message}");
    let free = send(site.chat(&client, "qwen", &json!({}))).await;
    assert_eq!(free.status(), 200, "a model without a price is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_share_a_hard_budget_never_exceed_it() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limit = format!("budget_total: {BUDGET}, budget_kind: hard");
    let shared = format!("shared_limits: {{ url: \"{}\", timeout: 1s }}\n", redis.url());
    let (Some(one), Some(other)) = (Site::start(&limit, &shared).await, Site::start(&limit, &shared).await)
    else {
        return;
    };
    is_spent_and_never_exceeded(&[one, other]).await;
}

/// Each request is estimated at 10 tokens of an answer, which cost 0.001; nothing is told of it later.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_topped_up_and_reset_by_operators() {
    const ADMIN: &str = "token-of-alice-who-may-do-everything";
    let sim = Sim::start("sim", &["llama"]);
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state").display().to_string();
    let more = format!(
        "prices: {{ currency: EUR, models: [{{ match: llama, completion: 100 }}] }}\n\
         admin: {{ tokens: [{{ name: alice, sha256: \"{}\" }}] }}\n{}",
        access::KeyDigest::of(ADMIN).to_hex(),
        file_key("alice", "budget_total: 0.0025")
    );
    let yaml = auth::config(&sim, &more);
    std::fs::write(folder.path().join("modelgate.yaml"), &yaml).expect("written");
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &yaml);
    let mut modelgate = builder.env("MODELGATE_STATE_DIR", &state).start().await;
    modelgate.wait_ready().await;
    let run = |arguments: &[&str]| {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        command.env("MODELGATE_STATE_DIR", &state).current_dir(folder.path()).args(arguments);
        let output = command.output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let auth = Auth::of(&modelgate);
    // The first waits until the model is there.
    auth.until("mg-alice", 200).await;
    let passes = async || {
        let answer = auth.ask("mg-alice").await;
        assert!(answer.status == 200 || answer.code == "budget_exceeded", "{answer:?}");
        answer.status == 200
    };
    assert!(passes().await && !passes().await, "0.0005 is left");
    let budget = ["--key", "alice", "--per", "ever"];
    // What was counted is written twice a second.
    let shows = async |spent: &str| {
        let expected = format!("key alice: {spent} EUR spent or reserved in ever; it never begins anew\n");
        testkit::eventually(Duration::from_secs(10), || async {
            (run(&[&["budgets", "show"], &budget[..]].concat()).1 == expected).then_some(())
        })
        .await;
    };
    shows("0.002 of 0.0025").await;
    let (code, said, _) = run(&[&["budgets", "top-up", "0.001", "--json"], &budget[..]].concat());
    let added: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, &added["added"], &added["remaining"]),
        (Some(0), &"0.001".into(), &"0.0015".into()),
        "{said}"
    );
    // It is in force within a second, and one more passes.
    auth.until("mg-alice", 200).await;
    assert!(!passes().await, "0.0005 is left");
    shows("0.003 of 0.0035").await;
    // Whoever tries it before is told the same, and nothing is spent.
    let (header, body) = ("Authorization: Bearer mg-alice", r#"{"model":"llama","max_tokens":10}"#);
    let (_, tried, errors) =
        run(&["explain", "request", "-H", header, "-d", body, "http://llm.lan/v1/chat/completions"]);
    let words = "refused with 402 (budget_exceeded): The budget of 0.0025 EUR in all, and 0.001 EUR added to it, for this API key \
                 is spent but for 0.0005 EUR; this request is estimated to cost 0.001";
    assert!(tried.contains(words), "{tried} {errors}");
    shows("0.003 of 0.0035").await;
    let reset = testkit::client().post(format!("{}/api/v1/budgets/reset", modelgate.admin_url()));
    let reset = reset.bearer_auth(ADMIN).json(&json!({ "key": "alice", "per": "ever" }));
    let (status, body) = refusal(reset).await;
    assert_eq!((status, &body["budget"], &body["added"]), (200, &"0.0025".into(), &"0.001".into()), "{body}");
    auth.until("mg-alice", 200).await;
    assert!(passes().await && passes().await && !passes().await, "0.0035 less three");
    let left = auth.limits("mg-alice").await;
    assert_eq!(
        (&left["limits"][0]["amount"], &left["limits"][0]["reset_ms"]),
        (&"0.0035".into(), &Value::Null)
    );
    let (_, audit, _) = run(&["audit", "--action", "budget", "--json"]);
    assert!(audit.contains("budget topped up") && audit.contains("budget reset"), "{audit}");
    for (arguments, code, words) in [
        (&["budgets", "show", "--key", "alice", "--per", "month"][..], 1, "has no limit.budget_per_month"),
        (&["budgets", "reset", "--key", "bob", "--per", "ever"], 1, "bob"),
        (&["budgets", "top-up", "0", "--key", "alice", "--per", "ever"], 2, "above 0"),
    ] {
        let (found, _, said) = run(arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
    }
}
