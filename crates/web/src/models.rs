//! The model list, which shows what a key may use and can use now; what is left of the key's limits; and what it has used.
//!
//! Formats: OpenAI's <https://platform.openai.com/docs/api-reference/models> and, when `anthropic-version` is sent, Anthropic's
//! <https://docs.anthropic.com/en/api/models-list>.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use access::{Denial, Idle, Key, Reason};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, Uri},
    response::IntoResponse,
};
use catalogue::{Api, Catalogue, Pool, Readiness, Selection};
use limits::{Left, Limit, Per, Scope, Unit};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use traefik_config::as_v1;

use crate::{
    Shared, auth, counting,
    identity::{Identity, REQUEST_ID},
    refusal::{Dialect, Refusal},
    report::Report,
};

/// Why a question that has a valid key is not answered.
enum NoAnswer {
    /// For a reason that `/auth` could have, too.
    Denied(Box<Denial>),
    /// For another one.
    Refused(Refusal),
}

impl NoAnswer {
    fn denied(key: &Arc<Key>, reason: Reason, model: Option<&str>) -> Self {
        let (consumer, key) = (Some(Arc::clone(&key.consumer)), Some(Arc::clone(key)));
        let model = model.map(str::to_owned);
        Self::Denied(Box::new(Denial { reason, consumer, key, tokens: None, sum: None, model }))
    }
}

impl From<Refusal> for NoAnswer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Answers `GET {prefix}/models` and `GET {prefix}/models/{id}`, also below `/models/NAME`; Ollama's `GET /api/tags`,
/// `/api/ps`, `/api/version` and `/`; and `GET {prefix}/limits` and `{prefix}/usage`.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    if is_sign_of_life(&shared, &parts.method, &parts.uri) {
        return Response::new(Body::from("Ollama is running"));
    }
    let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
    let at = SystemTime::now();
    let identity = {
        let policy = shared.policy();
        Identity::new(headers, &policy).sampled(headers, &policy, shared.sampler())
    };
    let dialect = Dialect::of(&as_v1(uri.path(), &shared.settings().traefik), headers);
    let from = auth::client_address(headers, shared.settings().traefik.ip_depth);
    // Only what is refused is reported: what is answered here is no request to a model.
    let report = Report {
        telemetry: shared.telemetry(),
        since: None,
        waited: None,
        at,
        from,
        identity: &identity,
        method: method.as_str(),
        uri: uri.path(),
    };
    let authenticated = shared.policy().authenticate(headers, from, at);
    let key = match authenticated {
        Ok(key) => key,
        // Never of a request that `/auth` has let pass.
        Err(denial) => {
            return auth::deny(&shared, report, dialect, *denial).answer(dialect, identity.answered());
        }
    };
    let refusal = match (answer(&shared, method, uri, &key, dialect).await, is_decided(headers, &key)) {
        (Ok(body), _) => {
            let mut response = Json(body).into_response();
            if let Ok(id) = HeaderValue::from_str(identity.answered()) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            return response;
        }
        (Err(NoAnswer::Denied(denial)), true) => Refusal::from(&denial.reason),
        (Err(NoAnswer::Refused(refusal)), true) => refusal,
        (Err(NoAnswer::Denied(denial)), false) => auth::deny(&shared, report, dialect, *denial),
        (Err(NoAnswer::Refused(refusal)), false) => report.refused(refusal),
    };
    refusal.answer(dialect, identity.answered())
}

/// Whether `/auth` has let this request of a valid key pass and counted it, as where a router of the operator's own leads here: it
/// has named the consumer. A client can pretend that only of what it asks with a valid key.
fn is_decided(headers: &HeaderMap, key: &Key) -> bool {
    headers.get(auth::CONSUMER).is_some_and(|consumer| consumer.as_bytes() == key.consumer.name.as_bytes())
}

/// Whether an Ollama client checks that the server is there, as its command line does before everything else. Without a key the
/// answer reveals no more than a refusal would.
fn is_sign_of_life(shared: &Shared, method: &Method, uri: &Uri) -> bool {
    let reads = method == Method::GET || method == Method::HEAD;
    reads && uri.path() == "/" && shared.settings().traefik.apis.contains(&Api::Ollama)
}

