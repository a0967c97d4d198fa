use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64},
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::ManualClock,
    limit::Limit,
    period::Period,
    quota::{Calendar, Quota},
    rate::Per,
};

const MS: u64 = 1_000_000;

fn rate(requests_per_minute: u32, burst: u32) -> Rate {
    Rate::per_minute(requests_per_minute, Some(burst)).expect("a rate")
}

fn demand(who: u128, rate: Rate) -> Demand {
    Demand::new(Scope::Key, Subject::of(who), rate, 1)
}

impl Limiters<ManualClock> {
    fn admit(&self, demands: &[Demand]) -> Result<(), LimitReached> {
        self.reserve(&Demands { rates: demands.to_vec(), quotas: Vec::new() }).map(drop)
    }
}

fn limiters() -> (Limiters<ManualClock>, ManualClock) {
    let clock = ManualClock::new();
    (Limiters::new(clock.clone()), clock)
}

/// The number of requests that pass at once.
fn burst_of(limiters: &Limiters<ManualClock>, demand: Demand) -> usize {
    (0..1_000).take_while(|_| limiters.admit(&[demand]).is_ok()).count()
}

/// A cell's remaining debt, in nanoseconds.
fn debt(limiters: &Limiters<ManualClock>, demand: Demand) -> u64 {
    let cells = limiters.cells.pin();
    cells.get(&demand.id).map_or(0, |cell| cell.arrival().saturating_sub(limiters.now()))
}

#[test]
fn a_request_without_limits_passes_and_leaves_no_cell() {
    let (limiters, _) = limiters();
    assert_eq!(limiters.admit(&[]), Ok(()));
    assert!(limiters.is_empty());
}

/// Of what was reserved only tokens are kept, and corrected; what is left says so, in the order of the demands.
#[test]
fn only_tokens_are_kept_and_what_is_left_follows() {
    let (limiters, clock) = limiters();
    let rates = [Unit::Requests, Unit::Tokens].map(|unit| {
        Demand::new(Scope::Key, Subject::of(1), Rate::new(60, unit, Per::Minute, None).expect("a rate"), 4)
    });
    let zone = jiff::tz::TimeZone::UTC;
    let quotas =
        [Unit::Requests, Unit::Tokens].map(|unit| Quota::new(100, unit, Calendar::Day).expect("a quota"));
    let mut demands = Demands::default();
    let limits = crate::Limits::new(rates.map(|demand| demand.rate).to_vec(), quotas.to_vec());
    let limited = crate::Limited { scope: Scope::Key, subject: Subject::of(1), limits: &limits };
    demands.add(&limited, &crate::Moment::new(std::time::SystemTime::UNIX_EPOCH, &zone), |_| 4);
    assert!(limiters.is_empty());
    let reserved = limiters.reserve(&demands).expect("it passes");
    assert!(!limiters.is_empty() && !reserved.is_empty() && Reservation::default().is_empty());
    let remaining = || limiters.left(&demands).iter().map(|left| left.remaining).collect::<Vec<_>>();
    assert_eq!(remaining(), [56, 56, 96, 96]);
    let tokens = reserved.of_usage();
    assert_eq!((tokens.rates.len(), tokens.quotas.len()), (1, 1));
    assert_eq!(tokens.rates[0].0.rate.unit(), Unit::Tokens);
    assert_eq!(tokens.quotas[0].quota.unit(), Unit::Tokens);
    for part in [
        Reservation { rates: Vec::new(), ..tokens.clone() },
        Reservation { quotas: Vec::new(), ..tokens.clone() },
    ] {
        assert!(!part.is_empty());
    }
    limiters.correct_quotas(&tokens, 30);
    assert_eq!(remaining(), [56, 56, 96, 66], "its rates have recovered on their own");
    limiters.correct_quotas(&tokens, -20);
    assert_eq!(remaining(), [56, 56, 96, 86]);
    let whole = limiters.reserve(&demands).expect("it passes");
    limiters.correct_quotas(&whole, 10);
    assert_eq!(remaining(), [52, 52, 92, 72], "requests are not corrected by tokens");
    clock.advance(Duration::from_secs(1));
    assert_eq!(remaining(), [53, 53, 92, 72]);
    let left = limiters.left(&demands);
    assert_eq!(left[0].reset_after, Duration::from_secs(7));
    assert_eq!(left[2].reset_after, Duration::from_secs(24 * 3600));
}

