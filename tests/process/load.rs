//! Traffic that goes on while nodes die, and the check that nothing acknowledged was lost, nothing
//! of QoS 2 repeated, and each publisher's order kept (G1, G3, G4).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use codec::{ProtocolVersion, Qos};
use testkit::sender::SenderLog;
use testkit::{
    Client, Cluster, ConnectOptions, History, Receiver, Sender, SenderOptions, client_id_in_shard,
    oracle, wait_until,
};

use crate::scene::{publisher, tag};

const IN_TIME: Duration = Duration::from_secs(60);
/// Between two messages of one publisher.
const INTERVAL: Duration = Duration::from_millis(20);
const IN_FLIGHT_MAX: usize = 10;

/// Version, QoS of one publisher, by shard.
const SENDERS: [(ProtocolVersion, Qos); 4] = [
    (ProtocolVersion::V311, Qos::AtLeastOnce),
    (ProtocolVersion::V5, Qos::ExactlyOnce),
    (ProtocolVersion::V5, Qos::AtLeastOnce),
    (ProtocolVersion::V311, Qos::ExactlyOnce),
];

/// Publishers, subscribers that are connected, and sessions that are offline.
pub(crate) struct Load {
    name: &'static str,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    sleepers: Vec<ConnectOptions>,
}

impl Load {
    /// One publisher and one connected subscriber per shard, and one offline session per version.
    pub(crate) async fn start(cluster: &Cluster, name: &'static str) -> Self {
        let filter = format!("{name}/#");
        let mut load = Self {
            name,
            senders: Vec::new(),
            receivers: Vec::new(),
            sleepers: Vec::new(),
        };
        for shard in 0..cluster.shards() {
            let (version, _) = SENDERS[usize::from(shard) % SENDERS.len()];
            let client_id = client_id_in_shard(
                &format!("{name}-receiver-s{shard}"),
                shard,
                cluster.shards(),
            );
            let options = ConnectOptions::persistent(client_id, version);
            let addresses = rotated(cluster, shard);
            let filters = [(filter.as_str(), Qos::ExactlyOnce)];
            load.receivers
                .push(Receiver::start(options, addresses, &filters, cluster.history()).await);
        }
        for version in testkit::VERSIONS {
            let options =
                ConnectOptions::persistent(format!("{name}-sleeper-{}", tag(version)), version);
            let mut client =
                Client::connect_any(&cluster.mqtt_from(1), &options, cluster.history()).await;
            client.subscribe(&filter, Qos::ExactlyOnce).await;
            client.disconnect().await;
            load.sleepers.push(options);
        }
        for shard in 0..cluster.shards() {
            let sender = load.start_sender(cluster, shard).await;
            load.senders.push(sender);
        }
        load
    }

    async fn start_sender(&self, cluster: &Cluster, shard: u16) -> Sender {
        let (version, qos) = SENDERS[usize::from(shard) % SENDERS.len()];
        let client_id = client_id_in_shard(
            &format!("{}-sender-s{shard}", self.name),
            shard,
            cluster.shards(),
        );
        let options = SenderOptions {
            topic: format!("{}/{client_id}", self.name),
            connect: ConnectOptions::persistent(client_id, version),
            addresses: rotated(cluster, shard + 1),
            qos,
            in_flight_max: IN_FLIGHT_MAX,
            interval: INTERVAL,
            count: None,
        };
        Sender::start(options, cluster.history()).await
    }

    /// Waits until every publisher has `count` more messages acknowledged.
    pub(crate) async fn progress(&self, count: usize) {
        for sender in &self.senders {
            let until = sender.log().acknowledged.len() + count;
            sender.wait_acknowledged(until, IN_TIME).await;
        }
    }

    /// Whether any client is connected to a node.
    pub(crate) fn uses(&self, address: SocketAddr) -> bool {
        let port = address.port();
        self.senders
            .iter()
            .any(|sender| sender.connected_to() == port)
            || self
                .receivers
                .iter()
                .any(|receiver| receiver.connected_to() == port)
    }

    /// Deliveries that came more than once to an application, at QoS 1 and 2.
    pub(crate) fn repeated(&self) -> Vec<String> {
        let mut repeated = Vec::new();
        for receiver in &self.receivers {
            let mut seen = BTreeSet::new();
            let messages = receiver.log().messages;
            let again = messages
                .into_iter()
                .filter(|one| !seen.insert(one.payload.clone()));
            repeated.extend(again.map(|one| format!("{} to {}", one.payload, receiver.name())));
        }
        repeated
    }

