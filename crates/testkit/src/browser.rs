//! A real browser: headless [Chromium], driven through its own chromedriver ([WebDriver], with [thirtyfour] as client).
//!
//! ```no_run
//! # async fn test() -> testkit::browser::thirtyfour::error::WebDriverResult<()> {
//! use testkit::browser::{Browser, chromium, thirtyfour::prelude::*};
//!
//! let Some(programs) = testkit::need(chromium(), "Chromium") else { return Ok(()) };
//! let browser = Browser::start(&programs).await;
//! browser.goto("http://127.0.0.1:8102/").await?;
//! // `query` waits for what a live page brings, up to 20 seconds.
//! browser.query(By::LinkText("Models")).first().await?.click().await?;
//! browser.assert_clean().await;
//! # Ok(())
//! # }
//! ```
//!
//! What WebDriver cannot do goes through the [DevTools protocol], past the page's Content-Security-Policy.
//!
//! [Chromium]: https://chromium.googlesource.com/chromium/src/+/lkgr/headless/README.md
//! [WebDriver]: https://www.w3.org/TR/webdriver2/
//! [DevTools protocol]: https://chromedevtools.github.io/devtools-protocol/tot/

mod axe;

use std::{
    env, fs,
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{BrowserLogEntry, LoggingPrefsLogLevel, WebDriver, prelude::*};
use tokio::time::{Instant, sleep};

pub use axe::{Impact, Violation, axe_script};
/// The client, for elements, keys and waiting.
pub use thirtyfour;

use crate::{
    Failure, client_builder, eventually, free_port, parts,
    process::{Launch, Process, descendants, is_alive, read_log, send},
    within,
};

/// Generous, for a small machine that is also compiling. Usually it takes a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one command may take; a page that is loaded is one.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// A click without effect after this time has missed its target.
const CLICK_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest part of a page that is captured, in CSS pixels.
const MOST_OF_A_PAGE: f64 = 3000.0;

/// No sandbox, because Chromium refuses one as root, and it loads only the tests' own pages. No background activity that would
/// load the machine or use the network. A page is as wide as its window.
const ARGUMENTS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1280,900",
];

/// Where Chromium and its chromedriver are.
#[derive(Clone, Debug)]
pub struct Programs {
    chromium: PathBuf,
    chromedriver: PathBuf,
}

/// Both programs: the paths in `MODELGATE_TEST_CHROMIUM` and `MODELGATE_TEST_CHROMEDRIVER`, else those in `PATH`.
///
/// # Errors
/// One of them is not there.
pub fn chromium() -> Result<Programs, Failure> {
    let chromium = program("MODELGATE_TEST_CHROMIUM", "chromium")?;
    let chromedriver = program("MODELGATE_TEST_CHROMEDRIVER", "chromedriver")?;
    Ok(Programs { chromium, chromedriver })
}

fn program(variable: &str, name: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| Failure::missing(format!("{name} is not in PATH")))
}

/// A running browser with one window and a fresh profile, killed on drop. It is a [`WebDriver`] session, too.
#[derive(Debug)]
pub struct Browser {
    driver: WebDriver,
    process: Process,
    folder: TempDir,
}

/// The pages that a reader prefers (<https://www.w3.org/TR/mediaqueries-5/#prefers-color-scheme>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorScheme {
    /// Dark text on a light page.
    Light,
    /// Light text on a dark page.
    Dark,
}

/// Whether pages run their JavaScript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    /// They do.
    On,
    /// They do not, as for readers who have switched it off.
    Off,
}

/// The state of the page on which something was clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadState {
    /// It stays loaded.
    Here,
    /// The browser is on its way to another one.
    Leaving,
    /// Another one is loaded.
    Left,
}

/// What is wrong with a page by the browser's own account: an uncaught error, an error on the console, something that
/// could not be loaded, or a violation of the page's Content-Security-Policy.
pub type Complaint = String;

impl Deref for Browser {
    type Target = WebDriver;

    fn deref(&self) -> &WebDriver {
        &self.driver
    }
}

impl Browser {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start; the message has chromedriver's log.
    pub async fn start(programs: &Programs) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let launch = Launch::new(&programs.chromedriver)
            .arg(format!("--port={port}"))
            // Files that either program keeps go into the folder that is removed.
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("DISPLAY");
        let log = folder.path().join("chromedriver.log");
        let process = Process::start(&launch, &log).expect("chromedriver starts");
        let url = format!("http://127.0.0.1:{port}");
        let client = client_builder().timeout(COMMAND_TIMEOUT).build().expect("an HTTP client");
        let is_there = within(START_TIMEOUT, || async {
            client.get(format!("{url}/status")).send().await.is_ok().then_some(())
        });
        assert!(is_there.await.is_some(), "no answer from chromedriver:\n{}", read_log(&log));

