//! A decision with its steps in words, for an operator.

use catalogue::Catalogue;

use crate::{
    Decision, Limiters, Policy, Request, SystemClock,
    decide::{Trace, judge},
};

/// What would be decided about a request, and how one gets there.
#[derive(Debug)]
pub struct Explanation {
    /// What was found, in order. No secret is among it.
    pub steps: Vec<String>,
    /// What is decided.
    pub decision: Decision,
}

impl Trace for Vec<String> {
    fn step(&mut self, say: impl FnOnce() -> String) {
        self.push(say());
    }
}

/// Decides about a request as if no limit had been used yet. Nothing is taken from the real ones.
pub fn explain(policy: &Policy, catalogue: &Catalogue, request: &Request<'_>) -> Explanation {
    let mut steps = Vec::new();
    let limiters = Limiters::new(SystemClock::new());
    let decision = match judge(policy, catalogue, request, &mut steps) {
        Ok(pending) => pending.admit(&limiters),
        Err(denial) => Decision::Deny(*denial),
    };
    if let Decision::Allow(grant) = &decision
        && let Some(pool) = grant.route.as_ref().and_then(|route| catalogue.pool_of_route(route.as_str()))
    {
        let leg = pool.legs.iter().find(|leg| Some(&leg.route) == grant.route.as_ref());
        for server in leg.into_iter().flat_map(|leg| &leg.ready) {
            steps.push(format!("{} at {} may answer it", server.spec.name, server.spec.url));
        }
    }
    Explanation { steps, decision }
}
