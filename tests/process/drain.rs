//! A node that is asked to stop: balancers, leaderships and clients go first, and nobody loses or gets
//! anything twice by it.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::http::request;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, VERSIONS, report, wait_until};

use crate::load::{Load, note_acknowledged};
use crate::scene::{options, tag};

const IN_TIME: Duration = Duration::from_secs(30);
/// Messages that every publisher has acknowledged before each stop.
const BEFORE_STOP: usize = 30;

/// One sample of a node's metrics.
async fn metric(cluster: &Cluster, node: u16, name: &str) -> Option<f64> {
    let samples = cluster.metrics(node).await;
    samples
        .into_iter()
        .find(|sample| sample.name == name)
        .map(|sample| sample.value)
}

/// SIGTERM, one node after the other, under load: nothing is lost, nothing comes twice, and no client
/// loses its connection more often than nodes were stopped.
#[tokio::test]
async fn a_rolling_restart_loses_and_repeats_nothing() {
    let name = "a_rolling_restart_loses_and_repeats_nothing";
    let mut cluster = Cluster::start(name, options()).await;
    let load = Load::start(&cluster, "rolling").await;
    let mut stops = Vec::new();
    for id in cluster.ids() {
        load.progress(BEFORE_STOP).await;
        note_acknowledged(cluster.history(), &load);
        // The next one follows when all are back, as an operator's tool has it.
        wait_until("no node is quorum critical", IN_TIME, async || {
            metric(&cluster, id, "holdfast_quorum_critical").await == Some(0.0)
        })
        .await;
        stops.push(std::time::Instant::now());
        cluster.terminate_and_wait(id).await;
        load.progress(1).await;
        cluster.restart_all().await;
    }
    load.progress(BEFORE_STOP).await;
    assert_eq!(load.repeated(), [""; 0]);
    let mut worst = Duration::ZERO;
    for (client, connected_at) in load.connections() {
        let again = connected_at.len() - 1;
        assert!(
            again <= stops.len(),
            "{client} connected again {again} times"
        );
        for stop in &stops {
            let next = connected_at.iter().find(|at| *at > stop);
            worst = worst.max(next.map_or(Duration::ZERO, |at| {
                let others = stops.iter().filter(|other| *other > stop && *other < at);
                if others.count() == 0 {
                    *at - *stop
                } else {
                    Duration::ZERO
                }
            }));
        }
    }
    report(&format!(
        "rolling restart: SIGTERM to the last client's CONNACK elsewhere at worst {worst:?}"
    ));
    load.finish(&cluster).await;
}

/// A client of 5.0 is told where to go: to another node, if there is one.
#[tokio::test]
async fn clients_are_told_why_the_node_leaves() {
    let name = "clients_are_told_why_the_node_leaves";
    for (nodes, expected) in [
        (1, ReasonCode::ServerShuttingDown),
        (3, ReasonCode::UseAnotherServer),
    ] {
        let mut cluster = Cluster::start(name, ClusterOptions { nodes, ..options() }).await;
        let mut clients = Vec::new();
        for version in VERSIONS {
            let options = ConnectOptions::persistent(format!("c-{}", tag(version)), version);
            let address = [cluster.mqtt(1)];
            clients.push(Client::connect_any(&address, &options, cluster.history()).await);
        }
        cluster.terminate(1);
        for (version, mut client) in VERSIONS.into_iter().zip(clients) {
            let told: Vec<ReasonCode> = client
                .expect_closed(IN_TIME)
                .await
                .into_iter()
                .filter_map(|packet| match packet {
                    Packet::Disconnect(disconnect) => Some(disconnect.reason_code),
                    _ => None,
                })
                .collect();
            let wanted = if version == ProtocolVersion::V5 {
                vec![expected]
            } else {
                Vec::new()
            };
            assert_eq!(told, wanted, "{version:?}, {nodes} nodes");
        }
        cluster.terminate_and_wait(1).await;
    }
}

