//! `admin.token_file`: who may use the admin API, and as what.
//!
//! One token a line: `ROLE TOKEN [NAME]`, where TOKEN is the token itself or `$sha256$` and the hex
//! digits of its SHA-256. Empty lines and lines that begin with `#` mean nothing. NAME is what the audit
//! log calls whoever uses the token; without one, `ROLE-LINE`.
//!
//! Only digests are kept. A token is compared with all of them in constant time.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// What begins the digest of a token in place of a token.
const DIGEST_PREFIX: &str = "$sha256$";

/// What the holder of a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look.
    Viewer,
    /// Run the cluster: close connections, publish, drain, move leaderships.
    Operator,
    /// Everything: also configuration, log level, and what destroys sessions.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As the audit log has it.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: Role,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("admin.token_file = \"{}\": cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line of it is wrong. The line itself is not shown: it may be a secret.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody could use the API.
    #[error("{}: there is no token in it; write a line such as: admin TOKEN", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

struct Token {
    digest: [u8; 32],
    caller: Caller,
}

/// The tokens of a file.
pub struct Tokens(Vec<Token>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callers = self.0.iter().map(|token| &token.caller);
        f.debug_list().entries(callers).finish()
    }
}

impl Tokens {
    /// Reads a file, and warns when others than its owner and group can read it.
    ///
    /// # Errors
    /// [`TokenFileError`]: the file is not there, or a line of it is wrong.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let read = |source| TokenFileError::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o004 != 0 {
            tracing::warn!(
                path = %path.display(), mode = format!("{:o}", mode & 0o777),
                "every user of this machine can read admin.token_file: chmod 640 it"
            );
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let token = parse_line(line, text).map_err(|problem| TokenFileError::Line {
                path: path.to_owned(),
                line,
                problem,
            })?;
            tokens.push(token);
        }
        if tokens.is_empty() {
            return Err(TokenFileError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self(tokens))
    }

    /// Whose token it is. Takes the same time wherever the token is in the file, and if it is not.
    pub(crate) fn caller(&self, token: &str) -> Option<&Caller> {
        let digest = digest_of(token);
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.digest.ct_eq(&digest)) {
                found = Some(&token.caller);
            }
        }
        found
    }
}

fn parse_line(line: usize, text: &str) -> Result<Token, &'static str> {
    let mut words = text.split_whitespace();
    let role = words.next().unwrap_or_default();
    let role = Role::ALL
        .into_iter()
        .find(|known| known.name() == role)
        .ok_or("expected viewer, operator or admin, then the token")?;
    let token = words.next().ok_or("the token is missing after the role")?;
    let name = words
        .next()
        .map_or_else(|| format!("{}-{line}", role.name()), str::to_owned);
    if words.next().is_some() {
        return Err("expected ROLE TOKEN [NAME], and nothing after the name");
    }
    let digest = match token.strip_prefix(DIGEST_PREFIX) {
        Some(hex) => digest_from_hex(hex).ok_or("expected 64 hex digits after $sha256$")?,
        None if token.len() < TOKEN_BYTES_MIN => {
            return Err("the token is shorter than 16 characters, which could be guessed");
        }
        None => digest_of(token),
    };
    let caller = Caller { name, role };
    Ok(Token { digest, caller })
}

fn digest_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn digest_from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        let at = index * 2;
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tokens, TokenFileError> {
        Tokens::parse(Path::new("tokens"), text)
    }

    #[test]
    fn a_token_or_its_digest_names_its_holder() {
        let digest: String = digest_of("the token of the viewer")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let text = format!(
            "# who may do what\n\nadmin 0123456789abcdef\nviewer $sha256${digest} grafana\n"
        );
        let tokens = parse(&text).unwrap();
        let admin = tokens.caller("0123456789abcdef").unwrap();
        assert_eq!((admin.name.as_str(), admin.role), ("admin-3", Role::Admin));
        assert_eq!(tokens.caller("0123456789abcdeg"), None);
        assert_eq!(tokens.caller(""), None);
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
        let tokens = parse(&text.replace("the token", "x")).unwrap();
        assert_eq!(tokens.caller(&digest), None, "a digest is no token");
        assert_eq!(tokens.0[1].caller.name, "grafana");
    }

    #[test]
    fn a_wrong_line_is_named_and_never_shown() {
        for (text, expected) in [
            ("", "tokens: there is no token in it"),
            (
                "root 0123456789abcdef",
                "tokens:1: expected viewer, operator or admin",
            ),
            ("\nadmin", "tokens:2: the token is missing"),
            ("admin 0123456789abcde", "tokens:1: the token is shorter"),
            ("admin $sha256$12 x", "tokens:1: expected 64 hex digits"),
            (
                "admin 0123456789abcdef two names",
                "tokens:1: expected ROLE TOKEN [NAME]",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("0123456789"), "{error}");
        }
    }

    #[test]
    fn roles_include_those_before_them() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
