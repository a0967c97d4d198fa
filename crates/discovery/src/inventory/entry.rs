//! One server: its source's report, its answers to probes, and the resulting state.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{
    ContainerRecord, Finding, HealthMode, LifecycleFinding, Listing, ListingFinding, ModelCard, Origin,
    ProbeFinding, Problem, ServerRecord, ServerSpec, ServerState, Silence, TaskRecord,
};
use serde::{Deserialize, Serialize};

use crate::{
    docker::{HostName, Withdrawal},
    probe::Answers,
};

/// The probe interval for models after the first answer: LoRA adapters and pulled models appear later.
pub(super) const REFRESH: Duration = Duration::from_secs(30);
/// The interval where a probe also decides whether the server lives or is ready.
pub(super) const LIVENESS: Duration = Duration::from_secs(5);
/// The shortest and longest pause between probes of a server that does not answer yet.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The pause before a server that has answered is probed again after a failure.
pub(super) const RECHECK: Duration = Duration::from_secs(1);
/// The number of consecutive failures after which a server is withdrawn.
const MAX_FAILURES: u32 = 2;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: ServerSpec,
    /// Its Docker host; `None` if it is from the configuration file.
    pub(super) host: Option<HostName>,
    /// The source's report; `Ready` means that it can be probed.
    pub(super) reported: ServerState,
    /// The withdrawal made by an event.
    pub(super) withdrawn: Option<Withdrawal>,
    /// Its list of models.
    listing: Listing,
    pub(super) probe: Probe,
    /// Since when it does not answer at all, if it has not answered anything in this run.
    silent_since: Option<Instant>,
    /// What Docker says of it; `None` if it is from the configuration file.
    pub(super) seen: Option<DockerRecord>,
    /// It is known from before Modelgate's start, and its source has not been surveyed since: until when it stays without that.
    pub(super) kept_until: Option<Instant>,
    /// Its list of models was read in this run of the server, be it before Modelgate's start.
    has_answered: bool,
    /// Its last answers are from before Modelgate's start.
    has_kept_answers: bool,
    /// When it stopped or vanished; its models are remembered for a while after that.
    pub(super) gone_since: Option<Instant>,
    /// The record in the last catalogue, unless it has changed since.
    told: Option<Arc<ServerRecord>>,
}

/// A record of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DockerRecord {
    Container(ContainerRecord),
    Task(TaskRecord),
}

/// The probes of one run of a server.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) under_way: bool,
    pub(super) due: Instant,
    /// It has been probed during this run, whatever the result.
    pub(super) asked: bool,
    /// The probe for its models. Failures withdraw the server if it has no HEALTHCHECK.
    models: ProbeResults,
    /// The probe for readiness, if there is one. Failures withdraw the server.
    ready: ProbeResults,
}

/// The results of one kind of probe.
#[derive(Debug, Default)]
struct ProbeResults {
    /// It succeeded at least once during this run.
    answered: bool,
    /// The failures since then.
    failed: Option<Failures>,
}

/// Consecutive failures.
#[derive(Debug)]
struct Failures {
    count: u32,
    last: Finding,
}

impl ProbeResults {
    fn succeeded(&mut self) {
        *self = Self { answered: true, failed: None };
    }

    /// Counts a failure; returns when to probe again.
    fn failed(&mut self, last: Finding) -> Duration {
        let before = self.failed.as_ref().map_or(0, |failed| failed.count);
        let backoff = BACKOFF.0.saturating_mul(1 << before.min(10)).min(BACKOFF.1);
        let first_after_success = self.answered && before < MAX_FAILURES;
        self.failed = Some(Failures { count: before.saturating_add(1), last });
        if first_after_success { RECHECK } else { backoff }
    }

    /// The last failure.
    fn error(&self) -> Option<&Finding> {
        self.failed.as_ref().map(|failed| &failed.last)
    }

    /// Why the server is withdrawn, if the probe has failed too often.
    fn withdraws(&self) -> Option<Finding> {
        let failed = self.failed.as_ref().filter(|failed| failed.count >= MAX_FAILURES)?;
        Some(failed.last.clone())
    }

    fn error_or(&self, otherwise: LifecycleFinding) -> Finding {
        self.error().cloned().unwrap_or_else(|| otherwise.into())
    }
}

