//! The real [Traefik](https://doc.traefik.io/traefik/), started with the [HTTP provider] pointed at Modelgate.
//!
//! It listens on loopback: entry point `web` for clients, entry point `traefik` for its [API] and ping, and whichever
//! others a test asks for. The options are those of the files under `deploy/`, with a fast provider. A user's own routers
//! come from a file, through the [file provider].
//!
//! [file provider]: https://doc.traefik.io/traefik/reference/install-configuration/providers/others/file/
//! [HTTP provider]: https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/
//! [API]: https://doc.traefik.io/traefik/reference/install-configuration/api-dashboard/

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client, free_port, parts,
    process::{Launch, Process, read_log, run},
    secrets, within,
};

/// Generous, for a small machine that is also compiling.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const ALL_ROUTERS: &str = "/api/http/routers?per_page=10000";

/// The Traefik of a version: the path in `MODELGATE_TEST_TRAEFIK_3_7_15`, else where `cargo xtask` puts it,
/// `target/tools/traefik-3.7.15/bin/traefik`.
#[must_use]
pub fn traefik_binary(version: &str) -> Option<PathBuf> {
    let variable = format!("MODELGATE_TEST_TRAEFIK_{}", version.replace('.', "_"));
    let path = match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => parts::target_folder()?.join(format!("tools/traefik-{version}/bin/traefik")),
    };
    path.is_file().then_some(path)
}

/// How a Traefik is started.
#[derive(Clone, Debug)]
pub struct Builder {
    binary: PathBuf,
    endpoint: Option<String>,
    provider_args: Vec<String>,
    log_level: String,
    read_timeout: String,
    entry_points: Vec<EntryPoint>,
    dynamic: Option<String>,
    hosts: Option<String>,
    args: Vec<String>,
}

/// A place where a Traefik listens for clients.
#[derive(Clone, Debug)]
struct EntryPoint {
    name: String,
    port: u16,
    tls: bool,
}

/// A running Traefik, killed on drop.
#[derive(Debug)]
pub struct Traefik {
    launch: Launch,
    entry_points: Vec<EntryPoint>,
    api: u16,
    version: (u32, u32, u32),
    process: Option<Process>,
    folder: TempDir,
}

impl Builder {
    /// The URL that Traefik polls for its configuration.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// One more command line argument, after all others.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Traefik tells about each request, in OTLP; `endpoint` are the options that say where.
    ///
    /// See <https://doc.traefik.io/traefik/reference/install-configuration/observability/logs-and-accesslogs/>.
    #[must_use]
    pub fn telling(self, endpoint: &[String]) -> Self {
        [
            "--experimental.otlplogs=true",
            "--accesslog=true",
            "--accesslog.fields.headers.names.X-Request-Id=keep",
            "--accesslog.fields.headers.names.Traceparent=keep",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain(endpoint.iter().cloned())
        .fold(self, Self::arg)
    }

    /// One more entry point; [`Traefik::addr`] says where. Whether it speaks TLS is up to the routers on it.
    #[must_use]
    pub fn entry_point(mut self, name: &str) -> Self {
        self.entry_points.push(EntryPoint::new(name, false));
        self
    }

    /// One more entry point whose routers all speak TLS, with Traefik's own default certificate.
    #[must_use]
    pub fn tls_entry_point(mut self, name: &str) -> Self {
        self.entry_points.push(EntryPoint::new(name, true));
        self
    }

    /// A user's own routers, middlewares and services (YAML), see [`Traefik::write_dynamic`]. Theirs have the suffix `@file`.
    #[must_use]
    pub fn dynamic(mut self, yaml: impl Into<String>) -> Self {
        self.dynamic = Some(yaml.into());
        self
    }

    /// Its `/etc/hosts`, in a mount namespace of its own: one name may have several addresses there.
    #[must_use]
    pub fn hosts(mut self, hosts: impl Into<String>) -> Self {
        self.hosts = Some(hosts.into());
        self
    }

    /// How often Traefik polls, and how long a poll and the delay between two reloads may last (`100ms`, `5s` and
    /// `100ms` unless told otherwise).
    #[must_use]
    pub fn provider(mut self, poll_interval: &str, poll_timeout: &str, throttle: &str) -> Self {
        self.provider_args = provider_args(poll_interval, poll_timeout, throttle);
        self
    }

    /// `INFO` unless told otherwise; `DEBUG` tells of every request and configuration.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// How long a client may take to send its request. Traefik's own default of 60 s cuts slow uploads; here it is 10 minutes.
    #[must_use]
    pub fn read_timeout(mut self, timeout: &str) -> Self {
        timeout.clone_into(&mut self.read_timeout);
        self
    }

    /// Starts Traefik and waits until it answers pings. It may not have a configuration yet: see [`Traefik::wait_configured`].
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start(mut self) -> Traefik {
        let version = version_of(&self.binary);
        // Chosen at each start, because a builder may be started more than once.
        for entry in &mut self.entry_points {
            entry.port = free_port();
        }
        let api = free_port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let launch = self.launch(folder.path(), api, version);
        let entry_points = self.entry_points;
        let mut traefik = Traefik { launch, entry_points, api, version, process: None, folder };
        if let Some(yaml) = &self.dynamic {
            traefik.write_dynamic(yaml);
        }
        traefik.start().await;
        traefik
    }

    fn launch(&self, folder: &Path, api: u16, version: (u32, u32, u32)) -> Launch {
        let mut args = vec![
            "--global.checkNewVersion=false".to_owned(),
            "--global.sendAnonymousUsage=false".to_owned(),
            format!("--log.level={}", self.log_level),
            format!("--entryPoints.traefik.address=127.0.0.1:{api}"),
            "--api.insecure=true".to_owned(),
            "--ping=true".to_owned(),
        ];
        args.extend(self.entry_points.iter().flat_map(|entry| entry.args(&self.read_timeout, version)));
        if self.dynamic.is_some() {
            args.push(format!("--providers.file.directory={}", dynamic_folder(folder).display()));
        }
        if let Some(endpoint) = &self.endpoint {
            args.push(format!("--providers.http.endpoint={endpoint}"));
            args.extend(self.provider_args.clone());
        }
        args.extend(self.args.clone());
        let launch = match &self.hosts {
            None => Launch::new(&self.binary),
            Some(hosts) => {
                let file = folder.join("hosts");
                fs::write(&file, hosts).expect("a hosts file");
                let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
                let unshare = Launch::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", script]);
                unshare.arg(file).arg(&self.binary)
            }
        };
        // Traefik reads its options from TRAEFIK_* variables as well.
        env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.to_string_lossy().starts_with("TRAEFIK_"))
            .fold(launch.args(args), Launch::env_remove)
    }
}

