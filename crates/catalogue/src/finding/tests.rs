mod advice;

use std::collections::BTreeSet;

use super::*;
use crate::{
    BasePath, Blind, InvalidBasePath, InvalidModelName, ListingError, ModelName, Origin, ServerUrl, Severity,
};

/// The files that define the findings.
const FILES: [&str; 8] = ["address", "docker", "door", "label", "lifecycle", "listing", "probe", "setting"];

fn model(name: &str) -> ModelName {
    ModelName::new(name).expect("a name")
}

fn no_path() -> InvalidBasePath {
    BasePath::parse("v1").expect_err("no path")
}

fn no_name() -> InvalidModelName {
    ModelName::new("").expect_err("no name")
}

fn labels() -> Vec<Finding> {
    [
        LabelFinding::NotAllowed { label: "inference.port".into(), found: "abc".into(), allowed: "a number" },
        LabelFinding::BasePath(no_path()),
        LabelFinding::ModelName(no_name()),
        LabelFinding::Inconsistent("ready.contains is given without ready.path"),
        LabelFinding::EnableMisspelt { label: "Inference.Enable".into() },
        LabelFinding::Unknown { label: "inference.prot".into() },
        LabelFinding::NoHealthcheck,
        LabelFinding::OnContainers,
    ]
    .map(Finding::from)
    .into()
}

fn addresses() -> Vec<Finding> {
    let host = || DockerHost(Some("gpu1".into()));
    let not_attached = |asked_for| AddressFinding::NotAttached {
        asked_for,
        wanted: "ai".into(),
        attached: vec!["back".into()],
    };
    [
        AddressFinding::NoNetwork { mode: "none".into() },
        not_attached(AskedFor::ByLabel),
        not_attached(AskedFor::ByConfiguration(host())),
        AddressFinding::NotShared { attached: vec!["a".into()], modelgate: None, traefik: None },
        AddressFinding::NoAddress { network: "ai".into() },
        AddressFinding::HostNetwork(host()),
        AddressFinding::NodeNetwork(host()),
        AddressFinding::HostUnknown(host()),
        AddressFinding::PortNotPublished { host: host(), port: 8000 },
        AddressFinding::NodeDoesNotPublish { host: host(), port: 8000 },
        AddressFinding::NodeUnknown(host()),
    ]
    .map(Finding::from)
    .into()
}

fn of_docker() -> Vec<Finding> {
    let text = || String::from("as told");
    [
        DockerFinding::Silent { host: DockerHost::default(), endpoint: text(), error: text() },
        DockerFinding::Kept { servers: 2 },
        DockerFinding::SameEngine { other: text() },
        DockerFinding::NodesUnknown { error: text() },
        DockerFinding::ContainerUnreadable { why: text() },
        DockerFinding::ServiceUnreadable { why: text() },
        DockerFinding::NotInspected { error: text(), may_run: true },
        DockerFinding::StateUnknown { said: text(), runs: true },
        DockerFinding::HealthUnknown { said: text() },
        DockerFinding::Task { said: text() },
    ]
    .map(Finding::from)
    .into()
}

fn lifecycle() -> Vec<Finding> {
    [
        LifecycleFinding::NotStarted,
        LifecycleFinding::Restarting,
        LifecycleFinding::JustStarted,
        LifecycleFinding::HealthcheckPending,
        LifecycleFinding::HealthcheckFails,
        LifecycleFinding::ModelsNotAsked,
        LifecycleFinding::ReadyNotAsked,
        LifecycleFinding::Frozen,
        LifecycleFinding::ToldToStop,
        LifecycleFinding::Signalled,
        LifecycleFinding::Disconnected,
        LifecycleFinding::Stopped,
        LifecycleFinding::Removed,
        LifecycleFinding::Gone,
        LifecycleFinding::Drained { by: "alice".into() },
        LifecycleFinding::Paused { by: "alice".into() },
    ]
    .map(Finding::from)
    .into()
}

fn probe(fault: ProbeFault, origin: Origin, has_credential: bool) -> Finding {
    let url = ServerUrl::http("10.0.0.1", 8000);
    ProbeFinding {
        asked: ProbedServer { url, origin, has_credential, is_healthy: false, silence: Silence::New },
        fault,
    }
    .into()
}

