//! `docker:` — the Docker hosts whose containers, or Swarm tasks, are looked at.
//!
//! Its keys describe one host; `docker.hosts` is a list of several, each with the same keys and a name.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use catalogue::ServerUrl;
use discovery::{DockerEndpoint, DockerOptions, DockerTls};

use config_reader::Section;

use super::{files, host::Host};

/// `docker:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerConfig {
    /// Whether to look at containers at all.
    pub(crate) enabled: Enabled,
    /// The hosts to look at; at least one.
    pub(crate) hosts: Vec<DockerOptions>,
    /// Whether an operator named the hosts, by `docker.hosts` or by `DOCKER_HOST`.
    pub(crate) named: bool,
}

/// `docker.enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// If a Docker host can be found; see [`DockerConfig::is_wanted`].
    Auto,
    Always,
    Never,
}

impl DockerConfig {
    /// Whether to look at containers. With `auto`: if the host is remote, if it was named by `docker.hosts` or `DOCKER_HOST`, or
    /// if its socket exists now.
    pub(crate) fn is_wanted(&self) -> bool {
        let is_there = |host: &DockerOptions| match &host.endpoint {
            DockerEndpoint::Unix(path) => path.exists(),
            DockerEndpoint::Tcp(_) | DockerEndpoint::Tls(..) => true,
        };
        match self.enabled {
            Enabled::Always => true,
            Enabled::Never => false,
            Enabled::Auto => self.named || self.hosts.iter().any(is_there),
        }
    }
}

/// `docker.endpoint`: a scheme, and a path or a host and a port.
struct EngineEndpoint {
    scheme: &'static str,
    /// The whole endpoint; after the scheme it has only a host and a port.
    url: String,
    /// The host; `None` for a socket.
    host: Option<Host>,
}

/// Why a text is not an endpoint.
#[derive(Debug, thiserror::Error)]
enum BadEndpoint {
    #[error("allowed: {}", EngineEndpoint::ALLOWED)]
    Form,
    #[error("{reason}; allowed: {}", EngineEndpoint::ALLOWED)]
    Address { reason: &'static str },
}

impl EngineEndpoint {
    const ALLOWED: &str = "unix:///PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT";

    fn parse(text: &str) -> Result<Self, BadEndpoint> {
        let allowed = || BadEndpoint::Form;
        let (found, rest) = text.split_once("://").ok_or_else(allowed)?;
        let scheme =
            ["unix", "tcp", "http", "https"].into_iter().find(|s| *s == found).ok_or_else(allowed)?;
        if scheme == "unix" {
            let absolute = rest.len() > 1 && rest.starts_with('/');
            return absolute.then(|| Self { scheme, url: text.into(), host: None }).ok_or_else(allowed);
        }
        // The rules for a server's URL apply, but they do not know the scheme `tcp`.
        let checked = ServerUrl::parse(&format!("http://{rest}"))
            .map_err(|error| BadEndpoint::Address { reason: error.reason })?;
        let authority = checked.as_str().trim_start_matches("http://");
        let host = host_of(authority).ok_or_else(allowed)?;
        Ok(Self { scheme, url: format!("{scheme}://{authority}"), host: Some(host) })
    }
}

impl Default for EngineEndpoint {
    fn default() -> Self {
        Self { scheme: "unix", url: "unix:///var/run/docker.sock".into(), host: None }
    }
}

fn host_of(authority: &str) -> Option<Host> {
    let host = match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    };
    Host::parse(host)
}

/// The keys that describe one host.
const KEYS_OF_A_HOST: [&str; 7] = ["endpoint", "tls", "network", "host_address", "reach", "project", "swarm"];
const DOCKER_HOST: &str = "DOCKER_HOST";
const PROJECT: &str = "the name of a Compose project, or of a stack in a Swarm";
const NAME: &str = "1 to 64 letters, digits and ._-";

pub(super) fn read(mut section: Section<'_>) -> DockerConfig {
    let enabled = section
        .one_of("enabled", &[("auto", Enabled::Auto), ("true", Enabled::Always), ("false", Enabled::Never)])
        .unwrap_or(Enabled::Auto);
    let listed = section.has("hosts");
    let sections = section.sections("hosts");
    section.require_some("hosts", &sections);
    let from_docker_host = section.variable("endpoint") == Some(DOCKER_HOST);
    let hosts = if listed && !section.is_form() {
        for key in KEYS_OF_A_HOST {
            // DOCKER_HOST is not an error here: it is meant for other programs as well, and the list takes precedence.
            if section.has(key) && section.variable(key) != Some(DOCKER_HOST) {
                section.error(
                    key,
                    "is given beside docker.hosts; allowed: one of the two, with this key in the list",
                );
            }
            section.skip(key);
        }
        read_list(sections)
    } else {
        // The form has both.
        read_list(sections);
        // DOCKER_HOST is meant for other programs. With Docker disabled its value does not matter, even if it is invalid.
        let skip_endpoint = from_docker_host && enabled == Enabled::Never;
        vec![read_host(&mut section, "docker", DockerOptions::DEFAULT_NAME, skip_endpoint)]
    };
    section.finish();
    DockerConfig { enabled, hosts, named: listed || from_docker_host }
}

