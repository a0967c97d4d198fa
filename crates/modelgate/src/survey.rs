//! One survey of containers and servers, for commands; the running Modelgate surveys continuously.

use std::{io, sync::Arc, time::Duration};

use catalogue::{Catalogue, Cordons};
use tokio::{sync::watch, time::timeout};
use traefik_config::{Document, Gateway};

use crate::{config::Config, runtime, wiring};

/// How long a command waits for the survey.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(30);

/// Surveys servers once.
///
/// # Errors
/// Discovery fails, or nothing answers in time.
pub(crate) fn survey(config: &Config) -> io::Result<Arc<Catalogue>> {
    runtime::new()?.block_on(async {
        let (publisher, reader) = catalogue::channel();
        let (_holds, none) = watch::channel(Cordons::default());
        let (_names, nothing) = watch::channel(Arc::default());
        let (_servers, _peers, sources) = wiring::sources(config, none, nothing, None);
        let survey = discovery::run(sources, publisher, std::future::pending());
        tokio::select! {
            ended = survey => Err(io::Error::other(format!("discovery has ended: {ended:?}"))),
            found = timeout(SURVEY_TIMEOUT, reader.changed_since(0)) => found.map_err(|_| {
                let obstacles: Vec<String> = reader.obstacles().iter().map(ToString::to_string).collect();
                let why = if obstacles.is_empty() { "is the Docker endpoint right?".into() } else { obstacles.join("; ") };
                io::Error::other(format!("the first survey did not finish: {why}"))
            })
        }
    })
}

/// The document that Traefik would get for a catalogue.
pub(crate) fn document(catalogue: &Catalogue, config: &Config) -> Document {
    let host = config.traefik.advertise.as_ref().map_or_else(|| "modelgate".into(), ToString::to_string);
    let authority = format!("{host}:{}", config.listen.requests.port());
    let ca_pem = "(made when Modelgate starts)".into();
    traefik_config::render(catalogue, &wiring::options(config), &Gateway { authority, ca_pem })
}