/// A clock that stands still would never let a limit recover.
#[test]
fn the_systems_clock_runs() {
    let clock = SystemClock::new();
    let began = clock.now();
    while clock.now() == began {
        thread::yield_now();
    }
    assert!(clock.now() > began);
}

#[test]
fn waiting_as_long_as_told_is_exactly_enough() {
    let (limiters, clock) = limiters();
    let demand = demand(1, rate(7, 3));
    assert_eq!(burst_of(&limiters, demand), 3);
    clock.advance(Duration::from_millis(1_234));
    let refused = limiters.admit(&[demand]).expect_err("the burst is used up");
    assert_eq!(refused.retry_after, Duration::from_nanos(8_571_428_572 - 1_234 * MS));
    assert_eq!(refused.reset_after, Duration::from_nanos(3 * 8_571_428_572 - 1_234 * MS));

    clock.advance(refused.retry_after - Duration::from_nanos(1));
    assert!(limiters.admit(&[demand]).is_err());
    clock.advance(Duration::from_nanos(1));
    assert_eq!(burst_of(&limiters, demand), 1);
    clock.advance(Duration::from_nanos(3 * 8_571_428_572));
    assert_eq!(burst_of(&limiters, demand), 3);
}

#[test]
fn the_longest_wait_is_named_and_of_equals_the_first() {
    let (limiters, _) = limiters();
    let key = demand(1, rate(60, 1));
    let slow = Demand { scope: Scope::KeyAndModel, ..demand(2, rate(6, 1)) };
    let model = Demand { scope: Scope::Model, ..demand(3, rate(6, 1)) };
    assert_eq!(limiters.admit(&[key, slow, model]), Ok(()));
    let refused = limiters.admit(&[key, slow, model]).expect_err("used up");
    assert_eq!((refused.scope, refused.retry_after), (Scope::KeyAndModel, Duration::from_secs(10)));
    assert_eq!(refused.limit, slow.rate.into());
}

/// Otherwise a client would wait for one limit, only to learn that the other never lets it pass.
#[test]
fn what_never_passes_is_named_before_any_wait() {
    let (limiters, _) = limiters();
    let slow = demand(1, rate(1, 1));
    let small = Demand { cost: 6, ..demand(2, rate(6_000, 5)) };
    assert_eq!(limiters.admit(&[slow]), Ok(()));
    let refused = limiters.admit(&[slow, small]).expect_err("used up, and too much");
    assert!(refused.never_passes() && refused.retry_after < Duration::from_secs(60), "{refused}");
    assert_eq!(limiters.admit(&[slow]).expect_err("used up").retry_after, Duration::from_secs(60));
}

#[test]
fn a_refusal_takes_nothing() {
    let (limiters, _) = limiters();
    let (wide, narrow) = (demand(1, rate(60, 5)), demand(2, rate(60, 1)));
    assert_eq!(limiters.admit(&[wide, narrow]), Ok(()));
    for _ in 0..10 {
        assert!(limiters.admit(&[wide, narrow, demand(3, rate(60, 5))]).is_err());
    }
    assert_eq!(limiters.len(), 2, "nor does it make a cell");
    assert_eq!(burst_of(&limiters, wide), 4);
}

#[test]
fn what_was_taken_can_be_given_back() {
    let (limiters, clock) = limiters();
    let demand = demand(1, rate(60, 5));
    let at = limiters.take(&limiters.cells, &demand).expect("fresh");
    limiters.take(&limiters.cells, &demand).expect("fresh");
    limiters.give_back(&demand, at);
    assert_eq!(debt(&limiters, demand), 1_000 * MS, "the other one's");

    // A second request finds the cell recovered and takes again; giving the first back late must not undo the second.
    clock.advance(Duration::from_secs(2));
    let first = limiters.take(&limiters.cells, &demand).expect("fresh");
    clock.advance(Duration::from_secs(3));
    limiters.take(&limiters.cells, &demand).expect("fresh");
    limiters.give_back(&demand, first);
    assert_eq!(debt(&limiters, demand), 1_000 * MS);

    // Swept, and taken from again.
    clock.advance(Duration::from_secs(1));
    limiters.sweep();
    limiters.give_back(&demand, first);
    assert!(limiters.is_empty());
}

fn of_tokens(rate: (u32, u32), cost: u32) -> Demands {
    let rate = Rate::new(rate.0, Unit::Tokens, Per::Minute, Some(rate.1)).expect("a rate");
    Demands { rates: vec![Demand::new(Scope::Key, Subject::of(1), rate, cost)], quotas: Vec::new() }
}

