use super::*;
use crate::Severity;

fn thing(name: &str, role: Role, labels: &[(&str, &str)]) -> Exposable {
    Exposable {
        name: name.into(),
        docker_name: name.into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ports: BTreeSet::from([8000]),
        role,
    }
}

fn server(labels: &[(&str, &str)]) -> Exposable {
    thing("vllm", Role::Server, labels)
}

fn seen(sight: Sight) -> Vec<(String, Sight)> {
    vec![("traefik".into(), sight)]
}

fn on(exposed_by_default: bool) -> Vec<(String, Sight)> {
    seen(Sight::On(Provider { exposed_by_default, constraint: None }))
}

/// The reported findings, with their severity.
fn told(all: &[Exposable], traefiks: &[(String, Sight)]) -> Vec<(Severity, String)> {
    doors(all, traefiks).problems.into_iter().map(|p| (p.finding.severity(), p.to_string())).collect()
}

/// The only reported finding, if any.
fn one(it: Exposable, traefiks: &[(String, Sight)]) -> Option<(Severity, String)> {
    let told = told(&[it], traefiks);
    assert!(told.len() <= 1, "{told:?}");
    told.into_iter().next()
}

#[test]
fn what_traefik_exposes_by_itself_is_a_door() {
    let (severity, message) = one(server(&[]), &on(true)).expect("a door");
    assert_eq!(severity, Severity::Bad);
    assert_eq!(
        message,
        "container vllm: Traefik's provider exposes it by itself, since exposedByDefault is true unless it is set: requests \
         with \"Host: vllm\" (or by Traefik's defaultRule) reach it past Modelgate's keys and limits, management paths \
         included: set the label traefik.enable=false, or exposedByDefault=false in Traefik"
    );
    for (closed, traefiks) in [
        (server(&[("traefik.enable", "false")]), on(true)),
        (server(&[("Traefik.Enable", "F")]), on(true)),
        (server(&[("traefik.enable", "no")]), on(true)),
        (server(&[]), on(false)),
        (server(&[]), seen(Sight::Off)),
        (Exposable { ports: BTreeSet::new(), ..server(&[]) }, on(true)),
        (thing("db", Role::Other, &[]), on(true)),
    ] {
        assert_eq!(one(closed.clone(), &traefiks), None, "{closed:?} {traefiks:?}");
    }
    let (_, message) = one(server(&[("traefik.enable", "true")]), &on(false)).expect("a door");
    assert!(message.contains("its label traefik.enable=true has Traefik make a router"), "{message}");
    let with_port = [("traefik.http.services.a.loadbalancer.server.port", "8000")];
    let without_exposed = Exposable { ports: BTreeSet::new(), ..server(&with_port) };
    assert!(one(without_exposed, &on(true)).is_some(), "a label names the port");
    // One of two Traefiks is enough.
    assert!(one(server(&[]), &[on(false), on(true)].concat()).is_some());
}

#[test]
fn compose_has_a_name_of_its_own() {
    let compose = [("com.docker.compose.project", "my_ai"), ("com.docker.compose.service", "vllm")];
    let (_, message) =
        one(Exposable { docker_name: "my_ai-vllm-1".into(), ..server(&compose) }, &on(true)).expect("a door");
    assert!(message.contains("\"Host: vllm-my-ai\""), "{message}");
}

#[test]
fn constraints_choose_who_is_exposed() {
    let constraint = Some("Label(`tier`,`web`)".to_owned());
    let traefiks = seen(Sight::On(Provider { exposed_by_default: true, constraint }));
    assert_eq!(one(server(&[]), &traefiks), None);
    assert!(one(server(&[("tier", "web")]), &traefiks).is_some());
    let odd = seen(Sight::On(Provider { exposed_by_default: true, constraint: Some("Tier(`x`)".into()) }));
    assert_eq!(one(server(&[]), &odd), None);
    assert_eq!(doors(&[server(&[])], &odd).undecided, BTreeSet::from(["vllm".to_owned()]));
}

const RULE: (&str, &str) = ("traefik.http.routers.llm.rule", "Host(`llm.example`)");
const MIDDLEWARES: &str = "traefik.http.routers.llm.middlewares";
const FORWARD: &str = "traefik.http.middlewares.check.forwardauth.address";

