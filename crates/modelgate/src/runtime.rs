//! The async runtime, for the server and for commands that ask somebody.

use std::io;

use tokio::runtime::Runtime;

/// One on all cores, with the program's TLS set up before it.
///
/// # Errors
/// The system gives no threads.
pub(crate) fn new() -> io::Result<Runtime> {
    // Before any TLS: reqwest takes the process's default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Runtime::new()
}
