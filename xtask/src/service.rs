//! Programs that run beside us and end when we do, however we end.
//!
//! Whether by Ctrl-C, a panic or `kill -9`: the kernel closes our end of a pipe. So every cleanup is a small shell that waits for
//! the pipe to close and then does its work. No signal handler is needed.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Result, run};

/// How long a program may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A command that runs when this value is dropped or this process ends.
pub(crate) struct AtExit {
    shell: Child,
}

impl AtExit {
    /// Prepares the command. Its environment and folder are those set on `command`.
    pub(crate) fn new(command: &Command) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#"read -r line; exec "$@""#, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that the terminal's Ctrl-C reaches only us.
        Ok(Self { shell: shell.process_group(0).spawn()? })
    }

    /// Drops the command without running it.
    fn forget(mut self) {
        let _ = self.shell.kill();
    }
}

impl Drop for AtExit {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A program running in the background, with its output in a log.
pub(crate) struct Service {
    name: String,
    child: Child,
    stop: Option<AtExit>,
    log: PathBuf,
}

impl Service {
    /// Starts the program.
    pub(crate) fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = run::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let id = child.id().to_string();
        let mut service = Self { name: name.to_owned(), child, stop: None, log };
        service.stop = Some(AtExit::new(Command::new("kill").args(["-TERM", &id]))?);
        Ok(service)
    }

    /// Fails, with the end of the log, if the program has ended.
    pub(crate) fn check(&mut self) -> Result {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        if let Some(stop) = self.stop.take() {
            stop.forget(); // its process id may belong to another program by now
        }
        Err(format!("{} ended: {status}; its log:\n{}", self.name, run::tail(&self.log)).into())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.check().is_err() {
            return;
        }
        let asked = self.stop.take().is_some(); // and it was asked, by dropping that
        let start = Instant::now();
        while asked && start.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `ready` returns true, and checks all the while that the services are running.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    services: &mut [Service],
    mut ready: impl FnMut() -> bool,
) -> Result {
    let start = Instant::now();
    while !ready() {
        for service in &mut *services {
            service.check()?;
        }
        if start.elapsed() > limit {
            return Err(format!("waited {} s in vain for {what}", limit.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
