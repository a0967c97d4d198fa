//! The pages. Each is rendered from the present state. Its changing part is the template's block `live`, which is sent again when
//! it has changed.

pub(crate) mod about;
pub(crate) mod accounts;
pub(crate) mod audit;
mod figures;
pub(crate) mod help;
pub(crate) mod models;
pub(crate) mod overview;
pub(crate) mod requests;
pub(crate) mod servers;
pub(crate) mod traefik;
pub(crate) mod try_it;
pub(crate) mod usage;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use axum::{
    extract::State,
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse as _, Response},
};
use catalogue::{Catalogue, Pool};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};
use store::{RegistryError, StoreError};

use crate::{Admin, Operator, Refusal, page};

/// A page that can be rendered as a whole, or only its live part.
pub(crate) trait Page: Send {
    /// The whole page.
    fn whole(&self) -> askama::Result<String>;
    /// Its live part.
    fn live(&self) -> askama::Result<String>;
}

/// Implements both for a template with a block `live`.
macro_rules! live_page {
    ($page:ty) => {
        impl crate::pages::Page for $page {
            fn whole(&self) -> askama::Result<String> {
                askama::Template::render(self)
            }

            fn live(&self) -> askama::Result<String> {
                askama::Template::render(&self.as_live())
            }
        }
    };
}
pub(crate) use live_page;

/// The request for a page.
pub(crate) struct PageRequest<'a> {
    pub(crate) admin: &'a Admin,
    pub(crate) operator: Operator,
    pub(crate) uri: &'a Uri,
}

impl PageRequest<'_> {
    fn query<Q: DeserializeOwned + Default>(&self) -> Q {
        query(self.uri)
    }
}

/// The parameters of a query; a query that cannot be parsed counts as empty.
fn query<Q: DeserializeOwned + Default>(uri: &Uri) -> Q {
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(query)| query).unwrap_or_default()
}

/// The query of most lists.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    pub(crate) q: String,
    pub(crate) state: String,
    pub(crate) page: usize,
}

/// A model for an example: the first that is ready, may be used, and needs nothing but its name to be chosen. An alias is used
/// only if there is no other choice.
fn usable_model(catalogue: &Catalogue, may_use: impl Fn(&Pool) -> bool) -> Option<&str> {
    let ready = catalogue.pools().filter(|pool| !pool.ready.is_empty() && pool.selector.is_none());
    let usable = ready.filter(|pool| may_use(pool));
    usable.min_by_key(|pool| pool.model != pool.canonical).map(|pool| pool.model.as_str())
}

/// The page at a path; `None` if there is none.
pub(crate) fn find(asked: PageRequest<'_>) -> Option<Box<dyn Page>> {
    let path = asked.uri.path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let decoded = |segment: &str| percent_decode_str(segment).decode_utf8().ok().map(Cow::into_owned);
    Some(match &segments[..] {
        [""] => Box::new(overview::page(asked)),
        ["models"] => Box::new(models::list(asked)),
        ["models", name] => Box::new(models::one(asked, &decoded(name)?)?),
        ["servers"] => Box::new(servers::list(asked)),
        ["servers", id] => Box::new(servers::one(asked, &decoded(id)?)?),
        ["requests"] => Box::new(requests::page(asked)),
        ["traefik"] => Box::new(traefik::page(asked)),
        _ => return None,
    })
}

/// `GET` of any page.
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator, parts: Parts) -> Response {
    match find(PageRequest { admin: &admin, operator, uri: &parts.uri }) {
        Some(found) => page::rendered(found.whole()),
        None => Refusal::not_found(&parts).into_response(),
    }
}

/// The status for an error of the registry.
pub(crate) fn status(error: &RegistryError) -> StatusCode {
    match error {
        RegistryError::Invalid(_) => StatusCode::BAD_REQUEST,
        RegistryError::Declared(..) | RegistryError::NoStore => StatusCode::CONFLICT,
        RegistryError::Store(StoreError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
        RegistryError::Store(_) => StatusCode::CONFLICT,
        RegistryError::NoBudget(..) => StatusCode::NOT_FOUND,
        RegistryError::NoRandomness(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The page with another status.
pub(crate) fn with_status(status: StatusCode, mut response: Response) -> Response {
    *response.status_mut() = status;
    response
}