fn no_connection(why: NoConnection) -> ProbeFault {
    ProbeFault::CannotConnect { why, cause: "refused".into() }
}

fn probes() -> Vec<Finding> {
    let path = || std::sync::Arc::from("/v1/models");
    let statuses = [307, 429, 500, 503, 418].map(|status| ProbeFault::Status { path: path(), status });
    let faults = [
        no_connection(NoConnection::Refused),
        no_connection(NoConnection::NameNotFound),
        no_connection(NoConnection::NoRoute),
        no_connection(NoConnection::Tls),
        no_connection(NoConnection::Other),
        ProbeFault::Untrusted { cause: "unknown issuer".into() },
        ProbeFault::TimedOut { after: std::time::Duration::from_secs(3) },
        ProbeFault::BrokeOff { cause: "reset".into() },
        ProbeFault::AnswerBrokeOff { path: path() },
        ProbeFault::AnswerTooLong { path: path() },
        ProbeFault::Unauthorized { path: path(), status: 401 },
        ProbeFault::NoModelList { path: path(), status: 404 },
        ProbeFault::NoModelList { path: path(), status: 405 },
        ProbeFault::Fails { status: 500 },
        ProbeFault::NotAListing { path: path(), error: ListingError::NotJson },
        ProbeFault::NotReady { path: path(), status: 503 },
        ProbeFault::NotReady { path: path(), status: 404 },
        ProbeFault::LacksText { path: path(), status: 200, wanted: "llama".into() },
    ];
    let all = faults.into_iter().chain(statuses);
    let of = |fault: ProbeFault| {
        let of = [(Origin::Docker, false), (Origin::File, false), (Origin::File, true)];
        of.map(|(origin, has_credential)| probe(fault.clone(), origin, has_credential))
    };
    all.flat_map(of).collect()
}

fn listings() -> Vec<Finding> {
    [
        ListingFinding::NoModels(Origin::Docker),
        ListingFinding::NoModels(Origin::File),
        ListingFinding::EntryWithoutId,
        ListingFinding::UnusableName(no_name()),
        ListingFinding::TooMany { count: 3000 },
        ListingFinding::OwnHostOnly(Origin::Docker),
        ListingFinding::OwnHostOnly(Origin::File),
    ]
    .map(Finding::from)
    .into()
}

fn settings() -> Vec<Finding> {
    let of = || ("fast", "llama");
    let (alias, of) = (model(of().0), model(of().1));
    let branches = [
        BranchFault::NoneReady,
        BranchFault::NoSuchModel,
        BranchFault::NameNotAccepted { server: "b".into() },
        BranchFault::HasBoth { server: "b".into() },
        BranchFault::Credential,
    ];
    let branch = |fault| SettingFinding::Branch {
        kind: BranchKind::Canary,
        model: of.clone(),
        target: model("next"),
        fault,
    };
    let others = [
        SettingFinding::NotSingle { count: 2 },
        SettingFinding::AliasOfNothing { alias: alias.clone(), of: of.clone() },
        SettingFinding::AliasOfSeveral { alias: alias.clone(), count: 2 },
        SettingFinding::AliasUnknownToVllm { alias, of: of.clone() },
        SettingFinding::Conflict {
            key: "strategy",
            here: "hrw".into(),
            model: of.clone(),
            first: "a".into(),
            counts: "p2c".into(),
        },
        SettingFinding::NoPick { model: of.clone(), strategy: "cache", fault: PickFault::Sticky },
        SettingFinding::WaitWithoutChoice { model: of.clone() },
    ];
    branches.map(branch).into_iter().chain(others).map(Finding::from).collect()
}

fn doors() -> Vec<Finding> {
    let router =
        || LabelledRouter { name: "llm".into(), made_by: None, is_doubtful: false, leads_to: Behind::Server };
    [
        DoorFinding::TcpRouter(router()),
        DoorFinding::UncheckedRouter { router: router(), middlewares: Vec::new() },
        DoorFinding::UnseenCheck { router: router(), middlewares: vec!["sso@file".into()] },
        DoorFinding::Exposed { by_label: true, host: "vllm".into(), leads_to: Behind::Server },
        DoorFinding::Exposed { by_label: false, host: "vllm".into(), leads_to: Behind::Modelgate },
        DoorFinding::OpenPort { port: 8000, host_port: 32768 },
        DoorFinding::TraefikUnseen { why: Blind::NoTraefik, names: vec!["vllm".into()], more: 0 },
    ]
    .map(Finding::from)
    .into()
}

