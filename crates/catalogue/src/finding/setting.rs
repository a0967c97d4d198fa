//! Settings that contradict what the servers are: aliases, canaries, mirrors, and disagreements between two servers.

use std::{borrow::Cow, fmt};

use super::Facts;
use crate::ModelName;

/// What is wrong with settings that are each allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettingFinding {
    /// `single_model` is set, but the server has several models.
    NotSingle {
        /// How many it has.
        count: usize,
    },
    /// An alias of a model that the server does not have.
    AliasOfNothing {
        /// The alias.
        alias: ModelName,
        /// The model that it should stand for.
        of: ModelName,
    },
    /// An alias that names no model, while the server has several.
    AliasOfSeveral {
        /// The alias.
        alias: ModelName,
        /// How many models the server has.
        count: usize,
    },
    /// An alias that vLLM does not know, and therefore answers with 404.
    AliasUnknownToVllm {
        /// The alias.
        alias: ModelName,
        /// What it stands for.
        of: ModelName,
    },
    /// Two servers of a model disagree about a setting.
    Conflict {
        /// The setting.
        key: &'static str,
        /// This server's value.
        here: String,
        /// The model.
        model: ModelName,
        /// The server whose value is used.
        first: String,
        /// That server's value.
        counts: String,
    },
    /// A canary or a mirror that gets no requests.
    Branch {
        /// Which of them.
        kind: BranchKind,
        /// The model whose requests it should get.
        model: ModelName,
        /// The model whose servers should get them.
        target: ModelName,
        /// Why it gets none.
        fault: BranchFault,
    },
    /// Modelgate cannot choose the server of each request: the servers get them in turn.
    NoPick {
        /// The model.
        model: ModelName,
        /// The strategy that asks for it.
        strategy: &'static str,
        /// Why not.
        fault: PickFault,
    },
    /// Requests are to wait for a server, but Modelgate does not choose the servers of the model.
    WaitWithoutChoice {
        /// The model.
        model: ModelName,
    },
}

/// The setting with which the server of a request cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PickFault {
    /// A cookie chooses it.
    Sticky,
    /// Traefik divides the requests between two models.
    Canary,
    /// Traefik copies them.
    Mirror,
}

impl PickFault {
    /// The setting.
    pub fn key(self) -> &'static str {
        match self {
            Self::Sticky => "sticky.cookie",
            Self::Canary => "canary.model",
            Self::Mirror => "mirror.model",
        }
    }
}

/// The two kinds of branch of a model's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchKind {
    /// It answers a share of them.
    Canary,
    /// It gets copies.
    Mirror,
}

/// Why a canary or a mirror gets no requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchFault {
    /// No server of the other model is ready.
    NoneReady,
    /// No server has the other model.
    NoSuchModel,
    /// A server of the other model does not accept the name of this one.
    NameNotAccepted {
        /// The server.
        server: String,
    },
    /// A server of the other model also has this one, and would answer with it.
    HasBoth {
        /// The server.
        server: String,
    },
    /// A server demands a credential.
    Credential,
}

impl BranchKind {
    /// The setting that asks for such a branch.
    pub fn key(self) -> &'static str {
        match self {
            Self::Canary => "canary.model",
            Self::Mirror => "mirror.model",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Mirror => "mirror",
        }
    }
}

impl SettingFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::NotSingle { .. } => Facts::fault("single_model_has_several"),
            Self::AliasOfNothing { .. } => Facts::fault("alias_of_unknown_model"),
            Self::AliasOfSeveral { .. } => Facts::fault("alias_without_model"),
            Self::AliasUnknownToVllm { .. } => Facts::fault("alias_unknown_to_vllm"),
            Self::Conflict { .. } => Facts::fault("settings_conflict"),
            Self::Branch { fault, .. } => match fault {
                BranchFault::NoneReady => Facts::fault("branch_not_ready"),
                BranchFault::NoSuchModel => Facts::fault("branch_without_model"),
                BranchFault::NameNotAccepted { .. } => Facts::fault("branch_name_not_accepted"),
                BranchFault::HasBoth { .. } => Facts::fault("branch_has_both_models"),
                BranchFault::Credential => Facts::fault("branch_with_credential"),
            },
            Self::NoPick { .. } => Facts::fault("server_choice_excluded"),
            Self::WaitWithoutChoice { .. } => Facts::fault("wait_without_choice"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::NotSingle { .. } => {
                "Take single_model away from this server, or leave it with the one model.".into()
            }
            Self::AliasOfNothing { alias, .. } => {
                format!("Correct it to {alias}=MODEL, with a model that this server lists, or take it away.").into()
            }
            Self::AliasOfSeveral { alias, .. } => {
                format!("Say which of its models is meant: {alias}=MODEL among its aliases.").into()
            }
            Self::AliasUnknownToVllm { alias, of } => format!(
                "Start vLLM with --served-model-name {of} {alias}: then it answers to both names, and the alias can go."
            )
            .into(),
            Self::Conflict { .. } => {
                "Give it once for all of the model's servers, under models: in the configuration: that counts before what servers \
                 say."
                    .into()
            }
            Self::Branch { kind, model, target, fault } => branch_advice(*kind, model, target, fault).into(),
            Self::NoPick { strategy, fault, .. } => {
                format!("Take either strategy={strategy} or {} away.", fault.key()).into()
            }
            Self::WaitWithoutChoice { .. } => {
                "Set strategy to cache or least-busy for the model, or take pick.wait away.".into()
            }
        }
    }
}

