//! Accounts through the pages, in a real store.

use std::time::{Duration, SystemTime};

use access::KeyDigest;
use accounts::{Accounts, ConsumerSpec, Directory, KeySpec, Patterns, Plan};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use catalogue::{Catalogue, ServerState, Setting};
use http_body_util::BodyExt as _;
use limits::{Limits, Rate};
use telemetry::{Decided, Refused};

use crate::testing::{ADMIN, Dashboard, READER, server, text};

async fn dashboard(folder: &tempfile::TempDir) -> Dashboard {
    let gpu = server("gpu", ServerState::Ready, &["llama"]);
    Dashboard::with_store(Catalogue::assemble([gpu], Vec::new()), folder.path()).await
}

/// Sends a form; returns the status and the page.
async fn send(dashboard: &Dashboard, token: &str, path: &str, form: &str) -> (StatusCode, String) {
    let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    let response = dashboard.ask(Some(token), request.header("accept", "text/html"), form).await;
    (response.status(), text(response).await)
}

/// The API key that a page shows.
fn key_on(page: &str) -> String {
    let found = page.split("<code id=\"secret\">").nth(1).and_then(|rest| rest.split('<').next());
    found.expect("a key is shown").to_owned()
}

#[tokio::test]
async fn a_key_is_made_shown_once_changed_rotated_and_revoked() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    let (status, page) = send(&dashboard, ADMIN, "/plans", "name=free&limit.requests_per_minute=60").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");

    let form = "name=alice-laptop&consumer=alice&plan=free&models=llama*&note=%3Cb%3Ehers%3C%2Fb%3E";
    let (status, page) = send(&dashboard, ADMIN, "/keys", form).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let first = key_on(&page);
    assert!(first.starts_with("mg-") && page.contains("shown this once"));
    assert!(
        page.contains(&format!("Authorization: Bearer {first}")) && page.contains("model=&#34;llama&#34;")
    );

    let list = dashboard.page("/keys").await;
    for part in ["alice-laptop", "alice", "free", "llama*", "&#60;b&#62;hers", "works", "1 in all"] {
        assert!(list.contains(part), "{part}");
    }
    let one = dashboard.page("/keys/alice-laptop").await;
    for page in [&list, &one] {
        assert!(!page.contains(&first) && !page.contains(&KeyDigest::of(&first).to_hex()), "never again");
    }

    // Regression: it was said to work while its consumer was disabled, as that of a team that was blocked elsewhere.
    for (form, state) in [("name=alice&disabled=on", "its consumer is disabled"), ("action=save", "works")] {
        let path = if form.starts_with("name") { "/consumers" } else { "/consumers/alice" };
        let (status, page) = send(&dashboard, ADMIN, path, form).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
        for path in ["/keys", "/keys/alice-laptop"] {
            assert!(dashboard.page(path).await.contains(state), "{path}: {state}");
        }
    }

    let (status, page) = send(
        &dashboard,
        ADMIN,
        "/keys/alice-laptop",
        "action=save&consumer=alice&limit.requests_per_minute=5&disabled=on",
    )
    .await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let one = dashboard.page("/keys/alice-laptop").await;
    assert!(
        one.contains("5 requests per minute") && one.contains("disabled") && !one.contains("llama*"),
        "{one}"
    );

    let (status, page) = send(&dashboard, ADMIN, "/keys/alice-laptop", "action=rotate&grace=1h").await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let second = key_on(&page);
    assert_ne!(first, second);
    let stored =
        dashboard.admin.registry.get::<KeySpec>("alice-laptop").await.expect("an answer").expect("a key");
    assert_eq!(stored.account.sha256, KeyDigest::of(&second));
    assert_eq!(stored.account.previous.expect("grace").sha256, KeyDigest::of(&first));

    let (status, _) = send(&dashboard, ADMIN, "/keys/alice-laptop", "action=delete").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(dashboard.page("/keys").await.contains("None yet"));
    let audit = dashboard.page("/audit").await;
    for action in ["plan created", "key created", "key changed", "key rotated", "key deleted"] {
        assert!(audit.contains(action), "{action}: {audit}");
    }
    assert!(audit.contains("alice</td>") && !audit.contains(&first) && !audit.contains(&second));
}

