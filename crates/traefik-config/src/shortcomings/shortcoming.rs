//! A shortcoming as a value; it becomes text only where somebody reads it.

use std::{borrow::Cow, fmt};

use catalogue::Strategy;

use crate::TraefikVersion;

/// Something that a Traefik version does not do, or does less well than asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcoming {
    /// The version.
    pub version: TraefikVersion,
    /// The model that it affects, as shown to people, with its selector; `None` if it affects all.
    pub model: Option<String>,
    /// What is lacking.
    pub lack: Lack,
}

/// A feature that a Traefik version lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// It is older than `traefik.version` says: it refuses the whole document, and says so only in its own log.
    Older {
        /// Its container.
        container: String,
        /// The version that its image names.
        seen: String,
    },
    /// It cannot choose a model by the body.
    ChoiceByBody,
    /// It does not forward bodies.
    Bodies,
    /// It does not let Modelgate report that a body is too long.
    StatusOfTooLong,
    /// It does not forward bodies, and a server of the model has other models, or may have.
    ModelMayBeAnother,
    /// It cannot rewrite paths for each server.
    BasePathsDiffer,
    /// It does not support a strategy.
    Strategy {
        /// The strategy.
        strategy: Strategy,
        /// The first version that knows it.
        since: &'static str,
    },
    /// It sets no sticky cookie with this strategy; no version does.
    CookieWithHrw,
    /// It has no passive health checks.
    PassiveHealthcheck,
    /// It counts concurrent requests separately for each body size.
    ConcurrencyInAll,
    /// It does not fail over on a status.
    FailoverStatus,
    /// It cannot check the servers before a backup, because no health check is configured.
    UncheckedPrimary,
    /// It would not notice that a server which Modelgate chooses is down, so Modelgate chooses none.
    UncheckedChoice {
        /// The strategy that asks for it.
        strategy: Strategy,
        /// A server that it does not check.
        server: String,
    },
}

impl Shortcoming {
    /// Its name for programs.
    pub fn code(&self) -> &'static str {
        match self.lack {
            Lack::Older { .. } => "traefik_older_than_told",
            Lack::ChoiceByBody => "traefik_no_choice_by_body",
            Lack::Bodies => "traefik_shows_no_bodies",
            Lack::StatusOfTooLong => "traefik_bare_401_for_too_long",
            Lack::ModelMayBeAnother => "traefik_model_left_out",
            Lack::BasePathsDiffer => "traefik_base_paths_differ",
            Lack::Strategy { .. } => "traefik_strategy_unknown",
            Lack::CookieWithHrw => "traefik_no_cookie_with_hrw",
            Lack::PassiveHealthcheck => "traefik_no_passive_healthcheck",
            Lack::ConcurrencyInAll => "traefik_concurrency_by_size",
            Lack::FailoverStatus => "traefik_no_failover_on_status",
            Lack::UncheckedPrimary => "traefik_primary_unchecked",
            Lack::UncheckedChoice { .. } => "traefik_choice_unchecked",
        }
    }

    /// Whether its model, or every model, cannot be reached at all.
    pub fn leaves_out(&self) -> bool {
        matches!(self.lack, Lack::Older { .. } | Lack::ModelMayBeAnother | Lack::BasePathsDiffer)
    }

    /// What to do about it.
    pub fn advice(&self) -> Cow<'static, str> {
        let advice = match &self.lack {
            Lack::Older { seen, .. } => {
                return format!(
                    "Raise Traefik, or set traefik.version to {}, if that is 3.0.0 or later.",
                    seen.trim_start_matches('v')
                )
                .into();
            }
            Lack::ChoiceByBody
            | Lack::Bodies
            | Lack::StatusOfTooLong
            | Lack::BasePathsDiffer
            | Lack::ConcurrencyInAll => "Raise Traefik and traefik.version.",
            Lack::ModelMayBeAnother => {
                "Raise Traefik and traefik.version, or set single_model on its servers if they have no other model."
            }
            Lack::Strategy { .. } | Lack::PassiveHealthcheck | Lack::FailoverStatus => {
                "Raise Traefik and traefik.version, or leave the setting out."
            }
            Lack::CookieWithHrw => "Leave sticky.cookie out, or choose another strategy.",
            Lack::UncheckedPrimary | Lack::UncheckedChoice { .. } => {
                "Set healthcheck.path to a path at which its servers answer 200 while they are well, such as /health."
            }
        };
        advice.into()
    }
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version;
        if let Some(model) = &self.model {
            write!(f, "model {model}: ")?;
        }
        match &self.lack {
            Lack::Older { container, seen } => write!(
                f,
                "the Traefik in container {container}, which polls, is {seen} by its image, and traefik.version is {version}: it \
                 refuses a document with one field that it does not know, all of it, and says so only in its own log"
            ),
            Lack::ChoiceByBody => write!(
                f,
                "Traefik {version} cannot choose a model by the request's body; clients choose it by path (/models/NAME/…), by \
                 header (X-Model), by parameter (?model=), or by select.*; Traefik 3.6.2 or later can"
            ),
            Lack::Bodies => write!(
                f,
                "Traefik {version} does not show bodies to Modelgate: what they say is not checked, and max_chunked_body only \
                 tells whether bodies without a length are refused; Traefik 3.3 or later does"
            ),
            Lack::StatusOfTooLong => write!(
                f,
                "Traefik {version} answers a body without a length that is too long with a bare 401, as if the key were wrong; \
                 Traefik 3.4 or later lets Modelgate say that it is too large"
            ),
            Lack::ModelMayBeAnother => write!(
                f,
                "it is left out: a server of it has other models too, or may have, and Traefik {version} does not show bodies to \
                 Modelgate; that needs Traefik 3.3 or later, or single_model=true where it has no other"
            ),
            Lack::BasePathsDiffer => f.write_str(
                "it is left out: its servers differ in their base paths, which needs Traefik 3.2 or later",
            ),
            Lack::Strategy { strategy, since } => {
                write!(f, "strategy={} needs Traefik {since} or later; it is left out", strategy.as_str())
            }
            Lack::CookieWithHrw => {
                f.write_str("sticky.cookie is left out: with strategy=hrw Traefik sets no cookie")
            }
            Lack::PassiveHealthcheck => {
                f.write_str("passive_healthcheck needs Traefik 3.6 or later; it is left out")
            }
            Lack::ConcurrencyInAll => write!(
                f,
                "concurrency limits count by body size, in Traefik {version}: as many requests of each size may be under way; \
                 Traefik 3.6.2 or later counts them together"
            ),
            Lack::FailoverStatus => f.write_str("failover.status needs Traefik 3.7 or later; it is left out"),
            Lack::UncheckedPrimary => f.write_str(
                "Traefik does not check its primary servers, so a backup is used only once Modelgate has found all of them gone; \
                 healthcheck.path lets Traefik check them",
            ),
            Lack::UncheckedChoice { strategy, server } => write!(
                f,
                "strategy={}: Traefik {version} does not check {server}, and would go on sending requests to it while it is down, \
                 so the servers get requests in turn; Traefik 3.7 or later needs no check",
                strategy.as_str()
            ),
        }
    }
}
