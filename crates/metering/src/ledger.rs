//! The ledger of open reservations: each is closed once, with the best that was told about it, whatever is told in which
//! order, twice, late or never.
//!
//! A reservation is closed
//! - at once, when all that is expected about it was told: as many spans as it has answers, and Traefik's record;
//! - after [`LedgerOptions::grace`] without a word, when a part of that was told, and Traefik has told the end or tells of no request;
//! - after [`LedgerOptions::wait`], when nothing was told, or too little; or earlier if the ledger is full: the oldest first.
//!
//! Until then limits need not wait: as soon as a part is told, the tokens that it comes to are handed out
//! ([`Ledger::take_provisional`]). Nor does the server's place for the request: [`Ledger::take_ended`].
//!
//! What is expected is learned from what arrives (`sources.rs`): where only Traefik tells, nobody waits for spans.
//!
//! **Who is believed.** A span or record whose parent is the secret that `/auth` gave to the request. A span with another
//! parent needs a sender that has proven to be trusted. Clients know their request's id, so the id
//! alone changes nothing.

mod closed;
mod early;
mod fifo;
mod heard;
mod sources;

use std::{collections::HashMap, mem, time::Duration};

use closed::Closed;
use early::Early;
use fifo::Fifo;
use heard::{Heard, NextStep};
use sources::Sources;

use crate::{
    Calibration, Receipt, RecordReceipt, RequestId, RequestReservation, RequestSettlement, SpanId, Trust,
    UsageKind,
};

/// How long the ledger waits, and how much it keeps.
#[derive(Debug, Clone, Copy)]
pub struct LedgerOptions {
    /// How long a reservation stays open without a word. It must be longer than the longest answer takes.
    pub wait: Duration,
    /// How long to wait for the rest, once a part is told. vLLM sends spans up to 4.5 s after the end.
    pub grace: Duration,
    /// The number of open reservations, at least 1.
    pub capacity: usize,
    /// How long a receipt waits for its reservation.
    pub early_wait: Duration,
    /// The number of receipts that wait for their reservations: so many of trusted senders, and so many of others.
    pub early_capacity: usize,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(600),
            grace: Duration::from_secs(5),
            capacity: 100_000,
            early_wait: Duration::from_secs(10),
            early_capacity: 4_096,
        }
    }
}

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    /// It counts.
    Counted,
    /// It was told before.
    Repeated,
    /// Its request is closed already.
    Late,
    /// Its request is not known. It waits, in case the reservation is still to come. Another Modelgate may know it.
    Waits,
    /// Its sender has not proven anything: it changes nothing.
    Unproven,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names of `Told` and `UsageKind`")]
pub struct LedgerCounts {
    pub exact: u64,
    pub measured: u64,
    pub estimated: u64,
    /// Of those, closed early because the ledger was full.
    pub crowded_out: u64,
    pub counted: u64,
    pub repeated: u64,
    pub late: u64,
    pub unproven: u64,
    /// Receipts whose reservation has not come in time, or that found no room to wait for it.
    pub unclaimed: u64,
}

/// The open reservations, and what was told about them. It has one owner, who drives it: [`Ledger::open`], [`Ledger::tell`],
/// and [`Ledger::advance`] every some milliseconds. Times must not go back.
#[derive(Debug)]
pub struct Ledger<T> {
    options: LedgerOptions,
    open: HashMap<RequestId, Box<Entry<T>>>,
    by_parent: HashMap<SpanId, RequestId>,
    /// When to stop waiting for a first word, and for the rest.
    waits: Fifo,
    graces: Fifo,
    early: Early,
    closed: Closed,
    sources: Sources,
    calibration: Calibration,
    provisional: Vec<RequestId>,
    ended: Vec<RequestId>,
    settled: Vec<RequestSettlement<T>>,
    counts: LedgerCounts,
}

/// An open reservation. Most are open because nothing was told yet.
#[derive(Debug)]
struct Entry<T> {
    reservation: RequestReservation<T>,
    heard: Option<Box<Heard>>,
}

/// Whom a receipt is about.
enum About {
    Open(RequestId),
    Closed,
    Nobody,
    Unproven,
}

impl<T> Ledger<T> {
    /// An empty ledger.
    pub fn new(options: LedgerOptions) -> Self {
        Self {
            options,
            open: HashMap::new(),
            by_parent: HashMap::new(),
            waits: Fifo::default(),
            graces: Fifo::default(),
            early: Early::new(options.early_wait, options.early_capacity),
            closed: Closed::default(),
            sources: Sources::default(),
            calibration: Calibration::default(),
            provisional: Vec::new(),
            ended: Vec::new(),
            settled: Vec::new(),
            counts: LedgerCounts::default(),
        }
    }

    /// The number of open reservations.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no reservation is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What has happened so far.
    pub fn counts(&self) -> LedgerCounts {
        LedgerCounts { unclaimed: self.early.unclaimed(), ..self.counts }
    }

