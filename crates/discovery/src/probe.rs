//! Probes a server for its models, `GET {base_path}/models` (<https://platform.openai.com/docs/api-reference/models/list>), and
//! for readiness at a path that the operator chose: vLLM's `/health`, or Ollama's `/api/ps` with the name of a loaded model in
//! it (<https://github.com/ollama/ollama/blob/main/docs/api.md#list-running-models>).

use std::{
    error::Error,
    io::ErrorKind,
    iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

use catalogue::{
    Kind, Listing, ListingFinding, MAX_LISTING_BYTES, ModelCard, NoConnection, ProbeFault, ProbeFinding,
    ProbedServer, ServerSpec, parse_listing,
};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{HOST, HeaderValue},
    redirect::Policy,
};
use tracing::warn;

/// The time limit for an answer. Probes repeat, so it need not be generous.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The `Host` of probes to a server that gets clients' `Host`: a reserved name (RFC 2606 §2) that, like those of clients, is
/// not the server's own.
const CLIENTS_HOST: &str = "modelgate-probe.invalid";

/// Ollama's answer at `/`.
const OLLAMA: &[u8] = b"Ollama is running";

/// How much of an answer is searched for the text that means "ready", in bytes.
const MAX_READY_BYTES: usize = 1 << 20;

/// A server's answers to its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answers {
    /// The models, and what else its list says.
    pub(crate) models: Result<Listing, ProbeFinding>,
    /// The readiness, if it is probed.
    pub(crate) ready: Option<Result<(), ProbeFinding>>,
    /// For how long its container had run by then; zero if that is not known.
    pub(crate) run_for: Duration,
}

/// A client for probes: no proxy, no redirects, and connections are kept for less time than uvicorn keeps them.
///
/// A bare image may have no CA certificates; plain HTTP works even then.
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

/// Sends all probes to a server.
pub(crate) async fn ask(client: &Client, spec: &ServerSpec) -> Answers {
    let (models, ready) = tokio::join!(models(client, spec), ready(client, spec));
    let found = |fault| ProbeFinding { asked: ProbedServer::of(spec), fault };
    let started = spec.started().and_then(|started| SystemTime::now().duration_since(started).ok());
    Answers {
        models: models.map_err(found),
        ready: ready.map(|ready| ready.map_err(found)),
        run_for: started.unwrap_or_default(),
    }
}

/// Probes for the models with the `Host` that requests will have: another than the server's own, if it gets clients' hosts. If
/// the server refuses that, its answer for its own host is used, and the refusal is reported.
async fn models(client: &Client, spec: &ServerSpec) -> Result<Listing, ProbeFault> {
    if !gets_clients_hosts(spec) {
        return Ok(told_kind(client, spec, list(client, spec, None).await?).await);
    }
    match list(client, spec, Some(CLIENTS_HOST)).await {
        Err(fault) if may_be_about_host(&fault) => {
            let mut listing = told_kind(client, spec, list(client, spec, None).await?).await;
            // Ollama gets requests with its own host anyway.
            if spec.settings.kind.unwrap_or(listing.kind) != Kind::Ollama {
                listing.left_out.push(ListingFinding::OwnHostOnly(spec.source.origin()));
            }
            Ok(listing)
        }
        listing => Ok(told_kind(client, spec, listing?).await),
    }
}

/// Whether the server gets the clients' `Host`, as far as is known before its kind is. A server whose models are given by hand
/// need not have a list.
fn gets_clients_hosts(spec: &ServerSpec) -> bool {
    let settings = &spec.settings;
    let is_plain = spec.url.as_str().starts_with("http://");
    is_plain
        && settings.pass_host_header.is_none()
        && settings.kind != Some(Kind::Ollama)
        && spec.models.is_empty()
}

/// Whether a server may have refused a request because of its `Host`.
fn may_be_about_host(fault: &ProbeFault) -> bool {
    match fault {
        ProbeFault::Unauthorized { status, .. } => *status == 403,
        ProbeFault::NoModelList { .. } | ProbeFault::NotAListing { .. } => true,
        ProbeFault::Status { status, .. } => (300..400).contains(status) || matches!(status, 400 | 421),
        _ => false,
    }
}

/// The list with kind Ollama, if the server says that it is one.
async fn told_kind(client: &Client, spec: &ServerSpec, listing: Listing) -> Listing {
    match listing.may_be_ollamas() && is_ollama(client, spec).await {
        true => Listing { kind: Kind::Ollama, ..listing },
        false => listing,
    }
}

