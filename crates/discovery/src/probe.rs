//! Asking a server which models it serves: `GET {base_path}/models`
//! (<https://platform.openai.com/docs/api-reference/models/list>).

use std::time::Duration;

use catalogue::{MAX_LISTING_BYTES, ModelCard, ServerSpec, Source, parse_listing};
use reqwest::{Client, Response, StatusCode, redirect::Policy};
use tracing::warn;

/// How long a server may take to answer. It is asked again later, so this need not be generous.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its models, and what was left out of its list.
    Models(Vec<ModelCard>, Vec<String>),
    /// It did not answer at all.
    Unreachable(String),
    /// It answered something else, described in words with what to do.
    Unusable(String),
}

/// A client for probes: no proxy, no redirects, no connection kept for longer than uvicorn keeps one.
///
/// A bare image may have no CA certificates; then plain HTTP works all the same.
pub(crate) fn client() -> reqwest::Result<Client> {
    let builder = || {
        Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(concat!("modelgate/", env!("CARGO_PKG_VERSION")))
    };
    builder().build().or_else(|error| {
        warn!(?error, "the system's CA certificates cannot be used; https servers will not be trusted");
        builder().tls_certs_only([]).build()
    })
}

/// Asks a server. One whose models are given by hand is only asked whether it answers.
pub(crate) async fn ask(client: &Client, spec: &ServerSpec) -> Answer {
    let url = format!("{}{}/models", spec.url, spec.base_path.as_str());
    let mut response = match client.get(&url).send().await {
        Ok(response) => response,
        Err(error) => return Answer::Unreachable(unreachable(&error, spec)),
    };
    let status = response.status();
    if !spec.models.is_empty() {
        if status.is_server_error() {
            return Answer::Unusable(format!("it answers {}", status.as_u16()));
        }
        return Answer::Models(spec.models.iter().cloned().map(ModelCard::named).collect(), Vec::new());
    }
    if !status.is_success() {
        return Answer::Unusable(unusable(&url, status, spec));
    }
    let body = match read(&mut response).await {
        Ok(body) => body,
        Err(why) => return Answer::Unusable(format!("GET {url}: {why}")),
    };
    match parse_listing(&body) {
        Ok((cards, left_out)) => Answer::Models(cards, left_out),
        Err(error) => Answer::Unusable(format!("GET {url}: {error}; {}", hint(spec))),
    }
}

async fn read(response: &mut Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| "the answer broke off".to_owned())? {
        if body.len() + chunk.len() > MAX_LISTING_BYTES {
            return Err(format!("the answer is longer than {MAX_LISTING_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unusable(url: &str, status: StatusCode, spec: &ServerSpec) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
            "GET {url} answers {}: it wants a credential; start it without one (Modelgate checks the keys)",
            status.as_u16()
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!("GET {url} answers {}: {}", status.as_u16(), hint(spec))
        }
        _ => format!("GET {url} answers {}", status.as_u16()),
    }
}

fn hint(spec: &ServerSpec) -> &'static str {
    match spec.source {
        Source::Docker { .. } => "set inference.api.base_path, or inference.models if it has no model list",
        Source::File => "set base_path, or models if it has no model list",
    }
}

/// Says what failed without the URL's noise, and what to look at.
fn unreachable(error: &reqwest::Error, spec: &ServerSpec) -> String {
    if error.is_timeout() {
        return format!("{} does not answer within {} s", spec.url, TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let look = match spec.source {
        Source::Docker { .. } => "inference.port",
        Source::File => "url",
    };
    match error.is_connect() {
        true => format!("cannot connect to {}: {cause} (is {look} right?)", spec.url),
        false => format!("{} broke off: {cause}", spec.url),
    }
}
