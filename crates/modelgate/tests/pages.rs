//! Every page of the dashboard in a real browser, as different readers see it: light and dark, on a phone, without
//! JavaScript, and with a screen reader (by axe-core's rules).
//!
//! The pages are found by following links, so a new one cannot be forgotten. `cargo xtask screenshots` keeps what they
//! look like.

mod common;
#[path = "common/dashboard.rs"]
mod dashboard;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{KEY, LLAMA_KEY, NEWEST, Stack, config_of, refusal, send};
use dashboard::{TOKEN, sign_in};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use testkit::{
    browser::{Browser, ColorScheme, Programs, Scripts, axe_script, chromium},
    eventually, free_port,
    load::{ChatAnswer, Load, Until},
    modelgate::Modelgate,
    need,
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};

/// Nobody's server should list such a model, and none can be kept from it.
const HOSTILE: &str = "<img src=x onerror=alert(1)><b>bold</b>";
/// How many pages of one kind are looked at, such as those of models.
const OF_A_KIND: usize = 2;
/// Titles, headings and column heads: what a reader needs to find the way.
const LANDMARKS: &str =
    "JSON.stringify([...document.querySelectorAll('h1, h2, h3, th, dt')].map(e => e.textContent.trim()))";

/// Tables of which a part can only be seen by scrolling: by how much, and their column heads.
const TOO_WIDE: &str = "JSON.stringify([...document.querySelectorAll('.table')]
    .filter(e => e.scrollWidth > e.clientWidth)
    .map(e => `${e.scrollWidth - e.clientWidth} px: ${[...e.querySelectorAll('thead th')].map(h => h.textContent).join(', ')}`))";

/// Makes usage that of a key whose requests come to billions of tokens, of all kinds.
const BUSY: &str = "(() => {
    const say = (label, number, parts) => document.querySelectorAll(`td[data-label=\"${label}\"]`)
        .forEach(td => { td.innerHTML = `${number}<div class=\"small muted parts\">${parts.replaceAll('_', '&nbsp;')}</div>`; });
    say('Requests', '1,234,567', '12,345_refused, 2,345_errors, 1,234_aborted');
    say('Prompt tokens', '9,876,543,210', '8,765,432,100_cached');
    say('All tokens', '12,345,678,901', '11,234,567,890_exact, 1,110,987,555_measured, 123,456_estimated');
})()";

/// A fleet in which not all is well, with traffic of which not all is allowed.
struct Fleet {
    stack: Stack,
    _sims: Vec<Sim>,
}

