//! What is counted for each consumer, model and server, and whether each model and server is ready.
//!
//! The keys `metrics.consumers`, `metrics.models` and `metrics.servers` of the configuration say how many of each have series.
//! What is counted for the rest has the name `(others)`. At most so many series come from here, with as many names as allowed:
//!
//! ```text
//! each consumer  32  decisions 18, tokens 6, cached tokens 1, cost 3, corrected tokens 4
//! each model     66  as a consumer, endings 5, first token 14, duration 14, ready servers 1
//! each server    47  endings 5, tokens 6, cached tokens 1, first token 14, duration 14, ready 1, choice 6
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use access::{UsageOf, UsageWatcher, UsedCounts};
use catalogue::{Catalogue, Reader};
use prices::PriceList;
use server_choice::SentSums;
use telemetry::{Allowed, Tallies, TalliesOf, Tally, Telemetry, TimeTally, TokenTally};

use super::{Family, HistogramFamily, HistogramSample};
use crate::Shared;

/// Brings what usage counts to the tallies, under models' own names.
#[derive(Debug)]
pub(crate) struct UsageTally {
    pub(crate) catalogue: Reader,
    pub(crate) telemetry: Arc<Telemetry>,
    /// What each request has really used is told later, and counted then.
    pub(crate) is_metered: Arc<AtomicBool>,
}

impl UsageWatcher for UsageTally {
    fn allowed(&self, of: UsageOf<'_>, counts: &UsedCounts) {
        let unsigned = |count: i64| u64::try_from(count).unwrap_or(0);
        let estimated = match self.is_metered.load(Ordering::Relaxed) {
            true => TokenTally::default(),
            false => TokenTally {
                prompt: unsigned(counts.prompt),
                cached: 0,
                completion: unsigned(counts.completion),
                cost: unsigned(counts.cost),
            },
        };
        let allowed = Allowed { requests: unsigned(counts.requests), estimated };
        let loaded = self.catalogue.load();
        let model = own_name(loaded.as_deref(), of.model);
        self.telemetry.allowed(of.consumer, model, &allowed, Instant::now());
    }

    fn refused(&self, of: UsageOf<'_>, code: &'static str, count: u64) {
        let loaded = self.catalogue.load();
        let model = own_name(loaded.as_deref(), of.model);
        let model = Some(model).filter(|model| !model.is_empty());
        self.telemetry.refused(of.consumer, model, code, count, Instant::now());
    }
}

/// The name that a model has itself, if this is an alias.
pub(crate) fn own_name<'a>(catalogue: Option<&'a Catalogue>, model: &'a str) -> &'a str {
    catalogue.and_then(|catalogue| catalogue.pool(model)).map_or(model, |pool| pool.canonical.as_str())
}

/// All families of this module.
pub(super) struct TallyFamilies {
    pub(super) families: Vec<Family>,
    pub(super) histograms: Vec<HistogramFamily>,
}

pub(super) fn all(shared: &Shared, catalogue: Option<&Catalogue>) -> TallyFamilies {
    let tallies = shared.telemetry().tallies();
    let settings = shared.settings();
    let prices = &settings.prices;
    let names = catalogue.map(unique_names).unwrap_or_default();
    let Tallies { consumers, models, servers } = &tallies;
    let consumers = CONSUMERS.rows(consumers, |name| name);
    let models = MODELS.rows(models, |name| name);
    let servers = SERVERS.rows(servers, |id| names.get(id).copied().unwrap_or(id));
    let is_metered = shared.metering().is_some();
    let mut families = Vec::new();
    let mut histograms = Vec::new();
    for (of, rows) in [(&CONSUMERS, &consumers), (&MODELS, &models), (&SERVERS, &servers)] {
        families.extend(of.decisions.map(|name| of.decisions(name, rows)));
        families.extend(of.tokens(rows));
        families.extend(of.cost.and_then(|name| of.cost(name, rows, prices)));
        if is_metered {
            families.extend(of.corrected.map(|name| of.corrected(name, rows)));
            families.extend(of.ended.map(|name| of.ended(name, rows)));
            histograms
                .extend(of.first_token.map(|name| of.times(name, FIRST_TOKEN, rows, |of| &of.first_token)));
            histograms.extend(of.duration.map(|name| of.times(name, DURATION, rows, |of| &of.duration)));
        }
    }
    families.extend(catalogue.map(|catalogue| ready_models(catalogue, tallies.models.most())));
    families.extend(catalogue.map(|catalogue| ready_servers(catalogue, &names, tallies.servers.most())));
    families.extend(choice(shared, &names, tallies.servers.most()));
    TallyFamilies { families, histograms }
}

/// The names of servers by id, without those names that several servers have. Other servers are named by their id: no two
/// samples may have the same labels.
fn unique_names(catalogue: &Catalogue) -> BTreeMap<&str, &str> {
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for server in catalogue.servers() {
        ids.entry(&server.spec.name).or_default().push(server.spec.id.as_str());
    }
    let unique = ids.into_iter().filter_map(|(name, ids)| match ids[..] {
        [id] => Some((id, name)),
        _ => None,
    });
    unique.collect()
}

