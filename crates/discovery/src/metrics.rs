//! Reads the metrics pages of servers, again and again: what each has counted, and how busy it is.
//!
//! ```text
//! catalogue ─▶ read() ─ GET /metrics ─▶ page.rs ─┬▶ figures.rs ─▶ MetricsReading   (for metering)
//!                                                └▶ load.rs ────▶ LoadReading      (for the choice of servers)
//! ```
//!
//! It is apart from the probes: a server whose page cannot be read is not worse for that. Such a page is asked for less and less
//! often.

mod figures;
mod load;
mod page;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use catalogue::{Catalogue, Kind, Reader, ServerRecord, ServerSpec, ServerState, ServerUrl};
use reqwest::Client;
use server_choice::{Counters, ToldAdapters};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info};

pub use figures::Figures;

use crate::probe;

/// The longest page, in bytes. vLLM's has some 50 KB.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// The maximum number of pages that are read at once.
const PARALLEL: usize = 16;
/// After so many failures in a row, the page is asked for less often, each time half as often as before, …
const PATIENCE: u32 = 3;
/// … but at least this often.
const RAREST: Duration = Duration::from_secs(300);

/// What one server's page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsReading {
    /// The server.
    pub url: ServerUrl,
    /// What it says.
    pub figures: Figures,
}

/// How busy one server says it is.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadReading {
    /// The server.
    pub url: ServerUrl,
    /// When it was asked.
    pub asked: std::time::Instant,
    /// What it says.
    pub counters: Counters,
    /// Which adapters its requests are using, if it says that (vLLM with `--enable-lora`).
    pub adapters: Option<ToldAdapters>,
}

/// The pages that are read.
#[derive(Debug, Default)]
struct Pages(HashMap<ServerUrl, Page>);

/// How often a page is read, and how often servers are looked through.
#[derive(Debug, Clone, Copy)]
struct Pace {
    every: Duration,
    look: Duration,
}

#[derive(Debug)]
struct Page {
    /// Of the server: a container that is started again may have a page.
    incarnation: String,
    failures: u32,
    /// When it was read last, or became known.
    read: Instant,
    /// When to read it next, at the latest; `None` while it is being read.
    due: Option<Instant>,
}

/// Reads the pages of the servers in the catalogue until it is dropped; each is asked for `every` so often at most. Readings that
/// nobody takes in time are dropped.
///
/// # Errors
/// If the HTTP client cannot be made.
pub async fn read(
    catalogue: Reader,
    every: Duration,
    readings: mpsc::Sender<MetricsReading>,
) -> Result<(), reqwest::Error> {
    let reading = |url, figures| MetricsReading { url, figures };
    read_pages(
        catalogue,
        |_| every,
        |_| None,
        Figures::read,
        |url, figures, _| readings.try_send(reading(url, figures)).is_ok(),
    )
    .await
}

/// Reads how busy the servers are among which Modelgate chooses (`strategy` `cache` or `least-busy`), and no others, in the same
/// way. `every` says how often one server's page is read, and for `None` how often servers are looked through.
///
/// # Errors
/// If the HTTP client cannot be made.
pub async fn read_load(
    catalogue: Reader,
    every: impl Fn(Option<&ServerUrl>) -> Duration,
    readings: mpsc::Sender<LoadReading>,
) -> Result<(), reqwest::Error> {
    let reading = |url, (counters, adapters), asked: Instant| {
        let asked = asked.into_std();
        LoadReading { url, asked, counters, adapters }
    };
    read_pages(
        catalogue,
        every,
        |known| Some(chosen(known)),
        load::read,
        |url, load, asked| readings.try_send(reading(url, load, asked)).is_ok(),
    )
    .await
}

/// The servers among which Modelgate chooses.
fn chosen(known: &Catalogue) -> HashSet<&ServerUrl> {
    let picks = known.pools().flat_map(|pool| &pool.groups).filter_map(|group| group.pick.as_ref());
    picks.flat_map(|pick| &*pick.routes).map(|route| &route.server.spec.url).collect()
}

