use super::{
    account::{MOST_HOURS, MOST_LINES},
    *,
};
use crate::{
    Ledger, LedgerOptions, Receipt, RequestReservation, RequestShape, ReservedTokens,
    testing::{SHAPE, aborted, record, refused, reservation, span},
};

const EXCLUSIVE: Terms = Terms { exclusive: true, leaves_out_cached: false, repeats_prompts: false };

#[test]
fn a_difference_counts_from_16_tokens_and_one_percent_on() {
    use BookDifference::{Missing, None, NotOurs};
    for (counted, settled, expected) in [
        (0, 0, None),
        (1_016, 1_000, None),
        (1_017, 1_000, NotOurs(17)),
        (1_000, 1_017, Missing(17)),
        (10_000, 10_101, None),
        (10_000, 10_102, Missing(102)),
        (10_102, 10_000, NotOurs(102)),
        (16, 0, None),
        (17, 0, NotOurs(17)),
    ] {
        assert_eq!(BookDifference::between(counted, settled), expected, "{counted} and {settled}");
    }
    let correction = UsageCorrection {
        request: RequestId(1),
        whose: (),
        model: Arc::from("llama"),
        kind: UsageKind::Measured,
        settled: 100,
        prompt: -30,
        cached: 5,
        completion: 12,
    };
    assert_eq!(correction.difference(), -18, "cached tokens are among those of the prompt");
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(7_200 + seconds)
}

fn server() -> Arc<str> {
    Arc::from("http://10.0.0.1:8000")
}

fn counters(prompt: u64, completion: u64) -> Counters {
    Counters { prompt, cached: 0, completion }
}

/// The books of one server, with all that teaches them.
struct Shop {
    books: Books<u32>,
    calibration: Calibration,
    ledger: Ledger<u32>,
}

impl Shop {
    /// The server was idle, and had counted this.
    fn new(terms: Terms, before: Counters) -> Self {
        let ledger = Ledger::new(LedgerOptions { grace: Duration::ZERO, ..LedgerOptions::default() });
        let mut shop = Self { books: Books::new(), calibration: Calibration::default(), ledger };
        assert_eq!(shop.read(before, terms), []);
        shop
    }

    fn read(&mut self, counters: Counters, terms: Terms) -> Vec<UsageCorrection<u32>> {
        self.read_at(counters, terms, true, 1)
    }

    fn read_at(
        &mut self,
        counters: Counters,
        terms: Terms,
        is_idle: bool,
        seconds: u64,
    ) -> Vec<UsageCorrection<u32>> {
        let calibration = &mut self.calibration;
        let balance = self.books.read(&server(), counters, terms, is_idle, calibration, at(seconds));
        balance.map_or_else(Vec::new, |balance| balance.corrections)
    }

    /// Settles a request by what was told about it.
    fn settle(&mut self, request: u128, receipt: Receipt) -> RequestSettlement<u32> {
        let shape = RequestShape { traces: false, ..SHAPE };
        self.settle_opened(RequestReservation { shape, ..reservation(request) }, receipt)
    }

    fn settle_opened(&mut self, opened: RequestReservation<u32>, receipt: Receipt) -> RequestSettlement<u32> {
        self.ledger.open(opened, Duration::ZERO);
        self.ledger.tell(receipt, Duration::ZERO);
        self.ledger.advance(Duration::ZERO);
        let one = self.ledger.take_settled().remove(0);
        self.books.settled(&server(), one.clone());
        one
    }

    fn measured(&mut self, request: u128, tokens: u64) -> RequestSettlement<u32> {
        self.settle(request, Receipt::Record(record(request, 450 + 225 * tokens)))
    }

    fn row(&self) -> BookRow {
        *self.books.rows(&server()).next().expect("a row").1
    }
}

#[test]
fn counters_start_anew_with_the_server() {
    let mut shop = Shop::new(Terms::default(), counters(1_000, 2_000));
    for (now, sum) in [((1_100, 2_050), (100, 50)), ((30, 7), (130, 57)), ((31, 9), (131, 59))] {
        shop.read(counters(now.0, now.1), Terms::default());
        assert_eq!(shop.row().counted, counters(sum.0, sum.1));
    }
}

