//! The owners of keys.

use limits::Limits;

use crate::KeyDigest;

/// A person, a team, a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// The name shown to people; unique.
    pub name: String,
    /// Its limits over all its keys and models.
    pub limits: Limits,
    /// Its limits for each model on its own, over all its keys.
    pub limits_per_model: Limits,
    /// Its keys are refused.
    pub disabled: bool,
    /// The number under which its counts are stored.
    pub id: u128,
}

impl Consumer {
    /// A consumer without limits.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let id = KeyDigest::of(&format!("consumer\n{name}")).prefix();
        Self { name, limits: Limits::default(), limits_per_model: Limits::default(), disabled: false, id }
    }
}
