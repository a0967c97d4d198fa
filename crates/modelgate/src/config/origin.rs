//! Where each setting comes from, for `modelgate check`.

use std::{collections::BTreeSet, fmt, path::Path};

use config_reader::Origins;
use serde_yaml::{Mapping, Value};

use super::{Env, env::CONFIG_FILE};

/// A setting that was given. All others have their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenSetting {
    /// Its key, such as `listen.admin`; a list is one setting.
    pub(crate) key: String,
    /// Where it comes from.
    pub(crate) source: SettingSource,
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettingSource {
    /// The configuration file.
    File,
    /// An environment variable.
    Variable {
        /// Its name.
        name: &'static str,
        /// The file has the setting too, and its value is not used.
        replaces_file: bool,
    },
}

/// All settings that were given: those in the file, and with the environment put in.
pub(super) fn given(in_file: &BTreeSet<String>, all: &Mapping, origins: &Origins) -> Vec<GivenSetting> {
    let source = |key: &str| match origins.variable_of(key) {
        Some(name) => SettingSource::Variable { name, replaces_file: in_file.contains(key) },
        None => SettingSource::File,
    };
    keys(all).into_iter().map(|key| GivenSetting { source: source(&key), key }).collect()
}

/// The keys of all settings that have a value.
pub(super) fn keys(given: &Mapping) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    collect(given, "", &mut keys);
    keys
}

fn collect(section: &Mapping, before: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in section {
        let key = format!("{before}{}", key.as_str().unwrap_or_default());
        match value {
            Value::Null => {}
            Value::Mapping(section) => collect(section, &format!("{key}."), keys),
            _ => {
                keys.insert(key);
            }
        }
    }
}

/// Who has named the configuration file, in words.
pub(crate) fn named_by(command_line: Option<&Path>, env: &Env) -> &'static str {
    match (command_line, env.get(CONFIG_FILE)) {
        (Some(_), _) => "named by --config",
        (None, Some(_)) => "named by MODELGATE_CONFIG",
        (None, None) => "found in this folder",
    }
}

/// The rest of a sentence that begins with the key.
impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("the file"),
            Self::Variable { name, replaces_file } => {
                write!(f, "environment variable {name}")?;
                if *replaces_file { f.write_str("; the file's value is not used") } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_given_setting_has_its_source() {
        let file = "
listen: { admin: 127.0.0.1:1, provider: null }
traefik: { tls: true, hsts: { max_age: 1d }, cors: {} }
servers: [{ url: 'http://gpu:8000' }]
docker: { endpoint: 'tcp://old:2375' }
";
        let Value::Mapping(mut root) = serde_yaml::from_str(file).expect("YAML") else { panic!("a mapping") };
        let in_file = keys(&root);
        let env: Env = [
            ("MODELGATE_LISTEN_ADMIN", "127.0.0.1:2"),
            ("DOCKER_HOST", "tcp://x"),
            ("MODELGATE_TRAEFIK_HOSTS", "a,b"),
        ]
        .into_iter()
        .collect();
        let origins = env.override_file(&mut root, &mut Vec::new());
        let told: Vec<String> = given(&in_file, &root, &origins)
            .iter()
            .map(|given| format!("{}: {}", given.key, given.source))
            .collect();
        assert_eq!(
            told,
            [
                "docker.endpoint: environment variable DOCKER_HOST; the file's value is not used",
                "listen.admin: environment variable MODELGATE_LISTEN_ADMIN; the file's value is not used",
                "servers: the file",
                "traefik.hosts: environment variable MODELGATE_TRAEFIK_HOSTS",
                "traefik.hsts.max_age: the file",
                "traefik.tls: the file",
            ]
        );
    }
}