/// The rows of a table of limits: the limit, what it applies to, and how much of it is used.
fn limits_on(page: &str) -> Vec<[String; 3]> {
    let rows = page.split("<tr><th scope=\"row\">").skip(1).filter(|row| row.contains("<meter"));
    let cell = |row: &str, before: &str| {
        let rest = row.split(before).nth(1).expect(before);
        rest.split('<').next().unwrap_or_default().to_owned()
    };
    let read = |row: &str| {
        let limit = row.split('<').next().unwrap_or_default().to_owned();
        [limit, cell(row, "data-label=\"Applies\">"), cell(row, "<span class=\"num\">")]
    };
    rows.map(read).collect()
}

/// Without a store: eve may send 3 requests a minute to each model, and her consumer 50 in all; there are seven models, and she
/// may use all but one.
fn of_the_file() -> Dashboard {
    let models = ["a", "b", "c", "d", "e", "f", "llama", "secret"];
    let dashboard =
        Dashboard::of(Catalogue::assemble([server("gpu", ServerState::Ready, &models)], Vec::new()));
    let rate = |requests| Limits::from(Rate::per_minute(requests, None).expect("a rate"));
    let consumer = ConsumerSpec {
        name: "eve".into(),
        plan: None,
        limits: Some(rate(50)),
        limits_per_model: Some(rate(20)),
        disabled: false,
        note: None,
    };
    let mut key = KeySpec::new("eve-1", "eve", KeyDigest::of("mg-eve"));
    key.limits_per_model = Some(rate(3));
    key.models = Patterns::new(vec!["?".into(), "llama".into()]).ok();
    let mut directory = Directory::default();
    directory.add_consumer(consumer.clone()).expect("a consumer");
    let in_force = directory.key(key.clone()).expect("a key");
    dashboard.admin.shared.replace_policy(access::Policy::new(vec![in_force], Vec::new()));
    dashboard.admin.registry.replace_declared(Accounts {
        plans: Vec::new(),
        consumers: vec![consumer],
        keys: vec![key],
    });
    dashboard
}

/// Records a request of eve's for a model, as `/auth` does.
fn eve_asks(dashboard: &Dashboard, model: &str) -> bool {
    let shared = &dashboard.admin.shared;
    let body = format!("{{\"model\":\"{model}\"}}");
    let headers = [("content-type", "application/json"), ("x-api-key", "mg-eve")];
    let headers =
        headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let request = access::Request {
        method: "POST",
        uri: "/v1/chat/completions",
        host: None,
        headers: &headers.into_iter().collect(),
        body: body.as_bytes(),
        mode: access::Mode::Layered,
        trusted: true,
        from: None,
        now: SystemTime::now(),
    };
    let catalogue = shared.catalogue().load().clone().expect("a catalogue");
    let decision = access::decide(&shared.policy(), &catalogue, shared.limiters(), &request);
    let refused = match &decision {
        access::Decision::Allow(_) => None,
        access::Decision::Deny(denial) => Some(Refused { code: denial.reason.code(), words: &denial.reason }),
    };
    shared.telemetry().decided(&Decided {
        at: request.now,
        request_id: "req_1",
        client_request_id: None,
        consumer: Some("eve"),
        key: Some("eve-1"),
        model: Some(model),
        from: None,
        method: request.method,
        uri: request.uri,
        refused,
        tokens: None,
        latency: None,
    });
    shared.telemetry().collect(request.now);
    refused.is_none()
}