/// Requests with their reservations overlap, so it is never the reservation of the first that recovers alone.
#[test]
fn a_limit_in_use_gets_all_back_that_was_not_used() {
    let (limiters, clock) = limiters();
    let five = of_tokens((60, 20), 5);
    let [first, second, third] = [(); 3].map(|()| limiters.reserve(&five).expect("fresh"));
    clock.advance(Duration::from_secs(2));
    let owed = || debt(&limiters, five.rates[0]) / MS;
    assert_eq!(owed(), 13_000);
    limiters.settle(&second, Settlement::Tokens(1));
    assert_eq!(owed(), 9_000, "all four: what has recovered until now is the first one's");
    limiters.settle(&third, Settlement::Tokens(5));
    assert_eq!(owed(), 9_000);
    limiters.settle(&first, Settlement::Tokens(1));
    assert_eq!(owed(), 6_000, "four are not needed; one of them has recovered after the one that was used");
}

/// A key with 10,000 tokens a minute, whose requests reserve 1,002 and use 12, with clients that ask again as soon as they may.
/// What the allowance can do is bounded by how long a reservation stays open: here 300 ms.
#[test]
fn short_answers_use_the_whole_allowance() {
    const OPEN: Duration = Duration::from_millis(300);
    let (limiters, clock) = limiters();
    let demands = of_tokens((10_000, 10_000), 1_002);
    let (mut open, mut used) = (std::collections::VecDeque::new(), 0_u32);
    // After a minute, so that the burst at the beginning does not count.
    while clock.now() < Duration::from_secs(360) {
        let now = clock.now();
        while open.front().is_some_and(|(at, _)| *at + OPEN <= now) {
            let (_, reserved) = open.pop_front().expect("it is there");
            limiters.settle(&reserved, Settlement::Tokens(12));
        }
        while let Ok(reserved) = limiters.reserve(&demands) {
            used += if now >= Duration::from_secs(60) { 12 } else { 0 };
            open.push_back((now, reserved));
        }
        clock.advance(Duration::from_millis(10));
    }
    assert!((47_500..=60_000).contains(&used), "{used} of 50,000 in five minutes");
}

#[test]
fn a_period_that_is_over_gets_back_its_own() {
    let (limiters, _) = limiters();
    let quota = Quota::new(1_000, Unit::Tokens, Calendar::Day).expect("a quota");
    let day = |day: &str| {
        let id = Subject::of(1).quota(&quota, day.parse().expect("a day"));
        QuotaDemand { scope: Scope::Key, id, quota, cost: 600, ends_after: Duration::ZERO, settled: None }
    };
    let [before, after] = ["2026-11-21", "2026-11-22"].map(day);
    let reserve = |demand: &QuotaDemand| {
        limiters.reserve(&Demands { rates: Vec::new(), quotas: vec![demand.clone()] }).expect("it fits")
    };
    let (late, new) = (reserve(&before), reserve(&after));
    limiters.settle(&late, Settlement::Tokens(100));
    limiters.settle(&new, Settlement::Tokens(700));
    assert_eq!([before, after].map(|demand| limiters.quotas().used(&demand.id)), [100, 700]);
}

#[test]
fn the_last_correction_counts_whatever_was_said_before() {
    for words in [[10, 40, 0], [40, 10, 90], [60, 0, 60], [0, 100, 30]] {
        let (limiters, _) = limiters();
        let quota = Quota::new(1_000, Unit::Tokens, Calendar::Day).expect("a quota");
        let id = Subject::of(1).quota(&quota, "2026-11-21".parse().expect("a day"));
        let mut demands = of_tokens((60, 100), 60);
        demands.rates.push(demand(2, rate(60, 5)));
        demands.quotas.push(QuotaDemand {
            scope: Scope::Key,
            id,
            quota,
            cost: 60,
            ends_after: Duration::ZERO,
            settled: None,
        });
        let mut reserved = limiters.reserve(&demands).expect("it fits");
        for word in words {
            limiters.correct(&mut reserved, word);
            let owed = [0, 1].map(|which| debt(&limiters, demands.rates[which]) / MS / 1_000);
            assert_eq!(
                (owed, limiters.quotas().used(&id)),
                ([u64::from(word), 1], u64::from(word)),
                "{words:?}"
            );
        }
    }
}

