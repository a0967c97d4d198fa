//! Servers' answers to Modelgate's probes: which models they have, and whether they are ready.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use super::Facts;
use crate::{HealthMode, ListingError, MAX_LISTING_BYTES, Origin, ServerSpec, ServerUrl};

/// A probe that a server did not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeFinding {
    /// The server that was probed.
    pub asked: ProbedServer,
    /// What went wrong.
    pub fault: ProbeFault,
}

/// The parts of a server that the text about its answers needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbedServer {
    /// Where it listens.
    pub url: ServerUrl,
    /// Where its settings stand.
    pub origin: Origin,
    /// It has been sent a credential.
    pub has_credential: bool,
    /// Its HEALTHCHECK passes: it is probed only then. The text says so, since `docker ps` shows the server as healthy.
    pub is_healthy: bool,
    /// What it means if it does not answer.
    pub silence: Silence,
}

/// What is known of a server that does not answer, and therefore what its silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Silence {
    /// It has not had as much time as a server may take to load (`requests.loading_time`), so it may be loading.
    New,
    /// It has had more time than that. A server of the configuration is not waited for any more: it may not exist. A container
    /// runs, at least.
    Lasting,
    /// It has answered before, so it has loaded: it has failed, or is starting anew.
    AfterAnswers,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoConnection {
    /// Nothing listens at the port: the server has not opened it yet, has failed, or listens elsewhere.
    Refused,
    /// The name of its host cannot be looked up.
    NameNotFound,
    /// No packet gets to its host or network.
    NoRoute,
    /// Something answers, but not in TLS as Modelgate speaks it. Certificates that are not trusted are
    /// [`ProbeFault::Untrusted`].
    Tls,
    /// Another error of the system, which the text quotes.
    Other,
}

/// What went wrong with a probe. A `path` is the probe's path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeFault {
    /// There is no connection.
    CannotConnect {
        /// What keeps it from being made.
        why: NoConnection,
        /// The client's error.
        cause: Arc<str>,
    },
    /// Its TLS certificate is not trusted, or not for this host or time.
    Untrusted {
        /// The client's error.
        cause: Arc<str>,
    },
    /// It does not answer in time.
    TimedOut {
        /// How long Modelgate waited.
        after: Duration,
    },
    /// The connection ended before an answer came.
    BrokeOff {
        /// The client's error.
        cause: Arc<str>,
    },
    /// The connection ended in the middle of the answer.
    AnswerBrokeOff {
        /// What was asked for.
        path: Arc<str>,
    },
    /// The answer is longer than a list of models may be ([`MAX_LISTING_BYTES`](crate::MAX_LISTING_BYTES)).
    AnswerTooLong {
        /// What was asked for.
        path: Arc<str>,
    },
    /// It demands a credential (401 or 403): it got none, or a wrong one.
    Unauthorized {
        /// What was asked for.
        path: Arc<str>,
        /// The HTTP status.
        status: u16,
    },
    /// It has no list of models there (404 or 405).
    NoModelList {
        /// What was asked for.
        path: Arc<str>,
        /// The HTTP status.
        status: u16,
    },
    /// Another status in answer to the request for its list of models.
    Status {
        /// What was asked for.
        path: Arc<str>,
        /// The HTTP status.
        status: u16,
    },
    /// A status of 500 or more from a server whose models are given by hand, so that only its answering was probed.
    Fails {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not a list of models.
    NotAListing {
        /// What was asked for.
        path: Arc<str>,
        /// Why it is not.
        error: ListingError,
    },
    /// `ready.path` answers with a status that is not 2xx.
    NotReady {
        /// `ready.path`.
        path: Arc<str>,
        /// The HTTP status.
        status: u16,
    },
    /// The answer of `ready.path` does not contain `ready.contains`.
    LacksText {
        /// `ready.path`.
        path: Arc<str>,
        /// The HTTP status.
        status: u16,
        /// `ready.contains`.
        wanted: Arc<str>,
    },
}

