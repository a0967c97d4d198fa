//! Admin tokens, kept as their SHA-256 digests.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown},
    path::Path,
    sync::Arc,
};

use access::KeyDigest;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// The file in `state_dir` that keeps the digest of a generated token across restarts.
const FILE: &str = "admin-token.sha256";

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May do everything.
    Admin,
    /// May see everything, and change nothing.
    Reader,
}

/// A token with which an operator signs in.
#[derive(Debug, Clone)]
pub struct AdminToken {
    /// The operator's name, for pages and the audit log.
    pub name: Arc<str>,
    /// The SHA-256 of the token.
    pub digest: KeyDigest,
    /// Its role.
    pub role: Role,
}

/// All admin tokens.
#[derive(Debug, Clone, Default)]
pub struct AdminTokens(Vec<AdminToken>);

/// A token that was just generated, in clear. It is shown once and never stored.
pub struct NewAdminToken(String);

impl Role {
    /// The role's name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Reader => "reader",
        }
    }

    /// Whether it allows changes.
    pub fn may_write(self) -> bool {
        self == Self::Admin
    }
}

impl AdminTokens {
    /// Tokens from the configuration.
    pub fn new(tokens: Vec<AdminToken>) -> Self {
        Self(tokens)
    }

    /// Whether there is no token, so that nobody could sign in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the tokens.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|token| &*token.name)
    }

    /// The token with this digest. All tokens are compared, each in constant time.
    pub(crate) fn find(&self, digest: &KeyDigest) -> Option<&AdminToken> {
        let (mut found, mut at) = (Choice::from(0), 0_u64);
        for (i, token) in (0_u64..).zip(&self.0) {
            let same = token.digest.as_bytes().ct_eq(digest.as_bytes());
            at.conditional_assign(&i, same);
            found |= same;
        }
        let at = usize::try_from(at).ok()?;
        bool::from(found).then(|| &self.0[at])
    }

    /// The token if none is configured: the one that was generated before, if `state_dir` has its digest, else a new one, which
    /// is returned to be shown. Its digest is kept in `state_dir`.
    ///
    /// # Errors
    /// The digest cannot be read or written, or the system provides no random bytes.
    pub fn generated(state_dir: Option<&Path>) -> io::Result<(Self, Option<NewAdminToken>)> {
        let path = state_dir.map(|folder| folder.join(FILE));
        let one = Self::of_generated;
        if let Some(path) = &path {
            let failed = |what: &str| io::Error::other(format!("{}: {what}", path.display()));
            match fs::read_to_string(path) {
                Ok(text) => {
                    let digest = KeyDigest::parse_hex(text.trim())
                        .map_err(|e| failed(&format!("{e}; delete the file to get a new token")))?;
                    return Ok((one(digest), None));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&error.to_string())),
            }
        }
        let token = NewAdminToken::generate()?;
        if let (Some(path), Some(folder)) = (&path, state_dir)
            && let Err(error) = token.keep(folder, |partial| fs::hard_link(partial, path))
        {
            // Another Modelgate with the same folder has just made one.
            return match (error.kind(), Self::kept(folder)) {
                (io::ErrorKind::AlreadyExists, Some(digest)) => Ok((one(digest), None)),
                _ => Err(error),
            };
        }
        Ok((one(KeyDigest::of(token.reveal())), Some(token)))
    }

    /// The digest of the generated token, if there is one that can be read.
    pub fn kept(state_dir: &Path) -> Option<KeyDigest> {
        KeyDigest::parse_hex(fs::read_to_string(state_dir.join(FILE)).ok()?.trim()).ok()
    }

    /// The generated token alone, by its digest.
    pub fn of_generated(digest: KeyDigest) -> Self {
        Self(vec![AdminToken { name: "generated".into(), digest, role: Role::Admin }])
    }

    /// Makes a new token in place of the generated one, and keeps its digest in the state folder.
    ///
    /// # Errors
    /// The digest cannot be written, or the system provides no random bytes.
    pub fn renewed(state_dir: &Path) -> io::Result<NewAdminToken> {
        let token = NewAdminToken::generate()?;
        token.keep(state_dir, |partial| fs::rename(partial, state_dir.join(FILE)))?;
        Ok(token)
    }
}

impl NewAdminToken {
    /// Generates a token of 160 random bits.
    fn generate() -> io::Result<Self> {
        Ok(Self(format!("mgadmin-{}", random_hex::<20>()?)))
    }

    /// Writes its digest, which `place` puts in its place at once: a running Modelgate looks at it.
    fn keep(&self, state_dir: &Path, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", state_dir.join(FILE).display()))
        };
        fs::create_dir_all(state_dir).map_err(failed)?;
        let partial = state_dir.join(format!("{FILE}.{}", random_hex::<8>()?));
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            writeln!(file, "{}", KeyDigest::of(self.reveal()).to_hex())?;
            // If root does it for the user that Modelgate runs as, that user must be able to read it.
            let (folder, own) = (fs::metadata(state_dir)?, file.metadata()?);
            if (own.uid(), own.gid()) != (folder.uid(), folder.gid()) {
                chown(&partial, Some(folder.uid()), Some(folder.gid()))?;
            }
            place(&partial)
        };
        let written = write();
        // Renamed, it is gone already.
        let _ = fs::remove_file(&partial);
        written.map_err(failed)
    }

    /// The token in clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NewAdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewAdminToken(…)")
    }
}

/// `N` random bytes, in hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, clear: &str, role: Role) -> AdminToken {
        AdminToken { name: name.into(), digest: KeyDigest::of(clear), role }
    }

    #[test]
    fn each_token_is_found_by_its_digest_and_no_other() {
        let tokens = AdminTokens::new(vec![
            token("a", "first", Role::Admin),
            token("b", "second", Role::Reader),
            token("c", "third", Role::Admin),
        ]);
        let find = |clear: &str| tokens.find(&KeyDigest::of(clear)).map(|t| (&*t.name, t.role));
        assert_eq!(find("first"), Some(("a", Role::Admin)));
        assert_eq!(find("second"), Some(("b", Role::Reader)));
        assert_eq!(find("third"), Some(("c", Role::Admin)));
        assert_eq!(find("fourth"), None);
        assert!(AdminTokens::default().find(&KeyDigest::of("first")).is_none());
    }

    #[test]
    fn a_generated_token_is_shown_once_and_survives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let (tokens, shown) = AdminTokens::generated(Some(&state)).expect("generated");
        let shown = shown.expect("shown");
        let kept = fs::read_to_string(state.join(FILE)).expect("kept");
        assert!(!kept.contains(shown.reveal()), "only the digest is kept");
        assert_eq!(format!("{shown:?}"), "NewAdminToken(…)");
        let digest = KeyDigest::of(shown.reveal());
        assert!(tokens.find(&digest).is_some());
        let (again, shown) = AdminTokens::generated(Some(&state)).expect("read");
        assert!(shown.is_none(), "not shown again");
        assert!(again.find(&digest).is_some());
    }

    #[test]
    fn without_a_state_dir_each_start_has_a_token_of_its_own() {
        let shown = || AdminTokens::generated(None).expect("generated").1.expect("shown").reveal().to_owned();
        let (one, other) = (shown(), shown());
        assert_ne!(one, other);
        assert_eq!(one.len(), "mgadmin-".len() + 40);
    }

    #[test]
    fn a_broken_file_is_told_and_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "nonsense").expect("written");
        let error = AdminTokens::generated(Some(folder.path())).expect_err("refused").to_string();
        assert!(error.contains(FILE) && error.contains("delete the file"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).expect("there"), "nonsense");
    }
}
