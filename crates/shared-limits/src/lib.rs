//! Rates counted in Redis or Valkey, so that several Modelgates share limits exactly.
//!
//! The algorithm is that of `limits::Limiters`, the *generic cell rate algorithm* (GCRA; ITU-T I.371, and
//! <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>): a limit is one *theoretical arrival time*, when it will have
//! recovered completely. Here a script on the server changes it
//! (<https://redis.io/docs/latest/develop/programmability/eval-intro/>), so that all limits of a request are checked and
//! debited at once, in one round trip. The clock is the server's (`TIME` in the script), so the clocks of the Modelgates may
//! differ. A key expires when its limit has recovered.
//!
//! **Servers.** Redis 5 or later (which replicates scripts by their effects; otherwise they could not use the time), and
//! Valkey. The user needs `+@connection +evalsha +eval +script|load +time +get +mget +set +del +zadd +zcard +zremrangebyscore
//! +expire` (and `+xadd +xread` for [streams](Stream)) and the keys of the [namespace](Options::namespace). Use the eviction policy
//! `noeviction` or `volatile-ttl`: an evicted limit counts as unused. So does one that a replica has not yet received when it becomes the primary.
//!
//! **Clusters.** The limits of one request belong to a key, a consumer and a model, in every combination; no partition would
//! keep each request's limits together. So all keys have one hash tag, `{modelgate}`, and are in one slot: a cluster serves the
//! limits from one of its nodes, and the connection follows when the slot moves. That is the price of "all or none" and of one
//! round trip; a node decides tens of thousands of times a second.
//!
//! **When it is unreachable,** each call returns [`Unavailable`] within [`Options::timeout`], and at once when that is known
//! already. The caller decides what to do then. Reconnecting goes on in the background. A hanging server that resumes takes
//! nothing for a request that was given up: each admission says until when it is waited for, by the server's own clock. What
//! remains is an answer that is lost on its way.
//!
//! **When it loses data,** its counts of budgets are missing, or are those of an earlier time. It notices that when a Modelgate whose
//! announcement is lost announces itself again, within a second; then a new [`Epoch`] begins. Counts of an earlier epoch begin anew with
//! what the next request tells of them, and what was taken in it is not given back. Who waits a while, counted from
//! [`SharedLimits::lost_at`], can tell all that was taken before.

mod exchange;
mod link;
mod script;

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use limits::{LimitId, QuotaId};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

pub use exchange::{Listener, Message, Place, Received, Stream, StreamSender};

use crate::{
    link::{Link, Server},
    script::Keys,
};

/// The limits that are kept in one Redis or Valkey.
pub struct SharedLimits {
    link: Arc<Link>,
    keys: Keys,
    connector: AbortHandle,
}

/// How to connect to the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The time limit for a decision.
    pub timeout: Duration,
    /// The prefix of all keys, in braces: `{modelgate}:`. Modelgates with the same namespace share their limits.
    pub namespace: String,
    /// The certificates (PEM) of the authorities for a `rediss://` server; `None`: the machine's own.
    pub authorities: Option<Vec<u8>>,
    /// The last known number of Modelgates that share the limits; used until the server reports it.
    pub replicas: NonZeroU32,
}

/// One request's demand on a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The id of the limit.
    pub id: LimitId,
    /// The time that one request or token uses up, in nanoseconds.
    pub interval_ns: u64,
    /// The number that may come at once after a pause.
    pub burst: u32,
    /// The amount taken: 1 for a request, or its tokens. A demand that costs 0 passes.
    pub cost: u32,
}

/// A time without a known loss of data: a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(u64);

/// One request's demand on a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetDemand {
    /// The id of its count.
    pub id: QuotaId,
    /// What may be spent in all, in units of 10⁻⁹ of the currency.
    pub allowed: u64,
    /// What the request takes. A demand that costs 0 passes.
    pub cost: u64,
    /// What was taken before, as far as is known here: in case that the server does not know it.
    pub used: u64,
    /// As [`SharedLimits::epoch`] says, the same for all budgets of a request. In another epoch nothing is decided.
    pub epoch: Epoch,
    /// The time left of its period; `None` if it never ends.
    pub ends_after: Option<Duration>,
}

