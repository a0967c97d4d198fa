//! Findings together with the container, server or source that they are about.

use std::fmt;

use crate::{Finding, Severity};

/// What a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemSubject {
    /// A container, by its name.
    Container(String),
    /// A server, by its name.
    Server(String),
    /// A source of servers as a whole, such as a Docker host.
    Source(String),
}

/// A fault that keeps a server, or part of it, from being routed, or a way past Modelgate. Everything else keeps working.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What it is about.
    pub subject: ProblemSubject,
    /// What was found.
    pub finding: Finding,
}

impl Problem {
    /// A problem of a container.
    pub fn container(name: &str, finding: impl Into<Finding>) -> Self {
        Self { subject: ProblemSubject::Container(name.into()), finding: finding.into() }
    }

    /// A problem of a server.
    pub fn server(name: &str, finding: impl Into<Finding>) -> Self {
        Self { subject: ProblemSubject::Server(name.into()), finding: finding.into() }
    }

    /// A problem of a whole source.
    pub fn source(name: &str, finding: impl Into<Finding>) -> Self {
        Self { subject: ProblemSubject::Source(name.into()), finding: finding.into() }
    }

    /// Whether it may be intended.
    pub fn is_hint(&self) -> bool {
        self.finding.severity() == Severity::Hint
    }
}

impl fmt::Display for ProblemSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container {name}"),
            Self::Server(name) => write!(f, "server {name}"),
            Self::Source(name) => write!(f, "source {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.finding)
    }
}
