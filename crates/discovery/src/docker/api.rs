//! A client of one Engine: `GET` requests with JSON answers, which programs other than Docker give as well.
//!
//! Podman's Docker-compatible API has words and gaps that Docker's API description does not mention
//! (<https://docs.podman.io/en/latest/_static/api.html>), and newer Engines add fields. So only the fields in use are read
//! ([`wire`](super::wire)), item by item: an unreadable item does not lose the others.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use futures_util::{Stream, stream};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{DockerEndpoint, DockerTls};

/// The time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The newest version of the API whose changes have been reviewed
/// (<https://docs.docker.com/reference/api/engine/version-history/>).
const NEWEST: Version = Version(1, 53);
/// The longest event that is read.
const MAX_EVENT_BYTES: usize = 1 << 20;
/// How much of an Engine's refusal is shown, in characters.
const MAX_SAID: usize = 200;

/// A client of one Engine.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    /// Scheme, host and the version of the API.
    base: String,
}

/// Why an Engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It cannot be asked with this configuration.
    #[error(transparent)]
    NoClient(#[from] NoClient),
    /// It cannot be connected to.
    #[error("{0}")]
    Unreachable(String),
    /// It refuses the request.
    #[error("GET {path} answers {status}: {said}")]
    Refused {
        /// The path that was requested.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The Engine's message.
        said: String,
    },
    /// The answer did not come, broke off, or has an unexpected format.
    #[error("GET {0}: {1}")]
    Broken(String, String),
}

/// Why a client for an Engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoClient {
    /// A file of its certificates cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file of the CA has no certificates in it.
    #[error("{} is not PEM", .0.display())]
    CaNotPem(PathBuf),
    /// The file of the client certificate has no certificate in it, or that of its key no key.
    #[error("{} and its key are not PEM", .0.display())]
    IdentityNotPem(PathBuf),
    /// The endpoint is not an address.
    #[error("{endpoint}: {error}")]
    Endpoint {
        /// What was given.
        endpoint: DockerEndpoint,
        /// The parse error.
        error: <Url as FromStr>::Err,
    },
    /// The certificates cannot be used.
    #[error("{}", cause(.0))]
    Tls(reqwest::Error),
}

/// A version of the API, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versions {
    #[serde(rename = "ApiVersion")]
    newest: Option<String>,
    #[serde(rename = "MinAPIVersion")]
    oldest: Option<String>,
}

/// The body of an Engine's refusal.
#[derive(Deserialize)]
struct ErrorResponse {
    message: String,
}

impl Api {
    /// Connects to an Engine and negotiates a version of the API.
    pub(super) async fn connect(endpoint: &DockerEndpoint) -> Result<Self, ApiError> {
        let (client, authority) = client(endpoint)?;
        let mut api = Self { client, base: authority };
        let versions: Versions = api.get("/version").await?;
        // Without a version in the path an Engine uses its own newest one.
        if let Some(Version(major, minor)) = versions.agreed() {
            api.base = format!("{}/v{major}.{minor}", api.base);
        }
        Ok(api)
    }

    /// Requests a path, which may have a query.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.get_within(path, CALL_TIMEOUT).await
    }

    /// Like `get`, with another time limit.
    pub(super) async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        time: Duration,
    ) -> Result<T, ApiError> {
        let request = self.client.get(format!("{}{path}", self.base)).timeout(time);
        let response = accepted(path, request.send().await).await?;
        response.json().await.map_err(|error| broken(path, &error))
    }

    /// Requests a list. The caller parses its items one by one.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        // Go writes an empty list as null unless the program avoids it.
        Ok(self.get::<Option<Vec<Value>>>(path).await?.unwrap_or_default())
    }

    /// Streams the events, each a line of JSON. The stream ends with an error.
    pub(super) fn events(&self, filters: &str) -> impl Stream<Item = Result<Vec<u8>, ApiError>> + Send {
        let path = format!("{}/events", self.base);
        let url = Url::parse_with_params(&path, [("filters", filters)]).expect("scheme, host and path");
        stream::unfold(Lines::new(self.client.get(url)), |mut lines| async {
            let line = lines.next().await;
            Some((line, lines))
        })
    }
}

/// An answer that is read line by line.
struct Lines {
    request: Option<reqwest::RequestBuilder>,
    response: Option<Response>,
    read: Vec<u8>,
}

impl Lines {
    const PATH: &str = "/events";

    fn new(request: reqwest::RequestBuilder) -> Self {
        Self { request: Some(request), response: None, read: Vec::new() }
    }

    async fn next(&mut self) -> Result<Vec<u8>, ApiError> {
        let ended = || ApiError::Broken(Self::PATH.into(), "the stream of events has ended".into());
        if let Some(request) = self.request.take() {
            self.response = Some(accepted(Self::PATH, request.send().await).await?);
        }
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if !line.trim_ascii().is_empty() {
                    return Ok(line);
                }
                continue;
            }
            let response = self.response.as_mut().ok_or_else(ended)?;
            let chunk = response.chunk().await.map_err(|error| broken(Self::PATH, &error))?;
            self.read.extend_from_slice(&chunk.ok_or_else(ended)?);
            if self.read.len() > MAX_EVENT_BYTES {
                return Err(ApiError::Broken(Self::PATH.into(), "an event is too long".into()));
            }
        }
    }
}

