//! Threads that serve connections, each with a runtime of its own.
//!
//! Traefik asks about most requests over one connection. On a thread that both waits for the network and answers, a question
//! is answered as soon as it is there; in tokio's pool, one thread waits and hands what has arrived to another, which
//! has to be woken for it.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// More would be idle: a Traefik has some six connections, and one or two of them have nearly all questions.
const MOST: usize = 8;

/// The threads. They end when this is dropped, and with them what still runs there.
#[derive(Debug)]
pub(crate) struct Lanes {
    all: Vec<Lane>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Lanes {
    /// As many as there are processors.
    ///
    /// # Errors
    /// The system has no more threads or files.
    pub(crate) fn new() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let all = (0..count).map(|_| Lane::new()).collect::<io::Result<_>>()?;
        Ok(Self { all, next: AtomicUsize::new(0) })
    }

    /// Runs it on the next thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        self.all[next].runtime.spawn(task);
    }
}

impl Lane {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || {
            // Its sender is only ever dropped.
            let _: Result<(), _> = runtime.block_on(ended);
        };
        thread::Builder::new().name("requests".into()).spawn(run)?;
        Ok(Self { runtime: handle, _end: end })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    #[tokio::test]
    async fn tasks_are_spread_over_threads_and_end_with_them() {
        let lanes = Lanes::new().expect("threads");
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for _ in 0..2 * lanes.all.len() {
            let sender = sender.clone();
            lanes.spawn(async move {
                let _ = sender.send(thread::current().id());
                std::future::pending::<()>().await;
            });
        }
        drop(sender);
        let mut threads = HashSet::new();
        for _ in 0..2 * lanes.all.len() {
            threads.insert(receiver.recv().await.expect("a task that runs"));
        }
        assert_eq!(threads.len(), lanes.all.len());
        assert!(!threads.contains(&thread::current().id()));
        drop(lanes);
        let gone = timeout(Duration::from_secs(60), receiver.recv()).await.expect("they end");
        assert_eq!(gone, None);
    }
}
