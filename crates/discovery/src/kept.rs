//! Keeps on disk what is known of servers, so that a new start can answer Traefik and requests at once.
//!
//! The file holds what Docker said of the servers that were ready, their lists of models, and from where Traefik polls. It holds no
//! key and no credential; labels may hold names that are not everybody's, so only the owner can read it. It is used only for the
//! sources that it was written for, on the same run of the machine (after a reboot containers have other addresses), and for some
//! minutes. Each server in it is probed at once, and withdrawn if it does not answer.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use catalogue::{Configured, ServerSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::{
    DockerOptions,
    inventory::{Inventory, KeptServer},
};

/// The version of the file's form.
const FORM: u32 = 1;
/// What was known longer ago is not used.
const MAX_AGE: Duration = Duration::from_secs(900);
/// Changes within this time are written together.
const GATHER: Duration = Duration::from_secs(1);
/// How often the file is written without a change, so that its age says when Modelgate was last there.
const AGAIN: Duration = Duration::from_secs(60);

/// What a file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct File {
    form: u32,
    /// The run of the machine (<https://docs.kernel.org/admin-guide/sysctl/kernel.html#random>).
    boot: String,
    /// When all of it was known to be true, in seconds since 1970.
    known_at: u64,
    /// Identifies the sources.
    sources: String,
    /// The addresses from which Traefik polled.
    peers: BTreeSet<IpAddr>,
    servers: Vec<KeptServer>,
}

/// The place for what is kept, and what is there from before.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    before: Option<File>,
}

impl Kept {
    /// Opens the file, which need not exist. One that cannot be read, or is too old, counts as none.
    pub fn open(path: PathBuf) -> Self {
        let before = fs::read(&path).ok().and_then(|bytes| match serde_json::from_slice::<File>(&bytes) {
            Ok(file) => Some(file),
            Err(error) => {
                debug!(path = %path.display(), %error, "what was kept of servers cannot be read");
                None
            }
        });
        let is_usable = |file: &File| {
            let age = now().checked_sub(file.known_at);
            file.form == FORM && file.boot == boot() && age.is_some_and(|age| age <= MAX_AGE.as_secs())
        };
        Self { before: before.filter(is_usable), path }
    }

    /// The addresses from which Traefik polled before.
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        self.before.as_ref().map(|file| file.peers.clone()).unwrap_or_default()
    }
}

/// Writes the file again and again.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    docker: String,
    due: Instant,
    written: Option<Instant>,
    known_at: Option<u64>,
    writing: Option<JoinHandle<()>>,
    has_failed: Arc<AtomicBool>,
}

impl Keeper {
    /// Takes over what was kept into the inventory, if it is of the same sources.
    pub(crate) fn new(
        kept: Kept,
        docker: &[DockerOptions],
        configured: &Configured,
        inventory: &mut Inventory,
    ) -> Self {
        let (docker, now) = (format!("{docker:?}"), Instant::now());
        let sources = fingerprint(&docker, configured);
        let before = kept.before.filter(|file| file.sources == sources);
        if let Some(before) = &before {
            inventory.adopt(&before.servers, now);
        }
        let known_at = before.map(|before| before.known_at);
        Self {
            path: kept.path,
            docker,
            due: now + AGAIN,
            written: None,
            known_at,
            writing: None,
            has_failed: Arc::default(),
        }
    }

    /// When the file is to be written next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Something has changed.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.due = self.due.min(self.written.map_or(now, |written| (written + GATHER).max(now)));
    }

    /// Writes the file, if it is due.
    pub(crate) fn keep(
        &mut self,
        inventory: &Inventory,
        configured: &Configured,
        peers: &BTreeSet<IpAddr>,
        at: Instant,
    ) {
        if at < self.due {
            return;
        }
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            self.due = at + GATHER;
            return;
        }
        (self.due, self.written) = (at + AGAIN, Some(at));
        // What has not been surveyed since the start is not made younger.
        let known_at = self.known_at.filter(|_| inventory.is_unsurveyed()).unwrap_or_else(now);
        self.known_at = Some(known_at);
        let sources = fingerprint(&self.docker, configured);
        let servers = inventory.kept();
        let file = File { form: FORM, boot: boot(), known_at, sources, peers: peers.clone(), servers };
        let (path, has_failed) = (self.path.clone(), Arc::clone(&self.has_failed));
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&path, &file)
                && !has_failed.swap(true, Ordering::Relaxed)
            {
                warn!(path = %path.display(), %error, "what is known of servers cannot be kept; a restart waits for a survey");
            }
        }));
    }
}

