//! Cases one by one; any order of anything is tested against a plain model in `model.rs`.

mod model;

use super::*;
use crate::{
    Ending, MeteredEndpoint, RecordReceipt, RequestShape, ReservedTokens, SpanReceipt, UsedTokens,
    testing::{SHAPE, aborted, parent, record, refused, reservation, span},
};

const SECOND: Duration = Duration::from_secs(1);

fn ledger() -> Ledger<u32> {
    Ledger::new(LedgerOptions { capacity: 10, ..LedgerOptions::default() })
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Ledger<u32> {
    fn span(&mut self, span: SpanReceipt, now: Duration) -> Told {
        self.tell(Receipt::Span(span), now)
    }

    fn record(&mut self, record: RecordReceipt, now: Duration) -> Told {
        self.tell(Receipt::Record(record), now)
    }

    /// The settlements until then, as `(request, kind, prompt, completion)`.
    fn settled_by(&mut self, now: Duration) -> Vec<(u32, UsageKind, u64, u64)> {
        self.advance(now);
        let settled = self.take_settled().into_iter();
        settled.map(|one| (one.held, one.kind, one.used.prompt, one.used.completion)).collect()
    }

    fn only(&mut self) -> RequestSettlement<u32> {
        let mut settled = self.take_settled();
        assert_eq!(settled.len(), 1, "{settled:?}");
        settled.remove(0)
    }
}

fn used(prompt: u64, completion: u64) -> UsedTokens {
    UsedTokens { prompt, cached: None, completion }
}

#[test]
fn a_span_and_a_record_close_a_request_at_once_in_either_order() {
    for span_first in [true, false] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        ledger.record(record(99, 0), at(0));
        let span = Receipt::Span(SpanReceipt { cached_tokens: Some(4), ..span(1, 7, 12, 34) });
        let record = Receipt::Record(record(1, 7_000));
        let (first, second) = if span_first { (span, record) } else { (record, span) };
        assert_eq!(ledger.tell(first, at(1)), Told::Counted);
        assert_eq!(ledger.take_settled(), []);
        assert_eq!(ledger.tell(second, at(2)), Told::Counted);
        let settled = ledger.only();
        assert_eq!(settled.kind, UsageKind::Exact);
        assert_eq!(settled.used, UsedTokens { prompt: 12, cached: Some(4), completion: 34 });
        assert_eq!(settled.difference(), 46 - 1_010);
        assert_eq!((settled.ending, settled.status), (Ending::Finished, Some(200)));
        assert_eq!(settled.time_to_first_token, Some(Duration::from_millis(30)));
        assert_eq!(settled.duration, Some(Duration::from_millis(400)));
        assert_eq!(settled.server.as_deref(), Some("http://10.0.0.1:8000"));
        assert_eq!((ledger.len(), settled.held), (0, 1));
    }
}

#[test]
fn without_records_a_span_alone_closes_and_may_be_a_debt() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.span(span(1, 7, 12, 3_000), at(1));
    let settled = ledger.only();
    assert_eq!((settled.kind, settled.ending, settled.status), (UsageKind::Exact, Ending::Finished, None));
    assert_eq!(settled.difference(), 3_012 - 1_010);
    // As soon as Traefik tells about requests, its word is waited for, but not for long.
    ledger.record(record(99, 0), at(2));
    ledger.open(reservation(2), at(2));
    ledger.span(span(2, 8, 12, 34), at(3));
    assert_eq!(ledger.settled_by(at(7)), []);
    assert_eq!(ledger.settled_by(at(8)), [(2, UsageKind::Exact, 12, 34)]);
}

#[test]
fn choices_repeat_the_prompt_and_prompts_add_up() {
    for (choices, prompts, spans, wanted) in [
        (2, 1, vec![(10, 5), (10, 7)], used(10, 12)),
        (1, 3, vec![(10, 5), (20, 6), (30, 7)], used(60, 18)),
        (2, 2, vec![(10, 5), (30, 6), (30, 7), (10, 8)], used(40, 26)),
    ] {
        let mut ledger = ledger();
        let shape = RequestShape { choices, prompts, ..SHAPE };
        ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
        for (number, (prompt, completion)) in (0..).zip(&spans) {
            assert_eq!(ledger.take_settled(), [], "after {number} of {}", spans.len());
            let span = SpanReceipt { choices: Some(choices.into()), ..span(1, number, *prompt, *completion) };
            ledger.span(span, at(1));
        }
        let settled = ledger.only();
        assert_eq!((settled.kind, settled.used), (UsageKind::Exact, wanted));
    }
}

/// Limits would wait for seconds otherwise.
#[test]
fn what_is_told_first_is_handed_out_before_the_last_word() {
    let provisional = |ledger: &mut Ledger<u32>| {
        let mut all = Vec::new();
        ledger.take_provisional(|held, used| all.push((*held, used)));
        all
    };
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    assert_eq!(provisional(&mut ledger), []);
    ledger.record(record(1, 450 + 225 * 20), at(1));
    assert_eq!(provisional(&mut ledger), [(1, 30)], "by its bytes");
    assert_eq!(provisional(&mut ledger), [], "once");
    ledger.span(span(1, 7, 12, 34), at(3));
    assert_eq!(
        (provisional(&mut ledger), ledger.settled_by(at(3))),
        (vec![], vec![(1, UsageKind::Exact, 12, 34)])
    );
    // Only the record is missing.
    ledger.open(reservation(2), at(3));
    ledger.span(span(2, 8, 12, 34), at(4));
    assert_eq!((provisional(&mut ledger), ledger.settled_by(at(4))), (vec![(2, 46)], vec![]));
    // Half of the spans tell too little.
    let shape = RequestShape { prompts: 2, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(3) }, at(4));
    ledger.span(span(3, 9, 12, 34), at(5));
    assert_eq!(provisional(&mut ledger), []);
    // What was reserved is the most that limits owe until the last word.
    ledger.open(reservation(5), at(5));
    ledger.span(span(5, 11, 12, 5_000), at(5));
    assert_eq!(provisional(&mut ledger), [(5, 1_010)]);
    // What has become final meanwhile is not told as provisional.
    ledger.open(reservation(4), at(5));
    ledger.record(record(4, 450), at(6));
    ledger.advance(at(12));
    assert_eq!(provisional(&mut ledger), []);
}

