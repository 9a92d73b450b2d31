//! CONNECT: which way a client shows who it is, and whether it does.
//!
//! | what CONNECT brings | what decides |
//! |---|---|
//! | an authentication method | SCRAM (`exchange`) |
//! | nothing of that, over TLS with a client certificate that names it | the certificate |
//! | a user name or a password, and there is a password file or a key for tokens | a password that looks like a token: the token; else the password file |
//! | anything else | `auth.anonymous` |
//!
//! Who shows something wrong is refused, also where nobody would have to show anything.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use codec::{Connect, ReasonCode, Utf8};
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::credentials::Fingerprint;
use super::exchange::{self, Failure, Proof};
use super::passwords::Passwords;
use super::policy::AccessPolicy;
use super::principal::{Evidence, Principal};
use super::throttle::Throttle;
use super::{scram, tokens};
use crate::broker::Broker;
use crate::client::Origin;
use crate::count::{self, LoginResult};
use crate::deadline::NO_DEADLINE;
use crate::refusal::Refused;
use crate::wire::Wire;

/// Logins that were found good and need not be computed again, so that a node's clients can come back
/// all at once; of more, those that were not seen for the longest time are forgotten.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not 0");

/// What a node keeps for logins.
#[derive(Debug)]
pub(crate) struct Logins {
    /// Password hashes that may be computed at once: half of the cores, the rest serves.
    hashing: Arc<Semaphore>,
    throttle: Throttle,
    /// Digests of user, password and line, with a secret of this process.
    remembered: Mutex<LruCache<[u8; 32], ()>>,
    secret: [u8; 32],
}

/// How a client shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By enhanced authentication.
    Exchange,
    /// By what its TLS connection has shown.
    Certificate,
    /// By a token.
    Token,
    /// By a password.
    Password,
    /// Not at all.
    Anonymous,
}

impl Logins {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            hashing: Arc::new(Semaphore::new(cores.div_ceil(2))),
            throttle: Throttle::new(),
            remembered: Mutex::new(LruCache::new(REMEMBERED_MAX)),
            secret: rand::random(),
        }
    }

    /// Stands for a login, and says nothing about it to anybody else.
    fn digest(&self, user: &str, line: Fingerprint, password: &[u8]) -> [u8; 32] {
        let hasher = Sha256::new().chain_update(self.secret);
        let hasher = hasher.chain_update(line.as_bytes());
        let hasher = hasher.chain_update(Sha256::digest(user));
        hasher
            .chain_update(Sha256::digest(password))
            .finalize()
            .into()
    }

    fn remembers(&self, digest: &[u8; 32]) -> bool {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered.get(digest).is_some()
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered.put(digest, ());
    }
}

/// Which way a client shows who it is.
///
/// # Errors
/// It is banned, or shows nothing where it must.
pub(crate) fn way(
    policy: &AccessPolicy,
    connect: &Connect,
    origin: &Origin,
) -> Result<Way, Refused> {
    policy.check_bans(connect.client_id.as_str(), claimed(connect), origin)?;
    if connect.authentication_method.is_some() {
        return Ok(Way::Exchange);
    }
    if origin.certificate_identity.is_some() {
        return Ok(Way::Certificate);
    }
    let shows_something = claimed(connect).is_some() || connect.password.is_some();
    if shows_something && policy.checks_passwords() {
        let password = connect.password.as_deref().unwrap_or_default();
        let is_token = policy.tokens.is_some() && tokens::is_token(password);
        return Ok(if is_token { Way::Token } else { Way::Password });
    }
    if policy.admits_anonymous(origin) {
        return Ok(Way::Anonymous);
    }
    Err(Refused {
        reason_code: ReasonCode::NotAuthorized,
        cause: "anonymous",
    })
}

/// The user name of CONNECT; an empty one is none.
fn claimed(connect: &Connect) -> Option<&str> {
    let claimed = connect.username.as_ref().map(Utf8::as_str);
    claimed.filter(|user| !user.is_empty())
}

