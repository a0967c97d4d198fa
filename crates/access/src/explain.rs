//! A decision with its steps in words, for an operator.

use std::sync::Arc;

use catalogue::Catalogue;
use limits::{Demands, Limiters, SystemClock};

use crate::{
    Decision, Denial, Key, Pending, Policy, Reason, Request,
    decide::{Trace, judge, judge_for},
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
    steps.extend(judged.as_ref().err().and_then(|denial| about_token(policy, request, &denial.reason)));
    Explanation::of(judged, steps, catalogue)
}

/// What is wrong with a token, and what is configured: more than its bearer is told.
fn about_token(policy: &Policy, request: &Request<'_>, reason: &Reason) -> Option<String> {
    match reason {
        Reason::BadToken(fault) => Some(fault.for_operators()),
        Reason::UnknownKey if !policy.takes_tokens() && policy.shows_token(request.headers) => Some(
            "it has the form of an identity provider's token, and jwt names none whose tokens are taken"
                .into(),
        ),
        _ => None,
    }
}

/// Like [`explain`], for a request with this key, which operators know only by its name. A key among the request's headers is
/// ignored.
pub fn explain_for(
    policy: &Policy,
    catalogue: &Catalogue,
    request: &Request<'_>,
    key: &Arc<Key>,
) -> Explanation {
    let mut steps = Vec::new();
    let judged = match key.check(&key.digest, request.from, request.now) {
        Ok(()) => judge_for(policy, catalogue, request, Arc::clone(key), &mut steps),
        Err(reason) => Err(Denial::of_key(key, reason)),
    };
    Explanation::of(judged, steps, catalogue)
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
