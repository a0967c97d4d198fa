//! A small world of policy, catalogue and limits for decisions.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::SystemTime};

use access::{
    Consumer, Decision, Key, KeyDigest, Mode, ModelGlobs, ModelLimit, Policy, Reason, Request, decide,
};
use catalogue::{Catalogue, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState, ServerUrl, Setting};
use http::{HeaderMap, HeaderName, HeaderValue};
use limits::{Limiters, Limits, ManualClock, Rate};

/// Policy, catalogue and limits together.
pub(crate) struct World {
    pub(crate) policy: Policy,
    pub(crate) catalogue: Catalogue,
    pub(crate) limiters: Limiters<ManualClock>,
    pub(crate) clock: ManualClock,
}

impl World {
    pub(crate) fn new(policy: Policy, servers: Vec<ServerRecord>) -> Self {
        let clock = ManualClock::new();
        let catalogue = Catalogue::assemble(servers, Vec::new());
        Self { policy, catalogue, limiters: Limiters::new(clock.clone()), clock }
    }

    pub(crate) fn decide(&self, request: &Call) -> Decision {
        let headers = request.headers();
        let request = request.asked_with(&headers);
        decide(&self.policy, &self.catalogue, &self.limiters, &request)
    }

    /// `ok`, or the code of the refusal.
    pub(crate) fn code(&self, request: &Call) -> &'static str {
        self.reason(request).map_or("ok", |reason| reason.code())
    }

    pub(crate) fn reason(&self, request: &Call) -> Option<Reason> {
        match self.decide(request) {
            Decision::Allow(_) => None,
            Decision::Deny(denial) => Some(denial.reason),
        }
    }
}

/// A request under construction.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) host: Option<String>,
    pub(crate) mode: Mode<'static>,
    pub(crate) trusted: bool,
    pub(crate) from: Option<std::net::IpAddr>,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

impl Call {
    /// A chat request with a key, for a model.
    pub(crate) fn chat(key: &str, model: &str) -> Self {
        Self::new(key).json(&format!(r#"{{"model":"{model}","messages":[]}}"#))
    }

    pub(crate) fn new(key: &str) -> Self {
        let call = Self {
            method: "POST",
            uri: "/v1/chat/completions".into(),
            headers: Vec::new(),
            body: Vec::new(),
            host: None,
            mode: Mode::Layered,
            trusted: false,
            from: None,
            now: 1_000,
        };
        call.header("authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.uri = uri.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn host(self, host: &str) -> Self {
        Self { host: Some(host.into()), ..self }
    }

    pub(crate) fn mode(self, mode: Mode<'static>) -> Self {
        Self { mode, ..self }
    }

    /// The request with its [headers](Self::headers), as a decision takes it.
    pub(crate) fn asked_with<'a>(&'a self, headers: &'a HeaderMap) -> Request<'a> {
        Request {
            method: self.method,
            uri: &self.uri,
            host: self.host.as_deref(),
            headers,
            body: &self.body,
            mode: self.mode,
            trusted: self.trusted,
            from: self.from,
            now: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(self.now),
        }
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().expect("a header name");
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        map
    }
}

pub(crate) fn rate(requests_per_minute: u32, burst: u32) -> Rate {
    Rate::per_minute(requests_per_minute, Some(burst)).expect("a rate")
}

pub(crate) fn globs(pattern: &str) -> ModelGlobs {
    ModelGlobs::parse(&[pattern.to_owned()]).expect("a pattern")
}

/// A key `mg-<name>` of the consumer `<name>`.
pub(crate) fn key(name: &str, models: &str, limit: Option<Rate>, limit_per_model: Option<Rate>) -> Key {
    let digest = KeyDigest::of(&format!("mg-{name}"));
    Key {
        models: globs(models),
        limits: Limits::new(limit.into_iter().collect(), Vec::new()),
        limits_per_model: Limits::new(limit_per_model.into_iter().collect(), Vec::new()),
        ..Key::new(name, Arc::new(Consumer::new(name)), digest)
    }
}

pub(crate) fn model_limit(models: &str, limit: Rate) -> ModelLimit {
    ModelLimit { models: globs(models), limits: limit.into() }
}

/// A ready server with settings, written as labels give them.
pub(crate) fn server_with(name: &str, models: &[&str], settings: &[(&str, &str)]) -> ServerRecord {
    let mut server = server(name, ServerState::Ready, models);
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut server.spec.settings, &mut server.spec.model_settings).expect(text);
    }
    server
}

pub(crate) fn server(name: &str, state: ServerState, models: &[&str]) -> ServerRecord {
    let card = |model: &&str| ModelCard::named(ModelName::new(model).expect("a model name"));
    ServerRecord {
        spec: ServerSpec::configured(name, ServerUrl::http(name, 8000)),
        state,
        listed_as: catalogue::Kind::Other,
        has_others: false,
        models: models.iter().map(card).collect(),
    }
}