/// Regression: a place at a server that was free stayed taken for five seconds, until it was clear that no span would come.
#[test]
fn that_a_request_has_ended_is_told_once_and_does_not_wait_for_its_tokens() {
    let ended = |ledger: &mut Ledger<u32>| {
        let mut all = Vec::new();
        ledger.take_ended(|held, _| all.push(*held));
        assert_eq!(ledger.take_settled(), []);
        all
    };
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    assert_eq!(ended(&mut ledger), []);
    ledger.record(record(1, 7_000), at(1));
    assert_eq!(ended(&mut ledger), [1], "by Traefik");
    assert_eq!(ended(&mut ledger), []);
    ledger.open(reservation(2), at(2));
    ledger.span(span(2, 8, 12, 34), at(2));
    assert_eq!(ended(&mut ledger), [2], "by its server; Traefik's record is missing");
    for (request, last) in [(1, Receipt::Span(span(1, 7, 12, 34))), (2, Receipt::Record(record(2, 9)))] {
        ledger.tell(last, at(3));
        ledger.take_ended(|held, _| panic!("{held} has ended again"));
        assert_eq!(ledger.only().held, request);
    }
    // A span for each of two prompts, and one for an endpoint that may have more of them than is known.
    let shape = RequestShape { prompts: 2, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(3) }, at(4));
    ledger.span(span(3, 9, 12, 34), at(5));
    let shape = RequestShape { endpoint: MeteredEndpoint::Embeddings, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(4) }, at(5));
    ledger.span(span(4, 10, 12, 0), at(5));
    assert_eq!(ended(&mut ledger), [], "the servers may still work on both");
    ledger.span(span(3, 11, 12, 34), at(6));
    assert_eq!(ended(&mut ledger), [3]);
}

/// How long a server has worked on a request at least is known only if Traefik has told, and has sent it once. Nothing is known of a
/// request of which nobody has told anything.
#[test]
fn how_long_a_server_has_worked_is_told_with_the_end() {
    let own = "http://gpu:8000";
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.record(RecordReceipt { server: Some(own.to_owned()), ..record(1, 7_000) }, at(1));
    let mut told = Vec::new();
    ledger
        .take_ended(|held, worked| told.push((*held, worked.map(|(url, worked)| (url.to_owned(), worked)))));
    let worked = Duration::from_millis(390);
    assert_eq!(told, [(1, Some((own.to_owned(), worked)))]);
    ledger.advance(at(30));
    let settled = ledger.only();
    assert_eq!((settled.has_ended, settled.worked), (true, Some(worked)));
    ledger.open(reservation(2), at(30));
    let again = RecordReceipt { server: Some(own.to_owned()), retries: 1, ..record(2, 7_000) };
    ledger.record(again, at(31));
    ledger.take_ended(|held, worked| {
        assert_eq!((*held, worked), (2, None), "another server may have failed first");
    });
    ledger.advance(at(60));
    let settled = ledger.only();
    assert_eq!((settled.has_ended, settled.worked), (true, None));
    ledger.open(reservation(3), at(60));
    ledger.close_all();
    let settled = ledger.only();
    assert_eq!((settled.has_ended, settled.worked), (false, None));
}

/// The choice that comes second finds the prompt cached by the first one.
#[test]
fn cached_tokens_of_choices_are_those_of_the_first() {
    let mut ledger = ledger();
    ledger.open(RequestReservation { shape: RequestShape { choices: 2, ..SHAPE }, ..reservation(1) }, at(0));
    for (number, cached) in [(1, 90), (2, 16)] {
        let span = SpanReceipt { cached_tokens: Some(cached), choices: Some(2), ..span(1, number, 100, 5) };
        ledger.span(span, at(1));
    }
    assert_eq!(ledger.only().used, UsedTokens { prompt: 100, cached: Some(16), completion: 10 });
}

/// The reader of the body may have missed `n`; the server has not.
#[test]
fn a_span_tells_how_many_choices_there_are() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.span(SpanReceipt { choices: Some(2), ..span(1, 1, 10, 5) }, at(1));
    assert_eq!(ledger.take_settled(), []);
    ledger.span(SpanReceipt { choices: Some(2), ..span(1, 2, 10, 6) }, at(1));
    assert_eq!(ledger.only().used, used(10, 11));
}

#[test]
fn some_of_several_spans_are_completed_by_the_record_or_by_the_reservation() {
    let mut ledger = ledger();
    let shape = RequestShape { prompts: 2, ..SHAPE };
    for request in [1, 2] {
        ledger.open(RequestReservation { shape, ..reservation(request) }, at(0));
        ledger.span(span(request, 1, 10, 300), at(1));
    }
    ledger.record(aborted(1, 450 + 225 * 400), at(2));
    assert_eq!(ledger.settled_by(at(6)), []);
    assert_eq!(ledger.settled_by(at(7)), [(1, UsageKind::Measured, 20, 400)], "by the bytes of both answers");
    assert_eq!(
        ledger.settled_by(at(600)),
        [(2, UsageKind::Estimated, 20, 800)],
        "half of the reservation stands"
    );
}

/// Regression: a redirect counted as an answer. Its prompt was paid for, a hard budget kept all that was reserved, and eight of them in a
/// row ended the waiting for the spans of the model's server.
#[test]
fn a_redirect_is_no_answer() {
    for status in [301, 302, 307, 308] {
        let mut ledger = ledger();
        for request in 1..=9 {
            ledger.open(reservation(request), at(0));
            ledger.record(refused(request, status), at(1));
        }
        ledger.advance(at(10));
        let settled = ledger.take_settled();
        assert_eq!(settled.len(), 9, "{status}");
        for settled in settled {
            assert_eq!((settled.kind, settled.used), (UsageKind::Measured, used(0, 0)), "{status}");
            assert_eq!((settled.ending, settled.is_unworked), (Ending::Refused, true), "{status}");
        }
        ledger.open(reservation(10), at(11));
        ledger.record(record(10, 900), at(12));
        ledger.span(span(10, 1, 10, 20), at(13));
        assert_eq!(ledger.settled_by(at(60)), [(10, UsageKind::Exact, 10, 20)], "{status}");
    }
}

#[test]
fn what_a_server_refused_or_never_got_costs_nothing() {
    for status in [400, 404, 429, 500, 502, 503] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        ledger.record(refused(1, status), at(1));
        ledger.advance(at(60));
        let settled = ledger.only();
        assert_eq!((settled.kind, settled.used), (UsageKind::Measured, used(0, 0)), "{status}");
        assert_eq!((settled.ending, settled.difference()), (Ending::Refused, -1_010));
    }
}

/// Regression: who was refused was settled at once, so what the server told of its work four seconds later came too late.
#[test]
fn what_a_server_tells_of_a_request_that_it_refused_after_its_work_is_waited_for() {
    let at_once = Duration::from_millis(20);
    for (status, duration, expected) in [
        (500, 2 * SECOND, [1; 2]),
        (400, 2 * SECOND, [1; 2]),
        (404, 2 * SECOND, [1; 2]),
        (404, at_once, [0; 2]),
    ] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        ledger.record(RecordReceipt { duration, ..refused(1, status) }, at(2));
        ledger.span(span(1, 1, 900, 96), at(6));
        ledger.advance(at(60));
        let settled = ledger.only();
        let told =
            [usize::from(settled.kind == UsageKind::Exact), usize::from(settled.used == used(900, 96))];
        assert_eq!((settled.ending, told), (Ending::Refused, expected), "{status}");
    }
}

