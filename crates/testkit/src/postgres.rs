//! A PostgreSQL for the tests: Debian's [server], on a loopback port, with its data in a temporary folder.
//!
//! Tests that only need a database share one server, see [`Postgres::shared`]; those that kill or freeze it start their own.
//!
//! [server]: https://www.postgresql.org/docs/15/app-postgres.html

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{process::Command, sync::Mutex};

use crate::{
    Failure, free_port,
    process::{Launch, Process, children, is_alive, is_stopped, read_log, run, send},
    within,
};

/// Generous, for a small machine that is also compiling. Usually it takes a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The superuser's name and also the password; both are in [`Postgres::url`].
const USER: &str = "modelgate";
const PASSWORD: &str = "a-password-of-the-tests";
/// Where Debian keeps the programs of each release, which are not in `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The server program: the path in `MODELGATE_TEST_POSTGRES`, else the one in `PATH`, else Debian's newest. `initdb` and `psql`
/// must be beside it.
///
/// # Errors
/// One of the programs is missing.
pub fn postgres_binary() -> Result<PathBuf, Failure> {
    let chosen = env::var_os("MODELGATE_TEST_POSTGRES").map(PathBuf::from);
    let found = chosen.or_else(|| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(debian())
            .map(|folder| folder.join("postgres"))
            .find(|file| file.is_file())
    });
    let found =
        found.ok_or_else(|| Failure::missing(format!("postgres is neither in PATH nor under {DEBIAN}")))?;
    // A link is followed to the folder with the other programs.
    let found = fs::canonicalize(&found).map_err(|error| Failure::of(found.display(), error))?;
    match ["initdb", "pg_isready", "psql"].iter().find(|name| !found.with_file_name(name).is_file()) {
        Some(name) => Err(Failure::missing(format!("{name} is missing beside {}", found.display()))),
        None => Ok(found),
    }
}

fn debian() -> Vec<PathBuf> {
    let entries = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut releases: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    releases.sort_unstable();
    releases.iter().rev().map(|release| Path::new(DEBIAN).join(release.to_string()).join("bin")).collect()
}

/// A running PostgreSQL, killed on drop. It keeps its port and its data across restarts.
#[derive(Debug)]
pub struct Postgres {
    binary: PathBuf,
    launch: Launch,
    port: u16,
    databases: AtomicU32,
    process: Option<Process>,
    folder: TempDir,
}

impl Postgres {
    /// The server that all tests of this process share; it ends when the last of them drops it.
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn shared(binary: &Path) -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start(binary).await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Starts it and waits until it answers. `binary` is from [`postgres_binary`].
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start(binary: &Path) -> Self {
        Self::start_with(binary, &[]).await
    }

