//! Published faults of Traefik, by version, that affect what is rendered or the routers that operators write beside it.
//!
//! Only a newer Traefik mends them. What the document can do in every version, such as withholding headers in every spelling,
//! is in `withheld.rs`. The version ranges are those of the advisories
//! (<https://github.com/traefik/traefik/security/advisories>); faults that can be reproduced were tried with real Traefiks.

use std::fmt;

use crate::TraefikVersion;

/// A published fault of a Traefik version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advisory {
    /// What is wrong.
    pub fault: Fault,
    /// Its id at <https://www.cve.org>.
    pub cve: &'static str,
    /// The first version of the same line (3.6, 3.7) or of a later one in which it is mended, or can be by configuration.
    pub mended: TraefikVersion,
}

/// What is wrong with a Traefik version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// If a server answers `Upgrade: h2c` with 101, the connection becomes a tunnel past routers and middlewares.
    UpgradeTunnel,
    /// A `CONNECT` over HTTP/2 leaves a server connection in use on which other clients read wrong answers.
    ConnectDesync,
    /// Fields after a chunked body (trailers) reach servers as headers that no middleware has seen.
    Trailers,
    /// `X_Request_Id` is accepted beside `X-Request-Id`, and servers may read either.
    UnderscoreAliases,
    /// As `UnderscoreAliases`, with dots: `X.Request.Id`.
    DotAliases,
    /// An `errors` middleware sends the client's headers to its service.
    ErrorPages,
}

/// A fault and its affected versions: from the first (included) up to the second (excluded).
struct AffectedVersions {
    fault: Fault,
    cve: &'static str,
    affected: &'static [(TraefikVersion, TraefikVersion)],
}

const fn v(minor: u16, patch: u16) -> TraefikVersion {
    TraefikVersion::new(3, minor, patch)
}

const TABLE: [AffectedVersions; 6] = [
    // GHSA-w4v4-9rw7-5326
    AffectedVersions { fault: Fault::UpgradeTunnel, cve: "CVE-2026-88008", affected: &[(v(4, 2), v(7, 13))] },
    // GHSA-3ccp-42pg-hgv6
    AffectedVersions {
        fault: Fault::ConnectDesync,
        cve: "CVE-2026-71324",
        affected: &[(v(0, 0), v(6, 24)), (v(7, 0), v(7, 9))],
    },
    // GHSA-v67p-phpq-fc8x
    AffectedVersions { fault: Fault::Trailers, cve: "CVE-2026-88004", affected: &[(v(2, 0), v(7, 13))] },
    // GHSA-x677-9fxg-v5c5
    AffectedVersions {
        fault: Fault::UnderscoreAliases,
        cve: "CVE-2026-54763",
        affected: &[(v(0, 0), v(6, 22)), (v(7, 0), v(7, 6))],
    },
    // GHSA-rf44-j88r-hh8c
    AffectedVersions { fault: Fault::DotAliases, cve: "CVE-2026-88011", affected: &[(v(0, 0), v(7, 12))] },
    // GHSA-p6hg-qh38-555r
    AffectedVersions { fault: Fault::ErrorPages, cve: "CVE-2026-41181", affected: &[(v(0, 0), v(6, 15))] },
];

/// The known faults of a version, the gravest first.
pub fn advisories(version: TraefikVersion) -> Vec<Advisory> {
    let of_row = |row: &AffectedVersions| {
        let affected = row.affected.iter().find(|(from, mended)| (*from..*mended).contains(&version));
        affected.map(|(_, mended)| Advisory { fault: row.fault, cve: row.cve, mended: *mended })
    };
    TABLE.iter().filter_map(of_row).collect()
}

