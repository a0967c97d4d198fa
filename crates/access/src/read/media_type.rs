//! Determines the kind of a body (RFC 9110 §8.3).

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    Unreadable,
    parameters::{self, Parameter},
};

/// The kinds of body that are read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyKind<'a> {
    /// `application/json`, or `application/…+json` (RFC 6839 §3.1).
    Json,
    /// `multipart/form-data` (RFC 7578).
    Form { boundary: &'a str },
}

/// The kind of a body that is not empty.
pub(super) fn of(headers: &HeaderMap) -> Result<BodyKind<'_>, Unreadable> {
    refuse_content_encoding(headers)?;
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Unreadable::ContentTypeCount);
    };
    let value = value.to_str().map_err(|_| Unreadable::ContentType("it is not plain ASCII"))?;
    kind(value).map_err(Unreadable::ContentType)
}

/// Like `of`, for a server that parses every body except forms as JSON, whatever its `Content-Type`.
pub(super) fn of_any(headers: &HeaderMap) -> Result<BodyKind<'_>, Unreadable> {
    refuse_content_encoding(headers)?;
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Unreadable::ContentTypeCount),
        (Some(value), None) if may_be_form(value) => of(headers),
        (_, None) => Ok(BodyKind::Json),
    }
}

/// Whether any reader could take a type for a form's, which is read part by part.
fn may_be_form(value: &HeaderValue) -> bool {
    let lower = value.as_bytes().to_ascii_lowercase();
    memchr::memmem::find(&lower, b"multipart").is_some()
}

/// A server may decompress a body that is read compressed here, or the other way round.
fn refuse_content_encoding(headers: &HeaderMap) -> Result<(), Unreadable> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        _ => Err(Unreadable::ContentEncoding),
    }
}

fn kind(value: &str) -> Result<BodyKind<'_>, &'static str> {
    let (media_type, parameters) = parameters::split(value)?;
    let is_json = media_type.eq_ignore_ascii_case("application/json") || is_json_suffixed(media_type);
    let is_form = media_type.eq_ignore_ascii_case("multipart/form-data");
    if !is_json && !is_form {
        return Err("it is of another type");
    }
    // Some readers (formidable, multiparty) search the whole header for "boundary=", and a profile may hold that.
    if is_form && parameters.iter().any(|parameter| parameter.name.eq_ignore_ascii_case("profile")) {
        return Err("a form has no profile");
    }
    let boundary = check_parameters(&parameters)?;
    match (is_json, boundary) {
        (true, None) => Ok(BodyKind::Json),
        (true, Some(_)) => Err("JSON has no boundary"),
        (false, None) => Err("the boundary is missing"),
        (false, Some(boundary)) => Ok(BodyKind::Form { boundary }),
    }
}

/// `application/vnd.example+json`.
fn is_json_suffixed(media_type: &str) -> bool {
    let lower = media_type.to_ascii_lowercase();
    let stem = lower.strip_prefix("application/").and_then(|subtype| subtype.strip_suffix("+json"));
    stem.is_some_and(parameters::is_token)
}

/// Accepts `charset=utf-8` and a boundary, each once, and returns the boundary.
fn check_parameters<'a>(parameters: &[Parameter<'a>]) -> Result<Option<&'a str>, &'static str> {
    let (mut boundary, mut charset, mut profile) = (None, None, None);
    for parameter in parameters {
        let slot = match parameter.name.to_ascii_lowercase().as_str() {
            "boundary" => &mut boundary,
            "charset" => &mut charset,
            // RFC 6906: a profile describes the JSON, and does not change how it is parsed.
            "profile" => &mut profile,
            _ => return Err("it has an unknown parameter"),
        };
        if slot.replace(parameter.value).is_some() {
            return Err("a parameter is given twice");
        }
    }
    if !charset.is_none_or(is_utf8) {
        return Err("the charset must be utf-8");
    }
    match boundary {
        Some(boundary) if !is_boundary(boundary) => Err("the boundary is not a valid one"),
        _ => Ok(boundary),
    }
}