/// A correction of what was taken of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// The id of its count.
    pub id: QuotaId,
    /// What is added to it, in units of 10⁻⁹ of the currency.
    pub by: i64,
    /// The epoch in which it was taken. Nothing is given back to a count that was begun in another.
    pub epoch: Epoch,
    /// The time left of its period; `None` if it never ends.
    pub ends_after: Option<Duration>,
}

/// What a request has really used of a limit, after it was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// What was taken.
    pub demand: Demand,
    /// As [`Outcome::Admitted`] said.
    pub recovers_from: ServerTime,
    /// What was used: more than was taken, or less.
    pub used: u32,
}

/// The result for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All limits allow it, and all are debited.
    Admitted {
        /// The time.
        at: ServerTime,
        /// For each demand the time from which what was taken recovers: from now, or after what others have taken before. For
        /// [`SharedLimits::settle`].
        recovers_from: Vec<ServerTime>,
    },
    /// It costs more than is left of some limit. None is debited.
    Refused {
        /// The index of the demand. Of several, the one with the longest wait, after which the request passes. A demand for
        /// more than a full burst, which never passes, comes before all others.
        index: usize,
        /// The time until it would pass.
        retry_after: Duration,
        /// The time until a full burst passes again.
        reset_after: Duration,
    },
    /// It costs more than is left of a budget. Nothing is debited.
    Overspent {
        /// The index of the demand among those on budgets.
        index: usize,
        /// What is left of the budget.
        remaining: u64,
    },
    /// The server does not answer, or not in time.
    Unavailable,
}

/// A time by the server's clock, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerTime(u64);

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The amount that passes at once now.
    pub remaining: u32,
    /// The time until a full burst passes again.
    pub reset_after: Duration,
}

/// Whether the server makes decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It does not, with the reason. Never holds a password.
    Down(Arc<str>),
}

/// The server does not answer, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server of shared limits does not answer")]
pub struct Unavailable;

/// Options that [`SharedLimits::connect`] cannot use. The error does not repeat the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// The URL.
    #[error(
        "not the URL of a Redis or Valkey: {0}; allowed are redis://[user:password@]host[:port][/database], \
         rediss:// for TLS, and unix:///path/of/socket"
    )]
    Url(String),
    /// The namespace.
    #[error("the namespace is {0:?}; it must be 1 to 64 letters, digits and any of - _ . :")]
    Namespace(String),
    /// The time-out.
    #[error("the time-out of a decision is {0:?}; it must be from 1 ms to 1 s")]
    Timeout(Duration),
}

/// Whether a text has the form of a URL of Redis or Valkey.
#[must_use]
pub fn is_url(text: &str) -> bool {
    Server::new(text, None).is_ok()
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(40),
            namespace: "modelgate".to_owned(),
            authorities: None,
            replicas: NonZeroU32::MIN,
        }
    }
}

