//! What the dashboard tells an operator, as values: the findings of the catalogue, and those that only the dashboard has about
//! Traefik, the store, shared limits and the configuration.

use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc, time::Duration};

use catalogue::Severity;
use config_reader::ConfigError;
use store::{AccountFinding, LeftFile};
use traefik_config::Shortcoming;
use web::{OnFailure, PollFinding};

use crate::format;

/// A finding. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A finding of discovery or the catalogue.
    Catalogue(catalogue::Finding),
    /// No server answers for a model.
    ModelLost,
    /// No server answers for further models.
    MoreModelsLost,
    /// Something that Traefik lacks.
    Traefik(Shortcoming),
    /// A finding about Traefiks' polls.
    Polls(PollFinding),
    /// The store does not answer.
    StoreDown {
        /// For how long.
        span: Duration,
        /// Why, as the database says it.
        why: String,
    },
    /// Accounts of the store that are not in force.
    Accounts {
        /// The first account.
        first: AccountFinding,
        /// The number of other accounts.
        others: usize,
    },
    /// A file with counts that a stop could not write to the store is left.
    CountsLeft(LeftFile),
    /// The server that counts shared limits does not answer.
    SharedLimitsDown {
        /// Why.
        why: Arc<str>,
        /// What happens to requests meanwhile.
        on_failure: OnFailure,
    },
    /// A model with a price is used by a path on which that price says nothing of what requests cost.
    PriceNotCounted {
        /// The path.
        path: String,
    },
    /// A finding about the configuration file.
    Configuration(ConfigurationFinding),
}

/// An error in the configuration file, or a part of it that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationFinding {
    /// The file has changed, and the new version is invalid.
    Refused(ConfigError),
    /// Stands for the remaining errors of an invalid file.
    RefusedForMore {
        /// How many errors remain.
        errors: usize,
    },
    /// A changed part takes effect only after a restart.
    NeedsRestart {
        /// The part of the file.
        part: &'static str,
    },
    /// The file is in force, and contains something doubtful.
    Doubtful(Doubt),
}

/// Something that a configuration says and its operator probably does not intend. The words say what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// An environment variable replaces the keys in the file.
    KeysReplaced {
        /// The variable.
        variable: String,
    },
    /// There is no way to have a key.
    NoKeys,
    /// Quotas are counted in memory only.
    QuotasWithoutStore,
    /// Several Modelgates share limits, and quotas are counted in a file of this machine.
    QuotasOfOneMachine,
    /// Nothing has a price, so budgets are never spent.
    BudgetsWithoutPrices,
    /// A Traefik on another machine cannot reach the dashboard.
    DashboardOutOfReach {
        /// Where the dashboard listens.
        listen: SocketAddr,
    },
    /// There is no source of servers.
    NoServers,
}

