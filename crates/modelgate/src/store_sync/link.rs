//! The connection to the store: not configured, up, or down and being retried.

use std::{
    mem,
    time::{Duration, Instant},
};

use store::{Following, StoreError};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    changes::{Changed, Changes},
    reading::Reading,
    start::Opened,
};
use crate::policy_source::PolicySource;

/// The pause between attempts to reach a store that is down.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// The longest such pause, for a store that comes and goes.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A store that was up for this long counts as stable.
const STABLE: Duration = Duration::from_secs(10);

/// The state of the connection to the store.
pub(super) enum Link {
    /// No store is configured.
    Off,
    /// The store answers, and everything was read.
    Up(Up),
    /// The store does not answer; what it said last stays in force.
    Down(Down),
}

/// A store that answers.
pub(super) struct Up {
    changes: Changes,
    since: Instant,
    /// The pause before the attempt that reached it.
    pause: Duration,
    /// The full reload that runs in the background, if any.
    reading: Option<Reading>,
}

/// A store that does not answer.
pub(super) struct Down {
    attempt: Attempt,
    /// The pause before the next attempt.
    pause: Duration,
    /// A full reload that was started before the store was lost. It goes on, because it may have read everything already.
    reading: Option<Reading>,
}

/// An attempt to open the store and read everything; dropping it aborts it.
pub(super) struct Attempt(JoinHandle<Result<Opened, StoreError>>);

/// Events of the connection.
pub(super) enum Event {
    /// Accounts have changed.
    Changed(Changed),
    /// The store has stopped answering.
    Lost(StoreError),
    /// A full reload has ended.
    Read(Reading, Box<Result<PolicySource, StoreError>>),
    /// An attempt to reach the store has ended.
    Opened(Box<Result<Opened, StoreError>>),
}

impl Link {
    /// A store that was just opened; `pause` preceded the successful attempt.
    pub(super) fn up(following: Following, pause: Duration) -> Self {
        Self::Up(Up { changes: Changes::of(following), since: Instant::now(), pause, reading: None })
    }

    /// A store that is down, with the first attempt to reach it.
    pub(super) fn down(attempt: impl FnOnce(Duration) -> Attempt) -> Self {
        Self::Down(Down { attempt: attempt(RETRY), pause: RETRY, reading: None })
    }

    /// Waits for the next event; without a store it never returns.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Off => std::future::pending().await,
            Self::Up(Up { changes, reading, .. }) => tokio::select! {
                changed = changes.next() => changed.map_or_else(Event::Lost, Event::Changed),
                (reading, policy_source) = read(reading) => Event::Read(reading, Box::new(policy_source)),
            },
            Self::Down(Down { attempt, reading, .. }) => tokio::select! {
                opened = attempt.ended() => Event::Opened(Box::new(opened)),
                (reading, policy_source) = read(reading) => Event::Read(reading, Box::new(policy_source)),
            },
        }
    }

    /// Marks a store as down if it was up, and starts retrying.
    pub(super) fn lose(&mut self, attempt: impl FnOnce(Duration) -> Attempt) {
        *self = match mem::replace(self, Self::Off) {
            Self::Up(Up { since, pause, reading, .. }) => {
                let pause = next_pause(pause, since.elapsed());
                Self::Down(Down { attempt: attempt(pause), pause, reading })
            }
            other => other,
        };
    }

    /// Starts another attempt to reach a store that is down, replacing one that has ended or has become useless.
    pub(super) fn try_again(&mut self, attempt: impl FnOnce(Duration) -> Attempt) {
        if let Self::Down(down) = self {
            down.attempt = attempt(down.pause);
        }
    }

    /// The pause of the current attempt, or of the last one.
    pub(super) fn pause(&self) -> Duration {
        match self {
            Self::Off => RETRY,
            Self::Up(up) => up.pause,
            Self::Down(down) => down.pause,
        }
    }

    /// Starts a full reload in the background, if the store is up; if one is under way, it is done once more.
    pub(super) fn read_anew(&mut self, read: impl FnOnce() -> Reading) {
        if let Self::Up(up) = self {
            match &mut up.reading {
                Some(reading) => reading.again = true,
                none => *none = Some(read()),
            }
        }
    }

    /// The full reload that is under way.
    pub(super) fn reading(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Up(Up { reading, .. }) | Self::Down(Down { reading, .. }) => reading.as_mut(),
            Self::Off => None,
        }
    }

    /// Aborts the full reload that is under way.
    pub(super) fn stop_reading(&mut self) {
        match self {
            Self::Up(Up { reading, .. }) | Self::Down(Down { reading, .. }) => *reading = None,
            Self::Off => {}
        }
    }
}

/// The backoff. It grows for a store that is lost soon after it was reached, for example because it can be read but not written.
fn next_pause(pause: Duration, lasted: Duration) -> Duration {
    if lasted < STABLE { (pause * 2).min(LONGEST_RETRY) } else { RETRY }
}

impl Attempt {
    /// Waits for the pause, then opens the store.
    pub(super) fn after(
        pause: Duration,
        open: impl Future<Output = Result<Opened, StoreError>> + Send + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            sleep(pause).await;
            open.await
        }))
    }

    /// Waits for the result. To be called once.
    async fn ended(&mut self) -> Result<Opened, StoreError> {
        (&mut self.0).await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for the full reload that is under way.
async fn read(reading: &mut Option<Reading>) -> (Reading, Result<PolicySource, StoreError>) {
    let Some(under_way) = reading else { return std::future::pending().await };
    let read = under_way.ended().await;
    match reading.take() {
        Some(reading) => (reading, read),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_comes_and_goes_is_tried_ever_more_seldom() {
        let mut pauses = vec![RETRY];
        for lasted in [0, 1, 9, 1, 1, 1, 10, 1].map(Duration::from_secs) {
            pauses.push(next_pause(pauses[pauses.len() - 1], lasted));
        }
        assert_eq!(pauses.iter().map(Duration::as_secs).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30, 1, 2]);
    }
}
