//! What several Modelgates that choose among the same servers tell each other: which server was chosen for each request, and when
//! that has ended. Without it each of them knows a part of what is in a server's cache, and of what waits there.
//!
//! ```text
//! ServerChoices::choose ─▶ Outgoing ─▶ ChoiceSharing ─▶ … the others … ─▶ ChoiceKeeper::told ─▶ Server::sent_by_another
//!      (any thread)         (queue)     (one owner)                          (one owner)
//! ```
//!
//! No request waits for it. What is lost makes a choice worse, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use server_choice::{AdapterId, Estimate, MAX_BLOCKS, Needed, Prompt, SentRequest, Server};
use tokio::sync::mpsc;

/// Notes that may wait to be told, …
const MOST_NOTES: usize = 4_096;
/// … and the bytes of the hashes in them.
const MAX_BYTES: usize = 8 << 20;
/// Of how many requests of another Modelgate the end is waited for, so that what they need counts as held by the server's cache. It is as
/// many as a server is believed to hold something for.
const MOST_NEEDED: usize = 1_024;
/// How many other Modelgates are listened to. The number of one that is started again is a new one.
const MOST_SENDERS: usize = 64;
/// Of what is older, only what the server has read counts: it has been read by now.
const OLD: Duration = Duration::from_secs(2);
/// Who has requests under way says how many, twice a second. After this time without a word it has none.
const SILENT: Duration = Duration::from_secs(5);
/// For so long what a server has said of its requests is all that counts, with what others have sent since.
const TELLS: Duration = Duration::from_secs(5);
/// A Modelgate that has told nothing for so long is taken to be gone.
const GONE: Duration = Duration::from_secs(300);

/// What one Modelgate tells the others of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceNote {
    /// What all Modelgates know its server by.
    server: String,
    what: NoteKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoteKind {
    Sent(Box<SentNote>),
    /// The request with this number has ended, or nobody tells when it does.
    Ended(u64),
    /// How many requests this Modelgate has under way there, as far as it is told when they end.
    UnderWay(u32),
    /// The server could not answer a request that was sent so many milliseconds ago.
    Failed(u64),
}

/// What was expected of the server that was chosen. Tokens; µs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SentNote {
    /// Its number among those that this Modelgate has sent there.
    number: u64,
    tokens: u32,
    block_tokens: f32,
    answer_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<u32>,
    cached_tokens: u32,
    read: u64,
    #[serde(with = "hashes")]
    blocks: Vec<u64>,
}

impl ChoiceNote {
    /// A request was sent to this server; its blocks are still to be added.
    pub(super) fn sent(server: &str, sent: SentRequest, prompt: &Prompt<'_>, expected: &Estimate) -> Self {
        let note = SentNote {
            number: sent.number(),
            tokens: prompt.tokens,
            block_tokens: prompt.block_tokens,
            answer_tokens: prompt.answer_tokens,
            adapter: prompt.adapter.map(AdapterId::to_bits),
            cached_tokens: expected.cached_tokens,
            read: u64::try_from(expected.read.as_micros()).unwrap_or(u64::MAX),
            blocks: Vec::new(),
        };
        Self { server: server.to_owned(), what: NoteKind::Sent(Box::new(note)) }
    }

    /// With the blocks of its prompt.
    pub(super) fn of(mut self, blocks: Vec<u64>) -> Self {
        if let NoteKind::Sent(note) = &mut self.what {
            note.blocks = blocks;
        }
        self
    }

    /// It has ended, or nobody tells when it does.
    pub(super) fn ended(server: &str, sent: SentRequest) -> Self {
        Self { server: server.to_owned(), what: NoteKind::Ended(sent.number()) }
    }

    /// So many requests are under way at this server.
    pub(super) fn under_way(server: &str, requests: u32) -> Self {
        Self { server: server.to_owned(), what: NoteKind::UnderWay(requests) }
    }

    /// This server could not answer a request that was sent so long ago.
    pub(super) fn failed(server: &str, ago: Duration) -> Self {
        let millis = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        Self { server: server.to_owned(), what: NoteKind::Failed(millis) }
    }

    /// What all Modelgates know the server by.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    fn bytes(&self) -> usize {
        match &self.what {
            NoteKind::Sent(note) => size_of_val(note.blocks.as_slice()),
            _ => 0,
        }
    }
}

