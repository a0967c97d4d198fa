//! Programs that Modelgate is compared with, or that are used in its place.

use std::{
    ffi::OsString,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    free_port,
    process::{Launch, Process, cpu_time},
    within,
};

/// Some start slowly: a proxy in Python imports modules for half a minute.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How a program is started.
#[derive(Debug)]
pub struct Builder {
    launch: Launch,
    port: u16,
    folder: TempDir,
}

/// A running program that listens on a loopback port, killed on drop with everything that it started.
#[derive(Debug)]
pub struct Program {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Builder {
    /// The port on which it must listen.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Puts a file into the program's folder, and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file in a folder of one's own");
        path
    }

    /// The program's folder, which is removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.launch = self.launch.arg(argument);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.launch = self.launch.env(name, value);
        self
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// If it does not; the message has its log.
    pub async fn start(self) -> Program {
        let mut process =
            Process::start(&self.launch, &self.folder.path().join("log")).expect("a program that starts");
        let listens = || async { TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok() };
        if within(START_TIMEOUT, listens).await.is_none() {
            panic!("it does not listen; ended: {:?}\n{}", process.ended(), process.log());
        }
        Program { process, port: self.port, folder: self.folder }
    }
}

impl Program {
    /// Prepares the start of a program.
    ///
    /// # Panics
    /// If its folder cannot be created.
    pub fn builder(program: impl Into<PathBuf>) -> Builder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Builder { launch: Launch::new(program), port: free_port(), folder }
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its CPU time, with that of everything that it started: [`cpu_time`].
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.id())
    }

    /// Its output.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
