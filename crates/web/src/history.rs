//! The last documents that Traefik was given, why they changed, and how they differ.
//!
//! This is not on the hot path: a document is recorded when it is rendered. Memory is bounded: the last [`MAX_REVISIONS`]
//! documents are kept, but the oldest lose their text once all together exceed [`MAX_BYTES`]; and the catalogue of the last
//! document is kept for each of [`MAX_VARIANTS`] variants. A document for 1,000 models and 3,000 servers has 0.7 MB.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use catalogue::Catalogue;
use similar::TextDiff;
use traefik_config::{Gateway, TraefikVersion};

use crate::changes::changes;

/// The maximum number of documents remembered.
pub const MAX_REVISIONS: usize = 50;
/// The maximum size of their texts together, in bytes.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The maximum number of variants: the document depends on Traefik's version and on the host that it polls.
const MAX_VARIANTS: usize = 8;
/// The time limit for a diff: very different documents take long to compare and then get a coarser diff.
const DIFF_TIME: Duration = Duration::from_millis(500);

/// The documents of the past.
#[derive(Debug, Default)]
pub struct History(Mutex<Past>);

#[derive(Debug, Default)]
struct Past {
    last_number: u64,
    /// Oldest first.
    revisions: VecDeque<Revision>,
    /// The variant that was rendered last is at the end.
    variants: Vec<Variant>,
}

/// A rendered document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its number, counted from 1.
    pub number: u64,
    /// When it was rendered.
    pub at: SystemTime,
    /// The Traefik version that it is for.
    pub version: TraefikVersion,
    /// The address at which that Traefik reaches Modelgate: `host:port`.
    pub gateway: String,
    /// The generation of its catalogue.
    pub catalogue: u64,
    /// The changes since the previous document, as text.
    pub why: Vec<String>,
    /// The previous document for the same version and gateway.
    pub previous: Option<u64>,
    /// Its size in bytes.
    pub size: usize,
    document: Option<Bytes>,
}

/// The last rendering for one variant.
#[derive(Debug)]
struct Variant {
    version: TraefikVersion,
    gateway: Gateway,
    catalogue: Arc<Catalogue>,
    settings_revision: u64,
    document: Bytes,
    number: u64,
}

/// The inputs of a rendering.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rendering<'a> {
    pub(crate) catalogue: &'a Arc<Catalogue>,
    pub(crate) settings_revision: u64,
    pub(crate) gateway: &'a Gateway,
    pub(crate) version: TraefikVersion,
}

impl History {
    /// Records a rendered document; returns its number. A document equal to the last one of its variant is not a new one.
    pub(crate) fn rendered(&self, from: Rendering<'_>, document: &Bytes, at: SystemTime) -> u64 {
        let mut past = self.lock();
        let is_same = |variant: &Variant| variant.version == from.version && variant.gateway == *from.gateway;
        let before = past.variants.iter().position(is_same).map(|place| past.variants.remove(place));
        let number = match &before {
            Some(before) if before.document == *document => before.number,
            _ => past.add(from, before.as_ref(), document, at),
        };
        if past.variants.len() >= MAX_VARIANTS {
            past.variants.remove(0);
        }
        past.variants.push(Variant {
            version: from.version,
            gateway: from.gateway.clone(),
            catalogue: Arc::clone(from.catalogue),
            settings_revision: from.settings_revision,
            document: document.clone(),
            number,
        });
        number
    }

    /// All remembered documents, newest first.
    pub fn revisions(&self) -> Vec<Revision> {
        self.lock().revisions.iter().rev().cloned().collect()
    }

    /// A document by its number; `None` if it has been forgotten.
    pub fn revision(&self, number: u64) -> Option<Revision> {
        self.lock().revisions.iter().find(|revision| revision.number == number).cloned()
    }