#[test]
fn differences_are_named() {
    let mut shop = Shop::new(Terms::default(), counters(0, 0));
    shop.settle(1, Receipt::Span(span(1, 1, 10, 500)));
    shop.read(counters(2_010, 500), Terms::default());
    let row = shop.row();
    assert_eq!((row.requests, row.settled), (1, counters(10, 500)));
    assert_eq!(row.completion_difference(), BookDifference::None);
    assert_eq!(row.prompt_difference(), BookDifference::NotOurs(2_000), "others use the server too");
    shop.measured(2, 700);
    shop.read(counters(2_020, 600), Terms::default());
    assert_eq!(shop.row().completion_difference(), BookDifference::Missing(600));
    let (hour, _) = shop.books.rows(&server()).next().expect("a row");
    assert_eq!((hour, hour.start()), (Hour(2), at(0)));
    shop.books.retain(|name| *name != *server());
    assert_eq!(shop.books.rows(&server()).count(), 0);
}

#[test]
fn receipts_of_an_exclusive_server_are_corrected_to_what_it_counted() {
    let mut shop = Shop::new(EXCLUSIVE, counters(70, 80));
    let exact = shop.settle(1, Receipt::Span(span(1, 1, 40, 300)));
    shop.settle(2, Receipt::Record(refused(2, 503)));
    let measured = [shop.measured(3, 100), shop.measured(4, 200)];
    let cut = shop.settle(5, Receipt::Record(aborted(5, 450 + 225 * 50)));
    let corrections = shop.read(counters(70 + 40 + 60, 80 + 300 + 385), EXCLUSIVE);
    let by: Vec<_> = corrections.iter().map(|one| (one.whose, one.prompt, one.completion)).collect();
    assert_eq!(by, [(3, 10, 10), (4, 10, 20), (5, 10, 5)], "in proportion; the exact one stays");
    let settled: u64 = [&exact, &measured[0], &measured[1], &cut].iter().map(|one| one.used.completion).sum();
    assert_eq!(i64::try_from(settled).expect("small") + 35, 300 + 385);
    let row = shop.row();
    assert_eq!((row.settled, row.counted), (counters(100, 685), counters(100, 685)));
    assert_eq!(shop.read(counters(70 + 40 + 60, 80 + 300 + 385), EXCLUSIVE), [], "corrected once");
}

#[test]
fn no_correction_goes_beyond_a_reservation() {
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    shop.measured(1, 100);
    let corrections = shop.read(counters(5_000, 5_000), EXCLUSIVE);
    assert_eq!((corrections[0].completion, corrections[0].prompt), (900, 0), "1,000 and 10 were reserved");
    assert_eq!(shop.row().completion_difference(), BookDifference::NotOurs(4_000));
}

/// Regression: a prompt that was measured above its estimate was taken from the answer, so answers stayed below what was counted.
#[test]
fn a_prompt_above_its_estimate_takes_nothing_from_the_answer() {
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    let shape = RequestShape { traces: false, ..SHAPE };
    shop.ledger.calibration_mut().learn_prompt(&Arc::from("llama"), shape, 100, 1_000, 4_000);
    let settled = shop.measured(1, 100);
    assert!(settled.used.prompt > settled.reserved.prompt.into(), "{settled:?}");
    let corrections = shop.read(counters(settled.used.prompt, 1_000), EXCLUSIVE);
    assert_eq!((corrections[0].completion, corrections[0].prompt), (900, 0));
}

#[test]
fn prompts_that_a_counter_leaves_out_were_cached() {
    let terms = Terms { leaves_out_cached: true, ..EXCLUSIVE };
    let mut shop = Shop::new(terms, counters(0, 0));
    shop.measured(1, 100);
    shop.measured(2, 100);
    let corrections = shop.read(counters(14, 200), terms);
    let by: Vec<_> = corrections.iter().map(|one| (one.prompt, one.cached, one.completion)).collect();
    assert_eq!(by, [(0, 3, 0), (0, 3, 0)]);
    let row = shop.row();
    assert_eq!((row.settled, row.counted), (Counters { cached: 6, ..counters(14, 200) }, counters(14, 200)));
}

#[test]
fn cached_tokens_that_a_server_counts_are_shared_out() {
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    shop.measured(1, 100);
    shop.measured(2, 300);
    let corrections = shop.read(Counters { cached: 15, ..counters(20, 400) }, EXCLUSIVE);
    let by: Vec<_> = corrections.iter().map(|one| (one.prompt, one.cached, one.completion)).collect();
    assert_eq!(by, [(0, 8, 0), (0, 7, 0)]);
}

