//! Persons: the token, the header of a proxy, sessions and their expiry, and the tokens against forged requests (CSRF).
//!
//! Sessions are kept in memory. A restart ends them all, and nothing of them is stored.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use pg_outbox::error::{Error, Result};

/// A session that nobody uses ends after this time.
const IDLE: Duration = Duration::from_secs(2 * 3600);

/// A session ends after this time, however much it is used.
pub(crate) const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// The sessions that are kept. The one that was begun first makes room for another.
const MOST: usize = 1000;

/// The longest name of a person, in bytes.
const MAX_NAME: usize = 100;

/// A person who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// The name for the record, as the actor of changes.
    pub(crate) actor: String,
    /// The session, or the name under which the proxy knows the person.
    pub(crate) key: String,
    /// Whether the person can log out here.
    pub(crate) has_session: bool,
}

#[derive(Debug)]
struct Session {
    actor: String,
    begun: Instant,
    used: Instant,
}

#[derive(Debug, Default)]
struct Kept {
    sessions: HashMap<String, Session>,
    /// A sentence about the last action of a person, for the next page.
    notices: HashMap<String, String>,
}

/// The sessions of this process.
pub(crate) struct Sessions {
    secret: [u8; 32],
    kept: Mutex<Kept>,
}

impl Sessions {
    pub(crate) fn new() -> Result<Sessions> {
        Ok(Sessions { secret: random()?, kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session with a new id, whatever the browser had before, and returns the id.
    pub(crate) fn begin(&self, actor: String, at: Instant) -> Result<String> {
        let id = random_text()?;
        let mut kept = self.kept();
        kept.sessions.retain(|_, session| is_alive(session, at));
        if kept.sessions.len() >= MOST
            && let Some(oldest) =
                kept.sessions.iter().min_by_key(|(_, session)| session.begun).map(|(id, _)| id.clone())
        {
            kept.sessions.remove(&oldest);
        }
        kept.sessions.insert(id.clone(), Session { actor, begun: at, used: at });
        Ok(id)
    }

    /// Returns the person of a session that has not ended. Only a request of the person (`used`) keeps the session
    /// alive, and not a page that renews itself.
    pub(crate) fn find(&self, id: &str, at: Instant, used: bool) -> Option<Person> {
        let mut kept = self.kept();
        let session = kept.sessions.get_mut(id)?;
        if !is_alive(session, at) {
            kept.sessions.remove(id);
            kept.notices.remove(id);
            return None;
        }
        if used {
            session.used = at;
        }
        Some(Person { actor: session.actor.clone(), key: id.to_owned(), has_session: true })
    }

    pub(crate) fn finish(&self, id: &str) {
        let mut kept = self.kept();
        kept.sessions.remove(id);
        kept.notices.remove(id);
    }

    /// Keeps a sentence for the next page of a person.
    pub(crate) fn leave_notice(&self, person: &Person, notice: String) {
        let mut kept = self.kept();
        if kept.notices.len() >= MOST {
            kept.notices.clear();
        }
        kept.notices.insert(person.key.clone(), notice);
    }

    pub(crate) fn take_notice(&self, person: &Person) -> Option<String> {
        self.kept().notices.remove(&person.key)
    }

    /// Returns the token that a form of this person has to send. Another site cannot read it.
    pub(crate) fn form_token(&self, person: &Person) -> String {
        // A key of any length is allowed, so this has no error.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else { return String::new() };
        mac.update(person.key.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    pub(crate) fn is_form_token(&self, person: &Person, given: &str) -> bool {
        let expected = self.form_token(person);
        !expected.is_empty() && is_same(given, &expected)
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

fn is_alive(session: &Session, at: Instant) -> bool {
    at.duration_since(session.used) < IDLE && at.duration_since(session.begun) < LONGEST
}

/// Compares secrets in a time that tells nothing about them, not even their length.
pub(crate) fn is_same(given: &str, expected: &str) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(expected)).into()
}

/// Returns the name of a person without spaces around it, if it is a name that can be recorded.
pub(crate) fn name(text: &str) -> Option<&str> {
    let name = text.trim();
    (!name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(|c| c.is_control() || is_format(c)))
        .then_some(name)
}

/// Returns whether a character changes how its neighbours are shown, such as those that turn the direction of a text.
pub(crate) fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns 256 random bits as text.
pub(crate) fn random_text() -> Result<String> {
    Ok(hex(&random()?))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new("58000", "this system gives no random numbers").detail(error.to_string()))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_unused_or_old_and_a_refresh_does_not_keep_it() {
        let sessions = Sessions::new().unwrap();
        let start = Instant::now();
        let id = sessions.begin("ann".to_owned(), start).unwrap();
        assert_eq!(sessions.find(&id, start + IDLE / 2, true).unwrap().actor, "ann");
        assert!(sessions.find(&id, start + IDLE, false).is_some(), "it was used at half of the time");
        assert!(sessions.find(&id, start + IDLE * 3 / 2, true).is_none(), "the refresh did not count");
        let id = sessions.begin("ann".to_owned(), start).unwrap();
        let mut at = start;
        while at + IDLE / 2 < start + LONGEST {
            at += IDLE / 2;
            assert!(sessions.find(&id, at, true).is_some());
        }
        assert!(sessions.find(&id, start + LONGEST, true).is_none(), "it is too old");
        assert!(sessions.find("", start, true).is_none());
    }

    #[test]
    fn sessions_and_notices_are_bounded() {
        let sessions = Sessions::new().unwrap();
        let start = Instant::now();
        let first = sessions.begin("ann".to_owned(), start).unwrap();
        for n in 1..=MOST {
            let id = sessions.begin("bob".to_owned(), start + Duration::from_millis(n as u64)).unwrap();
            let person = Person { actor: "bob".to_owned(), key: id, has_session: true };
            sessions.leave_notice(&person, "done".to_owned());
        }
        assert!(sessions.find(&first, start, true).is_none(), "the oldest made room");
        assert!(sessions.kept().sessions.len() <= MOST && sessions.kept().notices.len() <= MOST);
    }

    #[test]
    fn a_form_token_is_of_one_session_of_one_process() {
        let sessions = Sessions::new().unwrap();
        let person = |key: &str| Person { actor: "ann".to_owned(), key: key.to_owned(), has_session: true };
        let token = sessions.form_token(&person("a"));
        assert!(sessions.is_form_token(&person("a"), &token));
        assert!(!sessions.is_form_token(&person("b"), &token) && !sessions.is_form_token(&person("a"), ""));
        assert!(!Sessions::new().unwrap().is_form_token(&person("a"), &token));
    }

    #[test]
    fn names_can_be_recorded() {
        assert_eq!(name("  Ann Ko "), Some("Ann Ko"));
        for bad in ["", " ", "a\nb", "a\u{202e}b", &"x".repeat(101)] {
            assert_eq!(name(bad), None);
        }
    }
}
