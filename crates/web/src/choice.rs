//! Which server gets a request, for pools whose servers Modelgate chooses (`server_choice`).
//!
//! `/auth` reads a snapshot of the servers and what is known of each; it takes no lock, and writes to atomics of the chosen server
//! alone. [`ChoiceKeeper`] has one owner: it follows the catalogue, and hears what the servers count.

mod sharing;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use access::{Grant, Pending, PromptParts, estimate::Sum};
use arc_swap::ArcSwap;
use catalogue::{
    Catalogue, Pick, PickBy, RouteId, ServerId, ServerRecord, ServerRoute, ServerUrl, Source, Strategy,
};
use server_choice::{
    AdapterId, BLOCK_BYTES, Choice, Counters, DEFAULT_BLOCKS, Estimate, Prompt, PromptHasher, SentRequest,
    SentSums, Server, ToldAdapters, Watch, choose,
};
use telemetry::ChosenServer;
use traefik_config::{TraefikVersion, has_server_routes};

pub use sharing::{ChoiceNote, ChoiceSharing};
use sharing::{OthersRequests, Outgoing};

use crate::waiting::{PoolLine, WaitersTurn, WaitingRequests};

/// The tokens of a block, as servers' figures are compared with it.
const BLOCK_TOKENS: f32 = 128.0;
/// What an answer of which only the most is known takes in a server's cache, at most, in tokens.
const USUAL_ANSWER: u64 = 512;
/// After this time without a word about a server, half of what is believed to be under way there is taken to have ended.
const UNHEARD: Duration = Duration::from_secs(10);

/// The servers that can be chosen, and what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct ServerChoices {
    known: Arc<ArcSwap<HashMap<RouteId, Candidates>>>,
    waiting: Arc<WaitingRequests>,
    /// Whether it is told when requests end.
    are_ends_told: Arc<AtomicBool>,
    /// With which prompts are hashed. Modelgates that tell each other what they do have the same.
    secret: Arc<AtomicU64>,
    outgoing: Arc<Outgoing>,
    start: Instant,
    /// Nothing is counted, and the next best is looked for.
    is_rehearsal: bool,
}

/// The servers of a group of the catalogue.
#[derive(Debug)]
struct Candidates {
    /// The group's own, by which it is known whether the catalogue has changed since.
    pick: Arc<Pick>,
    /// In the same order.
    servers: Vec<(Arc<str>, Arc<Server>)>,
    line: Arc<PoolLine>,
    /// If the pool's model is an adapter.
    adapter: Option<AdapterId>,
}

impl Candidates {
    /// The places of those that are not avoided because they fail; of all, if all are.
    fn usable(&self, now: Duration) -> impl Iterator<Item = usize> {
        let are_all_avoided = self.servers.iter().all(|(_, server)| server.is_avoided(now));
        let is_usable = move |place: &usize| are_all_avoided || !self.servers[*place].1.is_avoided(now);
        (0..self.servers.len()).filter(is_usable)
    }
}

/// The pool for which a request has to wait.
#[derive(Debug)]
pub(crate) struct FullPool {
    pub(crate) route: RouteId,
    pub(crate) line: Arc<PoolLine>,
    pub(crate) longest: Duration,
}

/// A request whose server is to be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PickQuestion<'r> {
    /// Its body, as far as it was read.
    pub(crate) body: Option<&'r [u8]>,
    pub(crate) sum: Sum,
    /// Any number, to choose among equals.
    pub(crate) turn: u128,
}

/// The server that was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Its route.
    pub(crate) route: RouteId,
    /// Why.
    pub(crate) why: Arc<ChosenServer>,
    /// To be kept until the request has ended.
    pub(crate) under_way: UnderWay,
}

/// A request at a server, until [`end`](Self::end) is called or this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// The server, unless it was only tried, and nothing was sent there.
    server: Option<Arc<Server>>,
    /// Until it has ended.
    sent: Option<SentRequest>,
    /// The server in the catalogue.
    record: Arc<ServerRecord>,
    /// Those that may wait for its end.
    line: Option<Arc<PoolLine>>,
    /// The moment from which the server's times are counted, and when it was sent, by them.
    start: Instant,
    sent_at: Duration,
    /// Where other Modelgates are told of it, if there are any.
    others: Option<Arc<Outgoing>>,
}

impl Drop for UnderWay {
    /// Nobody has told when it has ended, unless [`end`](Self::end) was called.
    fn drop(&mut self) {
        self.leave(None);
    }
}

impl UnderWay {
    /// The request has ended, and its place is free. What it has used may be told later, and by whom it was answered. `worked` says
    /// which server, by its URL, has worked on it at once and for how long at least, if anybody has told.
    pub(crate) fn end(&mut self, worked: Option<(&str, Duration)>) {
        let here = worked.filter(|(url, _)| self.is_at(url));
        self.leave(Some(here.map_or(Duration::ZERO, |(_, lasted)| lasted)));
    }

    /// `None`: nobody tells when it ends.
    fn leave(&mut self, worked: Option<Duration>) {
        if let Some((server, sent)) = self.server.as_ref().zip(self.sent.take()) {
            match worked {
                Some(worked) => server.finished(sent, worked),
                None => server.given_up(sent),
            }
            self.tell(|server| ChoiceNote::ended(server, sent));
            self.line.iter().for_each(|line| line.poke());
        }
    }

