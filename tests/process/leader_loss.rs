//! (d) A shard's leader dies while the client's own node lives: its connection stays, nothing is
//! re-sent on it, nothing is lost. And a publisher's node dies right after its PUBACK: live
//! subscribers elsewhere still get the message (G2, G10).

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos};
use testkit::client::delivery;
use testkit::{
    Client, Cluster, ConnectOptions, Delivery, NodeId, Outgoing, Receiver, VERSIONS, oracle,
};

use crate::scene::{client_ids, options, payloads, publish_all, publisher, resent, tag};

/// Messages in each state when the leader dies.
const EACH: usize = 3;
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);

/// A persistent subscriber that also publishes with QoS 2.
struct Subject {
    options: ConnectOptions,
    client: Client,
    /// QoS 1, not acknowledged.
    unacknowledged: Vec<Delivery>,
    /// QoS 2, no PUBREC sent.
    unreceived: Vec<Delivery>,
    /// QoS 2, PUBREL seen.
    released: Vec<u16>,
}

impl Subject {
    fn topic(&self, kind: &str) -> String {
        format!("d/{}/{kind}", self.options.client_id)
    }

    async fn start(
        cluster: &Cluster,
        node: NodeId,
        version: ProtocolVersion,
        client_id: String,
    ) -> Self {
        let options = ConnectOptions::persistent(client_id, version);
        let address = [cluster.mqtt(node)];
        let client = Client::connect_any(&address, &options, cluster.history()).await;
        let (unacknowledged, unreceived, released) = (Vec::new(), Vec::new(), Vec::new());
        let mut subject = Self {
            options,
            client,
            unacknowledged,
            unreceived,
            released,
        };
        let filter = subject.topic("+");
        assert!(
            subject
                .client
                .subscribe(&filter, Qos::ExactlyOnce)
                .await
                .is_empty()
        );
        subject
    }

    async fn fill(&mut self, source: &mut Client) {
        let each = u64::try_from(EACH).unwrap();
        let (one, two) = (self.topic("one"), self.topic("two"));
        publish_all(source, Qos::AtLeastOnce, &one, &payloads("one", 0..each)).await;
        for _ in 0..EACH {
            self.unacknowledged.push(self.client.expect_publish().await);
        }
        publish_all(
            source,
            Qos::ExactlyOnce,
            &two,
            &payloads("two", 0..2 * each),
        )
        .await;
        for _ in 0..EACH {
            self.unreceived.push(self.client.expect_publish().await);
        }
        for _ in 0..EACH {
            self.released.push(self.client.expect_publish().await.id);
        }
        for id in &self.released {
            self.client.pubrec(*id).await;
            self.client.expect_pubrel(*id).await;
        }
    }

    /// As publisher: one message whose PUBREC came and whose PUBREL goes out now, one new one.
    async fn prepare(&mut self) {
        let topic = self.topic("own");
        let payload = "own/0";
        let outgoing = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic: &topic,
            payload,
        };
        self.client.publish(&outgoing).await;
        // Its own subscription matches: PUBREC and the message come in either order.
        let mut message = None;
        let mut received = false;
        while message.is_none() || !received {
            match self.client.recv().await.unwrap() {
                Packet::Pubrec(ack) if ack.packet_id.get() == 1 => received = true,
                packet => {
                    message =
                        Some(delivery(&packet).unwrap_or_else(|| panic!("unexpected {packet:?}")))
                }
            }
        }
        self.unreceived.extend(message);
    }

    async fn strike(&mut self) {
        self.client.pubrel(1).await;
        let topic = self.topic("own");
        let payload = "own/1";
        let outgoing = Outgoing {
            id: 2,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic: &topic,
            payload,
        };
        self.client.publish(&outgoing).await;
    }

    /// On the same connection: each answer once, the new message once, nothing sent again.
    async fn finish_own(&mut self) {
        let mut answers = Vec::new();
        for _ in 0..3 {
            match self.client.recv().await.unwrap() {
                Packet::Pubcomp(ack) => answers.push(format!("PUBCOMP {}", ack.packet_id)),
                Packet::Pubrec(ack) => answers.push(format!("PUBREC {}", ack.packet_id)),
                packet => {
                    let message =
                        delivery(&packet).unwrap_or_else(|| panic!("unexpected {packet:?}"));
                    assert_eq!((message.payload.as_str(), message.dup), ("own/1", false));
                    answers.push("message".to_owned());
                    self.unreceived.push(message);
                }
            }
        }
        answers.sort();
        assert_eq!(
            answers,
            ["PUBCOMP 1", "PUBREC 2", "message"],
            "{}",
            self.options.client_id
        );
        self.client.pubrel(2).await;
        self.client.expect_pubcomp(2).await;
        let more = self.client.ping_barrier().await;
        assert!(
            more.is_empty(),
            "{}: sent again: {more:?}",
            self.options.client_id
        );
    }

    /// All handshakes complete on the same connection, and a new message comes.
    async fn complete(&mut self, source: &mut Client) {
        for message in &self.unacknowledged {
            self.client.puback(message.id).await;
        }
        for message in std::mem::take(&mut self.unreceived) {
            self.client.pubrec(message.id).await;
            self.client.expect_pubrel(message.id).await;
            self.released.push(message.id);
        }
        for id in &self.released {
            self.client.pubcomp(*id).await;
        }
        assert!(self.client.commit_barrier().await.is_empty());
        let topic = self.topic("one");
        publish_all(source, Qos::AtLeastOnce, &topic, &["after".to_owned()]).await;
        let after = self.client.expect_publish().await;
        assert_eq!((after.payload.as_str(), after.dup), ("after", false));
        self.unacknowledged = vec![after];
    }

    /// Only what was not acknowledged comes back on another connection.
    async fn check_resumption(&mut self, cluster: &Cluster, node: NodeId) {
        let address = [cluster.mqtt(node)];
        self.client = Client::connect_any(&address, &self.options, cluster.history()).await;
        assert!(self.client.session_present());
        assert_eq!(
            self.client.expect_publish().await,
            resent(&self.unacknowledged[0])
        );
        let more = self.client.ping_barrier().await;
        assert!(more.is_empty(), "{}: {more:?}", self.options.client_id);
    }
}

