//! One account: its permissions and usage; change, rotate, revoke.

use std::time::Duration;

use accounts::AccountKind;
use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::request::Parts,
    response::{IntoResponse as _, Redirect, Response},
};
use serde_json::{Value, json};
use store::{AccountSource, Item, RegistryError};

use super::{
    Pages,
    budgets::{self, Budgets},
    form::{self, FormControl, FormOf, FormValues, Group, groups},
    link, list,
    meters::{Limits, Meters},
    rows, secret, status, usage, with_status,
};
use crate::{
    Admin, Operator, Refusal,
    format::{self, Time},
    page::{Frame, html},
    pages::usage::{self as usage_page, UsageLine},
};

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    frame: Frame,
    path: &'static str,
    many: &'static str,
    link: String,
    name: String,
    is_key: bool,
    is_plan: bool,
    row: list::AccountRow,
    facts: Vec<(&'static str, String)>,
    changed: Option<Time>,
    /// Until when the key works that was replaced in a rotation.
    old_key: Option<Time>,
    can_change: bool,
    is_declared: bool,
    /// It has no settings: only keys name it.
    is_named: bool,
    groups: Vec<Group>,
    plans: Vec<String>,
    /// What is left of its limits; a plan has no usage of its own.
    limits: Option<Limits>,
    /// Its budgets; `None` if it has none.
    budgets: Option<Budgets>,
    /// Budgets of accounts of the configuration file can be changed as well.
    can_change_budgets: bool,
    used: Vec<UsageLine>,
    /// In which it is paid; `None` if nothing has a price.
    currency: Option<String>,
    has_store: bool,
    error: Option<String>,
}

/// How long the old key goes on working after a rotation.
const GRACE: [(&str, &str, u64); 4] = [
    ("0", "not at all", 0),
    ("1h", "for 1 hour", 3600),
    ("24h", "for 24 hours", 86_400),
    ("7d", "for 7 days", 604_800),
];

/// `GET /keys/{name}`, and likewise for consumers and plans.
pub(super) async fn show<A: Pages>(
    State(admin): State<Admin>,
    operator: Operator,
    Path(name): Path<String>,
    parts: Parts,
) -> Response {
    match admin.registry.get_or_named::<A>(&name).await {
        Ok(Some(item)) => html(&page(&admin, operator, &item, None, None).await),
        Ok(None) => Refusal::not_found(&parts).into_response(),
        Err(error) => Refusal::of_registry(&parts, status(&error), &error).into_response(),
    }
}

async fn page<A: Pages>(
    admin: &Admin,
    operator: Operator,
    item: &Item<A>,
    given: Option<&Value>,
    error: Option<String>,
) -> AccountPage {
    let (account, name) = (&item.account, item.account.name().to_owned());
    let is_declared = item.source == AccountSource::File;
    let document = account.to_json();
    let used = match A::KIND {
        AccountKind::Key => usage::of_key(admin, &name).await,
        _ => Vec::new(),
    };
    let limits = match A::KIND {
        AccountKind::Plan => None,
        _ => Some(Meters::of(account, usage::models(&used)).read(admin).await),
    };
    let row = rows(admin, [account].into_iter()).await.remove(0);
    AccountPage {
        budgets: budgets::of(admin, account).await,
        can_change_budgets: operator.role.may_write() && admin.registry.store().is_ok(),
        can_change: operator.role.may_write() && !is_declared && admin.registry.store().is_ok(),
        frame: Frame::new(&name, A::PATH, operator),
        path: A::PATH,
        many: A::PLURAL,
        link: link::<A>(&name),
        is_key: A::KIND == AccountKind::Key,
        is_plan: A::KIND == AccountKind::Plan,
        facts: facts::<A>(&document),
        changed: match item.source {
            AccountSource::File | AccountSource::Keys => None,
            AccountSource::Store { changed, .. } => Some(format::time(changed)),
        },
        old_key: account.old_key_until().map(format::time),
        is_declared,
        is_named: item.source == AccountSource::Keys,
        groups: groups(A::KIND, FormOf::Existing, given.unwrap_or(&document)),
        plans: admin.registry.plan_names().await.unwrap_or_default(),
        limits,
        currency: usage_page::currency(admin),
        used: used.iter().map(UsageLine::of).collect(),
        has_store: !matches!(admin.registry.store(), Err(RegistryError::NoStore)),
        error,
        row,
        name,
    }
}