impl Finding {
    /// The code, for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Catalogue(finding) => finding.code(),
            Self::ModelLost => "model_lost",
            Self::MoreModelsLost => "more_models_lost",
            Self::Traefik(shortcoming) => shortcoming.code(),
            Self::Polls(finding) => finding.code(),
            Self::StoreDown { .. } => "store_down",
            Self::Accounts { .. } => "accounts_not_in_force",
            Self::CountsLeft(left) => left.code(),
            Self::SharedLimitsDown { .. } => "shared_limits_down",
            Self::PriceNotCounted { .. } => "price_not_counted",
            Self::Configuration(finding) => finding.code(),
        }
    }

    /// The severity, unless the server's state lowers it.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::Catalogue(finding) => finding.severity(),
            Self::Polls(finding) => finding.severity(),
            Self::Configuration(finding) => finding.severity(),
            Self::ModelLost
            | Self::MoreModelsLost
            | Self::StoreDown { .. }
            | Self::Accounts { .. }
            | Self::SharedLimitsDown { .. } => Severity::Bad,
            Self::Traefik(_) | Self::CountsLeft(_) | Self::PriceNotCounted { .. } => Severity::Warn,
        }
    }

    /// The advice; `None` if the words say it.
    pub(crate) fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Catalogue(finding) => Some(finding.advice()),
            Self::Traefik(shortcoming) => Some(shortcoming.advice()),
            Self::Configuration(finding) => finding.advice().map(Into::into),
            Self::ModelLost | Self::MoreModelsLost => {
                Some("Its page lists its servers, and what is wrong with each.".into())
            }
            Self::Polls(finding) => match finding {
                PollFinding::NoTraefik
                | PollFinding::Silent { .. }
                | PollFinding::SilentBesideAnother { .. }
                | PollFinding::Slow { .. } => None,
            },
            Self::StoreDown { .. } => Some(
                "Is the database there, and store.url right? Keys go on working; changes of them have to wait.".into(),
            ),
            Self::Accounts { .. } => Some(
                "The log and /readyz name all of them. Change it, or delete it and make it anew; what a newer Modelgate has \
                 written, that one can read."
                    .into(),
            ),
            Self::CountsLeft(_) => Some(
                "Can Modelgate read the file and remove it? What a newer Modelgate has written, that one counts when it starts. If it \
                 is damaged, delete it: what it holds is lost to quotas, budgets and usage."
                    .into(),
            ),
            Self::SharedLimitsDown { .. } => {
                Some("Is the Redis or Valkey there, and shared_limits.url right?".into())
            }
            Self::PriceNotCounted { .. } => Some(
                "Give the model a price by request or second as well, or have clients use a path that is paid by its price.".into(),
            ),
        }
    }

    /// The allowed values, if that is a list as long as a page.
    pub(crate) fn choices(&self) -> Option<String> {
        match self {
            Self::Catalogue(finding) => finding.choices(),
            Self::ModelLost
            | Self::MoreModelsLost
            | Self::Traefik(_)
            | Self::Polls(_)
            | Self::StoreDown { .. }
            | Self::Accounts { .. }
            | Self::CountsLeft(_)
            | Self::SharedLimitsDown { .. }
            | Self::PriceNotCounted { .. }
            | Self::Configuration(_) => None,
        }
    }
}

impl ConfigurationFinding {
    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "configuration_refused",
            Self::RefusedForMore { .. } => "configuration_refused_for_more",
            Self::NeedsRestart { .. } => "configuration_needs_restart",
            Self::Doubtful(doubt) => doubt.code(),
        }
    }

    /// How much it matters: what is in force works, whatever the file says.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Refused(_)
            | Self::RefusedForMore { .. }
            | Self::NeedsRestart { .. }
            | Self::Doubtful(_) => Severity::Warn,
        }
    }

    /// The advice; `None` if the words say it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Refused(_) | Self::RefusedForMore { .. } => Some(
                "Correct the file: it is read again as soon as it changes. `modelgate check` says what is wrong with it.",
            ),
            Self::NeedsRestart { .. } => {
                Some("Restart Modelgate when it suits you; the rest of the change is in force.")
            }
            Self::Doubtful(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalogue(finding) => finding.fmt(f),
            Self::ModelLost => f.write_str("no server is ready or starting; clients get 503"),
            Self::MoreModelsLost => f.write_str("the same holds for them: no server is ready or starting"),
            Self::Traefik(shortcoming) => shortcoming.fmt(f),
            Self::Polls(finding) => finding.fmt(f),
            Self::StoreDown { span, why } => write!(
                f,
                "it has been down for {}: {why}; what it said last stays in force",
                format::span(*span)
            ),
            Self::Accounts { first, others: 0 } => first.fmt(f),
            Self::Accounts { first, others } => write!(f, "{first}; and {others} more"),
            Self::CountsLeft(LeftFile { path, why }) => {
                write!(f, "what a stop could not write to it is in the file {}: {why}", path.display())
            }
            Self::SharedLimitsDown { why, on_failure } => write!(
                f,
                "its server does not answer: {why}; until it does, fail: {} applies",
                on_failure.as_str()
            ),
            Self::PriceNotCounted { path } => write!(
                f,
                "it has a price, and requests to {path:?} cost nothing: what they use is not what the price is for"
            ),
            Self::Configuration(finding) => finding.fmt(f),
        }
    }
}

impl fmt::Display for ConfigurationFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => {
                write!(f, "the changed file is refused, what it said before stays in force: {error}")
            }
            Self::RefusedForMore { errors } => {
                write!(f, "the changed file has {errors} more errors: modelgate check names them all")
            }
            Self::NeedsRestart { part } => {
                write!(f, "{part} has changed, which takes effect only after a restart")
            }
            Self::Doubtful(doubt) => doubt.fmt(f),
        }
    }
}

