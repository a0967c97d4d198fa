//! The whole decision: whose request this is, which model it wants, whether the key may use that model, and whether its limits
//! allow it.

mod agree;
mod behind;
mod demands;
mod names;
mod wanted;

use std::sync::Arc;

use catalogue::{Catalogue, Credential, ModelCard, ModelName, Pick, Pool, RouteId, ServerRecord};
use limits::{Clock, Demands, Limiters, Reservation, Reserve, Unit};

use crate::{
    Consumer, Key, Mode, Policy, Reason, Request, RevokedKey, Unreadable,
    estimate::{self, Answers, Bound, BoundOf, Count, Media, Servers, Sum, Unbounded},
    given::protocols_without_key,
};
use demands::demands;
pub use demands::limits_of;
pub use names::{is_asked_by_post, model_in_path};
pub use wanted::no_such_model;
use wanted::{Question, Refused, Wanted};

/// The outcome for a request.
#[derive(Debug)]
pub enum Decision {
    /// The request may pass.
    Allow(Grant),
    /// The request is refused.
    Deny(Denial),
}

/// What Modelgate tells Traefik and counts for an allowed request.
#[derive(Debug)]
pub struct Grant {
    /// The route to which Traefik is to send it; `None` if Modelgate does not choose it.
    pub route: Option<RouteId>,
    /// The model that it asks for; `None` if it names none and none is needed.
    pub model: Option<ModelName>,
    /// The key's consumer.
    pub consumer: Arc<Consumer>,
    /// The key that was shown.
    pub key: Arc<Key>,
    /// The estimated tokens; `None` if no limit counts tokens and the body cannot be counted while it is read.
    pub sum: Option<Sum>,
    /// How many answers it asks for, as far as it was read.
    pub answers: Answers,
    /// Whether an answer may be longer than it says: some server of its model is not known to read what it says.
    pub is_open: bool,
    /// Whether some server of its model may export spans.
    pub may_export_spans: bool,
    /// Whether Traefik may send a copy of it to a mirror whose servers may export spans: these look like the request's own.
    pub is_mirrored: bool,
    /// The assumed tokens of an answer whose length the request leaves open; `None` for [`ANSWER`](crate::estimate::ANSWER).
    pub answer_tokens: Option<u32>,
    /// Whether the model's name comes from servers or operators, not only from the client.
    pub is_known_model: bool,
    /// The model's own name, if there are servers of it.
    pub canonical: Option<ModelName>,
    /// What it has taken from its limits.
    pub reservation: Reservation,
    /// The credential that the servers demand.
    pub credential: Option<Arc<Credential>>,
    /// The servers among which Modelgate may choose; `None` if Traefik chooses.
    pub pick: Option<Arc<Pick>>,
    /// The `Sec-WebSocket-Protocol` that the server is to see, if the client offers protocols.
    pub websocket_protocols: Option<String>,
}

impl Grant {
    /// The model, unless the client may have invented it.
    pub fn known_model(&self) -> Option<&str> {
        self.model.as_ref().filter(|_| self.is_known_model).map(ModelName::as_str)
    }

    /// The model's own name, by which it is priced and its usage is counted, whatever name the client has used for it.
    pub fn own_model(&self) -> Option<&str> {
        self.canonical.as_ref().map(ModelName::as_str).or_else(|| self.known_model())
    }
}

/// Why a request is refused, and what is known about it.
#[derive(Debug)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// The key's consumer, if the key is known.
    pub consumer: Option<Arc<Consumer>>,
    /// The key, if it is known.
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

    /// A refusal of a request whose key is known but does not work.
    pub(crate) fn of_key(key: &Arc<Key>, reason: Reason) -> Box<Self> {
        let consumer = Some(Arc::clone(&key.consumer));
        Box::new(Self { reason, consumer, key: Some(Arc::clone(key)), tokens: None, sum: None, model: None })
    }

    /// A refusal of a request whose key was revoked.
    pub(crate) fn of_revoked(revoked: &RevokedKey) -> Box<Self> {
        let consumer = Arc::new(Consumer::new(&*revoked.consumer));
        Self::of_key(&Arc::new(Key::new(&*revoked.name, consumer, revoked.digest)), Reason::RevokedKey)
    }
}

/// Receives each step of a decision, for an operator. Steps are not formatted if nobody listens.
pub(crate) trait Trace {
    fn step(&mut self, say: impl FnOnce() -> String);
}

