//! One-way flow: one publisher writes the catalogue, all others only read it.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use event_listener::Event;

use crate::{Catalogue, Problem};

#[derive(Debug)]
struct Channel {
    current: ArcSwapOption<Catalogue>,
    published: Event,
    /// What keeps the first catalogue from being published.
    obstacles: ArcSwap<Vec<Problem>>,
}

/// The only writing end.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Channel>,
    generation: u64,
}

/// A reading end; reading takes no lock.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Channel>);

/// A new channel. Readers see `None` until the first catalogue is published, which means that the first survey is not finished.
pub fn channel() -> (Publisher, Reader) {
    let shared =
        Channel { current: ArcSwapOption::empty(), published: Event::new(), obstacles: ArcSwap::default() };
    let shared = Arc::new(shared);
    (Publisher { shared: Arc::clone(&shared), generation: 0 }, Reader(shared))
}

impl Publisher {
    /// Publishes a catalogue, unless it equals the previous one apart from the generation.
    ///
    /// Returns whether it was published.
    pub fn publish(&mut self, mut catalogue: Catalogue) -> bool {
        let unchanged =
            self.shared.current.load().as_deref().is_some_and(|old| old.says_the_same(&catalogue));
        if unchanged {
            return false;
        }
        self.generation += 1;
        catalogue.generation = self.generation;
        self.shared.current.store(Some(Arc::new(catalogue)));
        self.shared.published.notify(usize::MAX);
        true
    }

    /// Tells readers what keeps the first catalogue from being published.
    pub fn waits_for(&self, obstacles: Vec<Problem>) {
        if **self.shared.obstacles.load() != obstacles {
            self.shared.obstacles.store(Arc::new(obstacles));
        }
    }
}

impl Reader {
    /// A reader of a catalogue that stays as it is.
    pub fn of(catalogue: Arc<Catalogue>) -> Self {
        let (publisher, reader) = channel();
        publisher.shared.current.store(Some(catalogue));
        reader
    }

    /// The current catalogue; `None` before the first survey has finished.
    pub fn load(&self) -> Guard<Option<Arc<Catalogue>>> {
        self.0.current.load()
    }

    /// What keeps the first catalogue from being published, until one is.
    pub fn obstacles(&self) -> Arc<Vec<Problem>> {
        self.0.obstacles.load_full()
    }

    /// Waits until the catalogue's generation differs from `generation`, and returns the catalogue. Generation 0 stands for
    /// "none yet".
    pub async fn changed_since(&self, generation: u64) -> Arc<Catalogue> {
        loop {
            let listener = self.0.published.listen();
            if let Some(catalogue) = self.0.current.load_full()
                && catalogue.generation != generation
            {
                return catalogue;
            }
            listener.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::LifecycleFinding;

    /// `/traefik` waits for the next catalogue this way: Traefik would hear of a server late, or again and again of the same.
    #[test]
    fn a_reader_waits_for_another_generation() {
        let (mut publisher, reader) = channel();
        let waker = &mut Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(reader.changed_since(0)), pin!(reader.changed_since(1)));
        assert!(first.as_mut().poll(waker).is_pending(), "none yet");
        publisher.publish(Catalogue::assemble([], Vec::new()));
        assert!(matches!(first.poll(waker), Poll::Ready(catalogue) if catalogue.generation() == 1));
        assert!(second.as_mut().poll(waker).is_pending(), "known already");
        publisher.publish(Catalogue::assemble([], vec![problem("a")]));
        assert!(matches!(second.poll(waker), Poll::Ready(catalogue) if catalogue.generation() == 2));
    }

    #[test]
    fn what_the_first_catalogue_waits_for_is_told() {
        let (publisher, reader) = channel();
        for obstacles in [Vec::new(), vec![problem("a")], vec![problem("a"), problem("b")], Vec::new()] {
            publisher.waits_for(obstacles.clone());
            assert_eq!(*reader.obstacles(), obstacles);
        }
    }

    fn problem(server: &str) -> Problem {
        Problem::server(server, LifecycleFinding::Frozen)
    }
}
