use std::collections::BTreeSet;

use catalogue::Api;

use super::*;
use crate::read::{Closed, changes_a_model, closed};

fn door(kind: Kind, base_path: &str, paths: &str) -> Door {
    let mut settings = catalogue::ServerSettings::default();
    if !paths.is_empty() {
        let setting = catalogue::Setting::find("paths").expect("the setting");
        setting.read(paths, &mut settings, &mut Default::default()).expect(paths);
    }
    Door {
        kind,
        base_path: BasePath::parse(base_path).expect("a base path"),
        paths: settings.paths,
        websockets: false,
    }
}

#[test]
fn what_is_open_is_what_is_named() {
    let vllm = door(Kind::Vllm, "/v1", "");
    for (method, path, expected) in [
        ("POST", "/v1/chat/completions", Some(Class::Open)),
        ("POST", "/v1/chat/completions/", Some(Class::Open)),
        ("POST", "/pooling", Some(Class::Open)),
        ("HEAD", "/health", Some(Class::Open)),
        ("GET", "/v1/responses/resp_1", Some(Class::Stored)),
        ("POST", "/fault_tolerance/apply", Some(Class::Manage)),
        ("PUT", "/metrics/x", Some(Class::Manage)),
        ("POST", "/invocations", Some(Class::Never)),
        // Another method, another spelling, or a new path.
        ("DELETE", "/v1/chat/completions", None),
        ("POST", "/V1/chat/completions", None),
        ("POST", "/v1/chat/completions;x", None),
        ("POST", "/v1/chat/completions//", None),
        ("POST", "/v1//chat/completions", None),
        ("POST", "/v1/v1/chat/completions", None),
        ("POST", "/metricsx", None),
        ("POST", "/v1/new", None),
        ("GET", "/v1/responses/", None),
        ("POST", "/v1/responses//cancel", None),
        ("POST", "", None),
    ] {
        assert_eq!(class(&vllm, method, path), expected, "{method} {path}");
    }
    assert_eq!(class(&door(Kind::Other, "/v1", ""), "PATCH", "/anything"), Some(Class::Open));
    assert_eq!(class(&door(Kind::Other, "/v1", ""), "GET", "/v1/files/f/content"), Some(Class::Stored));
    assert_eq!(class(&door(Kind::Provider, "/v1", ""), "GET", "/v1/organization/users"), Some(Class::Manage));
    assert_eq!(class(&door(Kind::Provider, "/v1", ""), "POST", "/v1/something/new"), None);
}

/// Traefik replaces `/v1/…` by the server's own base path.
#[test]
fn a_base_path_stands_for_v1() {
    for base in ["/api/openai", "/"] {
        let vllm = door(Kind::Vllm, base, "");
        let own = base.trim_end_matches('/');
        for (path, expected) in [
            ("/v1/chat/completions".to_owned(), Some(Class::Open)),
            (format!("{own}/chat/completions"), Some(Class::Open)),
            ("/tokenize".into(), Some(Class::Open)),
            (format!("{own}/v1/new"), None),
        ] {
            assert_eq!(class(&vllm, "POST", &path), expected, "{base}: {path}");
        }
    }
    assert_eq!(
        class(&door(Kind::Tei, "/", ""), "POST", "/v1/embed"),
        Some(Class::Open),
        "the server sees /embed"
    );
    assert_eq!(class(&door(Kind::Tei, "/v1", ""), "POST", "/v1/embed"), None);
}

#[test]
fn an_operator_says_which_paths_are_open() {
    let app = door(Kind::Other, "/v1", "/predict, /jobs/*, /");
    for (path, open) in [
        ("/predict", true),
        ("/", true),
        ("/jobs/1/result", true),
        ("/jobs", false),
        ("/predictions", false),
        ("/predict/more", false),
        ("/v1/chat/completions", false),
    ] {
        assert_eq!(class(&app, "POST", path).is_some(), open, "{path}");
    }
    // By the path that the server sees, a known kind opens more, or less.
    let vllm = door(Kind::Vllm, "/api", "/api/new");
    assert_eq!(class(&vllm, "POST", "/v1/new"), Some(Class::Open));
    assert_eq!(class(&vllm, "POST", "/v1/chat/completions"), None);
    let all = door(Kind::Vllm, "/v1", "/*");
    assert_eq!(class(&all, "POST", "/whatever/it/is"), Some(Class::Open));
}

/// Whether servers of other kinds use a path for something harmless.
fn is_ambiguous(path: &str) -> bool {
    const NAMES: [&str; 11] = [
        "/models",
        "/load",
        "/v1/loads",
        "/stats",
        "/send",
        "/route",
        "/gate/activate",
        "/predict",
        "/vertex",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/control",
    ];
    NAMES
        .iter()
        .any(|name| path == *name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
        || path.starts_with("/v1/org")
        || path.starts_with("/v1/projects")
}

/// A server of unknown kind must not be less protected against known management paths.
#[test]
fn what_manages_a_known_server_is_closed_at_unknown_ones_too() {
    // Many other programs use the paths that llama-swap has for management.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::LlamaSwap) {
        for route in routes_of(kind) {
            let path = route.path.replace("{*}", "x").replace("{}", "x");
            let method = if route.method == "*" { "POST" } else { route.method };
            let changes = || changes_a_model(&path, method).then_some(Closed::ToMost);
            let found = closed(&path).or_else(changes);
            match route.class {
                Class::Manage | Class::Never => {
                    assert!(found.is_some() || is_ambiguous(route.path), "{kind:?} {route:?} is not closed");
                }
                // Modelgate answers lists itself; a server's own list is for keys that manage it.
                Class::Open if route.path == "/api/tags" || route.path.starts_with("/api/experimental") => {}
                _ => assert_eq!(found, None, "{kind:?} {route:?}"),
            }
        }
    }
}

