//! Where Modelgate tells what it knows: a collector of OpenTelemetry that reads exports with OpenTelemetry's own messages, and a mail
//! server. Both are programs in Python (`crates/modelgate/tests/receivers/`), and print what comes as lines of JSON.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{Failure, parts, program::Program, tls::Identity, within};

/// A running receiver, killed on drop.
#[derive(Debug)]
pub struct TestReceiver(Program);

/// The Python that has their packages: the path in `MODELGATE_TEST_RECEIVERS`, else where `cargo xtask` puts it.
///
/// # Errors
/// It is not installed.
pub fn receivers() -> Result<PathBuf, Failure> {
    let path = env::var_os("MODELGATE_TEST_RECEIVERS").map(PathBuf::from);
    let path = path.or_else(|| Some(parts::target_folder()?.join("tools/receivers/bin/python")));
    path.filter(|path| path.is_file())
        .ok_or_else(|| Failure::missing("no Python with aiosmtpd and opentelemetry-proto"))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../modelgate/tests/receivers").join(name)
}

impl TestReceiver {
    /// Starts a collector.
    pub async fn collector(python: &Path) -> Self {
        let builder = Program::builder(python);
        let port = builder.port().to_string();
        Self(builder.arg(script("collector.py")).arg(port).start().await)
    }

    /// Starts a mail server that speaks TLS from the first byte, or else demands STARTTLS, and refuses so many messages at first.
    pub async fn mail(python: &Path, identity: &Identity, is_tls: bool, refusals: usize) -> Self {
        let builder = Program::builder(python);
        let certificate = builder.file("cert.pem", &identity.certificate_pem);
        let key = builder.file("key.pem", &identity.key_pem);
        let port = builder.port().to_string();
        let mode = if is_tls { "tls" } else { "starttls" };
        let builder = builder.arg(script("mail.py")).arg(port).arg(mode).arg(certificate).arg(key);
        Self(builder.arg(refusals.to_string()).start().await)
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: the URL has a port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
    }

    /// What has come so far, in order.
    #[must_use]
    pub fn came(&self) -> Vec<Value> {
        self.0.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All that it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Waits for an item.
    ///
    /// # Panics
    /// If none comes within a minute.
    pub async fn wait(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = within(Duration::from_secs(60), || async { self.came().into_iter().find(&is_it) }).await;
        found.unwrap_or_else(|| panic!("it did not come; what came:\n{}", self.log()))
    }
}