fn all() -> Vec<Finding> {
    [labels(), addresses(), of_docker(), lifecycle(), probes(), listings(), settings(), doors()].concat()
}

/// The codes as the files have them.
fn written() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/finding");
    let codes = |name: &str| -> Vec<String> {
        let file = std::fs::read_to_string(folder.join(name).with_extension("rs")).expect(name);
        let begins = ["Facts::hint(\"", "Facts::fault(\"", "Facts::danger(\""];
        let rests = begins.iter().flat_map(|begin| file.split(begin).skip(1));
        rests.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect()
    };
    FILES.into_iter().flat_map(codes).collect()
}

#[test]
fn each_finding_has_a_code_of_its_own_words_and_advice() {
    let codes = written();
    let unique: BTreeSet<&str> = codes.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), codes.len(), "one code stands for two findings: {codes:?}");
    assert_eq!(
        all().iter().map(Finding::code).collect::<BTreeSet<_>>(),
        unique,
        "this test knows all of them"
    );
    for code in codes {
        let is_snake = code.split('_').all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
        assert!(is_snake, "{code}");
    }
    for finding in all() {
        let (words, advice) = (finding.to_string(), finding.advice());
        assert!(!words.is_empty() && !words.ends_with('.'), "{finding:?}: {words}");
        assert!(advice.ends_with(['.', '?']), "{finding:?}: {advice}");
    }
}

#[test]
fn only_ways_past_modelgate_are_a_danger() {
    for finding in all() {
        let is_door = matches!(finding, Finding::Door(_));
        // `docs/codes.md` says which of the others are hints, and the book's test compares that.
        let is_danger = finding.severity_at_ready() == Severity::Bad;
        assert_eq!(is_danger, is_door && finding.severity() != Severity::Hint, "{finding:?}");
    }
}

/// Advice used to be looked up by parts of the text, and was therefore sometimes that of another finding.
#[test]
fn advice_is_about_the_server_that_it_is_given_for() {
    let path = || std::sync::Arc::from("/v1/models");
    let advice = |fault, origin, has_credential| probe(fault, origin, has_credential).advice().into_owned();
    let rejected = |origin, has| advice(ProbeFault::Unauthorized { path: path(), status: 401 }, origin, has);
    assert!(rejected(Origin::File, true).starts_with("Correct its credential in its entry in servers:"));
    assert!(rejected(Origin::File, false).starts_with("Give it one in its entry in servers:"));
    assert!(rejected(Origin::Docker, false).starts_with("Start the server without an API key"));
    let missing = |origin| advice(ProbeFault::NoModelList { path: path(), status: 404 }, origin, false);
    assert!(missing(Origin::Docker).contains("inference.models"));
    assert!(!missing(Origin::File).contains("inference."), "a server of the file has no labels");
    let ready = advice(ProbeFault::NotReady { path: path(), status: 404 }, Origin::Docker, false);
    assert!(ready.contains("ready.path") && !ready.contains("inference.models"), "{ready}");
    let loading = advice(ProbeFault::Status { path: path(), status: 503 }, Origin::Docker, false);
    assert!(loading.contains("may still be loading"), "{loading}");
    let silent = |host: Option<&str>| {
        let host = DockerHost(host.map(str::to_owned));
        Finding::from(DockerFinding::Silent { host, endpoint: "tcp://gpu1".into(), error: "no".into() })
            .advice()
            .into_owned()
    };
    assert!(silent(None).contains("docker.endpoint"));
    assert!(silent(Some("gpu1")).contains("docker.hosts[gpu1].endpoint"));
}

#[test]
fn a_list_of_all_labels_can_be_left_out() {
    let unknown = Finding::from(LabelFinding::Unknown { label: "inference.prot".into() });
    let words = "label inference.prot is not known and has no effect (did you mean inference.port?)";
    assert_eq!(format!("{unknown:#}"), words);
    assert_eq!(
        (unknown.to_string(), unknown.choices()),
        (words.to_owned(), None),
        "who is told what was meant needs no list"
    );
    let unknown = Finding::from(LabelFinding::Unknown { label: "inference.zzzzzzzz".into() });
    let choices = unknown.choices().expect("all labels");
    assert_eq!(unknown.to_string(), format!("{unknown:#}; known are {choices}"));
    assert!(choices.contains("inference.port"), "{choices}");
}

