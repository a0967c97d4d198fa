//! Plans, consumers, keys, counts and the audit log, in SQLite or PostgreSQL.
//!
//! ```text
//! command line, admin API ─ put, delete ─▶ accounts ─ changes ─▶ every replica's snapshot
//! /auth's counts          ─ add         ─▶ quota_counts, usage, usage_hours, the batch's number
//! all of them             ─ record      ─▶ audit
//! ```
//!
//! No request waits for the store. Each change of an account, its audit entry and the change's number are written in one
//! transaction; followers ask for the changes since a number.
//!
//! Both databases get the same statements (`sqlx`'s `Any` driver) and the same migrations.

mod account;
mod audit;
mod backup;
mod budget;
mod cordon;
mod counts;
mod database;
mod erase;
mod error;
mod finding;
mod follow;
mod named;
mod names;
mod networks;
mod recost;
mod registry;
mod revoked;
mod told;
mod unwritten;
mod usage;

pub use account::{Filter, Page, Stored};
pub use audit::{Actor, Audit, AuditEntry, AuditFilter, Origin};
pub use backup::{Copied, Present};
pub use budget::{BudgetChange, BudgetOf, BudgetOwner, BudgetState};
pub use cordon::StoredCordon;
pub use counts::{Added, Batch, Writer};
pub use database::{Store, StoreUrl};
pub use erase::{Erased, Person};
pub use error::{Conflict, InvalidUrl, NotReadable, StoreError, Unreadable};
pub use finding::{AccountFinding, LeftFile};
pub use follow::{Change, Documents, Following};
pub use networks::{KeyNetwork, KnownBefore, NotedNetwork};
pub use recost::{LeftOutHours, RecostDays, Recosted};
pub use registry::{AccountSource, Item, Listed, Registry, RegistryError, State};
pub use told::ToldAlert;
pub use unwritten::{UnreadableBatches, Unwritten};
pub use usage::{
    InvalidUsageBy, UsageBy, UsageDimension, UsageFilter, UsageOrder, UsageRow, UsageTable, UsedOn,
};
