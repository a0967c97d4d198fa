//! What a stop could not write to the store: it is kept in a file in the state folder, until the store takes it at a start or when it
//! is back. Several Modelgates may have one folder, so each has a file of its own and each writes what it finds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use store::{LeftFile, Store, StoreError, Unwritten};
use tracing::{info, warn};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the store remembers which batches of a writer it has. A replica that has written nothing for this long has no batch under way
/// any more.
pub(super) const REMEMBERED: Duration = Duration::from_secs(62 * 24 * 3600);
const PREFIX: &str = "unwritten-";
const WHOLE: &str = "json";
/// A file that is being written.
const PARTIAL: &str = "partial";
/// Nobody writes a file for this long.
const WRITING: Duration = Duration::from_secs(60);
/// Batches older than this are not written: the store forgets a day later whether it has them.
const TOO_OLD: Duration = REMEMBERED.saturating_sub(DAY);

/// Keeps batches in a file, which is in its place at once and as a whole. Returns its path.
///
/// # Errors
/// It cannot be written; then nothing is left of it.
pub(super) fn keep(folder: &Path, unwritten: &Unwritten) -> io::Result<PathBuf> {
    let path = folder.join(format!("{PREFIX}{}.{WHOLE}", unwritten.writer));
    let partial = path.with_extension(PARTIAL);
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(&unwritten.to_json()?)?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        File::open(folder)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.map(|()| path)
}

/// Writes what is in files of the folder to the store, each batch exactly once, and removes the files. Returns those that are left,
/// and why.
///
/// # Errors
/// The store does not take it; it can be tried again.
pub(super) async fn send(store: &Store, folder: &Path, now: SystemTime) -> Result<Vec<LeftFile>, StoreError> {
    let mut left = Vec::new();
    for path in files(folder, WHOLE) {
        match read(&path, now) {
            Ok(None) => {}
            Ok(Some(unwritten)) => {
                store.add_unwritten(&unwritten).await?;
                let (file, batches) = (path.display(), unwritten.batches.len());
                info!(%file, batches, "what the last stop could not write to the store is written");
                left.extend(remove(path));
            }
            Err(why) => left.push(LeftFile { path, why }),
        }
    }
    let is_old = |path: &PathBuf| {
        let changed = fs::metadata(path).and_then(|file| file.modified());
        changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > WRITING))
    };
    for path in files(folder, PARTIAL).into_iter().filter(is_old) {
        left.push(LeftFile {
            path,
            why: "it is not counted: Modelgate was killed while it wrote the file".into(),
        });
    }
    for one in &left {
        let (file, why, code) = (one.path.display(), &one.why, one.code());
        warn!(%file, why, code, "a file with what a stop could not write is left");
    }
    Ok(left)
}

/// The files with this ending, the oldest first: their names begin with a time.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX)) && path.extension().is_some_and(|end| end == ending)
    };
    let mut files: Vec<PathBuf> = entries.filter(is_one).collect();
    files.sort();
    files
}

/// Nothing if another Modelgate has removed it meanwhile.
fn read(path: &Path, now: SystemTime) -> Result<Option<Unwritten>, String> {
    let not_counted = |why: &dyn std::fmt::Display| format!("it is not counted: {why}");
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(not_counted(&error)),
    };
    let unwritten = Unwritten::parse(&bytes).map_err(|error| not_counted(&error))?;
    let age = unwritten.since().and_then(|since| now.duration_since(since).ok()).unwrap_or_default();
    if age > TOO_OLD {
        let days = TOO_OLD.as_secs() / DAY.as_secs();
        return Err(not_counted(&format!(
            "it is older than {days} days, so the store may have counted it and not know"
        )));
    }
    Ok(Some(unwritten))
}

fn remove(path: PathBuf) -> Option<LeftFile> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Some(LeftFile { path, why: format!("it is counted, but cannot be removed: {error}") })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use store::{Batch, StoreUrl, Writer};

    use super::*;

    fn unwritten(at: SystemTime) -> Unwritten {
        let batch = Batch { number: 1, counts: Vec::new(), used: Vec::new(), at };
        Unwritten { writer: Writer::new(), batches: vec![batch] }
    }

    async fn left(store: &Store, folder: &Path, now: SystemTime) -> Vec<String> {
        let left = send(store, folder, now).await.expect("sent");
        left.into_iter().map(|left| left.why).collect()
    }

    #[tokio::test]
    async fn what_may_be_counted_twice_or_is_not_complete_is_left() {
        let (folder, now) = (tempfile::tempdir().expect("a folder"), SystemTime::now());
        let folder = folder.path().join("state");
        let store = Store::open(StoreUrl::in_folder(&folder)).await.expect("a store");
        assert_eq!(left(&store, &folder.join("missing"), now).await, [""; 0]);
        let old = keep(&folder, &unwritten(now - TOO_OLD - DAY)).expect("kept");
        let new = keep(&folder, &unwritten(now - TOO_OLD + DAY)).expect("kept");
        let partial = folder.join("unwritten-1.partial");
        fs::write(&partial, "{").expect("written");
        fs::write(folder.join("servers.json"), "{").expect("written");
        let why = left(&store, &folder, now).await;
        assert_eq!(why.len(), 1, "another may be writing the partial one: {why:?}");
        assert!(why[0].contains("older than 61 days"), "{why:?}");
        let why = left(&store, &folder, now + 2 * WRITING).await;
        assert!(why.len() == 2 && why[1].contains("killed while it wrote"), "{why:?}");
        assert_eq!([&old, &new, &partial].map(|path| path.exists()), [true, false, true]);
    }

    /// A folder that is in the way cannot be replaced by a file.
    #[test]
    fn of_a_file_that_cannot_be_written_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let unwritten = unwritten(SystemTime::now());
        let path = folder.path().join(format!("{PREFIX}{}.{WHOLE}", unwritten.writer));
        fs::create_dir_all(path.join("in the way")).expect("a folder");
        keep(folder.path(), &unwritten).expect_err("no file");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "no partial file");
    }
}
