//! All known servers, with everything that decides their state.
//!
//! No I/O: the reconcile loop reports changes to it and asks what is due. Time is passed in.

mod entry;
mod kept;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{
    Blind, Catalogue, Configured, Cordons, DockerFinding, DockerHost, DoorFinding, Interpretation, Labelled,
    LifecycleFinding, ModelOverrides, NetworkView, OwnRouter, Problem, ServerId, ServerSpec, ServerState,
    TraefikSeen, interpret, interpret_task,
};

use crate::{
    docker::{HostName, Survey, Withdrawal, given_name, source_name},
    probe::Answers,
};
use entry::DockerRecord;
use entry::Entry;
pub(crate) use kept::KeptServer;

/// How long requests for the models of a vanished server are answered with 503 (come back later) instead of 404 (unknown model).
const LINGER: Duration = Duration::from_secs(60);
/// The maximum number of containers named in one problem.
const MOST_NAMES: usize = 5;

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Model settings from the configuration file.
    models: ModelOverrides,
    /// The servers that operators have cordoned.
    cordons: Cordons,
    /// How long a server may take to load before it answers anything.
    loading_time: Duration,
    /// The names of models that were there before Modelgate's start, and when that was.
    remembered: Arc<BTreeSet<String>>,
    started: Option<Instant>,
    is_returning: bool,
    entries: BTreeMap<ServerId, Entry>,
    hosts: BTreeMap<HostName, HostReport>,
    /// Servers are known from before Modelgate's start.
    has_adopted: bool,
    /// Something has happened since the last catalogue that may have changed it.
    has_news: bool,
}

/// A Docker host's problems and containers.
#[derive(Debug, Default)]
struct HostReport {
    unreachable: Option<Problem>,
    found: Vec<Problem>,
    /// All labelled containers.
    labelled: Vec<Labelled>,
    /// Containers for which Traefik may make default routers, and why that cannot be decided.
    undecided: BTreeSet<String>,
    blind: Option<Blind>,
    routers: Vec<OwnRouter>,
    traefiks: Vec<TraefikSeen>,
    /// From where its servers are reached; `None` until it has been surveyed.
    network_view: Option<NetworkView>,
}

impl DockerRecord {
    /// Reads the record: which server it is, and what Modelgate makes of it.
    fn read(&self, network_view: &NetworkView) -> (ServerId, Labelled, Interpretation, Vec<Problem>) {
        match self {
            Self::Container(c) => {
                let (what, problems) = interpret(c, network_view);
                (ServerId::docker(&c.id), Labelled::container(c, &what), what, problems)
            }
            Self::Task(t) => {
                let (what, problems) = interpret_task(t, network_view);
                (ServerId::docker(&t.id), Labelled::task(t, &what), what, problems)
            }
        }
    }
}

impl Inventory {
    /// Applies a survey of a Docker host.
    pub(crate) fn surveyed(
        &mut self,
        host: &HostName,
        survey: Survey,
        withdrawn_meanwhile: Vec<Withdrawal>,
        now: Instant,
    ) {
        self.has_news = true;
        let Survey {
            containers,
            tasks,
            network_view,
            unread,
            problems,
            undecided,
            blind,
            routers,
            traefiks,
            ..
        } = survey;
        let mut found = problems;
        let mut seen: HashSet<ServerId> = unread.iter().map(|id| ServerId::docker(id)).collect();
        let (mut elsewhere, mut labelled) = (None, Vec::new());
        let seen_now = containers
            .into_iter()
            .map(DockerRecord::Container)
            .chain(tasks.into_iter().map(DockerRecord::Task));
        for record in seen_now {
            let (id, label, what, problems) = record.read(&network_view);
            if let Some(other) = self.is_of_another(&id, host) {
                elsewhere = Some(other);
                continue;
            }
            found.extend(problems);
            labelled.push(label);
            match what {
                Interpretation::NotEnabled | Interpretation::Rejected => continue,
                Interpretation::Down(state) => self.down(&id, state, now),
                Interpretation::Server(spec, state) => self.up(host, *spec, state, record, now),
            }
            seen.insert(id);
        }
        found.extend(elsewhere.map(|other| same_engine(host, &other)));
        for (id, entry) in &mut self.entries {
            if entry.host.as_ref() == Some(host) && !seen.contains(id) {
                entry.gone(ServerState::Stopped(LifecycleFinding::Gone.into()), now);
            }
        }
        for withdrawal in withdrawn_meanwhile {
            self.withdraw(withdrawal);
        }
        let report = HostReport {
            unreachable: None,
            found,
            labelled,
            undecided,
            blind,
            routers,
            traefiks,
            network_view: Some(network_view),
        };
        self.hosts.insert(host.clone(), report);
    }

    /// The other host that already shows this server, if any.
    fn is_of_another(&self, id: &ServerId, host: &HostName) -> Option<HostName> {
        let entry = self.entries.get(id).filter(|entry| entry.gone_since.is_none())?;
        entry.host.clone().filter(|other| other != host)
    }

