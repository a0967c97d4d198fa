//! What recording a decision costs `/auth`: nanoseconds per decision, by the number of threads that decide at the same time while
//! a collector runs.
//!
//! `cargo bench -p telemetry`. Compare the ratios, not the figures, which depend on the machine.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use telemetry::{COLLECT_EVERY, Decided, Refused, Telemetry};

const ROUNDS: usize = 9;
/// Decisions per round; few enough for the queue, so that the collector keeps up.
const DECISIONS: usize = 3_000;

fn main() {
    let refused = Refused { code: "model_not_found", words: &"the model \"llama\" does not exist" };
    for threads in [1, 2, 4] {
        for (kind, refused) in [("allowed", None), ("refused", Some(refused))] {
            let nanos = measure(threads, refused);
            say(&format!("{threads} threads, {kind}: {nanos:.0} ns"));
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]
fn say(line: &str) {
    println!("{line}");
}

/// The median of several rounds.
fn measure(threads: usize, refused: Option<Refused<'_>>) -> f64 {
    let telemetry = Telemetry::new();
    let stop = AtomicBool::new(false);
    let mut rounds = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                telemetry.collect(SystemTime::now());
                thread::sleep(COLLECT_EVERY / 10);
            }
        });
        for _ in 0..ROUNDS {
            rounds.push(round(&telemetry, threads, refused));
            thread::sleep(COLLECT_EVERY);
        }
        stop.store(true, Ordering::Relaxed);
    });
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn round(telemetry: &Telemetry, threads: usize, refused: Option<Refused<'_>>) -> f64 {
    let code = refused.map(|refused| refused.code);
    let words = refused.map(|refused| refused.words.to_string());
    let times = thread::scope(|scope| {
        let work = || {
            let refused = code.zip(words.as_ref()).map(|(code, words)| Refused { code, words });
            let start = Instant::now();
            for _ in 0..DECISIONS / threads {
                telemetry.decided(black_box(&Decided {
                    at: SystemTime::UNIX_EPOCH,
                    request_id: "req_0123456700000000abcd",
                    client_request_id: None,
                    consumer: Some("search-team"),
                    key: Some("search-team-production"),
                    model: Some("meta-llama/Llama-3.3-70B-Instruct"),
                    from: None,
                    method: "POST",
                    uri: "/v1/chat/completions",
                    refused,
                    tokens: Some(1_234),
                    latency: Some(Duration::from_micros(70)),
                }));
            }
            start.elapsed().as_nanos() as f64
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("it does not panic")).sum::<f64>()
    });
    // The threads' total time; if there are more threads than processors, it includes waiting.
    times / DECISIONS as f64
}
