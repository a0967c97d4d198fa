//! `cargo xtask demo`: the whole system on this machine, with simulated inference servers.

mod containers;
mod processes;
mod talk;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use crate::service::{AtExit, Service, wait_for};
use crate::{Result, http, layout, run};

/// How long the first survey and Traefik's first poll may take; they take a second or two.
const READY: Duration = Duration::from_secs(60);

/// Everything that runs. Dropping it stops everything.
struct Stack {
    services: Vec<Service>,
    /// A command that shows the logs after a failure, if they are not in files.
    logs: Option<Command>,
    /// Kept only to be dropped.
    _cleanup: Option<AtExit>,
    /// The address of Traefik, to which clients send their requests.
    web: SocketAddr,
    /// An API key that Modelgate accepts.
    key: String,
    /// The models that the simulated servers serve; the first one by more than one server.
    models: &'static [&'static str],
    /// The token for Modelgate's dashboard, if the dashboard can be reached.
    admin_token: Option<String>,
    /// Other pages to look at, each with what it is.
    pages: Vec<(String, &'static str)>,
}

/// Runs the demo.
pub(crate) fn demo(docker: bool, once: bool) -> Result {
    run::step("build", || {
        // One at a time, as the tests build them: built together they would unify features, and everything would be compiled
        // again.
        for arguments in
            ["build --locked --package testkit --bin sim-server", "build --locked --package modelgate"]
        {
            run::shown(run::cargo().args(arguments.split(' ')))?;
        }
        Ok(())
    })?;
    let folder = layout::target().join("demo");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;

    // Declared first, so that it is stopped last.
    let _engine = if docker { crate::engine::ensure()? } else { None };
    let mut stack = run::step("start", || {
        let mut stack = if docker { containers::start(&folder)? } else { processes::start(&folder)? };
        stack.wait_until_ready()?;
        Ok(stack)
    })?;
    talk::streamed_answer(&stack)?;
    talk::who_answers(&stack)?;
    if once {
        drop(stack);
        return if docker { containers::others(&folder) } else { Ok(()) };
    }
    talk::instructions(&stack);
    loop {
        stack.services.iter_mut().try_for_each(Service::check)?;
        thread::sleep(Duration::from_millis(500));
    }
}

impl Stack {
    /// Waits until every model can be used through Traefik.
    fn wait_until_ready(&mut self) -> Result {
        let (web, key, models) = (self.web, &self.key, self.models);
        let listed = || {
            let answer = http::get(web, "/v1/models", Some(key));
            let all = |body: &str| models.iter().all(|model| body.contains(model));
            // Traefik gets a model's route a moment after the model is in the list. A server answers 404 for a path that it does
            // not have; as long as there is no route, Modelgate answers 503.
            let routed = |model: &&str| {
                let answer = http::get(web, &format!("/v1/none?model={model}"), Some(key));
                answer.is_ok_and(|(status, _)| status == 404)
            };
            answer.is_ok_and(|(status, body)| status == 200 && all(&body)) && models.iter().all(routed)
        };
        let outcome =
            wait_for("all models to be listed by GET /v1/models", READY, &mut self.services, listed);
        if let (Err(_), Some(logs)) = (&outcome, &mut self.logs) {
            run::shown(logs)?;
        }
        outcome
    }
}

/// An API key from `modelgate keys generate`.
struct GeneratedKey {
    clear: String,
    sha256: String,
}

impl GeneratedKey {
    fn generate() -> Result<Self> {
        let text = run::output(modelgate().args(["keys", "generate", "--name", "demo"]))?;
        let words = || text.split_whitespace().map(|word| word.trim_matches('"'));
        let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let clear =
            words().find(|word| word.starts_with("mg-")).ok_or("`modelgate keys generate` printed no key")?;
        let sha256 = words().find(is_digest).ok_or("`modelgate keys generate` printed no SHA-256")?;
        Ok(Self { clear: clear.to_owned(), sha256: sha256.to_owned() })
    }
}

/// Modelgate, without the settings that the environment may hold for another one.
fn modelgate() -> Command {
    let mut command = Command::new(layout::built("modelgate"));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MODELGATE_")) {
        command.env_remove(name);
    }
    command
}

fn log(folder: &std::path::Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}
