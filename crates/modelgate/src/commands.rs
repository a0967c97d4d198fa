//! The commands other than `serve`. Their arguments are in `arguments/`.
//!
//! ```text
//! check.rs        checks the configuration, and optionally what the servers answer
//! render.rs       prints what Traefik would be told
//! healthcheck.rs  asks whether the running Modelgate is ready
//! explain.rs      says why a container, a model or a request is routed as it is, or is not
//! reference.rs    prints all labels, as Markdown
//! generate.rs     makes a key for the configuration file
//! import.rs       imports another gateway's keys, as lines for the file or into the store
//! accounts.rs     works on the keys, consumers and plans of the file and the store
//! alerts.rs       sends test messages to webhooks
//! records.rs      prints usage and the audit log
//! registry.rs     opens the file and the store for the last three, and reports failures
//! table.rs        tables for people; every command can print JSON instead
//! ```

pub(crate) mod accounts;
pub(crate) mod alerts;
pub(crate) mod budgets;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod healthcheck;
pub(crate) mod import;
pub(crate) mod records;
pub(crate) mod reference;
pub(crate) mod registry;
pub(crate) mod render;
mod table;