/// llama.cpp answers 500 after all its work, where an answer has no end that its schema allows. Traefik's own 502 looks like a server's.
#[test]
fn only_a_clients_fault_and_a_server_that_was_not_reached_are_surely_no_work() {
    let at_once = Duration::from_millis(999);
    for (status, server_status, retries, duration, has_server, expected) in [
        (404, 404, 0, at_once, true, true),
        // Regression: Traefik's record has no attempts where another router than its first has made them. A server that worked for four
        // seconds and broke off was given back all, since the next one was too busy.
        (404, 404, 0, SECOND, true, false),
        (429, 429, 0, SECOND, true, false),
        (400, 400, 0, at_once, true, true),
        // vLLM answers so after all the work, too.
        (400, 400, 0, SECOND, true, false),
        (422, 422, 0, SECOND, true, false),
        (429, 429, 2, at_once, true, true),
        (429, 429, 1, SECOND, true, false),
        (500, 500, 0, at_once, true, false),
        (503, 503, 0, at_once, true, true),
        (529, 529, 0, at_once, true, true),
        (503, 503, 0, SECOND, true, false),
        (400, 500, 0, at_once, true, false),
        (500, 400, 0, at_once, true, false),
        (502, 400, 0, at_once, true, false),
        (502, 502, 0, at_once, true, true),
        (502, 502, 0, SECOND, true, false),
        (502, 502, 11, at_once, true, true),
        (504, 504, 0, at_once, true, false),
        // Traefik knew no server, or has refused it itself.
        (503, 0, 0, SECOND, false, true),
        (413, 0, 0, SECOND, false, true),
        (502, 0, 0, SECOND, true, false),
        (200, 200, 0, SECOND, true, false),
        (499, 0, 0, SECOND, true, false),
        (307, 307, 0, at_once, true, true),
        (307, 307, 0, SECOND, true, false),
        (307, 200, 0, at_once, true, false),
        (303, 303, 0, at_once, true, false),
        // A redirect of Traefik's own.
        (302, 0, 0, SECOND, false, true),
    ] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        let server = Some("http://10.0.0.1:8000".to_owned()).filter(|_| has_server);
        ledger
            .record(RecordReceipt { server_status, retries, duration, server, ..refused(1, status) }, at(1));
        ledger.advance(at(60));
        assert_eq!(ledger.only().is_unworked, expected, "{status} {server_status} {retries} {duration:?}");
    }
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.advance(at(600));
    assert!(!ledger.only().is_unworked, "nobody has told");
}

#[test]
fn attempts_are_counted_by_the_answers_that_servers_tell() {
    for (choices, spans, expected) in [(1, 1, 1), (1, 3, 3), (2, 2, 1), (2, 3, 2), (2, 4, 2)] {
        let mut ledger = ledger();
        let shape = RequestShape { choices, ..SHAPE };
        ledger.record(record(99, 0), at(0));
        ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
        for number in 1..=spans {
            ledger.span(span(1, number, 20, 5), at(1));
        }
        ledger.record(RecordReceipt { retries: 3, ..record(1, 900) }, at(1));
        ledger.advance(at(60));
        let settled = ledger.only();
        assert_eq!((settled.kind, settled.attempts), (UsageKind::Exact, expected), "{choices} {spans}");
    }
}

#[test]
fn what_a_client_broke_off_costs_what_was_generated() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.record(aborted(1, 450 + 225 * 20), at(1));
    assert_eq!(ledger.settled_by(at(6)), [(1, UsageKind::Measured, 10, 20)], "a span might have come");
    ledger.open(reservation(2), at(6));
    ledger.record(RecordReceipt { status: 499, answer_bytes: 0, ..aborted(2, 0) }, at(7));
    ledger.advance(at(20));
    let settled = ledger.only();
    assert_eq!((settled.ending, settled.used), (Ending::Aborted, used(10, 0)), "before its first token");

    // A whole answer shows no byte before its end. Its tokens come from the time that it took.
    let whole = RequestShape { streams: false, ..SHAPE };
    ledger.open(RequestReservation { shape: whole, ..reservation(3) }, at(20));
    ledger.record(RecordReceipt { status: 499, duration: 3 * SECOND, ..aborted(3, 0) }, at(24));
    assert_eq!(
        ledger.settled_by(at(30)),
        [(3, UsageKind::Measured, 10, 1_000)],
        "nobody knows how fast it is"
    );
    ledger.open(RequestReservation { shape: whole, ..reservation(4) }, at(30));
    ledger.span(span(4, 1, 10, 100), at(31));
    ledger.record(RecordReceipt { server_duration: 2 * SECOND, ..record(4, 900) }, at(31));
    ledger.open(RequestReservation { shape: whole, ..reservation(5) }, at(31));
    ledger.record(RecordReceipt { status: 499, duration: 3 * SECOND, ..aborted(5, 0) }, at(34));
    assert_eq!(ledger.settled_by(at(40))[1], (5, UsageKind::Measured, 10, 150));
}

/// Regression: the time for which a request had waited until a server had room was charged, and counted as the server's. Traefik's
/// time begins before `/auth` is asked; a server's span does not.
#[test]
fn the_time_for_which_a_request_has_waited_is_no_time_of_its_answer() {
    let waited = |request| RequestReservation { waited: 3 * SECOND, ..reservation(request) };
    let whole = RequestShape { streams: false, traces: false, ..SHAPE };
    for (total, own) in [(4 * SECOND, SECOND), (2 * SECOND, Duration::ZERO)] {
        let mut ledger = ledger();
        ledger.open(RequestReservation { shape: whole, ..waited(1) }, at(0));
        ledger.record(RecordReceipt { duration: total, ..record(1, 900) }, at(4));
        assert_eq!(ledger.only().duration, Some(own));
    }
    let mut ledger = ledger();
    ledger.open(waited(1), at(0));
    ledger.span(SpanReceipt { duration: Some(SECOND), ..span(1, 1, 10, 100) }, at(4));
    assert_eq!(ledger.only().duration, Some(SECOND), "as the server tells it");
    // An answer that nobody saw is measured by its time: 50 tokens a second here.
    ledger.record(record(99, 0), at(4));
    ledger.open(RequestReservation { shape: whole, ..reservation(2) }, at(4));
    ledger.span(span(2, 1, 10, 100), at(5));
    ledger.record(RecordReceipt { server_duration: 2 * SECOND, ..record(2, 900) }, at(5));
    ledger.take_settled();
    ledger.open(RequestReservation { shape: whole, ..waited(3) }, at(5));
    ledger.record(RecordReceipt { status: 499, duration: 6 * SECOND, ..aborted(3, 0) }, at(11));
    assert_eq!(ledger.settled_by(at(20)), [(3, UsageKind::Measured, 10, 150)]);
}

