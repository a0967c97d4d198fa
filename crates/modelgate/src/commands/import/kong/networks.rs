//! `ip-restriction` as networks (<https://developer.konghq.com/plugins/ip-restriction/reference/>).

use config_reader::network;
use serde_json::{Map, Value};

use super::effect::Effect;
use crate::commands::import::{
    fields::{FieldsOf, Meaning, UnimportedField, harmless, is_given},
    found::Findings,
};

const NAME: &str = "ip-restriction";
const ANSWERS: &[UnimportedField] =
    &[harmless("status", "what answers say of it"), harmless("message", "what answers say of it")];

/// The networks from which requests may come.
pub(super) fn read(config: &Map<String, Value>, findings: &mut Findings) -> Effect {
    let place = FieldsOf {
        whose: "its ip-restriction's ",
        understood: &["allow", "deny"],
        tables: &[ANSWERS],
        unknown: Meaning::Restricts,
        restriction: Some(NAME),
    };
    place.look(config, findings);
    if config.get("deny").is_some_and(is_given) {
        findings.hold(
            NAME,
            "its ip-restriction: networks that it denies; keys are bound to networks that are allowed",
        );
    }
    let allowed = config.get("allow").and_then(Value::as_array).filter(|allowed| !allowed.is_empty());
    let networks =
        allowed.map(|allowed| allowed.iter().map(|one| Some(network(one.as_str()?)?.to_string())).collect());
    match networks {
        Some(None) => findings.hold(NAME, "its ip-restriction: an address that cannot be read"),
        None if !config.get("deny").is_some_and(is_given) => {
            findings.hold(NAME, "its ip-restriction: it allows and denies nothing");
        }
        _ => {}
    }
    Effect { networks: networks.flatten(), ..Effect::default() }
}
