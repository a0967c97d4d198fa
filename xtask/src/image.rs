//! Modelgate's image around a program that is built already: the last stage of deploy/Dockerfile as it stands. Only where the program
//! comes from is another: its first stage compiles for ten minutes, from an image in a registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Result, layout, run};

/// The maximum size of the image in bytes, without what a debug build is larger by, and its libraries.
const LARGEST: u64 = 25_000_000;
/// A larger program is a debug build.
const UNOPTIMISED: u64 = 30_000_000;
/// Where the last stage begins.
const LAST_STAGE: &str = "\nFROM scratch\n";

/// Makes the image and checks what it says of itself. A program that is not static gets its libraries.
pub(crate) fn make(program: &Path, tag: &str, folder: &Path) -> Result {
    let context = folder.join("modelgate-image");
    let _ = fs::remove_dir_all(&context);
    let build = context.join("build");
    fs::create_dir_all(build.join("out/state"))?;
    fs::create_dir_all(context.join("libraries"))?;
    run::logged("image", Command::new("strip").arg("-o").arg(build.join("out/modelgate")).arg(program))?;
    copy(Path::new("/etc/ssl/certs/ca-certificates.crt"), &build.join("etc/ssl/certs/ca-certificates.crt"))?;
    for library in libraries(program)? {
        copy(&library, &context.join("libraries").join(library.strip_prefix("/")?))?;
    }
    let dockerfile = fs::read_to_string(layout::root().join("deploy/Dockerfile"))?;
    let (_, last) =
        dockerfile.split_once(LAST_STAGE).ok_or("the last stage of deploy/Dockerfile is not FROM scratch")?;
    let text = format!("FROM scratch AS build\nCOPY build /\nFROM scratch\nCOPY libraries /\n{last}");
    fs::write(context.join("Dockerfile"), text)?;
    let mut docker = Command::new("docker");
    // The engine's own builder: another one would ask a registry what the first line of a Dockerfile names.
    docker.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--force-rm", "--tag", tag]).arg(&context);
    run::logged("image", &mut docker)?;
    check(tag, size(&context.join("libraries"))?, fs::metadata(build.join("out/modelgate"))?.len())
}

/// What the image says of itself: who runs in it, what its health is, and how large it is.
fn check(tag: &str, libraries: u64, program: u64) -> Result {
    let told = run::output(Command::new("docker").args(["image", "inspect", "--format", "{{json .}}", tag]))?;
    let image: Value = serde_json::from_str(&told)?;
    let config = &image["Config"];
    for (what, found, expected) in [
        ("user", &config["User"], "65532:65532"),
        ("health check", &config["Healthcheck"]["Test"][1], "modelgate"),
        ("health check", &config["Healthcheck"]["Test"][2], "healthcheck"),
        ("program", &config["Entrypoint"][0], "modelgate"),
    ] {
        if found != expected {
            return Err(format!("the {what} of the image is {found}, not {expected}").into());
        }
    }
    if config["Volumes"]["/var/lib/modelgate"].is_null() {
        return Err("the state of the image is in no volume".into());
    }
    let size = image["Size"].as_u64().unwrap_or(u64::MAX).saturating_sub(libraries);
    println!(
        "the image: {size} bytes, of which {program} are the program; its libraries, which a static program does not need: {libraries}"
    );
    if program <= UNOPTIMISED && size > LARGEST {
        return Err(format!("the image has {size} bytes; allowed: {LARGEST}").into());
    }
    Ok(())
}

/// The shared libraries that a program loads, including the loader; none if it is static.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Copies a file, and makes the folders above it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result {
    fs::create_dir_all(to.parent().ok_or("no folder")?)?;
    fs::copy(from, to)?;
    Ok(())
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let (path, found) = (entry.as_ref().map_err(ToString::to_string)?.path(), entry?.metadata()?);
        sum += if found.is_dir() { size(&path)? } else { found.len() };
    }
    Ok(sum)
}
