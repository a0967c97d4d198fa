//! For which pools Modelgate itself chooses the server of each request, and the name of each server's route.
//!
//! Pools with equal servers and settings (the models, adapters and aliases of the same servers) share the routes, so that Traefik's
//! routers are in proportion to servers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Pool, RouteGroup};
use crate::{
    ModelName, ModelSettings, PickFault, Problem, RouteId, Selector, ServerId, ServerRecord, SettingFinding,
    Strategy,
};

/// How Modelgate chooses the server of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Pick {
    /// The model that all names of the pool stand for.
    pub model: ModelName,
    /// What it looks at.
    pub by: PickBy,
    /// Whether what one consumer has sent counts for that consumer alone (`pick.per_consumer`).
    pub per_consumer: bool,
    /// How long a request waits while all of them are full; zero: not at all.
    pub wait: Duration,
    /// The servers: at least two, or at least one if requests may wait.
    pub routes: Arc<[ServerRoute]>,
}

/// By what a server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickBy {
    /// By what it has to do, and by what of the prompt is believed to be in its cache.
    Cache,
    /// By what it has to do.
    Load,
}

/// A server that can be chosen, and its route in Traefik.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerRoute {
    /// The value of `X-Inference-Server`.
    pub id: RouteId,
    /// The server.
    pub server: Arc<ServerRecord>,
}

/// What the routers of a group's servers depend on, besides the settings.
type Likeness<'p> = (Vec<&'p ServerId>, usize, Option<&'p RouteId>);

/// The routes of groups that are alike, each with the settings that they depend on.
type Alike<'p> = BTreeMap<Likeness<'p>, Vec<(ModelSettings, Arc<[ServerRoute]>)>>;

/// Sets [`RouteGroup::pick`] in all pools that ask for it.
#[expect(clippy::mutable_key_type, reason = "selectors are compared by their text")]
pub(super) fn resolve<K: Ord>(
    pools: &mut BTreeMap<Option<Arc<Selector>>, BTreeMap<K, Pool>>,
    problems: &mut Vec<Problem>,
) {
    let asks = pools
        .values()
        .flat_map(BTreeMap::values)
        .any(|pool| by(&pool.settings).is_some() || pool.settings.pick_wait.is_some());
    if !asks {
        return;
    }
    let mut found = Vec::new();
    let mut alike = Alike::new();
    for pool in pools.values().flat_map(BTreeMap::values) {
        let Some(by) = by(&pool.settings) else {
            found.extend(pool.groups.iter().map(|_| None));
            let waits = pool.settings.pick_wait.is_some_and(|wait| !wait.is_zero());
            if let (true, Some(server)) = (waits, pool.ready.first()) {
                let finding = SettingFinding::WaitWithoutChoice { model: pool.model.clone() };
                problems.push(Problem::server(&server.spec.name, finding));
            }
            continue;
        };
        let fault = fault(pool);
        if let (Some(fault), Some(server)) = (fault, pool.ready.first()) {
            let finding = SettingFinding::NoPick { model: pool.model.clone(), strategy: by.key(), fault };
            problems.push(Problem::server(&server.spec.name, finding));
        }
        for group in &pool.groups {
            let first = first_priority(group);
            let wait = pool.settings.pick_wait.unwrap_or_default();
            let least = if wait.is_zero() { 2 } else { 1 };
            let can = fault.is_none() && first.len() >= least;
            found.push(can.then(|| {
                let routes = routes(&mut alike, (pool, group), &first);
                let per_consumer = pool.settings.pick_per_consumer.unwrap_or(false);
                Arc::new(Pick { model: pool.canonical.clone(), by, per_consumer, wait, routes })
            }));
        }
    }
    let groups = pools.values_mut().flat_map(BTreeMap::values_mut).flat_map(|pool| &mut pool.groups);
    for (group, pick) in groups.zip(found) {
        group.pick = pick;
    }
}

fn by(settings: &ModelSettings) -> Option<PickBy> {
    match settings.strategy? {
        Strategy::Cache => Some(PickBy::Cache),
        Strategy::LeastBusy => Some(PickBy::Load),
        Strategy::Wrr | Strategy::P2c | Strategy::Hrw | Strategy::LeastTime => None,
    }
}

impl PickBy {
    /// The strategy's name.
    pub fn key(self) -> &'static str {
        match self {
            Self::Cache => Strategy::Cache.as_str(),
            Self::Load => Strategy::LeastBusy.as_str(),
        }
    }
}

/// The other setting because of which a pool keeps round robin.
fn fault(pool: &Pool) -> Option<PickFault> {
    if pool.settings.sticky_cookie.is_some() {
        Some(PickFault::Sticky)
    } else if pool.canary.is_some() {
        Some(PickFault::Canary)
    } else {
        pool.mirror.is_some().then_some(PickFault::Mirror)
    }
}

