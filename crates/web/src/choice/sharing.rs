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
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use catalogue::ServerId;
use serde::{Deserialize, Serialize};
use server_choice::{AdapterId, Estimate, MAX_BLOCKS, Prompt, SentRequest, Server};
use tokio::sync::mpsc;

/// Notes that may wait to be told, …
const MOST_NOTES: usize = 4_096;
/// … and the bytes of the hashes in them.
const MAX_BYTES: usize = 8 << 20;
/// Of how many requests of another Modelgate that are under way at a server the end is waited for. It is as many as a server is
/// believed to hold something for.
const MOST_UNDER_WAY: usize = 1_024;
/// Of what is older, only what the server has read counts: it has been read by now, and the server has told how many are under way.
const OLD: Duration = Duration::from_secs(2);
/// A Modelgate that has told nothing for so long is taken to be gone.
const SILENT: Duration = Duration::from_secs(300);

/// What one Modelgate tells the others of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceNote {
    /// The id of its server.
    server: String,
    /// Its number among those that this Modelgate has sent there.
    number: u64,
    what: NoteKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoteKind {
    Sent(Box<SentNote>),
    /// After it was worked on for so many milliseconds at least, as far as that is known.
    Ended(u64),
    /// Nobody tells when it ends.
    GivenUp,
}

