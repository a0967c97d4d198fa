//! Answers ForwardAuth requests: whether a request may pass, and by which route
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/forwardauth/>).
//!
//! This is the hot path: no lock shared between requests, no I/O.
//!
//! The middleware's address says what to decide (`asked.rs`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use access::{
    Decision, Denial, Grant, Reason, Request, Unreadable, UsageEstimate, UsageHour, UsageOf, estimate::Sum,
    prepare,
};
use axum::{
    body::Body,
    extract::Request as HttpRequest,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header,
        header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION},
    },
};
use limits::{Limit, Rate, Unit};
use metering::SpanId;
use prices::{Charge, Price};
use telemetry::Record;
use tracing::warn;

use crate::{
    Shared,
    asked::Asked,
    connection::Peer,
    counting::{self, SharedReservation},
    identity::{self, CLIENT_REQUEST_ID, Identity, REQUEST_ID, TRACEPARENT},
    leaked_key::{self, Leak},
    metered::{self, Admitted},
    misaddressed,
    pricing::Priced,
    refusal::{Dialect, Refusal},
    report::Report,
};

pub(crate) const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
pub(crate) const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const ROUTE: HeaderName = HeaderName::from_static("x-inference-route");
pub(crate) const MODEL: HeaderName = HeaderName::from_static("x-inference-model");
pub(crate) const CONSUMER: HeaderName = HeaderName::from_static("x-inference-consumer");
const KEY: HeaderName = HeaderName::from_static("x-inference-key");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
/// The methods that may reach servers. TRACE would make a server return its credential, and unknown methods could do anything.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answers Traefik. ForwardAuth sends a GET with the client's headers and body; the client's own method and URI are in
/// `X-Forwarded-*`, which Traefik sets itself.
pub(crate) async fn handle(shared: &Arc<Shared>, question: HttpRequest) -> Response<Body> {
    let (since, now) = (Instant::now(), SystemTime::now());
    let (parts, body) = question.into_parts();
    let headers = &parts.headers;
    let identity = Identity::new(headers, &shared.policy());
    let settings = shared.settings();
    let from = client_address(headers, settings.traefik.ip_depth);
    let forwarded = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let report = |method, uri| Report {
        telemetry: shared.telemetry(),
        since: Some(since),
        at: now,
        from,
        identity: &identity,
        method,
        uri,
    };
    let (Some(method), Some(uri)) = (forwarded(&FORWARDED_METHOD), forwarded(&FORWARDED_URI)) else {
        return report(parts.method.as_str(), parts.uri.path())
            .refused(Refusal::not_for_you())
            .answer(Dialect::OpenAi, identity.answered());
    };
    let report = report(method, uri);
    let dialect = Dialect::of(uri, headers);
    let Some(asked) = Asked::parse(parts.uri.query().unwrap_or_default()) else {
        return report.refused(Refusal::not_for_you()).answer(dialect, identity.answered());
    };
    if !METHODS.split(", ").any(|allowed| allowed == method) {
        let mut answer = report.refused(Refusal::method_not_allowed()).answer(dialect, identity.answered());
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
        return answer;
    }
    // Without these two headers it is no handshake (RFC 6455, 4.1), and its messages would pass unseen.
    let is_handshake =
        || headers.contains_key(SEC_WEBSOCKET_KEY) && headers.contains_key(SEC_WEBSOCKET_VERSION);
    if asked.is_websocket() && !is_handshake() {
        return report.refused(Refusal::no_handshake()).answer(dialect, identity.answered());
    }
    if asked.is_key_alone() {
        // Before a large body is read. It decides nothing but that: the second question is asked with the body.
        return match shared.policy().authenticate(headers, from, now) {
            Ok(_) => Response::new(Body::empty()),
            Err(denial) => deny(shared, report, dialect, *denial).answer(dialect, identity.answered()),
        };
    }
    let max_body = settings.traefik.max_body;
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    let Ok(body) = axum::body::to_bytes(body, limit).await else {
        return report.refused(Refusal::too_large(max_body)).answer(dialect, identity.answered());
    };
    let (prepared, body_is_known) = match &*shared.catalogue().load() {
        None => match shared.policy().authenticate(headers, from, now) {
            Ok(_) => return report.refused(Refusal::surveying()).answer(dialect, identity.answered()),
            // A request without a valid key is refused even now.
            Err(denial) => (Err(denial), false),
        },
        Some(catalogue) => {
            let trusted = parts.extensions.get::<Peer>().is_some_and(|peer| settings.trusts(*peer));
            let host = forwarded(&FORWARDED_HOST);
            let mode = asked.mode();
            let request = Request { method, uri, host, headers, body: &body, mode, trusted, from, now };
            (prepare(&shared.policy(), catalogue, &request), request.known_body().is_some())
        }
    };
    let further = &settings.traefik.key_headers;
    let leak = prepared.as_ref().ok().and_then(|pending| {
        leaked_key::find(uri, headers, pending.websocket_protocols(), &shared.policy(), further, now)
    });
    if let Some(leak) = leak {
        let refusal = match leak {
            Leak::Url => Refusal::key_in_url(),
            Leak::Header(name) => Refusal::key_in_header(name),
            Leak::HeaderName => Refusal::key_in_header_name(),
        };
        return report.refused(refusal).answer(dialect, identity.answered());
    }
    let body = body_is_known.then_some(&*body);
    let (decision, taken, price) = match prepared {
        Ok(mut pending) => {
            let priced = Priced {
                prices: &settings.prices,
                uri,
                body,
                is_websocket: asked.is_websocket(),
                keeps_hard_budgets: settings.keeps_hard_budgets || shared.shared_counting().is_some(),
                now,
            };
            match priced.price(&mut pending) {
                Ok(price) => {
                    let (decision, taken) =
                        counting::admit(shared.shared_counting(), shared.limiters(), pending).await;
                    (decision, taken, price)
                }
                Err(reason) => (pending.deny(reason), SharedReservation::default(), None),
            }
        }
        Err(denial) => (Decision::Deny(*denial), SharedReservation::default(), None),
    };
    match decision {
        Decision::Allow(grant) => {
            let record = report.allowed(&grant);
            let parent = settings.traefik.traces.then(identity::secret_parent);
            let response = allow(&grant, &identity, parent.map(|parent| (headers, parent)));
            let (sum, hour, charge) = count_usage((shared, price), &grant, (report, record), body);
            if let Some((opener, parent)) = shared.metering().zip(parent) {
                let request = identity.request();
                metered::open(
                    opener,
                    grant,
                    Admitted { request, parent, uri, hour, sum, charge, shared: taken },
                );
            }
            response
        }
        Decision::Deny(denial) => deny(shared, report, dialect, denial).answer(dialect, identity.answered()),
    }
}

