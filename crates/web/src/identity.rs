//! The ids by which a request is known.
//!
//! `/auth` gives each request 128 random bits as `X-Request-Id`, whatever the client sends, so that two requests never share an
//! id. Clients see it: vLLM answers with `chatcmpl-<id>`. So it proves nothing.
//!
//! What proves that a server or Traefik speaks about a request is the parent id in the `traceparent` that `/auth` sets
//! (<https://www.w3.org/TR/trace-context/>): 64 random bits that no answer shows. A client's own trace continues.

use std::{sync::Arc, time::SystemTime};

use access::Policy;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use metering::{RequestId, SpanId};
use telemetry::{DecisionSpan, OperationSpan, Sampler};

use crate::auth::CONSUMER;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The client's own `X-Request-Id`, for servers.
pub(crate) const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-inference-client-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The ids of a request.
#[derive(Debug)]
pub(crate) struct Identity<'r> {
    request: RequestId,
    /// The same, as text.
    own: String,
    /// The client's own id, if it is harmless.
    client: Option<&'r str>,
    /// The trace that the client has begun, if its id is harmless.
    trace: Option<u128>,
    sampled: Option<SampledRequest>,
}

/// The ids of the spans of a request that is sampled.
#[derive(Debug, Clone, Copy)]
struct SampledRequest {
    /// Of the decision.
    span: u64,
    /// The client's or Traefik's.
    parent: Option<u64>,
}

impl<'r> Identity<'r> {
    /// A new id for a request that `/auth` is asked about, or that Modelgate answers itself.
    pub(crate) fn new(headers: &'r HeaderMap, policy: &Policy) -> Self {
        Self::of(
            RequestId(rand::random()),
            harmless(headers, &REQUEST_ID, policy),
            harmless_trace(headers, policy),
        )
    }

    /// The ids of a request that Traefik sends here to be refused. If `/auth` has let it pass, it has them already.
    pub(crate) fn passed_on(headers: &'r HeaderMap, policy: &Policy) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        match given.filter(|_| headers.contains_key(CONSUMER)) {
            Some(request) => {
                let client = harmless(headers, &CLIENT_REQUEST_ID, policy);
                Self::of(request, client, harmless_trace(headers, policy))
            }
            None => Self::new(headers, policy),
        }
    }

    fn of(request: RequestId, client: Option<&'r str>, trace: Option<u128>) -> Self {
        Self { request, own: request.to_string(), client, trace, sampled: None }
    }

    /// The same ids, and those of spans if the request is sampled.
    pub(crate) fn sampled(self, headers: &HeaderMap, policy: &Policy, sampler: Option<&Sampler>) -> Self {
        let Some(sampler) = sampler else { return self };
        // A trace that holds a key is not continued.
        let given = client_trace(headers).filter(|_| self.trace.is_some());
        if !sampler.samples(self.trace(), given.as_ref().map(|given| given.is_sampled)) {
            return self;
        }
        let parent = given.filter(|given| !holds_key(headers, given.parent, policy));
        let parent = parent.and_then(|given| u64::from_str_radix(given.parent, 16).ok());
        Self { sampled: Some(SampledRequest { span: rand::random::<u64>().max(1), parent }), ..self }
    }

    /// The span of the decision, if the request is sampled.
    pub(crate) fn decision_span(&self) -> Option<Box<DecisionSpan>> {
        let SampledRequest { span, parent } = self.sampled?;
        Some(Box::new(DecisionSpan { trace: self.trace(), span, parent, route: None }))
    }

    /// The span of what follows, if the request is sampled; `secret` is its id.
    pub(crate) fn operation_span(&self, secret: SpanId, from: SystemTime) -> Option<Arc<OperationSpan>> {
        let parent = self.sampled?.span;
        Some(Arc::new(OperationSpan { trace: self.trace(), span: secret, parent, from }))
    }

    /// The id of the request's trace: the client's, or else the request's own id, which is the trace's where servers tell.
    pub(crate) fn trace(&self) -> u128 {
        self.trace.unwrap_or(self.request.0)
    }

    /// The id that servers and Traefik's log know.
    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// The same, as text.
    pub(crate) fn own(&self) -> &str {
        &self.own
    }

    /// The client's own id.
    pub(crate) fn client(&self) -> Option<&'r str> {
        self.client
    }

    /// The id that the client knows: its own, if it has sent one.
    pub(crate) fn answered(&self) -> &str {
        self.client.unwrap_or(&self.own)
    }

    /// A sampled `traceparent` with a secret parent, in the client's trace if there is one. vLLM exports nothing about
    /// unsampled requests.
    pub(crate) fn traceparent(&self, headers: &HeaderMap, parent: SpanId) -> String {
        let trace = client_trace(headers).map_or(&*self.own, |given| given.trace);
        format!("00-{trace}-{:016x}-01", parent.0)
    }
}

