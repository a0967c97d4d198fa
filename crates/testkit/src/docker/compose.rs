//! [Docker Compose](https://docs.docker.com/compose/): a project that is taken down, volumes and all, when its value is
//! dropped.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::process::Command;

use super::unique_name;
use crate::{Failure, parts};

/// Containers that depend on healthy ones may take a while to come up.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The Compose program: the path in `MODELGATE_TEST_COMPOSE`, else where `cargo xtask` puts it,
/// `target/tools/compose/docker-compose`.
#[must_use]
pub fn compose_binary() -> Option<PathBuf> {
    let path = match env::var_os("MODELGATE_TEST_COMPOSE") {
        Some(path) => PathBuf::from(path),
        None => parts::target_folder()?.join("tools/compose/docker-compose"),
    };
    path.is_file().then_some(path)
}

/// A Compose file with its overrides and variables.
#[derive(Clone, Debug)]
pub struct ComposeFile {
    source: ComposeSource,
    overrides: Vec<String>,
    variables: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum ComposeSource {
    Path(PathBuf),
    Text(String),
}

/// A Compose project that runs.
#[derive(Debug)]
pub struct Compose {
    binary: PathBuf,
    project: String,
    files: Vec<PathBuf>,
    variables: Vec<(String, String)>,
    /// Holds the files that were given as text; removed after the project.
    _folder: TempDir,
}

impl ComposeFile {
    /// A file on disk; relative paths in it start at its folder.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::of(ComposeSource::Path(path.into()))
    }

    /// The text of a file; relative paths in it cannot be used.
    pub fn text(yaml: impl Into<String>) -> Self {
        Self::of(ComposeSource::Text(yaml.into()))
    }

    fn of(source: ComposeSource) -> Self {
        Self { source, overrides: Vec::new(), variables: Vec::new() }
    }

    /// Adds an override file, whose values take precedence.
    #[must_use]
    pub fn over(mut self, yaml: impl Into<String>) -> Self {
        self.overrides.push(yaml.into());
        self
    }

    /// A variable, for `${NAME}` in the file.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The files in the order in which Compose reads them; those that are text are written into the folder.
    fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
        let write = |name: String, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| Failure::of(path.display(), error))?;
            Ok::<_, Failure>(path)
        };
        let mut files = vec![match &self.source {
            ComposeSource::Path(path) => path.clone(),
            ComposeSource::Text(text) => write("compose.yaml".to_owned(), text)?,
        }];
        for (number, text) in self.overrides.iter().enumerate() {
            files.push(write(format!("override-{number}.yaml"), text)?);
        }
        Ok(files)
    }
}

impl Compose {
    /// Starts a project, without building or pulling anything, and returns when its containers are running; those that others
    /// wait for (`depends_on: service_healthy`) are healthy then. The project's name is unique; `name` is its last part.
    ///
    /// # Errors
    /// Compose is not installed, or it fails; the text is its output.
    pub async fn up(file: ComposeFile, name: &str) -> Result<Self, Failure> {
        let binary = compose_binary()
            .ok_or_else(|| Failure::missing("Docker Compose is not there; `cargo xtask test --install`"))?;
        let folder = tempfile::tempdir()?;
        let files = file.write(folder.path())?;
        let project = unique_name(name);
        // The value exists before the command runs, so that a partly started project is taken down as well.
        let compose = Self { binary, project, files, variables: file.variables, _folder: folder };
        compose.run(&["up", "--detach", "--no-build", "--pull", "never"]).await?;
        Ok(compose)
    }

    /// The project's unique name.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Runs any command of Compose (`kill ollama-1`, `up --detach --scale vllm=2`) and returns what it prints.
    ///
    /// # Errors
    /// It failed, or took more than three minutes; the text is what it said.
    pub async fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::from(self.command(arguments));
        let output = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await;
        let output = output.map_err(|_| Failure::TooLong { command: format!("compose {arguments:?}") })?;
        let output = output.map_err(|error| Failure::of("compose", error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(Failure::of(
                format_args!("compose {arguments:?}"),
                String::from_utf8_lossy(&output.stderr).trim(),
            ))
        }
    }

    /// What all its containers printed.
    ///
    /// # Errors
    /// Compose fails.
    pub async fn logs(&self) -> Result<String, Failure> {
        self.run(&["logs", "--no-color"]).await
    }

    /// The ids of a service's containers.
    ///
    /// # Errors
    /// There is no such service.
    pub async fn containers(&self, service: &str) -> Result<Vec<String>, Failure> {
        let ids = self.run(&["ps", "--all", "--quiet", service]).await?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// The port of this machine at which a service's port is published.
    ///
    /// # Errors
    /// It is not published.
    pub async fn published_port(&self, service: &str, port: u16) -> Result<u16, Failure> {
        let address = self.run(&["port", service, &port.to_string()]).await?;
        let found = address.rsplit(':').next().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        found.ok_or_else(|| Failure::unexpected(format!("{port} of {service} is not published")))
    }

    fn command(&self, arguments: &[&str]) -> process::Command {
        let mut command = process::Command::new(&self.binary);
        command.args(["--project-name", &self.project]);
        for file in &self.files {
            command.arg("--file").arg(file);
        }
        command.args(arguments).envs(self.variables.iter().cloned()).stdin(Stdio::null());
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let mut command = self.command(&["down", "--volumes", "--timeout", "1", "--remove-orphans"]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
