//! A list of accounts, searched and paginated by the registry.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, http::Uri, response::Response};
use limits::Limits;
use serde::Deserialize;
use store::{AccountSource, Filter};

use super::{Pages, link, new_path, rows, status, with_status};
use crate::{
    Admin, Operator,
    format::{self, Time},
    list::{ROWS, encode},
    page::{Frame, html},
    pages::query,
};

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountListPage {
    frame: Frame,
    path: &'static str,
    new_path: String,
    many: &'static str,
    columns: &'static [&'static str],
    query: ListQuery,
    rows: Vec<AccountRow>,
    total: String,
    /// The link to the start of the list, unless this is the start.
    first: Option<String>,
    next: Option<String>,
    has_state: bool,
    has_use: bool,
    can_change: bool,
    error: Option<String>,
}

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    q: String,
    consumer: String,
    plan: String,
    after: String,
}

/// A line of a list.
pub(crate) struct AccountRow {
    name: String,
    link: String,
    pub(super) class: &'static str,
    pub(super) state: &'static str,
    cells: Vec<String>,
    is_declared: bool,
    used: Option<Time>,
}

impl AccountRow {
    pub(super) fn new<A: Pages>(
        name: &str,
        class: &'static str,
        state: &'static str,
        cells: Vec<String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            link: link::<A>(name),
            class,
            state,
            cells,
            is_declared: false,
            used: None,
        }
    }

    /// The account's consumer is disabled.
    pub(super) fn refused(self) -> Self {
        match self.class {
            "good" => Self { class: "off", state: "its consumer is disabled", ..self },
            _ => self,
        }
    }

    /// The cells, each with the name of its column.
    fn labelled<'r>(
        &'r self,
        columns: &'r [&'static str],
    ) -> impl Iterator<Item = (&'static str, &'r String)> {
        columns.iter().copied().zip(&self.cells)
    }
}

/// Limits on one line.
pub(super) fn limits(limits: Option<&Limits>, per_model: Option<&Limits>) -> String {
    let words = |limits: &Limits| {
        let rates = limits.rates().iter().map(ToString::to_string);
        rates.chain(limits.quotas().iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
    };
    let all = limits.map(words);
    let each = per_model.map(|limits| format!("for each model {}", words(limits)));
    all.into_iter().chain(each).collect::<Vec<_>>().join("; ")
}

/// `GET /keys`, `/consumers`, `/plans`
pub(super) async fn show<A: Pages>(State(admin): State<Admin>, operator: Operator, uri: Uri) -> Response {
    let query: ListQuery = query(&uri);
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filter = Filter {
        search: given(&query.q),
        consumer: given(&query.consumer),
        plan: given(&query.plan),
        after: given(&query.after),
        limit: u32::try_from(ROWS).unwrap_or(u32::MAX),
    };
    let can_change = operator.role.may_write() && admin.registry.store().is_ok();
    let frame = Frame::new(A::PLURAL, A::PATH, operator);
    let mut page = AccountListPage {
        frame,
        path: A::PATH,
        new_path: new_path::<A>(),
        many: A::PLURAL,
        columns: A::COLUMNS,
        query,
        rows: Vec::new(),
        total: String::new(),
        first: None,
        next: None,
        has_state: A::KIND != accounts::AccountKind::Plan,
        has_use: false,
        can_change,
        error: None,
    };
    page.first = filter.after.is_some().then(|| page.link_after(""));
    let listed = match admin.registry.list_with_named::<A>(&filter).await {
        Ok(listed) => listed,
        Err(error) => {
            page.error = Some(error.to_string());
            return with_status(status(&error), html(&page));
        }
    };
    page.total = format::count(listed.total);
    page.next = listed.next.map(|after| page.link_after(&after));
    page.rows = rows(&admin, listed.items.iter().map(|item| &item.account)).await;
    for (row, item) in page.rows.iter_mut().zip(&listed.items) {
        row.is_declared = item.source == AccountSource::File;
    }
    if A::KIND == accounts::AccountKind::Key
        && let Ok(store) = admin.registry.store()
    {
        let names: Vec<String> = page.rows.iter().map(|row| row.name.clone()).collect();
        // The list is useful without the time of last use, too.
        let used: HashMap<String, i64> =
            store.last_used(&names).await.unwrap_or_default().into_iter().collect();
        for row in &mut page.rows {
            row.used = used.get(&row.name).map(|at| format::time(super::usage::time(*at)));
        }
        page.has_use = true;
    }
    html(&page)
}

impl AccountListPage {
    /// The link to the rows after a name; for an empty name, to the start.
    fn link_after(&self, after: &str) -> String {
        let ListQuery { q, consumer, plan, .. } = &self.query;
        let given = [("q", q.as_str()), ("consumer", consumer), ("plan", plan), ("after", after)];
        let given = given.iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("{}?{}", self.path, pairs.join("&"))
    }
}
