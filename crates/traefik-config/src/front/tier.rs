//! Tiers: kinds of requests, each with its own root router and ForwardAuth middleware.
//!
//! With `forwardBody` Traefik reads a body before it asks. `maxBodySize: N` allocates N + 1 bytes for every request, however
//! short; `-1` reads the whole body. So if a router's rule bounds the body by its `Content-Length`, nothing is allocated; a
//! number is set only where nothing else bounds the body.

use super::CHUNKED;
use crate::{RenderOptions, content_length};

const HAS_LENGTH: &str = "HeaderRegexp(`Content-Length`, `.`)";
const BODYLESS: &str = "(Method(`GET`) || Method(`HEAD`) || Method(`DELETE`) || Method(`OPTIONS`))";
/// One matching header line is enough: the tier's headers middleware makes it the only one.
const WEBSOCKET: &str = "(Method(`GET`) && HeaderRegexp(`Upgrade`, `(?i)^websocket$`))";
/// The paths to which clients upload files, below any prefix: audio, images, files, parts of uploads, videos. SDKs send files
/// as multipart, and without a length if the file is a stream (`fs.createReadStream`).
const UPLOAD: &str = "(HeaderRegexp(`Content-Type`, `(?i)^multipart/form-data`) && \
                      PathRegexp(`/(audio/[a-z]+|images/[a-z]+|files|uploads/[^/]+/parts|videos)/?$`))";
/// The rank of requests whose length is in no tier, in the layered layout.
pub(crate) const RANK_OF_TOO_LARGE: usize = 4;
/// From this many bytes on the key is checked before the body is read.
const LARGE: u64 = 1_000_000;

/// How much of a body Traefik reads for Modelgate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// The whole body: the router's rule bounds its length.
    BoundByRule,
    /// At most this many bytes, which Traefik allocates for each request.
    AtMost(u64),
}

/// What Modelgate is asked, and in what order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) body: Body,
    /// Whether the key is checked before the body is read: clients without a key must not fill Traefik's memory.
    pub(crate) key_first: bool,
    /// Whether the requests may have trailers, which must not reach a server (`question.rs`).
    pub(crate) may_have_trailers: bool,
    /// The reason for refusing a longer body; `None`: Traefik answers with a bare 401.
    pub(crate) too_large: Option<&'static str>,
    /// Whether they become WebSockets.
    pub(crate) is_websocket: bool,
    /// Whether `Origin` is hidden from servers: the gateway decides about pages (CORS).
    pub(crate) hides_origin: bool,
}

/// Requests that share a root router and a ForwardAuth middleware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The name of the router and the middleware.
    pub(crate) name: &'static str,
    pub(crate) question: Question,
    /// The rule for its requests, given that routers of higher rank have taken theirs.
    pub(crate) matcher: String,
    /// The rule without that assumption: no request is in two tiers.
    pub(crate) exclusive: String,
    /// Added to the priority: a higher rank takes precedence.
    pub(crate) rank: usize,
}

impl Question {
    /// Requests with a length.
    pub(crate) const SIZED: Self =
        Self { body: Body::BoundByRule, may_have_trailers: false, ..Self::BODYLESS };

    /// Requests without a length.
    pub(crate) const fn unsized_up_to(max: u64) -> Self {
        Self {
            body: Body::AtMost(max),
            key_first: max > 0,
            may_have_trailers: true,
            too_large: None,
            is_websocket: false,
            hides_origin: false,
        }
    }

    /// A GET may have a body: forwarding it with a limit of 0 bytes refuses it, whereas a middleware that forwards no body
    /// would let it bypass the reader.
    const BODYLESS: Self = Self::unsized_up_to(0);
    pub(crate) const WEBSOCKET: Self = Self { is_websocket: true, ..Self::BODYLESS };
}

impl Tier {
    /// The part of the name that distinguishes it: `small`.
    pub(crate) fn size(&self) -> &'static str {
        self.name.strip_prefix("modelgate-").unwrap_or(self.name)
    }
}

/// All tiers: WebSockets, requests with a length up to [`LARGE`] or up to the limit, and requests without a length, which have
/// no body, are uploads, or neither.
pub(crate) fn tiers(options: &RenderOptions) -> Vec<Tier> {
    let mut tiers = if options.version.forwards_body() { by_body(options) } else { vec![any()] };
    tiers.push(websocket());
    for tier in &mut tiers {
        tier.question.hides_origin = options.cors.is_some();
    }
    tiers
}

fn by_body(options: &RenderOptions) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for (name, min, max) in [("modelgate-small", 0, LARGE - 1), ("modelgate-large", LARGE, u64::MAX)] {
        let max = options.max_body.min(max);
        if min <= max {
            let matcher = length_between(min, max);
            let question = Question { key_first: min > 0, ..Question::SIZED };
            tiers.push(Tier { name, question, exclusive: matcher.clone(), matcher, rank: 5 });
        }
    }
    tiers.push(Tier {
        name: "modelgate-bodyless",
        question: Question::BODYLESS,
        matcher: BODYLESS.into(),
        exclusive: format!("!{HAS_LENGTH} && {BODYLESS} && !{WEBSOCKET}"),
        rank: 3,
    });
    if options.max_chunked_body > 0 {
        tiers.extend(chunked(options));
    }
    tiers
}