/// Finds out who a client is.
///
/// # Errors
/// [`Failure`]. Nothing was sent to refuse it.
pub(crate) async fn login(
    broker: &Broker,
    (policy, way): (&Arc<AccessPolicy>, Way),
    wire: &mut Wire,
    (connect, origin): (&Connect, &Origin),
) -> Result<(Principal, Option<Proof>), Failure> {
    let result = match way {
        Way::Anonymous => return Ok((Principal::anonymous(), None)),
        Way::Exchange => exchange(broker, policy, wire, (connect, origin)).await,
        Way::Certificate => by_certificate(origin),
        Way::Token => by_token(broker, policy, (connect, origin)),
        Way::Password => by_password(broker, policy, (connect, origin)).await,
    };
    let result = result.and_then(|(principal, proof)| {
        let client_id = connect.client_id.as_str();
        policy
            .check_bans(client_id, principal.user(), origin)
            .map_err(|refused| Failure::Refused(refused.reason_code, refused.cause))?;
        Ok((principal, proof))
    });
    count::login(match &result {
        Ok(_) => LoginResult::Accepted,
        Err(Failure::Refused(_, THROTTLED)) => LoginResult::Throttled,
        Err(Failure::Refused(..) | Failure::Gone) => LoginResult::Refused,
    });
    result
}

/// Cause of a refusal without a look.
pub(crate) const THROTTLED: &str = "login_failures";

/// # Errors
/// There were too many failures.
fn check_throttle(broker: &Broker, origin: &Origin, user: Option<&str>) -> Result<(), Failure> {
    let source = origin.address.ip();
    if broker.logins.throttle.admits(source, user, Instant::now()) {
        return Ok(());
    }
    Err(Failure::Refused(
        ReasonCode::ConnectionRateExceeded,
        THROTTLED,
    ))
}

/// Takes note of how an attempt ended.
fn note(broker: &Broker, origin: &Origin, user: Option<&str>, succeeded: bool) {
    let source = origin.address.ip();
    let throttle = &broker.logins.throttle;
    if !succeeded {
        if throttle.failed(source, user, Instant::now()) {
            tracing::warn!(%source, "many failed logins: further ones are refused for a while");
        }
    } else if let Some(user) = user {
        throttle.succeeded(source, user);
    }
}

async fn exchange(
    broker: &Broker,
    policy: &AccessPolicy,
    wire: &mut Wire,
    (connect, origin): (&Connect, &Origin),
) -> Result<(Principal, Option<Proof>), Failure> {
    let claimed = connect.authentication_data.as_deref();
    let claimed = claimed.and_then(scram::claimed_user);
    let claimed = claimed.as_deref();
    check_throttle(broker, origin, claimed)?;
    let outcome = exchange::authenticate(broker, policy, wire, connect).await;
    match &outcome {
        Ok(proof) => note(broker, origin, Some(&proof.identity.user), true),
        Err(Failure::Refused(ReasonCode::NotAuthorized, _)) => note(broker, origin, claimed, false),
        Err(Failure::Refused(..) | Failure::Gone) => {}
    }
    let proof = outcome?;
    let user = proof.identity.user.as_str();
    let line = policy
        .scram
        .as_ref()
        .and_then(|scram| scram.fingerprint(user));
    let named = origin.certificate_identity.as_deref();
    let (Some(line), Ok(name), true) = (
        line,
        Utf8::try_from(user),
        named.is_none_or(|named| named == user),
    ) else {
        return Err(Failure::Refused(
            ReasonCode::NotAuthorized,
            "authentication",
        ));
    };
    let principal = Principal {
        user: Some(name),
        groups: Vec::new(),
        evidence: Evidence::Scram(line),
    };
    Ok((principal, Some(proof)))
}

/// TLS has checked the certificate. User name and password of CONNECT say nothing.
fn by_certificate(origin: &Origin) -> Result<(Principal, Option<Proof>), Failure> {
    let name = origin.certificate_identity.as_deref().unwrap_or_default();
    let user = Utf8::try_from(name).ok().filter(|user| !user.is_empty());
    let user = user.ok_or(Failure::Refused(ReasonCode::NotAuthorized, "certificate"))?;
    let principal = Principal {
        user: Some(user),
        groups: Vec::new(),
        evidence: Evidence::Certificate,
    };
    Ok((principal, None))
}

