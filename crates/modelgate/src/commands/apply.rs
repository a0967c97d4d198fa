//! `modelgate apply` makes the store's accounts those of a file; `modelgate export` writes such a file.
//!
//! All of the file is read before anything is changed. Then plans come before the consumers and keys that refer to them, and what is
//! removed goes the other way.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::Path,
};

use access::NewKey;
use accounts::{Account, AccountKind, ConsumerSpec, KeySpec, Plan};
use config_reader::{ConfigError, ConfigErrors};
use serde_json::{Map, Value, json};
use store::{AccountSource, Filter, Registry};

use super::registry::{ACTOR, CommandFailure, answer};
use crate::{
    arguments::apply::Apply,
    output::{self, say, tell},
};

/// The sections of the file, in the order in which they refer to each other.
const SECTIONS: [&str; 3] = ["plans", "consumers", "keys"];
/// Where a digest is needed only to check the rest.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is to be done about one account.
#[derive(Debug)]
struct PlannedChange {
    kind: AccountKind,
    name: String,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Add(Value),
    Change(Value, Vec<String>),
    Remove,
}

/// All that is to be done, and what is wrong with the file.
#[derive(Debug, Default)]
struct PlannedChanges {
    writes: Vec<PlannedChange>,
    removals: Vec<PlannedChange>,
    unchanged: usize,
    faults: Vec<String>,
    /// The plans that there will be.
    plans: Vec<String>,
    /// What is not in the file is removed.
    prune: bool,
}

/// `modelgate apply`
pub(crate) async fn apply(registry: &Registry, wanted: &Apply) -> Result<(), CommandFailure> {
    registry.store()?;
    let document = read(&wanted.file)?;
    let plans = plan_names(registry, document.get("plans"), wanted.prune).await?;
    let mut steps = PlannedChanges { plans, prune: wanted.prune, ..PlannedChanges::default() };
    steps.compare_all::<Plan>(registry, "plans", document.get("plans")).await?;
    steps.compare_all::<ConsumerSpec>(registry, "consumers", document.get("consumers")).await?;
    steps.compare_all::<KeySpec>(registry, "keys", document.get("keys")).await?;
    if !steps.faults.is_empty() {
        let lines: String = steps.faults.iter().map(|fault| format!("\n  {fault}")).collect();
        return Err(CommandFailure::Failed(format!("nothing was changed:{lines}")));
    }
    let removals = std::mem::take(&mut steps.removals).into_iter().rev();
    let all: Vec<PlannedChange> = std::mem::take(&mut steps.writes).into_iter().chain(removals).collect();
    for step in &all {
        say!("{step}");
        if !wanted.dry_run
            && let Some(new) = step.take(registry).await?
        {
            say!("    {}  (shown this once)", new.reveal());
        }
    }
    let end = if wanted.dry_run { " (--dry-run: nothing was changed)" } else { "" };
    say!("{} changed, {} as they were{end}", all.len(), steps.unchanged);
    Ok(())
}

/// `modelgate export`
pub(crate) async fn export(registry: &Registry) -> Result<(), CommandFailure> {
    registry.store()?;
    let mut document = Map::new();
    document.insert("plans".into(), stored::<Plan>(registry).await?.iter().map(Account::to_json).collect());
    document.insert(
        "consumers".into(),
        stored::<ConsumerSpec>(registry).await?.iter().map(Account::to_json).collect(),
    );
    document.insert("keys".into(), stored::<KeySpec>(registry).await?.iter().map(Account::to_json).collect());
    document.retain(|_, list: &mut Value| list.as_array().is_some_and(|list| !list.is_empty()));
    let yaml = serde_yaml::to_string(&document).map_err(|error| CommandFailure::Failed(error.to_string()))?;
    output::text(yaml);
    Ok(())
}

fn read(file: &Path) -> Result<Map<String, Value>, CommandFailure> {
    let failed = |why: String| CommandFailure::Failed(format!("{}: {why}", file.display()));
    let mut text = String::new();
    match file.as_os_str() == "-" {
        true => io::stdin().read_to_string(&mut text).map(|_| ()),
        false => fs::read_to_string(file).map(|found| text = found),
    }
    .map_err(|error| failed(error.to_string()))?;
    // First as YAML, which refuses a key that stands there twice.
    let yaml: Option<serde_yaml::Mapping> = serde_yaml::from_str(&text)
        .map_err(|error| failed(format!("it is not YAML with keys and values: {error}")))?;
    let json = serde_json::to_value(yaml.unwrap_or_default()).map_err(|error| failed(error.to_string()))?;
    let Value::Object(document) = json else {
        return Err(failed("allowed: plans, consumers and keys".into()));
    };
    match document.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
        Some(key) => Err(failed(format!("unknown key `{key}`; allowed: {}", SECTIONS.join(", ")))),
        None => Ok(document),
    }
}

/// All accounts of a kind in the store. One that cannot be read is named, and left alone.
async fn stored<A: Account>(registry: &Registry) -> Result<Vec<A>, CommandFailure> {
    let mut filter = Filter { limit: 1_000, ..Filter::default() };
    let mut all = Vec::new();
    loop {
        let page = answer(registry.list::<A>(&filter)).await?;
        page.unreadable.iter().for_each(|unreadable| tell!("left alone: {unreadable}"));
        let of_store = page.items.into_iter().filter(|item| item.source != AccountSource::File);
        all.extend(of_store.map(|item| item.account));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(all),
        }
    }
}

