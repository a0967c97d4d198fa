//! Builds Traefik's rules (<https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/rules-and-priority/>).
//!
//! What the operator wrote has been checked for the characters that could leave a rule's string. What
//! servers say, the names of models, has not: [`literal`] writes them as regular expressions in
//! which only letters and digits stand for themselves.

use std::{collections::BTreeSet, fmt::Write as _};

use catalogue::{Api, Catalogue, Condition, ModelName, Selector};

use crate::RenderOptions;

/// A segment of an escaped path; `%2F` counts as a slash, since either is one inside a model's name.
const SEGMENT: &str = "(?:[^/%]|%[013-9A-Fa-f].|%2[^Ff])*";
const SLASH: &str = "(?:/|%2[Ff])";

/// Any of the rules matches.
pub(crate) fn any(rules: &[String]) -> String {
    if let [one] = rules { one.clone() } else { format!("({})", rules.join(" || ")) }
}

/// The same rules, none twice: APIs share paths.
pub(crate) fn each_once(rules: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    rules.into_iter().filter(|rule| seen.insert(rule.clone())).collect()
}

/// All of the rules; empty ones are always met.
pub(crate) fn all(rules: &[&str]) -> String {
    let rules: Vec<&str> = rules.iter().copied().filter(|r| !r.is_empty()).collect();
    rules.join(" && ")
}

/// Azure's paths that name no model: `/openai` is taken off them, and `/v1` put there.
pub(crate) const AZURE_V1: [&str; 3] =
    ["PathPrefix(`/openai/v1/`)", "Path(`/openai/responses`)", "PathPrefix(`/openai/responses/`)"];

/// The paths of an API.
pub(crate) fn paths(api: Api, options: &RenderOptions) -> Vec<String> {
    match api {
        Api::OpenAi => options.path_prefixes.iter().map(|p| format!("PathPrefix(`{p}/`)")).collect(),
        Api::Models => vec!["PathPrefix(`/models/`)".into()],
        Api::Azure => {
            ["PathPrefix(`/openai/deployments/`)"].iter().chain(&AZURE_V1).map(|&p| p.into()).collect()
        }
        Api::Ollama => vec!["PathPrefix(`/api/`)".into()],
        Api::LlamaCpp | Api::Cohere | Api::Vllm | Api::Tei => {
            api.paths().iter().map(|p| format!("Path(`{p}`)")).collect()
        }
    }
}

/// The hosts that are served; empty: any. Conditions about hosts add theirs.
pub(crate) fn hosts(catalogue: &Catalogue, options: &RenderOptions) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    if options.hosts.is_empty() {
        return hosts;
    }
    let conditions = catalogue.selections().iter().flat_map(|s| s.selector.conditions());
    let selected = conditions.filter_map(|c| if let Condition::Host(host) = c { Some(host) } else { None });
    for host in options.hosts.iter().chain(selected) {
        let host = format!("Host(`{host}`)");
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// The conditions of a selector.
pub(crate) fn selector(selector: &Selector) -> String {
    let condition = |condition: &Condition| match condition {
        Condition::Header { name, value } => format!("Header(`{name}`, `{value}`)"),
        Condition::HeaderRegexp { name, expression } => {
            format!("HeaderRegexp(`{name}`, `{}`)", expression.as_str())
        }
        Condition::Host(host) => format!("Host(`{host}`)"),
        Condition::Query { name, value } => format!("Query(`{name}`, `{value}`)"),
    };
    selector.conditions().iter().map(condition).collect::<Vec<_>>().join(" && ")
}

/// An expression that matches exactly this name.
pub(crate) fn literal(name: &ModelName) -> String {
    let mut expression = String::new();
    for c in name.as_str().chars() {
        escape(c, &mut expression);
    }
    expression
}

/// An expression that matches exactly this name in a path. From 3.4.1 on Traefik matches paths in which reserved characters are
/// still encoded as the client sent them; before, all are decoded.
pub(crate) fn literal_in_path(name: &ModelName) -> String {
    let mut expression = String::new();
    for c in name.as_str().chars() {
        if c.is_ascii_alphanumeric() {
            expression.push(c);
            continue;
        }
        expression.push_str("(?:");
        escape(c, &mut expression);
        expression.push_str("|%");
        for digit in format!("{:02X}", c as u32).chars() {
            match digit {
                'A'..='F' => {
                    let _ = write!(expression, "[{digit}{}]", digit.to_ascii_lowercase());
                }
                digit => expression.push(digit),
            }
        }
        expression.push(')');
    }
    expression
}

fn escape(c: char, expression: &mut String) {
    if c.is_ascii_alphanumeric() {
        expression.push(c);
    } else {
        let _ = write!(expression, "\\x{{{:02X}}}", c as u32);
    }
}

/// An expression for any name with this many slashes, in an escaped path.
pub(crate) fn name_segments(slashes: usize) -> String {
    let mut expression = SEGMENT.to_owned();
    for _ in 0..slashes {
        expression.push_str(SLASH);
        expression.push_str(SEGMENT);
    }
    expression
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::new(text).expect("a name")
    }

    #[test]
    fn names_are_written_with_hexadecimal_digits() {
        assert_eq!(literal(&name("llama3:70b")), r"llama3\x{3A}70b");
        assert_eq!(literal_in_path(&name("a/b:c")), r"a(?:\x{2F}|%2[Ff])b(?:\x{3A}|%3[Aa])c");
    }

    #[test]
    fn a_name_in_a_path_has_as_many_segments_as_it_has_slashes_and_one() {
        let strip = |slashes, path: &str| {
            let expression = format!("^/models/{}(?:/(.*))?$", name_segments(slashes));
            Regex::new(&expression).expect("an expression").replace(path, "/$1").into_owned()
        };
        for (slashes, path, rest) in [
            (0, "/models/llama3:70b/v1/chat", "/v1/chat"),
            (0, "/models/llama3%3A70b/v1/chat", "/v1/chat"),
            (0, "/models/llama", "/"),
            (1, "/models/org/name/predict", "/predict"),
            (1, "/models/org%2Fname/predict/x", "/predict/x"),
            (1, "/models/org%2fna%20me/", "/"),
            (2, "/models/%2Fmodels%2Fmy%20model.gguf/v1/x%2Fy", "/v1/x%2Fy"),
        ] {
            assert_eq!(strip(slashes, path), rest, "{path}");
        }
    }

    proptest! {
        #[test]
        fn an_expression_matches_its_name_and_no_other(a in "[ -~]{1,40}", b in "[ -~]{1,40}") {
            if let (Ok(a), Ok(b)) = (ModelName::new(&a), ModelName::new(&b)) {
                let plain = |e: &str| e.bytes().all(|b| b.is_ascii_alphanumeric() || br"\{}".contains(&b));
                prop_assert!(plain(&literal(&a)));
                prop_assert!(!literal_in_path(&a).contains('`'));
                for expression in [literal(&a), literal_in_path(&a)] {
                    let expression = Regex::new(&format!("^{expression}$")).expect("an expression");
                    prop_assert!(expression.is_match(a.as_str()));
                    let percent = a.as_str().contains('%') || b.as_str().contains('%');
                    prop_assert!(percent || a == b || !expression.is_match(b.as_str()));
                }
            }
        }
    }
}
