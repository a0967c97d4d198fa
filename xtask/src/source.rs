//! Rust source as far as this program needs it: a list of words and signs, without comments and the contents of texts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// All Rust files below a folder, except those that Cargo has built, in the order of their paths.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The tokens of a source: words, `::`, and single characters. What is in quotes is `""`.
pub(crate) fn tokens(source: &str) -> Vec<&str> {
    placed_tokens(source).into_iter().map(|(_, token)| token).collect()
}

/// The tokens, each with the byte at which it begins.
pub(crate) fn placed_tokens(source: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '/' if rest.starts_with("//") => (None, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (None, rest.find("*/").map_or(rest.len(), |end| end + 2)),
            _ if quoted(rest).is_some() => (Some("\"\""), quoted(rest).unwrap_or(1)),
            _ if is_of_word(first) => {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                (Some(&rest[..end]), end)
            }
            ':' if rest.starts_with("::") => (Some("::"), 2),
            _ => (Some(&rest[..first.len_utf8()]), first.len_utf8()),
        };
        tokens.extend(token.map(|token| (source.len() - rest.len(), token)));
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The tokens without the tests, which stand at the end of a file.
pub(crate) fn without_tests<'s, 't>(tokens: &'t [&'s str]) -> &'t [&'s str] {
    const TESTS: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let is_module = |at: usize| tokens.get(at + TESTS.len() + 1) == Some(&"{");
    let start =
        tokens.windows(TESTS.len()).enumerate().find(|(at, window)| *window == TESTS && is_module(*at));
    &tokens[..start.map_or(tokens.len(), |(at, _)| at)]
}

pub(crate) fn is_word(token: &str) -> bool {
    token.starts_with(is_of_word)
}

fn is_of_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The length of the text or character at the start, quotes included; `None` for a word or a lifetime.
fn quoted(source: &str) -> Option<usize> {
    if let Some(raw) = source.strip_prefix("br").or_else(|| source.strip_prefix('r')) {
        let hashes = raw.bytes().take_while(|b| *b == b'#').count();
        let inside = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return inside.find(&end).map(|at| source.len() - inside.len() + at + end.len());
    }
    let quote = source.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let mut is_escaped = false;
    let mut characters = source.char_indices().skip(1).enumerate();
    let (length, end) = characters.find_map(|(i, (at, c))| {
        let ends = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends.then_some((i, at + 1))
    })?;
    let is_lifetime = quote == '\'' && length != 1 && !source[1..].starts_with('\\');
    (!is_lifetime).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::{tokens, without_tests};

    #[test]
    fn texts_comments_and_tests_are_left_out() {
        let source = "a::b(\"x \\\" y\", r#\"use \"z\"\"#, '\\'', 'c', &'a d); // use e\n#[cfg(test)]\nmod tests {\n f }";
        let expected = "a :: b ( \"\" , \"\" , \"\" , \"\" , & ' a d ) ;";
        assert_eq!(without_tests(&tokens(source)).join(" "), expected);
    }
}
