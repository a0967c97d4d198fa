//! Reads the model out of a request.
//!
//! The server must read the same model as this reader. So whatever two readers could read differently is refused, never
//! guessed. A model can be in the path, the body, a header and the query; all places that name one must agree.

mod closed;
mod deep;
mod field;
mod fold;
mod json;
mod media_type;
mod multipart;
mod parameters;
mod path;
mod prompt;
mod query;
mod segment;
mod target;
mod unreadable;

pub(crate) use fold::{FoldedName, GivenName, resembles};
use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use crate::{Request, estimate::Count};
use field::OtherField;
use media_type::BodyKind;

pub(crate) use closed::{Closed, changes_a_model, closed};
pub(crate) use multipart::{Part, parts};
pub(crate) use path::{NameField, PathForm, shows_models};
pub use prompt::PromptParts;
pub(crate) use query::decode_fully;
pub(crate) use segment::{folded, segments};
pub(crate) use target::Target;
pub use unreadable::{Unreadable, Ways, Where};

const X_MODEL: HeaderName = HeaderName::from_static("x-model");

/// A place that names a model, and the name.
pub(crate) type Named<'a> = (Where, Cow<'a, str>);

/// The relevant parts of a body.
#[derive(Debug, Default)]
pub(crate) struct BodyRead<'a> {
    /// The model.
    pub(crate) named: Option<Named<'a>>,
    /// A top-level field that refers to what servers store for everybody.
    pub(crate) stored: Option<&'static str>,
    /// Why it is refused unless the server has only one model: it has a field other than `model` by which some server chooses
    /// one.
    pub(crate) other: Option<Unreadable>,
    /// Its counted tokens, if it could be counted while it was read.
    pub(crate) count: Option<Box<Count>>,
    /// The parts that not every server reads as they were read here.
    pub(crate) oddities: Oddities,
}

/// Parts of a body that only some kinds of server are known to read as they are read here. They are accepted only if the
/// request reaches no other kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Oddities {
    /// It was read as JSON although its `Content-Type` is another.
    pub(crate) untyped: bool,
    /// An empty `name` beside the model was ignored.
    pub(crate) empty_name: bool,
    /// `model` is null, and was ignored.
    pub(crate) null_model: bool,
}

/// Whether oddities are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They are refused.
    Strict,
    /// [`Oddities`] are accepted and recorded.
    Lenient,
}

/// Reads the body.
pub(crate) fn from_body<'a>(
    request: &Request<'a>,
    rule: NameField,
    reading: Reading,
) -> Result<BodyRead<'a>, Unreadable> {
    if request.body.is_empty() {
        return Ok(BodyRead::default());
    }
    let (kind, untyped) = match (media_type::of(request.headers), reading) {
        (Err(_), Reading::Lenient) => (media_type::of_any(request.headers)?, true),
        (kind, _) => (kind?, false),
    };
    Ok(match kind {
        BodyKind::Json => {
            let json::Read { model, stored, other, count, oddities } =
                json::read(request.body, rule, reading)?;
            let other = other.map(OtherField::refusal);
            let oddities = Oddities { untyped, ..oddities };
            BodyRead { named: model.map(|model| (Where::Json, model)), stored, other, count, oddities }
        }
        BodyKind::Form { boundary } => {
            let multipart::Read { model, stored, other } = multipart::read(request.body, boundary)?;
            let other = other.map(OtherField::refusal);
            let named = model.map(|model| (Where::Form, model.into()));
            BodyRead { named, stored, other, ..BodyRead::default() }
        }
    })
}

/// Finds a reference to stored data deeper in a JSON body.
///
/// # Errors
/// A field by which some server would choose a model or an adapter.
pub(crate) fn deep_in_body(request: &Request<'_>) -> Result<Option<&'static str>, Unreadable> {
    match media_type::of(request.headers) {
        Ok(BodyKind::Json) => deep::read(request.body),
        _ => Ok(None),
    }
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

/// The counted tokens of a JSON body, if it can be counted while it is read.
#[cfg(test)]
pub(crate) fn count(body: &[u8]) -> Option<Box<Count>> {
    json::read(body, NameField::Ignored, Reading::Strict).ok()?.count
}
