//! The accounts of the configuration file and the store, for a command: the operations of the admin API, directly on the store.
//! No server need be running; a running one picks up changes within a second.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{self, Path},
    process::ExitCode,
    sync::LazyLock,
    time::Duration,
};

use config_reader::ConfigErrors;
use store::{Actor, Origin, Registry, RegistryError, State, Store, StoreError, StoreUrl};
use tokio::time::timeout;

use super::progress::Progress;
use crate::{
    config::{ACTOR as ACTOR_VARIABLE, Config, DEFAULT_FILE},
    exit::{self, BAD_CONFIGURATION},
    runtime,
};

/// Who does it, in the audit log: `command line (ada)`, on this host.
pub(crate) static ACTOR: LazyLock<Actor> =
    LazyLock::new(|| Actor { name: actor(|name| env::var_os(name)), origin: host().map(Origin::Host) });
/// How long the store may take for an answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the store may take to close its connections.
const CLOSE: Duration = Duration::from_secs(1);

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CommandFailure {
    /// The configuration must be changed first.
    Configuration(String),
    /// There is no store, and the command is about what is in it.
    NoStore,
    /// The command failed.
    Failed(String),
    /// The store does not answer.
    Unavailable(String),
}

/// The command line and who uses it, from the environment: this is for operators who trust each other, and no proof. With sudo it is
/// the original user. A container does not know who runs a command in it, so that can be said (`docker exec -e MODELGATE_ACTOR=ada`).
fn actor(variable: impl Fn(&str) -> Option<OsString>) -> String {
    const MAX_USER_NAME: usize = 64;
    let user = [ACTOR_VARIABLE, "SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| {
        let value = variable(name)?;
        let visible = value
            .to_string_lossy()
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_USER_NAME)
            .collect::<String>();
        Some(visible.trim().to_owned()).filter(|user| !user.is_empty())
    });
    user.map_or_else(|| "command line".into(), |user| format!("command line ({user})"))
}

/// The name of this host; in a container, the container's
/// (<https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html>).
fn host() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Opens the accounts of the file and the store, has something done with them, and says how that went.
pub(crate) fn with_registry(
    config: &Config,
    work: impl AsyncFnOnce(&Registry) -> Result<(), CommandFailure>,
) -> ExitCode {
    let done = match runtime::new() {
        Ok(runtime) => runtime.block_on(async {
            let registry = open(config).await?;
            let done = work(&registry).await;
            if let Ok(store) = registry.store() {
                // A store that hangs does not close its connections either.
                let _ = timeout(CLOSE, store.close()).await;
            }
            done
        }),
        Err(error) => Err(CommandFailure::Failed(error.to_string())),
    };
    finish(done, config)
}

fn finish(done: Result<(), CommandFailure>, config: &Config) -> ExitCode {
    let (error, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CommandFailure::Configuration(error)) => (error, ExitCode::from(BAD_CONFIGURATION)),
        Err(CommandFailure::NoStore) => (no_store(config.file.as_deref()), ExitCode::from(BAD_CONFIGURATION)),
        Err(CommandFailure::Failed(error)) => (error, ExitCode::FAILURE),
        Err(CommandFailure::Unavailable(error)) => {
            let help = match &config.store.url {
                Some(StoreUrl::Postgres(_)) => {
                    "is store.url (or MODELGATE_STORE_URL) right, and is PostgreSQL running?"
                }
                _ => "is state_dir (or store.url) right? Run this as the user that Modelgate runs as",
            };
            (format!("{error}\n  {help}"), ExitCode::FAILURE)
        }
    };
    exit::failed(&error, code)
}

/// What is missing, and what to do.
fn no_store(file: Option<&Path>) -> String {
    let absolute =
        |path: &Path| path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    match file {
        Some(file) => format!(
            "there is no store: {} has neither state_dir nor store.url\n  set state_dir (or MODELGATE_STATE_DIR) for a file of \
             SQLite's in that folder, or store.url (or MODELGATE_STORE_URL) for PostgreSQL",
            absolute(file)
        ),
        None => format!(
            "there is no configuration file {}, and neither MODELGATE_STATE_DIR nor MODELGATE_STORE_URL names a store\n  run this \
             in the folder of the configuration, name the file with --config (or MODELGATE_CONFIG), or set one of the two",
            absolute(Path::new(DEFAULT_FILE))
        ),
    }
}

/// The accounts of the file, and those of the store if there is one.
async fn open(config: &Config) -> Result<Registry, CommandFailure> {
    let registry = Registry::new(config.accounts.declared.clone());
    if let Some(url) = config.store.url.clone() {
        // It ends with an error if nobody answers. An older Modelgate's tables are changed here, which takes a while if they are long.
        let progress = Progress::of("opening the store");
        let store = Store::open(url).await?;
        drop(progress);
        registry.set_store(store);
        registry.set_state(State::Up);
    }
    Ok(registry)
}

/// The store's answer, if it comes in time.
pub(crate) async fn answer<T, E: Into<CommandFailure>>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, CommandFailure> {
    match timeout(STORE_TIMEOUT, asked).await {
        Ok(answered) => answered.map_err(Into::into),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {STORE_TIMEOUT:?}")).into()),
    }
}

impl From<RegistryError> for CommandFailure {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NoStore => Self::NoStore,
            RegistryError::Invalid(ConfigErrors(errors)) => {
                let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
                Self::Failed(format!("nothing was changed:{lines}"))
            }
            RegistryError::Store(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<StoreError> for CommandFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<serde_json::Error> for CommandFailure {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for CommandFailure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_the_systems_user() {
        for (variables, expected) in [
            (&[][..], "command line"),
            (&[("USER", "ada")], "command line (ada)"),
            (&[("LOGNAME", "ada"), ("USER", "")], "command line (ada)"),
            (&[("USER", "root"), ("LOGNAME", "root"), ("SUDO_USER", "ada")], "command line (ada)"),
            (&[("SUDO_USER", "\n\u{1b}"), ("USER", " a\u{1b}[31m\u{9b}da\n")], "command line (a[31mda)"),
            (&[("HOME", "/root"), ("USER", "\u{7f}")], "command line"),
            (&[("USER", "root"), ("MODELGATE_ACTOR", "ada")], "command line (ada)"),
        ] {
            let of =
                |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).into());
            assert_eq!(actor(of), expected, "{variables:?}");
        }
        let long = actor(|_| Some("é".repeat(1_000).into()));
        assert_eq!(long, format!("command line ({})", "é".repeat(64)));
    }
}
