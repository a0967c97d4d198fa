//! `cargo xtask book`: builds the book with [mdBook](https://rust-lang.github.io/mdBook/) and checks its links.
//!
//! Chapters link to files of the whole repository, as they stand there, so that the same links work where people read the
//! sources. So the book is built from a copy with the repository's own layout: the folder `docs`, and what it links to.

mod links;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, layout, run, tools};

/// The list of chapters.
const SUMMARY: &str = "docs/SUMMARY.md";
/// The page that opens first.
const FIRST: &str = "docs/introduction.html";
/// Pages that are read beside the book. Their links are checked, too.
const BESIDE: [&str; 2] = ["README.md", "examples/lw-inference-proxy/README.md"];
/// Where files are that may name a page of the book, as messages and comments do.
const NAMING: [&str; 7] =
    ["crates", "deploy", "examples", "fuzz/src", "xtask/src", "justfile", ":!xtask/src/book*"];

/// Builds the book into `target/book/html`, and checks it.
pub(crate) fn book(install: bool) -> Result {
    let tool = tools::for_book();
    if install {
        tools::install(std::slice::from_ref(&tool))?;
    }
    let mdbook = tool.path().ok_or("mdbook is missing; `--install` installs it")?;
    let folder = layout::target().join("book");
    let _ = fs::remove_dir_all(&folder);
    let (source, html) = (folder.join("source"), folder.join("html"));
    let chapters = lay_out(layout::root(), &source)?;
    run::logged("book", Command::new(mdbook).arg("build").arg("--dest-dir").arg(&html).arg(&source))?;
    fs::write(html.join("index.html"), redirection(FIRST))?;
    let faults = check(&html, &chapters)?;
    if !faults.is_empty() {
        return Err(format!("links of the book:\n{}", faults.join("\n")).into());
    }
    println!("{} chapters: {}", chapters.len(), html.join("index.html").display());
    Ok(())
}

/// Copies `docs` and whatever its chapters link to. Returns the chapters, by their path in the repository.
fn lay_out(root: &Path, source: &Path) -> Result<BTreeSet<PathBuf>> {
    let copy = |path: &Path| -> Result {
        let to = source.join(path);
        fs::create_dir_all(to.parent().unwrap_or(source))?;
        fs::copy(root.join(path), to)?;
        Ok(())
    };
    let summary = fs::read_to_string(root.join(SUMMARY))?;
    let mut chapters = BTreeSet::new();
    for target in links::of_markdown(&summary) {
        chapters.extend(links::resolved(Path::new(SUMMARY), &target).map(|(path, _)| path));
    }
    let unlisted = unlisted(root, &chapters)?;
    if !unlisted.is_empty() {
        return Err(format!("not in {SUMMARY}: {unlisted:?}").into());
    }
    for chapter in &chapters {
        copy(chapter)?;
        let text = fs::read_to_string(root.join(chapter))?;
        for (path, _) in links::of_markdown(&text).iter().filter_map(|to| links::resolved(chapter, to)) {
            // What is missing is told once the pages are checked.
            if root.join(&path).is_dir() {
                list(root, &path, &copy, source)?;
            } else if root.join(&path).is_file() && !chapters.contains(&path) {
                copy(&path)?;
            }
        }
    }
    copy(Path::new("docs/book.toml"))?;
    fs::rename(source.join("docs/book.toml"), source.join("book.toml"))?;
    fs::write(source.join("SUMMARY.md"), at_the_root(&summary))?;
    Ok(chapters)
}

/// Copies the files of a folder, with a page that lists them.
fn list(root: &Path, folder: &Path, copy: &dyn Fn(&Path) -> Result, source: &Path) -> Result {
    let mut page =
        format!("<!DOCTYPE html><meta charset=\"utf-8\"><title>{}</title><ul>\n", folder.display());
    let files = run::output(Command::new("git").arg("ls-files").arg(folder).current_dir(root))?;
    for file in files.lines().map(Path::new).filter(|file| root.join(file).is_file()) {
        copy(file)?;
        let name = file.strip_prefix(folder)?.display();
        let _ = writeln!(page, "<li><a href=\"{name}\">{name}</a>");
    }
    Ok(fs::write(source.join(folder).join("index.html"), page)?)
}

/// Pages in `docs` that no line of the summary names.
fn unlisted(root: &Path, chapters: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>> {
    let files = run::output(Command::new("git").args(["ls-files", "docs"]).current_dir(root))?;
    let pages = files.lines().filter(|file| file.ends_with(".md") && *file != SUMMARY).map(PathBuf::from);
    Ok(pages.filter(|page| root.join(page).is_file() && !chapters.contains(page)).collect())
}

/// The summary with its links as they are seen from the root.
fn at_the_root(summary: &str) -> String {
    summary
        .replace("](../", "](\u{0}")
        .replace("](", "](docs/")
        .replace("](docs/\u{0}", "](")
        .replace("](docs/)", "]()")
}

fn redirection(to: &str) -> String {
    format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0; url={to}\"><a href=\"{to}\">{to}</a>\n"
    )
}

/// What is wrong with links: of the book's pages, of pages beside it, and with pages that other files name.
fn check(html: &Path, chapters: &BTreeSet<PathBuf>) -> Result<Vec<String>> {
    let root = layout::root();
    let mut site = links::Site::new(html, root);
    let mut faults = Vec::new();
    for chapter in chapters {
        let page = chapter.with_extension("html");
        let text = fs::read_to_string(html.join(&page))?;
        // The menu is the same on each page, and made by mdBook.
        let main = text.split_once("<main>").map_or(text.as_str(), |(_, rest)| rest);
        let main = main.split_once("</main>").map_or(main, |(main, _)| main);
        for target in links::of_html(main) {
            faults.extend(
                site.fault_of_page(&page, &target).map(|fault| format!("{}: {fault}", chapter.display())),
            );
        }
    }
    for path in BESIDE.map(Path::new) {
        for target in links::of_markdown(&fs::read_to_string(root.join(path))?) {
            faults.extend(
                site.fault_of_source(path, &target).map(|fault| format!("{}: {fault}", path.display())),
            );
        }
    }
    let tracked = run::output(Command::new("git").arg("ls-files").args(NAMING).current_dir(root))?;
    for file in tracked.lines() {
        // Pictures, recorded answers and the like name nothing.
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        for target in links::named(&text) {
            faults
                .extend(site.fault_of_source(Path::new(""), &target).map(|fault| format!("{file}: {fault}")));
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_seen_from_the_root() {
        let summary =
            "- [First](first.md)\n  - [Reference](../deploy/reference.md)\n- [Clients](clients/README.md)\n";
        let moved = "- [First](docs/first.md)\n  - [Reference](deploy/reference.md)\n- [Clients](docs/clients/README.md)\n";
        assert_eq!(at_the_root(summary), moved);
    }
}
