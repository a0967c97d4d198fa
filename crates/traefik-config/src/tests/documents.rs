//! Properties of every document.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    golden::{balanced, edge},
    *,
};

/// Everything that is referred to exists, and everything that exists is referred to.
fn check_references(http: &Http) {
    let mut middlewares = BTreeSet::from([MODELGATE_SERVICE, SIZED_GATE, WEBSOCKET_GATE]);
    let mut services = Vec::new();
    for (name, router) in &http.routers {
        middlewares.extend(router.middlewares.iter().map(String::as_str));
        services.extend(router.service.as_deref().filter(|s| *s != "noop@internal"));
        assert!(
            router.service.is_some() || http.routers.values().any(|r| r.parent_refs.contains(name)),
            "{name}"
        );
        assert!(router.parent_refs.iter().all(|parent| http.routers.contains_key(parent)), "{name}");
    }
    for middleware in http.middlewares.values() {
        match middleware {
            Middleware::Chain(chain) => middlewares.extend(chain.middlewares.iter().map(String::as_str)),
            Middleware::Errors(page) if page.service != "noop@internal" => services.push(page.service),
            _ => {}
        }
    }
    for service in http.services.values() {
        if let Service::Guarded(guarded) = service {
            middlewares.extend(guarded.middlewares.iter().map(String::as_str));
        }
    }
    assert_eq!(middlewares, http.middlewares.keys().map(String::as_str).collect());
    let (mut used, mut transports) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = services.pop() {
        if !used.insert(name) {
            continue;
        }
        match http.services.get(name).unwrap_or_else(|| panic!("no service {name}")) {
            Service::LoadBalancer(found) => {
                transports.insert(found.servers_transport.as_str());
                assert!(!found.servers.is_empty(), "{name}");
            }
            Service::Weighted(found) => services.extend(found.services.iter().map(|s| s.name.as_str())),
            Service::Guarded(found) => {
                services.extend(found.weighted.services.iter().map(|s| s.name.as_str()));
            }
            Service::Failover(found) => services.extend([found.service.as_str(), &found.fallback]),
            Service::Mirroring(found) => {
                services.push(&found.service);
                services.extend(found.mirrors.iter().map(|m| m.name.as_str()));
            }
        }
    }
    assert_eq!(used, http.services.keys().map(String::as_str).collect());
    assert_eq!(transports, http.servers_transports.keys().map(String::as_str).collect());
}

const VERSIONS: [&str; 8] = ["3.0.0", "3.2.0", "3.3.0", "3.4.0", "3.6.1", "3.6.2", "3.6.9", "3.7.15"];

#[test]
fn all_that_is_referred_to_is_there() {
    for traefik in VERSIONS {
        for options in
            [options(traefik), edge(traefik), RenderOptions { max_chunked_body: 0, ..options(traefik) }]
        {
            check_references(&render_servers(balanced(), &options).http);
            check_references(&render_servers(Vec::new(), &options).http);
        }
    }
}

/// A client behind a proxy could otherwise name another path than the one that it requests.
#[test]
fn what_proxies_forward_is_believed_only_after_all_but_addresses_is_gone() {
    for traefik in VERSIONS {
        let document = render_servers(balanced(), &edge(traefik));
        let http = &document.http;
        let of_routers = http.routers.values().map(|router| &router.middlewares);
        let of_chains = http.middlewares.values().filter_map(|middleware| match middleware {
            Middleware::Chain(chain) => Some(&chain.middlewares),
            _ => None,
        });
        let mut believing = 0;
        for names in of_routers.chain(of_chains) {
            for (i, name) in names.iter().enumerate() {
                if let Middleware::ForwardAuth(auth) = &http.middlewares[name] {
                    assert!(auth.trust_forward_header, "{traefik} {name}: whose address?");
                    assert!(
                        names[..i].iter().any(|before| before == "modelgate-forwarded"),
                        "{traefik} {name}"
                    );
                    believing += 1;
                }
            }
        }
        assert!(believing > 4, "{traefik}: {believing}");
        let json = render_servers(balanced(), &options(traefik)).to_json_pretty();
        assert!(!json.contains("\"trustForwardHeader\": true") && !json.contains("modelgate-forwarded"));
    }
}

