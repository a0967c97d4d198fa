//! Requests in the order in which they are due.
//!
//! All wait equally long, so a queue is enough. What is closed earlier stays in it until it is due, or until there is more of
//! that than of what is open.

use std::{collections::VecDeque, time::Duration};

use crate::RequestId;

/// Below this length nothing is removed but what is due.
const NOT_COMPACTED: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Fifo(VecDeque<Due>);

/// 24 bytes; as `(Duration, RequestId)` it would be 32.
#[derive(Debug, Clone, Copy)]
struct Due {
    at_nanos: u64,
    request: [u64; 2],
}

impl Fifo {
    pub(super) fn push(&mut self, at: Duration, request: RequestId) {
        self.0.push_back(Due { at_nanos: nanos(at), request: halves(request) });
    }

    pub(super) fn pop(&mut self) -> Option<RequestId> {
        self.0.pop_front().map(|due| whole(due.request))
    }

    pub(super) fn pop_due(&mut self, now: Duration) -> Option<RequestId> {
        let is_due = self.0.front().is_some_and(|due| due.at_nanos <= nanos(now));
        if is_due { self.pop() } else { None }
    }

    /// Keeps its length in proportion to the number of open requests.
    pub(super) fn compact(&mut self, open: usize, is_open: impl Fn(&RequestId) -> bool) {
        if self.0.len() > 2 * open + NOT_COMPACTED {
            self.0.retain(|due| is_open(&whole(due.request)));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::as_conversions, reason = "both halves are kept")]
fn halves(RequestId(id): RequestId) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}

fn whole([high, low]: [u64; 2]) -> RequestId {
    RequestId(u128::from(high) << 64 | u128::from(low))
}