#[test]
fn a_router_of_its_own_needs_our_check() {
    let (severity, message) = one(server(&[RULE]), &on(true)).expect("a door");
    assert_eq!(severity, Severity::Bad);
    assert!(
        message.contains("the router \"llm\" in Traefik without Modelgate's check")
            && message.contains("add modelgate@http to the label traefik.http.routers.llm.middlewares")
            && !message.contains("unless"),
        "{message}"
    );
    for closed in [
        &[RULE, (MIDDLEWARES, "modelgate@http")][..],
        &[RULE, (MIDDLEWARES, "strip, modelgate@http ,more")],
        &[RULE, ("traefik.http.routers.llm.Middlewares[0]", "modelgate@http")],
        &[RULE, (MIDDLEWARES, "check"), (FORWARD, "https://modelgate:8101/auth?model=llama")],
        &[
            RULE,
            (MIDDLEWARES, "check@docker"),
            ("Traefik.HTTP.Middlewares.check.ForwardAuth.Address", "http://10.0.0.2:8101/auth"),
        ],
        &[
            RULE,
            (MIDDLEWARES, "all"),
            ("traefik.http.middlewares.all.chain.middlewares", "strip,modelgate@http"),
        ],
        &[RULE, (MIDDLEWARES, "https"), ("traefik.http.middlewares.https.redirectscheme.scheme", "https")],
        &[RULE, ("traefik.http.routers.llm.service", "api@internal")],
        &[RULE, ("traefik.enable", "false")],
    ] {
        assert_eq!(one(server(closed), &on(true)), None, "{closed:?}");
    }
}

#[test]
fn a_router_of_its_own_with_another_check_is_a_door() {
    for open in [
        &[RULE, (MIDDLEWARES, "modelgate-forwarded@http")][..],
        &[RULE, (MIDDLEWARES, "auth"), ("traefik.http.middlewares.auth.basicauth.users", "a:b")],
        &[RULE, (MIDDLEWARES, "check"), (FORWARD, "http://authelia:9091/api/verify")],
        &[RULE, (MIDDLEWARES, "check"), (FORWARD, "http://authelia:9091/auth/other")],
        &[RULE, (MIDDLEWARES, "loop"), ("traefik.http.middlewares.loop.chain.middlewares", "loop")],
        &[
            RULE,
            ("traefik.http.routers.llm.tls.certresolver", "le"),
            (MIDDLEWARES, "https"),
            ("traefik.http.middlewares.https.redirectscheme.scheme", "https"),
        ],
    ] {
        assert!(matches!(one(server(open), &on(true)), Some((Severity::Bad, _))), "{open:?}");
    }
    // Two routers, one of them open.
    let two = [RULE, (MIDDLEWARES, "modelgate@http"), ("traefik.http.routers.old.rule", "PathPrefix(`/`)")];
    assert!(one(server(&two), &on(true)).is_some_and(|(_, m)| m.contains("\"old\"")));
    // It is unclear which of two services is meant, so Traefik leaves the router out.
    let unclear = [
        RULE,
        ("traefik.http.services.a.loadbalancer.server.port", "1"),
        ("traefik.http.services.b.loadbalancer.server.port", "2"),
    ];
    assert_eq!(one(server(&unclear), &on(true)), None);
    let file = [RULE, (MIDDLEWARES, "sso@file,strip")];
    let strip = thing("other", Role::Other, &[("traefik.http.middlewares.strip.stripprefix.prefixes", "/a")]);
    let all = told(&[server(&file), strip], &on(true));
    assert_eq!(all.len(), 1);
    assert!(
        all[0].0 == Severity::Hint && all[0].1.contains("sso@file") && !all[0].1.contains("strip"),
        "{all:?}"
    );
}

#[test]
fn what_cannot_be_seen_is_told_as_such() {
    let routed = server(&[("traefik.http.routers.llm.rule", "Host(`a`)")]);
    for traefiks in [Vec::new(), seen(Sight::Hidden)] {
        let (severity, message) = one(routed.clone(), &traefiks).expect("a door");
        assert_eq!(severity, Severity::Bad);
        assert!(
            message.contains("unless Traefik's exposedByDefault is false, which cannot be seen"),
            "{message}"
        );
        let plain = doors(&[server(&[]), thing("db", Role::Other, &[])], &traefiks);
        assert!(plain.problems.is_empty());
        assert_eq!(plain.undecided, BTreeSet::from(["vllm".to_owned()]));
        let expected = if traefiks.is_empty() { Blind::NoTraefik } else { Blind::Hidden("traefik".into()) };
        assert_eq!(plain.blind, Some(expected));
        let told_by_label = doors(&[server(&[("traefik.enable", "false")])], &traefiks);
        assert!(told_by_label.undecided.is_empty());
    }
    assert_eq!(one(routed.clone(), &on(false)), None, "nobody reads its labels");
    assert_eq!(one(routed, &seen(Sight::Off)), None);
    assert_eq!(doors(&[server(&[])], &on(false)).blind, None);
}

