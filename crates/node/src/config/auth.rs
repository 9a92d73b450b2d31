//! `[auth]`: who may connect.

use std::path::PathBuf;

use super::later;
use super::reader::{Reader, text};
use super::value::{Kind, Table};

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// `anonymous`: clients without credentials. Default `loopback`: a try-out on one machine
    /// works, and nothing is open to the network by accident.
    pub anonymous: AnonymousAccess,
    /// `scram_file`: users of the authentication method SCRAM-SHA-256, one line each, as
    /// `holdfast hash-password --scram` prints them. `None` (the default, `""`): there is no such method.
    pub scram_file: Option<PathBuf>,
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
    let scram_file = section.read("scram_file", (None, "\"\"".to_owned()), |value| {
        let path = text(value, "a path")?;
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    });
    later::auth(&mut section);
    section.finish();
    AuthConfig {
        anonymous,
        scram_file,
    }
}