#[test]
fn a_credential_is_in_no_document_and_no_message() {
    for traefik in VERSIONS {
        let document = render_servers(vec![cloud("cloud", &["gpt"])], &options(traefik));
        assert!(document.to_json_pretty().contains("https://cloud.example.com"));
        assert!(!document.to_json_pretty().contains("sk-secret"), "{traefik}");
        let catalogue = Catalogue::assemble(balanced(), Vec::new());
        assert!(!format!("{:?}", shortcomings(&catalogue, &options(traefik))).contains("sk-secret"));
    }
}

#[test]
fn a_longer_rule_of_the_users_own_keeps_its_requests() {
    for traefik in ["3.3.0", "3.7.15"] {
        let document = render_servers(balanced(), &options(traefik));
        let theirs = "Host(`app.example.com`) && PathPrefix(`/v1`)".len();
        for (name, router) in document.http.routers.iter().filter(|(_, r)| r.parent_refs.is_empty()) {
            assert!(router.priority.is_some_and(|p| p < theirs), "{name}");
        }
    }
}

#[test]
fn every_root_router_has_the_middlewares_of_the_edge() {
    for traefik in ["3.0.0", "3.7.15"] {
        let document = render_servers(balanced(), &edge(traefik));
        for (name, router) in document.http.routers.iter().filter(|(_, r)| r.parent_refs.is_empty()) {
            if name != "modelgate-redirect" {
                assert_eq!(router.middlewares[..2], ["modelgate-allow", "modelgate-headers"], "{name}");
                assert!(router.tls.is_some() && router.rule.contains("Host(`code.example.com`)"), "{name}");
            } else {
                assert_eq!((&router.entry_points, &router.tls), (&vec!["web".to_owned()], &None));
            }
        }
        let Middleware::Headers(headers) = &document.http.middlewares["modelgate-headers"] else { panic!() };
        assert!(headers.access_control_allow_headers.contains(&"x-model".to_owned()));
    }
}