/// The settings, in words.
fn facts<A: Pages>(document: &Value) -> Vec<(&'static str, String)> {
    let fields = groups(A::KIND, FormOf::Existing, document).into_iter().flat_map(|group| {
        let legend = group.legend;
        group.fields.into_iter().map(move |field| (legend, field))
    });
    let set = fields.filter(|(_, field)| !field.value.is_empty());
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    for (legend, field) in set {
        match field.name.split_once('.') {
            // All limits of one kind are on one line.
            Some((_, name)) => {
                let amount =
                    field.value.parse().map_or_else(|_| field.value.clone(), |n: u64| format::count(n));
                let words = match name.replace('_', " ") {
                    words if words.starts_with("budget") => format!("{words} {}", field.value),
                    words => format!("{amount} {words}"),
                };
                match facts.last_mut().filter(|(known, _)| *known == legend) {
                    Some((_, text)) => text.push_str(&format!(", {words}")),
                    None => facts.push((legend, words)),
                }
            }
            None if field.shape == FormControl::Check => facts.push((field.label, "yes".into())),
            None if field.shape == FormControl::Time => {
                facts.push((field.label, field.value.replace('T', " ")));
            }
            None => facts.push((field.label, field.value)),
        }
    }
    facts
}

/// `POST /keys/{name}`, and likewise for consumers and plans; `action` says what to do.
pub(super) async fn act<A: Pages>(
    State(admin): State<Admin>,
    operator: Operator,
    Path(name): Path<String>,
    parts: Parts,
    Form(given): Form<FormValues>,
) -> Response {
    let action = given.iter().find(|(key, _)| key == "action").map_or("", |(_, value)| value.as_str());
    let registry = &admin.registry;
    let error = match (action, A::KIND) {
        ("save", _) => {
            let patch = form::patch(A::KIND, FormOf::Existing, &given);
            let saved = save::<A>(&admin, &operator, &name, &patch).await;
            match saved {
                Ok(_) => return Redirect::to(&link::<A>(&name)).into_response(),
                Err(error) => {
                    let failed = Failed { given: Some(&patch), error };
                    return again::<A>(&admin, operator, &name, &parts, failed).await;
                }
            }
        }
        ("delete", kind) => match registry.delete(kind, &name, &operator.actor()).await {
            Ok(_) => return Redirect::to(A::PATH).into_response(),
            Err(error) => error,
        },
        ("rotate", AccountKind::Key) => {
            let wanted = given.iter().find(|(key, _)| key == "grace").map_or("", |(_, value)| value.as_str());
            let Some((.., grace)) = GRACE.iter().find(|(value, ..)| *value == wanted) else {
                return Refusal::bad_request(&parts, "grace: allowed: 0, 1h, 24h or 7d").into_response();
            };
            match registry.rotate(&name, Duration::from_secs(*grace), &operator.actor()).await {
                Ok((item, key)) => {
                    let says = match grace {
                        0 => {
                            "The API key has been replaced, and the old one stops working at once. Give the new one to its owner."
                        }
                        _ => "The API key has been replaced. Give the new one to its owner.",
                    };
                    return secret::show(&admin, operator, &item.account, &key, says).await;
                }
                Err(error) => error,
            }
        }
        ("top-up" | "reset", AccountKind::Key | AccountKind::Consumer) => {
            match budgets::change::<A>(&admin, &operator, &name, (action, &given)).await {
                Ok(()) => return Redirect::to(&format!("{}#budgets", link::<A>(&name))).into_response(),
                Err(error) => error,
            }
        }
        ("end-old", AccountKind::Key) => {
            match registry.patch::<A>(&name, &json!({ "previous": null }), &operator.actor()).await {
                Ok(_) => return Redirect::to(&link::<A>(&name)).into_response(),
                Err(error) => error,
            }
        }
        _ => {
            let allowed = "action: allowed: save, delete, for keys rotate and end-old, and for keys and consumers top-up and reset";
            return Refusal::bad_request(&parts, allowed).into_response();
        }
    };
    again::<A>(&admin, operator, &name, &parts, Failed { given: None, error }).await
}

/// Changes an account. A consumer that only keys name gets one.
async fn save<A: Pages>(
    admin: &Admin,
    operator: &Operator,
    name: &str,
    patch: &Value,
) -> Result<Item<A>, RegistryError> {
    let (registry, actor) = (&admin.registry, operator.actor());
    match registry.get_or_named::<A>(name).await? {
        Some(item) if item.source == AccountSource::Keys => {
            registry.put::<A>(name, &form::without_nulls(patch.clone()), &actor).await
        }
        _ => registry.patch::<A>(name, patch, &actor).await,
    }
}

/// A change that failed.
struct Failed<'g> {
    /// The change, to be corrected in the form.
    given: Option<&'g Value>,
    error: RegistryError,
}

/// The page of the account, with the error.
async fn again<A: Pages>(
    admin: &Admin,
    operator: Operator,
    name: &str,
    parts: &Parts,
    failed: Failed<'_>,
) -> Response {
    let Failed { given, error } = failed;
    let status = status(&error);
    match admin.registry.get_or_named::<A>(name).await {
        Ok(Some(item)) => {
            with_status(status, html(&page(admin, operator, &item, given, Some(error.to_string())).await))
        }
        Ok(None) => Refusal::not_found(parts).into_response(),
        Err(_) => Refusal::of_registry(parts, status, &error).into_response(),
    }
}
