//! A request's demands on the limits of its key, its consumer and its model.

use std::{cell::LazyCell, time::SystemTime};

use catalogue::{Catalogue, Pool};
use limits::{Demands, Limited, Limits, Moment, Scope, Subject, Unit};

use super::{is_named_by_client, wanted::Wanted};
use crate::{
    Key, Policy, Request,
    estimate::{self, Sum},
};

/// The limits of a request, and what its tokens are made of if one of them counts those.
pub(super) fn demands(
    policy: &Policy,
    key: &Key,
    wanted: &Wanted<'_>,
    request: &Request<'_>,
) -> (Demands, Option<Sum>) {
    let answer = wanted.pool.and_then(|pool| pool.settings.answer_tokens);
    let estimate = || match &wanted.count {
        Some(count) => count.sum(request.uri, answer),
        None => estimate::sum(request.uri, request.known_body(), answer),
    };
    // Tokens are estimated once, and only if a limit counts them.
    let mut sum = None;
    let mut cost = |unit| match unit {
        // What it costs is said later, by whoever knows prices.
        Unit::Requests | Unit::Money => 1,
        Unit::Tokens => sum.get_or_insert_with(estimate).tokens(),
    };
    let now = Moment::new(request.now, policy.time_zone());
    let mut demands = Demands::default();
    for limited in limits_on(policy, key, OfModel::wanted(wanted, request)) {
        demands.add(&limited, &now, &mut cost);
    }
    (demands, sum)
}

/// The model of a request, for the purpose of limits. All its names share their counts.
#[derive(Debug, Clone, Copy)]
enum OfModel<'l> {
    /// The servers of the name, and those of its canonical model.
    Known { pool: &'l Pool, main: Option<&'l Pool> },
    /// A router's owner names it, whether there is a server or not.
    Named(&'l str),
    /// A client names it, but no server has it. Clients can invent any number of such names, so they share their counts.
    MadeUp(&'l str),
}

impl<'l> OfModel<'l> {
    fn wanted(wanted: &'l Wanted<'_>, request: &Request<'_>) -> Option<Self> {
        let named = wanted.model.as_ref()?.as_str();
        Some(match wanted.pool {
            Some(pool) => Self::Known { pool, main: wanted.main },
            None if is_named_by_client(request) => Self::MadeUp(named),
            None => Self::Named(named),
        })
    }

    fn name(self) -> &'l str {
        match self {
            Self::Known { pool, .. } => pool.canonical.as_str(),
            Self::Named(name) | Self::MadeUp(name) => name,
        }
    }

    fn subject(self) -> Subject {
        match self {
            Self::Known { pool, .. } => pool.subject,
            Self::Named(name) => Subject::of_model(name),
            Self::MadeUp(_) => Subject::of_model(""),
        }
    }

    /// The limits that its servers set are taken from the canonical model, so that no alias evades them.
    fn own_limits(self) -> Option<Limited<'l>> {
        let Self::Known { pool, main } = self else { return None };
        let own = [main, Some(pool)].into_iter().flatten().find_map(|pool| pool.own_limits.as_ref())?;
        Some(Limited { scope: Scope::Model, subject: own.subject, limits: &own.limits })
    }
}

/// The limits that a request has to pass.
fn limits_on<'l>(
    policy: &'l Policy,
    key: &'l Key,
    model: Option<OfModel<'l>>,
) -> impl Iterator<Item = Limited<'l>> {
    let of = |scope, subject, limits: &'l Limits| {
        (!limits.is_empty()).then_some(Limited { scope, subject, limits })
    };
    let (of_key, of_consumer) = (Subject::of(key.id), Subject::of(key.consumer.id));
    let mut all = [
        of(Scope::Key, of_key, &key.limits),
        of(Scope::Consumer, of_consumer, &key.consumer.limits),
        None,
        None,
        None,
    ];
    if let Some(model) = model {
        // The subject of a name without servers is a digest, so it is computed once, and only if there is a limit.
        let subject = LazyCell::new(|| model.subject());
        let of_model = |scope, who: Option<Subject>, limits: &'l Limits| {
            let of = || who.map_or(*subject, |who| who.for_model(*subject));
            (!limits.is_empty()).then(|| Limited { scope, subject: of(), limits })
        };
        all[2] = of_model(Scope::KeyAndModel, Some(of_key), &key.limits_per_model);
        all[3] = of_model(Scope::ConsumerAndModel, Some(of_consumer), &key.consumer.limits_per_model);
        let by_policy = policy.model_limits(model.name());
        all[4] =
            by_policy.and_then(|limits| of_model(Scope::Model, None, limits)).or_else(|| model.own_limits());
    }
    all.into_iter().flatten()
}

/// The demands that one request or token of a key would make: on the key's limits, its consumer's, and for a model on those of
/// both and the model's, its servers' included. For display only; nothing is debited.
pub fn limits_of(
    policy: &Policy,
    key: &Key,
    catalogue: &Catalogue,
    pool: Option<&Pool>,
    now: SystemTime,
) -> Demands {
    let main = |pool: &Pool| catalogue.pool(pool.canonical.as_str()).map(AsRef::as_ref);
    let model = pool.map(|pool| OfModel::Known { pool, main: main(pool) });
    let now = Moment::new(now, policy.time_zone());
    let mut demands = Demands::default();
    for limited in limits_on(policy, key, model) {
        demands.add(&limited, &now, |_| 1);
    }
    demands
}