    /// Like [`Postgres::start`], with further [settings] such as `["max_connections=20"]`.
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    ///
    /// [settings]: https://www.postgresql.org/docs/15/runtime-config.html
    pub async fn start_with(binary: &Path, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let user = unprivileged().unwrap_or_else(|error| panic!("a user to run PostgreSQL as: {error}"));
        initialise(binary, folder.path(), user.as_ref()).await;

        let port = free_port();
        // Only a crash of the whole machine could lose a commit, and the folder would not outlive that.
        let own =
            ["fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB"];
        let mut launch = as_user(binary, user.as_ref())
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["-p", &port.to_string()])
            .env_remove("PGDATA");
        for setting in own.iter().chain(settings) {
            launch = launch.args(["-c", setting]);
        }
        let mut postgres = Self {
            binary: binary.to_owned(),
            launch,
            port,
            databases: AtomicU32::new(0),
            process: None,
            folder,
        };
        postgres.restart().await;
        postgres
    }

    /// Its port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://<user>:<password>@127.0.0.1:<port>/postgres`: the superuser, and the database that always exists.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Panics
    /// If it cannot be created.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.ask(&self.url(), &format!("CREATE DATABASE {name}")).await;
        self.url_of(&name)
    }

    /// Runs a statement in a database (by its URL) and returns the rows: a line each, with `|` between columns.
    ///
    /// # Panics
    /// If it fails, or is not done within a minute.
    pub async fn ask(&self, url: &str, sql: &str) -> String {
        let mut psql = Command::new(self.binary.with_file_name("psql"));
        // Unaligned, tuples only, quiet, and without the user's own settings.
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url]).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), psql.stdin(Stdio::null()).output()).await;
        let output = output.unwrap_or_else(|_| panic!("no answer to {sql}")).expect("psql runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Its log, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.folder.path().join("postgres.log"))
    }

    /// Kills it at once, with all connections. Committed data is there again after a restart.
    pub fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        // Each connection has a process in a group of its own, and while one of them runs the data cannot be opened again.
        process.signal("STOP");
        let connections = children(process.id());
        for id in &connections {
            send("KILL", &id.to_string());
        }
        drop(process);
        while connections.iter().any(|id| is_alive(*id)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes it hang (SIGSTOP): connections stay open, the kernel accepts new ones, and nothing is answered. If the test itself
    /// is killed meanwhile, the stopped processes are left behind.
    ///
    /// # Panics
    /// If it is not running.
    pub fn freeze(&mut self) {
        let process = self.process.as_ref().expect("PostgreSQL runs");
        // The parent first, because it would start more processes. It stops some time after the signal, and may have started another one
        // until then. Regression: one such answered on a busy machine.
        let parent = process.id();
        stop_all(|| vec![parent]);
        stop_all(|| children(parent));
    }

    /// Resumes it after [`Postgres::freeze`].
    ///
    /// # Panics
    /// If it is not running.
    pub fn thaw(&mut self) {
        let process = self.process.as_ref().expect("PostgreSQL runs");
        for id in children(process.id()) {
            send("CONT", &id.to_string());
        }
        process.signal("CONT");
    }

    /// Starts it on the same port with the same data; a running one is killed first.
    ///
    /// # Panics
    /// If it does not answer; the message has its log.
    pub async fn restart(&mut self) {
        self.kill();
        let log = self.folder.path().join("postgres.log");
        let mut process = Process::start(&self.launch, &log).expect("PostgreSQL starts");
        let is_ready = self.binary.with_file_name("pg_isready");
        let port = self.port.to_string();
        let ready = within(START_TIMEOUT, || {
            let ended = process.ended().is_some();
            let mut ask = Command::new(&is_ready);
            ask.args(["-q", "-h", "127.0.0.1", "-p", &port]).kill_on_drop(true);
            async move {
                if ended {
                    return Some(false);
                }
                ask.status().await.is_ok_and(|status| status.success()).then_some(true)
            }
        })
        .await;
        self.process = Some(process);
        assert_eq!(ready, Some(true), "no answer from PostgreSQL:\n{}", self.log());
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }
}

/// Stops processes (SIGSTOP), and returns once none of them runs any more.
fn stop_all(processes: impl Fn() -> Vec<u32>) {
    loop {
        let running: Vec<u32> = processes().into_iter().filter(|id| !is_stopped(*id)).collect();
        if running.is_empty() {
            return;
        }
        running.iter().for_each(|id| send("STOP", &id.to_string()));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The user to run it as, by number.
#[derive(Debug)]
struct User {
    user: u32,
    group: u32,
}

/// PostgreSQL refuses to run as root. As root, this is Debian's user for it, or `nobody` if there is none; otherwise it runs as
/// the user of the tests.
fn unprivileged() -> Result<Option<User>, Failure> {
    let id = |args: &[&str]| {
        run("id", args)?
            .trim()
            .parse::<u32>()
            .map_err(|error| Failure::of(format_args!("id {args:?}"), error))
    };
    if id(&["-u"])? != 0 {
        return Ok(None);
    }
    let of = |name| Ok::<_, Failure>(User { user: id(&["-u", name])?, group: id(&["-g", name])? });
    of("postgres").or_else(|_| of("nobody")).map(Some)
}

fn as_user(program: &Path, user: Option<&User>) -> Launch {
    let Some(User { user, group }) = user else { return Launch::new(program) };
    // The parent death signal is set again, because changing the user clears it.
    Launch::new("setpriv")
        .args(["--reuid", &user.to_string(), "--regid", &group.to_string()])
        .args(["--clear-groups", "--pdeathsig", "KILL", "--"])
        .arg(program)
}

/// Creates `data` in the folder.
async fn initialise(binary: &Path, folder: &Path, user: Option<&User>) {
    let password = folder.join("password");
    fs::write(&password, PASSWORD).expect("the password is written");
    if let Some(user) = user {
        for path in [folder, &password] {
            chown(path, Some(user.user), Some(user.group)).expect("the folder is given to PostgreSQL");
        }
    }
    let initdb = binary.with_file_name("initdb");
    let mut process = Process::start(
        &as_user(&initdb, user)
            .args(["--username", USER, "--auth", "scram-sha-256", "--pwfile"])
            .arg(&password)
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions", "-D"])
            .arg(folder.join("data")),
        &folder.join("initdb.log"),
    )
    .expect("initdb starts");
    let ended = within(START_TIMEOUT, || {
        let ended = process.ended();
        async move { ended }
    })
    .await;
    assert!(ended.is_some_and(|status| status.success()), "initdb:\n{}", process.log());
}
