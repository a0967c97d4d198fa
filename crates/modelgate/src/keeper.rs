//! Keeps what `/auth` reads in step with the file and the store, and the store with what `/auth` counts.
//!
//! ```text
//! file, store ─▶ Book ─▶ Policy ─▶ /auth ─▶ quotas, usage, decisions ─▶ store
//! ```
//!
//! A store that does not answer changes nothing of what is in force; what was counted meanwhile is written when it is
//! back, once. What was counted within [`FLUSH`] is lost if the process is killed.

mod changes;
mod counts;
mod reading;
mod samples;

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use access::Policy;
use accounts::Accounts;
use serde_json::json;
use store::{Following, Registry, State, Store, StoreError, StoreUrl};
use telemetry::Batch;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tracing::{info, warn};
use web::{Family, Shared};

use crate::{book::Book, config::Config, jwks::KeySets};
use changes::{Changed, Changes};
use counts::{Counted, Outbox, periods};
use reading::{Reading, read_all, read_some};
use samples::Samples;

/// How often counts are written: what a kill may lose.
const FLUSH: Duration = Duration::from_millis(500);
/// How long the start waits for the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to reach a store that is down.
const RETRY: Duration = Duration::from_secs(1);
/// The same for one that comes and goes.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// After so long a store has come to stay.
const STABLE: Duration = Duration::from_secs(10);
/// How long a write may take.
const WRITE: Duration = Duration::from_secs(5);
/// How often what is too old is deleted.
const CLEAN: Duration = Duration::from_secs(3600);

/// Keeps file, store and `/auth` in step.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    key_sets: KeySets,
    config: watch::Receiver<Arc<Config>>,
    book: Book,
    /// Connected, and everything read.
    following: Option<Changes>,
    /// Everything is being read anew, beside all else.
    reading: Option<Reading>,
    /// Being connected, while the store is down.
    opening: Option<JoinHandle<Result<Opened, StoreError>>>,
    /// Since when it is connected.
    opened: Option<Instant>,
    /// Before the next attempt.
    pause: Duration,
    samples: Samples,
    outbox: Outbox,
}

/// The keys and limits with which to start: those of the store among them, if it answers in time.
pub(crate) struct Start {
    pub(crate) registry: Arc<Registry>,
    pub(crate) book: Book,
    following: Option<Following>,
    counted: Counted,
}

impl Start {
    /// Opens the store and reads it.
    ///
    /// # Errors
    /// SQLite's file cannot be used, or the tables are those of a newer Modelgate. A PostgreSQL that does not answer is no
    /// error: it may come later.
    pub(crate) async fn new(config: &Config, key_sets: &KeySets) -> io::Result<Self> {
        let registry = Arc::new(Registry::new(config.accounts.declared.clone()));
        let Some(url) = config.store.url.clone() else {
            let book = Book::new(config, key_sets, Accounts::default());
            return Ok(Self { registry, book, following: None, counted: Counted::default() });
        };
        let kind = url.kind();
        let opened = match timeout(PATIENCE, open(config, key_sets, &registry, Arc::default())).await {
            Ok(opened) => opened,
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {PATIENCE:?}"))),
        };
        match opened {
            Ok((following, book, counted)) => {
                info!(kind, keys = book.policy.key_count(), "the store is open");
                report(&book, &registry);
                Ok(Self { registry, book, following: Some(following), counted })
            }
            Err(error @ StoreError::Unavailable(_)) if kind == "PostgreSQL" => {
                warn!(kind, %error, "the store is down; until it is back only the keys, plans and consumers of the configuration are known");
                registry.set_state(State::Down { since: SystemTime::now(), why: error.to_string() });
                let book = Book::new(config, key_sets, Accounts::default()).incomplete();
                Ok(Self { registry, book, following: None, counted: Counted::default() })
            }
            Err(error) => Err(io::Error::other(format!("store: {error}"))),
        }
    }
}

type Opened = (Following, Book, Counted);

/// Opens the store if that has not been done, and reads everything but what is `known` already.
async fn open(
    config: &Config,
    key_sets: &KeySets,
    registry: &Registry,
    known: Arc<Policy>,
) -> Result<Opened, StoreError> {
    let store = match (registry.store(), &config.store.url) {
        (Ok(store), _) => Store::clone(&store),
        (Err(_), Some(url)) => {
            let store = Store::open(url.clone()).await?;
            registry.set_store(store.clone());
            store
        }
        (Err(_), None) => return Err(StoreError::Unavailable("there is none".into())),
    };
    // What changes while it is read is heard of afterwards.
    let following = store.follow().await?;
    let book = read_all(config, key_sets, &store, known).await?;
    let counted = Counted::of(&store, &config.time_zone).await?;
    registry.set_state(State::Up);
    Ok((following, book, counted))
}

