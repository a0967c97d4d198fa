//! The price of a model, and what some usage costs by it.

use std::sync::Arc;

use limits::MOST_COST;

use crate::Amount;

/// The price of a model. What has no price is free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Price {
    /// A million tokens of prompts.
    pub prompt: Amount,
    /// A million tokens of prompts that were cached; `None`: as much as others.
    pub cached_prompt: Option<Amount>,
    /// A million tokens of answers.
    pub completion: Amount,
    /// A request that was not refused by its server.
    pub request: Amount,
    /// A second from a request's arrival to the end of its answer.
    pub second: Amount,
    /// An image that a request asks for, unless its server refused it.
    pub image: Amount,
    /// A minute of sound that is written down or translated.
    pub minute: Amount,
    /// A million characters of text that are spoken.
    pub characters: Amount,
}

/// What is paid for. In what corrects an earlier count, numbers may be below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Billed {
    /// Requests that were not refused by their server.
    pub requests: i64,
    /// Tokens of prompts, cached ones included.
    pub prompt: i64,
    /// Those of them that were cached.
    pub cached: i64,
    /// Tokens of answers.
    pub completion: i64,
    /// How long it took.
    pub milliseconds: i64,
    /// Images.
    pub images: i64,
    /// Sound, in milliseconds.
    pub sound: i64,
    /// Characters that are spoken.
    pub characters: i64,
}

/// What one request costs, and by which price: that of the moment at which it came.
#[derive(Debug, Clone, Default)]
pub struct Charge {
    price: Option<Arc<Price>>,
    /// Exactly, in units of 1/60 of 10⁻¹⁵: a price for a million tokens in units of 10⁻⁹ gives 10⁻¹⁵ for one, and a minute has 60,000
    /// milliseconds.
    exact: i128,
}

/// Units of [`Charge::exact`] in an [`Amount`]'s.
const FINE: i128 = 60 * MILLION;
const MILLION: i128 = 1_000_000;
/// The seconds that a request may take, where the most that it can cost must be known. One that takes longer costs more.
pub const MOST_SECONDS: u64 = 3_600;

impl Price {
    /// Whether nothing costs anything.
    pub fn is_free(&self) -> bool {
        let Self { prompt, cached_prompt, completion, request, second, image, minute, characters } = self;
        let of_tokens = [*prompt, cached_prompt.unwrap_or_default(), *completion];
        of_tokens == [Amount(0); 3] && [*request, *second, *image, *minute, *characters] == [Amount(0); 5]
    }

    /// Whether something costs that is counted neither in tokens nor in seconds.
    pub fn is_of_media(&self) -> bool {
        [self.image, self.minute, self.characters] != [Amount(0); 3]
    }

    /// The most that one request costs which uses no more than these tokens, and takes no longer than [`MOST_SECONDS`]. `media` has
    /// what else it uses.
    pub fn at_most(&self, prompt: u64, completion: u64, media: Billed) -> Amount {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let prompt = signed(prompt);
        // Nobody knows how much of it is cached, so all of it costs what is dearer.
        let cached = if self.cached_prompt > Some(self.prompt) { prompt } else { 0 };
        let (completion, milliseconds) = (signed(completion), signed(MOST_SECONDS * 1_000));
        self.of(Billed { requests: 1, prompt, cached, completion, milliseconds, ..media })
    }

    /// What usage costs, in units of [`Charge::exact`]. It is linear: the cost of a sum is the sum of costs.
    fn exactly(&self, billed: Billed) -> i128 {
        let Billed { requests, prompt, cached, completion, milliseconds, images, sound, characters } = billed;
        let times = |number: i64, price: Amount| i128::from(number) * i128::from(price.0);
        let of_a_million = times(prompt - cached, self.prompt)
            + times(cached, self.cached_prompt.unwrap_or(self.prompt))
            + times(completion, self.completion)
            + times(characters, self.characters);
        of_a_million * (FINE / MILLION)
            + (times(requests, self.request) + times(images, self.image)) * FINE
            + times(milliseconds, self.second) * (FINE / 1_000)
            + times(sound, self.minute) * (FINE / 60_000)
    }

    /// What usage costs, rounded once.
    pub fn of(&self, billed: Billed) -> Amount {
        rounded(self.exactly(billed), i64::MAX.into())
    }
}

