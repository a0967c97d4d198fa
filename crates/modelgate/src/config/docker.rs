//! `docker:` — the Docker host whose containers are looked at.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use catalogue::ServerUrl;
use discovery::{DockerEndpoint, DockerOptions, DockerTls};

use super::{host::Host, section::Section};

/// `docker:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerConfig {
    /// Whether to look at containers at all.
    pub(crate) enabled: Enabled,
    /// How to look at them.
    pub(crate) options: DockerOptions,
    /// Whether the endpoint came from `DOCKER_HOST`.
    pub(crate) endpoint_from_docker_host: bool,
}

/// `docker.enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// If there is something to talk to; see [`DockerConfig::is_wanted`].
    Auto,
    Always,
    Never,
}

impl DockerConfig {
    /// Whether to look at containers: with `auto`, if the endpoint is remote or was given by
    /// `DOCKER_HOST`, or if its socket is there now.
    pub(crate) fn is_wanted(&self) -> bool {
        match (self.enabled, &self.options.endpoint) {
            (Enabled::Always, _) => true,
            (Enabled::Never, _) => false,
            (Enabled::Auto, DockerEndpoint::Unix(path)) => self.endpoint_from_docker_host || path.exists(),
            (Enabled::Auto, DockerEndpoint::Tcp(_) | DockerEndpoint::Tls(..)) => true,
        }
    }
}

/// `docker.endpoint`: a scheme, and a path or a host and a port.
struct Endpoint {
    scheme: &'static str,
    /// The whole of it, with nothing but a host and a port after the scheme.
    url: String,
    /// The host, unless it is a socket.
    host: Option<Host>,
}

impl Endpoint {
    const ALLOWED: &str = "unix:///PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let allowed = || format!("allowed: {}", Self::ALLOWED);
        let (found, rest) = text.split_once("://").ok_or_else(allowed)?;
        let scheme =
            ["unix", "tcp", "http", "https"].into_iter().find(|s| *s == found).ok_or_else(allowed)?;
        if scheme == "unix" {
            let absolute = rest.len() > 1 && rest.starts_with('/');
            return absolute.then(|| Self { scheme, url: text.into(), host: None }).ok_or_else(allowed);
        }
        // The same rules as for a server's URL; they do not know `tcp`.
        let checked = ServerUrl::parse(&format!("http://{rest}"))
            .map_err(|e| format!("{}; allowed: {}", e.reason, Self::ALLOWED))?;
        let authority = checked.as_str().trim_start_matches("http://");
        let host = host_of(authority).ok_or_else(allowed)?;
        Ok(Self { scheme, url: format!("{scheme}://{authority}"), host: Some(host) })
    }
}

impl Default for Endpoint {
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

pub(super) fn read(mut section: Section<'_>) -> DockerConfig {
    let enabled = section
        .one_of("enabled", &[("auto", Enabled::Auto), ("true", Enabled::Always), ("false", Enabled::Never)])
        .unwrap_or(Enabled::Auto);
    let from_docker_host = section.variable("endpoint") == Some("DOCKER_HOST");
    let endpoint = if from_docker_host && enabled == Enabled::Never {
        // Meant for other programs; its value is none of our business, even if we could not use it.
        section.skip("endpoint");
        None
    } else {
        section.url("endpoint", Endpoint::ALLOWED, Endpoint::parse)
    };
    let endpoint = endpoint.unwrap_or_default();
    let tls = read_tls(&mut section, endpoint.scheme);
    let network = section.get("network", "the name of a Docker network", network_name);
    let host_address =
        section.get("host_address", Host::ALLOWED, Host::parse).or_else(|| endpoint.host.clone());
    let published = section.one_of("reach", &[("network", false), ("published", true)]).unwrap_or(false);
    if published && host_address.is_none() && !section.has("host_address") {
        section.error(
            "reach",
            "found \"published\"; with a unix endpoint it needs docker.host_address, the address whose ports are \
             published",
        );
    }
    section.finish();
    let options = DockerOptions {
        endpoint: match (endpoint.url.strip_prefix("unix://"), tls) {
            (Some(path), _) => DockerEndpoint::Unix(path.into()),
            (None, None) => DockerEndpoint::Tcp(endpoint.url),
            (None, Some(tls)) => DockerEndpoint::Tls(endpoint.url, tls),
        },
        network,
        host_address: host_address.map(|host| host.as_str().into()),
        published,
    };
    DockerConfig { enabled, options, endpoint_from_docker_host: from_docker_host }
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

/// Docker's own rule for names of networks and containers.
fn network_name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let first = text.bytes().next()?.is_ascii_alphanumeric();
    (first && text.len() <= 128 && text.bytes().all(allowed)).then(|| text.into())
}

/// A file that can be opened now, so that a mistake shows at start and not at the first connection.
fn readable_file(path: &str) -> Result<PathBuf, io::Error> {
    let path = Path::new(path);
    match fs::File::open(path)?.metadata()?.is_file() {
        true => Ok(path.into()),
        false => Err(io::Error::other("it is not a file")),
    }
}
