//! Reads `limit:` and `limit_per_model:` of an account. The fields below them are read by [`Field`], as for all limits.

use config_reader::Section;
use limits::{Field, LimitSpec, Limits, LoneBurst};
use serde_json::{Map, Value};

/// Reads limits, if present.
pub fn limits(section: &mut Section<'_>, key: &'static str) -> Option<Limits> {
    let given = section.has(key);
    let mut limit = section.section(key);
    if !given {
        // Most of 100,000 keys have no limits per model. Errors have been reported by now.
        return None;
    }
    let mut number = |field: Field| limit.get(field.name(), field.allowed(), |text| field.read(text));
    let spec: LimitSpec = Field::ALL.into_iter().filter_map(|field| Some((field, number(field)?))).collect();
    match spec.check() {
        Err(LoneBurst::Requests) => limit.error(
            "burst",
            "is given without a number of requests; allowed: with requests_per_minute or another",
        ),
        Err(LoneBurst::Tokens) => limit.error("tokens_burst", "is given without tokens_per_minute"),
        Ok(()) => {}
    }
    if limit.is_empty() {
        limit.error(
            "requests_per_minute",
            "is missing; allowed: at least one of requests or tokens per second, minute, hour, day or month; without any \
             limit leave the key out",
        );
    }
    limit.finish();
    Some(spec.limits())
}

/// Whether a patch of limits (RFC 7396) leaves none: every known field is `null`, and there is no other field.
pub fn has_no_limits(limits: &Value) -> bool {
    let is_none = |(key, value): (&String, &Value)| value.is_null() && Field::find(key).is_some();
    limits.as_object().is_some_and(|limits| limits.iter().all(is_none))
}

/// Limits in the form that [`limits()`] reads.
pub fn limits_to_json(limits: &Limits) -> Value {
    let fields = LimitSpec::from(limits);
    Value::Object(Map::from_iter(
        fields.iter().map(|(field, number)| (field.name().to_owned(), number.into())),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_that_takes_every_limit_away() {
        for (patch, expected) in [
            (json!({}), true),
            (json!({ "burst": null }), true),
            (json!({ "burst": null, "tokens_per_day": null }), true),
            (json!({ "burst": null, "tokens_per_day": 5 }), false),
            (json!({ "burst": 5 }), false),
            (json!({ "bursts": null }), false),
            (json!(null), false),
            (json!(5), false),
        ] {
            assert_eq!(has_no_limits(&patch), expected, "{patch}");
        }
    }
}
