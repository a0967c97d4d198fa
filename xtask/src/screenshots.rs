//! `cargo xtask screenshots`: pictures of each page of the dashboard, light, dark and as on a phone.
//!
//! The test that reads every page takes them: it has real parts, traffic and a browser, and finds the pages itself.

use std::fs;

use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, layout, run, test};

/// Takes the screenshots.
pub(crate) fn screenshots(install: bool) -> Result {
    let mut tools = vec![tools::traefik(TRAEFIK_NEWEST)];
    tools.extend(tools::for_pages());
    if install {
        tools::install(&tools)?;
    }
    if let Some(missing) = tools.iter().find(|tool| tool.path().is_none()) {
        let name = &missing.name;
        return Err(format!("{name} is missing; `cargo xtask screenshots --install` installs it").into());
    }
    let folder = layout::target().join("screenshots");
    let _ = fs::remove_dir_all(&folder);
    run::step("screenshots", || {
        let mut command = run::cargo();
        command.args(["test", "--package", "modelgate", "--test", "pages", "--locked", "--", "every_page"]);
        command.envs(test::environment(&tools, true)).env("MODELGATE_TEST_SCREENSHOTS", &folder);
        run::shown(&mut command)
    })?;
    println!("{} images in {}", fs::read_dir(&folder)?.count(), folder.display());
    Ok(())
}
