//! Teams, users and organizations: their models and limits.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    answers::Answers,
    fields::{RowKind, limited_member},
    limits,
    models::{self, Allowed},
    values::{flag, object, text},
};
use crate::commands::import::found::{Findings, Imported, Limit};

/// The user id of LiteLLM's administrator, who has no limits of its own.
const ADMINISTRATOR: &str = "default_user_id";
/// Restrictions of a user that apply only to keys without a team.
const OF_KEYS_WITHOUT_TEAM: [&str; 3] = ["max_budget", "model_max_budget", "budget_limits"];

/// Kind and id of an owner.
type Id = (&'static str, String);

/// The owners in all files.
#[derive(Default)]
pub(super) struct Owners {
    all: HashMap<Id, Owner>,
    /// The messages about each of them, with its place.
    said: Vec<(Id, String, Findings)>,
    /// The owners to which keys refer.
    used: HashSet<Id>,
    /// The owners in the order of the files, with what they are called.
    listed: Vec<(Id, String)>,
}

/// A team, a user or an organization; or no owner.
#[derive(Debug, Default, Clone)]
pub(super) struct Owner {
    pub(super) kind: &'static str,
    pub(super) id: Option<String>,
    pub(super) alias: Option<String>,
    /// Its models; `None` if the files do not say.
    pub(super) models: Option<Result<Allowed, String>>,
    pub(super) limit: Limit,
    pub(super) blocked: bool,
    /// Names that stand for another model.
    pub(super) aliases: BTreeSet<String>,
    organization: Option<String>,
    holds: BTreeSet<String>,
    /// Members with limits within the team.
    limited_members: BTreeSet<String>,
    /// The administrator has no limits even if the files do not contain it.
    is_administrator: bool,
}

impl Owners {
    pub(super) fn of(answers: &Answers) -> Self {
        let mut owners = Self::default();
        for (kind, row) in &answers.owners {
            owners.add(*kind, row);
        }
        for (kind, id) in answers.owners_of_keys() {
            owners.used.insert((kind.name(), id.to_owned()));
        }
        owners
    }

    /// Adds an owner. One that cannot be read counts as missing, so its keys are held.
    fn add(&mut self, kind: RowKind, row: &Map<String, Value>) {
        let id = row.get(id_of(kind)).and_then(Value::as_str).unwrap_or_default();
        let (mut findings, key) = (Findings::default(), (kind.name(), id.to_owned()));
        let mut called = id.to_owned();
        let is_new = !id.is_empty() && !self.all.contains_key(&key);
        match Owner::read(kind, row, &mut findings) {
            Ok(mut owner) => {
                owner.holds.clone_from(&findings.holds);
                if let Some(alias) = &owner.alias {
                    called.clone_from(alias);
                }
                self.all.entry(key.clone()).and_modify(|other| other.narrow(&owner)).or_insert(owner);
            }
            Err(why) => findings.leave_out(why),
        }
        let place = format!("{} {called}", kind.name());
        if is_new {
            self.listed.push((key.clone(), called));
        }
        self.said.push((key, place, findings));
    }

    /// Adds the messages about owners to which keys refer, once each, and names the others: a consumer comes with its first key.
    pub(super) fn say(self, imported: &mut Imported) {
        const MOST_NAMED: usize = 10;
        for kind in [RowKind::User, RowKind::Team, RowKind::Organization] {
            let is_keyless = |(id, _): &&(Id, String)| id.0 == kind.name() && !self.used.contains(id);
            let names: Vec<&str> = self.listed.iter().filter(is_keyless).map(|(_, name)| &**name).collect();
            let count = names.len();
            if count > 0 {
                let plural = if count == 1 { "" } else { "s" };
                let more = if count > MOST_NAMED { ", …" } else { "" };
                let named = names[..count.min(MOST_NAMED)].join(", ");
                imported
                    .say(format!("{count} {}{plural} without keys", kind.name()), format!("{named}{more}"));
            }
        }
        for (id, place, findings) in self.said {
            if self.used.contains(&id) {
                imported.say_all(&place, findings);
            }
        }
    }

    /// The owner of a key. If the files do not contain it, the key is held.
    pub(super) fn get(&mut self, kind: RowKind, id: Option<&str>, findings: &mut Findings) -> Owner {
        let name = kind.name();
        let nobody = Owner { kind: name, ..Owner::default() };
        let Some(id) = id else { return nobody };
        let key = (name, id.to_owned());
        let found = self.all.get(&key).cloned();
        self.used.insert(key);
        if let Some(owner) = found {
            return owner;
        }
        let is_administrator = kind == RowKind::User && id == ADMINISTRATOR;
        if !is_administrator {
            findings.hold(
                id_of(kind),
                format!("its {name} {id:?} is not in the files; add the answer to GET /{name}/list"),
            );
        }
        Owner { id: Some(id.to_owned()), is_administrator, ..nobody }
    }
}

fn id_of(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Key => "token",
        RowKind::Team => "team_id",
        RowKind::User => "user_id",
        RowKind::Organization => "organization_id",
    }
}

