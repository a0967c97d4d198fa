//! Reports to telemetry what `/auth` has decided, and what was refused without it.

use std::{
    net::IpAddr,
    time::{Instant, SystemTime},
};

use access::{Denial, Grant};
use catalogue::ModelName;
use telemetry::{Decided, Record, Refused, Telemetry};

use crate::{identity::Identity, refusal::Refusal};

/// A ForwardAuth request that is being answered, or a request that Traefik has sent here to be refused.
#[derive(Clone, Copy)]
pub(crate) struct Report<'r> {
    pub(crate) telemetry: &'r Telemetry,
    /// When the ForwardAuth request arrived; `None` if there was none.
    pub(crate) since: Option<Instant>,
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
        self.telemetry.count(&Decided {
            consumer: Some(&grant.consumer.name),
            key: Some(&grant.key.name),
            model: grant.model.as_ref().map(ModelName::as_str),
            tokens: grant.sum.map(|sum| sum.tokens()),
            ..self.decided(None)
        })
    }

    /// It does not.
    pub(crate) fn denied(&self, denial: &Denial) {
        self.telemetry.decided(&Decided {
            consumer: denial.consumer.as_ref().map(|consumer| consumer.name.as_str()),
            key: denial.key.as_ref().map(|key| key.name.as_str()),
            model: denial.model.as_deref(),
            tokens: denial.tokens,
            ..self.decided(Some(Refused { code: denial.reason.code(), words: &denial.reason }))
        });
    }

    /// Records a request that was refused before its key was checked.
    pub(crate) fn refused(&self, refusal: Refusal) -> Refusal {
        self.telemetry.decided(&self.decided(Some(Refused { code: refusal.code, words: &refusal.message })));
        refusal
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
            latency: self.since.map(|since| since.elapsed()),
        }
    }
}
