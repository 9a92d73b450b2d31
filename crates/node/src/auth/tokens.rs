//! JSON Web Tokens in the place of a password (RFC 7519).
//!
//! Which algorithms a key is for is decided by the key and never by the token: `none` does not exist,
//! and a public key is never taken for the secret of an HMAC. `exp` and `sub` are required; `sub` is the
//! user name; `groups`, a list of texts, is what rules for groups look at.

use std::fmt;
use std::path::Path;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codec::Utf8;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::credentials::{CredentialsError, CredentialsFile, Fingerprint};
use super::signatures;
use crate::config::JwtConfig;

/// How far the clock of whoever issues tokens may be ahead of ours, for `nbf`. `exp` is taken exactly.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Keys of a file: each may have to be tried for a token that names none.
const KEYS_MAX: usize = 100;
/// A secret shorter than the hash is weaker than the signature looks (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Who may issue tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    keys: Vec<Key>,
    audience: Option<String>,
}

/// One key that signs tokens.
struct Key {
    /// `kid`.
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    fingerprint: Fingerprint,
}

/// What a token says.
#[derive(Debug, PartialEq)]
pub(super) struct Verified {
    /// `sub`.
    pub(super) user: Utf8,
    /// `groups`.
    pub(super) groups: Vec<String>,
    /// `exp`.
    pub(super) expires_at: SystemTime,
    /// The key that signed it.
    pub(super) key: Fingerprint,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    #[serde(default)]
    groups: Vec<String>,
}

impl Tokens {
    /// Reads the files; `None`: there are none, and so no tokens.
    ///
    /// # Errors
    /// A file cannot be read, or has no key that can be used.
    pub(super) fn read(config: &JwtConfig) -> Result<Option<Self>, CredentialsError> {
        if !config.is_configured() {
            return Ok(None);
        }
        signatures::install();
        let mut keys = Vec::new();
        if let Some(path) = &config.jwks_file {
            keys.extend(key_set(path)?);
        }
        if let Some(path) = &config.key_file {
            keys.push(single_key(path)?);
        }
        let audience = Some(config.audience.clone()).filter(|audience| !audience.is_empty());
        Ok(Some(Self { keys, audience }))
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key is still there.
    pub(super) fn has(&self, key: Fingerprint) -> bool {
        self.keys.iter().any(|own| own.fingerprint == key)
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    /// Why it is not, for the log; nothing of the token is in it.
    pub(super) fn verify(&self, token: &[u8], now: SystemTime) -> Result<Verified, &'static str> {
        let header = decode_header(token).map_err(|_why| "it is no JWT")?;
        if header.crit.is_some() {
            // What must be understood, and is not (RFC 7515, section 4.1.11).
            return Err("it has a critical header");
        }
        let may_fit = |key: &&Key| {
            let same_id = |id: &String| key.id.as_ref().is_none_or(|own| own == id);
            key.algorithms.contains(&header.alg) && header.kid.as_ref().is_none_or(same_id)
        };
        let mut why = "no key is for its kid and alg";
        for key in self.keys.iter().filter(may_fit) {
            match decode::<Claims>(token, &key.key, &self.validation(key)) {
                Ok(data) => return verified(data.claims, key.fingerprint, now),
                // Of another key, perhaps.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                    why = "the signature is not of a known key";
                }
                Err(error) => return Err(problem(error.kind())),
            }
        }
        Err(why)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = 0;
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        } else {
            validation.set_required_spec_claims(&["exp", "sub"]);
        }
        validation
    }
}

/// Whether a password looks like a token: three parts, of which the first is a JSON object.
pub(super) fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"ey") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

fn problem(kind: &ErrorKind) -> &'static str {
    if matches!(kind, ErrorKind::ExpiredSignature) {
        "it has expired"
    } else if matches!(kind, ErrorKind::InvalidAudience) {
        "it is for another audience"
    } else if matches!(kind, ErrorKind::MissingRequiredClaim(_)) {
        "it lacks exp, sub or aud"
    } else {
        "its claims are not what they must be"
    }
}

