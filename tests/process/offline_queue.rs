//! (e) A thousand messages for offline sessions while nodes are killed in turn; then the clients
//! connect and get all of them, in order, once (G1, G3, G4).

use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use testkit::{Client, Cluster, ConnectOptions, Receiver, Sender, SenderOptions, VERSIONS, oracle};

use crate::scene::{client_ids, options, payloads, publish_all, publisher, tag};

const MESSAGES: u64 = 1_000;
/// Spreads the QoS 2 messages over the kills.
const INTERVAL: Duration = Duration::from_millis(15);
const IN_TIME: Duration = Duration::from_secs(60);

/// One session per version and shard, subscribed to everything and gone.
async fn fall_asleep(cluster: &Cluster) -> Vec<ConnectOptions> {
    let mut sleepers = Vec::new();
    for (version, shard, client_id) in client_ids("e", cluster.shards()) {
        let options = ConnectOptions::persistent(client_id, version);
        let node = cluster.ids()[usize::from(shard) % 3];
        let address = [cluster.mqtt(node)];
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        client.subscribe("e/#", Qos::ExactlyOnce).await;
        client.disconnect().await;
        sleepers.push(options);
    }
    sleepers
}

/// A publisher of QoS 2 that goes on while nodes die.
async fn start_sender(cluster: &Cluster, version: ProtocolVersion) -> Sender {
    let client_id = format!("e-two-{}", tag(version));
    let options = SenderOptions {
        topic: format!("e/{client_id}"),
        connect: ConnectOptions::persistent(client_id, version),
        addresses: cluster.mqtt_from(1),
        qos: Qos::ExactlyOnce,
        in_flight_max: 10,
        interval: INTERVAL,
        count: Some(MESSAGES),
    };
    Sender::start(options, cluster.history()).await
}

/// QoS 1 from a node that lives, as a re-sent message may come twice: a third of the messages, then
/// one more while the node that was just killed is missing.
async fn publish_and_kill(cluster: &mut Cluster, index: usize) {
    let victim = cluster.ids()[index];
    let part = u64::try_from(index).unwrap();
    let numbers = MESSAGES * part / 3..MESSAGES * (part + 1) / 3;
    let node = cluster.others(victim)[0];
    let version = VERSIONS[index % 2];
    let mut source = publisher(cluster, node, &format!("e-one-{victim}"), version).await;
    let qos = Qos::AtLeastOnce;
    publish_all(&mut source, qos, "e/one", &payloads("one", numbers)).await;
    cluster.kill(victim);
    publish_all(&mut source, qos, "e/one", &[format!("after/{index}")]).await;
    cluster.restart_all().await;
}

/// All messages, in order, once.
async fn check(receiver: &Receiver, senders: &[String]) {
    receiver.wait_for("end", IN_TIME).await;
    for sender in senders {
        // What a PUBREC promised may be on its way still.
        let last = format!("{sender}/{}", MESSAGES - 1);
        receiver.wait_for(&last, IN_TIME).await;
        let verdict = oracle::exactly_once(&receiver.sequence(sender), MESSAGES);
        assert_eq!(verdict, Ok(()), "{} of {sender}", receiver.name());
    }
    let verdict = oracle::exactly_once(&receiver.sequence("one"), MESSAGES);
    assert_eq!(verdict, Ok(()), "{} of QoS 1", receiver.name());
    let verdict = oracle::exactly_once(&receiver.sequence("after"), 3);
    assert_eq!(verdict, Ok(()), "{} after the kills", receiver.name());
    assert_eq!(receiver.log().violations, [""; 0], "{}", receiver.name());
}

#[tokio::test]
async fn an_offline_session_gets_a_thousand_messages_after_nodes_died_in_turn() {
    let name = "an_offline_session_gets_a_thousand_messages_after_nodes_died_in_turn";
    let mut cluster = Cluster::start(name, options()).await;
    let sleepers = fall_asleep(&cluster).await;
    let mut senders = Vec::new();
    for version in VERSIONS {
        senders.push(start_sender(&cluster, version).await);
    }
    for index in 0..3 {
        publish_and_kill(&mut cluster, index).await;
    }
    let mut names = Vec::new();
    for sender in senders {
        names.push(sender.name().to_owned());
        let log = sender.finish().await;
        assert_eq!((log.begun, log.violations), (MESSAGES, Vec::new()));
    }
    let mut source = publisher(&cluster, 1, "e-end", ProtocolVersion::V5).await;
    source.publish_qos1(1, "e/end", "end").await;

    let mut receivers = Vec::new();
    for (index, options) in sleepers.into_iter().enumerate() {
        let addresses = cluster.mqtt_from(cluster.ids()[(index + 1) % 3]);
        receivers.push(Receiver::start(options, addresses, &[], cluster.history()).await);
    }
    for receiver in &receivers {
        check(receiver, &names).await;
    }
}
