//! The whole decision: who is this, which model do they want, may they, are they within their limits.

mod names;
mod wanted;

use std::sync::Arc;

use catalogue::{Catalogue, Credential, ModelName, Pool, RouteId};

use crate::{
    Clock, Consumer, Key, Left, Limiters, Limits, Policy, Rate, Reason, Request, Scope, Unit, estimate,
    limits::{CellId, Demand},
    policy::protocols_without_key,
};
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
    /// What the servers demand.
    pub credential: Option<Arc<Credential>>,
    /// The `Sec-WebSocket-Protocol` that the server is to see, if the client offers protocols.
    pub websocket_protocols: Option<String>,
}

/// Why a request is refused, and what is known about it.
#[derive(Debug)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// Whose it is, if its key is known.
    pub consumer: Option<Arc<Consumer>>,
    /// The model that it asks for, if that could be read. It comes from the client: it need not exist.
    pub model: Option<String>,
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
    judge(policy, catalogue, limiters, request, &mut Silent)
}

pub(crate) fn judge<C: Clock>(
    policy: &Policy,
    catalogue: &Catalogue,
    limiters: &Limiters<C>,
    request: &Request<'_>,
    trace: &mut impl Trace,
) -> Decision {
    let key = match policy.authenticate(request.headers, request.from, request.now) {
        Ok(key) => key,
        Err(reason) => return Decision::Deny(Denial { reason, consumer: None, model: None }),
    };
    trace.step(|| format!("the API key is {:?}, of consumer {:?}", key.name, &key.consumer.name));
    let deny = |key: &Key, model: Option<String>, reason| {
        Decision::Deny(Denial { reason, consumer: Some(Arc::clone(&key.consumer)), model })
    };
    let wanted = match (Question { key: &key, catalogue, request }).answer(trace) {
        Ok(wanted) => wanted,
        Err(Refused { reason, model }) => return deny(&key, model, reason),
    };
    let demands = demands(policy, &key, &wanted, request);
    for demand in &demands {
        trace.step(|| {
            format!("a limit of {} {}, of which this takes {}", demand.rate, demand.scope, demand.cost)
        });
    }
    match limiters.admit(&demands) {
        Err(limited) => deny(&key, wanted.model.map(|m| m.as_str().to_owned()), limited.into()),
        Ok(()) => Decision::Allow(Grant {
            route: wanted.leg.map(|leg| leg.route.clone()),
            credential: wanted.leg.and_then(|leg| leg.credential.clone()),
            model: wanted.model,
            consumer: Arc::clone(&key.consumer),
            websocket_protocols: protocols_without_key(request.headers),
            key,
        }),
    }
}

/// The limits of a request. Those of a model count for all its names together; one that its servers
/// ask for is the model's own, so that no alias gets around it.
fn demands(policy: &Policy, key: &Key, wanted: &Wanted<'_>, request: &Request<'_>) -> Vec<Demand> {
    let mut demands = Demands { all: Vec::new(), tokens: None, request };
    demands.add(Scope::Key, &key.limits, || CellId::of_key(&key.digest));
    demands.add(Scope::Consumer, &key.consumer.limits, || CellId::of_consumer(&key.consumer));
    let Some(named) = &wanted.model else { return demands.all };
    let model = wanted.pool.map_or(named, |pool| &pool.stands_for).as_str();
    let by_policy = policy.model_limits(model).filter(|limits| !limits.is_empty());
    let by_both = [&key.limits_per_model, &key.consumer.limits_per_model];
    // Its digest is not for nothing, so it is made once, and only if there is a limit.
    if by_policy.is_some() || by_both.iter().any(|limits| !limits.is_empty()) {
        let cell = CellId::of_model(model);
        demands.add(Scope::KeyAndModel, by_both[0], || CellId::of_key(&key.digest).for_model(cell));
        let of_consumer = || CellId::of_consumer(&key.consumer).for_model(cell);
        demands.add(Scope::ConsumerAndModel, by_both[1], of_consumer);
        if let Some(limits) = by_policy {
            demands.add(Scope::Model, limits, || cell);
        }
    }
    if by_policy.is_none() {
        let own = [wanted.main, wanted.pool].into_iter().flatten().find_map(own_limit);
        if let Some((cell, rate)) = own {
            demands.all.push(Demand::new(Scope::Model, cell, rate, 1));
        }
    }
    demands.all
}

/// Demands in the making; the tokens are estimated once, and only if they are limited.
struct Demands<'r> {
    all: Vec<Demand>,
    tokens: Option<u32>,
    request: &'r Request<'r>,
}

impl Demands<'_> {
    fn add(&mut self, scope: Scope, limits: &Limits, subject: impl FnOnce() -> CellId) {
        if limits.is_empty() {
            return;
        }
        let subject = subject();
        for rate in limits.rates() {
            let cost = match rate.unit() {
                Unit::Requests => 1,
                Unit::Tokens => {
                    *self.tokens.get_or_insert_with(|| estimate::tokens(self.request.uri, self.request.body))
                }
            };
            self.all.push(Demand::new(scope, subject, *rate, cost));
        }
    }
}

/// What is left of a key's limits: its own, its consumer's, and for a model those of both and the
/// model's, its servers' among them. Takes nothing.
pub fn limits_left<C: Clock>(
    policy: &Policy,
    limiters: &Limiters<C>,
    key: &Key,
    catalogue: &Catalogue,
    pool: Option<&Pool>,
) -> Vec<Left> {
    let mut all = vec![
        (Scope::Key, &key.limits, CellId::of_key(&key.digest)),
        (Scope::Consumer, &key.consumer.limits, CellId::of_consumer(&key.consumer)),
    ];
    let mut own = None;
    if let Some(pool) = pool {
        let model = pool.stands_for.as_str();
        let cell = CellId::of_model(model);
        all.push((Scope::KeyAndModel, &key.limits_per_model, CellId::of_key(&key.digest).for_model(cell)));
        let of_consumer = CellId::of_consumer(&key.consumer).for_model(cell);
        all.push((Scope::ConsumerAndModel, &key.consumer.limits_per_model, of_consumer));
        match policy.model_limits(model).filter(|limits| !limits.is_empty()) {
            Some(limits) => all.push((Scope::Model, limits, cell)),
            None => own = catalogue.pool(model).and_then(|main| own_limit(main)).or_else(|| own_limit(pool)),
        }
    }
    let of_servers = own.map(|(cell, rate)| limiters.left(&Demand::new(Scope::Model, cell, rate, 1)));
    let left = |(scope, limits, cell): (Scope, &Limits, CellId)| {
        let of = |rate: &Rate| limiters.left(&Demand::new(scope, cell, *rate, 1));
        limits.rates().iter().map(of).collect::<Vec<_>>()
    };
    all.into_iter().flat_map(left).chain(of_servers).collect()
}

/// The limit that the model's servers ask for. Servers that only some requests choose may ask for
/// another one, and a cell has but one rate.
fn own_limit(pool: &Pool) -> Option<(CellId, Rate)> {
    let per_minute = pool.settings.limit_requests_per_minute?;
    let rate = Rate::per_minute(per_minute, pool.settings.limit_burst).ok()?;
    let cell = match &pool.selector {
        None => CellId::of_model(pool.model.as_str()),
        // No name holds a line break.
        Some(selector) => CellId::of_model(&format!("{}\n{selector}", pool.model)),
    };
    Some((cell, rate))
}