/// A server that loads is waited for, and clients are told to come again. What somebody must mend is not waited for; nor is a
/// server whose HEALTHCHECK passes, or that has been silent for too long.
#[test]
fn what_passes_by_itself_is_told_from_what_must_be_mended() {
    let path = || std::sync::Arc::from("/v1/models");
    let cause = || std::sync::Arc::from("reset");
    let (loading, always, never) = ("loading", "always", "never");
    for (fault, code, passes, is_silence) in [
        (no_connection(NoConnection::Refused), "cannot_connect", loading, true),
        // The name or the way may come with the server.
        (no_connection(NoConnection::NameNotFound), "cannot_connect", loading, true),
        (no_connection(NoConnection::NoRoute), "cannot_connect", loading, true),
        (no_connection(NoConnection::Other), "cannot_connect", loading, true),
        (no_connection(NoConnection::Tls), "cannot_connect", never, false),
        (ProbeFault::TimedOut { after: std::time::Duration::ZERO }, "timed_out", loading, true),
        (ProbeFault::BrokeOff { cause: cause() }, "connection_broke_off", loading, true),
        (ProbeFault::AnswerBrokeOff { path: path() }, "answer_broke_off", loading, false),
        (ProbeFault::Untrusted { cause: cause() }, "certificate_untrusted", never, false),
        (ProbeFault::AnswerTooLong { path: path() }, "answer_too_long", never, false),
        (ProbeFault::Unauthorized { path: path(), status: 401 }, "credential_wanted", never, false),
        (ProbeFault::Status { path: path(), status: 503 }, "models_status", always, false),
        (ProbeFault::Status { path: path(), status: 500 }, "models_status", never, false),
        (ProbeFault::Fails { status: 503 }, "server_error", always, false),
        (ProbeFault::NotReady { path: path(), status: 404 }, "not_ready_status", never, false),
        (
            ProbeFault::LacksText { path: path(), status: 200, wanted: cause() },
            "not_ready_text",
            always,
            false,
        ),
    ] {
        let (new, lasting, after) = (Silence::New, Silence::Lasting, Silence::AfterAnswers);
        for (origin, is_healthy, silence) in [
            (Origin::File, false, new),
            (Origin::File, true, new),
            (Origin::File, false, lasting),
            (Origin::File, true, lasting),
            (Origin::File, false, after),
            (Origin::Docker, false, new),
            (Origin::Docker, true, new),
            (Origin::Docker, false, lasting),
            (Origin::Docker, false, after),
        ] {
            let is_lost = (origin, silence) == (Origin::File, lasting);
            let Finding::Probe(found) = probe(fault.clone(), origin, false) else { unreachable!() };
            let finding =
                ProbeFinding { asked: ProbedServer { is_healthy, silence, ..found.asked }, ..found };
            assert_eq!(finding.is_silence(), is_silence, "{finding:?}");
            let finding = Finding::from(finding);
            let expected = passes == always || passes == loading && !is_healthy && !is_lost;
            let found = (finding.code(), finding.may_pass_by_itself(), finding.is_silence());
            assert_eq!(found, (code, expected, is_silence), "{finding:?}");
            // Who looks at a list of servers must see which of them wait for somebody.
            let is_final = ["credential_wanted", "certificate_untrusted", "answer_too_long"].contains(&code)
                || fault == no_connection(NoConnection::Tls);
            let name = if is_final { "unusable" } else { "starting" };
            assert_eq!(crate::ServerState::Starting(finding).name(), name, "{code}");
        }
    }
}

