//! The built Modelgate as a child program. The test passes its path: `env!("CARGO_BIN_EXE_modelgate")`.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Failure, client, free_port,
    process::{Launch, Process, read_log},
    secrets,
};

/// Generous, for a small machine that does other things at the same time. Usually it takes a moment.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// How a Modelgate is started.
#[derive(Clone, Debug)]
pub struct Builder {
    binary: PathBuf,
    config: String,
    bind: IpAddr,
    keeps_state: bool,
    hands_over: bool,
    is_unread: bool,
    ports: Option<Ports>,
    env: Vec<(String, OsString)>,
}

/// A running Modelgate, killed on drop. Its folder contains `modelgate.yaml`, `modelgate.log` and possibly `state/`.
#[derive(Debug)]
pub struct Modelgate {
    launch: Launch,
    ports: Ports,
    process: Option<Process>,
    folder: TempDir,
}

/// Where a Modelgate listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Traefik polls here.
    pub provider: u16,
    /// Traefik asks about every request here, over TLS.
    pub requests: u16,
    /// Health and readiness.
    pub admin: u16,
}

/// The program for a command that ends by itself (`check`, `render`, `keys generate`), without settings from the test's own
/// environment: `MODELGATE_TEST_*` are for the tests and unknown to Modelgate, and `DOCKER_HOST` would take precedence over the
/// endpoint in a configuration file.
#[must_use]
pub fn command(binary: impl AsRef<Path>) -> Command {
    let mut command = Command::new(binary.as_ref());
    for name in own_variables() {
        command.env_remove(name);
    }
    command
}

/// The optimised program, for tests that measure: the path in `MODELGATE_TEST_RELEASE`. `cargo xtask test --install`
/// builds it.
///
/// # Errors
/// The variable names no program.
pub fn optimised() -> Result<PathBuf, Failure> {
    let path = env::var_os("MODELGATE_TEST_RELEASE").map(PathBuf::from);
    path.filter(|path| path.is_file())
        .ok_or_else(|| Failure::missing("MODELGATE_TEST_RELEASE names no program"))
}

impl Builder {
    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// The address of the provider's and the requests' listeners, loopback unless told otherwise. A Traefik in a
    /// container needs `0.0.0.0`.
    #[must_use]
    pub fn bind(mut self, address: impl Into<IpAddr>) -> Self {
        self.bind = address.into();
        self
    }

    /// Gives it a folder for its state, which is kept across [`Modelgate::restart`].
    #[must_use]
    pub fn keep_state(mut self) -> Self {
        self.keeps_state = true;
        self
    }

    /// Listens on these ports; free ones unless told otherwise.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Opens the listening sockets here, keeps them, and hands them over at each start, as systemd does.
    #[must_use]
    pub fn hand_over_sockets(mut self) -> Self {
        self.hands_over = true;
        self
    }

    /// Starts it with nobody who reads what it prints: its output goes to pipes whose readers have gone. [`Modelgate::log`] stays empty.
    #[must_use]
    pub fn unread(mut self) -> Self {
        self.is_unread = true;
        self
    }

    /// Starts it and waits until it is alive (`/healthz`); see [`Modelgate::wait_ready`] for its first survey.
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start(self) -> Modelgate {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = self.ports.unwrap_or_else(|| Ports {
            provider: free_port(),
            requests: free_port(),
            admin: free_port(),
        });
        let mut launch = self.launch(folder.path(), ports);
        if self.hands_over {
            let open = |port| Arc::new(TcpListener::bind((self.bind, port)).expect("a free port"));
            launch = launch.sockets(&[ports.admin, ports.provider, ports.requests].map(open));
        }
        let mut modelgate = Modelgate { launch, ports, process: None, folder };
        modelgate.write_config(&self.config);
        modelgate.start().await;
        modelgate
    }

    fn launch(&self, folder: &Path, ports: Ports) -> Launch {
        let launch = Launch::new(&self.binary).arg("--config").arg(folder.join("modelgate.yaml"));
        let mut launch = own_variables()
            .fold(launch, Launch::env_remove)
            .env("MODELGATE_LISTEN_PROVIDER", format!("{}:{}", self.bind, ports.provider))
            .env("MODELGATE_LISTEN_REQUESTS", format!("{}:{}", self.bind, ports.requests))
            .env("MODELGATE_LISTEN_ADMIN", format!("127.0.0.1:{}", ports.admin));
        // By default it would use the machine's Docker Engine, and find the containers of other tests.
        if !self.config.lines().any(|line| line.starts_with("docker:")) {
            launch = launch.env("MODELGATE_DOCKER_ENABLED", "false");
        }
        if self.keeps_state {
            launch = launch.env("MODELGATE_STATE_DIR", folder.join("state"));
        }
        if self.is_unread {
            launch = launch.unread();
        }
        self.env.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }
}

