//! The pages, requested through the router.

use std::time::{Duration, SystemTime};

use axum::http::{Request, StatusCode};
use catalogue::{Catalogue, CordonKind, DockerFinding, Problem, ServerState, Source};
use http_body_util::BodyExt as _;
use metering::{Ending, UsageKind};
use telemetry::{AnsweringServer, Decided, Refused, SettledRequest};

use crate::{
    Attention,
    testing::{
        ADMIN, Dashboard, READER,
        found::{ChangingServer, Discovery, Does, container, pending, problems, unhealthy},
        server, settled, text,
    },
};

/// A text that must be escaped wherever it is shown.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>";
const ESCAPED: &str = "&#60;img src=x onerror=alert(1)&#62;";

async fn hostile() -> Catalogue {
    let answers = ChangingServer::start(Does::Answer(200, 200)).await;
    let wanted = [("inference.ready.path", "/ready"), ("inference.ready.contains", HOSTILE)];
    let asked = Discovery::start(&[container(HOSTILE, answers.port, &wanted)]).all_asked().await;
    let mut bad = server(HOSTILE, asked.servers().next().expect("a server").state.clone(), &[HOSTILE]);
    bad.spec.source = Source::Docker { container_id: HOSTILE.into(), image: HOSTILE.into() };
    let mut found = asked.problems().to_vec();
    found.extend(problems(&container(HOSTILE, 8000, &[("inference.port", HOSTILE)])));
    let unknown = format!("inference.{HOSTILE}");
    found.extend(problems(&container(&format!("not-a-server-{HOSTILE}"), 8000, &[(&unknown, "x")])));
    // What an Engine says of itself, in whatever words.
    found.push(Problem::source(HOSTILE, DockerFinding::NodesUnknown { error: HOSTILE.into() }));
    Catalogue::assemble([bad, server("good", ServerState::Ready, &["llama", HOSTILE])], found)
}

fn decided(dashboard: &Dashboard, text: &str) {
    let telemetry = dashboard.admin.shared.telemetry();
    telemetry.decided(&Decided {
        at: SystemTime::now(),
        request_id: text,
        client_request_id: None,
        consumer: Some(text),
        key: Some(text),
        model: Some(text),
        from: None,
        method: text,
        uri: text,
        refused: Some(Refused { code: "model_not_found", words: &text }),
        tokens: Some(1234),
        latency: Some(Duration::from_micros(250)),
    });
    telemetry.collect(SystemTime::now());
}

#[tokio::test]
async fn what_others_have_named_shows_as_text_everywhere() {
    let dashboard = Dashboard::of(hostile().await);
    decided(&dashboard, HOSTILE);
    let encoded = crate::list::encode(HOSTILE);
    let id = crate::list::encode(&format!("file:{HOSTILE}"));
    let pages = [
        "/".to_owned(),
        "/models".into(),
        format!("/models/{encoded}"),
        format!("/models?q={encoded}&state={encoded}"),
        "/servers".into(),
        "/servers?state=problems".into(),
        format!("/servers?q={encoded}"),
        format!("/servers/{id}"),
        "/requests".into(),
        format!("/requests?model={encoded}&consumer={encoded}&key={encoded}&id={encoded}&reason={encoded}"),
        format!("/usage?by={encoded}&key={encoded}&consumer={encoded}&model={encoded}&from={encoded}"),
        "/traefik".into(),
        "/about".into(),
    ];
    for path in &pages {
        let page = dashboard.page(path).await;
        for raw in ["<img src=x", "<script>alert"] {
            assert!(!page.contains(raw), "{path} has {raw}");
        }
        // Quotes cannot end an attribute either.
        assert!(!page.contains("alert(1)>\"'>"), "{path}");
    }
    for path in ["/", "/models", "/servers", "/servers?state=problems", "/requests"] {
        assert!(dashboard.page(path).await.contains(ESCAPED), "{path} does not show it at all");
    }
    let form = format!("method={encoded}&url=%2F{encoded}&headers={encoded}&body={encoded}&from={encoded}");
    let page = text(dashboard.ask(Some(ADMIN), post("/requests/try"), &form).await).await;
    assert!(page.contains(ESCAPED) && !page.contains("<img src=x"), "what was typed, as text");
}

