//! Servers: their address, their state and its reason, problems and advice; drain, pause, resume.

mod health;

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::request::Parts,
    response::{IntoResponse as _, Redirect, Response},
};
use catalogue::{
    Cordon, CordonKind, Finding, HealthMode, Problem, ProblemSubject, ServerRecord, ServerState, Severity,
    Source,
};
use serde::Deserialize;
use store::RegistryError;

use self::health::ShownHealth;
use super::{
    ListQuery, PageRequest,
    figures::{self, RecentFigures},
    live_page,
};
use crate::{
    Admin, Operator, Refusal,
    books::{self, BookLine},
    format::{self, Time},
    issue::{self, Issue, Told},
    list::{Paging, contains, encode},
    page::Frame,
};

#[derive(Template)]
#[template(path = "servers.html", blocks = ["live"])]
pub(crate) struct Servers {
    frame: Frame,
    query: ListQuery,
    counts: [(&'static str, &'static str, usize); 8],
    issues: Vec<Issue>,
    rows: Vec<ServerRow>,
    is_metered: bool,
    paging: Paging,
}
live_page!(Servers);

/// A row of the list.
pub(crate) struct ServerRow {
    pub(crate) link: String,
    pub(crate) name: String,
    pub(crate) address: String,
    /// The container's image, or that the server comes from the configuration.
    pub(crate) source: String,
    pub(crate) class: &'static str,
    pub(crate) state: &'static str,
    pub(crate) why: String,
    pub(crate) since: Option<Time>,
    pub(crate) health: ShownHealth,
    pub(crate) weight: u16,
    pub(crate) priority: u8,
    pub(crate) models: Vec<String>,
    pub(crate) more_models: usize,
    pub(crate) figures: RecentFigures,
}

/// How many models are named in a row.
const MODELS: usize = 3;

impl ServerRow {
    pub(crate) fn new(admin: &Admin, server: &ServerRecord) -> Self {
        let spec = &server.spec;
        let (class, state) = state(admin, server);
        let names = server.models.iter().map(|model| model.name.to_string());
        Self {
            link: format!("/servers/{}", encode(spec.id.as_str())),
            name: spec.name.clone(),
            address: spec.url.to_string(),
            source: match &spec.source {
                Source::Docker { image, .. } => image.clone(),
                Source::File => "configuration".into(),
            },
            class,
            state,
            why: server.state.why().map_or_else(String::new, ToString::to_string),
            since: admin.since.of(server).map(format::time),
            health: ShownHealth::of(server),
            weight: spec.settings.weight.unwrap_or(1),
            priority: spec.settings.priority,
            models: names.take(MODELS).collect(),
            more_models: server.models.len().saturating_sub(MODELS),
            figures: RecentFigures::of_server(admin, server),
        }
    }
}

/// The CSS class and the word of a server's state.
fn state(admin: &Admin, server: &ServerRecord) -> (&'static str, &'static str) {
    match (&server.state, cordoned(admin, server)) {
        (ServerState::Ready, _) if server.models.is_empty() => ("warn", "empty"),
        (ServerState::Ready, _) => ("good", "ready"),
        (ServerState::Starting(why), _) if why.needs_a_change() => ("bad", "unusable"),
        (ServerState::Starting(_), _) => ("warn", "starting"),
        (ServerState::Draining(_), Some(CordonKind::Drain { .. })) => ("off", "drained"),
        (ServerState::Draining(_), Some(CordonKind::Pause)) => ("off", "paused"),
        (ServerState::Draining(_), None) => ("bad", "withdrawn"),
        (ServerState::Stopped(_), _) => ("off", "stopped"),
    }
}

fn cordoned(admin: &Admin, server: &ServerRecord) -> Option<CordonKind> {
    admin.cordons.borrow().of(&server.spec).map(|cordon| cordon.kind.clone())
}

