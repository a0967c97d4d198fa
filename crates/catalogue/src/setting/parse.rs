//! Parsers of single values. Each returns `None` for a value that is not allowed.

use std::{ops::RangeInclusive, time::Duration};

/// A whole number in a range.
pub(super) fn number<T: std::str::FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| plain && range.contains(n))
}

/// Values that Traefik accepts for a boolean label (Go's `strconv.ParseBool`).
pub(crate) fn bool(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration with its unit, such as `500ms` or `2m`, in whole milliseconds.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
    let whole = |d: &Duration| d.subsec_nanos().is_multiple_of(1_000_000);
    humantime::parse_duration(text).ok().filter(|d| range.contains(d) && whole(d))
}

/// A path of visible ASCII characters, possibly with a query.
pub(super) fn path(text: &str) -> Option<String> {
    let fits = text.starts_with('/') && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic());
    (fits && !text.contains(['`', '#', '\\'])).then(|| text.to_owned())
}

/// HTTP statuses and ranges of them: `500-599,429`.
pub(super) fn statuses(text: &str) -> Option<Vec<String>> {
    let status = |s: &str| number::<u16>(s, 100..=599);
    let one = |part: &str| match part.trim().split_once('-') {
        None => status(part.trim()).map(|s| s.to_string()),
        Some((from, to)) => {
            let (from, to) = (status(from)?, status(to)?);
            (from <= to).then(|| format!("{from}-{to}"))
        }
    };
    text.split(',').map(one).collect()
}

/// The name of a header or cookie: a token (RFC 9110 §5.6.2).
pub(super) fn token(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(fits)).then(|| text.to_owned())
}