async fn answer(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    key: &Arc<Key>,
    dialect: Dialect,
) -> Result<Value, NoAnswer> {
    let settings = shared.settings();
    let bases: Vec<String> = traefik_config::bases(&settings.traefik).collect();
    let azure = settings.traefik.apis.contains(&Api::Azure).then_some("/openai/v1");
    let below = |what| {
        let mut prefixes = bases.iter().map(String::as_str).chain(azure);
        prefixes.find_map(|prefix| uri.path().strip_prefix(prefix)?.strip_prefix(what))
    };
    let list_of = below("/models");
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal::not_found().into());
    }
    if below("/usage") == Some("") {
        let currency = shared.settings().prices.currency().map(str::to_owned);
        return Ok(shared.own_usage.answer(key, currency, uri.query().unwrap_or_default()).await?);
    }
    shared.first_catalogue().await;
    let loaded = shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(Refusal::surveying)?;
    if below("/limits") == Some("") {
        return limits(shared, catalogue, key, uri.query().unwrap_or_default()).await;
    }
    match (list_of, uri.path()) {
        (Some("" | "/"), _) => Ok(list(ready(catalogue, key), dialect)),
        (Some(rest), _) => match rest.strip_prefix('/') {
            Some(id) => retrieve(catalogue, key, id, dialect),
            None => Err(Refusal::not_found().into()),
        },
        (None, "/api/tags") => Ok(ollama_list(ready(catalogue, key), OllamaList::All)),
        (None, "/api/ps") => Ok(ollama_list(ready(catalogue, key), OllamaList::Loaded)),
        (None, "/api/version") => Ok(json!({ "version": env!("CARGO_PKG_VERSION") })),
        (None, path) => of_named(catalogue, key, path, dialect),
    }
}

/// The lists below a model's name (`/models/NAME/v1/models`): only that model, whatever else its servers have.
fn of_named(catalogue: &Catalogue, key: &Arc<Key>, path: &str, dialect: Dialect) -> Result<Value, NoAnswer> {
    let usable = usable(catalogue, key);
    let named = access::model_in_path(path, |name| usable.contains_key(name));
    let (name, rest) = named
        .map_err(|fault| NoAnswer::denied(key, Reason::from(fault), None))?
        .ok_or_else(Refusal::not_found)?;
    let (pool, rest) = match (usable.get(&*name), rest) {
        (Some(pool), Some(rest)) => (*pool, rest),
        _ => return Err(unknown(catalogue, key, &name)),
    };
    if let Some(idle) = Idle::of(pool.readiness()) {
        return Err(not_ready(key, &name, idle));
    }
    // Ollama's list has models under their own names only.
    let own = usable.get(pool.canonical.as_str()).copied().unwrap_or(pool);
    match &*rest {
        "/v1/models" | "/v1/models/" => Ok(list([pool].into_iter(), dialect)),
        "/api/tags" => Ok(ollama_list([own].into_iter(), OllamaList::All)),
        "/api/ps" => Ok(ollama_list([own].into_iter(), OllamaList::Loaded)),
        rest => {
            let id = rest.strip_prefix("/v1/models/").ok_or_else(Refusal::not_found)?;
            let is_it = usable.get(id).is_some_and(|other| other.canonical == pool.canonical);
            if is_it { Ok(describe(pool, dialect)) } else { Err(Refusal::not_found().into()) }
        }
    }
}

/// What is left of the caller's own limits, and with `?model=` also of a model's. Servers' answers cannot carry this: Traefik
/// adds no headers to them.
async fn limits(
    shared: &Shared,
    catalogue: &Catalogue,
    key: &Arc<Key>,
    query: &str,
) -> Result<Value, NoAnswer> {
    let named = query.split('&').find_map(|pair| pair.strip_prefix("model="));
    let named = named.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned());
    let left = limits_left(shared, catalogue, key, named.as_deref()).await;
    left.ok_or_else(|| unknown(catalogue, key, &named.unwrap_or_default()))
}

