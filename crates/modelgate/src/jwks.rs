//! The keys of identity providers, fetched repeatedly (RFC 7517; their URL is found with
//! <https://openid.net/specs/openid-connect-discovery-1_0.html>).
//!
//! Keys stay in force while their issuer does not answer. A token that is signed with an unknown key triggers a fetch from the
//! issuer, at most once in ten seconds.

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use access::{InvalidKeySet, Issuer, IssuerKeys};
use reqwest::Client;
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::config::JwtIssuer;

const REFRESH: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(10);
/// How long an issuer may take to answer, for its discovery document and its keys together.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes; more than any key set needs.
const MAX_ANSWER: usize = 1 << 20;

/// The keys of every issuer that was ever configured; they survive a reload. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySets(Arc<Mutex<HashMap<IssuerId, IssuerState>>>);

/// The issuer, and the URL of its keys if that is configured.
type IssuerId = (String, Option<String>);

#[derive(Debug, Clone, Default)]
struct IssuerState {
    keys: IssuerKeys,
    asked: Option<Instant>,
    is_good: bool,
}

/// The fields in use of OpenID Connect's discovery document.
#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
    issuer: Option<String>,
}

/// The outcome of asking an issuer.
struct IssuerAnswer {
    source: IssuerId,
    answer: Result<Fetched, FetchError>,
}

/// Why the keys of an issuer could not be fetched. URLs are shown without their query, which may hold a secret.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", causes(.0))]
    NoClient(reqwest::Error),
    #[error("no answer within {} s", ISSUER_TIMEOUT.as_secs())]
    Late,
    #[error("{url}: {}", causes(.error))]
    Request { url: String, error: reqwest::Error },
    #[error("{url}: its answer is longer than {MAX_ANSWER} bytes")]
    TooLong { url: String },
    #[error("{url}: {error}")]
    NoDiscovery { url: String, error: serde_json::Error },
    #[error("{url}: {error}")]
    NoKeySet { url: String, error: InvalidKeySet },
}

/// Keys that have just been put in force.
struct Fetched {
    /// How many keys can be used.
    keys: usize,
    /// The issuer in the discovery document, if it differs from the configured one.
    other_name: Option<String>,
}

impl KeySets {
    /// An issuer with its keys; keys that are fetched later appear in it.
    pub(crate) fn of(&self, issuer: &JwtIssuer) -> Issuer {
        let source = (issuer.issuer.issuer.clone(), issuer.jwks_url.clone());
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = sets.entry(source).or_default().keys.clone();
        Issuer { keys, ..issuer.issuer.clone() }
    }

    /// Keeps all keys fresh; never returns.
    pub(crate) async fn keep_fresh(&self) {
        let client = match client() {
            Ok(client) => client,
            Err(error) => {
                warn!(%error, "keys of identity providers cannot be fetched");
                return std::future::pending().await;
            }
        };
        loop {
            for asked in ask_all(&client, self.due()).await {
                asked.log();
                self.note(&asked);
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Fetches the keys of every issuer once, for a command. Returns what an operator should know: the issuers whose keys could
    /// not be fetched, and those whose document names another issuer. Takes at most [`ISSUER_TIMEOUT`].
    pub(crate) async fn fetch_once(&self) -> Vec<String> {
        match client() {
            Ok(client) => ask_all(&client, self.due()).await.iter().flat_map(IssuerAnswer::faults).collect(),
            Err(error) => vec![format!("keys of identity providers cannot be fetched: {error}")],
        }
    }

    fn due(&self) -> Vec<(IssuerId, IssuerKeys)> {
        let sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |known: &IssuerState| {
            let Some(since) = known.asked.map(|asked| asked.elapsed()) else { return true };
            // `take_missed` clears the mark of a missed key, so it is called only when a fetch may follow.
            since >= REFRESH || since >= RETRY && (!known.is_good || known.keys.take_missed())
        };
        sets.iter().filter(|(_, known)| is_due(known)).map(|(s, k)| (s.clone(), k.keys.clone())).collect()
    }

    fn note(&self, IssuerAnswer { source, answer }: &IssuerAnswer) {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get_mut(source) {
            (known.asked, known.is_good) = (Some(Instant::now()), answer.is_ok());
        }
    }
}

impl IssuerAnswer {
    fn log(&self) {
        let issuer = &self.source.0;
        match &self.answer {
            Ok(Fetched { keys, .. }) => info!(issuer, keys, "the keys of an identity provider are fetched"),
            Err(error) => {
                warn!(issuer, %error, "the keys of an identity provider cannot be fetched; the old ones stay");
            }
        }
        if let Ok(Fetched { other_name: Some(says), .. }) = &self.answer {
            warn!(
                issuer,
                says, "an identity provider calls itself otherwise; jwt.issuer must be what its tokens say"
            );
        }
    }

    fn faults(&self) -> Vec<String> {
        let issuer = &self.source.0;
        match &self.answer {
            Err(error) => vec![format!("the keys of {issuer} cannot be fetched: {error}")],
            Ok(fetched) => {
                let none = (fetched.keys == 0).then(|| format!("{issuer} has no keys that check signatures"));
                let other = fetched.other_name.as_ref().map(|says| {
                    format!("{issuer} calls itself {says:?}; jwt.issuer must be what its tokens say")
                });
                none.into_iter().chain(other).collect()
            }
        }
    }
}

fn client() -> Result<Client, FetchError> {
    Client::builder().timeout(ISSUER_TIMEOUT).build().map_err(FetchError::NoClient)
}

/// Asks issuers concurrently, so that none waits for another, and puts their keys in force.
async fn ask_all(client: &Client, due: Vec<(IssuerId, IssuerKeys)>) -> Vec<IssuerAnswer> {
    let mut running = JoinSet::new();
    for (source, keys) in due {
        let client = client.clone();
        running.spawn(async move {
            let fetched = timeout(ISSUER_TIMEOUT, fetch(&client, &source, &keys)).await;
            let answer = fetched.unwrap_or(Err(FetchError::Late));
            IssuerAnswer { source, answer }
        });
    }
    let mut asked = running.join_all().await;
    asked.sort_by(|one, other| one.source.cmp(&other.source));
    asked
}

async fn fetch(
    client: &Client,
    (issuer, jwks_url): &IssuerId,
    keys: &IssuerKeys,
) -> Result<Fetched, FetchError> {
    let (url, name) = match jwks_url {
        Some(url) => (url.clone(), None),
        None => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let document = get(client, &url).await?;
            let discovery: Discovery = serde_json::from_slice(&document)
                .map_err(|error| FetchError::NoDiscovery { url: without_query(&url), error })?;
            (discovery.jwks_uri, discovery.issuer)
        }
    };
    let json = get(client, &url).await?;
    let keys =
        keys.replace(&json).map_err(|error| FetchError::NoKeySet { url: without_query(&url), error })?;
    Ok(Fetched { keys, other_name: name.filter(|name| name != issuer) })
}

async fn get(client: &Client, url: &str) -> Result<Vec<u8>, FetchError> {
    let failed =
        |error: reqwest::Error| FetchError::Request { url: without_query(url), error: error.without_url() };
    let mut answer =
        client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(FetchError::TooLong { url: without_query(url) });
        }
    }
    Ok(body)
}

/// The query is removed because it may hold a secret.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// An error with its causes: "error sending request" alone explains nothing.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