    fn tell(&self, note: impl FnOnce(&str) -> ChoiceNote) {
        if let Some(others) = &self.others {
            others.tell(note(known_as(&self.record)));
        }
    }

    /// Whether this is the server's URL, as the catalogue has it, or Traefik, with the server's base path.
    fn is_at(&self, url: &str) -> bool {
        let spec = &self.record.spec;
        let rest = url.trim_end_matches('/').strip_prefix(spec.url.as_str().trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest == spec.base_path.as_str())
    }

    /// The server with this id has answered it, with this status if that was told.
    pub(crate) fn answered_by(&self, id: &str, status: Option<u16>) {
        let (Some(server), now) = (&self.server, self.start.elapsed()) else { return };
        let is_elsewhere = self.record.spec.id.as_str() != id;
        if is_elsewhere {
            server.answered_elsewhere();
        }
        if is_elsewhere || matches!(status, Some(502..=504)) {
            if server.failed(self.sent_at, now) {
                self.tell(|server| ChoiceNote::failed(server, now.saturating_sub(self.sent_at)));
            }
        } else {
            server.answered(self.sent_at);
        }
    }

    /// Nobody will tell when it has ended; the server's own figures are all that is known of it.
    pub(crate) fn end_unheard(mut self) {
        if let Some(sent) = self.sent.take() {
            self.tell(|server| ChoiceNote::ended(server, sent));
        }
    }
}

impl Default for ServerChoices {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            waiting: Arc::default(),
            are_ends_told: Arc::default(),
            secret: Arc::new(AtomicU64::new(rand::random())),
            outgoing: Arc::default(),
            start: Instant::now(),
            is_rehearsal: false,
        }
    }
}

impl ServerChoices {
    /// The same servers, for trying what would be chosen.
    pub(crate) fn rehearsal(&self) -> Self {
        Self { is_rehearsal: true, ..self.clone() }
    }

    /// What was sent to each server that can be chosen, by the server's id.
    pub(crate) fn sums(&self) -> BTreeMap<String, SentSums> {
        let known = self.known.load();
        let routes = |candidates: &Candidates| {
            let ids = candidates.pick.routes.iter().map(|route| route.server.spec.id.as_str().to_owned());
            ids.zip(candidates.servers.iter().map(|(_, server)| server.sums())).collect::<Vec<_>>()
        };
        known.values().flat_map(routes).collect()
    }

    /// The requests that wait.
    pub(crate) fn waiting(&self) -> &Arc<WaitingRequests> {
        &self.waiting
    }

    /// The turn of a request to be sent to a server, if its pool has room for it: until it is sent, nobody else takes that room. `None` if
    /// its pool knows no waiting.
    ///
    /// # Errors
    /// The pool for which it has to wait first: all of its servers are full, or others wait for it already.
    pub(crate) fn enter(&self, pending: &Pending) -> Result<Option<WaitersTurn>, FullPool> {
        let pick = pending.pick().filter(|(_, pick)| !pick.wait.is_zero() && !self.is_rehearsal);
        let Some((route, pick)) = pick else { return Ok(None) };
        let known = self.known.load();
        let candidates = known.get(route).filter(|candidates| Arc::ptr_eq(&candidates.pick, pick));
        let Some(candidates) = candidates else { return Ok(None) };
        let line = &candidates.line;
        if line.waiting() == 0 {
            let (turn, others) = line.enter();
            if self.room(candidates, Server::room).is_none_or(|room| room > others) {
                return Ok(Some(turn));
            }
        }
        Err(FullPool { route: route.clone(), line: Arc::clone(line), longest: pick.wait })
    }

    /// How many more requests a pool's servers can take; `None` if nobody knows.
    fn room(&self, candidates: &Candidates, of: fn(&Server, Duration, bool) -> Option<u32>) -> Option<usize> {
        let (now, are_ends_told) = (self.start.elapsed(), self.are_ends_told.load(Ordering::Relaxed));
        let usable = candidates.usable(now).map(|place| &candidates.servers[place]);
        usable.into_iter().try_fold(0_usize, |sum, (_, server)| {
            let room = usize::try_from(of(server, now, are_ends_told)?);
            Some(sum.saturating_add(room.unwrap_or(usize::MAX)))
        })
    }

    /// Lets as many requests go on as the servers have room for, and all whose pool is no longer chosen for.
    fn release(&self) {
        if self.waiting.count() == 0 {
            return;
        }
        let known = self.known.load();
        for pool in self.waiting.pools() {
            let room = match known.get(&pool).filter(|candidates| !candidates.pick.wait.is_zero()) {
                None => usize::MAX,
                Some(candidates) => self
                    .room(candidates, Server::room_for_waiting)
                    .map_or(usize::MAX, |room| room.saturating_sub(candidates.line.entering())),
            };
            self.waiting.release(&pool, room);
        }
    }

    /// Whether requests may wait for some server.
    fn may_be_waited_for(&self) -> bool {
        self.known.load().values().any(|candidates| !candidates.pick.wait.is_zero())
    }

    /// Whether requests wait for a server.
    fn is_waited_for(&self, url: &ServerUrl) -> bool {
        let is_of = |candidates: &Candidates| {
            candidates.line.waiting() > 0
                && candidates.pick.routes.iter().any(|route| route.server.spec.url == *url)
        };
        self.waiting.count() > 0 && self.known.load().values().any(is_of)
    }

