//! A store of the test's own, once in each database.

#![allow(dead_code, reason = "each test file uses a part of it")]

use access::{KeyDigest, UsageHour, Used, UsedCounts};
use accounts::KeySpec;
use sqlx::Connection as _;
use store::{Store, StoreUrl, UsedOn};
use tempfile::TempDir;
use testkit::{
    need,
    postgres::{Postgres, postgres_binary},
};

/// A store, and what keeps it there.
pub(crate) struct TestStore {
    pub(crate) url: StoreUrl,
    _folder: TempDir,
    _server: Option<std::sync::Arc<Postgres>>,
}

impl TestStore {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { url: StoreUrl::in_folder(&folder.path().join("state #1")), _folder: folder, _server: None }
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let server = Postgres::shared(&need(postgres_binary(), "PostgreSQL")?).await;
        let url = server.create_database().await.parse().expect("a URL");
        Some(Self { url, _folder: tempfile::tempdir().expect("a folder"), _server: Some(server) })
    }

    /// Has the database do something past the store.
    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::any::install_default_drivers();
        let url = match &self.url {
            StoreUrl::Sqlite(path) => format!("sqlite://{}", path.display().to_string().replace('#', "%23")),
            StoreUrl::Postgres(url) => url.clone(),
        };
        let mut connection = sqlx::AnyConnection::connect(&url).await.expect("a connection");
        sqlx::query(statement).execute(&mut connection).await.expect("done");
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(self.url.clone()).await.expect("a store")
    }
}

pub(crate) fn key(name: &str) -> KeySpec {
    KeySpec::new(name, "team", KeyDigest::of(&format!("mg-{name}")))
}

/// The hour in which the tests' batches are counted.
pub(crate) const HOUR: UsageHour = UsageHour(1_795_298_400);

/// What a key of the team has used of a model in that hour.
pub(crate) fn used(key: &str, counts: UsedCounts) -> UsedOn {
    let [key, consumer, model] = [key, "team", "llama"].map(str::to_owned);
    UsedOn { day: "2026-11-21".into(), used: Used { hour: HOUR, key, consumer, model, counts } }
}

/// Runs a test with each database.
#[macro_export]
macro_rules! with_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::common::TestStore::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(place) = $crate::common::TestStore::postgres().await else { return };
                super::$name(place).await;
            })*
        }
    };
}
