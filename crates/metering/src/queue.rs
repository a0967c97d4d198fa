//! How reservations get from the threads that answer `/auth` to the one owner of the ledger.
//!
//! ```text
//! /auth ─┐
//! /auth ─┼─ Opener::open ─▶ bounded queue ─ Openings::next ─▶ Ledger ─▶ settlements
//! /auth ─┘  (no lock)                        (one owner, every few milliseconds)
//! ```
//!
//! One owner, instead of a ledger in parts that requests lock: it handles several hundred thousand requests a second
//! (`tests/speed.rs`), far more than `/auth` can decide, and nothing that happens to it makes `/auth` wait.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::RequestReservation;

/// The end of the queue for `/auth`; clones share it.
#[derive(Debug)]
pub struct Opener<T>(Arc<ArrayQueue<RequestReservation<T>>>);

/// The end of the queue for the owner of the ledger.
#[derive(Debug)]
pub struct Openings<T>(Arc<ArrayQueue<RequestReservation<T>>>);

/// A queue of at most `capacity` reservations, which must not be 0. Its memory is set aside at once.
pub fn queue<T>(capacity: usize) -> (Opener<T>, Openings<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    (Opener(Arc::clone(&queue)), Openings(queue))
}

impl<T> Opener<T> {
    /// Hands a reservation over. Takes no lock and never waits.
    ///
    /// # Errors
    /// The queue is full: the reservation comes back, and stands as estimated.
    pub fn open(&self, reservation: RequestReservation<T>) -> Result<(), RequestReservation<T>> {
        self.0.push(reservation)
    }
}

impl<T> Clone for Opener<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Openings<T> {
    /// The oldest reservation that was handed over.
    pub fn next(&self) -> Option<RequestReservation<T>> {
        self.0.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;
    use crate::testing::reservation;

    #[test]
    fn a_full_queue_gives_the_reservation_back() {
        let (opener, openings) = queue(1);
        assert_eq!(opener.open(reservation(1)), Ok(()));
        assert_eq!(opener.clone().open(reservation(2)), Err(reservation(2)));
        assert_eq!((openings.next(), openings.next()), (Some(reservation(1)), None));
    }

    #[test]
    fn threads_hand_over_each_reservation_once() {
        let (opener, openings) = queue(64);
        let mut got = HashSet::new();
        thread::scope(|scope| {
            for thread in 0..4_u32 {
                let opener = opener.clone();
                scope.spawn(move || {
                    for number in 0..5_000 {
                        let mut next = reservation(u128::from(thread * 5_000 + number));
                        while let Err(back) = opener.open(next) {
                            next = back;
                            thread::yield_now();
                        }
                    }
                });
            }
            while got.len() < 20_000 {
                match openings.next() {
                    Some(next) => assert!(got.insert(next.request), "twice"),
                    None => thread::yield_now(),
                }
            }
        });
        assert!(openings.next().is_none());
    }
}
