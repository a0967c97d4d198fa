//! `modelgate keys`, `consumers` and `plans`.

use accounts::{AccountKind, ConsumerSpec, KeySpec, Plan};
use admin::Present;
use serde_json::{Value, json};
use store::{AccountSource, Filter, Item, Registry};

use super::{
    registry::{ACTOR, CommandFailure, answer},
    table::{self, cell},
};
use crate::{
    arguments::{
        Consumers, KeyAccounts, Plans,
        accounts::{
            CreateKey, ListConsumers, ListKeys, ListPlans, Named, Rotate, SetConsumer, SetKey, SetPlan,
        },
        output::Output,
    },
    output::{say, tell},
};

/// `modelgate keys`
pub(crate) async fn keys(registry: &Registry, what: &KeyAccounts) -> Result<(), CommandFailure> {
    match what {
        KeyAccounts::List(ListKeys { search, consumer, plan, output }) => {
            let filter = filter(search, consumer, plan);
            let rows = list::<KeySpec>(registry, filter).await?;
            let row = |key: &Value| {
                let [name, consumer, plan, models, last_used, source] =
                    ["name", "consumer", "plan", "models", "last_used", "source"]
                        .map(|column| cell(key, column));
                [name, consumer, admin::state_in_words(key), plan, models, last_used, source]
            };
            const HEADING: [&str; 7] = ["NAME", "CONSUMER", "STATE", "PLAN", "MODELS", "LAST USED", "SOURCE"];
            print_list(HEADING, rows, row, output);
            Ok(())
        }
        KeyAccounts::Show(named) => show::<KeySpec>(registry, named).await,
        KeyAccounts::Create(wanted) => create(registry, wanted).await,
        KeyAccounts::Set(SetKey { name, fields, unset, output }) => {
            let patch = fields.patch(&unset.unset).map_err(CommandFailure::Failed)?;
            if patch.as_object().is_none_or(serde_json::Map::is_empty) {
                let what = "nothing to change was given; see modelgate keys set --help";
                return Err(CommandFailure::Failed(what.into()));
            }
            patch_key(registry, name, &patch, output).await
        }
        KeyAccounts::Rotate(Rotate { name, grace, output }) => {
            let (rotated, new) = answer(registry.rotate(name, *grace, &ACTOR)).await?;
            print_written(registry, rotated, Some(new), output).await
        }
        KeyAccounts::Enable(Named { name, output }) => {
            patch_key(registry, name, &json!({ "disabled": null }), output).await?;
            tell_of_consumer(registry, name).await
        }
        KeyAccounts::Disable(Named { name, output }) => {
            patch_key(registry, name, &json!({ "disabled": true }), output).await
        }
        KeyAccounts::Delete(named) => delete(registry, AccountKind::Key, named).await,
    }
}

/// `modelgate consumers`
pub(crate) async fn consumers(registry: &Registry, what: &Consumers) -> Result<(), CommandFailure> {
    match what {
        Consumers::List(ListConsumers { search, plan, output }) => {
            let rows = list::<ConsumerSpec>(registry, filter(search, &None, plan)).await?;
            const COLUMNS: [&str; 7] =
                ["name", "plan", "limit", "limit_per_model", "disabled", "note", "source"];
            const HEADING: [&str; 7] =
                ["NAME", "PLAN", "LIMIT", "LIMIT PER MODEL", "DISABLED", "NOTE", "SOURCE"];
            print_list(HEADING, rows, |consumer| COLUMNS.map(|column| cell(consumer, column)), output);
            Ok(())
        }
        Consumers::Show(named) => show::<ConsumerSpec>(registry, named).await,
        Consumers::Set(SetConsumer { name, fields, output }) => {
            set::<ConsumerSpec>(registry, name, fields.patch(), output).await
        }
        Consumers::Delete(named) => delete(registry, AccountKind::Consumer, named).await,
    }
}

/// `modelgate plans`
pub(crate) async fn plans(registry: &Registry, what: &Plans) -> Result<(), CommandFailure> {
    match what {
        Plans::List(ListPlans { search, output }) => {
            let rows = list::<Plan>(registry, filter(search, &None, &None)).await?;
            const COLUMNS: [&str; 7] =
                ["name", "models", "limit", "limit_per_model", "priority", "note", "source"];
            const HEADING: [&str; 7] =
                ["NAME", "MODELS", "LIMIT", "LIMIT PER MODEL", "PRIORITY", "NOTE", "SOURCE"];
            print_list(HEADING, rows, |plan| COLUMNS.map(|column| cell(plan, column)), output);
            Ok(())
        }
        Plans::Show(named) => show::<Plan>(registry, named).await,
        Plans::Set(SetPlan { name, fields, output }) => {
            set::<Plan>(registry, name, fields.patch(), output).await
        }
        Plans::Delete(named) => delete(registry, AccountKind::Plan, named).await,
    }
}

