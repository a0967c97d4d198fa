//! What commands do but `serve`. What can be typed stands in `arguments/`.
//!
//! ```text
//! check.rs        the configuration, and what servers say to it
//! render.rs       what Traefik would be told
//! healthcheck.rs  whether the running Modelgate is ready
//! explain.rs      why a container, a model or a request is routed as it is, or is not
//! reference.rs    all labels, as Markdown
//! generate.rs     a key for the configuration file
//! import.rs       another gateway's keys, as lines for the file or into the store
//! accounts.rs     keys, consumers and plans of the file and the store
//! records.rs      usage and the audit log
//! registry.rs     opens file and store for the last three, and says what went wrong
//! table.rs        what people read; everything can be had as JSON
//! ```

pub(crate) mod accounts;
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