/// What was expected of the server that was chosen. Tokens; µs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SentNote {
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
    pub(super) fn sent(
        server: &ServerId,
        sent: SentRequest,
        prompt: &Prompt<'_>,
        expected: &Estimate,
    ) -> Self {
        let note = SentNote {
            tokens: prompt.tokens,
            block_tokens: prompt.block_tokens,
            answer_tokens: prompt.answer_tokens,
            adapter: prompt.adapter.map(AdapterId::to_bits),
            cached_tokens: expected.cached_tokens,
            read: u64::try_from(expected.read.as_micros()).unwrap_or(u64::MAX),
            blocks: Vec::new(),
        };
        Self {
            server: server.as_str().to_owned(),
            number: sent.number(),
            what: NoteKind::Sent(Box::new(note)),
        }
    }

    /// With the blocks of its prompt.
    pub(super) fn of(mut self, blocks: Vec<u64>) -> Self {
        if let NoteKind::Sent(note) = &mut self.what {
            note.blocks = blocks;
        }
        self
    }

    /// It has ended; `worked` says for how long it was worked on at least, if that is known, and `None` that nobody tells when it ends.
    pub(super) fn ended(server: &ServerId, sent: SentRequest, worked: Option<Duration>) -> Self {
        let millis = |worked: Duration| u64::try_from(worked.as_millis()).unwrap_or(u64::MAX);
        let what = worked.map_or(NoteKind::GivenUp, |worked| NoteKind::Ended(millis(worked)));
        Self { server: server.as_str().to_owned(), number: sent.number(), what }
    }

    /// The id of the server in the catalogue.
    pub(super) fn server(&self) -> ServerId {
        ServerId::from_text(&self.server)
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

/// The requests of other Modelgates that are under way at one server.
#[derive(Debug, Default)]
pub(super) struct OthersRequests {
    by_sender: HashMap<u64, SendersRequests>,
}

#[derive(Debug)]
struct SendersRequests {
    /// By their numbers there.
    under_way: BTreeMap<u64, SentRequest>,
    heard: Instant,
}

impl OthersRequests {
    /// A Modelgate has told this of a request at the server, so long ago.
    pub(super) fn told(
        &mut self,
        server: &Server,
        from: u64,
        note: &ChoiceNote,
        (age, now): (Duration, Duration),
    ) {
        let of = || SendersRequests { under_way: BTreeMap::new(), heard: Instant::now() };
        let sender = self.by_sender.entry(from).or_insert_with(of);
        sender.heard = Instant::now();
        match &note.what {
            NoteKind::Sent(sent) => {
                let Some((prompt, expected)) = sent.read() else { return };
                if age > OLD {
                    let belief = server.belief();
                    belief.ended(belief.used(prompt.blocks, 0));
                    return;
                }
                let sent = server.sent_by_another(&prompt, &expected, now);
                let before = sender.under_way.insert(note.number, sent);
                let is_full = sender.under_way.len() > MOST_UNDER_WAY;
                let oldest = is_full.then(|| sender.under_way.pop_first()).flatten().map(|(_, sent)| sent);
                before.into_iter().chain(oldest).for_each(|sent| server.given_up(sent));
            }
            NoteKind::Ended(millis) => {
                let sent = sender.under_way.remove(&note.number);
                sent.into_iter().for_each(|sent| server.finished(sent, Duration::from_millis(*millis)));
            }
            NoteKind::GivenUp => {
                sender.under_way.remove(&note.number).into_iter().for_each(|sent| server.given_up(sent));
            }
        }
    }

    /// Nobody tells any more when the requests of those end that were silent for long; or of all, if no other Modelgate is left.
    pub(super) fn forget(&mut self, server: &Server, all: bool) {
        let is_gone = |_: &u64, sender: &mut SendersRequests| all || sender.heard.elapsed() > SILENT;
        for (_, sender) in self.by_sender.extract_if(is_gone) {
            sender.under_way.into_values().for_each(|sent| server.given_up(sent));
        }
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
    use super::*;

    fn sent_note(number: u64, blocks: &[u64]) -> ChoiceNote {
        let text = serde_json::json!({
            "server": "file:a", "number": number,
            "what": { "sent": { "tokens": 1_000, "block_tokens": 100.0, "answer_tokens": 10, "cached_tokens": 0, "read": 5_000,
                                 "blocks": "", "of a later version": 7 } },
        });
        serde_json::from_value::<ChoiceNote>(text).expect("a note").of(blocks.to_vec())
    }

    fn ended_note(number: u64, what: &serde_json::Value) -> ChoiceNote {
        serde_json::from_value(serde_json::json!({ "server": "file:a", "number": number, "what": what }))
            .expect("a note")
    }

    #[test]
    fn a_note_comes_through_as_it_was() {
        for note in [
            sent_note(7, &[0, 1, u64::MAX, 0x0102_0304_0506_0708]),
            sent_note(u64::MAX, &[]),
            ended_note(7, &serde_json::json!({ "ended": 1_500 })),
            ended_note(7, &serde_json::json!("given_up")),
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
    #[test]
    fn what_others_say_is_bounded() {
        let mut note = SentNote {
            tokens: 10,
            block_tokens: f32::NAN,
            answer_tokens: u32::MAX,
            adapter: None,
            cached_tokens: 11,
            read: u64::MAX,
            blocks: vec![1; MAX_BLOCKS + 1],
        };
        for block_tokens in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
            note.block_tokens = block_tokens;
            assert!(note.read().is_none(), "{block_tokens}");
        }
        note.block_tokens = 100.0;
        let (prompt, expected) = note.read().expect("a prompt");
        assert_eq!((prompt.blocks.len(), prompt.answer_tokens), (MAX_BLOCKS, 65_535));
        assert_eq!((expected.cached_tokens, expected.read), (10, Duration::from_secs(3_600)));
    }

    #[test]
    fn requests_of_others_count_until_they_end() {
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
        assert_eq!(tell(&mut others, 1, &ended_note(0, &serde_json::json!({ "ended": 0 })), 0), 2);
        assert_eq!(tell(&mut others, 1, &ended_note(0, &serde_json::json!({ "ended": 0 })), 0), 2, "once");
        assert_eq!(tell(&mut others, 3, &ended_note(1, &serde_json::json!("given_up")), 0), 2, "nobody's");
        assert_eq!(tell(&mut others, 1, &ended_note(1, &serde_json::json!("given_up")), 0), 1);
        // It was started again, and counts anew.
        assert_eq!(tell(&mut others, 2, &sent_note(0, &blocks), 0), 1, "instead of the one before");
        let old = [4 << 40, 5 << 40];
        assert_eq!(tell(&mut others, 1, &sent_note(9, &old), 3), 1, "it was read long ago");
        assert_eq!(server.belief().cached(&old), 2);
        others.forget(&server, false);
        assert_eq!(server.under_way(), 1, "it was heard of a moment ago");
        others.forget(&server, true);
        assert_eq!(server.under_way(), 0);
    }

    /// Ends that are never told do not fill the memory.
    #[test]
    fn the_oldest_are_given_up() {
        let (server, mut others) = (Server::new(1_000), OthersRequests::default());
        let most = u64::try_from(MOST_UNDER_WAY).expect("a number");
        for number in 0..most + 5 {
            others.told(&server, 1, &sent_note(number, &[]), (Duration::ZERO, Duration::from_secs(1)));
        }
        assert_eq!(u64::from(server.under_way()), most);
        let kept = &others.by_sender[&1].under_way;
        assert_eq!(
            (kept.len(), kept.first_key_value().map(|(number, _)| *number)),
            (MOST_UNDER_WAY, Some(5))
        );
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
        assert!(outgoing.tell(ended_note(1, &serde_json::json!("given_up"))), "it has no hashes");
        assert_eq!(sharing.next_now(), Some(long.clone()));
        assert!(outgoing.tell(long), "there is room again");
        let short = ended_note(1, &serde_json::json!("given_up"));
        let more = (0..2 * MOST_NOTES).filter(|_| outgoing.tell(short.clone())).count();
        assert_eq!(more, MOST_NOTES - told - 1);
        assert_eq!(std::iter::from_fn(|| sharing.next_now()).count(), MOST_NOTES);
        assert_eq!(outgoing.bytes.load(Ordering::Relaxed), 0);
    }
}
