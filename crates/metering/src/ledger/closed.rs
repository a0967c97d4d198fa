//! The requests that were closed last: what is told about them now comes late, and is not kept for a reservation to come.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{RequestId, RequestReservation, SpanId};

/// How many are known: those of the last seconds, at some thousand requests a second.
const MAX_REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Closed {
    known: HashMap<RequestId, ClosedRequest>,
    order: VecDeque<RequestId>,
}

#[derive(Debug)]
pub(super) struct ClosedRequest {
    pub(super) parent: SpanId,
    pub(super) model: Arc<str>,
}

impl Closed {
    pub(super) fn add<T>(&mut self, reservation: &RequestReservation<T>) {
        let one = ClosedRequest { parent: reservation.parent, model: Arc::clone(&reservation.model) };
        if self.known.insert(reservation.request, one).is_none() {
            self.order.push_back(reservation.request);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn get(&self, request: RequestId) -> Option<&ClosedRequest> {
        self.known.get(&request)
    }
}
