//! (g) One connection per client id in the whole cluster: the older one is closed and what is in
//! flight moves. A node that slept with acknowledgements and publishes unread in its sockets wakes,
//! and nothing that it then reads changes anything (G6).

use std::time::{Duration, Instant};

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::client::{RecvError, delivery, is_acknowledgement};
use testkit::{
    Client, Cluster, ConnectOptions, Delivery, NodeId, Outgoing, Receiver, VERSIONS, let_pass,
    wait_until,
};

use crate::scene::{
    all_of, client_ids, leader_of_some, options, payloads, publish_all, publisher, resent,
    spread_leaders, tag,
};

/// Until the older connection notices.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
const IN_TIME: Duration = Duration::from_secs(30);

/// The older connection ends: v5 is told why [MQTT-3.1.4-3], 3.1.1 is just closed [MQTT-3.1.4-2].
async fn expect_taken_over(client: &mut Client, version: ProtocolVersion) {
    let before = client.expect_closed(CLOSED_WITHIN).await;
    match (version, before.as_slice()) {
        (ProtocolVersion::V5, [Packet::Disconnect(disconnect)]) => {
            assert_eq!(disconnect.reason_code, ReasonCode::SessionTakenOver);
        }
        (ProtocolVersion::V31 | ProtocolVersion::V311, []) => {}
        (version, before) => panic!("{version:?} got {before:?} before the close"),
    }
}

#[tokio::test]
async fn a_client_id_on_another_node_closes_the_older_connection() {
    let name = "a_client_id_on_another_node_closes_the_older_connection";
    let cluster = Cluster::start(name, options()).await;
    let mut source = publisher(&cluster, 3, "g-source", ProtocolVersion::V5).await;
    for (version, _, client_id) in client_ids("g-move", cluster.shards()) {
        let topic = format!("g/{client_id}");
        let options = ConnectOptions::persistent(client_id, version);
        let mut client = Client::connect_any(&[cluster.mqtt(1)], &options, cluster.history()).await;
        client.subscribe(&topic, Qos::ExactlyOnce).await;
        publish_all(
            &mut source,
            Qos::AtLeastOnce,
            &topic,
            &payloads("one", 0..2),
        )
        .await;
        publish_all(
            &mut source,
            Qos::ExactlyOnce,
            &topic,
            &payloads("two", 0..2),
        )
        .await;
        let mut in_flight = Vec::new();
        for _ in 0..4 {
            in_flight.push(client.expect_publish().await);
        }
        // Elsewhere, back, and once more to the node where it already is.
        for node in [2, 1, 1] {
            let mut newer =
                Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await;
            assert!(newer.session_present());
            for message in &in_flight {
                assert_eq!(newer.expect_publish().await, resent(message));
            }
            assert!(newer.ping_barrier().await.is_empty());
            expect_taken_over(&mut client, version).await;
            client = newer;
        }
    }
    for (version, _, client_id) in client_ids("g-transient", cluster.shards()) {
        let options = ConnectOptions::transient(client_id, version);
        let mut older = Client::connect_any(&[cluster.mqtt(1)], &options, cluster.history()).await;
        let mut newer = Client::connect_any(&[cluster.mqtt(2)], &options, cluster.history()).await;
        assert!(!newer.session_present());
        expect_taken_over(&mut older, version).await;
        assert!(newer.ping_barrier().await.is_empty());
    }
}

#[tokio::test]
async fn of_simultaneous_connects_exactly_one_stays() {
    let cluster = Cluster::start("of_simultaneous_connects_exactly_one_stays", options()).await;
    for (version, _, client_id) in client_ids("g-race", cluster.shards()) {
        let options = ConnectOptions::persistent(client_id, version);
        let attempts = cluster.ids().into_iter().map(|node| {
            let (address, options, history) = (
                cluster.mqtt(node),
                options.clone(),
                cluster.history().clone(),
            );
            async move { Client::connect(address, &options, &history).await }
        });
        let mut open: Vec<Client> = all_of(attempts)
            .await
            .into_iter()
            .filter_map(Result::ok)
            .collect();
        wait_until("one connection is left", CLOSED_WITHIN, async || {
            let mut left = Vec::new();
            for mut client in std::mem::take(&mut open) {
                client.send(&Packet::Pingreq).await;
                if answers_ping(&mut client).await {
                    left.push(client);
                }
            }
            open = left;
            open.len() <= 1
        })
        .await;
        assert_eq!(open.len(), 1, "{}: none is left", options.client_id);
        assert!(open[0].ping_barrier().await.is_empty());
    }
}

