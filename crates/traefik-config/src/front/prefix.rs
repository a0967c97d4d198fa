//! Prefixes in place of `/v1`.
//!
//! Traefik replaces them before it asks `/auth`, so that the path that Modelgate reads is the one that goes on to the server:
//! the two cannot differ, however the client wrote it. A `/v1` behind such a prefix goes with it: Anthropic's clients add one to
//! their base URL, and OpenAI's do not.

use std::borrow::Cow;

use crate::{
    RenderOptions,
    wire::{Http, Middleware, ReplacePathRegex},
};

const PREFIX: &str = "modelgate-prefix";

/// Adds the middleware, and returns its name; `None` if every prefix is `/v1` or below it.
pub(super) fn add(http: &mut Http, options: &RenderOptions) -> Option<String> {
    let prefixes = others(options);
    if prefixes.is_empty() {
        return None;
    }
    // Of the characters that a prefix may have, only the dot means something in an expression.
    let regex = format!("^(?:{})(?:/v1)?/(.*)$", prefixes.join("|").replace('.', "\\."));
    let replace = ReplacePathRegex { regex, replacement: "/v1/${1}".into() };
    http.middlewares.insert(PREFIX.into(), Middleware::ReplacePathRegex(replace));
    Some(PREFIX.into())
}

/// The prefixes in place of `/v1`, the longest first, since that one is meant if several fit.
fn others(options: &RenderOptions) -> Vec<&str> {
    let all = options.path_prefixes.iter().map(String::as_str);
    let mut prefixes: Vec<&str> = all.filter(|prefix| is_other(prefix)).collect();
    prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
    prefixes
}

/// A client's path as Traefik shows it to `/auth`, for requests that are answered without that question.
pub fn as_v1<'p>(path: &'p str, options: &RenderOptions) -> Cow<'p, str> {
    let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.starts_with('/'));
    match others(options).into_iter().find_map(below) {
        Some(rest) if rest.starts_with("/v1/") => rest.into(),
        Some(rest) => format!("/v1{rest}").into(),
        None => path.into(),
    }
}

/// All that may stand before an endpoint of OpenAI's API.
pub fn bases(options: &RenderOptions) -> impl Iterator<Item = String> {
    options.path_prefixes.iter().flat_map(|prefix| {
        let with_v1 = is_other(prefix).then(|| format!("{prefix}/v1"));
        [Some(prefix.clone()), with_v1].into_iter().flatten()
    })
}

/// Whether a prefix stands in place of `/v1`.
pub(crate) fn is_other(prefix: &str) -> bool {
    prefix != "/v1" && !prefix.starts_with("/v1/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_becomes_v1_with_or_without_one_behind_it() {
        let path_prefixes = ["/v1", "/llm", "/llm/a.b"].map(str::to_owned).to_vec();
        let options = RenderOptions { path_prefixes, ..RenderOptions::default() };
        let mut http = Http::default();
        let name = add(&mut http, &options).expect("a middleware");
        let Middleware::ReplacePathRegex(replace) = &http.middlewares[&name] else { panic!() };
        let regex = regex::Regex::new(&replace.regex).expect("an expression");
        for (path, expected) in [
            ("/llm/chat/completions", "/v1/chat/completions"),
            ("/llm/v1/messages", "/v1/messages"),
            ("/llm/a.b/models", "/v1/models"),
            ("/llm/axb/models", "/v1/axb/models"),
            ("/llm/v1x/y", "/v1/v1x/y"),
            ("/llm/", "/v1/"),
            ("/llm", "/llm"),
            ("/llms/chat", "/llms/chat"),
            ("/v1/llm/chat", "/v1/llm/chat"),
            ("/a/llm/chat", "/a/llm/chat"),
        ] {
            assert_eq!(regex.replace(path, &replace.replacement), expected, "{path}");
            assert_eq!(as_v1(path, &options), expected, "{path}");
        }
        assert_eq!(add(&mut http, &RenderOptions::default()), None);
        assert_eq!(bases(&options).take(3).collect::<Vec<_>>(), ["/v1", "/llm", "/llm/v1"]);
    }
}