/// A new parent id; zero is no id.
pub(crate) fn secret_parent() -> SpanId {
    SpanId(rand::random::<u64>().max(1))
}

/// An id that clients may find in logs and answers.
fn harmless<'r>(headers: &'r HeaderMap, name: &HeaderName, policy: &Policy) -> Option<&'r str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let id = headers.get(name)?.to_str().ok()?;
    ((1..=128).contains(&id.len()) && id.bytes().all(plain) && !holds_key(headers, id, policy)).then_some(id)
}

/// The id of the client's trace, for logs; a key may be hexadecimal, too.
fn harmless_trace(headers: &HeaderMap, policy: &Policy) -> Option<u128> {
    let given = client_trace(headers).filter(|given| !holds_key(headers, given.trace, policy))?;
    u128::from_str_radix(given.trace, 16).ok()
}

/// Whether an id holds a key of the same request, or is a part of one. Keys are neither logged nor shown.
fn holds_key(headers: &HeaderMap, id: &str, policy: &Policy) -> bool {
    /// A shorter text may be part of a longer one by chance.
    const UNMISTAKABLE: usize = 8;
    let shares = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        let is_in_id = |word: &str| word.len() >= UNMISTAKABLE && id.contains(word);
        id.len() >= UNMISTAKABLE && value.contains(id) || value.split([' ', ',']).any(is_in_id)
    };
    headers.iter().any(|(name, value)| policy.reads_keys_in(name) && shares(value))
}

/// What a `traceparent` says.
struct ClientTrace<'r> {
    trace: &'r str,
    parent: &'r str,
    is_sampled: bool,
}

