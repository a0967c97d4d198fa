//! The state of the connection to the store: there is none, it answers, or it is down and tried again.

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

/// Between attempts to reach a store that is down.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// The same for one that comes and goes.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// After so long a store has come to stay.
const STABLE: Duration = Duration::from_secs(10);

/// The state of the connection to the store.
pub(super) enum Link {
    /// None is configured.
    Off,
    /// It answers, and everything was read.
    Up(Up),
    /// It does not answer; what it said last stays in force.
    Down(Down),
}

/// A store that answers.
pub(super) struct Up {
    changes: Changes,
    since: Instant,
    /// How long the attempt that reached it had waited.
    pause: Duration,
    /// Everything is being read anew, beside all else.
    reading: Option<Reading>,
}

/// A store that does not answer.
pub(super) struct Down {
    attempt: Attempt,
    /// Before the next attempt.
    pause: Duration,
    /// Begun before it was lost, and not given up: it may have got that far.
    reading: Option<Reading>,
}

/// An attempt to open the store and read everything; dropped, it ends.
pub(super) struct Attempt(JoinHandle<Result<Opened, StoreError>>);

/// What happens to the link.
pub(super) enum Event {
    /// Accounts have changed.
    Changed(Changed),
    /// The store has stopped answering.
    Lost(StoreError),
    /// Everything was read.
    Read(Reading, Box<Result<PolicySource, StoreError>>),
    /// An attempt is over.
    Opened(Box<Result<Opened, StoreError>>),
}

impl Link {
    /// A store that was just opened, after an attempt that had waited for so long.
    pub(super) fn up(following: Following, pause: Duration) -> Self {
        Self::Up(Up { changes: Changes::of(following), since: Instant::now(), pause, reading: None })
    }

    /// A store that is down, with the first attempt to reach it.
    pub(super) fn down(attempt: impl FnOnce(Duration) -> Attempt) -> Self {
        Self::Down(Down { attempt: attempt(RETRY), pause: RETRY, reading: None })
    }

    /// What happens next; never, without a store.
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

    /// It has stopped answering, if it did: from now on it is tried again.
    pub(super) fn lose(&mut self, attempt: impl FnOnce(Duration) -> Attempt) {
        *self = match mem::replace(self, Self::Off) {
            Self::Up(Up { since, pause, reading, .. }) => {
                let pause = next_pause(pause, since.elapsed());
                Self::Down(Down { attempt: attempt(pause), pause, reading })
            }
            other => other,
        };
    }

    /// Tries once more to reach a store that is down, in the place of an attempt that is over or of no use any more.
    pub(super) fn try_again(&mut self, attempt: impl FnOnce(Duration) -> Attempt) {
        if let Self::Down(down) = self {
            down.attempt = attempt(down.pause);
        }
    }

    /// How long the attempt under way has waited, or the last one had.
    pub(super) fn pause(&self) -> Duration {
        match self {
            Self::Off => RETRY,
            Self::Up(up) => up.pause,
            Self::Down(down) => down.pause,
        }
    }

    /// Reads everything beside all else, if the store answers; once more, if that is being done.
    pub(super) fn read_anew(&mut self, read: impl FnOnce() -> Reading) {
        if let Self::Up(up) = self {
            match &mut up.reading {
                Some(reading) => reading.again = true,
                none => *none = Some(read()),
            }
        }
    }

    /// The reading that is under way.
    pub(super) fn reading(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Up(Up { reading, .. }) | Self::Down(Down { reading, .. }) => reading.as_mut(),
            Self::Off => None,
        }
    }

    /// Ends the reading that is under way.
    pub(super) fn stop_reading(&mut self) {
        match self {
            Self::Up(Up { reading, .. }) | Self::Down(Down { reading, .. }) => *reading = None,
            Self::Off => {}
        }
    }
}

/// A store that is there and gone at once, because it can be read and not written, is not asked without end.
fn next_pause(pause: Duration, lasted: Duration) -> Duration {
    if lasted < STABLE { (pause * 2).min(LONGEST_RETRY) } else { RETRY }
}

impl Attempt {
    /// Waits, then opens the store.
    pub(super) fn after(
        pause: Duration,
        open: impl Future<Output = Result<Opened, StoreError>> + Send + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            sleep(pause).await;
            open.await
        }))
    }

    /// What came of it. To be asked once.
    async fn ended(&mut self) -> Result<Opened, StoreError> {
        (&mut self.0).await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The reading that is under way, when it is over.
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
