//! (c) The node of a QoS 2 publisher dies before its PUBREC, after it, after the PUBREL, after the
//! PUBCOMP: the publisher goes on through another node, and every subscriber, persistent and
//! transient, on each node and in each shard, sees each message once (G3).

use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use testkit::{
    Client, Cluster, ConnectOptions, NodeId, Outgoing, Receiver, VERSIONS, client_id_in_shard,
    oracle,
};

use crate::scene::{client_ids, leader_of_some, options, spread_leaders, tag};

/// Every message uses this id: as soon as it is free, it is used again.
const ID: u16 = 5;
const FILTER: &str = "c/#";
const QOS: Qos = Qos::ExactlyOnce;
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);

/// How far the handshake was when the node died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    PublishSent,
    PubrecRead,
    PubrelSent,
    PubcompRead,
}

struct Publisher {
    options: ConnectOptions,
    topic: String,
    client: Client,
    sent: u64,
}

impl Publisher {
    async fn start(
        cluster: &Cluster,
        node: NodeId,
        version: ProtocolVersion,
        client_id: String,
    ) -> Self {
        let topic = format!("c/{client_id}");
        let options = ConnectOptions::persistent(client_id, version);
        let address = [cluster.mqtt(node)];
        let client = Client::connect_any(&address, &options, cluster.history()).await;
        Self {
            options,
            topic,
            client,
            sent: 0,
        }
    }

    async fn send_publish(&mut self, dup: bool) {
        let payload = format!("{}/{}", self.options.client_id, self.sent);
        let outgoing = Outgoing {
            id: ID,
            dup,
            qos: QOS,
            topic: &self.topic,
            payload: &payload,
        };
        self.client.publish(&outgoing).await;
    }

    /// All but the last packet of a step whose last packet we send.
    async fn prepare(&mut self, step: Step) {
        if step == Step::PublishSent {
            return;
        }
        self.send_publish(false).await;
        self.client.expect_pubrec(ID).await;
        if step == Step::PubcompRead {
            self.client.pubrel(ID).await;
            self.client.expect_pubcomp(ID).await;
        }
    }

    /// The packet that the kill follows at once.
    async fn strike(&mut self, step: Step) {
        match step {
            Step::PublishSent => self.send_publish(false).await,
            Step::PubrelSent => self.client.pubrel(ID).await,
            Step::PubrecRead | Step::PubcompRead => {}
        }
    }

    /// Goes on through another node, then uses the id for the next message.
    async fn finish(&mut self, step: Step, cluster: &Cluster, node: NodeId) {
        let address = [cluster.mqtt(node)];
        self.client = Client::connect_any(&address, &self.options, cluster.history()).await;
        assert!(
            self.client.session_present(),
            "{}: the session is lost",
            self.options.client_id
        );
        if step == Step::PublishSent {
            self.send_publish(true).await;
            let reason = self.client.expect_pubrec(ID).await;
            assert!(!reason.is_error(), "{reason:?}");
        }
        if step != Step::PubcompRead {
            self.client.pubrel(ID).await;
            self.client.expect_pubcomp(ID).await;
        }
        self.sent += 1;
        let payload = format!("{}/{}", self.options.client_id, self.sent);
        self.client.publish_qos2(ID, &self.topic, &payload).await;
        self.sent += 1;
    }
}

/// One persistent subscriber per node, shard and version.
async fn persistent_subscribers(cluster: &Cluster) -> Vec<Receiver> {
    let mut receivers = Vec::new();
    for node in cluster.ids() {
        for (version, _, client_id) in client_ids(&format!("c-persistent-{node}"), cluster.shards())
        {
            let options = ConnectOptions::persistent(client_id, version);
            let addresses = cluster.mqtt_from(node);
            receivers.push(
                Receiver::start(options, addresses, &[(FILTER, QOS)], cluster.history()).await,
            );
        }
    }
    receivers
}

/// One transient subscriber per shard and version on each of `nodes`.
async fn transient_subscribers(cluster: &Cluster, nodes: &[NodeId], step: Step) -> Vec<Receiver> {
    let mut receivers = Vec::new();
    for node in nodes {
        for version in VERSIONS {
            for shard in 0..cluster.shards() {
                let prefix = format!("c-transient-{step:?}-{node}-{}-s{shard}", tag(version));
                let client_id = client_id_in_shard(&prefix, shard, cluster.shards());
                let options = ConnectOptions::transient(client_id, version);
                let addresses = vec![cluster.mqtt(*node)];
                receivers.push(
                    Receiver::start(options, addresses, &[(FILTER, QOS)], cluster.history()).await,
                );
            }
        }
    }
    receivers
}

/// Each receiver has each publisher's messages from `first` on, once and in order.
async fn check(receivers: &[Receiver], publishers: &[Publisher], first: u64) {
    for receiver in receivers {
        for publisher in publishers {
            let name = &publisher.options.client_id;
            let last = publisher.sent - 1;
            receiver
                .wait_for(&format!("{name}/{last}"), DELIVERED_WITHIN)
                .await;
            let seen: Vec<u64> = receiver
                .sequence(name)
                .iter()
                .map(|number| number - first)
                .collect();
            let verdict = oracle::exactly_once(&seen, publisher.sent - first);
            assert_eq!(
                verdict,
                Ok(()),
                "{} of {name} from {first}",
                receiver.name()
            );
        }
        assert_eq!(receiver.log().violations, [""; 0], "{}", receiver.name());
    }
}

#[tokio::test]
async fn a_qos2_publisher_goes_on_through_another_node() {
    let mut cluster =
        Cluster::start("a_qos2_publisher_goes_on_through_another_node", options()).await;
    let mut home = leader_of_some(&spread_leaders(&cluster).await);
    let persistent = persistent_subscribers(&cluster).await;
    let mut publishers = Vec::new();
    for (version, _, client_id) in client_ids("c-publisher", cluster.shards()) {
        publishers.push(Publisher::start(&cluster, home, version, client_id).await);
    }
    for step in [
        Step::PublishSent,
        Step::PubrecRead,
        Step::PubrelSent,
        Step::PubcompRead,
    ] {
        let survivors = cluster.others(home);
        let doomed = transient_subscribers(&cluster, &[home], step).await;
        let transient = transient_subscribers(&cluster, &survivors, step).await;
        let first = publishers[0].sent;
        for publisher in &mut publishers {
            publisher.prepare(step).await;
        }
        for publisher in &mut publishers {
            publisher.strike(step).await;
        }
        cluster.kill(home);
        for publisher in &mut publishers {
            publisher.finish(step, &cluster, survivors[0]).await;
        }
        check(&transient, &publishers, first).await;
        check(&persistent, &publishers, 0).await;
        for receiver in &doomed {
            for publisher in &publishers {
                let seen = receiver.sequence(&publisher.options.client_id);
                assert_eq!(oracle::at_most_once(&seen), Ok(()), "{}", receiver.name());
            }
        }
        cluster.restart_all().await;
        home = survivors[0];
    }
}
