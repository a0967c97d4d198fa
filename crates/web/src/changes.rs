//! Describes the changes between two catalogues, for operators.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use catalogue::{Catalogue, Pool, Readiness, ServerId, ServerRecord, ServerState};

/// The maximum number of changes described; the rest is only counted.
const MAX_CHANGES: usize = 20;

/// Whether a state is new or has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// It is new.
    Appeared,
    /// It was different before.
    Changed,
}

impl Since {
    fn ready(self) -> &'static str {
        match self {
            Self::Appeared => "is ready",
            Self::Changed => "became ready",
        }
    }
}

/// The changes: servers first, since they cause the changes of models. Secrets, which no document holds, are never shown.
pub(crate) fn changes(old: &Catalogue, new: &Catalogue) -> Vec<String> {
    let mut said = servers(old, new);
    said.extend(models(old, new));
    if said.len() > MAX_CHANGES {
        let more = said.len() - MAX_CHANGES + 1;
        said.truncate(MAX_CHANGES - 1);
        said.push(format!("and {more} more changes"));
    }
    said
}

fn servers(old: &Catalogue, new: &Catalogue) -> Vec<String> {
    let by_id = |catalogue| -> BTreeMap<&ServerId, &ServerRecord> {
        Catalogue::servers(catalogue).map(|server| (&server.spec.id, &**server)).collect()
    };
    let (before, after) = (by_id(old), by_id(new));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id));
    let gone = gone.map(|(_, server)| format!("server {} is gone", server.spec.name));
    let others = after.iter().flat_map(|(id, now)| match before.get(id) {
        Some(then) if then == now => Vec::new(),
        None => {
            vec![format!("server {} has appeared and {}", now.spec.name, state(now, Since::Appeared))]
        }
        Some(then) => server(then, now),
    });
    gone.chain(others).collect()
}

fn state(server: &ServerRecord, since: Since) -> String {
    match &server.state {
        ServerState::Ready if server.models.is_empty() => "answers, and has no models".into(),
        ServerState::Ready => since.ready().to_owned(),
        ServerState::Starting(why) => format!("is starting: {why}"),
        ServerState::Draining(why) => format!("has been withdrawn: {why}"),
        ServerState::Stopped(why) => format!("has stopped: {why}"),
    }
}

fn server(then: &ServerRecord, now: &ServerRecord) -> Vec<String> {
    let name = &now.spec.name;
    let mut said = Vec::new();
    if then.state.name() != now.state.name() {
        said.push(format!("server {name} {}", state(now, Since::Changed)));
    }
    if then.spec.incarnation != now.spec.incarnation {
        said.push(format!("server {name} was started anew"));
    }
    if then.spec.url != now.spec.url {
        said.push(format!("server {name} is now at {}", now.spec.url));
    }
    let names = |server: &ServerRecord| -> BTreeSet<String> {
        server.models.iter().map(|model| model.name.as_str().to_owned()).collect()
    };
    let (had, has) = (names(then), names(now));
    said.extend(has.difference(&had).map(|model| format!("server {name} now serves {model}")));
    said.extend(had.difference(&has).map(|model| format!("server {name} no longer serves {model}")));
    let (before, after) = (&then.spec, &now.spec);
    if before.settings != after.settings
        || before.model_settings != after.model_settings
        || before.base_path != after.base_path
        || before.credential != after.credential
    {
        said.push(format!("the settings of server {name} have changed"));
    }
    said
}

fn models(old: &Catalogue, new: &Catalogue) -> Vec<String> {
    let name = |pool: &Pool| match &pool.selector {
        None => pool.model.to_string(),
        Some(selector) => format!("{} for requests with {selector}", pool.model),
    };
    let by_name = |catalogue| -> BTreeMap<String, &Arc<Pool>> {
        Catalogue::pools(catalogue).map(|pool| (name(pool), pool)).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| format!("model {name} is gone"));
    let others = after.iter().filter_map(|(name, now)| {
        let readiness = now.readiness();
        match before.get(name) {
            None => Some(format!("model {name} has appeared and {}", words(readiness, Since::Appeared))),
            Some(then) if then.readiness() != readiness => {
                Some(format!("model {name} {}", words(readiness, Since::Changed)))
            }
            Some(then) if then.settings != now.settings || then.canonical != now.canonical => {
                Some(format!("the settings of model {name} have changed"))
            }
            Some(_) => None,
        }
    });
    gone.chain(others).collect()
}