/// # Errors
/// The token is not good, or for another user than CONNECT names.
fn by_token(
    broker: &Broker,
    policy: &AccessPolicy,
    (connect, origin): (&Connect, &Origin),
) -> Result<(Principal, Option<Proof>), Failure> {
    let user = claimed(connect);
    check_throttle(broker, origin, user)?;
    let bad = Failure::Refused(ReasonCode::BadUserNameOrPassword, "token");
    let Some(tokens) = &policy.tokens else {
        return Err(bad);
    };
    let now = SystemTime::now();
    let token = connect.password.as_deref().unwrap_or_default();
    let verified = tokens.verify(token, now).and_then(|verified| {
        let is_same = user.is_none_or(|user| user == verified.user.as_str());
        is_same
            .then_some(verified)
            .ok_or("its sub is not the user name of CONNECT")
    });
    // Nobody guesses the token of a user: failures say nothing about one.
    let shown = verified.as_ref().map(|verified| verified.user.as_str());
    note(broker, origin, shown.ok(), verified.is_ok());
    let verified = verified.map_err(|problem| {
        let (client_id, address) = (connect.client_id.as_str(), origin.address);
        tracing::info!(client_id, %address, problem, "token not taken");
        bad
    })?;
    let left = verified.expires_at.duration_since(now).unwrap_or_default();
    // Further than the clock goes is as good as for ever.
    let far = Instant::now() + NO_DEADLINE;
    let expires_at = Instant::now()
        .checked_add(left)
        .map_or(far, |at| at.min(far));
    let principal = Principal {
        user: Some(verified.user),
        groups: verified.groups,
        evidence: Evidence::Token {
            key: verified.key,
            expires_at,
        },
    };
    Ok((principal, None))
}

/// # Errors
/// It is not the user's password.
async fn by_password(
    broker: &Broker,
    policy: &AccessPolicy,
    (connect, origin): (&Connect, &Origin),
) -> Result<(Principal, Option<Proof>), Failure> {
    let bad = Failure::Refused(ReasonCode::BadUserNameOrPassword, "password");
    let user = claimed(connect);
    check_throttle(broker, origin, user)?;
    let (Some(passwords), Some(name), Some(password)) =
        (&policy.passwords, user, &connect.password)
    else {
        note(broker, origin, user, false);
        return Err(bad);
    };
    let logins = &broker.logins;
    let line = passwords.fingerprint(name);
    let digest = line.map(|line| logins.digest(name, line, password));
    let known = line.filter(|_| {
        digest
            .as_ref()
            .is_some_and(|digest| logins.remembers(digest))
    });
    let fitting = match known {
        Some(line) => Some(line),
        None => hash(broker, Arc::clone(passwords), (connect, origin)).await?,
    };
    note(broker, origin, user, fitting.is_some());
    let line = fitting.ok_or(bad)?;
    if let Some(digest) = digest {
        logins.remember(digest);
    }
    let principal = Principal {
        user: connect.username.as_ref().map(Utf8::detached),
        groups: Vec::new(),
        evidence: Evidence::Password(line),
    };
    Ok((principal, None))
}

/// Computes a hash, when it is its turn.
async fn hash(
    broker: &Broker,
    passwords: Arc<Passwords>,
    (connect, origin): (&Connect, &Origin),
) -> Result<Option<Fingerprint>, Failure> {
    let internal = |_closed| Failure::Refused(ReasonCode::ServerUnavailable, "internal");
    let hashing = Arc::clone(&broker.logins.hashing);
    // Only the wait has a limit: whose turn it is gets its answer. If more want to log in than can be
    // looked at, those are refused that wait too long, and the others are let in as fast as can be.
    let patience = broker.config.mqtt.connect_timeout / 2;
    let turn = timeout(patience, hashing.acquire_owned())
        .await
        .map_err(|_elapsed| Failure::Refused(ReasonCode::ServerBusy, "login_queue"))?
        .map_err(internal)?;
    // Others may have failed while this one waited.
    check_throttle(broker, origin, claimed(connect))?;
    let user = claimed(connect).unwrap_or_default().to_owned();
    let password = connect.password.clone().unwrap_or_default();
    let computed = tokio::task::spawn_blocking(move || {
        let fits = passwords.fits(&user, &password);
        // Also when nobody waits for it any more, this one counts until it is over.
        drop(turn);
        fits
    });
    computed.await.map_err(|error| {
        tracing::error!(%error, "a password was not checked");
        Failure::Refused(ReasonCode::ServerUnavailable, "internal")
    })
}