/// Notes that a request is refused, and says how.
fn deny(shared: &Shared, report: Report<'_>, dialect: Dialect, mut denial: Denial) -> Refusal {
    if denial.reason == Reason::UntrustedPeer {
        let request_id = report.identity.own();
        warn!(request_id, model = ?denial.model, "the model's servers demand a credential, and whoever asks has not proven to be Traefik: see traefik.client_certificate and traefik.trusted_addresses");
    }
    if denial.reason == Reason::HardBudgetUnkept {
        let request_id = report.identity.own();
        let consumer = denial.consumer.as_ref().map(|c| c.name.as_str());
        warn!(
            request_id,
            consumer,
            "a hard budget cannot be kept while other Modelgates may count in the same store: set shared_limits.url, or the budget's kind to usual"
        );
    }
    denial.reason = slowed(shared, report.from, denial.reason);
    if !shared.is_metering_silent() {
        sooner(&mut denial);
    }
    report.denied(&denial);
    shared.usage().refused(&denial, report.at);
    if let Some(events) = shared.budget_events() {
        events.refused(&denial);
    }
    let misaddressed = match denial.reason {
        Reason::ClosedPath | Reason::Unreadable(Unreadable::ModelMissing(_)) => {
            misaddressed::refusal(report.uri, dialect, &shared.settings().traefik.path_prefixes)
        }
        _ => None,
    };
    misaddressed.unwrap_or_else(|| Refusal::of(&denial))
}

