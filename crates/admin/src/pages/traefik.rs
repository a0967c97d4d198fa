//! Traefik: which Traefiks poll and what they hold, the document as rendered now, its history, and the cause of each change.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse as _, Response},
};
use traefik_config::Claim;
use web::Revision;

use super::{PageRequest, live_page};
use crate::{
    Admin, Operator, Refusal,
    format::{self, Time},
    page::{self, Frame},
};

#[derive(Template)]
#[template(path = "traefik.html", blocks = ["live"])]
pub(crate) struct Traefik {
    frame: Frame,
    warnings: Vec<String>,
    advisories: Vec<String>,
    /// What other applications on the same Traefik may lose.
    claim: Option<Claim>,
    version: String,
    instances: Vec<Instance>,
    revisions: Vec<EarlierDocument>,
}
live_page!(Traefik);

/// A Traefik that polls.
pub(crate) struct Instance {
    pub(crate) address: String,
    pub(crate) class: &'static str,
    pub(crate) state: &'static str,
    pub(crate) heard: String,
    pub(crate) revision: Option<u64>,
    pub(crate) is_behind: bool,
    pub(crate) version: String,
    pub(crate) polls: String,
}

/// An earlier document.
struct EarlierDocument {
    number: u64,
    at: Time,
    why: Vec<String>,
    version: String,
    gateway: String,
    size: String,
}

/// All Traefiks that poll.
pub(crate) fn instances(admin: &Admin) -> Vec<Instance> {
    let revisions = admin.shared.history().revisions();
    let all = admin.shared.polls().instances();
    let is_live = all.iter().any(|instance| instance.is_traefik() && !instance.is_silent());
    let instance = |instance: web::Instance| {
        let (class, state) = match (instance.is_silent(), instance.waiting) {
            _ if !instance.is_traefik() => ("off", "not a Traefik"),
            (true, _) => (if is_live { "warn" } else { "bad" }, "silent"),
            (false, true) => ("good", "waiting for news"),
            (false, false) => ("good", "polling"),
        };
        let given = instance.given.map(|given| given.revision);
        // Compared with the newest document of its kind: documents differ by version and by the host that is polled.
        let is_behind = given.is_some_and(|given| revisions.iter().any(|r| r.previous == Some(given)));
        Instance {
            address: instance.address.to_string(),
            class,
            state,
            heard: if instance.waiting {
                "now".into()
            } else {
                format!("{} ago", format::span(instance.silent_for))
            },
            revision: given,
            is_behind,
            version: instance.rendered_for.to_string(),
            polls: format::count(instance.polls),
        }
    };
    all.into_iter().map(instance).collect()
}

/// `GET /traefik`
pub(crate) fn page(asked: PageRequest<'_>) -> Traefik {
    let admin = asked.admin;
    let settings = admin.shared.settings();
    let polls = admin.shared.polls();
    let mut warnings: Vec<String> =
        polls.warnings().iter().chain(&polls.notes()).map(ToString::to_string).collect();
    let mut claim = None;
    if let Some(catalogue) = admin.shared.catalogue().load().as_deref() {
        claim = Claim::of(catalogue, &settings.traefik);
        let shortcomings = traefik_config::shortcomings(catalogue, &settings.traefik);
        warnings.extend(shortcomings.iter().map(ToString::to_string));
    }
    Traefik {
        frame: Frame::new("Traefik", "/traefik", asked.operator),
        warnings,
        advisories: admin.shared.advisories(),
        claim,
        version: settings.traefik.version.to_string(),
        instances: instances(admin),
        revisions: admin.shared.history().revisions().iter().map(row).collect(),
    }
}

fn row(revision: &Revision) -> EarlierDocument {
    EarlierDocument {
        number: revision.number,
        at: format::time(revision.at),
        why: revision.why.clone(),
        version: revision.version.to_string(),
        gateway: revision.gateway.clone(),
        size: format!("{} KB", format::count((revision.size as u64).div_ceil(1000))),
    }
}

#[derive(Template)]
#[template(path = "revision.html")]
struct Document {
    frame: Frame,
    row: EarlierDocument,
    previous: Option<u64>,
    diff: Vec<DiffLine>,
    is_forgotten: bool,
    /// How many lines are not shown.
    more: usize,
    /// The document, unless it is too long.
    text: Option<String>,
    has_document: bool,
}

/// A line of a diff.
struct DiffLine {
    class: &'static str,
    text: String,
}

/// The number of lines at the start of a diff that name the two documents.
const HEADER_LINES: usize = 2;
/// How many lines of a diff are shown.
const MOST_LINES: usize = 1000;
/// The longest document that is shown in the page, in bytes.
const MOST_TEXT: usize = 200_000;

/// `GET /traefik/revisions/{number}/document`
pub(crate) async fn json(State(admin): State<Admin>, Path(number): Path<u64>, parts: Parts) -> Response {
    let revision = admin.shared.history().revision(number);
    match revision.as_ref().and_then(Revision::document) {
        Some(document) => {
            let name = format!("attachment; filename=\"traefik-{number}.json\"");
            let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_DISPOSITION, name)];
            (headers, document.clone()).into_response()
        }
        None => Refusal::not_found(&parts).into_response(),
    }
}

/// `GET /traefik/revisions/{number}`
pub(crate) async fn revision(
    State(admin): State<Admin>,
    operator: Operator,
    Path(number): Path<u64>,
    parts: Parts,
) -> Response {
    // Comparing large documents takes a while.
    let made = tokio::task::spawn_blocking(move || document(&admin, operator, number)).await;
    match made {
        Ok(Some(document)) => page::html(&document),
        Ok(None) => Refusal::not_found(&parts).into_response(),
        Err(error) => {
            tracing::error!(%error, "a difference cannot be made");
            Refusal::not_found(&parts).into_response()
        }
    }
}

fn document(admin: &Admin, operator: Operator, number: u64) -> Option<Document> {
    let history = admin.shared.history();
    let revision = history.revision(number)?;
    let diff = revision.previous.map(|previous| history.diff(previous, number));
    let line = |text: &str| {
        let class = match text.as_bytes().first() {
            Some(b'+') => "add",
            Some(b'-') => "del",
            Some(b'@') => "hunk",
            _ => "same",
        };
        DiffLine { class, text: text.to_owned() }
    };
    let is_forgotten = matches!(diff, Some(None));
    let all = diff.flatten().unwrap_or_default();
    let more = all.lines().count().saturating_sub(HEADER_LINES + MOST_LINES);
    Some(Document {
        frame: Frame::new(format!("Revision {number}"), "/traefik", operator),
        row: row(&revision),
        previous: revision.previous,
        // The first two lines name the revisions, as the heading does already.
        diff: all.lines().skip(HEADER_LINES).take(MOST_LINES).map(line).collect(),
        more,
        is_forgotten,
        text: revision.text().filter(|text| text.len() <= MOST_TEXT),
        has_document: revision.document().is_some(),
    })
}