impl ProbedServer {
    /// Of a server that is being probed.
    pub fn of(spec: &ServerSpec) -> Self {
        Self {
            url: spec.url.clone(),
            origin: spec.source.origin(),
            has_credential: spec.credential.is_some(),
            is_healthy: spec.health == HealthMode::Docker,
            silence: Silence::New,
        }
    }

    /// Whether it is not waited for any more.
    fn is_lost(&self) -> bool {
        self.silence == Silence::Lasting && self.origin == Origin::File
    }
}

impl ProbeFinding {
    /// Whether nothing has answered: a server that is loading may not listen yet.
    pub fn is_silence(&self) -> bool {
        match self.fault {
            ProbeFault::CannotConnect { why, .. } => why != NoConnection::Tls,
            ProbeFault::TimedOut { .. } | ProbeFault::BrokeOff { .. } => true,
            _ => false,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let is_503 = |status: &u16| *status == 503;
        // A server whose HEALTHCHECK passes has loaded: waiting does not make it answer here.
        let may_load = !self.asked.is_healthy && !self.asked.is_lost();
        match &self.fault {
            ProbeFault::CannotConnect { .. } => {
                Facts::fault("cannot_connect").passing_if(may_load && self.is_silence())
            }
            ProbeFault::Untrusted { .. } => Facts::fault("certificate_untrusted"),
            ProbeFault::TimedOut { .. } => Facts::fault("timed_out").passing_if(may_load),
            ProbeFault::BrokeOff { .. } => Facts::fault("connection_broke_off").passing_if(may_load),
            ProbeFault::AnswerBrokeOff { .. } => Facts::fault("answer_broke_off").passing_if(may_load),
            ProbeFault::AnswerTooLong { .. } => Facts::fault("answer_too_long"),
            ProbeFault::Unauthorized { .. } if self.asked.has_credential => {
                Facts::fault("credential_rejected")
            }
            ProbeFault::Unauthorized { .. } => Facts::fault("credential_wanted"),
            ProbeFault::NoModelList { .. } => Facts::fault("no_model_list"),
            ProbeFault::Status { status, .. } => Facts::fault("models_status").passing_if(is_503(status)),
            ProbeFault::Fails { status } => Facts::fault("server_error").passing_if(is_503(status)),
            ProbeFault::NotAListing { .. } => Facts::fault("not_a_model_list"),
            ProbeFault::NotReady { status, .. } => {
                Facts::fault("not_ready_status").passing_if(is_503(status))
            }
            ProbeFault::LacksText { .. } => Facts::fault("not_ready_text").passing(),
        }
    }

    /// Whether the server answers, and will answer so until somebody changes something.
    pub(super) fn needs_a_change(&self) -> bool {
        match self.fault {
            ProbeFault::CannotConnect { why: NoConnection::Tls, .. }
            | ProbeFault::Unauthorized { .. }
            | ProbeFault::Untrusted { .. }
            | ProbeFault::NoModelList { .. }
            | ProbeFault::NotAListing { .. }
            | ProbeFault::AnswerTooLong { .. } => true,
            ProbeFault::CannotConnect { .. }
            | ProbeFault::TimedOut { .. }
            | ProbeFault::BrokeOff { .. }
            | ProbeFault::AnswerBrokeOff { .. }
            | ProbeFault::Status { .. }
            | ProbeFault::Fails { .. }
            | ProbeFault::NotReady { .. }
            | ProbeFault::LacksText { .. } => false,
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        let origin = self.asked.origin;
        match &self.fault {
            ProbeFault::CannotConnect { why, .. } => cannot_connect(&self.asked, *why).into(),
            ProbeFault::Untrusted { .. } => UNTRUSTED.into(),
            ProbeFault::TimedOut { .. } if self.asked.is_healthy => format!(
                "Its HEALTHCHECK, which asks from within the container, passes. So it is overloaded, or something between here \
                 and there drops what is sent, such as a firewall. Look at {}.",
                origin.log()
            )
            .into(),
            ProbeFault::TimedOut { .. } => format!(
                "It may {}be overloaded, or hang; or something between here and there drops what is sent. Look at {}.",
                if self.asked.silence == Silence::New { "be loading its model, " } else { "" },
                origin.log()
            )
            .into(),
            ProbeFault::BrokeOff { .. } | ProbeFault::AnswerBrokeOff { .. } => format!(
                "It takes the connection and then ends it: it may {}speak something else than {} there. Look at {}.",
                if self.asked.is_healthy { "" } else { "be starting anew, or " },
                if self.asked.url.is_https() { "https" } else { "plain HTTP" },
                origin.log()
            )
            .into(),
            ProbeFault::AnswerTooLong { .. } => format!("Name its models with {}.", origin.models()).into(),
            ProbeFault::Unauthorized { .. } => unauthorized(&self.asked).into(),
            ProbeFault::NoModelList { status: 405, .. } => {
                format!("Name its models with {}: it has no model list there.", origin.models()).into()
            }
            ProbeFault::NoModelList { .. } => format!(
                "The server has no model list there. Name its models with {} (a FastAPI application has no list), or set {} if \
                 its API is elsewhere.",
                origin.models(),
                origin.base_path()
            )
            .into(),
            ProbeFault::Status { status, .. } => answered(*status, origin),
            ProbeFault::Fails { status } => answered(*status, origin),
            ProbeFault::NotAListing { .. } => format!(
                "What answers there is no OpenAI-compatible API; check {} and {}. A server without a model list has its models \
                 named with {}.",
                origin.port(),
                origin.base_path(),
                origin.models()
            )
            .into(),
            ProbeFault::NotReady { status: 404 | 405, .. } => {
                format!("The server has nothing there: correct {}.", origin.setting("ready.path")).into()
            }
            ProbeFault::NotReady { .. } | ProbeFault::LacksText { .. } => format!(
                "It says itself that it is not ready; see ready.path and ready.contains {}, and {}.",
                match origin {
                    Origin::Docker => "among its labels",
                    Origin::File => "in its entry in servers",
                },
                origin.log()
            )
            .into(),
        }
    }
}

const UNTRUSTED: &str = "The server answers, but Modelgate does not trust its certificate, and Traefik would not either. Have it \
     signed for this host by a CA that both trust: give both a file with the CA in SSL_CERT_FILE. Or ask the server over plain http, \
     on a network that nobody else reads.";

fn cannot_connect(asked: &ProbedServer, why: NoConnection) -> &'static str {
    match (why, asked.origin) {
        (NoConnection::NameNotFound, Origin::Docker) => {
            "Nobody here knows the name of its Docker host: correct host_address of that host in the configuration. Or the name server does not \
             answer: then this passes."
        }
        (NoConnection::NameNotFound, Origin::File) => {
            "Nobody here knows the name of its host: correct its url in the configuration. The name of a Compose service is known only \
             while the service runs, and only on networks that Modelgate is on, too. Or the name server does not answer: then this passes."
        }
        (NoConnection::NoRoute, Origin::Docker) => {
            "No packet gets from here to that address. See whether its host is up, and whether Modelgate is on a network of the \
             container."
        }
        (NoConnection::NoRoute, Origin::File) => {
            "No packet gets from here to that address. See whether its host is up, whether Modelgate is on a network that leads there, \
             and whether its url in the configuration is right."
        }
        (NoConnection::Tls, _) => {
            "Something answers there, but TLS with it fails. If the server speaks plain HTTP, let its url begin with http://; else look at \
             its log."
        }
        (NoConnection::Other, _) => {
            "The system that Modelgate runs on gives this reason. See whether that address can be reached from there at all."
        }
        (NoConnection::Refused, _) => refused(asked),
    }
}

/// Advice where nothing listens.
fn refused(asked: &ProbedServer) -> &'static str {
    match (asked.origin, asked.silence) {
        (Origin::Docker, _) if asked.is_healthy => {
            "Its HEALTHCHECK passes within the container, but from here nothing answers at that port. Set the label \
             inference.port to the one that the server listens on, and let it listen on 0.0.0.0, not on 127.0.0.1."
        }
        (Origin::Docker, Silence::New) => {
            "The container runs, but nothing answers at that port. Set the label inference.port to the one that the server \
             listens on, and let it listen on 0.0.0.0, not on 127.0.0.1. A server that is still loading answers later by itself."
        }
        (Origin::Docker, Silence::Lasting) => {
            "The container has run for longer than a server may take to load, and nothing answers at that port. See in its log, docker logs \
             NAME, whether the server has failed. If it runs, set the label inference.port to the port that it listens on, and let it \
             listen on 0.0.0.0, not on 127.0.0.1."
        }
        (Origin::File, Silence::New) => {
            "Is the server running, does it listen on an address that can be reached from here, and is its url in the \
             configuration right? A server that is still loading answers later by itself."
        }
        (Origin::File, Silence::Lasting) => {
            "Is the server running, does it listen on an address that can be reached from here, and is its url in the \
             configuration right?"
        }
        (Origin::Docker, Silence::AfterAnswers) => {
            "The server in the container has failed, or is starting anew. Look at its log: docker logs NAME."
        }
        (Origin::File, Silence::AfterAnswers) => {
            "The server or its host has failed, or is starting anew. Look at its log."
        }
    }
}

