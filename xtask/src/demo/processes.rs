//! The demo as plain processes on loopback addresses: no Docker, no root.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::slice;

use super::{GeneratedKey, Stack, log, modelgate};
use crate::service::Service;
use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, http, layout};

/// The two servers: both serve the first model, so requests for it are balanced.
const SERVERS: [(&str, &str); 2] = [("gpu-1", "llama-3.1-8b"), ("gpu-2", "llama-3.1-8b,qwen2.5-7b")];

/// Starts the two servers, Modelgate and Traefik.
pub(super) fn start(folder: &Path) -> Result<Stack> {
    let traefik = tools::traefik(TRAEFIK_NEWEST);
    tools::install(slice::from_ref(&traefik))?;
    let traefik = traefik.path().ok_or("Traefik is missing")?;

    let mut services = Vec::new();
    let mut urls = Vec::new();
    for (name, models) in SERVERS {
        let address = http::free_address(0)?;
        services.push(server(folder, name, models, address)?);
        urls.push((name, address));
    }
    let key = GeneratedKey::generate()?;
    let [provider, requests, admin] = [8100, 8101, 8102].map(http::free_address);
    let (provider, requests, admin) = (provider?, requests?, admin?);
    let (config, state) = (folder.join("modelgate.yaml"), folder.join("state"));
    fs::write(&config, configuration(&key, [provider, requests, admin], &urls, &state))?;
    let mut command = modelgate();
    let token = admin_token()?;
    command.arg("--config").arg(&config).env("MODELGATE_ADMIN_TOKEN", &token);
    services.push(Service::start("modelgate", &mut command, log(folder, "modelgate"))?);

    let (web, dashboard) = (http::free_address(8080)?, http::free_address(8081)?);
    let mut command = Command::new(traefik);
    command.args(traefik_arguments(provider, web, dashboard));
    services.push(Service::start("traefik", &mut command, log(folder, "traefik"))?);

    Ok(Stack {
        services,
        logs: None,
        _cleanup: None,
        web,
        key: key.clear,
        models: &["llama-3.1-8b", "qwen2.5-7b"],
        admin_token: Some(token),
        pages: vec![
            (format!("http://{admin}/"), "the dashboard"),
            (
                format!("http://{dashboard}/dashboard/"),
                "Traefik's own dashboard: the routes that Modelgate gave it",
            ),
            (folder.display().to_string(), "the configuration file and the logs"),
            (
                format!(
                    "{} --config {} keys create laptop",
                    layout::built("modelgate").display(),
                    config.display()
                ),
                "makes another key; its other commands work in the same way",
            ),
        ],
    })
}

/// A simulated inference server; slow enough to see its answer stream.
fn server(folder: &Path, name: &str, models: &str, address: SocketAddr) -> Result<Service> {
    let mut command = Command::new(layout::built("sim-server"));
    command.env("SIM_NAME", name).env("SIM_MODELS", models);
    command.env("SIM_HOST", address.ip().to_string()).env("SIM_PORT", address.port().to_string());
    command.env("SIM_CHUNKS", "20").env("SIM_CHUNK_DELAY_MS", "80");
    Service::start(name, &mut command, log(folder, name))
}

/// A random token for the dashboard.
fn admin_token() -> Result<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The configuration file. It holds the key's digest only.
fn configuration(
    key: &GeneratedKey,
    listen: [SocketAddr; 3],
    servers: &[(&str, SocketAddr)],
    state: &Path,
) -> String {
    let [provider, requests, admin] = listen;
    let servers: String = servers
        .iter()
        .map(|(name, address)| format!("  - name: {name}\n    url: http://{address}\n"))
        .collect();
    format!(
        "listen:\n  provider: {provider}\n  requests: {requests}\n  admin: {admin}\n\
         traefik:\n  version: \"{TRAEFIK_NEWEST}\"\n  entry_points: [web]\n\
         docker:\n  enabled: false\n\
         state_dir: {state:?}\n\
         servers:\n{servers}\
         keys:\n  - name: demo\n    consumer: demo\n    sha256: {}\n",
        key.sha256
    )
}

/// Traefik's static configuration: <https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/>.
fn traefik_arguments(provider: SocketAddr, web: SocketAddr, dashboard: SocketAddr) -> Vec<String> {
    vec![
        format!("--providers.http.endpoint=http://{provider}/traefik"),
        "--providers.http.pollInterval=100ms".to_owned(),
        "--providers.http.pollTimeout=5s".to_owned(),
        "--providers.providersThrottleDuration=100ms".to_owned(),
        format!("--entryPoints.web.address={web}"),
        format!("--entryPoints.traefik.address={dashboard}"),
        "--api.insecure=true".to_owned(), // on a loopback address
        "--global.checkNewVersion=false".to_owned(),
        "--log.level=INFO".to_owned(),
    ]
}
