//! A year of usage of a thousand keys: how soon the page is there, and whether all ways to ask say the same.
//!
//! Measured with the optimised program, which `cargo xtask test --install` builds and names in `MODELGATE_TEST_RELEASE`.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use testkit::{
    Stopwatch, median,
    modelgate::{Modelgate, optimised},
    need,
    postgres::{Postgres, postgres_binary},
};

/// For the API and the page.
const TOKEN: &str = "an-admin-token-of-the-tests";

/// The sums that a migration makes of what is there.
const SUMS: &str = include_str!("../../store/migrations/0010_usage_sums.sql");

/// A thousand keys, of which ten are a consumer's and each uses five of two hundred models, on each of 365 days up to today.
/// `$NUMBERS` are numbers from 0 up to so many, without its last one.
const ROWS: &str = "
INSERT INTO usage (day, key_name, consumer, model, requests, refused, errors, aborted, milliseconds, prompt, cached, completion,
    exact, measured, tokens, cost, last_used)
SELECT day, 'key-' || k, 'team-' || (k / 10), 'model-' || ((k * 7 + m * 41) % 200), 1 + (k + d) % 9, m, (k + m) % 2, 0, 250,
    1000 + k, 10, 500 + d, 1200 + k, 100, 200 + d, 1000000007 + k * 1001 + d, 1700000000000
FROM keys, models, days
";

/// The parts of the page, by what each takes longest for.
const ASKED: [&str; 6] = ["day", "month", "consumer", "key,consumer", "model", "day,key,consumer,model"];

#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_a_thousand_keys_is_there_at_once_and_adds_up() {
    let Some(binary) = need(optimised(), "the optimised program") else { return };
    let config = format!(
        "admin: {{ tokens: [{{ name: ada, sha256: \"{}\" }}] }}\nprices: {{ currency: EUR, models: [{{ match: \"*\", prompt: 0.15 }}] }}\n",
        access::KeyDigest::of(TOKEN).to_hex()
    );
    let mut sqlite = Modelgate::builder(&binary, &config).keep_state().start().await;
    sqlite.stop().await;
    fill_sqlite(&sqlite.folder().join("state/modelgate.db"));
    sqlite.restart().await;
    opens_within(&sqlite, Duration::from_millis(300), "SQLite").await;

    let Some(postgres) = need(postgres_binary(), "PostgreSQL") else { return };
    let postgres = Postgres::shared(&postgres).await;
    let url = postgres.create_database().await;
    let builder = Modelgate::builder(&binary, &config).env("MODELGATE_STORE_URL", url.as_str());
    let modelgate = builder.start().await;
    fill_postgres(&postgres, &url).await;
    opens_within(&modelgate, Duration::from_millis(500), "PostgreSQL").await;
}

fn fill_sqlite(file: &Path) {
    const FILL: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.executescript(sys.argv[2])
db.commit()
";
    let numbers = |name: &str, column: &str, count: u32| {
        format!(
            "{name}({column}) AS (SELECT 0 UNION ALL SELECT {column} + 1 FROM {name} WHERE {column} < {} - 1)",
            count
        )
    };
    let [keys, models, offsets] =
        [numbers("keys", "k", 1_000), numbers("models", "m", 5), numbers("offsets", "d", 365)];
    let days = "days AS (SELECT d, date('now', '-' || d || ' days') AS day FROM offsets)";
    let script =
        format!("BEGIN; WITH RECURSIVE {keys}, {models}, {offsets}, {days} {ROWS}; {} COMMIT;", sums());
    let filled = Command::new("python3").args(["-c", FILL]).arg(file).arg(script).status();
    assert!(filled.expect("Python runs").success());
}

