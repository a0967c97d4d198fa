//! Checks that no key is left in what tests produce: every Modelgate and every Traefik that a test starts is searched when the
//! test drops it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use memchr::memmem;

/// The prefix of all our API keys, including those that tests make up.
const PREFIX: &[u8] = b"mg-";

/// A key in clear, if there is one: the prefix at the beginning of a word, followed by more letters.
#[must_use]
pub fn find_key(bytes: &[u8]) -> Option<String> {
    let is_letter = |b: &u8| b.is_ascii_alphanumeric();
    let at = |start: &usize| {
        let begins =
            *start == 0 || !bytes.get(start - 1).is_some_and(|b| is_letter(b) || *b == b'-' || *b == b'_');
        begins && bytes.get(start + PREFIX.len()).is_some_and(is_letter)
    };
    let start = memmem::find_iter(bytes, PREFIX).find(at)?;
    let around = &bytes[start.saturating_sub(60)..bytes.len().min(start + 80)];
    Some(String::from_utf8_lossy(around).into_owned())
}

/// Searches all files of a folder, recursively.
///
/// # Panics
/// If one of them contains a key, unless the test has failed already.
pub(crate) fn check_folder(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            check_folder(&path);
        } else if let Ok(bytes) = fs::read(&path) {
            check(&path.display().to_string(), &bytes);
        }
    }
}

/// Searches the answer of a listener on this machine to a GET, if it comes within a second.
///
/// # Panics
/// As for [`check_folder`].
pub(crate) fn check_answer(port: u16, path: &str) {
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
    let get = || -> std::io::Result<Vec<u8>> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    check(path, &get().unwrap_or_default());
}

/// Searches bytes.
///
/// # Panics
/// As for [`check_folder`].
pub(crate) fn check(place: &str, bytes: &[u8]) {
    if let Some(found) = find_key(bytes)
        && !std::thread::panicking()
    {
        panic!("an API key in clear in {place}: {found:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_wherever_it_stands_and_nothing_else_is_one() {
        for (text, found) in [
            ("mg-alice", true),
            ("GET /?key=mg-a HTTP", true),
            ("\u{0}mg-0Zz\u{0}", true),
            ("img-1 omg-x kimg-", false),
            ("the prefix mg- stands before each", false),
            ("\"mg-…\"", false),
            ("", false),
        ] {
            assert_eq!(find_key(text.as_bytes()).is_some(), found, "{text}");
        }
    }
}
