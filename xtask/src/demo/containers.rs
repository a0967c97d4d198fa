//! The demo in containers: `deploy/compose.yaml` as it is, with stand-in images that need no registry.
//!
//! Modelgate's image is the last stage of `deploy/Dockerfile`. Each stand-in is an otherwise empty image with one real program in it;
//! only the inference server is simulated.

mod others;
mod stand_ins;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Stack;
use crate::service::{AtExit, wait_for};
use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, engine, http, layout, run};

pub(super) use others::others;

const PROJECT: &str = "modelgate-demo";
/// What deploy/compose.yaml and those beside it need, and the demo's own changes.
const BASE: &str = "deploy/compose.yaml";
const DEMO: &str = "xtask/src/demo/compose.yaml";
/// How long containers may take to become healthy.
const HEALTHY: Duration = Duration::from_secs(60);

/// A variable that a file of deploy/ reads.
type Setting = (&'static str, String);

/// A Compose project of deploy/ that runs; taken down, volumes and all, when it is dropped.
struct Project {
    files: Vec<PathBuf>,
    settings: Vec<Setting>,
    /// Kept only to be dropped.
    cleanup: Option<AtExit>,
}

/// What a first start shows once.
struct ShownSecrets {
    key: String,
    admin_token: String,
}

/// Starts everything with Compose.
pub(super) fn start(folder: &Path) -> Result<Stack> {
    if !engine::answers() {
        return Err("the Docker Engine is not running; start it, as root: dockerd".into());
    }
    let web = http::free_address(8080)?;
    let dashboard = http::free_address(8102)?;
    let mut settings = settings(folder)?;
    settings.extend([
        ("HTTP_PORT", web.to_string()),
        ("DASHBOARD_PORT", dashboard.port().to_string()),
        ("MODEL", "llama-3.1-8b".to_owned()),
    ]);
    let project = Project::up(&[BASE, DEMO].map(PathBuf::from), settings, &["--scale", "vllm=2"])?;
    project.healthy("modelgate", 1)?;
    let shown = project.shown()?;
    project.is_confined()?;
    project.shows_nothing_again(&shown)?;
    let create =
        ["exec", "-T", "-e", "MODELGATE_ACTOR=ada", "modelgate", "modelgate", "keys", "create", "second"];
    run::output(&mut project.compose(&create))?;
    let (status, audit) = http::get(dashboard, "/api/v1/audit", Some(&shown.admin_token))?;
    if status != 200 || !audit.contains("command line (ada)") {
        return Err(format!("the audit log, with the token that was shown: {status} {audit}").into());
    }
    Ok(Stack {
        services: Vec::new(),
        logs: Some(project.compose(&["logs", "--tail", "20", "modelgate", "traefik"])),
        web,
        key: shown.key,
        models: &["llama-3.1-8b", "qwen2.5-7b"],
        admin_token: Some(shown.admin_token),
        pages: vec![
            (format!("http://{dashboard}/"), "the dashboard"),
            (
                format!("docker ps --filter label=com.docker.compose.project={PROJECT}"),
                "the containers; stop one, or start one, and see the model list follow",
            ),
        ],
        _cleanup: project.cleanup,
    })
}

/// The images, by the variables that deploy/ reads. Installs what they are made of.
fn settings(folder: &Path) -> Result<Vec<Setting>> {
    let traefik = tools::traefik(TRAEFIK_NEWEST);
    let compose = tools::compose();
    for tool in [&traefik, &compose] {
        tools::install(slice::from_ref(tool))?;
    }
    tools::install(&tools::for_containers())?;
    stand_ins::make(&traefik.path().ok_or("Traefik is missing")?, folder)
}

impl Project {
    fn up(files: &[PathBuf], settings: Vec<Setting>, more: &[&str]) -> Result<Self> {
        let mut project = Self { files: files.to_vec(), settings, cleanup: None };
        project.cleanup = Some(AtExit::new(&project.compose(&["down", "--volumes", "--timeout", "5"]))?);
        let up = [&["up", "--detach", "--no-build", "--pull", "never"], more].concat();
        run::logged("compose", &mut project.compose(&up))?;
        Ok(project)
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::compose().path().unwrap_or_default());
        command.args(["--project-name", PROJECT]);
        for file in &self.files {
            command.arg("--file").arg(file);
        }
        command.args(arguments).current_dir(layout::root());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What `docker inspect` says of each container of a service.
    fn containers(&self, service: &str) -> Result<Vec<Value>> {
        let ids = run::output(&mut self.compose(&["ps", "--all", "--quiet", service]))?;
        if ids.trim().is_empty() {
            return Ok(Vec::new());
        }
        let told = run::output(Command::new("docker").arg("inspect").args(ids.split_whitespace()))?;
        Ok(serde_json::from_str(&told)?)
    }

    /// Waits until the image's own HEALTHCHECK says of so many containers that they are healthy.
    fn healthy(&self, service: &str, count: usize) -> Result {
        let is_healthy = |container: &Value| container["State"]["Health"]["Status"] == "healthy";
        let are_healthy = || {
            let found = self.containers(service).unwrap_or_default();
            found.len() == count && found.iter().all(is_healthy)
        };
        let outcome =
            wait_for(&format!("{count} healthy containers of {service}"), HEALTHY, &mut [], are_healthy);
        outcome.map_err(|error| format!("{error}\n{}", self.log(service).unwrap_or_default()).into())
    }

    fn log(&self, service: &str) -> Result<String> {
        run::output(&mut self.compose(&["logs", "--no-color", "--no-log-prefix", service]))
    }

    /// The key and the token in the log of Modelgate: one of each, however many Modelgates there are.
    fn shown(&self) -> Result<ShownSecrets> {
        let start = Instant::now();
        loop {
            let log = self.log("modelgate")?;
            let words =
                |begin| log.split_whitespace().filter(|word| word.starts_with(begin)).collect::<Vec<_>>();
            match (words("mg-").as_slice(), words("mgadmin-").as_slice()) {
                ([key], [token]) => {
                    return Ok(ShownSecrets { key: (*key).to_owned(), admin_token: (*token).to_owned() });
                }
                (keys, tokens) if start.elapsed() > HEALTHY => {
                    let found = format!("{} API keys and {} tokens", keys.len(), tokens.len());
                    return Err(format!("the log shows {found}, not one of each:\n{log}").into());
                }
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Modelgate runs as deploy/compose.yaml promises: nobody special, without capabilities, on a file system that it cannot change.
    fn is_confined(&self) -> Result {
        for container in self.containers("modelgate")? {
            let (config, host) = (&container["Config"], &container["HostConfig"]);
            let is_confined = config["User"] == "65532:65532"
                && host["ReadonlyRootfs"] == true
                && host["CapDrop"][0] == "ALL"
                && host["SecurityOpt"][0] == "no-new-privileges:true"
                && host["Privileged"] == false;
            if !is_confined {
                return Err(format!("Modelgate's container is not confined: {config} {host}").into());
            }
        }
        Ok(())
    }

    /// A restart shows nothing again, and a command in the container finds the store.
    fn shows_nothing_again(&self, shown: &ShownSecrets) -> Result {
        run::logged("compose", &mut self.compose(&["restart", "modelgate"]))?;
        self.healthy("modelgate", 1)?;
        let again = self.shown()?;
        if again.key != shown.key || again.admin_token != shown.admin_token {
            return Err("a restart made another key or token".into());
        }
        let listed =
            run::output(&mut self.compose(&["exec", "-T", "modelgate", "modelgate", "keys", "list"]))?;
        match listed.lines().any(|line| line.starts_with("first")) {
            true => Ok(()),
            false => {
                Err(format!("`modelgate keys list` in the container does not show the first key:\n{listed}")
                    .into())
            }
        }
    }
}
