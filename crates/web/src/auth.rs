//! Answers ForwardAuth requests: whether a request may pass, and by which route
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/forwardauth/>).
//!
//! This is the hot path: no lock shared between requests, no I/O.
//!
//! The middleware's address says what to decide (`asked.rs`).

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use access::{
    Decision, Denial, Grant, Pending, Reason, Request, Unreadable, UsageEstimate, UsageOf,
    estimate::{Media, PaidBy},
    prepare,
};
use axum::{
    body::Body,
    extract::Request as HttpRequest,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header,
        header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION},
        request::Parts,
    },
};
use catalogue::RouteId;
use limits::{Limit, Rate, Unit};
use metering::SpanId;
use prices::{Charge, Price};
use server_choice::Comer;
use telemetry::Record;
use tracing::warn;

use crate::{
    Shared,
    asked::Asked,
    choice::{Chosen, FullPool, PickQuestion, UnderWay},
    connection::Peer,
    counting::{self, SharedReservation},
    identity::{self, CLIENT_REQUEST_ID, Identity, REQUEST_ID, TRACEPARENT},
    leaked_key::{self, Leak},
    metered::{self, Admitted, Counted},
    misaddressed,
    pricing::{Priced, is_counted, price_of},
    refusal::{Dialect, Refusal},
    report::Report,
    waiting::{WaitFault, WaitersTurn},
};

