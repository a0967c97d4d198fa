//! Budgets by the calendar, compared with a plain model: month ends, leap days, both changes of the clock, a zone east and one west
//! of UTC, restarts, and two replicas over midnight. What operators add to them and forgive goes the same ways.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, tz::TimeZone};
use limits::{
    BudgetCounts, Calendar, Demands, Limited, Limiters, Limits, ManualClock, Moment, Period, Quota, QuotaId,
    Reservation, Reserve, Scope, Subject, Unit,
};
use proptest::{collection::vec, prelude::*, sample::select};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// In the order of [`Calendar::ALL`]: day, month, week, ever.
const AMOUNTS: [u64; 4] = [50, 400, 150, 1_200];

/// A zone by its rule, without any library.
#[derive(Debug, Clone, Copy)]
enum Zone {
    /// An hour east; two from the last Sunday of March to that of October, each at 1:00 UTC.
    Berlin,
    /// Eight hours west; seven from the second Sunday of March, 10:00 UTC, to the first of November, 9:00 UTC.
    LosAngeles,
}

/// The first day of a month, in days since 1970 (<https://howardhinnant.github.io/date_algorithms.html#days_from_civil>).
fn first_of(year: i64, month: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year and month of a day, by counting.
fn month_of(day: i64) -> (i64, i64) {
    let year = (2020..2040).rfind(|year| first_of(*year, 1) <= day).expect("a year");
    let month = (1..=12).rfind(|month| first_of(year, *month) <= day).expect("a month");
    (year, month)
}

/// Weeks since 1970, which began on a Thursday.
fn week_of(day: i64) -> i64 {
    (day + 3).div_euclid(7)
}

/// The Sunday on or after a day.
fn sunday_from(day: i64) -> i64 {
    week_of(day) * 7 + 3
}

impl Zone {
    fn zone(self) -> TimeZone {
        TimeZone::get(match self {
            Self::Berlin => "Europe/Berlin",
            Self::LosAngeles => "America/Los_Angeles",
        })
        .expect("a zone")
    }

    /// The local day of a time, in days since 1970.
    fn day(self, at: i64) -> i64 {
        let (year, _) = month_of(at.div_euclid(DAY));
        let (summer, usual) = match self {
            Self::Berlin => {
                let begins = sunday_from(first_of(year, 4) - 7) * DAY + HOUR;
                let ends = sunday_from(first_of(year, 11) - 7) * DAY + HOUR;
                (begins..ends, HOUR)
            }
            Self::LosAngeles => {
                let begins = (sunday_from(first_of(year, 3)) + 7) * DAY + 10 * HOUR;
                let ends = sunday_from(first_of(year, 11)) * DAY + 9 * HOUR;
                (begins..ends, -8 * HOUR)
            }
        };
        let offset = if summer.contains(&at) { usual + HOUR } else { usual };
        (at + offset).div_euclid(DAY)
    }

    /// A number for each period that contains a time.
    fn periods(self, at: i64) -> [(usize, i64); 4] {
        let day = self.day(at);
        let (year, month) = month_of(day);
        [(0, day), (1, year * 12 + month), (2, week_of(day)), (3, 0)]
    }
}

/// What happens, after the time has passed.
#[derive(Debug, Clone)]
enum BudgetStep {
    /// A request that costs this comes to one of two replicas.
    Request(usize, u64),
    /// The oldest open request of a replica has cost this.
    Settle(usize, u64),
    /// A replica begins anew with what the store holds of the current periods.
    Restart(usize),
    /// The request of a replica that was settled last has cost this, as is found out later.
    Correct(usize, u64),
    /// An operator resets the budget of one period.
    Reset(usize),
    /// An operator adds to it.
    TopUp(usize, u64),
}

/// A period: its place in [`Calendar::ALL`], and a number.
type Row = (usize, i64);

/// A request: what was taken for it, the rows of the plain model that it counts in, what it costs so far, and how often each row
/// had been reset when it was settled.
struct Taken {
    reservation: Reservation,
    rows: [Row; 4],
    cost: u64,
    resets: [u32; 4],
}

struct Replica {
    limiters: Limiters<ManualClock>,
    open: Vec<Taken>,
    settled: Option<Taken>,
}

/// A budget of one period, plainly.
#[derive(Debug, Default, Clone, Copy)]
struct Plain {
    /// What requests have reserved that are not settled. What a replica had open that has begun anew is never settled.
    open: u64,
    settled: u64,
    added: u64,
    resets: u32,
}

struct BudgetWorld {
    zone: Zone,
    replicas: [Replica; 2],
    store: HashMap<QuotaId, u64>,
    plain: HashMap<Row, Plain>,
}

/// Two of them hard: what they count is the same.
fn budgets() -> Limits {
    let budget = |(per, amount)| {
        let reserve = if per == Calendar::Day { Reserve::Usual } else { Reserve::Hard };
        Quota::budget(amount, per, reserve).expect("a budget")
    };
    Limits::new(Vec::new(), Calendar::ALL.into_iter().zip(AMOUNTS).map(budget).collect())
}

fn time(at: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at).expect("after 1970"))
}