/// The names of the families about consumers, models or servers.
struct About {
    label: &'static str,
    decisions: Option<&'static str>,
    tokens: &'static str,
    cached: &'static str,
    corrected: Option<&'static str>,
    cost: Option<&'static str>,
    ended: Option<&'static str>,
    first_token: Option<&'static str>,
    duration: Option<&'static str>,
}

const CONSUMERS: About = About {
    label: "consumer",
    decisions: Some("modelgate_consumer_decisions"),
    tokens: "modelgate_consumer_tokens",
    cached: "modelgate_consumer_cached_tokens",
    corrected: Some("modelgate_consumer_corrected_tokens"),
    cost: Some("modelgate_consumer_cost"),
    ended: None,
    first_token: None,
    duration: None,
};
const MODELS: About = About {
    label: "model",
    decisions: Some("modelgate_model_decisions"),
    tokens: "modelgate_model_tokens",
    cached: "modelgate_model_cached_tokens",
    corrected: Some("modelgate_model_corrected_tokens"),
    cost: Some("modelgate_model_cost"),
    ended: Some("modelgate_model_requests"),
    first_token: Some("modelgate_model_first_token_seconds"),
    duration: Some("modelgate_model_duration_seconds"),
};
const SERVERS: About = About {
    label: "server",
    decisions: None,
    tokens: "modelgate_server_tokens",
    cached: "modelgate_server_cached_tokens",
    corrected: None,
    cost: None,
    ended: Some("modelgate_server_requests"),
    first_token: Some("modelgate_server_first_token_seconds"),
    duration: Some("modelgate_server_duration_seconds"),
};

const DECISIONS: &str = "Requests by decision and, if refused, by reason; only those whose key is known, and of models only \
                         refusals by a limit. `(others)` are all without a series of their own";
const TOKENS: &str = "Tokens by how well they are known. Without listen.telemetry they are counted as estimated when a request comes";
const CACHED: &str = "Tokens of prompts, of which a server has told that they were cached";
const CORRECTED: &str =
    "Tokens by which servers' counters have corrected requests that were counted before: more or less";
const COST: &str = "What requests cost, by how well their tokens are known";
const ENDED: &str = "Requests that have ended: answered, refused by the server (4xx, redirects), failed (other errors), aborted, or unknown";
const FIRST_TOKEN: &str = "Time to first token, as far as servers tell it";
const DURATION: &str =
    "How long requests took, in Traefik without the wait for a server, or else at the server";

/// Names in order, with what was counted.
type Rows<'a> = Vec<(&'a str, &'a Tally)>;

impl About {
    #[expect(clippy::unused_self, reason = "it reads like the others")]
    fn rows<'a>(&self, tallies: &'a TalliesOf, name: impl Fn(&'a str) -> &'a str) -> Rows<'a> {
        let mut rows: Rows<'a> = tallies.all().map(|(key, tally)| (name(key), tally)).collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows
    }

    fn decisions(&self, name: &'static str, rows: &Rows<'_>) -> Family {
        rows.iter().fold(Family::counter(name, DECISIONS), |family, (name, tally)| {
            let allowed = [(self.label, *name), ("decision", "allowed"), ("reason", "")];
            let family = family.with(&allowed, tally.allowed as f64);
            tally.refused.iter().fold(family, |family, (code, count)| {
                let refused = [(self.label, *name), ("decision", "refused"), ("reason", code)];
                family.with(&refused, *count as f64)
            })
        })
    }

    fn tokens(&self, rows: &Rows<'_>) -> [Family; 2] {
        let mut tokens = Family::counter(self.tokens, TOKENS);
        let mut cached = Family::counter(self.cached, CACHED);
        for (name, tally) in rows {
            for (kind, of_kind) in tally.tokens() {
                for (side, count) in [("prompt", of_kind.prompt), ("completion", of_kind.completion)] {
                    let labels = [(self.label, *name), ("type", side), ("known", kind.name())];
                    tokens = tokens.with(&labels, count as f64);
                }
            }
            let of_all_kinds: u64 = tally.tokens().map(|(_, of_kind)| of_kind.cached).sum();
            cached = cached.with(&[(self.label, *name)], of_all_kinds as f64);
        }
        [tokens, cached]
    }

    fn corrected(&self, name: &'static str, rows: &Rows<'_>) -> Family {
        let all = rows.iter().flat_map(|(name, tally)| {
            let sides = ["prompt", "completion"].into_iter().zip(&tally.corrected);
            sides.flat_map(move |(side, of)| {
                [("more", of.more), ("less", of.less)].map(|of| (*name, side, of))
            })
        });
        all.fold(Family::counter(name, CORRECTED), |family, (name, side, (direction, count))| {
            let labels = [(self.label, name), ("type", side), ("direction", direction)];
            family.with(&labels, count as f64)
        })
    }

    /// Without prices nothing costs anything.
    fn cost(&self, name: &'static str, rows: &Rows<'_>, prices: &PriceList) -> Option<Family> {
        /// Amounts are in units of 10⁻⁹ of the currency.
        const UNIT: f64 = 1e-9;
        let currency = prices.currency()?;
        let all = rows.iter().flat_map(|(name, tally)| tally.tokens().map(move |of| (name, of)));
        Some(all.fold(Family::counter(name, COST), |family, (name, (kind, of_kind))| {
            let labels = [(self.label, *name), ("currency", currency), ("known", kind.name())];
            family.with(&labels, of_kind.cost as f64 * UNIT)
        }))
    }

    fn ended(&self, name: &'static str, rows: &Rows<'_>) -> Family {
        rows.iter().fold(Family::counter(name, ENDED), |family, (name, tally)| {
            let ended = &tally.ended;
            let endings = [
                ("answered", ended.finished),
                ("refused", ended.refused),
                ("failed", ended.failed),
                ("aborted", ended.aborted),
                ("unknown", ended.unknown),
            ];
            endings.into_iter().fold(family, |family, (ending, count)| {
                family.with(&[(self.label, name), ("ending", ending)], count as f64)
            })
        })
    }

    fn times(
        &self,
        name: &'static str,
        help: &'static str,
        rows: &Rows<'_>,
        times: impl Fn(&Tally) -> &TimeTally,
    ) -> HistogramFamily {
        let sample = |(name, tally): &(&str, &Tally)| {
            let times = times(tally);
            let limit =
                |limit: Option<std::time::Duration>| limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64());
            HistogramSample {
                label: Some((self.label, (*name).to_owned())),
                sum: times.sum().as_secs_f64(),
                count: times.count(),
                buckets: times.buckets().map(|(end, count)| (limit(end), count)).collect(),
            }
        };
        HistogramFamily { name, help, samples: rows.iter().map(sample).collect() }
    }
}

