//! Refuses what is lost when a JSON body becomes a value: of two fields of the same name one, and digits that a float does not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use config_reader::ConfigError;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::extract::{error, shortened};

/// What is lost of a body that has been read as JSON before: its depth is bounded.
pub(super) fn lost(body: &[u8]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    if let Ok(whole) = serde_json::from_slice::<&RawValue>(body) {
        look(whole, "", &mut errors);
    }
    errors
}

fn look(value: &RawValue, place: &str, errors: &mut Vec<ConfigError>) {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Ok(fields) = serde_json::Deserializer::from_str(text).deserialize_map(RepeatedFields) else {
                return;
            };
            let (mut seen, mut repeated) = (BTreeSet::new(), BTreeMap::new());
            for (name, value) in fields {
                let place = match place {
                    "" => shortened(&name),
                    place => format!("{place}.{}", shortened(&name)),
                };
                look(value, &place, errors);
                if !seen.insert(name.clone()) {
                    repeated.insert(name, place);
                }
            }
            errors.extend(
                repeated.values().map(|place| error(place, "is there more than once; allowed: once")),
            );
        }
        Some(b'[') => {
            let items = serde_json::from_str::<Vec<&RawValue>>(text).unwrap_or_default();
            items.into_iter().enumerate().for_each(|(i, item)| look(item, &format!("{place}[{i}]"), errors));
        }
        Some(b'-' | b'0'..=b'9') if !is_exact(text) => {
            let message = "has more digits than a number keeps; allowed: the same as text, in quotes";
            errors.push(error(if place.is_empty() { "the document" } else { place }, message));
        }
        _ => {}
    }
}

/// Whether a number is the same once it is read: most programs read numbers as floats.
fn is_exact(written: &str) -> bool {
    match serde_json::from_str::<serde_json::Value>(written) {
        Ok(read) => digits(&read.to_string()) == digits(written),
        Err(_) => false,
    }
}

/// The digits of a number without zeros at either end, and the power of ten of the last one.
fn digits(number: &str) -> (String, i64) {
    let number = number.trim_start_matches('-');
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{decimals}");
    let significant = all.trim_end_matches('0');
    let trailing = i64::try_from(all.len() - significant.len()).unwrap_or(0);
    let decimals = i64::try_from(decimals.len()).unwrap_or(0);
    let significant = significant.trim_start_matches('0').to_owned();
    match significant.is_empty() {
        true => (significant, 0),
        false => (significant, exponent.parse::<i64>().unwrap_or(i64::MAX / 2) - decimals + trailing),
    }
}

/// Reads the fields of an object, repeated ones as often as they are there.
struct RepeatedFields;

impl<'de> Visitor<'de> for RepeatedFields {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: of two amounts the last one was taken, and 1000000000.000000001 became 1000000000.
    #[test]
    fn what_would_be_lost_is_named() {
        const TWICE: &str = "is there more than once; allowed: once";
        const DIGITS: &str = "has more digits than a number keeps; allowed: the same as text, in quotes";
        for (body, expected) in [
            (r#"{"amount":"5","amount":"7"}"#, vec![("amount", TWICE)]),
            (r#"{"amount":"5","\u0061mount":"5","amount":null}"#, vec![("amount", TWICE)]),
            (r#"{"limit":{"budget_total":1,"budget_total":2}}"#, vec![("limit.budget_total", TWICE)]),
            (r#"{"a":[{"b":1,"b":1}],"c":1,"c":2}"#, vec![("a[0].b", TWICE), ("c", TWICE)]),
            (r#"{"limit":{"budget_total": 1000000000.000000001}}"#, vec![("limit.budget_total", DIGITS)]),
            (r#"{"a":123456789012345678901234567890}"#, vec![("a", DIGITS)]),
            (
                r#"{"a":0.1,"b":1.50,"c":1e3,"d":-2.5E-1,"e":0.000000001,"f":0.0,"g":18446744073709551615}"#,
                vec![],
            ),
            (
                r#"{"a":123456.123456789,"b":{"a":1},"c":{"a":1},"d":[1,1],"e":"1.00000000000000000001"}"#,
                vec![],
            ),
        ] {
            let found = lost(body.as_bytes());
            let found: Vec<_> = found.iter().map(|error| (&*error.place, &*error.message)).collect();
            assert_eq!(found, expected, "{body}");
        }
    }
}
