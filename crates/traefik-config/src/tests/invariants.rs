//! Invariants of every golden document, read as Traefik reads it.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::MODELGATE_SERVICE;

fn documents() -> BTreeMap<String, Value> {
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")).expect("golden documents");
    let read = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).expect("a document");
        let json = text.splitn(3, "---\n").nth(2).expect("what follows the header");
        let name = entry.file_name().to_string_lossy().into_owned();
        name.ends_with(".snap").then(|| (name, serde_json::from_str(json).expect("JSON")))
    };
    let documents: BTreeMap<_, _> = folder.filter_map(|entry| read(entry.expect("a file"))).collect();
    assert!(documents.len() >= 13, "{documents:?}");
    documents
}

/// The middlewares of a router, in the order in which a request meets them.
struct Passage<'d> {
    name: &'d str,
    /// The router's rule; empty for routers that the operator writes.
    rule: &'d str,
    middlewares: Vec<(&'d str, &'d Value)>,
}

impl Passage<'_> {
    /// Whether the rule admits only requests whose length it bounds.
    fn bounds_bodies(&self) -> bool {
        self.rule.contains(" && !HeaderRegexp(`Content-Length`, `[^0-9]|^0.|")
            || self.name == "modelgate-sized"
    }

    fn has_before(&self, at: usize, name: &str) -> bool {
        self.middlewares[..at].iter().any(|(before, _)| *before == name)
    }
}

/// One for each router, and one for each middleware for handwritten routers.
fn passages(document: &Value) -> Vec<Passage<'_>> {
    let http = &document["http"];
    let named = |list: &'_ Value| -> Vec<String> {
        let names = list.as_array().into_iter().flatten();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let find = |names: Vec<String>| {
        let all = http["middlewares"].as_object().expect("middlewares");
        names.iter().map(|name| all.get_key_value(name).map(|(k, v)| (k.as_str(), v)).expect("one")).collect()
    };
    let routers = http["routers"].as_object().expect("routers").iter().map(|(name, router)| Passage {
        name,
        rule: router["rule"].as_str().expect("a rule"),
        middlewares: find(named(&router["middlewares"])),
    });
    let chains = http["middlewares"].as_object().expect("middlewares").iter();
    let chains = chains.filter(|(_, middleware)| !middleware["chain"].is_null()).map(|(name, middleware)| {
        Passage { name, rule: "", middlewares: find(named(&middleware["chain"]["middlewares"])) }
    });
    routers.chain(chains).collect()
}

/// Traefik allocates every number here for each request, however short, without warning: with three such middlewares requests
/// of 2 KB ran at a third of the speed.
#[test]
fn nothing_is_set_aside_where_a_rule_bounds_the_body() {
    for (document, json) in documents() {
        let mut questions = 0;
        for passage in passages(&json) {
            for (name, middleware) in &passage.middlewares {
                let auth = &middleware["forwardAuth"];
                let answer = &auth["maxResponseBodySize"];
                assert!(answer.is_null() || answer == -1, "{document} {name}: {answer}");
                if auth["forwardBody"] == true {
                    questions += 1;
                    let body = auth["maxBodySize"].as_i64().expect("a number, lest Traefik warn");
                    assert_eq!(passage.bounds_bodies(), body == -1, "{document} {}: {body}", passage.name);
                }
                let retry = &middleware["retry"];
                assert!(retry["status"].is_null() || retry["maxRequestBodyBytes"] == -1, "{document} {name}");
            }
        }
        let shows_bodies = json.to_string().contains("forwardBody");
        assert!(questions > 6 || !shows_bodies, "{document}: {questions}");
        for (name, service) in json["http"]["services"].as_object().expect("services") {
            let errors = &service["failover"]["errors"];
            assert!(errors.is_null() || errors["maxRequestBodyBytes"] == -1, "{document} {name}");
            assert!(service["mirroring"]["maxBodySize"].is_null() || !shows_bodies, "{document} {name}");
        }
    }
}

/// A client without a key could fill Traefik's memory with bodies that never end.
#[test]
fn the_key_comes_before_a_body_that_is_large_or_has_no_length() {
    for (document, json) in documents() {
        for passage in passages(&json) {
            let small = passage
                .rule
                .contains(" && HeaderRegexp(`Content-Length`, `.`) && !HeaderRegexp(`Content-Length`, ")
                || passage.name == "modelgate-sized";
            for (at, (_, middleware)) in passage.middlewares.iter().enumerate() {
                let auth = &middleware["forwardAuth"];
                let is_small = small || auth["maxBodySize"] == 0;
                if auth["forwardBody"] == true && !is_small {
                    assert!(passage.has_before(at, "modelgate-key"), "{document} {}", passage.name);
                }
                if auth["address"].as_str().is_some_and(|address| address.ends_with("/auth?key")) {
                    let strips = ["authResponseHeaders", "authResponseHeadersRegex", "forwardBody"];
                    assert!(
                        strips.iter().all(|field| auth[field].is_null()),
                        "{document}: the second sees no key"
                    );
                }
            }
        }
    }
}

/// Whatever a server answers with 101 is a tunnel past keys, models and limits; trailers come after the decision.
#[test]
fn an_upgrade_is_a_websocket_or_goes_no_further_and_trailers_are_left_behind() {
    for (document, json) in documents() {
        for passage in passages(&json) {
            let questions = passage.middlewares.iter().enumerate();
            let questions =
                questions.filter(|(_, (_, m))| !m["forwardAuth"]["authResponseHeaders"].is_null());
            for (at, (name, middleware)) in questions {
                let deleted = middleware["forwardAuth"]["authResponseHeaders"].to_string();
                assert!(deleted.contains("\"HTTP2-Settings\""), "{document} {name}");
                let websocket = passage.middlewares[..at]
                    .iter()
                    .find(|(_, m)| m["headers"]["customRequestHeaders"]["Upgrade"] == "websocket");
                assert_ne!(websocket.is_some(), deleted.contains("\"Upgrade\""), "{document} {name}");
                let hides_origin = passage.middlewares[..at]
                    .iter()
                    .any(|(_, m)| m["headers"]["customRequestHeaders"]["Connection"] == "Origin");
                let keeps_connection = websocket.is_some() || hides_origin;
                assert_ne!(keeps_connection, deleted.contains("\"Connection\""), "{document} {name}");
                if middleware["forwardAuth"]["forwardBody"] == true && !passage.bounds_bodies() {
                    assert!(passage.has_before(at, "modelgate-copy"), "{document} {}", passage.name);
                }
            }
        }
        assert!(json["http"]["middlewares"][MODELGATE_SERVICE]["chain"].is_object(), "{document}");
    }
}