/// Before 3.3 Traefik forwards no bodies.
fn any() -> Tier {
    Tier {
        name: "modelgate-any",
        question: Question::BODYLESS,
        matcher: String::new(),
        exclusive: format!("!{}", websocket().exclusive),
        rank: 1,
    }
}

fn websocket() -> Tier {
    let matcher = format!("(!{HAS_LENGTH} && {WEBSOCKET})");
    Tier {
        name: "modelgate-websocket",
        question: Question::WEBSOCKET,
        exclusive: matcher.clone(),
        matcher,
        rank: 5,
    }
}

/// Uploads without a length may be as long as any body; only files need that.
fn chunked(options: &RenderOptions) -> [Tier; 2] {
    let tier = |name, max, why, kind: &str, others: &str, rank| Tier {
        name,
        question: Question { too_large: Some(why), ..Question::unsized_up_to(max) },
        matcher: kind.into(),
        exclusive: format!("{} && {others}{UPLOAD}", exclusive_chunked()),
        rank,
    };
    [
        tier("modelgate-upload", options.max_body, "413", UPLOAD, "", 2),
        tier(CHUNKED, options.max_chunked_body, "413-chunked", "", "!", 1),
    ]
}

/// The rule for requests that are in no tier because they have no length, without regard to rank.
pub(crate) fn exclusive_chunked() -> String {
    format!("!{HAS_LENGTH} && !{BODYLESS}")
}

/// Requests that are too long, or whose length is not a number.
pub(crate) fn too_large(options: &RenderOptions) -> String {
    length_other_than_up_to(options.max_body)
}

/// The rule for requests whose lengths (they may have several) are all at most `max`, and one is at least `min`.
fn length_between(min: u64, max: u64) -> String {
    let at_least = match min.checked_sub(1) {
        Some(shorter) => length_other_than_up_to(shorter),
        None => HAS_LENGTH.into(),
    };
    format!("{at_least} && !{}", length_other_than_up_to(max))
}

fn length_other_than_up_to(max: u64) -> String {
    format!("HeaderRegexp(`Content-Length`, `{}`)", content_length::other_than_up_to(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers_of(max_body: u64, max_chunked_body: u64) -> Vec<(&'static str, Body)> {
        let options = RenderOptions { max_body, max_chunked_body, ..RenderOptions::default() };
        tiers(&options).iter().map(|t| (t.size(), t.question.body)).collect()
    }

    #[test]
    fn small_limits_have_fewer_tiers() {
        let bodyless = Body::AtMost(0);
        let small = [("small", Body::BoundByRule), ("bodyless", bodyless), ("websocket", bodyless)];
        assert_eq!(tiers_of(999_999, 0), small);
        assert_eq!(tiers_of(1_000_000, 0)[1], ("large", Body::BoundByRule));
        assert_eq!(
            tiers_of(5_000, 300)[2..4],
            [("upload", Body::AtMost(5_000)), ("chunked", Body::AtMost(300))]
        );
    }

    #[test]
    fn the_key_comes_first_where_a_body_is_large_or_may_be() {
        let first = tiers(&RenderOptions::default()).into_iter().filter(|tier| tier.question.key_first);
        assert_eq!(first.map(|tier| tier.size()).collect::<Vec<_>>(), ["large", "upload", "chunked"]);
    }

    /// Whether the rule matches a request with these lengths: one matching value satisfies Traefik's header matchers.
    fn takes(matcher: &str, lengths: &[&str]) -> bool {
        let start = "HeaderRegexp(`Content-Length`, `";
        matcher.split(" && ").all(|part| {
            let (wanted, part) = part.strip_prefix('!').map_or((true, part), |part| (false, part));
            let expression =
                part.strip_prefix(start).and_then(|part| part.strip_suffix("`)")).expect("a length");
            let expression = regex::Regex::new(expression).expect("an expression");
            lengths.iter().any(|length| expression.is_match(length)) == wanted
        })
    }

    #[test]
    fn a_request_is_as_long_as_the_longest_length_that_it_names() {
        for max_body in [300, 999_999, 1_000_000, 33_554_432] {
            let options = RenderOptions { max_body, ..RenderOptions::default() };
            let sized = tiers(&options).into_iter().filter(|tier| tier.question.body == Body::BoundByRule);
            let tiers: Vec<(&str, String)> = sized
                .map(|tier| (tier.size(), tier.matcher))
                .chain([("too-large", too_large(&options))])
                .collect();
            let tier_of = |lengths: &[&str]| -> Vec<&str> {
                tiers.iter().filter(|(_, matcher)| takes(matcher, lengths)).map(|(name, _)| *name).collect()
            };
            let of_one = |length: &str| match length.parse::<u64>() {
                Ok(number) if number.to_string() != length || number > max_body => (3, "too-large"),
                Ok(number) if number >= LARGE => (2, "large"),
                Ok(_) => (1, "small"),
                Err(_) => (3, "too-large"),
            };
            let values = [
                "0",
                "5",
                "300",
                "301",
                "999999",
                "1000000",
                "33554432",
                "33554433",
                "3000000000",
                "0031",
                "-1",
                "x",
            ];
            for first in values {
                for second in values {
                    let longest = of_one(first).max(of_one(second)).1;
                    assert_eq!(tier_of(&[first, second]), [longest], "{max_body}: {first}, {second}");
                }
            }
        }
    }
}