#[test]
fn what_counts_requests_need_not_be_kept() {
    let (limiters, _) = limiters();
    let mut demands = of_tokens((60, 20), 5);
    demands.rates.push(demand(2, rate(60, 5)));
    let kept = limiters.reserve(&demands).expect("fresh").of_usage();
    limiters.settle(&kept, Settlement::Tokens(0));
    assert_eq!([0, 1].map(|which| debt(&limiters, demands.rates[which]) / MS), [0, 1_000]);
    demands.rates.remove(0);
    assert!(limiters.reserve(&demands).expect("fresh").of_usage().is_empty());
}

#[test]
fn what_others_let_pass_counts_up_to_a_burst() {
    let (limiters, clock) = limiters();
    let demand = demand(1, rate(60, 5));
    let noted = Demands { rates: vec![demand], quotas: Vec::new() };
    limiters.note(&noted);
    limiters.note(&noted);
    assert_eq!(debt(&limiters, demand), 2_000 * MS);
    (0..100).for_each(|_| limiters.note(&noted));
    assert_eq!(debt(&limiters, demand), 5_000 * MS, "nobody has to wait for more than a burst");
    clock.advance(Duration::from_secs(1));
    assert_eq!(burst_of(&limiters, demand), 1);
}

/// Redis counts budgets for several Modelgates; each also counts for itself what it has let pass, for the store, and for when Redis is
/// away. So what Redis has admitted counts whatever is left here.
#[test]
fn budgets_that_are_counted_elsewhere_are_noted_here_and_settled_with_the_rest() {
    let (limiters, _) = limiters();
    let (zone, mut demands) = (jiff::tz::TimeZone::UTC, Demands::default());
    let tokens = Quota::new(100, Unit::Tokens, Calendar::Day).expect("a quota");
    let budget = Quota::budget(10, Calendar::Day, Reserve::Usual).expect("a budget");
    let limits = crate::Limits::new(vec![rate(60, 5)], vec![tokens, budget]);
    let limited = crate::Limited { scope: Scope::Key, subject: Subject::of(1), limits: &limits };
    demands.add(&limited, &crate::Moment::new(std::time::SystemTime::UNIX_EPOCH, &zone), |_| 4);
    demands.price(|_| 8);
    let admit = || {
        let mut reserved = limiters.reserve_quotas(&demands.without_budgets()).expect("tokens are left");
        reserved.add(limiters.note_budgets(&demands));
        reserved
    };
    let used =
        || demands.quotas().iter().map(|demand| limiters.quotas().used(&demand.id())).collect::<Vec<_>>();
    let (mut one, other) = (admit(), admit());
    assert_eq!(used(), [8, 16], "more than the budget");
    assert!(limiters.is_empty(), "its rates are counted elsewhere");
    assert_eq!(
        one.budgets().map(|demand| (demand.quota(), demand.cost())).collect::<Vec<_>>(),
        [(budget, 8)]
    );
    assert_eq!(limiters.spend(&mut one, |_, _| Some(2)).len(), 1);
    limiters.settle(&one, Settlement::Tokens(3));
    assert_eq!(used(), [7, 10]);
    limiters.settle(&other, Settlement::Cancelled);
    assert_eq!(used(), [3, 2]);
}

#[test]
fn a_reload_keeps_what_was_taken_and_applies_the_new_rate_at_once() {
    let (limiters, clock) = limiters();
    // One a minute, three at once; all three are taken. The cell owes three minutes.
    let strict = demand(1, rate(1, 3));
    assert_eq!(burst_of(&limiters, strict), 3);

    // 60 a minute, ten at once: three minutes are more than a used-up burst of ten, which is 10 s.
    let generous = demand(1, rate(60, 10));
    let refused = limiters.admit(&[generous]).expect_err("it is not a fresh start");
    assert_eq!(refused.retry_after, Duration::from_secs(1), "but nobody waits for the old rate");
    clock.advance(Duration::from_secs(2));
    assert_eq!(burst_of(&limiters, generous), 2);

    // Back to one a minute: the ten seconds that are owed are a small part of its three minutes.
    assert_eq!(burst_of(&limiters, strict), 2);
    assert_eq!(limiters.len(), 1);
}

#[test]
fn the_sweep_drops_cells_that_are_all_fresh() {
    let (limiters, clock) = limiters();
    let (short, long) = (demand(1, rate(60, 5)), demand(2, rate(6, 5)));
    limiters.admit(&[short, long]).expect("fresh");
    limiters.sweep();
    assert_eq!(limiters.len(), 2);
    clock.advance(Duration::from_secs(1));
    limiters.sweep();
    assert_eq!(limiters.len(), 1);
    assert_eq!(burst_of(&limiters, long), 4, "the other one still owes");
    assert_eq!(burst_of(&limiters, short), 5, "a new cell says the same");
    clock.advance(Duration::from_secs(60));
    limiters.sweep();
    assert!(limiters.is_empty());
}

