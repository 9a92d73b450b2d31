//! The password file: one line for each user, as `holdfast hash-password` or `mosquitto_passwd` writes
//! them.
//!
//! ```text
//! # a comment
//! alice:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
//! bob:$7$ITERATIONS$SALT$HASH                        PBKDF2 with HMAC-SHA-512
//! carol:$6$SALT$HASH                                 SHA-512 of password and salt, once
//! ```
//!
//! A user who is not there costs as much as one who is, and comparison takes the same time wherever two
//! hashes differ.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::ops::RangeInclusive;
use std::path::Path;

use argon2::password_hash::{Error as HashError, PasswordHasher as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;

use super::credentials::{CredentialsError, CredentialsFile, Fingerprint};

/// Bytes of a new salt.
const SALT_BYTES: usize = 16;
/// Bytes of a hash of mosquitto's kinds.
const HASH_BYTES: usize = 64;
/// What a line may ask for: beyond it one login would take a core for seconds, or a node's memory.
const ITERATIONS_MAX: u32 = 10_000_000;
const ARGON2_KIB_MAX: u32 = 1024 * 1024;
const ARGON2_PASSES_MAX: u32 = 64;
const ARGON2_BROKEN: &str = "the hash behind $argon2id$ is not complete";

/// All users of a file.
#[derive(Debug)]
pub(crate) struct Passwords {
    users: HashMap<Box<str>, Stored>,
    /// What somebody who is not there is checked against, in vain.
    decoys: Vec<Stored>,
    /// Which of them: always the same for one name, and not to be foreseen.
    choice: RandomState,
}

/// What is known of one password.
#[derive(Clone)]
struct Stored {
    hash: Hash,
    fingerprint: Fingerprint,
}

#[derive(Clone)]
enum Hash {
    Argon2 {
        parameters: Params,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Pbkdf2 {
        iterations: u32,
        salt: Vec<u8>,
        hash: [u8; HASH_BYTES],
    },
    Sha512 {
        salt: Vec<u8>,
        hash: [u8; HASH_BYTES],
    },
}

impl Passwords {
    /// Reads a file.
    ///
    /// # Errors
    /// With the number of the first line that is wrong.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let file = CredentialsFile {
            key: "auth.password_file",
            path,
        };
        let mut users = HashMap::new();
        let mut decoys = Vec::new();
        file.each_line(|line| {
            let (name, stored) = parse_line(line)?;
            decoys.push(stored.clone());
            match users.insert(name.into(), stored) {
                None => Ok(()),
                Some(_) => Err("this user is in the file twice"),
            }
        })?;
        if decoys.is_empty() {
            let nobody = hash_password("").map_err(|error| file.wrong(error.to_string()))?;
            let nobody = parse_hash(&nobody).map_err(|problem| file.wrong(problem))?;
            decoys.push(nobody);
        }
        Ok(Self {
            users,
            decoys,
            choice: RandomState::new(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Stands for the line of a user.
    pub(super) fn fingerprint(&self, user: &str) -> Option<Fingerprint> {
        self.users.get(user).map(|stored| stored.fingerprint)
    }

    /// Whether this is the user's password. Takes tens of milliseconds of a core.
    pub(super) fn fits(&self, user: &str, password: &[u8]) -> Option<Fingerprint> {
        if let Some(stored) = self.users.get(user) {
            return stored.hash.fits(password).then_some(stored.fingerprint);
        }
        let number = usize::try_from(self.choice.hash_one(user)).unwrap_or_default();
        let decoy = number.checked_rem(self.decoys.len()).unwrap_or_default();
        if let Some(decoy) = self.decoys.get(decoy) {
            decoy.hash.fits(password);
        }
        None
    }
}

impl Hash {
    fn fits(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2 {
                parameters,
                salt,
                hash,
            } => {
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters.clone());
                let mut computed = vec![0; hash.len()];
                let done = argon2.hash_password_into(password, salt, &mut computed);
                done.is_ok() && bool::from(computed.ct_eq(hash))
            }
            Self::Pbkdf2 {
                iterations,
                salt,
                hash,
            } => {
                let mut computed = [0; HASH_BYTES];
                pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, *iterations, &mut computed);
                computed.ct_eq(hash).into()
            }
            Self::Sha512 { salt, hash } => {
                let hasher = Sha512::new().chain_update(password).chain_update(salt);
                hasher.finalize().as_slice().ct_eq(hash).into()
            }
        }
    }
}

/// What belongs into the password file behind `USER:`, with a new salt.
///
/// # Errors
/// None that a password could cause.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; SALT_BYTES]>())?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt)?;
    Ok(hash.to_string())
}

