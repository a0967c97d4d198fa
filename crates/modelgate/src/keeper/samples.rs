//! Some of the refusals, for the audit log.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::json;
use store::Audit;
use telemetry::Batch;

/// Of equal refusals (key, reason, model), one in so much time is written down, with the number of the others.
const SAMPLE: Duration = Duration::from_secs(60);
/// No more than that are written down in such a time, whoever asks for what.
const MOST_PER_MINUTE: u32 = 120;
/// So many wait for the store at most.
const MOST_DUE: usize = 1_000;
/// So many kinds of refusals are told apart; it bounds the memory.
const MOST_SAMPLES: usize = 10_000;

/// Some of the refusals, for the audit log.
#[derive(Default)]
pub(super) struct Samples {
    /// By key, reason and model: when one was written down, and how many have come since.
    seen: HashMap<(String, &'static str, String), (Instant, u64)>,
    due: Vec<Audit>,
    /// When this minute has begun, and how many were written down in it.
    minute: Option<(Instant, u32)>,
}

impl Samples {
    /// Looks at decisions.
    pub(super) fn add(&mut self, batch: &Batch) {
        let now = Instant::now();
        if self.minute.is_none_or(|(begin, _)| now.duration_since(begin) >= SAMPLE) {
            self.minute = Some((now, 0));
        }
        for record in batch.iter() {
            let Some(reason) = record.refused else { continue };
            // Only where a limit is reached the model is one that exists; clients can make up any number of others.
            let is_limit = ["rate_limit_exceeded", "quota_exceeded"].contains(&reason);
            let model = record.model().filter(|_| is_limit).unwrap_or_default().to_owned();
            let id = (record.key().unwrap_or_default().to_owned(), reason, model);
            if self.seen.len() >= MOST_SAMPLES {
                self.seen.retain(|_, (at, _)| now.duration_since(*at) < SAMPLE);
            }
            let is_full = self.seen.len() >= MOST_SAMPLES;
            let others = match self.seen.get_mut(&id) {
                Some((at, others)) if now.duration_since(*at) < SAMPLE => {
                    *others += 1;
                    continue;
                }
                Some((at, others)) => {
                    *at = now;
                    std::mem::take(others)
                }
                None if is_full => continue,
                None => {
                    self.seen.insert(id, (now, 0));
                    0
                }
            };
            match &mut self.minute {
                Some((_, count)) if *count < MOST_PER_MINUTE => *count += 1,
                _ => continue,
            }
            let details = json!({
                "reason": reason,
                "message": record.words(),
                "model": record.model(),
                "consumer": record.consumer(),
                "path": record.path(),
                "request_id": record.request_id(),
                "others_before": others,
            });
            let subject = record.key().map_or_else(|| "nobody".to_owned(), |key| format!("key {key}"));
            if self.due.len() >= MOST_DUE {
                continue;
            }
            self.due.push(Audit::new("/auth", "request refused").about(subject).with(details));
        }
    }

    /// What is to be written down.
    pub(super) fn due(&mut self) -> Vec<Audit> {
        std::mem::take(&mut self.due)
    }
}
