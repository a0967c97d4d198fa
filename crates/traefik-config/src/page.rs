//! Error pages that Modelgate writes
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/errorpages/>).

use crate::{MODELGATE_SERVICE, REFUSE_PREFIX, TraefikVersion, wire::ErrorPage};

/// The headers that an error page needs: the client's API, the request's ids, and whether `/auth` had let it pass. All others
/// are withheld, since the request may have a server's credential by then.
const HEADERS: [&str; 4] =
    ["Anthropic-Version", "X-Request-Id", "X-Inference-Consumer", "X-Inference-Client-Request-Id"];

/// An error page for answers with a status; `why` tells Modelgate the reason.
pub(crate) fn page(version: TraefikVersion, status: &str, why: &str) -> ErrorPage {
    ErrorPage {
        status: vec![status.into()],
        service: MODELGATE_SERVICE,
        query: format!("{REFUSE_PREFIX}/{why}?url={{url}}"),
        error_request_headers: if version.chooses_headers_of_pages() { HEADERS.to_vec() } else { Vec::new() },
        ..ErrorPage::default()
    }
}
