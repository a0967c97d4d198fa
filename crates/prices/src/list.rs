//! Which price counts for a model at a time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use catalogue::ModelGlobs;

use crate::Price;

/// The prices of models, all in one currency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceList {
    currency: Option<String>,
    /// In the order in which they are written.
    patterns: Vec<PricesOfPattern>,
    /// The places of patterns that are names.
    names: HashMap<String, usize>,
    /// The places of all others.
    globs: Vec<usize>,
}

/// A price, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceEntry {
    /// The pattern's text.
    pub text: String,
    /// Its matcher.
    pub models: ModelGlobs,
    /// From when on it counts, in seconds since 1970; 0: always.
    pub from: u64,
    /// The price.
    pub price: Price,
}

/// The prices that models of one pattern have had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PricesOfPattern {
    models: ModelGlobs,
    /// The latest first.
    prices: Vec<(u64, Arc<Price>)>,
}

impl PriceList {
    /// A list of prices in a currency. Entries with the same pattern are one price over time.
    pub fn new(currency: String, entries: Vec<PriceEntry>) -> Self {
        let mut list = Self { currency: Some(currency), ..Self::default() };
        let mut places: HashMap<String, usize> = HashMap::new();
        for PriceEntry { text, models, from, price } in entries {
            let place = *places.entry(text.clone()).or_insert_with(|| {
                let place = list.patterns.len();
                match models.is_name() {
                    true => drop(list.names.insert(text, place)),
                    false => list.globs.push(place),
                }
                list.patterns.push(PricesOfPattern { models, prices: Vec::new() });
                place
            });
            list.patterns[place].prices.push((from, Arc::new(price)));
        }
        for pattern in &mut list.patterns {
            pattern.prices.sort_by_key(|(from, _)| std::cmp::Reverse(*from));
        }
        list
    }

    /// The currency; `None` without prices.
    pub fn currency(&self) -> Option<&str> {
        self.currency.as_deref()
    }

    /// The price of a model at a time: that of the first pattern that matches and has a price by then. `None`: it is free.
    pub fn at(&self, model: &str, at: SystemTime) -> Option<&Arc<Price>> {
        if self.patterns.is_empty() {
            return None;
        }
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let of = |place: usize| self.patterns[place].at(seconds);
        let name = self.names.get(model).and_then(|place| Some((*place, of(*place)?)));
        let before = name.map_or(usize::MAX, |(place, _)| place);
        let earlier = self.globs.iter().take_while(|place| **place < before);
        let glob =
            earlier.filter(|place| self.patterns[**place].models.matches(model)).find_map(|place| of(*place));
        glob.or(name.map(|(_, price)| price))
    }
}

impl PricesOfPattern {
    fn at(&self, seconds: u64) -> Option<&Arc<Price>> {
        self.prices.iter().find(|(from, _)| *from <= seconds).map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{Amount, Billed, Charge};

    fn entry((text, from, prompt, completion): (&str, u64, i64, i64)) -> PriceEntry {
        let models = ModelGlobs::parse(&[text.to_owned()]).expect("a pattern");
        let price = Price { prompt: Amount(prompt), completion: Amount(completion), ..Price::default() };
        PriceEntry { text: text.into(), models, from, price }
    }

    fn list(entries: &[(&str, u64, i64, i64)]) -> PriceList {
        PriceList::new("EUR".into(), entries.iter().copied().map(entry).collect())
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_pattern_with_a_price_by_then_counts() {
        let list = list(&[
            ("llama-4", 100, 1, 0),
            ("llama*", 0, 2, 0),
            ("qwen", 0, 3, 0),
            ("llama-4", 200, 4, 0),
            ("q*", 0, 5, 0),
            ("*", 50, 6, 0),
        ]);
        for (model, seconds, expected) in [
            ("llama-4", 99, Some(2)),
            ("llama-4", 100, Some(1)),
            ("llama-4", 200, Some(4)),
            ("llama-3", 200, Some(2)),
            ("qwen", 0, Some(3)),
            ("qwen-2", 0, Some(5)),
            ("gemma", 49, None),
            ("gemma", 50, Some(6)),
            ("", 50, Some(6)),
        ] {
            let price = list.at(model, at(seconds)).map(|price| price.prompt.0);
            assert_eq!(price, expected, "{model} at {seconds}");
        }
        assert!(PriceList::default().at("llama", at(0)).is_none());
    }

    /// When a request comes, to which model, and its tokens as estimated, as told, and as a server's counters correct them.
    type Asked = (u64, usize, [(i64, i64); 3]);

    const MODELS: [&str; 4] = ["llama-4", "llama-3", "qwen", "gemma"];

    proptest! {
        /// Whatever changes meanwhile, each request costs in the end what its last tokens cost by the price of its first moment.
        #[test]
        fn changes_add_up_to_what_was_used_by_the_price_of_the_moment(
            prices in vec((prop::sample::select(vec!["llama*", "llama-4", "qwen", "*"]), 0_u64..4, 0..1_000_000_000_i64, 0..1_000_000_000_i64), 0..8),
            requests in vec((0_u64..5, 0_usize..4, prop::array::uniform3((0..100_000_i64, 0..100_000_i64))), 0..50),
        ) {
            let prices: Vec<(&str, u64, i64, i64)> = prices;
            let requests: Vec<Asked> = requests;
            let list = list(&prices);
            let mut sum = 0;
            for (seconds, model, [asked, told, counted]) in &requests {
                let billed = |(prompt, completion)| Billed { prompt, completion, ..Billed::default() };
                let price = list.at(MODELS[*model], at(*seconds)).cloned();
                let mut charge = Charge::new(price, billed(*asked));
                sum += charge.amount().0;
                sum += charge.replace(billed(*told)).0;
                sum += charge.add(billed((counted.0 - told.0, counted.1 - told.1))).0;
            }
            prop_assert_eq!(sum, requests.iter().map(|request| plainly(&prices, request)).sum::<i64>());
        }
    }

    /// The same without any of the code above: all patterns in order, the latest price that is not in the future.
    fn plainly(prices: &[(&str, u64, i64, i64)], (seconds, model, [_, _, used]): &Asked) -> i64 {
        let fits = |text: &str| match text.strip_suffix('*') {
            Some(start) => MODELS[*model].starts_with(start),
            None => text == MODELS[*model],
        };
        for (text, ..) in prices.iter().filter(|(text, ..)| fits(text)) {
            let known = prices.iter().filter(|(other, from, ..)| other == text && from <= seconds);
            // Of two with the same date the first counts; the configuration refuses them.
            let latest = known.fold(None, |latest: Option<&(&str, u64, i64, i64)>, price| match latest {
                Some(latest) if latest.1 >= price.1 => Some(latest),
                _ => Some(price),
            });
            if let Some((_, _, prompt, completion)) = latest {
                let of_a_million = used.0 * prompt + used.1 * completion;
                return of_a_million / 1_000_000 + i64::from(of_a_million % 1_000_000 >= 500_000);
            }
        }
        0
    }
}
