use catalogue::{
    BasePath, Credential, CredentialHeader, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState,
    ServerUrl, Setting,
};

use super::*;
use crate::wire::{Http, LoadBalancer, Middleware, Router, Service};

mod documents;
mod flat;
mod golden;
mod invariants;
mod layered;

/// A ready server, over plain HTTP.
fn server(name: &str, base_path: &str, models: &[&str]) -> ServerRecord {
    ServerRecord {
        spec: ServerSpec {
            base_path: BasePath::parse(base_path).expect("a base path"),
            ..ServerSpec::configured(name, ServerUrl::http(name, 8000))
        },
        state: ServerState::Ready,
        // A kind whose list is complete.
        listed_as: catalogue::Kind::Tei,
        has_others: false,
        models: models.iter().map(|m| ModelCard::named(ModelName::new(m).expect("a model name"))).collect(),
    }
}

/// With settings, written as labels give them.
fn set(mut server: ServerRecord, settings: &[(&str, &str)]) -> ServerRecord {
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut server.spec.settings, &mut server.spec.model_settings).expect(text);
    }
    server
}

/// With a kind.
fn of_kind(mut server: ServerRecord, kind: &str) -> ServerRecord {
    server.listed_as = catalogue::Kind::named(kind).expect(kind);
    server
}

/// A remote server with a credential.
fn cloud(name: &str, models: &[&str]) -> ServerRecord {
    let mut server = server(name, "/v1", models);
    server.spec.url = ServerUrl::parse(&format!("https://{name}.example.com")).expect("a URL");
    server.spec.credential =
        Credential::new(CredentialHeader::Bearer, "sk-secret-of-the-cloud").map(std::sync::Arc::new);
    server
}

fn gateway() -> Gateway {
    Gateway { authority: "modelgate:8101".into(), ca_pem: include_str!("tests/ca.pem").into() }
}

fn version(text: &str) -> TraefikVersion {
    text.parse().expect("a version")
}

fn options(traefik: &str) -> RenderOptions {
    RenderOptions { version: version(traefik), ..RenderOptions::default() }
}

fn render_servers(servers: Vec<ServerRecord>, options: &RenderOptions) -> Document {
    render(&Catalogue::assemble(servers, Vec::new()), options, &gateway())
}

fn router<'a>(document: &'a Document, start: &str) -> &'a Router {
    let found = document.http.routers.iter().find(|(name, _)| name.starts_with(start));
    found.unwrap_or_else(|| panic!("no router {start}")).1
}

fn service<'a>(document: &'a Document, router: &Router) -> &'a Service {
    &document.http.services[router.service.as_deref().expect("a service")]
}

fn load_balancer(service: &Service) -> &LoadBalancer {
    let Service::LoadBalancer(found) = service else { panic!("no load balancer: {service:?}") };
    found
}
