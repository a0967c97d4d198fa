//! Tells telemetry what became of each admitted request, and which server of the catalogue got it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use catalogue::{Catalogue, Pool, ServerRecord};
use metering::{Ending, RequestSettlement};
use telemetry::{AnsweringServer, SettledRequest};

use crate::{Metered, Shared, metered};

/// The servers of the catalogue by URL, for the owner of the ledger.
#[derive(Debug, Default)]
pub(crate) struct ServersByUrl(Mutex<OfCatalogue>);

#[derive(Debug, Default)]
struct OfCatalogue {
    /// Of the catalogue; 0 before the first one.
    generation: u64,
    by_url: HashMap<String, Vec<NamedServer>>,
}

#[derive(Debug, Clone)]
struct NamedServer {
    server: Arc<ServerRecord>,
    named: AnsweringServer,
}

impl NamedServer {
    fn of(server: &Arc<ServerRecord>) -> Self {
        let named =
            AnsweringServer { id: server.spec.id.as_str().into(), name: server.spec.name.as_str().into() };
        Self { server: Arc::clone(server), named }
    }
}

impl OfCatalogue {
    fn update(&mut self, catalogue: &Catalogue) {
        if self.generation == catalogue.generation() {
            return;
        }
        self.generation = catalogue.generation();
        self.by_url.clear();
        for server in catalogue.servers() {
            let (url, base) = (server.spec.url.as_str(), server.spec.base_path.as_str());
            // In pools whose servers differ in base path, the URL that Traefik has includes it.
            for url in [url.to_owned(), format!("{url}{base}")] {
                let servers = self.by_url.entry(url).or_default();
                if servers.last().is_none_or(|last| !Arc::ptr_eq(&last.server, server)) {
                    servers.push(NamedServer::of(server));
                }
            }
        }
    }

    /// The server at a URL. Of several, one that has the model.
    fn at(&self, url: &str, model: &str) -> Option<NamedServer> {
        let servers = self.by_url.get(url.trim_end_matches('/'))?;
        let has_model = |named: &&NamedServer| named.server.accepts(model);
        servers.iter().find(has_model).or(servers.first()).cloned()
    }
}

/// The only server of a model: then it is known without Traefik's word.
fn only_server(catalogue: &Catalogue, model: &str) -> Option<NamedServer> {
    let is_plain = |pool: &&Arc<Pool>| pool.canary.is_none() && pool.selector.is_none();
    let pool = catalogue.pool(model).filter(is_plain)?;
    match (&pool.ready[..], &pool.waiting[..]) {
        ([server], []) => Some(NamedServer::of(server)),
        _ => None,
    }
}

impl Shared {
    /// Notes what became of requests, for pages, the API and metrics. Not for `/auth`: it takes locks. From now on each has the
    /// URL of its server in the catalogue, and none that only Traefik knows.
    pub(crate) fn note_outcomes(&self, settlements: &mut [RequestSettlement<Metered>]) {
        if settlements.is_empty() {
            return;
        }
        let loaded = self.catalogue().load();
        let mut servers = self.servers_by_url.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(catalogue) = loaded.as_deref() {
            servers.update(catalogue);
        }
        let settled = settlements.iter_mut().map(|settlement| {
            let server = match &settlement.server {
                Some(url) => servers.at(url, &settlement.model),
                None if settlement.ending == Ending::Finished => {
                    loaded.as_deref().and_then(|catalogue| only_server(catalogue, &settlement.model))
                }
                None => None,
            };
            if let Some(found) = &server {
                settlement.held.answered_by(&found.named.id, settlement.status);
            }
            settlement.server = server.as_ref().map(|found| found.server.spec.url.as_str().into());
            let own_name =
                |catalogue: &Catalogue| Some(catalogue.pool(&settlement.model)?.canonical.as_str().into());
            let model = loaded.as_deref().and_then(own_name).unwrap_or_else(|| Arc::clone(&settlement.model));
            Arc::new(outcome(settlement, model, server.map(|found| found.named)))
        });
        let settled: Vec<_> = settled.collect();
        drop(servers);
        self.telemetry().settled(&settled, Instant::now());
    }
}

/// `model` is the model's own name, whatever alias the request had.
fn outcome(
    settlement: &RequestSettlement<Metered>,
    model: Arc<str>,
    server: Option<AnsweringServer>,
) -> SettledRequest {
    let consumer = settlement.held.consumer().into();
    let cost = metered::settled_cost(settlement);
    let (endpoint, span) = (settlement.shape.endpoint, settlement.held.span());
    let RequestSettlement { request, ending, status, time_to_first_token, duration, kind, used, .. } =
        *settlement;
    SettledRequest {
        request,
        consumer,
        model,
        endpoint,
        server,
        ending,
        status,
        time_to_first_token,
        duration,
        kind,
        used,
        cost,
        span,
    }
}

#[cfg(test)]
mod tests {
    use catalogue::{BasePath, ServerUrl, channel};

    use super::*;
    use crate::testing;

    fn server(name: &str, port: u16, base: &str, models: &[&str]) -> ServerRecord {
        let mut server = testing::server(name, models);
        server.spec.url = ServerUrl::http("10.0.0.1", port);
        server.spec.base_path = BasePath::parse(base).expect(base);
        server
    }

    #[test]
    fn a_server_is_known_by_the_url_that_traefik_has() {
        let (mut publisher, reader) = channel();
        let publish = |publisher: &mut catalogue::Publisher, servers: Vec<ServerRecord>| {
            assert!(publisher.publish(Catalogue::assemble(servers, Vec::new())));
        };
        let mut servers = OfCatalogue::default();
        publish(
            &mut publisher,
            vec![
                server("one", 8000, "/v1", &["llama"]),
                server("two", 8000, "/other", &["qwen"]),
                server("three", 8001, "/v1", &["llama"]),
            ],
        );
        let loaded = reader.load().clone().expect("published");
        servers.update(&loaded);
        let at = |servers: &OfCatalogue, url: &str, model: &str| {
            let found = servers.at(url, model).map(|found| found.named);
            found.map(|server| (server.name.to_string(), server.id.to_string()))
        };
        let found = |name: &str| Some((name.to_owned(), format!("file:{name}")));
        for (url, model, name) in [
            ("http://10.0.0.1:8001", "llama", "three"),
            ("http://10.0.0.1:8001/", "a canary's", "three"),
            ("http://10.0.0.1:8000", "llama", "one"),
            ("http://10.0.0.1:8000", "qwen", "two"),
            ("http://10.0.0.1:8000/v1", "qwen", "one"),
            ("http://10.0.0.1:8000/other", "qwen", "two"),
        ] {
            assert_eq!(at(&servers, url, model), found(name), "{url} {model}");
        }
        for url in ["", "http://10.0.0.1:9", "http://user:secret@10.0.0.1:8000"] {
            assert_eq!(at(&servers, url, "llama"), None, "{url}");
        }
        assert_eq!(
            only_server(&loaded, "qwen").map(|found| found.named.name.to_string()),
            Some("two".into())
        );
        assert!(["llama", "none"].iter().all(|model| only_server(&loaded, model).is_none()));

        publish(&mut publisher, vec![server("three", 8000, "/v1", &["llama"])]);
        servers.update(reader.load().as_deref().expect("published"));
        assert_eq!(at(&servers, "http://10.0.0.1:8000", "llama"), found("three"));
        assert_eq!(at(&servers, "http://10.0.0.1:8001", "llama"), None);
    }
}
