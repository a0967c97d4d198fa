//! What holds for every choice, whatever was sent before.

use std::time::Duration;

use proptest::prelude::*;
use server_choice::{
    AdapterId, Choice, Counters, Estimate, Prompt, SentRequest, Server, ToldAdapters, Watch, choose, estimate,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK_TOKENS: f32 = 128.0;

/// The hashes of a prompt: `shared` blocks of a family, then `own` of its own.
fn blocks(family: u64, shared: u64, own: u64, number: u64) -> Vec<u64> {
    let spread = |value: u64| xxh3_64_with_seed(&value.to_le_bytes(), 1);
    let shared = (0..shared).map(|block| spread(family << 20 | block));
    shared.chain((0..own).map(|block| spread(1 << 60 | number << 20 | block))).collect()
}

fn prompt(blocks: &[u64]) -> Prompt<'_> {
    Prompt {
        blocks,
        tokens: blocks.len() as u32 * 128 + 40,
        block_tokens: BLOCK_TOKENS,
        answer_tokens: 256,
        adapter: None,
    }
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
        watch.heard(server, &counters, now, now);
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

/// What is read anew on a free server delays those who come after. So the more of the time the servers of a pool read, the longer a
/// conversation waits for its own server: up to four times what reading it elsewhere would take longer.
/// Regression: a server that fails at once has never anything to do, and so got more requests than the others.
#[test]
fn a_server_that_fails_is_avoided_for_longer_each_time() {
    let pool = pool(2);
    let prompt = prompt(&[]);
    let at = |millis: u64| Duration::from_millis(millis);
    let chosen = |now: Duration| choose(&pool, &prompt, now, 0).expect("servers").place;
    let other = Prompt { tokens: 100_000, ..prompt };
    pool[1].sent(&other, &choose(&pool[1..], &other, at(0), 0).expect("a server").estimate, at(0));
    assert_eq!(chosen(at(1)), 0, "the other one is busy");
    let mut now = 0;
    for pause in [2_000, 4_000, 8_000, 16_000, 32_000, 32_000] {
        assert!(pool[0].failed(at(now), at(now)));
        // Sent before it was told that it fails: neither a failure nor an answer says anything.
        assert!(!pool[0].failed(at(now).saturating_sub(at(1)), at(now + 1)) || now == 0);
        pool[0].answered(at(now).saturating_sub(at(1)));
        assert_eq!(
            (chosen(at(now)), chosen(at(now + pause - 1)), pool[0].is_avoided(at(now + pause))),
            (1, 1, false)
        );
        now += pause;
    }
    pool[0].failed(at(now), at(now));
    assert!(pool[0].is_avoided(at(now + 31_999)));
    pool[1].failed(at(now), at(now));
    assert_eq!(chosen(at(now)), 0, "where all fail, none is avoided");
    pool[0].answered(at(now));
    assert_eq!((pool[0].is_avoided(at(now)), pool[1].is_avoided(at(now))), (false, true));
    pool[0].failed(at(now), at(now));
    assert!(pool[0].is_avoided(at(now + 1_999)) && !pool[0].is_avoided(at(now + 2_000)), "it begins anew");
    pool[1].answered(at(now));

    // It gets one request in two seconds, and the next failure counts.
    let send = |now: u64| {
        let found = choose(&pool[..1], &prompt, at(now), 0).expect("a server");
        pool[0].sent(&prompt, &found.estimate, at(now));
    };
    now += 2_000;
    send(now);
    assert!(pool[0].is_avoided(at(now + 1_999)) && !pool[0].is_avoided(at(now + 2_000)));
    pool[0].failed(at(now), at(now + 1_000));
    assert!(pool[0].is_avoided(at(now + 4_999)) && !pool[0].is_avoided(at(now + 5_000)), "twice as long");
    pool[0].failed(at(now), at(now + 1_001));
    assert!(!pool[0].is_avoided(at(now + 5_000)), "the same failure, or an old one");
    // Where nobody tells what becomes of requests, it is used again in the end.
    now += 5_000;
    for _ in 0..3 {
        send(now);
        // Those of other Modelgates are no tries.
        let found = choose(&pool[..1], &prompt, at(now), 0).expect("a server");
        pool[0].sent_by_another(&prompt, &found.estimate, at(now));
        assert!(pool[0].is_avoided(at(now + 1_999)));
        now += 2_000;
    }
    send(now);
    assert!(!pool[0].is_avoided(at(now)));
    pool[0].failed(at(now), at(now));
    assert!(pool[0].is_avoided(at(now + 1_999)) && !pool[0].is_avoided(at(now + 2_000)), "it begins anew");
}

/// Regression: without `/metrics` a server's speed is a guess. After more than that had come, it seemed to have a queue of half a minute,
/// though all was answered: another server that had been gone for a while then got every request.
#[test]
fn what_has_ended_does_not_wait() {
    let pool = pool(1);
    let long = Prompt { tokens: 50_000, ..prompt(&[]) };
    let at = Duration::from_secs;
    let sent: Vec<SentRequest> = (0..4)
        .map(|_| {
            let found = choose(&pool, &long, at(1), 0).expect("a server");
            pool[0].sent(&long, &found.estimate, at(1))
        })
        .collect();
    let one = pool[0].wait(at(1)) / 4;
    assert!(one > at(5), "{one:?}");
    pool[0].correct_wait(at(1));
    assert_near(pool[0].wait(at(1)), 4 * one.as_millis());
    for (left, request) in (0..4).rev().zip(sent) {
        pool[0].finished(request, Duration::ZERO);
        pool[0].correct_wait(at(1));
        assert_near(pool[0].wait(at(1)), left * one.as_millis());
    }
}

#[test]
fn the_busier_a_pool_the_longer_a_conversation_waits_for_its_server() {
    let now = Duration::from_secs(600);
    let pool_that_reads_for = |share: f64| {
        let pool = pool(2);
        for server in &pool {
            let mut watch = Watch::new(BLOCK_TOKENS);
            for second in 0..=600_u32 {
                // A token takes a thousandth of a second.
                let seconds = f64::from(second) * share;
                let (read_tokens, read_seconds) = (Some(seconds * 1_000.0), Some(seconds));
                let counters = Counters { read_tokens, read_seconds, ..Counters::default() };
                let heard_at = Duration::from_secs(second.into());
                watch.heard(server, &counters, heard_at, heard_at);
            }
        }
        pool[0].belief().used(&blocks(1, 40, 0, 0), 0);
        pool
    };
    let turn = blocks(1, 40, 4, 0);
    for (share, weight) in [(0.0, 1.0_f32), (0.5, 2.0), (0.75, 4.0), (1.0, 4.0)] {
        let stays = |of_saved: f32| {
            let pool = pool_that_reads_for(share);
            let [there, elsewhere] = [0, 1].map(|place| estimate(&pool[place], &prompt(&turn), now, None));
            let wait = (elsewhere.read - there.read).mul_f32(of_saved);
            pool[0].sent(&prompt(&[]), &Estimate { read: wait, ..there }, now);
            choose(&pool, &prompt(&turn), now, 0).map(|choice| choice.place) == Some(0)
        };
        assert!(stays(0.95 * weight), "{share}: reading counts {weight} times");
        assert!(!stays(1.05 * weight), "{share}: reading counts {weight} times");
    }
}

/// Regression: a pool whose pages had stopped, or no longer told how long reading takes, counted as busy for ever.
#[test]
fn a_pool_that_says_nothing_any_more_counts_as_idle_again() {
    let turn = blocks(1, 40, 4, 0);
    for is_silent in [true, false] {
        let (pool, mut now) = (pool(2), Duration::ZERO);
        pool[0].belief().used(&blocks(1, 40, 0, 0), 0);
        let mut watches = [Watch::new(BLOCK_TOKENS), Watch::new(BLOCK_TOKENS)];
        let stays = |now: Duration| {
            let [there, elsewhere] = [0, 1].map(|place| estimate(&pool[place], &prompt(&turn), now, None));
            // Nearly twice what is saved waits there.
            let wait = (elsewhere.read - there.read).mul_f32(1.9).saturating_sub(there.wait);
            pool[0].sent(&prompt(&[]), &Estimate { read: wait, ..there }, now);
            choose(&pool, &prompt(&turn), now, 0).map(|choice| choice.place) == Some(0)
        };
        for second in 0..600_u32 {
            now = Duration::from_secs(second.into());
            let seconds = f64::from(second) * 0.75;
            let (read_tokens, read_seconds) = (Some(seconds * 1_000.0), Some(seconds));
            let counters = Counters { read_tokens, read_seconds, ..Counters::default() };
            pool.iter()
                .zip(&mut watches)
                .for_each(|(server, watch)| watch.heard(server, &counters, now, now));
        }
        assert!(stays(now));
        for _ in 0..60 {
            now += Duration::from_secs(10);
            for (server, watch) in pool.iter().zip(&mut watches) {
                match is_silent {
                    true => watch.unheard(server, false),
                    false => watch.heard(server, &Counters::default(), now, now),
                }
            }
        }
        assert!(!stays(now), "silent: {is_silent}");
    }
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
    watch.heard(server, &said(2, 3, 90_000.0), now, now);
    assert_near(server.wait(now), 2_600 + 2 * 1_320); // two wait, one is being read
    watch.heard(server, &said(0, 1, 90_000.0), now, now);
    assert_near(server.wait(now), 2_600); // only the last may be being read
    assert_eq!(server.under_way(), 1);
    watch.heard(server, &said(9, 1, 90_000.0), now, now);
    assert!(
        server.wait(now) >= Duration::from_millis(4 * 1_320 + 2_600 + 4 * 1_000),
        "four of others wait, too"
    );
    assert_eq!(server.belief().cached(&hashes), 20);
    watch.heard(server, &said(0, 0, 10.0), now, now);
    assert_eq!(
        (server.belief().cached(&hashes), server.wait(now)),
        (0, Duration::ZERO),
        "it was started again"
    );
}

/// A server is full by what it says of itself, or by what the operator says, and never if nobody knows how many are under way there.
#[test]
fn a_server_is_full_when_requests_wait_there() {
    let (server, mut watch) = (Server::new(2_048), Watch::new(BLOCK_TOKENS));
    let second = Duration::from_secs;
    let mut hear = |running, waiting, at| {
        let counters = Counters { running: Some(running), waiting: Some(waiting), ..Counters::default() };
        watch.heard(&server, &counters, at, at);
    };
    assert_eq!(server.room(second(1), false), None, "nothing is known");
    hear(16, 0, second(1));
    assert_eq!(server.room(second(1), false), None, "it has never let one wait");
    assert_eq!(
        server.room_for_waiting(second(1), false),
        Some(8),
        "but it does not get all that wait at once"
    );
    hear(16, 3, second(2));
    assert_eq!(server.room(second(2), false), Some(0), "19 of 16 and 2 more");
    hear(15, 0, second(3));
    assert_eq!(server.room(second(3), false), Some(3));
    let asked = blocks(1, 1, 0, 0);
    let mut sent = Vec::new();
    for left in [2, 1, 0, 0] {
        sent.push(server.sent(
            &prompt(&asked),
            &estimate(&server, &prompt(&asked), second(3), None),
            second(3),
        ));
        assert_eq!(server.room(second(3), false), Some(left), "what was sent since counts");
    }
    sent.iter().take(2).for_each(|request| server.finished(*request, Duration::ZERO));
    assert_eq!(server.room(second(3), false), Some(1), "and what has ended");
    hear(18, 0, second(4));
    assert_eq!(
        server.room(second(4), false),
        Some(2),
        "it answers more than before, and none waits: 18 of 18 and 2"
    );
    hear(4, 1, second(5));
    hear(0, 0, second(6));
    assert_eq!(server.room(second(6), false), Some(5), "it has become smaller");
    assert_eq!(server.room(second(67), false), None, "it has said nothing for a while");
    assert_eq!(server.room(second(67), true), None, "its own bound is unknown then, too");
    assert_eq!(server.room_for_waiting(second(67), true), None);
    server.set_most(Some(2));
    assert_eq!(server.room(second(6), false), Some(2), "the operator's word goes before");
    assert_eq!(server.room(second(67), true), Some(2), "and it is enough that ends are told");
    assert_eq!(server.room(second(67), false), None);
    server.set_most(None);
    hear(0, 0, second(13));
    assert_eq!(server.room(second(13), false), Some(5));
    server.set_most(Some(4));
    server.sent(&prompt(&asked), &estimate(&server, &prompt(&asked), second(14), None), second(14));
    let after = |milliseconds| second(14) + Duration::from_millis(milliseconds);
    hear(0, 0, after(30));
    assert_eq!(server.room(after(30), false), Some(3), "it was on its way when the server told");
    hear(1, 0, after(200));
    assert_eq!(server.room(after(200), false), Some(3), "now it is there");
}

/// As vLLM counts: what the cache has, when a request is admitted; its prompt, at the first token; the time in which it was read, when
/// its answer has ended. The speed is right all the same, and sums that become smaller for a moment are no restart.
#[test]
fn what_is_counted_at_different_moments_is_put_together() {
    let (pool, hashes) = (pool(1), blocks(1, 20, 0, 0));
    let server = &pool[0];
    send(&pool, &prompt(&hashes), Duration::ZERO, 0);
    let mut watch = Watch::new(BLOCK_TOKENS);
    // Every 10 s a prompt of 20,000 tokens, 15,000 of which are in the cache, is admitted; it is read for 10 s, and its answer
    // takes 30 s.
    for number in 0..200_u32 {
        let ended = |ago: u32| f64::from(number.saturating_sub(ago));
        let hits = 15_000.0 * f64::from(number);
        let counters = Counters {
            waiting: Some(0),
            running: Some(4),
            read_tokens: Some(20_000.0 * ended(1) - hits),
            read_seconds: Some(10.0 * ended(4)),
            asked_tokens: Some(20_000.0 * f64::from(number)),
            cached_tokens: Some(hits),
            ..Counters::default()
        };
        let now = Duration::from_secs(10 * u64::from(number));
        watch.heard(server, &counters, now, now);
    }
    assert_eq!(server.belief().cached(&hashes), 20, "it was not started again");
    let found = estimate(server, &prompt(&blocks(2, 8, 0, 0)), Duration::from_secs(2_000), None).read;
    assert!(found.abs_diff(Duration::from_millis(2 * 1_064)) < Duration::from_millis(150), "{found:?}");
}

/// Measured speeds differ by chance: half as much again makes no difference, but forty times as much does.
#[test]
fn small_differences_of_speed_are_taken_for_chance() {
    let (now, hashes, short) = (Duration::from_secs(1), blocks(1, 0, 20, 0), blocks(3, 0, 1, 1));
    let chosen = |slower: f64| {
        let pool = pool(4);
        measured(&pool[3], 0.001 * slower, now);
        // All others have something to do.
        for server in &pool[..3] {
            let short = prompt(&short);
            server.sent(&short, &estimate(server, &short, now, None), now);
        }
        choose(&pool, &prompt(&hashes), now, 0).unwrap().place
    };
    assert_eq!(chosen(1.5), 3, "it is free");
    assert_ne!(chosen(40.0), 3, "others wait for a moment, but read much faster");
}

/// A request for an adapter goes where it is loaded, also before the server has said so, unless another server is free clearly sooner.
/// Requests for the model itself, and servers that say nothing of adapters, are chosen as if there were none.
#[test]
fn an_adapter_stays_where_it_is_loaded_unless_others_are_free_sooner() {
    let (pool, now) = (pool(3), Duration::from_secs(5));
    let (a, b) = (AdapterId::of("a"), AdapterId::of("b"));
    let of = |adapter| Prompt { adapter, ..prompt(&[]) };
    let chosen = |adapter, turn| choose(&pool, &of(adapter), now, turn).expect("a choice");
    assert_eq!(chosen(Some(a), 2).place, 2, "nobody says anything");
    assert_eq!(chosen(Some(a), 2).estimate.has_adapter, None);
    let tell = |server: &Server, running: &[AdapterId]| {
        server.told_adapters(&ToldAdapters { most: 1, running: running.to_vec() }, now);
    };
    tell(&pool[0], &[]);
    tell(&pool[1], &[a]);
    tell(&pool[2], &[b]);
    for turn in 0..3 {
        assert_eq!([a, b].map(|adapter| chosen(Some(adapter), turn).place), [1, 2]);
        assert_eq!(chosen(None, turn).place, turn, "the model itself");
    }
    assert_eq!(chosen(Some(a), 0).estimate.load, Duration::ZERO);
    // 40 tokens each: 40 ms. Another adapter is loaded once.
    let c = AdapterId::of("c");
    let first = chosen(Some(c), 0);
    assert_eq!((first.place, first.estimate.has_adapter), (0, Some(false)));
    assert_eq!(first.estimate.load, Duration::from_millis(200));
    pool[0].sent(&of(Some(c)), &first.estimate, now);
    let second = chosen(Some(c), 1);
    assert_eq!((second.place, second.estimate.has_adapter), (0, Some(true)), "the others would load it, too");
    // Loading takes as long as reading five of these.
    for _ in 0..6 {
        let estimate = estimate(&pool[1], &of(None), now, None);
        pool[1].sent(&of(None), &estimate, now);
    }
    assert_ne!(chosen(Some(a), 0).place, 1, "240 ms wait there");
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
        watch.heard(&server, &counters, Duration::ZERO, Duration::ZERO);
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

/// Who is told of ends knows what a server still needs; a page that tells how many are under way takes the oldest for those that have
/// ended. Each end counts once.
#[test]
fn ends_of_requests_reach_the_belief() {
    let at = Duration::from_secs;
    for is_told in [true, false] {
        let server = Server::new(400);
        let mut watch = Watch::new(128.0);
        let busy = |running| Counters { running: Some(running), waiting: Some(0), ..Counters::default() };
        let send = |number: u64, now| {
            let blocks = blocks(0, 0, 10, number);
            let prompt = prompt(&blocks);
            server.sent(&prompt, &estimate(&server, &prompt, now, None), now)
        };
        let has = |number: u64| server.belief().cached(&blocks(0, 0, 10, number)) == 10;
        let first: Vec<_> = (0..2).map(|number| send(number, at(1))).collect();
        if is_told {
            server.finished(first[1], Duration::ZERO);
            server.finished(first[1], Duration::ZERO);
            server.given_up(first[1]);
        } else {
            // The older one is taken to have ended.
            watch.heard(&server, &busy(1), at(2), at(2));
        }
        for number in 2..100 {
            let sent = send(number, at(3));
            if is_told {
                server.finished(sent, Duration::ZERO);
            } else {
                watch.heard(&server, &busy(1), at(3 + number), at(3 + number));
            }
        }
        assert_eq!((has(0), has(1), has(99)), (is_told, false, true), "told: {is_told}");
    }
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


    /// Requests are sent before anybody knows how fast the servers are, and are then judged by what is known: nobody waits for them any
    /// longer than a server takes to read them, whether it reads 100 tokens a second or a million.
    #[test]
    fn what_was_sent_before_the_speed_was_known_is_judged_by_it(tokens_per_second in 100.0..1_000_000.0_f64, waiting in 0..6_u32) {
        let (server, mut watch) = (Server::new(2_048), Watch::new(BLOCK_TOKENS));
        let now = Duration::from_secs(1);
        for number in 0..8 {
            let own = blocks(0, 0, 20, number);
            let prompt = prompt(&own);
            server.sent(&prompt, &estimate(&server, &prompt, now, None), now);
        }
        for tokens in [0.0, 10_000.0] {
            let (read_tokens, read_seconds) = (Some(tokens), Some(tokens / tokens_per_second));
            let counters = Counters { waiting: Some(waiting), running: Some(1), read_tokens, read_seconds, ..Counters::default() };
            watch.heard(&server, &counters, now, now);
        }
        let each = 2_600.0 / tokens_per_second;
        let wait = server.wait(now).as_secs_f64();
        let expected = f64::from(waiting) * each..=f64::from(waiting + 1) * each * 1.1 + 1e-5;
        prop_assert!(expected.contains(&(wait * 1.02)), "{wait} s, with {waiting} of {each} s each");
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
