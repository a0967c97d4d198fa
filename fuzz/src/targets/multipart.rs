//! Multipart bodies: the model is what a reader finds that tolerates everything, or the body is refused.

use std::sync::LazyLock;

use crate::{
    lenient::{is_like, percent_decode},
    world::{Asked, ROOT, SmallWorld},
};

static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| SmallWorld::new("*", Vec::new()));

const BOUNDARY: &[u8] = b"--xyz";

pub(crate) fn run(body: &[u8]) {
    let asked = Asked::new(ROOT, "POST", "/v1/audio/transcriptions");
    let Ok(grant) = WORLD.decide(&asked.body("multipart/form-data; boundary=xyz", body).at_gate()) else {
        return;
    };
    if body.is_empty() {
        return;
    }
    let found: Vec<&[u8]> = parts(body).into_iter().filter_map(model_of).collect();
    match grant.model {
        Some(model) => assert_eq!(found, [model.as_str().as_bytes()], "{model}"),
        None => assert!(found.is_empty(), "{found:?}"),
    }
}

/// What stands between two boundaries, wherever those stand.
fn parts(body: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (0..body.len()).filter(|at| body[*at..].starts_with(BOUNDARY)).collect();
    let ends = starts.iter().skip(1).copied().chain([body.len()]);
    starts.iter().zip(ends).map(|(start, end)| &body[start + BOUNDARY.len()..end]).collect()
}

/// The content of a part whose name somebody could take for `model`.
fn model_of(part: &[u8]) -> Option<&[u8]> {
    let at = |end: &[u8]| part.windows(end.len()).position(|window| window == end).map(|at| (at, end.len()));
    let (head, blank) = [at(b"\r\n\r\n"), at(b"\n\n"), at(b"\r\r")].into_iter().flatten().min()?;
    let text = String::from_utf8_lossy(&part[..head]).to_lowercase();
    let is_named = names(&dispositions(&text)).iter().any(|name| {
        let decoded = percent_decode(name.as_bytes());
        is_like(name, "model") || is_like(&String::from_utf8_lossy(&decoded), "model")
    });
    let content = &part[head + blank..];
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    is_named.then(|| content.strip_suffix(b"\r").unwrap_or(content))
}

/// The values of `Content-Disposition`, however it is written, with the lines that may continue it.
fn dispositions(head: &str) -> String {
    let mut found = String::new();
    let mut goes_on = false;
    for line in head.split(['\r', '\n']).filter(|line| !line.is_empty()) {
        let is_folded = line.starts_with([' ', '\t']);
        let name = line.split(':').next().unwrap_or_default();
        goes_on =
            is_folded && goes_on || name.trim_matches(|c: char| !is_in_tokens(c)) == "content-disposition";
        if goes_on {
            found = found + line + ";";
        }
    }
    found
}

/// Whether a header's name may hold it (RFC 9110, 5.6.2). `^Content-Disposition` is another header, to every reader.
fn is_in_tokens(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// The values of each `name` parameter in a part's head, which is in lower case.
fn names(head: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut quoted = false;
    for (at, c) in head.char_indices() {
        quoted ^= c == '"';
        let before = head[..at].chars().next_back().unwrap_or(' ');
        if quoted
            || before.is_alphanumeric()
            || matches!(before, '-' | '_')
            || !head[at..].starts_with("name")
        {
            continue;
        }
        let rest = head[at + 4..].trim_start_matches(['*', ' ', '\t']);
        let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { continue };
        let end = |ends: &[char]| value.find(ends).unwrap_or(value.len());
        names.push(match value.strip_prefix('"') {
            Some(value) => value.split('"').next().unwrap_or_default().to_owned(),
            None => value[..end(&[';', '\r', '\n', ' '])].to_owned(),
        });
    }
    names
}
