//! Compares the scripts on a real server, with the time set by hand, with a plain model and with the limits in memory.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use limits::{Limiters, ManualClock, Per, Rate, Unit};
use proptest::{prelude::*, test_runner::TestCaseResult};
use redis::{Connection, ConnectionLike};
use testkit::redis::{Redis, redis_server};

use super::*;

/// 21 November 2026: a time so large that a double cannot hold its nanoseconds.
const START: u64 = 1_795_219_200 * SECOND;
/// Keys live this much longer here, since only the time set by hand passes.
const HOUR_MS: u64 = 3_600_000;

/// A server, and the scripts with two expressions replaced.
struct Bench {
    _redis: Redis,
    connection: RefCell<Connection>,
    keys: Keys,
    texts: [(&'static str, Text); 6],
}

impl Bench {
    fn start() -> Option<Self> {
        let program = testkit::need(redis_server(), "Redis")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let redis = runtime.block_on(Redis::start(program));
        let client = redis::Client::open(redis.url()).expect("its URL");
        let connection = RefCell::new(client.get_connection().expect("a connection"));
        let texts = [ADMIT_TEXT, ANNOUNCE_TEXT, SETTLE_TEXT, LEFT_TEXT, SPEND_TEXT, SPENT_TEXT]
            .map(|code| (code, Text::new(with_time(code))));
        Some(Self { _redis: redis, connection, keys: Keys::new("test").expect("a namespace"), texts })
    }

    fn run(&self, call: &Call, now: u64) -> Vec<u64> {
        let (_, text) = self.texts.iter().find(|(code, _)| *code == call.text.code).expect("one of them");
        let mut cmd = call.with("EVAL", text.code);
        cmd.arg(&split(now));
        cmd.query(&mut *self.connection.borrow_mut()).expect("an answer")
    }

    fn admit(&self, demands: &[Demand], now: u64) -> Outcome {
        outcome(&self.run(&admit(&self.keys, demands, &[], None), now), (demands.len(), 0))
            .expect("it makes sense")
    }

    /// Announces a Modelgate at the start.
    fn announce(&self, last: ServerTime, next: u64) -> Announced {
        announced(&self.run(&self.keys.announce(1, last, next), START)).expect("it makes sense")
    }

    fn settle(&self, settled: &[Settled], now: u64) {
        self.run(&settle(&self.keys, settled), now);
    }

    /// Gives all back that was taken at this time from fresh limits.
    fn give_back(&self, demands: &[Demand], taken_at: u64, now: u64) {
        self.settle(&settled(demands, &[ServerTime(taken_at)].repeat(demands.len()), |_| 0), now);
    }

    fn left(&self, demands: &[Demand], now: u64) -> Vec<Left> {
        lefts(&self.run(&left(&self.keys, demands), now), demands).expect("it makes sense")
    }

    fn command(&self, words: &[&str]) -> redis::Value {
        let packed =
            redis::pack_command(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
        self.connection.borrow_mut().req_packed_command(&packed).expect("an answer")
    }

    /// The remaining life that the scripts gave to a key.
    fn life_ms(&self, id: &LimitId) -> Option<u64> {
        match self.command(&["PTTL", &self.keys.of(id)]) {
            redis::Value::Int(life) => u64::try_from(life).ok().map(|life| life.saturating_sub(HOUR_MS)),
            other => panic!("{other:?}"),
        }
    }

    fn clear(&self) {
        self.command(&["FLUSHALL"]);
    }
}

/// The script with another source of time and another life of keys.
fn with_time(code: &str) -> &'static str {
    let mut text = code.to_owned();
    for (real, test) in [
        ("redis.call('TIME')", "{ ARGV[#ARGV - 1], tostring(tonumber(ARGV[#ARGV]) / 1000) }"),
        ("string.format('%.0f', life)", "string.format('%.0f', life + 3600000)"),
    ] {
        assert_eq!(text.matches(real).count(), 1, "{real}");
        text = text.replace(real, test);
    }
    text.leak()
}

fn settled(demands: &[Demand], recovers_from: &[ServerTime], used: impl Fn(u32) -> u32) -> Vec<Settled> {
    let one = |(demand, from): (&Demand, &ServerTime)| Settled {
        demand: *demand,
        recovers_from: *from,
        used: used(demand.cost),
    };
    demands.iter().zip(recovers_from).map(one).collect()
}

fn id(number: u128) -> LimitId {
    LimitId { who: number, model: 7 * number, window: 3 }
}

fn ns(ns: u64) -> Duration {
    Duration::from_nanos(ns)
}

/// The reference model of a limit: a debt that shrinks with time.
#[derive(Debug, Default)]
struct Model {
    now: u64,
    debts: BTreeMap<LimitKey, u64>,
}

type LimitKey = (u128, u128, u8);

fn key(demand: &Demand) -> LimitKey {
    (demand.id.who, demand.id.model, demand.id.window)
}

impl Model {
    fn wait(&mut self, time: u64) {
        self.now += time;
        for debt in self.debts.values_mut() {
            *debt = debt.saturating_sub(time);
        }
    }

    fn admit(&mut self, demands: &[Demand]) -> Outcome {
        for demand in demands {
            let debt = self.debts.entry(key(demand)).or_default();
            *debt = demand.burst_time().min(*debt);
        }
        let mut debts = self.debts.clone();
        let mut refused: Option<((bool, u64), usize, u64)> = None;
        let mut recovers_from = Vec::new();
        for (index, demand) in demands.iter().enumerate() {
            let debt = debts.get_mut(&key(demand)).expect("it was made above");
            recovers_from.push(ServerTime(self.now + *debt));
            let wait = (*debt + demand.time()).saturating_sub(demand.burst_time());
            let wait = (demand.cost > demand.burst, wait);
            if wait.1 == 0 {
                *debt += demand.time();
            } else if refused.is_none_or(|(longest, ..)| wait > longest) {
                refused = Some((wait, index, *debt));
            }
        }
        match refused {
            Some(((_, wait), index, debt)) => {
                Outcome::Refused { index, retry_after: ns(wait), reset_after: ns(debt) }
            }
            None => {
                self.debts = debts;
                Outcome::Admitted { at: ServerTime(self.now), recovers_from }
            }
        }
    }

    fn settle(&mut self, settled: &[Settled]) {
        for Settled { demand, recovers_from, used } in settled {
            let debt = self.debts.entry(key(demand)).or_default();
            let time = |tokens: u32| demand.interval_ns * u64::from(tokens);
            if *used > demand.cost {
                *debt = debt.saturating_add(time(used - demand.cost));
            } else {
                let recovered = self.now.saturating_sub(recovers_from.0 + time(*used));
                *debt = debt.saturating_sub(time(demand.cost - used).saturating_sub(recovered));
            }
        }
    }

    fn left(&self, demand: &Demand) -> Left {
        let debt = self.debts.get(&key(demand)).copied().unwrap_or_default().min(demand.burst_time());
        let remaining =
            u32::try_from((demand.burst_time() - debt) / demand.interval_ns).expect("at most the burst");
        Left { remaining, reset_after: ns(debt) }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait {
        us: u64,
    },
    /// Indices of limits, each with a cost in thousandths of a burst.
    Admit(Vec<(usize, u32)>),
    /// An earlier admission has used so many thousandths of what was taken.
    Settle {
        ago: usize,
        share: u32,
    },
    Left,
    /// A reload: a limit becomes more or less generous.
    Change {
        limit: usize,
        interval_ns: u64,
        burst: u32,
    },
}

/// An interval and a burst; a full burst takes a hundred years at most.
fn rate() -> impl Strategy<Value = (u64, u32)> {
    let interval = prop_oneof![1..100_u64, 1..1_000_000_u64, 1..10_000_000_000_u64, Just(3_600 * SECOND)];
    let burst = prop_oneof![1..10_u32, 1..10_000_u32, Just(60_000_000)];
    let century = 3_155_760_000 * SECOND;
    let is_short = move |(interval, burst): &(u64, u32)| interval.saturating_mul(u64::from(*burst)) < century;
    (interval, burst).prop_filter("less than a century", is_short)
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![0..100_u64, 0..1_000_000_u64, 0..100_000_000_000_u64];
    let share = prop_oneof![Just(0), Just(1), 0..300_u32, 900..1_100_u32];
    prop_oneof![
        3 => wait.prop_map(|us| Step::Wait { us }),
        6 => prop::collection::vec((0..LIMITS, share), 1..5).prop_map(Step::Admit),
        2 => (0..4_usize, 0..=1_000_u32).prop_map(|(ago, share)| Step::Settle { ago, share }),
        1 => (0..4_usize, 1_001..3_000_u32).prop_map(|(ago, share)| Step::Settle { ago, share }),
        1 => Just(Step::Left),
        1 => (0..LIMITS, rate()).prop_map(|(limit, (interval_ns, burst))| Step::Change { limit, interval_ns, burst }),
    ]
}

const LIMITS: usize = 4;

fn limits() -> impl Strategy<Value = Vec<Demand>> {
    let limit = |(interval_ns, burst): (u64, u32)| Demand { id: id(0), interval_ns, burst, cost: 0 };
    prop::collection::vec(rate().prop_map(limit), LIMITS).prop_map(|mut limits| {
        (1..).zip(&mut limits).for_each(|(number, limit)| limit.id = id(number));
        limits
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

fn part(of: u32, thousandths: u32) -> u32 {
    u32::try_from((u64::from(of) * u64::from(thousandths)).div_ceil(1_000))
        .expect("little more than the whole")
}

/// An admission and its time, and what it has used.
struct Admission {
    at: u64,
    demands: Vec<Demand>,
    recovers_from: Vec<ServerTime>,
    used: Vec<u32>,
    settled_at: Option<u64>,
}

/// A sequence of steps, on the server and on the model.
struct Run<'a> {
    bench: &'a Bench,
    model: Model,
    limits: Vec<Demand>,
    admissions: Vec<Admission>,
}

impl<'a> Run<'a> {
    fn new(bench: &'a Bench, limits: Vec<Demand>) -> Self {
        bench.clear();
        Self { bench, model: Model { now: START, ..Model::default() }, limits, admissions: Vec::new() }
    }

    fn take(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Wait { us } => self.model.wait(us * 1_000),
            Step::Admit(wanted) => self.admit(wanted)?,
            Step::Settle { ago, share } => self.settle(*ago, *share),
            Step::Left => {}
            Step::Change { limit, interval_ns, burst } => {
                let id = self.limits[*limit].id;
                self.limits[*limit] = Demand { id, interval_ns: *interval_ns, burst: *burst, cost: 0 };
            }
        }
        self.compare()
    }

    fn admit(&mut self, wanted: &[(usize, u32)]) -> TestCaseResult {
        let demand = |&(limit, share): &(usize, u32)| {
            let limit: Demand = self.limits[limit];
            Demand { cost: part(limit.burst, share), ..limit }
        };
        let demands: Vec<Demand> = wanted.iter().map(demand).collect();
        let outcome = self.bench.admit(&demands, self.model.now);
        prop_assert_eq!(&outcome, &self.model.admit(&demands), "{:?}", &demands);
        if let Outcome::Admitted { at, recovers_from } = outcome {
            let used = demands.iter().map(|demand| demand.cost).collect();
            self.admissions.push(Admission { at: at.0, demands, recovers_from, used, settled_at: None });
        }
        Ok(())
    }

    fn settle(&mut self, ago: usize, share: u32) {
        let mut open = self.admissions.iter_mut().rev().filter(|one| one.settled_at.is_none());
        let Some(admission) = open.nth(ago) else { return };
        admission.settled_at = Some(self.model.now);
        let used =
            |cost| u32::try_from(u64::from(cost) * u64::from(share) / 1_000).expect("at most three times");
        let settled = settled(&admission.demands, &admission.recovers_from, used);
        admission.used = settled.iter().map(|one| one.used).collect();
        self.bench.settle(&settled, self.model.now);
        self.model.settle(&settled);
    }

    /// Compares what is left.
    fn compare(&self) -> TestCaseResult {
        let left: Vec<Left> = self.limits.iter().map(|limit| self.model.left(limit)).collect();
        prop_assert_eq!(self.bench.left(&self.limits, self.model.now), left);
        Ok(())
    }

    /// In every window of time, no more may be used of a limit than a burst, what recovers, and what requests that were open at
    /// its beginning get back.
    fn check_windows(&self) -> TestCaseResult {
        for limit in &self.limits {
            let sum = |one: &Admission, of: fn(u32, u32) -> u32| -> u64 {
                let both = one.demands.iter().zip(&one.used).filter(|(demand, _)| demand.id == limit.id);
                both.map(|(demand, used)| u64::from(of(demand.cost, *used))).sum()
            };
            for (first, from) in self.admissions.iter().map(|one| one.at).enumerate() {
                let open =
                    self.admissions[..first].iter().filter(|one| one.settled_at.is_some_and(|at| at >= from));
                let got_back: u64 = open.map(|one| sum(one, |cost, used| cost - used)).sum();
                let mut used = 0;
                for last in &self.admissions[first..] {
                    used += sum(last, |_, used| used);
                    let most = u64::from(limit.burst) + got_back + (last.at - from) / limit.interval_ns;
                    prop_assert!(used <= most, "{used} of {most}, of {limit:?}");
                }
            }
        }
        Ok(())
    }
}

#[test]
fn the_scripts_do_what_the_plain_model_does() {
    let Some(bench) = Bench::start() else { return };
    proptest!(ProptestConfig::with_cases(150), |(limits in limits(), steps in steps())| {
        let mut run = Run::new(&bench, limits);
        steps.iter().try_for_each(|step| run.take(step))?;
    });
}

#[test]
fn no_window_of_time_has_more_than_a_burst_and_what_comes_in() {
    let Some(bench) = Bench::start() else { return };
    // Nor does anything use more than it took: debts are not bounded by the limit.
    let is_kept = |step: &Step| !matches!(step, Step::Change { .. } | Step::Settle { share: 1_001.., .. });
    proptest!(ProptestConfig::with_cases(150), |(limits in limits(), steps in steps())| {
        let mut run = Run::new(&bench, limits);
        steps.iter().filter(|step| is_kept(step)).try_for_each(|step| run.take(step))?;
        run.check_windows()?;
    });
}

/// One limit at a time, and one request each.
#[test]
fn memory_and_redis_agree() {
    let Some(bench) = Bench::start() else { return };
    let per = prop_oneof![Just((Per::Second, 1)), Just((Per::Minute, 60)), Just((Per::Hour, 3_600_u64))];
    let requests = prop::collection::vec((0..3_u128, 0..5_000_000_u64), 1..60);
    let limit = (per, 1..5_000_u32, 1..20_u32);
    proptest!(ProptestConfig::with_cases(100), |((per, amount, burst) in limit, requests in requests)| {
        bench.clear();
        let rate = Rate::new(amount, Unit::Requests, per.0, Some(burst)).expect("a rate");
        let interval_ns = (per.1 * SECOND).div_ceil(u64::from(amount));
        let clock = ManualClock::new();
        let memory = Limiters::new(clock.clone());
        let mut now = START;
        clock.advance(ns(now));
        for (who, wait_us) in requests {
            now += wait_us * 1_000;
            clock.advance(ns(wait_us * 1_000));
            let in_redis = match bench.admit(&[Demand { id: id(who), interval_ns, burst, cost: 1 }], now) {
                Outcome::Admitted { at, .. } => Outcome::Admitted { at, recovers_from: Vec::new() },
                refused => refused,
            };
            let address = IpAddr::from(Ipv6Addr::from_bits(who << 64));
            let in_memory = match memory.failed_from(Some(address), rate) {
                Ok(()) => Outcome::Admitted { at: ServerTime(now), recovers_from: Vec::new() },
                Err(refused) => Outcome::Refused {
                    index: 0,
                    retry_after: refused.retry_after,
                    reset_after: refused.reset_after,
                },
            };
            prop_assert_eq!(in_redis, in_memory);
        }
    });
}

#[test]
fn a_key_lives_until_its_limit_is_fresh() {
    let Some(bench) = Bench::start() else { return };
    for (interval_ns, cost) in
        [(17, 1), (1_000_000, 1), (999_999_999, 3), (8_571_428_572, 60), (3_600 * SECOND, 9)]
    {
        let demand = Demand { id: id(u128::from(interval_ns)), interval_ns, burst: 100, cost };
        let began = std::time::Instant::now();
        bench.admit(&[demand], START + 999_999_000);
        let life = bench.life_ms(&demand.id).expect("there is a key");
        let debt = demand.time().div_ceil(1_000_000);
        // Two milliseconds more are given, since some pass until they are asked for.
        let passed = u64::try_from(began.elapsed().as_millis()).expect("few");
        assert!(
            life <= debt + 2 && life + passed >= debt,
            "{life} ms for a debt of {debt} ms, after {passed} ms"
        );
    }
}

#[test]
fn what_takes_nothing_leaves_no_key() {
    let Some(bench) = Bench::start() else { return };
    let free = Demand { id: id(1), interval_ns: SECOND, burst: 5, cost: 0 };
    let much = Demand { id: id(2), interval_ns: SECOND, burst: 5, cost: 6 };
    assert!(matches!(bench.admit(&[free], START), Outcome::Admitted { .. }));
    assert!(matches!(bench.admit(&[free, much], START), Outcome::Refused { index: 1, .. }));
    bench.left(&[free, much], START);
    bench.give_back(&[much], START, START);
    assert_eq!(bench.command(&["DBSIZE"]), redis::Value::Int(0));

    let some = Demand { cost: 4, ..free };
    bench.admit(&[some], START);
    assert_eq!(bench.left(&[some], START)[0], Left { remaining: 1, reset_after: ns(4 * SECOND) });
    bench.give_back(&[some], START, START);
    assert_eq!(bench.command(&["DBSIZE"]), redis::Value::Int(0), "all was given back");
}

/// A limit that is in use all the time gets all back; whoever used more than was taken owes it, by a burst at most.
#[test]
fn what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() {
    let Some(bench) = Bench::start() else { return };
    let five = Demand { id: id(1), interval_ns: SECOND, burst: 20, cost: 5 };
    let from = [0, 5, 10].map(|after| ServerTime(START + after * SECOND));
    for recovers_from in from {
        let admitted = Outcome::Admitted { at: ServerTime(START), recovers_from: vec![recovers_from] };
        assert_eq!(bench.admit(&[five], START), admitted);
    }
    let now = START + 2 * SECOND;
    let owed = || bench.left(&[five], now)[0].reset_after;
    for (which, used, after) in [(1, 1, 9), (2, 5, 9), (0, 1, 6)] {
        bench.settle(&settled(&[five], &from[which..], |_| used), now);
        assert_eq!(owed(), ns(after * SECOND), "{which}");
    }
    bench.settle(&settled(&[five], &from, |_| 12), now);
    assert_eq!(owed(), ns(13 * SECOND));
    bench.settle(&settled(&[five], &from, |_| 100_000), now);
    assert_eq!(owed(), ns(20 * SECOND));
    assert!(matches!(bench.admit(&[five], now + 5 * SECOND), Outcome::Refused { .. }));
    assert!(matches!(bench.admit(&[five], now + 10 * SECOND), Outcome::Admitted { .. }));
}

/// After a failover to a server whose clock is behind, or a clock set back, a limit must not stay closed for that long.
#[test]
fn a_clock_that_goes_back_costs_a_burst_at_most() {
    let Some(bench) = Bench::start() else { return };
    let demand = Demand { id: id(1), interval_ns: SECOND, burst: 5, cost: 1 };
    bench.admit(&[demand], START);
    let earlier = START - 86_400 * SECOND;
    let refused = Outcome::Refused { index: 0, retry_after: ns(SECOND), reset_after: ns(5 * SECOND) };
    assert_eq!(bench.admit(&[demand], earlier), refused);
    // Four of five are still taken.
    let (at, recovers_from) = (ServerTime(earlier + SECOND), vec![ServerTime(earlier + 5 * SECOND)]);
    assert_eq!(bench.admit(&[demand], at.0), Outcome::Admitted { at, recovers_from });
}

/// Three million years are capped at 584.
#[test]
fn absurd_limits_are_no_error() {
    let Some(bench) = Bench::start() else { return };
    let demand = Demand { id: id(1), interval_ns: u64::MAX, burst: u32::MAX, cost: u32::MAX };
    assert!(matches!(bench.admit(&[demand], START), Outcome::Admitted { .. }));
    let refused = Outcome::Refused { index: 0, retry_after: ns(u64::MAX), reset_after: ns(u64::MAX) };
    assert_eq!(bench.admit(&[demand], START), refused);
    assert_eq!(bench.left(&[demand], START)[0].reset_after, ns(u64::MAX));
    bench.give_back(&[demand], START, START);
    assert_eq!(bench.left(&[demand], START)[0].reset_after, Duration::ZERO);
}

#[test]
fn a_value_that_is_none_is_fresh() {
    let Some(bench) = Bench::start() else { return };
    let demand = Demand { id: id(1), interval_ns: SECOND, burst: 5, cost: 5 };
    for junk in ["", "soon", "12", "-1 5", "1e3 7"] {
        bench.command(&["SET", &bench.keys.of(&demand.id), junk]);
        assert!(matches!(bench.admit(&[demand], START), Outcome::Admitted { .. }), "{junk:?}");
        assert!(matches!(bench.admit(&[demand], START), Outcome::Refused { .. }), "{junk:?}");
    }
}

/// Of 100, with one request that is counted by a rate, too.
#[test]
fn a_budget_is_taken_with_the_rates_or_not_at_all() {
    let Some(bench) = Bench::start() else { return };
    let window = |n: u8| QuotaId::parse(&format!("{:064x}{n:02x}", 7), "2026-11").expect("an id");
    let (day, epoch) = (Some(Duration::from_secs(60)), bench.announce(ServerTime(0), 7).epoch);
    let of = |n, cost, used| BudgetDemand { id: window(n), allowed: 100, cost, used, epoch, ends_after: day };
    let rate =
        |who| Demand { id: LimitId { who, model: 0, window: 0 }, interval_ns: SECOND, burst: 1, cost: 1 };
    let run = |demands: &[Demand], budgets: &[BudgetDemand]| {
        let answer = bench.run(&admit(&bench.keys, demands, budgets, None), START);
        outcome(&answer, (demands.len(), budgets.len())).expect("it makes sense")
    };
    let spent = |ids: &[u8]| {
        let ids: Vec<_> = ids.iter().map(|n| window(*n)).collect();
        amounts(&bench.run(&spent(&bench.keys, &ids), START), ids.len()).expect("it makes sense")
    };
    assert_eq!(spent(&[122]), [None]);
    // What was spent before is told by the first that asks, and by no other.
    assert!(matches!(run(&[], &[of(122, 30, 20)]), Outcome::Admitted { .. }));
    assert!(matches!(run(&[rate(1)], &[of(122, 30, 0), of(120, 5, 0)]), Outcome::Admitted { .. }));
    assert_eq!(spent(&[122, 120, 121]), [Some(80), Some(5), None]);
    assert_eq!(run(&[], &[of(120, 5, 0), of(122, 21, 0)]), Outcome::Overspent { index: 1, remaining: 20 });
    assert!(matches!(run(&[rate(1)], &[of(122, 1, 0)]), Outcome::Refused { index: 0, .. }), "by the rate");
    // The same budget twice in one request.
    assert_eq!(run(&[], &[of(122, 15, 0), of(122, 15, 0)]), Outcome::Overspent { index: 1, remaining: 5 });
    assert_eq!(run(&[rate(2)], &[of(122, 21, 0)]), Outcome::Overspent { index: 0, remaining: 20 });
    assert!(matches!(run(&[rate(2)], &[of(122, 0, 0)]), Outcome::Admitted { .. }), "nothing was taken");
    assert_eq!(spent(&[122, 120]), [Some(80), Some(5)]);
    let by = |n, by, ends_after| Spent { id: window(n), by, epoch, ends_after };
    bench.run(&spend(&bench.keys, &[by(122, -50, day), by(120, -9, None), by(121, 7, day)]), START);
    assert_eq!(spent(&[122, 120, 121]), [Some(30), Some(0), None], "not below zero, and nothing is made up");
    let life = |n| match bench.command(&["PTTL", &bench.keys.of_budget(&window(n))]) {
        redis::Value::Int(life) => life,
        other => panic!("{other:?}"),
    };
    assert!((86_400_000..86_460_001).contains(&life(122)), "a day more than its period");
    assert_eq!(life(120), -1, "for ever");
    // Regression: of a budget that is exceeded, what was estimated to cost nothing passed, as where only seconds have a price.
    bench.run(&spend(&bench.keys, &[by(122, 70, day)]), START);
    assert!(matches!(run(&[], &[of(122, 0, 0)]), Outcome::Admitted { .. }), "all of it is spent");
    bench.run(&spend(&bench.keys, &[by(122, 1, day)]), START);
    assert_eq!(run(&[], &[of(122, 0, 0)]), Outcome::Overspent { index: 0, remaining: 0 });
    // Beyond what a double holds exactly, it is refused a little early, and never late.
    let most = 1_000_000_000_000_000_000;
    let huge = |cost| BudgetDemand {
        id: window(123),
        allowed: most,
        cost,
        used: most - 2_000,
        epoch,
        ends_after: None,
    };
    assert!(matches!(run(&[], &[huge(2_000)]), Outcome::Overspent { .. }));
    assert!(matches!(run(&[], &[huge(1_000)]), Outcome::Admitted { .. }));
}

/// A file that Redis wrote an hour ago says what was spent then.
#[test]
fn a_count_that_was_set_back_gives_way_to_what_is_known() {
    let Some(bench) = Bench::start() else { return };
    let first = bench.announce(ServerTime(0), 7);
    assert_eq!((first.epoch, first.at, first.replicas.get()), (Epoch(7), ServerTime(START), 1));
    assert_eq!(bench.announce(first.last, 8).epoch, Epoch(7), "nothing is lost");
    let id = QuotaId::parse(&format!("{:064x}7a", 7), "2026-11").expect("an id");
    let of = |cost, used, epoch| BudgetDemand { id, allowed: 100, cost, used, epoch, ends_after: None };
    let run = |budget| outcome(&bench.run(&admit(&bench.keys, &[], &[budget], None), START), (0, 1));
    let is_admitted = |budget| matches!(run(budget), Some(Outcome::Admitted { .. }));
    assert!(is_admitted(of(10, 0, Epoch(7))));
    assert!(is_admitted(of(10, 90, Epoch(7))), "what is counted here is newer");

    let later = ServerTime(first.last.0 + 1);
    assert_eq!(bench.announce(later, 9).epoch, Epoch(9), "an announcement is missing");
    assert_eq!(run(of(10, 80, Epoch(7))), None, "of the epoch that is over");
    assert_eq!(run(of(11, 90, Epoch(9))), Some(Outcome::Overspent { index: 0, remaining: 10 }));
    assert!(is_admitted(of(10, 15, Epoch(9))), "the larger one counts");
    assert_eq!(run(of(71, 0, Epoch(9))), Some(Outcome::Overspent { index: 0, remaining: 70 }));
    let answer =
        bench.run(&admit(&bench.keys, &[], &[of(1, 0, Epoch(9))], Some(ServerTime(START - 1))), START);
    assert_eq!(
        (outcome(&answer, (0, 1)), time_of_admission(&answer)),
        (None, Some(ServerTime(START))),
        "too late"
    );
    assert!(
        outcome(
            &bench.run(&admit(&bench.keys, &[], &[of(1, 0, Epoch(9))], Some(ServerTime(START))), START),
            (0, 1)
        )
        .is_some()
    );
}

#[test]
fn keys_are_distinct_and_in_one_slot() {
    let keys = Keys::new("modelgate").expect("a namespace");
    let ids = [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 1), (u128::MAX, u128::MAX, 255)];
    let ids = ids.map(|(who, model, window)| LimitId { who, model, window });
    let all: BTreeSet<String> = ids.iter().map(|id| keys.of(id)).collect();
    assert_eq!(all.len(), ids.len());
    assert!(all.iter().all(|key| key.starts_with("{modelgate}:")), "{all:?}");
    // Each budget has a count and the epoch of it: budgets with one epoch in common would be spent again after a loss.
    let budgets = [("7a", "2026-11"), ("7b", "2026-11"), ("7a", "2026-12")]
        .map(|(end, period)| QuotaId::parse(&format!("{:064x}{end}", 7), period).expect("an id"));
    let call = spent(&keys, &budgets);
    let all: BTreeSet<&String> = call.keys.iter().collect();
    assert_eq!(all.len(), 1 + 2 * budgets.len(), "{all:?}");
    assert!(all.iter().all(|key| key.starts_with("{modelgate}:")), "{all:?}");
    for bad in ["", "a b", "{x}", "ü", &"x".repeat(65)] {
        assert_eq!(Keys::new(bad).map(|_| ()), Err(InvalidOptions::Namespace(bad.to_owned())));
    }
}

#[test]
fn answers_without_sense_are_none() {
    for answer in [
        &[][..],
        &[0],
        &[0, u64::MAX, 0, 1, 1, 1, 1],
        &[0, 1, 1],
        &[0, 1, 1, 1, 1, 1],
        &[3, 0, 0, 0, 0],
        &[1, 0, SECOND, 0, 0],
        &[1, 2, 3],
        &[2, 5],
        &[4, 5],
    ] {
        assert_eq!(outcome(answer, (2, 1)), None, "{answer:?}");
    }
    assert_eq!(lefts(&[1, 2, 3], &[]), None);
    let one = || [Demand { id: LimitId { who: 1, model: 0, window: 0 }, interval_ns: 1, burst: 1, cost: 1 }];
    for answer in [&[][..], &[0], &[0, 0, 0], &[0, 0, 0, 0], &[0, SECOND]] {
        assert_eq!(lefts(answer, &one()), None, "{answer:?}");
    }
    assert!(lefts(&[0, 0], &one()).is_some());
    for answer in [&[][..], &[1], &[1, 2, 3], &[1, 2, 1, 2]] {
        assert_eq!(amounts(answer, 1), None, "{answer:?}");
    }
    assert_eq!(amounts(&[1, 2, 0, 3], 2), Some(vec![Some(2), None]));
}