/// Regression: the limit that refused her was on no page, and no page gave a reason.
#[tokio::test]
async fn without_a_store_the_limit_that_refuses_a_key_is_shown() {
    let dashboard = of_the_file();
    let asked: Vec<bool> = (0..4).map(|_| eve_asks(&dashboard, "llama")).collect();
    assert_eq!(asked, [true, true, true, false]);
    eve_asks(&dashboard, "no-such-model");
    eve_asks(&dashboard, "secret");
    let row = |limit: &str, applies: &str, used: &str| [limit, applies, used].map(str::to_owned);
    let page = dashboard.page("/keys/eve-1").await;
    let limits = limits_on(&page);
    assert_eq!(
        limits[..4],
        [
            row("50 requests a minute", "for this consumer", "3 of 50"),
            // The model of her latest request comes before those she has never used.
            row("3 requests a minute", "for this API key and model (llama)", "3 of 3"),
            row("20 requests a minute", "for this consumer and model (llama)", "3 of 20"),
            row("3 requests a minute", "for this API key and model (a)", "0 of 3"),
        ],
        "{page}"
    );
    assert_eq!(limits.len(), 1 + 2 * 5, "of five models: {limits:?}");
    assert!(page.contains("More models have limits") && !page.contains("(secret)"), "{page}");
    assert!(page.contains("Usage by day needs a store"), "{page}");

    let page = dashboard.page("/consumers/eve").await;
    let limits = limits_on(&page);
    assert_eq!(
        limits[..2],
        [
            row("50 requests a minute", "for this consumer", "3 of 50"),
            row("20 requests a minute", "for this consumer and model (secret)", "0 of 20"),
        ],
        "{page}"
    );
    assert!(limits.contains(&row("20 requests a minute", "for this consumer and model (llama)", "3 of 20")));
    assert!(!page.contains("for this API key"), "{page}");

    let folder = tempfile::tempdir().expect("a folder");
    let with_store = self::dashboard(&folder).await;
    send(&with_store, ADMIN, "/keys", "name=a&consumer=a").await;
    let page = with_store.page("/keys/a").await;
    assert!(!page.contains("needs a store"), "{page}");
}

/// Regression: a consumer's page named its plan, but not the plan's limits.
#[tokio::test]
async fn a_consumer_has_the_limits_of_its_plan() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    send(
        &dashboard,
        ADMIN,
        "/plans",
        "name=free&limit.requests_per_day=2000&limit_per_model.requests_per_hour=7",
    )
    .await;
    send(&dashboard, ADMIN, "/consumers", "name=bob&plan=free").await;
    send(&dashboard, ADMIN, "/consumers", "name=carol").await;
    let of_bob = limits_on(&dashboard.page("/consumers/bob").await);
    let expected = [
        ["2,000 requests a day", "for this consumer", "0 of 2,000"],
        ["7 requests an hour", "for this consumer and model (llama)", "0 of 7"],
    ];
    assert_eq!(of_bob, expected);
    assert!(dashboard.page("/consumers/carol").await.contains("There are none."));
    assert!(!dashboard.page("/plans/free").await.contains("data-live"), "a plan has none of its own");
}

#[tokio::test]
async fn the_limits_of_a_key_and_of_a_consumer_are_live() {
    let dashboard = of_the_file();
    for (path, first, then) in [
        ("%2Fkeys%2Feve-1", "for this API key and model (a)</td>", "1 of 3"),
        ("%2Fconsumers%2Feve", "for this consumer and model (a)</td>", "2 of 20"),
    ] {
        let response = dashboard.ask(Some(READER), Request::get(format!("/events?page={path}")), "").await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut body = response.into_body();
        let mut event = async || {
            let frame = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.expect("in time");
            let data = frame.expect("a frame").expect("a frame").into_data().expect("data");
            String::from_utf8(data.to_vec()).expect("text")
        };
        let part = event().await;
        assert!(part.starts_with("event: live\n") && part.contains(first), "{part}");
        assert!(!part.contains(then) && !part.contains("<form"), "{part}");
        assert!(eve_asks(&dashboard, "b"));
        let part = event().await;
        assert!(part.contains(then), "{part}");
    }
    for page in ["%2Fkeys%2Fnobody", "%2Fconsumers%2Fnobody", "%2Fplans%2Ffree", "%2Fkeys"] {
        let response = dashboard.ask(Some(READER), Request::get(format!("/events?page={page}")), "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{page}");
    }
}

