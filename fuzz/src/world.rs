//! A small world of keys, models and servers, in which requests are decided.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::{Consumer, Decision, Denial, Grant, Key, KeyDigest, Mode, ModelGlobs, Policy, Request, prepare};
use catalogue::{
    Catalogue, Kind, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState, ServerUrl, Setting,
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use limits::Reservation;

/// The key that may use some models.
pub(crate) const ALICE: &str = "mg-alice-0123456789abcdef";
/// The key that may use all models.
pub(crate) const ROOT: &str = "mg-root-0123456789abcdef";
/// Seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// Policy and catalogue together.
pub(crate) struct SmallWorld {
    pub(crate) policy: Policy,
    pub(crate) catalogue: Catalogue,
}

impl SmallWorld {
    /// A world in which Alice may use the models that match a pattern.
    pub(crate) fn new(alice_may: &str, servers: Vec<ServerRecord>) -> Self {
        let policy = Policy::new(vec![key("alice", ALICE, alice_may), key("root", ROOT, "*")], Vec::new());
        Self { policy, catalogue: Catalogue::assemble(servers, Vec::new()) }
    }

    /// Decides about a request whose limits are not reached.
    pub(crate) fn decide(&self, asked: &Asked<'_>) -> Result<Grant, Box<Denial>> {
        let request = Request {
            method: asked.method,
            uri: asked.uri,
            host: None,
            headers: &asked.headers,
            body: asked.body,
            mode: asked.mode,
            trusted: false,
            from: None,
            now: now(),
        };
        match prepare(&self.policy, &self.catalogue, &request)?.allow(Reservation::default()) {
            Decision::Allow(grant) => Ok(grant),
            Decision::Deny(denial) => Err(Box::new(denial)),
        }
    }
}

pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A request, as Traefik hands it over.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) mode: Mode<'a>,
}

impl<'a> Asked<'a> {
    /// A request with a key, whose route Modelgate is to choose.
    pub(crate) fn new(key: &str, method: &'a str, uri: &'a str) -> Self {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {key}")).expect("a key is visible ASCII");
        headers.insert(AUTHORIZATION, bearer);
        Self { method, uri, headers, body: &[], mode: Mode::Layered }
    }

    pub(crate) fn body(mut self, content_type: &'static str, body: &'a [u8]) -> Self {
        self.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body;
        self
    }

    /// Through a router of the user's own, behind which any model may be.
    pub(crate) fn at_gate(self) -> Self {
        Self { mode: Mode::Gate { model: None, body_forwarded: true, single_model: false }, ..self }
    }
}

fn key(name: &str, clear: &str, models: &str) -> Key {
    let models = ModelGlobs::parse(&[models.to_owned()]).expect("a pattern");
    Key { models, ..Key::new(name, Arc::new(Consumer::new(name)), KeyDigest::of(clear)) }
}

/// A server that is ready, with settings as labels give them.
pub(crate) fn server(name: &str, models: &[&str], settings: &[(&str, &str)]) -> ServerRecord {
    let card = |model: &&str| ModelCard::named(ModelName::new(model).expect("a model name"));
    let mut server = ServerRecord {
        spec: ServerSpec::configured(name, ServerUrl::http(name, 8000)),
        state: ServerState::Ready,
        listed_as: Kind::Other,
        has_others: false,
        models: models.iter().map(card).collect(),
    };
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut server.spec.settings, &mut server.spec.model_settings).expect(text);
    }
    server
}