fn verified(claims: Claims, key: Fingerprint, now: SystemTime) -> Result<Verified, &'static str> {
    let at = |seconds: f64| {
        let since = Duration::try_from_secs_f64(seconds).ok()?;
        UNIX_EPOCH.checked_add(since)
    };
    let expires_at = at(claims.exp).ok_or("its exp is no date")?;
    if expires_at <= now {
        return Err("it has expired");
    }
    if let Some(not_before) = claims.nbf {
        let begins_at = at(not_before).ok_or("its nbf is no date")?;
        let ahead = begins_at.duration_since(now).unwrap_or_default();
        if ahead > AHEAD_MAX {
            return Err("it is not valid yet");
        }
    }
    let user = Utf8::try_from(claims.sub.as_str()).ok();
    Ok(Verified {
        user: user
            .filter(|user| !user.is_empty())
            .ok_or("its sub is no user name")?,
        groups: claims.groups,
        expires_at,
        key,
    })
}

/// The keys of a JSON Web Key Set that sign. Others may be in it, as those that encrypt.
fn key_set(path: &Path) -> Result<Vec<Key>, CredentialsError> {
    let file = CredentialsFile {
        key: "auth.jwt.jwks_file",
        path,
    };
    let set: KeySet = serde_json::from_slice(&file.read()?).map_err(|error| {
        // What stands there may be a secret: only the place is told.
        let (line, column) = (error.line(), error.column());
        file.wrong(format!(
            "not a JSON Web Key Set (line {line}, column {column})"
        ))
    })?;
    let keys = set.keys.into_iter();
    // One by one: a key of a kind that is not known does no harm to the others.
    let keys = keys.filter_map(|key| serde_json::from_value(key).ok());
    let keys: Vec<Key> = keys.filter_map(|key| key_of_set(&key)).collect();
    if keys.is_empty() {
        return Err(file.wrong(
            "no key that can be used: expected kty RSA, EC (P-256, P-384), OKP (Ed25519) or oct, with use \"sig\" or without",
        ));
    }
    if keys.len() > KEYS_MAX {
        return Err(file.wrong(format!("more than {KEYS_MAX} keys")));
    }
    Ok(keys)
}

fn key_of_set(jwk: &Jwk) -> Option<Key> {
    let is_for_signatures = |usage: &PublicKeyUse| *usage == PublicKeyUse::Signature;
    if !jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(is_for_signatures)
    {
        return None;
    }
    let possible = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            vec![Algorithm::ES256]
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
            vec![Algorithm::ES384]
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        AlgorithmParameters::OctetKey(_) => AlgorithmFamily::Hmac.algorithms().to_vec(),
        AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_) => {
            return None;
        }
    };
    let algorithms = match jwk.common.key_algorithm {
        None => possible,
        Some(one) => {
            let one = Algorithm::from_str(&one.to_string()).ok()?;
            possible.into_iter().filter(|alg| *alg == one).collect()
        }
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let is_weak = key
        .try_get_hmac_secret()
        .is_ok_and(|secret| secret.len() < SECRET_BYTES_MIN);
    (!algorithms.is_empty() && !is_weak).then(|| Key {
        id: jwk.common.key_id.clone(),
        algorithms,
        fingerprint: Fingerprint::of(serde_json::to_string(jwk).unwrap_or_default()),
        key,
    })
}

/// A public key as PEM, or else a secret.
fn single_key(path: &Path) -> Result<Key, CredentialsError> {
    let file = CredentialsFile {
        key: "auth.jwt.key_file",
        path,
    };
    let content = file.read()?;
    let is_pem = content.trim_ascii_start().starts_with(b"-----BEGIN");
    let key = if is_pem {
        public_key(&content).ok_or_else(|| {
            file.wrong("no public key: expected PEM of RSA, ECDSA (P-256, P-384) or Ed25519")
        })?
    } else {
        let secret = content.trim_ascii_end();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(file.wrong(format!(
                "a secret of less than {SECRET_BYTES_MIN} bytes, and no PEM either"
            )));
        }
        DecodingKey::from_secret(secret)
    };
    Ok(Key {
        id: None,
        algorithms: key.family().algorithms().to_vec(),
        fingerprint: Fingerprint::of(&content),
        key,
    })
}

fn public_key(pem: &[u8]) -> Option<DecodingKey> {
    let kinds = [
        DecodingKey::from_rsa_pem,
        DecodingKey::from_ec_pem,
        DecodingKey::from_ed_pem,
    ];
    kinds.iter().find_map(|kind| kind(pem).ok())
}

/// Public keys are no secrets; that of an HMAC is.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tokens/tests.rs"]
mod tests;
