//! (i) With fsync held on two of three nodes no acknowledgement of the durable plane leaves while
//! live traffic goes on; released, all complete. And with everything unsynced discarded on all
//! three nodes, every acknowledged message is there (G1).

use std::time::{Duration, Instant};

use codec::{Packet, ProtocolVersion, Qos};
use testkit::client::is_unsuback;
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, NodeId, Outgoing, Receiver, VERSIONS,
    let_pass, report,
};

use crate::load::{Load, note_acknowledged};
use crate::scene::{options, tag};

/// How long fsyncs are held.
const HELD: Duration = Duration::from_secs(2);
const IN_TIME: Duration = Duration::from_secs(30);

/// One client per thing that a node may only say after a quorum has synced it.
struct Waiting {
    version: ProtocolVersion,
    name: String,
    publish_one: Client,
    publish_two: Client,
    release: Client,
    subscribe: Client,
    subscribe_id: u16,
    unsubscribe: Client,
    unsubscribe_id: u16,
    connect: Client,
}

impl Waiting {
    async fn start(cluster: &Cluster, node: NodeId, version: ProtocolVersion) -> Self {
        let name = format!("i-{}-{node}", tag(version));
        let mut clients = Vec::new();
        for kind in ["one", "two", "release", "subscribe", "unsubscribe"] {
            let options = ConnectOptions::persistent(format!("{name}-{kind}"), version);
            clients.push(
                Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await,
            );
        }
        let last = format!("{name}-connect");
        let connect = Client::open(cluster.mqtt(node), &last, version, cluster.history()).await;
        let connect = connect.expect("the node listens");
        let [
            publish_one,
            publish_two,
            mut release,
            subscribe,
            mut unsubscribe,
        ] = <[Client; 5]>::try_from(clients).expect("five of them");
        let topic = format!("i-durable/{name}");
        let (qos, payload) = (Qos::ExactlyOnce, format!("{name}-release"));
        release
            .publish(&Outgoing {
                id: 1,
                dup: false,
                qos,
                topic: &topic,
                payload: &payload,
            })
            .await;
        release.expect_pubrec(1).await;
        unsubscribe.subscribe("i-nothing", Qos::AtLeastOnce).await;
        let (subscribe_id, unsubscribe_id) = (0, 0);
        Self {
            version,
            name,
            publish_one,
            publish_two,
            release,
            subscribe,
            subscribe_id,
            unsubscribe,
            unsubscribe_id,
            connect,
        }
    }

    async fn ask(&mut self) {
        let topic = format!("i-durable/{}", self.name);
        let (one, two) = (format!("{}-one", self.name), format!("{}-two", self.name));
        let outgoing = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic: &topic,
            payload: &one,
        };
        self.publish_one.publish(&outgoing).await;
        let outgoing = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic: &topic,
            payload: &two,
        };
        self.publish_two.publish(&outgoing).await;
        self.release.pubrel(1).await;
        self.subscribe_id = self
            .subscribe
            .send_subscribe("i-nothing", Qos::AtLeastOnce)
            .await;
        self.unsubscribe_id = self.unsubscribe.send_unsubscribe("i-nothing").await;
        let options = ConnectOptions::persistent(format!("{}-connect", self.name), self.version);
        self.connect
            .send(&Packet::Connect(Box::new(options.packet())))
            .await;
    }

    /// All connections are served, but nothing of the durable plane is answered.
    async fn check_unanswered(&mut self) {
        let Self {
            publish_one,
            publish_two,
            release,
            subscribe,
            unsubscribe,
            connect,
            name,
            ..
        } = self;
        for client in [publish_one, publish_two, release, subscribe, unsubscribe] {
            let answers = client.ping_barrier().await;
            assert!(
                answers.is_empty(),
                "{name}: {answers:?} while fsync is held"
            );
        }
        let answer = connect.recv_within(Duration::from_millis(1)).await;
        assert!(answer.is_err(), "{name}: {answer:?} while fsync is held");
    }

    async fn check_answered(&mut self) {
        self.publish_one.expect_puback(1).await;
        self.publish_two.expect_pubrec(1).await;
        self.publish_two.pubrel(1).await;
        self.publish_two.expect_pubcomp(1).await;
        self.release.expect_pubcomp(1).await;
        let id = self.subscribe_id;
        let is_answer = |packet: &Packet| matches!(packet, Packet::Suback(suback) if suback.packet_id.get() == id);
        self.subscribe
            .expect("SUBACK", |packet| is_answer(packet).then_some(()))
            .await;
        let id = self.unsubscribe_id;
        self.unsubscribe
            .expect("UNSUBACK", |packet| is_unsuback(packet, id).then_some(()))
            .await;
        self.connect
            .expect("CONNACK", |packet| {
                matches!(packet, Packet::Connack(_)).then_some(())
            })
            .await;
    }
}

