//! Conditions by which a request chooses certain servers: a header, a query parameter, a host.
//!
//! They are named after the matchers of Traefik's rules
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/rules-and-priority/>) and mean the same: an
//! expression may match anywhere in the value unless it is anchored. Only operators write them; nothing that a server reports
//! gets here.

use std::fmt;

use regex::Regex;

/// One condition on a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A header with exactly this value.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its value.
        value: String,
    },
    /// A header whose value this expression matches.
    HeaderRegexp {
        /// Its name, in lower case.
        name: String,
        /// The expression.
        expression: Expression,
    },
    /// A host name, in lower case.
    Host(String),
    /// A query parameter with exactly this value.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
}

/// A regular expression that both Traefik (RE2) and Modelgate support.
#[derive(Clone)]
pub struct Expression(Regex);

/// All the conditions that a request must meet to choose certain servers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(Vec<Condition>);

/// The parts of a request that conditions look at.
pub trait Traits {
    /// Whether `fulfils` holds for one of the values of a header, given by its name in lower case.
    fn header(&self, name: &str, fulfils: &dyn Fn(&str) -> bool) -> bool;
    /// Whether the query has this parameter with this value, without percent-encoding.
    fn query(&self, name: &str, value: &str) -> bool;
    /// The host name, without a port.
    fn host(&self) -> Option<&str>;
}

impl Condition {
    fn is_met_by(&self, request: &dyn Traits) -> bool {
        match self {
            Self::Header { name, value } => request.header(name, &|found| found == value),
            Self::HeaderRegexp { name, expression } => {
                request.header(name, &|found| expression.is_match(found))
            }
            Self::Host(host) => request.host().is_some_and(|found| found.eq_ignore_ascii_case(host)),
            Self::Query { name, value } => request.query(name, value),
        }
    }

    /// The name of the header that it looks at.
    pub fn header_name(&self) -> Option<&str> {
        match self {
            Self::Header { name, .. } | Self::HeaderRegexp { name, .. } => Some(name),
            Self::Host(_) | Self::Query { .. } => None,
        }
    }
}

impl Selector {
    /// Combines conditions; all must be met.
    pub fn new(mut conditions: Vec<Condition>) -> Self {
        conditions.sort();
        conditions.dedup();
        Self(conditions)
    }

    /// The conditions, sorted.
    pub fn conditions(&self) -> &[Condition] {
        &self.0
    }

    /// Whether a request meets all of them.
    pub fn chooses(&self, request: &dyn Traits) -> bool {
        self.0.iter().all(|condition| condition.is_met_by(request))
    }
}

impl Expression {
    /// Parses an expression of at most 256 bytes. Backticks are refused, since a Traefik rule cannot hold one.
    pub fn new(text: &str) -> Option<Self> {
        let fits =
            (1..=256).contains(&text.len()) && !text.contains('`') && !text.chars().any(char::is_control);
        fits.then(|| Regex::new(text).ok().map(Self)).flatten()
    }

    /// The expression as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it matches anywhere in a text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Expression {}

impl PartialOrd for Expression {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expression {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, value } => write!(f, "header {name}: {value}"),
            Self::HeaderRegexp { name, expression } => {
                write!(f, "header {name} matching {}", expression.as_str())
            }
            Self::Host(host) => write!(f, "host {host}"),
            Self::Query { name, value } => write!(f, "query {name}={value}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, condition) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" and ")?;
            }
            write!(f, "{condition}")?;
        }
        Ok(())
    }
}

/// Headers that hold credentials, or that Traefik or Modelgate sets: conditions on them are refused.
const CLOSED_HEADERS: [&str; 7] = [
    "authorization",
    "x-api-key",
    "api-key",
    "cookie",
    "proxy-authorization",
    "host",
    "sec-websocket-protocol",
];

pub(crate) fn header(text: &str) -> Option<Condition> {
    let (name, value) = split_header(text)?;
    let fits = value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'`') && value.len() <= 256;
    fits.then(|| Condition::Header { name, value: value.to_owned() })
}

pub(crate) fn header_regexp(text: &str) -> Option<Condition> {
    let (name, expression) = split_header(text)?;
    Some(Condition::HeaderRegexp { name, expression: Expression::new(expression)? })
}

