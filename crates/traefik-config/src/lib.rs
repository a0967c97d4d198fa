//! Renders a catalogue as Traefik's dynamic configuration.
//!
//! [`render`] is a pure function: equal inputs give equal bytes, because Traefik reloads (and forgets in-flight counters and
//! health marks) whenever the bytes change. The format is that of the HTTP provider
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/>), which decodes strictly: one field
//! that its version does not know loses the whole document. So each newer field depends on a [`TraefikVersion`].
//! [`shortcomings()`] reports what an older version lacks, [`advisories()`] the published faults of a version.
//!
//! From 3.6.2 on requests pass two layers of routers
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/multi-layer-routing/>): a root router per body
//! size asks Modelgate, whose answer names the child router (`layered.rs`). Before, Traefik chooses the model and asks
//! Modelgate about it (`flat.rs`). Both layouts share `front.rs`, the part before the choice, and `upstream.rs`, the part
//! behind it.

mod advisory;
mod claim;
mod content_length;
mod flat;
mod front;
mod handwritten;
mod layered;
mod options;
mod page;
mod rule;
mod shortcomings;
mod upstream;
mod version;
mod way;
mod wire;
mod withheld;

pub use advisory::{Advisory, Fault, advisories};
use catalogue::{Catalogue, Pool, RouteGroup};
pub use claim::Claim;
pub use front::{MODELGATE_SERVICE, REFUSE_PREFIX, SIZED_GATE, WEBSOCKET_GATE, as_v1, bases};
pub use handwritten::{check_document, check_labels};
pub use options::{ClientCertificate, Cors, Dashboard, Gateway, Hsts, RenderOptions, Tls};
pub use rule::paths as api_rules;
pub use shortcomings::{Lack, Shortcoming, shortcomings};
pub use version::{InvalidVersion, TraefikVersion};
pub use way::{Arrival, AuthQuestion, RouterStep, RouterWay, Verdict};
pub use wire::Document;
pub use withheld::is_withheld;

/// Whether a document for this version has a route for each server of the group, which `/auth` may choose.
pub fn has_server_routes(pool: &Pool, group: &RouteGroup, version: TraefikVersion) -> bool {
    group.pick.is_some() && upstream::can_pick(pool, group, version)
}

/// Renders the document. The same catalogue, options and gateway give the same bytes.
pub fn render(catalogue: &Catalogue, options: &RenderOptions, gateway: &Gateway) -> Document {
    let mut http = wire::Http::default();
    let front = front::Front::new(&mut http, catalogue, options, gateway);
    if options.version.is_layered() {
        layered::add(&mut http, catalogue, options, &front);
    } else {
        flat::add(&mut http, catalogue, options, &front);
    }
    Document { http }
}

#[cfg(test)]
mod tests;