/// `GET /servers`
pub(crate) fn list(asked: PageRequest<'_>) -> Servers {
    let (admin, query) = (asked.admin, asked.query::<ListQuery>());
    let loaded = admin.shared.catalogue().load();
    let servers: Vec<&Arc<ServerRecord>> = loaded.iter().flat_map(|catalogue| catalogue.servers()).collect();
    let issues: Vec<Issue> = loaded.as_deref().map_or_else(Vec::new, |catalogue| {
        let now = SystemTime::now();
        let all = issue::all(admin, catalogue, now).into_iter().chain(issue::loading(admin, catalogue, now));
        let all = all.chain(issue::hints(catalogue));
        all.filter(|issue| contains(&query.q, [issue.about.as_str(), issue.told.what.as_str()])).collect()
    });
    let count = |name: &str| servers.iter().filter(|server| server.state_name() == name).count();
    let counts = [
        ("", "All", servers.len()),
        ("ready", "Ready", count("ready")),
        ("empty", "Empty", count("empty")),
        ("starting", "Starting", count("starting")),
        ("unusable", "Unusable", count("unusable")),
        ("draining", "Withdrawn", count("draining")),
        ("stopped", "Stopped", count("stopped")),
        ("problems", "Problems", issues.len()),
    ];
    let found = servers.iter().filter(|server| {
        (query.state.is_empty() || server.state_name() == query.state) && contains(&query.q, searched(server))
    });
    let found: Vec<_> = found.collect();
    let rows = if query.state == "problems" { issues.len() } else { found.len() };
    let paging = Paging::new(rows, query.page, &[("q", &query.q), ("state", &query.state)]);
    let issues = match query.state.as_str() {
        "problems" => paging.cut(issues),
        // Problems of containers that are not servers are shown nowhere else.
        "" if query.page <= 1 => {
            let elsewhere = |i: &Issue| i.link.starts_with("/servers?") && i.severity != Severity::Hint;
            issues.into_iter().filter(elsewhere).take(MOST_ISSUES).collect()
        }
        _ => Vec::new(),
    };
    let rows = paging.cut(found).into_iter().map(|server| ServerRow::new(admin, server)).collect();
    let is_metered = figures::is_metered(admin);
    let frame = Frame::new("Servers", "/servers", asked.operator);
    Servers { frame, query, counts, issues, rows, is_metered, paging }
}

/// How many issues are shown above the list.
const MOST_ISSUES: usize = 5;

fn searched(server: &ServerRecord) -> impl Iterator<Item = &str> {
    let image = match &server.spec.source {
        Source::Docker { image, .. } => image.as_str(),
        Source::File => "",
    };
    let models = server.models.iter().map(|model| model.name.as_str());
    [server.spec.name.as_str(), server.spec.url.as_str(), server.spec.id.as_str(), image]
        .into_iter()
        .chain(models)
}

const HERE_ONLY: &str = "Without a store, a server that is drained or paused is so in this Modelgate alone, until it is restarted.";
const IN_THE_STORE: &str = "A server that is drained or paused is so in every Modelgate that has the same store, within some two seconds, and after a restart.";

