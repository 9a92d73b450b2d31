//! Configuration: file, environment and flags become one typed [`Config`].
//!
//! Precedence: flag over `HOLDFAST_SECTION__KEY` over file over built-in default. Every key of the
//! operator's reference is known here, also those of features that do not exist yet (`later.rs`).
//!
//! Invariants:
//! - Reading depends on [`Sources`] alone (and, for `from-hostname`, on the host's name), writes
//!   nothing and never panics, whatever the input.
//! - Every problem names place, key, value and what is allowed; all problems are reported at once.
//! - The set of known keys is what the sections ask for: there is no second list to keep in step.

mod acl;
mod admin;
mod auth;
mod cluster;
mod error;
mod later;
mod limits;
mod listener;
mod log;
mod mqtt;
mod node;
mod print;
mod reader;
mod shutdown;
mod sources;
mod storage;
mod sys_topics;
mod units;
mod value;

pub use acl::{AclRule, Actions, Permission, Who};
pub use admin::AdminConfig;
pub use auth::{AnonymousAccess, AuthConfig, JwtConfig};
pub use cluster::{ClusterConfig, ClusterTls, HostPort, Peer};
pub use error::{ConfigError, Problem};
pub use limits::{LimitsConfig, MemoryHigh, QueueOverflow};
pub use listener::{
    Bind, ClientCertificate, IdentityFrom, ListenerConfig, ListenerKind, ListenerTls,
};
pub use log::{LogConfig, LogFormat, LogTarget};
pub use mqtt::MqttConfig;
pub(crate) use node::FROM_HOSTNAME;
pub use node::NodeConfig;
pub use print::{Printed, as_json, print};
pub use reader::Entry;
pub use shutdown::ShutdownConfig;
pub use sources::{Override, Sources};
pub use storage::StorageConfig;
pub use sys_topics::SysTopicsConfig;
pub use value::Origin;

use std::collections::BTreeSet;

use node::NodeAsWritten;
use reader::Reader;
use value::Table;

/// What `bind` and `listen` take, for error messages.
const ADDRESS: &str = "IP:PORT such as \"127.0.0.1:1883\" or \"[::]:1883\"";

/// Everything an operator can set that has an effect in this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[node]`.
    pub node: NodeConfig,
    /// `[cluster]`.
    pub cluster: ClusterConfig,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<ListenerConfig>,
    /// `[mqtt]`.
    pub mqtt: MqttConfig,
    /// `[limits]`.
    pub limits: LimitsConfig,
    /// `[storage]`.
    pub storage: StorageConfig,
    /// `[auth]`.
    pub auth: AuthConfig,
    /// `[[acl]]`, in order.
    pub acl: Vec<AclRule>,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[shutdown]`.
    pub shutdown: ShutdownConfig,
    /// `[sys_topics]`.
    pub sys_topics: SysTopicsConfig,
}

/// A configuration, and for each key who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What the node runs with.
    pub config: Config,
    /// Every known key with its value and origin.
    pub entries: Vec<Entry>,
}

impl Default for Config {
    /// The built-in defaults: one durable node for this machine, on 127.0.0.1:1883.
    fn default() -> Self {
        read(&mut Reader::default(), Table::new())
    }
}

impl Loaded {
    /// Reads the sources.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or at least one key is wrong.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let known = known_keys();
        let is_key = |key: &str| known.contains(&first_place(key));
        let mut reader = Reader::default();
        let table = sources.merge(is_key, &mut reader.problems)?;
        let config = read(&mut reader, table);
        if reader.problems.is_empty() {
            Ok(Self {
                config,
                entries: reader.entries,
            })
        } else {
            Err(ConfigError::Invalid(reader.problems))
        }
    }
}

/// All keys there are, with place 0 for those of a list.
fn known_keys() -> BTreeSet<String> {
    let mut reader = Reader::default();
    read(&mut reader, Table::new());
    acl::know_keys(&mut reader);
    reader.known_keys()
}

/// `listener.3.bind` → `listener.0.bind`.
fn first_place(key: &str) -> String {
    let is_place = |step: &str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    let steps: Vec<&str> = key
        .split('.')
        .map(|step| if is_place(step) { "0" } else { step })
        .collect();
    steps.join(".")
}

/// Reads every section; what is wrong is in `reader.problems` afterwards.
fn read(reader: &mut Reader, mut root: Table) -> Config {
    let node = node::read(reader, &mut root);
    let cluster = cluster::read(reader, &mut root);
    let listeners = listener::read(reader, &mut root);
    let mqtt = mqtt::read(reader, &mut root);
    let limits = limits::read(reader, &mut root, &mqtt);
    let storage = storage::read(reader, &mut root);
    let auth = auth::read(reader, &mut root);
    let acl = acl::read(reader, &mut root);
    acl::check_groups(reader, &acl, auth.jwt.is_configured());
    let admin = admin::read(reader, &mut root);
    let log = log::read(reader, &mut root);
    let shutdown = shutdown::read(reader, &mut root);
    let sys_topics = sys_topics::read(reader, &mut root);
    later::sections(reader, &mut root);
    reader.finish(root);
    let (node, cluster) = identify(reader, node, cluster);
    check_admin_address(reader, &admin, &listeners);
    Config {
        node,
        cluster,
        listeners,
        mqtt,
        limits,
        storage,
        auth,
        acl,
        admin,
        log,
        shutdown,
        sys_topics,
    }
}

/// Settles who this node is among its peers.
fn identify(
    reader: &mut Reader,
    node: NodeAsWritten,
    mut cluster: ClusterConfig,
) -> (NodeConfig, ClusterConfig) {
    let id = node.id.unwrap_or(1);
    let own_entry = cluster.peers.iter().find(|peer| peer.id == id);
    if !cluster.is_single_node() && node.id.is_none() {
        if !reader
            .problems
            .iter()
            .any(|problem| problem.key() == "node.id")
        {
            reader.conflict(
                &["cluster.peers", "node.id"],
                "node.id is missing: a member of a cluster needs one, 1..65535 or \"from-hostname\" (or --node-id)",
            );
        }
    } else if !cluster.is_single_node() && own_entry.is_none() {
        reader.conflict(
            &["cluster.peers", "node.id"],
            "node.id must be one of the ids in cluster.peers",
        );
    }
    if cluster.advertise.is_none() {
        cluster.advertise = own_entry.map(|peer| peer.address.clone());
    }
    let name = if node.name.is_empty() {
        format!("node-{id}")
    } else {
        node.name
    };
    (
        NodeConfig {
            id,
            data_dir: node.data_dir,
            name,
        },
        cluster,
    )
}

/// Two sockets cannot share an address.
fn check_admin_address(reader: &mut Reader, admin: &AdminConfig, listeners: &[ListenerConfig]) {
    let shared = listeners
        .iter()
        .position(|listener| listener.bind.address() == Some(admin.bind) && admin.bind.port() != 0);
    if let Some(place) = shared {
        reader.conflict(
            &[&format!("listener.{place}.bind"), "admin.bind"],
            "a listener has the same address",
        );
    }
}

#[cfg(test)]
mod mistakes;
#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
