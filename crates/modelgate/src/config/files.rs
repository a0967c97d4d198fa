//! Files that the configuration names. One that may not be read is the usual mistake with containers, where Modelgate runs as a user
//! that the host does not have: so the error says which user must be able to read it.

use std::{
    env, fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use config_reader::Section;

/// Reads a file.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    fs::read(&path).map_err(|error| explained(error, path.as_ref()))
}

/// Reads a text.
pub(super) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(&path).map_err(|error| explained(error, path.as_ref()))
}

/// Tries whether files can be made in a folder that is there.
///
/// # Errors
/// They cannot; the text says who must be able to.
pub(crate) fn try_folder(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let file = folder.join(format!(".modelgate-tries-{}", std::process::id()));
    let tried = fs::write(&file, "").and_then(|()| fs::remove_file(&file));
    tried.map_err(|error| {
        let told = told(error, folder, "make files there");
        io::Error::new(told.kind(), format!("{}: {told}", folder.display()))
    })
}

/// Adds who reads, and whose the file is.
pub(super) fn explained(error: io::Error, path: &Path) -> io::Error {
    told(error, path, "read it")
}

fn told(error: io::Error, path: &Path, what: &str) -> io::Error {
    let (ErrorKind::PermissionDenied, Some((user, group))) = (error.kind(), reader()) else { return error };
    let whose = fs::metadata(path).map_or_else(
        // The folder may be closed, too.
        |_| String::new(),
        |file| {
            format!(
                "; it belongs to user {} and group {}, with mode {:o}",
                file.uid(),
                file.gid(),
                file.mode() & 0o7777
            )
        },
    );
    io::Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "{error}: Modelgate runs as user {user} (group {group}), which must be able to {what}{whose}"
        ),
    )
}

/// The user and group of this process: its folder in `/proc` belongs to them
/// (<https://man7.org/linux/man-pages/man5/proc_pid.5.html>).
fn reader() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").ok()?;
    Some((own.uid(), own.gid()))
}

/// Reads where a secret is kept: `{ env: VARIABLE }` or `{ file: PATH }`. Secrets are never in the file, because people show the
/// file to each other.
pub(super) fn kept<T>(
    parent: &mut Section<'_>,
    key: &'static str,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let is_given = parent.has(key);
    let mut section = parent.section(key);
    let secret = secret_in(&mut section, allowed, parse);
    if is_given {
        require_place(&section, key);
    }
    section.finish();
    secret
}

/// Reads the secret that the keys `env` or `file` of a section name.
pub(super) fn secret_in<T>(
    section: &mut Section<'_>,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let from_env =
        section.kept_secret("env", "the name of an environment variable", |name| match env::var(name) {
            Ok(text) => parse(&text).ok_or_else(|| format!("its value is not allowed: {allowed}")),
            Err(_) => Err("this variable is not set, or is not UTF-8".into()),
        });
    let from_file = section.kept_secret("file", "the path of a file", |path| match read_text(path) {
        Ok(text) => parse(text.trim_end_matches(['\r', '\n']))
            .ok_or_else(|| format!("its content is not allowed: {allowed}")),
        Err(error) => Err(error.to_string()),
    });
    from_env.or(from_file)
}

/// Reports a section that names no place of its secret, or two.
pub(super) fn require_place(section: &Section<'_>, key: &str) {
    if section.has("env") == section.has("file") {
        section.error(
            "env",
            format!("{key} needs exactly one of env, an environment variable, and file, a path"),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_says_who_must_be_able_to() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).expect("its mode");
        let own = file.path().metadata().expect("its owner");
        let told = explained(ErrorKind::PermissionDenied.into(), file.path()).to_string();
        let expected = format!(
            "permission denied: Modelgate runs as user {0} (group {1}), which must be able to read it; it belongs to user {0} and \
             group {1}, with mode 640",
            own.uid(),
            own.gid()
        );
        assert_eq!(told, expected);
        let closed = explained(ErrorKind::PermissionDenied.into(), Path::new("/nonexistent/key")).to_string();
        assert!(closed.ends_with("which must be able to read it"), "{closed}");
        let folder = tempfile::tempdir().expect("a folder");
        try_folder(folder.path()).expect("files can be made there");
        assert_eq!(fs::read_dir(folder.path()).expect("a list").count(), 0, "nothing is left there");
        // In /proc nobody can make files, whoever it is.
        let refused = try_folder(Path::new("/proc/self")).expect_err("no files").to_string();
        assert!(refused.starts_with("/proc/self: "), "{refused}");
        let missing = read("/nonexistent/key").expect_err("none").to_string();
        assert_eq!(missing, "No such file or directory (os error 2)");
    }
}
