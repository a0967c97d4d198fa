//! Pages in place of errors, which Modelgate writes
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/errorpages/>).

use crate::{MODELGATE_SERVICE, REFUSE_PREFIX, TraefikVersion, wire::ErrorPage};

/// What an answer is made by: whose client asks, which request it is, and whether `/auth` had let it pass. A request may
/// have a server's credential by then, which is nobody else's concern.
const HEADERS: [&str; 3] = ["Anthropic-Version", "X-Request-Id", "X-Inference-Consumer"];

/// A page in place of the answers with a status; `why` tells Modelgate what it is about.
pub(crate) fn page(version: TraefikVersion, status: &str, why: &str) -> ErrorPage {
    ErrorPage {
        status: vec![status.into()],
        service: MODELGATE_SERVICE,
        query: format!("{REFUSE_PREFIX}/{why}?url={{url}}"),
        error_request_headers: if version.chooses_headers_of_pages() { HEADERS.to_vec() } else { Vec::new() },
        ..ErrorPage::default()
    }
}