/// Unready first, and still serving; then nobody is accepted, and the leaderships are elsewhere before
/// the first client has to go.
#[tokio::test]
async fn balancers_notice_before_anybody_is_turned_away() {
    let name = "balancers_notice_before_anybody_is_turned_away";
    let options = ClusterOptions {
        limits: "[shutdown]\ngrace = \"3s\"\nclose_rate = 1",
        ..options()
    };
    let mut cluster = Cluster::start(name, options).await;
    let mut clients = Vec::new();
    for number in 0..3 {
        let options = ConnectOptions::persistent(format!("c-{number}"), ProtocolVersion::V5);
        let address = [cluster.mqtt(1)];
        clients.push(Client::connect_any(&address, &options, cluster.history()).await);
    }
    cluster.terminate(1);
    wait_until("unready", IN_TIME, async || !cluster.is_ready(1).await).await;
    // During the grace it serves as before.
    let late = ConnectOptions::persistent("late", ProtocolVersion::V5);
    let address = cluster.mqtt(1);
    let mut late = Client::connect(address, &late, cluster.history())
        .await
        .unwrap();
    late.publish_qos1(1, "t", "x").await;
    assert_eq!(metric(&cluster, 1, "holdfast_draining").await, Some(1.0));
    wait_until("nobody is accepted", IN_TIME, async || {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    let leads = async |node: u16| {
        let samples = cluster.metrics(node).await;
        let leads = samples.iter().filter(|sample| {
            sample.name == "holdfast_raft_role"
                && sample
                    .labels
                    .get("role")
                    .is_some_and(|role| role == "leader")
                && sample.value > 0.5
        });
        leads.count()
    };
    wait_until("it leads nothing", IN_TIME, async || leads(1).await == 0).await;
    // One a second: the last of four is served for three seconds more.
    let mut still_there = 0;
    for client in &mut clients {
        client.send(&Packet::Pingreq).await;
        let answer = client.recv().await;
        still_there += usize::from(matches!(answer, Ok(Packet::Pingresp)));
    }
    assert!(still_there > 0, "all clients were closed at once");
    // A second signal ends the patience.
    let since = std::time::Instant::now();
    cluster.terminate_and_wait(1).await;
    cluster.history().note(format!(
        "ended {:?} after the second signal",
        since.elapsed()
    ));
}

/// With one node away, stopping another one would take the majority: the metric says so.
#[tokio::test]
async fn a_node_knows_that_it_is_quorum_critical() {
    let name = "a_node_knows_that_it_is_quorum_critical";
    let mut cluster = Cluster::start(name, options()).await;
    let critical = async |cluster: &Cluster, node: u16, wanted: f64| {
        wait_until("quorum_critical", IN_TIME, async || {
            metric(cluster, node, "holdfast_quorum_critical").await == Some(wanted)
        })
        .await;
    };
    critical(&cluster, 1, 0.0).await;
    cluster.kill(3);
    critical(&cluster, 1, 1.0).await;
    critical(&cluster, 2, 1.0).await;
    cluster.restart_all().await;
    critical(&cluster, 1, 0.0).await;
}

/// What a publisher sends in the moment its node says goodbye is either acknowledged or not taken: a
/// message of QoS 2 that is sent again elsewhere comes once.
#[tokio::test]
async fn handshakes_are_finished_before_the_connection_ends() {
    let name = "handshakes_are_finished_before_the_connection_ends";
    let mut cluster = Cluster::start(name, options()).await;
    for version in VERSIONS {
        let reader = ConnectOptions::persistent(format!("r-{}", tag(version)), version);
        let address = [cluster.mqtt(1)];
        let mut reader = Client::connect_any(&address, &reader, cluster.history()).await;
        reader.subscribe("t", Qos::AtLeastOnce).await;
        let writer = ConnectOptions::persistent(format!("w-{}", tag(version)), version);
        let address = [cluster.mqtt(2)];
        let mut writer = Client::connect_any(&address, &writer, cluster.history()).await;
        writer.publish_qos1(1, "t", "m").await;
        reader
            .recv_until("PUBLISH", |packet| matches!(packet, Packet::Publish(_)))
            .await;
        cluster.terminate(1);
        // The node waits for this acknowledgement, as it was sent the message.
        wait_until("nobody is accepted", IN_TIME, async || {
            tokio::net::TcpStream::connect(cluster.mqtt(1))
                .await
                .is_err()
        })
        .await;
        let ack = codec::Ack::new(codec::PacketId::MIN, ReasonCode::Success);
        reader.send(&Packet::Puback(ack)).await;
        reader.expect_closed(IN_TIME).await;
        let options = ConnectOptions::persistent(format!("r-{}", tag(version)), version);
        let address = cluster.mqtt_of_others(1);
        let mut reader = Client::connect_any(&address, &options, cluster.history()).await;
        assert!(reader.session_present());
        assert!(reader.commit_barrier().await.is_empty(), "it came again");
        cluster.terminate_and_wait(1).await;
        cluster.restart_all().await;
    }
}

/// A PUBLISH is not taken any more: it has no PUBACK, although nobody subscribed and nothing is waited for.
async fn is_taken(client: &mut Client, id: u16) -> bool {
    let publish = testkit::Outgoing {
        id,
        dup: false,
        qos: Qos::AtLeastOnce,
        topic: "nobody",
        payload: "x",
    };
    client.publish(&publish).await;
    // What follows on the first PINGREQ is written before the second is read.
    let mut acknowledged = false;
    for _ in 0..2 {
        client.send(&Packet::Pingreq).await;
        loop {
            match client.recv().await {
                Ok(Packet::Pingresp) => break,
                Ok(packet) => acknowledged |= matches!(packet, Packet::Puback(_)),
                // Its time was over before the drain could be called off.
                Err(_) => return false,
            }
        }
    }
    acknowledged
}

/// A connection that takes nothing any more must end, also when the drain is called off meanwhile: what it
/// did not take and was not sent comes only on the next one.
#[tokio::test]
async fn a_connection_that_has_begun_to_leave_ends_although_the_drain_is_called_off() {
    let name = "a_connection_that_has_begun_to_leave_ends_although_the_drain_is_called_off";
    let options = ClusterOptions {
        nodes: 1,
        ..options()
    };
    let cluster = Cluster::start(name, options).await;
    let address = [cluster.mqtt(1)];
    let ask = async |path: &str| {
        let json = [("Content-Type", "application/json")];
        let path = format!("/api/v1/nodes/1/{path}");
        let answer = request(cluster.admin(1), ("POST", &path), &json, "{}").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    };
    for version in VERSIONS {
        let options = ConnectOptions::persistent(format!("c-{}", tag(version)), version);
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        client.subscribe("t", Qos::AtLeastOnce).await;
        let writer = ConnectOptions::transient(format!("w-{}", tag(version)), version);
        let mut writer = Client::connect_any(&address, &writer, cluster.history()).await;
        writer.publish_qos1(1, "t", "m").await;
        // Not acknowledged: the connection waits for that.
        client
            .recv_until("PUBLISH", |packet| matches!(packet, Packet::Publish(_)))
            .await;
        ask("drain").await;
        let mut id = 1;
        while is_taken(&mut client, id).await {
            id += 1;
        }
        ask("undrain").await;
        client.expect_closed(IN_TIME).await;
        wait_until("it is ready again", IN_TIME, async || {
            cluster.is_ready(1).await
        })
        .await;
        // What it was sent and not taken comes here.
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        assert!(client.session_present());
        client
            .recv_until("PUBLISH", |packet| matches!(packet, Packet::Publish(_)))
            .await;
        client.puback(1).await;
        client.disconnect().await;
    }
}
