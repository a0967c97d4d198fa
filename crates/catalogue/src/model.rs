//! Model names and what servers say about their models.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The name that clients put in `model`.
///
/// Names come from servers and are therefore untrusted: a name is 1 to 256 printable ASCII characters, with no space at either
/// end. It is never put raw into a Traefik rule, a router name or a header match; [`RouteId`](crate::RouteId) takes its place
/// there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

/// A model name that cannot be used, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("{found:?} is not a model name: {reason}")]
pub struct InvalidModelName {
    /// The name as it was given, shortened to 64 characters.
    pub found: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl ModelName {
    /// The longest name that is accepted, in bytes.
    pub const MAX_LEN: usize = 256;

    /// Checks a name.
    ///
    /// # Errors
    /// If the name is empty, longer than [`Self::MAX_LEN`], has a character that is not
    /// printable ASCII, or starts or ends with a space.
    pub fn new(name: &str) -> Result<Self, InvalidModelName> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > Self::MAX_LEN {
            "it is longer than 256 bytes"
        } else if !name.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            "only printable ASCII characters are allowed"
        } else if name.starts_with(' ') || name.ends_with(' ') {
            "it starts or ends with a space"
        } else {
            return Ok(Self(name.into()));
        };
        Err(InvalidModelName { found: name.chars().take(64).collect(), reason })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a server says about one of its models; everything but the name is optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// The name that clients use.
    pub name: ModelName,
    /// `owned_by`, such as `vllm`.
    pub owned_by: Option<String>,
    /// `created`, in seconds since 1970.
    pub created: Option<i64>,
    /// The longest context, in tokens: `max_model_len` (vLLM, SGLang), `context_length`,
    /// `context_window`, or `meta.n_ctx` / `meta.n_ctx_train` (llama.cpp).
    pub context_length: Option<u64>,
    /// `root`: the model that this one is another name for, or the adapter's path (vLLM).
    pub root: Option<String>,
    /// `parent`: the base model of a LoRA adapter (vLLM).
    pub parent: Option<String>,
    /// The server's own aliases of this model (llama.cpp's `aliases`).
    pub aliases: Vec<ModelName>,
}

impl ModelCard {
    /// A card with nothing but a name.
    pub fn named(name: ModelName) -> Self {
        Self {
            name,
            owned_by: None,
            created: None,
            context_length: None,
            root: None,
            parent: None,
            aliases: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_field_are_accepted() {
        for name in [
            "llama3:latest",
            "meta-llama/Llama-3.1-8B-Instruct",
            "ft:gpt-3.5-turbo:org::id",
            "/models/my model.gguf",
            "x`) || PathPrefix(`/",
        ] {
            assert_eq!(ModelName::new(name).expect(name).as_str(), name);
        }
    }

    #[test]
    fn names_that_could_hurt_are_refused_with_a_reason() {
        let long = "x".repeat(257);
        for (name, reason) in [
            ("", "it is empty"),
            (long.as_str(), "it is longer than 256 bytes"),
            ("a\r\nX-Evil: 1", "only printable ASCII characters are allowed"),
            ("mod\u{e9}le", "only printable ASCII characters are allowed"),
            (" a", "it starts or ends with a space"),
        ] {
            assert_eq!(ModelName::new(name).expect_err(name).reason, reason);
        }
    }
}
