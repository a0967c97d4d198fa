//! The log. It goes to standard error, so that standard output has only the output of commands.
//!
//! `/auth` logs each decision at debug, if that is asked for. At info some refusals are logged here, from what telemetry has
//! collected: of those with the same consumer and reason one a minute, with the number of the others since.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use otlp_exporter::LogLayer;
use telemetry::{Batch, Record};
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::{Level, enabled, info, warn};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};
use web::DECISION;

use crate::config::{LogConfig, LogFormat};

/// Of equal refusals one is logged in this time.
const SAMPLE: Duration = Duration::from_secs(60);
/// How many different refusals are told apart, and so how many lines there are in that time.
const MOST: usize = 100;

/// Changes which lines are logged, while the program runs.
#[derive(Debug)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Starts the log; to be called once. The log is coloured on a terminal unless `NO_COLOR` is set (<https://no-color.org/>), and
/// never in a file or in `docker logs`. `exported` gets the lines, too.
pub(crate) fn start(config: &LogConfig, exported: Option<LogLayer>) -> LogLevel {
    let is_read_here =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let (filter, handle) = reload::Layer::new(filter(config));
    // If nobody reads the log any more, its own complaint about that would panic.
    let log = fmt::layer().with_writer(io::stderr).with_ansi(is_read_here).log_internal_errors(false);
    let log = match config.format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(log).with(exported).init();
    LogLevel(handle)
}

fn filter(config: &LogConfig) -> EnvFilter {
    EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"))
}

impl LogLevel {
    /// Puts `log.level` in force.
    pub(crate) fn set(&self, config: &LogConfig) {
        if let Err(error) = self.0.reload(filter(config)) {
            warn!(%error, "log.level cannot be changed");
        }
    }
}

/// Logs some refusals at info.
pub(super) struct Refusals {
    decisions: broadcast::Receiver<Batch>,
    sampled: SampledRefusals,
}

impl Refusals {
    pub(super) fn new(decisions: broadcast::Receiver<Batch>) -> Self {
        Self { decisions, sampled: SampledRefusals::default() }
    }

    /// Logs them as they come; never returns.
    pub(super) async fn keep(&mut self) {
        loop {
            match self.decisions.recv().await {
                Ok(batch) => self.sampled.log(&batch, Instant::now()),
                // Some decisions were missed, which does not matter for a sample.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// Logs those of the last moment, before the process ends.
    pub(super) fn last(&mut self) {
        telemetry::take_waiting(&mut self.decisions, |batch| self.sampled.log(batch, Instant::now()));
    }
}

/// The refusals that were logged lately: by consumer and reason, when, and how many have come since.
#[derive(Default)]
struct SampledRefusals(HashMap<(String, &'static str), (Instant, u64)>);

impl SampledRefusals {
    fn log(&mut self, batch: &Batch, now: Instant) {
        // Each decision has a line of its own.
        if enabled!(target: DECISION, Level::DEBUG) {
            return;
        }
        for record in batch.iter() {
            if let Some(more) = self.sample(record, now) {
                line(record, more);
            }
        }
    }

    /// Whether a decision is to be logged, and how many like it have come since the last one that was.
    fn sample(&mut self, record: &Record, now: Instant) -> Option<u64> {
        let reason = record.refused?;
        let id = (record.consumer().unwrap_or_default().to_owned(), reason);
        if let Some((at, since)) = self.0.get_mut(&id) {
            if now.saturating_duration_since(*at) < SAMPLE {
                *since += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(since));
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < SAMPLE);
        }
        (self.0.len() < MOST).then(|| {
            self.0.insert(id, (now, 0));
            0
        })
    }
}

/// The fields are those of a decision at debug, but those that say nothing about a refusal.
fn line(record: &Record, more: u64) {
    info!(
        target: DECISION,
        request_id = record.request_id(),
        client_request_id = record.client_request_id(),
        trace_id = record.trace.map(|trace| format!("{trace:032x}")),
        reason = record.refused,
        consumer = record.consumer(),
        key = record.key(),
        // Without a key it may be anything.
        model = record.model().filter(|_| record.key().is_some()),
        method = record.method(),
        path = record.path(),
        from = record.from.map(tracing::field::display),
        more,
        "refused"
    );
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use telemetry::{Decided, Refused, Telemetry};

    use super::*;

    fn record(consumer: &str, refused: Option<&'static str>) -> Record {
        Telemetry::new().count(&Decided {
            at: SystemTime::UNIX_EPOCH,
            request_id: "req_1",
            client_request_id: None,
            consumer: Some(consumer),
            key: Some("alice"),
            model: None,
            from: None,
            method: "POST",
            uri: "/",
            refused: refused.map(|code| Refused { code, words: &"no" }),
            tokens: None,
            latency: None,
        })
    }

    #[test]
    fn of_equal_refusals_one_a_minute_is_logged_with_the_number_of_the_others() {
        let (mut sampled, start) = (SampledRefusals::default(), Instant::now());
        let limited = record("team", Some("rate_limit_exceeded"));
        assert_eq!(sampled.sample(&limited, start), Some(0));
        for second in 1..60 {
            assert_eq!(sampled.sample(&limited, start + Duration::from_secs(second)), None);
        }
        assert_eq!(sampled.sample(&record("other", Some("rate_limit_exceeded")), start), Some(0));
        assert_eq!(sampled.sample(&record("team", Some("quota_exceeded")), start), Some(0));
        assert_eq!(sampled.sample(&record("team", None), start), None, "it was allowed");
        assert_eq!(sampled.sample(&limited, start + SAMPLE), Some(59));
        for consumer in 0..2 * MOST {
            let _ = sampled.sample(&record(&consumer.to_string(), Some("quota_exceeded")), start);
        }
        assert_eq!(sampled.0.len(), MOST);
        assert_eq!(sampled.sample(&record("late", Some("quota_exceeded")), start), None);
        assert_eq!(sampled.sample(&record("late", Some("quota_exceeded")), start + 3 * SAMPLE), Some(0));
    }
}
