//! The places of a request that name a model, and which of them the server will see.

use http::{
    HeaderMap,
    header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION},
};

use crate::{
    Mode, Request, Unreadable, Ways, Where,
    estimate::Count,
    read::{
        BodyRead, NameField, Named, Oddities, PathForm, Reading, Target, from_body, from_header, from_query,
    },
    routes::takes_a_model,
};

/// All places that name a model.
pub(super) struct Names<'a> {
    /// In the order in which a disagreement is reported: body, header, query, path, the router's owner.
    all: [Option<Named<'a>>; 5],
    body: Body,
    handshake: bool,
    ways: Ways,
    /// A field of the body that refers to what servers store.
    stored: Option<&'static str>,
    other: Option<Unreadable>,
    count: Option<Box<Count>>,
    oddities: Oddities,
}

/// What is known of a body.
enum Body {
    Absent,
    Named,
    /// It was read, and names no model.
    Silent,
    /// It is of a kind that cannot be read.
    Faulty(Unreadable),
    /// It was not handed over; the request may have one.
    Unseen,
}

/// Whether a model's name in the path tells a server of several models which one is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameInPath {
    /// No: Traefik removes it, so the server does not see it.
    TakenOff,
    /// Yes: the request needs no model, or a router of the operator's own leaves the name in the path.
    Enough,
}

/// What must be known before the names are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// `X-Model` chose the servers, so its value is not a model's name.
    pub(super) header_chose: bool,
    /// The body of a management request is about other things.
    pub(super) skip_body: bool,
    /// The body may be anything if the server has only one model.
    pub(super) any_body: bool,
    /// Whether oddities in the body are accepted.
    pub(super) reading: Reading,
}

impl<'a> Names<'a> {
    pub(super) fn read(
        request: &Request<'a>,
        target: &Target<'a>,
        form: PathForm<'a>,
        rules: Rules,
    ) -> Result<Self, Unreadable> {
        let path = match form {
            PathForm::Named { name, .. } => Some((Where::Path, name.into())),
            PathForm::Plain(_) | PathForm::Unknown { .. } => None,
        };
        let router = match request.mode {
            Mode::Gate { model: Some(model), .. } => Some((Where::Router, model.into())),
            _ => None,
        };
        let any_body = rules.any_body || path.is_some() || router.is_some();
        let (body, BodyRead { named, stored, other, count, oddities }) = match rules.skip_body {
            true => (Body::Absent, BodyRead::default()),
            false => read_body(request, form, any_body, rules.reading)?,
        };
        let header = if rules.header_chose { None } else { from_header(request.headers)? };
        let all = [named, header, from_query(target)?, path, router];
        let handshake = is_handshake(request.headers);
        let ways = Ways::of(request, handshake);
        Ok(Self { all, body, handshake, ways, stored, other, count, oddities })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Named<'a>> {
        self.all.iter().flatten()
    }

    /// The name by which Traefik routes: the one in the path, which Traefik removes, else the first one.
    pub(super) fn routing(&self) -> Option<&str> {
        self.all[3].iter().chain(self.iter()).next().map(|(_, name)| &**name)
    }

    /// The name in the path, if any.
    pub(super) fn in_path(&self) -> Option<&str> {
        self.all[3].as_ref().map(|(_, name)| &**name)
    }

    /// Whether this is a WebSocket handshake.
    pub(super) fn is_handshake(&self) -> bool {
        self.handshake
    }

    /// Where the request could name its model.
    pub(super) fn ways(&self) -> Ways {
        self.ways
    }