fn parse_line(line: &str) -> Result<(&str, Stored), &'static str> {
    let (name, hash) = line.split_once(":$").ok_or(
        "expected USER:$argon2id$…, as `holdfast hash-password` prints it, or USER:$7$… or USER:$6$… of mosquitto_passwd; a password as such is not taken",
    )?;
    if name.is_empty() {
        return Err("the name of the user is empty");
    }
    Ok((name, parse_hash(&format!("${hash}"))?))
}

/// `$KIND$…`.
fn parse_hash(text: &str) -> Result<Stored, &'static str> {
    let parts: Vec<&str> = text.split('$').collect();
    let hash = match parts.as_slice() {
        ["", "argon2id", "v=19", costs, salt, hash] => argon2id(costs, salt, hash)?,
        ["", "argon2id", ..] => return Err(ARGON2_BROKEN),
        ["", "7", iterations, salt, hash] => {
            let iterations = iterations.parse::<u32>().ok().filter(|number| *number > 0);
            Hash::Pbkdf2 {
                iterations: iterations
                    .filter(|number| *number <= ITERATIONS_MAX)
                    .ok_or("expected 1 to 10,000,000 iterations behind $7$")?,
                salt: salt_of(salt)?,
                hash: hash_of(hash)?,
            }
        }
        ["", "6", salt, hash] => Hash::Sha512 {
            salt: salt_of(salt)?,
            hash: hash_of(hash)?,
        },
        _ => return Err("expected a hash that begins with $argon2id$, $7$ or $6$"),
    };
    Ok(Stored {
        hash,
        fingerprint: Fingerprint::of(text),
    })
}

/// By hand: the salts of mosquitto are longer than what crates for such lines take.
fn argon2id(costs: &str, salt: &str, hash: &str) -> Result<Hash, &'static str> {
    let mut numbers = costs.split(',');
    let mut cost = |name: &str| {
        let number = numbers.next()?.strip_prefix(name)?;
        number.parse::<u32>().ok()
    };
    let (Some(memory_kib), Some(passes), Some(lanes)) = (cost("m="), cost("t="), cost("p=")) else {
        return Err(ARGON2_BROKEN);
    };
    if numbers.next().is_some() {
        return Err(ARGON2_BROKEN);
    }
    if memory_kib > ARGON2_KIB_MAX || passes > ARGON2_PASSES_MAX {
        return Err("the hash asks for more than 1 GiB of memory or more than 64 passes");
    }
    let bytes = |text: &str, allowed: RangeInclusive<usize>| {
        let bytes = STANDARD_NO_PAD.decode(text).ok();
        let bytes = bytes.filter(|bytes| allowed.contains(&bytes.len()));
        bytes.ok_or(ARGON2_BROKEN)
    };
    let (salt, hash) = (bytes(salt, 8..=128)?, bytes(hash, 16..=128)?);
    let parameters = Params::new(memory_kib, passes, lanes, Some(hash.len()));
    Ok(Hash::Argon2 {
        parameters: parameters.map_err(|_why| ARGON2_BROKEN)?,
        salt,
        hash,
    })
}

fn salt_of(text: &str) -> Result<Vec<u8>, &'static str> {
    STANDARD
        .decode(text)
        .map_err(|_why| "the salt is not base64")
}

fn hash_of(text: &str) -> Result<[u8; HASH_BYTES], &'static str> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_why| "the hash is not base64")?;
    bytes.try_into().map_err(|_why| "the hash has not 64 bytes")
}

