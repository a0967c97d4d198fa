//! Several Modelgates for the same servers, each of which gets some of the requests.

use std::collections::{HashMap, VecDeque};

use server_choice::Choice;

use super::{Ours, Policy, Seen};
use crate::{load::SimulatedRequest, machine::Machine, random::Random};

/// Each request asks one of them, at random. All of them read the servers' `/metrics`.
#[derive(Debug)]
pub struct Several {
    name: &'static str,
    all: Vec<Ours>,
    random: Random,
    /// How long what one of them does takes to reach the others, in seconds; `None`: it never does.
    delay: Option<f64>,
    /// Who was asked, for each request under way.
    asked: HashMap<usize, usize>,
    /// What is on its way to the others, in the order in which it arrives.
    notes: VecDeque<Note>,
}

/// One of them tells the others of a request.
#[derive(Debug)]
struct Note {
    arrives: f64,
    from: usize,
    request: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Sent(SimulatedRequest, Choice),
    Answered(usize),
}

impl Several {
    /// These, which tell each other what they do within `delay` seconds, or nothing.
    pub fn new(name: &'static str, all: Vec<Ours>, delay: Option<f64>, seed: u64) -> Self {
        Self { name, all, random: Random::new(seed), delay, asked: HashMap::new(), notes: VecDeque::new() }
    }

    fn tell(&mut self, now: f64, from: usize, request: usize, what: What) {
        if let Some(delay) = self.delay {
            self.notes.push_back(Note { arrives: now + delay, from, request, what });
        }
    }

    /// What has arrived by now.
    fn deliver(&mut self, now: f64) {
        while self.notes.front().is_some_and(|note| note.arrives <= now)
            && let Some(note) = self.notes.pop_front()
        {
            let others = self.all.iter_mut().enumerate().filter(|(place, _)| *place != note.from);
            for (_, other) in others {
                match &note.what {
                    What::Sent(asked, choice) => other.hear_choice((note.request, asked), choice, now),
                    What::Answered(place) => other.hear_answer(*place, note.request),
                }
            }
        }
    }
}

impl Policy for Several {
    fn name(&self) -> &'static str {
        self.name
    }

    fn choose(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.deliver(seen.now);
        let from = self.random.below(self.all.len());
        let choice = self.all[from].send(asked, seen);
        self.asked.insert(seen.request, from);
        self.tell(seen.now, from, seen.request, What::Sent(asked.clone(), choice));
        choice.place
    }

    fn answered(&mut self, place: usize, request: usize, now: f64) {
        if let Some(from) = self.asked.remove(&request) {
            self.all[from].answered(place, request, now);
            self.tell(now, from, request, What::Answered(place));
        }
    }

    fn heard(&mut self, place: usize, machine: &Machine, now: f64) {
        self.deliver(now);
        self.all.iter_mut().for_each(|one| one.heard(place, machine, now));
    }
}
