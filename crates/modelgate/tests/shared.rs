//! Several Modelgates share limits in Redis.

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::auth::{Auth, config, file_key};
use futures_util::future::join_all;
use testkit::{
    Stopwatch, eventually,
    modelgate::Modelgate,
    need, percentile,
    postgres::{Postgres, postgres_binary},
    redis::{Redis, redis_server},
    sim::Sim,
};
use tokio::{sync::Mutex, time::sleep};

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
/// 200 a second, 100 at once.
const RATE: f64 = 200.0;
const BURST: f64 = 100.0;
/// 64 connections then ask some thousand times a second, which leaves a small machine time for Redis.
const PAUSE: Duration = Duration::from_millis(60);
/// How long a decision waits for Redis if nothing else is configured.
const USUAL: &str = "40ms";

fn sharing(sim: &Sim, redis: &Redis, timeout: &str) -> String {
    let shared = format!("shared_limits: {{ url: \"{}\", timeout: {timeout} }}\n", redis.url());
    let limit = format!("requests_per_second: {RATE}, burst: {BURST}, requests_per_day: 1000000");
    config(sim, &format!("{shared}{}", file_key("alice", &limit)))
}

/// They measure time: one after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Two that share limits, and may pass.
async fn two(sim: &Sim, redis: &Redis, timeout: &str, fail: &str) -> ([Modelgate; 2], [Auth; 2]) {
    let start = || async {
        let builder = Modelgate::builder(BINARY, &sharing(sim, redis, timeout));
        let mut modelgate = builder.env("MODELGATE_SHARED_LIMITS_FAIL", fail).start().await;
        modelgate.wait_ready().await;
        modelgate
    };
    let modelgates = [start().await, start().await];
    let auths = [Auth::of(&modelgates[0]), Auth::of(&modelgates[1])];
    for auth in &auths {
        eventually(Duration::from_secs(60), || async {
            (auth.status("mg-alice").await == 200).then_some(())
        })
        .await;
    }
    // Each knows of the other.
    for modelgate in &modelgates {
        eventually(Duration::from_secs(60), || async {
            (modelgate.readyz().await["shared_limits"]["replicas"] == 2).then_some(())
        })
        .await;
    }
    (modelgates, auths)
}

/// What came of many requests at once.
#[derive(Default)]
struct Tally {
    passed: u64,
    refused: u64,
    others: Vec<String>,
    took: Vec<Duration>,
}

/// 64 connections at both until then, each with a pause after each answer.
async fn hammer(auths: &[Auth; 2], until: Instant, pause: Duration) -> Tally {
    let auths = Arc::new(auths.clone());
    let workers = (0..64).map(|i| {
        let auths = Arc::clone(&auths);
        tokio::spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < until {
                let answer = auths[i % 2].ask("mg-alice").await;
                tally.took.push(answer.took);
                match answer.status {
                    200 => tally.passed += 1,
                    429 => tally.refused += 1,
                    other => tally.others.push(format!("{other} {}", answer.code)),
                }
                sleep(pause).await;
            }
            tally
        })
    });
    let mut sum = Tally::default();
    for worker in workers.collect::<Vec<_>>() {
        let tally = worker.await.expect("no panic");
        sum.passed += tally.passed;
        sum.refused += tally.refused;
        sum.others.extend(tally.others);
        sum.took.extend(tally.took);
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn two_together_admit_what_one_limit_allows() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let _alone = ALONE.lock().await;
    let redis = Redis::start(program).await;
    let sim = Sim::start("a", &["llama"]);
    let (modelgates, auths) = two(&sim, &redis, "1s", "local").await;
    // All fresh again.
    sleep(Duration::from_secs_f64(BURST / RATE + 0.1)).await;
    let (start, stopwatch) = (Instant::now(), Stopwatch::start());
    let time = Duration::from_secs(5);
    let tally = hammer(&auths, start + time, PAUSE).await;
    // Some connections are still in their last pause when others have ended. While the machine holds them up, they cannot ask
    // for it all.
    let most = BURST + RATE * start.elapsed().as_secs_f64();
    let least = 0.99 * (BURST + RATE * time.saturating_sub(stopwatch.held_up()).as_secs_f64());
    // Redis has as much time as can be, and each decides alone only if that is not enough.
    let mut alone = 0.0;
    for modelgate in &modelgates {
        alone += counter(modelgate, "modelgate_shared_limits_decisions_alone_total").await;
    }
    eprintln!(
        "64 connections, two Modelgates: {} passed of {least:.0} to {most:.0}, {} refused, {alone} without Redis, p99 {:?}",
        tally.passed,
        tally.refused,
        percentile(&tally.took, 99.0)
    );
    assert!(tally.others.is_empty(), "{:?}", tally.others);
    assert!((least..=most + alone).contains(&(tally.passed as f64)), "{} of {least} to {most}", tally.passed);
    assert!(alone < 0.05 * tally.took.len() as f64, "{alone} of {}", tally.took.len());
    for modelgate in &modelgates {
        eventually(Duration::from_secs(60), || async {
            let status = modelgate.readyz().await["shared_limits"].clone();
            assert_eq!(status["fail"], "local", "{status}");
            (status["state"] == "up").then_some(())
        })
        .await;
    }
    // What is left is what Redis says, to both.
    sleep(Duration::from_secs_f64(BURST / RATE + 0.2)).await;
    for auth in &auths {
        let limits = auth.limits("mg-alice").await;
        let second =
            limits["limits"].as_array().and_then(|all| all.iter().find(|limit| limit["per"] == "second"));
        assert_eq!(second.expect("a limit")["remaining"], BURST as u64, "{limits}");
    }
}

