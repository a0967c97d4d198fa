//! The identifier of a model in Traefik.

use std::{borrow::Borrow, fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{ModelName, ServerId};

/// Replaces a model's name in router names and in the `X-Inference-Route` header: a slug of the name, to be readable, and a
/// short hash, to be unique. It has only `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(Arc<str>);

impl RouteId {
    /// The route id of a model; it depends on nothing but the name.
    pub fn of(model: &ModelName) -> Self {
        Self(slug_with_hash(model.as_str()).into())
    }

    /// The route id of a model on the servers that a selector chooses, or that demand a credential; `of` describes that part.
    pub(crate) fn of_part(model: &ModelName, of: &str) -> Self {
        let slug = slug(model.as_str());
        // A name holds no control characters, so a different model and part never give this text.
        Self(format!("{slug}{}", hash(&format!("{model}\n{of}"))).into())
    }

    /// The id of one server behind a route.
    pub(crate) fn of_server(route: &Self, server: &ServerId) -> Self {
        Self(format!("{route}-{}", hash(server.as_str())).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RouteId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `meta-llama/Llama-3.1` becomes `meta-llama-llama-3-1-<8 hex digits of its SHA-256>`.
fn slug_with_hash(text: &str) -> String {
    slug(text) + &hash(text)
}

fn slug(text: &str) -> String {
    const MAX_SLUG: usize = 40;
    let mut slug = String::with_capacity(MAX_SLUG + 9);
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if slug.len() == MAX_SLUG {
            break;
        }
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    if !slug.is_empty() && !slug.ends_with('-') {
        slug.push('-');
    }
    slug
}

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> String {
        RouteId::of(&ModelName::new(name).expect(name)).to_string()
    }

    #[test]
    fn a_route_id_reads_like_the_model() {
        assert_eq!(id("meta-llama/Llama-3.1"), "meta-llama-llama-3-1-97d7c1e8");
        assert_eq!(id("`"), "8d33f520");
        // Traefik sends the text, which is looked up as it is.
        let route = RouteId::of(&ModelName::new("llama").expect("a name"));
        let by_id = std::collections::HashMap::from([(route.clone(), 7)]);
        assert_eq!(by_id.get(route.to_string().as_str()), Some(&7));
        assert_eq!(route.as_str(), route.to_string());
    }

    #[test]
    fn names_with_the_same_slug_differ() {
        assert_ne!(id("a/b"), id("a-b"));
    }

    proptest! {
        #[test]
        fn no_name_gets_a_character_through(name in "[ -~]{1,256}") {
            if let Ok(name) = ModelName::new(&name) {
                let id = RouteId::of(&name);
                prop_assert!(id.as_str().bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
                prop_assert!(id.as_str().len() <= 49);
            }
        }
    }
}
