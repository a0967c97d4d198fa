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
//! admin.rs        makes another admin token
//! alerts.rs       sends test messages to webhooks
//! apply.rs        makes the store's accounts those of a file, and prints such a file
//! backup.rs       copies the store to a file, and back
//! records.rs      prints usage and the audit log
//! registry.rs     opens the file and the store for the last four, and reports failures
//! shell.rs        completions and manual pages
//! table.rs        tables for people; every command can print JSON instead
//! ```

pub(crate) mod accounts;
pub(crate) mod admin;
pub(crate) mod alerts;
pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod budgets;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod healthcheck;
pub(crate) mod import;
mod progress;
pub(crate) mod records;
pub(crate) mod reference;
pub(crate) mod registry;
pub(crate) mod render;
pub(crate) mod shell;
mod table;