/// Regression: a server that nobody waited for any longer worked for nothing, and thousands of tokens were free.
#[test]
fn a_server_that_was_given_up_has_worked_until_then() {
    for streams in [true, false] {
        let mut ledger = ledger();
        let shape = RequestShape { streams, traces: false, ..SHAPE };
        ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
        ledger.record(refused(1, 504), at(1));
        let settled = ledger.only();
        assert_eq!((settled.ending, settled.used), (Ending::Aborted, used(10, 1_000)), "{streams}");
    }
}

/// Regression: with vLLM's `stream_interval` a thousand tokens came in one piece, and whoever then hung up paid none of them; with
/// llama.cpp's `response_fields` finished answers were free.
#[test]
fn bytes_that_the_request_has_shaped_count_no_less_than_what_was_reserved() {
    let shaped = RequestShape { is_shaped: true, ..SHAPE };
    let quiet = RequestShape { traces: false, ..shaped };
    for record in [record(1, 650), aborted(1, 650), RecordReceipt { status: 499, ..aborted(1, 0) }] {
        let mut ledger = ledger();
        ledger.open(RequestReservation { shape: quiet, ..reservation(1) }, at(0));
        ledger.record(record, at(1));
        assert_eq!(ledger.settled_by(at(9)), [(1, UsageKind::Estimated, 10, 1_000)]);
    }
    let mut ledger = ledger();
    ledger.open(RequestReservation { shape: shaped, ..reservation(1) }, at(0));
    ledger.record(record(1, 650), at(1));
    ledger.span(span(1, 7, 12, 300), at(2));
    ledger.open(RequestReservation { shape: shaped, ..reservation(2) }, at(2));
    ledger.record(refused(2, 400), at(3));
    assert_eq!(
        ledger.settled_by(at(9)),
        [(1, UsageKind::Exact, 12, 300), (2, UsageKind::Measured, 0, 0)],
        "what the server says counts all the same"
    );
}

/// Regression: each step of each beam has a span with the whole prompt, and all of them were added up as exact.
#[test]
fn steps_of_a_search_with_beams_do_not_add_up_to_what_was_used() {
    let mut ledger = ledger();
    let shape = RequestShape { has_beams: true, choices: 4, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
    for step in 0..300 {
        ledger.span(span(1, step, 600, 1), at(1));
    }
    ledger.record(record(1, 650), at(2));
    ledger.open(RequestReservation { shape, ..reservation(2) }, at(2));
    ledger.record(refused(2, 400), at(3));
    assert_eq!(
        ledger.settled_by(at(9)),
        [(1, UsageKind::Estimated, 10, 1_000), (2, UsageKind::Measured, 0, 0)],
    );
}

#[test]
fn a_measured_answer_is_no_longer_than_the_request_allows() {
    let mut ledger = ledger();
    let quiet = RequestShape { traces: false, ..SHAPE };
    for (request, is_open, wanted) in [(1, false, 1_000), (2, true, 4_000)] {
        let reserved = ReservedTokens { is_open, ..reservation(request).reserved };
        ledger.open(RequestReservation { shape: quiet, reserved, ..reservation(request) }, at(0));
        ledger.record(record(request, 450 + 225 * 4_000), at(1));
        assert_eq!(ledger.only().used, used(10, wanted));
    }
    // Embeddings are long, but no tokens.
    let reserved = ReservedTokens { completion: 0, ..reservation(3).reserved };
    let shape = RequestShape { endpoint: MeteredEndpoint::Other, ..quiet };
    ledger.open(RequestReservation { shape, reserved, ..reservation(3) }, at(1));
    ledger.record(record(3, 100_000), at(1));
    assert_eq!(ledger.only().used, used(10, 0));
}

#[test]
fn compute_tokens_of_a_trusted_record_are_exact() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.record(RecordReceipt { compute_tokens: Some(77), ..record(1, 5_000) }, at(1));
    let settled = ledger.only();
    assert_eq!((settled.kind, settled.used), (UsageKind::Exact, used(77, 0)));
}

#[test]
fn a_request_that_was_sent_again_is_worked_on_twice() {
    let twice = |request| RecordReceipt { retries: 1, ..record(request, 900) };
    let mut ledger = ledger();
    ledger.record(record(99, 0), at(0));
    ledger.open(reservation(1), at(0));
    ledger.span(span(1, 1, 10, 20), at(1));
    ledger.record(twice(1), at(2));
    assert_eq!(ledger.take_settled(), []);
    ledger.span(span(1, 2, 10, 30), at(3));
    assert_eq!(ledger.only().used, used(20, 50));
    // Only one was told.
    ledger.open(reservation(2), at(3));
    ledger.record(twice(2), at(4));
    ledger.span(span(2, 3, 10, 20), at(4));
    assert_eq!(ledger.settled_by(at(9)), [(2, UsageKind::Exact, 10, 20)]);
    // The client got an error in the end, but a server has worked.
    ledger.open(reservation(3), at(9));
    ledger.record(RecordReceipt { retries: 1, ..refused(3, 502) }, at(9));
    ledger.span(span(3, 4, 10, 20), at(10));
    let settled = ledger.settled_by(at(14));
    assert_eq!(settled, [(3, UsageKind::Exact, 10, 20)]);
}

#[test]
fn nothing_counts_twice_and_what_is_late_changes_nothing() {
    let mut ledger = ledger();
    ledger.record(record(99, 0), at(0));
    ledger.open(reservation(1), at(0));
    assert_eq!(ledger.span(span(1, 7, 12, 34), at(1)), Told::Counted);
    assert_eq!(ledger.span(span(1, 7, 12, 34), at(1)), Told::Repeated);
    assert_eq!(ledger.record(record(1, 900), at(1)), Told::Counted);
    assert_eq!(ledger.span(span(1, 7, 12, 34), at(2)), Told::Late);
    assert_eq!(ledger.record(record(1, 900), at(3_600)), Told::Late);
    assert_eq!(ledger.settled_by(at(9_999)), [(1, UsageKind::Exact, 12, 34)]);
    let counts = ledger.counts();
    assert_eq!((counts.exact, counts.counted, counts.repeated, counts.late), (1, 2, 1, 2));
}