/// Regression: a rotated key was shown as a single working key, though two keys worked.
#[tokio::test]
async fn an_old_key_that_still_works_is_told_and_can_be_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    send(&dashboard, ADMIN, "/keys", "name=bob-qwen&consumer=bob").await;
    let path = "/keys/bob-qwen";
    assert!(!dashboard.page(path).await.contains("The old key works until"));
    let (_, rotated) = send(&dashboard, ADMIN, path, "action=rotate&grace=24h").await;
    let stored = async || {
        let found = dashboard.admin.registry.get::<KeySpec>("bob-qwen").await;
        found.expect("an answer").expect("a key").account
    };
    let until = stored().await.previous.expect("grace").until;
    let until = crate::format::time(until);
    let time = format!("<time datetime=\"{}\">{}</time>", until.machine, until.people);
    assert!(rotated.contains(&format!("The old one works until {time}.")), "{rotated}");
    let page = dashboard.page(path).await;
    assert!(
        page.contains(&format!("<dt>The old key works until</dt><dd class=\"actions\">{time}")),
        "{page}"
    );
    assert!(page.contains("End it now"));
    let page = text(dashboard.ask(Some(READER), Request::get(path), "").await).await;
    assert!(page.contains("The old key works until") && !page.contains("End it now"), "{page}");
    // Saving the other fields does not change that.
    send(&dashboard, ADMIN, path, "action=save&consumer=bob&note=kept").await;
    assert!(stored().await.previous.is_some());
    let new = stored().await.sha256;
    let (status, page) = send(&dashboard, ADMIN, path, "action=end-old").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let key = stored().await;
    assert_eq!((key.previous, key.sha256, key.note.as_deref()), (None, new, Some("kept")));
    assert!(!dashboard.page(path).await.contains("The old key works until"));
    let (_, rotated) = send(&dashboard, ADMIN, path, "action=rotate&grace=0").await;
    assert!(rotated.contains("the old one stops working at once") && !rotated.contains("works until"));
    assert!(!dashboard.page(path).await.contains("The old key works until"), "it does not");
    assert_eq!(send(&dashboard, ADMIN, "/plans", "name=free").await.0, StatusCode::SEE_OTHER);
    assert_eq!(send(&dashboard, ADMIN, "/plans/free", "action=end-old").await.0, StatusCode::BAD_REQUEST);
}

/// Regression: the lines to paste named a model that the key may not use, so its owner's first request got a 404.
#[tokio::test]
async fn the_lines_to_paste_name_a_model_that_the_key_may_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut chosen = server("chosen", ServerState::Ready, &["by-header"]);
    let select = Setting::find("select.header").expect("a setting");
    select.read("X-Team: a", &mut chosen.spec.settings, &mut chosen.spec.model_settings).expect("a selector");
    let mut aliased = server("aliased", ServerState::Ready, &["zephyr"]);
    let aliases = Setting::find("aliases").expect("a setting");
    aliases
        .read("fast=zephyr", &mut aliased.spec.settings, &mut aliased.spec.model_settings)
        .expect("an alias");
    let starting = server("starting", crate::testing::found::pending(), &["mistral"]);
    let servers = [server("gpu", ServerState::Ready, &["llama", "qwen"]), starting, chosen, aliased];
    let dashboard = Dashboard::with_store(Catalogue::assemble(servers, Vec::new()), folder.path()).await;
    for form in ["name=small&models=qwen", "name=none"] {
        assert_eq!(send(&dashboard, ADMIN, "/plans", form).await.0, StatusCode::SEE_OTHER, "{form}");
    }
    for (n, (form, model)) in [
        ("", "llama"),
        ("&models=qwen", "qwen"),
        ("&models=l*", "llama"),
        ("&models=zephyr", "zephyr"),
        ("&models=fa*", "fast"),
        ("&plan=small", "qwen"),
        ("&plan=small&models=llama", "llama"),
        ("&plan=none", "llama"),
        // None of its models is ready.
        ("&models=ph?-*,mistral", "mistral"),
        ("&models=nothing-*", "MODEL"),
        // This model needs more than its name to be chosen.
        ("&models=by-*", "MODEL"),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, made) = send(&dashboard, ADMIN, "/keys", &format!("name=k{n}&consumer=a{form}")).await;
        assert_eq!(status, StatusCode::OK, "{made}");
        let (_, rotated) = send(&dashboard, ADMIN, &format!("/keys/k{n}"), "action=rotate&grace=0").await;
        for page in [made, rotated] {
            let curl = format!("-d &#39;{{&#34;model&#34;: &#34;{model}&#34;,");
            let curl = page.contains(&curl)
                || page.contains(&curl.replace("&#39;", "'").replace("{&#34;model&#34;", "{\"model\""));
            assert!(curl && page.contains(&format!("create(model=&#34;{model}&#34;")), "{form}: {page}");
        }
    }
}