/// Hashes are no passwords, and still nothing for a log.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From mosquitto_passwd 2.0 (`-H sha512`, and its default).
    const MOSQUITTO: [&str; 2] = [
        "$6$3N299DruGz1WC+UW$KpAGep2e9vD9Wpzz7xfh6VjuWo8bze62pQu2Gu0j8oNwtZzAwCSAUd+YDXV8GphEzNzR5ND8gSVg/5dpF3qemg==",
        "$7$101$s9+n+TFMGHO1Aj1z$Ykkae7Gfqp/odm3H05UqWjHz9XglA2A3zu2iGY0J77q6faWYbQ9bu+JxIvp93UyTVm83PJOA8vw/zCaPyq4T8Q==",
    ];

    /// From the reference implementation, by argon2-cffi, with salt and hash as long as mosquitto 2.1
    /// makes them.
    const LONG_SALT: &str = "$argon2id$v=19$m=64,t=1,p=1$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw$1txh88c3blCbVGN7+LurmrsWre6nCys66Dzx901aaYr/s3RlxuXiaFuCQb87p7Wb/xv+RHbJsTpbhnZ+sR/Eiw";

    fn passwords(lines: &[String]) -> Result<Passwords, CredentialsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Passwords::read(&path)
    }

    #[test]
    fn each_kind_of_hash_fits_its_password_and_no_other() {
        let own = hash_password("pencil").unwrap();
        assert!(own.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{own}");
        for hash in [&own, MOSQUITTO[0], MOSQUITTO[1], LONG_SALT] {
            let passwords = passwords(&[format!("a:b:{hash}"), String::new()]).unwrap();
            let fits = |user, password: &str| passwords.fits(user, password.as_bytes()).is_some();
            assert!(fits("a:b", "pencil"), "{hash}");
            for (user, password) in [
                ("a:b", "pencil2"),
                ("a:b", ""),
                ("a", "pencil"),
                ("", "pencil"),
            ] {
                assert!(!fits(user, password), "{hash}: {user} {password}");
            }
        }
    }

    #[test]
    fn an_empty_file_lets_nobody_in() {
        let passwords = passwords(&[]).unwrap();
        assert_eq!(passwords.fits("alice", b""), None);
        assert_eq!(passwords.fingerprint("alice"), None);
    }

    #[test]
    fn another_password_is_another_fingerprint() {
        let of = |hash: &str| passwords(&[format!("a:{hash}")]).unwrap().fingerprint("a");
        let hash = hash_password("pencil").unwrap();
        assert_eq!(of(&hash), of(&hash));
        assert_ne!(of(&hash), of(&hash_password("pencil").unwrap()));
    }

    #[test]
    fn a_wrong_line_is_named_and_its_content_is_not() {
        let hash = hash_password("pencil").unwrap();
        let good = format!("alice:{hash}");
        for (lines, line, problem) in [
            (vec!["alice:secret".to_owned()], 1, "expected USER:"),
            (vec!["alice".to_owned()], 1, "expected USER:"),
            (vec![good.clone(), format!(":{hash}")], 2, "name"),
            (vec![good.clone(), String::new(), good.clone()], 3, "twice"),
            (vec!["a:$1$secret".to_owned()], 1, "begins with"),
            (vec!["a:$6$c2VjcmV0$c2VjcmV0".to_owned()], 1, "64 bytes"),
            (vec!["a:$6$?secret$AAAA".to_owned()], 1, "salt"),
            (vec!["a:$7$0$c2VjcmV0$AAAA".to_owned()], 1, "iterations"),
            (
                vec!["a:$7$10000001$c2VjcmV0$AAAA".to_owned()],
                1,
                "iterations",
            ),
            (vec![good.replace("m=19456", "m=1048577")], 1, "memory"),
            (vec![good.replace("t=2", "t=65")], 1, "passes"),
            (vec!["a:$argon2id$secret".to_owned()], 1, "complete"),
            (
                vec!["a:$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA".to_owned()],
                1,
                "begins with",
            ),
        ] {
            let error = passwords(&lines).unwrap_err().to_string();
            assert!(error.contains(&format!("passwd:{line}: ")), "{error}");
            assert!(error.contains(problem), "{lines:?}: {error}");
            assert!(
                !error.contains("secret") && !error.contains("c2Vj"),
                "{error}"
            );
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let passwords = passwords(&[format!("alice:{}", MOSQUITTO[0])]).unwrap();
        let shown = format!("{passwords:?}");
        assert!(
            shown.contains("alice") && !shown.contains("salt"),
            "{shown}"
        );
    }
}
