//! The real Chromium with pages of the test's own, under a policy as strict as the dashboard's.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use testkit::{
    browser::{Browser, ColorScheme, Impact, Scripts, axe_script, chromium, thirtyfour::prelude::*},
    eventually, need,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:";

const GOOD: &str = r#"<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width">
  <title>Good</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css">
</head>
<body>
  <main>
    <h1>Servers</h1>
    <p id="count">0</p>
    <button type="button">Count</button>
    <noscript>Reload to see more.</noscript>
  </main>
  <script src="/script.js"></script>
</body>
</html>"#;

const STYLE: &str = "body { background: #fff; color: #111; min-height: 2000px }
    @media (prefers-color-scheme: dark) { body { background: #111; color: #eee } }";

const SCRIPT: &str = "document.querySelector('button').onclick = () =>
    setTimeout(() => document.getElementById('count').textContent = '1', 200);";

const BAD: &str = r#"<!doctype html>
<html>
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width">
  <title>Bad</title><link rel="icon" href="data:,">
</head>
<body>
  <img src="/missing.png"><button></button>
  <pre>AVeryLongLineThatNoPhoneShowsWholeAVeryLongLineThatNoPhoneShowsWholeAVeryLongLine</pre>
  <script>document.title = "not allowed"</script>
  <script src="/error.js"></script>
</body>
</html>"#;

/// A live page: its link is replaced, and moves, four times a second. Its button leads on after a while.
const RESTLESS: &str = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Restless</title><link rel="icon" href="data:,"></head>
<body>
  <main></main>
  <form action="/slow" method="post"><button>Go on</button></form>
  <script src="/restless.js"></script>
</body>
</html>"#;

const RESTLESS_SCRIPT: &str = "let up = 0;
    setInterval(() => {
        up = 60 - up;
        document.querySelector('main').innerHTML = `<p style='height: ${up}px'></p><a href='/good'>Good</a>`;
    }, 250);";

fn page(text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html"), (header::CONTENT_SECURITY_POLICY, POLICY)], text)
}

/// Serves the pages as long as the test lasts, and returns their URL.
async fn site() -> String {
    site_that_counts(&*Box::leak(Box::default())).await
}

/// Likewise; counts the forms that arrive.
async fn site_that_counts(arrived: &'static AtomicUsize) -> String {
    let typed =
        |kind: &'static str, text: &'static str| async move { ([(header::CONTENT_TYPE, kind)], text) };
    let app = Router::new()
        .route("/good", get(async || page(GOOD)))
        .route("/bad", get(async || page(BAD)))
        .route("/restless", get(async || ([(header::CONTENT_TYPE, "text/html")], RESTLESS)))
        .route("/restless.js", get(move || typed("text/javascript", RESTLESS_SCRIPT)))
        .route(
            "/slow",
            post(move || async move {
                arrived.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(5)).await;
                page(GOOD)
            }),
        )
        .route("/style.css", get(move || typed("text/css", STYLE)))
        .route("/script.js", get(move || typed("text/javascript", SCRIPT)))
        .route("/error.js", get(move || typed("text/javascript", "console.error('oh dear'); nothing.there")))
        .fallback(async || StatusCode::NOT_FOUND);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn text(browser: &Browser, css: &str) -> String {
    browser.find(By::Css(css)).await.expect("the element").text().await.expect("its text")
}

#[tokio::test]
async fn a_good_page_is_clean_live_and_accessible() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let Some(axe) = need(axe_script(), "axe-core") else { return };
    let browser = Browser::start(&programs).await;
    let url = site().await;
    browser.goto(format!("{url}/good")).await.expect("the page");
    assert_eq!(browser.title().await.expect("a title"), "Good");
    let paint = browser.first_paint().await;
    assert!(paint > Duration::ZERO && paint < Duration::from_secs(10), "{paint:?}");

    browser.find(By::Css("button")).await.expect("the button").click().await.expect("a click");
    browser.query(By::Id("count")).with_text("1").first().await.expect("it counts");
    assert!(browser.axe(&axe).await.is_empty());
    browser.assert_accessible(&axe).await;
    browser.assert_clean().await;
}

#[tokio::test]
async fn a_bad_page_is_complained_about() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let Some(axe) = need(axe_script(), "axe-core") else { return };
    let browser = Browser::start(&programs).await;
    let url = site().await;
    browser.goto(format!("{url}/bad")).await.expect("the page");
    assert_eq!(browser.title().await.expect("a title"), "Bad");
    let complaints = browser.complaints().await;
    for part in ["Content Security Policy", "missing.png", "oh dear", "nothing is not defined"] {
        assert!(complaints.iter().any(|complaint| complaint.contains(part)), "{part}: {complaints:#?}");
    }
    assert_eq!(complaints.len(), 4, "{complaints:#?}");
    assert!(browser.complaints().await.is_empty(), "each is told once");

    let violations = browser.axe(&axe).await;
    let of = |rule: &str| violations.iter().find(|violation| violation.id == rule);
    for rule in ["button-name", "image-alt"] {
        let violation = of(rule).unwrap_or_else(|| panic!("{rule}: {violations:#?}"));
        assert_eq!(violation.impact, Impact::Critical);
    }
    let language = of("html-has-lang").expect("the language is missing").to_string();
    assert!(language.starts_with("Serious: <html> element must have a lang attribute"), "{language}");

    browser.phone().await;
    browser.goto(format!("{url}/bad")).await.expect("the page");
    assert!(browser.overflow().await > 50, "the long line");
}