/// Operators look for the keys that are named, in the place that is named.
#[test]
fn a_probe_is_told_in_the_words_of_its_servers_place() {
    let path = || std::sync::Arc::from("/v1/models");
    let status = |status| ProbeFault::Status { path: path(), status };
    let refused = || no_connection(NoConnection::Refused);
    for (fault, origin, is_healthy, words, advice) in [
        (
            refused(),
            Origin::Docker,
            false,
            "cannot connect to http://10.0.0.1:8000: refused (is inference.port right?)",
            "The container runs,",
        ),
        (
            refused(),
            Origin::Docker,
            true,
            "healthy, but cannot connect",
            "Its HEALTHCHECK passes within the container,",
        ),
        (
            refused(),
            Origin::File,
            false,
            "cannot connect to http://10.0.0.1:8000: refused (is url right?)",
            "Is the server running,",
        ),
        (
            ProbeFault::TimedOut { after: std::time::Duration::from_secs(3) },
            Origin::Docker,
            false,
            "http://10.0.0.1:8000 does not answer within 3 s",
            "It may be loading its model, be overloaded, or hang; or something between here and there drops what is sent. Look at its \
             log: docker logs NAME.",
        ),
        (
            ProbeFault::TimedOut { after: std::time::Duration::from_secs(3) },
            Origin::File,
            true,
            "healthy, but http://10.0.0.1:8000 does not answer",
            "Its HEALTHCHECK, which asks from within the container, passes.",
        ),
        (
            status(302),
            Origin::File,
            false,
            "GET http://10.0.0.1:8000/v1/models answers 302",
            "Modelgate follows no redirects. Set url and base_path to where its API is.",
        ),
        (
            status(302),
            Origin::Docker,
            true,
            "healthy, but /v1/models answers 302",
            "Modelgate follows no redirects. Set inference.port and inference.api.base_path to where its API is.",
        ),
        (status(429), Origin::File, false, "GET", "Modelgate's probes, one every few seconds,"),
        (status(500), Origin::File, false, "GET", "The server fails by itself; look at its log."),
        (status(599), Origin::File, false, "GET", "The server fails by itself;"),
        (status(418), Origin::File, false, "GET", "Modelgate expects 200 there."),
        (
            ProbeFault::NoModelList { path: path(), status: 404 },
            Origin::File,
            false,
            "GET http://10.0.0.1:8000/v1/models answers 404: set models if it has no model list, or base_path if",
            "The server has no model list there. Name its models with the key models of its entry in servers",
        ),
        (
            ProbeFault::NoModelList { path: path(), status: 404 },
            Origin::Docker,
            false,
            "GET http://10.0.0.1:8000/v1/models answers 404: set inference.models if it has no model list, or inference.api.base_path",
            "The server has no model list there. Name its models with the label inference.models",
        ),
    ] {
        let Finding::Probe(found) = probe(fault, origin, false) else { unreachable!() };
        let finding: Finding =
            ProbeFinding { asked: ProbedServer { is_healthy, ..found.asked }, ..found }.into();
        assert!(finding.to_string().starts_with(words), "{finding}");
        let may_load = finding.to_string().ends_with("; it may still be loading");
        assert_eq!(may_load, finding.is_silence() && !is_healthy, "{finding}");
        assert!(finding.advice().starts_with(advice), "{finding}: {}", finding.advice());
    }
}

#[test]
fn a_branch_is_called_as_in_the_settings() {
    for (kind, name, key) in
        [(BranchKind::Canary, "canary", "canary.model"), (BranchKind::Mirror, "mirror", "mirror.model")]
    {
        let (one, target) = (model("llama"), model("next"));
        let finding = Finding::from(SettingFinding::Branch {
            kind,
            model: one,
            target,
            fault: BranchFault::NoSuchModel,
        });
        let told = format!("{finding} {}", finding.advice());
        assert!(kind.key() == key && told.contains(&format!("the {name} begins by itself")), "{told}");
    }
}

/// Whoever asks for Modelgate's choice of servers and does not get it must find the setting that is in the way.
#[test]
fn a_setting_that_is_in_the_way_is_named() {
    for (fault, key) in [
        (PickFault::Sticky, "sticky.cookie"),
        (PickFault::Canary, "canary.model"),
        (PickFault::Mirror, "mirror.model"),
    ] {
        let finding =
            Finding::from(SettingFinding::NoPick { model: model("llama"), strategy: "cache", fault });
        assert!(crate::Setting::find(key).is_some() && finding.to_string().contains(key), "{finding}");
        assert_eq!(finding.advice(), format!("Take either strategy=cache or {key} away."));
    }
}

/// While a Docker host is away, its servers are those that were known before.
#[test]
fn one_server_from_before_is_not_told_as_several() {
    let told = [1, 2].map(|servers| DockerFinding::Kept { servers }.to_string());
    assert!(told[0].ends_with("one server is known from before (1)"), "{told:?}");
    assert!(told[1].ends_with("its servers are known from before (2)"), "{told:?}");
}

