//! (b) QoS 2 handshakes in every state when a node dies: PUBLISH with DUP=1 where no PUBREC was
//! recorded, PUBREL where one was, same ids, in order, no payload twice (G2, G3).

use std::collections::BTreeSet;

use codec::{Packet, ProtocolVersion, Qos};
use testkit::client::delivery;
use testkit::{Client, Cluster, ConnectOptions, Delivery, NodeId};

use crate::scene::{
    client_ids, leader_of_some, options, payloads, publish_all, publisher, resent, spread_leaders,
};

/// Handshakes complete before: their ids are free.
const COMPLETE: u64 = 2;
/// Received, no PUBREC sent.
const UNRECEIVED: usize = 3;
/// PUBREC sent, PUBREL seen, no PUBCOMP sent.
const RELEASED: usize = 3;
/// PUBREC sent just before the kill: it may have been recorded, or not.
const UNCERTAIN: usize = 2;
/// Published after the first resumption.
const NEW: u64 = 5;

struct Subscriber {
    options: ConnectOptions,
    topic: String,
    client: Client,
    /// PUBREC not recorded for certain, in order received.
    unreceived: Vec<Delivery>,
    /// PUBREL seen, in the order of the PUBRECs.
    released: Vec<u16>,
    /// PUBREC sent, in order; nothing was heard.
    uncertain: Vec<Delivery>,
    /// What the application got.
    handed_on: Vec<String>,
}

impl Subscriber {
    async fn start(
        cluster: &Cluster,
        node: NodeId,
        version: ProtocolVersion,
        client_id: String,
    ) -> Self {
        let topic = format!("b/{client_id}");
        let options = ConnectOptions::persistent(client_id, version);
        let address = [cluster.mqtt(node)];
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        assert!(client.subscribe(&topic, Qos::ExactlyOnce).await.is_empty());
        let (unreceived, uncertain) = (Vec::new(), Vec::new());
        Self {
            options,
            topic,
            client,
            unreceived,
            released: Vec::new(),
            uncertain,
            handed_on: Vec::new(),
        }
    }

    /// Receives messages and completes their handshakes.
    async fn take_complete(&mut self) {
        for _ in 0..COMPLETE {
            let message = self.client.expect_publish().await;
            self.handed_on.push(message.payload.clone());
            self.unreceived.push(message);
        }
        self.complete().await;
    }

    /// Receives the messages and brings their handshakes to their steps.
    async fn advance(&mut self) {
        for _ in 0..UNRECEIVED {
            let message = self.client.expect_publish().await;
            self.handed_on.push(message.payload.clone());
            self.unreceived.push(message);
        }
        let mut released = Vec::new();
        for _ in 0..RELEASED {
            let message = self.client.expect_publish().await;
            self.handed_on.push(message.payload);
            released.push(message.id);
        }
        for _ in 0..UNCERTAIN {
            let message = self.client.expect_publish().await;
            self.handed_on.push(message.payload.clone());
            self.uncertain.push(message);
        }
        // PUBRELs follow the order of the PUBRECs, not that of the messages [MQTT-4.6.0-4].
        released.reverse();
        for id in released {
            self.client.pubrec(id).await;
            self.client.expect_pubrel(id).await;
            self.released.push(id);
        }
    }

    /// Sends the PUBRECs whose fate the kill leaves open.
    async fn strike(&mut self) {
        for message in &self.uncertain {
            self.client.pubrec(message.id).await;
        }
    }

