//! Files that the configuration names. One that may not be read is the usual mistake with containers, where Modelgate runs as a user
//! that the host does not have: so the error says which user must be able to read it.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Reads a file.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    fs::read(&path).map_err(|error| explained(error, path.as_ref()))
}

/// Reads a text.
pub(super) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(&path).map_err(|error| explained(error, path.as_ref()))
}

/// Adds who reads, and whose the file is.
pub(super) fn explained(error: io::Error, path: &Path) -> io::Error {
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
            "{error}: Modelgate runs as user {user} (group {group}), which must be able to read it{whose}"
        ),
    )
}

/// The user and group of this process: its folder in `/proc` belongs to them
/// (<https://man7.org/linux/man-pages/man5/proc_pid.5.html>).
fn reader() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").ok()?;
    Some((own.uid(), own.gid()))
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
        let missing = read("/nonexistent/key").expect_err("none").to_string();
        assert_eq!(missing, "No such file or directory (os error 2)");
    }
}
