//! A store of the test's own, once in each database.

#![allow(dead_code, reason = "each test file uses a part of it")]

use access::KeyDigest;
use accounts::KeySpec;
use store::{Store, StoreUrl};
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

    pub(crate) async fn open(&self) -> Store {
        Store::open(self.url.clone()).await.expect("a store")
    }
}

pub(crate) fn key(name: &str) -> KeySpec {
    KeySpec::new(name, "team", KeyDigest::of(&format!("mg-{name}")))
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
