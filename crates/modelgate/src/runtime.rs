//! The async runtime, for the server and for commands that need the network or the store.

use std::io;

use tokio::runtime::Runtime;

/// Makes a runtime that uses all cores, after setting up the program's TLS.
///
/// # Errors
/// The system cannot create threads.
pub(crate) fn new() -> io::Result<Runtime> {
    // Before any TLS is used: reqwest takes the process's default provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Runtime::new()
}
