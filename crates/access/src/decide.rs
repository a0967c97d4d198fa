//! The whole decision: who is this, which model do they want, may they, are they within their limits.

mod agree;
mod behind;
mod names;
mod wanted;

use std::{cell::LazyCell, sync::Arc, time::SystemTime};

use catalogue::{Catalogue, Credential, ModelName, ModelSettings, Pool, RouteId};
use jiff::Zoned;

use crate::{
    Calendar, Clock, Consumer, Demands, Key, Limiters, Limits, Mode, Per, Period, Policy, Quota, QuotaId,
    Rate, Reason, Request, Reservation, Scope, Unit,
    estimate::{self, Count},
    given::protocols_without_key,
    limits::{CellId, Demand},
    quota::{self, QuotaDemand},
};
pub use names::{is_asked_by_post, model_in_path};
use wanted::{Question, Refused, Wanted};

/// Whether a request may pass.
#[derive(Debug)]
pub enum Decision {
    /// It may.
    Allow(Grant),
    /// It may not.
    Deny(Denial),
}

/// What an allowed request may do.
#[derive(Debug)]
pub struct Grant {
    /// Where Traefik shall send it; `None` if that is not ours to say.
    pub route: Option<RouteId>,
    /// The model that it asks for; `None` if it names none and need not.
    pub model: Option<ModelName>,
    /// Whose it is.
    pub consumer: Arc<Consumer>,
    /// With which key.
    pub key: Arc<Key>,
    /// The tokens that it is estimated at; `None` if no limit counts them, and its body cannot be counted while it is
    /// read.
    pub tokens: Option<u32>,
    /// How many tokens its answer is estimated at if it does not say so; `None` for the usual number.
    pub answer_tokens: Option<u32>,
    /// Whether the model's name is one that servers or operators have given.
    pub is_known_model: bool,
    /// What was taken from limits for it.
    pub reservation: Reservation,
    /// What the servers demand.
    pub credential: Option<Arc<Credential>>,
    /// The `Sec-WebSocket-Protocol` that the server is to see, if the client offers protocols.
    pub websocket_protocols: Option<String>,
}

impl Grant {
    /// The model, unless the client may have made it up.
    pub fn known_model(&self) -> Option<&str> {
        self.model.as_ref().filter(|_| self.is_known_model).map(ModelName::as_str)
    }
}

/// Why a request is refused, and what is known about it.
#[derive(Debug)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// Whose it is, if its key is known.
    pub consumer: Option<Arc<Consumer>>,
    /// With which key, if it is known.
    pub key: Option<Arc<Key>>,
    /// The tokens that it is estimated at; `None` if no limit counts them.
    pub tokens: Option<u32>,
    /// The model that it asks for, if that could be read. It comes from the client: it need not exist.
    pub model: Option<String>,
}

impl Denial {
    /// Of a request of which nobody knows whose it is.
    pub(crate) fn of_nobody(reason: Reason) -> Box<Self> {
        Box::new(Self { reason, consumer: None, key: None, tokens: None, model: None })
    }

    /// Of one whose key is known, and does not work.
    pub(crate) fn of_key(key: &Arc<Key>, reason: Reason) -> Box<Self> {
        let consumer = Some(Arc::clone(&key.consumer));
        Box::new(Self { reason, consumer, key: Some(Arc::clone(key)), tokens: None, model: None })
    }
}

/// Hears of each step of a decision, for an operator. Nothing is put into words if nobody listens.
pub(crate) trait Trace {
    fn step(&mut self, say: impl FnOnce() -> String);
}

/// Nobody listens.
struct Silent;

impl Trace for Silent {
    fn step(&mut self, _: impl FnOnce() -> String) {}
}

/// A request that may pass if its limits allow it.
#[derive(Debug)]
pub struct Pending {
    demands: Demands,
    /// Its tokens, if a limit counts them.
    limited_tokens: Option<u32>,
    grant: Grant,
}

impl Pending {
    /// What it takes from which limits.
    pub fn demands(&self) -> &Demands {
        &self.demands
    }

    /// The `Sec-WebSocket-Protocol` that the server would see.
    pub fn websocket_protocols(&self) -> Option<&str> {
        self.grant.websocket_protocols.as_deref()
    }

