//! What a body holds: receipts, and how many items it had.

use metering::{Receipt, Trust};

/// The most receipts that one body may bring. Exporters send 512 at a time unless told otherwise
/// (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#batch-span-processor>).
const MAX_RECEIPTS: usize = 16 * 1024;

/// The receipts of a body. Their trust is [`Trust::None`] until [`trusted`](Self::trusted).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub(crate) receipts: Vec<Receipt>,
    /// Spans and records that tell nothing about a request, such as those of loading a model.
    pub(crate) others: u64,
    /// Receipts beyond [`MAX_RECEIPTS`].
    pub(crate) too_many: u64,
}

impl Found {
    pub(crate) fn add(&mut self, receipt: Option<Receipt>) {
        match receipt {
            None => self.others += 1,
            Some(_) if self.receipts.len() >= MAX_RECEIPTS => self.too_many += 1,
            Some(receipt) => self.receipts.push(receipt),
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.others += other.others;
        self.too_many += other.too_many;
        if self.receipts.is_empty() {
            self.receipts = other.receipts;
        } else {
            other.receipts.into_iter().for_each(|receipt| self.add(Some(receipt)));
        }
    }

    /// The same receipts, from a sender of whom this is known.
    pub(crate) fn trusted(mut self, sender: Trust) -> Self {
        for receipt in &mut self.receipts {
            match receipt {
                Receipt::Span(span) => span.trust = sender,
                Receipt::Record(record) => record.trust = sender,
            }
        }
        self
    }
}

/// The value of an attribute, as far as any is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'v> {
    Text(&'v str),
    Whole(i64),
    Fraction(f64),
    /// Of a kind that is not used.
    Other,
}

impl<'v> Value<'v> {
    /// A text of at most this many bytes.
    pub(crate) fn text(self, longest: usize) -> Option<&'v str> {
        match self {
            Self::Text(text) if text.len() <= longest => Some(text),
            _ => None,
        }
    }

    /// A whole number that is not negative. Some exporters write numbers as texts.
    pub(crate) fn count(self) -> Option<u64> {
        match self {
            Self::Whole(number) => u64::try_from(number).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn seconds(self) -> Option<std::time::Duration> {
        match self {
            Self::Fraction(seconds) => std::time::Duration::try_from_secs_f64(seconds).ok(),
            Self::Whole(seconds) => u64::try_from(seconds).ok().map(std::time::Duration::from_secs),
            _ => None,
        }
    }
}

/// A span or record while its attributes are read. Later attributes of the same name count, as in a map.
pub(crate) trait Draft: Default {
    fn attribute(&mut self, key: &str, value: Value<'_>);

    /// `None` if it tells nothing about a request.
    fn finish(self) -> Option<Receipt>;
}
