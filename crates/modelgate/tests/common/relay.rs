//! Stands between Modelgate and its PostgreSQL, and can lose answers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

/// A relay on a loopback port, until it is dropped.
pub(crate) struct Relay {
    port: u16,
    losses: Arc<Losses>,
    accepting: AbortHandle,
}

/// The answers to so many commits are still to be lost, and so many were.
#[derive(Default)]
struct Losses {
    wanted: AtomicU32,
    done: AtomicU32,
}

impl Relay {
    /// To a port of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let losses = Arc::new(Losses::default());
        let of_all = Arc::clone(&losses);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, port, Arc::clone(&of_all)));
            }
        });
        Self { port: own, losses, accepting: accepting.abort_handle() }
    }

    /// The URL of a database behind it.
    pub(crate) fn url(&self, direct: &str, port: u16) -> String {
        direct.replace(&format!(":{port}/"), &format!(":{}/", self.port))
    }

    /// Loses the answers to the next commits: each is carried out, and the connection ends before the answer is there.
    pub(crate) fn lose(&self, commits: u32) {
        self.losses.wanted.store(commits, Ordering::SeqCst);
    }

    /// How many answers were lost.
    pub(crate) fn lost(&self) -> u32 {
        self.losses.done.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Losses {
    fn take(&self) -> bool {
        let less = |wanted: u32| wanted.checked_sub(1);
        self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

async fn relay(client: TcpStream, port: u16, losses: Arc<Losses>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (silence, is_silent) = watch::channel(false);
    let asking = tokio::spawn(ask(from_client, to_server, Arc::clone(&losses), silence));
    answer(from_server, to_client, is_silent, &losses).await;
    asking.abort();
}

/// What the client says. Before a commit goes on whose answer is to be lost, answers are held.
async fn ask(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    losses: Arc<Losses>,
    silence: watch::Sender<bool>,
) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        let said = &buffer[..length];
        // A message of its own: nobody sends more before it is answered.
        if said.windows(7).any(|part| part == b"COMMIT\0") && losses.take() {
            silence.send_replace(true);
        }
        if server.write_all(said).await.is_err() {
            return;
        }
    }
}

/// What the server answers, until the answer to a commit is there that is to be lost.
async fn answer(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    is_silent: watch::Receiver<bool>,
    losses: &Losses,
) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = server.read(&mut buffer).await {
        if *is_silent.borrow() {
            // The server answers only once it has committed.
            losses.done.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if client.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