/// A limit of tokens comes back sooner than by itself when requests end that have reserved more than they use. How soon, nobody
/// knows; but it is worth asking again.
fn sooner(denial: &mut Denial) {
    const WHILE_REQUESTS_ARE_OPEN: Duration = Duration::from_secs(5);
    if let Reason::LimitReached(reached) = &mut denial.reason
        && denial.key.as_ref().is_some_and(|key| key.open_requests.any())
        && matches!(reached.limit, Limit::Rate(rate) if rate.unit() == Unit::Tokens)
        && !reached.never_passes()
    {
        reached.retry_after = reached.retry_after.min(WHILE_REQUESTS_ARE_OPEN);
    }
}

/// Counts the usage, and keeps the decision for people to look at. Returns the estimated tokens, the hour to which they belong,
/// and what they cost.
fn count_usage(
    (shared, price): (&Shared, Option<Arc<Price>>),
    grant: &Grant,
    (report, mut record): (Report<'_>, Record),
    body: Option<&[u8]>,
) -> (Sum, UsageHour, Charge) {
    let sum = grant.sum.unwrap_or_else(|| access::estimate::sum(report.uri, body, grant.answer_tokens));
    let [prompt, completion] = metered::estimated(&sum);
    let of = UsageOf::from(grant);
    let charge = metered::charge(price, [prompt, completion]);
    let estimate = UsageEstimate { prompt, completion, cost: charge.amount().0 };
    let hour = shared.usage().allowed(of, record.at, estimate);
    record.tokens = Some(sum.tokens());
    report.keep(record);
    (sum, hour, charge)
}

/// The client's address. The last one in the header is from Traefik itself: who has connected to it. Those before it are used
/// if that is a trusted proxy; like Traefik's `ipAllowList`, this counts from the right, starting at 1, and returns `None` if
/// there are fewer addresses (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/ipallowlist/>).
pub(crate) fn client_address(headers: &HeaderMap, depth: u8) -> Option<IpAddr> {
    let address = headers.get(FORWARDED_FOR)?.to_str().ok()?.rsplit(',').nth(depth.into())?.trim();
    // Some proxies add a port, which Traefik removes.
    let parsed = address.parse().or_else(|_| address.parse().map(|with_port: SocketAddr| with_port.ip()));
    parsed.ok().map(|address: IpAddr| address.to_canonical())
}

/// Throttles an address from which wrong keys or forged tokens keep coming. Valid keys still pass: other clients may share the
/// address, and 256 bits cannot be guessed.
pub(crate) fn slowed(shared: &Shared, from: Option<IpAddr>, reason: Reason) -> Reason {
    static FAILURES: LazyLock<Rate> = LazyLock::new(|| Rate::per_minute(30, None).expect("in range"));
    if !reason.is_guess() {
        return reason;
    }
    match shared.limiters().failed_from(from, *FAILURES) {
        Ok(()) => reason,
        Err(limited) => limited.into(),
    }
}

/// `traced` are the client's headers and the secret parent if its request is to be traced.
fn allow(grant: &Grant, identity: &Identity<'_>, traced: Option<(&HeaderMap, SpanId)>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        // Model names, consumers and ids were checked when they were read; this is a last check.
        HeaderValue::from_str(value).map(|value| drop(headers.insert(name, value))).is_ok()
    };
    let mut good =
        set(CONSUMER, &grant.consumer.name) && set(KEY, &grant.key.name) && set(REQUEST_ID, identity.own());
    if let Some(client) = identity.client() {
        good &= set(CLIENT_REQUEST_ID, client);
    }
    if let Some((headers, parent)) = traced {
        good &= set(TRACEPARENT, &identity.traceparent(headers, parent));
        // Answers are measured by their bytes. Without this header Traefik itself would ask for gzip.
        good &= set(header::ACCEPT_ENCODING, "identity");
    }
    if let Some(route) = &grant.route {
        good &= set(ROUTE, route.as_str());
    }
    if let Some(model) = &grant.model {
        good &= set(MODEL, model.as_str());
    }
    if let Some(protocols) = &grant.websocket_protocols {
        good &= set(WEBSOCKET_PROTOCOL, protocols);
    }
    if let Some(credential) = &grant.credential {
        good &= set(HeaderName::from_static(credential.header()), credential.reveal());
        // Marked as sensitive, so that no log of headers shows it.
        if let Some(value) = headers.get_mut(credential.header()) {
            value.set_sensitive(true);
        }
    }
    match good {
        true => response,
        false => Refusal::unrouted().answer(Dialect::OpenAi, identity.answered()),
    }
}

