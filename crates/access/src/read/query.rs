//! Reads the model in the query: `?model=llama`, as in OpenAI's realtime API
//! (<https://platform.openai.com/docs/guides/realtime-websocket>).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{
    Unreadable, Where,
    field::{Field, MODEL},
};

/// The model that a query names.
///
/// Servers agree that `&` separates pairs; some, as Python once did, also separate at `;`.
pub(super) fn model(query: Option<&str>) -> Result<Option<Cow<'_, str>>, Unreadable> {
    let mut model = None;
    for pair in query.unwrap_or_default().split('&') {
        for part in pair.split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !names_model(name)? {
                continue;
            }
            if part.len() < pair.len() {
                return Err(Unreadable::Uri("a \";\" stands beside \"model\" in the query"));
            }
            if model.replace(decode(value)?).is_some() {
                return Err(Unreadable::ModelRepeated(Where::Query));
            }
        }
    }
    Ok(model)
}

/// Whether a name is exactly `model`.
fn names_model(name: &str) -> Result<bool, Unreadable> {
    match Field::of(&decode_fully(name), Where::Query)? {
        Field::Model if name == MODEL => Ok(true),
        Field::Model => Err(Unreadable::Disguised { field: MODEL, place: Where::Query }),
        Field::Other(field) => Err(field.refusal()),
        Field::Any | Field::Name | Field::Stored(_) => Ok(false),
    }
}

/// Decodes a name until it no longer changes, as a chain of readers may do.
pub(crate) fn decode_fully(name: &str) -> Cow<'_, str> {
    let mut name = Cow::Borrowed(name);
    for _ in 0..4 {
        match percent_decode_str(&name).decode_utf8_lossy() {
            Cow::Owned(decoded) => name = decoded.into(),
            Cow::Borrowed(_) => break,
        }
    }
    name
}

fn decode(value: &str) -> Result<Cow<'_, str>, Unreadable> {
    if value.contains('+') {
        return Err(Unreadable::Uri("\"+\" in the model's name must be written as %2B, and a blank as %20"));
    }
    if !is_well_encoded(value) {
        return Err(Unreadable::Uri("a \"%\" is not followed by two hexadecimal digits"));
    }
    percent_decode_str(value).decode_utf8().map_err(|_| Unreadable::Uri("it is not UTF-8 once decoded"))
}

/// Whether every `%` is followed by two hexadecimal digits (RFC 3986 §2.1).
pub(super) fn is_well_encoded(text: &str) -> bool {
    let is_code = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    text.split('%').skip(1).all(is_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_name_the_model_once() {
        for (query, expected) in [
            (None, None),
            (Some(""), None),
            (Some("a=b&c;d=e"), None),
            (Some("model_a=a&my_model=b"), None),
            (Some("model=llama"), Some("llama")),
            (Some("a=1&model=org%2Fname&b"), Some("org/name")),
            (Some("model=a=b"), Some("a=b")),
            (Some("model"), Some("")),
        ] {
            assert_eq!(model(query).expect("a query").as_deref(), expected, "{query:?}");
        }
    }

    /// A reader that separates at `;` would see a second `model`, whichever of the two is first.
    #[test]
    fn a_semicolon_beside_the_model_is_refused_on_either_side() {
        for query in ["x;model=a", "model=a;x", "x;model=a;y", "b=1&x;model=a"] {
            assert!(matches!(model(Some(query)), Err(Unreadable::Uri(_))), "{query}");
        }
        assert!(matches!(model(Some("x;y&model=a")), Ok(Some(name)) if name == "a"));
    }

    #[test]
    fn whatever_can_be_read_differently_is_refused() {
        for (query, code) in [
            ("model=a&model=a", "model_ambiguous"),
            ("Model=a", "model_ambiguous"),
            ("mod%65l=a", "model_ambiguous"),
            ("mod%2565l=a", "model_ambiguous"),
            ("+model=a", "model_ambiguous"),
            ("model+=a", "model_ambiguous"),
            ("model%00=a", "model_ambiguous"),
            ("model[]=a", "model_ambiguous"),
            ("model%5B%5D=a", "model_ambiguous"),
            ("x=1;model=a", "invalid_uri"),
            ("x=1;mod%65l=a", "model_ambiguous"),
            ("model=a;b", "invalid_uri"),
            ("model=a;model=b", "invalid_uri"),
            ("model=a+b", "invalid_uri"),
            ("model=%zz", "invalid_uri"),
            ("model=%4", "invalid_uri"),
            ("model=%ff", "invalid_uri"),
            ("lora_path=a", "field_not_accepted"),
            ("models=a", "field_not_accepted"),
        ] {
            assert_eq!(model(Some(query)).expect_err(query).code(), code, "{query}");
        }
    }
}
