//! What a request has really used, as far as anybody has told.

use std::{sync::Arc, time::Duration};

use crate::{RequestId, RequestShape, ReservedTokens};

/// The last word about a request. Each reservation gets exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSettlement<T> {
    /// The request.
    pub request: RequestId,
    /// Its model.
    pub model: Arc<str>,
    /// What was asked for.
    pub shape: RequestShape,
    /// What was taken for it. It belongs to the period in which it was taken.
    pub reserved: ReservedTokens,
    /// The caller's own.
    pub held: T,
    /// How well the tokens are known.
    pub kind: UsageKind,
    /// The tokens.
    pub used: UsedTokens,
    /// How it ended.
    pub ending: Ending,
    /// What the client got, if Traefik has told.
    pub status: Option<u16>,
    /// From the request's arrival at the server, if the server has told.
    pub time_to_first_token: Option<Duration>,
    /// In Traefik without the time for which it has [waited](crate::RequestReservation::waited), or else at the server.
    pub duration: Option<Duration>,
    /// Traefik's `ServiceURL`.
    pub server: Option<Box<str>>,
    /// The answer's length, if Traefik has told.
    pub answer_bytes: Option<u64>,
    /// No server has worked on it, but for what it has told: none was reached, or its answer is one that comes before any work. Other
    /// refusals may come after the work.
    pub is_unworked: bool,
    /// How often all of its answers were told: more than once where Traefik has sent it again, at least once.
    pub attempts: u32,
    /// Whether its end was told.
    pub has_ended: bool,
    /// For how long at least its server has worked on it, until its client had read the answer, as Traefik tells. `None` if Traefik has
    /// not told, or has sent it to a server more than once.
    pub worked: Option<Duration>,
}

/// How well the tokens of a request are known; the best is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// The server has told them.
    Exact,
    /// From the bytes and the end that Traefik has told.
    Measured,
    /// What was reserved stands: nobody has told anything, or not all.
    Estimated,
}

impl UsageKind {
    /// All kinds, the best first.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Measured, Self::Estimated];

    /// The name, for programs and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Measured => "measured",
            Self::Estimated => "estimated",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// It was answered.
    Finished,
    /// The server refused it or never got it: the client was answered with an error, or was sent elsewhere (301, 302, 307, 308).
    Refused,
    /// The client went away before the end, or the server broke off.
    Aborted,
    /// Nobody has told.
    Unknown,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Finished, Self::Refused, Self::Aborted, Self::Unknown];

    /// The name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "answered",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }

    /// The ending of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.name() == name)
    }
}

/// The tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedTokens {
    /// Of the prompts, cached tokens included.
    pub prompt: u64,
    /// The part of the prompts that was not computed again; `None` if nobody has told.
    pub cached: Option<u64>,
    /// Of all answers, reasoning included.
    pub completion: u64,
}

impl UsedTokens {
    /// Prompt and completion.
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl<T> RequestSettlement<T> {
    /// What was used beyond the reservation (a debt), or, below zero, what its limits get back.
    pub fn difference(&self) -> i64 {
        let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        signed(self.used_of_limits()) - signed(self.reserved.total())
    }

    /// What limits count. An estimate stands as it was taken: limits were asked for at least one token, and for 2³² - 1 at most.
    pub fn used_of_limits(&self) -> u64 {
        match self.kind {
            UsageKind::Estimated => self.used.total().clamp(1, u32::MAX.into()),
            UsageKind::Exact | UsageKind::Measured => self.used.total(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They stand in metrics, in the API and in the store: a name that changes makes old rows unreadable.
    #[test]
    fn names_stay() {
        assert_eq!(UsageKind::ALL.map(UsageKind::name), ["exact", "measured", "estimated"]);
        assert_eq!(Ending::ALL.map(Ending::name), ["answered", "refused", "aborted", "unknown"]);
        assert_eq!(Ending::ALL.map(|ending| Ending::named(ending.name())), Ending::ALL.map(Some));
        assert_eq!(Ending::named("finished"), None);
    }
}