#[tokio::test]
async fn who_may_only_read_sees_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    send(&dashboard, ADMIN, "/keys", "name=a&consumer=a").await;
    for (path, form) in [
        ("/keys", "name=b&consumer=b"),
        ("/keys/a", "action=rotate&grace=0"),
        ("/keys/a", "action=delete"),
        ("/keys/a", "action=end-old"),
        ("/keys/a", "action=save&consumer=a&disabled=on"),
        ("/plans", "name=free"),
        ("/consumers", "name=a"),
    ] {
        assert_eq!(send(&dashboard, READER, path, form).await.0, StatusCode::FORBIDDEN, "{path} {form}");
    }
    for path in ["/keys", "/keys/a"] {
        let page = text(dashboard.ask(Some(READER), Request::get(path), "").await).await;
        assert!(
            page.contains(">a<") && !page.contains("value=\"delete\"") && !page.contains("/new/key"),
            "{path}"
        );
    }
    let listed =
        dashboard.admin.registry.list::<KeySpec>(&store::Filter { limit: 9, ..Default::default() }).await;
    assert_eq!(listed.expect("an answer").total, 1);
}

#[tokio::test]
async fn a_bad_form_says_what_is_wrong_and_keeps_what_was_typed() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    let form = "name=not+allowed&consumer=alice&limit.requests_per_minute=many&note=keep+this";
    let (status, page) = send(&dashboard, ADMIN, "/keys", form).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for part in ["name: found", "limit.requests_per_minute: found", "keep this", "value=\"many\""] {
        assert!(page.contains(part), "{part}: {page}");
    }
    send(&dashboard, ADMIN, "/keys", "name=a&consumer=a").await;
    let (status, page) = send(&dashboard, ADMIN, "/keys", "name=a&consumer=b").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(page.contains("role=\"alert\""));
    let (status, page) =
        send(&dashboard, ADMIN, "/keys/a", "action=save&consumer=a&plan=nope&note=still+here").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("plan: found") && page.contains("still here"), "{page}");
    assert_eq!(send(&dashboard, ADMIN, "/keys/a", "action=explode").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        send(&dashboard, ADMIN, "/keys/a", "action=rotate&grace=ever").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        send(&dashboard, ADMIN, "/keys/b", "action=delete").await.0,
        StatusCode::SEE_OTHER,
        "gone is gone"
    );
}