#[test]
fn nobody_takes_from_a_condemned_cell() {
    let (limiters, _) = limiters();
    let demand = demand(1, rate(60, 2));
    // The state between the sweep's two steps.
    limiters.cells.pin().insert(demand.id, Cell(AtomicU64::new(DEAD)));
    assert_eq!(limiters.peek(&demand), Ok(()));
    limiters.give_back(&demand, 0);
    assert_eq!(burst_of(&limiters, demand), 2);
    assert_eq!(debt(&limiters, demand), 2_000 * MS);

    // A sweep that comes late to its second step leaves the new cell alone.
    bury(&limiters.cells, demand.id);
    assert_eq!(debt(&limiters, demand), 2_000 * MS);

    // The sweep leaves a cell alone that somebody takes from.
    let cell = Cell::default();
    assert!(matches!(cell.take(&demand, 5), Taken::From(5)));
    assert!(!cell.condemn(6));
    assert!(cell.condemn(5 + 1_000 * MS));
    assert!(matches!(cell.take(&demand, 5 + 1_000 * MS), Taken::Dead));
}

#[test]
fn extreme_times_and_rates_do_not_overflow() {
    for rate in [rate(1, Rate::MAX), rate(Rate::MAX, 1), rate(Rate::MAX, Rate::MAX), rate(1, 1)] {
        let (limiters, clock) = limiters();
        let demand = demand(1, rate);
        for _ in 0..20 {
            assert_eq!(limiters.admit(&[demand]), Ok(()));
            clock.advance(Duration::from_secs(100 * 365 * 86_400));
        }
        assert_eq!(limiters.now(), LAST);
        limiters.sweep();
        limiters.give_back(&demand, 0);
        let _ = limiters.admit(&[demand]);
        assert!(
            limiters.cells.pin().values().all(|cell| !cell.is_dead()),
            "no time is the mark of a dead cell"
        );
    }
}

/// Many keys in use must not slow strangers down, nor strangers from many addresses known clients; the strangers' memory is
/// bounded and freed.
#[test]
fn failures_are_counted_by_address_whatever_else_is_counted() {
    let (limiters, clock) = limiters();
    let slow = rate(60, 3);
    let at = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
    let failures =
        |address: IpAddr| (0..10).take_while(|_| limiters.failed_from(Some(address), slow).is_ok()).count();
    for key in 0..MOST_ADDRESSES as u128 + 10 {
        limiters.admit(&[demand(key, rate(1, 3))]).expect("fresh");
    }
    let keys = limiters.len();
    let [first, second, one_more] = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]].map(IpAddr::from);
    assert_eq!([failures(first), failures(second)], [3, 3]);
    let mapped = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
    assert_eq!(failures(mapped), 0, "it is the same address");
    for stranger in 0..50_010 {
        let _ = limiters.failed_from(Some(at(stranger)), slow);
    }
    assert_eq!(limiters.len(), keys + MOST_ADDRESSES + 1, "one for all that found no room");
    assert_eq!(failures(one_more), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!([failures(first), failures(at(7))], [1, 3], "who has a cell keeps it");
    clock.advance(Duration::from_secs(3));
    limiters.sweep();
    assert_eq!(limiters.len(), keys, "keys' limits owe more");
    assert_eq!(failures(one_more), 3);
}

/// Four threads take ten times each from every one of many cells, in the same order, while a fifth sweeps. Races are likeliest
/// on new cells, so there are many cells.
#[test]
fn threads_never_exceed_the_burst_and_a_sweep_loses_nothing() {
    const CELLS: u32 = 3_000;
    const BURST: u32 = 13;
    let (limiters, _) = limiters();
    let passed: Vec<AtomicU32> = (0..CELLS).map(|_| AtomicU32::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let takers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for (cell, passed) in (0..).zip(&passed) {
                        let demand = demand(cell, rate(60, BURST));
                        let count = (0..10).filter(|_| limiters.admit(&[demand]).is_ok()).count();
                        passed.fetch_add(u32::try_from(count).expect("at most ten"), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                limiters.sweep();
            }
        });
        for taker in takers {
            taker.join().expect("no panic");
        }
        done.store(true, Ordering::Relaxed);
    });
    for (cell, passed) in passed.iter().enumerate() {
        assert_eq!(passed.load(Ordering::Relaxed), BURST, "cell {cell}");
    }
    assert_eq!(limiters.len(), CELLS as usize);
}