/// The servers that get requests while all are well: the others are backups.
fn first_priority(group: &RouteGroup) -> Vec<&Arc<ServerRecord>> {
    let priority = |server: &&Arc<ServerRecord>| server.spec.settings.priority;
    let first = group.ready.iter().map(|server| priority(&server)).min();
    group.ready.iter().filter(|server| Some(priority(server)) == first).collect()
}

/// Traefik counts concurrent requests for each router, so a pool that limits them has routes of its own.
fn likeness<'p>(pool: &'p Pool, group: &'p RouteGroup, first: &[&'p Arc<ServerRecord>]) -> Likeness<'p> {
    let backups = group.ready.iter().filter(|server| !first.contains(server));
    let servers = first.iter().copied().chain(backups).map(|server| &server.spec.id).collect();
    let slashes = pool.model.as_str().matches('/').count();
    let settings = &pool.settings;
    let counts = settings
        .concurrency_max
        .or(settings.concurrency_per_key)
        .or(settings.concurrency_per_consumer)
        .is_some();
    (servers, slashes, counts.then_some(&group.route))
}

/// The routes of a group's servers: those of the first group that is like it.
fn routes<'p>(
    alike: &mut Alike<'p>,
    (pool, group): (&'p Pool, &'p RouteGroup),
    first: &[&'p Arc<ServerRecord>],
) -> Arc<[ServerRoute]> {
    let (like, settings) = (alike.entry(likeness(pool, group, first)).or_default(), routing(&pool.settings));
    if let Some((_, known)) = like.iter().find(|(other, _)| *other == settings) {
        return Arc::clone(known);
    }
    let routes: Arc<[ServerRoute]> = first.iter().map(|server| route(group, server)).collect();
    like.push((settings, Arc::clone(&routes)));
    routes
}

/// The settings on which routers depend.
fn routing(settings: &ModelSettings) -> ModelSettings {
    let limits = limits::Limits::default();
    ModelSettings {
        strategy: None,
        pick_per_consumer: None,
        pick_wait: None,
        answer_tokens: None,
        context_tokens: None,
        limits,
        ..settings.clone()
    }
}

/// Named after the first group of its kind, so that the name stays while servers come and go.
fn route(group: &RouteGroup, server: &Arc<ServerRecord>) -> ServerRoute {
    ServerRoute { id: RouteId::of_server(&group.route, &server.spec.id), server: Arc::clone(server) }
}

#[cfg(test)]
mod tests {
    use crate::{
        Catalogue, GivenModelSettings, ModelGlobs, ModelOverrides, ServerSettings, Setting,
        assemble::tests::server, finding::Finding,
    };

    use super::*;

    type Given = [(&'static str, &'static str)];
    /// A model, and the routes of its servers.
    type NamedRoutes = (String, Option<Vec<String>>);

    /// The routes of each pool, and the problems.
    fn picks(servers: Vec<ServerRecord>) -> (Vec<NamedRoutes>, Vec<Finding>) {
        let catalogue = Catalogue::assemble(servers, Vec::new());
        let names = |pick: &Arc<Pick>| pick.routes.iter().map(|route| route.id.to_string()).collect();
        let of = |pool: &Arc<Pool>| (pool.model.as_str().to_owned(), pool.groups[0].pick.as_ref().map(names));
        let problems = catalogue.problems().iter().map(|problem| problem.finding.clone()).collect();
        (catalogue.pools().map(of).collect(), problems)
    }

    fn of(name: &str, models: &[&str], given: &Given) -> ServerRecord {
        server(name, models, given)
    }

    #[test]
    fn models_of_the_same_servers_share_routes_and_others_do_not() {
        let cache: &Given = &[("strategy", "cache")];
        let (pools, problems) = picks(vec![
            of("a", &["llama", "sql", "org/sql", "alone"], cache),
            of("b", &["llama", "sql", "org/sql"], cache),
            of("c", &["llama-all"], cache),
            of("d", &["llama-all"], &[]),
        ]);
        assert_eq!(problems, []);
        let routes =
            |model: &str| pools.iter().find(|(name, _)| name == model).and_then(|(_, routes)| routes.clone());
        assert_eq!(routes("alone"), None, "one server is no choice");
        let llama = routes("llama").expect("a choice");
        assert_eq!(llama.len(), 2);
        assert!(llama[0] != llama[1] && llama.iter().all(|route| route.starts_with("llama-")), "{llama:?}");
        assert_eq!(routes("sql"), Some(llama.clone()), "one router for each server");
        assert_ne!(routes("org/sql"), Some(llama.clone()), "its name in a path is longer");
        assert!(routes("llama-all").is_some_and(|other| other.iter().all(|route| !llama.contains(route))));
        // One server more, and the others keep their names.
        let (more, _) = picks(["a", "b", "c"].map(|name| of(name, &["llama", "sql"], cache)).into());
        assert_eq!(more[0].1.as_ref().map(|routes| &routes[..2]), Some(&llama[..]));
    }