fn unauthorized(asked: &ProbedServer) -> &'static str {
    match (asked.has_credential, asked.origin) {
        (true, _) => {
            "Correct its credential in its entry in servers: the secret that credential.env or credential.file names, or \
             credential.header if it takes it in another header. Modelgate reads the secret when it starts, so restart it then."
        }
        (false, Origin::File) => {
            "Give it one in its entry in servers: credential.env or credential.file says where the secret is. It is given to \
             nobody but Traefik: traefik.trusted_addresses or traefik.client_certificate says who that is. Modelgate checks the clients' keys, \
             and Traefik sends the server this one."
        }
        (false, Origin::Docker) => {
            "Start the server without an API key of its own; Modelgate checks the clients' keys. A server that must keep its \
             key is named in servers: in the configuration, with a credential, and not by labels."
        }
    }
}

/// Advice for a status that has nothing to do with the path.
fn answered(status: u16, origin: Origin) -> Cow<'static, str> {
    match status {
        300..=399 => format!(
            "Modelgate follows no redirects. Set {} and {} to where its API is.",
            origin.port(),
            origin.base_path()
        )
        .into(),
        429 => {
            "Modelgate's probes, one every few seconds, exceed the server's own rate limit: raise it.".into()
        }
        503 => format!(
            "It may still be loading its model. If this lasts, the server fails by itself; look at {}.",
            origin.log()
        )
        .into(),
        500..=599 => format!("The server fails by itself; look at {}.", origin.log()).into(),
        _ => format!(
            "Modelgate expects 200 there. Check {} and {}, and look at {}.",
            origin.port(),
            origin.base_path(),
            origin.log()
        )
        .into(),
    }
}