impl Replica {
    fn new() -> Self {
        Self { limiters: Limiters::new(ManualClock::default()), open: Vec::new(), settled: None }
    }
}

impl BudgetWorld {
    fn new(zone: Zone) -> Self {
        Self {
            zone,
            replicas: [Replica::new(), Replica::new()],
            store: HashMap::new(),
            plain: HashMap::new(),
        }
    }

    fn demands(&self, at: i64, cost: u64) -> Demands {
        let (zone, limits, mut demands) = (self.zone.zone(), budgets(), Demands::default());
        let limited = Limited { scope: Scope::Key, subject: Subject::of(7), limits: &limits };
        demands.add(&limited, &Moment::new(time(at), &zone), |unit| panic!("{unit}"));
        demands.price(|_| cost);
        demands
    }

    fn happens(&mut self, at: i64, event: &BudgetStep) -> Result<(), TestCaseError> {
        match *event {
            BudgetStep::Request(which, cost) => self.request(at, which, cost)?,
            BudgetStep::Settle(which, cost) => self.settle(which, cost),
            BudgetStep::Restart(which) => self.restart(at, which),
            BudgetStep::Correct(which, cost) => self.correct(which, cost),
            BudgetStep::Reset(per) => {
                self.reset(at, per);
                let plain = self.plain.entry(self.zone.periods(at)[per]).or_default();
                // Where nothing is settled there is nothing to forgive, and what is found out later counts.
                (plain.settled, plain.resets) = (0, plain.resets + u32::from(plain.settled > 0));
            }
            BudgetStep::TopUp(per, amount) => {
                let added = self.demands(at, 0).quotas()[per].id().added().expect("a budget");
                self.write(added, amount);
                self.plain.entry(self.zone.periods(at)[per]).or_default().added += amount;
            }
        }
        self.exchange();
        Ok(())
    }

    fn request(&mut self, at: i64, which: usize, cost: u64) -> Result<(), TestCaseError> {
        let (demands, periods) = (self.demands(at, cost), self.zone.periods(at));
        // The period ends in the very second in which the plain one does.
        for (demand, period) in demands.quotas().iter().zip(periods) {
            prop_assert_eq!(demand.quota().unit(), Unit::Money);
            if demand.quota().per() == Calendar::Ever {
                prop_assert_eq!(demand.ends_after(), Duration::MAX);
                continue;
            }
            let ends = at + i64::try_from(demand.ends_after().as_secs()).expect("a time");
            prop_assert_eq!(self.zone.periods(ends - 1)[period.0], period, "{:?}", demand);
            prop_assert_ne!(self.zone.periods(ends)[period.0], period, "{:?}", demand);
        }
        let plain = |row: &Row| self.plain.get(row).copied().unwrap_or_default();
        let spent = |row: &Row| plain(row).open + plain(row).settled;
        let allowed = |row: &Row| AMOUNTS[row.0] + plain(row).added;
        let passes = periods.iter().all(|row| spent(row) + cost <= allowed(row));
        let expected = periods.map(|row| allowed(&row).saturating_sub(spent(&row)));
        let Replica { limiters, open, .. } = &mut self.replicas[which];
        let left: Vec<u64> = limiters.left(&demands).iter().map(|left| left.remaining).collect();
        prop_assert_eq!(left, expected);
        match limiters.reserve(&demands) {
            Ok(reservation) => {
                prop_assert!(passes, "{:?} at {}", &self.plain, at);
                for row in periods {
                    self.plain.entry(row).or_default().open += cost;
                }
                open.push(Taken { reservation, rows: periods, cost, resets: [0; 4] });
            }
            Err(reached) => prop_assert!(!passes, "{} at {}", reached, at),
        }
        Ok(())
    }

    fn settle(&mut self, which: usize, cost: u64) {
        let Replica { limiters, open, settled } = &mut self.replicas[which];
        if open.is_empty() {
            return;
        }
        let mut taken = open.remove(0);
        limiters.spend(&mut taken.reservation, |_, reserved| Some(cost).filter(|cost| *cost != reserved));
        for (row, resets) in taken.rows.iter().zip(&mut taken.resets) {
            let plain = self.plain.get_mut(row).expect("it was reserved");
            (plain.open, plain.settled, *resets) =
                (plain.open - taken.cost, plain.settled + cost, plain.resets);
        }
        taken.cost = cost;
        *settled = Some(taken);
    }

