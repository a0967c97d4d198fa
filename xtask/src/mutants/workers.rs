//! Several at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::Result;

/// How many tests or changes are tried at the same time: more than there are cores, because some tests mostly wait.
const WORKERS: usize = 4;

/// Acts for each number below `count`, in their order and some of them at the same time. After an error no further ones are begun.
pub(super) fn side_by_side(count: usize, act: impl Fn(usize) -> Result + Sync) -> Result {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            if let Err(error) = act(at) {
                next.store(count, Ordering::Relaxed);
                return Err(error.to_string());
            }
        }
    };
    let outcome = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a panic".to_owned())));
        ends.collect::<std::result::Result<Vec<()>, String>>()
    });
    Ok(outcome.map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_is_done_once_and_an_error_ends_it() {
        let done = Mutex::new(Vec::new());
        let note = |at: usize| -> Result {
            done.lock().expect("no panic").push(at);
            if at == 30 { Err("the thirtieth".into()) } else { Ok(()) }
        };
        side_by_side(30, note).expect("no error");
        let mut all = done.lock().expect("no panic").split_off(0);
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>());

        assert_eq!(side_by_side(1000, note).expect_err("an error").to_string(), "the thirtieth");
        let begun = done.lock().expect("no panic").len();
        assert!((31..1000).contains(&begun), "{begun}");
    }
}