/// With everything that a client can see of its requests, and of others' ids.
#[test]
fn forged_guessed_and_foreign_receipts_change_nothing() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.open(reservation(2), at(0));
    let forged = span(1, 66, 0, 0);
    let forgeries = [
        SpanReceipt { parent: None, ..forged.clone() },
        SpanReceipt { parent: Some(SpanId(0)), ..forged.clone() },
        SpanReceipt { parent: Some(SpanId(1)), request: None, ..forged.clone() },
        SpanReceipt { parent: None, request: None, ..forged.clone() },
        SpanReceipt { request: Some(RequestId(77)), parent: Some(SpanId(2)), ..forged },
    ];
    for forgery in forgeries {
        let told = ledger.span(forgery, at(1));
        assert!(matches!(told, Told::Unproven | Told::Waits), "{told:?}");
    }
    // Its log does not keep `Traceparent`, or the request had none: it may be another one with the same id.
    for trust in [Trust::None, Trust::Proven] {
        let without = RecordReceipt { trust, parent: None, ..refused(1, 503) };
        assert_eq!(ledger.record(without, at(1)), Told::Unproven);
    }
    // Traefik tells truly of a request that was refused, and had this id because its client sent it.
    let other = Some(SpanId(0x1234));
    assert_eq!(ledger.record(RecordReceipt { parent: other, ..refused(1, 401) }, at(1)), Told::Unproven);
    // Whoever runs a server may tell about the requests that it got, and about no others.
    let of_two = SpanReceipt { request: Some(RequestId(1)), ..span(2, 5, 10, 20) };
    assert_eq!(ledger.span(of_two, at(2)), Told::Counted);
    assert_eq!(ledger.only().held, 2);
    assert_eq!(ledger.span(SpanReceipt { parent: None, ..span(2, 6, 0, 0) }, at(3)), Told::Unproven);
    assert_eq!(ledger.settled_by(at(600)), [(1, UsageKind::Estimated, 10, 1_000)]);
}

#[test]
fn a_record_with_the_secret_parent_needs_no_trusted_sender() {
    let mut ledger = ledger();
    let proven = RecordReceipt { trust: Trust::None, ..refused(1, 503) };
    ledger.open(reservation(1), at(0));
    assert_eq!(ledger.record(proven.clone(), at(1)), Told::Counted);
    // It may come before its reservation.
    assert_eq!(ledger.record(RecordReceipt { request: RequestId(2), ..proven.clone() }, at(2)), Told::Waits);
    let early = RecordReceipt { request: RequestId(3), parent: Some(parent(3)), ..proven };
    assert_eq!(ledger.record(early, at(2)), Told::Waits);
    ledger.open(reservation(2), at(3));
    ledger.open(reservation(3), at(3));
    assert_eq!(ledger.settled_by(at(60)).iter().map(|settled| settled.0).collect::<Vec<_>>(), [1, 3]);
}

/// Traefik's own tracing puts a parent of its own in place of the secret.
#[test]
fn a_trusted_sender_needs_no_parent_and_a_parent_needs_no_id() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    let trusted = SpanReceipt { trust: Trust::Proven, parent: Some(SpanId(5)), ..span(1, 1, 10, 20) };
    assert_eq!(ledger.span(trusted, at(1)), Told::Counted);
    ledger.open(reservation(2), at(1));
    assert_eq!(ledger.span(SpanReceipt { request: None, ..span(2, 1, 10, 20) }, at(1)), Told::Counted);
    assert_eq!(ledger.take_settled().len(), 2);
}

#[test]
fn without_a_word_the_reservation_stands() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    assert_eq!(ledger.settled_by(at(599)), []);
    ledger.advance(at(600));
    let settled = ledger.only();
    assert_eq!((settled.kind, settled.ending), (UsageKind::Estimated, Ending::Unknown));
    assert_eq!((settled.used, settled.difference()), (used(10, 1_000), 0));
    let reserved = ReservedTokens::default();
    ledger.open(RequestReservation { reserved, ..reservation(2) }, at(600));
    ledger.close_all();
    assert_eq!(ledger.only().difference(), 0, "one token was taken");
}

#[test]
fn a_full_ledger_closes_its_oldest() {
    let mut ledger = ledger();
    (1..=10).for_each(|request| ledger.open(reservation(request), at(1)));
    ledger.span(span(1, 1, 10, 20), at(1));
    (11..=13).for_each(|request| ledger.open(reservation(request), at(2)));
    let ids: Vec<_> = ledger.settled_by(at(2)).into_iter().map(|(held, kind, ..)| (held, kind)).collect();
    assert_eq!(ids, [(1, UsageKind::Exact), (2, UsageKind::Estimated), (3, UsageKind::Estimated)]);
    assert_eq!((ledger.len(), ledger.counts().crowded_out), (10, 2));
}

#[test]
fn receipts_wait_for_a_reservation_that_comes_later() {
    let mut ledger = ledger();
    assert_eq!(ledger.record(record(1, 900), at(0)), Told::Waits);
    assert_eq!(ledger.span(span(1, 7, 12, 34), at(0)), Told::Waits);
    assert_eq!(ledger.span(span(1, 7, 12, 34), at(0)), Told::Waits);
    // Without the right parent it is still no proof.
    assert_eq!(ledger.span(SpanReceipt { parent: Some(SpanId(5)), ..span(1, 8, 0, 0) }, at(1)), Told::Waits);
    assert_eq!(ledger.span(SpanReceipt { request: None, ..span(2, 9, 1, 2) }, at(1)), Told::Waits);
    ledger.open(reservation(1), at(2));
    ledger.open(reservation(2), at(2));
    let settled = ledger.settled_by(at(7));
    assert_eq!(settled, [(1, UsageKind::Exact, 12, 34), (2, UsageKind::Exact, 1, 2)]);
    // Not for ever.
    ledger.record(record(3, 900), at(8));
    ledger.advance(at(18));
    assert_eq!(ledger.counts().unclaimed, 1);
    ledger.open(reservation(3), at(18));
    assert_eq!(ledger.settled_by(at(100)), []);
}

/// Whoever invents spans must not crowd out what trusted senders tell.
#[test]
fn inventions_find_room_among_themselves_only() {
    let mut ledger = Ledger::new(LedgerOptions { early_capacity: 3, ..LedgerOptions::default() });
    ledger.record(record(1, 0), at(0));
    for number in 100..200 {
        ledger.span(span(number, 1, 1, 1), at(0));
    }
    ledger
        .open(RequestReservation { shape: RequestShape { traces: false, ..SHAPE }, ..reservation(1) }, at(1));
    assert_eq!((ledger.settled_by(at(1)).len(), ledger.counts().unclaimed), (1, 97));
}

