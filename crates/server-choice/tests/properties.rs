//! What holds for every choice, whatever was sent before.

use std::time::Duration;

use proptest::prelude::*;
use server_choice::{Choice, Counters, Estimate, Prompt, Server, Watch, choose, estimate};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK_TOKENS: f32 = 128.0;

/// The hashes of a prompt: `shared` blocks of a family, then `own` of its own.
fn blocks(family: u64, shared: u64, own: u64, number: u64) -> Vec<u64> {
    let spread = |value: u64| xxh3_64_with_seed(&value.to_le_bytes(), 1);
    let shared = (0..shared).map(|block| spread(family << 20 | block));
    shared.chain((0..own).map(|block| spread(1 << 60 | number << 20 | block))).collect()
}

fn prompt(blocks: &[u64]) -> Prompt<'_> {
    Prompt { blocks, tokens: blocks.len() as u32 * 128 + 40, block_tokens: BLOCK_TOKENS, answer_tokens: 256 }
}

/// A pool whose servers all read a token in a thousandth of a second.
fn pool(servers: usize) -> Vec<Server> {
    let pool: Vec<Server> = (0..servers).map(|_| Server::new(2_048)).collect();
    pool.iter().for_each(|server| measured(server, 0.001, Duration::ZERO));
    pool
}

/// Tells a server's speed, in seconds per token, without anything else.
fn measured(server: &Server, speed: f64, now: Duration) {
    let mut watch = Watch::new(BLOCK_TOKENS);
    for tokens in [0.0, 10_000.0] {
        let counters =
            Counters { read_tokens: Some(tokens), read_seconds: Some(tokens * speed), ..Counters::default() };
        watch.heard(server, &counters, now);
    }
}

fn send(pool: &[Server], prompt: &Prompt<'_>, now: Duration, turn: usize) -> Choice {
    let choice = choose(pool, prompt, now, turn).expect("a pool with servers");
    pool[choice.place].sent(prompt, &choice.estimate, now);
    choice
}

/// To within 3 %: a token costs more, the more there are before it.
fn assert_near(time: Duration, millis: u128) {
    let found = time.as_millis();
    assert!(found.abs_diff(millis) * 100 <= millis * 3, "{found} ms instead of {millis}");
}

#[test]
fn without_servers_nothing_is_chosen() {
    assert_eq!(choose(&[] as &[Server], &prompt(&[]), Duration::ZERO, 3), None);
}

/// A conversation goes back to where it was, until what waits there takes longer than reading it anew.
#[test]
fn a_conversation_stays_until_waiting_takes_longer_than_reading() {
    let (pool, now) = (pool(3), Duration::ZERO);
    let turns = [blocks(1, 20, 0, 0), blocks(1, 24, 0, 0), blocks(1, 30, 0, 0)];
    let owner = send(&pool, &prompt(&turns[0]), now, 1).place;
    assert_eq!(owner, 1, "nothing is known, so it is the turn's");
    let after = Duration::from_secs(60);
    let second = send(&pool, &prompt(&turns[1]), after, 0);
    assert_eq!((second.place, second.estimate.cached_tokens), (owner, 20 * 128));
    // 4 blocks of 128 tokens and 40 more, a thousandth of a second each.
    assert_near(second.estimate.read, 552);
    // Now 3 s wait there; the third turn reads for 0.81 s there, and for 3.88 s elsewhere. 4 s are too long.
    let other = blocks(2, 0, 19, 0);
    pool[owner].sent(&prompt(&other), &estimate(&pool[owner], &prompt(&other), after, None), after);
    assert_eq!(choose(&pool, &prompt(&turns[2]), after, 0).map(|choice| choice.place), Some(owner));
    let more = blocks(3, 0, 8, 1);
    pool[owner].sent(&prompt(&more), &estimate(&pool[owner], &prompt(&more), after, None), after);
    assert_ne!(choose(&pool, &prompt(&turns[2]), after, 0).map(|choice| choice.place), Some(owner));
}

/// What a server says goes before what we believe: nothing waits there any more, or it has been started again.
#[test]
fn a_server_corrects_what_is_believed_of_it() {
    let (pool, now) = (pool(1), Duration::from_secs(9));
    let server = &pool[0];
    let mut watch = Watch::new(BLOCK_TOKENS);
    let hashes = blocks(1, 20, 0, 0);
    for number in 0..4 {
        let own = blocks(0, 0, 10, number);
        send(&pool, &prompt(&own), now, 0);
    }
    send(&pool, &prompt(&hashes), now, 0);
    let said = |waiting, running, read_tokens| Counters {
        waiting: Some(waiting),
        running: Some(running),
        read_tokens: Some(read_tokens),
        ..Counters::default()
    };
    assert_near(server.wait(now), 4 * 1_320 + 2_600);
    watch.heard(server, &said(2, 3, 90_000.0), now);
    assert_near(server.wait(now), 2_600 + 2 * 1_320); // two wait, one is being read
    watch.heard(server, &said(0, 1, 90_000.0), now);
    assert_near(server.wait(now), 2_600); // only the last may be being read
    assert_eq!(server.under_way(), 1);
    watch.heard(server, &said(9, 1, 90_000.0), now);
    assert!(
        server.wait(now) >= Duration::from_millis(4 * 1_320 + 2_600 + 4 * 1_000),
        "four of others wait, too"
    );
    assert_eq!(server.belief().cached(&hashes), 20);
    watch.heard(server, &said(0, 0, 10.0), now);
    assert_eq!(
        (server.belief().cached(&hashes), server.wait(now)),
        (0, Duration::ZERO),
        "it was started again"
    );
}