impl Charge {
    /// What a request costs so far.
    pub fn new(price: Option<Arc<Price>>, billed: Billed) -> Self {
        let exact = price.as_ref().map_or(0, |price| price.exactly(billed));
        Self { price, exact }
    }

    /// The cost, rounded to 10⁻⁹.
    pub fn amount(&self) -> Amount {
        rounded(self.exact, MOST_COST.into())
    }

    /// Replaces what is paid for. Returns by how much the amount has changed.
    pub fn replace(&mut self, billed: Billed) -> Amount {
        let exact = self.price.as_ref().map_or(0, |price| price.exactly(billed));
        self.change(exact)
    }

    /// Adds to what is paid for. Returns by how much the amount has changed.
    pub fn add(&mut self, billed: Billed) -> Amount {
        let exact = self.exact + self.price.as_ref().map_or(0, |price| price.exactly(billed));
        self.change(exact)
    }

    fn change(&mut self, exact: i128) -> Amount {
        let before = self.amount();
        self.exact = exact;
        Amount(self.amount().0 - before.0)
    }
}

/// Half a unit is rounded up.
fn rounded(exact: i128, most: i128) -> Amount {
    let amount = (exact + FINE / 2).div_euclid(FINE).clamp(-most, most);
    Amount(i64::try_from(amount).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_request_has_its_price() {
        let amount = |text: &str| text.parse::<Amount>().expect(text);
        let price = Price {
            prompt: amount("0.15"),
            cached_prompt: Some(amount("0.0375")),
            completion: amount("0.60"),
            request: amount("0.001"),
            second: amount("0.0002"),
            ..Price::default()
        };
        let tokens = Billed { prompt: 1_000, cached: 600, completion: 200, ..Billed::default() };
        let billed = Billed { requests: 1, milliseconds: 1_500, ..tokens };
        // 400 × 0.15 + 600 × 0.0375 + 200 × 0.6 of a million = 0.0002025; then 0.001 and 1.5 × 0.0002.
        assert_eq!(price.of(billed).to_string(), "0.0015025");
        let dearer = Price { cached_prompt: None, ..price.clone() };
        assert_eq!(dearer.of(billed).to_string(), "0.00157", "cached tokens cost as much as others");
        assert_eq!(Charge::new(None, billed).amount(), Amount(0), "without a price it is free");
        assert_eq!(
            price.at_most(1_000, 200, Billed::default()).to_string(),
            "0.72127",
            "none of it cached, and an hour long"
        );
        let odd = Price { cached_prompt: Some(amount("1")), second: Amount(0), ..price.clone() };
        assert_eq!(
            odd.at_most(1_000, 200, Billed::default()).to_string(),
            "0.00212",
            "cached tokens are dearer"
        );
        assert!(Price::default().is_free() && !price.is_free());
        let of_media = Price {
            image: amount("0.04"),
            minute: amount("0.006"),
            characters: amount("15"),
            ..Price::default()
        };
        let media = Billed { images: 3, sound: 90_001, characters: 1_000, ..Billed::default() };
        // 3 × 0.04, 1.5 minutes and a millisecond at 0.0000001, and 15 of a thousandth of a million.
        assert_eq!(of_media.of(media).to_string(), "0.1440001");
        assert_eq!(of_media.at_most(1_000, 200, media).to_string(), "0.1440001");
        assert!(of_media.is_of_media() && !of_media.is_free() && !price.is_of_media());
        let third = Price { minute: Amount(1), ..Price::default() };
        let rounded = [29_999, 30_000].map(|sound| third.of(Billed { sound, ..Billed::default() }));
        assert_eq!(rounded, [Amount(0), Amount(1)], "rounded once");
        let endless = Billed { completion: i64::MAX / 2, ..billed };
        let mut charge = Charge::new(Some(Arc::new(price)), endless);
        assert_eq!(charge.amount().to_string(), "100000000");
        assert_eq!(charge.replace(billed).to_string(), "-99999999.9984975");
        // Ten million tokens, where a million of them cost 150,000 of a currency whose unit is worth little.
        let price = Price { prompt: amount("150000"), ..Price::default() };
        let long = Billed { prompt: 10_000_000, ..Billed::default() };
        assert_eq!(Charge::new(Some(Arc::new(price)), long).amount().to_string(), "1500000");
    }
}
