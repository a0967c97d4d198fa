//! Running discovery, and Docker Engines to discover servers on.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod engine;
pub(crate) mod fake;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use catalogue::{Catalogue, Configured, Cordons, Reader, ServerSpec, ServerState};
use discovery::{DockerEndpoint, DockerOptions, Sources};
use tokio::{sync::watch, task::JoinHandle};

/// Ends when it is dropped.
pub(crate) struct Discovery {
    reader: Reader,
    task: JoinHandle<()>,
    /// The servers that an operator has cordoned.
    pub(crate) cordons: watch::Sender<Cordons>,
    _servers: watch::Sender<Configured>,
}

impl Discovery {
    pub(crate) fn start(docker: Vec<DockerOptions>, servers: Vec<ServerSpec>) -> Self {
        testkit::install_crypto();
        let (publisher, reader) = catalogue::channel();
        let configured = Configured { servers, ..Configured::default() };
        let (sender, configured) = watch::channel(configured);
        let (peers, traefik_peers) = watch::channel(BTreeSet::new());
        let (cordons, cordoned) = watch::channel(Cordons::default());
        let sources = Sources {
            docker,
            configured,
            cordons: cordoned,
            remembered: watch::channel(Arc::default()).1,
            traefik_peers,
            kept: None,
        };
        let task = tokio::spawn(async move {
            let _peers = peers;
            discovery::run(sources, publisher, std::future::pending()).await.expect("discovery runs");
        });
        Self { reader, task, cordons, _servers: sender }
    }

    /// The published catalogue; `None` while there is none.
    pub(crate) fn now(&self) -> Option<Arc<Catalogue>> {
        self.reader.load().clone()
    }

    /// What keeps the first catalogue from being published.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        self.reader.obstacles().iter().map(ToString::to_string).collect()
    }

    /// Waits for something in the catalogue.
    pub(crate) async fn wait<T>(&self, wanted: impl Fn(&Catalogue) -> Option<T>) -> T {
        let found = testkit::within(Duration::from_secs(60), || async {
            self.now().and_then(|catalogue| wanted(&catalogue))
        });
        match found.await {
            Some(found) => found,
            None => panic!("it did not come: {:#?}", self.now()),
        }
    }

    pub(crate) async fn wait_state(&self, name: &str, wanted: &ServerState) {
        self.wait(|catalogue| (state(catalogue, name)? == *wanted).then_some(())).await;
    }

    /// Waits until a server has a state, given by name, and a text for it.
    pub(crate) async fn wait_why(&self, name: &str, wanted: &str, words: &str) {
        let is = |state: &ServerState| {
            state.name() == wanted && state.why().is_some_and(|why| why.to_string() == words)
        };
        self.wait(|catalogue| state(catalogue, name).filter(is).map(|_| ())).await;
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn state(catalogue: &Catalogue, name: &str) -> Option<ServerState> {
    catalogue.servers().find(|s| s.spec.name == name).map(|s| s.state.clone())
}

pub(crate) fn problems(catalogue: &Catalogue) -> Vec<String> {
    catalogue.problems().iter().map(ToString::to_string).collect()
}

/// A Docker host by name and endpoint.
pub(crate) fn host(name: &str, endpoint: DockerEndpoint) -> DockerOptions {
    DockerOptions::new(name, endpoint)
}
