//! Parses JSON that violates RFC 8259 as some programs do: a byte order mark, `NaN` and `Infinity` (Python's `json.dumps`),
//! half of a surrogate pair (a text that was cut within an emoji), bytes that are not UTF-8.
//!
//! Only lists of models are mended so, which come from servers that the operator has named. Clients' requests are never mended.

use serde_json::Value;

const MARK: &[u8] = b"\xef\xbb\xbf";
/// Python's words for numbers that JSON does not have.
const NO_NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// Parses a value; what is not JSON but has only one possible meaning becomes null or a replacement character.
pub(super) fn read(body: &[u8]) -> Result<Value, serde_json::Error> {
    let body = body.strip_prefix(MARK).unwrap_or(body);
    serde_json::from_slice(body).or_else(|_| serde_json::from_str(&mended(&String::from_utf8_lossy(body))))
}

fn mended(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let (taken, written) = match (in_string, first) {
            (true, '\\') => escape(rest),
            (false, _) => match NO_NUMBERS.iter().find(|name| rest.starts_with(**name)) {
                Some(name) => (name.len(), "null"),
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            },
            (true, _) => (first.len_utf8(), &rest[..first.len_utf8()]),
        };
        in_string ^= first == '"';
        mended.push_str(written);
        rest = &rest[taken..];
    }
    mended
}

/// An escape within a string (RFC 8259 §7): its length, and its replacement.
fn escape(text: &str) -> (usize, &str) {
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, &text[..12]),
        (Some(0xD800..=0xDFFF), _) => (6, "\\ufffd"),
        (Some(_), _) => (6, &text[..6]),
        // The backslash and the character after it.
        (None, _) => {
            let length = text.chars().take(2).map(char::len_utf8).sum();
            (length, &text[..length])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_mean_one_thing_is_read() {
        for (body, expected) in [
            (&b"\xef\xbb\xbf{\"id\":\"a\"}"[..], json!({ "id": "a" })),
            (
                br#"{"a":NaN,"b":[Infinity,-Infinity],"c":"NaN \" Infinity"}"#,
                json!({ "a": null, "b": [null, null], "c": "NaN \" Infinity" }),
            ),
            (
                br#"{"a":"cut \ud83d","b":"\ude00 \ud83d\ude00 \\ud83d"}"#,
                json!({ "a": "cut \u{fffd}", "b": "\u{fffd} \u{1f600} \\ud83d" }),
            ),
            (b"{\"a\":\"caf\xe9\",\"id\":\"b\"}", json!({ "a": "caf\u{fffd}", "id": "b" })),
        ] {
            assert_eq!(read(body).expect("JSON"), expected, "{}", String::from_utf8_lossy(body));
        }
        for body in [&b"<html>"[..], b"{\"a\":nan}", b"{\"a\":\"b", b"{\"a\":\"\\", b"\xff\xfe{\0}\0", b""] {
            assert!(read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        #[test]
        fn what_is_json_is_left_alone(text in "\\PC{0,40}") {
            let value = json!({ "a": text, "b": [1.5, null, true] });
            let written = value.to_string();
            prop_assert_eq!(mended(&written), written);
        }

        #[test]
        fn nothing_panics(text in "[\\\\u\"dNaIfinty8c0{}:é-]{0,40}") {
            let _ = read(text.as_bytes());
        }
    }
}
