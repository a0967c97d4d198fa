//! The requests that were closed last: what is told about them now comes late, and is not kept for a reservation to come.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{RequestId, Reservation, SpanId};

/// How many are known: those of the last seconds, at some thousand requests a second.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Closed {
    known: HashMap<RequestId, One>,
    order: VecDeque<RequestId>,
}

#[derive(Debug)]
pub(super) struct One {
    pub(super) parent: SpanId,
    pub(super) model: Arc<str>,
}

impl Closed {
    pub(super) fn add<T>(&mut self, reservation: &Reservation<T>) {
        let one = One { parent: reservation.parent, model: Arc::clone(&reservation.model) };
        if self.known.insert(reservation.request, one).is_none() {
            self.order.push_back(reservation.request);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, request: RequestId) -> bool {
        self.known.contains_key(&request)
    }

    pub(super) fn get(&self, request: RequestId) -> Option<&One> {
        self.known.get(&request)
    }
}