/// A publisher and a subscriber per version and node, all transient.
struct Live {
    publishers: Vec<Client>,
    receivers: Vec<Receiver>,
    published: u64,
}

impl Live {
    async fn start(cluster: &Cluster) -> Self {
        let (mut publishers, mut receivers) = (Vec::new(), Vec::new());
        for version in VERSIONS {
            for node in cluster.ids() {
                let name = format!("i-live-{}-{node}", tag(version));
                let addresses = vec![cluster.mqtt(node)];
                let options = ConnectOptions::transient(format!("{name}-subscriber"), version);
                let filter = [("i-live", Qos::AtLeastOnce)];
                receivers.push(
                    Receiver::start(options, addresses.clone(), &filter, cluster.history()).await,
                );
                let options = ConnectOptions::transient(format!("{name}-publisher"), version);
                publishers.push(Client::connect_any(&addresses, &options, cluster.history()).await);
            }
        }
        Self {
            publishers,
            receivers,
            published: 0,
        }
    }

    /// One message from each publisher, acknowledged and received by all.
    async fn round(&mut self) {
        for publisher in &mut self.publishers {
            let payload = format!("live/{}", self.published);
            publisher.publish_qos1(1, "i-live", &payload).await;
            self.published += 1;
        }
        for receiver in &self.receivers {
            receiver
                .wait_for(&format!("live/{}", self.published - 1), IN_TIME)
                .await;
        }
    }
}

#[tokio::test]
async fn nothing_durable_is_acknowledged_while_two_nodes_can_not_sync() {
    let name = "nothing_durable_is_acknowledged_while_two_nodes_can_not_sync";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            shim: true,
            ..options()
        },
    )
    .await;
    let subscriber = ConnectOptions::persistent("i-durable", ProtocolVersion::V5);
    let filter = [("i-durable/#", Qos::ExactlyOnce)];
    let durable =
        Receiver::start(subscriber, cluster.mqtt_from(1), &filter, cluster.history()).await;
    let mut live = Live::start(&cluster).await;
    let mut waiting = Vec::new();
    for version in VERSIONS {
        for node in cluster.ids() {
            waiting.push(Waiting::start(&cluster, node, version).await);
        }
    }
    live.round().await;

    cluster.history().note("fsync is held on nodes 2 and 3");
    cluster.shim(2).hold();
    cluster.shim(3).hold();
    let held = Instant::now();
    for one in &mut waiting {
        one.ask().await;
    }
    let before = live.published;
    while held.elapsed() < HELD {
        live.round().await;
    }
    report(&format!(
        "{} live messages acknowledged while fsync was held",
        live.published - before
    ));
    for one in &mut waiting {
        one.check_unanswered().await;
    }
    cluster.history().note("fsync is released");
    cluster.shim(2).release();
    cluster.shim(3).release();

    for one in &mut waiting {
        one.check_answered().await;
        for kind in ["one", "two", "release"] {
            durable
                .wait_for(&format!("{}-{kind}", one.name), IN_TIME)
                .await;
        }
    }
    assert_eq!(durable.log().violations, [""; 0]);
    assert_eq!(
        durable.log().messages.len(),
        3 * waiting.len(),
        "each message once"
    );
}

/// Messages that every publisher has acknowledged before each power failure.
const BEFORE_FAILURE: usize = 30;
/// The failure comes at a random instant of this span after that.
const SPAN_MS: u64 = 500;
const ROUNDS: usize = 2;

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_all_nodes_lose_what_they_did_not_sync() {
    let name = "nothing_acknowledged_is_lost_when_all_nodes_lose_what_they_did_not_sync";
    let mut cluster = Cluster::start(
        name,
        ClusterOptions {
            shim: true,
            ..options()
        },
    )
    .await;
    let load = Load::start(&cluster, "i-power").await;
    for _ in 0..ROUNDS {
        load.progress(BEFORE_FAILURE).await;
        let wait = cluster.random().below(SPAN_MS);
        let_pass(Duration::from_millis(wait)).await;
        note_acknowledged(cluster.history(), &load);
        cluster.kill_all();
        let discarded: Vec<u64> = cluster
            .ids()
            .iter()
            .map(|id| cluster.shim(*id).discard_unsynced())
            .collect();
        cluster
            .history()
            .note(format!("bytes discarded on each node: {discarded:?}"));
        cluster.restart_all().await;
    }
    load.progress(1).await;
    load.finish(&cluster).await;
}
