//! What `/auth` has reserved for a request that it let pass.

use std::{sync::Arc, time::Duration};

use crate::{RequestId, RequestShape, SpanId};

/// A request that was let pass, and the tokens that were taken from its limits by an estimate.
///
/// `T` is the caller's: whose request it is (key, consumer), its period, and what it takes to correct its limits. The ledger
/// hands it back in the [`RequestSettlement`](crate::RequestSettlement). A hundred thousand of them may be kept, so it should be small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestReservation<T> {
    /// The id that Traefik and the server got.
    pub request: RequestId,
    /// The secret that only the server got.
    pub parent: SpanId,
    /// Its model, by the catalogue's name.
    pub model: Arc<str>,
    /// What was asked for.
    pub shape: RequestShape,
    /// What was taken.
    pub reserved: ReservedTokens,
    /// How long it has waited at Modelgate before it was let pass: Traefik's durations contain that, those of a settlement do not.
    pub waited: Duration,
    /// The caller's own.
    pub held: T,
}

/// The tokens that were taken for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReservedTokens {
    /// For the prompt, by its text.
    pub prompt: u32,
    /// For all answers together; 0 if the endpoint answers with no tokens.
    pub completion: u32,
    /// The request does not say how long its answer may be, so the answer may be longer than what was reserved.
    pub is_open: bool,
}

impl ReservedTokens {
    /// Prompt and completion, at least one: what the limits were asked for.
    pub fn total(&self) -> u64 {
        (u64::from(self.prompt) + u64::from(self.completion)).clamp(1, u32::MAX.into())
    }
}