async fn is_ollama(client: &Client, spec: &ServerSpec) -> bool {
    let Ok(mut response) = get(client, "/", spec).send().await else { return false };
    let body = read_up_to(&mut response, OLLAMA.len() + 1, &"/".into()).await;
    response.status().is_success() && body.is_ok_and(|body| body == OLLAMA)
}

/// Requests the models with a `Host`. A server whose models are given by hand only has to answer.
async fn list(client: &Client, spec: &ServerSpec, host: Option<&'static str>) -> Result<Listing, ProbeFault> {
    let path: Arc<str> = format!("{}/models", spec.base_path.as_str()).into();
    let mut request = get(client, &path, spec);
    if let Some(host) = host {
        request = request.header(HOST, HeaderValue::from_static(host));
    }
    let mut response = request.send().await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    if !spec.models.is_empty() {
        if status.is_server_error() {
            return Err(ProbeFault::Fails { status: status.as_u16() });
        }
        let own = if status.is_success() { own_list(&mut response, &path).await } else { Listing::default() };
        return Ok(given_by_hand(spec, &told_kind(client, spec, own).await));
    }
    if !status.is_success() {
        return Err(unusable(path, status));
    }
    let body = read(&mut response, &path).await?;
    parse_listing(&body).map_err(|error| ProbeFault::NotAListing { path, error })
}

/// The server's own list, where the models are given by hand.
async fn own_list(response: &mut Response, path: &Arc<str>) -> Listing {
    match read(response, path).await {
        Ok(body) => parse_listing(&body).unwrap_or_default(),
        Err(_) => Listing::default(),
    }
}

/// The operator's models. The server's own list only tells its kind, and whether it has other models.
fn given_by_hand(spec: &ServerSpec, own: &Listing) -> Listing {
    Listing {
        kind: own.kind,
        cards: spec.models.iter().cloned().map(ModelCard::named).collect(),
        left_out: Vec::new(),
        // The server may call its one model by another name.
        has_others: own.cards.len() > spec.models.len(),
    }
}

/// Probes `ready.path`, if it is set.
async fn ready(client: &Client, spec: &ServerSpec) -> Option<Result<(), ProbeFault>> {
    let path = spec.settings.ready_path.as_deref()?;
    let wanted = spec.settings.ready_contains.as_deref();
    Some(is_ready(client, path, wanted, spec).await)
}

async fn is_ready(
    client: &Client,
    path: &str,
    wanted: Option<&str>,
    spec: &ServerSpec,
) -> Result<(), ProbeFault> {
    let response = get(client, path, spec).send().await;
    let path = without_query(path);
    let mut response = response.map_err(|error| unreachable(&error))?;
    let status = response.status();
    if !status.is_success() {
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => unusable(path, status),
            _ => ProbeFault::NotReady { path, status: status.as_u16() },
        });
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let body = read_up_to(&mut response, MAX_READY_BYTES, &path).await?;
    match body.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
        true => Ok(()),
        false => Err(ProbeFault::LacksText { path, status: status.as_u16(), wanted: wanted.into() }),
    }
}

/// The part of a path that may be shown: its query may hold a credential.
fn without_query(path: &str) -> Arc<str> {
    match path.split_once('?') {
        Some((path, _)) => format!("{path}?…").into(),
        None => path.into(),
    }
}

/// A request with the server's credential; redirects, which could leak it, are not followed.
pub(crate) fn get(client: &Client, path: &str, spec: &ServerSpec) -> RequestBuilder {
    let request = client.get(format!("{}{path}", spec.url));
    let Some(credential) = &spec.credential else { return request };
    let mut value = HeaderValue::from_str(credential.reveal()).expect("a credential is visible ASCII");
    value.set_sensitive(true);
    request.header(credential.header(), value)
}

async fn read(response: &mut Response, path: &Arc<str>) -> Result<Vec<u8>, ProbeFault> {
    let body = read_up_to(response, MAX_LISTING_BYTES + 1, path).await?;
    match body.len() > MAX_LISTING_BYTES {
        true => Err(ProbeFault::AnswerTooLong { path: Arc::clone(path) }),
        false => Ok(body),
    }
}

/// Reads the beginning of a body, without waiting for the rest.
async fn read_up_to(response: &mut Response, limit: usize, path: &Arc<str>) -> Result<Vec<u8>, ProbeFault> {
    let broke_off = |_| ProbeFault::AnswerBrokeOff { path: Arc::clone(path) };
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(chunk) = response.chunk().await.map_err(broke_off)?
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(limit);
    Ok(body)
}

fn unusable(path: Arc<str>, status: StatusCode) -> ProbeFault {
    let code = status.as_u16();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ProbeFault::Unauthorized { path, status: code },
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            ProbeFault::NoModelList { path, status: code }
        }
        _ => ProbeFault::Status { path, status: code },
    }
}

