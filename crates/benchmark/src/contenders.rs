//! The contenders. Each is measured from end to end, from the client to the same server.
//!
//! | contender | what it is |
//! |---|---|
//! | alone | Traefik with one router and no middleware |
//! | nothing | Traefik with exactly the document that Modelgate renders, asking `baseline`, which allows everything |
//! | modelgate | Traefik with Modelgate: a store, a thousand keys, a limit and a quota of requests |
//! | envoy | Envoy, whose `ext_authz` asks `baseline` |
//! | vllm-router | Traefik in front of a router through which all data passes, and which decides nothing |
//! | litellm | LiteLLM's proxy with a master key and a limit of requests |

use std::{
    any::Any,
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    baseline::{Baseline, baseline},
    client, cpu_time, eventually,
    modelgate::{Modelgate, optimised},
    program::{Builder, Program},
    traefik::{Traefik, traefik_binary},
};

/// The model that all requests name.
pub(crate) const MODEL: &str = "llama";
/// The key that all requests carry.
pub(crate) const KEY: &str = "mg-benchmark-key";
/// The number of other keys.
const KEYS: usize = 1_000;
/// Its newest version.
pub(crate) const TRAEFIK: &str = "3.7.15";

/// Which contenders to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Traefik alone, with the server that allows everything, and with Modelgate.
    Short,
    All,
}

/// A contender.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    /// The processes through which a request passes before it reaches the server.
    processes: Vec<u32>,
    /// The running programs; dropping them stops them.
    _parts: Vec<Box<dyn Any>>,
}

impl Contender {
    fn new(name: &'static str, url: String, processes: &[u32], parts: Vec<Box<dyn Any>>) -> Self {
        Self { name, url, processes: processes.to_vec(), _parts: parts }
    }

    /// Whether it may fail requests. A failed turn then counts as zero requests.
    pub(crate) fn may_fail(&self) -> bool {
        !["alone", "nothing", "modelgate"].contains(&self.name)
    }

    /// The CPU time of all processes through which a request passes.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.processes.iter().map(|id| cpu_time(*id)).sum()
    }
}

/// Starts the wanted contenders in front of a server.
pub(crate) async fn start(server: &str, wanted: Comparison) -> Vec<Contender> {
    let traefik = traefik_binary(TRAEFIK).expect("Traefik");
    let mut all = vec![alone(&traefik, server).await];
    let (modelgate, document) = modelgate(&traefik, server).await;
    all.push(nothing(&traefik, document).await);
    all.push(modelgate);
    if wanted == Comparison::All {
        all.push(envoy(server).await);
        all.push(vllm_router(&traefik, server).await);
        all.push(litellm(server).await);
    }
    for contender in &all {
        answers(contender).await;
    }
    all
}

