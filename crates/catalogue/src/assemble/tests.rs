use super::*;
use crate::{
    BranchFault, CredentialHeader, Finding, Kind, LifecycleFinding, ServerSettings, ServerSpec, ServerUrl,
    Setting, SettingFinding, Strategy,
};

fn record(name: &str, state: ServerState, context: u64) -> ServerRecord {
    let model = ModelName::new("llama").expect("a name");
    ServerRecord {
        spec: ServerSpec::configured(name, ServerUrl::http(name, 8000)),
        state,
        listed_as: Kind::Other,
        has_others: false,
        models: vec![ModelCard { context_length: Some(context), ..ModelCard::named(model) }],
    }
}

#[test]
fn servers_of_one_model_form_one_pool() {
    let catalogue = Catalogue::assemble(
        [
            record("b", ServerState::Ready, 8192),
            record("a", ServerState::Starting(LifecycleFinding::HealthcheckPending.into()), 4096),
        ],
        Vec::new(),
    );
    let pool = catalogue.pool("llama").expect("a pool");
    assert_eq!(pool.readiness(), Readiness::Ready);
    assert_eq!(pool.ready.iter().map(|s| s.spec.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(pool.waiting.len(), 1);
    assert_eq!(pool.card.context_length, Some(4096), "any server may get the request");
    assert!(catalogue.pool("other").is_none());
}

#[test]
fn readiness_prefers_the_hopeful_word() {
    let readiness = |states: Vec<ServerState>| {
        let records = states.into_iter().enumerate().map(|(i, s)| record(&format!("s{i}"), s, 1));
        Catalogue::assemble(records, Vec::new()).pool("llama").expect("a pool").readiness()
    };
    let starting = || ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
    let stopped = || ServerState::Stopped(LifecycleFinding::Stopped.into());
    assert_eq!(readiness(vec![stopped(), starting()]), Readiness::Starting);
    assert_eq!(
        readiness(vec![stopped(), ServerState::Draining(LifecycleFinding::Frozen.into())]),
        Readiness::Draining
    );
    assert_eq!(readiness(vec![stopped(), stopped()]), Readiness::Stopped);
}

/// Operators look first at what is bad: a fault of a server that gets no requests matters more than that of one that does.
#[test]
fn problems_are_weighed_by_whether_their_server_is_ready() {
    let fault = || crate::LabelFinding::Unknown { label: "inference.prot".into() };
    let hint = crate::DoorFinding::OpenPort { port: 8000, host_port: 32768 };
    let stopped = ServerState::Stopped(LifecycleFinding::Stopped.into());
    let problems = vec![
        Problem::server("ready", hint),
        Problem::server("ready", fault()),
        Problem::container("ready", fault()),
        Problem::server("stopped", fault()),
        Problem::source("ready", fault()),
    ];
    let servers = [record("ready", ServerState::Ready, 1), record("stopped", stopped, 1)];
    let catalogue = Catalogue::assemble(servers, problems);
    let weighed =
        catalogue.weighed().map(|(problem, severity)| (problem.subject.to_string(), severity.name()));
    let expected = [
        ("container ready", "warn"),
        ("server ready", "warn"),
        ("server stopped", "bad"),
        ("source ready", "bad"),
        ("server ready", "hint"),
    ];
    assert_eq!(weighed.collect::<Vec<_>>(), expected.map(|(subject, word)| (subject.to_owned(), word)));
}

#[test]
fn an_unchanged_catalogue_is_not_published_again() {
    let (mut publisher, reader) = crate::channel();
    assert!(reader.load().is_none());
    assert!(publisher.publish(Catalogue::assemble([record("a", ServerState::Ready, 1)], Vec::new())));
    assert!(!publisher.publish(Catalogue::assemble([record("a", ServerState::Ready, 1)], Vec::new())));
    assert!(publisher.publish(Catalogue::assemble([], Vec::new())));
    assert_eq!(reader.load().as_ref().expect("published").generation(), 2);
}

/// The servers are the same, but what operators are shown, or what is decided, is not.
#[test]
fn whatever_else_has_changed_is_published() {
    let (mut publisher, reader) = crate::channel();
    let servers = || [record("a", ServerState::Ready, 1)];
    let problem = |count| Problem::server("a", SettingFinding::NotSingle { count });
    let overrides = |text: &str| {
        let mut given = GivenModelSettings::default();
        let strategy = Setting::find("strategy").expect("a setting");
        strategy.read(text, &mut ServerSettings::default(), &mut given).expect(text);
        ModelOverrides::new(vec![(ModelGlobs::all(), given)])
    };
    let with = |problems, overrides| Catalogue::assemble_with(servers().map(Arc::new), problems, &overrides);
    let none = ModelOverrides::default;
    for (what, catalogue, again) in [
        ("the first", with(vec![], none()), with(vec![], none())),
        ("a problem", with(vec![problem(2)], none()), with(vec![problem(2)], none())),
        ("another problem", with(vec![problem(3)], none()), with(vec![problem(3)], none())),
        ("an override", with(vec![], overrides("p2c")), with(vec![], overrides("p2c"))),
        ("another override", with(vec![], overrides("hrw")), with(vec![], overrides("hrw"))),
    ] {
        assert!(publisher.publish(catalogue), "{what}");
        assert!(!publisher.publish(again), "{what}, a second time");
    }
    assert_eq!(reader.load().as_ref().expect("published").generation(), 5);
}

/// Any of the servers may get a request, so the smallest context counts; a server that tells none changes nothing.
#[test]
fn the_smallest_context_that_is_told_counts() {
    let unknown = |name: &str| {
        let mut server = record(name, ServerState::Ready, 0);
        server.models[0].context_length = None;
        server
    };
    let told = |name: &str, context| record(name, ServerState::Ready, context);
    for (servers, expected) in [
        (vec![told("a", 4096), told("b", 8192)], Some(4096)),
        (vec![told("a", 8192), told("b", 4096)], Some(4096)),
        (vec![unknown("a"), told("b", 8192)], Some(8192)),
        (vec![told("a", 8192), unknown("b")], Some(8192)),
        (vec![unknown("a"), unknown("b")], None),
    ] {
        let catalogue = Catalogue::assemble(servers, Vec::new());
        assert_eq!(catalogue.pool("llama").expect("a pool").card.context_length, expected);
    }
}

/// An alias for a model that its server lacks leads nowhere, even if another server has that model.
#[test]
fn an_alias_for_a_missing_model_is_told_and_is_no_name() {
    let catalogue = Catalogue::assemble(
        [server("a", &["llama"], &[("aliases", "fast=qwen")]), server("b", &["qwen"], &[])],
        Vec::new(),
    );
    assert!(catalogue.pool("fast").is_none());
    let [problem] = catalogue.problems() else { panic!("{:?}", catalogue.problems()) };
    assert!(
        matches!(&problem.finding, Finding::Setting(SettingFinding::AliasOfNothing { .. })),
        "{:?}",
        problem.finding
    );
    // Its models are not known yet, so nothing is wrong with it.
    assert!(
        Catalogue::assemble([server("a", &[], &[("aliases", "fast=qwen")])], Vec::new())
            .problems()
            .is_empty()
    );
}

/// A server with models, and settings as labels give them.
pub(super) fn server(name: &str, models: &[&str], settings: &[(&str, &str)]) -> ServerRecord {
    let mut server = record(name, ServerState::Ready, 4096);
    server.models = models.iter().map(|m| ModelCard::named(model(m))).collect();
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut server.spec.settings, &mut server.spec.model_settings).expect(text);
    }
    server
}

