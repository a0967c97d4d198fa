//! `cargo xtask package`: a Debian package of a program that is built already, unpacked and run as a check. What is in it is in
//! `crates/modelgate/Cargo.toml`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::slice;

use crate::{Result, layout, run, sbom, tools};

/// What a package must hold, besides what Cargo.toml lists by name: cargo-deb takes a pattern that fits nothing for an empty list.
const MUST_HOLD: [&str; 8] = [
    "usr/bin/modelgate",
    "usr/lib/systemd/system/modelgate.service",
    "usr/lib/systemd/system/modelgate.socket",
    "usr/share/man/man1/modelgate-keys-create.1.gz",
    "usr/share/bash-completion/completions/modelgate",
    "usr/share/doc/modelgate/docs/running.md",
    "usr/share/doc/modelgate/modelgate.cdx.json",
    "usr/share/doc/modelgate/modelgate.schema.json",
];
/// A larger program is a debug build, which is not worth the time that good compression takes.
const UNOPTIMISED: u64 = 30_000_000;
/// The worst that systemd may say of the service, in tenths of its points (`systemd-analyze security`); 100 is no protection at all.
const EXPOSURE: &str = "15";

/// Makes the package, and checks it.
pub(crate) fn package(install: bool, program: &Path) -> Result {
    let tool = tools::for_packages();
    if install {
        tools::install(slice::from_ref(&tool))?;
    }
    let cargo_deb = tool.path().ok_or("cargo-deb is missing; `--install` installs it")?;
    let folder = layout::root().join("target/package");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    run::step("put together", || put_together(program, &folder))?;
    let deb = folder.join("modelgate.deb");
    run::step("make the package", || {
        let mut command = Command::new(cargo_deb);
        command.args(["--no-build", "--no-strip", "--package", "modelgate", "--output"]).arg(&deb);
        if fs::metadata(folder.join("modelgate"))?.len() > UNOPTIMISED {
            command.arg("--fast");
        }
        run::shown(command.current_dir(layout::root()))
    })?;
    run::step("unpack and run it", || check(&deb, &folder.join("root")))?;
    if !is_root()? {
        println!("It is not installed as a check: that needs root.");
        return Ok(());
    }
    run::step("install, run, upgrade and remove it", || {
        let script = layout::root().join("xtask/src/package/installed.sh");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]).arg(script).arg(&deb);
        run::logged("installed", &mut command)
    })
}

fn is_root() -> Result<bool> {
    Ok(run::output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// The program without symbols, and what it prints about itself.
fn put_together(program: &Path, folder: &Path) -> Result {
    let stripped = folder.join("modelgate");
    run::shown(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
    run::shown(Command::new(&stripped).arg("man").arg(folder.join("man")))?;
    sbom::write(&folder.join("modelgate.cdx.json"))?;
    for (shell, file) in [("bash", "modelgate.bash"), ("zsh", "_modelgate"), ("fish", "modelgate.fish")] {
        let script = run::output(Command::new(&stripped).args(["completions", shell]))?;
        fs::write(folder.join(file), script)?;
    }
    run::shown(Command::new("bash").arg("-n").arg(folder.join("modelgate.bash")))
}

fn check(deb: &Path, root: &Path) -> Result {
    run::shown(Command::new("dpkg-deb").arg("--info").arg(deb))?;
    run::shown(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(root))?;
    for path in MUST_HOLD {
        if !root.join(path).is_file() {
            return Err(format!("{path} is not in the package").into());
        }
    }
    let program = root.join("usr/bin/modelgate");
    let config = root.join("etc/modelgate/modelgate.yaml");
    run::shown(Command::new(&program).arg("--version"))?;
    let checked = run::output(Command::new(&program).arg("check").arg("--config").arg(&config))?;
    if !checked.starts_with("ok: ") {
        return Err(format!("its own configuration: {checked}").into());
    }
    ports_agree(root, &fs::read_to_string(&config)?)?;
    if let Some(analyze) = layout::find_program("systemd-analyze") {
        let unit = root.join("usr/lib/systemd/system/modelgate.service");
        let mut security = Command::new(&analyze);
        security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]).arg(&unit);
        run::output(&mut security)?;
        let socket = unit.with_file_name("modelgate.socket");
        let verified = Command::new(&analyze).args(["verify", "--man=no"]).args([&socket, &unit]).output()?;
        let said = String::from_utf8_lossy(&verified.stderr);
        // The program is not installed on this machine.
        let is_fault = |line: &&str| line.contains("modelgate.") && !line.contains("is not executable");
        if let Some(fault) = said.lines().find(is_fault) {
            return Err(format!("systemd: {fault}").into());
        }
    }
    Ok(())
}

/// A socket on a port that no key of `listen` has would keep Modelgate from starting.
fn ports_agree(root: &Path, config: &str) -> Result {
    let socket = root.join("usr/lib/systemd/system/modelgate.socket");
    let unit = fs::read_to_string(socket)?;
    let streams: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    match streams.iter().find(|stream| !config.contains(*stream)) {
        None if streams.len() == 3 => Ok(()),
        None => Err(format!("modelgate.socket has {} streams, not three", streams.len()).into()),
        Some(stream) => {
            Err(format!("{stream} of modelgate.socket is not in the package's modelgate.yaml").into())
        }
    }
}