#[derive(Template)]
#[template(path = "server.html", blocks = ["live"])]
pub(crate) struct ServerPage {
    frame: Frame,
    row: ServerRow,
    todo: Option<Cow<'static, str>>,
    facts: Vec<(&'static str, String)>,
    settings: Vec<(String, String)>,
    has_model_settings: bool,
    models: Vec<(String, String)>,
    /// How its requests have gone, and how well their tokens are known.
    requests: Vec<(&'static str, String)>,
    metering_todo: Option<String>,
    problems: Vec<Told>,
    can_cordon: bool,
    /// Where and for how long a cordon holds.
    reach: &'static str,
    cordoned: bool,
    has_runs: bool,
    books: Vec<BookLine>,
}
live_page!(ServerPage);

/// `GET /servers/{id}`
pub(crate) fn one(asked: PageRequest<'_>, id: &str) -> Option<ServerPage> {
    let admin = asked.admin;
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref()?;
    let server = catalogue.servers().find(|server| server.spec.id.as_str() == id)?;
    let spec = &server.spec;
    let row = ServerRow::new(admin, server);
    let of_server = spec.settings.given.iter().map(|(key, value)| (*key, value.as_str()));
    let settings = of_server.chain(spec.model_settings.iter());
    let is_about = |subject: &ProblemSubject| matches!(subject, ProblemSubject::Container(n) | ProblemSubject::Server(n) if *n == spec.name);
    // The reason why it is not ready is shown above already.
    let is_new = |p: &&Problem| is_about(&p.subject) && Some(&p.finding) != server.state.why();
    let problems = catalogue.problems().iter().chain(catalogue.hints()).filter(is_new);
    let facts = facts(server, &row);
    let metering = admin.shared.metering_of(server);
    let mut requests = RecentFigures::of_server(admin, server).into_facts();
    requests.push(("Tokens are", metering.to_string()));
    Some(ServerPage {
        frame: Frame::new(&spec.name, "/servers", asked.operator),
        todo: server.state.why().map(Finding::advice),
        facts,
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        has_model_settings: !spec.model_settings.is_empty(),
        models: server
            .models
            .iter()
            .map(|m| (m.name.to_string(), format!("/models/{}", encode(m.name.as_str()))))
            .collect(),
        requests,
        metering_todo: metering.advice(),
        problems: problems.map(|problem| Told::of_catalogue(&problem.finding)).collect(),
        can_cordon: !matches!(server.state, ServerState::Stopped(_)),
        reach: match admin.registry.store() {
            Err(RegistryError::NoStore) => HERE_ONLY,
            _ => IN_THE_STORE,
        },
        cordoned: cordoned(admin, server).is_some(),
        has_runs: spec.source != Source::File,
        books: books::lines(admin, std::iter::once(&**server)),
        row,
    })
}

/// What is known of a server besides its state.
fn facts(server: &ServerRecord, row: &ServerRow) -> Vec<(&'static str, String)> {
    let spec = &server.spec;
    let mut facts = vec![
        ("Address", spec.url.to_string()),
        ("API below", format!("{}/", spec.base_path.as_str())),
        (
            "Health",
            match spec.health {
                HealthMode::Docker => format!("{}, by its HEALTHCHECK", row.health.word),
                HealthMode::Probe => {
                    format!("{}, by Modelgate, which asks it again and again", row.health.word)
                }
            },
        ),
        ("Weight", row.weight.to_string()),
    ];
    match &spec.source {
        Source::Docker { container_id, image } => {
            facts.push(("Image", image.clone()));
            facts.push(("Container", container_id.chars().take(12).collect()));
            let at = spec.started().map(|at| format::time(at).people);
            facts.push(("Started", at.unwrap_or_else(|| spec.incarnation.clone())));
        }
        Source::File => facts.push(("Known from", "servers: in the configuration".into())),
    }
    if row.priority > 0 {
        facts.push((
            "Backup",
            format!("priority {}: used when no server with a lower one is ready", row.priority),
        ));
    }
    facts.extend(spec.settings.selector().map(|s| ("Chosen by", format!("only requests with {s}"))));
    if spec.credential.is_some() {
        facts.push(("Credential", "it demands one; it is given to nobody but Traefik".into()));
    }
    facts
}

/// The form that the buttons send.
#[derive(Deserialize)]
pub(crate) struct Action {
    action: String,
}

/// `POST /servers/{id}`
pub(crate) async fn act(
    State(admin): State<Admin>,
    operator: Operator,
    Path(id): Path<String>,
    parts: Parts,
    Form(Action { action }): Form<Action>,
) -> Response {
    let loaded = admin.shared.catalogue().load();
    let servers = || loaded.iter().flat_map(|catalogue| catalogue.servers());
    let Some(server) = servers().find(|server| server.spec.id.as_str() == id) else {
        return Refusal::not_found(&parts).into_response();
    };
    let spec = &server.spec;
    let kind = match action.as_str() {
        "drain" => Some(CordonKind::Drain { incarnation: spec.incarnation.clone() }),
        "pause" => Some(CordonKind::Pause),
        "resume" => None,
        _ => return Refusal::bad_request(&parts, "action: allowed: drain, pause or resume").into_response(),
    };
    let (done, name) = (
        match kind {
            Some(CordonKind::Drain { .. }) => "server drained",
            Some(CordonKind::Pause) => "server paused",
            None => "server resumed",
        },
        spec.name.clone(),
    );
    admin.cordons.send_modify(|cordons| {
        cordons.retain(servers().map(|server| &server.spec));
        match kind {
            Some(kind) => cordons.cordon(spec.id.clone(), Cordon { kind, by: Arc::clone(&operator.name) }),
            None => {
                cordons.resume(&spec.id);
            }
        }
    });
    let location = format!("/servers/{}", encode(spec.id.as_str()));
    drop(loaded);
    admin.note(&operator, done, &name).await;
    Redirect::to(&location).into_response()
}