#[test]
fn tcp_routers_are_doors_that_nobody_can_watch() {
    let tcp = [
        ("traefik.tcp.routers.raw.rule", "HostSNI(`*`)"),
        ("traefik.tcp.services.raw.loadbalancer.server.port", "8000"),
    ];
    let (severity, message) = one(server(&tcp), &on(true)).expect("a door, and no default router beside it");
    assert!(severity == Severity::Bad && message.contains("traefik.tcp.routers.raw.*"), "{message}");
    let udp = [("traefik.udp.routers.a.entrypoints", "dns")];
    assert_eq!(one(server(&udp), &on(true)), None, "nothing answers there");
}

#[test]
fn other_containers_labels_may_lead_to_a_server() {
    let traefik = |service: &str| {
        thing(
            "edge",
            Role::Other,
            &[
                ("traefik.enable", "true"),
                ("traefik.http.routers.x.rule", "Host(`x`)"),
                ("traefik.http.routers.x.service", service),
            ],
        )
    };
    let named = server(&[
        ("traefik.enable", "true"),
        ("traefik.http.services.llm.loadbalancer.server.port", "8000"),
        ("traefik.http.routers.llm.middlewares", "modelgate@http"),
    ]);
    for service in ["llm", "llm@docker"] {
        let all = told(&[traefik(service), named.clone()], &on(false));
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(
            all[0].1.starts_with("container vllm: the labels of container edge make the router \"x\""),
            "{all:?}"
        );
    }
    for service in ["other", "llm@file", "api@internal"] {
        assert_eq!(told(&[traefik(service), named.clone()], &on(false)), [], "{service}");
    }
}

#[test]
fn modelgate_is_not_to_be_exposed_either() {
    let modelgate = |labels: &[(&str, &str)]| Exposable {
        ports: BTreeSet::from([8100, 8101]),
        ..thing("modelgate", Role::Modelgate(BTreeSet::from([8100, 8101])), labels)
    };
    let (severity, message) = one(modelgate(&[]), &on(true)).expect("a door");
    assert!(severity == Severity::Bad && message.contains("such as /traefik"), "{message}");
    let rule = ("traefik.http.routers.mg.rule", "Host(`mg.example`)");
    let port = |port: &'static str| ("traefik.http.services.mg.loadbalancer.server.port", port);
    assert_eq!(
        one(modelgate(&[rule, port("8102")]), &on(true)),
        None,
        "the dashboard has a sign-in of its own"
    );
    assert!(one(modelgate(&[rule, port("8100")]), &on(true)).is_some());
    assert!(one(modelgate(&[rule]), &on(true)).is_some(), "Traefik takes the lowest");
    assert_eq!(one(modelgate(&[("traefik.enable", "false")]), &on(true)), None);
}