/// A vLLM that was not told to export spans: each request would give its tokens back five seconds late.
#[test]
fn spans_that_never_come_are_no_longer_waited_for() {
    let mut ledger = ledger();
    let mut waited = 0;
    for request in 1..=20 {
        ledger.open(reservation(request), at(10 * u64::try_from(request).expect("small")));
        ledger.record(record(request, 900), at(10 * u64::try_from(request).expect("small")));
        waited += usize::from(!ledger.is_empty());
        ledger.advance(at(10 * u64::try_from(request).expect("small") + 6));
    }
    assert_eq!(waited, 8);
    // One that comes late is enough to wait for them again.
    assert_eq!(ledger.span(span(20, 1, 10, 20), at(300)), Told::Late);
    ledger.take_settled();
    ledger.open(reservation(21), at(300));
    ledger.record(record(21, 900), at(301));
    ledger.span(span(21, 1, 10, 20), at(302));
    assert_eq!(ledger.settled_by(at(302)), [(21, UsageKind::Exact, 10, 20)]);
}

/// Requests of one key are measured by what others' spans have taught, to a few per cent.
#[test]
fn exact_receipts_teach_how_to_measure() {
    let mut ledger = Ledger::new(LedgerOptions::default());
    let text = |request: u128| 20 + u64::try_from(request).expect("small") * 13 % 200;
    let answer = |request: u128| 10 + u64::try_from(request).expect("small") * 29 % 300;
    let told = |request| record(request, 380 + 190 * answer(request));
    let opened = |request: u128| {
        let prompt = u32::try_from(text(request)).expect("small");
        RequestReservation {
            reserved: ReservedTokens { prompt, ..reservation(1).reserved },
            ..reservation(request)
        }
    };
    for request in 1..=200 {
        ledger.open(opened(request), at(0));
        ledger.span(span(request, 1, 9 + text(request) * 6 / 5, answer(request)), at(0));
        ledger.record(told(request), at(0));
    }
    ledger.advance(at(5));
    ledger.take_settled();
    let (mut prompt, mut completion) = (0, 0);
    for request in 1_001..=1_200 {
        ledger.open(opened(request), at(10));
        ledger.record(aborted(request, told(request).answer_bytes), at(10));
        prompt += 9 + text(request) * 6 / 5;
        completion += answer(request);
    }
    let settled = ledger.settled_by(at(20));
    let got_prompt: u64 = settled.iter().map(|one| one.2).sum();
    let got_completion: u64 = settled.iter().map(|one| one.3).sum();
    assert!(settled.iter().all(|one| one.1 == UsageKind::Measured));
    assert!(got_prompt.abs_diff(prompt) * 50 < prompt, "{got_prompt} of {prompt}");
    assert!(got_completion.abs_diff(completion) * 50 < completion, "{got_completion} of {completion}");
}

