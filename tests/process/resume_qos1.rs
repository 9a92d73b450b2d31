//! (a) QoS 1 messages that were not acknowledged when a node died come back on another one: exactly
//! those, with their packet ids, in their order, with DUP=1 (G2).

use codec::{ProtocolVersion, Qos};
use testkit::client::delivery;
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, Delivery, VERSIONS, client_id_in_shard,
};

use crate::scene::{
    leader_of_some, options, payloads, publish_all, publisher, resent, spread_leaders, tag,
};

/// Our own window, which is all that 3.1.1 has.
const INFLIGHT_MAX: u16 = 32;
/// The window of v5 clients.
const RECEIVE_MAXIMUM: u16 = 24;
/// Messages without acknowledgement: one, several, more than either window.
const COUNTS: [u64; 3] = [1, 20, 50];
/// Messages received and acknowledged before.
const BEFORE: u64 = 5;
/// Of the first twenty or more, these are acknowledged out of order.
const ACKNOWLEDGED: [usize; 2] = [7, 3];

struct Subscriber {
    options: ConnectOptions,
    topic: String,
    count: u64,
    client: Client,
    /// Received and not acknowledged, in order.
    in_flight: Vec<Delivery>,
    /// Messages of the test proper that were sent to us so far.
    sent: u64,
}

impl Subscriber {
    async fn start(
        cluster: &Cluster,
        node: u16,
        version: ProtocolVersion,
        shard: u16,
        count: u64,
    ) -> Self {
        let prefix = format!("a-{}-s{shard}-k{count}", tag(version));
        let client_id = client_id_in_shard(&prefix, shard, cluster.shards());
        let topic = format!("a/{client_id}");
        let options =
            ConnectOptions::persistent(client_id, version).receive_maximum(RECEIVE_MAXIMUM);
        let address = [cluster.mqtt(node)];
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        assert!(!client.session_present());
        assert!(client.subscribe(&topic, Qos::AtLeastOnce).await.is_empty());
        Self {
            options,
            topic,
            count,
            client,
            in_flight: Vec::new(),
            sent: 0,
        }
    }

    fn window(&self) -> usize {
        usize::from(match self.options.version {
            ProtocolVersion::V5 => RECEIVE_MAXIMUM,
            ProtocolVersion::V31 | ProtocolVersion::V311 => INFLIGHT_MAX,
        })
    }

    /// Receives all that the window lets through, and not one more.
    async fn fill(&mut self) {
        while self.in_flight.len() < self.window() && self.sent < self.count {
            let message = self.client.expect_publish().await;
            self.check_new(&message);
        }
        let more = self.client.ping_barrier().await;
        assert!(
            more.is_empty(),
            "{}: more than the window: {more:?}",
            self.options.client_id
        );
    }

    fn check_new(&mut self, message: &Delivery) {
        let expected = format!("{}/{}", self.topic, BEFORE + self.sent);
        assert_eq!(
            (message.payload.as_str(), message.dup),
            (expected.as_str(), false)
        );
        assert!(
            self.in_flight.iter().all(|other| other.id != message.id),
            "{}: id {} is still in flight",
            self.options.client_id,
            message.id
        );
        self.in_flight.push(message.clone());
        self.sent += 1;
    }

    /// Acknowledges some in the middle, out of order, for good.
    async fn acknowledge_some(&mut self) {
        for index in ACKNOWLEDGED {
            if index < self.in_flight.len() {
                let message = self.in_flight.remove(index);
                self.client.puback(message.id).await;
            }
        }
        for packet in self.client.commit_barrier().await {
            let message = delivery(&packet).unwrap_or_else(|| panic!("unexpected {packet:?}"));
            self.check_new(&message);
        }
        self.fill().await;
    }

    async fn resume(&mut self, cluster: &Cluster, first: u16) {
        let addresses: Vec<_> = cluster
            .mqtt_from(first)
            .into_iter()
            .filter(|address| {
                cluster
                    .running()
                    .iter()
                    .any(|id| cluster.mqtt(*id) == *address)
            })
            .collect();
        self.client = Client::connect_any(&addresses, &self.options, cluster.history()).await;
        assert!(
            self.client.session_present(),
            "{}: the session is lost",
            self.options.client_id
        );
        for message in &self.in_flight {
            assert_eq!(self.client.expect_publish().await, resent(message));
        }
        let more = self.client.ping_barrier().await;
        assert!(
            more.is_empty(),
            "{}: more than was in flight: {more:?}",
            self.options.client_id
        );
    }

    /// Acknowledges everything; the rest of the queue follows, then the message `end`.
    async fn drain(&mut self) {
        let mut acknowledged = 0;
        while acknowledged < self.in_flight.len() || self.sent < self.count {
            if acknowledged < self.in_flight.len() {
                let id = self.in_flight[acknowledged].id;
                self.client.puback(id).await;
                acknowledged += 1;
            }
            if self.sent < self.count {
                let message = self.client.expect_publish().await;
                let expected = format!("{}/{}", self.topic, BEFORE + self.sent);
                assert_eq!(
                    (message.payload.as_str(), message.dup),
                    (expected.as_str(), false)
                );
                let unacknowledged = &self.in_flight[acknowledged..];
                assert!(unacknowledged.iter().all(|other| other.id != message.id));
                self.in_flight.push(message);
                self.sent += 1;
            }
        }
        let end = self.client.take_message().await;
        assert_eq!((end.payload.as_str(), end.dup), ("end", false));
    }
}

#[tokio::test]
async fn unacknowledged_qos1_messages_resume_on_another_node() {
    let options = ClusterOptions {
        inflight_max: INFLIGHT_MAX,
        ..options()
    };
    let mut cluster = Cluster::start(
        "unacknowledged_qos1_messages_resume_on_another_node",
        options,
    )
    .await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [second, third] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let mut subscribers = Vec::new();
    for version in VERSIONS {
        for shard in 0..cluster.shards() {
            for count in COUNTS {
                subscribers.push(Subscriber::start(&cluster, home, version, shard, count).await);
            }
        }
    }
    let mut source = publisher(&cluster, third, "a-source", ProtocolVersion::V311).await;
    for subscriber in &mut subscribers {
        let topic = subscriber.topic.clone();
        publish_all(
            &mut source,
            Qos::AtLeastOnce,
            &topic,
            &payloads(&topic, 0..BEFORE),
        )
        .await;
        for number in 0..BEFORE {
            let message = subscriber.client.take_message().await;
            assert_eq!(
                (message.payload, message.dup),
                (format!("{topic}/{number}"), false)
            );
        }
        assert!(subscriber.client.commit_barrier().await.is_empty());
        let numbers = BEFORE..BEFORE + subscriber.count;
        publish_all(
            &mut source,
            Qos::AtLeastOnce,
            &topic,
            &payloads(&topic, numbers),
        )
        .await;
        subscriber.fill().await;
        subscriber.acknowledge_some().await;
    }

    cluster.kill(home);
    for subscriber in &mut subscribers {
        subscriber.resume(&cluster, second).await;
    }
    cluster.restart_all().await;
    cluster.kill(second);
    for subscriber in &mut subscribers {
        subscriber.resume(&cluster, third).await;
    }
    for subscriber in &mut subscribers {
        let end = ["end".to_owned()];
        publish_all(&mut source, Qos::AtLeastOnce, &subscriber.topic, &end).await;
        subscriber.drain().await;
    }
}
