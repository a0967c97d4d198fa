//! API keys, the request reader, and the decision whether a request may pass. No I/O.
//!
//! ```text
//! Request ─authenticate()─▶ Key ─(path, selectors, body)─▶ model ─(allowed? known? ready?)─limits─▶ Decision
//! ```
//!
//! [`decide`] does it all. Its inputs have three lifetimes: the [`Policy`] (from the configuration, replaced on reload), the
//! [`Catalogue`](catalogue::Catalogue) (replaced whenever a server comes or goes) and the [`Limiters`](limits::Limiters) (what
//! was taken so far, which outlives both).
//!
//! A refusal is a value, a [`Reason`]; HTTP statuses are chosen elsewhere.
//!
//! Reading the model out of a request is a security boundary: if the reader and the server read different models, a key that
//! may use one model reaches another. The reader therefore refuses whatever two readers could read differently; it never
//! guesses.

mod consumer;
mod decide;
pub mod estimate;
mod explain;
mod given;
mod jwt;
mod key;
mod name;
mod policy;
mod read;
mod reason;
mod request;
mod revoked;
mod routes;
mod select;
mod usage;

pub use catalogue::{InvalidGlob, ModelGlobs};
pub use consumer::{Consumer, WaitPriority};
pub use decide::{
    Decision, Denial, Grant, Pending, decide, is_asked_by_post, limits_of, model_in_path, no_such_model,
    prepare, whose,
};
pub use explain::{Explanation, about_key, explain};
pub use given::Conflict;
pub use jwt::{Claimed, InvalidKeySet, Issuer, IssuerKeys, TokenFault, TokenPlan, is_of_token};
pub use key::{InvalidDigest, Key, KeyDigest, NewKey, NoRandomness, OpenRequests, PlanOfKey};
pub use name::{NAME, NoName, is_name, name_of_subject};
pub use policy::{Edit, ModelLimit, Policy};
pub use read::{PromptParts, Unreadable, Ways, Where};
pub use reason::{Idle, Reason};
pub use request::{Mode, Request};
pub use revoked::{RevokedKey, RevokedKeys};
pub use routes::{Class, Route, listed, routes_of, source_of, speaks_ollama};
pub use usage::{Usage, UsageEstimate, UsageHour, UsageOf, UsageWatcher, Used, UsedCounts};