impl Keeper {
    /// Writes what is known now, before the process ends. It may differ from what is written without a new catalogue: Traefik's
    /// address does.
    pub(crate) async fn close(
        mut self,
        inventory: &Inventory,
        configured: &Configured,
        peers: &BTreeSet<IpAddr>,
    ) {
        // Two at the same time could end in the wrong order.
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        let now = Instant::now();
        self.due = now;
        self.keep(inventory, configured, peers, now);
        if let Some(writing) = self.writing {
            let _ = writing.await;
        }
    }
}

/// In its place at once, so that nobody reads a part of it.
fn write(path: &Path, file: &File) -> io::Result<()> {
    // Two Modelgates may have one folder, each with the process id 1 in its container.
    let partial = path.with_extension(format!("{:x}.partial", RandomState::new().build_hasher().finish()));
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).and_then(
            |mut to| {
                to.write_all(&serde_json::to_vec(file)?)?;
                fs::rename(&partial, path)
            },
        );
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Identifies the sources: what was found with other options, or with other servers in the configuration, may be wrong now.
fn fingerprint(docker: &str, configured: &Configured) -> String {
    let mut digest = Sha256::new();
    digest.update(docker);
    for spec in &configured.servers {
        // Whether a credential still fits is seen when the server is probed.
        let spec = ServerSpec { credential: None, ..spec.clone() };
        digest.update(format!("{spec:?}"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(age: u64, form: u32, boot: String) -> File {
        File {
            form,
            boot,
            known_at: now() - age,
            sources: String::new(),
            peers: BTreeSet::from([IpAddr::from([172, 18, 0, 2])]),
            servers: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_is_the_owners_alone_and_not_used_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        let kept = || Kept::open(path.clone()).peers().len();
        assert_eq!(kept(), 0, "there is none");
        for (file, usable) in [
            (file(0, FORM, boot()), 1),
            (file(899, FORM, boot()), 1),
            (file(902, FORM, boot()), 0),
            (file(0, FORM + 1, boot()), 0),
            (file(0, FORM, "before the reboot".into()), 0),
        ] {
            write(&path, &file).expect("written");
            assert_eq!(kept(), usable, "{file:?}");
            assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "{").expect("written");
        assert_eq!(kept(), 0, "damaged");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left over");
    }

    /// Regression: that Traefik's address had changed was written only if servers had changed as well.
    #[tokio::test]
    async fn a_stop_writes_what_has_changed_since_the_last_writing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        let (mut inventory, configured, now) = (Inventory::default(), Configured::default(), Instant::now());
        let mut keeper = Keeper::new(Kept::open(path.clone()), &[], &configured, &mut inventory);
        let peers = |last: u8| BTreeSet::from([IpAddr::from([172, 18, 0, last])]);
        keeper.changed(now);
        keeper.keep(&inventory, &configured, &peers(2), now);
        keeper.keep(&inventory, &configured, &peers(3), now);
        keeper.close(&inventory, &configured, &peers(3)).await;
        assert_eq!(Kept::open(path).peers(), peers(3));
    }

    #[test]
    fn sources_are_told_apart_but_for_their_credentials() {
        let configured = |key: Option<&str>, url: &str| {
            let mut spec = ServerSpec::configured("gpu", catalogue::ServerUrl::parse(url).expect("a URL"));
            spec.credential = key
                .and_then(|key| catalogue::Credential::new(catalogue::CredentialHeader::Bearer, key))
                .map(Arc::new);
            fingerprint("[]", &Configured { servers: vec![spec], ..Configured::default() })
        };
        let one = configured(None, "http://gpu:8000");
        assert_eq!(one, configured(Some("secret"), "http://gpu:8000"));
        assert_ne!(one, configured(None, "http://gpu:8001"));
        assert_ne!(fingerprint("a", &Configured::default()), fingerprint("b", &Configured::default()));
    }
}
