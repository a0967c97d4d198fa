//! Forms for accounts: their fields, the contents of these, and how a form becomes a document.

use accounts::AccountKind;
use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse as _, Redirect, Response},
};
use serde_json::{Map, Value};

use super::{Pages, link, one_is_called, secret, status, with_status};
use crate::{
    Admin, Operator,
    page::{Frame, html},
};

/// The fields that a form sends, in order.
pub(super) type FormValues = Vec<(String, String)>;

#[derive(Template)]
#[template(path = "account_new.html")]
struct New {
    frame: Frame,
    path: &'static str,
    many: &'static str,
    groups: Vec<Group>,
    error: Option<String>,
    plans: Vec<String>,
}

/// What a form is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormOf {
    /// A new account: its name is among the fields.
    New,
    /// An existing account.
    Existing,
}

/// Fields that belong together.
pub(super) struct Group {
    pub(super) legend: &'static str,
    pub(super) hint: &'static str,
    /// Whether the group is expanded at first: most operators need it, or one of its fields is filled.
    pub(super) open: bool,
    pub(super) fields: Vec<FormField>,
}

/// A field of a form.
pub(super) struct FormField {
    /// The field's place in the document, such as `limit.requests_per_minute`.
    pub(super) name: String,
    pub(super) label: &'static str,
    pub(super) hint: &'static str,
    pub(super) shape: FormControl,
    pub(super) value: String,
}

/// How a field looks, and how its text is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormControl {
    Text,
    Required,
    Number,
    Check,
    /// An amount of money.
    Money,
    /// The kind of budgets.
    BudgetKind,
    /// Who goes first.
    Priority,
    /// The name of a plan.
    Plan,
    /// Several values, separated by commas.
    List,
    /// A time, in UTC.
    Time,
}

type FieldDoc = (&'static str, &'static str, FormControl, &'static str);

const NAME: FieldDoc = ("name", "Name", FormControl::Required, accounts::NAME);
const PLAN: FieldDoc = ("plan", "Plan", FormControl::Plan, "Provides the values that are left empty here");
const PRIORITY: FieldDoc = (
    "priority",
    "Priority",
    FormControl::Priority,
    "Who goes first while requests wait for a server (pick.wait)",
);
const NOTE: FieldDoc = ("note", "Note", FormControl::Text, "");
const DISABLED: FieldDoc = ("disabled", "Disabled", FormControl::Check, "");
const MODELS: FieldDoc = (
    "models",
    "Models",
    FormControl::List,
    "Names, or patterns with * and ?, separated by commas; empty: all",
);

/// The hint for every field of a limit.
const LIMIT_HINT: &str = "All that are given must hold. “At once” is the burst, of the shortest time given. Tokens are estimated. Budgets are money, by prices; those that are hard are never exceeded.";

/// The fields of a limit.
const LIMIT: [FieldDoc; 15] = [
    ("requests_per_second", "Requests / second", FormControl::Number, ""),
    ("requests_per_minute", "Requests / minute", FormControl::Number, ""),
    ("requests_per_hour", "Requests / hour", FormControl::Number, ""),
    ("requests_per_day", "Requests / day", FormControl::Number, ""),
    ("requests_per_month", "Requests / month", FormControl::Number, ""),
    ("burst", "Requests at once", FormControl::Number, ""),
    ("tokens_per_minute", "Tokens / minute", FormControl::Number, ""),
    ("tokens_per_day", "Tokens / day", FormControl::Number, ""),
    ("tokens_per_month", "Tokens / month", FormControl::Number, ""),
    ("tokens_burst", "Tokens at once", FormControl::Number, ""),
    ("budget_per_day", "Budget / day", FormControl::Money, ""),
    ("budget_per_week", "Budget / week", FormControl::Money, ""),
    ("budget_per_month", "Budget / month", FormControl::Money, ""),
    ("budget_total", "Budget in all", FormControl::Money, ""),
    ("budget_kind", "Kind of budgets", FormControl::BudgetKind, ""),
];

/// The fields of a kind; the name only for a new account.
pub(super) fn groups(kind: AccountKind, of: FormOf, document: &Value) -> Vec<Group> {
    let (first, last): (&[FieldDoc], &[FieldDoc]) = match kind {
        AccountKind::Key => (
            &[
                (
                    "consumer",
                    "Consumer",
                    FormControl::Required,
                    "Who owns it; servers see it as X-Inference-Consumer",
                ),
                PLAN,
                MODELS,
                NOTE,
            ],
            &[
                ("expires", "Expires (UTC)", FormControl::Time, ""),
                ("networks", "Networks", FormControl::List, "Works only from there, such as 10.0.0.0/8"),
                (
                    "manage",
                    "May manage servers",
                    FormControl::Check,
                    "Opens paths that load adapters and the like",
                ),
                (
                    "stored_data",
                    "May use stored data",
                    FormControl::Check,
                    "Files, batches, stored responses and the like, of everybody who uses the server or the account",
                ),
                DISABLED,
            ],
        ),
        AccountKind::Consumer => (&[PLAN, NOTE], &[DISABLED]),
        AccountKind::Plan => (&[MODELS, PRIORITY, NOTE], &[]),
    };
    let name = match of {
        FormOf::New => Some(NAME),
        FormOf::Existing => None,
    };
    let first = group("", name.iter().chain(first), "", document);
    let mut groups = vec![Group { open: true, ..first }];
    let legends =
        [("limit", "Limits over all models"), ("limit_per_model", "Limits for each model on its own")];
    for (prefix, legend) in legends {
        groups.push(group(legend, LIMIT.iter(), prefix, document));
    }
    if !last.is_empty() {
        let legend = if kind == AccountKind::Key { "When and from where" } else { "State" };
        groups.push(group(legend, last.iter(), "", document));
    }
    groups
}

/// Fields of the document, or of a limit in it. The group is expanded if one of them is filled.
fn group<'f>(
    legend: &'static str,
    fields: impl Iterator<Item = &'f FieldDoc>,
    prefix: &str,
    document: &Value,
) -> Group {
    let field = |(name, label, shape, hint): &FieldDoc| {
        let at = if prefix.is_empty() { (*name).to_owned() } else { format!("{prefix}.{name}") };
        let value = value(document, &at, *shape);
        FormField { name: at, label, hint, shape: *shape, value }
    };
    let fields: Vec<FormField> = fields.map(field).collect();
    let is_given = |name: &str| document.get(name).is_some();
    match prefix {
        "" => Group { legend, hint: "", open: fields.iter().any(|field| is_given(&field.name)), fields },
        limit => Group { legend, hint: LIMIT_HINT, open: is_given(limit), fields },
    }
}

