//! Which Traefik the document is for.

use std::{fmt, str::FromStr};

/// A Traefik version, `MAJOR.MINOR.PATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraefikVersion {
    major: u16,
    minor: u16,
    patch: u16,
}

/// A version that cannot be rendered for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    /// Not of the form `3.7.15`.
    #[error("a Traefik version is written like 3.7.15")]
    Syntax,
    /// Traefik before 3.6.2 cannot do layered routing, or gets it wrong.
    #[error(
        "Traefik 3.6.2 is the oldest that works: layered routing came with 3.6.0, and 3.6.0 and 3.6.1 have faults in it"
    )]
    TooOld,
    /// Not released when this was written.
    #[error("only Traefik 3 is known")]
    TooNew,
}

impl TraefikVersion {
    /// The oldest version that is rendered for, and the default: what it knows, later ones know.
    pub const OLDEST: Self = Self { major: 3, minor: 6, patch: 2 };

    /// `retry.status` and `retry.retryNonIdempotentMethod` are known.
    pub(crate) fn retries_on_status(self) -> bool {
        self >= Self { major: 3, minor: 7, patch: 0 }
    }

    /// `forwardAuth.maxResponseBodySize` is known.
    pub(crate) fn limits_auth_answers(self) -> bool {
        self >= Self { major: 3, minor: 6, patch: 9 }
    }
}

impl Default for TraefikVersion {
    fn default() -> Self {
        Self::OLDEST
    }
}

impl FromStr for TraefikVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse::<u16>);
        let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidVersion::Syntax);
        };
        let version = Self { major, minor, patch };
        if version < Self::OLDEST {
            Err(InvalidVersion::TooOld)
        } else if version.major > 3 {
            Err(InvalidVersion::TooNew)
        } else {
            Ok(version)
        }
    }
}

impl fmt::Display for TraefikVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!("v3.7.15".parse::<TraefikVersion>().expect("good").to_string(), "3.7.15");
        assert_eq!("3.6".parse::<TraefikVersion>(), Err(InvalidVersion::Syntax));
        assert_eq!("3.6.1".parse::<TraefikVersion>(), Err(InvalidVersion::TooOld));
        assert_eq!("4.0.0".parse::<TraefikVersion>(), Err(InvalidVersion::TooNew));
    }
}
