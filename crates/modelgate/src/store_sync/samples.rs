//! Samples refusals for the audit log.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::json;
use store::{Actor, Audit, Origin};
use telemetry::Batch;

/// Of equal refusals (key, reason, model) one is recorded in this time, with the number of the others.
const SAMPLE: Duration = Duration::from_secs(60);
/// The maximum number of records per minute in all.
const MOST_PER_MINUTE: u32 = 120;
/// The maximum number of addresses per minute that are recorded separately, so that one attacker's addresses leave room for
/// others.
const MOST_ADDRESSES_PER_MINUTE: u32 = 20;
/// The code of refusals that are recorded with the client's address.
const BY_ADDRESS: &str = "too_many_failures";
/// The maximum number of records that wait for the store.
const MOST_DUE: usize = 1_000;
/// The maximum number of distinct refusals that are tracked; it bounds the memory.
const MOST_SAMPLES: usize = 10_000;

/// Samples refusals for the audit log.
#[derive(Default)]
pub(super) struct Samples {
    /// By key or address, reason and model: when one was recorded last, and how many have come since.
    seen: HashMap<(String, &'static str, String), (Instant, u64)>,
    due: Vec<Audit>,
    /// The current minute.
    minute: Option<Minute>,
}

struct Minute {
    begin: Instant,
    /// How many records were made in it.
    written: u32,
    /// How many addresses were recorded in it.
    addresses: u32,
}

impl Samples {
    /// Adds the refusals of a batch of decisions.
    pub(super) fn add(&mut self, batch: &Batch) {
        let now = Instant::now();
        let fresh = Minute { begin: now, written: 0, addresses: 0 };
        let minute = match &mut self.minute {
            Some(minute) if now.duration_since(minute.begin) < SAMPLE => minute,
            other => other.insert(fresh),
        };
        for record in batch.iter() {
            let Some(reason) = record.refused else { continue };
            // The model is recorded only for limits, where it is known to exist. For other refusals clients can invent any number
            // of names.
            let is_limit = ["rate_limit_exceeded", "quota_exceeded"].contains(&reason);
            let model = record.model().filter(|_| is_limit).unwrap_or_default().to_owned();
            let mut id = (record.key().unwrap_or_default().to_owned(), reason, model);
            if let Some(from) = record.from.filter(|_| reason == BY_ADDRESS) {
                id.0 = from.to_string();
                if self.seen.get(&id).is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE) {
                    match minute.addresses < MOST_ADDRESSES_PER_MINUTE {
                        true => minute.addresses += 1,
                        false => id.0.clear(),
                    }
                }
            }
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
            if minute.written >= MOST_PER_MINUTE {
                continue;
            }
            minute.written += 1;
            let details = json!({
                "reason": reason,
                "message": record.words(),
                "model": record.model(),
                "consumer": record.consumer(),
                "path": record.path(),
                "request_id": record.request_id(),
                "client_request_id": record.client_request_id(),
                "others_before": others,
            });
            let subject = record.key().map_or_else(|| "nobody".to_owned(), |key| format!("key {key}"));
            if self.due.len() >= MOST_DUE {
                continue;
            }
            let actor = Actor { name: "/auth".into(), origin: record.from.map(Origin::Address) };
            let entry = Audit::new(actor, "request refused").happened(record.at);
            self.due.push(entry.about(subject).with(details));
        }
    }

    /// The entries that are to be written, oldest first.
    pub(super) fn due(&self) -> &[Audit] {
        &self.due
    }

    /// Drops the entries that were due: they have been written, or there is no store.
    pub(super) fn done(&mut self) {
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, time::SystemTime};

    use telemetry::{Decided, Record, Refused, Telemetry};

    use super::*;

    fn refused(code: &'static str, key: Option<&str>, from: [u8; 4]) -> Arc<Record> {
        Arc::new(Telemetry::new().count(&Decided {
            at: SystemTime::UNIX_EPOCH,
            request_id: "req_1",
            client_request_id: None,
            consumer: key,
            key,
            model: Some("made-up"),
            from: Some(IpAddr::from(from)),
            method: "POST",
            uri: "/v1/chat/completions",
            refused: Some(Refused { code, words: &"no" }),
            tokens: None,
            latency: None,
        }))
    }

    /// The subject and address of each record, in order.
    fn written(samples: &mut Samples, records: Vec<Arc<Record>>) -> Vec<(String, String)> {
        samples.add(&records.into());
        let text = |audit: &Audit| match &audit.actor.origin {
            Some(Origin::Address(address)) => (audit.subject.clone(), address.to_string()),
            other => panic!("{other:?}"),
        };
        samples.due().iter().map(text).collect()
    }

    #[test]
    fn each_key_that_does_not_work_is_told_once() {
        let of = |key| refused("disabled_api_key", Some(key), [192, 0, 2, 1]);
        let written = written(&mut Samples::default(), vec![of("a"), of("b"), of("a")]);
        let expected = ["key a", "key b"].map(|subject| (subject.to_owned(), "192.0.2.1".to_owned()));
        assert_eq!(written, expected);
    }

    /// Regression: entries had the time at which the store could be written, and were lost if it could not.
    #[test]
    fn an_entry_has_the_time_of_the_refusal_and_waits_until_it_is_written() {
        let mut samples = Samples::default();
        samples.add(&vec![refused("disabled_api_key", Some("a"), [192, 0, 2, 1])].into());
        let due = samples.due().to_vec();
        assert_eq!((due.len(), due[0].at), (1, SystemTime::UNIX_EPOCH));
        assert_eq!(samples.due(), due, "the store has not answered");
        samples.done();
        assert!(samples.due().is_empty());
    }

    #[test]
    fn who_guesses_is_told_by_address_and_leaves_room_for_others() {
        let mut samples = Samples::default();
        let mut records: Vec<_> =
            (0..200).map(|n| refused("too_many_failures", None, [192, 0, 2, n])).collect();
        records.push(records[7].clone());
        records.push(refused("disabled_api_key", Some("a"), [192, 0, 2, 7]));
        let written = written(&mut samples, records);
        let of_nobody = written.iter().filter(|(subject, _)| subject == "nobody").count();
        // One further record stands for all other addresses.
        assert_eq!(of_nobody, MOST_ADDRESSES_PER_MINUTE as usize + 1);
        assert_eq!(written[1], ("nobody".to_owned(), "192.0.2.1".to_owned()));
        assert_eq!(written.last().expect("one").0, "key a");
    }
}
