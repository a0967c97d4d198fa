//! `modelgate completions` and `modelgate man`, for packages.

use std::{fs, io, path::Path, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{arguments::Args, exit, output};

/// Prints what a shell needs to complete the command line.
pub(crate) fn completions(shell: Shell) -> ExitCode {
    // It panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "modelgate", &mut script);
    output::text(script);
    ExitCode::SUCCESS
}

/// Writes a manual page for each command: `modelgate.1`, `modelgate-keys-create.1`, …
pub(crate) fn man(folder: &Path) -> ExitCode {
    let mut command = Args::command();
    command.build();
    exit::of(fs::create_dir_all(folder).and_then(|()| write_pages(&command, folder)))
}

fn write_pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set());
    subcommands.into_iter().try_for_each(|sub| write_pages(sub, folder))
}
