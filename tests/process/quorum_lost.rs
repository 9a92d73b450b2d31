//! (h) A node without a lease acknowledges nothing, turns unready, and closes its clients within
//! lease + `quorum_lost_after` + 1 s; after healing nothing acknowledged is lost (G8).

use std::time::{Duration, Instant};

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::client::{is_acknowledgement, is_unsuback};
use testkit::connect::ConnectError;
use testkit::{
    Client, Cluster, ConnectOptions, Delivery, NodeId, Outgoing, Receiver, VERSIONS, oracle,
    wait_until,
};

use crate::scene::{options, payloads, publish_all, resent, tag};

/// The defaults of `cluster.lease` and `cluster.quorum_lost_after`.
const LEASE: Duration = Duration::from_secs(1);
const QUORUM_LOST_AFTER: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(1);
/// What a busy test machine may add to any measured time.
const BUSY: Duration = Duration::from_millis(500);
const IN_TIME: Duration = Duration::from_secs(30);
/// Messages acknowledged before the outage.
const BEFORE: u64 = 20;

/// How the other two nodes go.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Killed,
    Suspended,
}

/// A persistent client on the node that stays.
struct Lonely {
    options: ConnectOptions,
    client: Client,
    in_flight: Vec<Delivery>,
}

impl Lonely {
    fn topic(&self, kind: &str) -> String {
        format!("h/{}/{kind}", self.options.client_id)
    }

    fn payload(&self, kind: &str) -> String {
        format!("{}-{kind}", self.options.client_id)
    }

    /// Subscribes, has messages acknowledged as publisher, and leaves some unacknowledged.
    async fn start(
        cluster: &Cluster,
        node: NodeId,
        version: ProtocolVersion,
        outage: Outage,
    ) -> Self {
        let options = ConnectOptions::persistent(format!("h-{outage:?}-{}", tag(version)), version);
        let client = Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await;
        let mut lonely = Self {
            options,
            client,
            in_flight: Vec::new(),
        };
        let (filter, kept) = (lonely.topic("in"), lonely.topic("kept"));
        lonely.client.subscribe(&filter, Qos::AtLeastOnce).await;
        lonely
            .client
            .subscribe(&lonely.topic("other"), Qos::AtLeastOnce)
            .await;
        let one = payloads(&lonely.payload("one"), 0..BEFORE);
        publish_all(&mut lonely.client, Qos::AtLeastOnce, &kept, &one).await;
        let two = payloads(&lonely.payload("two"), 0..BEFORE);
        publish_all(&mut lonely.client, Qos::ExactlyOnce, &kept, &two).await;
        // A QoS 2 message whose PUBREL is still to come.
        let qos = Qos::ExactlyOnce;
        let payload = format!("{}/{BEFORE}", lonely.payload("two"));
        lonely
            .client
            .publish(&Outgoing {
                id: 77,
                dup: false,
                qos,
                topic: &kept,
                payload: &payload,
            })
            .await;
        lonely.client.expect_pubrec(77).await;
        lonely
            .client
            .publish(&Outgoing {
                id: 1,
                dup: false,
                qos: Qos::AtLeastOnce,
                topic: &filter,
                payload: "in flight",
            })
            .await;
        // Its own subscription matches: PUBACK and the message come in either order.
        let first = lonely.client.recv().await.unwrap();
        let second = lonely.client.recv().await.unwrap();
        lonely.in_flight = [first, second]
            .iter()
            .filter_map(testkit::client::delivery)
            .collect();
        assert_eq!(lonely.in_flight.len(), 1);
        lonely
    }

    /// Everything that would be acknowledged by a node with a lease.
    async fn ask_for_everything(&mut self) {
        let (kept, nobody) = (self.topic("kept"), self.topic("nobody"));
        let late = format!("{}/0", self.payload("late"));
        for (id, qos, topic, payload) in [
            (101, Qos::AtLeastOnce, &kept, "may be lost"),
            (102, Qos::AtLeastOnce, &nobody, "may be lost"),
            (103, Qos::ExactlyOnce, &kept, &late),
            (104, Qos::ExactlyOnce, &nobody, "may be lost"),
        ] {
            self.client
                .publish(&Outgoing {
                    id,
                    dup: false,
                    qos,
                    topic,
                    payload,
                })
                .await;
        }
        self.client.pubrel(77).await;
        self.client
            .send_subscribe(&self.topic("more"), Qos::AtLeastOnce)
            .await;
        self.client.send_unsubscribe(&self.topic("other")).await;
    }

    /// No acknowledgement, a reason for v5, and the close in time.
    async fn expect_closed(&mut self, outage_at: Instant) {
        let limit = (LEASE + QUORUM_LOST_AFTER + GRACE + BUSY).saturating_sub(outage_at.elapsed());
        let before = self.client.expect_closed(limit).await;
        let acknowledged: Vec<&Packet> = before
            .iter()
            .filter(|packet| is_acknowledgement(packet))
            .collect();
        assert!(
            acknowledged.is_empty(),
            "{}: {acknowledged:?} without a quorum",
            self.options.client_id
        );
        if self.options.version == ProtocolVersion::V5 {
            let Some(Packet::Disconnect(disconnect)) = before.last() else {
                panic!(
                    "{}: closed without a reason: {before:?}",
                    self.options.client_id
                )
            };
            assert!(disconnect.reason_code.is_error(), "{disconnect:?}");
        }
    }

