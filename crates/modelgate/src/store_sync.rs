//! Keeps the policy that `/auth` reads in step with the file and the store, and writes what `/auth` counts to the store.
//!
//! ```text
//! file, store ─▶ PolicySource ─▶ Policy ─▶ /auth ─▶ quotas, usage, decisions ─▶ store
//!
//! start.rs    the first reading of the store
//! link.rs     the connection to the store, and its retries
//! changes.rs  the stream of changes in the store
//! reading.rs  reads accounts of the store, some or all
//! counts.rs   writes counts to the store
//! gone.rs     keys that were deleted from the file
//! forget.rs   deletes usage that is old enough
//! cordons.rs  the servers that operators have withdrawn
//! names.rs    the names of models, for the time after a restart
//! samples.rs  samples refusals for the store's audit log
//! report.rs   tells operators about the store
//! unwritten.rs  keeps what a stop could not write, until the next start
//! ```
//!
//! While the store does not answer, everything in force stays in force; the counts of that time are written once it is back,
//! exactly once. If the process is killed, counts of the last [`FLUSH`] are lost, or of the time since the store is away.

mod changes;
pub(crate) mod cordons;
mod counts;
mod first_key;
mod forget;
mod gone;
mod link;
pub(crate) mod names;
mod reading;
mod report;
mod samples;
pub(crate) mod start;
mod unwritten;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use store::{Registry, State, Store, StoreError};
use telemetry::Batch;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tracing::{info, warn};
use web::Shared;

use self::{
    changes::Changed,
    counts::{Outbox, offset, periods},
    forget::Forgetting,
    gone::GoneKeys,
    link::{Attempt, Event, Link, RETRY},
    reading::{Cause, Reading, late, read_all, read_some},
    report::report,
    samples::Samples,
    start::{Opened, Reached, STORE_TIMEOUT, Start, WRITE, open, send_kept},
    unwritten::{DAY, REMEMBERED},
};
use crate::{config::Config, jwks::KeySets, policy_source::PolicySource};

/// How often counts are written. A kill loses the counts of this time.
const FLUSH: Duration = Duration::from_millis(500);
/// How often what is too old is deleted.
const CLEAN: Duration = Duration::from_secs(3600);
/// How long usage by hour is kept: that of a month, and of some days to look at the month.
const KEEP_HOURS: Duration = Duration::from_secs(35 * 24 * 3600);

/// How long before the end of a stop the store is given up, and what it has not taken is kept in a file.
const KEEP_FILE: Duration = Duration::from_secs(1);

/// What a stop says if neither the store nor a file takes the last counts.
const LOST_COUNTS: &str = "the last counts could not be written to the store: what quotas and budgets have used since its last answer is lost";

/// Keeps file, store and `/auth` in step.
pub(crate) struct StoreSync {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    key_sets: KeySets,
    config: watch::Receiver<Arc<Config>>,
    policy_source: PolicySource,
    link: Link,
    samples: Samples,
    outbox: Outbox,
    forgetting: Forgetting,
    gone: GoneKeys,
    decisions: broadcast::Receiver<Batch>,
}

/// The next thing to do.
enum Next {
    Reload,
    Link(Event),
    Flush,
    Clean,
    Sample(Result<Batch, broadcast::error::RecvError>),
}

impl StoreSync {
    /// Starts the sync; [`Self::run`] continues it.
    pub(crate) fn new(
        start: Start,
        shared: Arc<Shared>,
        key_sets: KeySets,
        config: watch::Receiver<Arc<Config>>,
    ) -> Self {
        let Start { registry, policy_source, store } = start;
        report::show(&shared, &registry);
        shared.usage().align(offset(&config.borrow().time_zone, SystemTime::now()));
        let (samples, outbox, forgetting) = (Samples::default(), Outbox::new(), Forgetting::default());
        let (link, gone) = (Link::Off, GoneKeys::default());
        let decisions = shared.telemetry().subscribe();
        let mut store_sync = Self {
            shared,
            registry,
            key_sets,
            config,
            policy_source,
            link,
            samples,
            outbox,
            forgetting,
            gone,
            decisions,
        };
        store_sync.link = match store {
            Reached::None => Link::Off,
            Reached::Down => Link::down(|pause| store_sync.attempt(pause)),
            Reached::Open(following, counted) => {
                store_sync.outbox.learn(&store_sync.shared, counted);
                Link::up(following, RETRY)
            }
        };
        store_sync
    }