    /// The server for a request that may pass; `None` if Traefik is to choose. Only ever one of the group's servers in the
    /// catalogue by which the request was judged.
    pub(crate) fn choose(&self, grant: &Grant, question: PickQuestion<'_>) -> Option<Chosen> {
        let (pick, route) = (grant.pick.as_ref()?, grant.route.as_ref()?);
        let body = question.body.filter(|body| !body.is_empty())?;
        let known = self.known.load();
        // For an instant after a change of the catalogue they may differ.
        let candidates = known.get(route).filter(|candidates| Arc::ptr_eq(&candidates.pick, pick))?;
        let (blocks, bytes) = match pick.by {
            PickBy::Cache => self.hashes(pick, &grant.consumer.name, body),
            PickBy::Load => (Vec::new(), 0),
        };
        let tokens = u32::try_from(question.sum.prompt.max(1)).unwrap_or(u32::MAX);
        let prompt = Prompt {
            blocks: &blocks,
            tokens,
            block_tokens: block_tokens(tokens, bytes),
            answer_tokens: u32::try_from(question.sum.answer.min(USUAL_ANSWER)).unwrap_or(0),
            adapter: candidates.adapter,
        };
        let (mut chosen, expected) = self.best(pick, candidates, &prompt, question.turn);
        if let (true, Some(sent), Some(expected)) =
            (self.outgoing.is_heard(), chosen.under_way.sent, expected)
        {
            let note = ChoiceNote::sent(known_as(&chosen.under_way.record), sent, &prompt, &expected);
            self.outgoing.tell(note.of(blocks));
            chosen.under_way.others = Some(Arc::clone(&self.outgoing));
        }
        Some(chosen)
    }

    fn best(
        &self,
        pick: &Pick,
        candidates: &Candidates,
        prompt: &Prompt<'_>,
        turn: u128,
    ) -> (Chosen, Option<Estimate>) {
        let now = self.start.elapsed();
        let turn = usize::try_from(turn % 1_000_003).unwrap_or(0);
        let found = self.soonest(pick, candidates, prompt, (now, turn));
        // A pool that is chosen for has servers.
        let place = found.map_or(0, |found| found.place);
        let (name, server) = &candidates.servers[place];
        let sent =
            found.filter(|_| !self.is_rehearsal).map(|found| server.sent(prompt, &found.estimate, now));
        let next = || {
            let others: Vec<_> =
                candidates.servers.iter().enumerate().filter(|(other, _)| *other != place).collect();
            let next = choose(others.iter().map(|(_, (_, server))| &**server), prompt, now, turn)?;
            let (_, (name, _)) = others.get(next.place)?;
            Some((Arc::clone(name), next.estimate.total()))
        };
        let is_full = || {
            !pick.wait.is_zero()
                && (candidates.line.waiting() > 0 || self.room(candidates, Server::room) == Some(0))
        };
        let why = ChosenServer {
            name: Arc::clone(name),
            among: candidates.servers.len(),
            prompt_tokens: prompt.tokens,
            cached_tokens: found
                .filter(|_| pick.by == PickBy::Cache)
                .map(|found| found.estimate.cached_tokens),
            has_adapter: found.and_then(|found| found.estimate.has_adapter),
            under_way: found.map_or(0, |found| found.estimate.under_way),
            first_token: found.map_or(Duration::ZERO, |found| found.estimate.total()),
            would_wait: (self.is_rehearsal && is_full()).then_some(pick.wait),
            next: self.is_rehearsal.then(next).flatten(),
        };
        let chosen = Chosen {
            route: pick.routes[place].id.clone(),
            why: Arc::new(why),
            under_way: UnderWay {
                server: (!self.is_rehearsal).then(|| Arc::clone(server)),
                sent,
                record: Arc::clone(&pick.routes[place].server),
                line: (!pick.wait.is_zero()).then(|| Arc::clone(&candidates.line)),
                start: self.start,
                sent_at: now,
                others: None,
            },
        };
        (chosen, found.map(|found| found.estimate))
    }

    /// The server from which the first token is expected soonest. Where requests may wait, none that is full is chosen while another
    /// one is not.
    fn soonest(
        &self,
        pick: &Pick,
        candidates: &Candidates,
        prompt: &Prompt<'_>,
        (now, turn): (Duration, usize),
    ) -> Option<Choice> {
        let servers = &candidates.servers;
        if !pick.wait.is_zero() {
            let are_ends_told = self.are_ends_told.load(Ordering::Relaxed);
            let has_room = |place: &usize| servers[*place].1.room(now, are_ends_told) != Some(0);
            let places: Vec<usize> = candidates.usable(now).filter(has_room).collect();
            if (1..servers.len()).contains(&places.len()) {
                let found = choose(places.iter().map(|place| &*servers[*place].1), prompt, now, turn)?;
                return Some(Choice { place: places[found.place], ..found });
            }
        }
        choose(servers.iter().map(|(_, server)| &**server), prompt, now, turn)
    }

    /// The blocks of a prompt, and its length in bytes.
    fn hashes(&self, pick: &Pick, consumer: &str, body: &[u8]) -> (Vec<u64>, usize) {
        // A consumer's name has no line break, so no consumer and adapter can be taken for another one.
        let of = pick.per_consumer.then_some(consumer);
        let mut hasher = PromptHasher::new(self.secret.load(Ordering::Relaxed), pick.model.as_str(), of);
        PromptParts::of(body).iter().for_each(|part| hasher.add(part));
        hasher.finish()
    }
}

