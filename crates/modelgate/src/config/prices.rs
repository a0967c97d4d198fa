//! `prices:` — what models cost, and from when on.

use std::collections::HashSet;

use config_reader::Section;
use jiff::{civil::Date, tz::TimeZone};
use prices::{Amount, Price, PriceEntry, PriceList};

/// A key of an entry of `prices.models`, and what its price is for.
pub(crate) struct PriceKey {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    set: fn(&mut Price, Amount),
}

/// The keys of an entry besides `match` and `from`.
pub(crate) const PRICE_KEYS: [PriceKey; 8] = [
    PriceKey {
        name: "prompt",
        meaning: "a million tokens of prompts",
        set: |price, amount| price.prompt = amount,
    },
    PriceKey {
        name: "cached_prompt",
        meaning: "a million tokens of prompts that the server says it had cached; default: as `prompt`",
        set: |price, amount| price.cached_prompt = Some(amount),
    },
    PriceKey {
        name: "completion",
        meaning: "a million tokens of answers",
        set: |price, amount| price.completion = amount,
    },
    PriceKey {
        name: "request",
        meaning: "a request, unless its server refused it",
        set: |price, amount| price.request = amount,
    },
    PriceKey {
        name: "second",
        meaning: "a second of a request that Traefik or the server has told the length of, without the time for which it waited for a server",
        set: |price, amount| price.second = amount,
    },
    PriceKey {
        name: "image",
        meaning: "an image that a request to `/images/…` asks for, whatever its size",
        set: |price, amount| price.image = amount,
    },
    PriceKey {
        name: "minute",
        meaning: "a minute of the sound that is sent to `/audio/transcriptions` or `/audio/translations`; [how long it is](../docs/budgets.md#images-and-sound)",
        set: |price, amount| price.minute = amount,
    },
    PriceKey {
        name: "characters",
        meaning: "a million characters of the text that is sent to `/audio/speech`",
        set: |price, amount| price.characters = amount,
    },
];

/// Reads `prices:`; dates begin at midnight in `zone`.
pub(super) fn read(mut section: Section<'_>, zone: &TimeZone) -> PriceList {
    const CURRENCY: &str = "the three capital letters of a currency, such as EUR";
    let currency = section.get("currency", CURRENCY, |text| {
        (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| text.to_owned())
    });
    if section.has("models") && !section.is_form() {
        section.require("currency", CURRENCY);
    }
    let mut written = HashSet::new();
    let entries: Vec<PriceEntry> = section
        .sections("models")
        .into_iter()
        .filter_map(|mut section| {
            let entry = read_entry(&mut section, zone);
            if let Some(PriceEntry { text, from, .. }) = &entry
                && !written.insert((text.clone(), *from))
            {
                let message = format!(
                    "another price of {text:?} begins at the same time; allowed: with a `from` of its own"
                );
                section.error("match", message);
            }
            section.finish();
            entry
        })
        .collect();
    section.finish();
    currency.map_or_else(PriceList::default, |currency| PriceList::new(currency, entries))
}

fn read_entry(section: &mut Section<'_>, zone: &TimeZone) -> Option<PriceEntry> {
    let pattern = section.try_get("match", accounts::GLOB, |text| {
        accounts::glob(text).map(|models| (text.to_owned(), models))
    });
    section.require("match", accounts::GLOB);
    let from = section.get("from", "a day such as 2026-12-01", |text| day_begins(text, zone));
    let mut price = Price::default();
    for key in &PRICE_KEYS {
        if let Some(amount) = section.get(key.name, Amount::ALLOWED, |text| text.parse().ok()) {
            (key.set)(&mut price, amount);
        }
    }
    if !PRICE_KEYS.iter().any(|key| section.has(key.name)) {
        let keys: Vec<_> = PRICE_KEYS.iter().map(|key| key.name).collect();
        let message = format!("has no price; allowed: at least one of {}; 0 if it is free", keys.join(", "));
        section.error("match", message);
    }
    let (text, models) = pattern?;
    Some(PriceEntry { text, models, from: from.unwrap_or(0), price })
}

/// When a day begins, in seconds since 1970.
pub(crate) fn day_begins(text: &str, zone: &TimeZone) -> Option<u64> {
    let date: Date = admin::is_day(text).then(|| text.parse().ok())??;
    let begins = date.to_zoned(zone.clone()).ok()?;
    u64::try_from(begins.timestamp().as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_where_the_time_zone_says() {
        for (zone, day, seconds) in [
            ("UTC", "2026-12-01", Some(1_796_083_200)),
            ("Europe/Berlin", "2026-12-01", Some(1_796_079_600)),
            ("America/New_York", "2026-12-01", Some(1_796_101_200)),
            // Midnight does not exist on that day: it begins at one.
            ("Africa/Cairo", "2026-04-24", Some(1_776_981_600)),
            ("UTC", "2026-02-29", None),
            ("UTC", "1969-12-31", None),
        ] {
            let zone = TimeZone::get(zone).expect("a zone");
            assert_eq!(day_begins(day, &zone), seconds, "{day} {zone:?}");
        }
    }
}