/// With metering, what a request has really taken is known a little later, and counted in place of the estimate.
fn unit(unit: Unit, is_metered: bool) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens if is_metered => "tokens",
        Unit::Tokens => "estimated_tokens",
        Unit::Money => "money",
    }
}

/// What is left of a key's limits, and with `model` also of a model's; `None` if the key can use no model of that name.
pub async fn limits_left(
    shared: &Shared,
    catalogue: &Catalogue,
    key: &Key,
    model: Option<&str>,
) -> Option<Value> {
    let pool = match model {
        None => None,
        Some(name) => Some(*usable(catalogue, key).get(name)?),
    };
    let demands = access::limits_of(&shared.policy(), key, catalogue, pool, SystemTime::now());
    let left = counting::left(shared.shared_counting(), shared.limiters(), &demands).await;
    let describe = |left: &Left| {
        let (per, burst) = match left.limit {
            Limit::Rate(rate) => {
                let per = match rate.per() {
                    Per::Second => "second",
                    Per::Minute => "minute",
                    Per::Hour => "hour",
                };
                (per, Some(rate.burst()))
            }
            Limit::Quota(quota) => (quota.per().name(), None),
        };
        let is_money = left.limit.unit() == Unit::Money;
        let amount = |amount: u64| match is_money {
            true => Value::from(limits::write_money(amount)),
            false => amount.into(),
        };
        let resets = (left.reset_after != Duration::MAX)
            .then(|| u64::try_from(left.reset_after.as_millis()).unwrap_or(u64::MAX));
        let mut limit = json!({
            "scope": match left.scope {
                Scope::Key => "key",
                Scope::KeyAndModel => "key_and_model",
                Scope::Consumer => "consumer",
                Scope::ConsumerAndModel => "consumer_and_model",
                Scope::Model | Scope::Address => "model",
            },
            "unit": unit(left.limit.unit(), shared.metering().is_some()),
            "amount": amount(if is_money { left.allowed } else { left.limit.amount() }),
            "per": per,
            "burst": burst,
            "remaining": amount(left.remaining),
            "reset_ms": resets,
        });
        if let (true, Some(currency)) = (is_money, shared.settings().prices.currency()) {
            limit["currency"] = currency.into();
        }
        limit
    };
    let limits: Vec<Value> = left.iter().map(describe).collect();
    Some(json!({
        "object": "limits", "key": key.name, "consumer": key.consumer.name, "model": model, "limits": limits,
    }))
}

/// The models that a key may use, by name; if several pools have a name, a ready one.
fn usable<'c>(catalogue: &'c Catalogue, key: &Key) -> BTreeMap<&'c str, &'c Pool> {
    let mut pools: BTreeMap<&str, &Pool> = BTreeMap::new();
    for pool in catalogue.pools().filter(|pool| key.may_use(pool)) {
        let known = pools.entry(pool.model.as_str()).or_insert(pool);
        if known.readiness() != Readiness::Ready {
            *known = pool;
        }
    }
    pools
}

/// The usable models that are ready.
fn ready<'c>(catalogue: &'c Catalogue, key: &Key) -> impl Iterator<Item = &'c Pool> {
    usable(catalogue, key).into_values().filter(|pool| pool.readiness() == Readiness::Ready)
}

fn list<'c>(pools: impl Iterator<Item = &'c Pool>, dialect: Dialect) -> Value {
    let data: Vec<Value> = pools.map(|pool| describe(pool, dialect)).collect();
    match dialect {
        Dialect::OpenAi | Dialect::Ollama => json!({ "object": "list", "data": data }),
        Dialect::Anthropic => {
            let id = |model: Option<&Value>| model.map(|m| m["id"].clone());
            let (first, last) = (id(data.first()), id(data.last()));
            json!({ "data": data, "has_more": false, "first_id": first, "last_id": last })
        }
    }
}

/// One of Ollama's two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OllamaList {
    /// `/api/tags`: all models.
    All,
    /// `/api/ps`: the loaded models.
    Loaded,
}