fn read_list(sections: Vec<Section<'_>>) -> Vec<DockerOptions> {
    let mut hosts: Vec<DockerOptions> = Vec::with_capacity(sections.len());
    for (i, mut section) in sections.into_iter().enumerate() {
        let name = section.get("name", NAME, host_name);
        section.require("name", NAME);
        section.require("endpoint", EngineEndpoint::ALLOWED);
        // The placeholder for an invalid name is never used: an error has been reported already.
        let host = read_host(
            &mut section,
            &format!("docker.hosts[{i}]"),
            name.as_deref().unwrap_or_default(),
            false,
        );
        if !host.name.is_empty()
            && let Some(other) = hosts.iter().position(|other| other.name == host.name)
        {
            section.error(
                "name",
                format!("docker.hosts[{other}] is called {:?} too; allowed: a name of its own", host.name),
            );
        }
        hosts.push(host);
        section.finish();
    }
    hosts
}

/// Reads the keys that describe one host; `place` is where they are, for error messages.
fn read_host(section: &mut Section<'_>, place: &str, name: &str, skip_endpoint: bool) -> DockerOptions {
    let endpoint = if skip_endpoint {
        section.skip("endpoint");
        None
    } else {
        section.url("endpoint", EngineEndpoint::ALLOWED, EngineEndpoint::parse)
    };
    let endpoint = endpoint.unwrap_or_default();
    let tls = read_tls(section, endpoint.scheme);
    let network = section.get("network", "the name of a Docker network", network_name);
    let host_address =
        section.get("host_address", Host::ALLOWED, Host::parse).or_else(|| endpoint.host.clone());
    let published = section.one_of("reach", &[("network", false), ("published", true)]).unwrap_or(false);
    let project = section.get("project", PROJECT, network_name);
    let swarm = section.bool("swarm").unwrap_or(false);
    // In a Swarm the nodes know their own addresses.
    if published && !swarm && host_address.is_none() && !section.has("host_address") {
        section.error(
            "reach",
            format!(
                "found \"published\"; with a unix endpoint it needs {place}.host_address, the address whose ports \
                 are published"
            ),
        );
    }
    let endpoint = match (endpoint.url.strip_prefix("unix://"), tls) {
        (Some(path), _) => DockerEndpoint::Unix(path.into()),
        (None, None) => DockerEndpoint::Tcp(endpoint.url),
        (None, Some(tls)) => DockerEndpoint::Tls(endpoint.url, tls),
    };
    DockerOptions {
        network,
        host_address: host_address.map(|host| host.as_str().into()),
        published,
        project,
        swarm,
        ..DockerOptions::new(name, endpoint)
    }
}

fn host_name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}

/// Reads `tls`, which must suit the endpoint's scheme.
fn read_tls(docker: &mut Section<'_>, scheme: &str) -> Option<DockerTls> {
    const KEYS: [&str; 3] = ["ca", "cert", "key"];
    let given = docker.has("tls");
    let mut section = docker.section("tls");
    let [ca, cert, key] = KEYS.map(|key| section.try_get(key, "the path of a PEM file", readable_file));
    match (given, scheme) {
        (false, "https") => docker.error("tls", "is missing; an https endpoint needs ca, cert and key"),
        (true, "tcp" | "https") => {
            for key in KEYS {
                section.require(key, "the path of a PEM file; ca, cert and key go together");
            }
        }
        (true, _) => {
            docker.error(
                "tls",
                format!("the endpoint is {scheme}://; allowed: tls with a tcp:// or https:// endpoint"),
            );
        }
        (false, _) => {}
    }
    section.finish();
    Some(DockerTls { ca: ca?, cert: cert?, key: key? })
}

/// Docker's own rule for the names of networks and containers.
fn network_name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let first = text.bytes().next()?.is_ascii_alphanumeric();
    (first && text.len() <= 128 && text.bytes().all(allowed)).then(|| text.into())
}

