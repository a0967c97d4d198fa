//! [axe-core] finds accessibility barriers: what keeps people with disabilities from using a page.
//!
//! [axe-core]: https://github.com/dequelabs/axe-core/blob/develop/doc/API.md

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Browser, parts};

/// The rules are those of WCAG 2.0 to 2.2, levels A and AA, and axe's own best practices.
const RUN: &str =
    "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))";

/// axe-core's one script: the path in `MODELGATE_TEST_AXE`, else where `cargo xtask` puts it,
/// `target/tools/axe-core/axe.min.js`.
#[must_use]
pub fn axe_script() -> Option<PathBuf> {
    let path = match env::var_os("MODELGATE_TEST_AXE") {
        Some(path) => PathBuf::from(path),
        None => parts::target_folder()?.join("tools/axe-core/axe.min.js"),
    };
    path.is_file().then_some(path)
}

/// One [rule](https://dequeuniversity.com/rules/axe/) that the page breaks.
#[derive(Clone, Debug, Deserialize)]
pub struct Violation {
    /// The rule: `color-contrast`.
    pub id: String,
    /// The severity.
    pub impact: Impact,
    /// The rule in words.
    pub help: String,
    /// The elements that break it.
    #[serde(rename = "nodes")]
    pub elements: Vec<Element>,
}

/// The severity of a violation.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Impact {
    /// A nuisance.
    Minor,
    /// Some people are slowed down.
    Moderate,
    /// Some people are kept from parts of the page.
    Serious,
    /// Some people are kept from the page.
    Critical,
}

/// An element that breaks a rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Element {
    /// Its HTML in the page.
    pub html: String,
    /// How to fix it.
    #[serde(default)]
    pub failure_summary: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} ({})", self.impact, self.help, self.id)?;
        for Element { html, failure_summary } in &self.elements {
            write!(f, "\n  {html}\n    {}", failure_summary.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

impl Browser {
    /// Looks for violations in the page as it is now. `script` is from [`axe_script`].
    ///
    /// # Panics
    /// If axe does not run.
    pub async fn axe(&self, script: &Path) -> Vec<Violation> {
        let source =
            fs::read_to_string(script).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        self.evaluate(&format!("{source}; null")).await;
        let found = self.evaluate(RUN).await;
        serde_json::from_str(found.as_str().expect("axe's findings")).expect("axe's findings")
    }

    /// The violations that are serious or worse.
    ///
    /// # Panics
    /// If axe does not run.
    pub async fn barriers(&self, script: &Path) -> Vec<Violation> {
        let mut violations = self.axe(script).await;
        violations.retain(|violation| violation.impact >= Impact::Serious);
        violations
    }

    /// Fails the test if a violation is serious or worse.
    ///
    /// # Panics
    /// If one is; the message has each element and how to fix it.
    pub async fn assert_accessible(&self, script: &Path) {
        let barriers: Vec<String> = self.barriers(script).await.iter().map(Violation::to_string).collect();
        assert!(barriers.is_empty(), "barriers:\n{}", barriers.join("\n"));
    }
}
