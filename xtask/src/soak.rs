//! `cargo xtask soak`: a long run under load, with changes of servers, configuration and keys; fails if anything fails or grows.

use std::slice;

use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, run, test};

/// Runs it with the optimised program.
pub(crate) fn soak(install: bool, minutes: u32) -> Result {
    let traefik = tools::traefik(TRAEFIK_NEWEST);
    if install {
        tools::install(slice::from_ref(&traefik))?;
    }
    let optimised = test::build_optimised(&[])?;
    run::step("soak", || {
        let mut cargo = run::cargo();
        cargo.args(["test", "--package", "modelgate", "--test", "soak", "--locked", "--", "--nocapture"]);
        cargo.envs(test::environment(slice::from_ref(&traefik), true)).envs(optimised);
        run::shown(cargo.env("MODELGATE_TEST_SOAK_MINUTES", minutes.to_string()))
    })
}