    fn up(
        &mut self,
        host: &HostName,
        spec: ServerSpec,
        state: ServerState,
        seen: DockerRecord,
        now: Instant,
    ) {
        let new = || Entry::new(spec.clone(), Some(host.clone()), state.clone(), now);
        let entry = self.entries.entry(spec.id.clone()).or_insert_with(new);
        entry.host = Some(host.clone());
        entry.update(spec, state, now);
        entry.seen = Some(seen);
    }

    fn down(&mut self, id: &ServerId, state: ServerState, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        match state {
            ServerState::Stopped(_) => entry.gone(state, now),
            _ => entry.reported = state,
        }
    }

    /// Withdraws a server from requests. A server that is not known yet will be surveyed anyway.
    pub(crate) fn withdraw(&mut self, withdrawal: Withdrawal) {
        let Some(entry) = self.entries.get_mut(&ServerId::docker(&withdrawal.id)) else { return };
        let keep = entry.withdrawn.as_ref().is_some_and(|w| w.until_restart && !withdrawal.until_restart);
        if !keep {
            if entry.reported != ServerState::Ready && withdrawal.reason.has_ended() {
                // The source's last report no longer holds: the server is neither starting nor unhealthy.
                entry.reported = withdrawal.state();
            }
            entry.withdrawn = Some(withdrawal);
            self.has_news = true;
        }
    }

    /// A container or task has started; withdrawals of its last run no longer apply.
    pub(crate) fn started(&mut self, id: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&ServerId::docker(id)) {
            entry.withdrawn = None;
            entry.reported = ServerState::Starting(LifecycleFinding::JustStarted.into());
            entry.ask_anew(now);
            self.has_news = true;
        }
    }

    /// A Docker host does not answer; what is known of it, and of the others, is kept.
    pub(crate) fn unreachable(&mut self, host: &HostName, endpoint: &str, error: &str) {
        let finding = DockerFinding::Silent {
            host: DockerHost(given_name(host).map(str::to_owned)),
            endpoint: endpoint.to_owned(),
            error: error.to_owned(),
        };
        let problem = Problem::source(&source_name(host), finding);
        self.hosts.entry(host.clone()).or_default().unreachable = Some(problem);
        self.has_news = true;
    }

    /// Applies the servers of the configuration file.
    pub(crate) fn configured(&mut self, configured: &Configured, now: Instant) {
        let specs = &configured.servers;
        self.has_news = true;
        self.models = configured.models.clone();
        self.loading_time = configured.loading_time;
        self.started.get_or_insert(now);
        self.entries.retain(|id, e| e.host.is_some() || specs.iter().any(|s| s.id == *id));
        for spec in specs {
            match self.entries.get_mut(&spec.id) {
                Some(entry) => entry.update(spec.clone(), ServerState::Ready, now),
                None => {
                    let entry = Entry::new(spec.clone(), None, ServerState::Ready, now);
                    self.entries.insert(spec.id.clone(), entry);
                }
            }
        }
    }

    /// Applies the operators' cordons.
    pub(crate) fn cordon(&mut self, cordons: Cordons) {
        self.cordons = cordons;
        self.has_news = true;
    }

    /// Applies the names of models that were there before Modelgate's start.
    pub(crate) fn remember(&mut self, names: Arc<BTreeSet<String>>) {
        self.is_returning = !names.is_empty();
        self.remembered = names;
        self.has_news = true;
    }

    /// Until when any of those models may come back.
    fn returning_until(&self) -> Option<Instant> {
        let started = self.started.filter(|_| !self.remembered.is_empty())?;
        started.checked_add(self.loading_time)
    }

    /// The servers that are due for a probe; their probes count as under way from now on.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<ServerSpec> {
        let due = |e: &&mut Entry| e.can_be_asked() && !e.probe.under_way && e.probe.due <= now;
        let ask = |e: &mut Entry| {
            e.probe.under_way = true;
            e.spec.clone()
        };
        self.entries.values_mut().filter(due).map(ask).collect()
    }

    /// Applies a server's answers.
    pub(crate) fn answered(&mut self, asked: &ServerSpec, answers: Answers, now: Instant) {
        let Some(entry) = self.entries.get_mut(&asked.id) else { return };
        if entry.spec == *asked {
            self.has_news |= entry.answered(answers, self.loading_time, now);
        } else {
            // The server has restarted or moved since; the answer says nothing about this run.
            entry.probe.under_way = false;
            entry.probe.due = now;
        }
    }

    /// Forgets vanished servers whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        let before = self.entries.len();
        self.entries.retain(|_, e| e.gone_since.is_none_or(|since| now < since + LINGER));
        self.has_news |= self.entries.len() != before;
        for entry in self.entries.values_mut().filter(|e| e.kept_until.is_some_and(|until| until <= now)) {
            entry.gone(ServerState::Stopped(LifecycleFinding::Gone.into()), now);
            self.has_news = true;
        }
        if self.is_returning && self.returning_until().is_none_or(|until| until <= now) {
            (self.is_returning, self.has_news) = (false, true);
        }
    }

    /// The next time at which something is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let probe = |e: &Entry| (e.can_be_asked() && !e.probe.under_way).then_some(e.probe.due);
        let linger = |e: &Entry| e.gone_since.map(|since| since + LINGER);
        let returning = self.returning_until().filter(|_| self.is_returning);
        self.entries
            .values()
            .flat_map(|e| [probe(e), linger(e), e.kept_until])
            .flatten()
            .chain(returning)
            .min()
    }

    /// Whether every server that can be probed has been probed at least once.
    pub(crate) fn all_asked(&self) -> bool {
        self.entries.values().all(|e| !e.can_be_asked() || e.probe.asked)
    }

    /// Whether it has servers that are known from before Modelgate's start.
    pub(crate) fn has_adopted(&self) -> bool {
        self.has_adopted
    }

    /// Whether a model has a server that is ready.
    pub(crate) fn serves_something(&self) -> bool {
        self.entries.values().any(|e| self.state(e) == ServerState::Ready && e.has_models())
    }

    /// The server's own state, unless an operator has cordoned it.
    fn state(&self, entry: &Entry) -> ServerState {
        state(&self.cordons, entry)
    }

    /// Whether something has happened since the last catalogue that may have changed it. Probes repeat for ever, and mostly
    /// give the same answer.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news
    }

    /// Assembles everything known into a catalogue.
    pub(crate) fn catalogue(&mut self) -> Catalogue {
        self.has_news = false;
        let mut problems: Vec<Problem> = self.entries.values().flat_map(Entry::problems).collect();
        let of_hosts = self.hosts.values().flat_map(|h| h.unreachable.iter().chain(&h.found));
        problems.extend(of_hosts.cloned());
        problems.extend(self.blind_spot());
        problems.extend(self.unsurveyed());
        let record = |entry: &mut Entry| entry.record(state(&self.cordons, entry));
        let catalogue =
            Catalogue::assemble_with(self.entries.values_mut().map(record), problems, &self.models);
        let hosts = || self.hosts.values();
        catalogue
            .with_containers(hosts().flat_map(|host| host.labelled.clone()).collect())
            .with_remembered(Arc::clone(&self.remembered), self.is_returning)
            .with_traefiks(hosts().flat_map(|host| host.traefiks.clone()).collect())
            .with_own_routers(hosts().flat_map(|host| host.routers.clone()).collect())
    }
}