fn words(readiness: Readiness, since: Since) -> &'static str {
    match readiness {
        Readiness::Ready => since.ready(),
        Readiness::Starting => "is starting",
        Readiness::Draining => "has no server that can take requests",
        Readiness::Stopped => "has no server that is running",
    }
}

#[cfg(test)]
mod tests {
    use catalogue::{LifecycleFinding, ServerUrl, Setting};

    use super::*;
    use crate::testing;

    fn server(name: &str, state: ServerState, models: &[&str]) -> ServerRecord {
        ServerRecord { state, ..testing::server(name, models) }
    }

    fn between(old: &[ServerRecord], new: &[ServerRecord]) -> Vec<String> {
        let catalogue = |servers: &[ServerRecord]| Catalogue::assemble(servers.to_vec(), Vec::new());
        changes(&catalogue(old), &catalogue(new))
    }

    #[test]
    fn servers_and_models_come_and_go() {
        let starting = || ServerState::Starting(LifecycleFinding::ModelsNotAsked.into());
        let a = |state| server("a", state, &["llama"]);
        assert_eq!(
            between(&[], &[a(ServerState::Ready)]),
            ["server a has appeared and is ready", "model llama has appeared and is ready"]
        );
        assert_eq!(
            between(&[], &[a(starting())]),
            [
                "server a has appeared and is starting: it has not been asked for its models yet",
                "model llama has appeared and is starting"
            ]
        );
        assert_eq!(
            between(&[a(starting())], &[a(ServerState::Ready)]),
            ["server a became ready", "model llama became ready"]
        );
        assert_eq!(
            between(
                &[a(ServerState::Ready)],
                &[a(ServerState::Draining(LifecycleFinding::ToldToStop.into()))]
            ),
            [
                "server a has been withdrawn: it has been told to stop",
                "model llama has no server that can take requests"
            ]
        );
        assert_eq!(
            between(&[a(ServerState::Ready)], &[a(ServerState::Stopped(LifecycleFinding::Removed.into()))]),
            ["server a has stopped: it has been removed", "model llama has no server that is running"]
        );
        assert_eq!(between(&[a(ServerState::Ready)], &[]), ["server a is gone", "model llama is gone"]);
    }

    #[test]
    fn what_a_server_serves_and_where() {
        let before = server("a", ServerState::Ready, &["llama", "qwen"]);
        let mut after = server("a", ServerState::Ready, &["llama", "phi"]);
        after.spec.url = ServerUrl::http("10.0.0.9", 8000);
        after.spec.incarnation = "2".into();
        after.spec.settings.weight = Some(2);
        assert_eq!(
            between(&[before], &[after]),
            [
                "server a was started anew",
                "server a is now at http://10.0.0.9:8000",
                "server a now serves phi",
                "server a no longer serves qwen",
                "the settings of server a have changed",
                "model qwen is gone",
                "model phi has appeared and is ready",
            ]
        );
    }

    #[test]
    fn settings_of_a_model() {
        let before = server("a", ServerState::Ready, &["llama"]);
        let mut after = before.clone();
        let (settings, model_settings) = (&mut after.spec.settings, &mut after.spec.model_settings);
        let strategy = Setting::find("strategy").expect("a setting");
        strategy.read("p2c", settings, model_settings).expect("allowed");
        assert_eq!(
            between(&[before], &[after]),
            ["the settings of server a have changed", "the settings of model llama have changed"]
        );
    }

    #[test]
    fn nothing_is_said_of_what_is_the_same() {
        let same = [server("a", ServerState::Ready, &["llama"])];
        assert!(between(&same, &same).is_empty());
    }

    #[test]
    fn a_thousand_changes_are_counted_rather_than_told() {
        let names: Vec<String> = (0..1000).map(|i| format!("model-{i:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = between(&[], &[server("a", ServerState::Ready, &names)]);
        assert_eq!(said.len(), MAX_CHANGES);
        assert_eq!(said[MAX_CHANGES - 1], "and 982 more changes");
    }
}
