//! The admin REST API under `/api/v1`: the operations of the pages, for programs. `openapi.json` describes all of it.
//!
//! ```text
//! accounts.rs   plans, consumers, keys: list, create, put, patch, delete    through store::Registry
//! keys.rs       operations on keys only: rotation, what is left of limits
//! records.rs    usage and the audit log
//! csv.rs        usage for spreadsheets
//! requests.rs   the latest requests, and what became of them
//! state.rs      models, servers, status
//! budgets.rs    what is added to budgets, and their resets
//! books.rs      what servers have counted beside what was settled
//! extract.rs    names, queries and documents of requests; nothing is guessed, unknown parameters are refused
//! literal.rs    what is lost when a body is read: fields that are there twice, digits that floats do not have
//! problem.rs    errors (RFC 9457)
//! view.rs       the representation of accounts and usage, on the command line too
//! ```

mod accounts;
mod books;
mod budgets;
mod csv;
mod extract;
mod keys;
mod literal;
mod openapi;
mod problem;
mod records;
mod requests;
mod state;
mod view;

use std::time::Duration;

use ::accounts::{ConsumerSpec, KeySpec, Plan};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::request::Parts,
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};
use tokio::time::timeout;

use crate::Admin;

pub use budgets::budget_to_json;
pub(crate) use budgets::by_own_model;
pub use csv::USAGE_NUMBERS;
pub(crate) use csv::usage_csv;
pub use keys::{InvalidGrace, read_grace};
pub(crate) use problem::Problem;
pub use records::{entry_to_json, erased_to_json, is_day};
pub(crate) use view::disabled_consumers;
pub use view::{Present, state_in_words, usage_to_json};

/// The path of the API.
pub(crate) const BASE: &str = "/api/v1";
/// The longest body, in bytes.
const MAX_BODY: usize = 64 << 10;
/// How long the store may take for a read.
const READ: Duration = Duration::from_secs(3);
/// How long the store may take for a change, which waits for other writers: with SQLite for 5 s at most.
const WRITE: Duration = Duration::from_secs(7);

/// Every route, as a table so that tests can walk it.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Admin>)> {
    use accounts::{create, delete, list, patch, put, show};
    vec![
        ("/plans", get(list::<Plan>).post(create::<Plan>)),
        ("/plans/{name}", get(show::<Plan>).put(put::<Plan>).patch(patch::<Plan>).delete(delete::<Plan>)),
        ("/consumers", get(list::<ConsumerSpec>).post(create::<ConsumerSpec>)),
        (
            "/consumers/{name}",
            get(show::<ConsumerSpec>)
                .put(put::<ConsumerSpec>)
                .patch(patch::<ConsumerSpec>)
                .delete(delete::<ConsumerSpec>),
        ),
        ("/keys", get(list::<KeySpec>).post(create::<KeySpec>)),
        (
            "/keys/{name}",
            get(show::<KeySpec>).put(put::<KeySpec>).patch(patch::<KeySpec>).delete(delete::<KeySpec>),
        ),
        ("/keys/{name}/rotate", post(keys::rotate)),
        ("/keys/{name}/limits", get(keys::limits)),
        ("/budgets/top-up", post(budgets::top_up)),
        ("/budgets/reset", post(budgets::reset)),
        ("/usage", get(records::usage)),
        ("/usage/erase", post(records::erase)),
        ("/audit", get(records::audit)),
        ("/requests", get(requests::requests)),
        ("/models", get(state::models)),
        ("/servers", get(state::servers)),
        ("/metering", get(books::metering)),
        ("/status", get(state::status)),
        ("/openapi.json", get(openapi::serve)),
    ]
}

/// All routes, to be nested at [`BASE`] behind the authentication.
pub(crate) fn router() -> Router<Admin> {
    let routes =
        routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(patient))
}

/// Whether a request is for the API. Such requests are answered in the API's form, whatever the client accepts.
pub(crate) fn is_for_api(parts: &Parts) -> bool {
    parts.uri.path().strip_prefix(BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

async fn not_found() -> Problem {
    Problem::not_found("there is nothing at this path; openapi.json lists all that is")
}

async fn wrong_method() -> Problem {
    Problem::wrong_method()
}

/// Limits how long a request waits for the store.
async fn patient(request: Request, next: Next) -> Response {
    let (patience, effect) = match request.method().is_safe() {
        true => (READ, "what it said last stays in force"),
        false => (WRITE, "whether it has written is unknown, so look before you try again"),
    };
    match timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!(
                "the store did not answer within {patience:?}; see whether its server runs and can be reached; {effect}"
            );
            Problem::unavailable(detail).into_response()
        }
    }
}
