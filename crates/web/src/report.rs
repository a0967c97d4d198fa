//! Reports to telemetry what `/auth` has decided, and what was refused without it.

use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use access::{Denial, Grant};
use catalogue::ModelName;
use telemetry::{Decided, Network, Record, Refused, Telemetry};
use tracing::{Level, debug, enabled};

use crate::{identity::Identity, refusal::Refusal};

/// The target of the log's lines about decisions.
pub const DECISION: &str = "decision";

/// One line. docs/monitoring.md says what each field is.
fn log(record: &Record) {
    debug!(
        target: DECISION,
        request_id = record.request_id(),
        client_request_id = record.client_request_id(),
        trace_id = record.trace.map(|trace| format!("{trace:032x}")),
        reason = record.refused,
        consumer = record.consumer(),
        key = record.key(),
        model = record.model(),
        method = record.method(),
        path = record.path(),
        from = record.from.map(tracing::field::display),
        tokens = record.tokens,
        microseconds = record.latency.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        "{}",
        if record.refused.is_some() { "refused" } else { "allowed" }
    );
}

/// A ForwardAuth request that is being answered, or a request that Traefik has sent here to be refused or answered.
#[derive(Clone, Copy)]
pub(crate) struct Report<'r> {
    pub(crate) telemetry: &'r Telemetry,
    /// When the ForwardAuth request arrived; `None` if there was none.
    pub(crate) since: Option<Instant>,
    /// How long it has waited until a server had room, if it did.
    pub(crate) waited: Option<Duration>,
    pub(crate) at: SystemTime,
    /// The client's address, if Traefik has said it.
    pub(crate) from: Option<IpAddr>,
    pub(crate) identity: &'r Identity<'r>,
    pub(crate) method: &'r str,
    pub(crate) uri: &'r str,
}

impl<'r> Report<'r> {
    /// Records an admitted request. The caller keeps the returned record once tokens are estimated.
    pub(crate) fn allowed(&self, grant: &Grant) -> Record {
        let mut record = self.telemetry.count(&Decided {
            consumer: Some(&grant.consumer.name),
            key: Some(&grant.key.name),
            model: grant.model.as_ref().map(ModelName::as_str),
            tokens: grant.sum.map(|sum| sum.tokens()),
            ..self.decided(None)
        });
        record.span = self.identity.decision_span();
        if let Some(span) = &mut record.span {
            span.route = grant.route.as_ref().map(|route| route.as_str().into());
        }
        record
    }

    /// Records a refused request.
    pub(crate) fn denied(&self, denial: &Denial) {
        self.keep(self.telemetry.count(&Decided {
            consumer: denial.consumer.as_ref().map(|consumer| consumer.name.as_str()),
            key: denial.key.as_ref().map(|key| key.name.as_str()),
            model: denial.model.as_deref(),
            tokens: denial.tokens,
            ..self.decided(Some(Refused { code: denial.reason.code(), words: &denial.reason }))
        }));
    }

    /// Records a request that was refused before its key was checked.
    pub(crate) fn refused(&self, refusal: Refusal) -> Refusal {
        let refused = Some(Refused { code: refusal.code, words: &refusal.message });
        self.keep(self.telemetry.count(&self.decided(refused)));
        refusal
    }

    /// Logs a decision, and keeps it for people to look at.
    pub(crate) fn keep(&self, mut record: Record) {
        record.waited = self.waited;
        let is_logged = enabled!(target: DECISION, Level::DEBUG);
        // Of refusals some are logged later.
        if is_logged || record.refused.is_some() {
            record.trace = Some(self.identity.trace());
        }
        if record.span.is_none() {
            record.span = self.identity.decision_span();
        }
        if self.telemetry.notes_networks() {
            record.network = self.from.map(Network::of);
        }
        if is_logged {
            log(&record);
        }
        self.telemetry.keep(record);
    }

    fn decided<'d>(&'d self, refused: Option<Refused<'d>>) -> Decided<'d> {
        Decided {
            at: self.at,
            request_id: self.identity.own(),
            client_request_id: self.identity.client(),
            consumer: None,
            key: None,
            model: None,
            // Of requests that pass, nobody asks from where they came.
            from: self.from.filter(|_| refused.is_some()),
            method: self.method,
            uri: self.uri,
            refused,
            tokens: None,
            latency: self.since.map(|since| since.elapsed().saturating_sub(self.waited.unwrap_or_default())),
        }
    }
}