impl fmt::Display for ProbeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(f)?;
        match self.is_silence() && !self.asked.is_healthy {
            true => f.write_str(self.what_silence_means()),
            false => Ok(()),
        }
    }
}

impl ProbeFinding {
    /// The end of the text about a server that does not answer.
    fn what_silence_means(&self) -> &'static str {
        match (self.asked.silence, self.asked.origin) {
            (Silence::Lasting, Origin::File) => {
                "; it has not answered for longer than requests.loading_time, so nobody waits for its models"
            }
            (Silence::Lasting, Origin::Docker) => {
                "; its container has run for longer than requests.loading_time"
            }
            (Silence::AfterAnswers, _) => "; it has answered before",
            (Silence::New, _) => match self.fault {
                // Loading has nothing to do with it.
                ProbeFault::CannotConnect { why, .. } if why != NoConnection::Refused => "",
                _ => "; it may still be loading",
            },
        }
    }

    fn say(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.asked.url;
        if self.asked.is_healthy {
            f.write_str("healthy, but ")?;
        }
        match &self.fault {
            ProbeFault::CannotConnect { why, cause } => {
                let tls = if *why == NoConnection::Tls { "TLS: " } else { "" };
                write!(f, "cannot connect to {url}: {tls}{cause}")?;
                match (why, self.asked.origin) {
                    (NoConnection::NameNotFound | NoConnection::NoRoute, Origin::Docker) => Ok(()),
                    (_, origin) => write!(f, " (is {} right?)", origin.port()),
                }
            }
            ProbeFault::Untrusted { cause } => {
                write!(f, "the TLS certificate of {url} is not trusted: {cause}")
            }
            ProbeFault::TimedOut { after } => {
                write!(f, "{url} does not answer within {} s", after.as_secs())
            }
            ProbeFault::BrokeOff { cause } => write!(f, "{url} broke off: {cause}"),
            ProbeFault::AnswerBrokeOff { path } => {
                write!(f, "{}: the answer broke off", self.question(path))
            }
            ProbeFault::AnswerTooLong { path } => {
                write!(f, "{}: the answer is longer than {MAX_LISTING_BYTES} bytes", self.question(path))
            }
            ProbeFault::Unauthorized { path, status } => {
                let what = match (self.asked.has_credential, self.asked.origin) {
                    (true, _) => "it does not take its credential",
                    (false, Origin::File) => "it wants a credential; give it one in its entry of servers",
                    (false, Origin::Docker) => {
                        "it wants a credential; start it without one (Modelgate checks the keys)"
                    }
                };
                write!(f, "{} answers {status}: {what}", self.question(path))
            }
            ProbeFault::NoModelList { path, status } => {
                write!(f, "{} answers {status}: {}", self.question(path), without_list(self.asked.origin))
            }
            ProbeFault::Status { path, status } => write!(f, "{} answers {status}", self.question(path)),
            ProbeFault::Fails { status } => write!(f, "it answers {status}"),
            ProbeFault::NotAListing { path, error } => {
                write!(f, "{}: {error}; {}", self.question(path), without_list(self.asked.origin))
            }
            ProbeFault::NotReady { path, status } => {
                write!(f, "{} answers {status}, so it is not ready", self.question(path))
            }
            ProbeFault::LacksText { path, status, wanted } => write!(
                f,
                "{} answers {status} without {wanted:?} in it, so it is not ready",
                self.question(path)
            ),
        }
    }
}

