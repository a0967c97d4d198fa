//! Where servers come from, and what they serve.
//!
//! ```text
//! Docker hosts ─(events, list)─┐
//! Swarms ─(events, list)───────┼─▶ reconcile loop ─▶ inventory ─▶ Publisher
//! configuration file ──────────┘        │   ▲
//!                                       ▼   │
//!                      probe: GET {base_path}/models, GET {ready.path}
//! ```
//!
//! The loop is level-triggered: an event means "look again", so a missed event heals itself at the
//! next look, every 30 s at the latest. Only a withdrawal takes effect at the event itself. Each
//! Docker host is watched by itself; one that does not answer takes nothing away from the others.

mod docker;
mod inventory;
mod probe;
mod reconcile;
mod told;

pub use docker::{DockerEndpoint, DockerOptions, DockerTls};
pub use reconcile::{Sources, run};