    /// A unified diff of two documents' indented JSON; empty if they are equal. `None` if one has been forgotten. May take half
    /// a second for large documents.
    pub fn diff(&self, old: u64, new: u64) -> Option<String> {
        let text = |number| self.revision(number)?.text();
        let (before, after) = (text(old)?, text(new)?);
        let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(&before, &after);
        let (old, new) = (format!("revision {old}"), format!("revision {new}"));
        Some(diff.unified_diff().header(&old, &new).to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn add(
        &mut self,
        from: Rendering<'_>,
        before: Option<&Variant>,
        document: &Bytes,
        at: SystemTime,
    ) -> u64 {
        self.last_number += 1;
        self.revisions.push_back(Revision {
            number: self.last_number,
            at,
            version: from.version,
            gateway: from.gateway.authority.clone(),
            catalogue: from.catalogue.generation(),
            why: why(from, before),
            previous: before.map(|before| before.number),
            size: document.len(),
            document: Some(document.clone()),
        });
        if self.revisions.len() > MAX_REVISIONS {
            self.revisions.pop_front();
        }
        let mut left = MAX_BYTES;
        for revision in self.revisions.iter_mut().rev() {
            left = left.saturating_sub(revision.size);
            // The newest text is kept, however large: Traefik has it.
            if left == 0 && revision.number != self.last_number {
                revision.document = None;
            }
        }
        self.last_number
    }
}

fn why(from: Rendering<'_>, before: Option<&Variant>) -> Vec<String> {
    let Some(before) = before else {
        return vec![format!(
            "the first document for Traefik {} that reaches Modelgate at {}",
            from.version, from.gateway.authority
        )];
    };
    let reloaded = before.settings_revision != from.settings_revision;
    let mut why: Vec<String> = reloaded.then(|| "settings reloaded".to_owned()).into_iter().collect();
    why.extend(changes(&before.catalogue, from.catalogue));
    if why.is_empty() {
        why.push("something about the servers that has no name here".to_owned());
    }
    why
}

impl Revision {
    /// The document as indented JSON; `None` if its text has been dropped.
    pub fn text(&self) -> Option<String> {
        let document: serde_json::Value = serde_json::from_slice(self.document.as_ref()?).ok()?;
        serde_json::to_string_pretty(&document).ok().map(|text| text + "\n")
    }

    /// The document as Traefik was given it; `None` if its text has been dropped.
    pub fn document(&self) -> Option<&Bytes> {
        self.document.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use catalogue::{Publisher, Reader, ServerRecord, ServerState, channel};

    use super::*;
    use crate::testing::server;

    /// Publishes servers and renders documents, as the provider does.
    struct World {
        publisher: Publisher,
        reader: Reader,
        settings_revision: u64,
        history: History,
    }

    impl World {
        fn new() -> Self {
            let (publisher, reader) = channel();
            Self { publisher, reader, settings_revision: 0, history: History::default() }
        }

        fn publish(&mut self, servers: &[(&str, ServerState)]) {
            let record = |(name, state): &(&str, ServerState)| ServerRecord {
                state: state.clone(),
                ..server(name, &["llama"])
            };
            let catalogue = Catalogue::assemble(servers.iter().map(record), Vec::new());
            assert!(self.publisher.publish(catalogue), "it says something else");
        }

        fn render_for(&self, host: &str, version: &str) -> u64 {
            let catalogue = self.reader.load().clone().expect("published");
            let gateway = Gateway { authority: format!("{host}:8101"), ca_pem: "a certificate".into() };
            let version = version.parse().expect("a version");
            let options = traefik_config::RenderOptions { version, ..Default::default() };
            let document = traefik_config::render(&catalogue, &options, &gateway).to_json();
            let from = Rendering {
                catalogue: &catalogue,
                settings_revision: self.settings_revision,
                gateway: &gateway,
                version,
            };
            self.history.rendered(from, &document.into(), UNIX_EPOCH)
        }

        fn render(&self) -> u64 {
            self.render_for("modelgate", "3.7.15")
        }

        fn why(&self, number: u64) -> Vec<String> {
            self.history.revision(number).expect("remembered").why
        }
    }

    const READY: ServerState = ServerState::Ready;

    #[test]
    fn each_document_says_which_event_caused_it() {
        let mut world = World::new();
        world.publish(&[("a", ServerState::Starting(catalogue::LifecycleFinding::ModelsNotAsked.into()))]);
        assert_eq!(world.render(), 1);
        assert_eq!(
            world.why(1),
            ["the first document for Traefik 3.7.15 that reaches Modelgate at modelgate:8101"]
        );
        world.publish(&[("a", READY)]);
        assert_eq!((world.render(), world.render()), (2, 2), "the same document is no new one");
        assert_eq!(world.why(2), ["server a became ready", "model llama became ready"]);
        world.settings_revision += 1;
        assert_eq!(world.render(), 2, "the document does not depend on what was reloaded");
        world.publish(&[("a", READY), ("b", READY)]);
        assert_eq!(world.render(), 3);
        assert_eq!(world.why(3), ["server b has appeared and is ready"], "the reload was another event");
        world.settings_revision += 1;
        world.publish(&[("b", READY)]);
        assert_eq!(world.render(), 4);
        assert_eq!(world.why(4), ["settings reloaded", "server a is gone"]);
        let numbers: Vec<_> = world.history.revisions().iter().map(|r| (r.number, r.previous)).collect();
        assert_eq!(numbers, [(4, Some(3)), (3, Some(2)), (2, Some(1)), (1, None)], "newest first");
    }

    #[test]
    fn two_documents_differ_by_what_has_changed() {
        let mut world = World::new();
        world.publish(&[("a", READY)]);
        let first = world.render();
        world.publish(&[("a", READY), ("b", READY)]);
        let second = world.render();
        let diff = world.history.diff(first, second).expect("both are remembered");
        assert!(diff.starts_with("--- revision 1\n+++ revision 2\n@@ "), "{diff}");
        let changed: Vec<_> = diff.lines().skip(2).filter(|line| line.starts_with(['+', '-'])).collect();
        assert!(changed.iter().any(|line| line.contains("\"url\": \"http://b:8000\"")), "{diff}");
        assert!(!changed.iter().any(|line| line.contains("http://a:8000")), "{diff}");
        assert_eq!(world.history.diff(second, second).as_deref(), Some(""));
        assert_eq!(world.history.diff(first, 99), None);
    }

    #[test]
    fn traefiks_of_several_kinds_have_documents_of_their_own() {
        let mut world = World::new();
        world.publish(&[("a", READY)]);
        let kinds = [("modelgate", "3.7.15"), ("10.0.0.1", "3.7.15"), ("modelgate", "3.0.4")];
        let numbers = kinds.map(|(host, version)| world.render_for(host, version));
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(kinds.map(|(host, version)| world.render_for(host, version)), numbers, "they take turns");
        world.publish(&[("a", READY), ("b", READY)]);
        assert_eq!(world.render_for("10.0.0.1", "3.7.15"), 4);
        assert_eq!(world.history.revision(4).expect("remembered").previous, Some(2));
        assert_eq!(world.why(4), ["server b has appeared and is ready"]);
    }

    #[test]
    fn no_more_than_fifty_documents_are_remembered() {
        let mut world = World::new();
        for i in 0..70 {
            world.publish(&[(&format!("server-{i}"), READY)]);
            world.render_for(&format!("host-{}", i % 20), "3.7.15");
        }
        let revisions = world.history.revisions();
        assert_eq!((revisions.len(), revisions[0].number), (MAX_REVISIONS, 70));
        assert_eq!(world.history.lock().variants.len(), MAX_VARIANTS);
        assert!(revisions.iter().all(|r| r.document().is_some()), "they are small");
    }

    #[test]
    fn the_oldest_documents_lose_their_text_when_all_are_too_large() {
        let mut world = World::new();
        world.publish(&[("a", READY)]);
        let catalogue = world.reader.load().clone().expect("published");
        let gateway = Gateway { authority: "modelgate:8101".into(), ca_pem: String::new() };
        let version = TraefikVersion::LAYERED;
        let from = Rendering { catalogue: &catalogue, settings_revision: 0, gateway: &gateway, version };
        for i in 0..4_u8 {
            let document = Bytes::from(vec![b'0' + i; MAX_BYTES / 3]);
            world.history.rendered(from, &document, UNIX_EPOCH);
        }
        let has_text: Vec<_> = world.history.revisions().iter().map(|r| r.document().is_some()).collect();
        assert_eq!(has_text, [true, true, true, false]);
        world.history.rendered(from, &Bytes::from(vec![b' '; MAX_BYTES + 1]), UNIX_EPOCH);
        let has_text: Vec<_> = world.history.revisions().iter().map(|r| r.document().is_some()).collect();
        assert_eq!(has_text, [true, false, false, false, false], "what Traefik has is always there");
    }
}