fn post(path: &str) -> axum::http::request::Builder {
    Request::post(path).header("content-type", "application/x-www-form-urlencoded")
}

#[tokio::test]
async fn webhooks_are_listed_and_tried_by_those_who_may_write() {
    let dashboard = Dashboard::of(Catalogue::default());
    let page = dashboard.page("/about").await;
    assert!(page.contains("<h3>pager</h3>") && page.contains("Send a test message"), "{page}");
    let tried = text(dashboard.ask(Some(ADMIN), post("/about"), "").await).await;
    assert!(
        tried.contains("arrived</span> chat")
            && tried.contains("failed</span> pager: it answers 404 Not Found"),
        "{tried}"
    );
    let read = text(dashboard.ask(Some(READER), Request::get("/about"), "").await).await;
    assert!(read.contains("<h3>pager</h3>") && !read.contains("Send a test message"));
}

#[tokio::test]
async fn a_problem_is_told_with_what_to_do() {
    let found = problems(&container("vllm", 8000, &[("inference.port", "abc")]));
    let dashboard = Dashboard::of(Catalogue::assemble([], found));
    for path in ["/", "/servers", "/servers?state=problems"] {
        let page = dashboard.page(path).await;
        for part in [
            "container vllm",
            "inference.port=&#34;abc&#34; is not allowed",
            "start the container anew",
            "data-code=\"label_not_allowed\"",
        ] {
            assert!(page.contains(part), "{path}: {part}");
        }
    }
    assert!(dashboard.page("/").await.contains("1 thing needs you"));
}

/// A list of all labels hides which of them was meant.
#[tokio::test]
async fn a_long_list_of_what_is_known_is_folded_and_shown_only_where_nothing_else_helps() {
    for (label, told, has_list) in [
        (
            "inference.zzzzzzzz",
            "has no effect</div><details><summary>Known are</summary>inference.enable, ",
            true,
        ),
        ("inference.wieght", "has no effect (did you mean inference.weight?)</div>", false),
    ] {
        let vllm = server("vllm", ServerState::Ready, &["llama"]);
        let found = problems(&container("vllm", 8000, &[(label, "3")]));
        let dashboard = Dashboard::of(Catalogue::assemble([vllm], found));
        for path in ["/", "/servers?state=problems", "/servers/file%3Avllm"] {
            let page = dashboard.page(path).await;
            assert!(page.contains(told), "{path}: {page}");
            assert_eq!(page.contains("Known are"), has_list, "{path}: {label}");
        }
    }
}

#[tokio::test]
async fn the_verdict() {
    let ready = || server("gpu", ServerState::Ready, &["llama"]);
    let page = Dashboard::of(Catalogue::assemble([ready()], Vec::new())).page("/").await;
    assert!(
        page.contains("All is well") && page.contains("1 of 1 model and 1 of 1 server are ready."),
        "{page}"
    );
    let page = Dashboard::of(Catalogue::default()).page("/").await;
    assert!(page.contains("No inference server is known"));
    let loading = server("gpu", pending(), &["llama"]);
    let page = Dashboard::of(Catalogue::assemble([loading], Vec::new())).page("/").await;
    assert!(page.contains("No inference server is ready") && !page.contains("All is well"), "{page}");
    let warning = problems(&container("gpu", 8000, &[("inference.prot", "8000")]));
    let page = Dashboard::of(Catalogue::assemble([ready()], warning)).page("/").await;
    assert!(page.contains("Working, with 1 thing to look at"));
    let gone = server("gpu", unhealthy(), &["llama"]);
    let page = Dashboard::of(Catalogue::assemble([gone], Vec::new())).page("/").await;
    assert!(page.contains("2 things need you"), "the model and the server");
    assert!(page.contains("clients get 503") && page.contains("docker inspect"));
}

