//! What a request takes from budgets, before it is admitted.
//!
//! A model without a price is free, and so is one whose price is 0: no budget blocks it.

use std::{sync::Arc, time::SystemTime};

use access::{Pending, Reason, estimate::Unbounded};
use limits::Reserve;
use prices::{Amount, Billed, Price, PriceList};

use crate::metered;

/// A request whose budgets are to be priced.
pub(crate) struct Priced<'a> {
    pub(crate) prices: &'a PriceList,
    pub(crate) uri: &'a str,
    /// The body; `None` if there may be one that was not handed over.
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) is_websocket: bool,
    /// Hard budgets are kept exactly: no other Modelgate spends them, or all of them count in one place.
    pub(crate) keeps_hard_budgets: bool,
    pub(crate) now: SystemTime,
}

impl Priced<'_> {
    /// Looks up the price of a request's model, and sets what it takes from budgets.
    ///
    /// # Errors
    /// There is a hard budget, and the most that the request can cost is not known, or hard budgets cannot be kept here.
    pub(crate) fn price(&self, pending: &mut Pending) -> Result<Option<Arc<Price>>, Reason> {
        let price = self.prices.at(pending.known_model().unwrap_or_default(), self.now).cloned();
        if !pending.has_budget() {
            return Ok(price);
        }
        let Some(known) = price.as_deref().filter(|price| !price.is_free()) else {
            pending.drop_budgets();
            return Ok(price);
        };
        let usual = match pending.has_usual_budget() {
            true => self.estimated(pending, known),
            false => Amount(0),
        };
        let hard = match pending.has_hard_budget() {
            true => self.at_most(pending, known)?,
            false => Amount(0),
        };
        let [usual, hard] = [usual, hard].map(|amount| u64::try_from(amount.0).unwrap_or(0));
        pending.price(|reserve| match reserve {
            Reserve::Usual => usual,
            Reserve::Hard => hard,
        });
        Ok(price)
    }

    fn estimated(&self, pending: &mut Pending, price: &Price) -> Amount {
        let [prompt, completion] = metered::estimated(&pending.estimate(self.uri, self.body)).map(i64::from);
        price.of(Billed { requests: 1, prompt, completion, ..Billed::default() })
    }

    fn at_most(&self, pending: &Pending, price: &Price) -> Result<Amount, Reason> {
        if !self.keeps_hard_budgets {
            return Err(Reason::HardBudgetUnkept);
        }
        if self.is_websocket {
            return Err(Unbounded::WebSocket.into());
        }
        let most = pending.most(self.uri, self.body)?;
        Ok(price.at_most(most.prompt, most.completion))
    }
}
