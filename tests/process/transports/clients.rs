//! Clients that people use, over TLS and WebSocket.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use testkit::certificates::{CertificateFiles, Subject};
use testkit::ports::Port;
use testkit::skip;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::tls::Files;
use super::{IN_TIME, listener, node, node_with};
use crate::smoke::{is_installed, output, python};

fn mosquitto(
    program: &str,
    port: &Port,
    ca: &Path,
    identity: Option<&CertificateFiles>,
) -> Command {
    // It would buffer what it prints into a pipe.
    let mut command = Command::new("stdbuf");
    command.arg("-oL").arg(program).kill_on_drop(true);
    let port = port.address().port().to_string();
    command.args(["-h", "localhost", "-p", &port, "-t", "tls/test", "-q", "2"]);
    command.arg("--cafile").arg(ca);
    if let Some(CertificateFiles { cert, key }) = identity {
        command.arg("--cert").arg(cert).arg("--key").arg(key);
    }
    command
}

#[tokio::test]
async fn mosquitto_clients_work_over_tls() {
    let name = "mosquitto_clients_work_over_tls";
    if !is_installed("mosquitto_sub") {
        return skip(name, "mosquitto-clients is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let lines = files.mutual("required", "cert_cn");
    let _cluster = node_with(name, listener("mqtts", &port, &lines), "anonymous = false").await;
    let subject = Subject::new("sensor-1");
    let identity = files
        .authority
        .issue_files(folder.path(), "client", &subject);
    let with = |program| mosquitto(program, &port, &files.ca, Some(&identity));
    let mut subscriber = with("mosquitto_sub")
        .args(["-d", "-C", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let mut received = Vec::new();
    while let Some(line) = timeout(IN_TIME, lines.next_line()).await.unwrap().unwrap() {
        if line.starts_with("Subscribed") {
            output(with("mosquitto_pub").args(["-m", "encrypted"])).await;
        }
        received.push(line);
    }
    assert!(
        received.iter().any(|line| line == "encrypted"),
        "{received:?}"
    );
    let mut without = mosquitto("mosquitto_pub", &port, &files.ca, None);
    let refused = timeout(IN_TIME, without.args(["-m", "x"]).output()).await;
    assert!(!refused.unwrap().unwrap().status.success());
}

#[tokio::test]
async fn paho_mqtt_works_over_websockets() {
    let name = "paho_mqtt_works_over_websockets";
    let Some(python) = python().await else {
        return skip(name, "no Python with paho-mqtt 2: set HOLDFAST_PYTHON");
    };
    let folder = tempfile::tempdir().unwrap();
    let (files, ports) = (
        Files::new(folder.path()),
        [Port::reserve(), Port::reserve()],
    );
    let [ws, wss] = &ports;
    let lines = [
        listener("ws", ws, ""),
        listener("wss", wss, &files.server()),
    ];
    let _cluster = node(name, lines.concat()).await;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let script = script.join("../../tests/process/paho_websockets.py");
    let mut command = Command::new(python);
    command.arg(script).arg(ws.address().port().to_string());
    command.arg(wss.address().port().to_string()).arg(&files.ca);
    assert_eq!(output(&mut command).await, "paho works over WebSockets\n");
}
