//! The audit log: who changed what, when and from where.

use askama::Template;
use axum::{extract::State, http::Uri, response::Response};
use limits::{Calendar, Field};
use prices::Amount;
use serde::Deserialize;
use serde_json::Value;
use store::{AuditEntry, AuditFilter};

use crate::{
    Admin, Operator,
    format::{self, Time},
    list::encode,
    page::{Frame, html},
};

/// How many entries a page has.
const ROWS: u32 = 50;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    query: AuditQuery,
    rows: Vec<AuditRow>,
    older: Option<String>,
    error: Option<String>,
}

/// Which entries to show; an empty filter is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuditQuery {
    actor: String,
    subject: String,
    action: String,
    before: String,
}

struct AuditRow {
    at: Time,
    actor: String,
    /// From where: an address, or the host of a command line.
    origin: String,
    action: String,
    subject: String,
    /// Further details: names and values.
    details: Vec<(String, String)>,
}

/// `GET /audit`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator, uri: Uri) -> Response {
    let query: AuditQuery = super::query(&uri);
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filter = AuditFilter {
        actor: given(&query.actor),
        subject: given(&query.subject),
        action: given(&query.action),
        before: given(&query.before),
        limit: ROWS + 1,
    };
    let (mut entries, error) = match admin.registry.store() {
        Ok(store) => match store.audit(&filter).await {
            Ok(entries) => (entries, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        },
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let has_more = entries.len() > ROWS as usize;
    entries.truncate(ROWS as usize);
    let older = entries.last().filter(|_| has_more).map(|last| {
        let AuditQuery { actor, subject, action, .. } = &query;
        let given = [("actor", actor), ("subject", subject), ("action", action), ("before", &last.id)];
        let pairs = given.iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("?{}", pairs.join("&"))
    });
    let settings = admin.shared.settings();
    let rows = entries.iter().map(|entry| row(entry, settings.prices.currency())).collect();
    html(&AuditPage { frame: Frame::new("Audit log", "/audit", operator), query, rows, older, error })
}

fn row(entry: &AuditEntry, currency: Option<&str>) -> AuditRow {
    AuditRow {
        at: format::time(entry.at()),
        actor: entry.actor.clone(),
        origin: origin(entry),
        action: entry.action.clone(),
        subject: entry.subject.clone(),
        details: details(&entry.details, currency),
    }
}

/// An address, or the host of a command line; nothing, if neither is known.
fn origin(entry: &AuditEntry) -> String {
    match (&entry.address, &entry.host) {
        (Some(address), _) => address.clone(),
        (None, Some(host)) => format!("host {host}"),
        (None, None) => String::new(),
    }
}

/// Details by name; those that say nothing are left out.
fn details(details: &Value, currency: Option<&str>) -> Vec<(String, String)> {
    let says_something = |(name, value): &(&String, &Value)| {
        let is_none = *name == "others_before" && **value == 0;
        !(value.is_null() || is_none)
    };
    let shown = |(name, value): (&String, &Value)| (words(name), in_words(name, value, currency));
    match details {
        Value::Null => Vec::new(),
        Value::Object(all) => all.iter().filter(says_something).map(shown).collect(),
        other => vec![("details".into(), in_words("", other, currency))],
    }
}

/// How the names of amounts end that are written in units of 10⁻⁹ of the currency.
const BILLIONTHS: &str = "_in_billionths";

/// A name as people read it.
fn words(name: &str) -> String {
    name.strip_suffix(BILLIONTHS).unwrap_or(name).replace('_', " ")
}

/// The value of a name in the form that people write.
fn in_words(name: &str, value: &Value, currency: Option<&str>) -> String {
    let in_currency = |amount: String| match currency {
        Some(currency) if is_money(name) => format!("{amount} {currency}"),
        _ => amount,
    };
    match value {
        Value::String(text) => in_currency(text.clone()),
        Value::Number(number) => in_currency(match number.as_i64() {
            Some(amount) if name.ends_with(BILLIONTHS) => Amount(amount).to_string(),
            _ => number.as_u64().map_or_else(|| number.to_string(), format::count),
        }),
        Value::Array(items) => {
            items.iter().map(|item| in_words(name, item, currency)).collect::<Vec<_>>().join(", ")
        }
        Value::Object(all) => {
            let part = |(name, value): (&String, &Value)| {
                format!("{} {}", in_words(name, value, currency), words(name))
            };
            all.iter().map(part).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Whether the value of a name is an amount of money: what a change of a budget notes, a budget among limits, or a cost.
fn is_money(name: &str) -> bool {
    let is_budget = || Calendar::ALL.into_iter().any(|per| Field::budget(per).name() == name);
    ["added", "spent", "spent_elsewhere", "still_reserved"].contains(&name)
        || name.ends_with(BILLIONTHS)
        || is_budget()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_are_told_in_words() {
        let told = |value: Value| {
            let all =
                details(&value, Some("EUR")).into_iter().map(|(name, value)| format!("{name}: {value}"));
            all.collect::<Vec<_>>().join("; ")
        };
        // Sorted by name: whether serde_json keeps the order depends on which other crates are compiled.
        let limit = json!({"burst": 5, "tokens_per_month": 1_000_000});
        assert_eq!(
            told(json!({"disabled": true, "limit": limit, "models": ["a", "b*"]})),
            "disabled: true; limit: 5 burst, 1,000,000 tokens per month; models: a, b*"
        );
        assert_eq!(
            told(json!({"model": null, "request_id": "req_1", "others_before": 0})),
            "request id: req_1"
        );
        assert_eq!(told(json!({"others_before": 7})), "others before: 7");
        assert_eq!(told(json!({})), "");
        // Regression: amounts of money had no currency, and costs were in billionths of it.
        assert_eq!(
            told(json!({"added": "10.5", "per": "month", "period": "2026-11", "spent": "3"})),
            "added: 10.5 EUR; per: month; period: 2026-11; spent: 3 EUR"
        );
        let limit = json!({"budget_kind": "hard", "budget_per_month": 1_500, "budget_total": 0.25});
        assert_eq!(
            told(json!({ "limit": limit })),
            "limit: hard budget kind, 1,500 EUR budget per month, 0.25 EUR budget total"
        );
        assert_eq!(
            told(json!({"cost": {"after_in_billionths": 7, "before_in_billionths": -2_500_000_000_i64}})),
            "cost: 0.000000007 EUR after, -2.5 EUR before"
        );
        let without = details(&json!({"added": "10.5"}), None);
        assert_eq!(without, [("added".to_owned(), "10.5".to_owned())], "nothing has a price");
    }
}
