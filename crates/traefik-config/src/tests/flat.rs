use super::*;

fn rules<'a>(document: &'a Document, start: &str) -> Vec<&'a str> {
    let routers = document.http.routers.iter().filter(|(name, _)| name.starts_with(start));
    routers.map(|(_, router)| router.rule.as_str()).collect()
}

#[test]
fn a_model_is_chosen_by_path_header_or_parameter() {
    let servers = || vec![server("a", "/v1", &["llama3:70b"]), server("b", "/v1", &["qwen"])];
    let rule = [
        r"(PathRegexp(`^/models/llama3(?:\x{3A}|%3[Aa])70b/`)",
        r"PathRegexp(`^/openai/deployments/llama3(?:\x{3A}|%3[Aa])70b/`)",
        r"(PathPrefix(`/v1/`) || PathPrefix(`/openai/v1/`) || Path(`/openai/responses`)",
        r"PathPrefix(`/openai/responses/`)) && (HeaderRegexp(`X-Model`, `^llama3\x{3A}70b$`)",
        r"QueryRegexp(`model`, `^llama3\x{3A}70b$`)))",
    ];
    let websocket = "(!HeaderRegexp(`Content-Length`, `.`) && (Method(`GET`) && HeaderRegexp(`Upgrade`, `(?i)^websocket$`)))";
    let rule = rule.join(" || ");
    assert_eq!(
        rules(&render_servers(servers(), &options("3.0.0")), "llama3-70b-"),
        [format!("{rule} && !{websocket}"), format!("{rule} && {websocket}")]
    );
    let tiered = render_servers(servers(), &options("3.3.0"));
    let names: Vec<_> = tiered.http.routers.keys().filter(|n| n.starts_with("qwen-")).collect();
    assert_eq!(names.len(), 6, "one per kind of body: {names:?}");
    let Middleware::ForwardAuth(auth) = &tiered.http.middlewares[names[0]] else { panic!() };
    assert!(auth.address.starts_with("https://modelgate:8101/auth?route=qwen-"), "{}", auth.address);
    assert!(!auth.address.contains("body=none"));
}

#[test]
fn the_only_model_need_not_be_named() {
    const ALL: &str = " || (PathPrefix(`/v1/`) || PathPrefix(`/openai/v1/`) || Path(`/openai/responses`) || \
                       PathPrefix(`/openai/responses/`)))";
    let rule = |servers: Vec<ServerRecord>| {
        let document = render_servers(servers, &options("3.0.0"));
        let rule = rules(&document, "llama-")[0].to_owned();
        rule.split(" && !(").next().expect("a rule").to_owned()
    };
    assert!(rule(vec![server("a", "/v1", &["llama"])]).ends_with(ALL));
    let alias = set(server("a", "/v1", &["llama"]), &[("aliases", "fast")]);
    assert!(rule(vec![alias]).ends_with(ALL), "another name for the same");
    let mut down = server("b", "/v1", &["qwen"]);
    down.state = ServerState::Starting(catalogue::LifecycleFinding::HealthcheckPending.into());
    assert!(rule(vec![server("a", "/v1", &["llama"]), down]).contains("HeaderRegexp(`X-Model`"));
}

#[test]
fn without_a_body_a_server_must_have_one_model() {
    let servers = || vec![server("a", "/v1", &["llama", "qwen"]), server("b", "/v1", &["tiny"])];
    let document = render_servers(servers(), &options("3.2.5"));
    assert!(rules(&document, "llama-").is_empty() && rules(&document, "qwen-").is_empty());
    assert_eq!(rules(&document, "tiny-").len(), 2);
    assert_eq!(rules(&render_servers(servers(), &options("3.3.0")), "llama-").len(), 6);
}

#[test]
fn different_base_paths_need_3_2() {
    let servers = || vec![server("a", "/v1", &["m"]), server("b", "/", &["m"])];
    assert!(rules(&render_servers(servers(), &options("3.1.0")), "m-").is_empty());
    assert_eq!(rules(&render_servers(servers(), &options("3.2.0")), "m-").len(), 4);
    let same = || vec![server("a", "/api", &["m"])];
    assert_eq!(rules(&render_servers(same(), &options("3.0.0")), "m-").len(), 2);
}

#[test]
fn the_most_demanding_selector_is_asked_first() {
    let servers = vec![
        server("plain", "/v1", &["llama"]),
        set(server("one", "/v1", &["fast"]), &[("select.query", "fast=true")]),
        set(
            server("two", "/v1", &["both"]),
            &[("select.query", "fast=true"), ("select.host", "x.example.com")],
        ),
    ];
    let document = render_servers(servers, &options("3.2.0"));
    let priority = |start| router(&document, start).priority.expect("a priority");
    assert!(priority("both-") > priority("fast-") && priority("fast-") > priority("llama-"));
    assert!(priority("llama-") > priority("modelgate-unrouted"));
    assert!(priority("modelgate-models") > priority("both-"));
    let rule = &router(&document, "both-").rule;
    assert!(rule.starts_with("Host(`x.example.com`) && Query(`fast`, `true`) && (PathRegexp("), "{rule}");
    assert!(!rule.contains("X-Model"), "the selection's only model");
}

#[test]
fn a_name_within_another_ones_path_is_asked_for_first() {
    let servers = vec![server("a", "/v1", &["org", "org/name", "org/name/x", "organ/name"])];
    let document = render_servers(servers, &options("3.3.0"));
    let priority = |start: &str| router(&document, start).priority.expect("a priority");
    assert!(rules(&document, "org-name-x-")[0].contains("PathRegexp(`^/models/org(?:"));
    assert!(priority("org-name-x-") > priority("org-name-7e624f06-"));
    assert!(priority("org-name-7e624f06-") > priority("organ-name-"));
    assert!(priority("modelgate-too-large") > priority("org-name-x-"));
}

/// Without `hosts`, another application's router loses if its rule is short; [`Claim`] says how short.
#[test]
fn what_is_taken_from_short_rules_is_known() {
    let servers = || vec![server("a", "/v1", &["llama", "llama/x"])];
    for traefik in ["3.0.0", "3.7.15"] {
        let catalogue = Catalogue::assemble(servers(), Vec::new());
        let claim = Claim::of(&catalogue, &options(traefik)).expect("no hosts are set");
        let document = render_servers(servers(), &options(traefik));
        let highest = document.http.routers.values().filter_map(|router| router.priority).max();
        assert_eq!(Some(claim.priority), highest, "{traefik}");
        assert!(claim.to_string().contains(&format!("has {} characters or fewer", claim.priority)));
        let named = RenderOptions { hosts: vec!["llm.example.com".into()], ..options(traefik) };
        assert_eq!(Claim::of(&catalogue, &named), None);
    }
    // Never so low that an operator's catch-all wins, even if all paths of the APIs are short.
    let tei = RenderOptions { apis: [catalogue::Api::Tei].into(), ..options("3.7.15") };
    let document = render_servers(servers(), &tei);
    let lowest = router(&document, "modelgate-chunked").priority.expect("a priority");
    assert!(lowest > "PathPrefix(`/`)".len(), "{lowest}");
}