impl Fault {
    /// Its effect, for the operator.
    fn message(self) -> &'static str {
        match self {
            Self::UpgradeTunnel => {
                "a client's \"Upgrade: h2c\" that a server accepts becomes a tunnel to that server, past keys, models and \
                 limits; Modelgate's own routers do not let it through, routers of your own do"
            }
            Self::ConnectDesync => {
                "after a client's CONNECT over HTTP/2, other clients may get answers that are not theirs; routers of your \
                 own can be reached by it (add a Method matcher to their rules)"
            }
            Self::Trailers => {
                "fields that a client sends after a chunked body may reach a server as headers, X-Inference-Consumer \
                 among them, if that server reads such fields (requests.max_chunked_body: 0 refuses chunked bodies)"
            }
            Self::UnderscoreAliases => {
                "headers spelled with underscores (X_Request_Id) pass beside those that Traefik sets; Modelgate \
                 withholds all spellings of keys and X-Inference-*, but not of others"
            }
            Self::DotAliases => {
                "headers spelled with dots (X.Request.Id) pass beside those that Traefik sets; Modelgate withholds all \
                 spellings of keys and X-Inference-*, but not of others"
            }
            Self::ErrorPages => {
                "an errors middleware of your own hands all headers of a request to its service, Authorization and \
                 cookies among them; Modelgate's own hands them to Modelgate alone"
            }
        }
    }

    /// What else must be set once Traefik is new enough.
    fn remedy(self) -> &'static str {
        match self {
            Self::UpgradeTunnel | Self::ConnectDesync | Self::Trailers => "",
            Self::UnderscoreAliases => {
                ", with entryPoints.NAME.http.underscoreHeadersStrategy=delete in its static configuration"
            }
            Self::DotAliases => {
                ", with entryPoints.NAME.http.aliasHeadersStrategy=delete in its static configuration"
            }
            Self::ErrorPages => {
                ", with at least one header's name in errorRequestHeaders (an empty list hands on all)"
            }
        }
    }
}

impl fmt::Display for Advisory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, cve, mended } = self;
        write!(f, "{cve}: {}. Traefik {mended} or later mends it{}", fault.message(), fault.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(version: &str) -> Vec<Fault> {
        advisories(version.parse().expect(version)).into_iter().map(|found| found.fault).collect()
    }

    #[test]
    fn each_fault_begins_and_ends_with_its_versions() {
        for (fault, without, with) in [
            (
                Fault::UpgradeTunnel,
                &["3.0.4", "3.4.1", "3.7.13"][..],
                &["3.4.2", "3.5.3", "3.6.24", "3.7.12"][..],
            ),
            (Fault::ConnectDesync, &["3.6.24", "3.7.9"], &["3.0.0", "3.6.23", "3.7.0", "3.7.8"]),
            (Fault::Trailers, &["3.1.7", "3.7.13"], &["3.2.0", "3.6.2", "3.7.12"]),
            (Fault::UnderscoreAliases, &["3.6.22", "3.7.6"], &["3.0.0", "3.6.21", "3.7.0", "3.7.5"]),
            (Fault::DotAliases, &["3.7.12"], &["3.0.0", "3.6.25", "3.7.11"]),
            (Fault::ErrorPages, &["3.6.15", "3.7.0"], &["3.0.0", "3.6.2", "3.6.14"]),
        ] {
            for version in without {
                assert!(!faults(version).contains(&fault), "{fault:?} in {version}");
            }
            for version in with {
                assert!(faults(version).contains(&fault), "no {fault:?} in {version}");
            }
        }
        assert_eq!(faults("3.7.15"), []);
    }

    /// A user of 3.6 is told of a fixed 3.6 if there is one.
    #[test]
    fn what_mends_it_is_of_the_same_line_if_there_is_one() {
        let mended = |version: &str, fault| {
            let found = advisories(version.parse().expect(version));
            found.into_iter().find(|found| found.fault == fault).map(|found| found.mended.to_string())
        };
        assert_eq!(mended("3.6.2", Fault::ConnectDesync).as_deref(), Some("3.6.24"));
        assert_eq!(mended("3.7.0", Fault::ConnectDesync).as_deref(), Some("3.7.9"));
        assert_eq!(mended("3.6.2", Fault::UpgradeTunnel).as_deref(), Some("3.7.13"));
        let told = advisories("3.6.2".parse().expect("a version"))
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        assert!(
            told.iter().all(|text| text.starts_with("CVE-") && text.contains(" or later mends it")),
            "{told:?}"
        );
    }
}
