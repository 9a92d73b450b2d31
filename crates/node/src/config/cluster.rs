//! `[cluster]`: who the nodes are, how state is spread over them, and how fast a failure is seen.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::listener::file;
use super::reader::{Reader, Section};
use super::value::Table;

/// `[cluster]`. Without it (no `peers`) the node is a cluster of its own: a quorum of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `name`: nodes that call their cluster otherwise are refused. Default `holdfast`.
    pub name: String,
    /// `listen`: where other nodes connect. Default `0.0.0.0:7400`; not bound by a single node.
    pub listen: SocketAddr,
    /// `advertise`: what other nodes connect to. Default: this node's entry in `peers`. `None` for
    /// a single node that set nothing.
    pub advertise: Option<HostPort>,
    /// `peers`: all nodes at the first start, this one included. Empty: a single node.
    pub peers: Vec<Peer>,
    /// `shards`: parts of the replicated state, 1..256, fixed at the first start. Default 4: fewer
    /// shards make larger batches, and four are enough to spread leadership over three nodes.
    pub shards: u16,
    /// `replicas`: copies of each shard, 1..7. Default 3: survives one node at the least cost.
    pub replicas: u8,
    /// `heartbeat`: how often a leader shows that it lives, 1ms..1m. Default 100ms: a tenth of a
    /// slow election, and cheap.
    pub heartbeat: Duration,
    /// `election_timeout`: a follower waits a random time between these. Default 500ms..1s: several
    /// lost heartbeats, and a new leader within about a second.
    pub election_timeout: (Duration, Duration),
    /// `lease`: a node may serve this long after a majority answered it. Default 1s: one slow
    /// answer costs nothing, yet a cut-off node stops before the others have moved on.
    pub lease: Duration,
    /// `quorum_lost_after`: without a lease this long, clients are closed so that they go
    /// elsewhere. Default 3s: an election in between does not disturb them.
    pub quorum_lost_after: Duration,
    /// `node_down_after`: silent this long, a node is declared down; wills and expiry start.
    /// Default 5s: above `lease` + `quorum_lost_after`, so that it has closed its clients itself.
    pub node_down_after: Duration,
    /// `secret_file`: what all nodes know and show each other, at least 16 bytes; the line's end does
    /// not count. Not looked at with `[cluster.tls]`. Default none: whoever reaches the port is
    /// believed to be a node.
    pub secret_file: Option<PathBuf>,
    /// `[cluster.tls]`: nodes show each other certificates, and what they say is encrypted.
    pub tls: Option<ClusterTls>,
}

/// `[cluster.tls]`, all three files or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTls {
    /// `cert`: this node's certificate, for both sides of a connection, PEM. It names the hosts in
    /// `cluster.peers`.
    pub cert: PathBuf,
    /// `key`: its private key, PEM.
    pub key: PathBuf,
    /// `ca`: who signs the certificates of nodes and of nobody else, PEM.
    pub ca: PathBuf,
}