fn filter(search: &Option<String>, consumer: &Option<String>, plan: &Option<String>) -> Filter {
    const PAGE: u32 = 1_000;
    Filter {
        search: search.clone(),
        consumer: consumer.clone(),
        plan: plan.clone(),
        after: None,
        limit: PAGE,
    }
}

/// All accounts, read page by page. Unreadable ones are reported by name.
async fn list<A: Present>(registry: &Registry, mut filter: Filter) -> Result<Vec<Value>, CommandFailure> {
    let mut all = Vec::new();
    loop {
        let page = answer(registry.list_with_named::<A>(&filter)).await?;
        all.extend(answer(A::present(registry, &page.items)).await?);
        for unreadable in &page.unreadable {
            tell!("left out: {unreadable}");
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if all.is_empty() && registry.store().is_err() {
        tell!(
            "there is no store, so this lists only what is in the configuration file, if there is one: set state_dir (or \
             MODELGATE_STATE_DIR), or name the configuration file with --config"
        );
    }
    Ok(all)
}

fn print_list<const N: usize>(
    heading: [&str; N],
    rows: Vec<Value>,
    row: impl Fn(&Value) -> [String; N],
    output: &Output,
) {
    match output.json {
        true => table::print_json(&rows.into()),
        false => table::print(heading, &rows.iter().map(row).collect::<Vec<_>>()),
    }
}

async fn show<A: Present>(registry: &Registry, named: &Named) -> Result<(), CommandFailure> {
    let missing = || CommandFailure::Failed(format!("there is no {} {:?}", A::KIND, named.name));
    let found = answer(registry.get_or_named::<A>(&named.name)).await?.ok_or_else(missing)?;
    print_written(registry, found, None, &named.output).await
}

async fn create(registry: &Registry, wanted: &CreateKey) -> Result<(), CommandFailure> {
    let mut document = wanted.fields.patch(&[]).map_err(CommandFailure::Failed)?;
    document["name"] = wanted.name.as_str().into();
    if let Some(sha256) = &wanted.sha256 {
        document["sha256"] = sha256.as_str().into();
    }
    let (created, new) = answer(registry.create_key(&document, &ACTOR)).await?;
    print_written(registry, created, new, &wanted.output).await
}

async fn patch_key(
    registry: &Registry,
    name: &str,
    patch: &Value,
    output: &Output,
) -> Result<(), CommandFailure> {
    let patched = answer(registry.patch::<KeySpec>(name, patch, &ACTOR)).await?;
    print_written(registry, patched, None, output).await
}

/// A key works only if its consumer does.
async fn tell_of_consumer(registry: &Registry, key: &str) -> Result<(), CommandFailure> {
    let Some(key) = answer(registry.get::<KeySpec>(key)).await? else { return Ok(()) };
    let consumer = key.account.consumer;
    if let Some(Item { account: ConsumerSpec { disabled: true, .. }, source }) =
        answer(registry.get(&consumer)).await?
    {
        let advice = match source {
            AccountSource::File => "the configuration file says so".to_owned(),
            _ => format!("enable it with: modelgate consumers set {consumer} --disabled false"),
        };
        tell!("the key is refused still: consumer {consumer} is disabled; {advice}");
    }
    Ok(())
}

/// Changes an existing account, or adds it.
async fn set<A: Present>(
    registry: &Registry,
    name: &str,
    patch: Result<Value, String>,
    output: &Output,
) -> Result<(), CommandFailure> {
    let patch = patch.map_err(CommandFailure::Failed)?;
    let written = match answer(registry.get::<A>(name)).await? {
        Some(_) => answer(registry.patch::<A>(name, &patch, &ACTOR)).await?,
        None => answer(registry.put::<A>(name, &patch, &ACTOR)).await?,
    };
    print_written(registry, written, None, output).await
}

async fn delete(registry: &Registry, kind: AccountKind, named: &Named) -> Result<(), CommandFailure> {
    let was_there = answer(registry.delete(kind, &named.name, &ACTOR)).await?;
    match (named.output.json, was_there) {
        (true, _) => table::print_json(&json!({ "deleted": was_there })),
        (false, true) => tell!("the {kind} {:?} is deleted", named.name),
        (false, false) => tell!("there was no {kind} {:?}", named.name),
    }
    Ok(())
}

/// Prints an account. A new key is printed in clear, here and nowhere else.
async fn print_written<A: Present>(
    registry: &Registry,
    item: Item<A>,
    new: Option<access::NewKey>,
    output: &Output,
) -> Result<(), CommandFailure> {
    let mut shown = answer(A::present(registry, &[item])).await?.pop().unwrap_or_default();
    match (new, output.json) {
        (Some(new), true) => shown["api_key"] = new.reveal().into(),
        (Some(new), false) => {
            let key = new.reveal();
            say!("API key, shown this once; give it to its owner:\n\n  {key}\n");
        }
        (None, _) => {}
    }
    table::print_one(&shown, output.json)
}