fn split_header(text: &str) -> Option<(String, &str)> {
    let (name, value) = text.split_once(':')?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let open = !CLOSED_HEADERS.contains(&name.as_str())
        && !name.starts_with("x-forwarded")
        && !name.starts_with("x-inference");
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(token) && !value.is_empty();
    (open && fits).then_some((name, value))
}

pub(crate) fn query(text: &str) -> Option<Condition> {
    let (name, value) = text.split_once('=')?;
    let plain = |s: &str| {
        (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
    };
    let open = !name.eq_ignore_ascii_case("model");
    (open && plain(name) && plain(value)).then(|| Condition::Query { name: name.into(), value: value.into() })
}

pub(crate) fn host(text: &str) -> Option<Condition> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (text.len() <= 253 && text.split('.').all(label)).then(|| Condition::Host(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example;

    impl Traits for Example {
        fn header(&self, name: &str, fulfils: &dyn Fn(&str) -> bool) -> bool {
            name == "x-model" && fulfils("llama3:70b")
        }

        fn query(&self, name: &str, value: &str) -> bool {
            (name, value) == ("fast", "true")
        }

        fn host(&self) -> Option<&str> {
            Some("Code.example.com")
        }
    }

    #[test]
    fn all_conditions_must_be_met() {
        let met = [
            header("X-Model: llama3:70b"),
            header_regexp("X-Model: llama.*"),
            query("fast=true"),
            host("code.example.com"),
        ];
        let met: Vec<Condition> = met.into_iter().map(|c| c.expect("a condition")).collect();
        assert!(Selector::new(met.clone()).chooses(&Example));
        for unmet in [
            header("X-Model: llama3"),
            header_regexp("X-Model: ^70b"),
            query("fast=false"),
            host("example.com"),
        ] {
            let mut all = met.clone();
            all.push(unmet.expect("a condition"));
            assert!(!Selector::new(all).chooses(&Example));
        }
    }

    #[test]
    fn what_cannot_be_a_condition() {
        for text in [
            "",
            "X-Model",
            "X-Model:",
            ": a",
            "Authorization: Bearer x",
            "X-Inference-Route: a",
            "a b: c",
            "X: `",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
        for text in ["X: (", "X: a`b", "Cookie: a"] {
            assert_eq!(header_regexp(text), None, "{text}");
        }
        for text in ["fast", "model=a", "Model=a", "a=", "=a", "a=b&c", "a=b c", "a=`"] {
            assert_eq!(query(text), None, "{text}");
        }
        for text in ["", "a..b", "-a", "a b", "*.example.com", "a:80", "`"] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn the_same_conditions_in_another_order_are_the_same_selector() {
        let (a, b) = (query("a=b").expect("one"), host("x").expect("another"));
        assert_eq!(Selector::new(vec![a.clone(), b.clone()]), Selector::new(vec![b, a.clone(), a]));
    }

    /// Two expressions that were taken for one would send the requests of one selection to the servers of the other.
    #[test]
    fn selectors_with_other_expressions_are_others_and_say_so() {
        let one = |text: &str| header_regexp(text).expect(text);
        let conditions =
            [one("X-Model: b"), one("X-Model: a"), query("q=1").expect("one"), one("X-Model: a")];
        let all = Selector::new(conditions.into());
        assert_eq!(all.to_string(), "header x-model matching a and header x-model matching b and query q=1");
        assert_eq!(all.conditions().len(), 3);
        assert!(all.conditions()[0] < all.conditions()[1] && all.conditions()[1] > all.conditions()[0]);
        assert_ne!(Selector::new(vec![one("X-Model: a")]), Selector::new(vec![one("X-Model: b")]));
        let others = [header("X-Size: 8b"), host("Code.example")].map(|c| c.expect("one"));
        let names: Vec<_> =
            all.conditions().iter().chain(&others).filter_map(Condition::header_name).collect();
        assert_eq!(names, ["x-model", "x-model", "x-size"]);
        assert_eq!(Selector::new(others.into()).to_string(), "header x-size: 8b and host code.example");
    }
}