/// Ollama's list (<https://github.com/ollama/ollama/blob/main/docs/api.md#list-local-models>) of all or of the loaded models
/// whose servers take requests in Ollama's API. Fields that Modelgate does not know are empty.
fn ollama_list<'c>(pools: impl Iterator<Item = &'c Pool>, of: OllamaList) -> Value {
    let usable = pools.filter(|pool| pool.groups.iter().all(access::speaks_ollama));
    // Ollama's clients would take `llama3` and `llama3:latest` for two models.
    let own = usable.filter(|p| p.model == p.canonical);
    let describe = |pool: &Pool| {
        let created = i64_to_time(pool.card.created.unwrap_or(0));
        let time = humantime::format_rfc3339_seconds(created).to_string();
        let name = pool.model.as_str();
        let when = match of {
            OllamaList::All => "modified_at",
            OllamaList::Loaded => "expires_at",
        };
        let mut model = json!({ "name": name, "model": name, "size": 0, "digest": "", "details": {} });
        model[when] = time.into();
        model
    };
    json!({ "models": own.map(describe).collect::<Vec<_>>() })
}

fn retrieve(catalogue: &Catalogue, key: &Arc<Key>, id: &str, dialect: Dialect) -> Result<Value, NoAnswer> {
    let id = percent_decode_str(id).decode_utf8_lossy();
    let pool = *usable(catalogue, key).get(&*id).ok_or_else(|| unknown(catalogue, key, &id))?;
    match Idle::of(pool.readiness()) {
        None => Ok(describe(pool, dialect)),
        Some(idle) => Err(not_ready(key, &id, idle)),
    }
}

fn not_ready(key: &Arc<Key>, name: &str, idle: Idle) -> NoAnswer {
    NoAnswer::denied(key, Reason::NotReady { model: name.to_owned(), idle }, Some(name))
}

fn unknown(catalogue: &Catalogue, key: &Arc<Key>, name: &str) -> NoAnswer {
    let name: String = name.chars().take(256).collect();
    let mut selections = catalogue.selections().iter();
    let may_be_had = catalogue.may_have_any_model()
        || catalogue.may_return(&name)
        || selections.any(Selection::may_have_any_model);
    NoAnswer::denied(key, access::no_such_model(key, &name, may_be_had), Some(&name))
}

fn describe(pool: &Pool, dialect: Dialect) -> Value {
    let card = &pool.card;
    let created = card.created.unwrap_or(0);
    match dialect {
        Dialect::OpenAi | Dialect::Ollama => {
            let mut model = json!({
                "id": card.name.as_str(),
                "object": "model",
                "created": created,
                "owned_by": card.owned_by.as_deref().unwrap_or("modelgate"),
            });
            // vLLM's names for fields that OpenAI's list does not have.
            let more = [
                ("max_model_len", card.context_length.map(Value::from)),
                ("root", card.root.as_deref().map(Value::from)),
                ("parent", card.parent.as_deref().map(Value::from)),
            ];
            for (name, value) in more {
                if let Some(value) = value {
                    model[name] = value;
                }
            }
            model
        }
        Dialect::Anthropic => {
            let created = i64_to_time(created);
            json!({
                "type": "model",
                "id": card.name.as_str(),
                "display_name": card.name.as_str(),
                "created_at": humantime::format_rfc3339_seconds(created).to_string(),
            })
        }
    }
}

fn i64_to_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(MAX_TIMESTAMP))
}

