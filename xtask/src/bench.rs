//! `cargo xtask bench`: what a request costs from end to end, compared with Traefik alone and other gateways; see
//! docs/performance.md.

use std::fs;
use std::path::PathBuf;

use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, layout, run, test};

/// The settings of deploy/compose.yaml, for every Traefik in the benchmark.
const OF_TRAEFIK: [(&str, &str); 2] = [("GOMEMLIMIT", "3GiB"), ("GOGC", "800")];

/// Runs the benchmark. A quick one compares three contenders and ends within three minutes once everything is built.
pub(crate) fn bench(install: bool, is_quick: bool) -> Result {
    let mut tools = vec![tools::traefik(TRAEFIK_NEWEST)];
    tools.extend(tools::for_benchmarks());
    if !is_quick {
        tools.extend(tools::for_comparisons());
    }
    if install {
        tools::install(&tools)?;
    }
    if let Some(missing) = tools.iter().find(|tool| tool.path().is_none()) {
        let name = &missing.name;
        return Err(format!("{name} is missing; `cargo xtask bench --install` installs it").into());
    }
    let optimised = test::build_optimised(&[])?;
    let result = layout::target().join("benchmark");
    fs::create_dir_all(&result)?;
    let mut command = run::cargo();
    command.args(["run", "--quiet", "--package", "benchmark", "--locked", "--"]);
    command.args(is_quick.then_some("--quick"));
    command.envs(test::environment(&tools, true)).envs(optimised).envs(OF_TRAEFIK);
    if !is_quick {
        command.env("MODELGATE_BENCHMARK_SIM", optimised_sim_server()?);
    }
    run::step("bench", || run::shown(command.env("MODELGATE_BENCHMARK_RESULT", &result)))?;
    println!("table.md and plot.svg in {}", result.display());
    Ok(())
}

/// Simulates servers, and compares the policies by which requests are sent to them.
pub(crate) fn pick() -> Result {
    let result = layout::target().join("benchmark");
    fs::create_dir_all(&result)?;
    let arguments = ["run", "--package", "choice-simulator", "--profile", "measured", "--locked"];
    let mut command = run::cargo();
    command.args(arguments).env("MODELGATE_BENCHMARK_RESULT", &result);
    run::step("bench pick", || run::shown(&mut command))?;
    println!("pick.md in {}", result.display());
    Ok(())
}

/// Compares who gets a request with the routers of vLLM and SGLang, with real processes.
pub(crate) fn routers(install: bool) -> Result {
    let mut tools = vec![tools::traefik(TRAEFIK_NEWEST)];
    tools.extend(tools::for_routers());
    if install {
        tools::install(&tools)?;
    }
    let optimised = test::build_optimised(&[])?;
    let result = layout::target().join("benchmark");
    fs::create_dir_all(&result)?;
    let mut command = run::cargo();
    command.args([
        "run",
        "--quiet",
        "--package",
        "benchmark",
        "--profile",
        "measured",
        "--locked",
        "--",
        "--routers",
    ]);
    command.envs(test::environment(&tools, true)).envs(optimised).envs(OF_TRAEFIK);
    run::step("bench routers", || run::shown(command.env("MODELGATE_BENCHMARK_RESULT", &result)))?;
    println!("routers.md in {}", result.display());
    Ok(())
}

/// The optimised server writes the streams that are measured.
fn optimised_sim_server() -> Result<PathBuf> {
    run::step("build sim-server, optimised", || {
        let arguments =
            ["build", "--package", "testkit", "--bin", "sim-server", "--profile", "measured", "--locked"];
        run::shown(run::cargo().args(arguments))
    })?;
    Ok(layout::target().join("measured/sim-server"))
}
