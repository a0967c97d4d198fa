//! Models: which servers serve each, and how its requests are balanced.

use askama::Template;
use catalogue::{Pool, Readiness, Source};

use super::{
    ListQuery, PageRequest,
    figures::{self, RecentFigures},
    live_page,
    servers::ServerRow,
};
use crate::{
    Admin, format,
    list::{Paging, contains, encode},
    page::Frame,
};

#[derive(Template)]
#[template(path = "models.html", blocks = ["live"])]
pub(crate) struct Models {
    frame: Frame,
    query: ListQuery,
    counts: [(&'static str, &'static str, usize); 4],
    rows: Vec<ModelRow>,
    is_metered: bool,
    paging: Paging,
}
live_page!(Models);

/// A line of the list.
struct ModelRow {
    link: String,
    model: String,
    /// What the name alone does not tell: an alias, a selection.
    notes: Vec<String>,
    class: &'static str,
    state: &'static str,
    ready: usize,
    waiting: usize,
    context: String,
    kind: String,
    figures: RecentFigures,
}

#[derive(Template)]
#[template(path = "model.html", blocks = ["live"])]
pub(crate) struct Model {
    frame: Frame,
    name: String,
    pools: Vec<PoolView>,
    is_metered: bool,
}
live_page!(Model);

/// One pool of a model: the one for everybody, or that of a selection.
struct PoolView {
    class: &'static str,
    state: &'static str,
    facts: Vec<(&'static str, String)>,
    settings: Vec<Setting>,
    servers: Vec<ServerRow>,
}

/// A setting in force.
struct Setting {
    name: &'static str,
    value: String,
    /// Where the setting comes from.
    from: String,
}

/// The word and the CSS class for a readiness.
fn state(readiness: Readiness) -> (&'static str, &'static str) {
    match readiness {
        Readiness::Ready => ("good", "ready"),
        Readiness::Starting => ("warn", "starting"),
        Readiness::Draining | Readiness::Stopped => ("bad", "gone"),
    }
}

/// `GET /models`
pub(crate) fn list(asked: PageRequest<'_>) -> Models {
    let query: ListQuery = asked.query();
    let loaded = asked.admin.shared.catalogue().load();
    let pools: Vec<_> = loaded.iter().flat_map(|catalogue| catalogue.pools()).collect();
    let count = |wanted| pools.iter().filter(|pool| state(pool.readiness()).1 == wanted).count();
    let counts = [
        ("", "All", pools.len()),
        ("ready", "Ready", count("ready")),
        ("starting", "Starting", count("starting")),
        ("gone", "Gone", count("gone")),
    ];
    let found = pools.iter().filter(|pool| {
        (query.state.is_empty() || state(pool.readiness()).1 == query.state)
            && contains(&query.q, [pool.model.as_str(), pool.canonical.as_str()])
    });
    let found: Vec<_> = found.collect();
    let paging = Paging::new(found.len(), query.page, &[("q", &query.q), ("state", &query.state)]);
    let is_metered = figures::is_metered(asked.admin);
    let rows = paging.cut(found).into_iter().map(|pool| row(asked.admin, pool)).collect();
    let frame = Frame::new("Models", "/models", asked.operator);
    Models { frame, query, counts, rows, is_metered, paging }
}

fn row(admin: &Admin, pool: &Pool) -> ModelRow {
    let (class, state) = state(pool.readiness());
    let mut notes = Vec::new();
    if pool.canonical != pool.model {
        notes.push(format!("another name for {}", pool.canonical));
    }
    notes.extend(pool.selector.iter().map(|selector| format!("for requests with {selector}")));
    notes.extend(pool.canary.iter().map(|branch| format!("{} % to {}", branch.percent, branch.model)));
    ModelRow {
        link: format!("/models/{}", encode(pool.model.as_str())),
        model: pool.model.to_string(),
        notes,
        class,
        state,
        ready: pool.ready.len(),
        waiting: pool.waiting.len(),
        context: pool.card.context_length.map_or_else(String::new, format::count),
        kind: pool.card.owned_by.clone().unwrap_or_default(),
        figures: RecentFigures::of_model(admin, pool),
    }
}

/// `GET /models/{name}`
pub(crate) fn one(asked: PageRequest<'_>, name: &str) -> Option<Model> {
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
    let is_metered = figures::is_metered(asked.admin);
    let frame = Frame::new(name, "/models", asked.operator);
    Some(Model { frame, name: name.to_owned(), pools, is_metered })
}

fn view(asked: &PageRequest<'_>, pool: &Pool) -> PoolView {
    let (class, state) = state(pool.readiness());
    let card = &pool.card;
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("Alias of", (pool.canonical != pool.model).then(|| pool.canonical.to_string()));
    fact("Chosen by", pool.selector.as_ref().map(ToString::to_string));
    fact("Served by", card.owned_by.clone());
    fact("Context", card.context_length.map(|tokens| format!("{} tokens", format::count(tokens))));
    fact("Root", card.root.clone());
    fact("Base model", card.parent.clone());
    let routes: Vec<&str> = pool.groups.iter().map(|group| group.route.as_str()).collect();
    fact("Route in Traefik", (!routes.is_empty()).then(|| routes.join(", ")));
    fact("Canary", pool.canary.as_ref().map(|b| format!("{} % to {}", b.percent, b.model)));
    fact("Mirror", pool.mirror.as_ref().map(|b| format!("{} % copied to {}", b.percent, b.model)));
    facts.extend(RecentFigures::of_model(asked.admin, pool).into_facts());
    let settings = settings(pool);
    let servers = pool.ready.iter().chain(&pool.waiting).map(|s| ServerRow::new(asked.admin, s)).collect();
    PoolView { class, state, facts, settings, servers }
}

/// The settings in force for a pool. `models:` in the configuration takes precedence over servers.
fn settings(pool: &Pool) -> Vec<Setting> {
    let setting = |(name, value): (&'static str, &str)| Setting {
        name,
        value: value.to_owned(),
        from: given_by(pool, name),
    };
    pool.given.iter().map(setting).collect()
}

/// Where a pool's setting comes from.
fn given_by(pool: &Pool, key: &str) -> String {
    let servers = pool.ready.iter().chain(&pool.waiting).map(|server| &server.spec);
    let first = servers.filter(|spec| spec.model_settings.get(key).is_some()).min_by_key(|spec| &spec.id);
    match first.filter(|_| pool.overridden.get(key).is_none()) {
        None => "models: in the configuration".into(),
        Some(spec) => match spec.source {
            Source::Docker { .. } => format!("label of {}", spec.name),
            Source::File => format!("servers: in the configuration, {}", spec.name),
        },
    }
}

#[cfg(test)]
mod tests {
    use catalogue::{
        Catalogue, GivenModelSettings, ModelGlobs, ModelOverrides, ServerRecord, ServerSettings, ServerState,
        Setting, Source,
    };