/// Routers of their own are compared with the document, so that an operator sees which one Traefik would take.
#[test]
fn the_routers_of_labels_are_listed_as_traefik_reads_them() {
    let edge = thing(
        "edge",
        Role::Other,
        &[
            ("traefik.http.routers.a.rule", " Host(`a`) "),
            ("traefik.http.routers.a.priority", "7"),
            ("traefik.http.routers.a.middlewares", "all,check@docker,check@file,sso,none"),
            ("traefik.http.middlewares.all.chain.middlewares[0]", "check"),
            ("traefik.http.middlewares.all.chain.middlewares[1]", "strip"),
            ("traefik.http.middlewares.check.forwardauth.address", "http://modelgate:8101/auth?model=llama"),
            ("traefik.http.middlewares.none.forwardauth.address", "http://modelgate:8101/auth"),
            ("traefik.http.middlewares.sso.forwardauth.address", "http://sso/verify?x"),
            ("traefik.http.middlewares.strip.stripprefix.prefixes", "/a"),
            ("traefik.http.routers.b.rule", "Host(`b`)"),
            ("traefik.http.routers.b.priority", "0"),
            ("traefik.http.routers.b.tls", "true"),
            ("traefik.http.routers.c.rule", "Host(`c`)"),
            ("traefik.http.routers.c.tls", "false"),
            ("traefik.http.routers.c.middlewares", "loop"),
            ("traefik.http.middlewares.loop.chain.middlewares", "loop,check"),
            ("traefik.http.routers.d.rule", "Host(`d`)"),
            ("traefik.http.routers.d.tls.certresolver", "le"),
            ("traefik.http.routers.without.service", "x"),
            ("traefik.tcp.routers.raw.rule", "HostSNI(`*`)"),
        ],
    );
    let found = doors(std::slice::from_ref(&edge), &on(true)).routers;
    let read: Vec<_> =
        found.iter().map(|r| (&*r.name, &*r.rule, r.priority, r.has_tls, r.asks.len())).collect();
    assert_eq!(
        read,
        [
            ("a", "Host(`a`)", Some(7), false, 3),
            ("b", "Host(`b`)", None, true, 0),
            // A chain that names itself is followed eight times.
            ("c", "Host(`c`)", None, false, 8),
            ("d", "Host(`d`)", None, true, 0),
        ]
    );
    assert_eq!(found[0].asks, ["model=llama", "model=llama", ""]);
    assert!(found.iter().all(|router| router.container == "edge" && !router.is_doubtful));
    assert!(doors(&[edge], &[]).routers.iter().all(|router| router.is_doubtful));
}

/// A redirection that is none, and a list that is none, keep nobody out.
#[test]
fn only_what_traefik_takes_for_a_check_is_one() {
    for (open, is_open) in [
        (&[RULE, (MIDDLEWARES, "x"), ("traefik.http.middlewares.x.redirectscheme.scheme", "http")][..], true),
        (&[RULE, (MIDDLEWARES, "x"), ("traefik.http.middlewares.x.chain.other", "modelgate@http")], true),
        (&[RULE, ("traefik.http.routers.llm.other", "modelgate@http")], true),
        (
            &[
                RULE,
                ("traefik.http.routers.llm.tls", "false"),
                (MIDDLEWARES, "x"),
                ("traefik.http.middlewares.x.redirectscheme.scheme", "https"),
            ],
            false,
        ),
    ] {
        assert_eq!(one(server(open), &on(true)).is_some(), is_open, "{open:?}");
    }
    // A label of another kind of address leaves the port as it is.
    let url = [("traefik.http.services.a.loadbalancer.server.url", "8000")];
    assert_eq!(one(Exposable { ports: BTreeSet::new(), ..server(&url) }, &on(true)), None);
    let udp = [("traefik.udp.services.a.loadbalancer.server.port", "53")];
    assert_eq!(one(server(&udp), &on(true)), None, "no router for HTTP beside it");
    let tcp = [("traefik.tcp.services.a.loadbalancer.server.port", "8000")];
    assert_eq!(one(server(&tcp), &on(true)), None, "nor here");
    let two = [
        ("traefik.tcp.routers.raw.rule", "HostSNI(`*`)"),
        ("traefik.tcp.routers.raw.service", "raw"),
        ("traefik.tcp.services.raw.loadbalancer.server.port", "8000"),
        ("traefik.tcp.services.raw.loadbalancer.server.scheme", "x"),
    ];
    assert!(one(server(&two), &on(true)).is_some());
}

/// Two Compose services of one name in two hosts' projects have names of their own in Traefik; a router names one of them.
#[test]
fn a_router_leads_where_traefiks_name_does() {
    let edge = thing(
        "edge",
        Role::Other,
        &[("traefik.http.routers.x.rule", "Host(`x`)"), ("traefik.http.routers.x.service", "vllm")],
    );
    let quiet = [
        ("traefik.http.routers.own.rule", "Host(`y`)"),
        ("traefik.http.routers.own.middlewares", "modelgate@http"),
    ];
    let named = |name: &str| Exposable { docker_name: name.into(), ..server(&quiet) };
    assert_eq!(told(&[edge.clone(), named("vllm")], &on(true)).len(), 1);
    assert_eq!(told(&[edge, named("other")], &on(true)), [], "it leads to another container");
}
