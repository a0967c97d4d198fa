//! Where a request comes from.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRef, FromRequestParts},
    http::{HeaderMap, request::Parts},
};

/// The client of a request. `X-Forwarded-For` counts only if Traefik may have set it: any other sender could choose an address
/// and so evade the throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The peer that forwarded the request and named the client. It may not be a Traefik after all, because other programs share
    /// its address.
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

/// The last address: Traefik appends the one that has connected to it.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}
