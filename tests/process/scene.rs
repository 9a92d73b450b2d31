//! What all scenarios share: the binary, quick publishers, names, and tasks side by side.

use std::collections::BTreeMap;

use codec::{ProtocolVersion, Qos};
use testkit::cluster::READY_WITHIN;

use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, Delivery, NodeId, Outgoing, VERSIONS,
    client_id_in_shard, wait_until,
};
use tokio::task::JoinSet;

/// Messages in flight from one of our publishers: below the Receive Maximum that the broker grants.
const IN_FLIGHT_MAX: usize = 50;

/// The default cluster of the binary under test.
pub(crate) fn options() -> ClusterOptions {
    ClusterOptions::new(env!("CARGO_BIN_EXE_holdfast"))
}

/// For names: `v3` or `v5`.
pub(crate) fn tag(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 | ProtocolVersion::V311 => "v3",
        ProtocolVersion::V5 => "v5",
    }
}

/// One client id per version and shard: `PREFIX-v5-s2-N`.
pub(crate) fn client_ids(prefix: &str, shards: u16) -> Vec<(ProtocolVersion, u16, String)> {
    let pairs = VERSIONS
        .into_iter()
        .flat_map(|version| (0..shards).map(move |shard| (version, shard)));
    pairs
        .map(|(version, shard)| {
            let prefix = format!("{prefix}-{}-s{shard}", tag(version));
            (version, shard, client_id_in_shard(&prefix, shard, shards))
        })
        .collect()
}

/// The leader of each shard, once they are not all the same node: after a slow start one may lead all
/// shards for some seconds.
pub(crate) async fn spread_leaders(cluster: &Cluster) -> BTreeMap<u16, NodeId> {
    let mut leaders = BTreeMap::new();
    wait_until(
        "leadership is spread over the nodes",
        READY_WITHIN,
        async || {
            leaders = cluster.leaders().await;
            leaders.values().any(|leader| *leader != leaders[&0])
        },
    )
    .await;
    leaders
}

/// A node that leads at least one shard, and not all: killing it is a leader's death for some
/// clients and not for others.
pub(crate) fn leader_of_some(leaders: &BTreeMap<u16, NodeId>) -> NodeId {
    leaders[&0]
}

/// A transient publisher on one node.
pub(crate) async fn publisher(
    cluster: &Cluster,
    node: NodeId,
    name: &str,
    version: ProtocolVersion,
) -> Client {
    let options = ConnectOptions::transient(name, version);
    Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await
}

/// Publishes all payloads to one topic, several in flight, and waits until each is complete.
/// Acknowledgements come in the order of the messages [MQTT-4.6.0-2, MQTT-4.6.0-3].
pub(crate) async fn publish_all(client: &mut Client, qos: Qos, topic: &str, payloads: &[String]) {
    for chunk in payloads.chunks(IN_FLIGHT_MAX) {
        let ids = 1..=u16::try_from(chunk.len()).unwrap();
        for (id, payload) in ids.clone().zip(chunk) {
            let dup = false;
            client
                .publish(&Outgoing {
                    id,
                    dup,
                    qos,
                    topic,
                    payload,
                })
                .await;
        }
        for id in ids.clone() {
            match qos {
                Qos::AtMostOnce => {}
                Qos::AtLeastOnce => drop(client.expect_puback(id).await),
                Qos::ExactlyOnce => {
                    client.expect_pubrec(id).await;
                }
            }
        }
        if qos == Qos::ExactlyOnce {
            for id in ids.clone() {
                client.pubrel(id).await;
            }
            for id in ids {
                client.expect_pubcomp(id).await;
            }
        }
    }
}

/// `PREFIX/0` to `PREFIX/COUNT-1`.
pub(crate) fn payloads(prefix: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}/{number}")).collect()
}

/// What a re-sent message must look like: the same, with DUP=1.
pub(crate) fn resent(delivery: &Delivery) -> Delivery {
    Delivery {
        dup: true,
        ..delivery.clone()
    }
}

/// Runs all tasks side by side; a panic in one is a panic of the test.
pub(crate) async fn all_of<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut set = JoinSet::new();
    for (index, task) in tasks.into_iter().enumerate() {
        set.spawn(async move { (index, task.await) });
    }
    let mut results = BTreeMap::new();
    while let Some(joined) = set.join_next().await {
        match joined {
            Ok((index, result)) => drop(results.insert(index, result)),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    results.into_values().collect()
}