    use crate::testing::{Dashboard, server};

    fn given(settings: &[(&str, &str)]) -> GivenModelSettings {
        let mut given = GivenModelSettings::default();
        for (key, value) in settings {
            let setting = Setting::find(key).expect(key);
            setting.read(value, &mut ServerSettings::default(), &mut given).expect(value);
        }
        given
    }

    fn labelled(name: &str, state: ServerState, labels: &[(&str, &str)]) -> ServerRecord {
        let mut server = server(name, state, &["llama"]);
        server.spec.source = Source::Docker { container_id: name.into(), image: String::new() };
        server.spec.model_settings = given(labels);
        server
    }

    /// The settings on the page of the model `llama`, each with its source.
    async fn settings(servers: Vec<ServerRecord>, models: &[(&str, &[(&str, &str)])]) -> Vec<String> {
        let globs = |glob: &str| ModelGlobs::parse(&[glob.into()]).expect(glob);
        let overrides = models.iter().map(|(glob, settings)| (globs(glob), given(settings))).collect();
        let overrides = ModelOverrides::new(overrides);
        let dashboard = Dashboard::of(Catalogue::assemble_with(
            servers.into_iter().map(std::sync::Arc::new),
            Vec::new(),
            &overrides,
        ));
        let page = dashboard.page("/models/llama").await;
        let Some((_, settings)) = page.split_once("<h2>Settings</h2>") else { return Vec::new() };
        let settings = settings.split_once("</dl>").expect("a list").0;
        let text = |setting: &str| {
            let parts =
                setting.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text.trim());
            parts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
        };
        settings.split("<dt").skip(1).map(|setting| text(&format!("<dt{setting}"))).collect()
    }

    #[tokio::test]
    async fn what_the_configuration_says_of_a_model_is_shown_in_place_of_a_label() {
        let gpu = || labelled("gpu", ServerState::Ready, &[("strategy", "hrw"), ("retry.attempts", "3")]);
        assert_eq!(
            settings(vec![gpu()], &[("*", &[("strategy", "p2c")])]).await,
            ["retry.attempts 3 label of gpu", "strategy p2c models: in the configuration"]
        );
        let plain = || server("plain", ServerState::Ready, &["llama"]);
        assert_eq!(
            settings(
                vec![plain()],
                &[("lla*", &[("strategy", "p2c"), ("limit.requests_per_minute", "100")])]
            )
            .await,
            [
                "limit.requests_per_minute 100 models: in the configuration",
                "strategy p2c models: in the configuration"
            ],
            "without a label, and limits too"
        );
        assert!(settings(vec![plain()], &[("qwen", &[("strategy", "p2c")])]).await.is_empty());
    }

    #[tokio::test]
    async fn of_servers_that_differ_the_first_by_id_counts_though_it_is_not_ready() {
        let first = labelled("a", crate::testing::found::pending(), &[("strategy", "hrw")]);
        let other = labelled("b", ServerState::Ready, &[("strategy", "p2c")]);
        assert_eq!(settings(vec![other, first], &[]).await, ["strategy hrw label of a"]);
        let mut cloud = server("cloud", ServerState::Ready, &["llama"]);
        cloud.spec.model_settings = given(&[("strategy", "p2c")]);
        assert_eq!(
            settings(vec![cloud], &[]).await,
            ["strategy p2c servers: in the configuration, cloud"],
            "a server of the configuration has no labels"
        );
    }
}
