//! What an operator does with the dashboard, in a real browser: watch a container come, find out what is wrong with
//! another, withdraw a server, make a key and revoke it; directly and through Traefik.

mod common;
#[path = "common/dashboard.rs"]
mod dashboard;

use std::{fmt::Write as _, path::Path, time::Duration};

use access::KeyDigest;
use common::{NEWEST, Stack, chat, config, config_of, send};
use dashboard::sign_in;
use testkit::{
    Stopwatch,
    browser::{Browser, ColorScheme, axe_script, chromium, thirtyfour::prelude::*},
    docker::{self, Container, Engine, RunOptions},
    eventually,
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

const SOON: Duration = Duration::from_secs(60);
const ADMIN: &str = dashboard::TOKEN;
const READER: &str = "a-reader-token-of-the-tests";

/// The tokens, as lines of the configuration.
fn tokens() -> String {
    let mut yaml = String::from("admin:\n  tokens:\n");
    for (name, token, role) in [("ada", ADMIN, "admin"), ("rita", READER, "reader")] {
        let digest = KeyDigest::of(token).to_hex();
        let _ = writeln!(yaml, "    - {{ name: {name}, sha256: \"{digest}\", role: {role} }}");
    }
    yaml
}

async fn start(yaml: &str) -> Option<Stack> {
    let binary = need(traefik_binary(NEWEST), "Traefik")?;
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), yaml).keep_state();
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    Some(Stack { traefik, modelgate, client: testkit::client() })
}

/// A browser in which somebody is signed in.
async fn signed_in(url: &str, token: &str) -> Option<Browser> {
    let programs = need(chromium(), "Chromium")?;
    let browser = Browser::start(&programs).await;
    sign_in(&browser, url, token).await;
    Some(browser)
}

async fn fill(browser: &Browser, id: &str, text: &str) {
    let field = browser.find(By::Id(id)).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    field.clear().await.expect("an empty field");
    field.send_keys(text).await.expect("it takes text");
}

/// Looks at a page that only who may change things sees, as `pages.rs` does at the others: nothing bars anybody from it,
/// and it fits on a phone.
async fn look(browser: &Browser, axe: &Path, name: &str) {
    for (look, scheme) in [("light", ColorScheme::Light), ("dark", ColorScheme::Dark)] {
        browser.prefer(scheme).await;
        browser.assert_accessible(axe).await;
        keep(browser, name, look).await;
    }
    browser.prefer(ColorScheme::Light).await;
    browser.phone().await;
    assert_eq!(browser.overflow().await, 0, "{name} is too wide for a phone");
    keep(browser, name, "phone").await;
    browser.desktop(1280, 900).await;
}

/// Keeps an image, if they are kept (`cargo xtask screenshots`).
async fn keep(browser: &Browser, name: &str, look: &str) {
    if let Some(folder) = std::env::var_os("MODELGATE_TEST_SCREENSHOTS") {
        browser.screenshot(Path::new(&folder).join(format!("{name}-{look}.png"))).await;
    }
}