        let capabilities = capabilities(programs, folder.path()).expect("capabilities");
        let driver = WebDriver::builder(&url, capabilities).client(client).connect().await;
        let driver = driver.unwrap_or_else(|error| panic!("Chromium: {error}\n{}", read_log(&log)));
        Self { driver, process, folder }
    }

    /// Opens a page, and waits until it is loaded.
    ///
    /// On a busy machine chromedriver may report the previous page as loaded, and the next command would go to that one. So this
    /// also waits until the browser's id of the page load has changed.
    ///
    /// # Errors
    /// The address is invalid, or nothing answers there.
    pub async fn goto(&self, url: impl Into<String>) -> WebDriverResult<()> {
        let old = self.loaded().await;
        self.driver.goto(url.into()).await?;
        let is_there =
            within(COMMAND_TIMEOUT, || async { (self.page(&old).await == LoadState::Left).then_some(()) });
        assert!(is_there.await.is_some(), "the page is not loaded\n{}", self.log());
        Ok(())
    }

    /// Sets the size of the page in CSS pixels, as on a desktop.
    ///
    /// # Panics
    /// If the browser fails, as in all following methods.
    pub async fn desktop(&self, width: u32, height: u32) {
        self.metrics(width, height, false).await;
    }

    /// Emulates a phone that is 390 CSS pixels wide and 844 high, with the layout rules of phones (`<meta name="viewport">`).
    pub async fn phone(&self) {
        self.metrics(390, 844, true).await;
    }

    async fn metrics(&self, width: u32, height: u32, mobile: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Sets which pages the reader prefers.
    pub async fn prefer(&self, scheme: ColorScheme) {
        let value = match scheme {
            ColorScheme::Light => "light",
            ColorScheme::Dark => "dark",
        };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Sets whether pages run their JavaScript, from the next page on. Finding, reading and clicking work without it.
    pub async fn run_scripts(&self, scripts: Scripts) {
        let disabled = json!({"value": scripts == Scripts::Off});
        self.devtools("Emulation.setScriptExecutionDisabled", disabled).await;
    }

    /// Saves the page as PNG, including the part below the window, down to 3000 CSS pixels; folders are created.
    pub async fn screenshot(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let metrics = self.devtools("Page.getLayoutMetrics", json!({})).await;
        let size = &metrics["cssContentSize"];
        let height = size["height"].as_f64().expect("a height").min(MOST_OF_A_PAGE);
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1});
        let how = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let answer = self.devtools("Page.captureScreenshot", how).await;
        let image = STANDARD.decode(answer["data"].as_str().expect("an image")).expect("base64");
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is made");
        fs::write(path, image).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// By how many CSS pixels the page is wider than its window: 0, unless one must scroll sideways to read it.
    pub async fn overflow(&self) -> u64 {
        let width =
            "Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth)";
        self.evaluate(width).await.as_u64().expect("a number")
    }

    /// The time from the start of the navigation to the [first contentful paint](https://www.w3.org/TR/paint-timing/).
    pub async fn first_paint(&self) -> Duration {
        let entry = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
        // The entry comes a moment after the paint.
        let milliseconds =
            eventually(Duration::from_secs(60), || async { self.evaluate(entry).await.as_f64() });
        Duration::from_secs_f64(milliseconds.await / 1000.0)
    }

    /// What the browser complained about since the last time it was asked.
    pub async fn complaints(&self) -> Vec<Complaint> {
        let log = self.driver.browser_log().await.unwrap_or_else(|error| panic!("the console: {error}"));
        let is_complaint =
            |entry: &BrowserLogEntry| entry.level == "SEVERE" || entry.source.as_deref() == Some("security");
        log.into_iter().filter(is_complaint).map(|entry| entry.message).collect()
    }

    /// Fails the test if the browser complained about anything.
    ///
    /// # Panics
    /// If it did; the message has all complaints.
    pub async fn assert_clean(&self) {
        let complaints = self.complaints().await;
        assert!(complaints.is_empty(), "the browser complains:\n{}", complaints.join("\n"));
    }

    /// Clicks on something that leads to another page (a link or a form's button), and waits until that page is loaded.
    ///
    /// A click alone may return before the browser has left. The next command would then go to the old page, or even stop the
    /// browser from leaving. On a live page the element may be replaced or move between the lookup and the click; then the click
    /// is repeated, unless the browser is already leaving.
    ///
    /// # Panics
    /// If nothing matches the CSS selector, or no other page is loaded within a minute.
    pub async fn follow(&self, selector: &str) {
        let old = self.loaded().await;
        self.evaluate("addEventListener('beforeunload', () => { window.isLeft = true })").await;
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        let mut outcome = self.click(selector).await;
        let mut clicked = Instant::now();
        while Instant::now() < deadline {
            match self.page(&old).await {
                LoadState::Left => return,
                LoadState::Here if outcome.is_err() || clicked.elapsed() > CLICK_TIMEOUT => {
                    outcome = self.click(selector).await;
                    clicked = Instant::now();
                }
                LoadState::Here | LoadState::Leaving => sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("no other page came by {selector}: {outcome:?}\n{}", self.log());
    }

    async fn click(&self, selector: &str) -> WebDriverResult<()> {
        self.find(By::Css(selector)).await?.click().await
    }

    /// The browser's id of the page load that it shows; each load has its own
    /// (<https://chromedevtools.github.io/devtools-protocol/tot/Page/#type-Frame>); `None` between two pages.
    async fn loaded(&self) -> Option<String> {
        let answer = self.driver.cdp().send_raw("Page.getFrameTree", json!({})).await.ok()?;
        answer["frameTree"]["frame"]["loaderId"].as_str().map(str::to_owned)
    }

    /// The state of the page that was loaded under this id.
    async fn page(&self, old: &Option<String>) -> LoadState {
        let Some(now) = self.loaded().await else { return LoadState::Leaving };
        let is_old = old.as_ref() == Some(&now);
        // A new browser shows an empty page, which counts as complete.
        let state = "window.isLeft || location.protocol === 'about:' ? '' : document.readyState";
        let how = json!({"expression": state, "returnByValue": true});
        // Between two pages there may be no page that answers.
        let answer = self.driver.cdp().send_raw("Runtime.evaluate", how).await.unwrap_or_default();
        match (is_old, answer["result"]["value"].as_str()) {
            (true, Some("complete" | "interactive" | "loading")) => LoadState::Here,
            // The page may have been replaced meanwhile, for example by a redirect.
            (false, Some("complete")) if self.loaded().await == Some(now) => LoadState::Left,
            _ => LoadState::Leaving,
        }
    }

    /// Runs a JavaScript expression in the page and returns its value (a promise's when it is fulfilled).
    ///
    /// # Panics
    /// If it throws.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let how = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.devtools("Runtime.evaluate", how).await;
        let thrown = &answer["exceptionDetails"];
        if !thrown.is_null() {
            let page = "`${location}\n${document.body?.innerText}`";
            let page = self.devtools("Runtime.evaluate", json!({"expression": page})).await;
            panic!(
                "the page's script: {thrown}\non {}",
                page["result"]["value"].as_str().unwrap_or("no page")
            );
        }
        answer["result"]["value"].clone()
    }

    /// Sends a command of the DevTools protocol.
    async fn devtools(&self, method: &str, parameters: Value) -> Value {
        let answer = self.driver.cdp().send_raw(method, parameters).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}\n{}", self.log()))
    }

    fn log(&self) -> String {
        read_log(&self.folder.path().join("chromedriver.log"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Dropping the client would end the session politely, which takes longer.
        let _ = self.driver.clone().leak();
        // Chromium's processes are in groups of their own. They are stopped first, so that they start no others.
        let mut all = Vec::new();
        self.process.signal("STOP");
        while let Some(id) = descendants(self.process.id()).into_iter().find(|id| !all.contains(id)) {
            send("STOP", &id.to_string());
            all.push(id);
        }
        self.process.kill();
        for id in &all {
            send("KILL", &id.to_string());
        }
        // The processes write to the profile until they have ended, so it could not be removed before.
        while all.iter().any(|id| is_alive(*id)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn capabilities(programs: &Programs, folder: &Path) -> WebDriverResult<Capabilities> {
    let mut chrome = DesiredCapabilities::chrome();
    chrome.set_binary(&programs.chromium.to_string_lossy())?;
    for argument in ARGUMENTS {
        chrome.add_arg(argument)?;
    }
    chrome.add_arg(&format!("--user-data-dir={}", folder.join("profile").display()))?;
    chrome.set_browser_log_level(LoggingPrefsLogLevel::All)?;
    Ok(chrome.into())
}
