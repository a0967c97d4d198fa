//! From where a request comes.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRef, FromRequestParts},
    http::{HeaderMap, request::Parts},
};

/// Who asks. What stands in `X-Forwarded-For` counts only if Traefik may have put it there: anybody else could choose an
/// address and so get around the throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// Who has said so, and may not be a Traefik after all: other programs share its address.
    pub(crate) forwarded_by: Option<IpAddr>,
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self { address, forwarded_by: None }
    }
}

impl<S> FromRequestParts<S> for Client
where
    S: Send + Sync,
    Arc<web::Shared>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(peer)| peer.ip().to_canonical());
        let shared: Arc<web::Shared> = FromRef::from_ref(state);
        let forwarded = shared.is_traefik(peer).then(|| forwarded_for(&parts.headers)).flatten();
        Ok(match forwarded {
            Some(address) => Self { address, forwarded_by: Some(peer) },
            None => peer.into(),
        })
    }
}

/// Traefik adds who has connected to it at the end.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}
