//! A test's own store, once in SQLite and once in PostgreSQL, and a Modelgate on it.

use std::{path::Path, process::Output, sync::Arc};

use access::KeyDigest;
use testkit::{
    modelgate::Modelgate,
    need,
    postgres::{Postgres, postgres_binary},
    sim::Sim,
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
/// The token of alice, who may do everything.
pub(crate) const ADMIN: &str = "token-of-alice-who-may-do-everything";
/// The token of bob, who may only read.
pub(crate) const READER: &str = "token-of-bob-who-may-only-read";
/// The key of the configuration file: `in-file`, of the consumer `file-team` with the plan `file-plan`.
pub(crate) const FILE_KEY: &str = "mg-key-of-the-file";

/// A store, and what keeps it there.
pub(crate) struct TestStore {
    folder: tempfile::TempDir,
    server: Option<(Arc<Postgres>, String)>,
}

impl TestStore {
    pub(crate) fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), server: None }
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let server = Postgres::shared(&need(postgres_binary(), "PostgreSQL")?).await;
        let url = server.create_database().await;
        Some(Self { server: Some((server, url)), ..Self::sqlite() })
    }

    /// What tells Modelgate where the store is: a variable and its value.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        match &self.server {
            None => ("MODELGATE_STATE_DIR", self.folder.path().join("state").display().to_string()),
            Some((_, url)) => ("MODELGATE_STORE_URL", url.clone()),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A Modelgate on it that serves what the simulated server does.
    pub(crate) async fn start(&self, sim: &Sim) -> Modelgate {
        let (name, value) = self.variable();
        let builder = Modelgate::builder(BINARY, &config(sim));
        let mut modelgate = builder.env(name, value).start().await;
        modelgate.wait_ready().await;
        modelgate
    }

    /// Runs a command on it: exit code, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let (name, value) = self.variable();
        let file = self.folder.path().join("modelgate.yaml");
        if !file.exists() {
            std::fs::write(&file, accounts()).expect("written");
        }
        let mut command = testkit::modelgate::command(BINARY);
        command.env(name, value).current_dir(self.folder.path()).args(arguments);
        command.env_remove("SUDO_USER").env("USER", "ada");
        let output: Output = command.output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Changes what is in the store by hand.
    pub(crate) async fn change(&self, statements: &str) {
        match &self.server {
            None => {
                let script = "import sqlite3, sys\nsqlite3.connect(sys.argv[1], timeout=30).executescript(sys.argv[2])";
                let file = self.folder.path().join("state/modelgate.db");
                let mut python = std::process::Command::new("python3");
                let output =
                    python.args(["-c", script]).arg(file).arg(statements).output().expect("Python runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Some((server, url)) => drop(server.ask(url, statements).await),
        }
    }

    /// Everything that is in the store, as text.
    pub(crate) async fn dump(&self) -> String {
        match &self.server {
            None => {
                let files = std::fs::read_dir(self.folder.path().join("state")).expect("the store's folder");
                let bytes = files.flat_map(|file| std::fs::read(file.expect("a file").path()).expect("read"));
                String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
            }
            Some((server, url)) => {
                let mut text = String::new();
                for table in ["accounts", "changes", "audit", "usage", "quota_counts"] {
                    text += &server.ask(url, &format!("SELECT t.*::text FROM {table} t")).await;
                }
                text
            }
        }
    }
}

/// The accounts of the configuration file, and who may administrate.
fn accounts() -> String {
    let digest = |clear: &str| KeyDigest::of(clear).to_hex();
    format!(
        "docker: {{ enabled: false }}\n\
         time_zone: {}\n\
         admin:\n  tokens:\n  - {{ name: alice, sha256: \"{}\" }}\n  - {{ name: bob, role: reader, sha256: \"{}\" }}\n\
         plans: [{{ name: file-plan, limit: {{ requests_per_hour: 1000 }} }}]\n\
         consumers: [{{ name: file-team, plan: file-plan }}]\n\
         keys: [{{ name: in-file, consumer: file-team, sha256: \"{}\" }}]\n",
        super::noon(),
        digest(ADMIN),
        digest(READER),
        digest(FILE_KEY)
    )
}

/// The same with a server.
pub(crate) fn config(sim: &Sim) -> String {
    format!("{}servers: [{{ url: \"{}\", name: sim }}]\n", accounts(), sim.url())
}

/// Runs each test with each database.
#[macro_export]
macro_rules! with_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::TestStore::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(place) = super::TestStore::postgres().await else { return };
                super::$name(place).await;
            })*
        }
    };
}