/// Programs filter by these words.
#[test]
fn a_severity_has_a_word() {
    let words = [Severity::Bad, Severity::Warn, Severity::Hint].map(Severity::name);
    assert_eq!(words, ["bad", "warn", "hint"]);
}

/// A server that has ended is forgotten after a while, and the end of a run ends its drain.
#[test]
fn a_run_that_is_over_is_told_from_one_that_rests() {
    let over = lifecycle()
        .into_iter()
        .filter(|finding| matches!(finding, Finding::Lifecycle(finding) if finding.has_ended()));
    assert_eq!(
        over.map(|finding| finding.to_string()).collect::<Vec<_>>(),
        ["it has stopped", "it has been removed", "it has gone"]
    );
}

#[test]
fn the_servers_that_may_be_exposed_are_counted() {
    let told = |more| {
        let names = vec!["a".into(), "b".into()];
        Finding::from(DoorFinding::TraefikUnseen { why: Blind::Hidden("edge".into()), names, more })
            .to_string()
    };
    assert!(
        told(0).contains("of edge does not stand") && told(0).contains("lead to a, b. The"),
        "{}",
        told(0)
    );
    assert!(told(1).contains("lead to a, b and 1 more. The"), "{}", told(1));
}

/// Regression: a server that was dead "may still be loading", and so was one whose name nobody knew.
#[test]
fn a_server_without_a_connection_is_told_with_what_keeps_it_from_being_made() {
    let (docker, file) = (Origin::Docker, Origin::File);
    let (new, lasting, after) = (Silence::New, Silence::Lasting, Silence::AfterAnswers);
    for (why, origin, silence, end, advice) in [
        (
            NoConnection::Refused,
            docker,
            new,
            "(is inference.port right?); it may still be loading",
            "The container runs, but",
        ),
        (
            NoConnection::Refused,
            docker,
            lasting,
            "refused (is inference.port right?); its container has run for longer than requests.loading_time",
            "The container has run for longer than a server may take to load",
        ),
        (
            NoConnection::Refused,
            docker,
            after,
            "; it has answered before",
            "The server in the container has failed, or is starting anew.",
        ),
        (
            NoConnection::Refused,
            file,
            new,
            "refused (is url right?); it may still be loading",
            "Is the server running,",
        ),
        (
            NoConnection::Refused,
            file,
            lasting,
            "; it has not answered for longer than requests.loading_time, so nobody waits for its models",
            "Is the server running,",
        ),
        (
            NoConnection::Refused,
            file,
            after,
            "; it has answered before",
            "The server or its host has failed, or is starting anew.",
        ),
        (
            NoConnection::NameNotFound,
            docker,
            new,
            "8000: refused",
            "Nobody here knows the name of its Docker host:",
        ),
        (
            NoConnection::NameNotFound,
            file,
            new,
            "refused (is url right?)",
            "Nobody here knows the name of its host:",
        ),
        (NoConnection::NoRoute, docker, new, "8000: refused", "No packet gets from here to that address."),
        (
            NoConnection::NoRoute,
            file,
            new,
            "refused (is url right?)",
            "No packet gets from here to that address.",
        ),
        (
            NoConnection::Tls,
            file,
            new,
            "8000: TLS: refused (is url right?)",
            "Something answers there, but TLS with it fails.",
        ),
        (
            NoConnection::Other,
            file,
            new,
            "refused (is url right?)",
            "The system that Modelgate runs on gives this reason.",
        ),
    ] {
        let Finding::Probe(found) = probe(no_connection(why), origin, false) else { unreachable!() };
        let finding: Finding =
            ProbeFinding { asked: ProbedServer { silence, ..found.asked }, ..found }.into();
        let (told, todo) = (finding.to_string(), finding.advice());
        assert!(
            told.starts_with("cannot connect to http://10.0.0.1:8000: ") && told.ends_with(end),
            "{told}"
        );
        assert!(todo.starts_with(advice), "{told}: {todo}");
        // Only what may be loading is said to be.
        let may_load = why == NoConnection::Refused && silence == new;
        assert_eq!(
            (told.contains("still be loading"), todo.contains("still loading")),
            (may_load, may_load),
            "{told}: {todo}"
        );
    }
}
