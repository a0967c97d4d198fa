//! Calls of the Engine API whose answers bollard's types do not hold.
//!
//! A task's `NetworksAttachments`, which have its addresses, are in no version of the API's
//! description (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Task>), from which
//! bollard's types are made; Docker itself depends on them
//! (<https://pkg.go.dev/github.com/docker/docker/api/types/swarm#Task>).

use std::{fs, path::Path, time::Duration};

use bollard::ClientVersion;
use reqwest::{Certificate, Client, Identity};
use serde::{Deserialize, de::DeserializeOwned};

use super::{CALL_TIMEOUT, DockerEndpoint, DockerTls};

/// A client of one Engine.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    /// Scheme, host and version.
    base: String,
}

/// What the Engine says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Api {
    pub(super) fn new(endpoint: &DockerEndpoint, version: ClientVersion) -> Result<Self, String> {
        let builder = Client::builder().no_proxy().timeout(Duration::from_secs(CALL_TIMEOUT));
        let (builder, authority) = match endpoint {
            DockerEndpoint::Unix(path) => (builder.unix_socket(path.as_path()), "http://docker".to_owned()),
            DockerEndpoint::Tcp(address) => (builder, format!("http://{}", host_and_port(address))),
            DockerEndpoint::Tls(address, tls) => {
                let builder = builder.tls_certs_only(ca(tls)?).identity(identity(tls)?);
                (builder, format!("https://{}", host_and_port(address)))
            }
        };
        let client = builder.build().map_err(|error| error.to_string())?;
        let ClientVersion { major_version, minor_version } = version;
        Ok(Self { client, base: format!("{authority}/v{major_version}.{minor_version}") })
    }

    /// Asks for a path, which may have a query.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let failed = |error: reqwest::Error| format!("GET {path}: {}", cause(&error));
        let response = self.client.get(format!("{}{path}", self.base)).send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            let said = response.json::<Refusal>().await.map(|refusal| refusal.message).unwrap_or_default();
            return Err(format!("GET {path} answers {}: {said}", status.as_u16()));
        }
        response.json().await.map_err(failed)
    }
}

fn host_and_port(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest)
}

fn ca(tls: &DockerTls) -> Result<Vec<Certificate>, String> {
    Certificate::from_pem_bundle(&read(&tls.ca)?).map_err(|_| not_pem(&tls.ca))
}

fn identity(tls: &DockerTls) -> Result<Identity, String> {
    let mut both = read(&tls.cert)?;
    both.push(b'\n');
    both.extend(read(&tls.key)?);
    Identity::from_pem(&both).map_err(|_| format!("{} and its key are not PEM", tls.cert.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn not_pem(path: &Path) -> String {
    format!("{} is not PEM", path.display())
}

/// What is at the bottom of an error; the rest is noise.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}