/// Regression: the page said “All is well” while webhooks were told that a revoked key is being used.
#[tokio::test]
async fn an_alert_that_is_firing_is_named() {
    let ready = server("gpu", ServerState::Ready, &["llama"]);
    let dashboard = Dashboard::of(Catalogue::assemble([ready], Vec::new()));
    let alert = |is_bad, n: usize| Attention {
        code: "revoked_key_used",
        is_bad,
        about: format!("key alice-{n}"),
        what: "it was revoked, and was used once".into(),
        advice: Some("Does its owner know?".into()),
        page: "/requests?decision=refused".into(),
    };
    dashboard.admin.show_alerts(vec![alert(false, 1)]);
    let page = dashboard.page("/").await;
    assert!(page.contains("Working, with 1 thing to look at"), "{page}");
    dashboard.admin.show_alerts(vec![alert(true, 1)]);
    let page = dashboard.page("/").await;
    assert!(page.contains("1 thing needs you") && !page.contains("All is well"), "{page}");
    assert!(page.contains("key alice-1") && page.contains("it was revoked"), "{page}");
    assert!(page.contains("Does its owner know?") && !page.contains("more alerts"), "{page}");
    dashboard.admin.show_alerts((1..9).map(|n| alert(true, n)).collect());
    let page = dashboard.page("/").await;
    assert!(page.contains("8 things need you") && page.contains("and 2 more alerts"), "{page}");
    dashboard.admin.show_alerts(Vec::new());
    assert!(dashboard.page("/").await.contains("All is well"));
}

#[tokio::test]
async fn long_lists_are_searched_and_cut_into_pages() {
    let servers = (0..3000).map(|n| {
        let state = if n % 10 == 0 { pending() } else { ServerState::Ready };
        server(&format!("server-{n:04}"), state, &[&format!("model-{:04}", n % 1000)])
    });
    let dashboard = Dashboard::of(Catalogue::assemble(servers, Vec::new()));
    let rows = |page: &str| page.matches("<th scope=\"row\">").count();
    let first = dashboard.page("/servers").await;
    assert_eq!(rows(&first), 50);
    assert!(
        first.contains("1–50 of 3,000") && first.contains("server-0000") && !first.contains("server-0050")
    );
    let second = dashboard.page("/servers?page=2").await;
    assert!(second.contains("server-0050") && !second.contains("server-0049"));
    let last = dashboard.page("/servers?state=starting&page=99").await;
    assert!(last.contains("251–300 of 300") && last.contains("server-2990"));
    let found = dashboard.page("/servers?q=SERVER-29").await;
    assert!(
        found.contains("1–50 of 100") && found.contains("?q=SERVER%2D29&#38;page=2"),
        "the search goes along"
    );
    let of_model = dashboard.page("/servers?q=model-0123").await;
    assert_eq!(rows(&of_model), 3);
    let models = dashboard.page("/models?q=model-09").await;
    assert!(models.contains("1–50 of 100"));
}