    /// The field of the body, if there is one, by which it refers to what servers store.
    pub(super) fn stored(&self) -> Option<&'static str> {
        self.stored
    }

    /// Oddities in the body, which not every server reads as it was read here.
    pub(super) fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// Why the body is refused, unless nothing in it can choose a model.
    pub(super) fn other(&self) -> Option<&Unreadable> {
        self.other.as_ref()
    }

    /// The body's counted tokens, if it could be counted while it was read.
    pub(super) fn into_count(self) -> Option<Box<Count>> {
        self.count
    }

    /// Whether a server that reads bodies might use its default model: the body names none.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.body, Body::Silent)
    }

    /// Why a server with several models might use another than the one named: it reads the body; without a body, the query; and
    /// the path if the name is still in it. For a plain request without a body the header is enough, since it carries no
    /// prompt; a WebSocket's prompts are still to come.
    pub(super) fn left_open(&self, in_path: NameInPath) -> Option<Unreadable> {
        let [_, header, query, path, _] = &self.all;
        let path = path.as_ref().filter(|_| in_path == NameInPath::Enough);
        match &self.body {
            Body::Named => None,
            Body::Silent => Some(Unreadable::ModelNotInBody),
            Body::Faulty(fault) => Some(fault.clone()),
            Body::Unseen => Some(Unreadable::BodyUnseen),
            Body::Absent if query.is_some() => None,
            Body::Absent if !self.handshake && (header.is_some() || path.is_some()) => None,
            Body::Absent if self.handshake => Some(Unreadable::ModelUnseen(Ways::Query)),
            Body::Absent if in_path == NameInPath::TakenOff && self.ways == Ways::Plain => {
                Some(Unreadable::ModelUnseen(Ways::HeaderOrQuery))
            }
            Body::Absent => Some(Unreadable::ModelUnseen(self.ways)),
        }
    }

    /// Why the body could not be read, if it is of a kind that cannot be read.
    pub(super) fn fault(&self) -> Option<&Unreadable> {
        match &self.body {
            Body::Faulty(fault) => Some(fault),
            _ => None,
        }
    }

    /// Why the body may hold more than was read: it is of a kind that cannot be read, or was not handed over.
    pub(super) fn unread(&self) -> Option<Unreadable> {
        match &self.body {
            Body::Faulty(fault) => Some(fault.clone()),
            Body::Unseen => Some(Unreadable::BodyUnseen),
            Body::Absent | Body::Named | Body::Silent => None,
        }
    }
}

fn read_body<'a>(
    request: &Request<'a>,
    form: PathForm<'a>,
    any_body: bool,
    reading: Reading,
) -> Result<(Body, BodyRead<'a>), Unreadable> {
    if !request.mode.body_forwarded() {
        return Ok((Body::Unseen, BodyRead::default()));
    }
    match from_body(request, NameField::on(form.seen()), reading) {
        Ok(read) if request.body.is_empty() => Ok((Body::Absent, read)),
        Ok(read) if read.named.is_none() => Ok((Body::Silent, read)),
        Ok(read) => Ok((Body::Named, read)),
        // An application may accept a list, too.
        Err(fault) if any_body && (fault.is_media_type() || fault == Unreadable::NotAnObject) => {
            Ok((Body::Faulty(fault), BodyRead::default()))
        }
        Err(fault) => Err(fault),
    }
}

/// The model that a path names (`/models/NAME/…`), and the rest behind the name; the rest is `None` if the name is unknown.
///
/// # Errors
/// The path can be read in two ways.
pub fn model_in_path(
    uri: &str,
    is_known: impl Fn(&str) -> bool,
) -> Result<Option<(String, Option<String>)>, Unreadable> {
    let target = Target::parse_named(uri)?;
    let form = PathForm::read(&target.path, is_known);
    match form {
        PathForm::Unknown { name } => return Ok(Some((name.into(), None))),
        PathForm::Plain(_) | PathForm::Named { .. } => {}
    }
    target.refuse_encoded_behind(form.end_of_name(&target.path))?;
    Ok(match form {
        PathForm::Named { name, rest, .. } => Some((name.into(), Some(rest.into()))),
        PathForm::Plain(_) | PathForm::Unknown { .. } => None,
    })
}

/// Whether a request opens a WebSocket on a path that HTTP clients POST to (`/v1/responses` and the like). Codex tries a
/// WebSocket first, and falls back to HTTP at once when told to.
pub fn is_asked_by_post(uri: &str, headers: &HeaderMap) -> bool {
    is_handshake(headers) && Target::parse(uri).is_ok_and(|target| takes_a_model(&target.path))
}

/// Whether a WebSocket is opened (RFC 6455 §4.1). Traefik drops `Upgrade` from its ForwardAuth request, but keeps these
/// headers, which every server requires.
fn is_handshake(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_WEBSOCKET_KEY) || headers.contains_key(SEC_WEBSOCKET_VERSION)
}
