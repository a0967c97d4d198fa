//! Sessions, which the cookies refer to. They are kept in memory, so a restart signs everybody out.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use access::KeyDigest;

use crate::token::random_hex;

/// A session that nobody uses ends after this long; an open live page counts as use.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// A session ends after this long, however much it is used.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum number of sessions, more than there are operators. Beyond it, the one that was unused for the longest time is
/// dropped.
const MAX_SESSIONS: usize = 1000;

/// All sessions, by the digest of the cookie, so that somebody who can read this memory cannot use them.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<KeyDigest, Session>>);

/// One session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The token with which it was opened; the session ends when the token is removed.
    pub(crate) token: KeyDigest,
    /// The CSRF token, which forms must carry.
    pub(crate) csrf: String,
    opened: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE || now.duration_since(self.opened) >= MAX_AGE
    }
}

impl Sessions {
    /// Opens a session and returns the cookie's value.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub(crate) fn open(&self, token: KeyDigest, now: Instant) -> io::Result<String> {
        let cookie = random_hex::<32>()?;
        let session = Session { token, csrf: random_hex::<32>()?, opened: now, used: now };
        let mut sessions = self.lock();
        if sessions.len() >= MAX_SESSIONS {
            sessions.retain(|_, session| !session.is_over(now));
        }
        if sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, s)| s.used).map(|(digest, _)| *digest)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(KeyDigest::of(&cookie), session);
        Ok(cookie)
    }

    /// The session of a cookie. Counts as use of the session.
    pub(crate) fn of(&self, cookie: &str, now: Instant) -> Option<Session> {
        let digest = KeyDigest::of(cookie);
        let mut sessions = self.lock();
        let session = sessions.get_mut(&digest)?;
        if session.is_over(now) {
            sessions.remove(&digest);
            return None;
        }
        session.used = now;
        Some(session.clone())
    }

    /// Ends a session.
    pub(crate) fn close(&self, cookie: &str) {
        self.lock().remove(&KeyDigest::of(cookie));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyDigest, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> KeyDigest {
        KeyDigest::of("a token")
    }

    #[test]
    fn a_session_lasts_while_it_is_used_but_not_for_ever() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let cookie = sessions.open(token(), start).expect("opened");
        let mut now = start;
        while now.duration_since(start) + IDLE / 2 < MAX_AGE {
            now += IDLE / 2;
            assert!(sessions.of(&cookie, now).is_some(), "used every half hour");
        }
        assert!(sessions.of(&cookie, start + MAX_AGE).is_none(), "over for good");
        assert!(sessions.lock().is_empty(), "and forgotten");
    }

    #[test]
    fn an_unused_session_ends() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let cookie = sessions.open(token(), start).expect("opened");
        assert!(sessions.of(&cookie, start + IDLE).is_none());
    }

    #[test]
    fn signing_out_ends_one_session_and_no_other() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (one, other) =
            (sessions.open(token(), now).expect("one"), sessions.open(token(), now).expect("two"));
        assert_ne!(one, other);
        sessions.close(&one);
        assert!(sessions.of(&one, now).is_none());
        let session = sessions.of(&other, now).expect("still there");
        assert_eq!(session.token, token());
        assert!(sessions.of("made up", now).is_none());
    }

    #[test]
    fn memory_is_bounded_and_the_longest_unused_one_goes_first() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.open(token(), start).expect("opened");
        let second = sessions.open(token(), start + Duration::from_secs(1)).expect("opened");
        let later = start + Duration::from_secs(2);
        assert!(sessions.of(&first, later).is_some(), "used");
        for _ in 0..MAX_SESSIONS - 1 {
            sessions.open(token(), later).expect("opened");
        }
        assert_eq!(sessions.lock().len(), MAX_SESSIONS);
        assert!(sessions.of(&second, later).is_none());
        assert!(sessions.of(&first, later).is_some());
    }
}
