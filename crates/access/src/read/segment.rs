//! Splits a path into segments, as the most lenient server does.

use std::borrow::Cow;

use super::fold::fold;

/// A decoded path in lower case. Most paths are in lower case already.
pub(crate) fn folded(path: &str) -> Cow<'_, str> {
    match path.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        true => path.into(),
        false => path.chars().map(fold).collect::<String>().into(),
    }
}

/// The segments, without the parts that some servers remove: parameters (`sleep;x`) and blanks.
pub(crate) fn segments(path: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    path.split('/').map(|segment| segment.split(';').next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_lose_what_is_not_their_name() {
        let path = folded("/V1/\u{17f}leep ;x=1/ a");
        assert_eq!(segments(&path).collect::<Vec<_>>(), ["", "v1", "sleep", "a"]);
        assert!(matches!(folded("/v1/chat"), Cow::Borrowed(_)));
    }
}