    /// It passes: its limits are debited, or are not to be.
    pub fn allow(self, reservation: Reservation) -> Decision {
        Decision::Allow(Grant { reservation, ..self.grant })
    }

    /// It does not pass.
    pub fn deny(self, reason: Reason) -> Decision {
        let Grant { consumer, key, model, .. } = self.grant;
        let (tokens, model) = (self.limited_tokens, model.map(|model| model.as_str().to_owned()));
        Decision::Deny(Denial { reason, consumer: Some(consumer), key: Some(key), tokens, model })
    }

    /// Debits its limits, all or none, in memory.
    pub fn admit<C: Clock>(self, limiters: &Limiters<C>) -> Decision {
        match limiters.reserve(&self.demands) {
            Ok(reservation) => self.allow(reservation),
            Err(reached) => self.deny(reached.into()),
        }
    }
}

/// Decides about a request.
///
/// The checks have an order: nobody without a key learns anything, and nothing is taken from a limit
/// unless everything else allows the request.
pub fn decide<C: Clock>(
    policy: &Policy,
    catalogue: &Catalogue,
    limiters: &Limiters<C>,
    request: &Request<'_>,
) -> Decision {
    match prepare(policy, catalogue, request) {
        Ok(pending) => pending.admit(limiters),
        Err(denial) => Decision::Deny(*denial),
    }
}

/// Everything but the limits, which somebody else may count.
///
/// # Errors
/// The request may not pass, whatever its limits.
pub fn prepare(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
) -> Result<Pending, Box<Denial>> {
    judge(policy, catalogue, request, &mut Silent)
}

pub(crate) fn judge(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
    trace: &mut impl Trace,
) -> Result<Pending, Box<Denial>> {
    let key = policy.authenticate(request.headers, request.from, request.now)?;
    judge_for(policy, catalogue, request, key, trace)
}

/// The same of a request that comes with this key.
pub(crate) fn judge_for(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
    key: Arc<Key>,
    trace: &mut impl Trace,
) -> Result<Pending, Box<Denial>> {
    trace.step(|| format!("the API key is {:?}, of consumer {:?}", key.name, &key.consumer.name));
    let wanted = match (Question { key: &key, catalogue, request }).answer(trace) {
        Ok(wanted) => wanted,
        Err(Refused { reason, model }) => {
            let consumer = Some(Arc::clone(&key.consumer));
            return Err(Box::new(Denial { reason, consumer, key: Some(key), tokens: None, model }));
        }
    };
    let (demands, limited_tokens) = demands(policy, &key, &wanted, request);
    let answer_tokens = wanted.pool.and_then(|pool| pool.settings.answer_tokens);
    let counted = || wanted.count.as_ref().map(|count| count.tokens(request.uri, answer_tokens));
    let tokens = limited_tokens.or_else(counted);
    for demand in &demands.rates {
        trace.step(|| {
            format!("a limit of {} {}, of which this takes {}", demand.rate, demand.scope, demand.cost)
        });
    }
    for demand in &demands.quotas {
        trace.step(|| {
            format!("a quota of {} {}, of which this takes {}", demand.quota, demand.scope, demand.cost)
        });
    }
    let grant = Grant {
        route: wanted.leg.map(|leg| leg.route.clone()),
        credential: wanted.leg.and_then(|leg| leg.credential.clone()),
        model: wanted.model,
        consumer: Arc::clone(&key.consumer),
        tokens,
        is_known_model: wanted.pool.is_some() || !is_named_by_client(request),
        answer_tokens,
        websocket_protocols: protocols_without_key(request.headers),
        reservation: Reservation::default(),
        key,
    };
    Ok(Pending { demands, limited_tokens, grant })
}

