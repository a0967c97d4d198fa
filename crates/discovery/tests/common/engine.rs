//! A private Docker Engine with flags chosen by the test.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use testkit::{
    Failure,
    docker::{Daemon, Engine},
};

/// Uses what testkit's [`Daemon`] prepares (folders, bridge), but starts an engine with other flags on its socket: one with
/// TLS, or one without live-restore, which members of a Swarm must not have.
pub(crate) struct PrivateEngine {
    process: Child,
    daemon: Daemon,
    folder: PathBuf,
}

impl PrivateEngine {
    /// Starts it.
    ///
    /// # Errors
    /// `dockerd` is missing, may not be started, or does not come up.
    pub(crate) async fn start(flags: &[String]) -> Result<Self, Failure> {
        let mut daemon = Daemon::start().await?;
        daemon.stop().await;
        let endpoint = daemon.engine().endpoint();
        let socket = Path::new(endpoint.trim_start_matches("unix://"));
        let folder = socket.parent().expect("a socket is in a folder").to_owned();
        let log = File::create(folder.join("private.log"))?;
        let in_folder = |name: &str| folder.join(name).to_string_lossy().into_owned();
        // It gets new data, too: without live-restore an engine that finds another one's data removes the bridge `docker0`,
        // which belongs to the machine's engine.
        let process = Command::new("dockerd")
            .args([
                "--host",
                &endpoint,
                "--data-root",
                &in_folder("private"),
                "--exec-root",
                &in_folder("exec"),
            ])
            .args(["--pidfile", &in_folder("dockerd.pid"), "--config-file", &in_folder("daemon.json")])
            .args(["--bridge", daemon.bridge(), "--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .args(["--default-address-pool", "base=10.216.0.0/16,size=24", "--log-level=warn"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut engine = Self { process, daemon, folder };
        engine.wait().await?;
        Ok(engine)
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.daemon.engine()
    }

    /// Kills it; its containers run on.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Runs a `docker` command on it.
    pub(crate) async fn docker(&self, args: &[&str]) -> String {
        self.engine().docker(args).await.expect("docker")
    }

    async fn wait(&mut self) -> Result<(), Failure> {
        for _ in 0..600 {
            if self.engine().docker(&["version"]).await.is_ok() {
                return Ok(());
            }
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.folder.join("private.log")).unwrap_or_default();
        Err(Failure::Unexpected(format!("dockerd does not run:\n{log}")))
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        // Its other processes end with the daemon's folder.
        self.kill();
    }
}
