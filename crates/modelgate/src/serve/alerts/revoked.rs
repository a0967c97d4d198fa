//! Keys that are used although they were revoked or disabled, have expired, or may not be used from there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use alerts::{Condition, ConditionId};
use telemetry::Batch;

/// The reasons for which such keys are refused, and what they mean.
const REASONS: [(&str, &str); 4] = [
    ("revoked_api_key", "it was revoked"),
    ("disabled_api_key", "it is disabled"),
    ("expired_api_key", "it has expired"),
    ("api_key_not_for_this_address", "it may not be used from there"),
];
/// The condition lasts for so long after the last use.
const LASTS: Duration = Duration::from_secs(3_600);
/// How many keys are told apart.
const MOST: usize = 100;

/// The keys that were used lately.
#[derive(Debug, Default)]
pub(super) struct RevokedKeys(BTreeMap<String, Use>);

#[derive(Debug)]
struct Use {
    why: &'static str,
    times: u64,
    from: Option<IpAddr>,
    last: Instant,
}

impl RevokedKeys {
    pub(super) fn note(&mut self, batch: &Batch, now: Instant) {
        for record in batch.iter() {
            let why = REASONS.iter().find(|(code, _)| record.refused == Some(code)).map(|(_, why)| *why);
            let (Some(why), Some(key)) = (why, record.key()) else { continue };
            if !self.0.contains_key(key) && self.0.len() >= MOST {
                continue;
            }
            let times = self.0.get(key).map_or(0, |before| before.times) + 1;
            self.0.insert(key.to_owned(), Use { why, times, from: record.from, last: now });
        }
    }

    /// What to tell about them. Those that have not been used for an hour are forgotten.
    pub(super) fn conditions(&mut self, now: Instant) -> Vec<Condition> {
        self.0.retain(|_, of| now.saturating_duration_since(of.last) < LASTS);
        let condition = |(key, of): (&String, &Use)| {
            let from = of.from.map(|from| format!(", last from {from}")).unwrap_or_default();
            let times = if of.times == 1 { "once".to_owned() } else { format!("{} times", of.times) };
            Condition {
                id: ConditionId { code: "revoked_key_used", about: format!("key {key}") },
                is_bad: true,
                what: format!("{}, and was used {times}{from}; the requests were refused", of.why),
                advice: Some("Does its owner know? If it was stolen, look for where.".into()),
                page: Some("/requests?decision=refused".into()),
                owner: None,
                higher: Vec::new(),
            }
        };
        self.0.iter().map(condition).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use telemetry::{Decided, Refused, Telemetry};

    use super::*;

    #[test]
    fn a_key_is_told_once_however_often_it_is_used() {
        let (telemetry, mut revoked, now) = (Telemetry::new(), RevokedKeys::default(), Instant::now());
        let mut batches = telemetry.subscribe();
        for (key, code) in [
            (Some("alice"), "disabled_api_key"),
            (Some("alice"), "disabled_api_key"),
            (Some("bob"), "rate_limit_exceeded"),
            (None, "invalid_api_key"),
        ] {
            telemetry.decided(&Decided {
                at: SystemTime::UNIX_EPOCH,
                request_id: "req_1",
                client_request_id: None,
                consumer: key,
                key,
                model: None,
                from: Some([192, 0, 2, 1].into()),
                method: "POST",
                uri: "/",
                refused: Some(Refused { code, words: &"no" }),
                tokens: None,
                latency: None,
            });
        }
        telemetry.collect(SystemTime::UNIX_EPOCH);
        revoked.note(&batches.try_recv().expect("a batch"), now);
        let told = revoked.conditions(now);
        assert_eq!((told.len(), &*told[0].id.about), (1, "key alice"));
        assert!(
            told[0].what.starts_with("it is disabled, and was used 2 times, last from 192.0.2.1"),
            "{told:?}"
        );
        assert_eq!(revoked.conditions(now + LASTS), []);
    }
}
