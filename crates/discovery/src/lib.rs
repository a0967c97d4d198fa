//! Discovers servers and the models that they serve.
//!
//! ```text
//! Docker hosts ─(events, list)─┐
//! Swarms ─(events, list)───────┼─▶ reconcile loop ─▶ inventory ─▶ Publisher
//! configuration file ──────────┘        │   ▲
//!                                       ▼   │
//!                      probe: GET {base_path}/models, GET {ready.path}
//! ```
//!
//! What the last survey found is kept on disk (`kept.rs`), so that a new start need not wait for the next one.
//!
//! The loop is level-triggered: an event means "look again", so a missed event is made up for by the next survey, every 30 s at
//! the latest. Only a withdrawal takes effect at the event itself. Each Docker host is watched separately; if one does not
//! answer, the others are not affected.

mod docker;
mod inventory;
mod kept;
pub mod metrics;
mod probe;
mod reconcile;
mod told;

pub use docker::{DockerEndpoint, DockerOptions, DockerTls};
pub use kept::Kept;
pub use reconcile::{Sources, run};
