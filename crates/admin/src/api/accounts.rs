//! Plans, consumers and keys: the operations on each.

use std::future::Future;

use access::NewKey;
use accounts::{ConsumerSpec, KeySpec, Plan};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use store::{Actor, Filter, Item, Registry, RegistryError, Unreadable};

use super::{
    BASE, Problem,
    extract::{Document, Name, Patch, Query},
    view::Present,
};
use crate::{Admin, Operator, list::encode};

/// The length of a list if the request does not give one.
const DEFAULT_LISTED: u32 = 100;
/// The longest list.
const MAX_LISTED: u32 = 1_000;

/// The account that was written, and the key that was generated for it, if any.
type Written<A> = Result<(Item<A>, Option<NewKey>), RegistryError>;

/// Accounts that the API manages.
pub(crate) trait Kept: Present {
    /// Their path below [`BASE`].
    const PATH: &'static str;
    /// Whether lists can be filtered by consumer.
    const HAS_CONSUMER: bool;
    /// Whether lists can be filtered by plan.
    const HAS_PLAN: bool;

    fn create(
        registry: &Registry,
        json: &Value,
        actor: &Actor,
    ) -> impl Future<Output = Written<Self>> + Send {
        async { Ok((registry.create(json, actor).await?, None)) }
    }

    fn put(
        registry: &Registry,
        name: &str,
        json: &Value,
        actor: &Actor,
    ) -> impl Future<Output = Written<Self>> + Send {
        async { Ok((registry.put(name, json, actor).await?, None)) }
    }
}

impl Kept for Plan {
    const PATH: &'static str = "plans";
    const HAS_CONSUMER: bool = false;
    const HAS_PLAN: bool = false;
}

impl Kept for ConsumerSpec {
    const PATH: &'static str = "consumers";
    const HAS_CONSUMER: bool = false;
    const HAS_PLAN: bool = true;
}

impl Kept for KeySpec {
    const PATH: &'static str = "keys";
    const HAS_CONSUMER: bool = true;
    const HAS_PLAN: bool = true;

    async fn create(registry: &Registry, json: &Value, actor: &Actor) -> Written<Self> {
        registry.create_key(json, actor).await
    }

    async fn put(registry: &Registry, name: &str, json: &Value, actor: &Actor) -> Written<Self> {
        registry.put_key(name, json, actor).await
    }
}

/// `GET /plans`, `/consumers`, `/keys`
pub(crate) async fn list<A: Kept>(
    State(admin): State<Admin>,
    mut query: Query,
) -> Result<Json<Value>, Problem> {
    let filter = Filter {
        after: query.name("after"),
        limit: query.number("limit", 1..=MAX_LISTED).unwrap_or(DEFAULT_LISTED),
        search: query.words("search"),
        consumer: if A::HAS_CONSUMER { query.name("consumer") } else { None },
        plan: if A::HAS_PLAN { query.name("plan") } else { None },
    };
    query.finish()?;
    let listed = admin.registry.list_with_named::<A>(&filter).await?;
    let items = A::present(&admin.registry, &listed.items).await?;
    let problem = |bad: &Unreadable| json!({ "about": format!("{} {}", bad.kind, bad.name), "message": bad.to_string() });
    let problems: Vec<Value> = listed.unreadable.iter().map(problem).collect();
    Ok(Json(json!({ "items": items, "problems": problems, "total": listed.total, "next": listed.next })))
}

/// `GET …/{name}`
pub(crate) async fn show<A: Kept>(
    State(admin): State<Admin>,
    Name(name): Name,
    query: Query,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let found =
        admin.registry.get_or_named::<A>(&name).await?.ok_or_else(|| Problem::missing(A::KIND, &name))?;
    presented(&admin.registry, found, None).await.map(Json)
}

/// `POST …`
pub(crate) async fn create<A: Kept>(
    State(admin): State<Admin>,
    operator: Operator,
    query: Query,
    Document(json): Document,
) -> Result<Response, Problem> {
    query.finish()?;
    let (created, new) = A::create(&admin.registry, &json, &operator.actor()).await?;
    answer_created(&admin.registry, created, new).await
}

/// `PUT …/{name}`
pub(crate) async fn put<A: Kept>(
    State(admin): State<Admin>,
    operator: Operator,
    Name(name): Name,
    query: Query,
    Document(json): Document,
) -> Result<Response, Problem> {
    query.finish()?;
    let was_there = admin.registry.get::<A>(&name).await?.is_some();
    let (written, new) = A::put(&admin.registry, &name, &json, &operator.actor()).await?;
    match was_there {
        true => Ok(Json(presented(&admin.registry, written, new).await?).into_response()),
        false => answer_created(&admin.registry, written, new).await,
    }
}

/// `PATCH …/{name}`
pub(crate) async fn patch<A: Kept>(
    State(admin): State<Admin>,
    operator: Operator,
    Name(name): Name,
    query: Query,
    Patch(json): Patch,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let patched = admin.registry.patch::<A>(&name, &json, &operator.actor()).await?;
    presented(&admin.registry, patched, None).await.map(Json)
}

/// `DELETE …/{name}`
pub(crate) async fn delete<A: Kept>(
    State(admin): State<Admin>,
    operator: Operator,
    Name(name): Name,
    query: Query,
) -> Result<StatusCode, Problem> {
    query.finish()?;
    admin.registry.delete(A::KIND, &name, &operator.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn answer_created<A: Kept>(
    registry: &Registry,
    created: Item<A>,
    new: Option<NewKey>,
) -> Result<Response, Problem> {
    let location = format!("{BASE}/{}/{}", A::PATH, encode(created.account.name()));
    let body = presented(registry, created, new).await?;
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(body)).into_response())
}

/// The representation of an account; a new key is in it in clear, this one time.
pub(super) async fn presented<A: Present>(
    registry: &Registry,
    item: Item<A>,
    new: Option<NewKey>,
) -> Result<Value, Problem> {
    let mut shown = A::present(registry, &[item]).await?.pop().unwrap_or_default();
    if let Some(new) = new {
        shown["api_key"] = new.reveal().into();
    }
    Ok(shown)
}