#[test]
fn what_a_version_cannot_do_is_said() {
    let said = |servers: Vec<ServerRecord>, traefik: &str| {
        let found = shortcomings(&Catalogue::assemble(servers, Vec::new()), &options(traefik));
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let model = |settings: &[(&str, &str)]| vec![set(server("a", "/v1", &["llama"]), settings)];
    for (settings, too_old, enough, message) in [
        (&[("strategy", "p2c")][..], "3.3.7", "3.4.0", "strategy=p2c needs Traefik 3.4"),
        (&[("strategy", "leasttime")], "3.5.6", "3.6.0", "strategy=leasttime needs Traefik 3.6"),
        (&[("passive_healthcheck.max_failed_attempts", "1")], "3.5.6", "3.6.0", "passive_healthcheck needs"),
        (&[("concurrency.max", "1")], "3.6.1", "3.6.2", "count by body size"),
        (&[("strategy", "cache")], "3.6.1", "3.6.2", "strategy=cache needs Traefik 3.6.2"),
    ] {
        assert!(said(model(settings), too_old).contains(message), "{message}");
        assert!(!said(model(settings), enough).contains(message), "{message}");
    }
    // Among several servers, each must be checked.
    let chosen = |path| {
        let settings = [("strategy", "cache"), ("healthcheck.path", path)];
        ["a", "b"].map(|name| set(server(name, "/v1", &["llama"]), &settings)).to_vec()
    };
    let unchecked = |path, traefik| {
        let found = shortcomings(&Catalogue::assemble(chosen(path), Vec::new()), &options(traefik));
        found.iter().filter(|found| found.code() == "traefik_choice_unchecked").count()
    };
    for (path, traefik, count) in
        [("off", "3.6.2", 1), ("/health", "3.6.2", 0), ("off", "3.7.0", 0), ("off", "3.6.1", 0)]
    {
        assert_eq!(unchecked(path, traefik), count, "{path}, {traefik}");
    }
    let choice = || vec![server("a", "/v1", &["llama", "qwen"])];
    assert!(
        said(choice(), "3.2.5")
            .contains("model \"llama\": it is left out: a server of it has other models too")
    );
    assert!(!said(choice(), "3.3.0").contains("left out"));
    let bases = || vec![server("a", "/v1", &["llama"]), server("b", "/", &["llama"])];
    assert!(said(bases(), "3.1.0").contains("differ in their base paths"));
    assert_eq!(said(bases(), "3.6.2"), "");
    let backup = |path| {
        let mut servers = model(&[("healthcheck.path", path), ("failover.status", "500")]);
        servers.push(set(server("b", "/v1", &["llama"]), &[("priority", "1")]));
        servers
    };
    assert!(said(backup("off"), "3.6.2").contains("only once Modelgate has found all of them gone"));
    assert!(said(backup("off"), "3.6.2").contains("failover.status needs Traefik 3.7"));
    assert_eq!(said(backup("off"), "3.7.0"), "");
}

proptest! {
    #[test]
    fn no_name_of_a_model_or_server_leaves_its_string(name in "[ -~]{1,60}", flat in any::<bool>()) {
        if let Ok(model) = ModelName::new(&name) {
            let options = options(if flat { "3.5.0" } else { "3.6.2" });
            let document = render_servers(vec![server("s", "/v1", &[model.as_str(), "other"])], &options);
            check_references(&document.http);
            for (router, r) in &document.http.routers {
                prop_assert!(router.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
                prop_assert_eq!(r.rule.matches('`').count() % 2, 0);
            }
            // An escaped character ends with a brace, so a name that begins with a brace may look unescaped.
            let escaped = |b: u8| !b.is_ascii_alphanumeric() && !matches!(b, b'-' | b'}');
            let telling = model.as_str().bytes().any(escaped) && name.len() > 4;
            let json = String::from_utf8(document.to_json()).expect("JSON is UTF-8");
            let raw = format!("{}$", model.as_str());
            prop_assert!(!telling || !json.contains(&raw));
        }
    }

    #[test]
    fn the_same_state_gives_the_same_bytes(mut order in Just((0..14usize).collect::<Vec<_>>()).prop_shuffle(), at in 0..VERSIONS.len()) {
        let build = |order: &[usize]| {
            let mut all: Vec<_> = balanced().into_iter().map(Some).collect();
            let servers = order.iter().map(|i| all[*i].take().expect("each once")).collect();
            render_servers(servers, &options(VERSIONS[at])).to_json()
        };
        let shuffled = build(&order);
        order.sort_unstable();
        prop_assert_eq!(shuffled, build(&order));
    }
}

/// A Traefik that is older than `traefik.version` loses the document without a word to anybody but its own log.
/// llama.cpp closes connections soon after an answer, and what is sent over a closed one is lost where it is not sent again.
#[test]
fn who_drops_connections_gets_new_ones_where_nothing_is_sent_again() {
    let idle = |server: ServerRecord, traefik: &str| {
        let document = render_servers(vec![server], &options(traefik));
        let http = document.http;
        let balancers = http.services.values().filter_map(|service| match service {
            Service::LoadBalancer(balancer) if balancer.servers_transport.starts_with("inference") => {
                Some(balancer)
            }
            _ => None,
        });
        let transports = balancers.map(|balancer| &http.servers_transports[&balancer.servers_transport]);
        transports.map(|transport| transport.max_idle_conns_per_host).collect::<Vec<_>>()
    };
    for (traefik, setting, most) in [
        ("3.6.2", None, -1),
        ("3.3.6", None, -1),
        ("3.6.2", Some(("timeout.idle", "30s")), -1),
        ("3.7.0", None, 200),
        ("3.7.0", Some(("timeout.idle", "30s")), 200),
        ("3.7.0", Some(("retry.attempts", "1")), -1),
    ] {
        for (kind, most) in [("llamacpp", most), ("llamacpp-router", most), ("vllm", 200), ("other", 200)] {
            let found = idle(set(of_kind(server("a", "/v1", &["llama"]), kind), setting.as_slice()), traefik);
            let as_expected = !found.is_empty() && found.iter().all(|found| *found == most);
            assert!(as_expected, "{kind}, {traefik}, {setting:?}: {found:?}");
        }
    }
}

#[test]
fn an_older_traefik_than_told_is_named() {
    for (seen, told, is_named) in [
        ("v3.5.3", "3.6.2", true),
        ("2.11.0", "3.0.0", true),
        ("v3.6.2", "3.6.2", false),
        ("v3.7.15", "3.6.2", false),
        ("nightly", "3.6.2", false),
    ] {
        let traefiks = vec![catalogue::TraefikSeen { container: "edge".into(), version: seen.into() }];
        let catalogue = Catalogue::default().with_traefiks(traefiks);
        let found = shortcomings(&catalogue, &options(told));
        let named = found.iter().find(|it| it.code() == "traefik_older_than_told");
        assert_eq!(named.is_some(), is_named, "{seen}, {told}");
        if let Some(named) = named {
            let text = format!("{named} {}", named.advice());
            for part in ["container edge", seen, told, "only in its own log"] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(named.advice().starts_with("Raise Traefik, or set traefik.version"), "{text}");
        }
    }
}