/// By what other Modelgates know a server: one from a file by its URL, since each has a file of its own.
fn known_as(record: &ServerRecord) -> &str {
    match record.spec.source {
        Source::File => record.spec.url.as_str(),
        _ => record.spec.id.as_str(),
    }
}

/// The adapter for which a pool's requests are, if a server says that the pool's model is one.
fn adapter(pick: &Pick) -> Option<AdapterId> {
    let cards = pick.routes.iter().flat_map(|route| &route.server.models);
    let is_adapter = cards.into_iter().any(|card| card.name == pick.model && card.parent.is_some());
    is_adapter.then(|| AdapterId::of(pick.model.as_str()))
}

/// The tokens of a block of this prompt: images have fewer for their bytes than text.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "an estimate")]
fn block_tokens(tokens: u32, bytes: usize) -> f32 {
    match bytes {
        0 => BLOCK_TOKENS,
        _ => (tokens as f32 * BLOCK_BYTES as f32 / bytes as f32).max(f32::MIN_POSITIVE),
    }
}

/// Follows the catalogue, and hears what servers count.
#[derive(Debug)]
pub struct ChoiceKeeper {
    choices: ServerChoices,
    servers: HashMap<ServerId, KnownServer>,
}

/// A server that can be chosen. One that was started again is another one: its cache is empty.
#[derive(Debug)]
struct KnownServer {
    url: ServerUrl,
    incarnation: String,
    name: Arc<str>,
    server: Arc<Server>,
    watch: Watch,
    heard: Instant,
    known_as: Arc<str>,
    others: OthersRequests,
}

impl KnownServer {
    fn new(record: &ServerRecord) -> Self {
        Self {
            url: record.spec.url.clone(),
            incarnation: record.spec.incarnation.clone(),
            name: record.spec.name.as_str().into(),
            server: Arc::new(Server::new(DEFAULT_BLOCKS)),
            watch: Watch::new(BLOCK_TOKENS),
            heard: Instant::now(),
            known_as: known_as(record).into(),
            others: OthersRequests::default(),
        }
    }

    fn is(&self, record: &ServerRecord) -> bool {
        self.url == record.spec.url && self.incarnation == record.spec.incarnation
    }
}

impl ChoiceKeeper {
    pub(crate) fn new(choices: ServerChoices) -> Self {
        Self { choices, servers: HashMap::new() }
    }

    /// The servers of a catalogue can be chosen from now on, if a document for this version has a route for each.
    pub fn follow(&mut self, catalogue: &Catalogue, version: TraefikVersion) {
        let groups = || catalogue.pools().flat_map(|pool| pool.groups.iter().map(move |group| (pool, group)));
        let mut known = HashMap::new();
        let mut kept = HashMap::new();
        let before = self.choices.known.load_full();
        for (_, group) in groups().filter(|(pool, group)| has_server_routes(pool, group, version)) {
            let Some(pick) = &group.pick else { continue };
            let servers = pick.routes.iter().map(|route| self.server(route, &mut kept)).collect();
            let line = before.get(&group.route).map(|before| Arc::clone(&before.line));
            let line = line.unwrap_or_else(|| Arc::new(PoolLine::of(&self.choices.waiting)));
            let adapter = adapter(pick);
            known.insert(group.route.clone(), Candidates { pick: Arc::clone(pick), servers, line, adapter });
        }
        // One that is alone for now: what it has read counts again when there is another one.
        let alone = groups().filter(|(pool, group)| {
            group.pick.is_none() && pool.settings.strategy.is_some_and(Strategy::is_modelgates)
        });
        for record in alone.flat_map(|(_, group)| &group.ready) {
            let still = self.servers.remove(&record.spec.id).filter(|known| known.is(record));
            kept.extend(still.map(|known| (record.spec.id.clone(), known)));
        }
        self.servers = kept;
        self.choices.known.store(Arc::new(known));
    }

    fn server(
        &mut self,
        route: &ServerRoute,
        kept: &mut HashMap<ServerId, KnownServer>,
    ) -> (Arc<str>, Arc<Server>) {
        let record = &route.server;
        let server = kept.entry(record.spec.id.clone()).or_insert_with(|| {
            let known = self.servers.remove(&record.spec.id).filter(|known| known.is(record));
            known.unwrap_or_else(|| KnownServer::new(record))
        });
        server.server.set_most(record.spec.settings.pick_most);
        (Arc::clone(&server.name), Arc::clone(&server.server))
    }

    /// A server has told its figures, for which it was asked at `asked`, and perhaps which adapters its requests are using.
    pub fn heard(
        &mut self,
        url: &ServerUrl,
        (counters, adapters): (&Counters, Option<&ToldAdapters>),
        asked: Instant,
    ) {
        let start = self.choices.start;
        let (asked, now) = (asked.saturating_duration_since(start), start.elapsed());
        for known in self.servers.values_mut().filter(|known| known.url == *url) {
            known.watch.heard(&known.server, counters, asked, now);
            adapters.into_iter().for_each(|adapters| known.server.told_adapters(adapters, now));
            known.heard = Instant::now();
            if counters.running.is_some() {
                known.others.server_told(&known.server);
            }
        }
    }

    /// What is to be told to other Modelgates; `None` if it was asked for before.
    pub fn sharing(&self) -> Option<ChoiceSharing> {
        ChoiceSharing::begin(&self.choices.outgoing, &self.choices.secret)
    }

