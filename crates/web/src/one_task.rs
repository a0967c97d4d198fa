//! Serves a connection and the requests on it in one task.
//!
//! Traefik asks about all of its clients over one HTTP/2 connection, and hyper would run each request in its own task. Most
//! take some microseconds, less than waking another thread takes, and each answer would be written separately. In one task, the
//! requests that have arrived are answered one after another, and their answers are written together.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hyper::rt::Executor;
use tokio::sync::mpsc;

type Question = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor for hyper: takes the futures that it wants to run beside a connection.
#[derive(Debug, Clone)]
pub(crate) struct Sender(mpsc::UnboundedSender<Question>);

/// Runs those futures.
#[derive(Debug)]
pub(crate) struct Questions {
    new: mpsc::UnboundedReceiver<Question>,
    under_way: FuturesUnordered<Question>,
}

pub(crate) fn new() -> (Sender, Questions) {
    let (sender, new) = mpsc::unbounded_channel();
    (Sender(sender), Questions { new, under_way: FuturesUnordered::new() })
}

impl<F: Future + Send + 'static> Executor<F> for Sender {
    fn execute(&self, future: F) {
        let question = Box::pin(async move {
            future.await;
        });
        // Once the connection has ended, nobody waits for an answer.
        let _ = self.0.send(question);
    }
}

impl Questions {
    /// Polls the connection and all requests until each of them is pending.
    pub(crate) fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        context: &mut Context<'_>,
    ) -> Poll<C::Output> {
        loop {
            // This reads requests, and writes the answers that are ready.
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            while let Poll::Ready(Some(question)) = self.new.poll_recv(context) {
                self.under_way.push(question);
            }
            let mut answered = false;
            while let Poll::Ready(Some(())) = self.under_way.poll_next_unpin(context) {
                answered = true;
            }
            if !answered {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use tokio::{sync::oneshot, task};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn questions_are_answered_on_the_connections_own_task() {
        let served = task::spawn(async {
            let (sender, mut questions) = new();
            let (answers, mut answered) = mpsc::unbounded_channel();
            // Like hyper, it spawns two requests, and ends when both are answered, although the first waits for the second.
            let mut connection = pin!(async move {
                let (release, held) = oneshot::channel::<()>();
                let also = answers.clone();
                sender.execute(async move {
                    held.await.expect("a release");
                    also.send(task::id()).expect("the connection listens");
                });
                sender.execute(async move {
                    release.send(()).expect("the first waits");
                    answers.send(task::id()).expect("the connection listens");
                });
                [answered.recv().await, answered.recv().await]
            });
            let by = poll_fn(|context| questions.poll(connection.as_mut(), context)).await;
            assert_eq!(by, [Some(task::id()); 2]);
        });
        served.await.expect("it ended");
    }
}
