//! What operators are told about containers, servers and sources, as values: what was found, how much it matters, and what to
//! do about it.
//!
//! Findings are passed on and compared as values. They become text only where somebody reads them: `Display` says what is
//! wrong, [`Finding::advice`] what to do. Programs use the [`code`](Finding::code), which stays the same when the text changes.
//!
//! Each topic has a file. Its matches name every variant, so that a new finding does not compile without a code, a severity, a
//! text and advice.

mod address;
mod docker;
mod door;
mod label;
mod lifecycle;
mod listing;
mod probe;
mod setting;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt};

pub use address::{AddressFinding, AskedFor, DockerHost};
pub use docker::DockerFinding;
pub use door::{Behind, DoorFinding, LabelledRouter};
pub use label::LabelFinding;
pub use lifecycle::LifecycleFinding;
pub use listing::ListingFinding;
pub use probe::{NoConnection, ProbeFault, ProbeFinding, ProbedServer, Silence};
pub use setting::{BranchFault, BranchKind, PickFault, SettingFinding};

/// How much something matters, in the words of the pages, the API, `/readyz`, metrics and alerts. The worst is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Requests fail, a server is lost, or somebody can do more than they may.
    Bad,
    /// Something is not as intended.
    Warn,
    /// Something may be intended. Hints are kept apart from problems ([`Catalogue::hints`](crate::Catalogue::hints)), and do not count
    /// as wrong.
    Hint,
}

impl Severity {
    /// In one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Hint => "hint",
        }
    }
}

/// One thing that an operator is told: a problem, a hint, or why a server is not ready. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// A label is wrong.
    Label(LabelFinding),
    /// Traefik cannot reach a server at any address.
    Address(AddressFinding),
    /// An answer of a Docker Engine or a Swarm, or its absence.
    Docker(DockerFinding),
    /// Whether a server runs, according to its source, its HEALTHCHECK or an operator.
    Lifecycle(LifecycleFinding),
    /// A server's answer to a probe.
    Probe(ProbeFinding),
    /// A fault in a server's list of models.
    Listing(ListingFinding),
    /// Settings that contradict what the servers are.
    Setting(SettingFinding),
    /// A way past Modelgate.
    Door(DoorFinding),
}

/// What the table of findings has for each.
#[derive(Debug, Clone, Copy)]
struct Facts {
    code: &'static str,
    severity: Severity,
    /// How much it matters at a server that is ready all the same.
    at_ready: Severity,
    may_pass: bool,
}

impl Facts {
    const fn hint(code: &'static str) -> Self {
        Self { code, severity: Severity::Hint, at_ready: Severity::Hint, may_pass: false }
    }

    /// It keeps a server, or part of it, from being routed.
    const fn fault(code: &'static str) -> Self {
        Self { code, severity: Severity::Bad, at_ready: Severity::Warn, may_pass: false }
    }

    /// Somebody can do more than they were allowed to.
    const fn danger(code: &'static str) -> Self {
        Self { code, severity: Severity::Bad, at_ready: Severity::Bad, may_pass: false }
    }

    /// The finding may disappear without anybody doing anything.
    const fn passing(self) -> Self {
        Self { may_pass: true, ..self }
    }

    /// Like `passing`, where that depends on more than the variant.
    const fn passing_if(self, may_pass: bool) -> Self {
        Self { may_pass, ..self }
    }
}

impl Finding {
    fn facts(&self) -> Facts {
        match self {
            Self::Label(finding) => finding.facts(),
            Self::Address(finding) => finding.facts(),
            Self::Docker(finding) => finding.facts(),
            Self::Lifecycle(finding) => finding.facts(),
            Self::Probe(finding) => finding.facts(),
            Self::Listing(finding) => finding.facts(),
            Self::Setting(finding) => finding.facts(),
            Self::Door(finding) => finding.facts(),
        }
    }

    /// The name for programs, such as `no_shared_network`. It stays the same when the text changes.
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// How much it matters, unless it is about a server that is ready all the same.
    pub fn severity(&self) -> Severity {
        self.facts().severity
    }

    /// How much it matters if it is about a server that is ready all the same.
    pub fn severity_at_ready(&self) -> Severity {
        self.facts().at_ready
    }

    /// Whether a server that is still loading may have this finding: it does not listen yet, is slow, or says itself that it is
    /// not ready. False for a wrong label, or an answer such as 401 or 404, which somebody must mend; also false for a server
    /// that cannot be reached although its HEALTHCHECK passes.
    pub fn may_pass_by_itself(&self) -> bool {
        self.facts().may_pass
    }

    /// Whether nothing has answered, be it that the connection was refused or that no answer came in time.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Probe(finding) if finding.is_silence())
    }

    /// Whether a server that has this answers, and cannot be used until somebody changes it or its configuration.
    pub fn needs_a_change(&self) -> bool {
        matches!(self, Self::Probe(finding) if finding.needs_a_change())
    }

    /// What to do about it.
    pub fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::Label(finding) => finding.advice(),
            Self::Address(finding) => finding.advice(),
            Self::Docker(finding) => finding.advice(),
            Self::Lifecycle(finding) => finding.advice(),
            Self::Probe(finding) => finding.advice(),
            Self::Listing(finding) => finding.advice(),
            Self::Setting(finding) => finding.advice(),
            Self::Door(finding) => finding.advice(),
        }
    }

    /// All allowed values, where the text ends with a list as long as a page. `{:#}` formats the text without the list.
    pub fn choices(&self) -> Option<String> {
        match self {
            Self::Label(finding) => finding.choices(),
            Self::Address(_)
            | Self::Docker(_)
            | Self::Lifecycle(_)
            | Self::Probe(_)
            | Self::Listing(_)
            | Self::Setting(_)
            | Self::Door(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(finding) => finding.fmt(f),
            Self::Address(finding) => finding.fmt(f),
            Self::Docker(finding) => finding.fmt(f),
            Self::Lifecycle(finding) => finding.fmt(f),
            Self::Probe(finding) => finding.fmt(f),
            Self::Listing(finding) => finding.fmt(f),
            Self::Setting(finding) => finding.fmt(f),
            Self::Door(finding) => finding.fmt(f),
        }
    }
}

impl From<LabelFinding> for Finding {
    fn from(finding: LabelFinding) -> Self {
        Self::Label(finding)
    }
}

impl From<AddressFinding> for Finding {
    fn from(finding: AddressFinding) -> Self {
        Self::Address(finding)
    }
}

impl From<DockerFinding> for Finding {
    fn from(finding: DockerFinding) -> Self {
        Self::Docker(finding)
    }
}

impl From<LifecycleFinding> for Finding {
    fn from(finding: LifecycleFinding) -> Self {
        Self::Lifecycle(finding)
    }
}

impl From<ProbeFinding> for Finding {
    fn from(finding: ProbeFinding) -> Self {
        Self::Probe(finding)
    }
}

impl From<ListingFinding> for Finding {
    fn from(finding: ListingFinding) -> Self {
        Self::Listing(finding)
    }
}

impl From<SettingFinding> for Finding {
    fn from(finding: SettingFinding) -> Self {
        Self::Setting(finding)
    }
}

impl From<DoorFinding> for Finding {
    fn from(finding: DoorFinding) -> Self {
        Self::Door(finding)
    }
}
