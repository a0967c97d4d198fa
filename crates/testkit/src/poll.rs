//! Waits for something that happens elsewhere, by polling.

use std::{future::Future, panic::Location, time::Duration};

use tokio::time::{Instant, sleep};

/// Short enough for tests that measure a wait, long enough not to load a small machine.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `probe` returns a value. Panics at the caller's line when that takes longer than `timeout`.
#[track_caller]
pub fn eventually<T, F, Fut>(timeout: Duration, probe: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    async move {
        match within(timeout, probe).await {
            Some(value) => value,
            None => panic!("nothing came within {timeout:?} at {caller}"),
        }
    }
}

/// Like [`eventually`], for callers that report the failure themselves.
pub async fn within<T, F, Fut>(timeout: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + timeout;
    loop {
        // A probe that hangs must not hang the test.
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Some(value)) => return Some(value),
            Ok(None) if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(None) | Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asks_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = within(Duration::from_secs(5), || {
            asked += 1;
            let answer = (asked == 3).then_some("here");
            async move { answer }
        })
        .await;
        assert_eq!(answer, Some("here"));
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn gives_up_on_a_probe_that_hangs() {
        let answer = within(Duration::from_millis(50), std::future::pending::<Option<()>>).await;
        assert_eq!(answer, None);
    }

    #[tokio::test]
    #[should_panic(expected = "poll.rs")]
    async fn names_the_line_that_waited_in_vain() {
        eventually(Duration::from_millis(1), || async { None::<()> }).await;
    }
}