/// The sweep marks a recovered cell dead at the very moment in which somebody takes from it. In each round the cell recovers,
/// and one thread takes while another sweeps.
#[test]
fn a_sweep_that_meets_a_taker_loses_nothing() {
    const ROUNDS: u32 = 30_000;
    let (limiters, clock) = limiters();
    let demand = demand(1, rate(60, 3));
    // Even: between rounds; odd: a round is on.
    let phase = AtomicU32::new(0);
    let mut wrong = Vec::new();
    let wait_for = |wanted: u32| {
        while phase.load(Ordering::Acquire) < wanted {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                wait_for(2 * round + 1);
                while phase.load(Ordering::Acquire) == 2 * round + 1 {
                    limiters.sweep();
                }
            }
        });
        for round in 0..ROUNDS {
            limiters.admit(&[demand]).expect("all fresh");
            clock.advance(Duration::from_secs(3));
            phase.store(2 * round + 1, Ordering::Release);
            // A different moment each time.
            (0..round % 64).for_each(|_| std::hint::spin_loop());
            let passed = burst_of(&limiters, demand);
            phase.store(2 * round + 2, Ordering::Release);
            // A panic here would leave the sweeping thread waiting.
            if passed != 3 {
                wrong.push((round, passed));
            }
            clock.advance(Duration::from_secs(3));
        }
    });
    assert_eq!(wrong, [], "rounds in which more or less than the burst passed");
}

/// Threads share a wide and a narrow limit: a thread that the narrow one refuses after all must give back what it took from the
/// wide one.
#[test]
fn threads_give_back_what_a_late_refusal_took() {
    let (limiters, _) = limiters();
    for round in 0..300 {
        let shared = demand(1_000 + round, rate(60, 6));
        let both = demand(1_000_000 + round, rate(60, 1_000));
        let passed: usize = thread::scope(|scope| {
            let taker = || (0..5).filter(|_| limiters.admit(&[both, shared]).is_ok()).count();
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(taker)).collect();
            takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 6);
        assert_eq!(debt(&limiters, shared), 6_000 * MS);
        assert_eq!(debt(&limiters, both), 6_000 * MS, "every other debit was given back");
    }
}

/// As time passes and cells are created and swept, no more passes than the burst and what has recovered.
#[test]
fn threads_never_exceed_the_rate_while_time_moves_and_cells_are_swept() {
    let (limiters, clock) = limiters();
    let demand = demand(1, rate(60_000, 5));
    let taker = || {
        let mut passed = 0;
        for step in 0..20_000 {
            // From a fraction of an interval to more than a whole burst.
            clock.advance(Duration::from_nanos(step % 97 * 100_000));
            limiters.sweep();
            passed += (0..4).filter(|_| limiters.admit(&[demand]).is_ok()).count();
        }
        passed
    };
    let passed: usize = thread::scope(|scope| {
        let takers: Vec<_> = (0..3).map(|_| scope.spawn(taker)).collect();
        takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
    });
    let most = 5 + clock.now().as_millis();
    assert!(passed as u128 <= most, "{passed} passed, {most} may");
    assert!(passed > 20_000, "only {passed} passed");
}

/// A reference model: a limit as a leaking bucket, without arrival times.
#[derive(Clone, Default)]
struct Bucket {
    level: u64,
    at: u64,
    /// The time and the amount of each.
    passed: Vec<(u64, u64)>,
}

impl Bucket {
    fn level(&mut self, now: u64, rate: Rate) -> u64 {
        self.level = self.level.saturating_sub(now - self.at).min(rate.burst_time());
        self.at = now;
        self.level
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// Asks for these cells, with the first or the second set of rates.
    Ask {
        cells: [bool; 3],
        cost: u32,
        reloaded: bool,
    },
    Sweep,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..3_000 * MS).prop_map(Step::Wait),
        1 => Just(Step::Wait(600_000 * MS)),
        8 => (any::<[bool; 3]>(), any_cost()).prop_map(|(cells, cost)| Step::Ask { cells, cost, reloaded: false }),
        1 => (any::<[bool; 3]>(), any_cost()).prop_map(|(cells, cost)| Step::Ask { cells, cost, reloaded: true }),
        1 => Just(Step::Sweep),
    ]
}

/// Most costs are 1; tokens cost more, some more than a full burst.
fn any_cost() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(1u32), 2 => 2u32..12]
}

