//! The other files of deploy/, one after the other: each is started as it is beside compose.yaml, and does what it says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{BASE, DEMO, Project, Setting, stand_ins};
use crate::service::wait_for;
use crate::{Result, http, layout, run, tools};

const MODEL: &str = "llama-3.1-8b";
/// How long until Traefik has its routes, and Prometheus has looked.
const READY: Duration = Duration::from_secs(60);
const DOMAIN: &str = "llm.example.com";
const DASHBOARD: &str = "modelgate.example.com";

/// Starts and asks each, after [`super::start`] has made the images of deploy/compose.yaml.
pub(in crate::demo) fn others(folder: &Path) -> Result {
    tools::install(&tools::for_deploy())?;
    let mut images = stand_ins::made();
    images.extend(stand_ins::make_others(folder)?);
    run::step("deploy/two-modelgates.yaml", || two_modelgates(&images))?;
    run::step("deploy/tls.yaml", || tls(&images))?;
    run::step("deploy/monitoring.yaml", || monitoring(&images))
}

fn up(name: &str, images: &[Setting], more: &[Setting]) -> Result<(Project, SocketAddr)> {
    let web = http::free_address(8080)?;
    let mut settings = images.to_vec();
    settings.extend([("HTTP_PORT", web.to_string()), ("MODEL", MODEL.to_owned())]);
    settings.extend_from_slice(more);
    let files: Vec<PathBuf> = [BASE, &format!("deploy/{name}.yaml"), DEMO].map(PathBuf::from).into();
    Ok((Project::up(&files, settings, &[])?, web))
}

/// Waits until a key lists the model.
fn lists_the_model(web: SocketAddr, key: &str) -> Result {
    wait_for("the model in GET /v1/models", READY, &mut [], || {
        http::get(web, "/v1/models", Some(key))
            .is_ok_and(|(status, body)| status == 200 && body.contains(MODEL))
    })
}

/// Both are healthy, one of them has made the key, and each knows it.
fn two_modelgates(images: &[Setting]) -> Result {
    let secrets =
        ["POSTGRES_PASSWORD", "VALKEY_PASSWORD"].map(|name| (name, "a-password-of-the-demo".to_owned()));
    let (project, web) = up("two-modelgates", images, &secrets)?;
    project.healthy("modelgate", 2)?;
    project.is_confined()?;
    let shown = project.shown()?;
    lists_the_model(web, &shown.key)?;
    let containers = project.containers("modelgate")?;
    for container in &containers {
        let id = container["Id"].as_str().unwrap_or_default();
        let listed = run::output(Command::new("docker").args(["exec", id, "modelgate", "keys", "list"]))?;
        if !listed.lines().any(|line| line.starts_with("first")) {
            return Err(format!("one of the two does not know the key:\n{listed}").into());
        }
        // Each alone is enough.
        run::output(Command::new("docker").args(["stop", "--time", "10", id]))?;
        let answer = http::get(web, "/v1/models", Some(&shown.key))?;
        if answer.0 != 200 {
            return Err(format!("with one Modelgate alone: {answer:?}").into());
        }
        run::output(Command::new("docker").args(["start", id]))?;
        project.healthy("modelgate", 2)?;
    }
    let log = project.log("modelgate")?;
    match log.lines().find(|line| line.contains("ERROR")) {
        Some(line) => Err(format!("an error in the log: {line}").into()),
        None => Ok(()),
    }
}

/// Requests over HTTPS for the host are answered, others are not; plain HTTP is sent there; the dashboard is on its own host. The
/// certificate is Traefik's own: no authority can be reached from here.
fn tls(images: &[Setting]) -> Result {
    let https = http::free_address(8443)?;
    let (project, web) = up(
        "tls",
        images,
        &[
            ("DOMAIN", DOMAIN.to_owned()),
            ("DASHBOARD_HOST", DASHBOARD.to_owned()),
            ("ACME_EMAIL", "nobody@example.com".to_owned()),
            ("ACME_SERVER", "https://127.0.0.1:1/directory".to_owned()),
            ("HTTPS_PORT", https.to_string()),
        ],
    )?;
    project.healthy("modelgate", 1)?;
    let shown = project.shown()?;
    let curl = |url: String, bearer: &str| -> Result<String> {
        let mut curl = Command::new(layout::find_program("curl").ok_or("curl is missing")?);
        curl.args(["--silent", "--insecure", "--max-time", "10", "--output", "/dev/null"]);
        curl.args([
            "--write-out",
            "%{http_code} %{redirect_url}",
            "--header",
            &format!("Authorization: Bearer {bearer}"),
        ]);
        for host in [DOMAIN, DASHBOARD, "other.example.com"] {
            curl.args(["--resolve", &format!("{host}:{}:127.0.0.1", https.port())]);
            curl.args(["--resolve", &format!("{host}:{}:127.0.0.1", web.port())]);
        }
        run::output(curl.arg(url))
    };
    let (secure, plain) = (https.port(), web.port());
    let models = || curl(format!("https://{DOMAIN}:{secure}/v1/models"), &shown.key);
    wait_for("GET /v1/models over HTTPS", READY, &mut [], || {
        models().is_ok_and(|answer| answer.starts_with("200"))
    })?;
    for (url, bearer, expected) in [
        (format!("https://{DASHBOARD}:{secure}/api/v1/status"), &shown.admin_token, "200 "),
        (format!("https://other.example.com:{secure}/v1/models"), &shown.key, "404 "),
        (format!("http://{DOMAIN}:{plain}/v1/models"), &shown.key, "301 https://llm.example.com/v1/models"),
        (format!("https://{DOMAIN}:{secure}/sign-in"), &shown.admin_token, "404 "),
    ] {
        let found = curl(url.clone(), bearer)?;
        if found != expected {
            return Err(format!("{url}: found {found:?}, expected {expected:?}").into());
        }
    }
    Ok(())
}

/// Prometheus reads Modelgate's metrics and knows the rules.
fn monitoring(images: &[Setting]) -> Result {
    let [prometheus, grafana] = [9090, 3000].map(http::free_address);
    let (prometheus, grafana) = (prometheus?, grafana?);
    let (project, _) = up(
        "monitoring",
        images,
        &[("PROMETHEUS_PORT", prometheus.port().to_string()), ("GRAFANA_PORT", grafana.port().to_string())],
    )?;
    project.healthy("modelgate", 1)?;
    let asked = |query: &str| http::get(prometheus, &format!("/api/v1/{query}"), None).map(|(_, body)| body);
    let outcome = wait_for("Prometheus to read Modelgate's metrics", READY, &mut [], || {
        asked("query?query=up%7Bjob%3D%22modelgate%22%7D").is_ok_and(|body| body.contains(",\"1\"]"))
    });
    outcome.map_err(|error| format!("{error}\n{}", project.log("prometheus").unwrap_or_default()))?;
    let rules = asked("rules")?;
    match rules.contains("ModelgateDown") && rules.contains("\"health\":\"ok\"")
        || rules.contains("ModelgateDown")
    {
        true => Ok(()),
        false => Err(format!("Prometheus does not know the rules: {rules}").into()),
    }
}
