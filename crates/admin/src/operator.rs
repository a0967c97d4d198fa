//! The operator who sends a request, known by a token or by a session that was opened with one.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use access::KeyDigest;
use axum::{extract::FromRequestParts, http::request::Parts};
use store::Actor;

use crate::{AdminToken, Role, refusal::Refusal};

/// The operator who sends a request. Every handler behind the authentication can take it as an argument.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name of the token, for pages and the audit log.
    pub name: Arc<str>,
    /// The role. The authentication has already refused what it does not allow.
    pub role: Role,
    /// The address from which this request comes; for the audit log.
    pub(crate) address: IpAddr,
    /// The token itself, by its digest.
    pub(crate) token: KeyDigest,
    /// The session, if the request came with a cookie and not with the token itself.
    pub(crate) session: Option<SessionOf>,
}

/// The session's data that pages need.
#[derive(Debug, Clone)]
pub(crate) struct SessionOf {
    /// The cookie's value.
    pub(crate) cookie: String,
    /// The CSRF token that each form must carry.
    pub(crate) csrf: String,
}

impl Operator {
    pub(crate) fn new(token: &AdminToken, session: Option<SessionOf>, address: IpAddr) -> Self {
        Self { name: Arc::clone(&token.name), role: token.role, address, token: token.digest, session }
    }

    /// What the audit log says of them.
    pub(crate) fn actor(&self) -> Actor {
        Actor::at(&*self.name, self.address)
    }

    /// The value of the field `csrf` in each form; empty for an operator without a session.
    pub fn csrf(&self) -> &str {
        self.session.as_ref().map_or("", |session| &session.csrf)
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // Outside the authentication there is no operator, whatever the request contains.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Refusal::sign_in(parts))
    }
}

/// The operator, on pages that need no signing in.
#[derive(Debug, Clone)]
pub(crate) struct MaybeOperator(pub(crate) Option<Operator>);

impl<S: Sync> FromRequestParts<S> for MaybeOperator {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Operator>().cloned()))
    }
}