    /// Runs the sync; never returns.
    pub(crate) async fn run(&mut self) {
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clean = interval(CLEAN);
        clean.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut config = self.config.clone();
        config.mark_unchanged();
        loop {
            let next = tokio::select! {
                changed = config.changed() => if changed.is_ok() { Next::Reload } else { std::future::pending().await },
                event = self.link.next() => Next::Link(event),
                _ = flush.tick() => Next::Flush,
                _ = clean.tick() => Next::Clean,
                batch = self.decisions.recv() => Next::Sample(batch),
            };
            match next {
                Next::Reload => self.reload(),
                Next::Link(Event::Changed(changed)) => self.follow(changed).await,
                Next::Link(Event::Lost(error)) => self.lost(&error),
                Next::Link(Event::Read(reading, policy_source)) => self.read(reading, *policy_source).await,
                Next::Link(Event::Opened(opened)) => self.opened(*opened),
                Next::Flush => self.flush().await,
                Next::Clean => self.clean().await,
                Next::Sample(Ok(batch)) => self.samples.add(&batch),
                // The subscriber lagged behind and missed some decisions, which does not matter for a sample.
                Next::Sample(Err(_)) => {}
            }
        }
    }

    /// Writes what was counted so far, before the process ends. A store that is busy, or away for a moment, is asked again
    /// until shortly before the deadline. What it has not taken then is kept in a file of the state folder, for the next start.
    ///
    /// # Errors
    /// Neither of them has taken it: what was spent of budgets and quotas in the last moment, or since the store is away, is lost.
    pub(crate) async fn last_flush(&mut self, deadline: Instant) -> io::Result<()> {
        /// Between attempts.
        const PAUSE: Duration = Duration::from_millis(100);
        self.take_last_decisions();
        let Ok(store) = self.registry.store() else { return self.keep_without_store() };
        let mut why = None;
        let all = async {
            while let Err(error) = self.write_last(&store).await {
                if self.outbox.is_empty() && self.samples.due().is_empty() {
                    return;
                }
                why = Some(error);
                sleep(PAUSE).await;
            }
        };
        if timeout_at(deadline - KEEP_FILE, all).await.is_err() {
            return self.keep_counts(&why.unwrap_or_else(late).to_string());
        }
        Ok(())
    }

    /// What becomes of counts at the end if the store was never reached, or if there is none.
    fn keep_without_store(&mut self) -> io::Result<()> {
        match &*self.registry.state() {
            State::Down { why, .. } => self.keep_counts(why),
            State::Off | State::Up => Ok(()),
        }
    }

    /// Keeps in a file what the store does not take.
    fn keep_counts(&mut self, why: &str) -> io::Result<()> {
        let entries = self.samples.due().len();
        if entries > 0 {
            warn!(entries, why, "the last refusals cannot be written to the audit log");
        }
        let config = Arc::clone(&self.config.borrow());
        let unwritten = self.outbox.take_all(&self.shared, &config.time_zone);
        if unwritten.batches.is_empty() {
            return Ok(());
        }
        let Some(folder) = &config.state_dir else {
            return Err(io::Error::other(format!("{LOST_COUNTS}: {why}")));
        };
        match unwritten::keep(folder, &unwritten) {
            Ok(file) => {
                let file = file.display();
                warn!(%file, why, "the store does not take the last counts; they are kept in a file, and written at the next start");
                Ok(())
            }
            Err(error) => {
                let folder = folder.display();
                Err(io::Error::other(format!(
                    "{LOST_COUNTS}: {why}; nor can they be kept in {folder}: {error}"
                )))
            }
        }
    }