/// The keys and limits of the file and the store as they are now, for a command that changes nothing.
pub(crate) async fn read_once(config: &Config, key_sets: &KeySets) -> Result<Book, StoreError> {
    let is_there = match &config.store.url {
        // It would be made, and belong to whoever gives the command.
        Some(StoreUrl::Sqlite(path)) => path.exists(),
        other => other.is_some(),
    };
    let Some(url) = config.store.url.clone().filter(|_| is_there) else {
        return Ok(Book::new(config, key_sets, Accounts::default()));
    };
    let read = async {
        let store = Store::open(url).await?;
        let book = read_all(config, key_sets, &store, Arc::default()).await;
        store.close().await;
        book
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| Err(late()))
}

/// Says what is not in force, and was not known to be.
fn report(book: &Book, registry: &Registry) {
    let known = registry.problems();
    let known: HashSet<&String> = known.iter().collect();
    let problems = book.problems();
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        warn!(problem, "an account is not in force");
    }
    registry.set_problems(problems);
}

impl Keeper {
    pub(crate) fn new(
        start: Start,
        shared: Arc<Shared>,
        key_sets: KeySets,
        config: watch::Receiver<Arc<Config>>,
    ) -> Self {
        let Start { registry, book, following, counted } = start;
        let mut outbox = Outbox::new();
        outbox.learn(&shared, counted);
        let told = Arc::clone(&registry);
        shared.add_status("store", move || describe(&told));
        let told = Arc::clone(&registry);
        shared.add_metrics(move || {
            let up = f64::from(u8::from(*told.state() == State::Up));
            let family = Family::gauge("modelgate_store_up", "Whether the store answers.");
            if *told.state() == State::Off { Vec::new() } else { vec![family.with(&[], up)] }
        });
        let following = following.map(Changes::of);
        Self {
            shared,
            registry,
            key_sets,
            config,
            book,
            following,
            reading: None,
            opening: None,
            opened: Some(Instant::now()),
            pause: RETRY,
            samples: Samples::default(),
            outbox,
        }
    }

    /// Never returns.
    pub(crate) async fn run(&mut self) {
        let mut decisions = self.shared.telemetry().subscribe();
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clean = interval(CLEAN);
        clean.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut config = self.config.clone();
        config.mark_unchanged();
        loop {
            let next = tokio::select! {
                changed = config.changed() => if changed.is_ok() { Next::Reload } else { std::future::pending().await },
                change = changed(&mut self.following) => Next::Follow(change),
                (reading, book) = read(&mut self.reading) => Next::Read(reading, Box::new(book)),
                opened = opened(&mut self.opening) => Next::Opened(Box::new(opened)),
                _ = flush.tick() => Next::Flush,
                _ = clean.tick() => Next::Clean,
                batch = decisions.recv() => Next::Sample(batch),
            };
            match next {
                Next::Reload => self.reload(),
                Next::Follow(Ok(changed)) => self.follow(changed).await,
                Next::Follow(Err(error)) => self.lost(&error),
                Next::Read(reading, book) => self.read(reading, *book).await,
                Next::Opened(opened) => self.opened(*opened),
                Next::Flush => self.flush().await,
                Next::Clean => self.clean().await,
                Next::Sample(Ok(batch)) => self.samples.add(&batch),
                // There were too many at once; it is a sample.
                Next::Sample(Err(_)) => {}
            }
        }
    }

    /// Writes what was counted so far, before the process ends. A store that is busy, or away for a moment, is asked again
    /// until the deadline.
    pub(crate) async fn last_flush(&mut self, deadline: tokio::time::Instant) {
        /// Between attempts.
        const PAUSE: Duration = Duration::from_millis(100);
        let Ok(store) = self.registry.store() else { return };
        let mut why = late();
        let all = async {
            while let Err(error) = self.write_last(&store).await {
                if self.outbox.is_empty() && self.samples.due().is_empty() {
                    return;
                }
                why = error;
                sleep(PAUSE).await;
            }
        };
        if timeout_at(deadline, all).await.is_err() {
            warn!(error = %why, "the last counts could not be written to the store");
        }
    }

