//! SIGHUP: what can change while a node runs does, what cannot is named, and a mistake changes nothing.

use std::time::Duration;

use codec::{ProtocolVersion, ReasonCode};
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, wait_until};

use crate::scene::options;

const IN_TIME: Duration = Duration::from_secs(30);

/// What CONNECT of a new session is answered.
async fn answer(cluster: &Cluster, client_id: &str) -> ReasonCode {
    let options = ConnectOptions::persistent(client_id, ProtocolVersion::V5);
    let address = cluster.mqtt(1);
    match Client::connect(address, &options, cluster.history()).await {
        Ok(client) => {
            client.disconnect().await;
            ReasonCode::Success
        }
        Err(error) => error.reason_code().expect("a CONNACK"),
    }
}

/// Waits until the node's log has a line with all of these words, so many times.
async fn logged(cluster: &Cluster, words: &[&str], times: usize) {
    wait_until(&format!("{words:?} in the log"), IN_TIME, async || {
        let log = std::fs::read_to_string(cluster.log_file(1)).unwrap_or_default();
        let lines = log.lines();
        let found = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        found.count() >= times
    })
    .await;
}

#[tokio::test]
async fn a_reload_takes_over_what_it_can_and_names_the_rest() {
    let name = "a_reload_takes_over_what_it_can_and_names_the_rest";
    let options = ClusterOptions {
        nodes: 1,
        limits: "sessions_max = 0",
        ..options()
    };
    let mut cluster = Cluster::start(name, options).await;
    assert_eq!(answer(&cluster, "first").await, ReasonCode::Success);
    // A limit is in force at once; the name of the node is not, and is named at every reload.
    cluster.reconfigure(1, |text| {
        let text = text.replace("sessions_max = 0", "sessions_max = 1");
        text.replacen("[node]", "[node]\nname = \"other\"", 1)
    });
    cluster.hang_up(1);
    logged(&cluster, &["need a restart", "node.name"], 1).await;
    assert_eq!(answer(&cluster, "second").await, ReasonCode::QuotaExceeded);
    assert_eq!(answer(&cluster, "first").await, ReasonCode::Success);
    cluster.hang_up(1);
    logged(&cluster, &["need a restart", "node.name"], 2).await;
    // With a mistake anywhere nothing changes.
    cluster.reconfigure(1, |text| {
        let text = text.replace("sessions_max = 1", "sessions_max = 0");
        text.replacen("[limits]", "[limits]\nconnect_rate = \"many\"", 1)
    });
    cluster.hang_up(1);
    logged(&cluster, &["not reloaded", "limits.connect_rate"], 1).await;
    assert_eq!(answer(&cluster, "second").await, ReasonCode::QuotaExceeded);
    cluster.reconfigure(1, |text| text.replace("connect_rate = \"many\"", ""));
    cluster.hang_up(1);
    logged(
        &cluster,
        &["configuration reloaded", "limits.sessions_max"],
        2,
    )
    .await;
    assert_eq!(answer(&cluster, "second").await, ReasonCode::Success);
}
