//! Threads that serve connections, each with its own runtime.
//!
//! Traefik sends most ForwardAuth requests over one connection. A thread that both waits for the network and answers can answer
//! a request as soon as it arrives; in tokio's pool one thread waits and hands what has arrived to another, which must first be
//! woken.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// More would be idle: a Traefik has some six connections, one or two of which carry nearly all requests.
const MOST: usize = 8;

/// The threads. They end when this is dropped, together with the tasks that still run on them.
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
    /// Starts as many threads as there are processors, up to a maximum.
    ///
    /// # Errors
    /// The system has no more threads or files.
    pub(crate) fn new() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let all = (0..count).map(|_| Lane::new()).collect::<io::Result<_>>()?;
        Ok(Self { all, next: AtomicUsize::new(0) })
    }

    /// Runs a task on the next thread.
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
            // The sender never sends: it is only dropped.
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
