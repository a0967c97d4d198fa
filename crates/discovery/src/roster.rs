//! Every server that is known, with all that decides about its state.
//!
//! No I/O: the reconcile loop feeds it news and asks what is due. Time is passed in.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catalogue::{
    Catalogue, HealthMode, Interpretation, ModelCard, Problem, ServerId, ServerRecord, ServerSpec,
    ServerState, Source, interpret,
};

use crate::{
    docker::{Survey, Withdrawal},
    probe::Answer,
};

/// How long the models of a server that has gone are still answered with "come back" (503)
/// and not with "never heard of it" (404).
const LINGER: Duration = Duration::from_secs(60);
/// How often a server is asked for its models once it has answered: LoRA adapters and pulled
/// models come later.
const REFRESH: Duration = Duration::from_secs(30);
/// The same where the question also tells whether the server lives.
const LIVENESS: Duration = Duration::from_secs(5);
/// Pauses between questions to a server that does not answer yet.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A server that has answered before is asked again this soon after a failure.
const RECHECK: Duration = Duration::from_secs(1);
/// So many failures in a row withdraw a server that no HEALTHCHECK looks after.
const MAX_FAILURES: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Roster {
    entries: BTreeMap<ServerId, Entry>,
    source_problems: Vec<Problem>,
    container_problems: Vec<Problem>,
}

#[derive(Debug)]
struct Entry {
    spec: ServerSpec,
    /// What the source says; `Ready` means that it can be asked.
    reported: ServerState,
    /// Withdrawn at an event.
    withdrawn: Option<Withdrawal>,
    models: Vec<ModelCard>,
    left_out: Vec<String>,
    probe: Probe,
    /// When it stopped or went; its models linger from then on.
    gone_since: Option<Instant>,
}

#[derive(Debug)]
struct Probe {
    under_way: bool,
    due: Instant,
    /// It has answered during this run.
    answered: bool,
    /// It has been asked during this run, whatever came of it.
    asked: bool,
    failures: u32,
    error: Option<String>,
}

impl Probe {
    fn new(now: Instant) -> Self {
        Self { under_way: false, due: now, answered: false, asked: false, failures: 0, error: None }
    }
}

impl Entry {
    fn new(spec: ServerSpec, reported: ServerState, now: Instant) -> Self {
        let models = spec.models.iter().cloned().map(ModelCard::named).collect();
        Self {
            spec,
            reported,
            withdrawn: None,
            models,
            left_out: Vec::new(),
            probe: Probe::new(now),
            gone_since: None,
        }
    }

    /// Takes over what the source says now.
    fn update(&mut self, spec: ServerSpec, reported: ServerState, now: Instant) {
        let other_run = self.spec.incarnation != spec.incarnation;
        let elsewhere = self.spec.url != spec.url || self.spec.base_path != spec.base_path;
        if other_run || elsewhere || self.spec.models != spec.models {
            let under_way = self.probe.under_way;
            self.probe = Probe { under_way, ..Probe::new(now) };
        } else if self.reported != ServerState::Ready && reported == ServerState::Ready {
            // Ready again: what it serves is asked at once.
            self.probe.due = now;
        }
        if self.withdrawn.as_ref().is_some_and(|w| !w.until_restart || other_run) {
            self.withdrawn = None;
        }
        self.spec = spec;
        self.reported = reported;
        self.gone_since = None;
    }

    fn state(&self) -> ServerState {
        if self.reported != ServerState::Ready {
            return self.reported.clone();
        }
        if let Some(withdrawal) = &self.withdrawn {
            return ServerState::Draining(withdrawal.reason.into());
        }
        let error = || self.probe.error.clone();
        if !self.probe.answered {
            return ServerState::Starting(
                error().unwrap_or_else(|| "it has not been asked for its models yet".into()),
            );
        }
        if self.spec.health == HealthMode::Probe && self.probe.failures >= MAX_FAILURES {
            return ServerState::Draining(error().unwrap_or_else(|| "it does not answer".into()));
        }
        ServerState::Ready
    }

    fn can_be_asked(&self) -> bool {
        self.reported == ServerState::Ready && self.withdrawn.is_none()
    }

    fn problems(&self) -> impl Iterator<Item = Problem> {
        let problem = |message: &String| match self.spec.source {
            Source::Docker { .. } => Problem::container(&self.spec.name, message),
            Source::File => Problem::server(&self.spec.name, message),
        };
        let asked = self.can_be_asked();
        let none =
            (asked && self.probe.answered && self.models.is_empty()).then(|| "it lists no models".to_owned());
        let error = self.probe.error.as_ref().filter(|_| asked);
        let left_out = self.left_out.iter().filter(move |_| asked);
        left_out.chain(error).chain(&none).map(problem).collect::<Vec<_>>().into_iter()
    }
}

