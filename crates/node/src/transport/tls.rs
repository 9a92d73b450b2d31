//! Certificates of the listeners and of the cluster port: read at the start, read again when their
//! files change.
//!
//! Invariants:
//! - New files take effect as a whole or not at all: until they are good, the old certificate serves.
//! - Open connections stay as they are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use raft_store::PeerTls;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::certificate;
use crate::config::{ClientCertificate, Config};
use crate::count;
use crate::error::StartError;

mod check;
mod source;

use self::source::{Role, Source, sources};

pub(crate) use self::check::{Checked as CheckedCertificates, check as check_certificates};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The cluster port among the listeners of logs and metrics.
const CLUSTER: &str = "cluster";

/// Every certificate of this node.
#[derive(Debug, Default)]
pub(crate) struct TlsStore {
    entries: Vec<Entry>,
}

/// What became of a look at one listener's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// The listener's name; `cluster` is the cluster port.
    pub(crate) listener: String,
    /// Whether there is a new certificate, or why the old one stays.
    pub(crate) result: Result<bool, String>,
    /// Until when the certificate in use is good, in seconds since 1970.
    pub(crate) expires: i64,
}

/// The certificate that a listener shows to connections to come.
#[derive(Debug)]
pub(crate) struct ListenerCertificate {
    client_cert: ClientCertificate,
    current: RwLock<Arc<ServerConfig>>,
}

impl ListenerCertificate {
    /// What a handshake that begins now goes by.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Entry {
    name: String,
    files: Files,
    user: User,
    state: Mutex<State>,
}

/// Who shows the certificate.
#[derive(Debug)]
enum User {
    Listener(Arc<ListenerCertificate>),
    Cluster(PeerTls),
}

/// What the last look found.
#[derive(Debug)]
struct State {
    seen: [u8; 32],
    failure: Option<String>,
    expires: i64,
}

/// The files of one certificate, each with the key that names it.
#[derive(Debug)]
struct Files {
    cert: File,
    key: File,
    /// Who signs the certificates of the other side.
    ca: Option<File>,
}

#[derive(Debug)]
struct File {
    key: String,
    path: PathBuf,
}

/// A file that is of no use as it is.
#[derive(Debug)]
struct Problem {
    key: String,
    path: PathBuf,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}: {}", self.key, self.path.display(), self.what)
    }
}

impl From<Problem> for StartError {
    fn from(problem: Problem) -> Self {
        Self::file(problem.key, &problem.path, problem.what)
    }
}

impl TlsStore {
    /// Reads all certificates that the configuration names.
    ///
    /// # Errors
    /// [`StartError`]: a file is not there or of no use.
    pub(crate) fn load(config: &Config) -> Result<Self, StartError> {
        let entries = sources(config).into_iter().map(Entry::load);
        let entries = entries.collect::<Result<_, Problem>>()?;
        Ok(Self { entries })
    }

    /// The certificate of a listener, if it has one.
    pub(crate) fn listener(&self, name: &str) -> Option<Arc<ListenerCertificate>> {
        self.entries.iter().find_map(|entry| match &entry.user {
            User::Listener(certificate) if entry.name == name => Some(Arc::clone(certificate)),
            User::Listener(_) | User::Cluster(_) => None,
        })
    }

    /// The certificate of the cluster port, if it has one.
    pub(crate) fn cluster(&self) -> Option<PeerTls> {
        self.entries.iter().find_map(|entry| match &entry.user {
            User::Cluster(tls) => Some(tls.clone()),
            User::Listener(_) => None,
        })
    }

    /// Until when the certificates in use are good, in seconds since 1970, by listener.
    pub(crate) fn expiries(&self) -> impl Iterator<Item = (&str, i64)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.name.as_str(), entry.state().expires))
    }

    /// Looks at all files and takes over those that have changed. Reads from the disk.
    pub(crate) fn reload(&self) -> Vec<Reloaded> {
        self.entries.iter().map(Entry::reload).collect()
    }

    /// Looks at the files every few seconds for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        if self.entries.is_empty() {
            return;
        }
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let store = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || store.reload()).await {
                Ok(looked) => trace(&looked),
                Err(error) => tracing::error!(%error, "cannot look at certificates"),
            }
        }
    }
}

impl Entry {
    fn load(source: Source) -> Result<Self, Problem> {
        let contents = source.files.read()?;
        let expires = source.files.expiry(&contents)?;
        let user = source.user(&contents)?;
        let Source { name, files, .. } = source;
        count::certificate_expiry(&name, expires);
        let state = Mutex::new(State {
            seen: contents.digest(),
            failure: None,
            expires,
        });
        Ok(Self {
            name,
            files,
            user,
            state,
        })
    }

    fn reload(&self) -> Reloaded {
        let mut state = self.state();
        let contents = self.files.read();
        // A file that cannot be read is something to have seen, too.
        let seen = match &contents {
            Ok(contents) => contents.digest(),
            Err(problem) => Sha256::digest(problem.to_string()).into(),
        };
        let result = if seen == state.seen {
            state.failure.clone().map_or(Ok(false), Err)
        } else {
            state.seen = seen;
            self.take_over(contents, &mut state)
        };
        Reloaded {
            listener: self.name.clone(),
            result,
            expires: state.expires,
        }
    }

