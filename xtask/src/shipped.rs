//! `cargo xtask shipped`: builds the program as deploy/Dockerfile does (optimised as a whole and static), and measures its size,
//! start and memory.

use std::fs;

use crate::reproducible::{self, Build};
use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, engine, image, layout, run, test};

/// The maximum size in bytes, without symbols.
const LARGEST: u64 = 22_000_000;

/// Builds the program, which takes about ten minutes on two cores, and fails if it exceeds the documented figures.
pub(crate) fn shipped(install: bool) -> Result {
    let tools = [tools::traefik(TRAEFIK_NEWEST)];
    if install {
        tools::install(&tools)?;
    }
    let commit = reproducible::commit()?;
    let target = layout::target();
    let build = Build { sources: layout::root(), target: &target, commit: &commit, debug: false };
    let program = run::step("build modelgate as it is shipped", || build.run())?;
    let size = fs::metadata(&program)?.len();
    println!("{}: {size} bytes", program.display());
    if size > LARGEST {
        return Err(format!("it has {size} bytes; allowed: {LARGEST}").into());
    }
    if engine::answers() {
        let folder = layout::target().join("shipped");
        run::step("make the image", || image::make(&program, "modelgate-shipped", &folder))?;
    } else {
        println!("The Docker Engine is not running: the image is not made.");
    }
    run::step("test", || {
        let mut cargo = run::cargo();
        cargo.args(["test", "--package", "modelgate", "--test", "speed", "--locked"]);
        cargo.args(["--", "--nocapture", "it_starts_at_once_and_stays_small"]);
        cargo.envs(test::environment(&tools, true)).env("MODELGATE_TEST_RELEASE", &program);
        run::shown(cargo.env("MODELGATE_TEST_SHIPPED", "1"))
    })
}