/// A cache that others use as well has less of ours than its size says.
#[test]
fn a_cache_that_finds_less_than_we_believe_is_smaller_than_we_believe() {
    let (server, mut watch) = (Server::new(2_048), Watch::new(BLOCK_TOKENS));
    let hashes = blocks(1, 100, 0, 0);
    let mut asked = 0.0;
    let mut hear = |share: f64| {
        let counters = Counters {
            asked_tokens: Some(asked),
            cached_tokens: Some(asked * share),
            cache_tokens: Some(1_500.0 * 128.0),
            ..Counters::default()
        };
        watch.heard(&server, &counters, Duration::ZERO);
        for _ in 0..20 {
            let prompt = prompt(&hashes);
            server.sent(&prompt, &estimate(&server, &prompt, Duration::ZERO, None), Duration::ZERO);
            asked += f64::from(prompt.tokens);
        }
        server.belief().capacity()
    };
    assert_eq!(hear(0.0), 1_500);
    assert_eq!(hear(0.1), 1_350);
    (0..50).for_each(|_| {
        hear(0.1);
    });
    assert_eq!(hear(0.1), 1_500 / 8, "and not ever smaller");
}

proptest! {
    /// Of two servers with the same belief and speed, the one with less to do gets the request.
    #[test]
    fn of_equal_belief_the_less_loaded_is_chosen(
        seen in 0..12_u64,
        size in 0..20_u64,
        loads in (proptest::collection::vec(1..40_u64, 0..6), proptest::collection::vec(1..40_u64, 0..6)),
        turn in any::<usize>(),
    ) {
        let (pool, now) = (pool(2), Duration::from_secs(5));
        for (server, loads) in pool.iter().zip([&loads.0, &loads.1]) {
            let shared = blocks(1, seen, 0, 0);
            server.belief().used(&shared, 0);
            for (number, own) in loads.iter().enumerate() {
                let other = blocks(0, 0, *own, number as u64);
                server.sent(&prompt(&other), &estimate(server, &prompt(&other), now, None), now);
            }
        }
        let asked = blocks(1, size, 3, 999);
        let choice = choose(&pool, &prompt(&asked), now, turn).unwrap();
        let key = |place: usize| {
            let Estimate { wait, steps, under_way, .. } = estimate(&pool[place], &prompt(&asked), now, None);
            (wait + steps, under_way)
        };
        prop_assert_eq!(choice.estimate.cached_tokens, u32::try_from(seen.min(size)).unwrap() * 128);
        prop_assert!(key(choice.place) <= key(1 - choice.place));
    }

    /// Nothing starves: no request is sent where it waits longer than it would take to be read as a whole by whoever is free
    /// first; and when there is work for all, all get some, though everybody asks nearly the same.
    #[test]
    fn nothing_starves(
        servers in 2..9_usize,
        asked in proptest::collection::vec((0..3_u64, 1..12_u64), 60..120),
    ) {
        let pool = pool(servers);
        let mut served = vec![0; servers];
        let mut now = Duration::ZERO;
        for (number, (family, own)) in asked.iter().enumerate() {
            let hashes = blocks(*family, 12, *own, number as u64);
            let prompt = prompt(&hashes);
            let least = pool.iter().map(|server| server.wait(now)).min().unwrap();
            let most_under_way = pool.iter().map(Server::under_way).max().unwrap();
            let choice = send(&pool, &prompt, now, number);
            let whole = Duration::from_millis(u64::from(prompt.tokens) + u64::from(most_under_way) + 1);
            // Reading counts once more for each request in the shortest queue; the shortest request takes 168 ms.
            let weight = 1.1 * (1.0 + least.as_secs_f32() / 0.168);
            prop_assert!(choice.estimate.wait <= least + whole.mul_f32(weight));
            served[choice.place] += 1;
            // Twice as much as a server could read if it had all the shared blocks.
            now += Duration::from_millis(u64::from(prompt.tokens) * 2 / 5 / servers as u64);
        }
        prop_assert!(served.iter().all(|requests| *requests > 0), "{:?}", served);
    }

    /// A server that was slow once is tried again when the others have something to do.
    #[test]
    fn a_slow_measurement_is_forgotten(slower in 2.0..1_000.0_f64) {
        let pool = pool(2);
        measured(&pool[1], 0.001 * slower, Duration::from_secs(1));
        let mut chosen_at = None;
        for minute in 1..30_u64 {
            let now = Duration::from_secs(60 * minute);
            measured(&pool[0], 0.001, now);
            for number in 0..8 {
                let hashes = blocks(0, 0, 10, minute << 8 | number);
                if send(&pool, &prompt(&hashes), now, 0).place == 1 {
                    chosen_at = chosen_at.or(Some(minute));
                }
            }
        }
        prop_assert!(chosen_at.is_some_and(|minute| minute <= 12), "{:?}", chosen_at);
    }
}
