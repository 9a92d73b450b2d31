//! A disk without room: clients publish nothing that would have to be stored, and are told so.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, Outgoing, VERSIONS, wait_until};

use crate::scene::{options, tag};

const IN_TIME: Duration = Duration::from_secs(30);

async fn unready_for_its_disk(cluster: &Cluster) {
    wait_until("the disk is found short", IN_TIME, async || {
        matches!(cluster.get(1, "/readyz").await, Some((503, text)) if text.contains("disk: "))
    })
    .await;
}

/// 5.0 gets 0x97, before that the connection closes; QoS 0 and what needs no room go on.
#[tokio::test]
async fn nothing_is_stored_when_the_disk_is_short() {
    let name = "nothing_is_stored_when_the_disk_is_short";
    for storage in ["min_free_disk = \"1048576GiB\"", "disk_max = \"1KiB\""] {
        let options = ClusterOptions {
            nodes: 1,
            storage,
            unready: true,
            ..options()
        };
        let cluster = Cluster::start(name, options).await;
        unready_for_its_disk(&cluster).await;
        for version in VERSIONS {
            let options = ConnectOptions::persistent(format!("c-{}", tag(version)), version);
            let address = [cluster.mqtt(1)];
            let mut client = Client::connect_any(&address, &options, cluster.history()).await;
            client.subscribe("t", Qos::AtLeastOnce).await;
            let message = |qos, id, payload| Outgoing {
                id,
                topic: "t",
                payload,
                qos,
                dup: false,
            };
            let live = message(Qos::AtMostOnce, 0, "live").packet();
            client.send(&Packet::Publish(live)).await;
            client
                .recv_until("the message at QoS 0", |packet| {
                    matches!(packet, Packet::Publish(_))
                })
                .await;
            for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let stored = message(qos, 7, "m").packet();
                client.send(&Packet::Publish(stored)).await;
                if version != ProtocolVersion::V5 {
                    assert!(client.expect_closed(IN_TIME).await.is_empty());
                    break;
                }
                let answer = client.recv().await.unwrap();
                let (Packet::Puback(ack) | Packet::Pubrec(ack)) = answer else {
                    panic!("{answer:?}");
                };
                assert_eq!(ack.reason_code, ReasonCode::QuotaExceeded);
                assert!(ack.reason_string.unwrap().as_str().contains("disk"));
            }
        }
    }
}