#[tokio::test]
async fn a_connection_survives_the_death_of_its_shards_leader() {
    let name = "a_connection_survives_the_death_of_its_shards_leader";
    let mut cluster = Cluster::start(name, options()).await;
    let leaders = cluster.leaders().await;
    let victim = leaders[&1];
    let [near, far] = cluster.others(victim)[..] else {
        panic!("three nodes")
    };
    let mut source = publisher(&cluster, far, "d-source", ProtocolVersion::V5).await;
    let mut subjects = Vec::new();
    for (version, _, client_id) in client_ids("d", cluster.shards()) {
        subjects.push(Subject::start(&cluster, near, version, client_id).await);
    }
    for subject in &mut subjects {
        subject.fill(&mut source).await;
        subject.prepare().await;
    }
    for subject in &mut subjects {
        subject.strike().await;
    }

    cluster.kill(victim);
    for subject in &mut subjects {
        subject.finish_own().await;
        subject.complete(&mut source).await;
    }
    for subject in &mut subjects {
        subject.check_resumption(&cluster, far).await;
    }
}

/// Messages in flight when the publisher's node dies.
const BURST: u16 = 20;
/// The node dies when this acknowledgement was read.
const LAST_READ: u16 = 10;

/// One publisher per version and QoS on the node that dies.
async fn burst(client: &mut Client, qos: Qos, topic: &str) {
    for id in 1..=BURST {
        let payload = format!("{topic}/{}", id - 1);
        client
            .publish(&Outgoing {
                id,
                dup: false,
                qos,
                topic,
                payload: &payload,
            })
            .await;
    }
    for id in 1..=LAST_READ {
        match qos {
            Qos::AtLeastOnce => client.expect_puback(id).await,
            _ => client.expect_pubrec(id).await,
        };
    }
}

#[tokio::test]
async fn live_subscribers_get_what_was_acknowledged_just_before_the_publishers_node_died() {
    let name = "live_subscribers_get_what_was_acknowledged_just_before_the_publishers_node_died";
    let mut cluster = Cluster::start(name, options()).await;
    for victim in cluster.ids() {
        let mut receivers = Vec::new();
        for node in cluster.others(victim) {
            for version in VERSIONS {
                let client_id = format!("d-live-{}-{victim}-{node}", tag(version));
                let options = ConnectOptions::transient(client_id, version);
                let filter = [("d-live/#", Qos::ExactlyOnce)];
                let addresses = vec![cluster.mqtt(node)];
                receivers
                    .push(Receiver::start(options, addresses, &filter, cluster.history()).await);
            }
        }
        let mut topics = Vec::new();
        let mut clients = Vec::new();
        for version in VERSIONS {
            for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                for kind in ["transient", "persistent"] {
                    let topic = format!("d-live/{victim}/{}/q{}/{kind}", tag(version), qos.as_u8());
                    let client_id = topic.replace('/', "-");
                    let options = match kind {
                        "transient" => ConnectOptions::transient(client_id, version),
                        _ => ConnectOptions::persistent(client_id, version),
                    };
                    let address = [cluster.mqtt(victim)];
                    let mut client =
                        Client::connect_any(&address, &options, cluster.history()).await;
                    burst(&mut client, qos, &topic).await;
                    clients.push(client);
                    topics.push(topic);
                }
            }
        }
        // The bursts took a while: one more acknowledgement, and the kill right after it.
        let mut last = publisher(
            &cluster,
            victim,
            &format!("d-last-{victim}"),
            ProtocolVersion::V5,
        )
        .await;
        let topic = format!("d-live/{victim}/last");
        last.publish_qos1(1, &topic, &format!("{topic}/0")).await;
        cluster.kill(victim);

        for receiver in &receivers {
            receiver
                .wait_for(&format!("{topic}/0"), DELIVERED_WITHIN)
                .await;
            for topic in &topics {
                let newest = u64::from(LAST_READ) - 1;
                receiver
                    .wait_for(&format!("{topic}/{newest}"), DELIVERED_WITHIN)
                    .await;
                let acknowledged: Vec<u64> = (0..=newest).collect();
                let verdict = oracle::at_least_once(&receiver.sequence(topic), &acknowledged);
                assert_eq!(verdict, Ok(()), "{} of {topic}", receiver.name());
            }
            assert_eq!(receiver.log().violations, [""; 0], "{}", receiver.name());
        }
        cluster.restart_all().await;
    }
}
