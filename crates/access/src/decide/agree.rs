//! Checks that all names of models in a request mean the same model.

use super::{
    behind::takes_any_name,
    names::Names,
    wanted::{Place, Question},
};
use crate::{Reason, Unreadable, Where};

impl<'q> Question<'q> {
    /// Refuses names of different models, and names of a model other than the one that Traefik has routed to.
    pub(super) fn agree(&self, names: &Names<'_>, place: &Place<'q>) -> Result<(), Reason> {
        let canonical = |name: &str| self.find(place.chosen, name).map(|pool| &pool.canonical);
        let same = |a: &str, b: &str| a == b || canonical(a).is_some_and(|of| canonical(b) == Some(of));
        let mut named = names.iter().filter(|(at, name)| !self.is_placeholder(*at, name, names, place));
        let Some((first, name)) = named.next() else { return Ok(()) };
        for (at, other) in named {
            if !same(name, other) {
                return Err(Unreadable::ModelsDisagree(*first, *at).into());
            }
        }
        // A key that may not use the routed model gets that refusal, whatever names the request has.
        match place.routed.filter(|(pool, _)| self.allowed(pool).is_some()) {
            Some((pool, _)) if !same(name, pool.model.as_str()) => {
                Err(Unreadable::ModelsDisagree(*first, Where::Router).into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a body's name is only a placeholder that a client has to send: it names no model, the path does, and the servers
    /// accept any name.
    fn is_placeholder(&self, at: Where, name: &str, names: &Names<'_>, place: &Place<'q>) -> bool {
        let in_body = matches!(at, Where::Json | Where::Form);
        let Some(in_path) = names.in_path().filter(|_| in_body) else { return false };
        // The name of a model that the key may not use counts as unknown, too.
        self.find(place.chosen, name).is_none()
            && self.find(place.chosen, in_path).is_some_and(|pool| takes_any_name(pool, name))
    }
}
