//! Patterns for model names: `llama*`, `org/*`, `{a,b}-instruct`.

use std::sync::{Arc, LazyLock};

use globset::{GlobBuilder, GlobMatcher};

/// Patterns, any of which may match. `*` matches any characters, including `/`: model names are not paths. Matching is
/// case-sensitive, as servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelGlobs(Arc<[Pattern]>);

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a pattern for model names: {reason}")]
pub struct InvalidGlob {
    /// The pattern as it was given, shortened to 64 characters.
    pub found: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Common forms have variants of their own, because compiling a regular expression for each of 100,000 keys takes much time and
/// memory.
#[derive(Debug)]
enum Pattern {
    Exactly(Box<str>),
    StartsWith(Box<str>),
    Glob(Box<GlobMatcher>),
}

impl ModelGlobs {
    /// The longest pattern, in bytes.
    const MAX_LEN: usize = 512;

    /// Parses patterns. An empty list matches nothing.
    ///
    /// # Errors
    /// If one is empty, too long, or not a glob.
    pub fn parse(patterns: &[String]) -> Result<Self, InvalidGlob> {
        patterns.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>().map(Self)
    }

    /// Matches every model.
    pub fn all() -> Self {
        static ALL: LazyLock<ModelGlobs> =
            LazyLock::new(|| ModelGlobs(Arc::new([Pattern::StartsWith("".into())])));
        ALL.clone()
    }

    /// Whether one of the patterns is `*`.
    pub fn match_all(&self) -> bool {
        self.0.iter().any(|pattern| matches!(pattern, Pattern::StartsWith(start) if start.is_empty()))
    }

    /// Whether this is the name of one model, without wildcards.
    pub fn is_name(&self) -> bool {
        matches!(&*self.0, [Pattern::Exactly(_)])
    }

    /// Whether any of the patterns matches.
    pub fn matches(&self, model: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exactly(name) => model == &**name,
            Pattern::StartsWith(start) => model.starts_with(&**start),
            Pattern::Glob(glob) => glob.is_match(model),
        })
    }
}

/// Patterns are equal if their text is.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exactly(one), Self::Exactly(other)) => one == other,
            (Self::StartsWith(one), Self::StartsWith(other)) => one == other,
            (Self::Glob(one), Self::Glob(other)) => one.glob() == other.glob(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidGlob> {
        let refuse = |reason: String| InvalidGlob { found: text.chars().take(64).collect(), reason };
        if text.is_empty() {
            return Err(refuse("it is empty".into()));
        }
        if text.len() > ModelGlobs::MAX_LEN {
            return Err(refuse(format!("it is longer than {} bytes", ModelGlobs::MAX_LEN)));
        }
        let is_plain = |text: &str| !text.contains(['*', '?', '[', ']', '{', '}', '\\']);
        if is_plain(text) {
            return Ok(Self::Exactly(text.into()));
        }
        if let Some(start) = text.strip_suffix('*').filter(|start| is_plain(start)) {
            return Ok(Self::StartsWith(start.into()));
        }
        let glob = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        let glob = glob.map_err(|error| refuse(error.kind().to_string()))?;
        // The matcher of a single glob uses only its regular expression. A GlobSet takes short cuts for file names and
        // extensions, which mean nothing in a model name.
        Ok(Self::Glob(Box::new(glob.compile_matcher())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> ModelGlobs {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        ModelGlobs::parse(&patterns).expect("patterns")
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, matching, others) in [
            ("*", &["llama", "org/name", "a:b", ".hidden", "a/../b"][..], &[][..]),
            ("llama", &["llama"], &["llama3", "Llama", "xllama", "org/llama"]),
            ("llama*", &["llama", "llama3", "llama/3"], &["Llama3", "xllama"]),
            ("*llama", &["llama", "org/llama"], &["llama3", "Llama"]),
            ("org/*", &["org/", "org/a", "org/a/b"], &["org", "other/a"]),
            ("*/*-instruct", &["org/a-instruct", "a/b/c-instruct"], &["a-instruct", "org/a-instruct-2"]),
            ("**", &["a", "a/b"], &[]),
            ("ll?ma", &["llama", "ll/ma"], &["llma", "llaama"]),
            ("{qwen,llama}*", &["qwen3", "llama3"], &["gpt", "{qwen"]),
            ("gpt-[34]", &["gpt-3", "gpt-4"], &["gpt-5", "gpt-[34]"]),
            ("*.gguf", &["a.gguf", ".gguf", "/models/a.gguf"], &["agguf", "a.gguf.bak"]),
            (r"a\*", &["a*"], &["ab", r"a\*"]),
        ] {
            let globs = globs(&[pattern]);
            for name in matching {
                assert!(globs.matches(name), "{pattern} matches {name}");
            }
            for name in others {
                assert!(!globs.matches(name), "{pattern} does not match {name}");
            }
        }
    }

    #[test]
    fn any_pattern_will_do_and_none_matches_nothing() {
        assert!(globs(&["a", "b"]).matches("b"));
        assert!(!globs(&["a", "b"]).matches("c"));
        assert!(!globs(&[]).matches("a"));
        assert!(ModelGlobs::all().matches("org/anything:at-all"));
    }

    /// A key for everything is treated otherwise than one for much, and a limit for one name otherwise than one for several.
    #[test]
    fn all_and_one_are_told_from_many() {
        for (patterns, is_all, is_one) in [
            (&["*"][..], true, false),
            (&["a", "*"], true, false),
            (&["a*"], false, false),
            (&["a"], false, true),
            (&["a", "b"], false, false),
            (&["**"], false, false),
            (&["a?"], false, false),
            (&[], false, false),
        ] {
            let globs = globs(patterns);
            assert_eq!((globs.match_all(), globs.is_name()), (is_all, is_one), "{patterns:?}");
        }
    }

    /// Whether a reloaded configuration has changed a key is found by comparing.
    #[test]
    fn patterns_are_equal_if_their_text_is() {
        let all = [&["a"][..], &["b"], &["a*"], &["b*"], &["a?"], &["b?"], &["a", "b"], &[]];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(globs(one) == globs(other), i == j, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_a_reason() {
        let long = "x".repeat(513);
        assert!(globs(&[&long[1..]]).matches(&long[1..]), "the longest");
        for (pattern, reason) in [
            ("", "it is empty"),
            (long.as_str(), "longer than 512 bytes"),
            ("a[", "unclosed character class"),
            ("{a", "unclosed alternate group"),
            ("[z-a]", "invalid range"),
            ("a\\", "dangling '\\'"),
        ] {
            let error = ModelGlobs::parse(&["ok".into(), pattern.into()]).expect_err(pattern);
            assert!(error.reason.contains(reason), "{pattern}: {error}");
        }
    }
}
