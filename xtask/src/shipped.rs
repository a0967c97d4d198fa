//! `cargo xtask shipped`: builds the program as deploy/Dockerfile does (optimised as a whole and static), and measures its size,
//! start and memory.

use std::fs;

use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, layout, run, test};

/// The maximum size in bytes, without symbols.
const LARGEST: u64 = 22_000_000;

/// Builds the program, which takes about ten minutes on two cores, and fails if it exceeds the documented figures.
pub(crate) fn shipped(install: bool) -> Result {
    let tools = [tools::traefik(TRAEFIK_NEWEST)];
    if install {
        tools::install(&tools)?;
    }
    let target = run::output(std::process::Command::new("rustc").args(["--print", "host-tuple"]))?;
    let target = target.trim();
    run::step("build modelgate as it is shipped", || {
        let mut cargo = run::cargo();
        cargo.args(["build", "--release", "--locked", "--package", "modelgate", "--target", target]);
        run::shown(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static"))
    })?;
    let program = layout::target().join(target).join("release/modelgate");
    let size = fs::metadata(&program)?.len();
    println!("{}: {size} bytes", program.display());
    if size > LARGEST {
        return Err(format!("it has {size} bytes; allowed: {LARGEST}").into());
    }
    run::step("test", || {
        let mut cargo = run::cargo();
        cargo.args(["test", "--package", "modelgate", "--test", "speed", "--locked"]);
        cargo.args(["--", "--nocapture", "it_starts_at_once_and_stays_small"]);
        run::shown(cargo.envs(test::environment(&tools, true)).env("MODELGATE_TEST_RELEASE", &program))
    })
}
