//! The real PostgreSQL, with its own `psql` as the client.

use std::{sync::Arc, time::Duration};

use testkit::{
    need,
    postgres::{Postgres, postgres_binary},
};
use tokio::{net::TcpStream, time::timeout};

#[tokio::test]
async fn keeps_what_was_committed_over_a_kill() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let mut postgres = Postgres::start_with(&binary, &["max_connections=17"]).await;
    let (port, url) = (postgres.port(), postgres.create_database().await);
    assert_eq!(postgres.ask(&url, "SHOW max_connections").await, "17");
    postgres.ask(&url, "CREATE TABLE keys (name text, uses int)").await;
    postgres.ask(&url, "INSERT INTO keys VALUES ('a', 1), ('b', 2)").await;

    postgres.kill();
    TcpStream::connect(("127.0.0.1", port)).await.expect_err("nobody listens");
    postgres.restart().await;
    assert_eq!(postgres.port(), port);
    assert_eq!(postgres.ask(&url, "SELECT * FROM keys ORDER BY name").await, "a|1\nb|2");
    assert!(postgres.log().contains("database system was not properly shut down"), "{}", postgres.log());
}

#[tokio::test]
async fn hangs_while_frozen_with_connections_too() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let mut postgres = Postgres::start(&binary).await;
    let url = postgres.url();
    postgres.ask(&url, "CREATE TABLE ticks (at timestamptz)").await;
    let ticks = "DO $$ BEGIN FOR i IN 1..1000 LOOP INSERT INTO ticks VALUES (clock_timestamp()); COMMIT; \
                 PERFORM pg_sleep(0.01); END LOOP; END $$";
    let mut client = tokio::process::Command::new(binary.with_file_name("psql"));
    let mut client = client.args(["-X", "-c", ticks, &url]).kill_on_drop(true).spawn().expect("psql");
    let count = async |postgres: &Postgres| -> u32 {
        postgres.ask(&url, "SELECT count(*) FROM ticks").await.parse().expect("a number")
    };
    testkit::eventually(Duration::from_secs(60), async || (count(&postgres).await > 3).then_some(())).await;

    postgres.freeze();
    timeout(Duration::from_millis(300), postgres.ask(&url, "SELECT 1")).await.expect_err("no answer");
    postgres.thaw();
    // Nothing was written while it hung: neither by a new connection nor by the one that was there.
    let gap =
        "SELECT max(gap) > '250 ms' FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM ticks) AS gaps";
    testkit::eventually(Duration::from_secs(60), async || {
        (postgres.ask(&url, gap).await == "t").then_some(())
    })
    .await;

    // A kill ends the connection that was there.
    postgres.kill();
    let ended =
        timeout(Duration::from_secs(60), client.wait()).await.expect("psql ends").expect("its status");
    assert!(!ended.success());
}

#[tokio::test]
async fn wants_its_password() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let postgres = Postgres::shared(&binary).await;
    let wrong = postgres.url().replace("a-password", "another-password");
    let mut psql = tokio::process::Command::new(binary.with_file_name("psql"));
    let output = psql.args(["-X", "-w", "-c", "SELECT 1", &wrong]).output().await.expect("psql runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("password authentication failed"), "{error}");
}

#[tokio::test]
async fn one_server_has_a_database_for_each_test() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let postgres = Postgres::shared(&binary).await;
    let again = Postgres::shared(&binary).await;
    assert!(Arc::ptr_eq(&postgres, &again));

    let (one, other) = (postgres.create_database().await, again.create_database().await);
    assert_ne!(one, other);
    postgres.ask(&one, "CREATE TABLE mine ()").await;
    assert_eq!(postgres.ask(&other, "SELECT to_regclass('mine') IS NULL").await, "t");
}