impl ClusterConfig {
    /// Whether this node is a cluster of its own.
    pub fn is_single_node(&self) -> bool {
        self.peers.is_empty()
    }
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// DNS name, IPv4 address, or IPv6 address in brackets.
    pub host: String,
    /// 1..65535.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One entry of `cluster.peers`, written `ID@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// 1..65535.
    pub id: u16,
    /// Where it listens for other nodes.
    pub address: HostPort,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

/// The shortest and the longest time that any of the timeouts may be.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7400);

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> ClusterConfig {
    let mut section = reader.section(root, "cluster");
    let mut config = keys(&mut section);
    let mut tls = section.sub("tls");
    let files = ["cert", "key", "ca"].map(|key| file(&mut tls, key));
    tls.finish();
    section.finish();
    config.tls = cluster_tls(reader, files);
    // A default that is written out, as `config print --effective` does, is no mistake.
    for (key, is_set) in [
        ("cluster.listen", config.listen != LISTEN),
        ("cluster.advertise", config.advertise.is_some()),
    ] {
        if is_set && config.is_single_node() {
            reader.conflict(
                &[key],
                "only a member of a cluster uses it: list all nodes in cluster.peers",
            );
        }
    }
    check_timeouts(reader, &config);
    check_peers(reader, &config);
    config
}

fn keys(section: &mut Section<'_>) -> ClusterConfig {
    let ms = Duration::from_millis;
    let timeouts = TIMEOUT_MIN..=TIMEOUT_MAX;
    ClusterConfig {
        name: section.parsed("name", ("holdfast".to_owned(), "holdfast"), NAME, |name| {
            let ok = !name.is_empty() && name.len() <= 64 && name.chars().all(is_name_char);
            ok.then(|| name.to_owned())
        }),
        listen: section.parsed("listen", (LISTEN, "0.0.0.0:7400"), super::ADDRESS, |text| {
            text.parse().ok()
        }),
        advertise: section.parsed(
            "advertise",
            (None, ""),
            "HOST:PORT, or \"\"",
            |text| match text {
                "" => Some(None),
                _ => host_port(text).map(Some),
            },
        ),
        peers: section.list("peers", (Vec::new(), &[]), |text| {
            peer(text).ok_or_else(|| {
                format!("expected entries ID@HOST:PORT such as \"1@holdfast-0:7400\", got {text:?}")
            })
        }),
        shards: section.integer("shards", 4, 1..=256),
        replicas: section.integer("replicas", 3, 1..=7),
        heartbeat: section.duration("heartbeat", ms(100), TIMEOUT_MIN..=Duration::from_mins(1)),
        election_timeout: election_timeout(section),
        lease: section.duration("lease", ms(1_000), timeouts.clone()),
        quorum_lost_after: section.duration("quorum_lost_after", ms(3_000), timeouts.clone()),
        node_down_after: section.duration("node_down_after", ms(5_000), timeouts),
        secret_file: file(section, "secret_file"),
        tls: None,
    }
}

fn cluster_tls(reader: &mut Reader, files: [Option<PathBuf>; 3]) -> Option<ClusterTls> {
    let keys = ["cluster.tls.cert", "cluster.tls.key", "cluster.tls.ca"];
    if files.iter().any(Option::is_some) && files.iter().any(Option::is_none) {
        reader.conflict(&keys, "cert, key and ca belong together: all three or none");
    }
    let [cert, key, ca] = files;
    Some(ClusterTls {
        cert: cert?,
        key: key?,
        ca: ca?,
    })
}

const NAME: &str = "1 to 64 letters, digits, '.', '_' or '-'";

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Reads the pair `["500ms", "1000ms"]`.
fn election_timeout(section: &mut Section<'_>) -> (Duration, Duration) {
    let default = (Duration::from_millis(500), Duration::from_secs(1));
    let expected = "expected two durations, the shorter first, such as [\"500ms\", \"1000ms\"]";
    let key = "election_timeout";
    let pair = section.list(
        key,
        (vec![default.0, default.1], &["500ms", "1000ms"]),
        |text| {
            super::units::parse_duration(text)
                .filter(|duration| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(duration))
                .ok_or_else(|| expected.to_owned())
        },
    );
    match pair.as_slice() {
        [shorter, longer] if shorter < longer => (*shorter, *longer),
        _ => {
            section
                .reader
                .conflict(&["cluster.election_timeout"], expected);
            default
        }
    }
}

/// Checks the rules that tie the timeouts together; each guards a guarantee of the lease.
fn check_timeouts(reader: &mut Reader, config: &ClusterConfig) {
    if config.heartbeat >= config.election_timeout.0 {
        reader.conflict(
            &["cluster.election_timeout", "cluster.heartbeat"],
            "heartbeat must be less than the shorter election_timeout, or a living leader is voted out",
        );
    }
    if config.heartbeat >= config.lease {
        reader.conflict(
            &["cluster.heartbeat", "cluster.lease"],
            "lease must be longer than heartbeat, or it runs out between two answers",
        );
    }
    if config.lease.saturating_add(config.quorum_lost_after) >= config.node_down_after {
        reader.conflict(
            &["cluster.lease", "cluster.quorum_lost_after", "cluster.node_down_after"],
            "lease + quorum_lost_after must be less than node_down_after: a node closes its clients before the others declare it down",
        );
    }
}

fn check_peers(reader: &mut Reader, config: &ClusterConfig) {
    for (position, peer) in config.peers.iter().enumerate() {
        let mut earlier = config.peers.iter().take(position);
        if let Some(same) =
            earlier.find(|earlier| earlier.id == peer.id || earlier.address == peer.address)
        {
            let message = format!(
                "each node has an id and an address of its own: {same} and {peer} share one"
            );
            reader.conflict(&["cluster.peers"], &message);
        }
    }
    if config.peers.len() > usize::from(config.replicas) {
        reader.conflict(
            &["cluster.replicas", "cluster.peers"],
            "placement of shards on a subset of nodes is not available in this version: at most `replicas` nodes",
        );
    }
}

/// Reads `ID@HOST:PORT`.
fn peer(text: &str) -> Option<Peer> {
    let (id, address) = text.split_once('@')?;
    let id = id.parse().ok().filter(|id| *id > 0)?;
    Some(Peer {
        id,
        address: host_port(address)?,
    })
}

/// Reads `HOST:PORT`, where an IPv6 address is in brackets.
fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let is_ip6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(is_name_char);
    (is_ip6 || is_name).then(|| HostPort {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_an_id_and_an_address() {
        assert_eq!(
            peer("1@holdfast-0:7400").map(|peer| peer.to_string()),
            Some("1@holdfast-0:7400".to_owned())
        );
        assert_eq!(
            peer("65535@[::1]:7400").map(|peer| peer.address.host),
            Some("[::1]".to_owned())
        );
        for bad in [
            "",
            "1",
            "0@a:1",
            "65536@a:1",
            "1@a",
            "1@:1",
            "1@a:0",
            "1@a:65536",
            "1@a b:1",
            "x@a:1",
            "1@::1:7400",
            "1@[x]:1",
        ] {
            assert_eq!(peer(bad), None, "{bad}");
        }
    }
}