/// The names of the plans that there will be.
async fn plan_names(
    registry: &Registry,
    wanted: Option<&Value>,
    prune: bool,
) -> Result<Vec<String>, CommandFailure> {
    let named = |plan: &Value| plan.get("name").and_then(Value::as_str).map(str::to_owned);
    let mut names: Vec<String> =
        wanted.and_then(Value::as_array).into_iter().flatten().filter_map(named).collect();
    names.extend(registry.declared().plans.iter().map(|plan| plan.name.clone()));
    if !prune {
        names.extend(stored::<Plan>(registry).await?.into_iter().map(|plan| plan.name));
    }
    Ok(names)
}

impl PlannedChanges {
    /// Compares a section of the file with the store.
    async fn compare_all<A: Account>(
        &mut self,
        registry: &Registry,
        section: &str,
        wanted: Option<&Value>,
    ) -> Result<(), CommandFailure> {
        let stored = stored::<A>(registry).await?;
        let entries = match wanted {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(entries)) => entries,
            Some(_) => {
                self.faults.push(format!("{section}: found something else; allowed: a list"));
                return Ok(());
            }
        };
        let declared = registry.declared();
        let mut names = BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let place = format!("{section}[{index}] {name}");
            let faults = &mut self.faults;
            let mut fault = |why: String| faults.push(format!("{place}: {why}"));
            if A::among(&declared).iter().any(|account| account.name() == name) {
                fault("it is in the configuration file, too; change it there".into());
                continue;
            }
            if !names.insert(name.clone()) {
                fault("another one has this name".into());
                continue;
            }
            let before = stored.iter().find(|account| account.name() == name).map(Account::to_json);
            let entry = completed(A::KIND, entry, before.as_ref());
            match accounts::parse::<A>(&entry, Some(&self.plans)) {
                Ok(account) => self.compare(A::KIND, name, &entry, (before, account.to_json())),
                Err(ConfigErrors(errors)) => {
                    let whole =
                        |error: &ConfigError| error.to_string().trim_start_matches("the file: ").to_owned();
                    fault(errors.iter().map(whole).collect::<Vec<_>>().join("; "));
                }
            }
        }
        if self.prune {
            let gone = stored.iter().filter(|account| !names.contains(account.name()));
            self.removals.extend(gone.map(|account| PlannedChange {
                kind: A::KIND,
                name: account.name().to_owned(),
                action: Action::Remove,
            }));
        }
        Ok(())
    }

    fn compare(
        &mut self,
        kind: AccountKind,
        name: String,
        entry: &Value,
        (before, after): (Option<Value>, Value),
    ) {
        let document = without_placeholder(entry);
        let action = match before {
            None => Action::Add(document),
            Some(before) if before == after => return self.unchanged += 1,
            Some(before) => Action::Change(document, differences(&before, &after)),
        };
        self.writes.push(PlannedChange { kind, name, action });
    }
}

/// The entry with what need not be given: a key's consumer is called as it is, and its digests stay as they are.
fn completed(kind: AccountKind, entry: &Value, before: Option<&Value>) -> Value {
    let mut entry = entry.clone();
    if let (AccountKind::Key, Some(fields)) = (kind, entry.as_object_mut()) {
        if let (false, Some(name)) = (fields.contains_key("consumer"), fields.get("name").cloned()) {
            fields.insert("consumer".into(), name);
        }
        if !fields.contains_key("sha256") {
            fields.insert("sha256".into(), json!(NO_DIGEST));
            for field in ["sha256", "previous"] {
                if let Some(value) = before.and_then(|before| before.get(field)) {
                    fields.insert(field.into(), value.clone());
                }
            }
        }
    }
    entry
}

fn without_placeholder(entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(fields) =
        entry.as_object_mut().filter(|fields| fields.get("sha256") == Some(&json!(NO_DIGEST)))
    {
        fields.remove("sha256");
    }
    entry
}

/// The fields that differ, in words; digests are not shown.
fn differences(before: &Value, after: &Value) -> Vec<String> {
    let fields: BTreeSet<&String> =
        before.as_object().into_iter().chain(after.as_object()).flat_map(Map::keys).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), Value::to_string);
    let differing = fields.into_iter().filter(|field| before.get(*field) != after.get(*field));
    differing
        .map(|field| match field.as_str() {
            "sha256" | "previous" => format!("{field}: another one"),
            _ => format!("{field}: {} → {}", shown(before.get(field)), shown(after.get(field))),
        })
        .collect()
}

impl PlannedChange {
    /// Does it; returns the key that was made.
    async fn take(&self, registry: &Registry) -> Result<Option<NewKey>, CommandFailure> {
        let Self { kind, name, action } = self;
        let (Action::Add(document) | Action::Change(document, _)) = action else {
            answer(registry.delete(*kind, name, &ACTOR)).await?;
            return Ok(None);
        };
        match kind {
            AccountKind::Plan => answer(registry.put::<Plan>(name, document, &ACTOR)).await.map(|_| None),
            AccountKind::Consumer => {
                answer(registry.put::<ConsumerSpec>(name, document, &ACTOR)).await.map(|_| None)
            }
            AccountKind::Key => answer(registry.put_key(name, document, &ACTOR)).await.map(|(_, new)| new),
        }
    }
}

impl std::fmt::Display for PlannedChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, action } = self;
        match action {
            Action::Add(_) => write!(f, "+ {kind} {name}"),
            Action::Change(_, what) => write!(f, "~ {kind} {name}: {}", what.join("; ")),
            Action::Remove => write!(f, "- {kind} {name}"),
        }
    }
}