/// The routes that real servers report: one line per route.
const SEEN: [(Kind, &str); 2] = [
    (Kind::Vllm, include_str!("seen/vllm-0.32.0.txt")),
    (Kind::LlamaCpp, include_str!("seen/llamacpp-b11434.txt")),
];

/// Each route must be given a class.
#[test]
fn every_route_that_was_seen_is_judged() {
    for (kind, seen) in SEEN {
        let routes: Vec<&str> = seen.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(routes.len() > 40, "{kind:?}");
        for line in routes {
            let (method, path) = line.split_once(' ').expect("a method and a path");
            let parts = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
            let path = parts.collect::<Vec<_>>().join("/");
            assert!(listed(kind, method, &path).is_some(), "{kind:?}: {line} is in no list");
        }
    }
}

#[test]
fn no_route_is_listed_twice() {
    for kind in Kind::ALL {
        let mut seen = BTreeSet::new();
        for route in routes_of(kind) {
            assert!(route.path.starts_with('/'), "{route:?}");
            assert!(seen.insert((route.method, route.path)), "{kind:?}: {route:?}");
        }
        assert!(!source_of(kind).is_empty() && seen.len() > 9, "{kind:?}");
    }
}

#[test]
fn paths_on_which_servers_look_for_a_model() {
    for path in
        ["/v1/chat/completions", "/V1/Embeddings/", "/api/chat", "/api/v2/rerank", "/v1/audio/speech;x"]
    {
        assert!(takes_a_model(path), "{path}");
    }
    for path in ["/generate", "/predict", "/v1/predict", "/v1", "/embed", "", "/v1/responses/resp_1"] {
        assert!(!takes_a_model(path), "{path}");
    }
}

/// What may be offered beside `/v1` is what servers of that kind open to every key.
#[test]
fn what_apis_offer_is_open() {
    for (api, kinds) in [
        (Api::LlamaCpp, &[Kind::LlamaCpp, Kind::LlamaCppRouter][..]),
        (Api::Cohere, &[Kind::Provider]),
        (Api::Vllm, &[Kind::Vllm]),
        (Api::Tei, &[Kind::Tei]),
    ] {
        assert!(!api.paths().is_empty());
        for (path, kind) in api.paths().iter().flat_map(|path| kinds.iter().map(move |kind| (*path, *kind))) {
            let method = if path == "/info" { "GET" } else { "POST" };
            assert_eq!(
                class(&door(kind, "/v1", ""), method, path),
                Some(Class::Open),
                "{} {path}",
                kind.name()
            );
            assert!(closed(path).is_none(), "{path}");
        }
    }
}

/// An Ollama client is told of a model's capabilities only where each server answers in Ollama's API.
#[test]
fn a_group_speaks_ollama_if_each_of_its_servers_does() {
    let speaks_so = |kinds: &[Kind]| {
        let records = kinds.iter().enumerate().map(|(i, kind)| catalogue::ServerRecord {
            spec: catalogue::ServerSpec::configured(&format!("s{i}"), catalogue::ServerUrl::http("a", 1)),
            state: catalogue::ServerState::Ready,
            listed_as: *kind,
            has_others: false,
            models: vec![catalogue::ModelCard::named(catalogue::ModelName::new("m").expect("a name"))],
        });
        let catalogue = catalogue::Catalogue::assemble(records, Vec::new());
        speaks_ollama(catalogue.pool("m").and_then(|pool| pool.group()).expect("a group"))
    };
    for (kinds, speaks) in [
        (&[Kind::Ollama][..], true),
        (&[Kind::Vllm], false),
        (&[Kind::Ollama, Kind::Vllm], false),
        (&[Kind::Ollama, Kind::Ollama], true),
    ] {
        assert_eq!(speaks_so(kinds), speaks, "{kinds:?}");
    }
}

/// An application's own `/files` is its own; below an API's prefix it is what everybody's files are.
#[test]
fn a_path_of_an_unknown_server_is_an_apis_only_below_its_prefix() {
    for (path, class) in [
        ("/files/a", Class::Open),
        ("/batches", Class::Open),
        ("/v1/files/a", Class::Stored),
        ("/api/v1/batches", Class::Jobs),
        ("/responses/r", Class::Stored),
        ("/conversations/c", Class::Stored),
        ("/predict", Class::Open),
        ("/v1/files/", Class::Stored),
        ("/v1/files//a", Class::Open),
    ] {
        assert_eq!(class_of_unknown("GET", path), class, "{path}");
    }
}

#[test]
fn a_class_and_a_list_say_what_they_are() {
    let classes = [Class::Open, Class::Stored, Class::Jobs, Class::Manage, Class::Never];
    let meanings: BTreeSet<&str> = classes.into_iter().map(Class::meaning).collect();
    assert!(meanings.len() == classes.len() && meanings.contains("open") && !meanings.contains(""));
    assert!(source_of(Kind::Vllm).starts_with("vLLM "), "{}", source_of(Kind::Vllm));
}

/// Behind another base path, `/v1` becomes it; behind `/v1` nothing changes.
#[test]
fn a_path_is_judged_as_the_server_sees_it() {
    for (base, seen, at_server) in [
        ("/v1", "/v1/models", "/v1/models"),
        ("/", "/v1/models", "/models"),
        ("/openai/v1", "/v1/models", "/openai/v1/models"),
        ("/openai/v1", "/health", "/health"),
        ("/openai/v1", "/v1", "/v1"),
    ] {
        assert_eq!(path_at(seen, &BasePath::parse(base).expect(base)), at_server, "{base} {seen}");
    }
}
