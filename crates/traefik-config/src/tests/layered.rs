use super::*;

fn names(document: &Document, prefix: &str) -> usize {
    document.http.services.keys().filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn a_hostile_model_name_changes_no_rule() {
    let hostile = "x`) || PathPrefix(`/";
    let document = render_servers(vec![server("s", "/v1", &[hostile])], &RenderOptions::default());
    assert!(!String::from_utf8(document.to_json()).expect("JSON is UTF-8").contains(hostile));
    let router = router(&document, "x-pathprefix-");
    assert_eq!(router.rule.matches('`').count(), 4, "{}", router.rule);
}

#[test]
fn one_base_path_is_put_in_place_of_v1() {
    let document = render_servers(vec![server("a", "/api/openai", &["m"])], &RenderOptions::default());
    let router = router(&document, "m-");
    let last = router.middlewares.last().expect("middlewares");
    let Middleware::ReplacePathRegex(replace) = &document.http.middlewares[last] else { panic!("{last}") };
    assert_eq!((replace.regex.as_str(), replace.replacement.as_str()), ("^/v1/(.*)$", "/api/openai/${1}"));
    assert_eq!(load_balancer(service(&document, router)).servers[0].url, "http://a:8000");
}

#[test]
fn different_base_paths_are_put_in_place_of_v1_for_each_server_on_its_own() {
    let servers =
        vec![server("a", "/v1", &["m"]), server("b", "/api/openai", &["m"]), server("c", "/", &["m"])];
    let document = render_servers(servers, &RenderOptions::default());
    let under_v1 = document.http.routers.iter().find(|(name, _)| name.ends_with("-v1")).expect("a router").1;
    assert!(under_v1.rule.contains("PathPrefix(`/v1/`)") && under_v1.rule.contains("PathRegexp(`^/models/"));
    let mut urls = Vec::new();
    let Service::Weighted(groups) = service(&document, under_v1) else {
        panic!("each has a check of its own")
    };
    assert!(groups.health_check.is_some(), "Traefik checks all of them");
    for group in &groups.services {
        let group = load_balancer(&document.http.services[&group.name]);
        let check = group.health_check.as_ref().expect("a check").path.clone();
        urls.extend(group.servers.iter().map(|s| (s.url.clone(), s.preserve_path, check.clone())));
    }
    urls.sort();
    let url = |url: &str, preserve: bool, check: &str| (url.to_owned(), preserve, check.to_owned());
    assert_eq!(
        urls,
        [
            url("http://a:8000/v1", true, "/v1/models"),
            url("http://b:8000/api/openai", true, "/api/openai/models"),
            url("http://c:8000", false, "/models")
        ]
    );
    let rest =
        document.http.routers.iter().find(|(name, _)| name.starts_with("m-") && !name.ends_with("-v1"));
    let Service::Weighted(groups) = service(&document, rest.expect("a router").1) else { panic!() };
    let first = load_balancer(&document.http.services[&groups.services[0].name]);
    assert!(!first.servers[0].preserve_path, "a path outside /v1 is the server's own");
}

#[test]
fn models_of_the_same_servers_share_a_service() {
    let document = render_servers(
        vec![server("a", "/v1", &["m1", "m2"]), server("b", "/v1", &["m2"])],
        &RenderOptions::default(),
    );
    assert_eq!(document.http.services.len(), 3, "Modelgate, a, and a with b");
    assert_eq!(document.http.routers.values().filter(|r| r.rule.starts_with("Header(")).count(), 2);
}

#[test]
fn a_model_without_a_ready_server_has_no_router() {
    let mut starting = server("a", "/v1", &["m"]);
    starting.state = ServerState::Starting(catalogue::LifecycleFinding::HealthcheckPending.into());
    let document = render_servers(vec![starting], &RenderOptions::default());
    assert!(!document.http.routers.keys().any(|name| name.starts_with("m-")));
    let unrouted = router(&document, "modelgate-unrouted");
    assert_eq!(unrouted.parent_refs.len(), 6, "a root without children would be invalid");
}

#[test]
fn weights_are_written_for_all_servers_or_none() {
    let weights = |settings: &[(&str, &str)]| {
        let servers = vec![server("a", "/v1", &["m"]), set(server("b", "/v1", &["m"]), settings)];
        let document = render_servers(servers, &RenderOptions::default());
        let found = load_balancer(service(&document, router(&document, "m-")));
        found.servers.iter().map(|s| s.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[]), [None, None]);
    assert_eq!(weights(&[("weight", "1")]), [None, None]);
    assert_eq!(weights(&[("weight", "3")]), [Some(1), Some(3)]);
}

#[test]
fn backups_follow_by_priority_if_traefik_can_tell_that_a_primary_is_down() {
    let failovers = |traefik: &str, settings: &[(&str, &str)]| {
        let level = |name, priority| set(server(name, "/v1", &["m"]), &[("priority", priority)]);
        let servers = vec![set(level("a", "0"), settings), level("b", "1"), level("c", "5")];
        let document = render_servers(servers, &options(traefik));
        (names(&document, "failover-"), names(&document, "servers-"))
    };
    assert_eq!(failovers("3.6.2", &[]), (2, 3));
    assert_eq!(failovers("3.6.2", &[("healthcheck.path", "off")]), (0, 1));
    assert_eq!(failovers("3.6.2", &[("healthcheck.path", "off"), ("failover.status", "500")]), (0, 1));
    assert_eq!(failovers("3.7.0", &[("healthcheck.path", "off"), ("failover.status", "500")]), (2, 3));
}

#[test]
fn a_server_with_a_credential_is_not_checked_without_it() {
    let check = |settings: &[(&str, &str)]| {
        let document =
            render_servers(vec![set(cloud("cloud", &["gpt"]), settings)], &RenderOptions::default());
        let found = load_balancer(service(&document, router(&document, "gpt-")));
        assert!(!found.pass_host_header, "its name is not ours");
        assert_eq!(
            document.http.servers_transports[&found.servers_transport].forwarding_timeouts.dial_timeout,
            "5s"
        );
        found.health_check.as_ref().map(|check| check.path.clone())
    };
    assert_eq!(check(&[]), None);
    assert_eq!(check(&[("healthcheck.path", "/health")]).as_deref(), Some("/health"));
}

#[test]
fn each_leg_has_a_router() {
    let servers = vec![server("local", "/v1", &["gpt"]), set(cloud("cloud", &["gpt"]), &[("priority", "1")])];
    let document = render_servers(servers, &RenderOptions::default());
    assert_eq!(document.http.routers.keys().filter(|name| name.starts_with("gpt-")).count(), 2);
}

#[test]
fn a_429_is_replaced_only_if_no_server_has_its_own() {
    let middlewares = |kind: &str, settings: &[(&str, &str)]| {
        let document = render_servers(
            vec![
                of_kind(set(server("a", "/v1", &["m"]), settings), kind),
                of_kind(server("b", "/v1", &["m"]), "vllm"),
            ],
            &RenderOptions::default(),
        );
        let mut found = router(&document, "m-").middlewares.clone();
        found.truncate(3);
        found
    };
    let both = [("concurrency.max", "8"), ("concurrency.per_key", "2")];
    assert_eq!(
        middlewares("vllm", &both),
        ["modelgate-429", "modelgate-inflight-8", "modelgate-inflight-key-2"]
    );
    assert_eq!(
        middlewares("provider", &both),
        ["modelgate-inflight-8", "modelgate-inflight-key-2", "modelgate-retry"]
    );
    let wanted = [both[0], ("concurrency.native", "true")];
    assert_eq!(middlewares("provider", &wanted)[..2], ["modelgate-429", "modelgate-inflight-8"]);
    let consumer = [("concurrency.per_consumer", "3")];
    assert_eq!(middlewares("provider", &consumer)[..1], ["modelgate-inflight-consumer-3"]);
    let unwanted = [both[0], ("concurrency.native", "false"), ("retry.attempts", "1")];
    assert_eq!(middlewares("vllm", &unwanted)[..2], ["modelgate-inflight-8", "modelgate-azure-v1"]);
}

#[test]
fn cookies_of_balancers_above_each_other_have_different_names() {
    let sticky = [("sticky.cookie", "llm"), ("canary.model", "next")];
    let servers = vec![
        set(server("a", "/v1", &["m"]), &sticky),
        set(server("b", "/v1", &["m"]), &[("pass_host_header", "false")]),
        set(server("next", "/v1", &["next"]), &[("accepts", "any")]),
    ];
    let json = render_servers(servers, &RenderOptions::default()).to_json_pretty();
    for (name, times) in [("llm", 2), ("llm-group", 1), ("llm-canary", 1)] {
        assert_eq!(json.matches(&format!("\"name\": \"{name}\"")).count(), times, "{name}");
    }
}

#[test]
fn the_hand_written_routers_middleware_asks_with_the_body_where_it_can() {
    for (traefik, address, body) in [
        ("3.7.15", "https://modelgate:8101/auth?gate", true),
        ("3.3.0", "https://modelgate:8101/auth?gate", true),
        ("3.2.0", "https://modelgate:8101/auth?gate&body=none", false),
    ] {
        let document = render_servers(Vec::new(), &options(traefik));
        let Middleware::ForwardAuth(auth) = &document.http.middlewares["modelgate-gate"] else { panic!() };
        assert_eq!(
            (auth.address.as_str(), auth.forward_body, auth.max_body_size.is_some()),
            (address, body, body)
        );
    }
}

/// Traefik tries routes one after the other, and has a table of them all for each parent router.
#[test]
fn many_routes_stand_in_groups() {
    let names: Vec<String> = (0..1_000).map(|model| format!("m{model}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let of =
        |count: usize| render_servers(vec![server("a", "/v1", &names[..count])], &RenderOptions::default());
    let below = |document: &Document, parent: &str| {
        let is_below = |router: &&Router| router.parent_refs.iter().any(|name| name == parent);
        document.http.routers.values().filter(is_below).count()
    };
    let few = of(64);
    assert_eq!(below(&few, "modelgate-small"), 65, "and the one for all other requests");
    let many = of(1_000);
    assert_eq!(below(&many, "modelgate-small"), 17);
    let unrouted = router(&many, "modelgate-unrouted");
    let mut all = 0;
    for digit in "0123456789abcdef".chars() {
        let name = format!("modelgate-routes-{digit}");
        let group = router(&many, &name);
        assert_eq!(group.rule, format!("HeaderRegexp(`X-Inference-Route`, `{digit}$`)"));
        assert_eq!(group.parent_refs.len(), 6, "{name}");
        assert!(unrouted.parent_refs.contains(&name), "a route that Traefik does not know yet");
        all += below(&many, &name) - 1;
        for (route, router) in many.http.routers.iter().filter(|(_, r)| r.parent_refs == [name.clone()]) {
            assert!(
                route.ends_with(digit) && router.rule.contains(route.as_str()),
                "{route}: {}",
                router.rule
            );
        }
    }
    assert_eq!(all, 1_000);
}

/// `/auth` chooses among servers by this. If it named a route that is not in the document, the request would find no router; if it named
/// none where there are some, the choice of servers would be off without a word.
#[test]
fn auth_is_told_of_servers_routes_exactly_where_the_document_has_them() {
    let catalogue = Catalogue::assemble(golden::picked(), Vec::new());
    for (traefik, expected) in [
        ("3.5.0", vec![]),
        ("3.6.2", vec!["counted", "llama", "mixed", "sql"]),
        ("3.7.0", vec!["counted", "llama", "mixed", "sql", "unchecked"]),
    ] {
        let document = render(&catalogue, &options(traefik), &gateway());
        let rules: Vec<&str> = document.http.routers.values().map(|router| router.rule.as_str()).collect();
        let mut told = Vec::new();
        for pool in catalogue.pools() {
            let [group] = &pool.groups[..] else { panic!("one credential, one group: {}", pool.model) };
            let pick = group.pick.as_ref().expect("Modelgate chooses in all of these pools");
            let has =
                |route: &catalogue::ServerRoute| rules.iter().any(|rule| rule.contains(route.id.as_str()));
            let is_told = has_server_routes(pool, group, version(traefik));
            assert!(
                pick.routes.iter().all(|route| has(route) == is_told),
                "{traefik} {}: {rules:#?}",
                pool.model
            );
            told.extend(is_told.then_some(pool.model.as_str()));
        }
        assert_eq!(told, expected, "{traefik}");
    }
    let one =
        Catalogue::assemble(vec![set(server("a", "/v1", &["m"]), &[("strategy", "cache")])], Vec::new());
    let pool = one.pool("m").expect("a pool");
    assert!(!has_server_routes(pool, &pool.groups[0], version("3.7.0")), "one server is no choice");
}