#[tokio::test]
async fn what_the_file_declares_is_shown_and_not_changed() {
    let dashboard = Dashboard::of(Catalogue::default());
    let plan = Plan {
        name: "free".into(),
        models: Patterns::new(vec!["llama*".into()]).ok(),
        limits: None,
        limits_per_model: None,
        priority: None,
        note: None,
    };
    let keys = (0..120).map(|n| KeySpec::new(format!("key-{n:03}"), "alice", KeyDigest::of(&n.to_string())));
    let declared = Accounts { plans: vec![plan], consumers: Vec::new(), keys: keys.collect() };
    dashboard.admin.registry.replace_declared(declared);
    let list = dashboard.page("/keys").await;
    assert!(list.contains("key-049") && !list.contains("key-050") && list.contains("120 in all"));
    assert!(list.contains("class=\"tag\">file"));
    let next = dashboard.page("/keys?after=key-049").await;
    assert!(next.contains("key-050") && !next.contains("key-049</a>"));
    assert!(!list.contains("First page"), "it is the first one");
    assert!(
        next.contains("rel=\"first\" href=\"/keys?\">First page") && next.contains("rel=\"next\""),
        "{next}"
    );
    let found = dashboard.page("/keys?q=key-0&consumer=alice&after=key-049").await;
    assert!(
        found.contains("href=\"/keys?q=key%2D0&#38;consumer=alice\">First page"),
        "the search goes along: {found}"
    );
    // The rest of the list has been deleted meanwhile.
    let gone = dashboard.page("/keys?after=key-999").await;
    assert!(gone.contains("None beyond here.") && gone.contains("href=\"/keys?\""), "{gone}");
    assert!(dashboard.page("/keys?q=KEY-11").await.contains("10 in all"));
    let one = dashboard.page("/keys/key-007").await;
    assert!(one.contains("configuration file") && !one.contains("value=\"delete\""));
    assert!(dashboard.page("/plans").await.contains("llama*"));
    let (status, page) = send(&dashboard, ADMIN, "/keys/key-007", "action=delete").await;
    assert_eq!(status, StatusCode::CONFLICT, "{page}");
    let (status, page) = send(&dashboard, ADMIN, "/keys", "name=new&consumer=a").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(page.contains("there is no store"), "{page}");
    assert!(dashboard.page("/audit").await.contains("there is no store"));
}

#[tokio::test]
async fn what_is_done_to_servers_is_written_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    let (status, _) = send(&dashboard, ADMIN, "/servers/file%3Agpu", "action=pause").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let audit = dashboard.page("/audit?action=server").await;
    assert!(audit.contains("server paused") && audit.contains("gpu") && audit.contains("alice"), "{audit}");
    assert!(dashboard.page("/audit?actor=nobody").await.contains("Nothing matches"));
}

