//! Reads `limit:` and `limit_per_model:` of an account. The fields below them are read by [`Field`], as for all limits.

use config_reader::Section;
use limits::{Field, LimitSpec, Limits, Lone};
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
        Err(Lone::Burst) => limit.error(
            "burst",
            "is given without a number of requests; allowed: with requests_per_minute or another",
        ),
        Err(Lone::TokensBurst) => limit.error("tokens_burst", "is given without tokens_per_minute"),
        Err(Lone::BudgetKind) => {
            limit
                .error("budget_kind", "is given without a budget; allowed: with budget_per_month or another");
        }
        Ok(()) => {}
    }
    if limit.is_empty() {
        limit.error(
            "requests_per_minute",
            "is missing; allowed: at least one of requests or tokens per second, minute, hour, day or month, or a budget; \
             without any limit leave the key out",
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
        fields.iter().map(|(field, number)| (field.name().to_owned(), limit_to_json(field, number))),
    ))
}

/// The value of a field of limits. Amounts have at most 15 digits, so they are the same as floats; whole ones are written without
/// decimals.
pub fn limit_to_json(field: Field, number: u64) -> Value {
    let text = field.write(number);
    let whole = text.parse::<u64>().ok().map(Value::from);
    let decimal = || text.parse::<f64>().ok().filter(|_| field.is_number()).map(Value::from);
    whole.or_else(decimal).unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn budgets_are_written_as_they_are_read() {
        let mut spec = Vec::new();
        let fields = json!({ "budget_per_day": 0.000_000_001, "budget_total": 1_000_000.123_456_78, "budget_per_month": 50, "budget_kind": "hard" });
        for (name, value) in fields.as_object().expect("an object") {
            let field = Field::find(name).expect("a field");
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            spec.push((field, field.read(&text).expect("a value")));
        }
        assert_eq!(limits_to_json(&LimitSpec::from_iter(spec).limits()), fields);
    }

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
