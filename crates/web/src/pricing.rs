//! What a request takes from budgets, before it is admitted.
//!
//! A model without a price is free, and so is one whose price is 0: no budget blocks it. A price may be for something else than what
//! a path's requests use, such as images on the path of chats: then nobody knows what a request costs.

use std::{sync::Arc, time::SystemTime};

use access::{
    Pending, Reason,
    estimate::{Media, PaidBy, Unbounded},
};
use limits::Reserve;
use prices::{Amount, Price, PriceList};

use crate::metered;

/// A request whose budgets are to be priced.
pub(crate) struct Priced<'a> {
    pub(crate) prices: &'a PriceList,
    pub(crate) uri: &'a str,
    /// The body; `None` if there may be one that was not handed over.
    pub(crate) body: Option<&'a [u8]>,
    /// What it is estimated to use besides tokens.
    pub(crate) media: Media,
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
        let price = self.price_of(pending).cloned();
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

    fn price_of(&self, pending: &Pending) -> Option<&Arc<Price>> {
        let names = [pending.own_model(), pending.known_model()];
        price_of(self.prices, names, self.now).map(|(_, price)| price)
    }

    fn estimated(&self, pending: &mut Pending, price: &Price) -> Amount {
        let tokens = metered::estimated(&pending.estimate(self.uri, self.body));
        price.of(metered::asked(tokens, self.media))
    }

    /// What costs nothing passes also where hard budgets cannot be kept.
    fn at_most(&self, pending: &Pending, price: &Price) -> Result<Amount, Reason> {
        match self.bound(pending, price) {
            Ok(Amount(0)) => Ok(Amount(0)),
            _ if !self.keeps_hard_budgets => Err(Reason::HardBudgetUnkept),
            bound => bound,
        }
    }

    fn bound(&self, pending: &Pending, price: &Price) -> Result<Amount, Reason> {
        if self.is_websocket {
            return Err(Unbounded::WebSocket.into());
        }
        if self.body.is_none() {
            return Err(Unbounded::Body.into());
        }
        if !is_counted(price, PaidBy::of(self.uri, self.body)) {
            return Err(Unbounded::Unpriced.into());
        }
        let most = pending.most(self.uri, self.body, self.media)?;
        Ok(price.at_most(most.prompt, most.completion, metered::of_media(most.media)))
    }
}

/// The price of the model's own name, whatever name the client has used for it; if that has none, that of the name. With it comes the
/// name that has it, which is empty for a request without a model.
pub(crate) fn price_of<'p, 'm>(
    prices: &'p PriceList,
    [own, used]: [Option<&'m str>; 2],
    now: SystemTime,
) -> Option<(&'m str, &'p Arc<Price>)> {
    let at = |model: Option<&'m str>| {
        let name = model.unwrap_or_default();
        prices.at(name, now).map(|price| (name, price))
    };
    at(own).or_else(|| (own != used).then(|| at(used)).flatten())
}

/// Whether what a path's requests use is what the price is for, so that it says what they cost. What a price has no amount for is free
/// only beside something that it has one for.
pub(crate) fn is_counted(price: &Price, paid_by: PaidBy) -> bool {
    let costs = |amounts: &[Amount]| amounts.iter().any(|amount| amount.0 > 0);
    let of_request = costs(&[price.request, price.second]);
    let of_prompt = costs(&[price.prompt, price.cached_prompt.unwrap_or_default()]);
    let (of_tokens, of_answer) = (of_prompt || costs(&[price.completion]), costs(&[price.completion]));
    match paid_by {
        PaidBy::Nothing | PaidBy::Prompt => true,
        PaidBy::Tokens => of_request || of_tokens,
        PaidBy::Sound => of_request || of_tokens || costs(&[price.minute]),
        // What is made may count as tokens of an answer: how many, nobody knows before.
        PaidBy::Images => of_request || costs(&[price.image]) || of_prompt && !of_answer,
        PaidBy::Characters => of_request || costs(&[price.characters]) || of_prompt && !of_answer,
        PaidBy::Unknown => !price.is_of_media(),
    }
}

#[cfg(test)]
mod tests {
    use access::{Consumer, Key, KeyDigest, Mode, Policy, Request, prepare};
    use axum::http::{HeaderMap, header::AUTHORIZATION};
    use catalogue::{Catalogue, ModelGlobs};
    use limits::{Calendar, Limits, Quota};
    use prices::PriceEntry;

