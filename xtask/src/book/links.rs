//! Links in Markdown and HTML, and whether there is something at their other end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The pages that mdBook has made, and the repository beside them.
pub(super) struct Site<'a> {
    html: &'a Path,
    root: &'a Path,
    /// The anchors of each page that was looked at.
    anchors: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl<'a> Site<'a> {
    pub(super) fn new(html: &'a Path, root: &'a Path) -> Self {
        Self { html, root, anchors: BTreeMap::new() }
    }

    /// What is wrong with a link on a page of the book.
    pub(super) fn fault_of_page(&mut self, page: &Path, target: &str) -> Option<String> {
        let (path, anchor) = resolved(page, target)?;
        let is_listed = self.html.join(&path).join("index.html").is_file();
        if !is_listed && !self.html.join(&path).is_file() {
            return Some(format!("{target}: there is no such page"));
        }
        self.fault_of_anchor(path, anchor, target)
    }

    /// What is wrong with a link in a file of the repository. Anchors are those of the book's pages.
    pub(super) fn fault_of_source(&mut self, file: &Path, target: &str) -> Option<String> {
        let (path, anchor) = resolved(file, target)?;
        if !self.root.join(&path).exists() {
            return Some(format!("{target}: there is no such file"));
        }
        let page = path.with_extension("html");
        let is_page =
            path.extension().is_some_and(|extension| extension == "md") && self.html.join(&page).is_file();
        match (is_page, anchor) {
            (true, anchor) => self.fault_of_anchor(page, anchor, target),
            (false, Some(_)) => Some(format!("{target}: only anchors of the book's pages are known")),
            (false, None) => None,
        }
    }

    fn fault_of_anchor(&mut self, page: PathBuf, anchor: Option<String>, target: &str) -> Option<String> {
        let anchor = anchor?;
        let html = self.html;
        let known = self.anchors.entry(page).or_insert_with_key(|page| {
            attributes(&fs::read_to_string(html.join(page)).unwrap_or_default(), "id").collect()
        });
        (!known.contains(&anchor)).then(|| format!("{target}: the page has no such anchor"))
    }
}

/// The file to which a link in a file leads, by its path from the root, and the anchor there. `None` for other hosts.
pub(super) fn resolved(file: &Path, target: &str) -> Option<(PathBuf, Option<String>)> {
    if target.contains("://") || target.starts_with("mailto:") || target.starts_with("data:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let anchor = anchor.map(str::to_owned);
    if path.is_empty() {
        return Some((file.to_owned(), anchor));
    }
    let mut whole = file.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some((whole, anchor))
}

/// The targets of links and pictures in Markdown, also of those in HTML, but not of those in code.
pub(super) fn of_markdown(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // What stands between backticks.
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let mut targets: Vec<String> = inline.map(|(target, _)| target.to_owned()).collect();
    targets.extend(of_html(&prose));
    targets
}

/// The targets of links and pictures in HTML.
pub(super) fn of_html(text: &str) -> Vec<String> {
    ["href", "src", "srcset"].into_iter().flat_map(|name| attributes(text, name)).collect()
}

/// The values of an attribute.
fn attributes(text: &str, name: &str) -> impl Iterator<Item = String> {
    let start = format!(" {name}=\"");
    let values = text.split(&start).skip(1).filter_map(|rest| rest.split_once('"'));
    values.map(|(value, _)| value.replace("&amp;", "&")).collect::<Vec<_>>().into_iter()
}

/// Pages of the book that a file names, such as `docs/running.md`, as comments and messages do; not those in URLs.
pub(super) fn named(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '#');
    let mut names = Vec::new();
    for (at, _) in text.match_indices("docs/") {
        if text[..at].chars().next_back().is_some_and(|c| is_part(c) || c == ':') {
            continue;
        }
        let name: String = text[at..].chars().take_while(|c| is_part(*c)).collect();
        let name = name.trim_end_matches(['.', '#']);
        if name.split('#').next().is_some_and(|path| path.ends_with(".md") || path.ends_with(".svg")) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_those_in_code_are_not() {
        let text =
            "See [a](a.md#x) and `[b](b.md)`.\n```sh\n[c](c.md)\n```\n<img src=\"d.png\"> [e](https://e/)\n";
        assert_eq!(of_markdown(text), ["a.md#x", "https://e/", "d.png"]);
        assert_eq!(
            named("see docs/a.md#x. https://b/docs/c.md `docs/d.svg`, docs/*.md, docs/clients"),
            ["docs/a.md#x", "docs/d.svg"]
        );
    }

    #[test]
    fn a_link_without_its_page_or_anchor_is_a_fault() {
        let html = std::env::temp_dir().join(format!("modelgate-links-{}", std::process::id()));
        fs::create_dir_all(html.join("docs")).expect("a folder");
        fs::write(html.join("docs/a.html"), "<h2 id=\"here\">").expect("written");
        let mut site = Site::new(&html, &html);
        let page = Path::new("docs/b.html");
        for (target, is_fault) in [
            ("a.html", false),
            ("a.html#here", false),
            ("a.html#there", true),
            ("../a.html", true),
            ("https://a/", false),
        ] {
            assert_eq!(site.fault_of_page(page, target).is_some(), is_fault, "{target}");
        }
        fs::remove_dir_all(&html).expect("removed");
    }
}
