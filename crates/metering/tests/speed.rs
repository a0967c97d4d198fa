//! Many requests, with all kinds of receipts: the sums are right to the token, and one core does far more than 10,000 spans and
//! records a second. A million requests in a release build, a tenth of that in a debug build.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metering::{
    Ledger, LedgerOptions, MeteredEndpoint, Receipt, RecordReceipt, RequestId, RequestReservation,
    RequestShape, ReservedTokens, SpanId, SpanReceipt, Told, Trust, UsageKind,
};

const REQUESTS: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// How many requests are open at any time.
const OPEN: u64 = 5_000;

/// Numbers without any pattern, the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// A request, and what its server did.
struct One {
    id: RequestId,
    parent: SpanId,
    choices: u16,
    prompt: u64,
    completions: Vec<u64>,
    is_refused: bool,
}

impl One {
    fn new(random: &mut Random) -> Self {
        let choices = if random.next().is_multiple_of(10) { 2 } else { 1 };
        Self {
            id: RequestId(u128::from(random.next()) << 64 | u128::from(random.next())),
            parent: SpanId(random.next()),
            choices,
            prompt: 1 + random.next() % 4_000,
            completions: (0..choices).map(|_| random.next() % 2_000).collect(),
            is_refused: random.next().is_multiple_of(20),
        }
    }

    fn reservation(&self, model: &Arc<str>) -> RequestReservation<()> {
        let shape = RequestShape {
            endpoint: MeteredEndpoint::ChatCompletions,
            streams: true,
            traces: true,
            is_shaped: false,
            is_mirrored: false,
            has_beams: false,
            choices: self.choices,
            prompts: 1,
        };
        let reserved = ReservedTokens { prompt: 1_000, completion: 1_000, is_open: true };
        RequestReservation {
            request: self.id,
            parent: self.parent,
            model: Arc::clone(model),
            shape,
            reserved,
            waited: Duration::ZERO,
            held: (),
        }
    }

    fn receipts(&self) -> Vec<Receipt> {
        // A server that is too busy says so at once, and has not worked.
        let (status, duration) =
            if self.is_refused { (503, Duration::from_millis(20)) } else { (200, Duration::from_secs(1)) };
        let record = RecordReceipt {
            parent: Some(self.parent),
            trust: Trust::Proven,
            request: self.id,
            status,
            server_status: status,
            request_bytes: 900,
            answer_bytes: 450 + 225 * self.completions.iter().sum::<u64>(),
            duration,
            server_duration: duration,
            retries: 0,
            server: Some("http://10.0.0.1:8000".to_owned()),
            compute_tokens: None,
        };
        let spans = (0..).zip(&self.completions).filter(|_| !self.is_refused).map(|(number, completion)| {
            Receipt::Span(SpanReceipt {
                trust: Trust::None,
                span: number,
                parent: Some(self.parent),
                request: Some(self.id),
                part: String::new(),
                prompt_tokens: self.prompt,
                cached_tokens: Some(0),
                completion_tokens: *completion,
                choices: Some(self.choices.into()),
                time_to_first_token: None,
                duration: None,
            })
        });
        spans.chain([Receipt::Record(record)]).collect()
    }

    fn tokens(&self) -> u64 {
        if self.is_refused { 0 } else { self.prompt + self.completions.iter().sum::<u64>() }
    }
}

#[test]
fn sums_are_right_to_the_token_and_one_core_is_far_faster_than_needed() {
    let (model, mut random) = (Arc::from("llama"), Random(7));
    let mut ledger = Ledger::new(LedgerOptions::default());
    let (mut truth, mut settled, mut requests, mut told, mut busy) = (0, 0, 0, 0_u32, Duration::ZERO);
    for round in 0..REQUESTS / OPEN {
        let now = Duration::from_secs(round);
        let ones: Vec<_> = (0..OPEN).map(|_| One::new(&mut random)).collect();
        truth += ones.iter().map(One::tokens).sum::<u64>();
        let reservations: Vec<_> = ones.iter().map(|one| one.reservation(&model)).collect();
        let mut receipts: Vec<_> = ones.iter().flat_map(One::receipts).collect();
        // Each receipt goes anywhere among those of thousands of requests, and one of eight comes twice.
        for from in 0..receipts.len() {
            let to = usize::try_from(random.next()).expect("64 bits") % receipts.len();
            receipts.swap(from, to);
        }
        receipts.extend(receipts[..receipts.len() / 8].to_vec());
        told += u32::try_from(receipts.len()).expect("small");

        let since = Instant::now();
        for reservation in reservations {
            ledger.open(reservation, now);
        }
        for receipt in receipts {
            let told = ledger.tell(receipt, now);
            assert_ne!(told, Told::Unproven);
        }
        ledger.advance(now);
        for one in ledger.take_settled() {
            assert!(one.kind == UsageKind::Exact || one.used.total() == 0);
            settled += one.used.total();
            requests += 1;
        }
        busy += since.elapsed();
    }
    ledger.advance(Duration::from_secs(100_000));
    assert_eq!(ledger.take_settled().len(), 0, "all were told");
    assert_eq!((requests, settled), (REQUESTS, truth));
    let per_second = f64::from(told) / busy.as_secs_f64();
    println!("{REQUESTS} requests, {told} receipts in {busy:?}: {per_second:.0} receipts a second");
    assert!(per_second > 10_000.0, "{per_second:.0} receipts a second");
}
