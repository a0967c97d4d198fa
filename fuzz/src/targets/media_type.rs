//! `Content-Type` and `Content-Encoding`: a body is read as JSON or as a form only if everybody would read it so, with the same
//! boundary.

use std::sync::LazyLock;

use http::{
    HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use crate::world::{Asked, ROOT, SmallWorld};

static WORLD: LazyLock<SmallWorld> = LazyLock::new(|| SmallWorld::new("*", Vec::new()));

/// Each line is a `Content-Type`; one that begins with a blank is a `Content-Encoding`.
pub(crate) fn run(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|b| *b == b'\n').take(4).collect();
    let first = String::from_utf8_lossy(lines[0]).into_owned();
    let json = decide(&lines, br#"{"model":"json"}"#);
    // What the leftmost and the rightmost reading take for the boundary.
    let boundaries = boundaries(&first);
    let forms: Vec<Option<String>> = boundaries.iter().map(|b| decide(&lines, &form(b))).collect();
    let forms_read = forms.iter().flatten().count();
    if json.is_none() && forms_read == 0 {
        return;
    }
    let (types, encodings): (Vec<&&[u8]>, Vec<&&[u8]>) =
        lines.iter().partition(|line| !line.starts_with(b" "));
    assert_eq!(types.len(), 1, "several types");
    assert!(encodings.len() <= 1 && encodings.iter().all(|e| e[1..].eq_ignore_ascii_case(b"identity")));
    let essence = first.split([';', ',']).next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json");
    assert_eq!(json.is_some(), is_json, "{first:?}");
    assert!(forms_read == 0 || essence == "multipart/form-data" && boundaries.len() == 1, "{first:?}");
    let lower = first.to_ascii_lowercase();
    let is_parameter = |at: &usize| lower[..*at].matches('"').count().is_multiple_of(2);
    let charsets = lower.match_indices("charset").map(|(at, _)| at).filter(is_parameter);
    for charset in charsets.map(|at| &lower[at + 7..]) {
        let Some(value) = charset.trim_start_matches([' ', '\t', '*']).strip_prefix('=') else { continue };
        let value = value.trim_start_matches([' ', '\t', '"']);
        assert!(value.starts_with("utf-8") || value.starts_with("utf8"), "{first:?}");
    }
}

fn decide(lines: &[&[u8]], body: &[u8]) -> Option<String> {
    let mut asked = Asked::new(ROOT, "POST", "/v1/chat/completions").at_gate();
    asked.body = body;
    for line in lines {
        let (name, value) = match line.strip_prefix(b" ") {
            Some(value) => (CONTENT_ENCODING, value),
            None => (CONTENT_TYPE, *line),
        };
        asked.headers.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    WORLD.decide(&asked).ok()?.model.map(|model| model.as_str().to_owned())
}

fn form(boundary: &str) -> Vec<u8> {
    let part = "Content-Disposition: form-data; name=\"model\"\r\n\r\nform";
    format!("--{boundary}\r\n{part}\r\n--{boundary}--\r\n").into_bytes()
}

/// Each text that could be taken for the boundary.
fn boundaries(header: &str) -> Vec<String> {
    let lower = header.to_ascii_lowercase();
    let mut found = Vec::new();
    for (at, _) in lower.match_indices("boundary") {
        // In the middle of a word only readers that search for it take it for the parameter, and they take the first one.
        let is_word = !lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        if !is_word && !found.is_empty() {
            continue;
        }
        let rest = header[at + 8..].trim_start_matches([' ', '\t', '*', '0', '1']);
        let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { continue };
        found.push(match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
            None => value.split([';', ',', ' ', '\t']).next().unwrap_or_default().to_owned(),
        });
    }
    found.dedup();
    found
}
