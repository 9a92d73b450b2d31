//! What tests about who may do what share: files of credentials, logins, reloads.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use codec::{Packet, ProtocolVersion, ReasonCode};
use tempfile::TempDir;
use testkit::cluster::READY_WITHIN;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, NodeId, wait_until};

use crate::scene::options;

/// Until a closed connection is seen closed, on a busy machine.
pub(crate) const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// Files of credentials, gone with the test.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// A password file with these users, by `holdfast hash-password --append`.
    pub(crate) fn passwords(&self, users: &[(&str, &str)]) {
        std::fs::remove_file(self.path("passwd")).ok();
        for (user, password) in users {
            self.add_password(user, password);
        }
    }

    pub(crate) fn add_password(&self, user: &str, password: &str) {
        let path = self.path("passwd");
        let arguments = ["--user", user, "--append", path.to_str().unwrap()];
        assert_eq!(hash_password(&arguments, password), "");
    }

    /// `KEY = "PATH"` for `[auth]`.
    pub(crate) fn key(&self, key: &str, name: &str) -> String {
        format!("{key} = \"{}\"\n", self.path(name).display())
    }
}

/// `holdfast hash-password`; what it prints.
pub(crate) fn hash_password(arguments: &[&str], password: &str) -> String {
    let mut child = Command::new(options().binary)
        .arg("hash-password")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{password}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A cluster with this in its section `[auth]`, and behind it.
pub(crate) async fn cluster(name: &'static str, nodes: u16, auth: String) -> Cluster {
    let options = ClusterOptions {
        nodes,
        auth,
        ..options()
    };
    Cluster::start(name, options).await
}

/// CONNECT with clean start and without a session that stays; a user `""` shows nothing.
pub(crate) fn transient(
    client_id: &str,
    version: ProtocolVersion,
    (user, password): (&str, &str),
) -> ConnectOptions {
    with_user(
        ConnectOptions::transient(client_id, version),
        (user, password),
    )
}

/// The same with credentials, unless the user is `""`.
pub(crate) fn with_user(options: ConnectOptions, (user, password): (&str, &str)) -> ConnectOptions {
    if user.is_empty() {
        return options;
    }
    options.credentials(user, password)
}

/// Connects.
pub(crate) async fn connected(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect(cluster.mqtt(node), options, cluster.history())
        .await
        .unwrap_or_else(|error| panic!("{}: {error:?}", options.client_id))
}

/// The code that CONNECT is refused with; `None`: closed without an answer.
pub(crate) async fn refused(
    cluster: &Cluster,
    node: NodeId,
    options: &ConnectOptions,
) -> Option<ReasonCode> {
    let refused = Client::connect(cluster.mqtt(node), options, cluster.history()).await;
    refused.expect_err("it is refused").reason_code()
}

/// The end of a connection: 5.0 with DISCONNECT and this reason, 3.1.1 without a word.
pub(crate) async fn expect_ended(
    client: &mut Client,
    version: ProtocolVersion,
    reason_code: ReasonCode,
) {
    let before = client.expect_closed(CLOSED_WITHIN).await;
    match (version, before.as_slice()) {
        (ProtocolVersion::V5, [Packet::Disconnect(disconnect)]) => {
            assert_eq!(disconnect.reason_code, reason_code);
        }
        (ProtocolVersion::V31 | ProtocolVersion::V311, []) => {}
        _ => panic!("{before:?} before the close"),
    }
}

/// SIGHUP, and waits until it has taken effect; `line` is what the log says then.
pub(crate) async fn reload(cluster: &mut Cluster, node: NodeId, line: &str) {
    let count = |cluster: &Cluster| {
        let log = std::fs::read_to_string(cluster.log_file(node)).unwrap();
        log.matches(line).count()
    };
    let before = count(cluster);
    cluster.hang_up(node);
    wait_until(line, READY_WITHIN, async || count(cluster) > before).await;
}

/// What a reload that worked says.
pub(crate) const RELOADED: &str = "access reloaded";
/// What one that did not says.
pub(crate) const NOT_RELOADED: &str = "not reloaded";

/// The sum of a counter over the samples with these labels.
pub(crate) async fn counted(
    cluster: &Cluster,
    node: NodeId,
    name: &str,
    labels: &[(&str, &str)],
) -> f64 {
    let samples = cluster.metrics(node).await;
    let has = |sample: &&testkit::http::Sample| {
        sample.name == name
            && labels
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value))
    };
    samples.iter().filter(has).map(|sample| sample.value).sum()
}