impl Roster {
    /// Takes over a full look at the Docker host.
    pub(crate) fn surveyed(&mut self, survey: &Survey, withdrawn_meanwhile: Vec<Withdrawal>, now: Instant) {
        self.source_problems.clear();
        self.container_problems.clear();
        let mut seen = Vec::new();
        for container in &survey.containers {
            let id = ServerId::docker(&container.id);
            let (what, problems) = interpret(container, &survey.vantage);
            self.container_problems.extend(problems);
            match what {
                Interpretation::NotEnabled | Interpretation::Rejected => continue,
                Interpretation::Down(state) => self.down(&id, state, now),
                Interpretation::Server(spec, state) => match self.entries.get_mut(&id) {
                    Some(entry) => entry.update(spec, state, now),
                    None => {
                        self.entries.insert(id.clone(), Entry::new(spec, state, now));
                    }
                },
            }
            seen.push(id);
        }
        for (id, entry) in &mut self.entries {
            let from_docker = matches!(entry.spec.source, Source::Docker { .. });
            if from_docker && !seen.contains(id) {
                entry.gone(ServerState::Stopped("it has gone".into()), now);
            }
        }
        for withdrawal in withdrawn_meanwhile {
            self.withdraw(withdrawal);
        }
    }

    fn down(&mut self, id: &ServerId, state: ServerState, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        match state {
            ServerState::Stopped(_) => entry.gone(state, now),
            _ => entry.reported = state,
        }
    }

    /// A server is to get no more requests. One that is not known yet will be looked at anyway.
    pub(crate) fn withdraw(&mut self, withdrawal: Withdrawal) {
        let Some(entry) = self.entries.get_mut(&ServerId::docker(&withdrawal.container_id)) else { return };
        let keep = entry.withdrawn.as_ref().is_some_and(|w| w.until_restart && !withdrawal.until_restart);
        if !keep {
            entry.withdrawn = Some(withdrawal);
        }
    }

    /// A container has been started anew; what was said of its last run is void.
    pub(crate) fn started(&mut self, container_id: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&ServerId::docker(container_id)) {
            entry.withdrawn = None;
            entry.reported = ServerState::Starting("it has just been started".into());
            entry.probe = Probe { under_way: entry.probe.under_way, ..Probe::new(now) };
        }
    }

    /// The Docker host does not answer; what is known stays.
    pub(crate) fn unreachable(&mut self, endpoint: &str, error: &str) {
        self.source_problems =
            vec![Problem::source("docker", format!("{endpoint} does not answer: {error}"))];
    }

    /// Takes over the servers of the configuration file.
    pub(crate) fn configured(&mut self, specs: &[ServerSpec], now: Instant) {
        self.entries.retain(|id, e| e.spec.source != Source::File || specs.iter().any(|s| s.id == *id));
        for spec in specs {
            match self.entries.get_mut(&spec.id) {
                Some(entry) => entry.update(spec.clone(), ServerState::Ready, now),
                None => {
                    self.entries.insert(spec.id.clone(), Entry::new(spec.clone(), ServerState::Ready, now));
                }
            }
        }
    }

    /// The servers that are to be asked now; they count as being asked from here on.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<ServerSpec> {
        let due = |e: &&mut Entry| e.can_be_asked() && !e.probe.under_way && e.probe.due <= now;
        let ask = |e: &mut Entry| {
            e.probe.under_way = true;
            e.spec.clone()
        };
        self.entries.values_mut().filter(due).map(ask).collect()
    }

    /// Takes over what a server answered.
    pub(crate) fn answered(&mut self, asked: &ServerSpec, answer: Answer, now: Instant) {
        let Some(entry) = self.entries.get_mut(&asked.id) else { return };
        let probe = &mut entry.probe;
        probe.under_way = false;
        if entry.spec != *asked {
            // It has been restarted or moved since; the answer says nothing about this run.
            probe.due = now;
            return;
        }
        probe.asked = true;
        match answer {
            Answer::Models(models, left_out) => {
                let every = if entry.spec.health == HealthMode::Probe { LIVENESS } else { REFRESH };
                *probe = Probe { answered: true, asked: true, due: now + every, ..Probe::new(now) };
                entry.models = models;
                entry.left_out = left_out;
            }
            Answer::Unreachable(error) | Answer::Unusable(error) => {
                let backoff = BACKOFF.0.saturating_mul(1 << probe.failures.min(10)).min(BACKOFF.1);
                let first_after_success = probe.answered && probe.failures < MAX_FAILURES;
                probe.due = now + if first_after_success { RECHECK } else { backoff };
                probe.failures = probe.failures.saturating_add(1);
                probe.error = Some(error);
            }
        }
    }

    /// Forgets what has lingered long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.entries.retain(|_, e| e.gone_since.is_none_or(|since| now < since + LINGER));
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let probe = |e: &Entry| (e.can_be_asked() && !e.probe.under_way).then_some(e.probe.due);
        let linger = |e: &Entry| e.gone_since.map(|since| since + LINGER);
        self.entries.values().flat_map(|e| [probe(e), linger(e)]).flatten().min()
    }

    /// Whether every server that can be asked has been asked at least once.
    pub(crate) fn all_asked(&self) -> bool {
        self.entries.values().all(|e| !e.can_be_asked() || e.probe.asked)
    }

    /// All that is known, as a catalogue.
    pub(crate) fn catalogue(&self) -> Catalogue {
        let record =
            |e: &Entry| ServerRecord { spec: e.spec.clone(), state: e.state(), models: e.models.clone() };
        let mut problems: Vec<Problem> = self.entries.values().flat_map(Entry::problems).collect();
        problems.extend(self.source_problems.iter().chain(&self.container_problems).cloned());
        Catalogue::assemble(self.entries.values().map(record), problems)
    }
}

impl Entry {
    fn gone(&mut self, state: ServerState, now: Instant) {
        self.reported = state;
        self.gone_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests;