    /// What was spent before a reset does not count, whatever is found out about it later.
    fn correct(&mut self, which: usize, cost: u64) {
        let Replica { limiters, settled: Some(taken), .. } = &mut self.replicas[which] else { return };
        limiters.spend(&mut taken.reservation, |_, _| Some(cost));
        for (row, resets) in taken.rows.iter().zip(taken.resets) {
            let plain = self.plain.get_mut(row).expect("it was reserved");
            if plain.resets == resets {
                plain.settled = plain.settled + cost - taken.cost;
            }
        }
        taken.cost = cost;
    }

    /// As the store does it.
    fn reset(&mut self, at: i64, per: usize) {
        let id = self.demands(at, 0).quotas()[per].id();
        let counts = BudgetCounts::of(id, |id| self.store.get(id).copied().unwrap_or(0));
        self.write(id.forgiven().expect("a budget"), counts.to_forgive());
    }

    /// Somebody else adds to a count.
    fn write(&mut self, id: QuotaId, by: u64) {
        let stored = self.store.entry(id).or_default();
        *stored += by;
        self.replicas.iter().for_each(|replica| replica.limiters.quotas().learn(id, *stored, 0));
    }

    fn restart(&mut self, at: i64, which: usize) {
        let replica = Replica::new();
        let now = Timestamp::try_from(time(at)).expect("a time").to_zoned(self.zone.zone());
        let current = Calendar::ALL.map(|per| Period::of(per, &now));
        for (id, stored) in &self.store {
            // As the store gives them back: by their names.
            let id = QuotaId::parse(&id.subject(), &id.period().to_string()).expect("a name");
            if current.contains(&id.period()) {
                replica.limiters.quotas().learn(id, *stored, 0);
            }
        }
        self.replicas[which] = replica;
    }

    /// Each writes what it has counted, and hears what the other has.
    fn exchange(&mut self) {
        for which in 0..2 {
            for (id, by) in self.replicas[which].limiters.quotas().take_unsaved() {
                let stored = self.store.entry(id).or_default();
                *stored = stored.checked_add_signed(by).expect("not below zero");
                self.replicas[which].limiters.quotas().learn(id, *stored, by);
                self.replicas[1 - which].limiters.quotas().learn(id, *stored, 0);
            }
        }
    }
}

/// The evening before something happens to the calendar.
fn eves() -> Vec<i64> {
    let days = [
        (2026, 3, 7),   // a day of 23 hours in Los Angeles, and a week begins after it
        (2026, 3, 28),  // a day of 23 hours in Berlin
        (2026, 10, 24), // a day of 25 hours in Berlin
        (2026, 10, 31), // the same in Los Angeles, and a month ends
        (2026, 12, 31), // a year ends within a week
        (2028, 2, 28),  // a leap day
        (2027, 2, 27),  // none
        (2026, 4, 29),
    ];
    days.map(|(year, month, day)| (first_of(year, month) + day - 1) * DAY + 20 * HOUR).to_vec()
}

fn event() -> impl Strategy<Value = BudgetStep> {
    let which = 0..2_usize;
    prop_oneof![
        8 => (which.clone(), 1..40_u64).prop_map(|(which, cost)| BudgetStep::Request(which, cost)),
        4 => (which.clone(), 0..45_u64).prop_map(|(which, cost)| BudgetStep::Settle(which, cost)),
        1 => which.clone().prop_map(BudgetStep::Restart),
        2 => (which, 0..45_u64).prop_map(|(which, cost)| BudgetStep::Correct(which, cost)),
        2 => (0..4_usize).prop_map(BudgetStep::Reset),
        1 => (0..4_usize, 1..60_u64).prop_map(|(per, amount)| BudgetStep::TopUp(per, amount)),
    ]
}