/// Where requests leave their notes.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: OnceLock<mpsc::Sender<ChoiceNote>>,
    /// Whether there is anybody to tell.
    is_heard: AtomicBool,
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Outgoing {
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    /// Leaves a note. Returns whether there was room for it.
    pub(super) fn tell(&self, note: ChoiceNote) -> bool {
        let bytes = note.bytes();
        let is_too_much = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_BYTES;
        let queue = self.queue.get().filter(|_| !is_too_much);
        let is_told = queue.is_some_and(|queue| queue.try_send(note).is_ok());
        if !is_told {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_told
    }
}

/// The end of what is to be told to the others. It has one owner.
#[derive(Debug)]
pub struct ChoiceSharing {
    outgoing: Arc<Outgoing>,
    secret: Arc<AtomicU64>,
    notes: mpsc::Receiver<ChoiceNote>,
}

impl ChoiceSharing {
    /// From now on notes can be told; `None` if another one has this end.
    pub(super) fn begin(outgoing: &Arc<Outgoing>, secret: &Arc<AtomicU64>) -> Option<Self> {
        let (queue, notes) = mpsc::channel(MOST_NOTES);
        outgoing.queue.set(queue).ok()?;
        Some(Self { outgoing: Arc::clone(outgoing), secret: Arc::clone(secret), notes })
    }

    /// Whether there is anybody to tell. Without anybody nothing is noted.
    pub fn set_heard(&self, is_heard: bool) {
        self.outgoing.is_heard.store(is_heard, Ordering::Relaxed);
    }

    /// The secret with which prompts are hashed: whoever is told something must have the same.
    pub fn secret(&self) -> u64 {
        self.secret.load(Ordering::Relaxed)
    }

    /// Sets it. What was hashed with another one is forgotten in time.
    pub fn set_secret(&self, secret: u64) {
        self.secret.store(secret, Ordering::Relaxed);
    }

    /// The next note.
    pub async fn next(&mut self) -> Option<ChoiceNote> {
        let note = self.notes.recv().await;
        note.inspect(|note| self.taken(note))
    }

    /// The next note that is there already.
    pub fn next_now(&mut self) -> Option<ChoiceNote> {
        let note = self.notes.try_recv().ok();
        note.inspect(|note| self.taken(note))
    }

    /// How many notes were dropped so far, because too many waited.
    pub fn dropped(&self) -> u64 {
        self.outgoing.dropped.load(Ordering::Relaxed)
    }

    fn taken(&self, note: &ChoiceNote) {
        self.outgoing.bytes.fetch_sub(note.bytes(), Ordering::Relaxed);
    }
}

/// What other Modelgates have sent to one server.
///
/// What they tell may be lost, and they may be gone without a word. So nothing here counts for long: how many requests they have under way is
/// what they said last, and what they have sent since. Where the server tells that itself, it is what they have sent since it did.
#[derive(Debug, Default)]
pub(super) struct OthersRequests {
    by_sender: HashMap<u64, SendersRequests>,
    /// When the server has told how many requests are under way.
    server_told: Option<Instant>,
    /// What the others were told last: how many requests were sent there, and how many were under way.
    last_told: (u64, u32),
}

#[derive(Debug)]
struct SendersRequests {
    heard: Instant,
    /// The requests under way of which it has told, and those that it has sent since then, or since the server has told.
    told: u32,
    since: u32,
    /// What its requests need, by their numbers.
    needed: BTreeMap<u64, Needed>,
}

impl SendersRequests {
    fn new() -> Self {
        Self { heard: Instant::now(), told: 0, since: 0, needed: BTreeMap::new() }
    }

    fn has_ended(&mut self, server: &Server, number: u64) {
        let Some(needed) = self.needed.remove(&number) else { return };
        server.belief().ended(needed);
        if self.since > 0 { self.since -= 1 } else { self.told = self.told.saturating_sub(1) }
    }

    fn forget(self, server: &Server) {
        self.needed.into_values().for_each(|needed| server.belief().ended(needed));
    }
}

impl OthersRequests {
    /// A Modelgate has told this of the server, so long ago.
    pub(super) fn told(
        &mut self,
        server: &Server,
        from: u64,
        note: &ChoiceNote,
        (age, now): (Duration, Duration),
    ) {
        if let NoteKind::Sent(sent) = &note.what
            && age > OLD
        {
            let blocks = sent.read().map(|(prompt, _)| prompt.blocks);
            blocks.into_iter().for_each(|blocks| server.belief().ended(server.belief().used(blocks, 0)));
            return;
        }
        if age > SILENT || self.by_sender.len() >= MOST_SENDERS && !self.by_sender.contains_key(&from) {
            return;
        }
        let sender = self.by_sender.entry(from).or_insert_with(SendersRequests::new);
        sender.heard = Instant::now();
        match &note.what {
            NoteKind::Sent(sent) => {
                let Some((prompt, expected)) = sent.read() else { return };
                let needed = server.sent_by_another(&prompt, &expected, now);
                sender.since = sender.since.saturating_add(1);
                let before = sender.needed.insert(sent.number, needed);
                let is_full = sender.needed.len() > MOST_NEEDED;
                let oldest = is_full.then(|| sender.needed.pop_first()).flatten().map(|(_, needed)| needed);
                before.into_iter().chain(oldest).for_each(|needed| server.belief().ended(needed));
            }
            NoteKind::Ended(number) => sender.has_ended(server, *number),
            NoteKind::UnderWay(requests) => (sender.told, sender.since) = (*requests, 0),
            NoteKind::Failed(ago) => {
                let ago = Duration::from_millis(*ago).saturating_add(age);
                server.failed(now.saturating_sub(ago), now);
            }
        }
        self.count(server);
    }

    /// The server has told how many requests are under way, those of others with them.
    pub(super) fn server_told(&mut self, server: &Server) {
        self.server_told = Some(Instant::now());
        self.by_sender.values_mut().for_each(|sender| sender.since = 0);
        self.count(server);
    }

    /// Some time has passed: who says nothing has nothing under way.
    pub(super) fn pass(&mut self, server: &Server) {
        for sender in self.by_sender.values_mut().filter(|sender| sender.heard.elapsed() > SILENT) {
            (sender.told, sender.since) = (0, 0);
        }
        let gone = self.by_sender.extract_if(|_, sender| sender.heard.elapsed() > GONE);
        gone.for_each(|(_, sender)| sender.forget(server));
        self.count(server);
    }

    /// No other Modelgate is left.
    pub(super) fn forget_all(&mut self, server: &Server) {
        self.by_sender.drain().for_each(|(_, sender)| sender.forget(server));
        self.count(server);
    }

    fn count(&self, server: &Server) {
        let tells = self.server_told.is_some_and(|told| told.elapsed() < TELLS);
        let of = |sender: &SendersRequests| {
            if tells { sender.since } else { sender.told.saturating_add(sender.since) }
        };
        server.set_others(self.by_sender.values().map(of).fold(0, u32::saturating_add));
    }

    /// Whether the others are to be told how many requests are under way at the server: if there are any, or if it has changed.
    pub(super) fn is_to_be_told(&mut self, server: &Server, under_way: u32) -> bool {
        let now = (server.sums().requests, under_way);
        under_way > 0 || mem::replace(&mut self.last_told, now) != now
    }
}

impl SentNote {
    /// What it says, within bounds: it comes from elsewhere. `None` if it is of no use.
    fn read(&self) -> Option<(Prompt<'_>, Estimate)> {
        let blocks = &self.blocks[..self.blocks.len().min(MAX_BLOCKS)];
        if !self.block_tokens.is_finite() || self.block_tokens <= 0.0 {
            return None;
        }
        let prompt = Prompt {
            blocks,
            tokens: self.tokens,
            block_tokens: self.block_tokens,
            answer_tokens: self.answer_tokens.min(u32::from(u16::MAX)),
            adapter: self.adapter.map(AdapterId::from_bits),
        };
        let expected = Estimate {
            wait: Duration::ZERO,
            load: Duration::ZERO,
            read: Duration::from_micros(self.read).min(Duration::from_secs(3_600)),
            steps: Duration::ZERO,
            cached_tokens: self.cached_tokens.min(self.tokens),
            under_way: 0,
            has_adapter: None,
        };
        Some((prompt, expected))
    }
}

/// Hashes in base64, eight bytes each, the lowest first.
mod hashes {
    use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hashes: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
        let (hashes, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(D::Error::custom("a hash has eight bytes"));
        }
        Ok(hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn note(what: &Value) -> ChoiceNote {
        serde_json::from_value(json!({ "server": "http://a:1", "what": what })).expect("a note")
    }

    fn sent_note(number: u64, blocks: &[u64]) -> ChoiceNote {
        note(&json!({
            "sent": { "number": number, "tokens": 1_000, "block_tokens": 100.0, "answer_tokens": 10, "cached_tokens": 0, "read": 5_000,
                      "blocks": "", "of a later version": 7 },
        }))
        .of(blocks.to_vec())
    }

    fn ended_note(number: u64) -> ChoiceNote {
        note(&json!({ "ended": number }))
    }

    #[test]
    fn a_note_comes_through_as_it_was() {
        for note in [
            sent_note(7, &[0, 1, u64::MAX, 0x0102_0304_0506_0708]),
            sent_note(u64::MAX, &[]),
            ended_note(7),
            ChoiceNote::under_way("http://a:1", 5),
            ChoiceNote::failed("docker:0123", Duration::from_millis(7)),
        ] {
            let text = serde_json::to_string(&note).expect("JSON");
            assert_eq!(serde_json::from_str::<ChoiceNote>(&text).expect(&text), note);
        }
        for odd in [r#""AAAA""#, r#""*""#, "7"] {
            let text = serde_json::to_string(&sent_note(7, &[])).expect("JSON").replace(r#""""#, odd);
            assert!(serde_json::from_str::<ChoiceNote>(&text).is_err(), "{text}");
        }
    }

    /// What comes from elsewhere is within bounds, whatever it says.
    ///
    /// Regression: an answer that would take more blocks than a cache can have made a sum overflow.
    #[test]
    fn what_others_say_is_bounded() {
        let mut sent = SentNote {
            number: 7,
            tokens: 10,
            block_tokens: f32::NAN,
            answer_tokens: u32::MAX,
            adapter: None,
            cached_tokens: 11,
            read: u64::MAX,
            blocks: vec![1; MAX_BLOCKS + 1],
        };
        for block_tokens in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
            sent.block_tokens = block_tokens;
            assert!(sent.read().is_none(), "{block_tokens}");
        }
        sent.block_tokens = f32::MIN_POSITIVE;
        let (prompt, expected) = sent.read().expect("a prompt");
        assert_eq!((prompt.blocks.len(), prompt.answer_tokens), (MAX_BLOCKS, 65_535));
        assert_eq!((expected.cached_tokens, expected.read), (10, Duration::from_secs(3_600)));
        let (server, mut others) = (Server::new(1_000), OthersRequests::default());
        let worst = ChoiceNote { server: "http://a:1".to_owned(), what: NoteKind::Sent(Box::new(sent)) };
        for from in 0..100 {
            others.told(&server, from, &worst, (Duration::ZERO, Duration::ZERO));
            others.told(
                &server,
                from,
                &note(&json!({ "under_way": u32::MAX })),
                (Duration::ZERO, Duration::ZERO),
            );
            others.told(
                &server,
                from,
                &note(&json!({ "failed": u64::MAX })),
                (Duration::MAX, Duration::ZERO),
            );
        }
        assert_eq!((others.by_sender.len(), server.under_way()), (MOST_SENDERS, u32::MAX));
    }

    /// Regression: a request of another Modelgate counted until its end was told. Where that was lost, or the other one was started again, a
    /// pool with `max_requests` seemed full for ever.
    #[test]
    fn what_others_have_under_way_is_what_they_said_last() {
        let (server, mut others) = (Server::new(1_000), OthersRequests::default());
        let now = Duration::from_secs(10);
        let tell = |others: &mut OthersRequests, from, note: &ChoiceNote, age: u64| {
            others.told(&server, from, note, (Duration::from_secs(age), now));
            server.under_way()
        };
        let blocks = [1 << 40, 2 << 40, 3 << 40];
        assert_eq!(tell(&mut others, 1, &sent_note(0, &blocks), 0), 1);
        assert_eq!(server.belief().cached(&blocks), 3);
        assert_eq!(server.wait(now), Duration::from_millis(5));
        assert_eq!(server.sums().requests, 0, "who has sent it counts it");
        assert_eq!(tell(&mut others, 2, &sent_note(0, &blocks), 0), 2, "another one's first");
        assert_eq!(tell(&mut others, 1, &sent_note(1, &blocks), 1), 3);
        assert_eq!(tell(&mut others, 1, &ended_note(0), 0), 2);
        assert_eq!(tell(&mut others, 1, &ended_note(0), 0), 2, "once");
        assert_eq!(tell(&mut others, 3, &ended_note(1), 0), 2, "nobody's");
        assert_eq!(tell(&mut others, 1, &ChoiceNote::under_way("", 4), 0), 5, "it knows best");
        assert_eq!(tell(&mut others, 1, &ended_note(1), 0), 4);
        let old = [4 << 40, 5 << 40];
        assert_eq!(tell(&mut others, 1, &sent_note(9, &old), 3), 4, "it was read long ago");
        assert_eq!(server.belief().cached(&old), 2);
        assert_eq!(tell(&mut others, 1, &ChoiceNote::under_way("", 9), 6), 4, "that was long ago");
        // The server has told how many requests there are in all.
        others.server_told(&server);
        assert_eq!(server.under_way(), 0);
        assert_eq!(tell(&mut others, 2, &sent_note(1, &blocks), 0), 1);
        assert_eq!(
            tell(&mut others, 1, &ChoiceNote::under_way("", 9), 0),
            1,
            "they are among those that the server has told of"
        );
        others.server_told = None;
        others.pass(&server);
        assert_eq!(server.under_way(), 10, "it tells nothing any more");
        let earlier = |others: &mut OthersRequests, ago: Duration| {
            others
                .by_sender
                .values_mut()
                .for_each(|sender| sender.heard = Instant::now().checked_sub(ago).expect("long ago"));
        };
        earlier(&mut others, SILENT);
        others.pass(&server);
        assert_eq!((server.under_way(), others.by_sender.len()), (0, 3), "who says nothing has none");
        assert_eq!(tell(&mut others, 1, &ChoiceNote::under_way("", 2), 0), 2);
        earlier(&mut others, GONE);
        others.pass(&server);
        assert_eq!((server.under_way(), others.by_sender.len()), (0, 0));
        assert_eq!(tell(&mut others, 1, &sent_note(0, &blocks), 0), 1);
        others.forget_all(&server);
        assert_eq!((server.under_way(), others.by_sender.len()), (0, 0));
        assert!(!server.is_avoided(now));
        tell(&mut others, 1, &ChoiceNote::failed("", Duration::from_secs(1)), 0);
        assert!(server.is_avoided(now));
    }

    #[test]
    fn others_are_told_what_is_under_way_while_it_is_or_when_it_has_changed() {
        let (server, mut others) = (Server::new(1_000), OthersRequests::default());
        let is_told = [0, 1, 1, 0, 0].map(|under_way| others.is_to_be_told(&server, under_way));
        assert_eq!(is_told, [false, true, true, false, false], "nothing was sent");
        let prompt = Prompt { blocks: &[], tokens: 1, block_tokens: 100.0, answer_tokens: 0, adapter: None };
        let expected = server_choice::estimate(&server, &prompt, Duration::ZERO, None);
        server.sent(&prompt, &expected, Duration::ZERO);
        let is_told = [0, 0].map(|under_way| others.is_to_be_told(&server, under_way));
        assert_eq!(is_told, [true, false], "it has come and gone");
    }

    /// Ends that are never told do not fill the memory.
    #[test]
    fn what_the_oldest_need_is_given_up() {
        let (server, mut others) = (Server::new(1_000), OthersRequests::default());
        let most = u64::try_from(MOST_NEEDED).expect("a number");
        for number in 0..most + 5 {
            others.told(&server, 1, &sent_note(number, &[]), (Duration::ZERO, Duration::from_secs(1)));
        }
        let kept = &others.by_sender[&1].needed;
        assert_eq!((kept.len(), kept.first_key_value().map(|(number, _)| *number)), (MOST_NEEDED, Some(5)));
    }

    #[test]
    fn what_waits_to_be_told_is_bounded() {
        let outgoing = Arc::new(Outgoing::default());
        let secret = Arc::new(AtomicU64::new(7));
        assert!(!outgoing.tell(sent_note(1, &[])), "nobody takes it");
        let mut sharing = ChoiceSharing::begin(&outgoing, &secret).expect("the first");
        assert!(ChoiceSharing::begin(&outgoing, &secret).is_none());
        sharing.set_secret(8);
        assert_eq!((secret.load(Ordering::Relaxed), sharing.secret(), outgoing.is_heard()), (8, 8, false));
        sharing.set_heard(true);
        assert!(outgoing.is_heard());
        let long = sent_note(1, &[7; MAX_BLOCKS]);
        let told = (0..MOST_NOTES).filter(|_| outgoing.tell(long.clone())).count();
        assert_eq!(told, MAX_BYTES / (8 * MAX_BLOCKS));
        assert_eq!(sharing.dropped(), 1 + u64::try_from(MOST_NOTES - told).expect("a number"));
        assert!(outgoing.tell(ended_note(1)), "it has no hashes");
        assert_eq!(sharing.next_now(), Some(long.clone()));
        assert!(outgoing.tell(long), "there is room again");
        let more = (0..2 * MOST_NOTES).filter(|_| outgoing.tell(ended_note(1))).count();
        assert_eq!(more, MOST_NOTES - told - 1);
        assert_eq!(std::iter::from_fn(|| sharing.next_now()).count(), MOST_NOTES);
        assert_eq!(outgoing.bytes.load(Ordering::Relaxed), 0);
    }
}