/// Waits until it answers requests like those of the benchmark.
async fn answers(contender: &Contender) {
    let url = format!("{}/v1/chat/completions", contender.url);
    let body = serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]});
    let client = client();
    eventually(Duration::from_secs(60), || async {
        let answer = client.post(&url).bearer_auth(KEY).json(&body).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

async fn all_to(traefik: &Path, server: &str) -> Traefik {
    let dynamic = format!(
        "http:\n  routers:\n    all: {{ rule: PathPrefix(`/`), service: server }}\n  services:\n    server:\n      loadBalancer: {{ \
         serversTransport: idle, servers: [{{ url: {server:?} }}] }}\n  serversTransports:\n    idle: {{ maxIdleConnsPerHost: 200 }}\n"
    );
    let traefik = Traefik::builder(traefik).dynamic(dynamic).start().await;
    traefik.wait_router("all@file").await;
    traefik
}

async fn alone(traefik: &Path, server: &str) -> Contender {
    let traefik = all_to(traefik, server).await;
    Contender::new("alone", traefik.url(), &[traefik.id()], vec![Box::new(traefik)])
}

/// Starts Modelgate; also returns the document that it has rendered.
async fn modelgate(traefik: &Path, server: &str) -> (Contender, Value) {
    let digest = access::KeyDigest::of(KEY).to_hex();
    let limit = "{ requests_per_minute: 60000000, requests_per_day: 60000000 }";
    let mut config = format!(
        "traefik: {{ version: {TRAEFIK:?} }}\nservers:\n  - {{ url: {server:?}, name: server }}\nkeys:\n  \
         - {{ name: benchmark, consumer: benchmark, sha256: {digest:?}, models: [{MODEL:?}], limit: {limit} }}\n"
    );
    for key in 1..KEYS {
        let _ = writeln!(
            config,
            "  - {{ name: key-{key}, consumer: team-{}, sha256: \"{key:064x}\" }}",
            key % 50
        );
    }
    let binary = optimised().expect("the optimised Modelgate");
    let mut modelgate = Modelgate::builder(binary, &config).keep_state().start().await;
    modelgate.wait_ready().await;
    let answer = client().get(modelgate.provider_endpoint()).send().await.expect("a document");
    let document = answer.json().await.expect("JSON");
    let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    let (url, processes) = (traefik.url(), [traefik.id(), modelgate.id()]);
    (Contender::new("modelgate", url, &processes, vec![Box::new(traefik), Box::new(modelgate)]), document)
}

async fn nothing(traefik: &Path, document: Value) -> Contender {
    let server = Baseline::start(baseline().expect("the optimised baseline")).await;
    let document = server.in_place_of_modelgate(document).to_string();
    let traefik = Traefik::builder(traefik).dynamic(document).start().await;
    traefik.wait_router("modelgate-small@file").await;
    let processes = [traefik.id(), server.id()];
    Contender::new("nothing", traefik.url(), &processes, vec![Box::new(traefik), Box::new(server)])
}

/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter>
async fn envoy(server: &str) -> Contender {
    let authority = Baseline::start(baseline().expect("the optimised baseline")).await;
    let builder = script("MODELGATE_BENCHMARK_ENVOY");
    let port = |url: &str| url.rsplit(':').next().unwrap_or_default().to_owned();
    let cluster = |name: &str, port: String, more: &str| {
        format!(
            "  - name: {name}\n    type: STATIC\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: \
             {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}\n{more}"
        )
    };
    let ca = builder.file("ca.pem", authority.ca());
    let http2 = format!(
        "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
         explicit_http_config: {{ http2_protocol_options: {{}} }}\n    transport_socket:\n      name: envoy.transport_sockets.tls\n      \
         typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        \
         common_tls_context: {{ alpn_protocols: [h2], validation_context: {{ trusted_ca: {{ filename: {ca:?} }} }} }}\n"
    );
    let config = format!(
        "static_resources:\n  listeners:\n  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {listen} }} }}\n    \
         filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: http\n          route_config: {{ virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: \"/\" }}, \
         route: {{ cluster: server, timeout: 0s }} }}] }}] }}\n          http_filters:\n          - name: envoy.filters.http.ext_authz\n            \
         typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              \
         with_request_body: {{ max_request_bytes: 33554432, pack_as_bytes: true }}\n              http_service:\n                \
         server_uri: {{ uri: \"https://127.0.0.1\", cluster: auth, timeout: 30s }}\n                authorization_response: {{ \
         allowed_upstream_headers: {{ patterns: [{{ prefix: x-inference- }}] }} }}\n          - name: envoy.filters.http.router\n            \
         typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n    \
         per_connection_buffer_limit_bytes: 33554432\n  clusters:\n{server}{auth}",
        listen = builder.port(),
        server = cluster("server", port(server), ""),
        auth = cluster("auth", port(&authority.url()), &http2),
    );
    let file = builder.file("envoy.yaml", config);
    let builder = builder.arg("-c").arg(file).arg("--concurrency").arg("2").arg("--log-level").arg("error");
    let envoy = builder.arg("--disable-hot-restart").start().await;
    let processes = [envoy.id(), authority.id()];
    Contender::new("envoy", envoy.url(), &processes, vec![Box::new(envoy), Box::new(authority)])
}

/// <https://pypi.org/project/vllm-router/>
async fn vllm_router(traefik: &Path, server: &str) -> Contender {
    let builder = script("MODELGATE_BENCHMARK_VLLM_ROUTER");
    let port = builder.port().to_string();
    let builder = builder.arg("--host").arg("127.0.0.1").arg("--port").arg(port);
    let builder = builder.arg("--worker-urls").arg(server).arg("--policy").arg("round_robin");
    let builder = builder.arg("--prometheus-port").arg(testkit::free_port().to_string());
    let router = builder.arg("--log-level").arg("error").start().await;
    let traefik = all_to(traefik, &router.url()).await;
    let processes = [traefik.id(), router.id()];
    Contender::new("vllm-router", traefik.url(), &processes, vec![Box::new(traefik), Box::new(router)])
}

/// <https://docs.litellm.ai/docs/proxy/configs>
async fn litellm(server: &str) -> Contender {
    let builder = script("MODELGATE_BENCHMARK_LITELLM");
    let config = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params: {{ model: openai/{MODEL}, api_base: \"{server}/v1\", api_key: none, \
         rpm: 60000000 }}\ngeneral_settings: {{ master_key: {KEY} }}\nlitellm_settings: {{ telemetry: false }}\n"
    );
    let (file, port) = (builder.file("litellm.yaml", config), builder.port().to_string());
    let builder = builder.arg("--config").arg(file).arg("--host").arg("127.0.0.1").arg("--port").arg(port);
    let litellm = builder.env("LITELLM_LOG", "ERROR").start().await;
    Contender::new("litellm", litellm.url(), &[litellm.id()], vec![Box::new(litellm)])
}

/// A Python script, run with the Python beside it: the script itself names the Python in the folder where it was built.
pub(crate) fn script(variable: &str) -> Builder {
    let Some(script) = env::var_os(variable).map(PathBuf::from) else {
        panic!("{variable} names no program")
    };
    Program::builder(script.with_file_name("python")).arg(script)
}