impl Doubt {
    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeysReplaced { .. } => "keys_of_file_not_used",
            Self::NoKeys => "no_keys",
            Self::QuotasWithoutStore => "quotas_without_store",
            Self::QuotasOfOneMachine => "quotas_of_one_machine",
            Self::BudgetsWithoutPrices => "budgets_without_prices",
            Self::DashboardOutOfReach { .. } => "dashboard_out_of_reach",
            Self::NoServers => "no_source_of_servers",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeysReplaced { variable } => {
                write!(f, "{variable} is set, so the keys in the file are not used")
            }
            Self::NoKeys => f.write_str(
                "there are no keys, so every request will be refused; `modelgate keys generate` makes one",
            ),
            Self::QuotasWithoutStore => f.write_str(
                "there are limits per day or month, or budgets, and no store, so a restart forgets what they have counted; \
                 set state_dir or store.url",
            ),
            Self::QuotasOfOneMachine => f.write_str(
                "shared_limits shares limits per second, minute and hour; limits per day or month, and budgets, are counted in this \
                 machine's SQLite file, and Modelgates with another file count their own; with several machines set store.url to \
                 a PostgreSQL",
            ),
            Self::BudgetsWithoutPrices => f.write_str(
                "there are budgets, and no model has a price, so everything is free and no budget is ever spent; set prices",
            ),
            Self::DashboardOutOfReach { listen } => write!(
                f,
                "admin.host is set, but listen.admin is {listen}: only a Traefik on this machine reaches it; \
                 in containers it is 0.0.0.0:8102; if Traefik is on this machine, let listen.provider and \
                 listen.requests be on 127.0.0.1, too"
            ),
            Self::NoServers => {
                f.write_str("docker.enabled is false and there are no servers, so there are no models")
            }
        }
    }
}

impl From<catalogue::Finding> for Finding {
    fn from(finding: catalogue::Finding) -> Self {
        Self::Catalogue(finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_dashboard_knows_has_codes_of_its_own() {
        let configuration = |finding| Finding::Configuration(finding);
        let doubtful = |doubt| configuration(ConfigurationFinding::Doubtful(doubt));
        let error = ConfigError { place: "kyes".into(), variable: None, message: "is not known".into() };
        let all = [
            Finding::ModelLost,
            Finding::MoreModelsLost,
            Finding::Polls(PollFinding::NoTraefik),
            Finding::StoreDown { span: Duration::from_secs(5), why: "connection refused".into() },
            Finding::Accounts {
                first: AccountFinding::Unusable(accounts::Unusable::taken(accounts::AccountKind::Key, "a")),
                others: 0,
            },
            Finding::CountsLeft(LeftFile { path: "unwritten-1.json".into(), why: "it is damaged".into() }),
            Finding::SharedLimitsDown { why: "refused".into(), on_failure: OnFailure::Local },
            Finding::PriceNotCounted { path: "/prompt".into() },
            configuration(ConfigurationFinding::Refused(error)),
            configuration(ConfigurationFinding::RefusedForMore { errors: 3 }),
            configuration(ConfigurationFinding::NeedsRestart { part: "listen.admin" }),
            doubtful(Doubt::KeysReplaced { variable: "MODELGATE_KEYS".into() }),
            doubtful(Doubt::NoKeys),
            doubtful(Doubt::QuotasWithoutStore),
            doubtful(Doubt::QuotasOfOneMachine),
            doubtful(Doubt::BudgetsWithoutPrices),
            doubtful(Doubt::DashboardOutOfReach { listen: ([127, 0, 0, 1], 8102).into() }),
            doubtful(Doubt::NoServers),
        ];
        let codes: std::collections::BTreeSet<&str> = all.iter().map(Finding::code).collect();
        assert_eq!(codes.len(), all.len());
        for finding in &all {
            assert!(finding.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{finding:?}");
            assert!(!finding.to_string().is_empty());
            assert!(finding.advice().is_none_or(|advice| advice.ends_with('.') || advice.ends_with('?')));
        }
    }
}