impl SharedLimits {
    /// Tries to connect once, for a second at most; after that, and whenever the connection is lost, it is retried in the
    /// background. Must be called within a Tokio runtime with time and I/O.
    ///
    /// # Errors
    /// The URL or an option is invalid. A missing server is not an error: see [`Self::health`].
    pub async fn connect(url: &str, options: Options) -> Result<Self, InvalidOptions> {
        let keys = Keys::new(&options.namespace)?;
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&options.timeout) {
            return Err(InvalidOptions::Timeout(options.timeout));
        }
        let server = Server::new(url, options.authorities)?;
        let (link, connector) = Link::start(server, options.timeout, options.replicas, &keys).await;
        Ok(Self { link, keys, connector })
    }

    /// Takes from all limits, or from none.
    pub async fn admit(&self, demands: &[Demand], budgets: &[BudgetDemand]) -> Outcome {
        if demands.is_empty() && budgets.is_empty() {
            return Outcome::Admitted { at: ServerTime(0), recovers_from: Vec::new() };
        }
        let began = Instant::now();
        let call = script::admit(&self.keys, demands, budgets, self.link.deadline(began));
        let answer = self.link.run(&call).await;
        if let Some(at) = answer.as_deref().ok().and_then(script::time_of_admission) {
            self.link.learn_time(began, at);
        }
        let outcome = answer.ok().and_then(|answer| script::outcome(&answer, (demands.len(), budgets.len())));
        outcome.unwrap_or_else(|| {
            self.link.count_failure();
            Outcome::Unavailable
        })
    }

    /// Corrects what was taken for requests, by what they have used. A limit gets back what was not used, but never exceeds a full
    /// burst, and what would have recovered on its own since then is not given back a second time. What was used beyond that
    /// is taken too, however little is left: the limit recovers that much later, but by a burst at most.
    ///
    /// # Errors
    /// The server does not answer. The limits will recover on their own, a little later.
    pub async fn settle(&self, settled: &[Settled]) -> Result<(), Unavailable> {
        if settled.iter().all(|one| one.used == one.demand.cost) {
            return Ok(());
        }
        let answer = self.link.run(&script::settle(&self.keys, settled)).await;
        answer.map(|_| ()).inspect_err(|_| self.link.count_failure())
    }

    /// Corrects what was taken of budgets.
    ///
    /// # Errors
    /// The server does not answer. What was to be given back stays taken until the period ends.
    pub async fn spend(&self, spent: &[Spent]) -> Result<(), Unavailable> {
        if spent.is_empty() {
            return Ok(());
        }
        let answer = self.link.run(&script::spend(&self.keys, spent)).await;
        answer.map(|_| ()).inspect_err(|_| self.link.count_failure())
    }

    /// What was taken of each budget; `None` if the server does not know.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn spent(&self, budgets: &[QuotaId]) -> Result<Vec<Option<u64>>, Unavailable> {
        if budgets.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.link.run(&script::spent(&self.keys, budgets)).await;
        let spent = answer.and_then(|answer| script::amounts(&answer, budgets.len()).ok_or(Unavailable));
        spent.inspect_err(|_| self.link.count_failure())
    }

    /// What is left of each limit; the demands' costs do not matter. Takes nothing.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn left(&self, demands: &[Demand]) -> Result<Vec<Left>, Unavailable> {
        if demands.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.link.run(&script::left(&self.keys, demands)).await;
        let left = answer.and_then(|answer| script::lefts(&answer, demands).ok_or(Unavailable));
        left.inspect_err(|_| self.link.count_failure())
    }

    /// The present epoch, as far as is known here.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.link.epoch()
    }

    /// When it was noticed that the server has lost data, if it ever has since this connection was begun. Whoever reads the epoch
    /// first knows of each loss before that epoch.
    #[must_use]
    pub fn lost_at(&self) -> Option<Instant> {
        self.link.lost_at()
    }

    /// Whether the server makes decisions, with each change. It is checked every second even without requests.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// The number of Modelgates that share these limits, including this one, as of the server's last answer. One that has
    /// stopped counts for five more seconds. After a server has lost its data, those known before also count for that long.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.link.replicas().get()
    }

    /// The number of replicas, with each change.
    #[must_use]
    pub fn replica_changes(&self) -> watch::Receiver<NonZeroU32> {
        self.link.replica_changes()
    }

    /// The number of calls without an answer so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.link.failures()
    }
}

impl Drop for SharedLimits {
    fn drop(&mut self) {
        self.connector.abort();
    }
}

impl fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLimits").field("health", &*self.health().borrow()).finish_non_exhaustive()
    }
}

impl Demand {
    /// The time that the request uses up, in nanoseconds, capped at 584 years.
    fn time(&self) -> u64 {
        self.interval_ns.saturating_mul(u64::from(self.cost))
    }

    /// The time that a full burst uses up, in nanoseconds, capped at 584 years.
    fn burst_time(&self) -> u64 {
        self.interval_ns.saturating_mul(u64::from(self.burst))
    }
}

impl ServerTime {
    /// Nanoseconds since 1970.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Left {
    fn of(demand: &Demand, busy: Duration) -> Self {
        let busy_ns = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        let free = demand.burst_time().saturating_sub(busy_ns) / demand.interval_ns.max(1);
        Self { remaining: u32::try_from(free).unwrap_or(u32::MAX).min(demand.burst), reset_after: busy }
    }
}

impl Health {
    /// Whether the server makes decisions.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self == Self::Up
    }
}
