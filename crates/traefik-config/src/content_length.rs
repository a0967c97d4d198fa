//! Regular expressions that match a `Content-Length` by its size.
//!
//! Traefik allocates a ForwardAuth middleware's `maxBodySize` for every request, so small requests
//! must not share a middleware with large ones. Header matchers know nothing of numbers; decimal
//! numbers without leading zeros can be told apart by their digits.

/// Matches exactly the numbers from `min` to `max`, both included, written without leading zeros.
pub(crate) fn between(min: u64, max: u64) -> String {
    let mut branches = Vec::new();
    let mut from = min;
    while from <= max {
        let to = max.min(last_with_as_many_digits(from));
        same_length(&from.to_string(), &to.to_string(), "", &mut branches);
        let Some(next) = to.checked_add(1) else { break };
        from = next;
    }
    format!("^({})$", branches.join("|"))
}

fn last_with_as_many_digits(n: u64) -> u64 {
    "9".repeat(n.to_string().len()).parse().unwrap_or(u64::MAX)
}

/// Adds branches that match `from..=to`, two numbers of the same length, each after `prefix`.
fn same_length(from: &str, to: &str, prefix: &str, branches: &mut Vec<String>) {
    let Some((&low, &high)) = from.as_bytes().first().zip(to.as_bytes().first()) else {
        branches.push(prefix.to_owned());
        return;
    };
    let (low, high) = (low as char, high as char);
    let (low_rest, high_rest) = (&from[1..], &to[1..]);
    let zeros = "0".repeat(low_rest.len());
    let nines = "9".repeat(high_rest.len());
    if low == high {
        return same_length(low_rest, high_rest, &format!("{prefix}{low}"), branches);
    }
    let mut first = low;
    let mut last = high;
    if low_rest != zeros {
        same_length(low_rest, &nines, &format!("{prefix}{low}"), branches);
        first = next(low);
    }
    if high_rest != nines {
        last = previous(high);
    }
    if first <= last {
        branches.push(format!("{prefix}{}{}", class(first, last), any_digits(low_rest.len())));
    }
    if high_rest != nines {
        same_length(&zeros, high_rest, &format!("{prefix}{high}"), branches);
    }
}

fn next(digit: char) -> char {
    (digit as u8 + 1) as char
}

fn previous(digit: char) -> char {
    (digit as u8 - 1) as char
}

fn class(first: char, last: char) -> String {
    if first == last { first.to_string() } else { format!("[{first}-{last}]") }
}

fn any_digits(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "[0-9]".into(),
        _ => format!("[0-9]{{{count}}}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reader for just the expressions that [`between`] writes.
    fn matches(expression: &str, text: &str) -> bool {
        let inner = expression.strip_prefix("^(").and_then(|e| e.strip_suffix(")$")).expect("anchored");
        inner.split('|').any(|branch| branch_matches(branch, text))
    }

    fn branch_matches(branch: &str, text: &str) -> bool {
        let (mut rest, mut text) = (branch, text.bytes());
        while !rest.is_empty() {
            let (low, high, after) = if let Some(class) = rest.strip_prefix('[') {
                (class.as_bytes()[0], class.as_bytes()[2], &class[4..])
            } else {
                (rest.as_bytes()[0], rest.as_bytes()[0], &rest[1..])
            };
            let (times, after) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
                Some((times, after)) => (times.parse().expect("a count"), after),
                None => (1, after),
            };
            for _ in 0..times {
                if !text.next().is_some_and(|b| (low..=high).contains(&b)) {
                    return false;
                }
            }
            rest = after;
        }
        text.next().is_none()
    }

    #[test]
    fn expressions_read_well() {
        assert_eq!(between(0, 9_999), "^([0-9]|[1-9][0-9]|[1-9][0-9]{2}|[1-9][0-9]{3})$");
        assert_eq!(between(1_000_000, 2_000_000), "^(1[0-9]{6}|2000000)$");
    }

    #[test]
    fn thirty_two_mebibytes_are_not_forty_megabytes() {
        let expression = between(1_000_000, 33_554_432);
        assert!(matches(&expression, "33554432"));
        assert!(!matches(&expression, "33554433"));
        assert!(!matches(&expression, "40000000"));
        assert!(!matches(&expression, "999999"));
    }

    proptest! {
        #[test]
        fn exactly_the_range_matches(min in 0u64..200_000, len in 0u64..200_000_000, n in 0u64..250_000_000) {
            let max = min + len;
            prop_assert_eq!(matches(&between(min, max), &n.to_string()), (min..=max).contains(&n));
        }

        #[test]
        fn the_ends_match_and_their_neighbours_do_not(min in 1u64..1_000_000_000, len in 0u64..1_000_000_000_000) {
            let max = min + len;
            let expression = between(min, max);
            prop_assert!(matches(&expression, &min.to_string()) && matches(&expression, &max.to_string()));
            prop_assert!(!matches(&expression, &(min - 1).to_string()) && !matches(&expression, &(max + 1).to_string()));
        }
    }
}
