//! The file of SCRAM users: one line each, in the form in which PostgreSQL stores them.
//!
//! ```text
//! # a comment
//! alice:SCRAM-SHA-256$4096:SALT$STOREDKEY:SERVERKEY
//! ```
//!
//! Salt and keys are base64 (RFC 5802, section 3). Nobody can log in with what is written there.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsasl::mechanisms::scram::tools::{derive_keys, hash_password};
use sha2::digest::Output;
use sha2::{Digest as _, Sha256};

use super::credentials::{CredentialsError, CredentialsFile};

/// What is in front of the numbers in a line.
const SCHEME: &str = "SCRAM-SHA-256";
/// Rounds for a new password: what RFC 7677 asks for at least, times four. The client pays for it.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(16_384).expect("not 0");
/// Bytes of a new salt.
const SALT_BYTES: usize = 16;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Rounds that a line may ask a client for: beyond it a client would be busy for minutes.
const ITERATIONS_MAX: u32 = 10_000_000;

/// What the broker knows of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramUser {
    /// Rounds of PBKDF2.
    pub(super) iterations: NonZeroU32,
    /// 1 to 64 bytes.
    pub(super) salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub(super) stored_key: [u8; KEY_BYTES],
    /// Proves to the client that the broker knows the password.
    pub(super) server_key: [u8; KEY_BYTES],
}

/// All users of a file.
#[derive(Debug, Default)]
pub(crate) struct ScramUsers(HashMap<String, ScramUser>);

impl ScramUsers {
    /// Reads a file.
    ///
    /// # Errors
    /// With the number of the first line that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let file = CredentialsFile {
            key: "auth.scram_file",
            path,
        };
        let mut users = Self::default();
        file.each_line(|line| users.add(line))?;
        Ok(users)
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let (name, user) = parse_line(line)?;
        match self.0.insert(name.to_owned(), user) {
            None => Ok(()),
            Some(_) => Err("this user is in the file twice"),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A user by name.
    pub(crate) fn get(&self, name: &str) -> Option<&ScramUser> {
        self.0.get(name)
    }
}

fn parse_line(line: &str) -> Result<(&str, ScramUser), &'static str> {
    const FORM: &str = "expected USER:SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, as `holdfast hash-password --scram` prints it";
    let (name, rest) = line.split_once(&format!(":{SCHEME}$")).ok_or(FORM)?;
    if name.is_empty() {
        return Err("the name of the user is empty");
    }
    let (parameters, keys) = rest.split_once('$').ok_or(FORM)?;
    let (iterations, salt) = parameters.split_once(':').ok_or(FORM)?;
    let (stored_key, server_key) = keys.split_once(':').ok_or(FORM)?;
    let iterations: NonZeroU32 = iterations.parse().map_err(|_why| FORM)?;
    if iterations.get() > ITERATIONS_MAX {
        return Err("more than 10,000,000 iterations");
    }
    let salt = STANDARD
        .decode(salt)
        .map_err(|_why| "the salt is not base64")?;
    if !(1..=64).contains(&salt.len()) {
        return Err("the salt has not 1 to 64 bytes");
    }
    Ok((
        name,
        ScramUser {
            iterations,
            salt,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        },
    ))
}

fn key(text: &str) -> Result<[u8; KEY_BYTES], &'static str> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_why| "a key is not base64")?;
    bytes.try_into().map_err(|_why| "a key has not 32 bytes")
}

impl ScramUser {
    /// From a password, with a new salt.
    #[must_use]
    pub fn from_password(password: &str) -> Self {
        Self::derived(password, &rand::random::<[u8; SALT_BYTES]>(), ITERATIONS)
    }

    fn derived(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = Output::<Sha256>::default();
        hash_password::<Sha256>(password.as_bytes(), iterations.get(), salt, &mut salted);
        let (client_key, server_key) = derive_keys::<Sha256>(salted.as_slice());
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: server_key.into(),
        }
    }

    /// Somebody who does not exist, and always the same for one name: who asks cannot tell (RFC 5802,
    /// section 9). No password fits.
    pub(super) fn decoy(name: &str, secret: &[u8; KEY_BYTES]) -> Self {
        let digest = |purpose: &[u8]| -> [u8; KEY_BYTES] {
            let hasher = Sha256::new().chain_update(secret).chain_update(purpose);
            hasher.chain_update(name.as_bytes()).finalize().into()
        };
        let salt = digest(b"salt");
        Self {
            iterations: ITERATIONS,
            salt: salt.iter().take(SALT_BYTES).copied().collect(),
            stored_key: digest(b"stored"),
            server_key: digest(b"server"),
        }
    }
}

/// The line of the file, after `USER:`.
impl fmt::Display for ScramUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{SCHEME}${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

/// Keys are no passwords, and still nothing for a log.
impl fmt::Debug for ScramUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramUser")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::each_line;
    use super::*;

    /// RFC 7677, section 3: user `user`, password `pencil`.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    /// The users of a file with this content, or the number of the line that is wrong.
    fn parse(text: &str) -> Result<ScramUsers, (usize, &'static str)> {
        let mut users = ScramUsers::default();
        each_line(text, |line| users.add(line))?;
        Ok(users)
    }

    fn pencil() -> ScramUser {
        let salt = STANDARD.decode(SALT).unwrap();
        ScramUser::derived("pencil", &salt, NonZeroU32::new(4_096).unwrap())
    }

    #[test]
    fn what_is_written_is_read() {
        let text = format!("# people\n\nuser:{}\nä:b:{}  \n", pencil(), pencil());
        let users = parse(&text).unwrap();
        assert_eq!(users.get("user"), Some(&pencil()));
        assert_eq!(users.get("ä:b"), Some(&pencil()));
        assert_eq!(users.get("nobody"), None);
    }

    #[test]
    fn a_wrong_line_is_named_and_its_content_is_not() {
        let good = format!("user:{}", pencil());
        for (text, line, problem) in [
            ("user:secret".to_owned(), 1, "expected USER:"),
            (format!("\n:{}", pencil()), 2, "the name"),
            (format!("{good}\n{good}"), 2, "twice"),
            (good.replace("4096", "0"), 1, "expected USER:"),
            (good.replace("4096", "10000001"), 1, "more than"),
            (good.replace(SALT, ""), 1, "1 to 64"),
            (good.replace(SALT, "?"), 1, "not base64"),
            (format!("{good}AAAA"), 1, "a key"),
        ] {
            let (at, why) = parse(&text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(why.contains(problem), "{text}: {why}");
            assert!(!why.contains("secret"));
        }
    }

    #[test]
    fn two_hashes_of_one_password_differ_and_a_decoy_stays_the_same() {
        assert_ne!(
            ScramUser::from_password("a").to_string(),
            ScramUser::from_password("a").to_string()
        );
        let decoy = |name, secret| ScramUser::decoy(name, &[secret; KEY_BYTES]);
        assert_eq!(decoy("x", 1), decoy("x", 1));
        assert_ne!(decoy("x", 1).salt, decoy("y", 1).salt);
        assert_ne!(decoy("x", 1).salt, decoy("x", 2).salt);
        assert_ne!(decoy("x", 1).stored_key, decoy("x", 1).server_key);
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", pencil());
        assert!(shown.contains("4096") && !shown.contains("key"), "{shown}");
    }
}
