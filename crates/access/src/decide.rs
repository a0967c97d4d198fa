//! The whole decision: who is this, which model do they want, may they, are they within their limits.

mod agree;
mod behind;
mod demands;
mod names;
mod wanted;

use std::sync::Arc;

use catalogue::{Catalogue, Credential, ModelName, RouteId};
use limits::{Clock, Demands, Limiters, Reservation, Unit};

use crate::{Consumer, Key, Mode, Policy, Reason, Request, estimate::Sum, given::protocols_without_key};
use demands::demands;
pub use demands::limits_of;
pub use names::{is_asked_by_post, model_in_path};
pub use wanted::no_such_model;
use wanted::{Question, Refused};

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
    /// What they are made of, if it is refused by a limit of tokens.
    pub sum: Option<Sum>,
    /// The model that it asks for, if that could be read. It comes from the client: it need not exist.
    pub model: Option<String>,
}

impl Denial {
    /// Of a request of which nobody knows whose it is.
    pub(crate) fn of_nobody(reason: Reason) -> Box<Self> {
        Box::new(Self { reason, consumer: None, key: None, tokens: None, sum: None, model: None })
    }

    /// Of one whose key is known, and does not work.
    pub(crate) fn of_key(key: &Arc<Key>, reason: Reason) -> Box<Self> {
        let consumer = Some(Arc::clone(&key.consumer));
        Box::new(Self { reason, consumer, key: Some(Arc::clone(key)), tokens: None, sum: None, model: None })
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
    /// What its tokens are made of, if a limit counts them.
    sum: Option<Sum>,
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
        let (tokens, model) =
            (self.sum.map(|sum| sum.tokens()), model.map(|model| model.as_str().to_owned()));
        let by_tokens =
            matches!(&reason, Reason::LimitReached(reached) if reached.limit.unit() == Unit::Tokens);
        let sum = self.sum.filter(|_| by_tokens);
        Decision::Deny(Denial { reason, consumer: Some(consumer), key: Some(key), tokens, sum, model })
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
            return Err(Box::new(Denial {
                reason,
                consumer,
                key: Some(key),
                tokens: None,
                sum: None,
                model,
            }));
        }
    };
    let (demands, sum) = demands(policy, &key, &wanted, request);
    let answer_tokens = wanted.pool.and_then(|pool| pool.settings.answer_tokens);
    let counted = || wanted.count.as_ref().map(|count| count.tokens(request.uri, answer_tokens));
    let tokens = sum.map(|sum| sum.tokens()).or_else(counted);
    for demand in demands.rates() {
        trace.step(|| {
            format!("a limit of {} {}, of which this takes {}", demand.rate(), demand.scope(), demand.cost())
        });
    }
    for demand in demands.quotas() {
        trace.step(|| {
            format!("a quota of {} {}, of which this takes {}", demand.quota(), demand.scope(), demand.cost())
        });
    }
    let grant = Grant {
        route: wanted.group.map(|group| group.route.clone()),
        credential: wanted.group.and_then(|group| group.credential.clone()),
        model: wanted.model,
        consumer: Arc::clone(&key.consumer),
        tokens,
        is_known_model: wanted.pool.is_some() || !is_named_by_client(request),
        answer_tokens,
        websocket_protocols: protocols_without_key(request.headers),
        reservation: Reservation::default(),
        key,
    };
    Ok(Pending { demands, sum, grant })
}

/// Whether the model's name is the client's, and not that of a router's owner.
fn is_named_by_client(request: &Request<'_>) -> bool {
    !matches!(request.mode, Mode::Gate { model: Some(_), .. })
}
