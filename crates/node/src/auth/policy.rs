//! Everything that decides who is let in and what they may do, as of one moment: the contents of the
//! files that `[auth]` names, and the rules of `[[acl]]`. A reload puts a new one in its place.

use std::sync::Arc;

use codec::ReasonCode;

use super::bans::Bans;
use super::passwords::Passwords;
use super::scram::Scram;
use super::scram_file::ScramUsers;
use super::tokens::Tokens;
use crate::broker::Broker;
use crate::client::Origin;
use crate::config::{AclRule, AnonymousAccess, AuthConfig};
use crate::error::StartError;
use crate::refusal::Refused;

/// Who is let in and what they may do.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    anonymous: AnonymousAccess,
    pub(super) passwords: Option<Arc<Passwords>>,
    pub(super) tokens: Option<Tokens>,
    pub(super) scram: Option<Scram>,
    bans: Bans,
    /// `[[acl]]`.
    pub(crate) rules: Vec<AclRule>,
}

impl AccessPolicy {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, or something in it is wrong.
    pub(crate) fn load(auth: &AuthConfig, rules: &[AclRule]) -> Result<Self, StartError> {
        let passwords = auth.password_file.as_deref().map(Passwords::read);
        let bans = auth.ban_file.as_deref().map(Bans::read);
        let scram = auth.scram_file.as_deref().map(|path| {
            Scram::new(ScramUsers::read(path)?)
                .map_err(|error| StartError::failed("cannot offer SCRAM-SHA-256", error))
        });
        Ok(Self {
            anonymous: auth.anonymous,
            passwords: passwords.transpose()?.map(Arc::new),
            tokens: Tokens::read(&auth.jwt)?,
            scram: scram.transpose()?,
            bans: bans.transpose()?.unwrap_or_default(),
            rules: rules.to_vec(),
        })
    }

    /// Whether somebody who shows nothing is let in there.
    pub(super) fn admits_anonymous(&self, origin: &Origin) -> bool {
        match self.anonymous {
            AnonymousAccess::Loopback => origin.is_local,
            AnonymousAccess::Always => true,
            AnonymousAccess::Never => false,
        }
    }

    /// Whether user name and password of a CONNECT mean anything.
    pub(super) fn checks_passwords(&self) -> bool {
        self.passwords.is_some() || self.tokens.is_some()
    }

    /// # Errors
    /// The client, its user name or its address is banned.
    pub(super) fn check_bans(
        &self,
        client_id: &str,
        user: Option<&str>,
        origin: &Origin,
    ) -> Result<(), Refused> {
        let is_banned = self.bans.has_client(client_id, origin.address.ip())
            || user.is_some_and(|user| self.bans.has_user(user));
        if !is_banned {
            return Ok(());
        }
        Err(Refused {
            reason_code: ReasonCode::Banned,
            cause: BANNED,
        })
    }

    /// What it consists of, for the log.
    fn tell(&self, what: &'static str) {
        tracing::info!(
            users = self.passwords.as_ref().map(|passwords| passwords.len()),
            scram_users = self.scram.as_ref().map(Scram::len),
            token_keys = self.tokens.as_ref().map(Tokens::len),
            bans = self.bans.len(),
            rules = self.rules.len(),
            "{what}"
        );
    }
}

/// Cause of the end of who is banned.
pub(super) const BANNED: &str = "banned";

impl Broker {
    /// Who is let in and what they may do, from now on.
    pub(crate) fn access(&self) -> Arc<AccessPolicy> {
        Arc::clone(&self.access.borrow())
    }

    /// Reads the files once more and puts them and these rules in force, also for the clients that are
    /// connected: who would not be let in any more is disconnected, and what is not allowed any more is
    /// neither taken nor delivered.
    ///
    /// # Errors
    /// Something is wrong in a file: everything stays as it is.
    pub(crate) fn reload_access(
        &self,
        auth: &AuthConfig,
        rules: &[AclRule],
    ) -> Result<(), StartError> {
        let policy = AccessPolicy::load(auth, rules)?;
        let policy = Arc::new(policy);
        self.access.send_replace(Arc::clone(&policy));
        policy.tell("access reloaded");
        Ok(())
    }
}