    /// Another Modelgate, whose number is `from`, has told this so long ago.
    pub fn told(&mut self, from: u64, note: &ChoiceNote, age: Duration) {
        let now = self.choices.start.elapsed();
        let known = self.servers.values_mut().filter(|known| *known.known_as == *note.server());
        known.for_each(|known| known.others.told(&known.server, from, note, (age, now)));
    }

    /// No other Modelgate is left.
    pub fn is_alone(&mut self) {
        self.servers.values_mut().for_each(|known| known.others.forget_all(&known.server));
    }

    /// Returns when a server may have room for a request that waits.
    pub async fn freed(&self) {
        self.choices.waiting.freed().await;
    }

    /// Lets as many of the requests that wait go on as there is room for; `are_ends_told` says whether it is told when requests end.
    /// To be called after each change, and whenever [`Self::freed`] returns.
    pub fn release(&self, are_ends_told: bool) {
        self.choices.are_ends_told.store(are_ends_told, Ordering::Relaxed);
        self.choices.release();
    }

    /// Whether requests wait for this server, or for `None` may wait for any: then what it says counts soon.
    pub fn is_waited_for(&self) -> impl Fn(Option<&ServerUrl>) -> bool + use<> {
        let choices = self.choices.clone();
        move |server| match server {
            Some(url) => choices.is_waited_for(url),
            None => choices.may_be_waited_for(),
        }
    }

    /// Some time has passed; `are_ends_told` says whether it is told when requests end. To be called every second or so.
    pub fn pass(&mut self, are_ends_told: bool) {
        let now = self.choices.start.elapsed();
        for known in self.servers.values_mut() {
            known.others.pass(&known.server);
            if are_ends_told {
                known.server.correct_wait(now);
            }
            let under_way = if are_ends_told { known.server.own_under_way(now) } else { 0 };
            if self.choices.outgoing.is_heard() && known.others.is_to_be_told(&known.server, under_way) {
                self.choices.outgoing.tell(ChoiceNote::under_way(&known.known_as, under_way));
            }
        }
        for known in self.servers.values_mut().filter(|known| known.heard.elapsed() > UNHEARD) {
            known.watch.unheard(&known.server, are_ends_told);
            known.heard = Instant::now();
        }
    }

    /// The requests that are believed to be under way at all servers together.
    #[cfg(test)]
    fn under_way(&self) -> u32 {
        self.servers.values().map(|known| known.server.under_way()).sum()
    }
}

#[cfg(test)]
mod tests {
    use access::{Consumer, Key, KeyDigest};
    use axum::http::{HeaderMap, header};

    use super::*;
    use crate::testing::{self, catalogue_of, set_up};

    fn server(name: &str, given: &[(&str, &str)]) -> ServerRecord {
        set_up(testing::server(name, &["llama"]), given)
    }

    fn catalogue(given: &[(&str, &str)]) -> Catalogue {
        catalogue_of(["a", "b", "c"].map(|name| server(name, given)))
    }

    /// A request that may pass.
    fn grant(catalogue: &Catalogue, consumer: &str) -> Grant {
        let group = &catalogue.pool("llama").expect("a pool").groups[0];
        Grant {
            route: Some(group.route.clone()),
            model: None,
            canonical: None,
            consumer: Arc::new(Consumer::new(consumer)),
            key: Arc::new(Key::new("key", Arc::new(Consumer::new(consumer)), KeyDigest::of("mg-key"))),
            sum: None,
            answers: access::estimate::Answers::default(),
            is_open: false,
            may_export_spans: false,
            is_mirrored: false,
            answer_tokens: None,
            is_known_model: true,
            reservation: limits::Reservation::default(),
            credential: None,
            pick: group.pick.clone(),
            websocket_protocols: None,
        }
    }

    fn body(conversation: &str) -> Vec<u8> {
        serde_json::json!({ "model": "llama", "messages": [{ "role": "user", "content": conversation.repeat(1_000) }] })
            .to_string()
            .into_bytes()
    }

    /// The server that a request gets, and what of it is expected to be cached, in percent.
    fn chosen(choices: &ServerChoices, grant: &Grant, body: &[u8]) -> Option<(String, Option<u32>)> {
        let sum = Sum { prompt: body.len() as u64 / 4, answer: 10, open: None };
        let chosen =
            choices.choose(grant, PickQuestion { body: Some(body), sum, turn: body.len() as u128 })?;
        Some((chosen.why.name.to_string(), chosen.why.cached_percent()))
    }

    fn kept(given: &[(&str, &str)]) -> (Catalogue, ChoiceKeeper) {
        let catalogue = catalogue(given);
        let mut keeper = ChoiceKeeper::new(ServerChoices::default());
        keeper.follow(&catalogue, "3.7.0".parse().expect("a version"));
        (catalogue, keeper)
    }

    /// A minute later everything that was sent has been read.
    fn wait(keeper: &mut ChoiceKeeper) {
        let minute = Duration::from_secs(60);
        keeper.choices.start = keeper.choices.start.checked_sub(minute).expect("the machine runs for longer");
    }

