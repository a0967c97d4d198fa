//! What is wrong, in words that name the culprit and what would be right; and hints at what may be.

use std::fmt;

/// Whom a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A container, by its name.
    Container(String),
    /// A server, by its name.
    Server(String),
    /// A source of servers as a whole, such as a Docker host.
    Source(String),
}

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It may be as the operator wants it. Hints are told apart from problems ([`Catalogue::hints`](crate::Catalogue::hints)).
    Hint,
    /// It keeps a server, or part of it, from being routed.
    Fault,
    /// Somebody gets more than was given to them.
    Danger,
}

impl Severity {
    /// In one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hint => "hint",
            Self::Fault => "fault",
            Self::Danger => "danger",
        }
    }
}

/// Something that keeps a server, or part of it, from being routed, or that leads past Modelgate. The rest lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whom it is about.
    pub subject: Subject,
    /// What was found and what is allowed, for the operator. Never holds a secret.
    pub message: String,
    /// How much it matters.
    pub severity: Severity,
}

impl Problem {
    /// A problem of a container.
    pub fn container(name: &str, message: impl Into<String>) -> Self {
        Self::of(Subject::Container(name.into()), message.into())
    }

    /// A problem of a server.
    pub fn server(name: &str, message: impl Into<String>) -> Self {
        Self::of(Subject::Server(name.into()), message.into())
    }

    /// A problem of a whole source.
    pub fn source(name: &str, message: impl Into<String>) -> Self {
        Self::of(Subject::Source(name.into()), message.into())
    }

    fn of(subject: Subject, message: String) -> Self {
        Self { subject, message, severity: Severity::Fault }
    }

    /// The same, as a hint only.
    #[must_use]
    pub fn hint(self) -> Self {
        Self { severity: Severity::Hint, ..self }
    }

    /// The same, as something that lets somebody get more than was given to them.
    #[must_use]
    pub fn danger(self) -> Self {
        Self { severity: Severity::Danger, ..self }
    }
}

impl fmt::Display for Subject {
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
        write!(f, "{}: {}", self.subject, self.message)
    }
}
