//! Models: who serves each, and how its requests are spread.

use askama::Template;
use catalogue::{Pool, Readiness, ServerRecord};

use super::{Asked, ListQuery, live_page, servers::Row as ServerRow};
use crate::{
    format,
    list::{Paging, contains, encode},
    page::Frame,
};

#[derive(Template)]
#[template(path = "models.html", blocks = ["live"])]
pub(crate) struct Models {
    frame: Frame,
    query: ListQuery,
    counts: [(&'static str, &'static str, usize); 4],
    rows: Vec<Row>,
    paging: Paging,
}
live_page!(Models);

/// A line of the list.
struct Row {
    link: String,
    model: String,
    /// What makes it another model than its name says: an alias, a selection.
    notes: Vec<String>,
    class: &'static str,
    state: &'static str,
    ready: usize,
    waiting: usize,
    context: String,
    kind: String,
}

#[derive(Template)]
#[template(path = "model.html", blocks = ["live"])]
pub(crate) struct Model {
    frame: Frame,
    name: String,
    pools: Vec<PoolView>,
}
live_page!(Model);

/// One pool of a model: that for everybody, or one for some requests.
struct PoolView {
    class: &'static str,
    state: &'static str,
    facts: Vec<(&'static str, String)>,
    settings: Vec<(&'static str, String)>,
    servers: Vec<ServerRow>,
}

/// The word and the class of a readiness.
fn state(readiness: Readiness) -> (&'static str, &'static str) {
    match readiness {
        Readiness::Ready => ("good", "ready"),
        Readiness::Starting => ("warn", "starting"),
        Readiness::Draining => ("bad", "gone"),
    }
}

/// `GET /models`
pub(crate) fn list(asked: Asked<'_>) -> Models {
    let query: ListQuery = asked.query();
    let loaded = asked.admin.shared.catalogue().load();
    let pools: Vec<_> = loaded.iter().flat_map(|catalogue| catalogue.pools()).collect();
    let count = |wanted| pools.iter().filter(|pool| pool.readiness() == wanted).count();
    let counts = [
        ("", "All", pools.len()),
        ("ready", "Ready", count(Readiness::Ready)),
        ("starting", "Starting", count(Readiness::Starting)),
        ("gone", "Gone", count(Readiness::Draining)),
    ];
    let found = pools.iter().filter(|pool| {
        (query.state.is_empty() || state(pool.readiness()).1 == query.state)
            && contains(&query.q, [pool.model.as_str(), pool.stands_for.as_str()])
    });
    let found: Vec<_> = found.collect();
    let paging = Paging::new(found.len(), query.page, &[("q", &query.q), ("state", &query.state)]);
    let rows = paging.cut(found).into_iter().map(|pool| row(pool)).collect();
    Models { frame: Frame::new("Models", "/models", asked.operator), query, counts, rows, paging }
}

fn row(pool: &Pool) -> Row {
    let (class, state) = state(pool.readiness());
    let mut notes = Vec::new();
    if pool.stands_for != pool.model {
        notes.push(format!("another name for {}", pool.stands_for));
    }
    notes.extend(pool.selector.iter().map(|selector| format!("for requests with {selector}")));
    notes.extend(pool.canary.iter().map(|branch| format!("{} % to {}", branch.percent, branch.model)));
    Row {
        link: format!("/models/{}", encode(pool.model.as_str())),
        model: pool.model.to_string(),
        notes,
        class,
        state,
        ready: pool.ready.len(),
        waiting: pool.waiting.len(),
        context: pool.card.context_length.map_or_else(String::new, format::count),
        kind: pool.card.owned_by.clone().unwrap_or_default(),
    }
}

/// `GET /models/{name}`
pub(crate) fn one(asked: Asked<'_>, name: &str) -> Option<Model> {
    let loaded = asked.admin.shared.catalogue().load();
    let pools: Vec<PoolView> = loaded
        .iter()
        .flat_map(|catalogue| catalogue.pools())
        .filter(|pool| pool.model.as_str() == name)
        .map(|pool| view(&asked, pool))
        .collect();
    if pools.is_empty() {
        return None;
    }
    Some(Model { frame: Frame::new(name, "/models", asked.operator), name: name.to_owned(), pools })
}

fn view(asked: &Asked<'_>, pool: &Pool) -> PoolView {
    let (class, state) = state(pool.readiness());
    let card = &pool.card;
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("Stands for", (pool.stands_for != pool.model).then(|| pool.stands_for.to_string()));
    fact("Chosen by", pool.selector.as_ref().map(ToString::to_string));
    fact("Served by", card.owned_by.clone());
    fact("Context", card.context_length.map(|tokens| format!("{} tokens", format::count(tokens))));
    fact("Root", card.root.clone());
    fact("Base model", card.parent.clone());
    let routes: Vec<&str> = pool.legs.iter().map(|leg| leg.route.as_str()).collect();
    fact("Route in Traefik", (!routes.is_empty()).then(|| routes.join(", ")));
    fact("Canary", pool.canary.as_ref().map(|b| format!("{} % to {}", b.percent, b.model)));
    fact("Mirror", pool.mirror.as_ref().map(|b| format!("{} % copied to {}", b.percent, b.model)));
    let settings = settings(pool);
    let servers = pool.ready.iter().chain(&pool.waiting).map(|s| ServerRow::new(asked.admin, s)).collect();
    PoolView { class, state, facts, settings, servers }
}

/// What its servers ask for; the first that has a setting counts. What the configuration says comes on top.
fn settings(pool: &Pool) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let of = |server: &std::sync::Arc<ServerRecord>| {
        server.spec.model_settings.iter().map(|(key, value)| (key, value.to_owned())).collect::<Vec<_>>()
    };
    for (key, value) in pool.ready.iter().chain(&pool.waiting).flat_map(of) {
        if all.iter().all(|(known, _)| *known != key) {
            all.push((key, value));
        }
    }
    all
}