#[test]
fn absurd_numbers_do_not_overflow() {
    let mut ledger = ledger();
    let shape = RequestShape { choices: u16::MAX, prompts: u16::MAX, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
    for number in 0..100 {
        let absurd = SpanReceipt {
            cached_tokens: Some(u64::MAX),
            choices: Some(u32::MAX),
            ..span(1, number, u64::MAX, u64::MAX)
        };
        ledger.span(absurd, at(1));
    }
    let end = RecordReceipt { retries: u32::MAX, answer_bytes: u64::MAX, ..record(1, 0) };
    ledger.record(end, at(2));
    ledger.advance(at(60));
    assert!(ledger.only().difference() > 0);
}

#[test]
fn queues_stay_as_short_as_what_is_open() {
    let mut ledger = Ledger::new(LedgerOptions::default());
    for request in 0..20_000 {
        ledger.open(reservation(request), at(0));
        ledger.span(span(request, 1, 1, 1), at(0));
    }
    assert!(ledger.waits.len() <= 1_100, "{}", ledger.waits.len());
    assert_eq!(ledger.take_settled().len(), 20_000);
}

/// A list of texts to embed has a span for each, and the request does not say how many it has.
#[test]
fn texts_that_are_embedded_are_waited_for() {
    let embeddings = || RequestReservation {
        shape: RequestShape { endpoint: MeteredEndpoint::Other, ..SHAPE },
        reserved: ReservedTokens { prompt: 500, completion: 0, is_open: false },
        ..reservation(1)
    };
    for record_first in [true, false] {
        let mut ledger = ledger();
        ledger.open(embeddings(), at(0));
        if record_first {
            ledger.record(record(1, 9_000), at(1));
        }
        for number in 1..=3 {
            let told =
                ledger.span(SpanReceipt { part: format!("-{number}"), ..span(1, number, 100, 0) }, at(2));
            assert_eq!(told, Told::Counted, "{number}");
        }
        ledger.record(record(1, 9_000), at(3));
        assert_eq!(ledger.settled_by(at(60)), [(1, UsageKind::Exact, 300, 0)]);
    }
}

/// Regression: it was closed five seconds after the first span, and a hard budget got back what the server went on to use.
#[test]
fn texts_that_are_embedded_one_after_another_are_waited_for_until_the_end() {
    let shape = RequestShape { endpoint: MeteredEndpoint::Embeddings, ..SHAPE };
    let reserved = ReservedTokens { prompt: 2_000, completion: 0, is_open: false };
    // Without Traefik's records nobody tells how many texts there are.
    for (has_records, expected) in [(true, (UsageKind::Exact, 2_000)), (false, (UsageKind::Measured, 600))] {
        let mut ledger = ledger();
        if has_records {
            ledger.open(reservation(99), at(0));
            ledger.record(record(99, 0), at(0));
        }
        ledger.open(RequestReservation { shape, reserved, ..reservation(1) }, at(0));
        for number in 1..=20_u64 {
            // Of some, nothing comes for longer than the rest of a request is waited for.
            let second = if number > 6 { 20 + number } else { number };
            ledger.advance(at(second));
            ledger.span(SpanReceipt { part: format!("-{number}"), ..span(1, number, 100, 0) }, at(second));
        }
        if has_records {
            assert_eq!(ledger.len(), 1, "it goes on");
            ledger.record(record(1, 9_000), at(41));
        }
        ledger.advance(at(600));
        let settled = ledger.take_settled().into_iter().find(|settled| settled.held == 1).expect("settled");
        assert_eq!((settled.kind, settled.used.total()), expected, "{has_records}");
    }
}

/// Regression: the copy that Traefik sends to a mirror has the same headers, and its three tokens stood for the 1,900 of the answer.
#[test]
fn of_a_request_with_a_mirror_no_span_counts() {
    let mut ledger = ledger();
    let shape = RequestShape { is_mirrored: true, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
    assert_eq!(ledger.span(span(1, 1, 10, 3), at(1)), Told::Unproven);
    ledger.record(record(1, 9_000), at(2));
    // Nor is one waited for.
    assert_eq!(ledger.only().kind, UsageKind::Measured);
}

/// Counting tokens, say, never has a span: spans of other requests are waited for all the same.
#[test]
fn what_generates_nothing_does_not_tell_that_a_server_is_silent() {
    let mut ledger = ledger();
    let shape = RequestShape { endpoint: MeteredEndpoint::Other, ..SHAPE };
    let reserved = ReservedTokens { prompt: 5, completion: 0, is_open: false };
    for request in 1..=20 {
        ledger.open(RequestReservation { shape, reserved, ..reservation(request) }, at(0));
        ledger.record(record(request, 900), at(0));
    }
    ledger.settled_by(at(30));
    ledger.open(reservation(21), at(31));
    ledger.record(record(21, 900), at(32));
    ledger.span(span(21, 99, 7, 70), at(33));
    assert_eq!(ledger.settled_by(at(60)), [(21, UsageKind::Exact, 7, 70)]);
}

/// Ids are random: all of their bits count, or one request's end settles another.
#[test]
fn the_whole_of_an_id_is_kept_until_it_is_due() {
    let mut ledger = ledger();
    let ids = [1, 1 << 64, 0xdead_beef_u128 << 96 | 7, u128::MAX];
    for (held, id) in (1..).zip(ids) {
        let parent = SpanId(id as u64 ^ (id >> 64) as u64 ^ 0x5eed);
        ledger.open(RequestReservation { request: RequestId(id), parent, ..reservation(held) }, at(0));
    }
    let held: Vec<u32> = ledger.settled_by(at(600)).into_iter().map(|settled| settled.0).collect();
    assert_eq!((held, ledger.len()), (vec![1, 2, 3, 4], 0));
}

/// What proves nothing must not make Modelgate wait for more of it, nor wait itself for a reservation.
#[test]
fn what_proves_nothing_is_counted_and_forgotten() {
    let mut ledger = ledger();
    ledger.open(reservation(1), at(0));
    ledger.record(refused(1, 503), at(0));
    let no_parent = SpanReceipt { parent: None, ..span(2, 1, 0, 0) };
    for (told, expected) in [
        // A closed request, with another's secret and without any.
        (ledger.record(RecordReceipt { parent: Some(SpanId(5)), ..refused(1, 401) }, at(1)), Told::Unproven),
        (ledger.record(RecordReceipt { parent: None, ..refused(1, 401) }, at(1)), Told::Unproven),
        (ledger.record(refused(1, 503), at(1)), Told::Late),
        // One that nobody knows.
        (ledger.record(RecordReceipt { parent: None, ..record(2, 9) }, at(1)), Told::Unproven),
        (ledger.span(no_parent.clone(), at(1)), Told::Unproven),
        (ledger.span(SpanReceipt { request: None, ..no_parent.clone() }, at(1)), Told::Unproven),
        // A trusted sender may know one that comes later, but this one could not be found again.
        (ledger.span(SpanReceipt { trust: Trust::Proven, ..no_parent.clone() }, at(1)), Told::Waits),
        (
            ledger.span(SpanReceipt { trust: Trust::Proven, request: None, ..no_parent.clone() }, at(1)),
            Told::Waits,
        ),
        (ledger.span(SpanReceipt { trust: Trust::Proven, request: None, ..no_parent }, at(1)), Told::Waits),
    ] {
        assert_eq!(told, expected);
    }
    let counts = ledger.counts();
    assert_eq!((counts.unproven, counts.late, counts.unclaimed, counts.measured), (5, 1, 2, 1));
    ledger.open(reservation(3), at(2));
    ledger.open(reservation(4), at(2));
    ledger.close_all();
    assert_eq!(ledger.counts().estimated, 2);
}

/// A sender whose records count is waited for; anybody else could make each request wait.
#[test]
fn records_are_waited_for_once_one_has_counted() {
    for (record, waits) in [
        (record(99, 0), true),
        (RecordReceipt { trust: Trust::None, ..record(2, 900) }, true),
        (RecordReceipt { trust: Trust::None, ..record(99, 0) }, false),
        (RecordReceipt { parent: None, ..record(2, 900) }, false),
    ] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        ledger.open(reservation(2), at(0));
        ledger.record(record.clone(), at(1));
        ledger.span(span(1, 7, 12, 34), at(2));
        let is_open = ledger.take_settled().iter().all(|settled| settled.held != 1);
        assert_eq!(is_open, waits, "{record:?}");
    }
}

/// A request that is told about after a quarter of an hour comes late; only the latest can be told so.
#[test]
fn the_requests_that_were_closed_last_are_known() {
    let mut ledger = ledger();
    for request in 0..=16_384 {
        ledger.open(reservation(request), at(0));
        ledger.record(refused(request, 503), at(0));
    }
    assert_eq!(ledger.record(refused(0, 503), at(1)), Told::Waits, "forgotten");
    assert_eq!(ledger.record(refused(1, 503), at(1)), Told::Late);
}

/// A refusal says nothing about a server's spans, nor does a client that goes away.
#[test]
fn only_answers_without_a_span_tell_that_a_server_is_silent() {
    let answered = |request| RecordReceipt { compute_tokens: Some(5), ..record(request, 900) };
    for end in [|request| refused(request, 503), |request| aborted(request, 900), answered] {
        let mut ledger = ledger();
        for request in 1..=20 {
            ledger.open(reservation(request), at(0));
            ledger.record(end(request), at(0));
            ledger.advance(at(9));
        }
        ledger.take_settled();
        ledger.open(reservation(21), at(31));
        ledger.record(record(21, 900), at(32));
        ledger.span(span(21, 99, 7, 70), at(33));
        assert_eq!(ledger.settled_by(at(60)), [(21, UsageKind::Exact, 7, 70)]);
    }
}

/// Nor does a request that could generate nothing, or whose answers are not known.
#[test]
fn only_what_generates_tells_that_a_server_is_silent() {
    for (endpoint, completion) in [(MeteredEndpoint::ChatCompletions, 0), (MeteredEndpoint::Other, 1_000)] {
        let mut ledger = ledger();
        let shape = RequestShape { endpoint, ..SHAPE };
        let reserved = ReservedTokens { prompt: 5, completion, is_open: false };
        for request in 1..=20 {
            ledger.open(RequestReservation { shape, reserved, ..reservation(request) }, at(0));
            ledger.record(record(request, 900), at(0));
            ledger.advance(at(9));
        }
        ledger.take_settled();
        ledger.open(reservation(21), at(31));
        ledger.record(record(21, 900), at(32));
        ledger.span(span(21, 99, 7, 70), at(33));
        assert_eq!(ledger.settled_by(at(60)), [(21, UsageKind::Exact, 7, 70)], "{endpoint:?}");
    }
}

/// Clients may invent names at a gate: memory is bounded, and a model too many is settled without waiting.
#[test]
fn models_are_told_apart_up_to_a_number() {
    let mut ledger = ledger();
    let of = |model: u32, request| RequestReservation {
        model: format!("m{model}").into(),
        ..reservation(request)
    };
    for model in 0..4_096 {
        ledger.open(of(model, model.into()), at(0));
        ledger.span(span(model.into(), 1, 1, 1), at(0));
    }
    ledger.take_settled();
    let waits = |ledger: &mut Ledger<u32>, model, request| {
        ledger.open(of(model, request), at(0));
        ledger.record(record(request, 900), at(0));
        ledger.take_settled().is_empty()
    };
    assert!(waits(&mut ledger, 4_095, 10_001));
    assert!(!waits(&mut ledger, 4_096, 10_002), "one too many");
    ledger.open(of(4_096, 10_003), at(0));
    ledger.span(span(10_003, 1, 1, 1), at(0));
    assert!(!waits(&mut ledger, 4_096, 10_004), "and so it stays");
}

/// Some spans of several were told when the end comes: the others may follow, refused or not.
#[test]
fn the_rest_of_several_spans_is_waited_for() {
    let shape = RequestShape { prompts: 4, traces: false, ..SHAPE };
    for end in [record(1, 9_000), refused(1, 502)] {
        let mut ledger = ledger();
        ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
        ledger.span(span(1, 1, 10, 30), at(1));
        ledger.record(end, at(2));
        assert_eq!(ledger.take_settled(), []);
        for number in 2..=4 {
            ledger.span(span(1, number, 10, 30), at(3));
        }
        assert_eq!(ledger.settled_by(at(60)), [(1, UsageKind::Exact, 40, 120)]);
    }
    // Without an end, three quarters of the reservation stand.
    let mut ledger = ledger();
    ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
    ledger.span(span(1, 1, 10, 30), at(1));
    ledger.close_all();
    let settled = ledger.only();
    assert_eq!(
        (settled.kind, settled.used, settled.ending),
        (UsageKind::Estimated, used(40, 780), Ending::Unknown)
    );
}

/// With several choices of several prompts nobody says which choice was first: each has its share.
#[test]
fn cached_tokens_of_choices_of_several_prompts_are_shared() {
    let mut ledger = ledger();
    let shape = RequestShape { choices: 2, prompts: 2, ..SHAPE };
    ledger.open(RequestReservation { shape, ..reservation(1) }, at(0));
    for (number, cached) in [(1, 8), (2, 8), (3, 6), (4, 7)] {
        let span = SpanReceipt { cached_tokens: Some(cached), choices: Some(2), ..span(1, number, 20, 5) };
        ledger.span(span, at(1));
    }
    assert_eq!(ledger.only().used, UsedTokens { prompt: 40, cached: Some(14), completion: 20 });
}

#[test]
fn an_end_is_told_by_both_statuses() {
    for (status, server_status, ending) in [
        (200, 200, Ending::Finished),
        (200, 0, Ending::Aborted),
        (299, 0, Ending::Aborted),
        (304, 0, Ending::Finished),
        // The answer to a request that was worked on is elsewhere.
        (303, 303, Ending::Finished),
        (307, 307, Ending::Refused),
        (308, 308, Ending::Refused),
        // Something between the server and the client has made a redirect of an answer.
        (307, 200, Ending::Finished),
        (307, 0, Ending::Finished),
        (200, 500, Ending::Refused),
        (502, 0, Ending::Refused),
        (499, 0, Ending::Aborted),
        (504, 0, Ending::Aborted),
    ] {
        let mut ledger = ledger();
        ledger.open(reservation(1), at(0));
        ledger.record(RecordReceipt { status, server_status, ..record(1, 900) }, at(1));
        ledger.advance(at(60));
        assert_eq!(ledger.only().ending, ending, "{status} {server_status}");
    }
}

/// The page of a model shows whether its tokens are measured by what its own requests have taught.
#[test]
fn what_was_learned_is_there_to_be_shown() {
    let mut ledger = ledger();
    assert!(ledger.calibration().is_empty());
    ledger.open(reservation(1), at(0));
    ledger.span(span(1, 7, 12, 34), at(1));
    ledger.record(record(1, 9_000), at(1));
    assert!(ledger.calibration().is_empty(), "closed before Traefik's word, so without its bytes");
    ledger.open(reservation(2), at(1));
    ledger.record(record(2, 9_000), at(1));
    ledger.span(span(2, 7, 12, 34), at(1));
    assert!(!ledger.calibration().is_empty());
}

/// One of two prompts was worked on; what the server tells of the other one a moment later would come too late.
#[test]
fn the_rest_is_waited_for_if_a_refused_request_had_a_part() {
    let mut ledger = ledger();
    ledger.open(RequestReservation { shape: RequestShape { prompts: 2, ..SHAPE }, ..reservation(1) }, at(0));
    ledger.span(span(1, 1, 12, 34), at(1));
    ledger.record(RecordReceipt { duration: Duration::from_millis(20), ..refused(1, 503) }, at(1));
    assert_eq!(ledger.take_settled(), []);
    ledger.span(span(1, 2, 12, 36), at(2));
    assert_eq!(ledger.settled_by(at(2)), [(1, UsageKind::Exact, 24, 70)]);
}

/// An answer that nobody waited for is measured by the pace of others. A stream's time depends on its client, endpoints without an answer
/// have no pace, and what is only estimated proves none.
#[test]
fn only_whole_answers_whose_tokens_are_known_tell_the_pace() {
    let whole = RequestShape { streams: false, traces: false, ..SHAPE };
    for (shape, completion, is_told) in [
        (whole, 1_000, true),
        (RequestShape { streams: true, ..whole }, 1_000, false),
        (whole, 0, false),
        (RequestShape { is_shaped: true, ..whole }, 1_000, false),
    ] {
        let mut ledger = ledger();
        let reserved = ReservedTokens { completion, ..reservation(1).reserved };
        ledger.open(RequestReservation { shape, reserved, ..reservation(1) }, at(0));
        ledger.record(record(1, 9_000), at(1));
        ledger.advance(at(60));
        let kind = ledger.only().kind;
        assert_eq!(kind == UsageKind::Estimated, shape.is_shaped, "{shape:?}");
        let pace = ledger.calibration().generated_in(&reservation(1).model, shape, SECOND);
        assert_eq!(pace.is_some(), is_told, "{shape:?} {completion}");
    }
}

/// The calibration may have learned that each answer has some tokens beside its bytes. Before the first byte there is no answer.
#[test]
fn a_client_that_left_before_the_first_byte_pays_for_no_answer() {
    let mut ledger = ledger();
    for bytes in [10, 10_000] {
        let model = reservation(1).model;
        ledger.calibration_mut().learn_completion(&model, SHAPE, 1, bytes, 300 + bytes / 225);
    }
    for (request, bytes, expected) in [(1, 0, 0..=0), (2, 1, 250..=350)] {
        ledger.open(reservation(request), at(0));
        ledger.record(aborted(request, bytes), at(1));
        ledger.advance(at(60));
        let completion = ledger.only().used.completion;
        assert!(expected.contains(&completion), "{completion} for {bytes} bytes");
    }
}
