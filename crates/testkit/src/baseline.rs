//! The crate `baseline`, an auth server that allows everything, in Modelgate's place: the minimum cost of ForwardAuth.

use std::{env, path::PathBuf};

use serde_json::Value;

use crate::{
    Failure,
    program::Program,
    tls::{Authority, Identity},
};

/// The route to which it sends every request.
const ROUTE: &str = "the-only-one";

/// The optimised program: the path in `MODELGATE_TEST_BASELINE`. `cargo xtask test --install` builds it.
///
/// # Errors
/// The variable names no program.
pub fn baseline() -> Result<PathBuf, Failure> {
    let path = env::var_os("MODELGATE_TEST_BASELINE").map(PathBuf::from);
    path.filter(|path| path.is_file())
        .ok_or_else(|| Failure::missing("MODELGATE_TEST_BASELINE names no program"))
}

/// A running `baseline`, killed on drop.
#[derive(Debug)]
pub struct Baseline {
    program: Program,
    authority: Authority,
}

impl Baseline {
    /// Starts it; `program` is from [`baseline`].
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(program: impl Into<PathBuf>) -> Self {
        let authority = Authority::new();
        let Identity { certificate_pem, key_pem } = authority.identity(&["127.0.0.1"]);
        let builder = Program::builder(program);
        let certificate = builder.file("certificate.pem", certificate_pem);
        let key = builder.file("key.pem", key_pem);
        let port = builder.port().to_string();
        let program = builder.arg(port).arg(certificate).arg(key).arg(ROUTE).start().await;
        Self { program, authority }
    }

    /// `https://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.program.url().replace("http:", "https:")
    }

    /// The certificate of its authority, in PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        self.authority.pem()
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.id()
    }

    /// A document that Modelgate has rendered for one model, with this server in Modelgate's place: Traefik does the same work,
    /// but asks this server, which routes every request to that model.
    ///
    /// # Panics
    /// If the document is not one of Modelgate's.
    #[must_use]
    pub fn in_place_of_modelgate(&self, mut document: Value) -> Value {
        let http = &mut document["http"];
        for middleware in values(&mut http["middlewares"]) {
            let Some(address) = middleware["forwardAuth"]["address"].as_str() else { continue };
            let (_, question) = address.split_once("/auth").expect("an address of /auth");
            middleware["forwardAuth"]["address"] = format!("{}/auth{question}", self.url()).into();
            middleware["forwardAuth"]["tls"]["ca"] = self.ca().into();
        }
        for router in values(&mut http["routers"]) {
            if router["rule"].as_str().is_some_and(|rule| rule.contains("X-Inference-Route")) {
                router["rule"] = format!("Header(`X-Inference-Route`, `{ROUTE}`)").into();
            }
        }
        document
    }
}

fn values(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().expect("an object").values_mut()
}