#[cfg(test)]
mod tests {
    use access::TokenFault;

    use super::*;

    #[test]
    fn a_clients_address_stands_as_deep_as_there_are_proxies() {
        let at = |depth, forwarded_for: &str| {
            let value = HeaderValue::from_str(forwarded_for).expect("a value");
            client_address(&HeaderMap::from_iter([(FORWARDED_FOR, value)]), depth).map(|ip| ip.to_string())
        };
        let two = "192.0.2.66, 203.0.113.5, 10.0.0.2,10.0.0.1";
        assert_eq!(at(0, two).as_deref(), Some("10.0.0.1"));
        assert_eq!(at(1, two).as_deref(), Some("10.0.0.2"));
        assert_eq!(at(2, two).as_deref(), Some("203.0.113.5"), "whatever its client has put before");
        assert_eq!(at(4, two), None);
        assert_eq!(at(1, "203.0.113.5"), None, "no proxy that Traefik trusts");
        assert_eq!(at(1, "203.0.113.5:4711, 10.0.0.1").as_deref(), Some("203.0.113.5"));
        assert_eq!(at(1, "[2001:db8::7]:4711, 10.0.0.1").as_deref(), Some("2001:db8::7"));
        assert_eq!(at(1, "::ffff:203.0.113.5, 10.0.0.1").as_deref(), Some("203.0.113.5"));
        assert_eq!((at(1, "unknown, 10.0.0.1"), at(1, ", 10.0.0.1"), at(0, "")), (None, None, None));
    }

    /// Sixty forged tokens used to get sixty times 401.
    #[test]
    fn who_guesses_is_slowed_and_that_has_a_code_of_its_own() {
        let shared = Shared::empty();
        let mut hosts = 1_u8..;
        let mut codes = |reason: Reason, times: usize| {
            let from = Some([192, 0, 2, hosts.next().expect("a host")].into());
            (0..times).map(|_| slowed(&shared, from, reason.clone()).code()).collect::<Vec<_>>()
        };
        for guess in [Reason::UnknownKey, Reason::MistypedKey, TokenFault::Unreadable.into()] {
            let own = guess.code();
            let codes = codes(guess, 40);
            assert!(codes[..30].iter().all(|code| *code == own), "{codes:?}");
            assert_eq!(codes[39], "too_many_failures");
        }
        // Clients with expired tokens or keys are not attackers.
        for other in [TokenFault::NoExpiry.into(), Reason::ExpiredKey, Reason::MissingKey] {
            let own = other.code();
            assert!(codes(other, 40).iter().all(|code| *code == own), "{own}");
        }
        let from = Some([192, 0, 2, 1].into());
        let refusal = Refusal::from(&slowed(&shared, from, Reason::UnknownKey));
        assert_eq!(
            (refusal.status.as_u16(), refusal.code),
            (429, "rate_limit_exceeded"),
            "as clients know it"
        );
    }
}
