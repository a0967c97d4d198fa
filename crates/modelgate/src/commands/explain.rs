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

use crate::{arguments::explain::Explain, config::Config, exit, survey, wiring};

/// `modelgate explain …`.
#[expect(clippy::print_stdout, reason = "a command's answer goes to its user")]
pub(crate) fn explain(config: &Config, what: &Explain) -> ExitCode {
    exit::of(text(config, what).map(|text| print!("{text}")))
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
        Explain::Request(args) => request::explain(catalogue()?, config, args),
        Explain::Middleware { model } => Ok(middleware(config, model)),
    }
}

/// The definition of `modelgate@http`, as labels.
fn middleware(config: &Config, model: &str) -> String {
    let host = config.traefik.advertise.as_ref().map_or("modelgate".into(), ToString::to_string);
    let authority = format!("{host}:{}", config.listen.requests.port());
    let labels = traefik_config::check_labels(&wiring::options(config), &authority, model);
    let mut text = labels.join("\n");
    text.push('\n');
    text
}
