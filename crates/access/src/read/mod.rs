//! Reads the model out of a request.
//!
//! What is read here and what the server behind reads must be the same. Whatever two readers could
//! read differently is refused, never guessed. A model can stand in the path, the body, a header and
//! the query; those that name one must agree.

mod closed;
mod field;
mod fold;
mod json;
mod media_type;
mod multipart;
mod parameters;
mod path;
mod query;
mod segment;
mod target;
mod unreadable;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use crate::Request;
use media_type::BodyKind;

pub(crate) use closed::{Closed, closed};
pub(crate) use path::{NameField, PathForm, shows_models};
pub(crate) use query::decode_fully;
pub(crate) use target::Target;
pub use unreadable::{Unreadable, Where};

const X_MODEL: HeaderName = HeaderName::from_static("x-model");

/// A place that names a model, and the name.
pub(crate) type Named<'a> = (Where, Cow<'a, str>);

/// The model that the body names.
pub(crate) fn from_body<'a>(request: &Request<'a>, rule: NameField) -> Result<Option<Named<'a>>, Unreadable> {
    if request.body.is_empty() {
        return Ok(None);
    }
    Ok(match media_type::of(request.headers)? {
        BodyKind::Json => json::model(request.body, rule)?.map(|model| (Where::Json, model)),
        BodyKind::Form { boundary } => {
            multipart::model(request.body, boundary)?.map(|model| (Where::Form, model.into()))
        }
    })
}

/// The model that the `X-Model` header names.
pub(crate) fn from_header(headers: &HeaderMap) -> Result<Option<Named<'_>>, Unreadable> {
    let mut values = headers.get_all(X_MODEL).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Unreadable::ModelRepeated(Where::Header)),
        (Some(value), None) => {
            let text = value
                .to_str()
                .map_err(|_| Unreadable::ModelInvalid("only printable ASCII characters are allowed"))?;
            Ok(Some((Where::Header, text.into())))
        }
    }
}

/// The model that the query names.
pub(crate) fn from_query<'a>(target: &Target<'a>) -> Result<Option<Named<'a>>, Unreadable> {
    Ok(query::model(target.query)?.map(|model| (Where::Query, model)))
}
