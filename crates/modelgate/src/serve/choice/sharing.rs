//! Tells other Modelgates which server was chosen for which request, and hears the same of them, through the Redis of the shared limits.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shared_limits::{Place, SharedLimits, Stream, StreamSender};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use web::{ChoiceNote, ChoiceSharing, Family, Shared, SharedCounting};

use crate::serve::messages;

/// How long notes are gathered before they are told together. A choice that another Modelgate makes in this time is made without them.
const GATHERED: Duration = Duration::from_millis(5);
/// The most notes that are told together.
const MOST_AT_ONCE: usize = 1_024;
/// The messages that go to Redis in one call: less than a megabyte.
const MESSAGES_AT_ONCE: usize = 16;
/// How often it is looked whether all have the same secret. That Redis has lost it is noticed sooner.
const COMPARED: Duration = Duration::from_secs(60);
/// How often it is looked whether Redis has lost its data.
const LOOK: Duration = Duration::from_secs(1);
/// How long Redis is left alone after it has not answered.
const PAUSE: Duration = Duration::from_secs(1);
/// The name of the secret with which prompts are hashed.
const SECRET: &str = "choices-secret";

/// What is heard of other Modelgates.
#[derive(Debug)]
pub(super) enum Heard {
    /// The Modelgate with this number has told this, so long ago.
    Note(u64, ChoiceNote, Duration),
    /// No other one is left.
    Nobody,
}

#[derive(Debug, Default)]
struct PassedOn {
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
}

/// Tells and hears; never returns.
pub(super) async fn share(shared: &Arc<Shared>, sharing: Option<ChoiceSharing>, heard: mpsc::Sender<Heard>) {
    let (Some(limits), Some(sharing)) = (shared.shared_counting().map(SharedCounting::limits), sharing)
    else {
        return pending().await;
    };
    let counts = Arc::new(PassedOn::default());
    let counted = Arc::clone(&counts);
    shared.add_metrics(move || vec![counted.family()]);
    let place = Place::begin(Stream::Choices);
    let sender = place.sender();
    tokio::join!(tell(limits, sender, sharing, &heard, &counts), hear(limits, place, &heard, &counts));
}

async fn tell(
    limits: &SharedLimits,
    sender: StreamSender,
    mut sharing: ChoiceSharing,
    heard: &mpsc::Sender<Heard>,
    counts: &PassedOn,
) {
    let (mut replicas, mut health) = (limits.replica_changes(), limits.health());
    let mut compare = interval(COMPARED);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut dropped, mut epoch) = (0, limits.epoch());
    replicas.mark_changed();
    loop {
        tokio::select! {
            Some(note) = sharing.next() => {
                sleep(GATHERED).await;
                let mut notes = vec![note];
                notes.extend(std::iter::from_fn(|| sharing.next_now()).take(MOST_AT_ONCE - 1));
                let mut is_sent = true;
                // Not all at once: decisions use the same connection.
                for messages in messages::pack(&notes, Stream::Choices).chunks(MESSAGES_AT_ONCE) {
                    is_sent = is_sent && limits.send(sender, messages).await.is_ok();
                }
                let count = if is_sent { &counts.sent } else { &counts.dropped };
                PassedOn::add(count, notes.len());
            }
            Ok(()) = replicas.changed() => {
                let is_alone = replicas.borrow_and_update().get() < 2;
                sharing.set_heard(!is_alone);
                if is_alone {
                    let _ = heard.send(Heard::Nobody).await;
                }
            }
            _ = look.tick() => {
                let before = std::mem::replace(&mut epoch, limits.epoch());
                if before != epoch {
                    compare.reset_immediately();
                }
            }
            Ok(()) = health.changed() => compare.reset_immediately(),
            _ = compare.tick() => {
                if let Ok(secret) = limits.secret(SECRET, sharing.secret()).await {
                    sharing.set_secret(secret);
                }
            }
        }
        let all = sharing.dropped();
        counts.dropped.fetch_add(all - dropped, Ordering::Relaxed);
        dropped = all;
    }
}

async fn hear(limits: &SharedLimits, place: Place, heard: &mpsc::Sender<Heard>, counts: &PassedOn) {
    let mut listener = limits.listen(place);
    let mut replicas = limits.replica_changes();
    loop {
        // Without others, no second connection is made.
        if replicas.wait_for(|count| count.get() > 1).await.is_err() {
            return;
        }
        let Ok(received) = listener.next().await else {
            sleep(PAUSE).await;
            continue;
        };
        for message in &received.messages {
            let age = limits.age(message);
            for note in messages::unpack(&message.bytes) {
                PassedOn::add(&counts.received, 1);
                let _ = heard.send(Heard::Note(message.from, note, age)).await;
            }
        }
    }
}

impl PassedOn {
    fn add(count: &AtomicU64, notes: usize) {
        count.fetch_add(u64::try_from(notes).unwrap_or(0), Ordering::Relaxed);
    }

    fn family(&self) -> Family {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        Family::counter(
            "modelgate_choices_passed_on",
            "Choices of servers, ends of their requests and failures: told to other Modelgates, heard from them, or dropped because \
             there were too many, or because Redis did not answer or refused them.",
        )
        .with(&[("direction", "sent")], value(&self.sent))
        .with(&[("direction", "received")], value(&self.received))
        .with(&[("direction", "dropped")], value(&self.dropped))
    }
}
