//! Servers' lists of models: names are usable and unique, and each has a route of its own, whatever two servers call theirs.

use std::collections::HashMap;

use catalogue::{Catalogue, Kind, Problem, ServerState, parse_listing};

use super::labels::{assert_printable, assert_renders};
use crate::world::server;

/// Two lists, with a NUL between them.
pub(crate) fn run(data: &[u8]) {
    let servers: Vec<_> = data
        .split(|b| *b == 0)
        .take(2)
        .enumerate()
        .filter_map(|(number, body)| {
            let list = parse_listing(body).inspect_err(|error| {
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
            });
            let list = list.ok()?;
            assert!(list.cards.is_sorted_by(|a, b| a.name < b.name), "sorted, and each once");
            assert!(list.left_out.len() <= 11, "{}", list.left_out.len());
            for finding in &list.left_out {
                assert_printable(&Problem::server("a", finding.clone()));
            }
            for card in &list.cards {
                let name = card.name.as_str();
                assert!(
                    !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| (b' '..=b'~').contains(&b))
                );
                let texts = [&card.owned_by, &card.root, &card.parent].into_iter().flatten();
                texts.for_each(|text| assert!(text.len() <= 512 && !text.chars().any(char::is_control)));
            }
            let mut server = server(if number == 0 { "a" } else { "b" }, &[], &[]);
            server.state = ServerState::Ready;
            server.listed_as = list.kind;
            server.has_others = list.has_others;
            server.models = list.cards;
            Some(server)
        })
        .collect();
    let names: Vec<String> =
        servers.iter().flat_map(|s| s.models.iter().map(|card| card.name.as_str().to_owned())).collect();
    let kinds: Vec<Kind> = servers.iter().map(|server| server.listed_as).collect();
    let catalogue = Catalogue::assemble(servers, Vec::new());
    catalogue.problems().iter().chain(catalogue.hints()).for_each(assert_printable);
    for name in names {
        let pool = catalogue.pool(&name).unwrap_or_else(|| panic!("{name:?} is lost ({kinds:?})"));
        assert!(!pool.ready.is_empty(), "{name:?}");
    }
    let mut routes: HashMap<&str, &str> = HashMap::new();
    for pool in catalogue.pools() {
        for group in &pool.groups {
            let id = group.route.as_str();
            assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id:?}");
            let model = pool.canonical.as_str();
            let other = routes.insert(id, model);
            assert!(other.is_none_or(|other| other == model), "{id:?} is {model:?} and {other:?}");
        }
    }
    assert_renders(&catalogue, data);
}
