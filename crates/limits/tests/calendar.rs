//! Budgets by the calendar, compared with a plain model: month ends, leap days, both changes of the clock, a zone east and one west
//! of UTC, restarts, and two replicas over midnight.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, tz::TimeZone};
use limits::{
    Calendar, Demands, Limited, Limiters, Limits, ManualClock, Moment, Period, Quota, QuotaId, Reservation,
    Reserve, Scope, Subject, Unit,
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
}

/// A request that is open, the rows of the plain model that it counts in, and what was reserved for it.
type Open = (Reservation, [(usize, i64); 4], u64);

struct Replica {
    limiters: Limiters<ManualClock>,
    open: Vec<Open>,
}

struct BudgetWorld {
    zone: Zone,
    replicas: [Replica; 2],
    store: HashMap<QuotaId, u64>,
    /// The plain model.
    spent: HashMap<(usize, i64), u64>,
}

fn budgets() -> Limits {
    let budget = |(per, amount)| Quota::budget(amount, per, Reserve::Usual).expect("a budget");
    Limits::new(Vec::new(), Calendar::ALL.into_iter().zip(AMOUNTS).map(budget).collect())
}

fn time(at: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at).expect("after 1970"))
}

impl BudgetWorld {
    fn new(zone: Zone) -> Self {
        let replica = || Replica { limiters: Limiters::new(ManualClock::default()), open: Vec::new() };
        Self { zone, replicas: [replica(), replica()], store: HashMap::new(), spent: HashMap::new() }
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
        let spent = |period: &(usize, i64)| self.spent.get(period).copied().unwrap_or(0);
        let passes = periods.iter().all(|period| spent(period) + cost <= AMOUNTS[period.0]);
        let expected = periods.map(|period| AMOUNTS[period.0].saturating_sub(spent(&period)));
        let Replica { limiters, open } = &mut self.replicas[which];
        let left: Vec<u64> = limiters.left(&demands).iter().map(|left| left.remaining).collect();
        prop_assert_eq!(left, expected);
        match limiters.reserve(&demands) {
            Ok(reservation) => {
                prop_assert!(passes, "{:?} at {}", &self.spent, at);
                for period in periods {
                    *self.spent.entry(period).or_default() += cost;
                }
                open.push((reservation, periods, cost));
            }
            Err(reached) => prop_assert!(!passes, "{} at {}", reached, at),
        }
        Ok(())
    }

    fn settle(&mut self, which: usize, cost: u64) {
        let Replica { limiters, open } = &mut self.replicas[which];
        if open.is_empty() {
            return;
        }
        let (mut reservation, periods, reserved) = open.remove(0);
        limiters.spend(&mut reservation, |_| Some(cost));
        for period in periods {
            let spent = self.spent.get_mut(&period).expect("it was reserved");
            *spent = *spent - reserved + cost;
        }
    }

    fn restart(&mut self, at: i64, which: usize) {
        let replica = Replica { limiters: Limiters::new(ManualClock::default()), open: Vec::new() };
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
        1 => which.prop_map(BudgetStep::Restart),
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
