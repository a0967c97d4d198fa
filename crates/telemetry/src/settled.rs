//! How an admitted request has ended.

use std::{sync::Arc, time::Duration};

use metering::{Ending, MeteredEndpoint, RequestId, UsageKind, UsedTokens};

use crate::OperationSpan;

/// How an admitted request has ended, and what it has used, as far as anybody has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledRequest {
    /// The request.
    pub request: RequestId,
    /// Whose it was.
    pub consumer: Arc<str>,
    /// Its model by the model's own name, not an alias; empty if the client may have invented it.
    pub model: Arc<str>,
    /// Where it was sent.
    pub endpoint: MeteredEndpoint,
    /// The server that got it, if that is known.
    pub server: Option<AnsweringServer>,
    /// How it ended.
    pub ending: Ending,
    /// What the client got, if Traefik has told.
    pub status: Option<u16>,
    /// From the request's arrival at the server, if the server has told.
    pub time_to_first_token: Option<Duration>,
    /// In Traefik without the time for which it has waited for a server, or else at the server.
    pub duration: Option<Duration>,
    /// How well the tokens are known.
    pub kind: UsageKind,
    /// The tokens.
    pub used: UsedTokens,
    /// What it costs, in units of 10⁻⁹ of the currency.
    pub cost: u64,
    /// Its span, if it is to have one.
    pub span: Option<Arc<OperationSpan>>,
}

/// The server that got a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweringServer {
    /// Its id in the catalogue.
    pub id: Arc<str>,
    /// Its name at that time.
    pub name: Arc<str>,
}
