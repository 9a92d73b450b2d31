//! `[auth]`: who may connect.

use std::path::PathBuf;

use super::later;
use super::reader::{Reader, Section, text};
use super::value::{Kind, Table};

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// `anonymous`: clients without credentials. Default `loopback`: a try-out on one machine
    /// works, and nothing is open to the network by accident.
    pub anonymous: AnonymousAccess,
    /// `password_file`: users and what their passwords are checked against, one line each, as
    /// `holdfast hash-password` or `mosquitto_passwd` writes them. `None` (the default, `""`): user name
    /// and password of a CONNECT mean nothing.
    pub password_file: Option<PathBuf>,
    /// `jwt`: tokens in the place of a password.
    pub jwt: JwtConfig,
    /// `ban_file`: `client:ID`, `user:NAME` or `net:CIDR` in each line, who is not let in whatever it
    /// shows. `None` (the default, `""`): nobody.
    pub ban_file: Option<PathBuf>,
    /// `scram_file`: users of the authentication method SCRAM-SHA-256, one line each, as
    /// `holdfast hash-password --scram` prints them. `None` (the default, `""`): there is no such method.
    pub scram_file: Option<PathBuf>,
}

/// `auth.jwt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// `jwks_file`: keys as a JSON Web Key Set. `None` (the default, `""`): there is none.
    pub jwks_file: Option<PathBuf>,
    /// `key_file`: one key, a public key as PEM, or else the secret of HMAC. `None` (the default, `""`):
    /// there is none.
    pub key_file: Option<PathBuf>,
    /// `audience`: what the claim `aud` of a token must contain. `""` (the default): it is not looked at,
    /// and every token of the same issuer will do.
    pub audience: String,
}

impl JwtConfig {
    /// Whether clients may show tokens.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.jwks_file.is_some() || self.key_file.is_some()
    }
}

/// Where clients may connect without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousAccess {
    /// `"loopback"`: on listeners bound to a loopback address.
    Loopback,
    /// `true`: everywhere.
    Always,
    /// `false`: nowhere.
    Never,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> AuthConfig {
    let mut section = reader.section(root, "auth");
    let default = (AnonymousAccess::Loopback, "\"loopback\"".to_owned());
    let anonymous = section.read("anonymous", default, |value| {
        let expected = "\"loopback\", true or false";
        if let Kind::Boolean(always) = value.kind {
            return Ok(if always {
                AnonymousAccess::Always
            } else {
                AnonymousAccess::Never
            });
        }
        match text(value, expected)? {
            "loopback" => Ok(AnonymousAccess::Loopback),
            "true" => Ok(AnonymousAccess::Always),
            "false" => Ok(AnonymousAccess::Never),
            _ => Err(format!("expected {expected}")),
        }
    });
    let password_file = file(&mut section, "password_file");
    let mut tokens = section.sub("jwt");
    let jwt = JwtConfig {
        jwks_file: file(&mut tokens, "jwks_file"),
        key_file: file(&mut tokens, "key_file"),
        audience: tokens.parsed("audience", (String::new(), ""), "a text", |text| {
            Some(text.to_owned())
        }),
    };
    tokens.finish();
    let scram_file = file(&mut section, "scram_file");
    let ban_file = file(&mut section, "ban_file");
    later::auth(&mut section);
    section.finish();
    if !jwt.audience.is_empty() && !jwt.is_configured() {
        reader.conflict(
            &["auth.jwt.audience"],
            "no token is looked at without auth.jwt.jwks_file or auth.jwt.key_file",
        );
    }
    AuthConfig {
        anonymous,
        password_file,
        jwt,
        ban_file,
        scram_file,
    }
}

/// Reads a path; an empty one is none.
fn file(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    section.read(key, (None, "\"\"".to_owned()), |value| {
        let path = text(value, "a path")?;
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    })
}
