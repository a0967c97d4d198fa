//! One load, one policy, some servers: in virtual time.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{
    load::{Load, SimulatedRequest, Start},
    machine::Machine,
    policy::{Policy, Seen},
};

/// Seconds between two looks at a server's `/metrics`.
const SCRAPE: f64 = 1.0;

/// The part of the time in which conversations begin that is measured: before it, caches are empty; after it, less and less is asked.
const MEASURED: (f64, f64) = (0.2, 0.95);

/// How many servers there are, and how large the memory of each is.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedPool {
    /// The number of servers.
    pub servers: usize,
    /// Tokens.
    pub cache_tokens: usize,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Seconds to the first token of each request that arrived in the measured part of the time, sorted.
    pub first_token: Vec<f64>,
    /// The share of the prompts' tokens that were in the servers' memory.
    pub hit_rate: f64,
    /// The share of the time that servers had as much to do as they can.
    pub busy: f64,
}

impl Measured {
    /// The time to the first token within which this share of the requests is, in seconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = (self.first_token.len() as f64 * share) as usize;
        self.first_token.get(place.min(self.first_token.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

/// What comes next, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Due {
    at: f64,
    /// In the order in which they were planned, where they are due at the same time.
    number: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Arrives(usize),
    Steps(usize),
    Scrape(usize),
}

impl Eq for Due {}

impl Ord for Due {
    /// The earliest is the greatest, because it comes first out of a heap.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Sums over all servers.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    asked: f64,
    cached: f64,
    full: f64,
}

struct Simulation<'l> {
    requests: &'l [SimulatedRequest],
    machines: Vec<Machine>,
    open: Vec<u32>,
    server_of: Vec<usize>,
    arrived: Vec<f64>,
    /// The request that follows the answer to another, and after how long.
    next: Vec<Option<(usize, f64)>>,
    first_token: Vec<f64>,
    unanswered: usize,
    /// The measured part of the time, in seconds.
    measured: (f64, f64),
    /// The sums of hits and fullness when it began, and when it ended.
    sums: [Option<Sums>; 2],
    due: BinaryHeap<Due>,
    planned: u64,
}

/// Sends a load to servers by a policy.
pub fn run(load: &Load, fleet: &SimulatedPool, policy: &mut dyn Policy) -> Measured {
    let mut world = Simulation::new(load, fleet);
    while world.unanswered > 0 {
        let Some(Due { at, what, .. }) = world.due.pop() else { break };
        world.keep_sums(at);
        match what {
            What::Arrives(request) => world.arrives(request, at, policy),
            What::Steps(place) => world.steps(place, at, policy),
            What::Scrape(place) => {
                policy.heard(place, &world.machines[place], at);
                world.plan(at + SCRAPE, What::Scrape(place));
            }
        }
    }
    world.measured()
}

impl<'l> Simulation<'l> {
    fn new(load: &'l Load, fleet: &SimulatedPool) -> Self {
        let count = load.requests.len();
        let mut world = Self {
            requests: &load.requests,
            machines: (0..fleet.servers)
                .map(|_| Machine::new(fleet.cache_tokens, load.block_tokens))
                .collect(),
            open: vec![0; fleet.servers],
            server_of: vec![0; count],
            arrived: vec![0.0; count],
            next: vec![None; count],
            first_token: Vec::with_capacity(count),
            unanswered: count,
            measured: (load.last_start() * MEASURED.0, load.last_start() * MEASURED.1),
            sums: [None; 2],
            due: BinaryHeap::new(),
            planned: 0,
        };
        for (number, asked) in load.requests.iter().enumerate() {
            match asked.start {
                Start::At(at) => world.plan(at, What::Arrives(number)),
                Start::After { request, pause } => world.next[request] = Some((number, pause)),
            }
        }
        for place in 0..fleet.servers {
            // Not all in the same moment.
            world.plan(SCRAPE * (place + 1) as f64 / fleet.servers as f64, What::Scrape(place));
        }
        world
    }

    /// Remembers the sums when the measured part begins, and when it ends.
    fn keep_sums(&mut self, now: f64) {
        for (place, moment) in [self.measured.0, self.measured.1].into_iter().enumerate() {
            if now >= moment && self.sums[place].is_none() {
                self.sums[place] = Some(self.sum());
            }
        }
    }

    fn plan(&mut self, at: f64, what: What) {
        self.planned += 1;
        self.due.push(Due { at, number: self.planned, what });
    }

    fn arrives(&mut self, request: usize, now: f64, policy: &mut dyn Policy) {
        let asked = &self.requests[request];
        let place = policy.choose(asked, &Seen { now, request, open: &self.open, machines: &self.machines });
        self.arrived[request] = now;
        self.server_of[request] = place;
        self.open[place] += 1;
        let machine = &mut self.machines[place];
        machine.ask(request, asked, now);
        if machine.ends().is_none() {
            machine.begin(self.requests, now);
        }
        self.plan_end(place);
    }

    fn plan_end(&mut self, place: usize) {
        if let Some(ends) = self.machines[place].ends() {
            self.plan(ends, What::Steps(place));
        }
    }

    fn steps(&mut self, place: usize, now: f64, policy: &mut dyn Policy) {
        // Planned for steps that were cut short, or that have ended already.
        if self.machines[place].ends() != Some(now) {
            return;
        }
        let happened = self.machines[place].end(self.requests, now);
        for request in happened.first {
            let arrived = self.arrived[request];
            if (self.measured.0..=self.measured.1).contains(&arrived) {
                self.first_token.push(now - arrived);
            }
        }
        for request in happened.ended {
            self.unanswered -= 1;
            policy.answered(place, request, now);
            self.open[self.server_of[request]] -= 1;
            if let Some((next, pause)) = self.next[request] {
                self.plan(now + pause, What::Arrives(next));
            }
        }
        self.machines[place].begin(self.requests, now);
        self.plan_end(place);
    }

    fn sum(&self) -> Sums {
        self.machines.iter().fold(Sums::default(), |sums, machine| {
            let (asked, cached) = machine.hits();
            Sums { asked: sums.asked + asked, cached: sums.cached + cached, full: sums.full + machine.full() }
        })
    }

    fn measured(mut self) -> Measured {
        self.first_token.sort_by(f64::total_cmp);
        let before = self.sums[0].unwrap_or_default();
        let after = self.sums[1].unwrap_or_else(|| self.sum());
        let seconds = self.machines.len() as f64 * (self.measured.1 - self.measured.0);
        Measured {
            hit_rate: (after.cached - before.cached) / (after.asked - before.asked).max(1.0),
            busy: (after.full - before.full) / seconds,
            first_token: self.first_token,
        }
    }
}