/// The limits of a request, and its tokens if one of them counts those. The limits of a model count for
/// all its names together; those that its servers ask for are the model's own, so that no alias gets
/// around them.
fn demands(policy: &Policy, key: &Key, wanted: &Wanted<'_>, request: &Request<'_>) -> (Demands, Option<u32>) {
    let answer = wanted.pool.and_then(|pool| pool.settings.answer_tokens);
    let named_by_client = is_named_by_client(request);
    let count = wanted.count.as_deref();
    let mut take =
        Take { demands: Demands::default(), tokens: None, now: None, answer, count, policy, request };
    for limited in subjects(policy, key, wanted.model.as_ref(), wanted.pool, wanted.main, named_by_client) {
        for rate in limited.limits.rates() {
            let cost = take.cost(rate.unit());
            take.demands.rates.push(Demand::new(limited.scope, limited.cell, rate, cost));
        }
        for quota in limited.limits.quotas() {
            let cost = take.cost(quota.unit());
            let demand = take.quota(&limited, quota, cost);
            take.demands.quotas.push(demand);
        }
    }
    (take.demands, take.tokens)
}

/// Whether the model's name is the client's, and not that of a router's owner.
fn is_named_by_client(request: &Request<'_>) -> bool {
    !matches!(request.mode, Mode::Gate { model: Some(_), .. })
}

/// Somebody, or a model, with limits.
struct Limited<'l> {
    scope: Scope,
    cell: CellId,
    limits: Of<'l>,
}

/// Limits, or settings that say what they are.
enum Of<'l> {
    Limits(&'l Limits),
    Settings(&'l ModelSettings),
}

impl Of<'_> {
    fn rates(&self) -> impl Iterator<Item = Rate> {
        let (given, of_settings) = match self {
            Self::Limits(limits) => (limits.rates(), None),
            Self::Settings(settings) => (&[][..], Some(settings_rates(settings))),
        };
        given.iter().copied().chain(of_settings.into_iter().flatten().flatten())
    }

    fn quotas(&self) -> impl Iterator<Item = Quota> {
        let (given, of_settings) = match self {
            Self::Limits(limits) => (limits.quotas(), None),
            Self::Settings(settings) => (&[][..], Some(settings_quotas(settings))),
        };
        given.iter().copied().chain(of_settings.into_iter().flatten().flatten())
    }
}

/// Whose limits a request has to pass, those of whom there are any.
fn subjects<'l>(
    policy: &'l Policy,
    key: &'l Key,
    named: Option<&ModelName>,
    pool: Option<&'l Pool>,
    main: Option<&'l Pool>,
    named_by_client: bool,
) -> impl Iterator<Item = Limited<'l>> {
    let of = |scope, limits: &'l Limits, cell: &dyn Fn() -> CellId| {
        (!limits.is_empty()).then(|| Limited { scope, cell: cell(), limits: Of::Limits(limits) })
    };
    let of_key = || CellId::of_key(key);
    let of_consumer = || CellId::of_consumer(&key.consumer);
    let mut all = [
        of(Scope::Key, &key.limits, &of_key),
        of(Scope::Consumer, &key.consumer.limits, &of_consumer),
        None,
        None,
        None,
    ];
    if let Some(named) = named {
        let model = pool.map_or(named, |pool| &pool.stands_for).as_str();
        let by_policy = policy.model_limits(model).filter(|limits| !limits.is_empty());
        // Its digest is not for nothing, so it is made only if there is a limit, and mostly once.
        // Names that no server has come from clients, who may make up any number of them: they count together.
        let is_made_up = pool.is_none() && named_by_client;
        let cell = LazyCell::new(|| CellId::of_model(if is_made_up { "" } else { model }));
        all[2] = of(Scope::KeyAndModel, &key.limits_per_model, &|| of_key().for_model(*cell));
        all[3] =
            of(Scope::ConsumerAndModel, &key.consumer.limits_per_model, &|| of_consumer().for_model(*cell));
        all[4] = match by_policy {
            Some(limits) => of(Scope::Model, limits, &|| *cell),
            None => [main, pool].into_iter().flatten().find_map(own_limits),
        };
    }
    all.into_iter().flatten()
}

/// What a request takes, in the making; the tokens are estimated once, and only if they are limited.
struct Take<'r> {
    demands: Demands,
    tokens: Option<u32>,
    now: Option<Zoned>,
    answer: Option<u32>,
    count: Option<&'r Count>,
    policy: &'r Policy,
    request: &'r Request<'r>,
}

