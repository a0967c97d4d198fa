//! Reads the model out of a request.
//!
//! What is read here and what the server behind reads must be the same. Whatever two readers could
//! read differently is refused, never guessed. A model can stand in four places; those that name
//! one must agree exactly.

mod closed;
mod field;
mod fold;
mod json;
mod media_type;
mod multipart;
mod parameters;
mod query;
mod target;
mod unreadable;

use std::borrow::Cow;

use catalogue::ModelName;
use http::{HeaderMap, HeaderName};

use crate::Request;
use media_type::BodyKind;

pub(crate) use closed::is_closed;
pub(crate) use target::Target;
pub use unreadable::{Unreadable, Where};

const X_MODEL: HeaderName = HeaderName::from_static("x-model");

/// What a request says about its model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The model.
    pub(crate) model: ModelName,
    /// There is a body, and it does not say so: the server behind it, which looks only there,
    /// will use a model of its own choice.
    pub(crate) only_outside_body: bool,
}

/// The model that a request asks for.
///
/// # Errors
/// If there is none, or if it, the body or the path could be read differently by somebody else.
pub fn read_model(request: &Request<'_>) -> Result<ModelName, Unreadable> {
    Target::parse(request.uri).and_then(|target| read(request, &target)).map(|reading| reading.model)
}

/// The same, once the URI has been taken apart.
pub(crate) fn read(request: &Request<'_>, target: &Target<'_>) -> Result<Reading, Unreadable> {
    let body = from_body(request)?;
    let header = from_header(request.headers)?.map(|model| (Where::Header, model));
    let query = query::model(target.query)?.map(|model| (Where::Query, model));
    let only_outside_body = body.is_none() && !request.body.is_empty();

    let mut named: Option<(Where, Cow<'_, str>)> = None;
    for (place, model) in [body, header, query].into_iter().flatten() {
        match &named {
            Some((first, other)) if *other != model => return Err(Unreadable::ModelsDisagree(*first, place)),
            _ => named = Some((place, model)),
        }
    }
    let (_, model) = named.ok_or(Unreadable::ModelMissing)?;
    let model = ModelName::new(&model).map_err(|error| Unreadable::ModelInvalid(error.reason))?;
    Ok(Reading { model, only_outside_body })
}

fn from_body<'a>(request: &Request<'a>) -> Result<Option<(Where, Cow<'a, str>)>, Unreadable> {
    if request.body.is_empty() {
        return Ok(None);
    }
    Ok(match media_type::of(request.headers)? {
        BodyKind::Json => json::model(request.body)?.map(|model| (Where::Json, model)),
        BodyKind::Form { boundary } => {
            multipart::model(request.body, boundary)?.map(|model| (Where::Form, model.into()))
        }
    })
}

fn from_header(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Unreadable> {
    let mut values = headers.get_all(X_MODEL).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Unreadable::ModelRepeated(Where::Header)),
        (Some(value), None) => {
            let text = value
                .to_str()
                .map_err(|_| Unreadable::ModelInvalid("only printable ASCII characters are allowed"))?;
            Ok(Some(text.into()))
        }
    }
}
