//! A Redis for the tests: Debian's `redis-server`, on a loopback port, without a file on disk.

use std::{io::ErrorKind, net::Ipv4Addr, process::Command, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Failure, free_port,
    process::{Launch, Process, read_log},
    within,
};

/// Generous, for a small machine that is also compiling. Usually it takes a moment.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The program's name, if it is on this machine: Redis or Valkey.
///
/// # Errors
/// Neither is installed.
pub fn redis_server() -> Result<&'static str, Failure> {
    let is_there =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let found = ["redis-server", "valkey-server"].into_iter().find(is_there);
    found.ok_or_else(|| Failure::missing("neither redis-server nor valkey-server can be run"))
}

/// A running Redis, killed on drop. Across restarts it keeps its port, but no data.
#[derive(Debug)]
pub struct Redis {
    launch: Launch,
    port: u16,
    process: Option<Process>,
    folder: TempDir,
}

impl Redis {
    /// Starts it and waits until it answers. `program` is from [`redis_server`].
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start(program: &str) -> Self {
        Self::start_with(program, &[]).await
    }

    /// Like [`Redis::start`], with further arguments such as `["--requirepass", "secret"]`.
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start_with(program: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let launch = Launch::new(program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .arg("--dir")
            .arg(folder.path())
            .args(args);
        let mut redis = Self { launch, port, process: None, folder };
        redis.restart().await;
        redis
    }

    /// Its port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its log, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.folder.path().join("redis.log"))
    }

    /// Kills it at once; its data is lost.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Makes it hang (SIGSTOP): connections stay open, and nothing is answered.
    ///
    /// # Panics
    /// If it is not running.
    pub fn freeze(&self) {
        self.process.as_ref().expect("Redis runs").signal("STOP");
    }

    /// Resumes it after [`Redis::freeze`].
    ///
    /// # Panics
    /// If it is not running.
    pub fn thaw(&self) {
        self.process.as_ref().expect("Redis runs").signal("CONT");
    }

    /// Starts it, empty, on the same port; a running one is killed first.
    ///
    /// # Panics
    /// If it does not answer; the message has its log.
    pub async fn restart(&mut self) {
        self.kill();
        let log = self.folder.path().join("redis.log");
        self.process = Some(Process::start(&self.launch, &log).expect("Redis starts"));
        let port = self.port;
        let answers = within(START_TIMEOUT, || async move { answers(port).await.then_some(()) }).await;
        assert!(answers.is_some(), "no answer from Redis:\n{}", self.log());
    }

    /// Sends one command and returns the answer's text as it is on the wire
    /// (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), of up to 4 KiB: `:3`, `+OK`, `-ERR …`.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn ask(&self, command: &str) -> String {
        ask(self.port, command).await.unwrap_or_else(|error| panic!("{command}: {error}\n{}", self.log()))
    }
}

/// Whether it answers at all; one with a password answers that authentication is required.
async fn answers(port: u16) -> bool {
    ask(port, "PING").await.is_ok_and(|answer| answer == "+PONG" || answer.starts_with("-NOAUTH"))
}

async fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await?;
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned())
}
