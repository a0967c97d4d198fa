//! Clients whose base URL is wrong are told the right one, by a router that is asked after every other on this Traefik.
//!
//! It takes only requests that are meant for such an API, so the 404s of other applications on the same Traefik do not change.

use catalogue::{Api, BASES, ENDPOINTS};

use super::{ELSEWHERE, Front, MODELGATE_SERVICE, Refusal};
use crate::{
    rule,
    wire::{Http, Router},
};

/// An endpoint that no other application has. The others are common words, so a request for them counts only if it has a key.
const UNMISTAKABLE: &str = "chat/completions";

pub(super) fn add(http: &mut Http, front: &Front<'_>) {
    if !front.options.apis.contains(&Api::OpenAi) {
        return;
    }
    let rule = rule::all(&[&front.hosts, &rule::any(&meant_for_us(front))]);
    let mut router = Router { rule, priority: Some(1), ..front.root("", 0) };
    router.service = Some(MODELGATE_SERVICE.into());
    router.middlewares.push(ELSEWHERE.into());
    http.routers.insert(ELSEWHERE.into(), router);
    http.middlewares.insert(ELSEWHERE.into(), Refusal::Elsewhere.middleware());
}

fn meant_for_us(front: &Front<'_>) -> Vec<String> {
    let before = format!("^(/({}|{}))*", BASES.join("|"), ENDPOINTS.join("|"));
    let keyed: Vec<String> = [("Authorization", "(?i)^bearer "), ("X-Api-Key", "."), ("Api-Key", ".")]
        .into_iter()
        .chain(front.options.key_headers.iter().map(|name| (name.as_str(), ".")))
        .map(|(name, value)| format!("HeaderRegexp(`{name}`, `{value}`)"))
        .collect();
    let endpoints = ENDPOINTS.join("|");
    let bases = super::bases(front.options).map(|base| format!("Path(`{base}`)"));
    let mut rules: Vec<String> = bases.collect();
    rules.push(format!("PathRegexp(`{before}/{UNMISTAKABLE}/?$`)"));
    rules.push(format!("PathRegexp(`{before}/({endpoints})/?$`) && {}", rule::any(&keyed)));
    rules
}