    /// Traefik's routers are in proportion to servers, not to models with settings of their own.
    #[test]
    fn settings_that_only_modelgate_reads_add_no_routers() {
        let routes = |(key, text): (&str, &str)| {
            let (mut own, mut given) = (ServerSettings::default(), GivenModelSettings::default());
            Setting::find(key).expect(key).read(text, &mut own, &mut given).expect(text);
            let sql = ModelGlobs::parse(&["sql".to_owned()]).expect("a name");
            let servers = ["a", "b"].map(|name| of(name, &["llama", "sql"], &[("strategy", "cache")]));
            let overrides = ModelOverrides::new(vec![(sql, given)]);
            let catalogue = Catalogue::assemble_with(servers.map(Arc::new), Vec::new(), &overrides);
            ["llama", "sql"].map(|model| {
                let pool = catalogue.pool(model).expect(model);
                Arc::clone(&pool.groups[0].pick.as_ref().expect("Modelgate chooses").routes)
            })
        };
        for setting in [
            ("strategy", "least-busy"),
            ("pick.per_consumer", "true"),
            ("pick.wait", "9s"),
            ("answer_tokens", "9"),
            ("context_tokens", "9"),
            ("limit.requests_per_minute", "9"),
        ] {
            let [llama, sql] = routes(setting);
            assert!(Arc::ptr_eq(&llama, &sql), "{setting:?}: {llama:?}, {sql:?}");
        }
        let [llama, sql] = routes(("timeout.dial", "9s"));
        assert!(llama.iter().all(|route| !sql.contains(route)), "Traefik connects in another way");
    }

    /// Behind the servers of a route come the backups: another model's backup does not know the model.
    #[test]
    fn models_with_other_backups_have_other_routes() {
        let cache = ("strategy", "cache");
        let backup = |name, model: &str| of(name, &[model], &[cache, ("priority", "1")]);
        let primary = |name| of(name, &["llama", "sql"], &[cache]);
        for backups in [&["c"][..], &["c", "d"]] {
            let backups = backups.iter().zip(["llama", "sql"]).map(|(name, model)| backup(name, model));
            let (pools, problems) = picks([primary("a"), primary("b")].into_iter().chain(backups).collect());
            assert_eq!(problems, []);
            let [(_, Some(llama)), (_, Some(sql))] = &pools[..] else { panic!("{pools:?}") };
            assert!(llama.iter().all(|route| !sql.contains(route)), "{pools:?}");
        }
    }

    /// While one of two servers is away, requests still wait for the other one.
    #[test]
    fn requests_may_wait_for_one_server_and_only_where_modelgate_chooses() {
        let wait = ("pick.wait", "20s");
        let (pools, problems) = picks(vec![of("a", &["llama"], &[("strategy", "least-busy"), wait])]);
        assert_eq!((pools[0].1.as_ref().map(Vec::len), problems), (Some(1), Vec::new()));
        for given in [&[wait][..], &[wait, ("strategy", "p2c")]] {
            let (pools, problems) = picks(["a", "b"].map(|name| of(name, &["llama"], given)).into());
            assert_eq!(pools[0].1, None);
            let model = ModelName::new("llama").expect("a name");
            assert_eq!(problems, [Finding::from(SettingFinding::WaitWithoutChoice { model })]);
        }
        let (pools, problems) = picks(vec![of("a", &["llama"], &[("pick.wait", "0s")])]);
        assert_eq!((pools[0].1.as_ref(), problems), (None, Vec::new()), "nothing waits, as without it");
    }

    #[test]
    fn a_limit_of_concurrency_has_routes_of_its_own() {
        let counted: &Given = &[("strategy", "least-busy"), ("concurrency.max", "4")];
        let (pools, _) = picks(["a", "b"].map(|name| of(name, &["llama", "sql"], counted)).into());
        let [(_, Some(llama)), (_, Some(sql))] = &pools[..] else { panic!("{pools:?}") };
        assert!(llama.iter().all(|route| !sql.contains(route)), "{pools:?}");
    }

    #[test]
    fn backups_are_not_chosen_and_other_settings_keep_round_robin() {
        let cache = ("strategy", "cache");
        let (pools, _) = picks(vec![
            of("a", &["llama"], &[cache]),
            of("b", &["llama"], &[cache]),
            of("c", &["llama"], &[cache, ("priority", "1")]),
        ]);
        assert_eq!(pools[0].1.as_ref().map(Vec::len), Some(2));
        for (setting, fault) in [
            (("sticky.cookie", "llm"), PickFault::Sticky),
            (("canary.model", "next"), PickFault::Canary),
            (("mirror.model", "next"), PickFault::Mirror),
        ] {
            let next = of("next", &["next"], &[("accepts", "any")]);
            let [a, b] = ["a", "b"].map(|name| of(name, &["llama"], &[cache, setting]));
            let (pools, problems) = picks(vec![a, b, next]);
            assert_eq!(pools[0].1, None);
            let model = ModelName::new("llama").expect("a name");
            assert_eq!(problems, [Finding::from(SettingFinding::NoPick { model, strategy: "cache", fault })]);
        }
    }
}