#[tokio::test]
async fn an_operator_drains_pauses_and_resumes_a_server() {
    let mut gpu = server("gpu", ServerState::Ready, &["llama"]);
    gpu.spec.incarnation = "first run".into();
    let spec = gpu.spec.clone();
    let dashboard = Dashboard::of(Catalogue::assemble([gpu], Vec::new()));
    let act = async |token, action: &str| {
        let response =
            dashboard.ask(Some(token), post("/servers/file%3Agpu"), &format!("action={action}")).await;
        response.status()
    };
    // With several replicas and no store, a pause stops only this one's share of requests.
    const HERE_ONLY: &str = "is so in this Modelgate alone, until it is restarted";
    let page = dashboard.page("/servers/file%3Agpu").await;
    assert!(page.contains("value=\"pause\"") && page.contains(HERE_ONLY), "{page}");
    let cordoned = || {
        dashboard.admin.cordons.borrow().of(&spec).map(|cordon| (cordon.kind.clone(), cordon.by.to_string()))
    };
    assert_eq!(act(READER, "pause").await, StatusCode::FORBIDDEN);
    assert_eq!(cordoned(), None);
    assert_eq!(act(ADMIN, "drain").await, StatusCode::SEE_OTHER);
    assert_eq!(cordoned(), Some((CordonKind::Drain { incarnation: "first run".into() }, "alice".into())));
    assert_eq!(act(ADMIN, "pause").await, StatusCode::SEE_OTHER);
    assert_eq!(cordoned(), Some((CordonKind::Pause, "alice".into())));
    assert!(dashboard.page("/servers/file%3Agpu").await.contains("value=\"resume\""));
    assert_eq!(act(ADMIN, "resume").await, StatusCode::SEE_OTHER);
    assert_eq!(cordoned(), None);
    assert_eq!(act(ADMIN, "explode").await, StatusCode::BAD_REQUEST);
    let unknown = dashboard.ask(Some(ADMIN), post("/servers/file%3Aother"), "action=pause").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    let page = dashboard.ask(Some(READER), Request::get("/servers/file%3Agpu"), "").await;
    let page = text(page).await;
    assert!(
        !page.contains("value=\"pause\"") && !page.contains(HERE_ONLY),
        "who may only read has no buttons"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let [gpu, empty] = [("gpu", &["llama"][..]), ("empty", &[])]
        .map(|(name, models)| server(name, ServerState::Ready, models));
    let with_store =
        Dashboard::with_store(Catalogue::assemble([gpu, empty], Vec::new()), folder.path()).await;
    let page = with_store.page("/servers/file%3Agpu").await;
    assert!(page.contains("is so in every Modelgate that has the same store") && !page.contains(HERE_ONLY));
    // Regression: a server without any model was called ready, everywhere.
    let page = with_store.page("/servers?state=empty").await;
    assert!(page.contains("/servers/file%3Aempty") && !page.contains("/servers/file%3Agpu"), "{page}");
    let page = with_store.page("/").await;
    assert!(page.contains("1 of 2 servers are ready") && page.contains("1 without models"), "{page}");
}

#[tokio::test]
async fn decisions_are_filtered() {
    let dashboard = Dashboard::of(Catalogue::default());
    decided(&dashboard, "llama");
    decided(&dashboard, "qwen");
    let page = dashboard.page("/requests").await;
    assert!(page.contains("llama") && page.contains("qwen") && page.contains("1,234"));
    let page = dashboard.page("/requests?model=llama").await;
    assert!(page.contains("model_not_found") && !page.contains("qwen"));
    let page = dashboard.page("/requests?decision=allowed").await;
    assert!(page.contains("No decision matches"));
    let page = dashboard.page("/requests?reason=quota_exceeded").await;
    assert!(
        page.contains("<option selected>quota_exceeded"),
        "what is asked for is chosen, though there is none: {page}"
    );
    let page = Dashboard::of(Catalogue::default()).page("/requests").await;
    assert!(page.contains("No request has been decided yet"));
}

#[tokio::test]
async fn a_key_that_is_tried_is_not_shown_again() {
    let dashboard = Dashboard::of(Catalogue::default());
    let secret = "mg-a-secret-that-nobody-should-see";
    for headers in [String::new(), format!("X-Api-Key%3A+{secret}%00"), "nonsense".into()] {
        let form = format!("method=POST&url=%2Fv1%2Fx&key={secret}&headers={headers}&body=&from=");
        let page = text(dashboard.ask(Some(READER), post("/requests/try"), &form).await).await;
        let outcome = page.split("<form class=\"form").next().expect("the outcome");
        assert!(!outcome.contains(secret), "{outcome}");
        assert!(!page.contains(&format!("value=\"{secret}")), "{page}");
        assert!(
            outcome.contains("Refused with 401 (invalid_api_key)") || outcome.contains("role=\"alert\""),
            "{outcome}"
        );
    }
}

/// The next event of a stream.
async fn event(body: &mut axum::body::Body) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.expect("in time")?;
    let data = frame.expect("a frame").into_data().expect("data");
    Some(String::from_utf8(data.to_vec()).expect("text"))
}

