//! Keep Alive: how long a silent client is let be.

use std::time::{Duration, Instant};

use codec::{Packet, ProtocolVersion, ReasonCode};
use testkit::{Client, ConnectOptions};

use crate::registry::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "connect/a_silent_client_is_closed_after_one_and_a_half_keep_alives",
    ids: &[
        "3.1.1: MQTT-3.1.2-24", //
        "5.0: MQTT-3.1.2-22",
    ],
    run: |scene| Box::pin(silence(scene)),
}];

/// It is not closed earlier, and a busy machine may close it somewhat later.
async fn silence(scene: Scene) {
    const KEEP_ALIVE_S: u16 = 1;
    let not_before = Duration::from_millis(1_500);
    for address in &scene.nodes {
        let id = format!("{}silent", scene.prefix.as_str());
        let options = ConnectOptions::transient(id, scene.version).keep_alive_s(KEEP_ALIVE_S);
        let mut client = Client::connect_any(&[*address], &options, &scene.history).await;
        let silent_since = Instant::now();
        let before = client.expect_closed(Duration::from_secs(10)).await;
        let took = silent_since.elapsed();
        // From its CONNACK on, which came after the broker had read its CONNECT.
        assert!(
            took >= not_before - Duration::from_millis(100),
            "closed after {took:?}"
        );
        let told: Vec<ReasonCode> = before
            .iter()
            .map(|packet| match packet {
                Packet::Disconnect(disconnect) => disconnect.reason_code,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: &[ReasonCode] = match scene.version {
            ProtocolVersion::V5 => &[ReasonCode::KeepAliveTimeout],
            ProtocolVersion::V31 | ProtocolVersion::V311 => &[],
        };
        assert_eq!(told, expected);
    }
}