    async fn write_last(&mut self, store: &Store) -> Result<(), StoreError> {
        let zone = self.config.borrow().time_zone.clone();
        while !self.outbox.write(&self.shared, store, &zone).await? {}
        self.write_samples(store).await
    }

    async fn write_samples(&mut self, store: &Store) -> Result<(), StoreError> {
        if !self.samples.due().is_empty() {
            store.record(self.samples.due()).await?;
            self.samples.done();
        }
        Ok(())
    }

    /// The file was changed.
    fn reload(&mut self) {
        let config = Arc::clone(&self.config.borrow_and_update());
        // Attempts that are under way would put the old file in force again.
        if let Some(opening) = self.opening.take() {
            opening.abort();
        }
        self.reading = None;
        self.registry.replace_declared(config.accounts.declared.clone());
        if self.following.is_some() {
            self.read_anew(true);
        } else {
            self.keep_stored();
        }
    }

    /// The file as it is now, with what the store said last.
    fn keep_stored(&mut self) {
        let config = Arc::clone(&self.config.borrow());
        self.put_in_force(self.book.with_file(&config, &self.key_sets));
    }

    fn put_in_force(&mut self, book: Book) {
        self.book = book;
        self.shared.replace_policy(Arc::clone(&self.book.policy));
        report(&self.book, &self.registry);
    }

    /// The store was changed, by us or another one.
    async fn follow(&mut self, Changed { names, and_more }: Changed) {
        let Ok(store) = self.registry.store() else { return };
        let update = match timeout(WRITE, read_some(&store, &names)).await {
            Ok(Ok(update)) => update,
            Ok(Err(error)) => return self.lost(&error),
            Err(_) => return self.lost(&late()),
        };
        if let Some(reading) = &mut self.reading {
            // It may have read them before.
            reading.meanwhile.add(&names);
        }
        let is_all = self.book.apply(update);
        self.shared.replace_policy(Arc::clone(&self.book.policy));
        report(&self.book, &self.registry);
        if and_more || !is_all {
            self.read_anew(false);
        }
    }

    /// Reads everything, beside all else; once more, if that is being done.
    fn read_anew(&mut self, is_reload: bool) {
        if let Some(reading) = &mut self.reading {
            reading.again = true;
            return;
        }
        let Ok(store) = self.registry.store() else { return };
        let (config, key_sets) = (Arc::clone(&self.config.borrow()), self.key_sets.clone());
        let known = Arc::clone(&self.book.policy);
        self.reading = Some(Reading::start(is_reload, async move {
            let read = timeout(PATIENCE, read_all(&config, &key_sets, &store, known)).await;
            read.unwrap_or_else(|_| Err(late()))
        }));
    }

    /// Everything was read.
    async fn read(&mut self, reading: Reading, book: Result<Book, StoreError>) {
        let Ok(store) = self.registry.store() else { return };
        let caught_up = async {
            let mut book = book?;
            // What has changed meanwhile is in force already, and stays so.
            let is_all =
                reading.meanwhile.is_empty() || book.apply(read_some(&store, &reading.meanwhile).await?);
            Ok::<_, StoreError>((book, is_all))
        };
        match timeout(WRITE, caught_up).await.unwrap_or_else(|_| Err(late())) {
            Ok((book, is_all)) => {
                self.put_in_force(book);
                if reading.again || !is_all {
                    self.read_anew(false);
                }
            }
            Err(error) => {
                self.lost(&error);
                if reading.is_reload {
                    self.keep_stored();
                }
            }
        }
    }

    fn lost(&mut self, error: &StoreError) {
        // One that is there and gone at once, because it can be read and not written, is not asked without end.
        self.pause = match self.opened {
            Some(opened) if opened.elapsed() < STABLE => (self.pause * 2).min(LONGEST_RETRY),
            Some(_) => RETRY,
            None => self.pause,
        };
        (self.following, self.opened) = (None, None);
        if !matches!(*self.registry.state(), State::Down { .. }) {
            warn!(%error, "the store is down; what it said last stays in force");
            self.registry.set_state(State::Down { since: SystemTime::now(), why: error.to_string() });
        }
    }