/// Ignores all steps.
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
    /// What the reader has counted in its body, if there is a hard budget.
    count: Option<Box<Count>>,
    /// The longest context of the servers that may answer it, if there is a hard budget and all of them tell theirs.
    context: Option<u64>,
    /// The servers that may answer it.
    servers: Servers,
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

    /// The model, unless the client may have invented it.
    pub fn known_model(&self) -> Option<&str> {
        self.grant.known_model()
    }

    /// The key that was shown.
    pub fn key(&self) -> &Key {
        &self.grant.key
    }

    /// The route, and the servers among which Modelgate may choose, if it does.
    pub fn pick(&self) -> Option<(&RouteId, &Arc<Pick>)> {
        self.grant.route.as_ref().zip(self.grant.pick.as_ref())
    }

    /// The model's own name; see [`Grant::own_model`].
    pub fn own_model(&self) -> Option<&str> {
        self.grant.own_model()
    }

    /// Whether it takes from budgets.
    pub fn has_budget(&self) -> bool {
        self.has_usual_budget() || self.has_hard_budget()
    }

    /// Whether it takes its estimated cost from a budget.
    pub fn has_usual_budget(&self) -> bool {
        self.demands.has_budget(Reserve::Usual)
    }

    /// Whether it takes from a budget the most that it can cost.
    pub fn has_hard_budget(&self) -> bool {
        self.demands.has_budget(Reserve::Hard)
    }

    /// Takes it out of all budgets: it is free.
    pub fn drop_budgets(&mut self) {
        self.demands.drop_budgets();
    }

    /// Sets what it takes from budgets, in units of 10⁻⁹ of the currency.
    pub fn price(&mut self, cost: impl Fn(Reserve) -> u64) {
        self.demands.price(cost);
    }

    /// Its estimated tokens.
    pub fn estimate(&mut self, uri: &str, body: Option<&[u8]>) -> Sum {
        let answer_tokens = self.grant.answer_tokens;
        *self.grant.sum.get_or_insert_with(|| estimate::sum(uri, body, answer_tokens))
    }

    /// The most that it can use; `media` is what it is estimated to use besides tokens.
    ///
    /// # Errors
    /// The most is not known; the error says why.
    pub fn most(&self, uri: &str, body: Option<&[u8]>, media: Media) -> Result<Bound, Unbounded> {
        let (context, servers) = (self.context, self.servers);
        BoundOf { uri, body, count: self.count.as_deref(), media, context, servers }.find()
    }

    /// Allows it, after its limits were debited or if they need not be.
    pub fn allow(self, reservation: Reservation) -> Decision {
        Decision::Allow(Grant { reservation, ..self.grant })
    }

    /// Refuses it.
    pub fn deny(self, reason: Reason) -> Decision {
        Decision::Deny(*self.refuse(reason))
    }

    /// Why it is refused, and what is known about it.
    pub fn refuse(self, reason: Reason) -> Box<Denial> {
        let Grant { consumer, key, model, .. } = self.grant;
        let (tokens, model) =
            (self.sum.map(|sum| sum.tokens()), model.map(|model| model.as_str().to_owned()));
        let by_tokens =
            matches!(&reason, Reason::LimitReached(reached) if reached.limit.unit() == Unit::Tokens);
        let sum = self.sum.filter(|_| by_tokens);
        Box::new(Denial { reason, consumer: Some(consumer), key: Some(key), tokens, sum, model })
    }

    /// Debits its limits in memory, either all or none.
    pub fn admit<C: Clock>(self, limiters: &Limiters<C>) -> Decision {
        match limiters.reserve(&self.demands) {
            Ok(reservation) => self.allow(reservation),
            Err(reached) => self.deny(reached.into()),
        }
    }
}

/// Decides about a request.
///
/// The checks have an order: a request without a valid key learns nothing, and limits are debited only if every other check
/// passes.
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

/// All checks but the limits, which may be counted elsewhere.
///
/// # Errors
/// The request is refused, whatever its limits.
pub fn prepare(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
) -> Result<Pending, Box<Denial>> {
    judge(policy, catalogue, request, &mut Silent)
}

/// Whose key it is, for an operator.
pub fn whose(key: &Key) -> String {
    format!("the API key is {:?}, of consumer {:?}", key.name, &key.consumer.name)
}

