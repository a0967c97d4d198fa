//! From whom something is heard, so that nobody is waited for who never tells anything.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::heard::Heard;
use crate::{RequestReservation, RequestShape};

/// Traefik's records are expected for so long after the last one.
const RECORDS_LAST: Duration = Duration::from_secs(60);
/// So many finished requests in a row may have had no span until no more are expected.
const MOST_WITHOUT_SPAN: u8 = 8;
/// The number of models that are told apart. Of further ones no spans are waited for.
const MOST_MODELS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Sources {
    last_record: Option<Duration>,
    /// How many more requests may go without a span.
    patience: HashMap<Arc<str>, u8>,
}

impl Sources {
    pub(super) fn record_came(&mut self, now: Duration) {
        self.last_record = Some(now);
    }

    pub(super) fn span_came(&mut self, model: &Arc<str>) {
        self.set(model, MOST_WITHOUT_SPAN);
    }

    /// Notes whether a request that was answered, as Traefik tells, had a span. Endpoints that generate nothing never have one.
    pub(super) fn closed<T>(&mut self, reservation: &RequestReservation<T>, heard: &Heard) {
        let generates = reservation.shape.tells_its_answers() && reservation.reserved.completion > 0;
        if generates && heard.lacks_spans() {
            let patience = self.patience(&reservation.model, reservation.shape);
            self.set(&reservation.model, patience.saturating_sub(1));
        }
    }

    pub(super) fn expects_record(&self, now: Duration) -> bool {
        self.last_record.is_some_and(|last| now.saturating_sub(last) <= RECORDS_LAST)
    }

    pub(super) fn expects_span(&self, model: &Arc<str>, shape: RequestShape) -> bool {
        self.patience(model, shape) > 0
    }

    fn patience(&self, model: &Arc<str>, shape: RequestShape) -> u8 {
        let unknown = if shape.traces && self.patience.len() < MOST_MODELS { MOST_WITHOUT_SPAN } else { 0 };
        self.patience.get(model).copied().unwrap_or(unknown)
    }

    fn set(&mut self, model: &Arc<str>, patience: u8) {
        if let Some(known) = self.patience.get_mut(model) {
            *known = patience;
        } else if self.patience.len() < MOST_MODELS {
            self.patience.insert(Arc::clone(model), patience);
        }
    }
}
