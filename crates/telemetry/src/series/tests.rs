//! Tests with a clock that they move, and counters as writers leave them.

use proptest::prelude::*;

use super::*;
use crate::{counters::Counters, histogram::Histogram};

/// 13:20 on a day in 2027, in seconds.
const START: u64 = 1_800_000_000;

#[derive(Default)]
struct World {
    counters: Counters,
    histogram: Histogram,
    series: Series,
}

impl World {
    fn decide(&self, refused: Option<&'static str>, micros: u64) {
        self.counters.add(refused);
        self.histogram.add(Duration::from_micros(micros));
    }

    fn read(&mut self, now: Duration) {
        let all = Snapshot { counts: self.counters.read(), latencies: self.histogram.read() };
        self.series.read(UNIX_EPOCH + now, all);
    }

    fn read_at(&mut self, second: u64, millis: u64) {
        self.read(Duration::from_millis((START + second) * 1000 + millis));
    }
}

fn starts(points: &[Point]) -> Vec<u64> {
    points.iter().map(|p| p.start.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - START).collect()
}

#[test]
fn decisions_count_for_the_second_in_which_they_are_read() {
    let mut world = World::default();
    world.read_at(10, 0);
    world.decide(None, 50);
    world.read_at(10, 999);
    world.decide(Some("rate_limit_exceeded"), 5);
    world.decide(Some("rate_limit_exceeded"), 5);
    world.decide(None, 5_000);
    world.read_at(11, 0);
    world.read_at(12, 0);
    let seconds = world.series.seconds(3);
    assert_eq!(starts(&seconds), [9, 10, 11]);
    assert_eq!(seconds[0].span, Duration::ZERO, "nothing is known of the time before the start");
    assert_eq!((seconds[1].allowed, seconds[1].refused.clone()), (1, vec![]));
    assert_eq!((seconds[2].allowed, seconds[2].refused.clone()), (1, vec![("rate_limit_exceeded", 2)]));
    assert_eq!(seconds[2].refused_in_all(), 2);
    assert!(seconds[2].p50.expect("decisions") < Duration::from_micros(6));
    assert!(seconds[2].p99.expect("decisions") >= Duration::from_millis(5));
    assert_eq!(seconds[0].p50, None);
    assert!(world.series.lately().count() == 4, "of the last minute");
}

#[test]
fn a_late_reader_leaves_empty_seconds() {
    let mut world = World::default();
    world.read_at(0, 0);
    world.decide(None, 1);
    world.read_at(3, 500);
    world.read_at(4, 0);
    let seconds = world.series.seconds(4);
    assert_eq!(starts(&seconds), [0, 1, 2, 3]);
    assert_eq!(seconds.iter().map(|p| p.allowed).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert!(seconds.iter().all(|p| p.span == Duration::from_secs(1)));
}

#[test]
fn an_hour_has_sixty_minutes_and_the_last_is_under_way() {
    let mut world = World::default();
    for second in 30..130 {
        world.decide(None, 1);
        world.read_at(second, 0);
    }
    let minutes = world.series.minutes();
    assert_eq!(minutes.len(), MINUTES);
    assert!(minutes.windows(2).all(|two| two[1].start == two[0].start + Duration::from_secs(60)));
    let known: Vec<_> = minutes.iter().filter(|p| !p.span.is_zero()).collect();
    let seen: Vec<_> = known.iter().map(|p| (p.span.as_secs(), p.allowed)).collect();
    assert_eq!(seen, [(30, 30), (60, 60), (9, 9)], "from 0:30 to 2:08, and 2:09 is not over");
    assert!((known[0].per_second(known[0].allowed) - 1.0).abs() < 1e-9);
    assert_eq!(minutes[0].per_second(0), 0.0);
}

#[test]
fn no_more_than_an_hour_is_kept() {
    let mut world = World::default();
    for second in 0..2 * SECONDS as u64 {
        world.decide(None, 1);
        world.read_at(second, 0);
    }
    assert_eq!(world.series.seconds(usize::MAX).len(), SECONDS);
    assert_eq!(world.series.seconds.len(), SECONDS);
    assert_eq!(world.series.minutes.len(), MINUTES - 1);
    assert_eq!(world.series.lately().count(), 61, "a minute, and the second under way");
    let minutes = world.series.minutes();
    assert!(minutes[..MINUTES - 1].iter().all(|p| p.allowed == 60), "{minutes:?}");
}

#[test]
fn a_clock_that_is_put_back_a_little_is_waited_for() {
    let mut world = World::default();
    world.read_at(10, 0);
    world.read_at(11, 10);
    world.decide(None, 1);
    world.read_at(10, 960);
    world.read_at(11, 60);
    world.read_at(12, 0);
    let seconds = world.series.seconds(2);
    assert_eq!((starts(&seconds), seconds[1].allowed), (vec![10, 11], 1));
}

#[test]
fn a_clock_that_is_set_begins_anew_and_loses_no_total() {
    for other in [0, 50_000] {
        let mut world = World::default();
        world.read_at(10_000, 0);
        world.decide(None, 1);
        world.read_at(10_001, 0);
        world.decide(None, 1);
        world.read_at(other, 0);
        world.read_at(other + 1, 0);
        let known: Vec<_> = world.series.seconds(10).into_iter().filter(|p| !p.span.is_zero()).collect();
        assert_eq!((starts(&known), known[0].allowed), (vec![other], 1));
    }
}

proptest! {
    /// At whatever times the counters are read, the points have no gap and add up to what was decided.
    #[test]
    fn the_points_add_up(steps in prop::collection::vec((0_u64..4_000, 0_usize..5), 1..60)) {
        let mut world = World::default();
        world.read_at(0, 0);
        let (mut now, mut decided) = (0, 0);
        for (millis, decisions) in steps {
            now += millis;
            for i in 0..decisions {
                world.decide((i % 2 == 1).then_some("a"), i as u64 * 100);
            }
            decided += decisions as u64;
            world.read_at(0, now);
        }
        world.read_at(now / 1000 + 1, 0);
        let sum = |points: &[Point]| points.iter().map(|p| p.allowed + p.refused_in_all()).sum::<u64>();
        let (seconds, minutes) = (world.series.seconds(SECONDS), world.series.minutes());
        prop_assert_eq!((sum(&seconds), sum(&minutes)), (decided, decided));
        prop_assert!(seconds.windows(2).all(|two| two[1].start == two[0].start + Duration::from_secs(1)));
        let known = seconds.iter().filter(|p| !p.span.is_zero()).count() as u64;
        prop_assert_eq!(known, now / 1000 + 1);
    }
}