impl Probe {
    fn new(now: Instant) -> Self {
        let (models, ready) = (ProbeResults::default(), ProbeResults::default());
        Self { under_way: false, due: now, asked: false, models, ready }
    }
}

/// llama.cpp, vLLM and others send the current time as `created`. A model keeps the time at which it was first seen.
fn keep_times(listing: &mut Listing, before: &Listing) {
    let times: HashMap<_, _> = before.cards.iter().map(|card| (&card.name, card.created)).collect();
    for card in &mut listing.cards {
        card.created = times.get(&card.name).copied().flatten().or(card.created);
    }
}

impl Entry {
    pub(super) fn new(spec: ServerSpec, host: Option<HostName>, reported: ServerState, now: Instant) -> Self {
        let cards = spec.models.iter().cloned().map(ModelCard::named).collect();
        let listing = Listing { cards, ..Listing::default() };
        let probe = Probe::new(now);
        Self {
            spec,
            host,
            reported,
            withdrawn: None,
            listing,
            probe,
            silent_since: None,
            seen: None,
            kept_until: None,
            has_answered: false,
            has_kept_answers: false,
            gone_since: None,
            told: None,
        }
    }

    /// Takes over what it was known to serve before Modelgate's start. It is probed at once.
    pub(super) fn adopt(&mut self, listing: Listing) {
        self.listing = listing;
        (self.probe.models.answered, self.probe.ready.answered) = (true, true);
        (self.has_answered, self.has_kept_answers) = (true, true);
    }

    /// Its list of models.
    pub(super) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Applies the source's new report.
    pub(super) fn update(&mut self, spec: ServerSpec, reported: ServerState, now: Instant) {
        let other_run = self.spec.incarnation != spec.incarnation;
        if other_run || asked_otherwise(&self.spec, &spec) {
            self.ask_anew(now);
        } else if self.reported != ServerState::Ready && reported == ServerState::Ready {
            // Ready again: its models are probed at once.
            self.probe.due = now;
        }
        if self.withdrawn.as_ref().is_some_and(|w| !w.until_restart || other_run) {
            self.withdrawn = None;
        }
        if self.spec != spec {
            self.told = None;
        }
        self.spec = spec;
        self.reported = reported;
        self.gone_since = None;
        self.kept_until = None;
    }

    /// Discards its answers so far.
    pub(super) fn ask_anew(&mut self, now: Instant) {
        let under_way = self.probe.under_way;
        (self.has_answered, self.has_kept_answers) = (false, false);
        self.probe = Probe { under_way, ..Probe::new(now) };
        self.silent_since = None;
    }

    pub(super) fn state(&self) -> ServerState {
        if self.reported != ServerState::Ready {
            return self.reported.clone();
        }
        if let Some(withdrawal) = &self.withdrawn {
            return withdrawal.state();
        }
        let Probe { models, ready, .. } = &self.probe;
        let asks_ready = self.spec.settings.ready_path.is_some();
        if !models.answered {
            return ServerState::Starting(models.error_or(LifecycleFinding::ModelsNotAsked));
        }
        if asks_ready && !ready.answered {
            return ServerState::Starting(ready.error_or(LifecycleFinding::ReadyNotAsked));
        }
        let models = models.withdraws().filter(|_| self.spec.health == HealthMode::Probe);
        if let Some(why) = models.or_else(|| ready.withdraws().filter(|_| asks_ready)) {
            return ServerState::Draining(why);
        }
        ServerState::Ready
    }

    /// Whether any model of it is known.
    pub(super) fn has_models(&self) -> bool {
        !self.listing.cards.is_empty()
    }

    /// The server's record for the catalogue.
    pub(super) fn record(&mut self, state: ServerState) -> Arc<ServerRecord> {
        if let Some(told) = self.told.as_ref().filter(|told| told.state == state) {
            return Arc::clone(told);
        }
        let record = Arc::new(ServerRecord {
            spec: self.spec.clone(),
            state,
            listed_as: self.listing.kind,
            has_others: self.listing.has_others,
            models: self.listing.cards.clone(),
        });
        self.told = Some(Arc::clone(&record));
        record
    }