    /// What was learned about bytes and tokens.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// The same, for the books, which teach it what servers' counters say.
    pub fn calibration_mut(&mut self) -> &mut Calibration {
        &mut self.calibration
    }

    /// The reservations that were closed since the last call.
    pub fn take_settled(&mut self) -> Vec<RequestSettlement<T>> {
        mem::take(&mut self.settled)
    }

    /// Calls `each` with the holder and the tokens of each open reservation about which something was told since the last
    /// call; at most the tokens that were reserved. The last word, which may be another one, comes in its settlement.
    pub fn take_provisional(&mut self, mut each: impl FnMut(&mut T, u64)) {
        for request in self.provisional.drain(..) {
            let Some(entry) = self.open.get_mut(&request) else { continue };
            let Entry { reservation, heard: Some(heard) } = &mut **entry else { continue };
            match heard.tokens(reservation, &self.calibration) {
                (UsageKind::Estimated, _) => {}
                (UsageKind::Exact | UsageKind::Measured, used) => {
                    let used = used.total().min(reservation.reserved.total());
                    each(&mut reservation.held, used);
                }
            }
        }
    }

    /// Calls `each` once with the holder of each open reservation whose request has ended, as was told since the last call, and with the
    /// server that has worked on it, by Traefik's `ServiceURL`, and for how long at least, if that was told
    /// ([`RequestSettlement::worked`]). How many tokens it has used may be told later.
    pub fn take_ended(&mut self, mut each: impl FnMut(&mut T, Option<(&str, Duration)>)) {
        for request in self.ended.drain(..) {
            let Some(entry) = self.open.get_mut(&request) else { continue };
            let Entry { reservation, heard } = &mut **entry;
            each(&mut reservation.held, heard.as_ref().and_then(|heard| heard.worked()));
        }
    }

    /// Opens a reservation. A full ledger closes its oldest. An id that is open already, which cannot happen with random
    /// ids, is closed first.
    pub fn open(&mut self, reservation: RequestReservation<T>, now: Duration) {
        let (request, parent) = (reservation.request, reservation.parent);
        self.close(request);
        while self.open.len() >= self.options.capacity.max(1) {
            let Some(oldest) = self.waits.pop() else { break };
            self.counts.crowded_out += u64::from(self.close(oldest));
        }
        self.waits.push(now + self.options.wait, request);
        self.by_parent.insert(parent, request);
        self.open.insert(request, Box::new(Entry { reservation, heard: None }));
        for receipt in self.early.take(request, parent) {
            self.tell(receipt, now);
        }
        let open = &self.open;
        self.waits.compact(open.len(), |request| open.contains_key(request));
    }

    /// Tells the ledger what a server or Traefik has said.
    pub fn tell(&mut self, receipt: Receipt, now: Duration) -> Told {
        let about = self.about(&receipt);
        if let Receipt::Record(record) = &receipt
            && !matches!(about, About::Unproven)
            && (record.trust == Trust::Proven || !matches!(about, About::Nobody))
        {
            self.sources.record_came(now);
        }
        let told = match about {
            About::Open(request) => self.add(request, receipt, now),
            About::Closed => Told::Late,
            About::Unproven => Told::Unproven,
            About::Nobody => {
                self.early.keep(receipt, now);
                Told::Waits
            }
        };
        match told {
            Told::Counted => self.counts.counted += 1,
            Told::Repeated => self.counts.repeated += 1,
            Told::Late => self.counts.late += 1,
            Told::Unproven => self.counts.unproven += 1,
            Told::Waits => {}
        }
        told
    }

    /// Tells what was told to another Modelgate, which does not know the request. It comes later than the reservation, so it does
    /// not wait for one.
    pub fn tell_passed_on(&mut self, receipt: Receipt, now: Duration) -> Told {
        match self.about(&receipt) {
            About::Nobody => Told::Waits,
            About::Open(_) | About::Closed | About::Unproven => self.tell(receipt, now),
        }
    }

    /// Closes what has waited long enough.
    pub fn advance(&mut self, now: Duration) {
        while let Some(request) = self.waits.pop_due(now) {
            self.close(request);
        }
        while let Some(request) = self.graces.pop_due(now) {
            let Some(Entry { reservation, heard: Some(heard) }) =
                self.open.get(&request).map(|entry| &**entry)
            else {
                continue;
            };
            if !heard.is_due(now) {
                continue;
            }
            // Traefik tells the end of each request, so this one goes on: more of its texts may be told.
            let goes_on = !reservation.shape.tells_its_answers() && !heard.has_record();
            match goes_on && self.sources.expects_record(now) {
                true => self.wait_for_rest(request, now),
                false => {
                    self.close(request);
                }
            }
        }
        self.early.forget(now);
    }

