//! Clients that people use: `mosquitto_pub`, `mosquitto_sub` and paho-mqtt.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::{Cluster, NodeId, VERSIONS, skip};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::scene::{options, tag};

const IN_TIME: Duration = Duration::from_secs(60);

fn mosquitto(cluster: &Cluster, node: NodeId, program: &str, version: ProtocolVersion) -> Command {
    // It would buffer what it prints into a pipe.
    let mut command = Command::new("stdbuf");
    command.arg("-oL").arg(program);
    let protocol = match version {
        ProtocolVersion::V5 => "mqttv5",
        ProtocolVersion::V31 | ProtocolVersion::V311 => "mqttv311",
    };
    let port = cluster.mqtt(node).port().to_string();
    command.args([
        "-h",
        "127.0.0.1",
        "-V",
        protocol,
        "-p",
        port.as_str(),
        "-t",
        "smoke/test",
    ]);
    command.kill_on_drop(true);
    command
}

pub(crate) async fn output(command: &mut Command) -> String {
    let output = timeout(IN_TIME, command.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?} failed: {out}{error}");
    out.into_owned()
}

pub(crate) fn is_installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|path| path.join(program).exists())
}

async fn publish_each_qos(cluster: &Cluster, node: NodeId, version: ProtocolVersion) {
    for qos in ["0", "1", "2"] {
        let mut command = mosquitto(cluster, node, "mosquitto_pub", version);
        output(command.args(["-q", qos, "-m", &format!("qos {qos}")])).await;
    }
}

#[tokio::test]
async fn mosquitto_clients_work_against_the_cluster() {
    let name = "mosquitto_clients_work_against_the_cluster";
    if !is_installed("mosquitto_sub") {
        return skip(name, "mosquitto-clients is not installed");
    }
    let mut cluster = Cluster::start(name, options()).await;
    for version in VERSIONS {
        live(&cluster, version).await;
        offline(&mut cluster, version).await;
    }
}

/// A subscriber on one node, publishers on another.
async fn live(cluster: &Cluster, version: ProtocolVersion) {
    let mut command = mosquitto(cluster, 1, "mosquitto_sub", version);
    command
        .args(["-d", "-q", "2", "-C", "3"])
        .stdout(Stdio::piped());
    let mut subscriber = command.spawn().expect("it starts");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("it is piped")).lines();
    let mut received = Vec::new();
    let mut published = false;
    while let Some(line) = timeout(IN_TIME, lines.next_line())
        .await
        .expect("it says more in time")
        .unwrap()
    {
        if !published && line.starts_with("Subscribed") {
            publish_each_qos(cluster, 2, version).await;
            published = true;
        }
        if line.starts_with("qos ") {
            received.push(line);
        }
    }
    received.sort();
    assert_eq!(received, ["qos 0", "qos 1", "qos 2"], "{version:?}");
}

/// A persistent session gets on another node what was published while its own was dead.
async fn offline(cluster: &mut Cluster, version: ProtocolVersion) {
    let client_id = format!("mosquitto-{}", tag(version));
    let mut persistent = vec!["-i", client_id.as_str(), "-q", "2", "-c"];
    if version == ProtocolVersion::V5 {
        persistent.extend(["-x", "600"]);
    }
    // -E: subscribe and go.
    output(
        mosquitto(cluster, 1, "mosquitto_sub", version)
            .args(&persistent)
            .arg("-E"),
    )
    .await;
    cluster.kill(1);
    publish_each_qos(cluster, 2, version).await;
    let mut command = mosquitto(cluster, 3, "mosquitto_sub", version);
    // QoS 0 is not kept for an offline session.
    let text = output(command.args(&persistent).args(["-C", "2", "-F", "%q %p"])).await;
    let mut received: Vec<&str> = text.lines().collect();
    received.sort_unstable();
    assert_eq!(received, ["1 qos 1", "2 qos 2"], "{version:?}");
    cluster.restart_all().await;
}

/// A Python that has paho-mqtt: the one that `scripts/python.sh` prepared, or the system's.
pub(crate) async fn python() -> Option<PathBuf> {
    let candidates = std::env::var_os("HOLDFAST_PYTHON")
        .map(PathBuf::from)
        .into_iter();
    for python in candidates.chain([PathBuf::from("python3")]) {
        let mut command = Command::new(&python);
        command.args([
            "-c",
            "import paho.mqtt.client as c; c.CallbackAPIVersion.VERSION2",
        ]);
        if matches!(command.output().await, Ok(output) if output.status.success()) {
            return Some(python);
        }
    }
    None
}

#[tokio::test]
async fn paho_mqtt_works_against_the_cluster() {
    let name = "paho_mqtt_works_against_the_cluster";
    let Some(python) = python().await else {
        return skip(name, "no Python with paho-mqtt 2: set HOLDFAST_PYTHON");
    };
    let cluster = Cluster::start(name, options()).await;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/process/paho_smoke.py"
    );
    for version in VERSIONS {
        let mut command = Command::new(&python);
        let (subscriber, publisher) = (cluster.mqtt(1).port(), cluster.mqtt(2).port());
        command
            .arg(script)
            .arg(subscriber.to_string())
            .arg(publisher.to_string())
            .arg(tag(version));
        assert_eq!(output(&mut command).await, "paho works\n");
    }
}