async fn text(browser: &Browser) -> String {
    browser
        .evaluate("document.querySelector('main')?.innerText")
        .await
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Waits until one of the texts, separated by `|`, is on the page.
async fn wait_for(browser: &Browser, texts: &str) -> String {
    let found = testkit::within(SOON, || async {
        let page = text(browser).await;
        texts.split('|').any(|text| page.contains(text)).then_some(page)
    });
    match found.await {
        Some(page) => page,
        None => panic!("{texts:?} did not come: {}", text(browser).await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_comes_a_bad_one_is_explained_and_a_server_is_paused() {
    let Some(()) = need(docker::available().await, "a Docker Engine") else { return };
    let Some(image) = need(docker::sim_image().await, "the image of the simulated server") else { return };
    let docker = format!("docker:\n  endpoint: {}\n", Engine::local().endpoint());
    let Some(stack) = start(&config(&[], &format!("{docker}{}", tokens()))).await else { return };
    let url = stack.modelgate.admin_url();
    let Some(browser) = signed_in(&url, ADMIN).await else { return };

    browser.goto(format!("{url}/servers?q=dash-")).await.expect("the servers");
    browser.evaluate("window.loadedOnce = true").await;
    let options = |name: &str| {
        let options = RunOptions::new(&image).name(name).label("inference.enable", "true");
        options.env("SIM_NAME", name).env("SIM_MODELS", "dash-model")
    };
    let good = options("dash-good").health("/sim-server healthcheck", Duration::from_secs(2));
    let good = Container::run(good).await.expect("a container");
    let page = wait_for(&browser, "dash-good").await;
    assert!(page.contains("starting") || page.contains("ready"), "{page}");
    let page = testkit::within(SOON, || async {
        let page = text(&browser).await;
        page.lines().any(|line| line.trim() == "ready").then_some(page)
    });
    assert!(page.await.expect("ready").contains("dash-model"));

    let hostile = "<img src=x onerror=\"window.hacked = true\">";
    let bad =
        Container::run(options("dash-bad").label("inference.port", hostile)).await.expect("a container");
    let page = wait_for(&browser, "dash-bad: label").await;
    assert!(page.contains("inference.port=") && page.contains("<img src=x"), "{page}");
    assert!(page.contains("is not allowed: write a number from 1 to 65535"), "{page}");
    assert!(page.contains("What to do: Correct the label and start the container anew"), "{page}");
    assert_eq!(browser.evaluate("window.hacked ?? false").await, false);
    assert_eq!(browser.evaluate("window.loadedOnce").await, true, "all of that without a reload");

    // The model answers, until its only server is paused here.
    stack.wait_for("dash-model").await;
    browser.follow("a[href^='/servers/docker']").await;
    wait_for(&browser, "Drain until restart").await;
    browser.follow("button[value=pause]").await;
    wait_for(&browser, "paused by ada").await;
    eventually(SOON, || async { (stack.chat("dash-model").await.status() == 503).then_some(()) }).await;
    browser.follow("button[value=resume]").await;
    stack.wait_for("dash-model").await;
    wait_for(&browser, "Drain until restart").await;
    browser.goto(format!("{url}/audit?action=server")).await.expect("the audit log");
    let page = wait_for(&browser, "server resumed").await;
    assert!(page.contains("server paused") && page.contains("ada") && page.contains("dash-good"), "{page}");
    browser.assert_clean().await;
    bad.remove().await.expect("removed");
    good.remove().await.expect("removed");
}

/// Three requests an hour; it is shown once, and can be copied.
async fn make_a_key(browser: &Browser, axe: &Path) -> String {
    browser.follow("a[href='/keys']").await;
    browser.follow("a[href='/new/key']").await;
    fill(browser, "name", "carol-laptop").await;
    fill(browser, "consumer", "carol").await;
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)").await;
    fill(browser, "limit.requests_per_hour", "3").await;
    look(browser, axe, "new_key").await;
    browser.follow("form.form button").await;
    let page = wait_for(browser, "shown this once").await;
    let key = browser.query(By::Id("secret")).first().await.expect("the key").text().await.expect("its text");
    assert!(key.starts_with("mg-") && page.contains("curl") && page.contains("OpenAI(base_url="), "{page}");
    let copy = browser.query(By::Css("button[data-copy=secret]")).first().await.expect("a button");
    assert!(copy.is_displayed().await.expect("an answer"), "it can be copied");
    look(browser, axe, "secret").await;
    // As where there is no TLS: a page has no clipboard there.
    let without = "Object.defineProperty(navigator, 'clipboard', { value: undefined }); \
                   addEventListener('copy', () => { window.copied = String(getSelection()) })";
    browser.evaluate(without).await;
    copy.click().await.expect("a click");
    let copied =
        eventually(SOON, || async { browser.evaluate("window.copied").await.as_str().map(str::to_owned) });
    assert_eq!(copied.await, key);
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_used_limited_and_revoked() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let Some(stack) = start(&config(&[&sim], &tokens())).await else { return };
    let url = stack.modelgate.admin_url();
    let Some(browser) = signed_in(&url, ADMIN).await else { return };

    let Some(axe) = need(axe_script(), "axe-core") else { return };
    let key = make_a_key(&browser, &axe).await;
    let ask = || {
        let request = stack.client.post(format!("{}/v1/chat/completions", stack.traefik.url()));
        send(request.bearer_auth(&key).json(&chat("llama")))
    };
    let in_force = async |status: u16| {
        let stopwatch = Stopwatch::start();
        eventually(SOON, || async { (ask().await.status() == status).then_some(()) }).await;
        assert!(stopwatch.elapsed() < Duration::from_secs(1), "{status} after {:?}", stopwatch.elapsed());
    };
    in_force(200).await;
    browser.goto(format!("{url}/requests?key=carol-laptop")).await.expect("the requests");
    wait_for(&browser, "allowed").await;
    browser.evaluate("window.loadedOnce = true").await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask().await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429], "three an hour");
    let page = wait_for(&browser, "rate_limit_exceeded").await;
    assert!(page.contains("carol") && page.contains("3 requests an hour"), "{page}");
    assert!(page.contains("est. 1,00"), "a prompt and an answer of the usual length: {page}");
    assert_eq!(browser.evaluate("window.loadedOnce").await, true, "the tail is live");

    browser.goto(format!("{url}/keys/carol-laptop")).await.expect("the key");
    let page = wait_for(&browser, "Revoke this key").await;
    assert!(page.contains("Limits") && !page.contains(&key), "{page}");
    look(&browser, &axe, "key").await;
    let twice = "(() => { let sent = 0; \
                 const count = event => { if (!event.defaultPrevented) { sent += 1; event.preventDefault(); } }; \
                 addEventListener('submit', count); const button = document.querySelector('button[value=save]'); \
                 button.click(); button.click(); removeEventListener('submit', count); return sent; })()";
    assert_eq!(browser.evaluate(twice).await, 1, "a second click sends nothing");
    browser.find(By::Id("sure")).await.expect("a box").click().await.expect("it is ticked");
    browser.follow("button[value=delete]").await;
    in_force(401).await;
    browser.goto(format!("{url}/audit")).await.expect("the audit log");
    let page = wait_for(&browser, "key deleted").await;
    assert!(page.contains("127.0.0.1"), "from where: {page}");
    assert!(page.contains("key created") && page.contains("signed in") && !page.contains(&key), "{page}");
    look(&browser, &axe, "audit").await;
    browser.assert_clean().await;
    assert!(!stack.modelgate.log().contains(&key));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_is_refused() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let Some(stack) = start(&config(&[&sim], &tokens())).await else { return };
    let url = stack.modelgate.admin_url();
    let Some(browser) = signed_in(&url, READER).await else { return };
    for path in [
        "/",
        "/models",
        "/servers",
        "/servers/file%3Agpu-1",
        "/keys",
        "/keys/alice",
        "/traefik",
        "/audit",
        "/about",
    ] {
        browser.goto(format!("{url}{path}")).await.expect(path);
        // In one look: a live page may replace them. It is the page that is meant, whole: no button is on an empty one.
        let look = "({ path: location.pathname, headings: document.querySelectorAll('main h1').length, buttons: \
                    [...document.querySelectorAll('main button:not([hidden])')].map(b => b.innerText) })";
        let seen = browser.evaluate(look).await;
        assert_eq!((seen["path"].as_str(), seen["headings"].as_u64()), (Some(path), Some(1)), "{seen}");
        for says in seen["buttons"].as_array().expect("a list") {
            assert!(says == "Show" || says == "Hold still", "{path} has {says}");
        }
    }
    // Whoever makes up the request by hand is told so.
    let post = "fetch('/servers/file%3Agpu-1', { method: 'POST', body: new URLSearchParams({ action: 'pause', \
                csrf: document.querySelector('[name=csrf]').value }) }).then(answer => answer.status)";
    assert_eq!(browser.evaluate(post).await, 403);
    browser.complaints().await; // the 403 is one
    assert_eq!(stack.chat("llama").await.status(), 200);
    browser.follow(".who button").await;
    browser.goto(format!("{url}/servers")).await.expect("a page");
    wait_for(&browser, "Sign in to Modelgate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_that_modelgate_is_gone_and_leads_to_signing_in_when_it_is_back() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config(&[&sim], &tokens()));
    let mut modelgate = builder.keep_state().start().await;
    modelgate.wait_ready().await;
    let Some(browser) = signed_in(&modelgate.admin_url(), ADMIN).await else { return };
    let state = || async {
        let state = browser.evaluate("document.querySelector('[data-live-state]').innerText").await;
        state.as_str().unwrap_or_default().to_owned()
    };
    browser.goto(format!("{}/servers?q=gpu", modelgate.admin_url())).await.expect("the servers");
    eventually(SOON, || async { (state().await == "live").then_some(()) }).await;
    assert_eq!(browser.evaluate("document.querySelectorAll('.stale').length").await, 0);
    modelgate.stop().await;
    eventually(SOON, || async { state().await.starts_with("not connected: ").then_some(()) }).await;
    assert_eq!(browser.evaluate("document.querySelectorAll('[data-live].stale').length").await, 1);
    assert!(text(&browser).await.contains("gpu-1"), "what was known last can be read");
    // Sessions are in memory, so nobody is signed in any more.
    modelgate.restart().await;
    let field = browser.query(By::Id("token")).wait(SOON, Duration::from_millis(100)).first().await;
    field.expect("the page to sign in");
    // The page may still be coming.
    let next = browser.query(By::Name("next")).first().await.expect("where to go then");
    assert_eq!(next.attr("value").await.expect("an answer").as_deref(), Some("/servers?q=gpu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn through_traefik_on_a_host_of_its_own() {
    let sim = Sim::start("gpu-1", &["llama"]);
    // Browsers take every name below localhost for this machine.
    let host = "modelgate.localhost";
    let yaml = config_of(&[(&sim, "")], &format!("{}  host: {host}\n", tokens()));
    let Some(stack) = start(&yaml).await else { return };
    let url = format!("http://{host}:{}", stack.traefik.port());
    let Some(browser) = signed_in(&url, ADMIN).await else { return };
    let is_live = || async {
        browser.evaluate("document.querySelector('[data-live-state]').innerText").await == "live"
    };
    eventually(SOON, || async { is_live().await.then_some(()) }).await;
    browser.goto(format!("{url}/servers/file%3Agpu-1")).await.expect("the server");
    browser.follow("button[value=pause]").await;
    wait_for(&browser, "paused by ada").await;
    browser.assert_clean().await;

    // The host is the dashboard's alone, also where its paths look like an API's; on others there is none of it.
    let at = |host: String, path: &str| {
        stack
            .client
            .get(format!("{}{path}", stack.traefik.url()))
            .header("host", host)
            .header("accept", "application/json")
    };
    assert_eq!(
        send(at(host.to_owned(), "/models/llama")).await.status(),
        401,
        "the dashboard's page of a model"
    );
    assert_eq!(send(at("127.0.0.1".to_owned(), "/servers")).await.status(), 404);
    // A proxy may ask for anybody: no names of servers here.
    let ready = send(at(host.to_owned(), "/readyz")).await.text().await.expect("a body");
    assert!(ready.contains("\"servers\":1") && !ready.contains("gpu-1"), "{ready}");
}

#[tokio::test]
async fn without_a_token_one_is_made_and_shown_once() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config(&[&sim], "")).keep_state();
    let mut modelgate = builder.start().await;
    let shown = |log: &str| {
        log.split_whitespace()
            .filter(|word| word.starts_with("mgadmin-"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let tokens = shown(&modelgate.log());
    let [token] = &tokens[..] else { panic!("one token is shown: {}", modelgate.log()) };
    let client = testkit::client();
    let status = async |token: &str, url: String| {
        let answer = client.get(format!("{url}/about")).bearer_auth(token).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(status(token, modelgate.admin_url()).await, 200);
    assert_eq!(status("mgadmin-0000000000000000000000000000000000000000", modelgate.admin_url()).await, 401);
    modelgate.restart().await;
    assert_eq!(status(token, modelgate.admin_url()).await, 200, "it survives a restart");
    assert!(shown(&modelgate.log()).len() <= 1, "and is not shown again");
    let kept = std::fs::read_dir(modelgate.folder().join("state")).expect("the state").filter_map(|entry| {
        let path = entry.expect("an entry").path();
        path.is_file().then(|| std::fs::read(&path).expect("a file"))
    });
    for file in kept {
        assert!(!file.windows(token.len()).any(|part| part == token.as_bytes()), "only its digest is kept");
    }
}

#[tokio::test]
async fn another_token_is_in_force_without_a_restart_and_the_old_one_no_more() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let yaml = |token: &str| {
        let digest = KeyDigest::of(token).to_hex();
        config(&[&sim], &format!("admin: {{ tokens: [{{ name: ada, sha256: \"{digest}\" }}] }}\n"))
    };
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &yaml("the-first-token"));
    let modelgate = builder.start().await;
    let client = testkit::client();
    let url = modelgate.admin_url();
    let form = client
        .post(format!("{url}/sign-in"))
        .body("token=the-first-token")
        .header("content-type", "application/x-www-form-urlencoded");
    let signed_in = send(form).await;
    let cookie = signed_in.headers()["set-cookie"]
        .to_str()
        .expect("text")
        .split(';')
        .next()
        .expect("a pair")
        .to_owned();
    let with = async |name: &str, value: String| {
        send(client.get(format!("{url}/about")).header(name, value)).await.status().as_u16()
    };
    assert_eq!(with("cookie", cookie.clone()).await, 200);
    modelgate.write_config(&yaml("the-second-token"));
    // Asked by the cookie: wrong tokens would be slowed.
    eventually(SOON, || async { (with("cookie", cookie.clone()).await == 401).then_some(()) }).await;
    assert_eq!(with("authorization", "Bearer the-second-token".into()).await, 200);
    assert_eq!(with("authorization", "Bearer the-first-token".into()).await, 401);
    // A change that cannot be taken is told where an operator looks.
    modelgate.write_config("kyes: []\n");
    eventually(SOON, || async {
        let page = send(client.get(&url).bearer_auth("the-second-token")).await.text().await.expect("a page");
        (page.contains("the changed file is refused") && page.contains("kyes")).then_some(())
    })
    .await;
}

/// What a server that loads its model does for minutes: it does not listen, takes the connection and says nothing, or
/// closes it.
#[tokio::test]
async fn servers_that_are_still_loading_are_shown_as_starting_and_are_no_alarm() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = |listener: std::io::Result<std::net::SocketAddr>| listener.expect("an address");
    let servers = format!(
        "  - {{ url: \"http://127.0.0.1:9\", name: not-there }}\n  - {{ url: \"http://{}\", name: silent }}\n  \
         - {{ url: \"http://{}\", name: closing }}\n",
        address(silent.local_addr()),
        address(closing.local_addr())
    );
    let closes = tokio::spawn(async move {
        while let Ok((connection, _)) = closing.accept().await {
            drop(connection);
        }
    });
    let yaml = config(&[&sim], &format!("{servers}{}", tokens()));
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
    modelgate.wait_ready().await;
    let client = testkit::client();
    let page = async |path: &str| {
        let url = format!("{}{path}", modelgate.admin_url());
        send(client.get(url).bearer_auth(ADMIN)).await.text().await.expect("a page")
    };
    eventually(SOON, || async {
        let list = page("/servers?state=starting").await;
        let whys = ["cannot connect to http://127.0.0.1:9", "does not answer within", " broke off"];
        whys.iter().all(|why| list.contains(why)).then_some(())
    })
    .await;
    for path in ["/servers?state=problems", "/"] {
        let page = page(path).await;
        assert_eq!(page.matches("; it may still be loading; no answer since ").count(), 3, "{path}: {page}");
        assert!(!page.contains("class=\"problem bad\""), "they have time to load: {page}");
    }
    let overview = page("/").await;
    assert!(overview.contains("All is well") && overview.contains("1 of 4 servers are ready"), "{overview}");
    closes.abort();
}
