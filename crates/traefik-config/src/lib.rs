//! What Traefik is told: a catalogue rendered as Traefik's dynamic configuration.
//!
//! [`render`] is a pure function; the same catalogue and options give the same bytes, because
//! Traefik reloads (and forgets in-flight counters and health marks) whenever the bytes change.
//! The shape is that of the HTTP provider
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/>),
//! which decodes strictly: one field that its version does not know loses the whole document.
//! So each field that came later stands behind a [`TraefikVersion`].
//!
//! Requests take two layers of routers
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/multi-layer-routing/>):
//! a root router per body-size [`tier`](Tier) asks Modelgate, whose answer names the child router.

mod content_length;
mod layered;
mod options;
mod version;
mod wire;

pub use layered::{MODELGATE_SERVICE, REFUSE_PREFIX, Tier, render};
pub use options::{Gateway, Options, Tls};
pub use version::{InvalidVersion, TraefikVersion};
pub use wire::Document;