/// The first models by name. A model with a selector is the model, too.
fn ready_models(catalogue: &Catalogue, most: usize) -> Family {
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for pool in catalogue.pools().filter(|pool| pool.model == pool.canonical) {
        *models.entry(pool.model.as_str()).or_default() += pool.ready.len();
    }
    let help = "How many servers of each model are ready, of as many models as have series; modelgate_models counts all";
    let family = Family::gauge("modelgate_model_ready_servers", help);
    models
        .into_iter()
        .take(most)
        .fold(family, |family, (model, ready)| family.with(&[("model", model)], ready as f64))
}

/// Of each server that Modelgate can choose, and as many as have series: how often it was chosen, what of the prompts was expected in
/// its cache, and what the server says itself. Counts begin anew with a run of the server.
fn choice(shared: &Shared, names: &BTreeMap<&str, &str>, most: usize) -> Vec<Family> {
    type Value = fn(&SentSums) -> f64;
    const FAMILIES: [(&str, &str, Value); 6] = [
        ("modelgate_server_chosen", "Requests for which Modelgate has chosen this server", |sums| {
            sums.requests as f64
        }),
        (
            "modelgate_server_chosen_elsewhere",
            "Of these, those that another server has answered, as far as Traefik tells; needs listen.telemetry",
            |sums| sums.elsewhere as f64,
        ),
        (
            "modelgate_server_chosen_prompt_tokens",
            "Estimated tokens of the prompts of these requests",
            |sums| sums.prompt_tokens as f64,
        ),
        (
            "modelgate_server_expected_cached_tokens",
            "Of these tokens, those that were expected to be in the server's prefix cache",
            |sums| sums.expected_cached_tokens as f64,
        ),
        (
            "modelgate_server_told_prompt_tokens",
            "Tokens that the server has looked for in its prefix cache, as it says itself, of all requests since its start",
            |sums| sums.told.0,
        ),
        (
            "modelgate_server_told_cached_tokens",
            "Of these tokens, those that it has found there, as it says itself",
            |sums| sums.told.1,
        ),
    ];
    let sums = shared.choices().sums();
    let rows: BTreeMap<&str, &SentSums> =
        sums.iter().map(|(id, sums)| (names.get(&**id).copied().unwrap_or(id), sums)).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let family = |(name, help, value): (&'static str, &'static str, Value)| {
        let rows = rows.iter().take(most);
        rows.fold(Family::counter(name, help), |family, (server, sums)| {
            family.with(&[("server", server)], value(sums))
        })
    };
    FAMILIES.map(family).into()
}

/// The first servers by name.
fn ready_servers(catalogue: &Catalogue, names: &BTreeMap<&str, &str>, most: usize) -> Family {
    let servers: BTreeMap<&str, bool> = catalogue
        .servers()
        .map(|server| {
            let id = server.spec.id.as_str();
            (names.get(id).copied().unwrap_or(id), server.state_name() == "ready")
        })
        .collect();
    let help =
        "Whether each server gets requests, of as many servers as have series; modelgate_servers counts all";
    let family = Family::gauge("modelgate_server_ready", help);
    servers.into_iter().take(most).fold(family, |family, (server, is_ready)| {
        family.with(&[("server", server)], f64::from(u8::from(is_ready)))
    })
}