impl Fleet {
    async fn start(traefik: &Path) -> Self {
        let telemetry = free_port();
        // One server exports its spans, as vLLM does; of the others only Traefik tells.
        let endpoint = format!("http://127.0.0.1:{telemetry}/v1/traces");
        let spans = Some(Exporter { endpoint, token: None });
        let gpu1 = Options { spans, owned_by: "vllm".into(), ..Options::named("gpu-1", &["llama-3.1-8b"]) };
        let sims = vec![
            Sim::start_with(gpu1),
            Sim::start("gpu-2", &["llama-3.1-8b", "qwen2.5-7b"]),
            Sim::start("gpu-3", &["mistral-7b", HOSTILE]),
        ];
        let of = |name: usize, settings| (&sims[name], settings);
        let servers = [of(0, "weight: 2"), of(1, ""), of(2, "")];
        let more = format!(
            "  - {{ url: \"http://127.0.0.1:9\", name: switched-off }}\n  \
             - {{ url: \"{}\", name: mislaid, base_path: /nowhere }}\n\
             traefik: {{ version: {NEWEST:?} }}\n\
             listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\n\
             plans:\n  - {{ name: free, limit: {{ requests_per_minute: 20, burst: 20 }} }}\n\
             consumers:\n  - {{ name: bob, plan: free }}\n\
             prices: {{ currency: EUR, models: [{{ match: \"llama*\", prompt: 0.15, completion: 0.60 }}] }}\n",
            sims[0].url()
        );
        let config = config_of(&servers, &more);
        let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config);
        let mut modelgate = builder.env("MODELGATE_ADMIN_TOKEN", TOKEN).keep_state().start().await;
        modelgate.wait_ready().await;
        let records = format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs");
        let builder = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint());
        let traefik = builder.telling(&[records]).start().await;
        traefik.wait_configured().await;
        let stack = Stack { traefik, modelgate, client: testkit::client() };
        stack.wait_for("llama-3.1-8b").await;
        // A change, for the history.
        sims[1].set_models(&["llama-3.1-8b", "qwen2.5-7b", "gemma-3-12b"]);
        eventually(Duration::from_secs(60), || async {
            stack.modelgate.readyz().await["models"].to_string().contains("gemma-3-12b").then_some(())
        })
        .await;
        stack.wait_for("gemma-3-12b").await;
        Self { stack, _sims: sims }
    }

    /// Makes a plan, a consumer and a key, which is returned.
    async fn accounts(&self) -> String {
        let limit =
            json!({"requests_per_minute": 600, "requests_per_day": 20, "tokens_per_month": 1_000_000});
        self.create("plans", json!({"name": "research", "models": ["llama*"], "limit": limit})).await;
        self.create("consumers", json!({"name": "carol", "plan": "research", "note": HOSTILE})).await;
        let key = json!({
            "name": "carol-laptop",
            "consumer": "carol",
            "expires": "2099-12-31T00:00:00Z",
            "limit": {"budget_per_month": "20", "budget_total": "0.05"}
        });
        let created = self.create("keys", key).await;
        created["api_key"].as_str().expect("the key in clear").to_owned()
    }

    async fn create(&self, kind: &str, document: Value) -> Value {
        let url = self.url(&format!("/api/v1/{kind}"));
        let (status, body) = refusal(self.stack.client.post(url).bearer_auth(TOKEN).json(&document)).await;
        assert_eq!(status, 201, "{body}");
        body
    }

    async fn traffic(&self, key: &str) {
        let url = self.stack.traefik.url();
        for (model, key, count) in [
            ("llama-3.1-8b", KEY, 120),
            ("qwen2.5-7b", KEY, 40),
            ("llama-3.1-8b", LLAMA_KEY, 30),
            ("llama-3.1-8b", key, 30),
        ] {
            let report =
                Load::chat(&url, model, ChatAnswer::Streamed).key(key).until(Until::Sent(count)).run().await;
            assert_eq!(report.answers(), count, "{report:?}");
        }
        // One of the servers never says which models it has, so any other name might be there.
        for (model, key, expected) in [
            ("llama-3.1-8b", "mg-nobody-has-this", 401),
            ("no-such-model", KEY, 503),
            ("qwen2.5-7b", LLAMA_KEY, 404),
        ] {
            let request = self.stack.client.post(format!("{url}/v1/chat/completions")).bearer_auth(key);
            assert_eq!(send(request.json(&common::chat(model))).await.status(), expected, "{model}");
        }
        self.break_off().await;
    }

    /// A client goes away in the middle of an answer, and the list shows that.
    async fn break_off(&self) {
        let url = format!("{}/v1/chat/completions", self.stack.traefik.url());
        let mut body = common::chat("llama-3.1-8b");
        body["stream"] = json!(true);
        let mut chunks = send(self.stack.client.post(url).bearer_auth(KEY).json(&body)).await.bytes_stream();
        assert!(chunks.next().await.is_some_and(|chunk| chunk.is_ok()));
        drop(chunks);
        let aborted = self.stack.client.get(self.url("/api/v1/requests?ending=aborted")).bearer_auth(TOKEN);
        eventually(Duration::from_secs(60), || async {
            let asked = aborted.try_clone().expect("no body");
            let listed: Value = send(asked).await.json().await.expect("JSON");
            (listed["items"].as_array().expect("a list").len() == 1).then_some(())
        })
        .await;
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.stack.modelgate.admin_url())
    }
}

/// What is on a page of the same kind: `/servers/gpu-1` and `/servers/gpu-2`.
fn kind(path: &str) -> String {
    let mut segments = path.trim_matches('/').split('/');
    let first = segments.next().unwrap_or_default();
    format!("{first}/{}", segments.count())
}

/// The dashboard's paths, some of each kind, from the links that lead to them.
async fn find_pages(browser: &Browser, fleet: &Fleet) -> Vec<String> {
    let links = "JSON.stringify([...document.querySelectorAll('a[href]:not([download])')].map(a => a.getAttribute('href')))";
    // The overview leads to servers that are not well; one that is ready has more on its page.
    let ready = "/servers/file%3Agpu-1".to_owned();
    // It has limits, budgets and usage that is known in several ways.
    let key = "/keys/carol-laptop".to_owned();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::from([(kind(&ready), 1), (kind(&key), 1)]);
    let mut pages = vec!["/".to_owned(), ready, key];
    let mut next = 0;
    while let Some(page) = pages.get(next).cloned() {
        next += 1;
        browser.goto(fleet.url(&page)).await.expect("a page");
        let found = browser.evaluate(links).await;
        let found: Vec<String> = serde_json::from_str(found.as_str().expect("links")).expect("links");
        for link in found {
            let path = link.split(['?', '#']).next().unwrap_or_default();
            let is_new =
                path.starts_with('/') && !path.starts_with("/assets/") && !pages.iter().any(|p| p == path);
            if is_new && *kinds.entry(kind(path)).or_default() < OF_A_KIND {
                *kinds.entry(kind(path)).or_default() += 1;
                pages.push(path.to_owned());
            }
        }
    }
    pages
}

