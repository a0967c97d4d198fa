//! Receipts whose reservation is not known: it may still be in the queue from `/auth`, or at another Modelgate.
//!
//! They wait, bounded in time and number. Those that prove nothing yet (a span with some parent) wait apart, so that whoever
//! invents spans cannot crowd out what trusted senders tell.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{Receipt, RequestId, SpanId, Trust};

#[derive(Debug)]
pub(super) struct Early {
    trusted: Waiting,
    others: Waiting,
    wait: Duration,
}

#[derive(Debug)]
struct Waiting {
    receipts: HashMap<EarlyKey, VecDeque<Receipt>>,
    /// One for each receipt, oldest first. Taken receipts leave theirs behind until they are due.
    order: VecDeque<(Duration, EarlyKey)>,
    len: usize,
    capacity: usize,
    unclaimed: u64,
}

/// By what a receipt will be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum EarlyKey {
    Request(RequestId),
    Parent(SpanId),
}

impl Early {
    pub(super) fn new(wait: Duration, capacity: usize) -> Self {
        Self { trusted: Waiting::new(capacity), others: Waiting::new(capacity), wait }
    }

    pub(super) fn keep(&mut self, receipt: Receipt, now: Duration) {
        let (trust, key) = match &receipt {
            Receipt::Record(record) => (record.trust, Some(EarlyKey::Request(record.request))),
            Receipt::Span(span) => {
                (span.trust, span.request.map(EarlyKey::Request).or(span.parent.map(EarlyKey::Parent)))
            }
        };
        let waiting = match trust {
            Trust::Proven => &mut self.trusted,
            Trust::None => &mut self.others,
        };
        match key {
            Some(key) => waiting.keep(key, receipt, now + self.wait),
            None => waiting.unclaimed += 1,
        }
    }

    /// The receipts about a request that has its reservation now, in the order in which they came.
    pub(super) fn take(&mut self, request: RequestId, parent: SpanId) -> Vec<Receipt> {
        let mut taken = Vec::new();
        for waiting in [&mut self.trusted, &mut self.others] {
            if waiting.len > 0 {
                for key in [EarlyKey::Request(request), EarlyKey::Parent(parent)] {
                    taken.extend(waiting.take(key));
                }
            }
        }
        taken
    }

    pub(super) fn forget(&mut self, now: Duration) {
        self.trusted.forget(now);
        self.others.forget(now);
    }

    pub(super) fn unclaimed(&self) -> u64 {
        self.trusted.unclaimed + self.others.unclaimed
    }
}

impl Waiting {
    fn new(capacity: usize) -> Self {
        Self { receipts: HashMap::new(), order: VecDeque::new(), len: 0, capacity, unclaimed: 0 }
    }

    fn keep(&mut self, key: EarlyKey, receipt: Receipt, until: Duration) {
        // What was taken leaves its place in the order behind, so the order bounds the number.
        while self.order.len() >= self.capacity.max(1) {
            self.drop_oldest();
        }
        self.order.push_back((until, key));
        self.receipts.entry(key).or_default().push_back(receipt);
        self.len += 1;
    }

    fn take(&mut self, key: EarlyKey) -> VecDeque<Receipt> {
        let taken = self.receipts.remove(&key).unwrap_or_default();
        self.len -= taken.len();
        taken
    }

    fn forget(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, key)) = self.order.pop_front() else { return };
        if let Some(receipts) = self.receipts.get_mut(&key) {
            receipts.pop_front();
            self.len -= 1;
            self.unclaimed += 1;
            if receipts.is_empty() {
                self.receipts.remove(&key);
            }
        }
    }
}