fn any_rate() -> impl Strategy<Value = Rate> {
    (1u32..300, 1u32..8).prop_map(|(requests, burst)| rate(requests, burst))
}

/// Three limits, before and after a reload.
fn any_rates() -> impl Strategy<Value = [[Rate; 3]; 2]> {
    let three = || [any_rate(), any_rate(), any_rate()];
    [three(), three()]
}

proptest! {
    #[test]
    fn limits_behave_like_leaking_buckets(
        rates in any_rates(),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let (limiters, clock) = limiters();
        let mut buckets = vec![Bucket::default(); 3];
        let mut ever_reloaded = false;
        for step in steps {
            let now = limiters.now();
            match step {
                Step::Wait(ns) => clock.advance(Duration::from_nanos(ns)),
                Step::Sweep => limiters.sweep(),
                Step::Ask { cells, cost, reloaded } => {
                    ever_reloaded |= reloaded;
                    let rate = |i: usize| rates[usize::from(reloaded)][i];
                    let asked = |i: usize| cells[i].then(|| Demand { cost, ..demand(i as u128, rate(i)) });
                    let demands = [asked(0), asked(1), asked(2)];
                    let mut longest = (false, 0);
                    for (bucket, demand) in buckets.iter_mut().zip(demands) {
                        let Some(Demand { rate, .. }) = demand else { continue };
                        let wanted = bucket.level(now, rate) + rate.interval() * u64::from(cost);
                        longest = longest.max((cost > rate.burst(), wanted.saturating_sub(rate.burst_time())));
                    }
                    let given: Vec<Demand> = demands.iter().flatten().copied().collect();
                    let refused = limiters.admit(&given).err();
                    prop_assert_eq!(refused.map_or(0, |r| r.retry_after.as_nanos()), u128::from(longest.1));
                    if refused.is_none() {
                        for (bucket, demand) in buckets.iter_mut().zip(demands) {
                            let Some(Demand { rate, .. }) = demand else { continue };
                            bucket.level += rate.interval() * u64::from(cost);
                            bucket.passed.push((now, u64::from(cost)));
                        }
                    }
                }
            }
        }
        // The property to hold, for every window from one admitted request to another.
        for (bucket, rate) in buckets.iter().zip(rates[0]).filter(|_| !ever_reloaded) {
            for (i, (from, _)) in bucket.passed.iter().enumerate() {
                let mut sum = 0;
                for (to, cost) in &bucket.passed[i..] {
                    sum += cost;
                    prop_assert!(sum <= u64::from(rate.burst()) + (to - from) / rate.interval());
                }
            }
        }
    }
}

/// A quota and a rate in one request, over several days, compared with a plain sum per day and a leaking bucket.
#[derive(Debug, Clone)]
enum Later {
    Wait(u64),
    NextDay,
    Ask {
        cost: u32,
        of_both: bool,
    },
    /// It has used more or fewer tokens than estimated.
    Settle {
        used: u32,
    },
}

fn any_later() -> impl Strategy<Value = Later> {
    prop_oneof![
        3 => (0u64..5_000 * MS).prop_map(Later::Wait),
        1 => Just(Later::NextDay),
        8 => (1u32..9, any::<bool>()).prop_map(|(cost, of_both)| Later::Ask { cost, of_both }),
        1 => (0u32..9).prop_map(|used| Later::Settle { used }),
    ]
}

