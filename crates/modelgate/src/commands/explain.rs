//! `modelgate explain`: why a container, a model or a request is routed as it is, or is not.
//!
//! It surveys once, where the running Modelgate surveys continuously, and decides with the same code; the running one only tells
//! which Traefiks poll it. No request is counted, and nothing is sent to a model.
//!
//! ```text
//! container.rs  a container, or a server of the configuration
//! model.rs      where the requests for a model go
//! request.rs    what would happen to a request
//! running.rs    whether Traefik asks the running Modelgate
//! known.rs      all containers and servers, as the answer to an unknown name
//! ```

mod container;
mod known;
mod model;
mod request;
mod running;
#[cfg(test)]
mod tests;

use std::{io, process::ExitCode};

use crate::{arguments::explain::Explain, config::Config, exit, output, survey, wiring};

/// `modelgate explain …`.
pub(crate) fn explain(config: &Config, what: &Explain) -> ExitCode {
    exit::of(text(config, what).map(output::text))
}

fn text(config: &Config, what: &Explain) -> io::Result<String> {
    // Containers and servers are surveyed only for questions about them.
    let catalogue = || survey::survey(config);
    match what {
        Explain::Container { name } => {
            let listener = wiring::telemetry_listener(config);
            container::explain(&*catalogue()?, listener.as_ref(), name).map_err(io::Error::other)
        }
        Explain::Model { name } => model::explain(&*catalogue()?, config, name).map_err(io::Error::other),
        Explain::Request(args) => request::explain(&catalogue()?, config, args),
        Explain::Middleware { model, yaml } => middleware(config, model, *yaml),
    }
}

/// The middleware that asks about requests for a model, as labels or YAML, after a line that says whom it asks.
fn middleware(config: &Config, model: &str, yaml: bool) -> io::Result<String> {
    let requests = config.listen.requests;
    let (authority, note) = match &config.traefik.advertise {
        Some(host) => (format!("{host}:{}", requests.port()), "traefik.advertise"),
        None if !requests.ip().is_unspecified() => (requests.to_string(), "listen.requests"),
        None => {
            let guess = "a guess: the name of the service in deploy/; set traefik.advertise if Traefik knows it by another one";
            (format!("modelgate:{}", requests.port()), guess)
        }
    };
    let options = wiring::options(config);
    let text = match yaml {
        true => serde_yaml::to_string(&traefik_config::check_document(&options, &authority, model))
            .map_err(io::Error::other)?,
        false => traefik_config::check_labels(&options, &authority, model).join("\n") + "\n",
    };
    Ok(format!("# Asks Modelgate at {authority} ({note}).\n{text}"))
}