impl Inventory {
    /// The Docker hosts that do not answer.
    pub(crate) fn unreachable_hosts(&self) -> Vec<Problem> {
        self.hosts.values().filter_map(|host| host.unreachable.clone()).collect()
    }

    /// Hints about the hosts of which only what was known before Modelgate's start is known.
    fn unsurveyed(&self) -> Vec<Problem> {
        let mut kept: BTreeMap<&HostName, usize> = BTreeMap::new();
        for host in self.entries.values().filter(|e| e.kept_until.is_some()).filter_map(|e| e.host.as_ref()) {
            *kept.entry(host).or_default() += 1;
        }
        let hint = |(host, servers): (&HostName, usize)| {
            Problem::source(&source_name(host), DockerFinding::Kept { servers })
        };
        kept.into_iter().map(hint).collect()
    }

    /// The hint, given once for all hosts, that Traefik's default routers cannot be seen.
    fn blind_spot(&self) -> Option<Problem> {
        let hidden = self.hosts.values().find_map(|host| match &host.blind {
            Some(Blind::Hidden(traefik)) => Some(traefik),
            _ => None,
        });
        // A Traefik makes routers for the containers of its own host.
        let is_seen = self.hosts.values().any(|host| host.blind.is_none());
        let counts = |host: &&HostReport| match host.blind {
            Some(Blind::Hidden(_)) => true,
            Some(Blind::NoTraefik) => hidden.is_none() && !is_seen,
            None => false,
        };
        let names: BTreeSet<&str> =
            self.hosts.values().filter(counts).flat_map(|host| &host.undecided).map(String::as_str).collect();
        let why = hidden.map_or(Blind::NoTraefik, |traefik| Blind::Hidden(traefik.clone()));
        let first = names.iter().copied().take(MOST_NAMES).map(str::to_owned).collect();
        let more = names.len().saturating_sub(MOST_NAMES);
        let finding = DoorFinding::TraefikUnseen { why, names: first, more };
        (!names.is_empty()).then(|| Problem::source("Traefik", finding))
    }
}

fn state(cordons: &Cordons, entry: &Entry) -> ServerState {
    match (entry.state(), cordons.of(&entry.spec)) {
        (ServerState::Ready, Some(cordon)) => ServerState::Draining(cordon.finding()),
        (state, _) => state,
    }
}

fn same_engine(host: &str, other: &str) -> Problem {
    Problem::source(&source_name(host), DockerFinding::SameEngine { other: source_name(other) })
}

#[cfg(test)]
mod tests;