    pub(super) fn can_be_asked(&self) -> bool {
        self.reported == ServerState::Ready && self.withdrawn.is_none()
    }

    /// Applies its answers; returns whether its record changes.
    pub(super) fn answered(&mut self, mut answers: Answers, loading_time: Duration, now: Instant) -> bool {
        let before = (self.state(), self.problems());
        self.note_silence(&mut answers, loading_time, now);
        self.take(answers, now);
        self.told.is_none() || before != (self.state(), self.problems())
    }

    /// Says of each probe that nothing answered what that means. A server of the configuration counts as silent since Modelgate has
    /// looked for it, a container since it was started.
    fn note_silence(&mut self, answers: &mut Answers, loading_time: Duration, now: Instant) {
        let silence = |finding: &&mut ProbeFinding| finding.is_silence();
        self.silent_since = match answers.models.as_mut().err().filter(silence) {
            Some(_) if !self.probe.models.answered => self.silent_since.or(Some(now)),
            _ => None,
        };
        let silent_for = self.silent_since.map(|since| now.saturating_duration_since(since));
        let has_lasted = silent_for.is_some_and(|silent| silent.max(answers.run_for) >= loading_time);
        let means = match self.spec.source.origin() {
            Origin::File if has_lasted => Silence::Lasting,
            _ if self.has_answered => Silence::AfterAnswers,
            _ if has_lasted => Silence::Lasting,
            _ => Silence::New,
        };
        let ready = answers.ready.as_mut().and_then(|ready| ready.as_mut().err());
        let findings = answers.models.as_mut().err().into_iter().chain(ready);
        findings.filter(silence).for_each(|finding| finding.asked.silence = means);
    }

    fn take(&mut self, answers: Answers, now: Instant) {
        self.probe.under_way = false;
        self.probe.asked = true;
        let fails = answers.models.is_err() || answers.ready.as_ref().is_some_and(Result::is_err);
        if std::mem::take(&mut self.has_kept_answers) && fails {
            // What it answered before Modelgate's start counts only if it still does.
            (self.probe.models, self.probe.ready) = Default::default();
        }
        let models = match answers.models {
            Ok(mut listing) => {
                self.probe.models.succeeded();
                self.has_answered = true;
                keep_times(&mut listing, &self.listing);
                if self.listing != listing {
                    self.listing = listing;
                    self.told = None;
                }
                if self.spec.health == HealthMode::Probe { LIVENESS } else { REFRESH }
            }
            Err(finding) => self.probe.models.failed(finding.into()),
        };
        let ready = match answers.ready {
            None => REFRESH,
            Some(Ok(())) => {
                self.probe.ready.succeeded();
                LIVENESS
            }
            Some(Err(finding)) => self.probe.ready.failed(finding.into()).min(LIVENESS),
        };
        self.probe.due = now + models.min(ready);
    }

    pub(super) fn gone(&mut self, state: ServerState, now: Instant) {
        self.reported = state;
        self.kept_until = None;
        self.gone_since.get_or_insert(now);
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        if !self.can_be_asked() {
            return Vec::new();
        }
        let origin = self.spec.source.origin();
        let problem = |finding| match origin {
            Origin::Docker => Problem::container(&self.spec.name, finding),
            Origin::File => Problem::server(&self.spec.name, finding),
        };
        let Probe { models, ready, .. } = &self.probe;
        let is_empty = models.answered && self.listing.cards.is_empty();
        let left_out = self.listing.left_out.iter().cloned();
        let found = left_out.map(Finding::from).chain(models.error().cloned()).chain(ready.error().cloned());
        let none = is_empty.then(|| ListingFinding::NoModels(origin).into());
        let mut problems: Vec<Problem> = found.chain(none).map(problem).collect();
        // An unreachable server fails both probes for the same reason.
        problems.dedup();
        problems
    }
}

/// Whether a server's earlier answers do not apply to its new description.
fn asked_otherwise(before: &ServerSpec, now: &ServerSpec) -> bool {
    let of = |spec: &ServerSpec| {
        let settings = &spec.settings;
        let ready = (settings.ready_path.clone(), settings.ready_contains.clone());
        (spec.url.clone(), spec.base_path.clone(), spec.models.clone(), spec.credential.clone(), ready)
    };
    of(before) != of(now)
}