/// What a valid `traceparent` says. A version later than 00 may have more fields
/// (<https://www.w3.org/TR/trace-context/#versioning-of-traceparent>); of several headers none is valid.
fn client_trace(headers: &HeaderMap) -> Option<ClientTrace<'_>> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let value = given.next().filter(|_| given.next().is_none()).map(HeaderValue::as_bytes)?;
    let (head, rest) = value.split_at_checked(55)?;
    let is_hex = |field: &[u8]| field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let ends = rest.is_empty() || version != b"00" && rest[0] == b'-';
    let is_some = |field: &[u8]| field.iter().any(|byte| *byte != b'0');
    let valid = dashes
        && ends
        && version != b"ff"
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && is_some(trace)
        && is_some(parent);
    // The last bit of the flags is `sampled`.
    let is_sampled = matches!(flags[1], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f');
    let text = |field| std::str::from_utf8(field).ok();
    valid.then_some(ClientTrace { trace: text(trace)?, parent: text(parent)?, is_sampled })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in given.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    fn new(headers: &HeaderMap) -> Identity<'_> {
        Identity::new(headers, &Policy::default())
    }

    /// Found by the fuzz target `auth`: a key that a client had put into `X-Request-Id` as well was in its refusals, in the log and
    /// on the page with the latest decisions.
    #[test]
    fn a_key_in_place_of_an_id_is_not_told() {
        let key = "mg-alice-0123456789abcdef";
        let bearer = format!("Bearer {key}");
        let protocols = format!("realtime, openai-insecure-api-key.{key}");
        let longer = format!("trace.{key}");
        for (name, value) in [
            ("authorization", &*bearer),
            ("x-api-key", key),
            ("api-key", key),
            ("sec-websocket-protocol", &*protocols),
        ] {
            for id in [key, &key[3..]] {
                let sent = headers(&[("x-request-id", id), (name, value)]);
                assert_eq!(new(&sent).client(), None, "{id} beside {name}");
            }
        }
        let sent = headers(&[("x-request-id", &longer), ("authorization", &bearer)]);
        assert_eq!(new(&sent).client(), None);
        let other = headers(&[("x-request-id", "0123"), ("authorization", &bearer)]);
        assert_eq!(new(&other).client(), Some("0123"), "too short to be a key");
        // A header of the operator's own.
        let policy = Policy::default().with_key_headers(vec![HeaderName::from_static("x-token")]);
        let sent = headers(&[("x-request-id", key), ("x-token", key)]);
        assert_eq!(Identity::new(&sent, &policy).client(), None);
        let own = "00112233445566778899aabbccddeeff";
        let ids = [("x-request-id", own), ("x-inference-client-request-id", key)];
        let passed = headers(&[ids[0], ids[1], ("x-inference-consumer", "team"), ("authorization", &bearer)]);
        let identity = Identity::passed_on(&passed, &policy);
        assert_eq!((identity.own(), identity.client()), (own, None));
    }

    #[test]
    fn the_trace_is_the_clients_unless_it_holds_a_key() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        let sent = headers(&[("traceparent", &parent), ("authorization", "Bearer mg-alice")]);
        assert_eq!(format!("{:032x}", new(&sent).trace()), trace);
        let key = headers(&[("traceparent", &parent), ("authorization", &format!("Bearer {trace}"))]);
        for other in [key, headers(&[("traceparent", "00-abc")]), headers(&[])] {
            let identity = new(&other);
            assert_eq!(format!("{:032x}", identity.trace()), identity.own());
        }
    }

    #[test]
    fn spans_continue_a_sampled_trace_and_never_name_a_key() {
        let sampler = Sampler { ratio: 0.0, follows_parent: true };
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = |given: &[(&'static str, &str)]| {
            let headers = headers(given);
            let policy = Policy::default();
            Identity::new(&headers, &policy).sampled(&headers, &policy, Some(&sampler)).decision_span()
        };
        let sent = format!("00-{trace}-b7ad6b7169203331-01");
        let found = span(&[("traceparent", &sent)]).expect("it is sampled");
        assert_eq!(
            (format!("{:032x}", found.trace), found.parent),
            (trace.to_owned(), Some(0xb7ad_6b71_6920_3331))
        );
        let bearer = |text: &str| format!("Bearer {text}");
        let found = span(&[("traceparent", &sent), ("authorization", &bearer("b7ad6b7169203331"))]);
        assert_eq!(found.expect("it is sampled").parent, None);
        for unsampled in [
            vec![("traceparent", &*sent), ("authorization", &*bearer(trace))],
            vec![("traceparent", &*format!("00-{trace}-b7ad6b7169203331-02"))],
            vec![],
        ] {
            assert_eq!(span(&unsampled), None, "{unsampled:?}");
        }
    }

    #[test]
    fn each_request_has_an_id_of_its_own_whatever_its_client_sends() {
        let sent = headers(&[("x-request-id", "00112233445566778899aabbccddeeff")]);
        let ids: BTreeSet<String> = (0..1_000).map(|_| new(&sent).own().to_owned()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.parse::<RequestId>().is_ok()));
        let identity = new(&sent);
        assert_eq!(identity.answered(), "00112233445566778899aabbccddeeff");
        for bad in ["", "a b", "<b>", &"x".repeat(129)] {
            let sent = headers(&[("x-request-id", bad)]);
            let identity = new(&sent);
            assert_eq!((identity.client(), identity.answered()), (None, identity.own()), "{bad}");
        }
    }

    #[test]
    fn what_passed_auth_keeps_its_ids() {
        let own = "00112233445566778899aabbccddeeff";
        let ids = [("x-request-id", own), ("x-inference-client-request-id", "theirs")];
        let passed = headers(&[ids[0], ids[1], ("x-inference-consumer", "team")]);
        let identity = Identity::passed_on(&passed, &Policy::default());
        assert_eq!((identity.own(), identity.answered()), (own, "theirs"));
        let not_passed = headers(&ids);
        let identity = Identity::passed_on(&not_passed, &Policy::default());
        assert_ne!(identity.own(), own);
        assert_eq!(identity.answered(), own);
    }

    #[test]
    fn a_clients_trace_continues_under_a_parent_that_it_does_not_know() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let told = |sent: &[&str]| {
            let given: Vec<_> = sent.iter().map(|value| ("traceparent", *value)).collect();
            let headers = headers(&given);
            let identity = new(&headers);
            let told = identity.traceparent(&headers, SpanId(0xab));
            assert!(told.ends_with("-00000000000000ab-01") && told.len() == 55, "{told}");
            (told[3..35].to_owned(), identity.own().to_owned())
        };
        let parent = "b7ad6b7169203331";
        for valid in [
            format!("00-{trace}-{parent}-00"),
            format!("00-{trace}-{parent}-01"),
            format!("cc-{trace}-{parent}-01-what-the-future-brings"),
        ] {
            assert_eq!(told(&[&valid]).0, trace, "{valid}");
        }
        let twice = format!("00-{trace}-{parent}-01");
        for invalid in [
            vec![],
            vec![&*twice, &*twice],
            vec![&format!("00-{trace}-{parent}-01-more")],
            vec![&format!("ff-{trace}-{parent}-01")],
            vec![&format!("00-{}-{parent}-01", trace.to_ascii_uppercase())],
            vec![&format!("00-{}-{parent}-01", "0".repeat(32))],
            vec![&format!("00-{trace}-{}-01", "0".repeat(16))],
            vec![&format!("00-{trace}-{parent}-0")],
            vec![&format!("00_{trace}_{parent}_01")],
            vec!["garbage"],
        ] {
            let (trace, own) = told(&invalid);
            assert_eq!(trace, own, "{invalid:?}");
        }
    }
}