/// vLLM counts the prompt of a request with `n: 2` twice; a span's settlement has it once.
#[test]
fn a_prompt_may_count_once_for_each_of_its_answers() {
    let terms = Terms { repeats_prompts: true, ..EXCLUSIVE };
    let mut shop = Shop::new(terms, counters(0, 0));
    let shape = RequestShape { traces: false, choices: 2, ..SHAPE };
    let two = RequestReservation { shape, ..reservation(1) };
    shop.settle_opened(two, Receipt::Record(record(1, 450 + 225 * 100)));
    let corrections = shop.read(counters(2 * 12, 90), terms);
    assert_eq!((corrections[0].prompt, corrections[0].completion), (2, -10));
    assert_eq!(shop.row().settled, counters(24, 90));
}

#[test]
fn a_busy_server_is_balanced_when_it_is_idle_or_after_many_requests() {
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    shop.measured(1, 100);
    assert_eq!(shop.read_at(counters(10, 170), EXCLUSIVE, false, 1), []);
    shop.measured(2, 100);
    let corrections = shop.read(counters(20, 220), EXCLUSIVE);
    assert_eq!(corrections.iter().map(|one| one.completion).collect::<Vec<_>>(), [10, 10]);
    let mut all = counters(20, 220);
    for request in 3..3 + 4_096 {
        shop.measured(request, 10);
        all.add(counters(10, 11));
    }
    // It works on another one, of which it has counted some already.
    all.add(counters(10, 40));
    let corrections = shop.read_at(all, EXCLUSIVE, false, 2);
    let more: i64 = corrections.iter().map(|one| one.completion).sum();
    assert_eq!(more, 4_096 + 40, "the difference evens out with the next balance");
    shop.measured(5_000, 90);
    all.add(counters(0, 50));
    assert_eq!(shop.read_at(all, EXCLUSIVE, false, 3), []);
    assert_eq!(shop.books.rows(&server()).count(), 1);
    assert_eq!(shop.read_at(all, EXCLUSIVE, false, 3_600), [], "so few requests are not corrected");
    assert_eq!(
        shop.books.rows(&server()).count(),
        1,
        "what was until then belongs to the hour that has ended"
    );
    shop.measured(5_001, 90);
    shop.read_at(all, EXCLUSIVE, false, 7_200);
    assert_eq!(shop.books.rows(&server()).map(|(_, row)| row.requests).collect::<Vec<_>>(), [4_099, 1]);
}

/// Regression: only a reading of exactly 4,096 requests corrected a server that is never idle.
#[test]
fn a_busy_exclusive_server_is_corrected_at_any_reading_after_enough_requests() {
    let mut shop = Shop { books: Books::new(), ..Shop::new(EXCLUSIVE, counters(0, 0)) };
    let mut all = counters(7, 7);
    assert_eq!(shop.read_at(all, EXCLUSIVE, false, 0), []);
    for (requests, is_corrected) in [(511, false), (200, true), (3_000, true), (5_000, false)] {
        for request in 0..requests {
            shop.measured(request, 10);
            all.add(counters(10, 11));
        }
        let corrections = shop.read_at(all, EXCLUSIVE, false, 1);
        assert_eq!(!corrections.is_empty(), is_corrected, "{requests}");
    }
    assert_eq!(shop.row().requests, 8_711, "a server that was never idle has its rows, too");
}

/// What a server has counted for a request that nobody has placed would be taken from others.
#[test]
fn a_request_that_may_have_been_at_a_server_keeps_it_from_being_corrected() {
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    shop.measured(1, 100);
    shop.books.settled_somewhere(|name| *name == *server());
    assert_eq!(shop.read(counters(20, 300), EXCLUSIVE), []);
    shop.measured(2, 100);
    shop.books.settled_somewhere(|name| *name != *server());
    assert_eq!(shop.read(counters(30, 410), EXCLUSIVE)[0].completion, 10);
}

/// What a server had counted before it was killed is lost with it: nothing is made of the rest.
#[test]
fn a_restart_corrects_nothing() {
    let mut shop = Shop::new(EXCLUSIVE, counters(500, 500));
    shop.measured(1, 100);
    assert_eq!(shop.read_at(counters(0, 3), EXCLUSIVE, false, 1), []);
    shop.measured(2, 100);
    assert_eq!(shop.read(counters(10, 110), EXCLUSIVE), []);
    assert_eq!((shop.row().restarts, shop.row().requests), (1, 2));
    shop.measured(3, 100);
    assert_eq!(shop.read(counters(20, 230), EXCLUSIVE)[0].completion, 20, "known again");
}