async fn answers_ping(client: &mut Client) -> bool {
    loop {
        match client.recv().await {
            Ok(Packet::Pingresp) => return true,
            Ok(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason_code, ReasonCode::SessionTakenOver);
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(RecvError::Closed) => return false,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Packet id of the QoS 1 messages that the sleeper publishes.
const ONE: u16 = 10;
/// Packet id of its QoS 2 messages.
const TWO: u16 = 11;

/// A client that leaves a suspended node.
struct Sleeper {
    options: ConnectOptions,
    round: String,
    client: Client,
    in_flight: Vec<Delivery>,
}

impl Sleeper {
    fn topic(&self) -> String {
        format!("g-in/{}", self.options.client_id)
    }

    async fn start(
        cluster: &Cluster,
        node: NodeId,
        version: ProtocolVersion,
        client_id: String,
        round: &str,
    ) -> Self {
        let options = ConnectOptions::persistent(client_id, version);
        let client = Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await;
        let mut sleeper = Self {
            options,
            round: round.to_owned(),
            client,
            in_flight: Vec::new(),
        };
        let topic = sleeper.topic();
        sleeper.client.subscribe(&topic, Qos::ExactlyOnce).await;
        sleeper
    }

    /// Two messages of QoS 1, two of QoS 2, the last of which is released.
    async fn fill(&mut self, source: &mut Client, kind: &str) {
        let topic = self.topic();
        publish_all(
            source,
            Qos::AtLeastOnce,
            &topic,
            &payloads(&format!("{kind}-one"), 0..2),
        )
        .await;
        publish_all(
            source,
            Qos::ExactlyOnce,
            &topic,
            &payloads(&format!("{kind}-two"), 0..2),
        )
        .await;
        self.in_flight.clear();
        for _ in 0..4 {
            let message = self.client.expect_publish().await;
            assert!(
                !message.dup && message.payload.starts_with(kind),
                "{message:?}"
            );
            self.in_flight.push(message);
        }
        let last = self.in_flight[3].id;
        self.client.pubrec(last).await;
        self.client.expect_pubrel(last).await;
    }

    async fn publish_own(&mut self, id: u16, text: &str, dup: bool) {
        let qos = if id == ONE {
            Qos::AtLeastOnce
        } else {
            Qos::ExactlyOnce
        };
        let topic = format!("g-out/{}/{}", self.round, self.options.client_id);
        let payload = format!("{}-{text}", self.options.client_id);
        let outgoing = Outgoing {
            id,
            dup,
            qos,
            topic: &topic,
            payload: &payload,
        };
        self.client.publish(&outgoing).await;
    }

    /// Writes into the sockets of the suspended node: nobody reads it yet.
    async fn write_unread(&mut self) {
        let ids: Vec<u16> = self.in_flight.iter().map(|message| message.id).collect();
        self.publish_own(ONE, "first", false).await;
        self.publish_own(TWO, "second", false).await;
        self.client.puback(ids[0]).await;
        self.client.puback(ids[1]).await;
        self.client.pubrec(ids[2]).await;
        self.client.pubcomp(ids[3]).await;
        let (topic, stale) = (self.topic(), format!("g-stale/{}", self.options.client_id));
        self.client.send_unsubscribe(&topic).await;
        self.client.send_subscribe(&stale, Qos::ExactlyOnce).await;
        self.publish_own(ONE, "never", false).await;
        self.client.pubrel(TWO).await;
        self.client
            .send(&Packet::Disconnect(codec::Disconnect::new(
                ReasonCode::Success,
            )))
            .await;
    }

    /// Connects elsewhere; exactly what was in flight comes back.
    async fn resume(&mut self, cluster: &Cluster, node: NodeId) -> Client {
        let client =
            Client::connect_any(&[cluster.mqtt(node)], &self.options, cluster.history()).await;
        let older = std::mem::replace(&mut self.client, client);
        assert!(self.client.session_present());
        let (mut publishes, mut pubrels) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            match self.client.recv().await.unwrap() {
                Packet::Pubrel(ack) => pubrels.push(ack.packet_id.get()),
                packet => publishes
                    .push(delivery(&packet).unwrap_or_else(|| panic!("unexpected {packet:?}"))),
            }
        }
        let expected: Vec<Delivery> = self.in_flight[..3].iter().map(resent).collect();
        assert_eq!(
            (publishes, pubrels),
            (expected, vec![self.in_flight[3].id]),
            "{}",
            self.options.client_id
        );
        assert!(self.client.ping_barrier().await.is_empty());
        older
    }

    /// Completes all that was in flight in both directions, then uses the ids again.
    async fn finish_and_reuse(&mut self, source: &mut Client) {
        let ids: Vec<u16> = self.in_flight.iter().map(|message| message.id).collect();
        self.client.puback(ids[0]).await;
        self.client.puback(ids[1]).await;
        self.client.pubrec(ids[2]).await;
        self.client.expect_pubrel(ids[2]).await;
        self.client.pubcomp(ids[2]).await;
        self.client.pubcomp(ids[3]).await;
        assert!(self.client.commit_barrier().await.is_empty());
        self.publish_own(ONE, "first", true).await;
        self.client.expect_puback(ONE).await;
        self.publish_own(TWO, "second", true).await;
        self.client.expect_pubrec(TWO).await;
        self.client.pubrel(TWO).await;
        self.client.expect_pubcomp(TWO).await;
        self.publish_own(ONE, "third", false).await;
        self.client.expect_puback(ONE).await;
        self.publish_own(TWO, "fourth", false).await;
        self.client.expect_pubrec(TWO).await;
        self.fill(source, "new").await;
    }

    /// The node that slept answers nothing that it reads now, and the session is as it was.
    async fn check(&mut self, mut older: Client, cluster: &Cluster, node: NodeId) {
        let answers = older.expect_closed(CLOSED_WITHIN).await;
        let acknowledged: Vec<&Packet> = answers
            .iter()
            .filter(|packet| is_acknowledgement(packet))
            .collect();
        assert!(
            acknowledged.is_empty(),
            "{}: the past was acknowledged: {acknowledged:?}",
            self.options.client_id
        );
        drop(self.resume(cluster, node).await);
        self.client.pubrel(TWO).await;
        let reason = self.client.expect_pubcomp(TWO).await;
        assert_eq!(
            reason,
            ReasonCode::Success,
            "{}: id {TWO} was not kept",
            self.options.client_id
        );
        self.publish_own(TWO, "end", false).await;
        self.client.expect_pubrec(TWO).await;
    }
}

/// A subscriber to all that the sleepers publish, one per version and kind of session.
async fn witnesses(cluster: &Cluster, node: NodeId, round: &str) -> Vec<Receiver> {
    let mut witnesses = Vec::new();
    for version in VERSIONS {
        for persistent in [true, false] {
            let client_id = format!("g-witness-{round}-{}-{persistent}", tag(version));
            let options = match persistent {
                true => ConnectOptions::persistent(client_id, version),
                false => ConnectOptions::transient(client_id, version),
            };
            let filter = format!("g-out/{round}/#");
            let filters = [
                (filter.as_str(), Qos::ExactlyOnce),
                ("g-stale/#", Qos::ExactlyOnce),
            ];
            let addresses = vec![cluster.mqtt(node)];
            witnesses.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
        }
    }
    witnesses
}

async fn sleep_and_wake(cluster: &mut Cluster, home: NodeId, shards: &[u16], duration: Duration) {
    let round = format!("{}ms", duration.as_millis());
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let witnesses = witnesses(cluster, far, &round).await;
    let mut source = publisher(
        cluster,
        far,
        &format!("g-source-{round}"),
        ProtocolVersion::V5,
    )
    .await;
    let mut sleepers = Vec::new();
    for (version, shard, client_id) in client_ids(&format!("g-sleep-{round}"), cluster.shards()) {
        if shards.contains(&shard) {
            let mut sleeper = Sleeper::start(cluster, home, version, client_id, &round).await;
            sleeper.fill(&mut source, "old").await;
            sleepers.push(sleeper);
        }
    }

    cluster.suspend(home).await;
    let suspended = Instant::now();
    let mut older = Vec::new();
    for sleeper in &mut sleepers {
        sleeper.write_unread().await;
    }
    for sleeper in &mut sleepers {
        older.push(sleeper.resume(cluster, near).await);
        sleeper.finish_and_reuse(&mut source).await;
    }
    cluster.history().note(format!(
        "all finished elsewhere after {:?}",
        suspended.elapsed()
    ));
    let_pass(duration.saturating_sub(suspended.elapsed())).await;
    cluster.wake(home);

    cluster.wait_ready().await;
    for (sleeper, older) in sleepers.iter_mut().zip(older) {
        sleeper.check(older, cluster, far).await;
    }
    for witness in &witnesses {
        for sleeper in &sleepers {
            check_witness(witness, &sleeper.options.client_id).await;
        }
        assert_eq!(witness.log().violations, [""; 0], "{}", witness.name());
    }
}

/// Each message once; the order is promised per QoS.
async fn check_witness(witness: &Receiver, client_id: &str) {
    witness.wait_for(&format!("{client_id}-end"), IN_TIME).await;
    let seen = |qos: Qos| -> Vec<String> {
        let messages = witness
            .log()
            .messages
            .into_iter()
            .filter(|message| message.qos == qos);
        let prefix = format!("{client_id}-");
        messages
            .filter_map(|message| message.payload.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    };
    assert_eq!(
        seen(Qos::AtLeastOnce),
        ["first", "third"],
        "{} of {client_id}",
        witness.name()
    );
    assert_eq!(
        seen(Qos::ExactlyOnce),
        ["second", "fourth", "end"],
        "{} of {client_id}",
        witness.name()
    );
}

#[tokio::test]
async fn what_a_node_reads_after_it_slept_changes_nothing() {
    let name = "what_a_node_reads_after_it_slept_changes_nothing";
    let mut cluster = Cluster::start(name, options()).await;
    for millis in [500, 2_000, 8_000] {
        let leaders = spread_leaders(&cluster).await;
        let home = leader_of_some(&leaders);
        // So short a sleep is over before a new leader is elected.
        let led_elsewhere = leaders
            .iter()
            .filter(|(_, leader)| millis > 500 || **leader != home);
        let shards: Vec<u16> = led_elsewhere.map(|(shard, _)| *shard).collect();
        sleep_and_wake(&mut cluster, home, &shards, Duration::from_millis(millis)).await;
    }
}