pub(crate) fn judge(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
    trace: &mut impl Trace,
) -> Result<Pending, Box<Denial>> {
    let key = policy.authenticate(request.headers, request.from, request.now)?;
    trace.step(|| whose(&key));
    let answer = (Question { key: &key, catalogue, request }).answer(trace);
    let wanted = match answer.and_then(|wanted| refuse_key_as_model(policy, request, wanted)) {
        Ok(wanted) => wanted,
        Err(refused) => {
            let Refused { reason, model } = refused.without_key(policy, request);
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
    let (demands, of_limits) = demands(policy, &key, &wanted, request);
    let answer_tokens = wanted.pool.and_then(|pool| pool.settings.answer_tokens);
    let counted = || wanted.count.as_ref().map(|count| count.sum(request.uri, answer_tokens));
    let answers = wanted.count.as_ref().map(|count| count.answers()).unwrap_or_default();
    let servers = wanted.pool.map_or(Servers::UNKNOWN, Servers::of);
    let is_open = wanted.count.as_ref().is_none_or(|count| count.is_open(request.uri, servers));
    let exports_spans = |server: &Arc<ServerRecord>| server.kind().may_export_spans();
    for demand in demands.rates() {
        trace.step(|| {
            format!("a limit of {} {}, of which this takes {}", demand.rate(), demand.scope(), demand.cost())
        });
    }
    for demand in demands.quotas() {
        trace.step(|| match demand.quota().unit() {
            Unit::Money => {
                format!("a budget of {} {}, of which this takes its price", demand.quota(), demand.scope())
            }
            Unit::Requests | Unit::Tokens => format!(
                "a quota of {} {}, of which this takes {}",
                demand.quota(),
                demand.scope(),
                demand.cost()
            ),
        });
    }
    let sum = of_limits.or_else(counted);
    let (context, count) = match demands.has_budget(Reserve::Hard) {
        true => (wanted.pool.and_then(longest_context), wanted.count),
        false => (None, None),
    };
    let grant = Grant {
        route: wanted.group.map(|group| group.route.clone()),
        credential: wanted.group.and_then(|group| group.credential.clone()),
        // Traefik has chosen the route already where it asks about one.
        pick: wanted
            .group
            .and_then(|group| group.pick.clone())
            .filter(|_| matches!(request.mode, Mode::Layered)),
        model: wanted.model,
        canonical: wanted.pool.map(|pool| pool.canonical.clone()),
        consumer: Arc::clone(&key.consumer),
        sum,
        answers,
        is_open,
        may_export_spans: wanted.pool.is_some_and(|pool| pool.ready.iter().any(exports_spans)),
        is_mirrored: wanted
            .pool
            .and_then(|pool| pool.mirror.as_ref())
            .is_some_and(|mirror| mirror.ready.iter().any(exports_spans)),
        is_known_model: wanted.pool.is_some() || !is_named_by_client(request),
        answer_tokens,
        websocket_protocols: protocols_without_key(request.headers),
        reservation: Reservation::default(),
        key,
    };
    Ok(Pending { demands, sum: of_limits, count, context, servers, grant })
}

/// The longest context that a pool's model has at the servers that may answer its requests, in tokens; `None` if one of them does not tell
/// it, and the operator does not either.
fn longest_context(pool: &Pool) -> Option<u64> {
    let names = [&pool.model, &pool.canonical];
    let of_pool = pool.ready.iter().map(|server| context_of(server, &names));
    let of_canary = pool.canary.iter().flat_map(|canary| {
        let names = [&pool.model, &pool.canonical, &canary.model];
        canary.ready.iter().map(move |server| context_of(server, &names))
    });
    let stated = pool.settings.context_tokens.map(u64::from);
    longest(of_pool.chain(of_canary).map(|told| told.or(stated)))
}

/// The longest context that a server tells of the model with these names. Another model of the same server may have a shorter one.
fn context_of(server: &ServerRecord, names: &[&ModelName]) -> Option<u64> {
    let is_it =
        |card: &&ModelCard| names.iter().any(|name| card.name == **name || card.aliases.contains(name));
    // vLLM and SGLang tell the context of an adapter only of its base model.
    let of_parent = |card: &ModelCard| {
        let parent = card.parent.as_deref()?;
        let names = |base: &ModelCard| base.name.as_str() == parent || base.root.as_deref() == Some(parent);
        let bases = server.models.iter().filter(|base| base.parent.is_none() && names(base));
        longest(bases.map(|base| base.context_length))
    };
    let own = server.models.iter().filter(is_it);
    longest(own.map(|card| card.context_length.or_else(|| of_parent(card))))
}

/// The longest of all, if there is one and all are known.
fn longest(mut contexts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    contexts.try_fold(0, |longest, own| Some(own?.max(longest))).filter(|longest| *longest > 0)
}

/// Refuses a name that no server has and that is the request's key.
fn refuse_key_as_model<'c>(
    policy: &Policy,
    request: &Request<'_>,
    wanted: Wanted<'c>,
) -> Result<Wanted<'c>, Refused> {
    match &wanted.model {
        Some(model) if wanted.pool.is_none() && holds_key(policy, request, model.as_str()) => {
            Err(KEY_AS_MODEL.into())
        }
        _ => Ok(wanted),
    }
}

impl Refused {
    /// Without the model if that is the request's key: refusals and pages would show it.
    fn without_key(self, policy: &Policy, request: &Request<'_>) -> Self {
        match &self.model {
            Some(model) if holds_key(policy, request, model) => KEY_AS_MODEL.into(),
            _ => self,
        }
    }
}

const KEY_AS_MODEL: Unreadable = Unreadable::ModelInvalid("it is the request's API key");

/// The length from which a key is searched for within a longer name. A shorter one may be part of a name by chance.
const LONG_KEY: usize = 16;

/// Whether a name is or holds the key that a request shows.
fn holds_key(policy: &Policy, request: &Request<'_>, name: &str) -> bool {
    let is_in = |key: &[u8]| {
        name.as_bytes() == key
            || key.len() >= LONG_KEY && memchr::memmem::find(name.as_bytes(), key).is_some()
    };
    policy.shown_key(request.headers, request.now).is_some_and(is_in)
}

/// Whether the client chose the model's name, rather than a router's owner.
fn is_named_by_client(request: &Request<'_>) -> bool {
    !matches!(request.mode, Mode::Gate { model: Some(_), .. })
}