impl Take<'_> {
    fn cost(&mut self, unit: Unit) -> u32 {
        let uri = self.request.uri;
        let estimate = || match self.count {
            Some(count) => count.tokens(uri, self.answer),
            None => estimate::tokens(uri, self.request.known_body(), self.answer),
        };
        match unit {
            Unit::Requests => 1,
            Unit::Tokens => *self.tokens.get_or_insert_with(estimate),
        }
    }

    fn quota(&mut self, limited: &Limited<'_>, quota: Quota, cost: u32) -> QuotaDemand {
        let zone = self.policy.time_zone();
        let now = self.now.get_or_insert_with(|| quota::local(self.request.now, zone));
        let period = Period::of(quota.per(), now);
        let ends_after = period.end(zone).duration_since(self.request.now).unwrap_or_default();
        let id = QuotaId::new(limited.cell, &quota, period);
        QuotaDemand { scope: limited.scope, id, quota, cost, ends_after }
    }
}

/// What would be taken from a key's limits by one request or token: from its own, its consumer's, and for a
/// model from those of both and the model's, its servers' among them. To be shown, not to be taken.
pub fn limits_of(
    policy: &Policy,
    key: &Key,
    catalogue: &Catalogue,
    pool: Option<&Pool>,
    now: SystemTime,
) -> Demands {
    let main = pool.and_then(|pool| catalogue.pool(pool.stands_for.as_str())).map(AsRef::as_ref);
    let mut demands = Demands::default();
    let zone = policy.time_zone();
    let local = quota::local(now, zone);
    for limited in subjects(policy, key, pool.map(|pool| &pool.model), pool, main, false) {
        let rates = limited.limits.rates().map(|rate| Demand::new(limited.scope, limited.cell, rate, 1));
        demands.rates.extend(rates);
        for quota in limited.limits.quotas() {
            let period = Period::of(quota.per(), &local);
            let ends_after = period.end(zone).duration_since(now).unwrap_or_default();
            let id = QuotaId::new(limited.cell, &quota, period);
            demands.quotas.push(QuotaDemand { scope: limited.scope, id, quota, cost: 1, ends_after });
        }
    }
    demands
}

/// The limits that the model's servers ask for. Servers that only some requests choose may ask for
/// others, and a cell has but one rate.
fn own_limits(pool: &Pool) -> Option<Limited<'_>> {
    let limits = Of::Settings(&pool.settings);
    if limits.rates().next().is_none() && limits.quotas().next().is_none() {
        return None;
    }
    let cell = match &pool.selector {
        None => CellId::of_model(pool.model.as_str()),
        // No name holds a line break.
        Some(selector) => CellId::of_model(&format!("{}\n{selector}", pool.model)),
    };
    Some(Limited { scope: Scope::Model, cell, limits })
}

/// The rates among a model's settings; the burst is that of the shortest time.
fn settings_rates(settings: &ModelSettings) -> [Option<Rate>; 4] {
    let mut burst = settings.limit_burst;
    let mut requests = |amount: Option<u32>, per| Rate::new(amount?, Unit::Requests, per, burst.take()).ok();
    [
        requests(settings.limit_requests_per_second, Per::Second),
        requests(settings.limit_requests_per_minute, Per::Minute),
        requests(settings.limit_requests_per_hour, Per::Hour),
        settings.limit_tokens_per_minute.and_then(|amount| {
            Rate::new(amount, Unit::Tokens, Per::Minute, settings.limit_tokens_burst).ok()
        }),
    ]
}

fn settings_quotas(settings: &ModelSettings) -> [Option<Quota>; 4] {
    let quota = |amount: Option<u64>, unit, per| Quota::new(amount?, unit, per).ok();
    [
        quota(settings.limit_requests_per_day, Unit::Requests, Calendar::Day),
        quota(settings.limit_requests_per_month, Unit::Requests, Calendar::Month),
        quota(settings.limit_tokens_per_day, Unit::Tokens, Calendar::Day),
        quota(settings.limit_tokens_per_month, Unit::Tokens, Calendar::Month),
    ]
}

impl From<&ModelSettings> for Limits {
    fn from(settings: &ModelSettings) -> Self {
        let rates = settings_rates(settings).into_iter().flatten().collect();
        Self::new(rates, settings_quotas(settings).into_iter().flatten().collect())
    }
}
