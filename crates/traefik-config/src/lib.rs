//! What Traefik is told: a catalogue rendered as Traefik's dynamic configuration.
//!
//! [`render`] is a pure function; the same catalogue and options give the same bytes, because
//! Traefik reloads (and forgets in-flight counters and health marks) whenever the bytes change.
//! The shape is that of the HTTP provider
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/>),
//! which decodes strictly: one field that its version does not know loses the whole document.
//! So each field that came later stands behind a [`TraefikVersion`]; what is lost by that,
//! [`shortcomings()`] says; what is wrong with a version whatever is rendered, [`advisories()`].
//!
//! From 3.6.2 on requests take two layers of routers
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/multi-layer-routing/>):
//! a root router per body size asks Modelgate, whose answer names the child router (`layered.rs`).
//! Before, Traefik chooses the model and asks Modelgate about it (`flat.rs`). What both have in common
//! stands in `front.rs`, before the choice, and in `upstream.rs`, behind it.

mod advisory;
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
mod wire;
mod withheld;

pub use advisory::{Advisory, Fault, advisories};
use catalogue::Catalogue;
pub use front::{MODELGATE_SERVICE, REFUSE_PREFIX, SIZED_GATE, WEBSOCKET_GATE};
pub use handwritten::check_labels;
pub use options::{ClientCertificate, Cors, Dashboard, Gateway, Hsts, Options, Tls};
pub use shortcomings::{Lack, Shortcoming, shortcomings};
pub use version::{InvalidVersion, TraefikVersion};
pub use wire::Document;
pub use withheld::is_withheld;

/// Renders the document. The same catalogue, options and gateway give the same bytes.
pub fn render(catalogue: &Catalogue, options: &Options, gateway: &Gateway) -> Document {
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