impl EntryPoint {
    fn new(name: &str, tls: bool) -> Self {
        Self { name: name.to_owned(), port: 0, tls }
    }

    fn args(&self, read_timeout: &str, version: (u32, u32, u32)) -> Vec<String> {
        let Self { name, port, tls } = self;
        let mut args = vec![
            format!("--entryPoints.{name}.address=127.0.0.1:{port}"),
            format!("--entryPoints.{name}.transport.respondingTimeouts.readTimeout={read_timeout}"),
        ];
        // `models.retrieve("org/name")` sends %2F. Traefik 3.6.4 to 3.6.6 refuse it by default, and earlier versions do not know
        // the option; see https://doc.traefik.io/traefik/migrate/v3/#v364.
        if version >= (3, 6, 4) {
            args.push(format!("--entryPoints.{name}.http.encodedCharacters.allowEncodedSlash=true"));
        }
        if *tls {
            args.push(format!("--entryPoints.{name}.http.tls=true"));
        }
        args
    }
}

impl Traefik {
    /// Prepares the start of a Traefik.
    #[must_use]
    pub fn builder(binary: impl AsRef<Path>) -> Builder {
        Builder {
            binary: binary.as_ref().to_owned(),
            endpoint: None,
            provider_args: provider_args("100ms", "5s", "100ms"),
            log_level: "INFO".to_owned(),
            read_timeout: "10m".to_owned(),
            entry_points: vec![EntryPoint::new("web", false)],
            dynamic: None,
            hosts: None,
            args: Vec::new(),
        }
    }