    /// Those of the last moment, which [`Self::run`] does not take any more.
    fn take_last_decisions(&mut self) {
        telemetry::take_waiting(&mut self.decisions, |batch| self.samples.add(batch));
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
        // A reading that is under way would put the old file in force again.
        self.link.stop_reading();
        self.try_again();
        self.gone.note(&self.registry.declared(), &config.accounts.declared, SystemTime::now());
        self.registry.replace_declared(config.accounts.declared.clone());
        match self.link {
            Link::Up(_) => self.read_anew(Cause::File),
            Link::Off | Link::Down(_) => self.keep_stored(),
        }
    }

    /// Puts the new file in force with what the store said last.
    fn keep_stored(&mut self) {
        let config = Arc::clone(&self.config.borrow());
        self.put_in_force(self.policy_source.with_file(&config, &self.key_sets));
    }

    fn put_in_force(&mut self, policy_source: PolicySource) {
        self.policy_source = policy_source;
        self.policy_source.revoke(self.gone.all());
        self.shared.replace_policy(Arc::clone(&self.policy_source.policy));
        report(&self.policy_source, &self.registry);
    }

    /// Handles changes in the store, made by this replica or by another.
    async fn follow(&mut self, changed: Changed) {
        let Ok(store) = self.registry.store() else { return };
        let update = match timeout(WRITE, read_some(&store, &changed.names)).await {
            Ok(Ok(update)) => update,
            Ok(Err(error)) => return self.lost(&error),
            Err(_) => return self.lost(&late()),
        };
        if let Some(reading) = self.link.reading() {
            // The reading under way may have read these accounts before they changed.
            reading.meanwhile.add(&changed.names);
        }
        self.gone.follow(&changed);
        let is_all = self.policy_source.apply(update);
        self.policy_source.forget_revoked_of(&changed.erased);
        self.shared.replace_policy(Arc::clone(&self.policy_source.policy));
        report(&self.policy_source, &self.registry);
        if changed.and_more || !is_all {
            self.read_anew(Cause::Store);
        }
    }

    /// Starts a full reload in the background; if one is under way, it is done once more.
    fn read_anew(&mut self, cause: Cause) {
        let Ok(store) = self.registry.store() else { return };
        let (config, key_sets) = (Arc::clone(&self.config.borrow()), self.key_sets.clone());
        let known = Arc::clone(&self.policy_source.policy);
        let read = async move {
            let read = timeout(STORE_TIMEOUT, read_all(&config, &key_sets, &store, known)).await;
            read.unwrap_or_else(|_| Err(late()))
        };
        self.link.read_anew(|| Reading::start(cause, read));
    }

    /// Handles the end of a full reload.
    async fn read(&mut self, reading: Reading, policy_source: Result<PolicySource, StoreError>) {
        let Ok(store) = self.registry.store() else { return };
        let caught_up = async {
            let mut policy_source = policy_source?;
            // Changes that arrived during the reload are in force already, and stay so.
            let is_all = reading.meanwhile.is_empty()
                || policy_source.apply(read_some(&store, &reading.meanwhile).await?);
            Ok::<_, StoreError>((policy_source, is_all))
        };
        match timeout(WRITE, caught_up).await.unwrap_or_else(|_| Err(late())) {
            Ok((policy_source, is_all)) => {
                self.put_in_force(policy_source);
                if reading.again || !is_all {
                    self.read_anew(Cause::Store);
                }
            }
            Err(error) => {
                self.lost(&error);
                if reading.cause == Cause::File {
                    self.keep_stored();
                }
            }
        }
    }

    /// Handles the loss of the store, or a failed attempt to reach it.
    fn lost(&mut self, error: &StoreError) {
        let mut link = std::mem::replace(&mut self.link, Link::Off);
        link.lose(|pause| self.attempt(pause));
        self.link = link;
        if !matches!(*self.registry.state(), State::Down { .. }) {
            warn!(%error, "the store is down; what it said last stays in force");
            self.registry.set_state(State::Down { since: SystemTime::now(), why: error.to_string() });
        }
    }