fn pause() -> impl Strategy<Value = i64> {
    const PAUSES: [i64; 13] =
        [0, 1, 59, 1_800, HOUR, HOUR + 1, 3 * HOUR, 5 * HOUR, 23 * HOUR, DAY, 25 * HOUR, 6 * DAY, 31 * DAY];
    select(PAUSES.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn budgets_are_those_of_a_plain_calendar(
        zone in select(vec![Zone::Berlin, Zone::LosAngeles]),
        eve in select(eves()),
        steps in vec((pause(), event()), 1..60),
    ) {
        let (mut world, mut at) = (BudgetWorld::new(zone), eve);
        for (pause, event) in &steps {
            at += pause;
            world.happens(at, event)?;
        }
    }
}

/// What happens to one hard budget of two replicas that write at times of their own.
#[derive(Debug, Clone)]
enum LaggingStep {
    Request(usize, u64),
    Settle(usize, u64),
    /// It writes some of what it has counted, the oldest first, and hears of all that is written.
    Write(usize, usize),
    Reset,
}

/// Two replicas, each with what it has not written yet, and the store.
struct LaggingWorld {
    replicas: [(Replica, Vec<(QuotaId, i64)>); 2],
    store: HashMap<QuotaId, u64>,
}

fn lagging() -> impl Strategy<Value = LaggingStep> {
    let which = 0..2_usize;
    prop_oneof![
        4 => (which.clone(), 1..500_u64).prop_map(|(which, cost)| LaggingStep::Request(which, cost)),
        4 => (which.clone(), 0..500_u64).prop_map(|(which, cost)| LaggingStep::Settle(which, cost)),
        3 => (which, 1..6_usize).prop_map(|(which, counts)| LaggingStep::Write(which, counts)),
        2 => Just(LaggingStep::Reset),
    ]
}

impl LaggingWorld {
    fn demands(cost: u64) -> Demands {
        let hard = Quota::budget(1_000, Calendar::Ever, Reserve::Hard).expect("a budget");
        let (zone, limits, mut demands) =
            (TimeZone::UTC, Limits::new(Vec::new(), vec![hard]), Demands::default());
        let limited = Limited { scope: Scope::Key, subject: Subject::of(7), limits: &limits };
        demands.add(&limited, &Moment::new(UNIX_EPOCH, &zone), |unit| panic!("{unit}"));
        demands.price(|_| cost);
        demands
    }

    fn happens(&mut self, step: &LaggingStep) {
        match *step {
            LaggingStep::Request(which, cost) => {
                let Replica { limiters, open, .. } = &mut self.replicas[which].0;
                let reservation = limiters.reserve(&Self::demands(cost)).ok();
                open.extend(reservation.map(|reservation| Taken {
                    reservation,
                    rows: [(3, 0); 4],
                    cost,
                    resets: [0; 4],
                }));
            }
            LaggingStep::Settle(which, cost) => {
                let Replica { limiters, open, .. } = &mut self.replicas[which].0;
                if let Some(mut taken) = open.pop() {
                    limiters.spend(&mut taken.reservation, |_, reserved| Some(cost.min(reserved)));
                }
            }
            LaggingStep::Write(which, counts) => self.write(which, counts),
            LaggingStep::Reset => {
                let budget = Self::demands(0).quotas()[0].id();
                let by = self.counts(false).to_forgive();
                *self.store.entry(budget.forgiven().expect("a budget")).or_default() += by;
            }
        }
        for (replica, unwritten) in &mut self.replicas {
            unwritten.extend(replica.limiters.quotas().take_unsaved());
        }
    }

    fn write(&mut self, which: usize, counts: usize) {
        let (replica, unwritten) = &mut self.replicas[which];
        for (id, by) in unwritten.drain(..counts.min(unwritten.len())) {
            let stored = self.store.entry(id).or_default();
            *stored = stored.saturating_add_signed(by);
            replica.limiters.quotas().learn(id, *stored, by);
        }
        for (id, stored) in
            self.store.iter().filter(|(id, _)| unwritten.iter().all(|(other, _)| other != *id))
        {
            replica.limiters.quotas().learn(*id, *stored, 0);
        }
    }

    /// As the store has them, or as if everything were written.
    fn counts(&self, all: bool) -> BudgetCounts {
        let written = |id: &QuotaId| self.store.get(id).copied().unwrap_or(0);
        let unwritten = |id: &QuotaId| -> i64 {
            let of_all = self.replicas.iter().flat_map(|(_, unwritten)| unwritten);
            of_all.filter(|(other, _)| all && other == id).map(|(_, by)| by).sum()
        };
        let count = |id: &QuotaId| written(id).checked_add_signed(unwritten(id)).expect("not below zero");
        BudgetCounts::of(Self::demands(0).quotas()[0].id(), count)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]
    /// Whatever the store has not heard yet when a budget is reset: what open requests have reserved is never forgiven, so nobody can spend
    /// it a second time once they give it back.
    #[test]
    fn a_reset_never_forgives_what_is_reserved(steps in vec(lagging(), 1..80)) {
        let replicas = [(Replica::new(), Vec::new()), (Replica::new(), Vec::new())];
        let mut world = LaggingWorld { replicas, store: HashMap::new() };
        for step in &steps {
            world.happens(step);
            let open: u64 = world.replicas.iter().flat_map(|(replica, _)| &replica.open).map(|taken| taken.cost).sum();
            let counts = world.counts(true);
            prop_assert!(counts.granted.forgiven <= counts.settled, "{:?}", counts);
            prop_assert!(counts.used - counts.granted.forgiven >= open, "{:?}, {} are reserved", counts, open);
        }
        // Once all are settled and written, one more reset gives all of it back.
        for which in [0, 1] {
            while !world.replicas[which].0.open.is_empty() {
                world.happens(&LaggingStep::Settle(which, 1));
            }
            world.write(which, usize::MAX);
        }
        world.happens(&LaggingStep::Reset);
        prop_assert_eq!(world.counts(true).spent(), 0);
    }
}