/// The file must be readable now, so that a mistake is reported at start and not at the first connection.
fn readable_file(path: &str) -> Result<PathBuf, io::Error> {
    let path = Path::new(path);
    match fs::File::open(path).map_err(|error| files::explained(error, path))?.metadata()?.is_file() {
        true => Ok(path.into()),
        false => Err(io::Error::other("it is not a file")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, Env, NeededSecrets},
        *,
    };

    fn load(yaml: &str, variables: &[(&str, &str)]) -> Result<DockerConfig, String> {
        let env: Env = variables.iter().copied().collect();
        let yaml = serde_yaml::from_str(yaml).expect("YAML");
        Config::read(yaml, &env, NeededSecrets::All)
            .map(|config| config.docker)
            .map_err(|errors| errors.to_string())
    }

    const TWO: &str = "
docker:
  hosts:
    - { name: gpu1, endpoint: \"tcp://10.0.0.5:2375\", reach: published }
    - { name: swarm, endpoint: unix:///run/swarm.sock, swarm: true, network: ai }
";

    #[test]
    fn one_host_by_the_keys_of_docker_itself() {
        let one = load("docker: { endpoint: \"tcp://h:2375\", swarm: true }", &[]).expect("good");
        assert_eq!(one.hosts.len(), 1);
        assert_eq!((one.hosts[0].name.as_str(), one.hosts[0].swarm, one.named), ("docker", true, false));
        let default = load("{}", &[]).expect("good");
        assert_eq!(default.hosts[0].endpoint, DockerEndpoint::Unix("/var/run/docker.sock".into()));
        let variable = load("{}", &[("DOCKER_HOST", "unix:///nowhere.sock")]).expect("good");
        assert!(variable.named && variable.is_wanted(), "it was named, so that it fails loudly");
    }

    #[test]
    fn several_hosts() {
        let two = load(TWO, &[]).expect("good");
        assert!(two.is_wanted());
        let names: Vec<_> = two.hosts.iter().map(|h| (h.name.as_str(), h.swarm, h.published)).collect();
        assert_eq!(names, [("gpu1", false, true), ("swarm", true, false)]);
        assert_eq!(two.hosts[0].host_address.as_deref(), Some("10.0.0.5"), "the endpoint's");
        assert_eq!(two.hosts[1].network.as_deref(), Some("ai"));
        let ignored = load(TWO, &[("DOCKER_HOST", "ssh://elsewhere")]).expect("meant for other programs");
        assert_eq!(ignored, two);
        let never = load(&TWO.replace("  hosts:", "  enabled: false\n  hosts:"), &[]).expect("good");
        assert!(!never.is_wanted());
    }

    #[test]
    fn keys_of_one_host_beside_the_list() {
        let yaml = TWO.replace("  hosts:", "  network: ai\n  swarm: true\n  hosts:");
        let told = load(&yaml, &[]).expect_err("both");
        for key in
            ["docker.network: is given beside docker.hosts", "docker.swarm: is given beside docker.hosts"]
        {
            assert!(told.contains(key), "{told}");
        }
        let told = load(TWO, &[("MODELGATE_DOCKER_ENDPOINT", "tcp://h:1")]).expect_err("both");
        assert!(told.contains("docker.endpoint (from MODELGATE_DOCKER_ENDPOINT): is given beside"), "{told}");
    }

    #[test]
    fn entries_that_are_wrong() {
        for (entries, message) in [
            ("[]", "docker.hosts: found an empty list"),
            ("[{ endpoint: \"tcp://h:1\" }]", "docker.hosts[0].name: is missing; allowed: 1 to 64 letters"),
            ("[{ name: a }]", "docker.hosts[0].endpoint: is missing; allowed: unix:///PATH, tcp://HOST:PORT"),
            (
                "[{ name: \"a/b\", endpoint: \"tcp://h:1\" }]",
                "docker.hosts[0].name: found \"a/b\"; allowed: 1 to 64",
            ),
            (
                "[{ name: a, endpoint: \"tcp://h:1\" }, { name: a, endpoint: \"tcp://i:1\" }]",
                "docker.hosts[1].name: docker.hosts[0] is called \"a\" too; allowed: a name of its own",
            ),
            (
                "[{ name: a, endpoint: unix:///s, reach: published }]",
                "it needs docker.hosts[0].host_address, the address whose ports are published",
            ),
            (
                "[{ name: a, endpoint: \"tcp://h:1\", swarm: maybe }]",
                "docker.hosts[0].swarm: found \"maybe\"",
            ),
            (
                "[{ name: a, endpoint: \"https://h:1\" }]",
                "docker.hosts[0].tls: is missing; an https endpoint needs",
            ),
            ("[{ name: a, endpoint: \"tcp://h:1\", netwrok: x }]", "docker.hosts[0]: unknown key `netwrok`"),
        ] {
            let told = load(&format!("docker: {{ hosts: {entries} }}"), &[]).expect_err(entries);
            assert!(told.contains(message), "{entries}: {told}");
            assert!(told.contains("has 1 error:") || !told.contains("errors"), "{entries}: {told}");
        }
    }
}
