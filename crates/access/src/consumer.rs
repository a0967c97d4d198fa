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
    /// Who goes first among requests that wait, if its plan says.
    pub priority: Option<WaitPriority>,
    /// Its keys are refused.
    pub disabled: bool,
    /// The number under which its counts are stored.
    pub id: u128,
}

impl Consumer {
    /// Whether it has a budget, over all models or for each.
    pub fn has_budget(&self) -> bool {
        self.limits.has_budget() || self.limits_per_model.has_budget()
    }

    /// A consumer without limits.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let id = KeyDigest::of(&format!("consumer\n{name}")).prefix();
        Self {
            name,
            limits: Limits::default(),
            limits_per_model: Limits::default(),
            priority: None,
            disabled: false,
            id,
        }
    }
}

/// Who goes first while requests wait for a server (`pick.wait`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitPriority {
    /// After all others.
    Low,
    /// As long as a plan says nothing else.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl WaitPriority {
    /// Each with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("low", Self::Low), ("normal", Self::Normal), ("high", Self::High)];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Higher ones go first.
    pub fn rank(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans name them, and who waits is let in by the rank: with a wrong one a batch would go before people.
    #[test]
    fn priorities_have_their_names_and_the_ranks_of_their_order() {
        let told = WaitPriority::ALL.map(|(name, priority)| (name == priority.name(), priority.rank()));
        assert_eq!(told, [(true, 0), (true, 1), (true, 2)]);
        assert_eq!(WaitPriority::ALL.map(|(name, _)| name), ["low", "normal", "high"]);
        assert!(WaitPriority::ALL.is_sorted_by_key(|(_, priority)| *priority));
    }
}
