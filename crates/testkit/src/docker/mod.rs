//! The real [Docker Engine](https://docs.docker.com/engine/), through the `docker` command: images built from the
//! machine's own programs (no registry needed), also under the names that Compose files have, containers, networks and
//! Compose projects that are removed on drop, and a private engine for tests that restart it.
//!
//! Everything carries a label that names the test process. What a killed test process left behind is removed when the
//! next one begins to use the engine.

mod compose;
mod container;
mod daemon;
mod image;
mod stand_in;

pub use compose::{Compose, ComposeFile, compose_binary};
pub use container::{Container, Network, RunOptions};
pub use daemon::Daemon;
pub use image::{Image, sim_image};
pub use stand_in::StandIn;

use std::{
    collections::BTreeSet,
    fs, process,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{process::Command, sync::OnceCell};

use crate::Failure;

/// Marks everything that tests made in an engine; the value is the [`owner`].
const OWNER_LABEL: &str = "modelgate-test.owner";
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Which Docker Engine to talk to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    host: Option<String>,
}

impl Engine {
    /// The engine that the `docker` command uses by default: `DOCKER_HOST`, or the machine's own.
    #[must_use]
    pub fn local() -> Self {
        Self::default()
    }

    /// The engine at an address such as `unix:///tmp/docker.sock`.
    #[must_use]
    pub fn at(host: impl Into<String>) -> Self {
        Self { host: Some(host.into()) }
    }

    /// Its address, for Modelgate's `docker.endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let environment = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        self.host.clone().or_else(environment).unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
    }

    /// Runs a `docker` command and returns what it prints, trimmed.
    ///
    /// # Errors
    /// The command failed, or took more than two minutes; the text is what it said.
    pub async fn docker<S: AsRef<str>>(&self, args: &[S]) -> Result<String, Failure> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new("docker");
        command.args(self.host_args()).args(&args).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
        let output = output.map_err(|_| Failure::TooLong { command: format!("docker {args:?}") })?;
        let output = output.map_err(|error| Failure::of("docker", error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(Failure::of(format_args!("docker {args:?}"), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }

    /// Copies an image from the local engine into this one.
    ///
    /// # Errors
    /// One of the two engines refused.
    pub async fn load_from_local(&self, image: &str) -> Result<(), Failure> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("image.tar").to_string_lossy().into_owned();
        Self::local().docker(&["save", "--output", &file, image]).await?;
        self.docker(&["load", "--quiet", "--input", &file]).await.map(|_| ())
    }

    fn host_args(&self) -> Vec<String> {
        self.host.iter().flat_map(|host| ["--host".to_owned(), host.clone()]).collect()
    }

    /// Runs a `docker` command in a drop, which cannot wait for a future.
    fn docker_in_drop(&self, args: &[&str]) {
        let mut command = process::Command::new("docker");
        command
            .args(self.host_args())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _ = command.status();
    }
}

/// Whether there is a Docker Engine that tests may use. The first call removes what killed test processes have left.
///
/// # Errors
/// There is none; the text says why.
pub async fn available() -> Result<(), Failure> {
    static AVAILABLE: OnceCell<Result<(), Failure>> = OnceCell::const_new();
    let look = || async {
        Engine::local().docker(&["version", "--format", "{{.Server.Version}}"]).await?;
        sweep().await;
        Ok(())
    };
    AVAILABLE.get_or_init(look).await.clone()
}

/// The label with which Compose marks everything that belongs to a project.
const PROJECT_LABEL: &str = "com.docker.compose.project";

/// Removes the containers, networks and volumes of test processes of this machine that have ended.
async fn sweep() {
    sweep_of(OWNER_LABEL, is_gone).await;
    sweep_of(PROJECT_LABEL, is_left_over).await;
}

/// Removes everything that has a label for whose value `may_go` returns true.
async fn sweep_of(label: &str, may_go: fn(&str) -> bool) {
    let engine = Engine::local();
    for (list, id, remove) in [
        (["ps", "--all"].as_slice(), "ID", ["rm", "--force", "--volumes"].as_slice()),
        (&["network", "ls"], "ID", &["network", "rm"]),
        (&["volume", "ls"], "Name", &["volume", "rm"]),
    ] {
        let filter = format!("label={label}");
        let format = format!("{{{{.{id}}}}} {{{{.Label \"{label}\"}}}}");
        let args = [list, &["--filter", &filter, "--format", &format]].concat();
        for line in engine.docker(&args).await.unwrap_or_default().lines() {
            if let Some((id, owner)) = line.split_once(' ')
                && may_go(owner)
            {
                // Another process may be removing the same things.
                let _ = engine.docker(&[remove, &[id]].concat()).await;
            }
        }
    }
}

/// Whether a Compose project has a [`unique_name`] of a process that has ended.
fn is_left_over(project: &str) -> bool {
    let id = project.strip_prefix("mgt-").and_then(|rest| rest.split('-').next()?.parse().ok());
    id.is_some_and(|id| start_time(id).is_none())
}

/// This test process: machine, process id, and start time, because process ids are reused.
fn owner() -> String {
    format!("{}/{}/{}", machine(), process::id(), start_time(process::id()).unwrap_or_default())
}

/// Whether an owner was a process of this machine and has ended.
fn is_gone(owner: &str) -> bool {
    let parts: Vec<&str> = owner.split('/').collect();
    let [of, id, started] = parts[..] else { return false };
    of == machine() && id.parse().is_ok_and(|id| start_time(id).is_none_or(|time| time != started))
}

fn machine() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Field 22 of [`/proc/<pid>/stat`](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html); the second field, in
/// parentheses, may hold blanks.
fn start_time(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}

/// A name that no other test uses: `mgt-<process>-<number>-<what>`.
fn unique_name(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    format!("mgt-{}-{}-{what}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes of this machine whose command line has a text in it.
fn processes_with(text: &str) -> BTreeSet<u32> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    ids.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        *id != process::id() && String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_living_from_the_dead() {
        assert!(!is_gone(&owner()));
        let earlier = format!("{}/{}/1", machine(), process::id());
        assert!(is_gone(&earlier), "the same process id at another time");
        assert!(!is_gone("another-machine/1/1"));
        assert!(!is_gone("nonsense"));

        assert!(!is_left_over(&unique_name("project")));
        assert!(is_left_over("mgt-4294967295-1-project"));
        assert!(!is_left_over("modelgate-demo"));
    }
}