/// The content of a field.
fn value(document: &Value, at: &str, shape: FormControl) -> String {
    let found = at.split('.').try_fold(document, |value, key| value.get(key));
    match found {
        None | Some(Value::Null | Value::Bool(false)) => String::new(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        Some(Value::String(text)) if shape == FormControl::Time => text.get(..16).unwrap_or(text).to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The merge patch (RFC 7396) for a form: empty fields are `null`, so that they remove what was there.
pub(super) fn patch(kind: AccountKind, of: FormOf, given: &FormValues) -> Value {
    let mut patch = Map::new();
    for group in groups(kind, of, &Value::Null) {
        for field in group.fields {
            let text = given.iter().find(|(name, _)| *name == field.name).map_or("", |(_, text)| text.trim());
            let value = meaning(field.shape, text);
            match field.name.split_once('.') {
                None => drop(patch.insert(field.name, value)),
                Some((prefix, name)) => {
                    let limit = patch.entry(prefix).or_insert_with(|| Map::new().into());
                    if let Some(limit) = limit.as_object_mut() {
                        limit.insert(name.to_owned(), value);
                    }
                }
            }
        }
    }
    // If all fields of a limit are empty, the limit is removed; it is not an empty limit.
    for limit in ["limit", "limit_per_model"] {
        let is_empty = |value: &Value| value.as_object().is_some_and(|l| l.values().all(Value::is_null));
        if patch.get(limit).is_some_and(is_empty) {
            patch.insert(limit.to_owned(), Value::Null);
        }
    }
    Value::Object(patch)
}

fn meaning(shape: FormControl, text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    match shape {
        FormControl::Check => Value::Bool(true),
        // Text that is not a number is kept: the registry says what is allowed.
        FormControl::Number => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        FormControl::Money => {
            text.parse().map_or_else(|_| text.into(), |number: serde_json::Number| Value::Number(number))
        }
        FormControl::List => text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty()).collect(),
        // Browsers send a time without seconds and time zone.
        FormControl::Time if text.len() == 16 => format!("{text}:00Z").into(),
        FormControl::Text
        | FormControl::Required
        | FormControl::BudgetKind
        | FormControl::Priority
        | FormControl::Plan
        | FormControl::Time => text.into(),
    }
}

/// The document without nulls, for a new account.
pub(super) fn without_nulls(mut document: Value) -> Value {
    if let Some(object) = document.as_object_mut() {
        object.retain(|_, value| !value.is_null());
        for value in object.values_mut() {
            *value = without_nulls(value.take());
        }
    }
    document
}

/// `GET …/new`
pub(super) async fn new<A: Pages>(State(admin): State<Admin>, operator: Operator) -> Response {
    show_new::<A>(&admin, operator, &Value::Null, None).await
}

async fn show_new<A: Pages>(
    admin: &Admin,
    operator: Operator,
    document: &Value,
    error: Option<String>,
) -> Response {
    let title = format!("New {}", one_is_called(A::KIND));
    html(&New {
        frame: Frame::new(title, A::PATH, operator),
        path: A::PATH,
        many: A::PLURAL,
        groups: groups(A::KIND, FormOf::New, document),
        error,
        plans: admin.registry.plan_names().await.unwrap_or_default(),
    })
}

/// `POST /keys`, `/consumers`, `/plans`
pub(super) async fn create<A: Pages>(
    State(admin): State<Admin>,
    operator: Operator,
    Form(given): Form<FormValues>,
) -> Response {
    let document = without_nulls(patch(A::KIND, FormOf::New, &given));
    let made = match A::KIND {
        AccountKind::Key => match admin.registry.create_key(&document, &operator.actor()).await {
            Ok((item, Some(key))) => {
                return secret::show(&admin, operator, &item.account, &key, "The API key is made.").await;
            }
            other => other.map(|(item, _)| item.account.name),
        },
        _ => {
            let made = admin.registry.create::<A>(&document, &operator.actor()).await;
            made.map(|item| item.account.name().to_owned())
        }
    };
    match made {
        Ok(name) => Redirect::to(&link::<A>(&name)).into_response(),
        Err(error) => {
            let page = show_new::<A>(&admin, operator, &document, Some(error.to_string())).await;
            with_status(status(&error), page)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(pairs: &[(&str, &str)]) -> FormValues {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_form_becomes_a_document() {
        let given = given(&[
            ("name", " alice-laptop "),
            ("consumer", "alice"),
            ("models", "llama*, qwen\nphi"),
            ("limit.requests_per_minute", "60"),
            ("limit.burst", "many"),
            ("expires", "2027-01-01T00:00"),
            ("disabled", "on"),
            ("sha256", "0000"),
        ]);
        assert_eq!(
            without_nulls(patch(AccountKind::Key, FormOf::New, &given)),
            json!({
                "name": "alice-laptop", "consumer": "alice", "models": ["llama*", "qwen", "phi"],
                "limit": { "requests_per_minute": 60, "burst": "many" },
                "expires": "2027-01-01T00:00:00Z", "disabled": true,
            }),
            "and nothing that is no field"
        );
    }

    #[test]
    fn what_was_emptied_is_taken_away() {
        let patch = patch(AccountKind::Plan, FormOf::Existing, &given(&[("limit.burst", "5")]));
        assert_eq!(patch["limit_per_model"], Value::Null);
        assert_eq!(
            (&patch["limit"]["burst"], &patch["limit"]["requests_per_minute"]),
            (&json!(5), &Value::Null)
        );
        assert!(patch.get("name").is_none() && patch.get("note").is_some_and(Value::is_null));
    }

    #[test]
    fn a_document_fills_the_form_and_comes_back_the_same() {
        let plan = json!({ "name": "gold", "models": ["*"], "priority": "high", "note": "n" });
        let fields = groups(AccountKind::Plan, FormOf::New, &plan).into_iter().flat_map(|group| group.fields);
        let given: FormValues = fields.map(|field| (field.name, field.value)).collect();
        assert_eq!(without_nulls(patch(AccountKind::Plan, FormOf::New, &given)), plan);
        let document = json!({
            "name": "a", "consumer": "b", "plan": "free", "models": ["llama*", "x"], "note": "n", "manage": true, "stored_data": true,
            "limit": { "requests_per_minute": 60, "tokens_per_day": 100_000, "budget_per_month": 2.5, "budget_kind": "hard" }, "expires": "2027-01-01T00:00:00Z",
            "networks": ["10.0.0.0/8"],
        });
        let fields =
            groups(AccountKind::Key, FormOf::New, &document).into_iter().flat_map(|group| group.fields);
        let given: FormValues = fields.map(|field| (field.name, field.value)).collect();
        assert_eq!(without_nulls(patch(AccountKind::Key, FormOf::New, &given)), document);
    }
}
