//! The middleware that operators write themselves, as labels for Traefik's Docker provider
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/other-providers/docker/>) or as a document for its file provider
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/others/file/>).
//!
//! It is the middleware rendered for the operator's own routers, with the model in its address, so that the rendered and the
//! handwritten one cannot differ.

use catalogue::Catalogue;
use serde_json::{Value, json};

use crate::{
    Gateway, RenderOptions, render,
    wire::{ForwardAuth, Http, Middleware},
};

/// The middleware's name.
const NAME: &str = "check";

/// The labels of a middleware `check` that asks Modelgate about requests to a router of the operator's own, which leads to
/// `model`. `authority` is the host and port at which Traefik reaches the requests listener.
///
/// Labels cannot hold Modelgate's CA, which is created at the first start, so they tell Traefik not to verify the certificate.
pub fn check_labels(options: &RenderOptions, authority: &str, model: &str) -> Vec<String> {
    let fields = check_fields(options, authority, model);
    let mut labels = Vec::new();
    for (field, value) in fields.as_object().into_iter().flatten() {
        let value = match value {
            _ if field == "tls" => {
                labels.push(label("tls.insecureskipverify", "\"true\""));
                continue;
            }
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            // In YAML a label that is not a text must be quoted.
            Value::Bool(_) | Value::Number(_) => format!("\"{value}\""),
            Value::String(text) => text.clone(),
            Value::Null | Value::Object(_) => continue,
        };
        labels.push(label(&field.to_ascii_lowercase(), &value));
    }
    labels
}

/// The same as a document for the file provider.
pub fn check_document(options: &RenderOptions, authority: &str, model: &str) -> Value {
    let mut fields = check_fields(options, authority, model);
    fields["tls"] = json!({ "insecureSkipVerify": true });
    json!({ "http": { "middlewares": { NAME: { "forwardAuth": fields } } } })
}

/// The fields of the middleware; none if nothing is rendered for the operator's own routers.
fn check_fields(options: &RenderOptions, authority: &str, model: &str) -> Value {
    let gateway = Gateway { authority: authority.to_owned(), ca_pem: String::new() };
    let document = render(&Catalogue::default(), options, &gateway);
    let Some(mut check) = gate(document.http) else { return Value::Null };
    check.address = check.address.replacen(GATE, &format!("?model={}", encoded(model)), 1);
    serde_json::to_value(&check).expect("plain values can be written")
}

/// The query of `/auth` for the operator's own routers.
const GATE: &str = "?gate";

/// The middleware that asks with it, with the client's headers and body.
fn gate(http: Http) -> Option<Box<ForwardAuth>> {
    http.middlewares.into_values().find_map(|middleware| match middleware {
        Middleware::ForwardAuth(asked)
            if asked.address.contains(GATE) && !asked.auth_response_headers.is_empty() =>
        {
            Some(asked)
        }
        _ => None,
    })
}

fn label(field: &str, value: &str) -> String {
    format!("traefik.http.middlewares.{NAME}.forwardauth.{field}: {value}")
}

/// A name, percent-encoded for a query (RFC 3986 §3.4).
fn encoded(model: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in model.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/' | b':') => {
                text.push(char::from(b));
            }
            // Writing to a string cannot fail.
            b => drop(write!(text, "%{b:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(version: &str) -> Vec<String> {
        let options =
            RenderOptions { version: version.parse().expect("a version"), ..RenderOptions::default() };
        check_labels(&options, "modelgate:8101", "org/a model")
    }

    #[test]
    fn by_hand_it_is_the_middleware_that_is_rendered() {
        for version in ["3.0.0", "3.3.0", "3.6.2", "3.7.15"] {
            let labels = labels(version).join("\n");
            let has_body = version != "3.0.0";
            let more = if has_body { "" } else { "&body=none" };
            let address = format!("address: https://modelgate:8101/auth?model=org/a%20model{more}\n");
            assert!(labels.contains(&address), "{labels}");
            assert_eq!(labels.contains("forwardauth.forwardbody: \"true\""), has_body, "{labels}");
            assert_eq!(labels.contains("maxresponsebodysize"), version == "3.7.15", "{labels}");
            for part in ["Sec-WebSocket-Protocol", "authresponseheadersregex: (?i)^(?:a(?:ccess", "insecure"]
            {
                assert!(labels.contains(part), "{part}: {labels}");
            }
        }
    }

    /// With proxies before Traefik the gate is a chain, and this is its second middleware.
    #[test]
    fn behind_proxies_it_hands_on_what_they_say() {
        let options = RenderOptions { ip_depth: 1, ..RenderOptions::default() };
        let labels = check_labels(&options, "modelgate:8101", "m").join("\n");
        assert!(labels.contains("forwardauth.trustforwardheader: \"true\""), "{labels}");
    }
}
