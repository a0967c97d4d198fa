//! The environment of the integration tests and the demo: a simulated inference server ([`sim`]), the real Traefik ([`traefik`]),
//! the built Modelgate ([`modelgate`]), the real Docker Engine and Compose ([`docker`]), Redis ([`redis`]), PostgreSQL
//! ([`postgres`]) and Chromium (`browser`), a certificate authority ([`tls`]), a WebSocket client ([`websocket`]), a small load
//! generator ([`load`]), and programs to compare Modelgate with ([`baseline`], [`program`]).
//!
//! Everything listens on loopback ports that were free a moment before, every name is unique to the test process, and nothing
//! outlives the test: values stop what they started when they are dropped, and the kernel kills the programs when the test
//! process itself is killed.
//!
//! A test that needs a real part starts with [`need`]:
//!
//! ```no_run
//! # async fn test() {
//! use testkit::traefik::{Traefik, traefik_binary};
//!
//! let Some(binary) = testkit::need(traefik_binary("3.7.15"), "Traefik 3.7.15") else { return };
//! let traefik = Traefik::builder(&binary).endpoint("http://127.0.0.1:8100/traefik").start().await;
//! # }
//! ```

pub mod baseline;
#[cfg(feature = "browser")]
pub mod browser;
pub mod docker;
pub mod load;
pub mod modelgate;
pub mod postgres;
pub mod program;
pub mod prometheus;
pub mod receivers;
pub mod redis;
pub mod secrets;
pub mod sim;
pub mod tls;
pub mod traefik;
pub mod websocket;

mod failure;
mod parts;
mod poll;
mod ports;
mod process;
mod stats;
mod stopwatch;

pub use failure::Failure;
pub use parts::{build_sim_server, need, skip_or_fail, target_folder};
pub use poll::{eventually, within};
pub use ports::free_port;
pub use process::{cpu_time, memory};
pub use stats::{cost_ratio, median, percentile};
pub use stopwatch::Stopwatch;

use std::sync::Once;

/// Installs ring as the process's cryptography, once. reqwest is built without one of its own (`rustls-no-provider`).
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that one was installed before, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A plain HTTP client for tests: no proxy from the environment, no redirects followed.
///
/// # Panics
/// If reqwest cannot be set up at all.
#[must_use]
pub fn client() -> reqwest::Client {
    client_builder().build().expect("an HTTP client")
}

/// The builder of [`client`], for tests that need timeouts, HTTP/2 or a CA of their own.
pub fn client_builder() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none())
}