fn model(name: &str) -> ModelName {
    ModelName::new(name).expect("a name")
}

fn problems(catalogue: &Catalogue) -> Vec<String> {
    catalogue.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn an_alias_is_a_pool_that_stands_for_the_model() {
    let catalogue = Catalogue::assemble(
        [
            server("a", &["llama"], &[("aliases", "fast")]),
            server("b", &["llama", "qwen"], &[("aliases", "fast=llama,smart")]),
        ],
        Vec::new(),
    );
    let fast = catalogue.pool("fast").expect("a pool");
    assert_eq!((fast.canonical.as_str(), fast.ready.len()), ("llama", 2));
    assert_ne!(
        fast.group().expect("ready").route,
        catalogue.pool("llama").expect("a pool").group().expect("ready").route
    );
    assert_eq!(fast.choice(), Choice::Several, "b also has qwen");
    assert!(catalogue.pool("smart").is_none());
    assert!(problems(&catalogue)[0].contains("write smart=MODEL"), "{:?}", catalogue.problems());
}

/// A key that may use a model may use its aliases; a key that may use an alias may not use the model's name.
#[test]
fn a_pool_is_among_the_models_that_its_name_or_its_model_matches() {
    let records = [
        server("a", &["org/llama"], &[("aliases", "fast")]),
        server("b", &["org/llama", "qwen"], &[("aliases", "both=qwen"), ("select.header", "x-size: 70b")]),
        server("c", &["phi"], &[("aliases", "chat")]),
        server("d", &["gemma"], &[("aliases", "chat")]),
    ];
    let catalogue = Catalogue::assemble(records, Vec::new());
    let among = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let models = ModelGlobs::parse(&patterns).expect("patterns");
        let mut names: Vec<&str> =
            catalogue.pools().filter(|pool| pool.is_among(&models)).map(|pool| pool.model.as_str()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(among(&["org/*"]), ["fast", "org/llama", "org/llama"], "also where only some requests get");
    assert_eq!(among(&["fast"]), ["fast"], "not the model that it stands for");
    assert_eq!(among(&["qwen"]), ["both", "qwen"]);
    assert_eq!(
        among(&["phi", "gemma"]),
        ["gemma", "phi"],
        "what stands for two models is a model of its own"
    );
    assert_eq!(among(&["ch?t", "b*"]), ["both", "chat"]);
    assert_eq!(among(&["*"]).len(), catalogue.pools().count());
    assert_eq!((among(&[]), among(&["Fast", "org"])), (vec![], vec![]));
}

/// `/auth` neither builds limits nor hashes names: the pool has both ready.
#[test]
fn limits_are_ready_and_counted_for_all_names_of_a_model() {
    let of = |burst| [("aliases", "fast"), ("limit.requests_per_minute", "60"), ("limit.burst", burst)];
    let chosen = [of("7").as_slice(), &[("select.header", "x-size: 70b")]].concat();
    let catalogue = Catalogue::assemble(
        [server("a", &["llama"], &of("5")), server("b", &["llama"], &chosen), server("c", &["qwen"], &[])],
        Vec::new(),
    );
    let burst = |pool: &Pool| pool.own_limits.as_ref().map(|own| own.limits.rates()[0].burst());
    let subject = |pool: &Pool| pool.own_limits.as_ref().map(|own| own.subject);
    let [llama, fast, qwen] = ["llama", "fast", "qwen"].map(|name| catalogue.pool(name).expect("a pool"));
    let chosen = catalogue.selections()[0].pool("llama").expect("a pool");
    assert_eq!([llama, fast, qwen, chosen].map(|pool| burst(pool)), [Some(5), Some(5), None, Some(7)]);
    let model = Subject::of_model("llama");
    assert_eq!([llama, fast, chosen].map(|pool| pool.subject), [model; 3]);
    assert_eq!(subject(llama), Some(model));
    let of_chosen = format!("llama\n{}", catalogue.selections()[0].selector);
    assert_eq!(
        subject(chosen),
        Some(Subject::of_model(&of_chosen)),
        "other limits need a count of their own"
    );
}

#[test]
fn an_alias_of_two_models_is_a_name_of_its_own() {
    let catalogue = Catalogue::assemble(
        [server("a", &["llama"], &[("aliases", "chat")]), server("b", &["qwen"], &[("aliases", "chat")])],
        Vec::new(),
    );
    let chat = catalogue.pool("chat").expect("a pool");
    assert_eq!((chat.canonical.as_str(), chat.ready.len()), ("chat", 2));
    assert_eq!(chat.choice(), Choice::Unknown);
}

#[test]
fn vllm_is_known_to_refuse_an_alias_in_a_body() {
    let mut vllm = server("a", &["llama"], &[("aliases", "fast")]);
    vllm.listed_as = Kind::Vllm;
    let catalogue = Catalogue::assemble([vllm], Vec::new());
    assert!(catalogue.pool("fast").is_some(), "by path it works");
    let finding = &catalogue.problems()[0].finding;
    assert!(finding.to_string().contains("--served-model-name"));
    assert_eq!((finding.code(), finding.may_pass_by_itself()), ("alias_unknown_to_vllm", false));
    assert!(finding.advice().contains("--served-model-name llama fast"), "{}", finding.advice());
}

#[test]
fn ollamas_latest_needs_no_tag() {
    let mut ollama = server("a", &["llama3:latest", "qwen:7b"], &[]);
    ollama.listed_as = Kind::Ollama;
    let catalogue = Catalogue::assemble([ollama], Vec::new());
    assert_eq!(catalogue.pool("llama3").expect("a pool").canonical.as_str(), "llama3:latest");
    assert!(catalogue.pool("qwen").is_none());
}

#[test]
fn a_selector_keeps_a_server_to_the_requests_that_choose_it() {
    let catalogue = Catalogue::assemble(
        [
            server("plain", &["llama"], &[]),
            server("fast", &["llama", "tiny"], &[("select.query", "fast=true")]),
            server(
                "both",
                &["llama"],
                &[("select.query", "fast=true"), ("select.host", "x.example"), ("select.others", "true")],
            ),
        ],
        Vec::new(),
    );
    let names = |pool: Option<&Arc<Pool>>| {
        let ready = pool.map(|p| p.ready.iter().map(|s| s.spec.name.clone()).collect::<Vec<_>>());
        ready.unwrap_or_default()
    };
    assert_eq!(names(catalogue.pool("llama")), ["both", "plain"]);
    assert!(catalogue.pool("tiny").is_none(), "only for requests that choose it");
    let selections = catalogue.selections();
    assert_eq!(names(selections[0].pool("llama")), ["both"], "two conditions come first");
    assert_eq!(names(selections[1].pool("llama")), ["fast"]);
    assert_eq!(catalogue.pools().count(), 4);
    let routes: BTreeSet<_> = catalogue.pools().filter_map(|p| p.group()).map(|group| &group.route).collect();
    assert_eq!(routes.len(), 4, "each has a route of its own");
}

#[test]
fn servers_with_a_credential_form_a_leg_of_their_own() {
    let cloud = |name: &str, secret: &str, priority: &str| {
        let mut cloud = server(name, &["llama"], &[("priority", priority)]);
        cloud.spec.credential = Credential::new(CredentialHeader::Bearer, secret).map(Arc::new);
        cloud
    };
    let groups = |records: Vec<ServerRecord>| {
        let catalogue = Catalogue::assemble(records, Vec::new());
        let pool = Arc::clone(catalogue.pool("llama").expect("a pool"));
        pool.groups
            .iter()
            .map(|l| (l.ready[0].spec.name.clone(), l.ready.len(), l.route.clone()))
            .collect::<Vec<_>>()
    };
    let all = groups(vec![
        cloud("a-cloud", "one", "1"),
        cloud("b-cloud", "one", "1"),
        cloud("c-cloud", "two", "1"),
        server("local", &["llama"], &[]),
    ]);
    let names: Vec<_> = all.iter().map(|(name, count, _)| (name.as_str(), *count)).collect();
    assert_eq!(names, [("local", 1), ("a-cloud", 2), ("c-cloud", 1)]);
    assert_eq!(all[0].2, RouteId::of(&model("llama")));
    let mut down = server("local", &["llama"], &[]);
    down.state = ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
    let rest = groups(vec![cloud("a-cloud", "one", "1"), down]);
    assert_eq!((rest.len(), &rest[0].2), (1, &all[1].2), "the route stays while others come and go");
}

#[test]
fn settings_of_a_model_come_from_its_servers_unless_the_operator_says_otherwise() {
    let records = || {
        [
            server("a", &["llama"], &[("strategy", "p2c"), ("retry.attempts", "3")]),
            server("b", &["llama"], &[("strategy", "hrw"), ("timeout.dial", "1s")]),
        ]
    };
    let catalogue = Catalogue::assemble(records(), Vec::new());
    let settings = &catalogue.pool("llama").expect("a pool").settings;
    assert_eq!((settings.strategy, settings.retry_attempts), (Some(Strategy::P2c), Some(3)));
    assert!(settings.timeout_dial.is_some(), "a setting need stand on one server only");
    assert_eq!(
        problems(&catalogue),
        [
            "server b: strategy=\"hrw\", but a, which serves \"llama\" too, has \"p2c\", which is used: give all servers of a model the same"
        ]
    );
    let mut given = GivenModelSettings::default();
    let setting = Setting::find("strategy").expect("a setting");
    setting.read("wrr", &mut ServerSettings::default(), &mut given).expect("a strategy");
    let overrides = ModelOverrides::new(vec![(ModelGlobs::parse(&["lla*".into()]).expect("a glob"), given)]);
    let catalogue = Catalogue::assemble_with(records().into_iter().map(Arc::new), Vec::new(), &overrides);
    assert_eq!(catalogue.pool("llama").expect("a pool").settings.strategy, Some(Strategy::Wrr));
}

#[test]
fn a_canary_must_accept_the_name_and_says_so() {
    let canary = |target: ServerRecord| {
        let main = server("a", &["llama"], &[("canary.model", "llama-next"), ("canary.percent", "20")]);
        Catalogue::assemble([main, target], Vec::new())
    };
    let fits = canary(server("b", &["llama-next"], &[("accepts", "any")]));
    let pool = fits.pool("llama").expect("a pool");
    let branch = pool.canary.as_ref().expect("a canary");
    assert_eq!(
        (branch.model.as_str(), branch.percent, branch.ready[0].spec.name.as_str()),
        ("llama-next", 20, "b")
    );
    assert_eq!(fits.problems(), []);
    for (target, message) in [
        (server("b", &["llama-next"], &[]), "does not answer to \"llama\""),
        (server("b", &["other"], &[]), "there is no such model"),
        (
            ServerRecord {
                state: ServerState::Starting(LifecycleFinding::HealthcheckPending.into()),
                ..server("b", &["llama-next"], &[])
            },
            "none of its servers is ready",
        ),
    ] {
        let catalogue = canary(target);
        assert!(catalogue.pool("llama").expect("a pool").canary.is_none());
        assert!(problems(&catalogue)[0].contains(message), "{:?}", catalogue.problems());
    }
}

/// What is shown beside the servers, and what a name that is not there yet is told.
#[test]
fn a_catalogue_holds_what_it_was_given() {
    let hint = crate::open_port("a", 8000, 80);
    let catalogue = Catalogue::assemble([server("a", &["llama"], &[])], vec![hint.clone()]);
    assert_eq!((catalogue.hints(), catalogue.problems()), (&[hint][..], &[][..]));
    assert_eq!(catalogue.servers().map(|server| server.spec.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let route = catalogue.pool("llama").and_then(|pool| pool.group()).expect("ready").route.to_string();
    assert_eq!(catalogue.pool_of_route(&route).map(|pool| pool.model.as_str()), Some("llama"));
    assert!(catalogue.pool_of_route("llama").is_none());
    let container = Labelled { name: "c".into(), service: None, outcome: crate::Outcome::Rejected };
    let router = OwnRouter {
        container: "c".into(),
        name: "r".into(),
        rule: "Host(`x`)".into(),
        priority: None,
        has_tls: false,
        middlewares: Vec::new(),
        asks: Vec::new(),
        is_doubtful: false,
    };
    let traefik = TraefikSeen { container: "t".into(), version: "v3.7.15".into() };
    let shown = catalogue
        .with_containers(vec![container.clone()])
        .with_own_routers(vec![router.clone()])
        .with_traefiks(vec![traefik.clone()]);
    assert_eq!(
        (shown.containers(), shown.own_routers(), shown.traefiks()),
        (&[container][..], &[router][..], &[traefik][..])
    );
    assert!(shown.knows("llama"), "and nothing else is lost");
}

/// After a restart a name that was there is told to come again, and any other that there is none.
#[test]
fn a_name_that_was_there_may_return_while_servers_are_missing() {
    let remembered = || Arc::new(BTreeSet::from(["gone".to_owned()]));
    let stopped = ServerState::Stopped(LifecycleFinding::Stopped.into());
    let unread = || ServerRecord { state: stopped.clone(), ..server("b", &[], &[]) };
    let (plain, with_unread) =
        (vec![server("a", &["llama"], &[])], vec![server("a", &["llama"], &[]), unread()]);
    for (servers, is_returning, may_return) in
        [(plain.clone(), true, true), (plain, false, false), (with_unread, false, true)]
    {
        let catalogue = Catalogue::assemble(servers, Vec::new()).with_remembered(remembered(), is_returning);
        assert_eq!(catalogue.may_return("gone"), may_return, "{is_returning}");
        assert!(!catalogue.may_return("other") && catalogue.knows("llama") && !catalogue.knows("gone"));
    }
}

/// Whether a client that asks for an unknown name is told to come again depends on where its request could go.
#[test]
fn a_server_that_loads_may_have_any_model_where_requests_reach_it() {
    let asked = crate::ProbedServer::of(&server("x", &[], &[]).spec);
    let fault =
        crate::ProbeFault::CannotConnect { why: crate::NoConnection::Refused, cause: "refused".into() };
    let loading = ServerState::Starting(crate::ProbeFinding { asked, fault }.into());
    for (settings, for_all, for_those) in [
        (&[][..], true, None),
        (&[("select.query", "fast=true")], false, Some(true)),
        (&[("select.query", "fast=true"), ("select.others", "true")], true, Some(true)),
    ] {
        let loading = ServerRecord { state: loading.clone(), ..server("x", &[], settings) };
        let catalogue = Catalogue::assemble([loading], Vec::new());
        let selection = catalogue.selections().first().map(Selection::may_have_any_model);
        assert_eq!((catalogue.may_have_any_model(), selection), (for_all, for_those), "{settings:?}");
    }
    let ready = Catalogue::assemble([server("x", &["tiny"], &[("select.query", "fast=true")])], Vec::new());
    assert!(!ready.may_have_any_model() && !ready.selections()[0].may_have_any_model());
    assert!(ready.knows("tiny") && ready.pool("tiny").is_none(), "known to those who choose it");
}

/// What a request meets behind its route decides what it may do there.
#[test]
fn the_doors_of_a_route_are_those_of_all_servers_and_branches() {
    let main =
        server("a", &["llama"], &[("kind", "vllm"), ("mirror.model", "next"), ("mirror.percent", "5")]);
    let twin =
        server("b", &["llama"], &[("kind", "vllm"), ("mirror.model", "next"), ("mirror.percent", "5")]);
    let next = server("c", &["next"], &[("kind", "tei"), ("accepts", "any")]);
    let catalogue = Catalogue::assemble([main, twin, next], Vec::new());
    let group = catalogue.pool("llama").and_then(|pool| pool.group()).expect("ready");
    assert_eq!(group.doors.iter().map(|door| door.kind).collect::<Vec<_>>(), [Kind::Vllm, Kind::Tei]);
}

/// A canary or mirror that cannot work is told, and one that is off or would send requests to itself is none.
#[test]
fn a_branch_that_cannot_work_is_told() {
    let main = |percent: &'static str, target: &'static str| {
        server("a", &["llama"], &[("canary.model", target), ("canary.percent", percent)])
    };
    let any = |name: &str, models: &[&str], more: &[(&str, &str)]| {
        server(name, models, &[&[("accepts", "any")], more].concat())
    };
    let secret = |mut server: ServerRecord| {
        server.spec.credential = Credential::new(CredentialHeader::Bearer, "sk-1").map(Arc::new);
        server
    };
    for (records, fault) in [
        (vec![main("0", "next"), server("b", &["next"], &[])], None),
        (vec![main("20", "llama")], None),
        (
            vec![ServerRecord {
                state: ServerState::Stopped(LifecycleFinding::Stopped.into()),
                ..main("20", "next")
            }],
            None,
        ),
        (vec![main("20", "next"), any("b", &["next"], &[])], None),
        (vec![main("20", "next"), any("b", &["next", "llama"], &[("kind", "ollama")])], Some("has_both")),
        (vec![main("20", "next"), any("b", &["next", "other"], &[("kind", "ollama")])], None),
        (vec![main("20", "next"), any("b", &["next", "llama"], &[("kind", "vllm")])], None),
        (vec![main("20", "next"), secret(any("b", &["next"], &[]))], Some("credential")),
    ] {
        let catalogue = Catalogue::assemble(records, Vec::new());
        let found = catalogue.problems().iter().find_map(|problem| match &problem.finding {
            Finding::Setting(SettingFinding::Branch { fault: BranchFault::HasBoth { .. }, .. }) => {
                Some("has_both")
            }
            Finding::Setting(SettingFinding::Branch { fault: BranchFault::Credential, .. }) => {
                Some("credential")
            }
            Finding::Setting(SettingFinding::Branch { .. }) => Some("another"),
            _ => None,
        });
        assert_eq!(found, fault, "{:?}", problems(&catalogue));
    }
    // It is told of the server that asks for it, not of the first one of the model.
    let catalogue = Catalogue::assemble([server("0", &["llama"], &[]), main("20", "nothing")], Vec::new());
    assert!(problems(&catalogue)[0].starts_with("server a:"), "{:?}", problems(&catalogue));
}

#[test]
fn a_server_that_says_it_has_one_model_and_has_more_is_told() {
    let told = |models: &[&str]| {
        problems(&Catalogue::assemble([server("a", models, &[("single_model", "true")])], Vec::new())).len()
    };
    assert_eq!([told(&[]), told(&["a"]), told(&["a", "b"])], [0, 0, 1]);
}

/// A model's own name wins over a server's alias for another.
#[test]
fn an_alias_does_not_take_the_name_of_a_listed_model() {
    let mut listed = server("a", &["llama", "qwen"], &[("aliases", "qwen=llama")]);
    listed.models[0].aliases = vec![model("qwen"), model("l")];
    let catalogue = Catalogue::assemble([listed], Vec::new());
    let canonical = |name: &str| catalogue.pool(name).map(|pool| pool.canonical.to_string());
    assert_eq!(canonical("qwen").as_deref(), Some("qwen"));
    assert_eq!(canonical("l").as_deref(), Some("llama"));
    let card = &catalogue.pool("l").expect("a pool").card;
    assert_eq!(card.name.as_str(), "l", "the list shows each name as its own");
}
