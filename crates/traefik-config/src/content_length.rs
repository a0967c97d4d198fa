//! Regular expressions that match a `Content-Length` by its size.
//!
//! Traefik allocates a ForwardAuth middleware's `maxBodySize` for every request, so small requests must not share a middleware
//! with large ones. Header matchers cannot compare numbers, but decimal numbers without leading zeros can be compared by their
//! digits.

/// Matches every value except the numbers up to `max`, written without leading zeros.
///
/// Rules exclude lengths instead of requiring one, because a request may have two: one matching value satisfies a header
/// matcher, and over HTTP/2 Go's server uses the first.
pub(crate) fn other_than_up_to(max: u64) -> String {
    let digits = max.to_string().len();
    let mut branches = vec!["[^0-9]".into(), "^0.".into(), format!(".{{{}}}", digits + 1)];
    let last = "9".repeat(digits);
    if max.to_string() != last {
        let mut longer = Vec::new();
        same_length(&(u128::from(max) + 1).to_string(), &last, "", &mut longer);
        branches.push(format!("^({})$", longer.join("|")));
    }
    branches.join("|")
}

/// Adds branches that match `from..=to`, two numbers of equal length, each after `prefix`.
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
    use regex::Regex;

    use super::*;

    fn is_other(max: u64, value: &str) -> bool {
        Regex::new(&other_than_up_to(max)).expect("an expression").is_match(value)
    }

    #[test]
    fn expressions_read_well() {
        assert_eq!(other_than_up_to(999_999), "[^0-9]|^0.|.{7}");
        assert_eq!(other_than_up_to(9_499), "[^0-9]|^0.|.{5}|^(9[5-9][0-9]{2})$");
        assert!(other_than_up_to(u64::MAX).starts_with("[^0-9]|^0.|.{21}|^(1844674407370955161[6-9]|"));
    }

    #[test]
    fn thirty_two_mebibytes_are_not_forty_megabytes() {
        let others =
            ["33554433", "40000000", "133554432", "033554432", "+1", "-1", "1 ", "0x1", "1,1", "1e3", "٣"];
        assert_eq!(others.map(|value| is_other(33_554_432, value)), [true; 11]);
        assert_eq!(["33554432", "999999", "0", "10"].map(|value| is_other(33_554_432, value)), [false; 4]);
    }

    proptest! {
        #[test]
        fn all_but_the_numbers_up_to_it_match(max in 0u64..200_000_000, n in 0u64..250_000_000) {
            prop_assert_eq!(is_other(max, &n.to_string()), n > max);
            prop_assert!(!is_other(max, &max.to_string()) && is_other(max, &(max + 1).to_string()));
        }

        #[test]
        fn what_is_no_number_matches(max in any::<u64>(), value in "[ -~]{1,12}") {
            let is_number = value.parse::<u64>().is_ok_and(|number| number.to_string() == value && number <= max);
            prop_assert_eq!(is_other(max, &value), !is_number);
        }
    }
}