    use super::*;

    /// Regression: a request that can cost nothing was refused with 503.
    #[test]
    fn what_can_cost_nothing_needs_no_hard_budget_that_is_kept() {
        let prompt = "1".parse().expect("an amount");
        let models = ModelGlobs::parse(&["mine".to_owned()]).expect("a name");
        let entry =
            PriceEntry { text: "mine".into(), models, from: 0, price: Price { prompt, ..Price::default() } };
        let prices = PriceList::new("EUR".into(), vec![entry]);
        let budget = Quota::budget(1_000, Calendar::Ever, Reserve::Hard).expect("a budget");
        let key = Key {
            limits: Limits::new(Vec::new(), vec![budget]),
            ..Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key"))
        };
        let policy = Policy::new(vec![key], Vec::new());
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer mg-key".parse().expect("a value"))]);
        let now = SystemTime::UNIX_EPOCH;
        let priced = |uri: &str, body: &[u8], keeps_hard_budgets| {
            let mode = Mode::Gate { model: Some("mine"), body_forwarded: true, single_model: true };
            let (method, host, trusted, from) = ("POST", None, false, None);
            let headers = &headers;
            let request = Request { method, uri, host, headers, body, mode, trusted, from, now };
            let mut pending = prepare(&policy, &Catalogue::default(), &request).expect("it is allowed");
            let (body, media, is_websocket) = (Some(body), Media::default(), false);
            let prices = &prices;
            let priced = Priced { prices, uri, body, media, is_websocket, keeps_hard_budgets, now };
            priced.price(&mut pending).map(|_| pending.demands().takes_from_budget(Reserve::Hard))
        };
        let (chat, count) = ("/v1/chat/completions", "/v1/messages/count_tokens");
        let body = br#"{"max_tokens":5}"#;
        assert_eq!(priced(chat, body, true), Ok(true));
        assert_eq!(priced(chat, body, false), Err(Reason::HardBudgetUnkept));
        assert_eq!(priced(chat, b"{}", false), Err(Reason::HardBudgetUnkept), "nor is its most known");
        for keeps in [true, false] {
            assert_eq!(priced(count, body, keeps), Ok(false));
        }
    }

    /// A model priced by the image was free on the path of chats, and on an image server's own.
    #[test]
    fn a_price_says_what_a_request_costs_only_on_paths_that_use_what_it_is_for() {
        const CHAT: &str = "/v1/chat/completions";
        const IMAGES: &str = "/v1/images/generations";
        const SPEECH: &str = "/v1/audio/speech";
        const SOUND: &str = "/v1/audio/transcriptions";
        const OWN: &str = "/sdapi/v1/txt2img";
        const ALL: [&str; 9] =
            [CHAT, "/v1/embeddings", IMAGES, SPEECH, SOUND, OWN, "/prompt", "/v1/videos", "/v1/models/flux"];
        let one = |set: fn(&mut Price)| {
            let mut price = Price::default();
            set(&mut price);
            let is = |path: &&str| {
                let body: &[u8] = if path.contains("/models") { b"" } else { b"{}" };
                is_counted(&price, PaidBy::of(path, Some(body)))
            };
            ALL.into_iter().filter(is).collect::<Vec<_>>()
        };
        const ALWAYS: [&str; 2] = ["/v1/embeddings", "/v1/models/flux"];
        let expect = |set: fn(&mut Price), more: &[&str]| {
            let expected: Vec<_> =
                ALL.into_iter().filter(|path| ALWAYS.contains(path) || more.contains(path)).collect();
            assert_eq!(one(set), expected);
        };
        expect(|price| price.image = Amount(1), &[IMAGES, OWN]);
        expect(|price| price.characters = Amount(1), &[SPEECH]);
        expect(|price| price.minute = Amount(1), &[SOUND]);
        expect(|price| price.completion = Amount(1), &[CHAT, SOUND, "/prompt", "/v1/videos"]);
        expect(|price| price.request = Amount(1), &ALL);
        expect(|price| price.prompt = Amount(1), &ALL);
        expect(|price| (price.image, price.completion) = (Amount(1), Amount(1)), &[CHAT, IMAGES, SOUND, OWN]);
    }
}