/// Waits for the end of a stream. Events that were under way may come before it.
async fn until_end(body: &mut axum::body::Body) {
    for _ in 0..3 {
        if event(body).await.is_none() {
            return;
        }
    }
    panic!("it goes on");
}

async fn events(dashboard: &Dashboard, page: &str) -> axum::http::Response<axum::body::Body> {
    dashboard.ask(Some(ADMIN), Request::get(format!("/events?page={page}")), "").await
}

#[tokio::test]
async fn a_live_page_hears_of_a_change_and_of_nothing_else() {
    let gpu = |state| Catalogue::assemble([server("gpu", state, &["llama"])], Vec::new());
    let mut dashboard = Dashboard::of(gpu(pending()));
    let response = events(&dashboard, "%2Fservers%3Fq%3Dgpu").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let first = event(&mut body).await.expect("an event");
    assert!(first.starts_with("event: live\ndata: \"") && first.contains("has not passed yet"), "{first}");
    assert!(!first.contains("<html"), "only what changes");
    let silent = tokio::time::timeout(Duration::from_millis(2500), body.frame()).await;
    assert!(silent.is_err(), "nothing has changed: {silent:?}");
    dashboard.publisher.publish(gpu(ServerState::Ready));
    let second = event(&mut body).await.expect("an event");
    assert!(second.contains("ready") && !second.contains("has not passed yet"), "{second}");
}

