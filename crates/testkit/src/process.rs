//! Child programs that must not outlive the test: each in a process group of its own, killed with its group on drop,
//! and killed by the kernel ([`PR_SET_PDEATHSIG`]) when the test process itself dies without running any drop.
//!
//! [`PR_SET_PDEATHSIG`]: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html

use std::{
    ffi::{OsStr, OsString},
    fs::OpenOptions,
    io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};

use crate::{Failure, client, within};

/// What to start: a program, its arguments and its environment (the test's own, without the removed variables).
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    /// Handed over as systemd does: <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>.
    sockets: Vec<Arc<TcpListener>>,
    /// Nobody reads what it prints.
    is_unread: bool,
}

/// The first file descriptor that systemd hands over.
const FIRST_SOCKET: i32 = 3;

impl Launch {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            sockets: Vec::new(),
            is_unread: false,
        }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    pub(crate) fn sockets(mut self, sockets: &[Arc<TcpListener>]) -> Self {
        self.sockets = sockets.to_vec();
        self
    }

    /// Its output goes to pipes whose readers have gone, and not to its log.
    pub(crate) fn unread(mut self) -> Self {
        self.is_unread = true;
        self
    }

    pub(crate) fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    fn command(&self) -> Command {
        let mut command = if has_setpriv() {
            let mut command = Command::new("setpriv");
            // setpriv replaces itself with the program, so the process id stays the one that was started.
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        if !self.sockets.is_empty() {
            command = self.handing_over(&command);
        }
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.process_group(0).stdin(Stdio::null());
        command
    }

    /// A shell that becomes the program, and so can tell it its own process id.
    fn handing_over(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell.env("LISTEN_FDS", self.sockets.len().to_string());
        let mapping = |(child_fd, socket): (i32, &Arc<TcpListener>)| FdMapping {
            parent_fd: socket.try_clone().expect("a second handle of a socket").into(),
            child_fd,
        };
        let mappings = (FIRST_SOCKET..).zip(&self.sockets).map(mapping).collect();
        shell.fd_mappings(mappings).expect("each has a number of its own");
        shell
    }
}

/// A running child program whose output goes to a file.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program; its output is appended to the file `log`.
    pub(crate) fn start(launch: &Launch, log: &Path) -> io::Result<Self> {
        let mut command = launch.command();
        if launch.is_unread {
            command.stdout(io::pipe()?.1).stderr(io::pipe()?.1);
        } else {
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        Ok(Self { child: spawn_from_lasting_thread(command)?, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the program ended, `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until a URL answers 200. `false` if it does not in time, or the program ends before.
    pub(crate) async fn answers(&mut self, url: &str, timeout: Duration) -> bool {
        let client = client();
        let answers = within(timeout, || {
            let ended = self.ended();
            let answer = client.get(url).send();
            async move {
                match ended {
                    Some(_) => Some(false),
                    None => answer.await.is_ok_and(|answer| answer.status().is_success()).then_some(true),
                }
            }
        });
        answers.await == Some(true)
    }

    /// The output so far.
    pub(crate) fn log(&self) -> String {
        read_log(&self.log)
    }

    pub(crate) fn signal(&self, name: &str) {
        send(name, &self.id().to_string());
    }

    /// Asks the program to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// If it does not end in time: a program that ignores SIGTERM is a defect.
    pub(crate) async fn stop(&mut self, timeout: Duration) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        self.signal("TERM");
        let status = within(timeout, || {
            let status = self.ended();
            async move { status }
        })
        .await;
        status.unwrap_or_else(|| panic!("still running {timeout:?} after SIGTERM:\n{}", self.log()))
    }

    /// Kills the program and everything that it started, at once.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            send("KILL", &format!("-{}", self.id()));
            // If no shell could be started for that, at least the program itself is killed.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A log file's text; programs may print bytes that are not UTF-8.
pub(crate) fn read_log(path: &Path) -> String {
    std::fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends a signal to a process, or with `-<id>` to a process group. The shell's own `kill` is on every machine.
pub(crate) fn send(signal: &str, target: &str) {
    // `-s` together with `--` is the only spelling that dash, bash and busybox all accept for a group.
    let script = format!("kill -s {signal} -- {target}");
    let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
}

/// Whether a process runs. A zombie, dead but not yet collected by its parent, does not.
pub(crate) fn is_alive(id: u32) -> bool {
    state(id).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a process will not run on by itself: it is stopped (SIGSTOP), or is dead.
pub(crate) fn is_stopped(id: u32) -> bool {
    !is_alive(id) || state(id) == Some('T')
}

/// The letter of a process's state (`man 5 proc`); `None` if there is no such process.
fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The state follows the name, which is in parentheses and may contain any characters.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The direct children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

/// The children of a process, with all their descendants.
pub(crate) fn descendants(parent: u32) -> Vec<u32> {
    let mut all = children(parent);
    let mut next = 0;
    while let Some(id) = all.get(next).copied() {
        all.extend(children(id));
        next += 1;
    }
    all
}

/// The CPU time of the threads of a process and its descendants (<https://docs.kernel.org/scheduler/sched-stats.html>). Threads
/// that have ended are not included.
#[must_use]
pub fn cpu_time(id: u32) -> Duration {
    let mut processes = descendants(id);
    processes.push(id);
    let folders = processes.iter().filter_map(|id| std::fs::read_dir(format!("/proc/{id}/task")).ok());
    let nanoseconds = folders.flatten().flatten().filter_map(|thread| -> Option<u64> {
        // A thread may end in between.
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The memory of a process in bytes, as Linux reports it: `VmRSS` is resident now, `VmHWM` is the peak
/// (<https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>).
///
/// # Panics
/// If it is not running, or has no such line.
#[must_use]
pub fn memory(id: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let value = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).expect(which);
    1024 * value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// See <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn parent_of(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a short program to its end and returns its standard output.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::of(program, error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::of(program, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// PR_SET_PDEATHSIG fires when the *thread* that started the child ends, and a test's thread may end before a part that several
/// tests share. So all children are started by one thread that lives as long as the process.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, SyncSender<io::Result<Child>>);
    static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, receiver) = sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts children is gone");
    jobs.lock().map_err(|_| io::Error::other("poisoned"))?.send((command, sender)).map_err(|_| gone(()))?;
    receiver.recv().map_err(|_| gone(()))?
}

/// util-linux's setpriv can set the parent death signal, which Rust's standard library cannot do without unsafe code. Without
/// setpriv a killed test process leaves its children behind; nothing else changes.
fn has_setpriv() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| run("setpriv", &["--pdeathsig", "KILL", "--", "true"]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_process_takes_its_children_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let script = "sleep 1000 & echo $!; wait";
        let process = Process::start(&Launch::new("sh").args(["-c", script]), &log).expect("starts");
        let grandchild: u32 =
            crate::eventually(Duration::from_secs(60), || async { process.log().trim().parse().ok() }).await;
        assert!(is_alive(grandchild));
        drop(process);
        crate::eventually(Duration::from_secs(60), || async { (!is_alive(grandchild)).then_some(()) }).await;
    }

    #[tokio::test]
    async fn stop_waits_for_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done";
        let mut process = Process::start(&Launch::new("sh").args(["-c", script]), &log).expect("starts");
        crate::eventually(Duration::from_secs(60), || async { process.log().contains("up").then_some(()) })
            .await;
        assert_eq!(process.stop(Duration::from_secs(60)).await.code(), Some(3));
        assert_eq!(process.log(), "up\nbye\n");
    }
}
