//! What to explain.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// What to explain.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Explain {
    /// Why a container, or a server of the configuration, is routed or not
    #[command(visible_alias = "server")]
    Container {
        /// Its name, or that of its service in Compose
        name: String,
    },
    /// Where the requests for a model go
    Model {
        /// The name that clients use
        name: String,
    },
    /// What would happen to a request
    Request(RequestArgs),
    /// A middleware for a router of your own that leads to a model, as labels
    Middleware {
        /// The name of the model
        model: String,
        /// Print it as YAML for Traefik's file provider instead
        #[arg(long)]
        yaml: bool,
    },
}

/// A request as curl takes it, or an entry of a HAR file.
#[derive(Debug, Clone, Args)]
pub(crate) struct RequestArgs {
    /// The URL that the client requests
    #[arg(required_unless_present = "har")]
    pub(crate) url: Option<String>,
    /// The method [default: POST with a body, else GET]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body, or @FILE; JSON unless a Content-Type is given
    #[arg(short = 'd', long = "data", value_name = "BODY")]
    pub(crate) data: Option<String>,
    /// The client's address, for keys that are bound to networks
    #[arg(long, value_name = "IP")]
    pub(crate) from: Option<IpAddr>,
    /// A HAR file, as browsers save it, instead of all the above
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "method", "headers", "data"])]
    pub(crate) har: Option<PathBuf>,
    /// Which entry of the HAR file, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) entry: usize,
}
