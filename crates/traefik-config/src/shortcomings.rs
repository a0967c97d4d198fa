//! What a Traefik version cannot do of what the operator asks for.

use catalogue::{Catalogue, Leg, Pool, Strategy};

use crate::{
    Options, flat,
    upstream::{Rewriting, by_priority, is_checked, rewriting},
};

/// Says, for the operator, what is left out for this version or works less well than asked for, and why.
/// What concerns all models comes first.
pub fn shortcomings(catalogue: &Catalogue, options: &Options) -> Vec<String> {
    let version = options.version;
    let mut found = Vec::new();
    if !version.is_layered() {
        found.push(format!(
            "Traefik {version} cannot choose a model by the request's body; clients choose it by path \
             (/models/NAME/…), by header (X-Model), by parameter (?model=), or by select.*; Traefik 3.6.2 or later can"
        ));
    }
    if !version.forwards_body() {
        found.push(format!(
            "Traefik {version} does not show bodies to Modelgate: what they say is not checked, and max_chunked_body \
             only tells whether bodies without a length are refused; Traefik 3.3 or later does"
        ));
    }
    if version.forwards_body() && !version.rewrites_status() && options.max_chunked_body > 0 {
        found.push(format!(
            "Traefik {version} answers a body without a length that is too long with a bare 401, as if the key were wrong; \
             Traefik 3.4 or later lets Modelgate say that it is too large"
        ));
    }
    for pool in catalogue.pools() {
        let name = match &pool.selector {
            Some(selector) => format!("model {:?} ({selector})", pool.model.as_str()),
            None => format!("model {:?}", pool.model.as_str()),
        };
        let mut say = |what: String| found.push(format!("{name}: {what}"));
        let legs = if version.is_layered() { &pool.legs[..] } else { &pool.legs[..pool.legs.len().min(1)] };
        for leg in legs {
            if !is_left_out(pool, leg, options, &mut say) {
                of_services(pool, leg, options, &mut say);
            }
        }
    }
    found.dedup();
    found
}

fn is_left_out(pool: &Pool, leg: &Leg, options: &Options, say: &mut impl FnMut(String)) -> bool {
    let version = options.version;
    if !flat::can_be_served(pool, options) {
        say(format!(
            "it is left out: a server of it has other models too, or may have, and Traefik {version} does not show bodies \
             to Modelgate; that needs Traefik 3.3 or later, or single_model=true where it has no other"
        ));
        return true;
    }
    if matches!(rewriting(pool, leg), Rewriting::Each) && !version.preserves_path() {
        say("it is left out: its servers differ in their base paths, which needs Traefik 3.2 or later".into());
        return true;
    }
    false
}

fn of_services(pool: &Pool, leg: &Leg, options: &Options, say: &mut impl FnMut(String)) {
    let (version, settings) = (options.version, &pool.settings);
    match settings.strategy {
        Some(Strategy::P2c) if !version.has_p2c() => {
            say("strategy=p2c needs Traefik 3.4 or later; it is left out".into());
        }
        Some(strategy @ (Strategy::Hrw | Strategy::LeastTime)) if !version.has_hrw_and_leasttime() => {
            say(format!("strategy={} needs Traefik 3.6 or later; it is left out", strategy.as_str()));
        }
        Some(Strategy::Hrw) if settings.sticky_cookie.is_some() => {
            say("sticky.cookie is left out: with strategy=hrw Traefik sets no cookie".into());
        }
        _ => {}
    }
    if settings.passive_max_failed_attempts.is_some() && !version.checks_passively() {
        say("passive_healthcheck needs Traefik 3.6 or later; it is left out".into());
    }
    let concurrency = settings
        .concurrency_max
        .or(settings.concurrency_per_key)
        .or(settings.concurrency_per_consumer)
        .is_some();
    if concurrency && version.forwards_body() && !version.is_layered() {
        say(format!(
            "concurrency limits count by body size, in Traefik {version}: as many requests of each size may be \
                     under way; Traefik 3.6.2 or later counts them together"
        ));
    }
    let levels = by_priority(&leg.ready);
    let [first, _, ..] = &levels[..] else { return };
    let on_status = settings.failover_status.is_some();
    if on_status && !version.fails_over_on_status() {
        say("failover.status needs Traefik 3.7 or later; it is left out".into());
    }
    let checked = first.iter().all(|server| is_checked(server, settings));
    if !(checked || on_status && version.fails_over_on_status()) {
        say("Traefik does not check its primary servers, so a backup is used only once Modelgate has found all of \
             them gone; healthcheck.path lets Traefik check them"
            .into());
    }
}
