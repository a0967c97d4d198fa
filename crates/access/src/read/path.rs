//! Reads the model in the path: `/models/<name>/…`, and Azure's `/openai/deployments/<name>/…`
//! (<https://learn.microsoft.com/azure/ai-services/openai/reference>).
//!
//! A name may have slashes. Traefik removes as many segments as the name of the route's pool has, so the name is the longest
//! run of segments that is a known name.

use std::borrow::Cow;

use super::segment::{folded, segments};

pub(super) const MODELS: &str = "/models/";
const AZURE: &str = "/openai/deployments/";
/// The maximum number of slashes in a name.
const MAX_SLASHES: usize = 7;

/// The forms of a decoded path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathForm<'p> {
    /// It names no model.
    Plain(&'p str),
    /// It names a model, followed by the path for the server.
    Named {
        /// The part before the name.
        prefix: Prefix,
        /// The model's name.
        name: &'p str,
        /// The part after it; empty, or beginning with a slash.
        rest: &'p str,
    },
    /// It names an unknown model.
    Unknown {
        /// The likely name: the part before a known API, or the first segment. It depends on the path alone, or it would reveal
        /// which longer names exist.
        name: &'p str,
    },
}

/// The part before a model's name in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// `/models/`: the rest after the name is the server's own path.
    Models,
    /// `/openai/deployments/`: the rest after the name belongs below `/v1`.
    Azure,
}

impl<'p> PathForm<'p> {
    /// Parses a decoded path; `is_known` recognises names of models.
    pub(crate) fn read(path: &'p str, is_known: impl Fn(&str) -> bool) -> Self {
        let Some((prefix, names)) = after_prefix(path) else { return Self::Plain(path) };
        let ends = names.match_indices('/').map(|(at, _)| at).chain([names.len()]);
        let ends: Vec<usize> = ends.take(MAX_SLASHES + 1).collect();
        let longest = ends.iter().rev().find(|end| is_known(&names[..**end]));
        match longest {
            Some(end) => Self::Named { prefix, name: &names[..*end], rest: &names[*end..] },
            None => {
                let first = ends.first().copied().unwrap_or_default();
                let end = ["/v1/", "/api/"].iter().find_map(|api| names.find(api)).unwrap_or(first);
                Self::Unknown { name: &names[..end] }
            }
        }
    }

    /// Takes the first segment for the name, where the names are not known.
    pub(crate) fn by_first_segment(path: &'p str) -> Self {
        let Some((prefix, names)) = after_prefix(path) else { return Self::Plain(path) };
        let (name, rest) = names.split_at(names.find('/').unwrap_or(names.len()));
        if name.is_empty() { Self::Plain(path) } else { Self::Named { prefix, name, rest } }
    }

    /// The path as the server sees it, apart from the server's own base path.
    pub(crate) fn at_server(self) -> Cow<'p, str> {
        match self {
            Self::Named { prefix: Prefix::Azure, rest, .. } => format!("/v1{rest}").into(),
            form => form.seen().into(),
        }
    }

    /// The path as the server sees it, as far as this can be determined here.
    pub(crate) fn seen(self) -> &'p str {
        match self {
            Self::Plain(path) => path,
            Self::Named { rest, .. } => rest,
            Self::Unknown { .. } => "",
        }
    }

    /// The offset of the end of the model's name in the original path; 0 if it names none.
    pub(crate) fn end_of_name(self, path: &str) -> usize {
        match self {
            Self::Named { rest, .. } => path.len() - rest.len(),
            Self::Plain(_) | Self::Unknown { .. } => 0,
        }
    }

    /// Whether this is Ollama's list of models, after a name.
    pub(crate) fn is_ollamas_list(self) -> bool {
        matches!(self, Self::Named { prefix: Prefix::Models, rest: "/api/tags" | "/api/ps", .. })
    }
}

/// The prefix of a path in which a model's name follows.
pub(super) fn name_prefix(path: &str) -> Option<&'static str> {
    [MODELS, AZURE].into_iter().find(|prefix| path.starts_with(prefix))
}

/// The prefix and the rest after it.
fn after_prefix(path: &str) -> Option<(Prefix, &str)> {
    let after = |prefix, text| Some((prefix, path.strip_prefix(text)?));
    after(Prefix::Models, MODELS).or_else(|| after(Prefix::Azure, AZURE))
}

/// How a server treats `name` in a JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameField {
    /// As any other field.
    Ignored,
    /// On Ollama's endpoints: possibly as another word for `model`.
    MustAgree,
    /// Ollama's `/api/show`: as the model, if `model` is not there.
    IsModel,
}

