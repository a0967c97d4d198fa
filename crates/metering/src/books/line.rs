//! A settled request in the books.

use std::sync::Arc;

use super::{Terms, UsageCorrection};
use crate::{Ending, RequestId, RequestSettlement, RequestShape, ReservedTokens, UsageKind, UsedTokens};

/// A settled request.
#[derive(Debug)]
pub(super) struct BookLine<W> {
    pub(super) request: RequestId,
    pub(super) whose: W,
    pub(super) model: Arc<str>,
    pub(super) shape: RequestShape,
    pub(super) reserved: ReservedTokens,
    pub(super) kind: UsageKind,
    pub(super) ending: Ending,
    pub(super) used: UsedTokens,
    pub(super) answer_bytes: Option<u64>,
}

impl<W> BookLine<W> {
    pub(super) fn of<T>(whose: W, settlement: &RequestSettlement<T>) -> Self {
        Self {
            request: settlement.request,
            whose,
            model: Arc::clone(&settlement.model),
            shape: settlement.shape,
            reserved: settlement.reserved,
            kind: settlement.kind,
            ending: settlement.ending,
            used: settlement.used,
            answer_bytes: settlement.answer_bytes,
        }
    }

    /// Only what nobody knows exactly is corrected. A refusal has used nothing.
    pub(super) fn is_correctable(&self) -> bool {
        self.kind != UsageKind::Exact && self.ending != Ending::Refused
    }
}

impl<W: Clone> BookLine<W> {
    /// What was measured may already be more than what was reserved, if the request left its length open.
    pub(super) fn most_completion(&self) -> u64 {
        u64::from(self.reserved.completion).max(self.used.completion)
    }

    pub(super) fn most_prompt(&self, completion: u64) -> u64 {
        self.reserved.total().saturating_sub(completion).max(self.used.prompt)
    }

    /// A counter that leaves cached tokens out and says less than the prompt has: the rest was cached.
    pub(super) fn change(&self, computed: u64, completion: u64, terms: Terms) -> UsageCorrection<W> {
        let before = self.used;
        let (prompt, cached) = match terms.leaves_out_cached && computed < before.prompt {
            true => (before.prompt, before.prompt - computed),
            false => (computed, before.cached.unwrap_or(0).min(computed)),
        };
        UsageCorrection {
            request: self.request,
            whose: self.whose.clone(),
            prompt: difference(prompt, before.prompt),
            cached: difference(cached, before.cached.unwrap_or(0)),
            completion: difference(completion, before.completion),
        }
    }
}

fn difference(now: u64, before: u64) -> i64 {
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(now) - signed(before)
}