/// Whether a charset's name means UTF-8.
pub(super) fn is_utf8(charset: &str) -> bool {
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// A boundary as RFC 2046 §5.1.1 has it, without blanks: readers differ in trimming those. Before a "=" it has no letter, so that readers
/// that search the header find no parameter in it. Python's `email` (`===…123==`) and JavaMail (`----=_Part_…`) make boundaries with "=".
fn is_boundary(text: &str) -> bool {
    let is_bchar = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
    let names_something =
        text.rsplit_once('=').is_some_and(|(before, _)| before.bytes().any(|b| b.is_ascii_alphabetic()));
    (1..=70).contains(&text.len()) && text.bytes().all(is_bchar) && !names_something
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_read() {
        for value in [
            "application/json",
            "Application/JSON",
            "application/json;",
            "application/json; charset=utf-8",
            "application/json; profile=code",
            "application/json;charset=\"UTF-8\"",
            "application/vnd.api+json",
        ] {
            assert_eq!(kind(value), Ok(BodyKind::Json), "{value}");
        }
        for (value, boundary) in [
            ("multipart/form-data; boundary=----WebKitFormBoundaryAbc", "----WebKitFormBoundaryAbc"),
            (
                "multipart/form-data; boundary=\"===============7330845974216740156==\"",
                "===============7330845974216740156==",
            ),
            ("multipart/form-data; boundary=\"----=_Part_0_1330.17\"", "----=_Part_0_1330.17"),
            ("Multipart/Form-Data; Boundary=\"1:?=c\"; charset=utf-8", "1:?=c"),
        ] {
            assert_eq!(kind(value), Ok(BodyKind::Form { boundary }), "{value}");
        }
    }

    #[test]
    fn what_is_json_to_a_server_that_does_not_look_at_the_type() {
        let of_any = |types: &[&'static str], encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for value in types {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            headers.extend(encoding.map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))));
            of_any(&headers) == Ok(BodyKind::Json)
        };
        for value in
            ["application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "x"]
        {
            assert!(of_any(&[value], None), "{value}");
        }
        assert!(of_any(&[], None) && of_any(&["text/plain"], Some("identity")));
        for value in ["multipart/form-data; boundary=b", "Multipart/Mixed", "text/plain, multipart/form-data"]
        {
            assert!(!of_any(&[value], None), "{value}");
        }
        assert!(!of_any(&["text/plain", "text/plain"], None), "which of them counts?");
        assert!(!of_any(&["text/plain"], Some("gzip")));
    }

    #[test]
    fn kinds_that_are_not() {
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for value in [
            "",
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "application/json, text/plain",
            "application/json charset=utf-8",
            "application/+json",
            "application/json+xml",
            "application/x/y+json",
            "application/json; charset=utf-16",
            "application/json; charset=utf-8; charset=latin1",
            "application/json; charset=utf-8; Charset=utf-8",
            "application/json; boundary=x",
            "application/json; version=1",
            "multipart/form-data",
            "multipart/mixed; boundary=x",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; boundary*=b",
            "multipart/form-data; boundary*0=a",
            "multipart/form-data; boundary=a:b",
            "multipart/form-data; boundary=\"a b\"",
            "multipart/form-data; boundary=\"a \"",
            "multipart/form-data; boundary=\"a\\b\"",
            "multipart/form-data; boundary=a, boundary=b",
            "multipart/form-data; boundary=a; charset=utf-16",
            // Found while a fuzz target was written: formidable would take b for the boundary.
            "multipart/form-data; profile=\"boundary=b\"; boundary=a",
            // Found by fuzzing: a reader that takes the last "boundary=" in the header would take b.
            "multipart/form-data; boundary=\"a-boundary=b\"",
            "multipart/form-data; boundary=\"a-charset=utf-16\"",
            "multipart/form-data; boundary=\"boundary0=b\"",
            "multipart/form-data; boundary=\"1boundary==\"",
            long.as_str(),
        ] {
            assert!(kind(value).is_err(), "{value}");
        }
    }
}