/// Whoever makes a key names its consumer, and need not make an account for it.
#[tokio::test]
async fn consumers_that_only_keys_name_are_listed_shown_and_can_get_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    for (key, consumer) in [("k1", "bravo"), ("k2", "delta"), ("k3", "delta"), ("k4", "able")] {
        let (status, page) =
            send(&dashboard, ADMIN, "/keys", &format!("name={key}&consumer={consumer}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
    }
    for consumer in ["able", "charlie"] {
        let (status, page) = send(&dashboard, ADMIN, "/consumers", &format!("name={consumer}")).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    }
    let registry = &dashboard.admin.registry;
    registry.replace_declared(Accounts {
        keys: vec![KeySpec {
            consumer: "echo".into(),
            ..KeySpec::new("in-file", "echo", KeyDigest::of("mg-f"))
        }],
        ..Accounts::default()
    });
    let list = async |limit, after: Option<&str>| {
        let filter = store::Filter { limit, after: after.map(str::to_owned), ..Default::default() };
        let listed = registry.list_with_named::<ConsumerSpec>(&filter).await.expect("an answer");
        let names: Vec<_> = listed.items.into_iter().map(|item| item.account.name).collect();
        (names.join(" "), listed.total, listed.next)
    };
    assert_eq!(list(9, None).await, ("able bravo charlie delta echo".into(), 5, None));
    assert_eq!(list(2, None).await, ("able bravo".into(), 5, Some("bravo".into())));
    assert_eq!(list(2, Some("bravo")).await, ("charlie delta".into(), 5, Some("delta".into())));
    assert_eq!(list(2, Some("delta")).await, ("echo".into(), 5, None));
    let page = dashboard.page("/consumers?q=eLt").await;
    assert!(
        page.contains("/consumers/delta") && page.contains("1 in all") && !page.contains("bravo"),
        "{page}"
    );
    let api = dashboard.page("/api/v1/consumers/delta").await;
    assert_eq!(api, r#"{"name":"delta","source":"keys"}"#);
    let response = dashboard.ask(Some(ADMIN), Request::get("/api/v1/consumers/nobody"), "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);

    let page = dashboard.page("/consumers/delta").await;
    assert!(page.contains("only keys name it") && !page.contains("value=\"delete\""), "{page}");
    let (status, page) =
        send(&dashboard, ADMIN, "/consumers/delta", "action=save&limit.budget_per_month=2.50").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let page = dashboard.page("/consumers/delta").await;
    assert!(page.contains("value=\"delete\"") && page.contains("budget per month 2.5"), "{page}");
    assert_eq!(list(9, None).await.1, 5);
}

#[tokio::test]
async fn budgets_are_shown_added_to_and_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    let dashboard = dashboard(&folder).await;
    let form = "name=team&limit.budget_per_month=50&limit.budget_kind=hard&limit_per_model.budget_total=2.50";
    let (status, page) = send(&dashboard, ADMIN, "/consumers", form).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let page = dashboard.page("/consumers/team").await;
    for part in ["50 a month, hard", "0 of 50.0000", "of the month, over all models", "in all, for llama"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let change = async |token, form: &str| {
        let (status, page) = send(&dashboard, token, "/consumers/team", form).await;
        (status.as_u16(), page)
    };
    assert_eq!(change(ADMIN, "action=top-up&budget=month&amount=7.25").await.0, 303);
    let page = dashboard.page("/consumers/team").await;
    for part in ["50 a month, hard, and 7.2500 added", "0 of 57.2500", "57.2500"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(change(ADMIN, "action=top-up&budget=ever+llama&amount=1").await.0, 303);
    assert_eq!(change(ADMIN, "action=reset&budget=ever+llama").await.0, 303);
    for (token, form, status, why) in [
        (READER, "action=reset&budget=month", 403, ""),
        (
            ADMIN,
            "action=top-up&budget=month&amount=0",
            400,
            "amount: found &#34;0&#34;; allowed: an amount such as 20",
        ),
        (ADMIN, "action=top-up&budget=month&amount=-5", 400, "amount: found"),
        (ADMIN, "action=top-up&budget=month&amount=1000000000", 400, "together with the budget"),
        (
            ADMIN,
            "action=top-up&budget=year&amount=5",
            400,
            "budget: found &#34;year&#34;; allowed: day, week, month or ever",
        ),
        (ADMIN, "action=reset&budget=week", 404, "has no limit.budget_per_week"),
        (ADMIN, "action=topup&budget=month", 400, "top-up and reset"),
    ] {
        let (found, page) = change(token, form).await;
        assert!(found == status && page.contains(why), "{form}: {found} {page}");
    }
    let audit = dashboard.page("/audit").await;
    for part in ["budget topped up", "budget reset", "7.25", "llama"] {
        assert!(audit.contains(part), "{part}: {audit}");
    }
    // A plan has none of its own to add to; its keys have.
    let form = "name=gold&limit.budget_per_day=3";
    assert_eq!(send(&dashboard, ADMIN, "/plans", form).await.0, StatusCode::SEE_OTHER);
    assert!(!dashboard.page("/plans/gold").await.contains("value=\"top-up\""));
    assert_eq!(send(&dashboard, ADMIN, "/keys", "name=k&consumer=c&plan=gold").await.0, StatusCode::OK);
    let page = dashboard.page("/keys/k").await;
    assert!(page.contains("3 a day") && page.contains("of the day, over all models"), "{page}");
    let (status, page) = send(&dashboard, ADMIN, "/keys/k", "action=top-up&budget=day&amount=1").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
}
