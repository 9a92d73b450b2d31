//! Who a client has shown to be, and whether it may still be that after a reload.

use codec::{ReasonCode, Utf8};
use tokio::time::Instant;

use super::credentials::Fingerprint;
use super::policy::AccessPolicy;
use crate::client::Origin;
use crate::refusal::Refused;

/// Who a client has shown to be.
#[derive(Debug)]
pub(crate) struct Principal {
    /// Its user name; `None`: it is anonymous.
    pub(crate) user: Option<Utf8>,
    /// What rules for groups look at.
    pub(crate) groups: Vec<String>,
    /// How it has shown that.
    pub(super) evidence: Evidence,
}

/// How a client has shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Not at all.
    None,
    /// A certificate that TLS has checked.
    Certificate,
    /// The password of this line.
    Password(Fingerprint),
    /// SCRAM, with the keys of this line.
    Scram(Fingerprint),
    /// A token that this key signed.
    Token {
        /// The key.
        key: Fingerprint,
        /// Then it is over.
        expires_at: Instant,
    },
}

impl Principal {
    /// Nobody.
    pub(super) fn anonymous() -> Self {
        Self {
            user: None,
            groups: Vec::new(),
            evidence: Evidence::None,
        }
    }

    /// The user name, if there is one.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_ref().map(Utf8::as_str)
    }

    /// Until when the connection may go on; `None`: as long as it likes.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        match self.evidence {
            Evidence::Token { expires_at, .. } => Some(expires_at),
            Evidence::None | Evidence::Certificate | Evidence::Password(_) | Evidence::Scram(_) => {
                None
            }
        }
    }

    /// Whether this client would still be let in as the one that it has shown to be.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn recheck(
        &self,
        policy: &AccessPolicy,
        client_id: &str,
        origin: &Origin,
    ) -> Result<(), Refused> {
        // 0x8A is a code of CONNACK alone (5.0 section 3.14.2.1).
        policy
            .check_bans(client_id, self.user(), origin)
            .map_err(|banned| Refused {
                reason_code: ReasonCode::AdministrativeAction,
                ..banned
            })?;
        let user = self.user().unwrap_or_default();
        let still_holds = match self.evidence {
            Evidence::None => policy.admits_anonymous(origin),
            Evidence::Certificate => true,
            Evidence::Password(line) => {
                let passwords = policy.passwords.as_ref();
                passwords.and_then(|passwords| passwords.fingerprint(user)) == Some(line)
            }
            Evidence::Scram(line) => {
                let scram = policy.scram.as_ref();
                scram.and_then(|scram| scram.fingerprint(user)) == Some(line)
            }
            Evidence::Token { key, .. } => {
                let tokens = policy.tokens.as_ref();
                tokens.is_some_and(|tokens| tokens.has(key))
            }
        };
        if still_holds {
            return Ok(());
        }
        Err(Refused {
            reason_code: ReasonCode::NotAuthorized,
            cause: "credentials_revoked",
        })
    }
}