    async fn flush(&mut self) {
        let config = Arc::clone(&self.config.borrow());
        if *self.registry.state() == State::Off {
            // Nobody wants to know.
            self.shared.usage().take();
            self.samples.done();
            return;
        }
        if self.following.is_none() {
            if self.opening.is_none() {
                let pause = self.pause;
                let (key_sets, registry) = (self.key_sets.clone(), Arc::clone(&self.registry));
                let known = Arc::clone(&self.book.policy);
                self.opening = Some(tokio::spawn(async move {
                    sleep(pause).await;
                    timeout(PATIENCE, open(&config, &key_sets, &registry, known))
                        .await
                        .unwrap_or_else(|_| Err(late()))
                }));
            }
            return;
        }
        let Ok(store) = self.registry.store() else { return };
        let written = timeout(WRITE, async {
            self.outbox.write(&self.shared, &store, &config.time_zone).await?;
            self.write_samples(&store).await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.lost(&error),
            Err(_) => self.lost(&StoreError::Unavailable(format!("no answer within {WRITE:?}"))),
        }
    }

    fn opened(&mut self, opened: Result<Opened, StoreError>) {
        match opened {
            Ok((following, book, counted)) => {
                info!("the store is back");
                self.following = Some(Changes::of(following));
                self.opened = Some(Instant::now());
                // It would put what it has read before in force.
                self.reading = None;
                self.outbox.learn(&self.shared, counted);
                self.put_in_force(book);
            }
            Err(error) => self.lost(&error),
        }
    }

    async fn clean(&self) {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        /// Who has written nothing for so long has nothing on its way any more.
        const WRITER: Duration = Duration::from_secs(62 * 24 * 3600);
        let config = Arc::clone(&self.config.borrow());
        let yesterday = SystemTime::now() - DAY;
        self.shared.limiters().quotas().forget_before(yesterday, &config.time_zone);
        let Ok(store) = self.registry.store() else { return };
        let [day, month] = periods(&config.time_zone, yesterday - DAY).try_into().unwrap_or_default();
        let oldest = SystemTime::now() - config.store.keep;
        let [oldest_day, _] = periods(&config.time_zone, oldest).try_into().unwrap_or_default();
        let cleaned = async {
            store.forget_counts_before(&day, &month).await?;
            store.forget_writers_before(SystemTime::now() - WRITER).await?;
            store.forget_old_changes().await?;
            store.forget_usage_before(&oldest_day).await?;
            store.forget_audit_before(oldest).await
        };
        if let Err(error) = timeout(WRITE, cleaned).await.unwrap_or_else(|_| Err(late())) {
            warn!(%error, "the store cannot be cleaned");
        }
    }
}

fn late() -> StoreError {
    StoreError::Unavailable("no answer in time".into())
}

/// What is to be done next.
enum Next {
    Reload,
    Follow(Result<Changed, StoreError>),
    Read(Reading, Box<Result<Book, StoreError>>),
    Opened(Box<Result<Opened, StoreError>>),
    Flush,
    Clean,
    Sample(Result<Batch, broadcast::error::RecvError>),
}

/// The attempt that is under way, when it is over.
async fn opened(opening: &mut Option<JoinHandle<Result<Opened, StoreError>>>) -> Result<Opened, StoreError> {
    let Some(attempt) = opening else { return std::future::pending().await };
    let opened = attempt.await;
    *opening = None;
    opened.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
}

/// The reading that is under way, when it is over.
async fn read(reading: &mut Option<Reading>) -> (Reading, Result<Book, StoreError>) {
    let Some(under_way) = reading else { return std::future::pending().await };
    let read = under_way.ended().await;
    match reading.take() {
        Some(reading) => (reading, read),
        None => std::future::pending().await,
    }
}

async fn changed(following: &mut Option<Changes>) -> Result<Changed, StoreError> {
    match following {
        Some(following) => following.next().await,
        None => std::future::pending().await,
    }
}

fn describe(registry: &Registry) -> serde_json::Value {
    /// There may be 100,000; the log names all.
    const SOME: usize = 20;
    let kind = registry.store().ok().map(|store| store.url().kind());
    let mut described = match &*registry.state() {
        State::Off => json!({ "state": "off" }),
        State::Up => json!({ "state": "up", "kind": kind }),
        State::Down { since, why } => json!({
            "state": "down",
            "kind": kind,
            "since": humantime::format_rfc3339_seconds(*since).to_string(),
            "why": why,
        }),
    };
    let problems = registry.problems();
    if !problems.is_empty() {
        let mut named: Vec<String> = problems.iter().take(SOME).cloned().collect();
        if let Some(others) = problems.len().checked_sub(SOME).filter(|others| *others > 0) {
            named.push(format!("and {others} more; the log names all"));
        }
        described["problems"] = named.into();
    }
    described
}