proptest! {
    #[test]
    fn quotas_are_sums_and_a_refusal_by_either_takes_from_neither(
        amount in 1u64..40,
        rate in (1u32..300, 1u32..20),
        steps in prop::collection::vec(any_later(), 1..100),
    ) {
        let (limiters, clock) = limiters();
        let rate = Rate::new(rate.0, Unit::Tokens, Per::Minute, Some(rate.1)).expect("a rate");
        let quota = Quota::new(amount, Unit::Tokens, Calendar::Day).expect("a quota");
        let (mut bucket, mut sum, mut day) = (Bucket::default(), 0_u64, 1_u8);
        let mut last: Option<(Reservation, u32, bool)> = None;
        for step in steps {
            let now = limiters.now();
            match step {
                Later::Wait(ns) => clock.advance(Duration::from_nanos(ns)),
                Later::NextDay => {
                    day = day % 28 + 1;
                    // The test's days recur after a month; their saved counts are forgotten.
                    limiters.quotas().take_unsaved();
                    let far = std::time::SystemTime::now() + Duration::from_secs(1 << 36);
                    limiters.quotas().forget_before(far, &jiff::tz::TimeZone::UTC);
                    (sum, last) = (0, None);
                }
                Later::Ask { cost, of_both } => {
                    let subject = Subject::of(1);
                    let period: Period = format!("2026-11-{day:02}").parse().expect("a day");
                    let of_quota = QuotaDemand { scope: Scope::Key, id: subject.quota(&quota, period), quota, cost: cost.into(), ends_after: Duration::ZERO, settled: None };
                    let of_rate = Demand::new(Scope::Consumer, subject, rate, cost);
                    let demands = Demands { rates: of_both.then_some(of_rate).into_iter().collect(), quotas: vec![of_quota] };
                    let time = rate.interval() * u64::from(cost);
                    let fits = sum + u64::from(cost) <= amount
                        && (!of_both || bucket.level(now, rate) + time <= rate.burst_time());
                    match limiters.reserve(&demands) {
                        Ok(reserved) => {
                            prop_assert!(fits);
                            sum += u64::from(cost);
                            bucket.level += if of_both { time } else { 0 };
                            last = Some((reserved, cost, of_both));
                        }
                        Err(reached) => {
                            prop_assert!(!fits, "{}", reached);
                            let left = amount.saturating_sub(sum);
                            prop_assert!(matches!(reached.limit, Limit::Rate(_)) || reached.remaining == left);
                        }
                    }
                }
                Later::Settle { used } => {
                    // Only the last request, so that the reference model need not track time for it.
                    let Some((reserved, cost, of_both)) = last.take() else { continue };
                    if of_both {
                        continue;
                    }
                    limiters.settle(&reserved, Settlement::Tokens(used));
                    sum = sum + u64::from(used) - u64::from(cost);
                }
            }
        }
    }
}

/// Requests that overlap: each is asked for, and settled later.
#[derive(Debug, Clone)]
enum Overlapping {
    Wait(u64),
    Ask(u32),
    /// One of the open ones has used this many thousandths of what it reserved.
    Settle {
        which: usize,
        share: u32,
    },
}

fn any_overlapping() -> impl Strategy<Value = Overlapping> {
    prop_oneof![
        3 => (0u64..5_000 * MS).prop_map(Overlapping::Wait),
        6 => (1u32..12).prop_map(Overlapping::Ask),
        6 => (0usize..6, 0u32..=1_000).prop_map(|(which, share)| Overlapping::Settle { which, share }),
    ]
}

proptest! {
    /// In any time no more is used than a burst, what recovers, and what requests that were open at its beginning get back.
    #[test]
    fn settled_limits_are_never_exceeded(
        rate in (1u32..300, 12u32..40),
        steps in prop::collection::vec(any_overlapping(), 1..120),
    ) {
        struct One {
            asked: u64,
            settled: u64,
            cost: u32,
            used: u32,
            reserved: Option<Reservation>,
        }
        let (limiters, clock) = limiters();
        let mut all: Vec<One> = Vec::new();
        for step in steps {
            let now = limiters.now();
            match step {
                Overlapping::Wait(ns) => clock.advance(Duration::from_nanos(ns)),
                Overlapping::Ask(cost) => {
                    if let Ok(reserved) = limiters.reserve(&of_tokens(rate, cost)) {
                        all.push(One { asked: now, settled: u64::MAX, cost, used: cost, reserved: Some(reserved) });
                    }
                }
                Overlapping::Settle { which, share } => {
                    let Some(one) = all.iter_mut().filter(|one| one.reserved.is_some()).nth(which) else { continue };
                    (one.used, one.settled) = (one.cost * share / 1_000, now);
                    let mut reserved = one.reserved.take().expect("it is open");
                    // Corrected twice: the first word was half right.
                    limiters.correct(&mut reserved, (one.cost + one.used) / 2);
                    limiters.correct(&mut reserved, one.used);
                }
            }
        }
        let rate = of_tokens(rate, 1).rates[0].rate;
        for (first, from) in all.iter().map(|one| one.asked).enumerate() {
            let open = all[..first].iter().filter(|one| one.settled >= from && one.settled < u64::MAX);
            let got_back: u32 = open.map(|one| one.cost - one.used).sum();
            let mut used = 0;
            for one in &all[first..] {
                used += u64::from(one.used);
                let most = u64::from(rate.burst() + got_back) + (one.asked - from) / rate.interval();
                prop_assert!(used <= most, "{used} of {most}");
            }
        }
    }
}
