//! What would happen to a request from the command line, which is written as for curl or taken from a HAR file.

use std::{collections::BTreeSet, fmt::Write as _, fs, io, path::Path, sync::Arc};

use access::Policy;
use catalogue::{Catalogue, Reader};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use limits::{Unit, write_money, write_money_in};
use serde_json::Value;
use tokio::sync::watch;
use web::{CertificateAuthority, Parts, Rehearsal, Rehearsed, Shared};

use super::running;
use crate::{
    arguments::explain::RequestArgs, config::Config, jwks::KeySets, policy_source::PolicySource, runtime,
    store_sync::start, wiring,
};

/// A complete request.
struct GivenRequest {
    method: String,
    uri: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
}

pub(super) fn explain(catalogue: &Arc<Catalogue>, config: &Config, args: &RequestArgs) -> io::Result<String> {
    let given = match &args.har {
        Some(file) => from_har(file, args.entry),
        None => from_arguments(args),
    };
    let given = given.map_err(io::Error::other)?;
    let mut text = String::new();
    let rehearsed = runtime::new()?.block_on(async {
        let policy = policy(config, &given.headers, &mut text).await;
        let shared = shared(Arc::clone(catalogue), config, policy)?;
        shared.choice_keeper().follow(catalogue, shared.settings().traefik.version);
        let rehearsal = Rehearsal {
            method: &given.method,
            uri: &given.uri,
            headers: &given.headers,
            body: &given.body,
            from: args.from,
            key: None,
        };
        let Some(rehearsed) = web::rehearse(&shared, &rehearsal).await else { return Ok(None) };
        Ok::<_, io::Error>(Some(as_counted(&shared, config, rehearsed, &mut text).await))
    })?;
    let Some(Rehearsed { steps, outcome, .. }) = rehearsed else {
        return Err(io::Error::other("the survey found nothing to decide with"));
    };
    for step in running::of_polls(config).iter().chain(&steps) {
        let _ = writeln!(text, "- {step}");
    }
    let _ = writeln!(text, "{outcome}");
    Ok(text)
}

/// The same with what the store has counted for quotas and budgets. Rates are counted by running Modelgates alone.
async fn as_counted(shared: &Shared, config: &Config, rehearsed: Rehearsed, text: &mut String) -> Rehearsed {
    let ids: Vec<_> = rehearsed.demands.quotas().iter().map(limits::QuotaDemand::id).collect();
    if ids.is_empty() {
        return rehearsed;
    }
    match start::counts_once(config, &ids).await {
        Ok(counts) => counts.into_iter().for_each(|(id, used)| shared.limiters().quotas().learn(id, used, 0)),
        Err(error) => {
            let _ = writeln!(text, "- {error}; so what was used of quotas and budgets is not known");
            return rehearsed;
        }
    }
    let (settings, left) = (shared.settings(), shared.left(&rehearsed.demands).await);
    let currency = settings.prices.currency();
    let outcome = rehearsed.outcome_now(&left, currency);
    let mut steps = rehearsed.steps;
    let of_quotas = rehearsed.demands.quotas_with(&left);
    for (demand, left) in of_quotas.filter(|(_, left)| left.limit.unit() == Unit::Money) {
        let (remaining, cost) = (write_money(left.remaining), write_money(demand.cost()));
        let (allowed, scope) = (write_money_in(left.allowed, currency), left.scope);
        steps.push(format!("of the {allowed} {scope}, {remaining} are left; this takes {cost}"));
    }
    Rehearsed { steps, outcome, demands: rehearsed.demands }
}

/// The state of a Modelgate that has just made this survey.
fn shared(catalogue: Arc<Catalogue>, config: &Config, policy: Arc<Policy>) -> io::Result<Shared> {
    Ok(Shared::new(Parts {
        catalogue: Reader::of(catalogue),
        settings: wiring::settings(config),
        policy,
        authority: CertificateAuthority::open(None, None).map_err(io::Error::other)?,
        requests_port: config.listen.requests.port(),
        traefik_peers: watch::Sender::new(BTreeSet::new()),
    }))
}

/// The keys and limits, as the running Modelgate has them. The keys of identity providers are fetched only if the request carries
/// a token. What cannot be read is reported in `text`.
async fn policy(config: &Config, headers: &HeaderMap, text: &mut String) -> Arc<Policy> {
    let key_sets = KeySets::default();
    let policy = match start::read_once(config, &key_sets).await {
        Ok(policy_source) => policy_source.policy,
        Err(error) => {
            let _ = writeln!(text, "- {error}; so only the keys of the configuration file are known");
            PolicySource::new(config, &key_sets, accounts::Accounts::default()).incomplete().policy
        }
    };
    if policy.shows_token(headers) {
        for fault in key_sets.fetch_once().await {
            let _ = writeln!(text, "- {fault}");
        }
    }
    policy
}

fn from_arguments(args: &RequestArgs) -> Result<GivenRequest, String> {
    let body = match args.data.as_deref() {
        None => Vec::new(),
        Some(data) => match data.strip_prefix('@') {
            Some(path) => fs::read(path).map_err(|e| format!("{path}: {e}"))?,
            None => data.as_bytes().to_vec(),
        },
    };
    let mut headers = HeaderMap::new();
    for header in &args.headers {
        let (name, value) = header.split_once(':').ok_or("a header is written \"NAME: VALUE\"")?;
        insert(&mut headers, name.trim(), value.trim())?;
    }
    if args.data.is_some() && !headers.contains_key("content-type") {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
    }
    let default = if args.data.is_some() { "POST" } else { "GET" };
    let method = args.method.clone().unwrap_or_else(|| default.into());
    let uri = uri(args.url.as_deref().unwrap_or_default())?;
    Ok(GivenRequest { method, uri, headers, body })
}

/// An entry of a HAR file (<http://www.softwareishard.com/blog/har-12-spec/>).
fn from_har(file: &Path, entry: usize) -> Result<GivenRequest, String> {
    let failed = |what: &str| format!("{}: {what}", file.display());
    let text = fs::read(file).map_err(|e| failed(&e.to_string()))?;
    let har: Value = serde_json::from_slice(&text).map_err(|e| failed(&format!("not JSON: {e}")))?;
    let entries = har["log"]["entries"].as_array().ok_or_else(|| failed("it has no log.entries"))?;
    let request = entries
        .get(entry)
        .map(|entry| &entry["request"])
        .ok_or_else(|| failed(&format!("it has {} entries, counted from 0", entries.len())))?;
    let mut headers = HeaderMap::new();
    for header in request["headers"].as_array().into_iter().flatten() {
        let name = header["name"].as_str().unwrap_or_default();
        // HTTP/2's pseudo-headers, such as `:path`, are not headers.
        if !name.starts_with(':') {
            insert(&mut headers, name, header["value"].as_str().unwrap_or_default())?;
        }
    }
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(GivenRequest {
        method: text_of(&request["method"]),
        uri: uri(request["url"].as_str().unwrap_or_default())?,
        headers,
        body: text_of(&request["postData"]["text"]).into_bytes(),
    })
}

/// The error does not repeat the value, which may be a key.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), String> {
    let bad = || format!("{name:?} is not a header, or its value is not allowed in one");
    let (name, value) = (
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?,
        HeaderValue::from_str(value).map_err(|_| bad())?,
    );
    headers.append(name, value);
    Ok(())
}

fn uri(text: &str) -> Result<Uri, String> {
    let text =
        if text.contains("://") || text.starts_with('/') { text.into() } else { format!("http://{text}") };
    text.parse().map_err(|e| format!("{text:?} is not a URL: {e}"))
}
