//! Ranges of body sizes.

use super::CHUNKED;
use crate::{Options, content_length};

const HAS_LENGTH: &str = "HeaderRegexp(`Content-Length`, `.`)";
const BODYLESS: &str = "(Method(`GET`) || Method(`HEAD`) || Method(`DELETE`) || Method(`OPTIONS`))";

/// A range of body sizes whose requests share a ForwardAuth middleware, because Traefik allocates
/// that middleware's `maxBodySize` for each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The router's and the middleware's name.
    pub(crate) name: &'static str,
    /// The longest body, in bytes.
    pub(crate) max_body: u64,
    /// What its requests have in common, as part of a rule, where those of a higher rank have been taken.
    pub(crate) matcher: String,
    /// The same where nothing has been taken: no request is in two tiers.
    pub(crate) exclusive: String,
    /// Added to the priority: the higher is asked first.
    pub(crate) rank: usize,
}

impl Tier {
    /// What tells it apart: `small`.
    pub(crate) fn size(&self) -> &'static str {
        self.name.strip_prefix("modelgate-").unwrap_or(self.name)
    }
}

/// The tiers for a limit: up to 9,999 bytes, up to 999,999, up to the limit; bodyless and chunked
/// requests, which have no `Content-Length`, have their own.
pub(crate) fn tiers(options: &Options) -> Vec<Tier> {
    let mut tiers = Vec::new();
    let mut min = 0;
    for (name, bound) in
        [("modelgate-small", 9_999), ("modelgate-medium", 999_999), ("modelgate-large", u64::MAX)]
    {
        let max = options.max_body.min(bound);
        if max < min {
            break;
        }
        let matcher = length_between(min, max);
        tiers.push(Tier { name, max_body: max, exclusive: matcher.clone(), matcher, rank: 4 });
        min = max + 1;
    }
    // A GET may carry a body all the same: forwarding it with a limit of 0 bytes refuses it, where a
    // middleware that forwards no body would let it slip past the reader.
    tiers.push(Tier {
        name: "modelgate-bodyless",
        max_body: 0,
        matcher: BODYLESS.into(),
        exclusive: format!("!{HAS_LENGTH} && {BODYLESS}"),
        rank: 2,
    });
    if options.max_chunked_body > 0 {
        tiers.push(Tier {
            name: CHUNKED,
            max_body: options.max_chunked_body,
            matcher: String::new(),
            exclusive: exclusive_chunked(),
            rank: 1,
        });
    }
    tiers
}

/// Requests that belong to no tier because they have no length, where nothing has been taken.
pub(crate) fn exclusive_chunked() -> String {
    format!("!{HAS_LENGTH} && !{BODYLESS}")
}

/// Requests that are too long, where nothing has been taken.
pub(crate) fn exclusive_too_large(options: &Options) -> String {
    format!("{HAS_LENGTH} && !{}", length_between(0, options.max_body))
}

fn length_between(min: u64, max: u64) -> String {
    format!("HeaderRegexp(`Content-Length`, `{}`)", content_length::between(min, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_limits_have_fewer_tiers() {
        let names = |max_body| {
            let options = Options { max_body, max_chunked_body: 0, ..Options::default() };
            tiers(&options).iter().map(|t| (t.size(), t.max_body)).collect::<Vec<_>>()
        };
        assert_eq!(names(5_000), [("small", 5_000), ("bodyless", 0)]);
        assert_eq!(names(10_000), [("small", 9_999), ("medium", 10_000), ("bodyless", 0)]);
    }
}
