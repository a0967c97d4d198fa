//! Which environment variable sets which key, and how its text becomes a value.
//!
//! The variables are put into the parsed file before it is read, so that a value is checked in one place, wherever it came from.
//! [`Origins`] remembers which key came from which variable.

use std::{collections::BTreeMap, fmt};

use serde_yaml::{Mapping, Value};

use catalogue::closest;
use config_reader::{ConfigError, Origins};

use super::{files, keys};

/// The environment variables that concern Modelgate. Their values may be secret, so the `Debug` output has only the names.
#[derive(Clone, Default)]
pub(crate) struct Env(BTreeMap<String, String>);

/// The variable that names the configuration file; it is read first.
pub(super) const CONFIG_FILE: &str = "MODELGATE_CONFIG";
/// The variable that says who runs a command.
pub(crate) const ACTOR: &str = "MODELGATE_ACTOR";
/// The prefix of all of Modelgate's own variables.
const VARIABLE_PREFIX: &str = "MODELGATE_";
/// The prefix of variables for tests; the program never reads them.
const TEST: &str = "MODELGATE_TEST_";
const API_KEY: &str = "MODELGATE_API_KEY";
const API_KEY_FILE: &str = "MODELGATE_API_KEY_FILE";
const ADMIN_TOKEN: &str = "MODELGATE_ADMIN_TOKEN";
const ADMIN_TOKEN_FILE: &str = "MODELGATE_ADMIN_TOKEN_FILE";
const TELEMETRY_TOKEN: &str = "MODELGATE_LISTEN_TELEMETRY_TOKEN";
const TELEMETRY_TOKEN_FILE: &str = "MODELGATE_LISTEN_TELEMETRY_TOKEN_FILE";
/// Secrets in clear: each has a variable, and one that names a file.
const SECRETS: [(&str, &str, &[&str]); 2] = [
    (ADMIN_TOKEN, ADMIN_TOKEN_FILE, &["admin", "token"]),
    (TELEMETRY_TOKEN, TELEMETRY_TOKEN_FILE, &["listen", "telemetry_token"]),
];
const DOCKER_HOST: &str = "DOCKER_HOST";
const DOCKER_ENDPOINT: [&str; 2] = ["docker", "endpoint"];

/// How the text of a variable is parsed.
#[derive(Debug, Clone, Copy)]
enum VariableFormat {
    /// One value.
    Scalar,
    /// A list of values, separated by commas.
    List,
    /// A list of servers, given by their URLs, separated by commas.
    Servers,
}

