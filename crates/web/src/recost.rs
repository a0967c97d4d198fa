//! What usage costs that was counted before, by the present prices (`modelgate usage recost`).

use std::time::SystemTime;

use access::UsedCounts;
use prices::{Billed, PriceList};

/// What usage of a model costs that began at a time, in units of 10⁻⁹ of the currency.
///
/// It is what it was before if the prices have not changed:
/// - A model without a price keeps its cost. Its requests may have been priced by an alias that they named, and usage does not tell which.
/// - A difference that can come from rounding the cost of each request does not count.
pub fn recost(prices: &PriceList, model: &str, counts: &UsedCounts, at: SystemTime) -> i64 {
    let Some(price) = prices.at(model, at) else { return counts.cost };
    let UsedCounts { requests, errors, milliseconds, prompt, cached, completion, .. } = *counts;
    let UsedCounts { images, sound, characters, cost, .. } = *counts;
    // Those that a server has refused are not paid for, but for the tokens that it has told.
    let paid = requests - errors;
    let billed =
        Billed { requests: paid, prompt, cached, completion, milliseconds, images, sound, characters };
    let anew = price.of(billed).0;
    // Each request's cost was rounded by half a unit at most, and so is the sum.
    let is_by_rounding = i128::from(anew.abs_diff(cost)) * 2 <= i128::from(requests) + 1;
    if is_by_rounding { cost } else { anew }
}