/// Where the images go, if they are kept.
fn image(page: &str, look: &str) -> Option<PathBuf> {
    let folder = env::var_os("MODELGATE_TEST_SCREENSHOTS")?;
    let name = page.trim_matches('/').replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    let name = if name.is_empty() { "overview" } else { &name[..name.len().min(40)] };
    Some(Path::new(&folder).join(format!("{name}-{look}.png")))
}

async fn show(browser: &Browser, fleet: &Fleet, page: &str, look: &str) {
    browser.goto(fleet.url(page)).await.expect("a page");
    browser
        .evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
        .await;
    if let Some(path) = image(page, look) {
        browser.screenshot(path).await;
    }
}

async fn landmarks(browser: &Browser) -> BTreeSet<String> {
    let found = browser.evaluate(LANDMARKS).await;
    serde_json::from_str(found.as_str().expect("landmarks")).expect("landmarks")
}

async fn too_wide(browser: &Browser) -> Vec<String> {
    let found = browser.evaluate(TOO_WIDE).await;
    serde_json::from_str(found.as_str().expect("tables")).expect("tables")
}

/// Regression: what a busy key's usage consists of stood on one line, so the costs were beyond a window of 1280 px.
async fn assert_usage_fits(browser: &Browser, fleet: &Fleet) {
    browser.goto(fleet.url("/keys/carol-laptop")).await.expect("a page");
    browser.evaluate(BUSY).await;
    if let Some(path) = image("/keys/busy", "light") {
        browser.screenshot(path).await;
    }
    assert_eq!(too_wide(browser).await, Vec::<String>::new());
    let one_line = "document.querySelectorAll('.parts').forEach(e => { e.style.whiteSpace = 'nowrap'; })";
    browser.evaluate(one_line).await;
    assert_eq!(too_wide(browser).await.len(), 1, "it is too much for one line");
}

fn parts() -> Option<(Programs, PathBuf, PathBuf)> {
    let programs = need(chromium(), "Chromium")?;
    let axe = need(axe_script(), "axe-core")?;
    let traefik = need(traefik_binary(NEWEST), "Traefik")?;
    Some((programs, axe, traefik))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_for_everybody() {
    let Some((programs, axe, traefik)) = parts() else { return };
    let fleet = Fleet::start(&traefik).await;
    let key = fleet.accounts().await;
    fleet.traffic(&key).await;
    let browser = Browser::start(&programs).await;
    browser.desktop(1280, 900).await;
    show(&browser, &fleet, "/sign-in", "light").await;
    browser.assert_accessible(&axe).await;
    sign_in(&browser, &fleet.url(""), TOKEN).await;
    let pages = find_pages(&browser, &fleet).await;
    browser.assert_clean().await;

    let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for page in &pages {
        let problems = problems.entry(page.clone()).or_default();
        for (look, scheme) in [("light", ColorScheme::Light), ("dark", ColorScheme::Dark)] {
            browser.prefer(scheme).await;
            show(&browser, &fleet, page, look).await;
            problems.extend(browser.barriers(&axe).await.iter().map(|barrier| format!("{look}: {barrier}")));
        }
        problems.extend(
            too_wide(&browser)
                .await
                .into_iter()
                .map(|table| format!("too wide for a window of 1280 px: {table}")),
        );
        browser.prefer(ColorScheme::Light).await;
        let with_scripts = landmarks(&browser).await;
        assert!(!with_scripts.is_empty(), "{page} has no headings");

        browser.run_scripts(Scripts::Off).await;
        browser.goto(fleet.url(page)).await.expect("a page");
        let without = landmarks(&browser).await;
        let lost: Vec<&String> = with_scripts.difference(&without).collect();
        if !lost.is_empty() {
            problems.push(format!("not there without JavaScript: {lost:?}"));
        }
        browser.run_scripts(Scripts::On).await;

        browser.phone().await;
        show(&browser, &fleet, page, "phone").await;
        let overflow = browser.overflow().await;
        if overflow > 0 {
            problems.push(format!("{overflow} px too wide for a phone"));
        }
        browser.desktop(1280, 900).await;
        problems.extend(browser.complaints().await);
    }
    problems.retain(|_, problems| !problems.is_empty());
    assert!(problems.is_empty(), "{problems:#?}");
    assert_usage_fits(&browser, &fleet).await;
    for page in [
        "/",
        "/models",
        "/servers",
        "/requests",
        "/traefik",
        "/keys",
        "/consumers",
        "/plans",
        "/audit",
        "/about",
    ] {
        assert!(pages.iter().any(|found| found == page), "no link to {page}: {pages:?}");
    }
}