/// All variables as (variable, key path, shape), except those for an API key and tokens.
const VARIABLES: &[(&str, &[&str], VariableFormat)] = &[
    ("MODELGATE_LISTEN_PROVIDER", &["listen", "provider"], VariableFormat::Scalar),
    ("MODELGATE_LISTEN_REQUESTS", &["listen", "requests"], VariableFormat::Scalar),
    ("MODELGATE_LISTEN_ADMIN", &["listen", "admin"], VariableFormat::Scalar),
    ("MODELGATE_LISTEN_TELEMETRY", &["listen", "telemetry"], VariableFormat::Scalar),
    ("MODELGATE_METERING_SCRAPE", &["metering", "scrape"], VariableFormat::Scalar),
    ("MODELGATE_METERING_WAIT", &["metering", "wait"], VariableFormat::Scalar),
    ("MODELGATE_METERING_FORWARD_TO", &["metering", "forward_to"], VariableFormat::Scalar),
    ("MODELGATE_METRICS_CONSUMERS", &["metrics", "consumers"], VariableFormat::Scalar),
    ("MODELGATE_METRICS_MODELS", &["metrics", "models"], VariableFormat::Scalar),
    ("MODELGATE_METRICS_SERVERS", &["metrics", "servers"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_VERSION", &["traefik", "version"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_ENTRY_POINTS", &["traefik", "entry_points"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_HOSTS", &["traefik", "hosts"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_APIS", &["traefik", "apis"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_PATH_PREFIXES", &["traefik", "path_prefixes"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_CERT_RESOLVER", &["traefik", "cert_resolver"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_TLS", &["traefik", "tls"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_REDIRECT_ENTRY_POINTS", &["traefik", "redirect_entry_points"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_HSTS_MAX_AGE", &["traefik", "hsts", "max_age"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_CORS_ORIGINS", &["traefik", "cors", "origins"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_ALLOW_IPS", &["traefik", "allow_ips"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_IP_DEPTH", &["traefik", "ip_depth"], VariableFormat::Scalar),
    (
        "MODELGATE_TRAEFIK_CLIENT_CERTIFICATE_CA",
        &["traefik", "client_certificate", "ca"],
        VariableFormat::Scalar,
    ),
    (
        "MODELGATE_TRAEFIK_CLIENT_CERTIFICATE_CERT",
        &["traefik", "client_certificate", "cert"],
        VariableFormat::Scalar,
    ),
    (
        "MODELGATE_TRAEFIK_CLIENT_CERTIFICATE_KEY",
        &["traefik", "client_certificate", "key"],
        VariableFormat::Scalar,
    ),
    ("MODELGATE_TRAEFIK_TRUSTED_ADDRESSES", &["traefik", "trusted_addresses"], VariableFormat::List),
    ("MODELGATE_TRAEFIK_ADVERTISE", &["traefik", "advertise"], VariableFormat::Scalar),
    ("MODELGATE_TRAEFIK_POLL_TIMEOUT", &["traefik", "poll_timeout"], VariableFormat::Scalar),
    ("MODELGATE_REQUESTS_MAX_BODY", &["requests", "max_body"], VariableFormat::Scalar),
    ("MODELGATE_REQUESTS_MAX_CHUNKED_BODY", &["requests", "max_chunked_body"], VariableFormat::Scalar),
    ("MODELGATE_REQUESTS_KEY_HEADERS", &["requests", "key_headers"], VariableFormat::List),
    ("MODELGATE_REQUESTS_LOADING_TIME", &["requests", "loading_time"], VariableFormat::Scalar),
    ("MODELGATE_REQUESTS_FOREIGN_CREDENTIALS", &["requests", "foreign_credentials"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_ENABLED", &["docker", "enabled"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_ENDPOINT", &DOCKER_ENDPOINT, VariableFormat::Scalar),
    ("MODELGATE_DOCKER_TLS_CA", &["docker", "tls", "ca"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_TLS_CERT", &["docker", "tls", "cert"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_TLS_KEY", &["docker", "tls", "key"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_NETWORK", &["docker", "network"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_HOST_ADDRESS", &["docker", "host_address"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_REACH", &["docker", "reach"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_PROJECT", &["docker", "project"], VariableFormat::Scalar),
    ("MODELGATE_DOCKER_SWARM", &["docker", "swarm"], VariableFormat::Scalar),
    ("MODELGATE_SERVERS", &["servers"], VariableFormat::Servers),
    ("MODELGATE_ADMIN_HOST", &["admin", "host"], VariableFormat::Scalar),
    ("MODELGATE_STORE_URL", &["store", "url"], VariableFormat::Scalar),
    ("MODELGATE_STORE_FIRST_KEY", &["store", "first_key"], VariableFormat::Scalar),
    ("MODELGATE_SHARED_LIMITS_URL", &["shared_limits", "url"], VariableFormat::Scalar),
    ("MODELGATE_SHARED_LIMITS_FAIL", &["shared_limits", "fail"], VariableFormat::Scalar),
    ("MODELGATE_TIME_ZONE", &["time_zone"], VariableFormat::Scalar),
    ("MODELGATE_STATE_DIR", &["state_dir"], VariableFormat::Scalar),
    ("MODELGATE_LOG_LEVEL", &["log", "level"], VariableFormat::Scalar),
    ("MODELGATE_LOG_FORMAT", &["log", "format"], VariableFormat::Scalar),
];

impl Env {
    /// The environment of this process. A value that is not UTF-8 is kept with replacement characters, and refused when it is
    /// checked.
    pub(crate) fn of_this_process() -> Self {
        let all = std::env::vars_os();
        all.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    /// The value of a variable. An empty value counts as not set: Compose makes `${HOST:-}` empty, not absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Refuses unknown variables with our prefix; they are probably misspelt.
    pub(super) fn refuse_unknown(&self, errors: &mut Vec<ConfigError>) {
        let secrets =
            || SECRETS.into_iter().flat_map(|(variable, file_variable, _)| [variable, file_variable]);
        let others = [API_KEY, API_KEY_FILE, CONFIG_FILE, ACTOR];
        let known = || VARIABLES.iter().map(|v| v.0).chain(secrets()).chain(others);
        for name in self.0.keys().filter(|name| name.starts_with(VARIABLE_PREFIX) && !name.starts_with(TEST))
        {
            if !known().any(|k| k == name) {
                let message = match closest(name, known()) {
                    Some(meant) => format!("unknown environment variable; did you mean {meant}?"),
                    None => "unknown environment variable".into(),
                };
                errors.push(ConfigError { place: name.clone(), variable: None, message });
            }
        }
    }

    /// Overrides the keys of a parsed file with the variables.
    pub(super) fn override_file(&self, root: &mut Mapping, errors: &mut Vec<ConfigError>) -> Origins {
        let mut origins = Origins::default();
        for (variable, path, shape) in VARIABLES {
            if let Some(text) = self.get(variable) {
                put(&mut origins, root, variable, path, shape.value_of(text));
            }
        }
        if let Some(text) = self.get(DOCKER_HOST)
            && origins.variable_of("docker.endpoint").is_none()
        {
            put(&mut origins, root, DOCKER_HOST, &DOCKER_ENDPOINT, VariableFormat::Scalar.value_of(text));
        }
        match self.api_key() {
            Ok(Some((variable, key))) => put(&mut origins, root, variable, &["keys"], key),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        for (variable, file_variable, path) in SECRETS {
            match self.secret(variable, file_variable) {
                Ok(Some((variable, token))) => put(&mut origins, root, variable, path, token.into()),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        origins
    }

    /// The API key that is given in clear, as a list of keys with one entry.
    fn api_key(&self) -> Result<Option<(&'static str, Value)>, ConfigError> {
        let Some((variable, text)) = self.secret(API_KEY, API_KEY_FILE)? else { return Ok(None) };
        match keys::from_clear(&text) {
            Ok(list) => Ok(Some((variable, list))),
            Err(reason) => Err(fault(variable, format!("{reason} (the value is not shown)"))),
        }
    }

    /// A secret in clear, from a variable or from the file that a second variable names; also returns which of the two variables
    /// was used.
    fn secret(
        &self,
        variable: &'static str,
        file_variable: &'static str,
    ) -> Result<Option<(&'static str, String)>, ConfigError> {
        match (self.get(variable), self.get(file_variable)) {
            (Some(_), Some(_)) => {
                Err(fault(variable, format!("{file_variable} is given too; only one of the two is allowed")))
            }
            (Some(text), None) => Ok(Some((variable, text.to_owned()))),
            (None, Some(path)) => match files::read_text(path) {
                Ok(text) => Ok(Some((file_variable, text.trim_end_matches(['\r', '\n']).to_owned()))),
                Err(error) => Err(fault(file_variable, format!("cannot read {path:?}: {error}"))),
            },
            (None, None) => Ok(None),
        }
    }
}

fn fault(place: &str, message: String) -> ConfigError {
    ConfigError { place: place.into(), variable: None, message }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    /// Keeps the variables that concern Modelgate, and drops the others.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let all = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(
            all.filter(|(name, _): &(String, _)| name.starts_with(VARIABLE_PREFIX) || name == DOCKER_HOST)
                .collect(),
        )
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl VariableFormat {
    fn value_of(self, text: &str) -> Value {
        let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
        match self {
            Self::Scalar => text.trim().into(),
            Self::List => Value::Sequence(items().map(Value::from).collect()),
            Self::Servers => items()
                .map(|url| Value::Mapping([("url".into(), url.into())].into_iter().collect()))
                .collect::<Vec<_>>()
                .into(),
        }
    }
}

/// Puts a value at a path, and creates the sections on the way. Something that is not a section is left as it is; reading it
/// reports the error.
fn put(origins: &mut Origins, root: &mut Mapping, variable: &'static str, path: &[&str], value: Value) {
    let Some((last, sections)) = path.split_last() else { return };
    let mut at = root;
    for section in sections {
        let next = at.entry((*section).into()).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Mapping(Mapping::new());
        }
        match next {
            Value::Mapping(mapping) => at = mapping,
            _ => return,
        }
    }
    at.insert((*last).into(), value);
    origins.note(path.join("."), variable);
}