#[tokio::test]
async fn a_live_page_to_which_nothing_happens_hears_that_it_is_connected() {
    let dashboard = Dashboard::of(Catalogue::default());
    let mut body = events(&dashboard, "%2Fmodels").await.into_body();
    assert!(event(&mut body).await.expect("an event").starts_with("event: live\n"));
    let start = std::time::Instant::now();
    let next = event(&mut body).await.expect("an event");
    // Browsers drop an event without data; app.js gives up after 40 seconds without an event.
    assert!(next.starts_with("event: alive\ndata: 1\n"), "{next}");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_live_page_ends_with_the_token_and_with_the_program() {
    let dashboard = Dashboard::of(Catalogue::default());
    let (mut one, mut other) =
        (events(&dashboard, "%2F").await.into_body(), events(&dashboard, "%2F").await.into_body());
    event(&mut one).await.expect("an event");
    event(&mut other).await.expect("an event");
    dashboard.stop();
    until_end(&mut one).await;
    let dashboard = Dashboard::of(Catalogue::default());
    let mut other = events(&dashboard, "%2F").await.into_body();
    event(&mut other).await.expect("an event");
    dashboard.admin.authenticator.replace_tokens(crate::AdminTokens::default());
    until_end(&mut other).await;
}

#[tokio::test]
async fn what_is_no_page_is_not_live_and_too_many_are_told_so() {
    let dashboard = Dashboard::of(Catalogue::default());
    for page in ["", "%2Fnope", "%2Fsign-out", "https%3A%2F%2Fevil.example%2F", "%2Fservers%2Ffile%3Anobody"]
    {
        assert_eq!(events(&dashboard, page).await.status(), StatusCode::NOT_FOUND, "{page}");
    }
    let mut open = Vec::new();
    while open.len() < 64 {
        let response = events(&dashboard, "%2Fmodels").await;
        assert_eq!(response.status(), StatusCode::OK);
        open.push(response);
    }
    assert_eq!(events(&dashboard, "%2Fmodels").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    assert_eq!(events(&dashboard, "%2Fmodels").await.status(), StatusCode::OK, "a place is free again");
}

#[tokio::test]
async fn what_became_of_requests_is_shown_where_somebody_tells() {
    let gpu = server("gpu", ServerState::Ready, &["llama"]);
    let dashboard = Dashboard::of(Catalogue::assemble([gpu], Vec::new()));
    dashboard.admits(5);
    let page = dashboard.page("/requests").await;
    assert!(
        page.contains("allowed") && page.contains("est. 1,002 tokens") && !page.contains("no word yet"),
        "{page}"
    );
    assert!(!dashboard.page("/models").await.contains("Tokens/s"));
    let page = dashboard.page("/servers/file%3Agpu").await;
    assert!(
        page.contains("estimated: listen.telemetry is not set") && page.contains("docs/metering.md"),
        "{page}"
    );

    let hostile = AnsweringServer { id: "file:x".into(), name: HOSTILE.into() };
    let measured = UsageKind::Measured;
    dashboard.told(vec![
        settled(1, Ending::Finished, Some(200)),
        SettledRequest { kind: measured, ..settled(2, Ending::Refused, Some(503)) },
        SettledRequest { kind: measured, server: Some(hostile), ..settled(3, Ending::Aborted, Some(499)) },
        SettledRequest {
            kind: UsageKind::Estimated,
            server: None,
            duration: None,
            ..settled(4, Ending::Unknown, None)
        },
    ]);
    let page = dashboard.page("/requests").await;
    for part in [
        "answered</span> <span class=\"tag\">200</span>",
        "error</span> <span class=\"tag\">503</span>",
        "aborted</span> <span class=\"tag\">499</span>",
        "not known</span>",
        "no word yet</span>",
        "1,200 + 34 in 1.5 s<div class=\"muted small\">exact, 1,000 cached</div>",
        "measured, 1,000 cached",
        "estimated, 1,000 cached",
        "<div class=\"muted small\">first token 200 ms</div>",
        "est. 1,002 tokens",
        ESCAPED,
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("<img src=x"), "{page}");
    filters(&dashboard).await;
    figures(&dashboard).await;
}

async fn filters(dashboard: &Dashboard) {
    let rows = |page: &str| page.matches("<time datetime").count();
    for (filter, count) in [("allowed", 5), ("answered", 1), ("error", 1), ("aborted", 1), ("refused", 0)] {
        let page = dashboard.page(&format!("/requests?decision={filter}")).await;
        assert_eq!(rows(&page), count, "{filter}");
    }
}

async fn figures(dashboard: &Dashboard) {
    // In half a minute: 3 × 34 tokens of the model, 2 × 34 of the server; those that are only estimated do not count.
    let of_server = ["2.3<div class=\"muted small\">prompts 80</div>", "95 % 2", ">1</td>"];
    let of_model = [
        "3.4<div class=\"muted small\">prompts 120</div>",
        "95 % 2",
        ">1<div class=\"muted small\">1 aborted",
    ];
    for (path, parts) in [("/models", of_model), ("/servers", of_server), ("/models/llama", of_server)] {
        let page = dashboard.page(path).await;
        for part in parts {
            assert!(page.contains(part), "{path}: {part}: {page}");
        }
    }
    let page = dashboard.page("/servers/file%3Agpu").await;
    for part in [
        "2 in the last 30 s: 1 answered, 1 failed",
        "2.3 a second generated, 80 a second of prompts",
        "for half of the requests",
        "exact: the server tells the tokens of each answer",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = dashboard.page("/models/llama").await;
    assert!(page.contains("4 in the last 30 s: 1 answered, 1 failed, 1 aborted, 1 not known"), "{page}");
}
