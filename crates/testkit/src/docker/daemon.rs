//! A private Docker Engine, for the tests that stop and restart one. It has folders, socket, bridge and containerd of its
//! own beside the machine's engine, and needs root.
//!
//! It leaves the firewall alone (`--iptables=false`): a starting engine clears the `DOCKER` chains, which belong to the
//! machine's engine. So its containers are reached at their addresses from this machine, and reach neither the world nor,
//! where bridged traffic passes the firewall, each other. With [`--live-restore`] containers outlive the engine.
//!
//! [`--live-restore`]: https://docs.docker.com/engine/daemon/live-restore/

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use super::{Engine, is_gone, owner, processes_with};
use crate::{
    Failure,
    process::{Launch, Process, is_alive, read_log, run, send},
    within,
};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The prefix of the temporary folders; short, because a socket's path may have 107 bytes at most.
const PREFIX: &str = "mgt-dockerd-";

/// A running private engine. On drop its containers, processes, mounts, bridge and folders are removed.
#[derive(Debug)]
pub struct Daemon {
    launch: Launch,
    process: Option<Process>,
    engine: Engine,
    bridge: Bridge,
    folder: TempDir,
}

impl Daemon {
    /// Starts an engine.
    ///
    /// # Errors
    /// There is no `dockerd`, no right to start one, or it does not come up.
    pub async fn start() -> Result<Self, Failure> {
        sweep();
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in("/tmp")?;
        fs::write(folder.path().join("owner"), owner())?;
        // A file of its own, so that the machine's /etc/docker/daemon.json is not read.
        fs::write(folder.path().join("daemon.json"), "{}")?;
        let bridge = Bridge::create()?;
        fs::write(folder.path().join("bridge"), &bridge.name)?;
        let engine = Engine::at(format!("unix://{}/docker.sock", folder.path().display()));
        let launch = launch(folder.path(), &bridge);
        let mut daemon = Self { launch, process: None, engine, bridge, folder };
        daemon.start_again().await?;
        Ok(daemon)
    }

    /// To run containers in it: `RunOptions::new(image).engine(daemon.engine())`.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The name of the bridge that its default network uses.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge.name
    }

    /// Stops the engine (SIGTERM); its containers keep running.
    ///
    /// # Panics
    /// If it does not stop within a minute.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(TIMEOUT).await;
        }
    }

    /// Kills the engine and its containerd; its containers keep running.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the engine after [`Daemon::stop`] or [`Daemon::kill`], on the same socket.
    ///
    /// # Errors
    /// It does not come up within a minute; the text has its log.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        self.forget_dead_containerd().await?;
        let log = self.folder.path().join("dockerd.log");
        self.process =
            Some(Process::start(&self.launch, &log).map_err(|error| Failure::of("dockerd", error))?);
        let process = self.process.as_mut();
        let ended = process.map(|process| move || process.ended());
        let Some(mut ended) = ended else { return Err(Failure::missing("dockerd is not there")) };
        let engine = &self.engine;
        let up = within(TIMEOUT, || {
            let ended = ended();
            async move {
                match ended {
                    Some(_) => Some(false),
                    None => engine.docker(&["version"]).await.is_ok().then_some(true),
                }
            }
        })
        .await;
        match up {
            Some(true) => Ok(()),
            _ => Err(Failure::unexpected(format!("dockerd does not run:\n{}", self.log()))),
        }
    }

    /// A killed engine's containerd is killed with it and leaves its process id behind. While that id belongs to a
    /// process, if only to a zombie, the next engine waits for that containerd instead of starting one.
    async fn forget_dead_containerd(&self) -> Result<(), Failure> {
        let file = self.folder.path().join("exec/containerd/containerd.pid");
        let Ok(id) = fs::read_to_string(&file) else { return Ok(()) };
        let id: u32 =
            id.trim().parse().map_err(|_| Failure::unexpected(format!("{id:?} is no process id")))?;
        let dead = within(TIMEOUT, || async { (!is_alive(id)).then_some(()) }).await;
        dead.ok_or_else(|| Failure::unexpected("the containerd of the killed dockerd lives on"))?;
        fs::remove_file(&file).map_err(Failure::from)
    }

    /// Everything that it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.folder.path().join("dockerd.log"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        clean(self.folder.path());
    }
}

fn launch(folder: &Path, bridge: &Bridge) -> Launch {
    let in_folder = |name: &str| folder.join(name).to_string_lossy().into_owned();
    Launch::new("dockerd")
        .args(["--host".to_owned(), format!("unix://{}", in_folder("docker.sock"))])
        .args(["--data-root".to_owned(), in_folder("data"), "--exec-root".to_owned(), in_folder("exec")])
        .args([
            "--pidfile".to_owned(),
            in_folder("dockerd.pid"),
            "--config-file".to_owned(),
            in_folder("daemon.json"),
        ])
        .args(["--bridge", &bridge.name, "--iptables=false", "--ip6tables=false", "--ip-masq=false"])
        .args(["--default-address-pool", "base=10.214.0.0/16,size=24", "--live-restore", "--log-level=warn"])
}

/// A network bridge for the engine's default network; the machine's engine has `docker0`.
#[derive(Debug)]
struct Bridge {
    name: String,
}

impl Bridge {
    fn create() -> Result<Self, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = process::id().wrapping_mul(4).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // 15 bytes at most.
        let name = format!("mgt{number:x}");
        let address = free_subnet(number)?;
        run("ip", &["link", "add", "name", &name, "type", "bridge"])?;
        let bridge = Self { name };
        run("ip", &["address", "add", &address, "dev", &bridge.name])?;
        run("ip", &["link", "set", &bridge.name, "up"])?;
        Ok(bridge)
    }
}

/// A network 10.213.x.0/24 that no other private engine of this machine uses, with the bridge's address in it.
fn free_subnet(number: u32) -> Result<String, Failure> {
    let taken = run("ip", &["-4", "address"])?;
    let mut subnets = (0..250).map(|step| format!("10.213.{}.1/24", number.wrapping_add(step) % 250));
    subnets.find(|subnet| !taken.contains(subnet.as_str())).ok_or_else(|| Failure::missing("no free subnet"))
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "delete", &self.name]);
    }
}

/// Cleans up after test processes that were killed.
fn sweep() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let folder = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && fs::read_to_string(folder.join("owner")).is_ok_and(|owner| is_gone(&owner)) {
            clean(&folder);
            if let Ok(name) = fs::read_to_string(folder.join("bridge")) {
                drop(Bridge { name });
            }
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Ends the processes of an engine's folder (containerd, the containers' shims and with them their programs) and unmounts what is
/// mounted in it.
fn clean(folder: &Path) {
    let text = folder.to_string_lossy();
    // containerd first, because it would restart the shims. A shim's program does not have the folder in its command line.
    for shim in processes_with(&text) {
        for child in children(shim) {
            send("KILL", &child.to_string());
        }
        send("KILL", &shim.to_string());
    }
    for mount in mounts_in(folder) {
        let _ = run("umount", &["--lazy".as_ref(), mount.as_os_str()]);
    }
}

fn children(id: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Mounts in the folder, innermost first.
fn mounts_in(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.starts_with(folder)).collect();
    paths.reverse();
    paths
}