async fn read_pages<T: Send + 'static>(
    catalogue: Reader,
    every: impl Fn(Option<&ServerUrl>) -> Duration,
    of: impl Fn(&Catalogue) -> Option<HashSet<&ServerUrl>>,
    parse: fn(&[u8]) -> Option<T>,
    tell: impl Fn(ServerUrl, T, Instant) -> bool,
) -> Result<(), reqwest::Error> {
    let client = probe::client()?;
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut pages = Pages::default();
    // A JoinSet ends its tasks when it is dropped.
    let mut reading = JoinSet::new();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                let now = Instant::now();
                next = now + every(None);
                let due = catalogue.load().as_deref().map_or_else(Vec::new, |known| {
                    pages.take_due(known, of(known).as_ref(), now, &every)
                });
                for server in due {
                    let (client, permits) = (client.clone(), Arc::clone(&permits));
                    reading.spawn(async move {
                        let _permit = permits.acquire_owned().await;
                        let asked = Instant::now();
                        let said = read_one(&client, &server.spec).await.and_then(|page| parse(&page));
                        (server.spec.url.clone(), said, asked)
                    });
                }
            }
            Some(Ok((url, said, asked))) = reading.join_next() => {
                let pace = Pace { every: every(Some(&url)), look: every(None) };
                pages.was_read(&url, said.is_some(), Instant::now(), pace);
                if said.is_some_and(|said| !tell(url, said, asked)) {
                    debug!("what a server has counted is read too slowly, and dropped");
                }
            }
        }
    }
}

async fn read_one(client: &Client, spec: &ServerSpec) -> Option<Vec<u8>> {
    let mut response = probe::get(client, &path(spec), spec).send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let mut page = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        page.extend_from_slice(&chunk);
        if page.len() > MAX_PAGE_BYTES {
            return None;
        }
    }
    Some(page)
}

/// Beside `/v1`, wherever a proxy has put that.
fn path(spec: &ServerSpec) -> String {
    let base = spec.base_path.as_str();
    format!("{}/metrics", base.strip_suffix("/v1").unwrap_or_default())
}

/// Whether a program may have counters. A provider's account is not asked: it has none, and each request to it may cost.
fn may_count(kind: Kind) -> bool {
    match kind {
        Kind::Vllm | Kind::Sglang | Kind::LlamaCpp | Kind::Other => true,
        // In router mode each model's page must be asked for, and only while the model is loaded.
        Kind::LlamaCppRouter | Kind::Ollama | Kind::Tei | Kind::LlamaSwap | Kind::Provider => false,
    }
}

impl Pages {
    /// The servers whose pages are to be read now, among these if given.
    fn take_due(
        &mut self,
        known: &Catalogue,
        among: Option<&HashSet<&ServerUrl>>,
        now: Instant,
        every: &impl Fn(Option<&ServerUrl>) -> Duration,
    ) -> Vec<Arc<ServerRecord>> {
        let runs = |server: &&Arc<ServerRecord>| {
            among.is_none_or(|among| among.contains(&server.spec.url))
                && matches!(server.state, ServerState::Ready | ServerState::Draining(_))
                && may_count(server.kind())
        };
        let servers: Vec<_> = known.servers().filter(runs).collect();
        let urls: HashSet<&ServerUrl> = servers.iter().map(|server| &server.spec.url).collect();
        self.0.retain(|url, _| urls.contains(url));
        let is_due =
            |server: &&Arc<ServerRecord>| self.is_due(&server.spec, now, every(Some(&server.spec.url)));
        servers.into_iter().filter(is_due).cloned().collect()
    }

    /// Whether a page is to be read now, which the caller then does. It may be wanted sooner than when it was read last.
    fn is_due(&mut self, spec: &ServerSpec, now: Instant, every: Duration) -> bool {
        let page = self.0.entry(spec.url.clone()).or_insert_with(|| Page::new(spec, now));
        if page.incarnation != spec.incarnation {
            *page = Page { due: page.due.map(|_| now), ..Page::new(spec, now) };
        }
        let sooner = (page.failures == 0).then(|| page.read + every);
        let is_due = page.due.is_some_and(|due| due <= now || sooner.is_some_and(|sooner| sooner <= now));
        if is_due {
            page.due = None;
        }
        is_due
    }

    fn was_read(&mut self, url: &ServerUrl, has_figures: bool, now: Instant, pace: Pace) {
        let Pace { every, look } = pace;
        let Some(page) = self.0.get_mut(url) else { return };
        if has_figures {
            page.failures = 0;
        } else {
            page.failures = page.failures.saturating_add(1);
            if page.failures == PATIENCE {
                info!(server = %url, "no counters can be read at /metrics");
            }
        }
        let doublings = page.failures.saturating_sub(PATIENCE).min(16);
        let pause = every.saturating_mul(1 << doublings).min(RAREST.max(every));
        page.read = now;
        // The look at that time, and not the one after it.
        page.due = Some(now + pause - look / 2);
    }
}

impl Page {
    fn new(spec: &ServerSpec, now: Instant) -> Self {
        Self { incarnation: spec.incarnation.clone(), failures: 0, read: now, due: Some(now) }
    }
}