/// The last second of the year 9999: RFC 3339 has no later times.
const MAX_TIMESTAMP: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use access::{Consumer, KeyDigest, Policy, RevokedKey};
    use axum::http::{StatusCode, request::Builder};
    use catalogue::channel;
    use telemetry::Filter;

    use super::*;
    use crate::{
        requests::Requests,
        testing::{catalogue_of, server},
    };

    fn shared() -> Arc<Shared> {
        let (mut publisher, reader) = channel();
        publisher.publish(catalogue_of([server("gpu", &["llama"])]));
        let shared = Shared::with_catalogue(reader);
        let key = Key::new("key", Arc::new(Consumer::new("team")), KeyDigest::of("mg-key"));
        let mut policy = Policy::new(vec![key], Vec::new());
        policy.revoked_mut().add([RevokedKey {
            digest: KeyDigest::of("mg-revoked"),
            name: "old".into(),
            consumer: "team".into(),
            at: SystemTime::now(),
        }]);
        shared.replace_policy(policy);
        shared
    }

    async fn ask(shared: &Arc<Shared>, path: &str, key: &str, with: fn(Builder) -> Builder) -> StatusCode {
        let request = Request::get(path).header("authorization", format!("Bearer {key}"));
        let request = with(request.header("x-forwarded-for", "192.0.2.7"));
        let request = request.body(Body::empty()).expect("a request");
        Requests::new(shared).answer(request).await.status()
    }

    /// What telemetry shows, the oldest first: reason, key, model, and path.
    fn seen(shared: &Shared) -> Vec<String> {
        shared.telemetry().collect(SystemTime::now());
        let seen = shared.telemetry().recent(&Filter::default(), 100).into_iter().rev();
        let words = seen.map(|record| {
            assert_eq!(record.from, Some([192, 0, 2, 7].into()));
            let reason = record.refused.unwrap_or("allowed");
            let (key, model) = (record.key().unwrap_or("-"), record.model().unwrap_or("-"));
            format!("{reason} {key} {model} {}", record.path())
        });
        words.collect()
    }

    const LISTS: [&str; 8] = [
        "/v1/models",
        "/v1/models/llama",
        "/v1/limits",
        "/v1/usage",
        "/models/llama/v1/models",
        "/api/tags",
        "/api/ps",
        "/api/version",
    ];

    /// Whoever has a stolen key tries the list of models first: nobody saw it, and no alert told it.
    #[tokio::test]
    async fn a_refusal_is_a_decision_and_an_answer_is_none() {
        let shared = shared();
        for path in LISTS.iter().filter(|path| **path != "/v1/usage") {
            assert_eq!(ask(&shared, path, "mg-key", |request| request).await, StatusCode::OK, "{path}");
        }
        assert_eq!(seen(&shared), Vec::<String>::new());
        for path in LISTS {
            let status = ask(&shared, path, "mg-revoked", |request| request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        }
        let expected: Vec<_> = LISTS.iter().map(|path| format!("revoked_api_key old - {path}")).collect();
        assert_eq!(seen(&shared), expected);
        for path in ["/v1/models/qwen", "/v1/limits?model=qwen", "/models/qwen/v1/models", "/v1/usage"] {
            let status = ask(&shared, path, "mg-key", |request| request).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(
            seen(&shared)[LISTS.len()..],
            [
                "model_not_found key qwen /v1/models/qwen",
                "model_not_found key qwen /v1/limits",
                "model_not_found key qwen /models/qwen/v1/models",
                "usage_not_kept - - /v1/usage",
            ]
        );
        let totals = shared.telemetry().totals();
        assert_eq!((totals.allowed, totals.latencies.count()), (0, 0), "nothing else is counted");
        assert_eq!(totals.refused.values().sum::<u64>(), 12);
        let used = shared.usage().take();
        assert_eq!(used.iter().map(|used| used.counts.refused).sum::<i64>(), 11, "of known keys");
    }

    /// 150 wrong keys at the list of models left no trace.
    #[tokio::test]
    async fn who_guesses_keys_at_a_list_is_slowed_and_seen() {
        let shared = shared();
        for _ in 0..40 {
            // A header that a client invents hides nothing.
            ask(&shared, "/v1/models", "mg-guess", |request| request.header("x-inference-consumer", "team"))
                .await;
        }
        let totals = shared.telemetry().totals().refused;
        assert_eq!(totals.get("invalid_api_key").copied(), Some(30), "{totals:?}");
        assert_eq!(totals.get("too_many_failures").copied(), Some(10), "{totals:?}");
    }

    /// A router of the operator's own may ask `/auth` and then lead here.
    #[tokio::test]
    async fn what_auth_has_counted_is_not_counted_again() {
        let shared = shared();
        let with = |request: Builder| request.header("x-inference-consumer", "team");
        assert_eq!(ask(&shared, "/v1/models/qwen", "mg-key", with).await, StatusCode::NOT_FOUND);
        assert_eq!(ask(&shared, "/v1/usage", "mg-key", with).await, StatusCode::NOT_FOUND);
        assert_eq!(seen(&shared), Vec::<String>::new());
    }
}