    /// Regression: of two servers, one that was gone for a moment made Modelgate forget what the other one had read.
    #[test]
    fn what_a_server_has_read_is_known_again_after_it_was_alone() {
        for (strategy, expected) in [("cache", true), ("wrr", false)] {
            let both = catalogue_of(["a", "b"].map(|name| server(name, &[("strategy", "cache")])));
            let alone = catalogue_of([server("a", &[("strategy", strategy)])]);
            let mut keeper = ChoiceKeeper::new(ServerChoices::default());
            let version = "3.7.0".parse().expect("a version");
            keeper.follow(&both, version);
            let bodies: Vec<Vec<u8>> = (0..6).map(|number| body(&format!("{number:03} "))).collect();
            let ask = |keeper: &ChoiceKeeper, body: &Vec<u8>| {
                chosen(&keeper.choices, &grant(&both, "alice"), body).expect("a choice")
            };
            let of_a: Vec<&Vec<u8>> = bodies.iter().filter(|body| ask(&keeper, body).0 == "a").collect();
            assert!(!of_a.is_empty());
            wait(&mut keeper);
            keeper.follow(&alone, version);
            keeper.follow(&both, version);
            let known = of_a.iter().all(|body| {
                let (name, percent) = ask(&keeper, body);
                name == "a" && percent > Some(80)
            });
            assert_eq!(known, expected, "alone with {strategy}");
        }
    }

    #[test]
    fn a_prompt_goes_where_its_beginning_is_and_a_rehearsal_changes_nothing() {
        let (catalogue, mut keeper) = kept(&[("strategy", "cache")]);
        let (choices, grant) = (&keeper.choices, grant(&catalogue, "alice"));
        let (first, second) = (body("abc "), body("xyz "));
        let rehearsed = chosen(&choices.rehearsal(), &grant, &first);
        assert_eq!(rehearsed, chosen(&choices.rehearsal(), &grant, &first), "nothing was counted");
        assert_eq!(rehearsed.and_then(|(_, percent)| percent), Some(0));
        let (at, _) = chosen(choices, &grant, &first).expect("a choice");
        let (other, _) = chosen(choices, &grant, &second).expect("a choice");
        assert_ne!(at, other, "the first one's server is busy");
        wait(&mut keeper);
        let choices = &keeper.choices;
        let again = chosen(choices, &grant, &first).expect("a choice");
        assert_eq!(again.0, at);
        assert!(again.1 > Some(80), "{again:?}");
        let rehearsed = choices.rehearsal();
        let sum = Sum { prompt: 1_000, answer: 10, open: None };
        let why = rehearsed
            .choose(&grant, PickQuestion { body: Some(&first), sum, turn: 0 })
            .expect("a choice")
            .why;
        assert!(
            why.next.as_ref().is_some_and(|(next, time)| **next != *at && *time > why.first_token),
            "{why}"
        );
    }

    #[test]
    fn consumers_share_beginnings_unless_they_are_kept_apart() {
        for (apart, shared) in [("false", true), ("true", false)] {
            let (catalogue, mut keeper) = kept(&[("strategy", "cache"), ("pick.per_consumer", apart)]);
            let [alice, bob] = ["alice", "bob"].map(|consumer| grant(&catalogue, consumer));
            let prompt = body("abc ");
            chosen(&keeper.choices, &alice, &prompt);
            wait(&mut keeper);
            let percent =
                |grant| chosen(&keeper.choices.rehearsal(), grant, &prompt).and_then(|(_, percent)| percent);
            assert!(percent(&alice) > Some(80), "{apart}");
            assert_eq!(percent(&bob) > Some(80), shared, "{apart}");
        }
    }

