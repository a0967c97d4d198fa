//! Batches in a file: what a Modelgate could not write to the store before it ended, until the next one does.
//!
//! Each batch keeps its writer and its number. So the store counts it once, whoever passes it and however often: also if its answer was
//! lost before it came into the file.

use std::{collections::BTreeMap, time::SystemTime};

use access::{UsageHour, Used};
use limits::{Period, QuotaId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Store, StoreError, UsedOn, Writer,
    database::{millis, time},
    usage::{NUMBERS, counts, values},
};

/// The version of the file's form.
const FORM: u32 = 1;

/// What one counting process has not written, or of which it does not know whether it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    /// The process.
    pub writer: Writer,
    /// Its batches, by their numbers.
    pub batches: Vec<Batch>,
}

/// The file does not hold batches that this Modelgate can read. The message quotes nothing of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableBatches(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFile {
    form: u32,
    writer: String,
    batches: Vec<KeptBatch>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptBatch {
    number: i64,
    /// In milliseconds since 1970.
    at: i64,
    counts: Vec<KeptCount>,
    used: Vec<KeptUsage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptCount {
    subject: String,
    period: String,
    by: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptUsage {
    day: String,
    hour: u32,
    key: String,
    consumer: String,
    model: String,
    /// By the names of the store's columns.
    numbers: BTreeMap<String, i64>,
}

impl Unwritten {
    /// The bytes of a file.
    ///
    /// # Errors
    /// None that is known: all of it can be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let batches = self.batches.iter().map(KeptBatch::of).collect();
        serde_json::to_vec(&KeptFile { form: FORM, writer: self.writer.0.clone(), batches })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is damaged, or a newer Modelgate has written it.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnreadableBatches> {
        let unreadable = |why: &str| UnreadableBatches(why.to_owned());
        // What serde says may quote names.
        let place = |error: serde_json::Error| {
            UnreadableBatches(format!(
                "it is damaged, or of another version, at line {}, column {}",
                error.line(),
                error.column()
            ))
        };
        let file: KeptFile = serde_json::from_slice(bytes).map_err(place)?;
        if file.form != FORM {
            return Err(unreadable("a newer Modelgate has written it"));
        }
        if file.writer.is_empty() {
            return Err(unreadable("it does not say which process has counted"));
        }
        let batches = file.batches.into_iter().map(|kept| kept.batch().ok_or(()));
        let batches: Result<Vec<Batch>, ()> = batches.collect();
        let batches = batches.map_err(|()| unreadable("it holds a count that there cannot be"))?;
        // Of two that are in the wrong order the store would leave one out.
        if !batches.is_sorted_by(|one, next| one.number < next.number) {
            return Err(unreadable("its batches are not in order"));
        }
        Ok(Self { writer: Writer(file.writer), batches })
    }

    /// When the oldest batch was counted; `None` without a batch.
    pub fn since(&self) -> Option<SystemTime> {
        self.batches.iter().map(|batch| batch.at).min()
    }
}

impl KeptBatch {
    fn of(batch: &Batch) -> Self {
        let count = |(id, by): &(QuotaId, i64)| KeptCount {
            subject: id.subject(),
            period: id.period().to_string(),
            by: *by,
        };
        let counts = batch.counts.iter().map(count).collect();
        let used = batch.used.iter().map(KeptUsage::of).collect();
        Self { number: batch.number, at: millis(batch.at), counts, used }
    }

    fn batch(self) -> Option<Batch> {
        let count = |kept: KeptCount| Some((QuotaId::parse(&kept.subject, &kept.period).ok()?, kept.by));
        let counts = self.counts.into_iter().map(count).collect::<Option<_>>()?;
        let used = self.used.into_iter().map(KeptUsage::used).collect::<Option<_>>()?;
        Some(Batch { number: self.number, counts, used, at: time(self.at) })
    }
}

impl KeptUsage {
    fn of(UsedOn { day, used }: &UsedOn) -> Self {
        let Used { hour, key, consumer, model, counts } = used.clone();
        let numbers = NUMBERS.iter().map(|name| (*name).to_owned()).zip(values(&counts)).collect();
        Self { day: day.clone(), hour: hour.0, key, consumer, model, numbers }
    }

    fn used(mut self) -> Option<UsedOn> {
        let is_a_day =
            |period: Period| period.to_string() == self.day && self.day.len() == "2026-11-21".len();
        if !self.day.parse().is_ok_and(is_a_day) {
            return None;
        }
        let mut numbers = [0; NUMBERS.len()];
        for (number, name) in numbers.iter_mut().zip(NUMBERS) {
            *number = self.numbers.remove(name)?;
        }
        let Self { day, hour, key, consumer, model, numbers: others } = self;
        let used = Used { hour: UsageHour(hour), key, consumer, model, counts: counts(numbers) };
        others.is_empty().then_some(UsedOn { day, used })
    }
}

impl Store {
    /// Adds batches from a file, each exactly once (idempotent), as long as the store remembers their writer
    /// ([`forget_writers_before`](Self::forget_writers_before)).
    ///
    /// # Errors
    /// The store does not answer; then some of them may have been added.
    pub async fn add_unwritten(&self, unwritten: &Unwritten) -> Result<(), StoreError> {
        for batch in &unwritten.batches {
            self.add(&unwritten.writer, batch).await?;
        }
        Ok(())
    }
}
