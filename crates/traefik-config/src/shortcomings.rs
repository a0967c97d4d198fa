//! What the operator asks for but a Traefik version cannot do.

mod shortcoming;

use catalogue::{Catalogue, Pool, RouteGroup, Strategy, TraefikSeen};

use crate::{
    InvalidVersion, RenderOptions, TraefikVersion, flat,
    upstream::{Rewriting, by_priority, can_pick, is_checked, rewriting, unchecked},
};
pub use shortcoming::{Lack, Shortcoming};

/// Reports what is left out for this version, or works less well than asked for, and why. What affects all models comes first.
pub fn shortcomings(catalogue: &Catalogue, options: &RenderOptions) -> Vec<Shortcoming> {
    let version = options.version;
    let of_all = |lack| Shortcoming { version, model: None, lack };
    let mut found: Vec<Shortcoming> =
        catalogue.traefiks().iter().filter_map(|seen| too_old(seen, options)).collect();
    found.extend(of_version(options).into_iter().map(of_all));
    for pool in catalogue.pools() {
        let name = || match &pool.selector {
            Some(selector) => format!("{:?} ({selector})", pool.model.as_str()),
            None => format!("{:?}", pool.model.as_str()),
        };
        let mut say = |lack: Lack| found.push(Shortcoming { version, model: Some(name()), lack });
        let groups =
            if version.is_layered() { &pool.groups[..] } else { &pool.groups[..pool.groups.len().min(1)] };
        for group in groups {
            match left_out(pool, group, options) {
                Some(lack) => say(lack),
                None => of_services(pool, group, options, &mut say),
            }
        }
    }
    found.dedup();
    found
}

/// A Traefik that is older than the document is for.
fn too_old(seen: &TraefikSeen, options: &RenderOptions) -> Option<Shortcoming> {
    let told = options.version;
    let is_older = match seen.version.parse::<TraefikVersion>() {
        Ok(version) => version < told,
        Err(InvalidVersion::TooOld) => true,
        Err(InvalidVersion::Syntax | InvalidVersion::TooNew) => false,
    };
    let lack = Lack::Older { container: seen.container.clone(), seen: seen.version.clone() };
    is_older.then_some(Shortcoming { version: told, model: None, lack })
}

/// What is lacking for all models.
fn of_version(options: &RenderOptions) -> Vec<Lack> {
    let version = options.version;
    let mut found = Vec::new();
    if !version.is_layered() {
        found.push(Lack::ChoiceByBody);
    }
    if !version.forwards_body() {
        found.push(Lack::Bodies);
    }
    if version.forwards_body() && !version.rewrites_status() && options.max_chunked_body > 0 {
        found.push(Lack::StatusOfTooLong);
    }
    found
}

/// Why a model is left out, if it is.
fn left_out(pool: &Pool, group: &RouteGroup, options: &RenderOptions) -> Option<Lack> {
    if !flat::can_be_served(pool, options) {
        return Some(Lack::ModelMayBeAnother);
    }
    let differ = matches!(rewriting(pool, group), Rewriting::Each) && !options.version.preserves_path();
    differ.then_some(Lack::BasePathsDiffer)
}

fn of_services(pool: &Pool, group: &RouteGroup, options: &RenderOptions, say: &mut impl FnMut(Lack)) {
    let (version, settings) = (options.version, &pool.settings);
    match settings.strategy {
        Some(strategy @ Strategy::P2c) if !version.has_p2c() => {
            say(Lack::Strategy { strategy, since: "3.4" });
        }
        Some(strategy @ (Strategy::Hrw | Strategy::LeastTime)) if !version.has_hrw_and_leasttime() => {
            say(Lack::Strategy { strategy, since: "3.6" });
        }
        Some(Strategy::Hrw) if settings.sticky_cookie.is_some() => say(Lack::CookieWithHrw),
        Some(strategy) if strategy.is_modelgates() && !version.is_layered() => {
            say(Lack::Strategy { strategy, since: "3.6.2" });
        }
        Some(strategy) if group.pick.is_some() && !can_pick(pool, group, version) => {
            let server = unchecked(pool, group).map_or_else(String::new, |server| server.spec.name.clone());
            say(Lack::UncheckedChoice { strategy, server });
        }
        _ => {}
    }
    if settings.passive_max_failed_attempts.is_some() && !version.checks_passively() {
        say(Lack::PassiveHealthcheck);
    }
    let concurrency = settings
        .concurrency_max
        .or(settings.concurrency_per_key)
        .or(settings.concurrency_per_consumer)
        .is_some();
    if concurrency && version.forwards_body() && !version.is_layered() {
        say(Lack::ConcurrencyInAll);
    }
    let levels = by_priority(&group.ready);
    let [first, _, ..] = &levels[..] else { return };
    let on_status = settings.failover_status.is_some();
    if on_status && !version.fails_over_on_status() {
        say(Lack::FailoverStatus);
    }
    let checked = first.iter().all(|server| is_checked(server, settings));
    if !(checked || on_status && version.fails_over_on_status()) {
        say(Lack::UncheckedPrimary);
    }
}
