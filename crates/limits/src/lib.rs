//! Rates and quotas: how they are written, and what has been taken of them. No I/O; time is passed in.
//!
//! ```text
//! limit: ─ LimitSpec ─▶ Limits ─(whose, how much)─▶ Demands ─ Limiters ─▶ Reservation, or LimitReached
//! ```
//!
//! A [`Rate`] recovers continuously and has a burst; a [`Quota`] starts from zero each day, week or month, or never. A quota of
//! money is a budget. A request's [`Demands`]
//! are what it takes from both: all of them, or nothing. This crate knows no keys, consumers or models: a [`Subject`] stands
//! for each.

mod cell;
mod clock;
mod counts;
mod demand;
mod id;
mod limit;
mod limiters;
mod money;
mod network;
mod period;
mod quota;
mod rate;
mod reached;
mod spec;

pub use clock::{Clock, ManualClock, SystemClock};
pub use counts::{BudgetCounts, Granted, Quotas};
pub use demand::{Demand, Demands, Left, Limited, QuotaDemand};
pub use id::{InvalidQuotaId, LimitId, QuotaId, Subject};
pub use limit::{Limit, Limits};
pub use limiters::{Limiters, Reservation, Settlement};
pub use money::{MONEY_ALLOWED, MOST_COST, read_money, write_money, write_money_in};
pub use network::network_of;
pub use period::{InvalidPeriod, Moment, Period};
pub use quota::{Calendar, InvalidQuota, Quota, Reserve};
pub use rate::{InvalidRate, Per, Rate, Unit};
pub use reached::{LimitReached, ReachedQuota, Scope};
pub use spec::{Field, LimitSpec, Lone};
