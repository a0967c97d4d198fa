//! A decision with its steps in words, for an operator.

use std::time::SystemTime;

use catalogue::Catalogue;
use limits::{Demands, Limiters, SystemClock};

use crate::{
    Decision, Denial, Pending, Policy, Reason, Request,
    decide::{Trace, judge},
};

/// The decision about a request, and the steps that lead to it.
#[derive(Debug)]
pub struct Explanation {
    /// The steps, in order, without secrets.
    pub steps: Vec<String>,
    /// The decision, as if no limit had been used yet.
    pub decision: Decision,
    /// The request's demands on its limits; empty if it is refused before.
    pub demands: Demands,
}

impl Trace for Vec<String> {
    fn step(&mut self, say: impl FnOnce() -> String) {
        self.push(say());
    }
}

/// Decides about a request as if no limit had been used yet. The real limits are not debited.
pub fn explain(policy: &Policy, catalogue: &Catalogue, request: &Request<'_>) -> Explanation {
    let mut steps = Vec::new();
    let judged = judge(policy, catalogue, request, &mut steps);
    steps.extend(
        judged
            .as_ref()
            .err()
            .and_then(|denial| about_key(policy, request.headers, &denial.reason, request.now)),
    );
    Explanation::of(judged, steps, catalogue)
}

/// What operators are told about a key or a token that is refused, and its bearer is not.
pub fn about_key(
    policy: &Policy,
    headers: &http::HeaderMap,
    reason: &Reason,
    now: SystemTime,
) -> Option<String> {
    match reason {
        Reason::BadToken(fault) => Some(fault.for_operators()),
        Reason::RevokedKey => policy.shown_revoked(headers, now).map(|revoked| {
            format!(
                "it was revoked at {}: the API key {:?} of consumer {:?}",
                jiff::Timestamp::try_from(revoked.at).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ"),
                revoked.name,
                revoked.consumer
            )
        }),
        Reason::UnknownKey if !policy.takes_tokens() && policy.shows_token(headers) => Some(
            "it has the form of an identity provider's token, and jwt names none whose tokens are taken"
                .into(),
        ),
        Reason::TokenKeysUnavailable => Some(
            "the keys of its issuer could not be fetched so far, so its signature cannot be checked; the log says why"
                .into(),
        ),
        _ => None,
    }
}

impl Explanation {
    fn of(judged: Result<Pending, Box<Denial>>, mut steps: Vec<String>, catalogue: &Catalogue) -> Self {
        let demands = judged.as_ref().map(|pending| pending.demands().clone()).unwrap_or_default();
        let decision = match judged {
            Ok(pending) => pending.admit(&Limiters::new(SystemClock::new())),
            Err(denial) => Decision::Deny(*denial),
        };
        if let Decision::Allow(grant) = &decision
            && let Some(pool) = grant.route.as_ref().and_then(|route| catalogue.pool_of_route(route.as_str()))
        {
            let group = pool.groups.iter().find(|group| Some(&group.route) == grant.route.as_ref());
            for server in group.into_iter().flat_map(|group| &group.ready) {
                steps.push(format!("{} at {} may answer it", server.spec.name, server.spec.url));
            }
        }
        Self { steps, decision, demands }
    }
}
