//! `GET /v1/usage`: what the caller's own key has used. Servers' answers say it per request; this says it in sums.

use std::{borrow::Cow, fmt, pin::Pin, sync::OnceLock, time::Duration};

use access::Key;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};

use crate::refusal::Refusal;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many are looked up at once; others wait.
const AT_ONCE: usize = 1;

/// A question of a caller about its own usage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnUsageQuestion {
    /// The name of the caller's key.
    pub key: String,
    /// Its consumer.
    pub consumer: String,
    /// In which usage is paid, if there are prices.
    pub currency: Option<String>,
    /// The parameters of the query, decoded; each name once.
    pub parameters: Vec<(String, String)>,
}

/// The answer: sums, the newest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnUsage {
    /// The columns that each sum is by.
    pub by: String,
    /// The sums.
    pub sums: Vec<Value>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoOwnUsage {
    /// A parameter is unknown, or its value is not allowed. Says which, and what is allowed.
    Parameter(String),
    /// Usage is not kept.
    NotKept,
    /// The store does not answer.
    Unavailable,
}

type LookedUp = Pin<Box<dyn Future<Output = Result<OwnUsage, NoOwnUsage>> + Send>>;

/// Where usage is looked up.
pub(crate) struct OwnUsageSource {
    source: OnceLock<Box<dyn Fn(OwnUsageQuestion) -> LookedUp + Send + Sync>>,
    places: Semaphore,
}

impl Default for OwnUsageSource {
    fn default() -> Self {
        Self { source: OnceLock::new(), places: Semaphore::new(AT_ONCE) }
    }
}

impl fmt::Debug for OwnUsageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnUsageSource")
    }
}

impl OwnUsageSource {
    pub(crate) fn set<A>(&self, source: impl Fn(OwnUsageQuestion) -> A + Send + Sync + 'static)
    where
        A: Future<Output = Result<OwnUsage, NoOwnUsage>> + Send + 'static,
    {
        let _ = self.source.set(Box::new(move |question| Box::pin(source(question))));
    }

    /// Answers a caller.
    pub(crate) async fn answer(
        &self,
        key: &Key,
        currency: Option<String>,
        query: &str,
    ) -> Result<Value, Refusal> {
        let parameters = parameters(query).map_err(|unknown| refusal(NoOwnUsage::Parameter(unknown)))?;
        let source = self.source.get().ok_or_else(|| refusal(NoOwnUsage::NotKept))?;
        let (key_name, consumer) = (key.name.clone(), key.consumer.name.clone());
        let question = OwnUsageQuestion { key: key_name, consumer, currency, parameters };
        let looked_up = async {
            let _place = self.places.acquire().await.map_err(|_| NoOwnUsage::Unavailable)?;
            source(question).await
        };
        let answered = timeout(PATIENCE, looked_up).await.unwrap_or(Err(NoOwnUsage::Unavailable));
        let OwnUsage { by, sums, has_more } = answered.map_err(refusal)?;
        Ok(json!({
            "object": "usage", "key": key.name, "consumer": key.consumer.name, "by": by, "data": sums,
            "has_more": has_more,
        }))
    }
}

fn refusal(why: NoOwnUsage) -> Refusal {
    match why {
        NoOwnUsage::Parameter(message) => Refusal::parameter(message),
        NoOwnUsage::NotKept => Refusal::usage_not_kept(),
        NoOwnUsage::Unavailable => Refusal::usage_unavailable(),
    }
}

/// The parameters of a query, or what is wrong with one.
fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(Cow::into_owned)
    };
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Ok(name), Ok(value)) = (decoded(name), decoded(value)) else {
            return Err("The query is not UTF-8.".into());
        };
        if parameters.iter().any(|(other, _)| *other == name) {
            return Err(format!("The parameter {name:?} is there more than once."));
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_it_is_meant_or_refused() {
        let read = |query: &str| {
            let pairs = parameters(query)?.into_iter();
            Ok::<_, String>(
                pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
            )
        };
        assert_eq!(read(""), Ok(String::new()));
        assert_eq!(read("by=day%2Cmodel&model=a%20b&x"), Ok("by=day,model model=a b x=".into()));
        assert!(read("by=day&by=hour").is_err_and(|message| message.contains("\"by\"")));
        assert!(read("model=%ff").is_err());
    }
}
