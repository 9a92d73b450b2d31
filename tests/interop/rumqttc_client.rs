//! rumqttc plays the scenario.

use std::net::SocketAddr;

use testkit::Cluster;

use crate::options;
use crate::rumqttc_peer::{Module, Options, Peer};

/// Messages to a shared subscription.
const SHARED: usize = 40;

/// One play: the library's module, and where the nodes are.
#[derive(Debug, Clone)]
struct Play {
    module: Module,
    nodes: [SocketAddr; 3],
    prefix: String,
}

#[tokio::test]
async fn rumqttc_works_against_a_cluster() {
    let mut cluster = Cluster::start("rumqttc_works_against_a_cluster", options()).await;
    let plays = [Module::V4, Module::V5].map(|module| Play {
        module,
        nodes: [1, 2, 3].map(|id| cluster.mqtt(id)),
        prefix: format!("rumqttc-{module:?}"),
    });
    let [v4, v5] = &plays;
    let (first, second) = tokio::join!(v4.until_kill(), v5.until_kill());
    cluster.kill(1);
    tokio::join!(v4.after_kill(first), v5.after_kill(second));
}

impl Play {
    async fn peer(&self, role: &str, node: usize, options: Options) -> Peer {
        let client_id = format!("{}-{role}", self.prefix);
        Peer::connect(self.module, self.nodes[node], (&client_id, options)).await
    }

    async fn subscriber(&self, node: usize) -> Peer {
        let options = Options {
            is_persistent: true,
            ..Options::default()
        };
        self.peer("subscriber", node, options).await
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Up to the kill of the first node; returns subscriber and publisher.
    async fn until_kill(&self) -> (Peer, Peer) {
        let mut subscriber = self.subscriber(0).await;
        assert!(!subscriber.session_present);
        let mut publisher = self.peer("publisher", 1, Options::default()).await;
        self.qos_matrix(&mut subscriber, &mut publisher).await;
        self.retained(&mut subscriber, &mut publisher).await;
        self.shared(&mut publisher).await;
        self.will(&mut subscriber).await;
        subscriber.subscribe(&self.topic("queued"), 2).await;
        (subscriber, publisher)
    }

    async fn after_kill(&self, (subscriber, mut publisher): (Peer, Peer)) {
        let topic = self.topic("queued");
        subscriber.vanish();
        for number in 0..3 {
            publisher
                .publish(&topic, &format!("one-{number}"), (1, false))
                .await;
            publisher
                .publish(&topic, &format!("two-{number}"), (2, false))
                .await;
        }
        let mut subscriber = self.subscriber(2).await;
        assert!(subscriber.session_present, "the session is lost");
        let expected = [
            ("one-0", 1),
            ("one-1", 1),
            ("one-2", 1),
            ("two-0", 2),
            ("two-1", 2),
            ("two-2", 2),
        ];
        subscriber.expect(&expected).await;
        publisher.publish(&topic, "live", (2, false)).await;
        subscriber.expect(&[("live", 2)]).await;
        subscriber.close().await;
        publisher.close().await;
    }

    async fn qos_matrix(&self, subscriber: &mut Peer, publisher: &mut Peer) {
        for granted in 0..=2 {
            let topic = self.topic(&format!("matrix/{granted}"));
            subscriber.subscribe(&topic, granted).await;
            for qos in 0..=2 {
                publisher
                    .publish(&topic, &qos.to_string(), (qos, false))
                    .await;
            }
            let expected = [("0", 0), ("1", granted.min(1)), ("2", granted.min(2))];
            subscriber.expect(&expected).await;
        }
    }

    async fn retained(&self, subscriber: &mut Peer, publisher: &mut Peer) {
        let topic = self.topic("retained");
        publisher.publish(&topic, "kept", (1, true)).await;
        subscriber.subscribe(&topic, 1).await;
        let kept = subscriber.take().await;
        assert!(kept.retain && kept.payload == "kept", "{kept:?}");
        publisher.publish(&topic, "", (1, true)).await;
        subscriber.expect(&[("", 1)]).await;
    }

    async fn shared(&self, publisher: &mut Peer) {
        let topic = self.topic("shared");
        let (filter, end) = (format!("$share/group/{topic}"), format!("{topic}/end"));
        let mut members = [
            self.peer("member-1", 0, Options::default()).await,
            self.peer("member-2", 2, Options::default()).await,
        ];
        for member in &mut members {
            member.subscribe(&filter, 1).await;
        }
        let mut expected: Vec<String> = (0..SHARED).map(|number| number.to_string()).collect();
        for payload in &expected {
            publisher.publish(&topic, payload, (1, false)).await;
        }
        // What follows comes after all of the above to each of them.
        for member in &mut members {
            member.subscribe(&end, 1).await;
        }
        publisher.publish(&end, "end", (1, false)).await;
        let mut found = Vec::new();
        for mut member in members {
            let before = found.len();
            loop {
                let payload = member.take().await.payload;
                if payload == "end" {
                    break;
                }
                found.push(payload);
            }
            assert!(found.len() > before, "a member of the group got nothing");
            member.close().await;
        }
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    async fn will(&self, subscriber: &mut Peer) {
        let topic = self.topic("will");
        subscriber.subscribe(&topic, 1).await;
        let options = Options {
            will_topic: Some(topic),
            ..Options::default()
        };
        self.peer("mortal", 2, options).await.vanish();
        subscriber.expect(&[("the will", 1)]).await;
    }
}
