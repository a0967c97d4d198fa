//! Money, in units of 10⁻⁹ of the currency.

use std::{fmt, str::FromStr};

/// An amount of money, in units of 10⁻⁹ of the currency: 0.15 is 150,000,000. It may be below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub i64);

/// The text is not an amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {}", Amount::ALLOWED)]
pub struct InvalidAmount;

const DECIMALS: usize = 9;
const UNIT: u64 = 1_000_000_000;
impl Amount {
    /// What may be written.
    pub const ALLOWED: &str = limits::MONEY_ALLOWED;

    /// For people: four decimals, or two from 100 on. Zero has none, so that nobody takes it for something that is too small to be shown, and
    /// what is not zero does not look like it.
    pub fn rounded(self) -> String {
        let amount = self.0.unsigned_abs();
        if amount == 0 {
            return "0".to_owned();
        }
        let decimals = if amount >= 100 * UNIT { 2 } else { 4 };
        let step = 10_u64.pow(u32::try_from(DECIMALS - decimals).unwrap_or(0));
        let steps = (amount + step / 2) / step;
        let sign = if self.0 < 0 { "-" } else { "" };
        if steps == 0 {
            return format!("{sign}<0.0001");
        }
        let in_unit = UNIT / step;
        format!("{sign}{}.{:0decimals$}", with_separators(steps / in_unit), steps % in_unit)
    }
}

fn with_separators(whole: u64) -> String {
    let digits = whole.to_string();
    let from_end = |place: usize| digits.len() - place;
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && from_end(place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Decimal digits, at most one point, and the exponent with which YAML's numbers may come (`1e-6`).
impl FromStr for Amount {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let amount = limits::read_money(text).ok_or(InvalidAmount)?;
        i64::try_from(amount).map(Self).map_err(|_| InvalidAmount)
    }
}

/// All digits that there are.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", limits::write_money(self.0.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimal_text_is_read_to_the_last_digit_or_refused() {
        for (text, amount) in [
            ("0", Some(0)),
            ("0.15", Some(150_000_000)),
            ("20.00", Some(20_000_000_000)),
            ("007.5", Some(7_500_000_000)),
            ("0.000000001", Some(1)),
            ("1e-9", Some(1)),
            ("1.5e-7", Some(150)),
            ("123456.123456789", Some(123_456_123_456_789)),
            ("1000000000", Some(1_000_000_000_000_000_000)),
            ("1000000001", None),
            ("99999999999999999999", None),
            ("0.0000000001", None),
            ("1.5e-9", None),
            ("1234567.123456789", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            (".5", None),
            ("5.", None),
            ("1,5", None),
            ("1.2.3", None),
            ("1e3", None),
            ("1e-", None),
            ("e-3", None),
            (" 1", None),
            ("nan", None),
            ("٣", None),
        ] {
            assert_eq!(text.parse::<Amount>().ok(), amount.map(Amount), "{text:?}");
        }
    }

    #[test]
    fn people_see_four_decimals_and_two_of_large_amounts() {
        for (amount, exactly, rounded) in [
            (0, "0", "0"),
            (1, "0.000000001", "<0.0001"),
            (-1, "-0.000000001", "-<0.0001"),
            (50_000, "0.00005", "0.0001"),
            (1_234_567_890, "1.23456789", "1.2346"),
            (-2_500_000_000, "-2.5", "-2.5000"),
            (99_999_999_999, "99.999999999", "100.0000"),
            (1_234_567_895_000_000, "1234567.895", "1,234,567.90"),
            (i64::MIN, "-9223372036.854775808", "-9,223,372,036.85"),
        ] {
            let amount = Amount(amount);
            assert_eq!((amount.to_string().as_str(), amount.rounded().as_str()), (exactly, rounded));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(amount in 0..=999_999_999_999_999_i64) {
            prop_assert_eq!(Amount(amount).to_string().parse::<Amount>(), Ok(Amount(amount)));
            // As YAML hands it over: as the shortest text of a float.
            let float: f64 = Amount(amount).to_string().parse().expect("a number");
            prop_assert_eq!(float.to_string().parse::<Amount>(), Ok(Amount(amount)));
        }
    }
}