    /// Starts another attempt to reach a store that is down.
    fn try_again(&mut self) {
        let mut link = std::mem::replace(&mut self.link, Link::Off);
        link.try_again(|pause| self.attempt(pause));
        self.link = link;
    }

    /// After a pause, opens the store and reads everything.
    fn attempt(&self, pause: Duration) -> Attempt {
        let config = Arc::clone(&self.config.borrow());
        let (key_sets, registry) = (self.key_sets.clone(), Arc::clone(&self.registry));
        let known = Arc::clone(&self.policy_source.policy);
        Attempt::after(pause, async move {
            let opened = timeout(STORE_TIMEOUT, open(&config, &key_sets, &registry, known)).await;
            opened.unwrap_or_else(|_| Err(late()))
        })
    }

    async fn flush(&mut self) {
        match self.link {
            Link::Off => {
                // Without a store nobody else can tell what was counted, and usage is not kept.
                self.has_heard_all(Instant::now());
                self.shared.usage().take();
                self.samples.done();
                return;
            }
            Link::Down(_) => return self.shared.usage().gather(),
            Link::Up(_) => {}
        }
        let Ok(store) = self.registry.store() else { return };
        let config = Arc::clone(&self.config.borrow());
        let began = Instant::now();
        let written = timeout(WRITE, async {
            // What is added to counts by this is learnt as what others have added.
            if self.outbox.has_kept || self.registry.left_files().iter().any(|left| !left.path.exists()) {
                send_kept(&config, &self.registry, &store).await?;
                self.outbox.has_kept = false;
            }
            self.outbox.write(&self.shared, &store, &config.time_zone).await?;
            self.write_samples(&store).await
        });
        match written.await {
            Ok(Ok(())) => self.has_heard_all(began),
            Ok(Err(error)) => self.lost(&error),
            Err(_) => self.lost(&StoreError::Unavailable(format!("no answer within {WRITE:?}"))),
        }
    }

    /// What all replicas had written by then is known here.
    fn has_heard_all(&self, by: Instant) {
        if let Some(counting) = self.shared.shared_counting() {
            counting.has_heard_store(by.into_std());
        }
    }

    /// Handles the end of an attempt to reach the store.
    fn opened(&mut self, opened: Result<Opened, StoreError>) {
        match opened {
            Ok((following, policy_source, counted)) => {
                info!("the store is back");
                // A reading from before would put outdated accounts in force; it ends with the old link.
                self.link = Link::up(following, self.link.pause());
                self.outbox.learn(&self.shared, counted);
                // What changed meanwhile is not known.
                self.gone.follow(&Changed { and_more: true, ..Changed::default() });
                self.put_in_force(policy_source);
            }
            Err(error) => {
                self.try_again();
                self.lost(&error);
            }
        }
    }

    async fn clean(&mut self) {
        let config = Arc::clone(&self.config.borrow());
        let yesterday = SystemTime::now() - DAY;
        self.shared.limiters().quotas().forget_before(yesterday, &config.time_zone);
        let Ok(store) = self.registry.store() else { return };
        let earliest = periods(&config.time_zone, yesterday - DAY);
        let oldest = SystemTime::now() - config.store.keep;
        let first = |kept: Duration| counts::day(&config.time_zone, SystemTime::now() - kept);
        let kept = [config.usage.keep, config.usage.keep.min(KEEP_HOURS)].map(first);
        // This month, and the one before until it is over for four weeks.
        let months = [28 * DAY, Duration::ZERO].map(first).map(|day| day.chars().take(7).collect());
        self.forgetting.start(&store, kept, months);
        let cleaned = async {
            store.forget_counts_before(&earliest).await?;
            store.forget_writers_before(SystemTime::now() - REMEMBERED).await?;
            store.forget_old_changes().await?;
            store.forget_old_revoked_keys().await?;
            store.forget_audit_before(oldest).await
        };
        if let Err(error) = timeout(WRITE, cleaned).await.unwrap_or_else(|_| Err(late())) {
            warn!(%error, "the store cannot be cleaned");
        }
    }
}
