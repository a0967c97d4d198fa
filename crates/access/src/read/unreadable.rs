//! Why the model of a request cannot be read.

use std::fmt;

use super::field::MODEL;
use crate::Request;

/// Why the model of a request cannot be told without guessing. Its text is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A body of an unknown kind.
    #[error(
        "the request needs exactly one Content-Type header: \"application/json\" or \"multipart/form-data\""
    )]
    ContentTypeCount,
    /// A body of an unsupported kind.
    #[error("the Content-Type must be \"application/json\" or \"multipart/form-data\" with a boundary: {0}")]
    ContentType(&'static str),
    /// A compressed body.
    #[error("the body must be sent without a Content-Encoding")]
    ContentEncoding,
    /// A body in UTF-16, UTF-32 or with a byte order mark.
    #[error("the body must be UTF-8 without a byte order mark")]
    TextEncoding,

    /// A URI that servers read differently.
    #[error("the request's URI is refused: {0}")]
    Uri(&'static str),
    /// Bytes that are not UTF-8.
    #[error("the body is not valid UTF-8")]
    NotUtf8,
    /// Not JSON, or more than one value.
    #[error("the body is not one valid JSON value (line {line}, column {column})")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// JSON that is nested too deeply.
    #[error("the body is nested too deeply")]
    TooDeep,
    /// Not a form, or one that servers read differently.
    #[error("the multipart body is refused: {0}")]
    Multipart(&'static str),

    /// Nothing names a model.
    #[error("the request names no model: {0}")]
    ModelMissing(Ways),
    /// Only a header or the query names the model, which the server would not look at.
    #[error("the body names no model, and the server has several, or may have: put it into \"model\"")]
    ModelNotInBody,
    /// The server does not look at what names the model.
    #[error("the server has several models and would not see which one is meant: {0}")]
    ModelUnseen(Ways),
    /// The body is not handed over, so it may name any model.
    #[error("the body cannot be read here, and the server has several models, or may have")]
    BodyUnseen,
    /// The model is named only after the WebSocket is open.
    #[error(
        "the messages of a WebSocket could name another model of this server, so its operator has to allow them (single_model or websockets)"
    )]
    ModelInMessages,
    /// `model` is a number, null, or the like.
    #[error("\"model\" must be a string")]
    ModelNotText,
    /// The text cannot be the name of a model.
    #[error("\"model\" is not the name of a model: {0}")]
    ModelInvalid(&'static str),
    /// `model` is given more than once.
    #[error("\"model\" is given more than once in {0}")]
    ModelRepeated(Where),
    /// Two places name different models.
    #[error("the request names two models: one in {0}, another in {1}")]
    ModelsDisagree(Where, Where),
    /// A name that some servers take for one of the fields that choose a model.
    #[error("{place} has a field that can be taken for \"{field}\": spell it exactly so, without escapes")]
    Disguised {
        /// The field that it can be taken for.
        field: &'static str,
        /// The place of the name.
        place: Where,
    },
    /// A field that refers to what servers store for everybody, which this key may not use.
    #[error("\"{0}\" refers to what is stored for all users of the server, which this API key may not use")]
    StoredField(&'static str),
    /// A field by which some server chooses a model.
    #[error("\"{field}\" is not accepted: {advice}")]
    OtherField {
        /// The field.
        field: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
}

/// The places in which a request can name its model, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// It has a body, or is to have one.
    Body,
    /// It reads something, without a body.
    Plain,
    /// The same, and the server would not look at the path.
    HeaderOrQuery,
    /// It opens a WebSocket.
    WebSocket,
    /// It opens a WebSocket to a server that looks at nothing but the query.
    Query,
}

impl Ways {
    /// Those of a request. A server of several models looks at the body, and without one at the query.
    pub(crate) fn of(request: &Request<'_>, is_websocket: bool) -> Self {
        match request.method {
            _ if is_websocket => Self::WebSocket,
            "GET" | "HEAD" | "DELETE" | "OPTIONS" if request.body.is_empty() => Self::Plain,
            _ => Self::Body,
        }
    }
}

/// A place of a request that can name a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The JSON body.
    Json,
    /// The multipart body.
    Form,
    /// The `X-Model` header.
    Header,
    /// The query.
    Query,
    /// The path.
    Path,
    /// The address of the middleware that asks, written by the router's owner.
    Router,
}

impl Unreadable {
    /// Whether the fault is in the kind of body (415) rather than in its contents (400).
    pub fn is_media_type(&self) -> bool {
        matches!(
            self,
            Self::ContentTypeCount | Self::ContentType(_) | Self::ContentEncoding | Self::TextEncoding
        )
    }

    /// Whether no model is named where the server looks for it.
    pub(crate) fn is_about_no_model(&self) -> bool {
        matches!(
            self,
            Self::ModelMissing(_)
                | Self::ModelNotInBody
                | Self::ModelUnseen(_)
                | Self::BodyUnseen
                | Self::ModelInMessages
        )
    }

    /// The faulty field, as OpenAI's errors name it in `param`.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::ModelMissing(_)
            | Self::ModelNotInBody
            | Self::ModelUnseen(_)
            | Self::BodyUnseen
            | Self::ModelInMessages
            | Self::ModelNotText
            | Self::ModelInvalid(_)
            | Self::ModelRepeated(_)
            | Self::ModelsDisagree(..) => Some(MODEL),
            Self::Disguised { field, .. } | Self::OtherField { field, .. } | Self::StoredField(field) => {
                Some(field)
            }
            _ => None,
        }
    }

    /// The code for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ContentTypeCount | Self::ContentType(_) => "unsupported_content_type",
            Self::ContentEncoding | Self::TextEncoding => "unsupported_encoding",
            Self::Uri(_) => "invalid_uri",
            Self::NotUtf8 | Self::Json { .. } | Self::NotAnObject | Self::TooDeep => "invalid_json",
            Self::Multipart(_) => "invalid_multipart",
            Self::ModelMissing(_)
            | Self::ModelNotInBody
            | Self::ModelUnseen(_)
            | Self::BodyUnseen
            | Self::ModelInMessages => "model_missing",
            Self::ModelNotText | Self::ModelInvalid(_) => "model_invalid",
            Self::ModelRepeated(_) | Self::ModelsDisagree(..) | Self::Disguised { .. } => "model_ambiguous",
            Self::OtherField { .. } | Self::StoredField(_) => "field_not_accepted",
        }
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => {
                "put it into \"model\" in the body; a path (/models/NAME/...), the header X-Model or the query (?model=NAME) \
                 can name it, too, where the server has that model alone"
            }
            Self::Plain => {
                "name it in the path (/models/NAME/...), in the header X-Model or in the query (?model=NAME)"
            }
            Self::HeaderOrQuery => "name it in the header X-Model or in the query (?model=NAME)",
            Self::WebSocket => "name it in the query (?model=NAME) or in the path (/models/NAME/...)",
            Self::Query => "name it in the query (?model=NAME)",
        })
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "the JSON body",
            Self::Form => "the multipart body",
            Self::Header => "the X-Model header",
            Self::Query => "the query",
            Self::Path => "the path",
            Self::Router => "the gateway's own settings",
        })
    }
}