    fn take_over(
        &self,
        contents: Result<Contents, Problem>,
        state: &mut State,
    ) -> Result<bool, String> {
        let taken = contents.and_then(|contents| {
            let expires = self.files.expiry(&contents)?;
            self.replace(&contents)?;
            Ok(expires)
        });
        count::tls_reload(taken.is_ok());
        match taken {
            Ok(expires) => {
                tracing::info!(listener = self.name, expires, "certificate reloaded");
                count::certificate_expiry(&self.name, expires);
                state.failure = None;
                state.expires = expires;
                Ok(true)
            }
            Err(problem) => {
                let problem = problem.to_string();
                tracing::error!(
                    listener = self.name,
                    problem,
                    "certificate not reloaded: the old one stays in use"
                );
                state.failure = Some(problem.clone());
                Err(problem)
            }
        }
    }

    fn replace(&self, contents: &Contents) -> Result<(), Problem> {
        match &self.user {
            User::Listener(certificate) => {
                let server = self
                    .files
                    .server_config(contents, certificate.client_cert)?;
                let mut current = certificate
                    .current
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *current = server;
            }
            User::Cluster(tls) => {
                let required = ClientCertificate::Required;
                let server = self.files.server_config(contents, required)?;
                tls.replace(server, self.files.client_config(contents)?);
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was read of the files.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for content in [&self.cert, &self.key, &self.ca] {
            hash.update(Sha256::digest(content));
        }
        hash.finalize().into()
    }
}

impl Files {
    fn read(&self) -> Result<Contents, Problem> {
        Ok(Contents {
            cert: self.cert.read()?,
            key: self.key.read()?,
            ca: self.ca.as_ref().map_or(Ok(Vec::new()), File::read)?,
        })
    }

    fn expiry(&self, contents: &Contents) -> Result<i64, Problem> {
        let chain = self.cert.certificates(&contents.cert)?;
        let first = chain
            .first()
            .ok_or_else(|| self.cert.problem("it is empty"))?;
        let (from, until) = certificate::validity(first).map_err(|e| self.cert.problem(e))?;
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default();
        if !(from..=until).contains(&i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
            tracing::warn!(file = %self.cert.path.display(), from, until, "a certificate that is not valid now");
        }
        Ok(until)
    }

    fn server_config(
        &self,
        contents: &Contents,
        client_cert: ClientCertificate,
    ) -> Result<Arc<ServerConfig>, Problem> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.cert.problem(error))?;
        let builder = match self.verifier(contents, client_cert)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = self.identity(contents)?;
        let config = builder.with_single_cert(chain, key);
        config
            .map(Arc::new)
            .map_err(|error| self.cert.problem(error))
    }

    fn client_config(&self, contents: &Contents) -> Result<Arc<ClientConfig>, Problem> {
        let (chain, key) = self.identity(contents)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.cert.problem(error))?
            .with_root_certificates(self.roots(contents)?)
            .with_client_auth_cert(chain, key);
        config
            .map(Arc::new)
            .map_err(|error| self.cert.problem(error))
    }

    fn verifier(
        &self,
        contents: &Contents,
        client_cert: ClientCertificate,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, Problem> {
        if client_cert == ClientCertificate::None {
            return Ok(None);
        }
        let roots = Arc::new(self.roots(contents)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if client_cert == ClientCertificate::Optional {
            builder = builder.allow_unauthenticated();
        }
        let file = self.ca.as_ref().unwrap_or(&self.cert);
        builder.build().map(Some).map_err(|e| file.problem(e))
    }

    fn roots(&self, contents: &Contents) -> Result<RootCertStore, Problem> {
        let file = self.ca.as_ref().unwrap_or(&self.cert);
        let mut roots = RootCertStore::empty();
        for certificate in file.certificates(&contents.ca)? {
            roots
                .add(certificate)
                .map_err(|error| file.problem(error))?;
        }
        Ok(roots)
    }

    fn identity(&self, contents: &Contents) -> Result<Identity, Problem> {
        let chain = self.cert.certificates(&contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key =
            key.map_err(|error| self.key.problem(format!("no private key in PEM: {error}")))?;
        Ok((chain, key))
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl File {
    fn new(key: String, path: &Path) -> Self {
        Self {
            key,
            path: path.to_owned(),
        }
    }

    fn read(&self) -> Result<Vec<u8>, Problem> {
        std::fs::read(&self.path).map_err(|error: io::Error| self.problem(error))
    }

    /// All certificates of the file, at least one.
    fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|error| self.problem(error))?;
        if certificates.is_empty() {
            return Err(self.problem("no certificate in PEM"));
        }
        Ok(certificates)
    }

    fn problem(&self, what: impl fmt::Display) -> Problem {
        Problem {
            key: self.key.clone(),
            path: self.path.clone(),
            what: what.to_string(),
        }
    }
}

fn trace(looked: &[Reloaded]) {
    for reloaded in looked {
        let Reloaded {
            listener,
            result,
            expires,
        } = reloaded;
        tracing::trace!(listener, ?result, expires, "looked at a certificate");
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
