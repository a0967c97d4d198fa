//! The blocks of code in a page of Markdown.

use std::{fs, path::Path};

/// A block between lines of three backticks.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The page, from the repository's root, and the block's line.
    pub(crate) place: String,
    /// The language; empty for drawings and lists of options.
    pub(crate) language: String,
    /// The comment before it: `<!-- file: keys.json -->`.
    pub(crate) mark: Option<String>,
    /// What stands in it, without the indentation of a list.
    pub(crate) text: String,
}

/// A page and its blocks.
#[derive(Debug)]
pub(crate) struct BookPage {
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
}

impl BookPage {
    fn read(root: &Path, path: String) -> Self {
        let text = fs::read_to_string(root.join(&path)).expect("a page");
        let mut blocks = Vec::new();
        let mut mark = None;
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let content = line.trim_start();
            let indentation = line.len() - content.len();
            if let Some(language) = content.strip_prefix("```") {
                let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
                let text: Vec<&str> =
                    inside.map(|line| line.get(indentation..).unwrap_or_default()).collect();
                let place = format!("{path}:{}", number + 1);
                let text = text.join("\n") + "\n";
                blocks.push(Block { place, language: language.trim().to_owned(), mark: mark.take(), text });
            } else if !content.is_empty() {
                let comment = content.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                mark = comment.map(str::to_owned);
            }
        }
        Self { path, blocks }
    }

    /// Whether a test of clients runs its lines.
    pub(crate) fn is_of_client(&self) -> bool {
        self.path.starts_with("docs/clients/")
    }
}

impl Block {
    /// Its commands: a line that ends in a backslash goes on in the next.
    pub(crate) fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// What of its mark follows `kind`, as in `file: NAME`.
    pub(crate) fn marked(&self, kind: &str) -> Option<&str> {
        self.mark.as_deref()?.strip_prefix(kind)
    }
}

/// README, what GitHub shows beside it, and all pages of the book.
pub(crate) fn pages(root: &Path) -> Vec<BookPage> {
    let mut paths = vec!["README.md".to_owned(), "ARCHITECTURE.md".into(), "deploy/reference.md".into()];
    for folder in ["docs", "docs/clients", "docs/moving", ".github"] {
        for entry in fs::read_dir(root.join(folder)).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                paths.push(format!("{folder}/{name}"));
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| BookPage::read(root, path)).collect()
}