    /// Closes everything as it stands, before the program ends.
    pub fn close_all(&mut self) {
        while let Some(request) = self.waits.pop() {
            self.close(request);
        }
    }

    /// A client may send the id of a request of its own that is still running, and be refused, or reach a router without
    /// `/auth`: then Traefik, however trusted, tells of that id, with the status of the refusal. So a record's parent must be the
    /// secret one.
    fn about_record(&self, record: &RecordReceipt) -> About {
        let is_proven = |secret| record.parent == Some(secret);
        if let Some(entry) = self.open.get(&record.request) {
            return match is_proven(entry.reservation.parent) {
                true => About::Open(record.request),
                false => About::Unproven,
            };
        }
        match self.closed.get(record.request) {
            Some(closed) if is_proven(closed.parent) => About::Closed,
            None if record.parent.is_some() => About::Nobody,
            Some(_) | None => About::Unproven,
        }
    }

    fn about(&mut self, receipt: &Receipt) -> About {
        match receipt {
            Receipt::Record(record) => self.about_record(record),
            Receipt::Span(span) => {
                if let Some(request) = span.parent.and_then(|parent| self.by_parent.get(&parent)) {
                    return About::Open(*request);
                }
                let is_trusted = span.trust == Trust::Proven;
                let Some(request) = span.request else {
                    return if is_trusted || span.parent.is_some() { About::Nobody } else { About::Unproven };
                };
                if self.open.contains_key(&request) {
                    return if is_trusted { About::Open(request) } else { About::Unproven };
                }
                match self.closed.get(request) {
                    Some(closed) if is_trusted || span.parent == Some(closed.parent) => {
                        self.sources.span_came(&closed.model);
                        About::Closed
                    }
                    Some(_) => About::Unproven,
                    None if is_trusted || span.parent.is_some() => About::Nobody,
                    None => About::Unproven,
                }
            }
        }
    }

    fn add(&mut self, request: RequestId, receipt: Receipt, now: Duration) -> Told {
        let Some(entry) = self.open.get_mut(&request) else { return Told::Late };
        let RequestReservation { shape, waited, ref model, .. } = entry.reservation;
        if shape.is_mirrored && matches!(receipt, Receipt::Span(_)) {
            return Told::Unproven;
        }
        let heard = entry.heard.get_or_insert_with(|| Box::new(Heard::new(shape)));
        let is_record = matches!(receipt, Receipt::Record(_));
        let had_ended = heard.has_ended(shape);
        let is_news = match receipt {
            Receipt::Span(span) => {
                self.sources.span_came(model);
                heard.add_span(&span)
            }
            Receipt::Record(record) => {
                let duration = record.duration.saturating_sub(waited);
                heard.add_record(RecordReceipt { duration, ..record })
            }
        };
        if !is_news {
            return Told::Repeated;
        }
        let expects_record = self.sources.expects_record(now);
        let expects_span = !shape.is_mirrored && self.sources.expects_span(model, shape);
        let next = heard.next(shape, expects_record, expects_span);
        if next == NextStep::WaitForRest {
            self.provisional.push(request);
        }
        if next != NextStep::Close && !had_ended && heard.has_ended(shape) {
            self.ended.push(request);
        }
        match next {
            NextStep::Close => {
                self.close(request);
            }
            // Of the texts to embed or to rank, servers tell as they work on them.
            NextStep::WaitForRest if is_record || heard.due.is_none() || !shape.tells_its_answers() => {
                self.wait_for_rest(request, now);
            }
            NextStep::WaitForRest | NextStep::WaitForWord => {}
        }
        Told::Counted
    }

    fn wait_for_rest(&mut self, request: RequestId, now: Duration) {
        let Some(heard) = self.open.get_mut(&request).and_then(|entry| entry.heard.as_mut()) else { return };
        let due = now + self.options.grace;
        heard.due = Some(due);
        self.graces.push(due, request);
        let open = &self.open;
        self.graces.compact(open.len(), |request| open.contains_key(request));
    }

    /// Closes a reservation as it stands; `false` if it is not open.
    fn close(&mut self, request: RequestId) -> bool {
        let Some(entry) = self.open.remove(&request) else { return false };
        let Entry { reservation, heard } = *entry;
        self.by_parent.remove(&reservation.parent);
        self.closed.add(&reservation);
        if let Some(heard) = &heard {
            self.sources.closed(&reservation, heard);
        }
        let settlement = heard::settle(reservation, heard.as_deref(), &self.calibration);
        if let Some(heard) = &heard {
            heard.teach(&settlement, &mut self.calibration);
        }
        match settlement.kind {
            UsageKind::Exact => self.counts.exact += 1,
            UsageKind::Measured => self.counts.measured += 1,
            UsageKind::Estimated => self.counts.estimated += 1,
        }
        self.settled.push(settlement);
        true
    }
}

#[cfg(test)]
mod tests;
