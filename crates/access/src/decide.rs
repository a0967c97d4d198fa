//! The whole decision: who is this, which model do they want, may they, are they within their limits.

use std::sync::Arc;

use catalogue::{Catalogue, ModelName, Pool, Readiness, RouteId};

use crate::{
    Clock, Key, Limiters, Policy, Reason, Request, Scope, Unreadable,
    limits::{CellId, Demand},
    read::{Target, is_closed, read},
};

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
    /// Where Traefik shall send it.
    pub route: RouteId,
    /// The model that it asks for.
    pub model: ModelName,
    /// Whose it is.
    pub consumer: Arc<str>,
    /// With which key.
    pub key: Arc<Key>,
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
    let key = match policy.authenticate(request.headers) {
        Ok(key) => key,
        Err(reason) => return Decision::Deny(Denial { reason, consumer: None, model: None }),
    };
    let deny = |key: &Key, model: Option<ModelName>, reason| {
        let model = model.map(|model| model.as_str().to_owned());
        Decision::Deny(Denial { reason, consumer: Some(Arc::clone(&key.consumer)), model })
    };
    let wanted = match what_is_wanted(request) {
        Ok(wanted) => wanted,
        Err(reason) => return deny(&key, None, reason),
    };
    let pool = match pool_for(&key, catalogue, &wanted) {
        Ok(pool) => pool,
        Err(reason) => return deny(&key, Some(wanted.model), reason),
    };
    match limiters.admit(&demands(policy, &key, wanted.model.as_str())) {
        Err(limited) => deny(&key, Some(wanted.model), limited.into()),
        Ok(()) => Decision::Allow(Grant {
            route: pool.route.clone(),
            model: pool.model.clone(),
            consumer: Arc::clone(&key.consumer),
            key,
        }),
    }
}

/// What the request itself says.
fn what_is_wanted(request: &Request<'_>) -> Result<crate::read::Reading, Reason> {
    let target = Target::parse(request.uri)?;
    if is_closed(&target.path) {
        return Err(Reason::ClosedPath);
    }
    Ok(read(request, &target)?)
}

/// The servers of the model, if the key may use it and one of them is ready.
fn pool_for<'c>(
    key: &Key,
    catalogue: &'c Catalogue,
    wanted: &crate::read::Reading,
) -> Result<&'c Pool, Reason> {
    let model = wanted.model.as_str();
    // One refusal for both, so that nobody can ask which models there are.
    let pool = catalogue.pool(model).filter(|_| key.may_use(model));
    let pool = pool.ok_or_else(|| Reason::ModelNotFound { model: model.to_owned() })?;
    let not_ready = |draining| Err(Reason::NotReady { model: model.to_owned(), draining });
    match pool.readiness() {
        Readiness::Starting => not_ready(false),
        Readiness::Draining => not_ready(true),
        Readiness::Ready if wanted.only_outside_body && !has_no_choice(pool) => {
            Err(Unreadable::ModelNotInBody.into())
        }
        Readiness::Ready => Ok(pool),
    }
}

/// Whether none of the servers has another model: then it cannot choose one for a body that names none.
fn has_no_choice(pool: &Pool) -> bool {
    pool.ready.iter().all(|server| server.models.iter().all(|card| card.name == pool.model))
}

fn demands(policy: &Policy, key: &Key, model: &str) -> [Option<Demand>; 3] {
    let demand = |scope, cell, rate| Demand { scope, cell, rate };
    [
        key.limit.map(|rate| demand(Scope::Key, CellId::of_key(&key.digest), rate)),
        key.limit_per_model.map(|rate| demand(Scope::KeyAndModel, CellId::of_both(&key.digest, model), rate)),
        policy.model_limit(model).map(|rate| demand(Scope::Model, CellId::of_model(model), rate)),
    ]
}