/// The cause of a failure, without the URL.
fn unreachable(error: &reqwest::Error) -> ProbeFault {
    if error.is_timeout() {
        return ProbeFault::TimedOut { after: TIMEOUT };
    }
    let chain = || iter::successors(Some(error as &(dyn Error + 'static)), |error| inner(*error));
    let cause: Arc<str> = chain().last().map(ToString::to_string).unwrap_or_default().into();
    let tls = chain().find_map(|error| error.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(_)) = tls {
        return ProbeFault::Untrusted { cause };
    }
    let systems = chain().filter_map(|error| error.downcast_ref::<std::io::Error>()).last();
    let why = match systems.map(std::io::Error::kind) {
        _ if tls.is_some() => Some(NoConnection::Tls),
        _ if error.is_dns() => Some(NoConnection::NameNotFound),
        Some(kind) if error.is_connect() => of_system(kind, error.url().is_some_and(has_name)),
        None if error.is_connect() => Some(NoConnection::Other),
        _ => None,
    };
    match why {
        Some(why) => ProbeFault::CannotConnect { why, cause },
        None => ProbeFault::BrokeOff { cause },
    }
}

fn has_name(url: &reqwest::Url) -> bool {
    url.domain().is_some()
}

/// What a system's error says about a connection; `None` if there was one, which ended while TLS began. A name may have several
/// addresses, and the error is that of the last one: on a machine without IPv6, that one.
fn of_system(kind: ErrorKind, has_name: bool) -> Option<NoConnection> {
    match kind {
        ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable if has_name => {
            Some(NoConnection::Refused)
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => None,
        ErrorKind::ConnectionRefused => Some(NoConnection::Refused),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Some(NoConnection::NoRoute)
        }
        _ => Some(NoConnection::Other),
    }
}

/// The cause of an error. An I/O error made of another error gives that one's cause as its own, so it is looked into.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let made_of = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    made_of.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
}

#[cfg(test)]
mod tests {
    use catalogue::ServerUrl;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What is found at this URL.
    async fn found_at(url: &str) -> ProbeFault {
        testkit::install_crypto();
        let spec = ServerSpec::configured("gpu", ServerUrl::parse(url).expect("a URL"));
        ask(&client().expect("a client"), &spec).await.models.expect_err("nothing answers").fault
    }

    /// Regression: all of these were told as a server that may still be loading.
    #[tokio::test]
    async fn what_keeps_a_connection_from_being_made_is_told_apart() {
        let why = async |url: &str| match found_at(url).await {
            ProbeFault::CannotConnect { why, .. } => why,
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(why("http://127.0.0.1:9").await, NoConnection::Refused);
        assert_eq!(why("https://127.0.0.1:9").await, NoConnection::Refused);
        // RFC 6761 §6.4: no resolver knows it.
        assert_eq!(why("http://gpu.invalid:8000").await, NoConnection::NameNotFound);
        assert_eq!(why("https://gpu.invalid:8000").await, NoConnection::NameNotFound);
        // No address is without a route on every machine.
        for (kind, of_address, of_name) in [
            (ErrorKind::HostUnreachable, NoConnection::NoRoute, NoConnection::NoRoute),
            (ErrorKind::NetworkUnreachable, NoConnection::NoRoute, NoConnection::Refused),
            (ErrorKind::AddrNotAvailable, NoConnection::Other, NoConnection::Refused),
        ] {
            let found = [false, true].map(|has_name| of_system(kind, has_name));
            assert_eq!(found, [Some(of_address), Some(of_name)], "{kind}");
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_the_connection_while_tls_begins_is_told_from_one_that_speaks_no_tls() {
        for (answer, is_tls) in [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], true), (b"", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let serves = tokio::spawn(async move {
                while let Ok((mut connection, _)) = listener.accept().await {
                    let _ = connection.read(&mut [0; 4096]).await;
                    let _ = connection.write_all(answer).await;
                }
            });
            let fault = found_at(&format!("https://{address}")).await;
            serves.abort();
            match is_tls {
                true => assert!(
                    matches!(fault, ProbeFault::CannotConnect { why: NoConnection::Tls, .. }),
                    "{fault:?}"
                ),
                false => assert!(matches!(fault, ProbeFault::BrokeOff { .. }), "{fault:?}"),
            }
        }
    }

    #[test]
    fn a_query_of_ready_path_is_not_told() {
        assert_eq!(&*without_query("/ready?api_key=secret"), "/ready?…");
        assert_eq!(&*without_query("/health"), "/health");
    }
}