/// Requests that ran when the server was first asked are on one side only.
#[test]
fn nothing_is_corrected_before_the_server_was_idle() {
    let mut shop = Shop { books: Books::new(), ..Shop::new(EXCLUSIVE, counters(0, 0)) };
    assert_eq!(shop.read_at(counters(100, 100), EXCLUSIVE, false, 0), []);
    shop.measured(1, 100);
    assert_eq!(shop.read(counters(100, 130), EXCLUSIVE), []);
    shop.measured(2, 100);
    assert_eq!(shop.read(counters(110, 240), EXCLUSIVE)[0].completion, 10);
}

/// A llama.cpp server with a template of 25 tokens, and chunks of 300 bytes. Others use it at times, which must not make our
/// requests dearer; and at times it has a prompt in its cache.
#[test]
fn counters_teach_how_to_measure_and_others_use_does_not() {
    let terms = Terms { leaves_out_cached: true, ..Terms::default() };
    let mut shop = Shop::new(terms, counters(0, 0));
    let (mut sum, mut request) = (counters(0, 0), 0_u64);
    for round in 0..40 {
        for _ in 0..3 {
            request += 1;
            let (text, tokens) = (30 + request * 17 % 200, 20 + request * 31 % 150);
            sum.add(counters(25 + text * 3 / 2, tokens));
            let reserved =
                ReservedTokens { prompt: u32::try_from(text).expect("small"), ..reservation(1).reserved };
            let id = u128::from(request);
            let quiet = RequestShape { traces: false, ..SHAPE };
            let opened = RequestReservation { shape: quiet, reserved, ..reservation(id) };
            shop.settle_opened(opened, Receipt::Record(record(id, 600 + 300 * tokens)));
        }
        match round % 5 {
            1 => sum.add(counters(9_000, 5_000)),
            3 => sum.prompt -= 150,
            _ => {}
        }
        shop.read(sum, terms);
    }
    let found = shop.calibration.completion(&Arc::from("llama"), SHAPE, 600 + 300 * 100);
    assert!((97..=103).contains(&found), "{found} instead of 100");
    let found = shop.calibration.prompt(&Arc::from("llama"), SHAPE, 100);
    assert!((165..=180).contains(&found), "{found} instead of 175");
}

#[test]
fn memory_is_bounded() {
    let (mut books, mut calibration) = (Books::<u32>::new(), Calibration::default());
    for number in 0..MOST_SERVERS + 10 {
        let name = Arc::from(number.to_string());
        books.read(&name, counters(0, 0), EXCLUSIVE, true, &mut calibration, at(0));
    }
    assert_eq!(books.servers.len(), MOST_SERVERS);
    let mut shop = Shop::new(EXCLUSIVE, counters(0, 0));
    for hour in 0..100 {
        shop.read_at(counters(hour, 0), EXCLUSIVE, true, hour * 3_600);
    }
    assert_eq!(shop.books.rows(&server()).count(), MOST_HOURS);
    let one = shop.measured(1, 10);
    (0..5_000).for_each(|_| shop.books.settled(&server(), one.clone()));
    assert_eq!((shop.books.lines, shop.books.servers[&server()].lines()), (MOST_LINES, MOST_LINES));
    let ours = 5_001 * 10;
    assert_eq!(shop.read(counters(99 + ours, 2 * ours), EXCLUSIVE), [], "not all are known");
    let (_, last) = shop.books.rows(&server()).last().expect("a row");
    assert_eq!((last.requests, shop.books.lines), (5_001, 0));
    for number in 0..20 {
        for _ in 0..MOST_LINES {
            books.settled(&number.to_string(), one.clone());
        }
    }
    assert_eq!(books.lines, MOST_LINES_OF_ALL);
    books.retain(|name| name == "1");
    assert_eq!(books.lines, MOST_LINES);
    books.settled("a server without counters", one);
}

/// A client that went away has used what nobody has seen, and what is exact already needs no measure.
#[test]
fn only_balances_of_measured_whole_answers_teach() {
    type Other = fn(&mut Shop);
    let others: [(&str, Other, bool); 4] = [
        ("nothing else", |_| (), true),
        ("a refused one", |shop| drop(shop.settle(2, Receipt::Record(refused(2, 503)))), true),
        ("an aborted one", |shop| drop(shop.settle(2, Receipt::Record(aborted(2, 9_000)))), false),
        ("an exact one", |shop| drop(shop.settle(2, Receipt::Span(span(2, 1, 10, 100)))), false),
    ];
    for (name, other, teaches) in others {
        let mut shop = Shop::new(Terms::default(), counters(0, 0));
        shop.measured(1, 100);
        other(&mut shop);
        shop.read(counters(20, 200), Terms::default());
        assert_eq!(!shop.calibration.is_empty(), teaches, "{name}");
    }
}

