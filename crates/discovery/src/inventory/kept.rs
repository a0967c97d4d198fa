//! What of the inventory is kept over a restart, and how it comes back.

use std::time::{Duration, Instant};

use catalogue::{Interpretation, Kind, Listing, ModelCard, ModelName, ServerId, ServerState};
use serde::{Deserialize, Serialize};

use super::{DockerRecord, Entry, HostName, Inventory, NetworkView};

/// How long servers from before Modelgate's start get requests while their Docker host does not answer.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);

/// A server that was ready. It holds no credential: labels have none, and those of the configuration are read from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptServer {
    from: From,
    listing: KeptListing,
}

/// Where a server was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum From {
    /// On a Docker host; with what Docker said, which is read anew.
    Docker { host: String, network_view: NetworkView, seen: Box<DockerRecord> },
    /// In the configuration, which has everything else about it.
    Configuration { name: String },
}

/// Its list of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptListing {
    kind: String,
    has_others: bool,
    cards: Vec<KeptCard>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptCard {
    name: String,
    owned_by: Option<String>,
    created: Option<i64>,
    context_length: Option<u64>,
    root: Option<String>,
    parent: Option<String>,
    aliases: Vec<String>,
}

/// The labels that say what a server is. Others are nobody's business here.
fn is_needed(label: &str) -> bool {
    const PROJECTS: [&str; 2] = ["com.docker.compose.project", "com.docker.stack.namespace"];
    label.starts_with("inference.") || PROJECTS.contains(&label)
}

impl Inventory {
    /// The servers that are ready, also those that an operator has withdrawn: they still are at the next start, and are known at once.
    pub(crate) fn kept(&self) -> Vec<KeptServer> {
        let is_ready = |entry: &&Entry| {
            entry.state() == ServerState::Ready && entry.gone_since.is_none() && entry.has_models()
        };
        self.entries.values().filter(is_ready).filter_map(|entry| self.kept_of(entry)).collect()
    }

    fn kept_of(&self, entry: &Entry) -> Option<KeptServer> {
        let from = match (&entry.host, &entry.seen) {
            (Some(host), Some(seen)) => {
                let network_view = self.hosts.get(host)?.network_view.clone()?;
                let mut seen = seen.clone();
                match &mut seen {
                    DockerRecord::Container(record) => record.labels.retain(|label, _| is_needed(label)),
                    DockerRecord::Task(record) => record.labels.retain(|label, _| is_needed(label)),
                }
                From::Docker { host: host.to_string(), network_view, seen: Box::new(seen) }
            }
            _ => From::Configuration { name: entry.spec.name.clone() },
        };
        Some(KeptServer { from, listing: KeptListing::of(entry.listing()) })
    }

    /// Whether servers are known from before Modelgate's start whose source has not been surveyed since.
    pub(crate) fn is_unsurveyed(&self) -> bool {
        self.entries.values().any(|entry| entry.kept_until.is_some())
    }

    /// Takes over the servers from before Modelgate's start: all of them, or none if one of them cannot be read, because Traefik
    /// would lose its routes.
    pub(crate) fn adopt(&mut self, servers: &[KeptServer], now: Instant) {
        let Some(adopted) = servers.iter().map(|kept| self.adopted(kept, now)).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        self.has_adopted = !adopted.is_empty();
        self.has_news = true;
        for (of_host, id, listing) in adopted {
            if let Some((host, network_view, entry)) = of_host {
                self.hosts.entry(host).or_default().network_view = Some(network_view);
                self.entries.insert(id.clone(), entry);
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.adopt(listing);
            }
        }
    }

    fn adopted(&self, kept: &KeptServer, now: Instant) -> Option<Adopted> {
        let listing = kept.listing.read()?;
        match &kept.from {
            From::Configuration { name } => {
                let id = ServerId::file(name);
                self.entries.contains_key(&id).then_some((None, id, listing))
            }
            From::Docker { host, network_view, seen } => {
                let (id, _, what, _) = seen.read(network_view);
                let Interpretation::Server(spec, ServerState::Ready) = what else { return None };
                let host = HostName::from(host.as_str());
                let mut entry = Entry::new(*spec, Some(host.clone()), ServerState::Ready, now);
                entry.seen = Some(DockerRecord::clone(seen));
                entry.kept_until = Some(now + KEPT_FOR);
                Some((Some((host, network_view.clone(), entry)), id, listing))
            }
        }
    }
}

/// What an entry is made of: for one of Docker's its host and itself, its id, and its list of models.
type Adopted = (Option<(HostName, NetworkView, Entry)>, ServerId, Listing);

impl KeptListing {
    fn of(listing: &Listing) -> Self {
        let card = |card: &ModelCard| KeptCard {
            name: card.name.to_string(),
            owned_by: card.owned_by.clone(),
            created: card.created,
            context_length: card.context_length,
            root: card.root.clone(),
            parent: card.parent.clone(),
            aliases: card.aliases.iter().map(ToString::to_string).collect(),
        };
        let cards = listing.cards.iter().map(card).collect();
        Self { kind: listing.kind.name().to_owned(), has_others: listing.has_others, cards }
    }

    fn read(&self) -> Option<Listing> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == self.kind)?;
        let cards = self.cards.iter().map(KeptCard::read).collect::<Option<_>>()?;
        Some(Listing { kind, cards, left_out: Vec::new(), has_others: self.has_others })
    }
}

impl KeptCard {
    fn read(&self) -> Option<ModelCard> {
        let name = |name: &String| ModelName::new(name).ok();
        Some(ModelCard {
            owned_by: self.owned_by.clone(),
            created: self.created,
            context_length: self.context_length,
            root: self.root.clone(),
            parent: self.parent.clone(),
            aliases: self.aliases.iter().map(name).collect::<Option<_>>()?,
            ..ModelCard::named(name(&self.name)?)
        })
    }
}