/// The value of a counter or gauge that has one sample.
async fn counter(modelgate: &Modelgate, name: &str) -> f64 {
    let metrics = testkit::client().get(format!("{}/metrics", modelgate.admin_url())).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("text");
    let line =
        metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Redis is killed in the middle of a load; what passes in the two seconds after that. Requests may not take 50 ms longer
/// (p99) than while all was well, which shows how busy the machine is, or as much longer as the machine was stalled.
async fn killed(fail: &str) -> Option<(Tally, Time)> {
    let program = need(redis_server(), "Redis")?;
    let _alone = ALONE.lock().await;
    // What else the machine does can only make it slower: once is enough to show that nobody has to wait.
    for _ in 0..4 {
        let (tally, time, nobody_hangs) = killed_once(program, fail).await;
        if nobody_hangs {
            return Some((tally, time));
        }
    }
    panic!("requests take 50 ms longer around the kill, each time")
}

/// How long the load lasted, in seconds, and how much of that the machine did not hold it up.
struct Time {
    all: f64,
    calm: f64,
}

async fn killed_once(program: &str, fail: &str) -> (Tally, Time, bool) {
    let mut redis = Redis::start(program).await;
    let sim = Sim::start("a", &["llama"]);
    let (modelgates, auths) = two(&sim, &redis, USUAL, fail).await;
    let well = hammer(&auths, Instant::now() + Duration::from_secs(1), PAUSE).await;
    let before = hammer(&auths, Instant::now() + Duration::from_secs(1), PAUSE);
    let kill = async {
        sleep(Duration::from_millis(700)).await;
        redis.kill();
    };
    let (before, ()) = tokio::join!(before, kill);
    assert!(before.passed > 0);
    let (start, stopwatch) = (Instant::now(), Stopwatch::start());
    let mut tally = hammer(&auths, start + Duration::from_secs(2), PAUSE).await;
    let time = Time { all: start.elapsed().as_secs_f64(), calm: stopwatch.elapsed().as_secs_f64() };
    tally.took.extend(before.took);
    let nobody_hangs = nobody_hangs(&well, &tally, stopwatch.held_up());
    for modelgate in &modelgates {
        assert_eq!(modelgate.readyz().await["shared_limits"]["state"], "down");
        assert_eq!(counter(modelgate, "modelgate_shared_limits_up").await, 0.0);
        let alone = format!("modelgate_shared_limits_decisions_alone_total{{fail=\"{fail}\"}}");
        assert!(counter(modelgate, &alone).await > 0.0);
    }
    // It comes back, and nobody is restarted.
    redis.restart().await;
    for modelgate in &modelgates {
        eventually(Duration::from_secs(60), || async {
            (modelgate.readyz().await["shared_limits"]["state"] == "up").then_some(())
        })
        .await;
    }
    sleep(Duration::from_secs(1)).await;
    auths[0].until("mg-alice", 200).await;
    (tally, time, nobody_hangs)
}

#[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
fn nobody_hangs(well: &Tally, around: &Tally, held_up: Duration) -> bool {
    let figures = |tally: &Tally| {
        let [p50, p99, longest] = [50.0, 99.0, 100.0].map(|percent| percentile(&tally.took, percent));
        eprintln!("{} requests: p50 {p50:?}, p99 {p99:?}, longest {longest:?}", tally.took.len());
        p99
    };
    // The 64 requests that are under way when Redis dies are more than one in a hundred.
    assert!(around.took.len() < 6_400, "{}", around.took.len());
    let (before, after) = (figures(well), figures(around));
    after < before + Duration::from_millis(50) + held_up
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_enforces_its_part() {
    let Some((tally, time)) = killed("local").await else { return };
    // The parts begin fresh: a burst more than if Redis had gone on.
    let (least, most) = (0.9 * RATE * time.calm, BURST + RATE * time.all);
    eprintln!("each its part: {} passed of {most:.0}", tally.passed);
    assert!((least..=most).contains(&(tally.passed as f64)), "{} of {least} to {most}", tally.passed);
    assert!(tally.others.is_empty(), "{:?}", tally.others);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_all_pass_if_told_to() {
    let Some((tally, time)) = killed("open").await else { return };
    assert_eq!((tally.refused, tally.others.len()), (0, 0), "{:?}", tally.others);
    assert!(tally.passed as f64 > BURST + RATE * time.calm, "more than the limit: {}", tally.passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_none_passes_if_told_to() {
    let Some((tally, _)) = killed("closed").await else { return };
    assert_eq!(tally.passed, 0);
    assert!(tally.others.iter().all(|other| other == "503 limits_unavailable"), "{:?}", tally.others);
}

/// One of two is started anew while Redis is down: it enforces half of each limit, as it did before.
#[tokio::test(flavor = "multi_thread")]
async fn who_starts_without_redis_knows_how_many_share() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let _alone = ALONE.lock().await;
    let mut redis = Redis::start(program).await;
    let sim = Sim::start("a", &["llama"]);
    let start = || async {
        let mut modelgate =
            Modelgate::builder(BINARY, &sharing(&sim, &redis, USUAL)).keep_state().start().await;
        modelgate.wait_ready().await;
        modelgate
    };
    let (mut first, _second) = (start().await, start().await);
    let kept = first.folder().join("state/shared-limits-replicas");
    eventually(Duration::from_secs(60), || async {
        (std::fs::read_to_string(&kept).is_ok_and(|kept| kept == "2\n")).then_some(())
    })
    .await;
    redis.kill();
    first.restart().await;
    first.wait_ready().await;
    let status = first.readyz().await["shared_limits"].clone();
    assert_eq!((&status["state"], &status["replicas"]), (&"down".into(), &2.into()), "{status}");
    let (auth, start) = (Auth::of(&first), Instant::now());
    let statuses = join_all((0..300).map(|_| auth.status("mg-alice"))).await;
    let passed = statuses.into_iter().map(|status| u32::from(status == 200)).sum::<u32>();
    let most = (BURST + RATE * start.elapsed().as_secs_f64()) / 2.0;
    assert!((BURST / 2.0..=most).contains(&f64::from(passed)), "{passed} of {most}");
    let limits = auth.limits("mg-alice").await;
    assert_eq!(
        (&limits["limits"][0]["amount"], &limits["limits"][0]["burst"]),
        (&(RATE as u64).into(), &(BURST as u64).into())
    );
}

/// Regression: Redis was killed and came back empty a moment after one of two had let much pass. The other knew nothing of that yet, and
/// a hard budget was spent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_hard_budget_is_spent_once_though_redis_loses_it() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let _alone = ALONE.lock().await;
    let (mut redis, server) = (Redis::start(program).await, Postgres::shared(&binary).await);
    let (url, sim) = (server.create_database().await, Sim::start("a", &["llama"]));
    let shared = format!("shared_limits: {{ url: \"{}\", timeout: 1s }}\n", redis.url());
    // One of the currency for the ten tokens of an answer, and a little for the prompt.
    let prices = "prices: { currency: EUR, models: [{ match: llama, prompt: 1, completion: 100000 }] }\n";
    let key = file_key("alice", "budget_per_month: 50, budget_kind: hard");
    let yaml = config(&sim, &format!("{shared}{prices}{key}"));
    let start = || async {
        let builder = Modelgate::builder(BINARY, &yaml).env("MODELGATE_STORE_URL", &url);
        let mut modelgate = builder.start().await;
        modelgate.wait_ready().await;
        modelgate
    };
    let modelgates = [start().await, start().await];
    let [a, b] = [0, 1].map(|i| Auth::of(&modelgates[i]));
    b.until("mg-alice", 200).await;
    let ask = async |auth: &Auth, times: usize| {
        let statuses = join_all((0..times).map(|_| auth.status("mg-alice"))).await;
        statuses.into_iter().filter(|status| *status == 200).count()
    };
    // What the one lets pass the other cannot know yet: the store is locked, for less time than hard budgets wait.
    let lock = "BEGIN; LOCK TABLE quota_counts IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1.2); COMMIT";
    let at_once = async {
        sleep(Duration::from_millis(300)).await;
        let passed = 1 + ask(&b, 30).await;
        redis.restart().await;
        passed
    };
    let began = Instant::now();
    let unlocked = server.ask(&url, lock);
    let asked = async {
        let mut passed = at_once.await;
        // At first 503, and in the end 402.
        let mut last = 0;
        while last != 402 && began.elapsed() < Duration::from_secs(60) {
            passed += ask(&a, 20).await;
            last = a.status("mg-alice").await;
            passed += usize::from(last == 200);
            sleep(Duration::from_millis(20)).await;
        }
        (passed, last)
    };
    let (_, (passed, last)) = tokio::join!(unlocked, asked);
    eprintln!("{passed} passed, the last after {:?}", began.elapsed());
    assert!(last == 402 && (45..=50).contains(&passed), "{passed} of 50, then {last}");
}