/// Otherwise the first balance of a server whose counter stands still would make all its answers free.
#[test]
fn what_no_counter_has_counted_teaches_nothing() {
    let found = |silent: bool, counted| {
        let mut shop = Shop::new(Terms::default(), counters(0, 0));
        shop.measured(1, 100);
        if silent {
            // It has bytes, but no answer in tokens.
            let reserved = ReservedTokens { completion: 0, ..reservation(2).reserved };
            let shape = RequestShape { traces: false, ..SHAPE };
            let opened = RequestReservation { reserved, shape, ..reservation(2) };
            shop.settle_opened(opened, Receipt::Record(record(2, 500_000)));
        }
        shop.read(counters(20, counted), Terms::default());
        shop.calibration.completion(&Arc::from("llama"), SHAPE, 450 + 225 * 100)
    };
    assert_eq!(found(false, 0), 100);
    assert!((145..=155).contains(&found(false, 150)), "{}", found(false, 150));
    assert_eq!(found(true, 150), found(false, 150), "bytes without tokens");
}

/// Others' prompts must not make ours dearer, nor a cache make them cheaper; only on an exclusive server that counts whole prompts all are
/// ours.
#[test]
fn an_unusual_balance_of_prompts_teaches_only_where_all_are_ours_and_counted() {
    for (exclusive, leaves_out_cached) in [(false, false), (false, true), (true, false), (true, true)] {
        let terms = Terms { exclusive, leaves_out_cached, ..Terms::default() };
        let mut shop = Shop::new(terms, counters(0, 0));
        let (mut sum, mut found) = (counters(0, 0), Vec::new());
        for request in 1..=9 {
            shop.measured(request, 100);
            sum.add(counters(if request == 9 { 200 } else { 10 }, 100));
            shop.read(sum, terms);
            found.push(shop.calibration.prompt(&Arc::from("llama"), SHAPE, 10));
        }
        assert_eq!(found[8] > found[7], exclusive && !leaves_out_cached, "{terms:?} {found:?}");
    }
}

/// vLLM counts the prompt of a request with `n: 2` twice. What is learned and corrected is the prompt itself.
#[test]
fn prompts_that_are_counted_twice_are_learned_and_shared_out_once() {
    let terms = Terms { repeats_prompts: true, ..EXCLUSIVE };
    let mut shop = Shop::new(terms, counters(0, 0));
    for (request, choices) in [(1, 2), (2, 1)] {
        let shape = RequestShape { traces: false, choices, ..SHAPE };
        let opened = RequestReservation { shape, ..reservation(request) };
        shop.settle_opened(opened, Receipt::Record(record(request, 450 + 225 * 100)));
    }
    let corrections = shop.read(counters(2 * 12 + 12, 180), terms);
    let by: Vec<_> = corrections.iter().map(|one| (one.whose, one.prompt, one.completion)).collect();
    assert_eq!(by, [(1, 2, -10), (2, 2, -10)]);
    assert_eq!(shop.calibration.prompt(&Arc::from("llama"), SHAPE, 10), 12);
}

#[test]
fn a_prompt_of_which_less_was_counted_was_shorter_unless_the_counter_leaves_out_what_was_cached() {
    for (leaves_out_cached, expected) in [(false, (-3, 0)), (true, (0, 3))] {
        let terms = Terms { leaves_out_cached, ..EXCLUSIVE };
        let mut shop = Shop::new(terms, counters(0, 0));
        shop.measured(1, 100);
        let corrections = shop.read(counters(7, 100), terms);
        assert_eq!((corrections[0].prompt, corrections[0].cached), expected);
    }
}

/// A server that others use, too, is balanced less often while it is busy.
#[test]
fn a_busy_server_of_many_is_balanced_when_half_of_what_is_kept_is_there() {
    let mut shop = Shop::new(Terms::default(), counters(0, 0));
    let one = shop.measured(1, 10);
    (0..MOST_LINES / 2 - 2).for_each(|_| shop.books.settled(&server(), one.clone()));
    shop.read_at(counters(1, 1), Terms::default(), false, 1);
    assert_eq!(shop.books.rows(&server()).count(), 0);
    shop.books.settled(&server(), one);
    shop.read_at(counters(2, 2), Terms::default(), false, 1);
    assert_eq!(shop.books.rows(&server()).count(), 1);
}
