//! One program for all fuzz targets: `FUZZ_TARGET` names the one that runs, the arguments are libFuzzer's
//! (<https://llvm.org/docs/LibFuzzer.html#options>). `docs/fuzzing.md` says how to use it; `cargo xtask fuzz` builds and runs it.
//!
//! ```text
//! libFuzzer ─bytes─▶ one target ─▶ the product's reader, through what its crate offers anyway
//!     ▲                    └─────▶ a second, simple reading (in this crate, in Python, in Go); a difference is a panic
//!     └─ coverage of the workspace's crates, which `fuzz/instrumented` compiles
//! ```
#![no_main]

mod lenient;
mod plain_json;
mod readers;
mod targets;
mod world;

use std::sync::LazyLock;

static TARGET: LazyLock<targets::Target> = LazyLock::new(targets::chosen);

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