impl ProbeFinding {
    /// The probe, in words.
    fn question(&self, path: &str) -> String {
        match self.asked.is_healthy {
            true => path.to_owned(),
            false => format!("GET {}{path}", self.asked.url),
        }
    }
}

fn without_list(origin: Origin) -> &'static str {
    match origin {
        Origin::Docker => {
            "set inference.models if it has no model list, or inference.api.base_path if its API is elsewhere"
        }
        Origin::File => "set models if it has no model list, or base_path if its API is elsewhere",
    }
}

impl Origin {
    /// The setting that says on which port it listens.
    fn port(self) -> &'static str {
        match self {
            Self::Docker => "inference.port",
            Self::File => "url",
        }
    }

    fn base_path(self) -> &'static str {
        match self {
            Self::Docker => "inference.api.base_path",
            Self::File => "base_path",
        }
    }

    /// The setting that names its models by hand.
    pub(super) fn models(self) -> &'static str {
        match self {
            Self::Docker => "the label inference.models",
            Self::File => "the key models of its entry in servers",
        }
    }

    fn log(self) -> &'static str {
        match self {
            Self::Docker => "its log: docker logs NAME",
            Self::File => "its log",
        }
    }

    pub(super) fn setting(self, key: &str) -> String {
        match self {
            Self::Docker => format!("the label inference.{key}"),
            Self::File => format!("the key {key} of its entry in servers"),
        }
    }
}
