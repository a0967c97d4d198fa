//! The errors of a configuration. All of them are reported, and each names its key.

use std::fmt;

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where: a key path such as `keys[1].limit.burst`, an environment variable or a file.
    pub place: String,
    /// The environment variable that the value came from, unless it came from the file.
    pub variable: Option<&'static str>,
    /// What was found and what is allowed. Never contains a secret.
    pub message: String,
}

/// All errors of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// A single error.
    pub fn one(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![ConfigError { place: place.into(), variable: None, message: message.into() }])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variable {
            Some(variable) => write!(f, "{} (from {variable}): {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has 1 error:")?,
            n => write!(f, "the configuration has {n} errors:")?,
        }
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}