    /// A request of alice's that may pass if its limits allow it.
    fn pending(catalogue: &Catalogue, body: &[u8]) -> Pending {
        let key = Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key"));
        let policy = access::Policy::new(vec![key], Vec::new());
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, "Bearer mg-key".parse().expect("a value")),
            (header::CONTENT_TYPE, "application/json".parse().expect("a value")),
        ]);
        let request = access::Request {
            method: "POST",
            uri: "/v1/chat/completions",
            host: None,
            headers: &headers,
            body,
            mode: access::Mode::Layered,
            trusted: true,
            from: None,
            now: std::time::SystemTime::UNIX_EPOCH,
        };
        access::prepare(&policy, catalogue, &request).expect("it may pass")
    }

    /// A pool is full when each server has what it is to have, and ends are told. Then requests go where there is room, one for each
    /// that has ended; whose pool is gone, or lets nobody wait any more, goes on.
    ///
    /// Regression: requests that came at once all saw the same room, while the first ones were still being debited in Redis.
    #[tokio::test]
    async fn a_full_pool_lets_one_request_go_on_for_each_that_has_ended() {
        let given = [("strategy", "least-busy"), ("pick.wait", "20s"), ("pick.max_requests", "1")];
        let (catalogue, mut keeper) = kept(&given);
        let (own, body) = (grant(&catalogue, "alice"), body("abc "));
        let pending = || pending(&catalogue, &body);
        let sum = Sum { prompt: 1_000, answer: 10, open: None };
        let choose = |choices: &ServerChoices, turn| {
            choices.choose(&own, PickQuestion { body: Some(&body), sum, turn }).expect("a choice")
        };
        let mut under_way: Vec<Chosen> = (0..3).map(|turn| choose(&keeper.choices, turn)).collect();
        assert!(keeper.choices.enter(&pending()).is_ok(), "nobody knows when they end");
        keeper.release(true);
        let full = keeper.choices.enter(&pending()).expect_err("three of three are there");
        assert_eq!(full.longest, Duration::from_secs(20));
        let tried = choose(&keeper.choices.rehearsal(), 0);
        assert_eq!(tried.why.would_wait, Some(Duration::from_secs(20)));
        assert!(keeper.choices.rehearsal().enter(&pending()).is_ok(), "who only tries does not wait");
        let free = under_way.remove(1);
        let name = Arc::clone(&free.why.name);
        drop(free);
        let turn = keeper.choices.enter(&pending()).expect("one has room");
        assert!(keeper.choices.enter(&pending()).is_err(), "its room is taken, though nothing was sent yet");
        drop(turn);
        assert!(keeper.choices.enter(&pending()).is_ok(), "it was refused by a limit, say");
        let next = choose(&keeper.choices, 0);
        assert_eq!(next.why.name, name, "the only one with room, whatever else speaks for the others");
        let stop = tokio::sync::watch::Sender::new(false);
        let wait = |full: FullPool| {
            let (waiting, stopping) = (Arc::clone(keeper.choices.waiting()), stop.subscribe());
            let comer =
                server_choice::Comer { pool: full.route, rank: 1, consumer: "alice".into(), bytes: 1 };
            tokio::spawn(async move { waiting.wait(comer, &full.line, full.longest, stopping).await })
        };
        let full = || keeper.choices.enter(&pending()).expect_err("full");
        let (first, second) = (wait(full()), wait(full()));
        while keeper.choices.waiting().count() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(keeper.is_waited_for()(Some(&ServerUrl::parse("http://a:8000").expect("a URL"))));
        assert!(!keeper.is_waited_for()(Some(&ServerUrl::parse("http://other:8000").expect("a URL"))));
        keeper.release(true);
        assert_eq!(keeper.choices.waiting().count(), 2, "nothing has ended");
        drop(next);
        keeper.freed().await;
        keeper.release(true);
        let turn = first.await.expect("no panic").expect("a turn");
        keeper.release(true);
        assert_eq!(keeper.choices.waiting().count(), 1, "the first one will take the room");
        assert!(keeper.choices.enter(&pending()).is_err(), "nobody overtakes who waits");
        drop(turn);
        let calm = self::catalogue(&[("strategy", "least-busy")]);
        keeper.follow(&calm, "3.7.0".parse().expect("a version"));
        keeper.release(true);
        assert!(second.await.expect("no panic").is_ok(), "nobody waits there any more");
    }

    /// Two Modelgates with the same servers, each of which gets some of the requests.
    ///
    /// Regression: each knew half of what the servers had read, and sent the other half of a conversation anywhere.
    #[test]
    fn modelgates_that_tell_each_other_choose_as_one() {
        let (one_catalogue, mut one) = kept(&[("strategy", "cache")]);
        let (other_catalogue, mut other) = kept(&[("strategy", "cache")]);
        let grants = [grant(&one_catalogue, "alice"), grant(&other_catalogue, "alice")];
        let mut sharing = one.sharing().expect("the first");
        let mut other_sharing = other.sharing().expect("the first");
        other_sharing.set_secret(sharing.secret());
        let pass_on = |from: &mut ChoiceSharing, to: &mut ChoiceKeeper| {
            std::iter::from_fn(|| from.next_now()).map(|note| to.told(1, &note, Duration::ZERO)).count()
        };
        let prompts: Vec<Vec<u8>> = (0..6).map(|number| body(&format!("{number:03} "))).collect();
        let sum = Sum { prompt: 1_000, answer: 10, open: None };
        let choose = |keeper: &ChoiceKeeper, grant: &Grant, body: &Vec<u8>| {
            keeper.choices.choose(grant, PickQuestion { body: Some(body), sum, turn: 0 }).expect("a choice")
        };
        choose(&one, &grants[0], &prompts[0]);
        assert_eq!(pass_on(&mut sharing, &mut other), 0, "nobody is there");
        sharing.set_heard(true);
        let at: Vec<Chosen> = prompts.iter().map(|body| choose(&one, &grants[0], body)).collect();
        assert_eq!(other.under_way(), 0);
        assert_eq!(pass_on(&mut sharing, &mut other), 6);
        assert_eq!(other.under_way(), 6);
        assert_eq!(other.choices.sums().values().map(|sums| sums.requests).sum::<u64>(), 0, "not its own");
        let names: Vec<Arc<str>> = at.iter().map(|chosen| Arc::clone(&chosen.why.name)).collect();
        let mut at = at.into_iter();
        at.next().expect("a request").under_way.end(None);
        at.next().expect("a request").under_way.end_unheard();
        drop(at);
        assert_eq!(pass_on(&mut sharing, &mut other), 6);
        assert_eq!(other.under_way(), 0);
        one.pass(true);
        assert!(
            pass_on(&mut sharing, &mut other) > 0,
            "how many are under way, of which nobody tells the end"
        );
        assert_eq!(other.under_way(), one.under_way());
        assert!(other.under_way() > 0);
        let urls: Vec<ServerUrl> = other.servers.values().map(|known| known.url.clone()).collect();
        for (running, left) in [(None, one.under_way()), (Some(0), 0)] {
            let counters = Counters { running, ..Counters::default() };
            urls.iter().for_each(|url| other.heard(url, (&counters, None), Instant::now()));
            assert_eq!(other.under_way(), left, "a page says {running:?}");
        }
        other.is_alone();
        assert_eq!(other.under_way(), 0);
        wait(&mut other);
        for (body, name) in prompts.iter().zip(&names) {
            let chosen = choose(&other, &grants[1], body);
            assert_eq!(
                (&chosen.why.name, chosen.why.cached_percent() > Some(80)),
                (name, true),
                "{}",
                chosen.why
            );
        }
        assert_eq!(pass_on(&mut other_sharing, &mut one), 0, "it was not told that it is heard");
        let rehearsed = one
            .choices
            .rehearsal()
            .choose(&grants[0], PickQuestion { body: Some(&prompts[0]), sum, turn: 0 });
        assert!(rehearsed.is_some());
        assert_eq!(pass_on(&mut sharing, &mut other), 0, "what is only tried is not told");
        let unknown = serde_json::json!({ "server": "http://nobody:1", "what": { "ended": 1 } });
        other.told(1, &serde_json::from_value(unknown).expect("a note"), Duration::ZERO);
    }

    #[test]
    fn only_servers_of_the_catalogue_that_judged_the_request_are_chosen() {
        let (catalogue, mut keeper) = kept(&[("strategy", "least-busy")]);
        let own = grant(&catalogue, "alice");
        assert_eq!(chosen(&keeper.choices, &own, b"{}").map(|(_, percent)| percent), Some(None));
        assert_eq!(chosen(&keeper.choices, &own, b""), None, "no body");
        let newer = self::catalogue(&[("strategy", "least-busy")]);
        assert_eq!(chosen(&keeper.choices, &grant(&newer, "alice"), b"{}"), None, "it is not followed yet");
        keeper.follow(&newer, "3.7.0".parse().expect("a version"));
        assert!(chosen(&keeper.choices, &grant(&newer, "alice"), b"{}").is_some());
        assert_eq!(chosen(&keeper.choices, &own, b"{}"), None, "what was judged by the old one");
        keeper.follow(&newer, "3.5.0".parse().expect("a version"));
        assert_eq!(chosen(&keeper.choices, &grant(&newer, "alice"), b"{}"), None, "no routes there");
        assert_eq!(keeper.servers.len(), 0);
    }

    /// What is known of a server stays over changes of the catalogue, and is forgotten when it is started again. A request that has
    /// ended is not under way.
    #[test]
    fn what_is_known_stays_with_a_run_of_a_server() {
        let (catalogue, mut keeper) = kept(&[("strategy", "cache")]);
        let version = "3.7.0".parse().expect("a version");
        let own = grant(&catalogue, "alice");
        let (prompt, sum) = (body("abc "), Sum { prompt: 1_000, answer: 10, open: None });
        let choose = |keeper: &ChoiceKeeper, grant: &Grant| {
            keeper
                .choices
                .choose(grant, PickQuestion { body: Some(&prompt), sum, turn: 0 })
                .expect("a choice")
        };
        let first = choose(&keeper, &own);
        let newer = self::catalogue(&[("strategy", "cache")]);
        keeper.follow(&newer, version);
        assert_eq!(keeper.under_way(), 1);
        drop(first.under_way);
        wait(&mut keeper);
        assert_eq!(keeper.under_way(), 0);
        choose(&keeper, &grant(&newer, "alice")).under_way.end_unheard();
        assert_eq!(keeper.under_way(), 1, "nobody tells when it ends");
        keeper.heard(
            &ServerUrl::parse("http://nobody:1").expect("a URL"),
            (&Counters::default(), None),
            Instant::now(),
        );
        let idle = Counters { running: Some(0), waiting: Some(0), ..Counters::default() };
        ["a", "b", "c"]
            .map(|name| ServerUrl::parse(&format!("http://{name}:8000")).expect("a URL"))
            .iter()
            .for_each(|url| keeper.heard(url, (&idle, None), Instant::now()));
        assert_eq!(keeper.under_way(), 0, "but the server does");
        let sums = keeper.choices.sums();
        assert_eq!((sums.len(), sums.values().map(|sums| sums.requests).sum::<u64>()), (3, 2));
        let chosen =
            sums.values().find(|sums| sums.expected_cached_tokens > 0).expect("the second was cached");
        assert_eq!((chosen.prompt_tokens, chosen.elsewhere), (2_000, 0));
        let mut failed = choose(&keeper, &grant(&newer, "alice"));
        assert_eq!(keeper.under_way(), 1);
        failed.under_way.end(None);
        assert_eq!(keeper.under_way(), 0, "by whom it was answered is told later");
        let own = failed.under_way.record.spec.id.as_str().to_owned();
        failed.under_way.answered_by(&own, Some(200));
        assert_eq!(keeper.choices.sums()[&own].elsewhere, 0);
        failed.under_way.answered_by("another", None);
        assert_eq!(keeper.choices.sums()[&own].elsewhere, 1);
        let other = choose(&keeper, &grant(&newer, "alice"));
        drop(failed);
        assert_eq!(keeper.under_way(), 1, "it ends once");
        drop(other);
        let restarted = Catalogue::assemble(
            ["a", "b", "c"].map(|name| {
                let mut server = server(name, &[("strategy", "cache")]);
                server.spec.incarnation = "another run".into();
                server
            }),
            Vec::new(),
        );
        keeper.follow(&restarted, version);
        let choice = choose(&keeper, &grant(&restarted, "alice"));
        assert_eq!(choice.why.cached_percent(), Some(0));
    }
}
