//! What Modelgate takes from other applications on the same Traefik.

use std::fmt;

use catalogue::Catalogue;

use crate::{Gateway, RenderOptions, render};

/// Without hosts, Modelgate's paths are its own on all hosts. Traefik asks the router with the longest rule first, unless
/// priorities say otherwise (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/rules-and-priority/>), so
/// that applications with a short rule do not get their own requests there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The highest priority of Modelgate's routers. A longer rule keeps all requests; one that is a few characters shorter keeps some,
    /// since the routers for other kinds of requests have lower priorities.
    pub priority: usize,
}

impl Claim {
    /// What a catalogue's document claims on hosts that may be others'; `None` if the operator has named Modelgate's hosts.
    pub fn of(catalogue: &Catalogue, options: &RenderOptions) -> Option<Self> {
        if !options.hosts.is_empty() {
            return None;
        }
        // The dashboard is on a host of its own.
        let options = RenderOptions { dashboard: None, ..options.clone() };
        let anywhere = Gateway { authority: String::new(), ca_pem: String::new() };
        let document = render(catalogue, &options, &anywhere);
        let priorities = document.http.routers.values().filter(|router| router.parent_refs.is_empty());
        priorities.filter_map(|router| router.priority).max().map(|priority| Self { priority })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority } = self;
        write!(
            f,
            "traefik.hosts is not set, so Modelgate answers for its paths (/v1/, /models/, ...) on every host. Traefik prefers \
             the longer rule: another application on the same Traefik may lose requests with such paths if its router's rule has \
             {priority} characters or fewer; Host(`app.lan`) has 15. If there is one, set traefik.hosts to the hosts of Modelgate, or \
             give that router a priority above {priority}"
        )
    }
}