impl NameField {
    /// How the server treats it on a path, given as the server sees it.
    pub(crate) fn on(path: &str) -> Self {
        let path = folded(path);
        let mut rest = segments(&path).skip_while(|name| *name != "api");
        match (rest.next(), rest.next()) {
            (None, _) => Self::Ignored,
            (Some(_), Some("show")) => Self::IsModel,
            (Some(_), _) => Self::MustAgree,
        }
    }
}

/// Whether a server with several models would list them on a path, as the server sees it, or choose one by the path (KServe's
/// `/v2/models/<name>/infer`, Azure's deployments).
pub(crate) fn shows_models(path: &str) -> bool {
    let path = folded(path);
    let mut names = segments(&path);
    while let Some(name) = names.next() {
        let next = || names.clone().next().unwrap_or_default();
        // Bedrock has `/model/NAME/invoke`; OpenAI once had `/v1/engines/NAME/completions`, which LocalAI still has.
        let named = matches!(name, "model" | "engines" | "engine" | "upstream") && !next().is_empty();
        let listed = name == "api" && matches!(next(), "tags" | "ps");
        if matches!(name, "models" | "deployments") || named || listed {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_known_name_wins() {
        let known = |name: &str| ["llama", "org", "org/llama", "org/llama/v1"].contains(&name);
        for (path, expected) in [
            ("/v1/chat", PathForm::Plain("/v1/chat")),
            ("/models", PathForm::Plain("/models")),
            (
                "/models/llama/predict",
                PathForm::Named { prefix: Prefix::Models, name: "llama", rest: "/predict" },
            ),
            ("/models/llama", PathForm::Named { prefix: Prefix::Models, name: "llama", rest: "" }),
            (
                "/models/org/llama/v2/x",
                PathForm::Named { prefix: Prefix::Models, name: "org/llama", rest: "/v2/x" },
            ),
            (
                "/models/org/llama/v1/x",
                PathForm::Named { prefix: Prefix::Models, name: "org/llama/v1", rest: "/x" },
            ),
            (
                "/models/org/other/x",
                PathForm::Named { prefix: Prefix::Models, name: "org", rest: "/other/x" },
            ),
            ("/models/Llama/x", PathForm::Unknown { name: "Llama" }),
            ("/models//x", PathForm::Unknown { name: "" }),
            (
                "/openai/deployments/llama/chat/completions",
                PathForm::Named { prefix: Prefix::Azure, name: "llama", rest: "/chat/completions" },
            ),
        ] {
            assert_eq!(PathForm::read(path, known), expected, "{path}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_without_a_look_at_the_known_ones() {
        for (path, name) in [
            ("/models/org/name/v1/chat/completions", "org/name"),
            ("/models/org/name/api/chat", "org/name"),
            ("/models/org/name/predict", "org"),
            ("/models/", ""),
        ] {
            assert_eq!(PathForm::read(path, |_| false), PathForm::Unknown { name }, "{path}");
        }
    }

    #[test]
    fn the_first_segment_is_a_name_of_last_resort() {
        let named = |prefix, name, rest| PathForm::Named { prefix, name, rest };
        assert_eq!(PathForm::by_first_segment("/models/a/b/c"), named(Prefix::Models, "a", "/b/c"));
        assert_eq!(PathForm::by_first_segment("/openai/deployments/a"), named(Prefix::Azure, "a", ""));
        for path in ["/models/", "/models", "/v1/chat"] {
            assert_eq!(PathForm::by_first_segment(path), PathForm::Plain(path));
        }
    }

    #[test]
    fn where_a_server_shows_its_models() {
        for path in ["/v1/models", "/v1/Models/", "/v1/models/b", "/v1/models;x", "/api/tags", "/v1/API/ps/"]
        {
            assert!(shows_models(path), "{path}");
        }
        for path in [
            "/v1/engines/dear/completions",
            "/model/dear/invoke",
            "/upstream/dear/v1/x",
            "/v2/models/dear/infer",
            "/openai/deployments/dear/chat/completions",
        ] {
            assert!(shows_models(path), "{path}");
        }
        for path in ["/v1/chat/completions", "/predict", "", "/api/chat", "/tags", "/v1/model"] {
            assert!(!shows_models(path), "{path}");
        }
    }

    #[test]
    fn where_a_name_is_a_model() {
        for (path, expected) in [
            ("/v1/chat/completions", NameField::Ignored),
            ("/api/chat", NameField::MustAgree),
            // Traefik may remove the prefix.
            ("/v1/api/chat", NameField::MustAgree),
            ("/v1/API/Show;x", NameField::IsModel),
            ("/api/show", NameField::IsModel),
            ("/api/shown", NameField::MustAgree),
            ("/show", NameField::Ignored),
        ] {
            assert_eq!(NameField::on(path), expected, "{path}");
        }
    }
}
