//! The whole decision: who is this, which model do they want, may they, are they within their limits.

mod names;
mod wanted;

use std::sync::Arc;

use catalogue::{Catalogue, Credential, ModelName, Pool, RouteId};

use crate::{
    Clock, Key, Limiters, Policy, Rate, Reason, Request, Scope,
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
    pub consumer: Arc<str>,
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
    pub consumer: Option<Arc<str>>,
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
    let key = match policy.authenticate(request.headers) {
        Ok(key) => key,
        Err(reason) => return Decision::Deny(Denial { reason, consumer: None, model: None }),
    };
    trace.step(|| format!("the API key is {:?}, of consumer {:?}", key.name, &*key.consumer));
    let deny = |key: &Key, model: Option<String>, reason| {
        Decision::Deny(Denial { reason, consumer: Some(Arc::clone(&key.consumer)), model })
    };
    let wanted = match (Question { key: &key, catalogue, request }).answer(trace) {
        Ok(wanted) => wanted,
        Err(Refused { reason, model }) => return deny(&key, model, reason),
    };
    let demands = demands(policy, &key, &wanted);
    for demand in demands.iter().flatten() {
        trace.step(|| {
            format!("a limit of {} requests a minute {}", demand.rate.requests_per_minute(), demand.scope)
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
fn demands(policy: &Policy, key: &Key, wanted: &Wanted<'_>) -> [Option<Demand>; 3] {
    let demand = |scope, cell, rate| Demand { scope, cell, rate };
    let of_key = key.limit.map(|rate| demand(Scope::Key, CellId::of_key(&key.digest), rate));
    let Some(named) = &wanted.model else { return [of_key, None, None] };
    let model = wanted.pool.map_or(named, |pool| &pool.stands_for).as_str();
    let by_policy = policy.model_limit(model);
    // Its digest is not for nothing, so it is made once, and only if there is a limit.
    let cell = (key.limit_per_model.is_some() || by_policy.is_some()).then(|| CellId::of_model(model));
    let of_both = cell.zip(key.limit_per_model).map(|(cell, rate)| (cell.with_key(&key.digest), rate));
    let own = || [wanted.main, wanted.pool].into_iter().flatten().find_map(own_limit);
    let of_model = cell.zip(by_policy).or_else(own);
    [
        of_key,
        of_both.map(|(cell, rate)| demand(Scope::KeyAndModel, cell, rate)),
        of_model.map(|(cell, rate)| demand(Scope::Model, cell, rate)),
    ]
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
