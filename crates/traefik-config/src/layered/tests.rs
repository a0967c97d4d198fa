use catalogue::{HealthMode, ModelCard, ModelName, ServerId, ServerSpec, ServerState, ServerUrl, Source};
use proptest::prelude::*;

use super::*;
use crate::{Tls, TraefikVersion};

fn server(name: &str, base_path: &str, models: &[&str]) -> ServerRecord {
    let cards = models.iter().map(|m| ModelCard::named(ModelName::new(m).expect("a model name")));
    ServerRecord {
        spec: ServerSpec {
            id: ServerId::file(name),
            name: name.into(),
            source: Source::File,
            url: ServerUrl::http(name, 8000),
            base_path: BasePath::parse(base_path).expect("a base path"),
            models: Vec::new(),
            health: HealthMode::Probe,
            incarnation: String::new(),
        },
        state: ServerState::Ready,
        models: cards.collect(),
    }
}

fn gateway() -> Gateway {
    Gateway { authority: "modelgate:8101".into(), ca_pem: "-----CA-----".into() }
}

fn render_servers(servers: Vec<ServerRecord>, options: &Options) -> Document {
    render(&Catalogue::assemble(servers, Vec::new()), options, &gateway())
}

fn router<'a>(document: &'a Document, start: &str) -> &'a Router {
    let found = document.http.routers.iter().find(|(name, _)| name.starts_with(start));
    found.unwrap_or_else(|| panic!("no router {start}")).1
}

/// One check for the golden documents.
fn golden(name: &str, servers: Vec<ServerRecord>, options: &Options) {
    insta::with_settings!({ snapshot_path => "../../golden", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, render_servers(servers, options).to_json_pretty());
    });
}

#[test]
fn golden_documents() {
    let version = |v: &str| v.parse::<TraefikVersion>().expect("a version");
    let two = || vec![server("vllm-1", "/v1", &["llama", "sql"]), server("vllm-2", "/v1", &["llama"])];
    golden("oldest", two(), &Options::default());
    golden("newest", two(), &Options { version: version("3.7.15"), ..Options::default() });
    golden("empty", Vec::new(), &Options::default());
    let tls = Options {
        version: version("3.7.15"),
        entry_points: vec!["websecure".into()],
        hosts: vec!["llm.example.com".into(), "ai.example.com".into()],
        tls: Some(Tls { cert_resolver: Some("le".into()) }),
        max_chunked_body: 0,
        ..Options::default()
    };
    golden("tls", vec![server("ollama", "/", &["qwen2.5:7b"])], &tls);
}

#[test]
fn a_hostile_model_name_changes_no_rule() {
    let hostile = "x`) || PathPrefix(`/";
    let document = render_servers(vec![server("s", "/v1", &[hostile])], &Options::default());
    assert!(!String::from_utf8(document.to_json()).expect("JSON is UTF-8").contains(hostile));
    let router = router(&document, "x-pathprefix-");
    assert_eq!(router.rule.matches('`').count(), 4, "{}", router.rule);
}

#[test]
fn a_base_path_is_put_in_place_of_v1_for_each_server_on_its_own() {
    let servers =
        vec![server("a", "/v1", &["m"]), server("b", "/api/openai", &["m"]), server("c", "/", &["m"])];
    let document = render_servers(servers, &Options::default());
    assert_eq!(router(&document, "m-").middlewares, [RETRY, STRIP]);
    let service =
        document.http.services.values().find(|s| s.load_balancer.servers.len() == 3).expect("the pool");
    let servers: Vec<_> =
        service.load_balancer.servers.iter().map(|s| (s.url.as_str(), s.preserve_path)).collect();
    assert_eq!(
        servers,
        [("http://a:8000/v1", true), ("http://b:8000/api/openai", true), ("http://c:8000", false)]
    );
    assert_eq!(service.load_balancer.health_check, None, "no check fits all three");
}

#[test]
fn models_of_the_same_servers_share_a_service() {
    let document = render_servers(
        vec![server("a", "/v1", &["m1", "m2"]), server("b", "/v1", &["m2"])],
        &Options::default(),
    );
    assert_eq!(document.http.services.len(), 3, "Modelgate, a, and a with b");
    assert_eq!(document.http.routers.values().filter(|r| r.rule.starts_with("Header(")).count(), 2);
}

#[test]
fn a_model_without_a_ready_server_has_no_router() {
    let mut starting = server("a", "/v1", &["m"]);
    starting.state = ServerState::Starting("loading".into());
    let document = render_servers(vec![starting], &Options::default());
    assert!(!document.http.routers.keys().any(|name| name.starts_with("m-")));
    assert_eq!(router(&document, UNROUTED).parent_refs.len(), 5, "a root without children would be invalid");
}

#[test]
fn small_limits_have_fewer_tiers() {
    let names = |max_body| {
        let options = Options { max_body, max_chunked_body: 0, ..Options::default() };
        tiers(&options).iter().map(|t| (t.name, t.max_body)).collect::<Vec<_>>()
    };
    assert_eq!(names(5_000), [("modelgate-small", 5_000), ("modelgate-bodyless", 0)]);
    assert_eq!(
        names(10_000),
        [("modelgate-small", 9_999), ("modelgate-medium", 10_000), ("modelgate-bodyless", 0)]
    );
}

#[test]
fn a_longer_rule_of_the_users_own_keeps_its_requests() {
    let document = render_servers(Vec::new(), &Options::default());
    let theirs = "Host(`app.example.com`) && PathPrefix(`/v1`)".len();
    for (name, router) in &document.http.routers {
        assert!(router.priority.is_some_and(|p| p < theirs), "{name}");
    }
}

proptest! {
    #[test]
    fn no_name_of_a_model_or_server_leaves_its_string(name in "[ -~]{1,60}") {
        if let Ok(model) = ModelName::new(&name) {
            let document = render_servers(vec![server("s", "/v1", &[model.as_str()])], &Options::default());
            for (router, r) in &document.http.routers {
                prop_assert!(router.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
                if r.rule.starts_with("Header(") {
                    prop_assert_eq!(r.rule.matches('`').count(), 4);
                }
            }
        }
    }

    #[test]
    fn the_same_state_gives_the_same_bytes(mut order in Just(vec!["a", "b", "c", "d"]).prop_shuffle()) {
        let build = |names: &[&str]| {
            render_servers(names.iter().map(|n| server(n, "/v1", &["m", n])).collect(), &Options::default()).to_json()
        };
        let shuffled = build(&order);
        order.sort_unstable();
        prop_assert_eq!(shuffled, build(&order));
    }
}