impl Versions {
    /// The newest version that both support.
    fn agreed(&self) -> Option<Version> {
        let read = |text: &Option<String>| Version::parse(text.as_deref()?);
        let newest = read(&self.newest)?;
        Some(
            newest
                .min(NEWEST)
                .max(read(&self.oldest).filter(|oldest| *oldest <= newest).unwrap_or(Version(0, 0))),
        )
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl ApiError {
    /// The status of a refusal.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::NoClient(_) | Self::Unreachable(_) | Self::Broken(..) => None,
        }
    }
}

async fn accepted(path: &str, sent: reqwest::Result<Response>) -> Result<Response, ApiError> {
    let response = sent.map_err(|error| match error.is_connect() {
        true => ApiError::Unreachable(cause(&error)),
        false => broken(path, &error),
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = response.text().await.unwrap_or_default();
    let said = serde_json::from_str::<ErrorResponse>(&said).map_or(said, |refusal| refusal.message);
    let said = match said.trim() {
        "" => "it does not say why".into(),
        said => said.chars().take(MAX_SAID).collect(),
    };
    Err(ApiError::Refused { path: path.into(), status: status.as_u16(), said })
}

fn broken(path: &str, error: &reqwest::Error) -> ApiError {
    let why = match error.is_timeout() {
        true => "no answer in time".into(),
        false => cause(error),
    };
    ApiError::Broken(path.into(), why)
}

/// A client, and the scheme and host to ask.
fn client(endpoint: &DockerEndpoint) -> Result<(Client, String), NoClient> {
    let builder = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
    // Without encryption no certificate is trusted, and none is looked for: a bare image has none.
    let plain = |builder: ClientBuilder| builder.tls_certs_only([]);
    let (builder, authority) = match endpoint {
        DockerEndpoint::Unix(path) => {
            (plain(builder).unix_socket(path.as_path()), "http://docker".to_owned())
        }
        DockerEndpoint::Tcp(address) => (plain(builder), format!("http://{}", host_and_port(address))),
        DockerEndpoint::Tls(address, tls) => {
            let builder = builder.tls_certs_only(ca(tls)?).identity(identity(tls)?);
            (builder, format!("https://{}", host_and_port(address)))
        }
    };
    Url::parse(&authority).map_err(|error| NoClient::Endpoint { endpoint: endpoint.clone(), error })?;
    Ok((builder.build().map_err(NoClient::Tls)?, authority))
}

fn host_and_port(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/')
}

fn ca(tls: &DockerTls) -> Result<Vec<Certificate>, NoClient> {
    Certificate::from_pem_bundle(&read(&tls.ca)?).map_err(|_| NoClient::CaNotPem(tls.ca.clone()))
}

fn identity(tls: &DockerTls) -> Result<Identity, NoClient> {
    let mut both = read(&tls.cert)?;
    both.push(b'\n');
    both.extend(read(&tls.key)?);
    Identity::from_pem(&both).map_err(|_| NoClient::IdentityNotPem(tls.cert.clone()))
}

fn read(path: &Path) -> Result<Vec<u8>, NoClient> {
    fs::read(path).map_err(|error| NoClient::Unreadable { path: path.to_owned(), error })
}

/// The root cause of an error, without the layers around it.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(newest: Option<&str>, oldest: Option<&str>) -> Option<Version> {
        Versions { newest: newest.map(str::to_owned), oldest: oldest.map(str::to_owned) }.agreed()
    }

    #[test]
    fn the_newest_version_that_both_know() {
        assert_eq!(agreed(Some("1.41"), Some("1.24")), Some(Version(1, 41)), "Podman 4.3 and Docker 20.10");
        assert_eq!(agreed(Some("1.70"), Some("1.44")), Some(NEWEST));
        assert_eq!(agreed(Some("1.70"), Some("1.60")), Some(Version(1, 60)), "as near as it lets us");
        assert_eq!(agreed(Some("1.41"), Some("4.0.0")), Some(Version(1, 41)));
        assert_eq!(agreed(Some("1.9"), None), Some(Version(1, 9)), "9 is before 41");
        assert_eq!(agreed(None, None), None);
        assert_eq!(agreed(Some("latest"), None), None);
    }

    #[tokio::test]
    async fn events_are_lines_however_they_arrive() {
        let mut lines =
            Lines { request: None, response: None, read: b"{\"a\":1}\n\r\n{\"b\":2}\n{\"c".to_vec() };
        assert_eq!(lines.next().await.expect("a line"), b"{\"a\":1}\n");
        assert_eq!(lines.next().await.expect("a line"), b"{\"b\":2}\n");
        assert!(lines.next().await.is_err(), "the rest never comes");
    }
}