pub(crate) const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
pub(crate) const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const ROUTE: HeaderName = HeaderName::from_static("x-inference-route");
pub(crate) const SERVER: HeaderName = HeaderName::from_static("x-inference-server");
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
    let identity = {
        let policy = shared.policy();
        Identity::new(headers, &policy).sampled(headers, &policy, shared.sampler())
    };
    let from = client_address(headers, shared.settings().traefik.ip_depth);
    let forwarded = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let report = |method, uri| Report {
        telemetry: shared.telemetry(),
        since: Some(since),
        waited: None,
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
    let mut report = report(method, uri);
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
    let max_body = shared.settings().traefik.max_body;
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    let Ok(body) = axum::body::to_bytes(body, limit).await else {
        return report.refused(Refusal::too_large(max_body)).answer(dialect, identity.answered());
    };
    if shared.catalogue().load().is_none() && shared.policy().authenticate(headers, from, now).is_ok() {
        shared.first_catalogue().await;
    }
    // No guard is kept: a request may wait here for long, and each kept one makes the next ones slower (`arc_swap`).
    let judge = |now| {
        let (catalogue, settings) = (shared.catalogue().load(), shared.settings());
        let trusted = parts.extensions.get::<Peer>().is_some_and(|peer| settings.trusts(*peer));
        let host = forwarded(&FORWARDED_HOST);
        let mode = asked.mode();
        let request = Request { method, uri, host, headers, body: &body, mode, trusted, from, now };
        let prepared = prepare(&shared.policy(), (*catalogue).as_ref()?, &request);
        Some((prepared, request.known_body().is_some()))
    };
    let Some((prepared, body_is_known)) = judge(now) else {
        return match shared.policy().authenticate(headers, from, now) {
            Ok(_) => report.refused(Refusal::surveying()).answer(dialect, identity.answered()),
            // A request without a valid key is refused even now.
            Err(denial) => deny(shared, report, dialect, *denial).answer(dialect, identity.answered()),
        };
    };
    let leak = prepared.as_ref().ok().and_then(|pending| {
        let further = &shared.settings().traefik.key_headers;
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
    let may_wait = method == "POST" && !asked.is_websocket() && body_is_known && !body.is_empty();
    let first = Judged { prepared, now, turn: None };
    let judged = if may_wait {
        first.in_turn(shared, memory_of(&parts, body.len()), &mut report, judge).await
    } else {
        Some(first)
    };
    let Some(Judged { prepared, now, turn }) = judged else {
        return report.refused(Refusal::surveying()).answer(dialect, identity.answered());
    };
    let body = body_is_known.then_some(&*body);
    let media = if prepared.is_ok() { Media::of(uri, body) } else { Media::default() };
    let of_request = (uri, body, media, asked.is_websocket());
    let (decision, taken, price) = admit(shared, prepared, of_request, now).await;
    match decision {
        Decision::Allow(mut grant) => {
            let body_to_pick_by = body.filter(|_| method == "POST" && !asked.is_websocket());
            let chosen = choose_server(shared, &mut grant, uri, body_to_pick_by, &identity);
            drop(turn);
            let mut record = report.allowed(&grant);
            record.chosen = chosen.as_ref().map(|chosen| Arc::clone(&chosen.why));
            let parent = shared.settings().traefik.traces.then(identity::secret_parent);
            let route = chosen.as_ref().map(|chosen| &chosen.route);
            let response = allow(&grant, route, &identity, parent.map(|parent| (headers, parent)));
            let counted = count_usage((shared, price), &grant, (report, record), (body, media));
            let under_way = chosen.map(|chosen| chosen.under_way);
            hand_over(shared, grant, (&identity, parent, uri, now), counted, (taken, under_way));
            response
        }
        Decision::Deny(denial) => deny(shared, report, dialect, denial).answer(dialect, identity.answered()),
    }
}

/// The memory that a request takes while it waits, in bytes.
fn memory_of(parts: &Parts, body: usize) -> usize {
    /// What the request itself takes, and its place among those that wait.
    const OWN: usize = 4_096;
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    OWN + body + headers.sum::<usize>()
}

/// A request, judged but for its limits.
struct Judged {
    prepared: Result<Pending, Box<Denial>>,
    /// When it was judged.
    now: SystemTime,
    /// The room that a server has for it, if requests may wait for its pool.
    turn: Option<WaitersTurn>,
}

impl Judged {
    /// Waits until a server has room, if its pool is full. Meanwhile its key may have been disabled, or the servers be others, so it is
    /// judged anew. `None` if there is no catalogue any more.
    async fn in_turn(
        self,
        shared: &Shared,
        bytes: usize,
        report: &mut Report<'_>,
        judge: impl Fn(SystemTime) -> Option<(Result<Pending, Box<Denial>>, bool)>,
    ) -> Option<Self> {
        let pending = match self.prepared {
            Ok(pending) => pending,
            Err(denial) => return Some(Self { prepared: Err(denial), ..self }),
        };
        let pool = match shared.choices().enter(&pending) {
            Ok(turn) => return Some(Self { prepared: Ok(pending), turn, ..self }),
            Err(pool) => pool,
        };
        let since = Instant::now();
        let waited = wait_for_server(shared, pending, pool, bytes).await;
        report.waited = Some(since.elapsed());
        let now = SystemTime::now();
        Some(match waited {
            Ok(turn) => Self { prepared: judge(now)?.0, now, turn: Some(turn) },
            Err(denial) => Self { prepared: Err(denial), now, turn: None },
        })
    }
}

/// Waits until a server of the pool has room.
async fn wait_for_server(
    shared: &Shared,
    pending: Pending,
    pool: FullPool,
    bytes: usize,
) -> Result<WaitersTurn, Box<Denial>> {
    let FullPool { route, line, longest } = pool;
    let (rank, consumer) = (pending.key().priority().rank(), pending.key().consumer.name.as_str().into());
    let comer = Comer { pool: route, rank, consumer, bytes };
    let fault = match shared.choices().waiting().wait(comer, &line, longest, shared.stopping()).await {
        Ok(turn) => return Ok(turn),
        Err(WaitFault::Stopping) => Reason::Stopping,
        Err(WaitFault::TooLong | WaitFault::NoRoom) => {
            Reason::ServersBusy { model: pending.own_model().unwrap_or_default().to_owned() }
        }
    };
    Err(pending.refuse(fault))
}

/// Takes what a request takes from its limits and budgets. Returns what was taken elsewhere, and its price.
async fn admit(
    shared: &Shared,
    prepared: Result<Pending, Box<Denial>>,
    (uri, body, media, is_websocket): (&str, Option<&[u8]>, Media, bool),
    now: SystemTime,
) -> (Decision, SharedReservation, Option<Arc<Price>>) {
    let nothing = SharedReservation::default;
    let mut pending = match prepared {
        Ok(pending) => pending,
        Err(denial) => return (Decision::Deny(*denial), nothing(), None),
    };
    let settings = shared.settings();
    let keeps_hard_budgets = settings.keeps_hard_budgets || shared.shared_counting().is_some();
    let priced = Priced { prices: &settings.prices, uri, body, media, is_websocket, keeps_hard_budgets, now };
    match priced.price(&mut pending) {
        Ok(price) => {
            let (counting, store_was_read) = (shared.shared_counting(), !shared.policy().is_incomplete());
            if !counting::knows_hard_budgets(counting, store_was_read, pending.demands()).await {
                return (pending.deny(Reason::LimitsUnavailable), nothing(), None);
            }
            let (decision, taken) =
                counting::admit(shared.shared_counting(), shared.limiters(), pending).await;
            (decision, taken, price)
        }
        Err(reason) => (pending.deny(reason), nothing(), None),
    }
}

/// Hands an admitted request over to the ledger; without one its estimate stands.
fn hand_over(
    shared: &Shared,
    mut grant: Grant,
    (identity, parent, uri, now): (&Identity<'_>, Option<SpanId>, &str, SystemTime),
    counted: Counted,
    (taken, under_way): (SharedReservation, Option<UnderWay>),
) {
    let Some((opener, parent)) = shared.metering().zip(parent) else {
        under_way.into_iter().for_each(UnderWay::end_unheard);
        let mut reservation = mem::take(&mut grant.reservation);
        shared.limiters().spend(&mut reservation, |_, _| None);
        let of = (&grant.key, grant.own_model().unwrap_or_default());
        let budgets = reservation.budgets();
        return shared.budget_events().spent(budgets, (shared.limiters(), &shared.policy()), of);
    };
    let of = (&grant.key, grant.own_model().unwrap_or_default());
    // What it has cost may never be told, and a refusal be the next that is heard of its budgets.
    shared.budget_events().know(grant.reservation.budgets(), &shared.policy(), of);
    let (request, span) = (identity.request(), identity.operation_span(parent, now));
    let admitted = Admitted { request, parent, uri, counted, shared: taken, span, under_way };
    metered::open((opener, shared.limiters()), grant, admitted);
}

/// The server that gets a request, if Modelgate chooses it.
fn choose_server(
    shared: &Shared,
    grant: &mut Grant,
    uri: &str,
    body: Option<&[u8]>,
    identity: &Identity<'_>,
) -> Option<Chosen> {
    grant.pick.as_ref()?;
    let answer_tokens = grant.answer_tokens;
    let sum = *grant.sum.get_or_insert_with(|| access::estimate::sum(uri, body, answer_tokens));
    shared.choices().choose(grant, PickQuestion { body, sum, turn: identity.request().0 })
}

/// Notes that a request is refused, and says how.
pub(crate) fn deny(shared: &Shared, report: Report<'_>, dialect: Dialect, mut denial: Denial) -> Refusal {
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
    shared.budget_events().refused(&denial, report.at);
    let misaddressed = match denial.reason {
        Reason::ClosedPath | Reason::Unreadable(Unreadable::ModelMissing(_)) => {
            misaddressed::refusal(report.uri, dialect, &shared.settings().traefik.path_prefixes)
        }
        _ => None,
    };
    misaddressed.unwrap_or_else(|| Refusal::of(&denial, shared.settings().prices.currency()))
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

/// Counts the usage, and keeps the decision for people to look at.
fn count_usage(
    (shared, price): (&Shared, Option<Arc<Price>>),
    grant: &Grant,
    (report, mut record): (Report<'_>, Record),
    (body, media): (Option<&[u8]>, Media),
) -> Counted {
    let sum = grant.sum.unwrap_or_else(|| access::estimate::sum(report.uri, body, grant.answer_tokens));
    let [prompt, completion] = metered::estimated(&sum);
    let of = UsageOf::from(grant);
    if let Some(price) = price.as_deref().filter(|price| !price.is_free())
        && !is_counted(price, PaidBy::of(report.uri, body))
    {
        let (settings, names) = (shared.settings(), [grant.own_model(), grant.known_model()]);
        match price_of(&settings.prices, names, record.at) {
            // Requests without a model belong to none.
            None | Some(("", _)) => {}
            Some((model, _)) => shared.uncounted_paths().note(model, report.uri, record.at),
        }
    }
    let charge = Charge::new(price, metered::asked([prompt, completion], media));
    let estimate = UsageEstimate { prompt, completion, cost: charge.amount().0, media };
    let hour = shared.usage().allowed(of, record.at, estimate);
    record.tokens = Some(sum.tokens());
    let has_budgets = media.sound > 0 && grant.reservation.budgets().next().is_some();
    let longer_sound = if has_budgets { media.longer_sound(report.uri, body) } else { 0 };
    report.keep(record);
    let waited = report.waited.unwrap_or_default();
    Counted { sum, waited, hour, charge, media, longer_sound }
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
fn slowed(shared: &Shared, from: Option<IpAddr>, reason: Reason) -> Reason {
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
fn allow(
    grant: &Grant,
    server: Option<&RouteId>,
    identity: &Identity<'_>,
    traced: Option<(&HeaderMap, SpanId)>,
) -> Response<Body> {
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
    if let Some(server) = server {
        good &= set(SERVER, server.as_str());
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
    use access::{Consumer, Key, KeyDigest, ModelGlobs, Policy, RevokedKey, TokenFault};
    use catalogue::channel;
    use prices::{Amount, PriceEntry, PriceList};

    use super::*;
    use crate::{
        Settings,
        testing::{catalogue_of, server, set_up},
    };

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

    fn question(key: &str, from: &str, body: &'static str) -> HttpRequest {
        let question = HttpRequest::post("/auth").header(header::AUTHORIZATION, format!("Bearer {key}"));
        let question = question.header(FORWARDED_METHOD, "POST").header(FORWARDED_FOR, from);
        let question = question.header(FORWARDED_URI, "/v1/chat/completions");
        question.header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).expect("a question")
    }

    /// An unknown key was slowed after thirty tries and a revoked one never, by which they could be told apart.
    #[tokio::test]
    async fn a_revoked_key_is_answered_byte_for_byte_like_an_unknown_one() {
        let shared = Shared::empty();
        let mut policy = Policy::default();
        policy.revoked_mut().add([RevokedKey {
            digest: KeyDigest::of("mg-revoked"),
            name: "old".into(),
            consumer: "team".into(),
            at: SystemTime::now(),
        }]);
        shared.replace_policy(policy);
        let answers = async |keys: [(&str, &str); 2]| {
            let mut answers = [Vec::new(), Vec::new()];
            // By turns, so that both are slowed at the same moment.
            for turn in 0..80 {
                let (key, from) = keys[turn % 2];
                let (parts, body) = handle(&shared, question(key, from, "{}")).await.into_parts();
                let mut headers = parts.headers;
                // Ids are random, and the clock goes on between two answers.
                for own in [
                    "x-request-id",
                    "request-id",
                    "retry-after",
                    "retry-after-ms",
                    "x-ratelimit-reset-requests",
                ] {
                    headers
                        .get_mut(own)
                        .into_iter()
                        .for_each(|value| *value = HeaderValue::from_static("its own"));
                }
                let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
                let body = String::from_utf8(body.into()).expect("text").replace("in 1s.", "in 2s.");
                answers[turn % 2].push((parts.status.as_u16(), headers, body));
            }
            answers
        };
        let [revoked, unknown] = answers([("mg-revoked", "192.0.2.1"), ("mg-nobodys", "198.51.100.1")]).await;
        assert_eq!(revoked, unknown);
        let statuses: Vec<u16> = revoked.iter().map(|(status, ..)| *status).collect();
        assert!(statuses[..30].iter().all(|status| *status == 401) && statuses[39] == 429, "{statuses:?}");
        shared.telemetry().collect(SystemTime::now());
        let records = shared.telemetry().recent(&telemetry::Filter::default(), 100);
        let of_key = records.iter().filter(|record| record.key() == Some("old"));
        let codes: Vec<_> = of_key.filter_map(|record| record.refused).collect();
        let count = |code: &str| codes.iter().filter(|other| **other == code).count();
        assert!(count("revoked_api_key") >= 30 && count("too_many_failures") >= 1, "{codes:?}");
        assert_eq!(codes.len(), 40);
    }

    /// Regression: the time of the wait was charged as time of the answer, and the place of a request that had ended stayed taken until
    /// its tokens were final.
    #[tokio::test]
    async fn who_waits_goes_on_when_another_request_has_ended_and_says_how_long_it_has_waited() {
        const PAUSE: Duration = Duration::from_millis(60);
        let settings = [("strategy", "least-busy"), ("pick.wait", "20s"), ("pick.max_requests", "1")];
        let (mut publisher, reader) = channel();
        publisher.publish(catalogue_of([set_up(server("gpu", &["llama"]), &settings)]));
        let shared = Shared::with_catalogue(reader);
        let mut settings = Shared::usual_settings();
        settings.traefik.traces = true;
        shared.replace_settings(settings);
        let key = Key::new("key", Arc::new(Consumer::new("team")), KeyDigest::of("mg-key"));
        shared.replace_policy(Policy::new(vec![key], Vec::new()));
        let (opener, openings) = metering::queue(8);
        shared.meter(opener);
        let mut keeper = shared.choice_keeper();
        keeper.follow(shared.catalogue().load().as_ref().expect("it is published"), Default::default());
        keeper.release(true);
        let ask = || {
            let shared = Arc::clone(&shared);
            let question = question("mg-key", "192.0.2.1", r#"{"model": "llama"}"#);
            tokio::spawn(async move { handle(&shared, question).await.status() })
        };
        assert_eq!(ask().await.expect("no panic"), StatusCode::OK);
        let mut first = openings.next().expect("a request");
        assert_eq!(first.waited, Duration::ZERO);
        let second = ask();
        while shared.choices().waiting().count() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(PAUSE).await;
        assert!(openings.next().is_none() && !second.is_finished(), "the server is full");
        first.held.has_ended(None);
        keeper.freed().await;
        keeper.release(true);
        assert_eq!(second.await.expect("no panic"), StatusCode::OK);
        let second = openings.next().expect("a request");
        assert!((PAUSE..Duration::from_secs(20)).contains(&second.waited), "{:?}", second.waited);
        drop(first);
    }

    /// Only the model's own name was looked up, so one that has its price by its alias was never named.
    #[tokio::test]
    async fn a_path_that_is_not_counted_is_told_by_the_name_that_has_the_price() {
        let (mut publisher, reader) = channel();
        publisher.publish(catalogue_of([set_up(server("gpu", &["llama"]), &[("aliases", "fast=llama")])]));
        let shared = Shared::with_catalogue(reader);
        let price = Price { image: Amount(1), ..Price::default() };
        let entry = |text: &str| PriceEntry {
            text: text.into(),
            models: ModelGlobs::parse(&[text.into()]).expect("a pattern"),
            from: 0,
            price: price.clone(),
        };
        let told = async |pattern: &str, body: &'static str| {
            let prices = PriceList::new("EUR".into(), vec![entry(pattern)]);
            shared.replace_settings(Settings { prices, ..Shared::usual_settings() });
            shared.replace_policy(Policy::new(
                vec![Key::new("key", Arc::new(Consumer::new("team")), KeyDigest::of("mg-key"))],
                Vec::new(),
            ));
            let answer = handle(&shared, question("mg-key", "192.0.2.1", body)).await;
            assert_eq!(answer.status().as_u16(), 200);
            let told = shared.paths_not_counted(SystemTime::now()).into_iter();
            told.map(|path| format!("{} {}", path.model, path.path)).collect::<Vec<_>>()
        };
        let (by_alias, by_own) = (r#"{"model": "fast"}"#, r#"{"model": "llama"}"#);
        assert_eq!(told("fast", by_own).await, Vec::<String>::new(), "it is free by this name");
        assert_eq!(told("fast", by_alias).await, ["fast /v1/chat/completions"]);
        assert_eq!(told("llama", by_alias).await, ["llama /v1/chat/completions"]);
    }
}
