//! The keys of identity providers, fetched again and again (RFC 7517; where they are,
//! <https://openid.net/specs/openid-connect-discovery-1_0.html>).
//!
//! Keys stay in force while their issuer does not answer. A token signed with a key that is not known
//! has the issuer asked at once, though no more often than every ten seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use access::{Issuer, IssuerKeys};
use reqwest::Client;
use serde::Deserialize;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::JwtIssuer;

const REFRESH: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(10);
/// Larger than any key set.
const MAX_ANSWER: usize = 1 << 20;

/// The keys of every issuer that was ever configured; a reload keeps them. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySets(Arc<Mutex<HashMap<Source, Known>>>);

/// The issuer, and where its keys are if it does not say so itself.
type Source = (String, Option<String>);

#[derive(Debug, Clone, Default)]
struct Known {
    keys: IssuerKeys,
    asked: Option<Instant>,
    is_good: bool,
}

/// What OpenID Connect's discovery document says, as far as it is needed.
#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

impl KeySets {
    /// An issuer with its keys, present and future ones.
    pub(crate) fn of(&self, issuer: &JwtIssuer) -> Issuer {
        let source = (issuer.issuer.issuer.clone(), issuer.jwks_url.clone());
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = sets.entry(source).or_default().keys.clone();
        Issuer { keys, ..issuer.issuer.clone() }
    }

    /// Keeps them fresh; never returns.
    pub(crate) async fn keep_fresh(&self) {
        let client = Client::builder().timeout(Duration::from_secs(5)).build();
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                warn!(%error, "keys of identity providers cannot be fetched");
                return std::future::pending().await;
            }
        };
        loop {
            for (source, keys) in self.due() {
                let fetched = fetch(&client, &source).await;
                let replaced = fetched.and_then(|json| keys.replace(&json).map_err(|e| e.to_string()));
                let issuer = &source.0;
                match &replaced {
                    Ok(keys) => info!(issuer, keys, "the keys of an identity provider are fetched"),
                    Err(error) => {
                        warn!(
                            issuer,
                            error, "the keys of an identity provider cannot be fetched; the old ones stay"
                        );
                    }
                }
                self.asked(&source, replaced.is_ok());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn due(&self) -> Vec<(Source, IssuerKeys)> {
        let sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |known: &Known| {
            let Some(since) = known.asked.map(|asked| asked.elapsed()) else { return true };
            // Asked for only once it can be answered, or it would be forgotten.
            since >= REFRESH || since >= RETRY && (!known.is_good || known.keys.take_missed())
        };
        sets.iter().filter(|(_, known)| is_due(known)).map(|(s, k)| (s.clone(), k.keys.clone())).collect()
    }

    fn asked(&self, source: &Source, is_good: bool) {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get_mut(source) {
            (known.asked, known.is_good) = (Some(Instant::now()), is_good);
        }
    }
}

async fn fetch(client: &Client, (issuer, jwks_url): &Source) -> Result<Vec<u8>, String> {
    let url = match jwks_url {
        Some(url) => url.clone(),
        None => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let document = get(client, &url).await?;
            let discovery: Discovery =
                serde_json::from_slice(&document).map_err(|e| format!("{url}: {e}"))?;
            discovery.jwks_uri
        }
    };
    get(client, &url).await
}

async fn get(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| format!("{url}: {error}");
    let mut answer =
        client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(format!("{url}: its answer is longer than {MAX_ANSWER} bytes"));
        }
    }
    Ok(body)
}