impl Owner {
    fn read(kind: RowKind, row: &Map<String, Value>, findings: &mut Findings) -> Result<Self, String> {
        let id = text(row, id_of(kind))?.ok_or_else(|| format!("it has no {}", id_of(kind)))?;
        kind.look(row, findings)?;
        let alias = text(row, &format!("{}_alias", kind.name()))?;
        let table = object(row, "litellm_model_table")?.unwrap_or_default();
        let metadata = object(row, "metadata")?.unwrap_or_default();
        let members = row.get("team_memberships").and_then(Value::as_array);
        let limited = members.into_iter().flatten().filter_map(limited_member).map(str::to_owned);
        // An organization's limits apply across several teams, so they are only reported.
        let limit =
            if kind == RowKind::Organization { Limit::default() } else { limits::of_row(row, findings)? };
        Ok(Self {
            kind: kind.name(),
            id: Some(id.to_owned()),
            alias: alias.map(str::to_owned),
            models: models::of_owner(row, kind.name()),
            limit,
            blocked: flag(row, "blocked")? | (metadata.get("scim_active") == Some(&Value::Bool(false))),
            aliases: models::names_of(table.get("model_aliases"), "its model_aliases")?,
            organization: text(row, "organization_id")?.filter(|_| kind == RowKind::Team).map(str::to_owned),
            holds: BTreeSet::new(),
            limited_members: limited.collect(),
            is_administrator: false,
        })
    }

    /// Merges the same owner from another answer: the narrower values apply.
    fn narrow(&mut self, other: &Self) {
        self.limit.add_all(&other.limit);
        self.blocked |= other.blocked;
        self.holds.extend(other.holds.iter().cloned());
        self.aliases.extend(other.aliases.iter().cloned());
        self.limited_members.extend(other.limited_members.iter().cloned());
        self.organization = self.organization.take().or_else(|| other.organization.clone());
        self.models = match (self.models.take(), &other.models) {
            (Some(Ok(models)), Some(Ok(others))) => {
                Some(models.and(others, self.kind, &mut Findings::default()))
            }
            (Some(Err(why)), _) => Some(Err(why)),
            (_, Some(Err(why))) => Some(Err(why.clone())),
            (models, others) => models.or_else(|| others.clone()),
        };
    }

    /// What it is and what it is called, in a sentence.
    pub(super) fn in_words(&self) -> String {
        let called = self.alias.as_deref().or(self.id.as_deref()).unwrap_or_default();
        format!("{} {called:?}", self.kind)
    }

    pub(super) fn is_some(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }

    /// Whether only the key's own list restricts its models.
    pub(super) fn says_no_models(&self) -> bool {
        self.is_some() && self.models.is_none() && !self.is_administrator
    }

    /// Adds the restrictions that hold a key of this owner. A user's budgets apply to keys without a team. Its limits apply
    /// through the consumer, which is the team if there is one.
    pub(super) fn hold(&self, team: &Self, user: &Self, findings: &mut Findings) {
        let is_user_of_team = self.kind == RowKind::User.name() && team.is_some();
        let counts = |name: &&String| !is_user_of_team || !OF_KEYS_WITHOUT_TEAM.contains(&name.as_str());
        for restriction in self.holds.iter().filter(counts) {
            findings.hold(restriction, format!("its {} is restricted by {restriction}", self.in_words()));
        }
        if is_user_of_team && self.limit.has_more_than_budgets() {
            findings.hold(
                "user_limit",
                "limits of its user over keys of several teams; here the team is the consumer",
            );
        }
        if is_user_of_team && let Some(budgets) = self.limit.budgets() {
            findings
                .say(format!("its user's max_budget ({budgets}), which applies only to keys without a team"));
        }
        if is_user_of_team && self.blocked {
            findings.hold("scim_active", "its user is not active");
        }
        if user.id.as_ref().is_some_and(|id| self.limited_members.contains(id)) {
            findings.hold("team_memberships", "limits of its user within the team");
        }
    }
}
