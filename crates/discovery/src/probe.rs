//! Asking a server which models it serves, `GET {base_path}/models`
//! (<https://platform.openai.com/docs/api-reference/models/list>), and whether it is ready, in a way
//! that its operator chose: vLLM's `/health`, or Ollama's `/api/ps` with the name of a loaded model in it
//! (<https://github.com/ollama/ollama/blob/main/docs/api.md#list-running-models>).

use std::time::Duration;

use catalogue::{HealthMode, Listing, MAX_LISTING_BYTES, ModelCard, ServerSpec, Source, parse_listing};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header::HeaderValue, redirect::Policy};
use tracing::warn;

/// How long a server may take to answer. It is asked again later, so this need not be generous.
const TIMEOUT: Duration = Duration::from_secs(3);

/// So much of an answer is looked through for the text that means "ready".
const MAX_READY_BYTES: usize = 1 << 20;

/// What a server answered to all that it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Findings {
    /// To which models it serves.
    pub(crate) models: Answer,
    /// To whether it is ready, if that is asked: why not, in words.
    pub(crate) ready: Option<Result<(), String>>,
}

/// What a server answered when it was asked for its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its models, and what its list says besides.
    Models(Listing),
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

/// Asks a server all that there is to ask.
pub(crate) async fn ask(client: &Client, spec: &ServerSpec) -> Findings {
    let (models, ready) = tokio::join!(models(client, spec), ready(client, spec));
    if spec.health == HealthMode::Probe {
        return Findings { models, ready };
    }
    // It is asked only while its HEALTHCHECK passes. What it says otherwise surprises who sees it in `docker ps`.
    let but = |error: String| format!("healthy, but {error}");
    let models = match models {
        Answer::Unreachable(error) => Answer::Unreachable(but(error)),
        Answer::Unusable(error) => Answer::Unusable(but(error)),
        models @ Answer::Models(..) => models,
    };
    Findings { models, ready: ready.map(|ready| ready.map_err(but)) }
}

/// What a server was asked, in words.
fn asked(spec: &ServerSpec, path: &str) -> String {
    match spec.health {
        HealthMode::Docker => path.to_owned(),
        HealthMode::Probe => format!("GET {}{path}", spec.url),
    }
}

/// Asks for the models. A server whose models are given by hand is only asked whether it answers.
async fn models(client: &Client, spec: &ServerSpec) -> Answer {
    let path = format!("{}/models", spec.base_path.as_str());
    let asked = asked(spec, &path);
    let mut response = match get(client, &path, spec).send().await {
        Ok(response) => response,
        Err(error) => return Answer::Unreachable(unreachable(&error, spec)),
    };
    let status = response.status();
    if !spec.models.is_empty() {
        if status.is_server_error() {
            return Answer::Unusable(format!("it answers {}", status.as_u16()));
        }
        let own = if status.is_success() { own_list(&mut response).await } else { Listing::default() };
        return Answer::Models(given_by_hand(spec, &own));
    }
    if !status.is_success() {
        return Answer::Unusable(unusable(&asked, status, spec));
    }
    let body = match read(&mut response).await {
        Ok(body) => body,
        Err(why) => return Answer::Unusable(format!("{asked}: {why}")),
    };
    match parse_listing(&body) {
        Ok(listing) => Answer::Models(listing),
        Err(error) => Answer::Unusable(format!("{asked}: {error}; {}", hint(spec))),
    }
}

/// The list that a server has although its models are given by hand.
async fn own_list(response: &mut Response) -> Listing {
    match read(response).await {
        Ok(body) => parse_listing(&body).unwrap_or_default(),
        Err(_) => Listing::default(),
    }
}

/// The models that the operator gives. The server's own list tells which program it is, and whether it has others.
fn given_by_hand(spec: &ServerSpec, own: &Listing) -> Listing {
    Listing {
        kind: own.kind,
        cards: spec.models.iter().cloned().map(ModelCard::named).collect(),
        left_out: Vec::new(),
        // It may call the one model by another name.
        has_others: own.cards.len() > spec.models.len(),
    }
}

/// Asks `ready.path`, if there is one.
async fn ready(client: &Client, spec: &ServerSpec) -> Option<Result<(), String>> {
    let path = spec.settings.ready_path.as_ref()?;
    let wanted = spec.settings.ready_contains.as_deref();
    Some(is_ready(client, path, wanted, spec).await)
}

async fn is_ready(
    client: &Client,
    path: &str,
    wanted: Option<&str>,
    spec: &ServerSpec,
) -> Result<(), String> {
    let asked = asked(spec, path);
    let response = get(client, path, spec).send().await;
    let mut response = response.map_err(|error| unreachable(&error, spec))?;
    let status = response.status();
    if !status.is_success() {
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => unusable(&asked, status, spec),
            _ => format!("{asked} answers {}, so it is not ready", status.as_u16()),
        });
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let body = read_up_to(&mut response, MAX_READY_BYTES).await.map_err(|why| format!("{asked}: {why}"))?;
    match body.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
        true => Ok(()),
        false => {
            Err(format!("{asked} answers {} without {wanted:?} in it, so it is not ready", status.as_u16()))
        }
    }
}

/// A question with the server's credential; redirects, which could carry it elsewhere, are not followed.
fn get(client: &Client, path: &str, spec: &ServerSpec) -> RequestBuilder {
    let request = client.get(format!("{}{path}", spec.url));
    let Some(credential) = &spec.credential else { return request };
    let mut value = HeaderValue::from_str(credential.reveal()).expect("a credential is visible ASCII");
    value.set_sensitive(true);
    request.header(credential.header(), value)
}

async fn read(response: &mut Response) -> Result<Vec<u8>, String> {
    let body = read_up_to(response, MAX_LISTING_BYTES + 1).await?;
    match body.len() > MAX_LISTING_BYTES {
        true => Err(format!("the answer is longer than {MAX_LISTING_BYTES} bytes")),
        false => Ok(body),
    }
}

/// The beginning of a body; what follows is not waited for.
async fn read_up_to(response: &mut Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(chunk) = response.chunk().await.map_err(|_| "the answer broke off".to_owned())?
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(limit);
    Ok(body)
}

fn unusable(asked: &str, status: StatusCode, spec: &ServerSpec) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let what = match (&spec.credential, &spec.source) {
                (Some(_), _) => "it does not take its credential",
                (None, Source::File) => "it wants a credential; give it one in its entry of servers",
                (None, Source::Docker { .. }) => {
                    "it wants a credential; start it without one (Modelgate checks the keys)"
                }
            };
            format!("{asked} answers {}: {what}", status.as_u16())
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!("{asked} answers {}: {}", status.as_u16(), hint(spec))
        }
        _ => format!("{asked} answers {}", status.as_u16()),
    }
}

fn hint(spec: &ServerSpec) -> &'static str {
    match spec.source {
        Source::Docker { .. } => {
            "set inference.models if it has no model list, or inference.api.base_path if its API is elsewhere"
        }
        Source::File => "set models if it has no model list, or base_path if its API is elsewhere",
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
