//! 100,000 open reservations take less than 50 MB. A process of its own, so that nothing else is measured.

use std::{sync::Arc, time::Duration};

use metering::{
    Ledger, LedgerOptions, MeteredEndpoint, RequestId, RequestReservation, RequestShape, ReservedTokens,
    SpanId,
};

/// What a caller holds for a request with limits of tokens at its key and its consumer: whose it is, and 192 bytes to correct
/// the limits by.
struct Held {
    _key: Arc<str>,
    _consumer: Arc<str>,
    _limits: Box<[u64; 24]>,
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    1_024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

#[test]
fn a_hundred_thousand_open_reservations_take_less_than_50_mb() {
    let [key, consumer, model]: [Arc<str>; 3] = ["key", "consumer", "model"].map(Arc::from);
    let mut ledger = Ledger::new(LedgerOptions::default());
    let before = resident();
    for number in 0..100_000_u64 {
        let shape = RequestShape {
            endpoint: MeteredEndpoint::ChatCompletions,
            streams: true,
            traces: true,
            is_shaped: false,
            is_mirrored: false,
            has_beams: false,
            choices: 1,
            prompts: 1,
        };
        let reservation = RequestReservation {
            request: RequestId(
                u128::from(number) << 64 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ),
            parent: SpanId(number.wrapping_mul(0xff51_afd7_ed55_8ccd)),
            model: Arc::clone(&model),
            shape,
            reserved: ReservedTokens { prompt: 10, completion: 1_000, is_open: true },
            waited: Duration::ZERO,
            held: Held {
                _key: Arc::clone(&key),
                _consumer: Arc::clone(&consumer),
                _limits: Box::new([number; 24]),
            },
        };
        ledger.open(reservation, Duration::from_nanos(number));
    }
    let taken = resident() - before;
    println!("{} bytes for each of 100,000", taken / 100_000);
    assert_eq!(ledger.len(), 100_000);
    assert!(taken < 50_000_000, "{taken} bytes");
}
