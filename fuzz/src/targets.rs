//! The targets, by name.

mod auth;
mod files;
mod json;
mod jwt;
mod labels;
mod ledger;
mod media_type;
mod model_list;
mod multipart;
mod otlp;
mod path;
mod query;
mod readers;

/// A subject of the search, and what must hold for every input.
pub(crate) struct Target {
    name: &'static str,
    /// Panics if an input is read wrongly.
    pub(crate) run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Each has a folder of this name in `fuzz/corpus`.
const TARGETS: &[Target] = &[
    target("auth", auth::run),
    target("config", files::configuration_file),
    target("import_kong", files::kong),
    target("import_litellm", files::litellm),
    target("json", json::run),
    target("jwt", jwt::run),
    target("labels", labels::run),
    target("ledger", ledger::run),
    target("media_type", media_type::run),
    target("model_list", model_list::run),
    target("multipart", multipart::run),
    target("otlp_json", otlp::json),
    target("otlp_protobuf", otlp::protobuf),
    target("path", path::run),
    target("query", query::run),
    // Against real servers' readers, in Python and Go.
    target("readers_json", readers::json),
    target("readers_multipart", readers::multipart),
    target("readers_uri", readers::uri),
];

/// The target that `FUZZ_TARGET` names.
pub(crate) fn chosen() -> Target {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let found = TARGETS.iter().find(|target| target.name == wanted);
    let found = found.unwrap_or_else(|| panic!("FUZZ_TARGET is {wanted:?}; allowed: {}", names()));
    Target { name: found.name, run: found.run }
}
