//! What requests cost.
//!
//! ```text
//! amount.rs  money in units of 10⁻⁹, read from decimal text and written as such
//! price.rs   the price of a model, and what some usage costs by it, exactly
//! list.rs    which price counts for a model at a time
//! ```
//!
//! No number here is a float. A request's cost is computed exactly, and rounded once, to 10⁻⁹ of the currency. Sums of these are
//! exact.

mod amount;
mod list;
mod price;

pub use amount::{Amount, InvalidAmount};
pub use list::{PriceEntry, PriceList};
pub use price::{Billed, Charge, MOST_SECONDS, Price};
