//! A real Prometheus for the tests: Debian's `prometheus`, which brings `promtool`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Failure, client, program::Program};

/// The two programs.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    server: &'static str,
    tool: &'static str,
}

/// The programs, if they are on this machine.
///
/// # Errors
/// One of them is not installed.
pub fn prometheus() -> Result<Programs, Failure> {
    let programs = Programs { server: "prometheus", tool: "promtool" };
    for program in [programs.server, programs.tool] {
        let runs = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
        if !runs {
            return Err(Failure::missing(format!("{program} cannot be run")));
        }
    }
    Ok(programs)
}

impl Programs {
    /// What `promtool` says to arguments and an input, if it is content.
    ///
    /// # Errors
    /// What it complains about.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn promtool(&self, arguments: &[&str], input: &[u8]) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), input).expect("a file of one's own");
        let input = std::fs::File::open(file.path()).expect("it is there");
        let output = Command::new(self.tool).args(arguments).stdin(Stdio::from(input)).output();
        let output = output.expect("promtool runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Starts Prometheus, which scrapes `target` (host and port) each second as the job `modelgate` and evaluates the rules of
    /// a file each second.
    ///
    /// # Panics
    /// If it does not start; the message has its log.
    pub async fn start(&self, target: &str, rules: &Path) -> Prometheus {
        let builder = Program::builder(self.server);
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
             scrape_configs: [{{ job_name: modelgate, static_configs: [{{ targets: [{target:?}] }}] }}]\n"
        );
        let config: PathBuf = builder.file("prometheus.yml", config);
        let data = builder.folder().join("data");
        let listen = format!("--web.listen-address=127.0.0.1:{}", builder.port());
        let builder = builder.arg(format!("--config.file={}", config.display())).arg(listen);
        Prometheus(builder.arg(format!("--storage.tsdb.path={}", data.display())).start().await)
    }
}

/// A running Prometheus, killed on drop.
#[derive(Debug)]
pub struct Prometheus(Program);

impl Prometheus {
    /// The series that a query returns now, with labels and values, as the API has them
    /// (<https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>).
    ///
    /// # Panics
    /// If the query is wrong.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/query", self.0.url());
        let url = reqwest::Url::parse_with_params(&url, [("query", query)]).expect("a URL");
        let answer = client().get(url).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The names of the alerts that fire now.
    pub async fn firing(&self) -> Vec<String> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}").await;
        firing.iter().filter_map(|alert| alert["metric"]["alertname"].as_str().map(str::to_owned)).collect()
    }
}
