//! The latest decisions, and what became of those requests that were admitted.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use metering::RequestId;

use crate::{Record, SettledRequest};

/// How many of the latest decisions are kept.
pub const RECENT: usize = 1000;
/// How many settled requests may wait for their decision, which is collected within [`COLLECT_EVERY`](crate::COLLECT_EVERY).
const MOST_WAITING: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Oldest first.
    records: VecDeque<Arc<Record>>,
    /// The number of the oldest record; numbers count all records since the start.
    first: u64,
    /// The numbers of the admitted requests among them.
    admitted: HashMap<RequestId, u64>,
    waiting: Vec<Arc<SettledRequest>>,
}

impl Recent {
    /// Adds decisions, oldest first. A decision is made before its request can be settled, so whatever still waits
    /// afterwards belongs to decisions that are no longer kept.
    pub(crate) fn add(&mut self, batch: &[Arc<Record>]) {
        let newest = &batch[batch.len().saturating_sub(RECENT)..];
        let too_many = (self.records.len() + newest.len()).saturating_sub(RECENT);
        for record in self.records.drain(..too_many) {
            let request = id_of_admitted(&record);
            // A later record may have the same id.
            if let Some(request) = request.filter(|request| self.admitted.get(request) == Some(&self.first)) {
                self.admitted.remove(&request);
            }
            self.first += 1;
        }
        for record in newest {
            if let Some(request) = id_of_admitted(record) {
                self.admitted.insert(request, self.first + self.records.len() as u64);
            }
            self.records.push_back(Arc::clone(record));
        }
        for settled in std::mem::take(&mut self.waiting) {
            self.set(&settled);
        }
    }

    /// Notes what became of a request.
    pub(crate) fn settle(&mut self, settled: &Arc<SettledRequest>) {
        if !self.set(settled) && self.waiting.len() < MOST_WAITING {
            self.waiting.push(Arc::clone(settled));
        }
    }

    fn set(&mut self, settled: &Arc<SettledRequest>) -> bool {
        let number = self.admitted.get(&settled.request).copied();
        let place = number.and_then(|number| usize::try_from(number.checked_sub(self.first)?).ok());
        let Some(record) = place.and_then(|place| self.records.get_mut(place)) else { return false };
        Arc::make_mut(record).settled = Some(Arc::clone(settled));
        true
    }

    /// Newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.iter().rev()
    }
}

fn id_of_admitted(record: &Record) -> Option<RequestId> {
    record.refused.is_none().then(|| record.request_id().parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use metering::{Ending, MeteredEndpoint, UsageKind, UsedTokens};

    use super::*;
    use crate::{Decided, Filter, Refused, Telemetry};

    fn decide(telemetry: &Telemetry, id: u128, refused: bool) {
        let words = "too many";
        telemetry.decided(&Decided {
            at: SystemTime::UNIX_EPOCH,
            request_id: &RequestId(id).to_string(),
            client_request_id: None,
            consumer: None,
            key: None,
            model: Some("llama"),
            from: None,
            method: "POST",
            uri: "/",
            refused: refused.then_some(Refused { code: "too_many", words: &words }),
            tokens: None,
            latency: None,
        });
    }

    fn settle(telemetry: &Telemetry, id: u128, ending: Ending) {
        let settled = SettledRequest {
            request: RequestId(id),
            consumer: "team".into(),
            model: "llama".into(),
            endpoint: MeteredEndpoint::ChatCompletions,
            server: None,
            ending,
            status: None,
            time_to_first_token: None,
            duration: None,
            kind: UsageKind::Exact,
            used: UsedTokens { prompt: id as u64, cached: None, completion: 1 },
            cost: 0,
            span: None,
        };
        telemetry.settled(&[Arc::new(settled)], Instant::now());
    }

    /// Ids, newest first, each with the tokens of its prompt.
    fn seen(telemetry: &Telemetry, filter: &Filter) -> Vec<(u128, Option<u64>)> {
        let id = |record: &Record| record.request_id().parse::<RequestId>().expect("an id").0;
        let prompt = |record: &Record| record.settled.as_ref().map(|settled| settled.used.prompt);
        telemetry.recent(filter, RECENT).iter().map(|record| (id(record), prompt(record))).collect()
    }

    #[test]
    fn an_outcome_finds_its_request_before_and_after_it_is_collected() {
        let (telemetry, all) = (Telemetry::new(), Filter::default());
        let mut live = telemetry.subscribe();
        decide(&telemetry, 1, false);
        telemetry.collect(SystemTime::UNIX_EPOCH);
        decide(&telemetry, 2, false);
        for id in [1, 2, 9] {
            settle(&telemetry, id, Ending::Finished);
        }
        assert_eq!(seen(&telemetry, &all), [(1, Some(1))]);
        decide(&telemetry, 3, false);
        // Traefik refuses it after it was allowed: two decisions about one request.
        decide(&telemetry, 2, true);
        telemetry.collect(SystemTime::UNIX_EPOCH);
        assert_eq!(seen(&telemetry, &all), [(2, None), (3, None), (2, Some(2)), (1, Some(1))]);
        settle(&telemetry, 3, Ending::Aborted);
        let ending = |ending| Filter { ending: Some(ending), ..Filter::default() };
        assert_eq!(seen(&telemetry, &ending(Ending::Aborted)), [(3, Some(3))]);
        assert_eq!(seen(&telemetry, &ending(Ending::Finished)), [(2, Some(2)), (1, Some(1))]);
        assert_eq!(seen(&telemetry, &ending(Ending::Unknown)), []);
        let first = live.try_recv().expect("a batch");
        assert_eq!(first[0].settled, None, "subscribers keep what they got");
    }

    #[test]
    fn only_what_is_kept_is_remembered() {
        let telemetry = Telemetry::new();
        let count = RECENT as u128 * 3;
        for id in 0..count {
            decide(&telemetry, id, id % 2 == 0);
            if id % 700 == 0 {
                telemetry.collect(SystemTime::UNIX_EPOCH);
            }
        }
        telemetry.collect(SystemTime::UNIX_EPOCH);
        for id in (0..count).chain(count..count + 10_000) {
            settle(&telemetry, id, Ending::Finished);
        }
        let seen = seen(&telemetry, &Filter::default());
        assert_eq!(seen.len(), RECENT);
        for (place, (id, prompt)) in seen.into_iter().enumerate() {
            assert_eq!(id, count - 1 - place as u128);
            assert_eq!(prompt, (id % 2 == 1).then_some(id as u64));
        }
        let collected = telemetry.collected();
        assert_eq!(
            (collected.recent.admitted.len(), collected.recent.waiting.len()),
            (RECENT / 2, MOST_WAITING)
        );
    }
}
