//! The model list, which shows what a key may use and can use now; what is left of the key's limits; and what it has used.
//!
//! Formats: OpenAI's <https://platform.openai.com/docs/api-reference/models> and, when `anthropic-version` is sent, Anthropic's
//! <https://docs.anthropic.com/en/api/models-list>.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use access::{Idle, Key, Reason};
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
};

/// Answers `GET {prefix}/models` and `GET {prefix}/models/{id}`, also below `/models/NAME`; Ollama's `GET /api/tags`,
/// `/api/ps`, `/api/version` and `/`; and `GET {prefix}/limits` and `{prefix}/usage`.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    if is_sign_of_life(&shared, &parts.method, &parts.uri) {
        return Response::new(Body::from("Ollama is running"));
    }
    let identity = Identity::new(&parts.headers, &shared.policy());
    let dialect = Dialect::of(&as_v1(parts.uri.path(), &shared.settings().traefik), &parts.headers);
    match answer(&shared, &parts.method, &parts.uri, &parts.headers, dialect).await {
        Ok(body) => {
            let mut response = Json(body).into_response();
            if let Ok(id) = HeaderValue::from_str(identity.answered()) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            response
        }
        Err(refusal) => refusal.answer(dialect, identity.answered()),
    }
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
    headers: &HeaderMap,
    dialect: Dialect,
) -> Result<Value, Refusal> {
    let settings = shared.settings();
    let from = auth::client_address(headers, settings.traefik.ip_depth);
    let key = shared.policy().authenticate(headers, from, SystemTime::now());
    let key = key.map_err(|denial| Refusal::from(&auth::slowed(shared, from, denial.reason)))?;
    let bases: Vec<String> = traefik_config::bases(&settings.traefik).collect();
    let azure = settings.traefik.apis.contains(&Api::Azure).then_some("/openai/v1");
    let below = |what| {
        let mut prefixes = bases.iter().map(String::as_str).chain(azure);
        prefixes.find_map(|prefix| uri.path().strip_prefix(prefix)?.strip_prefix(what))
    };
    let list_of = below("/models");
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal::not_found());
    }
    if below("/usage") == Some("") {
        let currency = shared.settings().prices.currency().map(str::to_owned);
        return shared.own_usage.answer(&key, currency, uri.query().unwrap_or_default()).await;
    }
    let loaded = shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(Refusal::surveying)?;
    if below("/limits") == Some("") {
        return limits(shared, catalogue, &key, uri.query().unwrap_or_default()).await;
    }
    match (list_of, uri.path()) {
        (Some("" | "/"), _) => Ok(list(ready(catalogue, &key), dialect)),
        (Some(rest), _) => match rest.strip_prefix('/') {
            Some(id) => retrieve(catalogue, &key, id, dialect),
            None => Err(Refusal::not_found()),
        },
        (None, "/api/tags") => Ok(ollama_list(ready(catalogue, &key), OllamaList::All)),
        (None, "/api/ps") => Ok(ollama_list(ready(catalogue, &key), OllamaList::Loaded)),
        (None, "/api/version") => Ok(json!({ "version": env!("CARGO_PKG_VERSION") })),
        (None, path) => of_named(catalogue, &key, path, dialect),
    }
}

/// The lists below a model's name (`/models/NAME/v1/models`): only that model, whatever else its servers have.
fn of_named(catalogue: &Catalogue, key: &Key, path: &str, dialect: Dialect) -> Result<Value, Refusal> {
    let usable = usable(catalogue, key);
    let named = access::model_in_path(path, |name| usable.contains_key(name));
    let (name, rest) =
        named.map_err(|fault| Refusal::from(&Reason::from(fault)))?.ok_or_else(Refusal::not_found)?;
    let (pool, rest) = match (usable.get(&*name), rest) {
        (Some(pool), Some(rest)) => (*pool, rest),
        _ => return Err(unknown(catalogue, key, &name)),
    };
    if let Some(idle) = Idle::of(pool.readiness()) {
        return Err(Refusal::from(&Reason::NotReady { model: name, idle }));
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
            if is_it { Ok(describe(pool, dialect)) } else { Err(Refusal::not_found()) }
        }
    }
}

/// What is left of the caller's own limits, and with `?model=` also of a model's. Servers' answers cannot carry this: Traefik
/// adds no headers to them.
async fn limits(shared: &Shared, catalogue: &Catalogue, key: &Key, query: &str) -> Result<Value, Refusal> {
    let named = query.split('&').find_map(|pair| pair.strip_prefix("model="));
    let named = named.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned());
    let left = limits_left(shared, catalogue, key, named.as_deref()).await;
    left.ok_or_else(|| unknown(catalogue, key, &named.unwrap_or_default()))
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
            "unit": match left.limit.unit() {
                Unit::Requests => "requests",
                Unit::Tokens => "estimated_tokens",
                Unit::Money => "money",
            },
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

fn retrieve(catalogue: &Catalogue, key: &Key, id: &str, dialect: Dialect) -> Result<Value, Refusal> {
    let id = percent_decode_str(id).decode_utf8_lossy();
    let pool = *usable(catalogue, key).get(&*id).ok_or_else(|| unknown(catalogue, key, &id))?;
    match Idle::of(pool.readiness()) {
        None => Ok(describe(pool, dialect)),
        Some(idle) => Err(Refusal::from(&Reason::NotReady { model: id.into_owned(), idle })),
    }
}

fn unknown(catalogue: &Catalogue, key: &Key, name: &str) -> Refusal {
    let name: String = name.chars().take(256).collect();
    let mut selections = catalogue.selections().iter();
    let may_be_had = catalogue.may_have_any_model()
        || catalogue.may_return(&name)
        || selections.any(Selection::may_have_any_model);
    Refusal::from(&access::no_such_model(key, &name, may_be_had))
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