async fn fill_postgres(postgres: &Postgres, url: &str) {
    let numbers = |count: u32| format!("generate_series(0, {})", count - 1);
    let rows = format!(
        "WITH keys AS (SELECT {} AS k), models AS (SELECT {} AS m), offsets AS (SELECT {} AS d),
         days AS (SELECT d, to_char((now() AT TIME ZONE 'UTC') - d * INTERVAL '1 day', 'YYYY-MM-DD') AS day FROM offsets) {ROWS}",
        numbers(1_000),
        numbers(5),
        numbers(365)
    );
    postgres.ask(url, &rows).await;
    for statement in sums().split(';').filter(|statement| !statement.trim().is_empty()) {
        postgres.ask(url, statement).await;
    }
    postgres.ask(url, "ANALYZE").await;
}

/// The statements by which the migration sums up what is there. The tables have got further columns since.
fn sums() -> String {
    const NUMBERS: &str = "model, requests, refused, errors, aborted, milliseconds, prompt, cached, completion, exact, measured,
        tokens, cost, last_used";
    let mut statements = SUMS[SUMS.find("INSERT INTO usage_months").expect("it sums up")..].to_owned();
    for (table, time) in [("usage_months", "month"), ("usage_models", "day"), ("usage_model_months", "month")]
    {
        let columns = format!("INSERT INTO {table} ({time}, key_name, consumer, {NUMBERS})\nSELECT");
        statements = statements.replace(&format!("INSERT INTO {table}\nSELECT"), &columns);
    }
    statements
}

#[expect(clippy::print_stdout, reason = "figures for whoever reads the test's output")]
async fn opens_within(modelgate: &Modelgate, most: Duration, database: &str) {
    let today = jiff::Timestamp::try_from(SystemTime::now())
        .expect("a time")
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let from = today.saturating_sub(jiff::Span::new().days(364));
    let client = reqwest::Client::new();
    let ask = async |path: String| {
        let request = client.get(format!("{}{path}", modelgate.admin_url())).bearer_auth(TOKEN);
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert_eq!(status, 200, "{path}: {text}");
        text
    };
    let mut slow = Vec::new();
    for by in ASKED {
        let mut times = Vec::new();
        for _ in 0..3 {
            let stopwatch = Stopwatch::start();
            let page = ask(format!("/usage?by={by}&from={from}")).await;
            times.push(stopwatch.elapsed());
            assert!(page.contains("Tokens by month") && page.contains("All of it"), "{page}");
        }
        let time = median(&times);
        println!("{database}, by {by}: {time:?}");
        if time > most {
            slow.push((by, times));
        }
    }
    assert!(slow.is_empty(), "{database}: {slow:?}");
    let mut told = Vec::new();
    for by in ["month", "day", "model", "consumer", "key", "month,key", "month,model", "consumer,model"] {
        told.push((by, sum_of_csv(&ask(format!("/api/v1/usage?format=csv&by={by}&from={from}")).await)));
    }
    for (by, sum) in &told {
        assert_eq!(sum, &told[0].1, "{database}: {by}");
    }
    let listed: Value =
        serde_json::from_str(&ask(format!("/api/v1/usage?by=month&from={from}")).await).expect("JSON");
    let requests: i64 =
        listed["items"].as_array().expect("a list").iter().filter_map(|row| row["requests"].as_i64()).sum();
    assert_eq!(requests, told[0].1[0], "JSON");
}

/// The requests, the tokens, and the cost in billionths.
fn sum_of_csv(csv: &str) -> [i64; 3] {
    let mut lines = csv.lines();
    let heading: Vec<_> = lines.next().expect("a heading").split(',').collect();
    let place = |name| heading.iter().position(|one| *one == name).expect(name);
    let places = [place("requests"), place("tokens"), place("cost")];
    let mut sum = [0; 3];
    for line in lines {
        let cells: Vec<_> = line.split(',').collect();
        let [requests, tokens, cost] = places.map(|place| cells[place]);
        let (whole, part) = cost.split_once('.').unwrap_or((cost, "0"));
        let cost: i64 = format!("{whole}{part:0<9}").parse().expect("an amount");
        for (sum, more) in
            sum.iter_mut().zip([requests.parse().expect("a number"), tokens.parse().expect("a number"), cost])
        {
            *sum += more;
        }
    }
    sum
}