    /// `http://127.0.0.1:<port>` of the entry point `web`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr("web"))
    }

    /// The port of the entry point `web`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr("web").port()
    }

    /// The address of an entry point. A client of one with TLS must accept any certificate, or resolve a name to this address
    /// (`resolve`).
    ///
    /// # Panics
    /// If the entry point was not requested.
    #[must_use]
    pub fn addr(&self, entry_point: &str) -> SocketAddr {
        let found = self.entry_points.iter().find(|entry| entry.name == entry_point);
        let port = found.unwrap_or_else(|| panic!("no entry point {entry_point}")).port;
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The version that the program reports.
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// The process id; the benchmarks read its CPU time.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("Traefik runs").id()
    }

    /// What Traefik's API answers, for example for `/api/http/routers?per_page=1000`.
    ///
    /// # Panics
    /// If Traefik does not answer with JSON.
    pub async fn api(&self, path: &str) -> Value {
        self.try_api(path)
            .await
            .unwrap_or_else(|| panic!("no JSON from Traefik's API at {path}:\n{}", self.log()))
    }

    /// The names of the routers from the HTTP provider, without `@http`, that Traefik considers valid.
    pub async fn routers(&self) -> Vec<String> {
        let routers = self.api(ALL_ROUTERS).await;
        let name = |router: &Value| {
            let is_enabled = router["status"] == "enabled";
            let name = router["name"].as_str()?.strip_suffix("@http")?;
            is_enabled.then(|| name.to_owned())
        };
        routers.as_array().into_iter().flatten().filter_map(name).collect()
    }

    /// Replaces the user's own routers of [`Builder::dynamic`]; Traefik applies them after a moment.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write_dynamic(&self, yaml: &str) {
        let folder = dynamic_folder(self.folder.path());
        fs::create_dir_all(&folder).expect("a folder for the dynamic configuration");
        // Replaced atomically, because Traefik watches the folder and would read a partial file.
        let partial = self.folder.path().join("dynamic.partial");
        fs::write(&partial, yaml).expect("the dynamic configuration is written");
        fs::rename(partial, folder.join("dynamic.yaml")).expect("the dynamic configuration is in place");
    }

    /// Waits until Traefik has a router, of any provider (`all@http`, `mine@file`), and considers it valid. A router on several
    /// entry points with different options (TLS, encoded characters) counts once one of its copies exists, which Traefik calls
    /// `websecure-mine@file`.
    ///
    /// # Panics
    /// If that takes longer than a minute; the message has Traefik's log.
    pub async fn wait_router(&self, name: &str) {
        let is_it = |router: &Value| {
            let found = router["name"].as_str().and_then(|found| found.strip_suffix(name));
            router["status"] == "enabled" && found.is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
        };
        // Checked twice, as in `wait_configured`.
        for _ in 0..2 {
            let found = within(START_TIMEOUT, || async {
                self.try_api(ALL_ROUTERS).await?.as_array()?.iter().any(is_it).then_some(())
            })
            .await;
            assert!(found.is_some(), "Traefik has no router {name}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the HTTP provider's configuration is in use.
    ///
    /// # Panics
    /// If that takes longer than a minute; the message has Traefik's log.
    pub async fn wait_configured(&self) {
        // Checked twice: Traefik applies a configuration to one entry point after another, and that of its API may be the first.
        for _ in 0..2 {
            let has_some = || async { (!self.routers().await.is_empty()).then_some(()) };
            let configured = within(START_TIMEOUT, has_some).await;
            assert!(configured.is_some(), "Traefik has no routers:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until Traefik answers pings.
    ///
    /// # Panics
    /// If that takes longer than a minute, or it ended; the message has its log.
    pub async fn wait_ready(&mut self) {
        let url = format!("http://127.0.0.1:{}/ping", self.api);
        let process = self.process.as_mut().expect("Traefik runs");
        let answers = process.answers(&url, START_TIMEOUT).await;
        assert!(answers, "Traefik does not run:\n{}", self.log());
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.folder.path().join("traefik.log"))
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same ports, after [`Traefik::kill`]; a running one is killed first.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    async fn start(&mut self) {
        let log = self.folder.path().join("traefik.log");
        self.process = Some(Process::start(&self.launch, &log).expect("Traefik starts"));
        self.wait_ready().await;
    }

    async fn try_api(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.api);
        client().get(url).send().await.ok()?.json().await.ok()
    }
}

fn dynamic_folder(folder: &Path) -> PathBuf {
    folder.join("dynamic")
}

fn provider_args(poll_interval: &str, poll_timeout: &str, throttle: &str) -> Vec<String> {
    vec![
        format!("--providers.http.pollInterval={poll_interval}"),
        format!("--providers.http.pollTimeout={poll_timeout}"),
        format!("--providers.providersThrottleDuration={throttle}"),
    ]
}

/// Asks the program: `Version:      3.7.15`.
fn version_of(binary: &Path) -> (u32, u32, u32) {
    let text = run(&binary.to_string_lossy(), &["version"]).unwrap_or_else(|error| panic!("{error}"));
    parse_version(&text).unwrap_or_else(|| panic!("no version of Traefik in {text:?}"))
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let version = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    // A release candidate (`3.8.0-rc1`) has the options of the release.
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// After every test, whatever its subject, no key may be found in what Traefik leaves behind.
impl Drop for Traefik {
    fn drop(&mut self) {
        self.kill();
        secrets::check("Traefik's log", self.log().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("Version:      3.7.15\nCodename:     langres\n"), Some((3, 7, 15)));
        assert_eq!(parse_version("Version:      3.8.0-rc1\n"), Some((3, 8, 0)));
        assert_eq!(parse_version("nothing"), None);
    }
}