fn branch_advice(kind: BranchKind, model: &ModelName, target: &ModelName, fault: &BranchFault) -> String {
    let (key, name) = (kind.key(), kind.name());
    match fault {
        BranchFault::NoneReady => {
            format!("See why the servers of {target} are not ready. The {name} begins by itself once one is.")
        }
        BranchFault::NoSuchModel => format!(
            "Correct {key}, or start a server of {target}: the {name} begins by itself once one is ready."
        ),
        BranchFault::NameNotAccepted { server } => format!(
            "Start {server} so that it answers to {model} as well (vLLM: --served-model-name {target} {model}); accepts=any is \
             for a server that answers whatever name a body has."
        ),
        BranchFault::HasBoth { server } => {
            format!("Take {model} off {server}, or name a model in {key} whose servers do not have it.")
        }
        BranchFault::Credential => {
            format!("Take {key} away, or have it name a model whose servers demand no credential.")
        }
    }
}

impl fmt::Display for SettingFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSingle { count } => {
                write!(f, "single_model: this server has {count} models, so it is taken for one with several")
            }
            Self::AliasOfNothing { alias, of } => {
                write!(f, "aliases: {alias:?} stands for {of:?}, which this server does not have")
            }
            Self::AliasOfSeveral { alias, count } => write!(
                f,
                "aliases: {alias:?} names no model, and this server has {count}: write {alias}=MODEL"
            ),
            Self::AliasUnknownToVllm { alias, .. } => write!(
                f,
                "aliases: vLLM answers 404 to {alias:?} in a body, which Traefik cannot change: start it with \
                 --served-model-name and both names; by path, header or query the alias works"
            ),
            Self::Conflict { key, here, model, first, counts } => write!(
                f,
                "{key}={here:?}, but {first}, which serves {model:?} too, has {counts:?}, which is used: give all servers of a \
                 model the same"
            ),
            Self::Branch { kind, model, target, fault } => {
                write!(f, "{}={target:?} of {model:?}: ", kind.key())?;
                branch(f, model, fault)
            }
            Self::NoPick { model, strategy, fault } => write!(
                f,
                "strategy={strategy} of {model:?} does not work together with {}: its servers get requests in turn",
                fault.key()
            ),
            Self::WaitWithoutChoice { model } => write!(
                f,
                "pick.wait of {model:?} has no effect: requests wait only where Modelgate chooses the server, by strategy cache or \
                 least-busy"
            ),
        }
    }
}

fn branch(f: &mut fmt::Formatter<'_>, model: &ModelName, fault: &BranchFault) -> fmt::Result {
    match fault {
        BranchFault::NoneReady => f.write_str("none of its servers is ready; until then it gets no requests"),
        BranchFault::NoSuchModel => f.write_str("there is no such model; until then it gets no requests"),
        BranchFault::NameNotAccepted { server } => write!(
            f,
            "its server {server} does not answer to {model:?}, and Traefik cannot change the name in a body: give that server \
             the name as an alias that it accepts, or accepts=any if it does not look"
        ),
        BranchFault::HasBoth { server } => write!(
            f,
            "its server {server} has {model:?} as well and chooses by the name in the body, so its requests would stay with \
             that model"
        ),
        BranchFault::Credential => {
            f.write_str("a request carries one credential, so servers that demand one cannot take part")
        }
    }
}
