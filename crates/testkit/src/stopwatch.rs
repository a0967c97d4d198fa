//! A stopwatch for shared machines: measures time, without the time in which the whole machine was stalled.

use std::{
    fs::File,
    io::{Seek, Write},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How often the clock's thread ticks, and every how many ticks it writes to the disk.
const TICK: Duration = Duration::from_millis(10);
const WRITES: u32 = 10;
/// A tick or a write to the disk that takes longer was stalled by other activity on the machine.
const STALL: Duration = Duration::from_millis(20);

/// A stopwatch that does not count the time in which the machine was stalled: while the process itself was stopped, all
/// processors were busy, or the disk did not answer. A nearly idle thread detects this: whenever it is late, the delay does not
/// count. So a bound can be asserted on a shared machine without the margin that the worst case would need. Of several
/// stopwatches, the one that was started first compares as the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stopwatch {
    began: Instant,
    calm: Duration,
}

impl Stopwatch {
    /// Starts a stopwatch.
    #[must_use]
    pub fn start() -> Self {
        let mut clock = clock();
        Self { began: Instant::now(), calm: clock.wind(Instant::now()) }
    }

    /// The time since the start, without [`Self::held_up`].
    #[must_use]
    pub fn elapsed(self) -> Duration {
        clock().wind(Instant::now()) - self.calm
    }

    /// The time since the start in which the machine was stalled.
    #[must_use]
    pub fn held_up(self) -> Duration {
        let calm = self.elapsed();
        self.began.elapsed().saturating_sub(calm)
    }
}

/// The time without stalls, as of a moment.
#[derive(Debug)]
struct Clock {
    last: Instant,
    calm: Duration,
}

impl Clock {
    fn wind(&mut self, now: Instant) -> Duration {
        self.calm += now.saturating_duration_since(self.last).min(STALL);
        self.last = self.last.max(now);
        self.calm
    }
}

/// The clock of this process. The first caller starts the thread that advances it.
fn clock() -> MutexGuard<'static, Clock> {
    static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
    let mut is_new = false;
    let clock = CLOCK.get_or_init(|| {
        is_new = true;
        Mutex::new(Clock { last: Instant::now(), calm: Duration::ZERO })
    });
    if is_new {
        thread::Builder::new().name("stopwatch".to_owned()).spawn(wind_for_ever).expect("a thread");
    }
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wind_for_ever() {
    let mut file = tempfile::tempfile().expect("a file");
    loop {
        for _ in 0..WRITES {
            thread::sleep(TICK);
            clock().wind(Instant::now());
        }
        write(&mut file).expect("a disk that can be written to");
        clock().wind(Instant::now());
    }
}

fn write(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(b"tick")?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_while_nobody_winds_it() {
        let began = Instant::now();
        let mut clock = Clock { last: began, calm: Duration::ZERO };
        for tick in 1..=100 {
            clock.wind(began + tick * TICK);
        }
        assert_eq!(clock.calm, Duration::from_secs(1));
        // Stalled for five seconds; time before the start does not count.
        assert_eq!(clock.wind(began + Duration::from_secs(6)), Duration::from_secs(1) + STALL);
        assert_eq!(clock.wind(began), Duration::from_secs(1) + STALL);
        assert_eq!(clock.wind(began + Duration::from_secs(6) + TICK), Duration::from_secs(1) + STALL + TICK);
    }

    #[test]
    fn goes_like_any_other_while_the_machine_is_calm() {
        let (began, stopwatch) = (Instant::now(), Stopwatch::start());
        for _ in 0..30 {
            thread::sleep(TICK);
        }
        let (calm, held_up) = (stopwatch.elapsed(), stopwatch.held_up());
        assert!(calm <= began.elapsed() && calm + held_up >= 30 * TICK, "{calm:?} {held_up:?}");
        assert!(calm > 3 * TICK, "thirty ticks: {calm:?}");
    }
}
