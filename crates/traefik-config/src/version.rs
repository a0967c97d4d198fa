//! Traefik's versions, and which field each one knows.
//!
//! The version of each field was read from `pkg/config/dynamic` of Traefik's tags; real Traefiks of these versions decode the
//! golden documents.

use std::{fmt, str::FromStr};

/// A Traefik version, `MAJOR.MINOR.PATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraefikVersion {
    major: u16,
    minor: u16,
    patch: u16,
}

/// A version that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    /// Not of the form `3.7.15`.
    #[error("a Traefik version is written like 3.7.15")]
    Syntax,
    /// Traefik 2 has another rule syntax.
    #[error("Traefik 3.0.0 is the oldest that works")]
    TooOld,
    /// It had not been released when this was written.
    #[error("only Traefik 3 is known")]
    TooNew,
}

impl TraefikVersion {
    /// The oldest supported version.
    pub const OLDEST: Self = Self::new(3, 0, 0);
    /// The oldest version with two layers of routers, and the default: later versions know all of its fields. Layered routing
    /// came with 3.6.0; 3.6.0 and 3.6.1 have bugs in it.
    pub const LAYERED: Self = Self::new(3, 6, 2);

    pub(crate) const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Routers have parents (`parentRefs`): the model can be read from the body.
    pub fn is_layered(self) -> bool {
        self >= Self::LAYERED
    }

    /// `forwardAuth.forwardBody` and `maxBodySize` are known: Modelgate sees bodies.
    pub fn forwards_body(self) -> bool {
        self >= Self::new(3, 3, 0)
    }

    /// `server.preservePath` is known: each server can have a base path of its own.
    pub(crate) fn preserves_path(self) -> bool {
        self >= Self::new(3, 2, 0)
    }

    /// `loadBalancer.strategy` is known, with `p2c`.
    pub(crate) fn has_p2c(self) -> bool {
        self >= Self::new(3, 4, 0)
    }

    /// The strategies `hrw` and `leasttime` are known.
    pub(crate) fn has_hrw_and_leasttime(self) -> bool {
        self >= Self::new(3, 6, 0)
    }

    /// `loadBalancer.passiveHealthCheck` is known.
    pub(crate) fn checks_passively(self) -> bool {
        self >= Self::new(3, 6, 0)
    }

    /// `failover.errors` is known.
    pub(crate) fn fails_over_on_status(self) -> bool {
        self >= Self::new(3, 7, 0)
    }

    /// `retry.status` and `retry.retryNonIdempotentMethod` are known.
    pub(crate) fn retries_on_status(self) -> bool {
        self >= Self::new(3, 7, 0)
    }

    /// `retry.timeout` is known.
    pub(crate) fn limits_retries_by_time(self) -> bool {
        self >= Self::new(3, 7, 0)
    }

    /// `errors.statusRewrites` is known.
    pub(crate) fn rewrites_status(self) -> bool {
        self >= Self::new(3, 4, 0)
    }

    /// `errors.errorRequestHeaders` is known.
    pub(crate) fn chooses_headers_of_pages(self) -> bool {
        self >= Self::new(3, 6, 15)
    }

    /// Rules see reserved characters of a path as the client encoded them; before, decoded.
    pub(crate) fn keeps_reserved(self) -> bool {
        self >= Self::new(3, 4, 1)
    }

    /// Whether a Traefik for which this version's document is right may refuse `%2F` in paths by default, as 3.6.4 to 3.6.6 do.
    pub fn may_refuse_encoded_slashes(self) -> bool {
        self <= Self::new(3, 6, 6)
    }

    /// Paths are cleaned of empty, `.` and `..` segments before rules see them (`sanitizePath`).
    pub fn cleans_paths(self) -> bool {
        self >= Self::new(3, 3, 6)
    }

    /// `forwardAuth.maxResponseBodySize` is known.
    pub(crate) fn limits_auth_answers(self) -> bool {
        self >= Self::new(3, 6, 9)
    }
}

impl Default for TraefikVersion {
    fn default() -> Self {
        Self::LAYERED
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
        assert_eq!("2.11.53".parse::<TraefikVersion>(), Err(InvalidVersion::TooOld));
        assert_eq!("4.0.0".parse::<TraefikVersion>(), Err(InvalidVersion::TooNew));
    }

    #[test]
    fn layers_came_with_3_6_2_and_bodies_with_3_3() {
        let version = |text: &str| text.parse::<TraefikVersion>().expect(text);
        for (text, layered, body) in [
            ("3.0.0", false, false),
            ("3.2.5", false, false),
            ("3.3.0", false, true),
            ("3.6.1", false, true),
            ("3.6.2", true, true),
            ("3.7.15", true, true),
        ] {
            assert_eq!(
                (version(text).is_layered(), version(text).forwards_body()),
                (layered, body),
                "{text}"
            );
        }
    }
}