    /// Nothing that was acknowledged is lost, and what was under way can be finished.
    async fn check_healed(&mut self, cluster: &Cluster, node: NodeId) {
        self.client =
            Client::connect_any(&[cluster.mqtt(node)], &self.options, cluster.history()).await;
        assert!(self.client.session_present(), "{}", self.options.client_id);
        assert_eq!(
            self.client.expect_publish().await,
            resent(&self.in_flight[0])
        );
        self.client.puback(self.in_flight[0].id).await;
        self.client.pubrel(77).await;
        self.client.expect_pubcomp(77).await;
        let kept = self.topic("kept");
        let qos = Qos::ExactlyOnce;
        let late = format!("{}/0", self.payload("late"));
        self.client
            .publish(&Outgoing {
                id: 103,
                dup: true,
                qos,
                topic: &kept,
                payload: &late,
            })
            .await;
        self.client.expect_pubrec(103).await;
        self.client.pubrel(103).await;
        self.client.expect_pubcomp(103).await;
        let id = self.client.send_unsubscribe(&self.topic("other")).await;
        let before = self
            .client
            .recv_until("UNSUBACK", |packet| is_unsuback(packet, id))
            .await;
        assert!(before.is_empty(), "{before:?}");
    }
}

/// A CONNECT is refused, or the connection closed, but never accepted.
async fn expect_refused(cluster: &Cluster, node: NodeId, version: ProtocolVersion) {
    let options = ConnectOptions::persistent(format!("h-refused-{}", tag(version)), version);
    match Client::connect(cluster.mqtt(node), &options, cluster.history()).await {
        Ok(_) => panic!("{version:?}: CONNECT was accepted without a quorum"),
        Err(ConnectError::Refused(connack)) => {
            assert_eq!(
                connack.reason_code,
                ReasonCode::ServerUnavailable,
                "{version:?}"
            );
        }
        Err(ConnectError::Closed(_)) => {}
        Err(error @ ConnectError::Silent(_)) => panic!("{version:?}: {error:?}"),
    }
}

/// The offline session has all that was acknowledged before the outage, and after it.
async fn check_kept(cluster: &Cluster, keeper: ConnectOptions, publishers: &[Lonely]) {
    let keeper = Receiver::start(keeper, cluster.mqtt_from(2), &[], cluster.history()).await;
    for publisher in publishers {
        let (one, two) = (publisher.payload("one"), publisher.payload("two"));
        let late = format!("{}/0", publisher.payload("late"));
        keeper.wait_for(&late, IN_TIME).await;
        assert_eq!(
            oracle::exactly_once(&keeper.sequence(&one), BEFORE),
            Ok(()),
            "{one}"
        );
        assert_eq!(
            oracle::exactly_once(&keeper.sequence(&two), BEFORE + 1),
            Ok(()),
            "{two}"
        );
        assert_eq!(keeper.sequence(&publisher.payload("late")), [0], "{late}");
    }
    assert_eq!(keeper.log().violations, [""; 0]);
}

async fn go_through(cluster: &mut Cluster, outage: Outage) {
    let ids = cluster.ids();
    let [alone, others @ ..] = ids.as_slice() else {
        panic!("three nodes")
    };
    let alone = *alone;
    let keeper = ConnectOptions::persistent(format!("h-keeper-{outage:?}"), ProtocolVersion::V5);
    let mut client = Client::connect_any(&[cluster.mqtt(alone)], &keeper, cluster.history()).await;
    client
        .subscribe(&format!("h/h-{outage:?}-v3/kept"), Qos::ExactlyOnce)
        .await;
    client
        .subscribe(&format!("h/h-{outage:?}-v5/kept"), Qos::ExactlyOnce)
        .await;
    client.disconnect().await;
    let mut clients = Vec::new();
    for version in VERSIONS {
        clients.push(Lonely::start(cluster, alone, version, outage).await);
    }

    let outage_at = Instant::now();
    for other in others {
        match outage {
            Outage::Killed => drop(cluster.kill(*other)),
            Outage::Suspended => cluster.suspend(*other).await,
        }
    }
    let limit = LEASE + GRACE + BUSY;
    wait_until("the node without a lease is unready", limit, async || {
        !cluster.is_ready(alone).await
    })
    .await;
    for client in &mut clients {
        client.ask_for_everything().await;
    }
    for client in &mut clients {
        client.expect_closed(outage_at).await;
    }
    cluster.history().note(format!(
        "clients closed {:?} after the outage",
        outage_at.elapsed()
    ));
    for version in VERSIONS {
        expect_refused(cluster, alone, version).await;
    }
    assert!(!cluster.is_ready(alone).await);
    assert!(
        cluster
            .get(alone, "/livez")
            .await
            .is_some_and(|(status, _)| status == 200)
    );

    match outage {
        Outage::Killed => cluster.restart_all().await,
        Outage::Suspended => {
            for other in others {
                cluster.wake(*other);
            }
            cluster.wait_ready().await;
        }
    }
    for client in &mut clients {
        client.check_healed(cluster, others[0]).await;
    }
    check_kept(cluster, keeper, &clients).await;
}

#[tokio::test]
async fn a_node_without_a_quorum_acknowledges_nothing_and_loses_nothing() {
    let name = "a_node_without_a_quorum_acknowledges_nothing_and_loses_nothing";
    let mut cluster = Cluster::start(name, options()).await;
    go_through(&mut cluster, Outage::Killed).await;
    go_through(&mut cluster, Outage::Suspended).await;
}
