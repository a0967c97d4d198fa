//! Ours, and the one that it is measured against.

use std::{collections::HashMap, mem, time::Duration};

use server_choice::{Choice, Needed, Prompt, SentRequest, Server, Watch, choose};

use super::{Policy, Seen};
use crate::{load::SimulatedRequest, machine::Machine};

/// What is assumed of every answer, in tokens: nobody knows how long it will be.
const ANSWER_TOKENS: u32 = 300;

/// Ours: `server-choice`, which knows what it has sent and what the servers' `/metrics` say each second.
#[derive(Debug)]
pub struct Ours {
    servers: Vec<Server>,
    watches: Vec<Watch>,
    /// With metering.
    ends: Option<ToldEnds>,
    /// What requests of others need, and how many of them were sent to each server since it was heard.
    others: HashMap<usize, Needed>,
    others_since: Vec<u32>,
    block_tokens: f32,
    cache_tokens: f64,
    turn: usize,
}

/// The ends of requests, which are told together, once a second, as Traefik does.
#[derive(Debug)]
struct ToldEnds {
    under_way: HashMap<usize, SentRequest>,
    /// Of each server, those whose end is still to be told.
    untold: Vec<Vec<SentRequest>>,
}

impl Ours {
    /// For so many servers, which say how large their caches are. With metering, the ends of requests are told.
    pub fn new(servers: usize, cache_tokens: usize, block_tokens: u32, is_metered: bool) -> Self {
        let blocks = cache_tokens as u32 / block_tokens;
        Self {
            servers: (0..servers).map(|_| Server::new(blocks)).collect(),
            watches: (0..servers).map(|_| Watch::new(block_tokens as f32)).collect(),
            ends: is_metered
                .then(|| ToldEnds { under_way: HashMap::new(), untold: vec![Vec::new(); servers] }),
            block_tokens: block_tokens as f32,
            cache_tokens: cache_tokens as f64,
            others: HashMap::new(),
            others_since: vec![0; servers],
            turn: 0,
        }
    }

    fn prompt<'r>(&self, asked: &'r SimulatedRequest) -> Prompt<'r> {
        Prompt {
            blocks: &asked.blocks,
            tokens: asked.prompt_tokens,
            block_tokens: self.block_tokens,
            answer_tokens: ANSWER_TOKENS,
            adapter: None,
        }
    }

    /// Chooses a server and sends the request there.
    pub(super) fn send(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> Choice {
        self.turn += 1;
        let now = Duration::from_secs_f64(seen.now);
        let prompt = self.prompt(asked);
        let choice = choose(&self.servers, &prompt, now, self.turn).expect("there are servers");
        let sent = self.servers[choice.place].sent(&prompt, &choice.estimate, now);
        self.is_under_way(seen.request, sent);
        choice
    }

    /// Another one has chosen for this request, and has told so.
    pub(super) fn hear_choice(
        &mut self,
        (request, asked): (usize, &SimulatedRequest),
        choice: &Choice,
        now: f64,
    ) {
        let now = Duration::from_secs_f64(now);
        let needed = self.servers[choice.place].sent_by_another(&self.prompt(asked), &choice.estimate, now);
        self.others.insert(request, needed);
        self.others_since[choice.place] += 1;
        self.servers[choice.place].set_others(self.others_since[choice.place]);
    }

    /// It has told that the request has been answered.
    pub(super) fn hear_answer(&mut self, place: usize, request: usize) {
        if let Some(needed) = self.others.remove(&request) {
            self.servers[place].belief().ended(needed);
        }
    }

    fn is_under_way(&mut self, request: usize, sent: SentRequest) {
        if let Some(ends) = &mut self.ends {
            ends.under_way.insert(request, sent);
        }
    }
}

impl Policy for Ours {
    fn name(&self) -> &'static str {
        if self.ends.is_some() { "Modelgate" } else { "Modelgate without metering" }
    }

    fn choose(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.send(asked, seen).place
    }

    fn answered(&mut self, place: usize, request: usize, _now: f64) {
        if let Some(ends) = &mut self.ends {
            ends.untold[place].extend(ends.under_way.remove(&request));
        }
    }

    fn heard(&mut self, place: usize, machine: &Machine, now: f64) {
        let counters = machine.counters(self.cache_tokens);
        let now = Duration::from_secs_f64(now);
        if let Some(ends) = &mut self.ends {
            for sent in mem::take(&mut ends.untold[place]) {
                self.servers[place].finished(sent, Duration::ZERO);
            }
        }
        self.watches[place].heard(&self.servers[place], &counters, now, now);
        self.others_since[place] = 0;
        self.servers[place].set_others(0);
    }
}

/// The server that really has the first token soonest, as far as it can be known when a request arrives: with the true contents of
/// caches and the true lengths of queues.
#[derive(Debug, Default)]
pub struct Greedy(usize);

impl Policy for Greedy {
    fn name(&self) -> &'static str {
        "greedy, true caches"
    }

    fn choose(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.0 += 1;
        let count = seen.machines.len();
        let total = |place: &usize| {
            let machine = &seen.machines[*place];
            machine.backlog() + machine.seconds_for(asked) + machine.bare_step()
        };
        let places = (0..count).map(|place| (self.0 + place) % count);
        places.min_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or(0)
    }
}