    /// Connections of each client so far.
    pub(crate) fn connections(&self) -> Vec<(String, Vec<Instant>)> {
        let senders = self.senders.iter();
        let senders = senders.map(|one| (one.name().to_owned(), one.log().connected_at));
        let receivers = self.receivers.iter();
        let receivers = receivers.map(|one| (one.name().to_owned(), one.log().connected_at));
        senders.chain(receivers).collect()
    }

    /// Waits until all clients that were connected to the dead node are connected to another one;
    /// returns how long each took since the kill.
    pub(crate) async fn resumptions(&self, dead: SocketAddr, killed_at: Instant) -> Vec<Duration> {
        let mut took = Vec::new();
        for sender in &self.senders {
            let moved = moved(sender.name(), dead, || {
                (sender.connected_to(), sender.connected_after(killed_at))
            });
            took.extend(moved.await);
        }
        for receiver in &self.receivers {
            let state = || (receiver.connected_to(), receiver.connected_after(killed_at));
            took.extend(moved(receiver.name(), dead, state).await);
        }
        took.into_iter().map(|at| at - killed_at).collect()
    }

    /// Ends the publishers, wakes the sleepers, and checks all that every subscriber saw.
    pub(crate) async fn finish(self, cluster: &Cluster) {
        let mut logs: Vec<(String, Qos, SenderLog)> = Vec::new();
        for (shard, sender) in self.senders.into_iter().enumerate() {
            let name = sender.name().to_owned();
            let (_, qos) = SENDERS[shard % SENDERS.len()];
            logs.push((name, qos, sender.finish().await));
        }
        let mut source = publisher(
            cluster,
            1,
            &format!("{}-end", self.name),
            ProtocolVersion::V5,
        )
        .await;
        source
            .publish_qos1(1, &format!("{}/end", self.name), "end")
            .await;
        let mut receivers = self.receivers;
        for options in self.sleepers {
            receivers
                .push(Receiver::start(options, cluster.mqtt_from(1), &[], cluster.history()).await);
        }
        for receiver in &receivers {
            receiver.wait_for("end", IN_TIME).await;
            for (name, qos, log) in &logs {
                // What a PUBREC promised may be on its way still.
                if *qos == Qos::ExactlyOnce {
                    receiver
                        .wait_for(&format!("{name}/{}", log.begun - 1), IN_TIME)
                        .await;
                }
                check(receiver, name, *qos, log);
            }
            assert_eq!(receiver.log().violations, [""; 0], "{}", receiver.name());
        }
        cluster
            .history()
            .note(format!("{}: all checks passed", self.name));
    }
}

fn check(receiver: &Receiver, name: &str, qos: Qos, log: &SenderLog) {
    let seen = receiver.sequence(name);
    let verdict = match qos {
        Qos::ExactlyOnce => oracle::exactly_once(&seen, log.begun),
        Qos::AtLeastOnce | Qos::AtMostOnce => oracle::at_least_once(&seen, &log.acknowledged),
    };
    assert_eq!(verdict, Ok(()), "{} of {name}", receiver.name());
    assert_eq!(log.violations, [""; 0], "{name}");
}

/// When a client connected anew; `None` when it was not on the dead node.
async fn moved(
    name: &str,
    dead: SocketAddr,
    state: impl Fn() -> (u16, Option<Instant>),
) -> Option<Instant> {
    wait_until(
        &format!("{name} is connected to a survivor"),
        IN_TIME,
        async || {
            let (port, connected) = state();
            port != dead.port() || connected.is_some()
        },
    )
    .await;
    state().1
}

fn rotated(cluster: &Cluster, by: u16) -> Vec<SocketAddr> {
    let ids = cluster.ids();
    cluster.mqtt_from(ids[usize::from(by) % ids.len()])
}

/// A note for the history.
pub(crate) fn note_acknowledged(history: &History, load: &Load) {
    let counts: Vec<usize> = load
        .senders
        .iter()
        .map(|sender| sender.log().acknowledged.len())
        .collect();
    history.note(format!("acknowledged so far: {counts:?}"));
}