    async fn resume(&mut self, cluster: &Cluster, node: NodeId) {
        let address = [cluster.mqtt(node)];
        self.client = Client::connect_any(&address, &self.options, cluster.history()).await;
        assert!(
            self.client.session_present(),
            "{}: the session is lost",
            self.options.client_id
        );
        let (mut publishes, mut pubrels) = (Vec::new(), Vec::new());
        for _ in 0..self.unreceived.len() + self.released.len() + self.uncertain.len() {
            match self.client.recv().await.unwrap() {
                packet @ Packet::Publish(_) => publishes.push(delivery(&packet).unwrap()),
                Packet::Pubrel(ack) => pubrels.push(ack.packet_id.get()),
                other => panic!("unexpected {other:?}"),
            }
        }
        let more = self.client.ping_barrier().await;
        assert!(
            more.is_empty(),
            "{}: more than was in flight: {more:?}",
            self.options.client_id
        );
        self.settle(&pubrels);
        let expected: Vec<Delivery> = self.unreceived.iter().map(resent).collect();
        assert_eq!(
            publishes, expected,
            "{}: PUBLISH in order",
            self.options.client_id
        );
        assert_eq!(
            pubrels, self.released,
            "{}: PUBREL in order of PUBREC",
            self.options.client_id
        );
    }

    /// Of the PUBRECs sent last, the first ones may have been recorded and the others not.
    fn settle(&mut self, pubrels: &[u16]) {
        let uncertain = std::mem::take(&mut self.uncertain);
        let recorded = uncertain
            .iter()
            .take_while(|message| pubrels.contains(&message.id))
            .count();
        for (index, message) in uncertain.into_iter().enumerate() {
            if index < recorded {
                self.released.push(message.id);
            } else {
                self.unreceived.push(message);
            }
        }
    }

    /// New messages never take an id that is in flight.
    async fn take_new(&mut self) {
        let mut in_flight: BTreeSet<u16> = self.released.iter().copied().collect();
        in_flight.extend(self.unreceived.iter().map(|message| message.id));
        for _ in 0..NEW {
            let message = self.client.expect_publish().await;
            assert!(!message.dup, "{message:?}");
            assert!(
                in_flight.insert(message.id),
                "{message:?} takes an id in flight"
            );
            self.handed_on.push(message.payload.clone());
            self.unreceived.push(message);
        }
    }

    async fn complete(&mut self) {
        for message in std::mem::take(&mut self.unreceived) {
            self.client.pubrec(message.id).await;
            self.client.expect_pubrel(message.id).await;
            self.released.push(message.id);
        }
        for id in std::mem::take(&mut self.released) {
            self.client.pubcomp(id).await;
        }
        assert!(self.client.commit_barrier().await.is_empty());
    }
}

#[tokio::test]
async fn qos2_handshakes_resume_at_their_step_on_another_node() {
    let name = "qos2_handshakes_resume_at_their_step_on_another_node";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [second, third] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let mut subscribers = Vec::new();
    for (version, _, client_id) in client_ids("b", cluster.shards()) {
        subscribers.push(Subscriber::start(&cluster, home, version, client_id).await);
    }
    let mut source = publisher(&cluster, third, "b-source", ProtocolVersion::V5).await;
    let count = COMPLETE + u64::try_from(UNRECEIVED + RELEASED + UNCERTAIN).unwrap();
    for subscriber in &mut subscribers {
        let topic = subscriber.topic.clone();
        publish_all(
            &mut source,
            Qos::ExactlyOnce,
            &topic,
            &payloads(&topic, 0..COMPLETE),
        )
        .await;
        subscriber.take_complete().await;
        publish_all(
            &mut source,
            Qos::ExactlyOnce,
            &topic,
            &payloads(&topic, COMPLETE..count),
        )
        .await;
        subscriber.advance().await;
    }
    for subscriber in &mut subscribers {
        subscriber.strike().await;
    }

    cluster.kill(home);
    for subscriber in &mut subscribers {
        subscriber.resume(&cluster, second).await;
        let topic = subscriber.topic.clone();
        let new = payloads(&topic, count..count + NEW);
        publish_all(&mut source, Qos::ExactlyOnce, &topic, &new).await;
        subscriber.take_new().await;
    }
    cluster.restart_all().await;
    cluster.kill(second);
    for subscriber in &mut subscribers {
        subscriber.resume(&cluster, home).await;
        subscriber.complete().await;
        // Nothing is left, not even on another connection.
        subscriber.resume(&cluster, third).await;
        let expected = payloads(&subscriber.topic, 0..count + NEW);
        assert_eq!(
            subscriber.handed_on, expected,
            "each payload once, in order"
        );
    }
}