#[tokio::test]
async fn follows_a_link_that_does_not_hold_still_and_sends_a_form_once() {
    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let browser = Browser::start(&programs).await;
    let url = site_that_counts(&ARRIVED).await;
    for _ in 0..5 {
        browser.goto(format!("{url}/restless")).await.expect("the page");
        browser.follow("main a").await;
        assert_eq!(browser.title().await.expect("a title"), "Good");
    }
    browser.goto(format!("{url}/restless")).await.expect("the page");
    browser.follow("form button").await;
    assert_eq!(browser.title().await.expect("a title"), "Good");
    assert_eq!(
        ARRIVED.load(Ordering::Relaxed),
        1,
        "while the answer takes its time, nothing is clicked again"
    );
}

#[tokio::test]
async fn looks_as_another_reader_sees_it() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let browser = Browser::start(&programs).await;
    let url = format!("{}/good", site().await);
    let folder = tempfile::tempdir().expect("a folder");
    let background = "getComputedStyle(document.body).backgroundColor";

    browser.desktop(1000, 700).await;
    browser.goto(&url).await.expect("the page");
    assert_eq!(browser.evaluate("innerWidth").await, 1000);
    assert_eq!(browser.evaluate(background).await, "rgb(255, 255, 255)");
    let image = folder.path().join("light/page.png");
    browser.screenshot(&image).await;
    let (width, height) = size(&image);
    assert!(width == 1000 && height > 2000, "the whole page: {width}x{height}");

    browser.prefer(ColorScheme::Dark).await;
    browser.phone().await;
    assert_eq!(browser.evaluate(background).await, "rgb(17, 17, 17)");
    browser.goto(&url).await.expect("the page");
    assert_eq!(browser.evaluate(background).await, "rgb(17, 17, 17)");
    assert_eq!(browser.evaluate("innerWidth").await, 390);
    assert_eq!(browser.overflow().await, 0);
    browser.screenshot(&image).await;
    assert_eq!(size(&image).0, 390);

    browser.prefer(ColorScheme::Light).await;
    assert_eq!(browser.evaluate(background).await, "rgb(255, 255, 255)");
}

#[tokio::test]
async fn reads_without_javascript() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let browser = Browser::start(&programs).await;
    let url = format!("{}/good", site().await);
    browser.run_scripts(Scripts::Off).await;
    browser.goto(&url).await.expect("the page");
    assert_eq!(text(&browser, "h1").await, "Servers");
    // WebDriver never shows the text of this element.
    assert_eq!(browser.evaluate("document.querySelector('noscript').innerText").await, "Reload to see more.");
    assert_ne!(browser.evaluate("document.querySelector('noscript').offsetHeight").await, 0);
    browser.find(By::Css("button")).await.expect("the button").click().await.expect("a click");
    tokio::time::sleep(Duration::from_millis(400)).await; // twice what the script takes
    assert_eq!(text(&browser, "#count").await, "0");

    browser.run_scripts(Scripts::On).await;
    browser.goto(&url).await.expect("the page");
    browser.find(By::Css("button")).await.expect("the button").click().await.expect("a click");
    browser.query(By::Id("count")).with_text("1").first().await.expect("it counts");
}

#[tokio::test]
async fn nothing_is_left_of_it() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let browser = Browser::start(&programs).await;
    let version = browser.capabilities();
    let profile = version.get("chrome").and_then(|chrome| chrome["userDataDir"].as_str().map(str::to_owned));
    let profile = profile.expect("a profile folder");
    let processes = || {
        let entries = std::fs::read_dir("/proc").expect("processes").flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&profile)).count()
    };
    assert!(processes() > 0);
    drop(browser);
    eventually(Duration::from_secs(60), async || (processes() == 0).then_some(())).await;
    let folder = std::path::Path::new(&profile).parent().expect("a folder");
    assert!(!folder.exists(), "{}", folder.display());
}

/// Width and height of an image: <https://www.w3.org/TR/png-3/#11IHDR>.
fn size(png: &std::path::Path) -> (u32, u32) {
    let bytes = std::fs::read(png).expect("the image");
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let number = |from: usize| u32::from_be_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}