impl Modelgate {
    /// Prepares a start with a configuration file. The listeners are set by environment, and Docker is off unless the
    /// file has a `docker:` section (or the environment says otherwise).
    #[must_use]
    pub fn builder(binary: impl AsRef<Path>, config: &str) -> Builder {
        Builder {
            binary: binary.as_ref().to_owned(),
            config: config.to_owned(),
            bind: Ipv4Addr::LOCALHOST.into(),
            keeps_state: false,
            hands_over: false,
            is_unread: false,
            ports: None,
            env: Vec::new(),
        }
    }

    /// Starts it with a configuration file and no further options; see [`Builder::start`].
    pub async fn start_with(binary: impl AsRef<Path>, config: &str) -> Self {
        Self::builder(binary, config).start().await
    }

    /// Where it listens.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// For Traefik's `--providers.http.endpoint`.
    #[must_use]
    pub fn provider_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/traefik", self.ports.provider)
    }

    /// The listener that Traefik's ForwardAuth asks.
    #[must_use]
    pub fn requests_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.requests)
    }

    /// The listener for health and readiness.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.admin)
    }

    /// The process id; the benchmarks read its CPU time.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("Modelgate runs").id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.folder.path().join("modelgate.log"))
    }

    /// Its output so far, which is then forgotten: for tests in which it shows its user a key, as no log may.
    ///
    /// # Panics
    /// If the file cannot be emptied.
    #[must_use]
    pub fn take_log(&self) -> String {
        let log = self.log();
        fs::write(self.folder.path().join("modelgate.log"), "").expect("the output is forgotten");
        log
    }

    /// Replaces the configuration file; a running Modelgate notices the change.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write_config(&self, config: &str) {
        // Replaced atomically, because a partial file is a different configuration.
        let partial = self.folder.path().join("modelgate.partial");
        fs::write(&partial, config).expect("the configuration file is written");
        fs::rename(partial, self.folder.path().join("modelgate.yaml"))
            .expect("the configuration file is in place");
    }

    /// What `/readyz` says of servers, models and problems.
    ///
    /// # Panics
    /// If it does not answer with JSON.
    pub async fn readyz(&self) -> serde_json::Value {
        let url = format!("{}/readyz", self.admin_url());
        let answer = client().get(url).send().await.expect("an answer of /readyz");
        answer.json().await.expect("JSON of /readyz")
    }

    /// Waits until `/readyz` answers 200: the first survey is done.
    ///
    /// # Panics
    /// If that takes longer than a minute, or it ended; the message has its log.
    pub async fn wait_ready(&mut self) {
        self.wait("/readyz").await;
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// If it is not running, or does not stop within 40 seconds.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("Modelgate runs");
        process.stop(STOP_TIMEOUT).await
    }

    /// Sends a signal, such as `TERM` or `STOP`, and does not wait.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("Modelgate runs").signal(name);
    }

    /// Kills it at once, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same ports, after [`Modelgate::stop`] or [`Modelgate::kill`]; a running one is stopped first.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.stop().await;
        }
        self.start().await;
    }

    /// Starts another one with the same configuration and the same sockets, beside the running one, which is stopped once the new
    /// one is ready. Only with [`Builder::hand_over_sockets`].
    ///
    /// # Panics
    /// If the new one does not start, or the old one does not stop.
    pub async fn upgrade(&mut self) {
        let mut old = self.process.take().expect("Modelgate runs");
        self.start().await;
        self.wait_ready().await;
        old.stop(STOP_TIMEOUT).await;
    }

    async fn start(&mut self) {
        let log = self.folder.path().join("modelgate.log");
        self.process = Some(Process::start(&self.launch, &log).expect("Modelgate starts"));
        self.wait("/healthz").await;
    }

    async fn wait(&mut self, path: &str) {
        let url = format!("{}{path}", self.admin_url());
        let process = self.process.as_mut().expect("Modelgate runs");
        let answers = process.answers(&url, START_TIMEOUT).await;
        assert!(answers, "no 200 from {path} of Modelgate:\n{}", self.log());
    }
}

fn own_variables() -> impl Iterator<Item = OsString> {
    let is_own = |name: &OsString| name == "DOCKER_HOST" || name.to_string_lossy().starts_with("MODELGATE_");
    env::vars_os().map(|(name, _)| name).filter(is_own)
}

/// After every test, whatever its subject, no key may be found in what Modelgate leaves behind.
impl Drop for Modelgate {
    fn drop(&mut self) {
        if self.process.as_mut().is_some_and(|process| process.ended().is_none()) {
            ["/metrics", "/readyz"].iter().for_each(|path| secrets::check_answer(self.ports.admin, path));
        }
        self.kill();
        secrets::check("the log", self.log().as_bytes());
        secrets::check_folder(&self.folder.path().join("state"));
    }
}
