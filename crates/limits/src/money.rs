//! Amounts of money in text: whole numbers of 10⁻⁹ of a currency. Which currency it is, nobody needs to know here.

const DECIMALS: usize = 9;
const UNIT: u64 = 1_000_000_000;
/// More digits could not pass through YAML unchanged, which reads plain numbers as floats of 53 bits.
const DIGITS: usize = 15;
/// The largest amount that may be written, in the currency.
const MOST: u64 = 1_000_000_000;

/// The most that is counted for a request, and for a day of a key, whatever lengths clients invent, in units of 10⁻⁹ of the currency:
/// 100 million of it, enough also for currencies of low value. An `i64` holds 92 times that.
pub const MOST_COST: i64 = 100_000_000_000_000_000;

/// What may be written.
pub const MONEY_ALLOWED: &str =
    "an amount such as 0.15, from 0 to 1000000000, with at most 9 decimals and 15 digits";

/// Reads an amount: decimal digits, at most one point, and the exponent with which YAML's numbers may come (`1e-6`).
#[must_use]
pub fn read_money(text: &str) -> Option<u64> {
    let (mantissa, exponent) = match text.split_once("e-") {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<u8>().ok()?),
        None => (text, 0),
    };
    let (whole, decimals) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, decimals)) => (whole, decimals.trim_end_matches('0')),
        None => (mantissa, ""),
    };
    let digits = format!("{whole}{decimals}");
    let significant = digits.trim_start_matches('0');
    let places = decimals.len() + usize::from(exponent);
    let is_number = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || significant.len() > DIGITS || (places > DECIMALS && !significant.is_empty()) {
        return None;
    }
    let missing = u32::try_from(DECIMALS.saturating_sub(places)).unwrap_or(0);
    let number = if significant.is_empty() { 0 } else { significant.parse::<u64>().ok()? };
    number.checked_mul(10_u64.pow(missing)).filter(|amount| *amount <= MOST * UNIT)
}

/// Writes an amount and its currency. Without prices there may be none.
#[must_use]
pub fn write_money_in(amount: u64, currency: Option<&str>) -> String {
    format!("{} {}", write_money(amount), currency.unwrap_or("(no currency)"))
}

/// Writes an amount, with all digits that there are.
#[must_use]
pub fn write_money(amount: u64) -> String {
    let decimals = format!("{:09}", amount % UNIT);
    match decimals.trim_end_matches('0') {
        "" => (amount / UNIT).to_string(),
        decimals => format!("{}.{decimals}", amount / UNIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An amount that is read as another one, or not at all, is a budget or a price that nobody has written.
    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        for (text, amount) in [
            ("0.15", Some(150_000_000)),
            ("007.50", Some(7_500_000_000)),
            ("0.000000001", Some(1)),
            ("0.0000000001", None),
            ("1.0000000000", Some(UNIT)),
            // As YAML's numbers come.
            ("1e-6", Some(1_000)),
            ("1e-9", Some(1)),
            ("1e-10", None),
            ("1.5e-9", None),
            ("0e-10", Some(0)),
            // 15 digits are read, 16 are not.
            ("123456789.123456", Some(123_456_789_123_456_000)),
            ("123456789.1234567", None),
            ("1000000000", Some(MOST * UNIT)),
            ("1000000000.1", None),
            ("", None),
            (".5", None),
            ("5.", None),
            ("+5", None),
            ("-5", None),
            ("1.+5", None),
            ("1,5", None),
            ("1e6", None),
        ] {
            assert_eq!(read_money(text), amount, "{text:?}");
            let again = amount.map(|amount| read_money(&write_money(amount)));
            assert_eq!(again, amount.map(Some), "{text:?}, written and read");
        }
    }
}
