//! The part of a Traefik's static configuration that is visible: its command line, or its environment.
//!
//! Traefik uses the first of file, command line and environment that is present, and never merges them
//! (<https://doc.traefik.io/traefik/reference/install-configuration/boot-environment/>).

use std::collections::BTreeMap;

use super::label::go_bool;

/// What is visible of a Traefik's provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The provider is off.
    Off,
    /// The provider is on.
    On(Provider),
    /// The configuration is in a place that Modelgate cannot see.
    Hidden,
}

/// Traefik's Docker or Swarm provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Whether it exposes containers without a label `traefik.enable`.
    pub exposed_by_default: bool,
    /// It exposes only containers that match this expression.
    pub constraint: Option<String>,
}

/// A provider to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// For containers.
    Docker,
    /// For a Swarm's services.
    Swarm,
}

/// Where a Traefik's static configuration may be, as its container shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticConfiguration {
    /// Its command line.
    pub args: Vec<String>,
    /// The variables of its environment that are about providers.
    pub env: Vec<(String, String)>,
    /// Whether a configuration file is mounted where Traefik looks for one.
    pub has_file: bool,
}

/// The file names that Traefik looks for, in each of its configuration folders.
const FILES: [&str; 3] = ["traefik.yml", "traefik.yaml", "traefik.toml"];

impl StaticConfiguration {
    /// Keeps only the relevant variables of an environment (`NAME=value`), which also holds secrets. `mounted` are the
    /// container's mount points.
    pub fn new(args: Vec<String>, env: &[String], mounted: &[String]) -> Self {
        let is_ours = |name: &str| name.to_ascii_uppercase().starts_with("TRAEFIK_PROVIDERS_");
        let env = env.iter().filter_map(|variable| variable.split_once('='));
        let env = env.filter(|(name, _)| is_ours(name) || name.eq_ignore_ascii_case("TRAEFIK_CONFIGFILE"));
        let has_file =
            mounted.iter().any(|path| FILES.contains(&path.rsplit('/').next().unwrap_or_default()));
        Self { args, env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), has_file }
    }

    /// What is visible of one provider.
    pub fn sight(&self, kind: ProviderKind) -> Sight {
        let flags = self.flags();
        let all = if flags.is_empty() { self.variables() } else { flags };
        // A Traefik without any provider would be useless, so its providers must be in a file.
        if self.has_file
            || all.contains_key("configfile")
            || !all.keys().any(|key| key.starts_with("providers."))
        {
            return Sight::Hidden;
        }
        let name = match kind {
            ProviderKind::Docker => "providers.docker",
            ProviderKind::Swarm => "providers.swarm",
        };
        let of = |option: &str| all.get(&format!("{name}.{option}"));
        let has_options =
            all.keys().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
        match all.get(name) {
            None if !has_options => return Sight::Off,
            Some(value) if go_bool(value) == Some(false) && !has_options => return Sight::Off,
            _ => {}
        }
        Sight::On(Provider {
            exposed_by_default: of("exposedbydefault").and_then(|value| go_bool(value)).unwrap_or(true),
            constraint: of("constraints").filter(|text| !text.trim().is_empty()).cloned(),
        })
    }

    /// Parses `--a.b=c`, `-a.b c` and `--a.b` (true); names are case-insensitive.
    fn flags(&self) -> BTreeMap<String, String> {
        let mut flags = BTreeMap::new();
        let mut args = self.args.iter().peekable();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--").or(arg.strip_prefix('-')) else { continue };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    let next = args.next_if(|next| !next.starts_with('-'));
                    (flag, next.map_or_else(|| "true".to_owned(), Clone::clone))
                }
            };
            flags.insert(name.to_ascii_lowercase(), value);
        }
        flags
    }

    /// Turns `TRAEFIK_A_B` into `a.b`.
    fn variables(&self) -> BTreeMap<String, String> {
        let key = |name: &str| name.to_ascii_lowercase().trim_start_matches("traefik_").replace('_', ".");
        self.env.iter().map(|(name, value)| (key(name), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(args: &[&str], env: &[&str]) -> Sight {
        let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        StaticConfiguration::new(own(args), &own(env), &[]).sight(ProviderKind::Docker)
    }

    fn on(exposed_by_default: bool, constraint: Option<&str>) -> Sight {
        Sight::On(Provider { exposed_by_default, constraint: constraint.map(str::to_owned) })
    }

    #[test]
    fn the_provider_as_people_write_it() {
        let web = "--entryPoints.web.address=:80";
        let http = "--providers.http.endpoint=http://modelgate:8100/traefik";
        assert_eq!(seen(&["traefik", web, http], &[]), Sight::Off);
        for line in [
            &["--providers.docker"][..],
            &["--providers.docker=true"],
            &["-providers.docker=1"],
            &["--PROVIDERS.Docker.endpoint", "tcp://proxy:2375"],
            &["--providers.docker.exposedbydefault"],
            &["--providers.docker.exposedByDefault=true"],
            &["--providers.docker=false", "--providers.docker.watch=true"],
        ] {
            assert_eq!(seen(&[&[web, http], line].concat(), &[]), on(true, None), "{line:?}");
        }
        for line in [
            "--providers.docker.exposedByDefault=false",
            "--providers.docker.exposedbydefault=F",
            "-providers.docker.EXPOSEDBYDEFAULT=0",
        ] {
            assert_eq!(seen(&[web, http, line], &[]), on(false, None), "{line}");
        }
        assert_eq!(seen(&[http, "--providers.docker=false"], &[]), Sight::Off);
        assert_eq!(seen(&[http, "--providers.swarm"], &[]), Sight::Off, "that is for services");
        let constraint = "Label(`a`,`b`)";
        let line = format!("--providers.docker.constraints={constraint}");
        assert_eq!(seen(&[&line], &[]), on(true, Some(constraint)));
        assert_eq!(seen(&["--providers.docker.constraints", constraint], &[]), on(true, Some(constraint)));
    }

    #[test]
    fn the_environment_counts_where_there_are_no_flags_and_a_file_hides_it_all() {
        let env = ["TRAEFIK_PROVIDERS_DOCKER_EXPOSEDBYDEFAULT=false", "CF_DNS_API_TOKEN=secret", "PATH=/bin"];
        assert_eq!(seen(&["traefik"], &env), on(false, None));
        assert_eq!(seen(&["--providers.docker"], &env), on(true, None), "flags win over the environment");
        assert_eq!(seen(&["traefik"], &[]), Sight::Hidden);
        assert_eq!(seen(&["--log.level=DEBUG"], &[]), Sight::Hidden);
        assert_eq!(seen(&["--configFile=/traefik.yml", "--providers.docker"], &[]), Sight::Hidden);
        for (path, expected) in [
            ("/etc/traefik/traefik.yml", Sight::Hidden),
            ("/traefik.toml", Sight::Hidden),
            ("/etc/traefik/dynamic", on(true, None)),
            ("/letsencrypt", on(true, None)),
        ] {
            let args = vec!["--providers.docker".to_owned()];
            let seen = StaticConfiguration::new(args, &[], &[path.to_owned()]).sight(ProviderKind::Docker);
            assert_eq!(seen, expected, "{path}");
        }
        let kept = StaticConfiguration::new(Vec::new(), &env.map(str::to_owned), &[]);
        assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
    }
}
