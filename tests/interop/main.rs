//! Clients that we did not write, each against a cluster of three nodes, in each version that it has.
//!
//! All of them play the same scenario:
//!
//! 1. A subscriber with a persistent session connects to the first node, a publisher to the second.
//! 2. The QoS matrix: published at 0, 1, 2 and subscribed at 0, 1, 2; the lower one arrives.
//! 3. A retained message arrives marked as such; a live one does not.
//! 4. Two clients on different nodes share a subscription: each message reaches one of them.
//! 5. A client on the third node vanishes; its will arrives.
//! 6. The first node is killed (SIGKILL). The publisher goes on publishing, at QoS 1 and 2.
//! 7. The subscriber comes back to the third node: the session is there, and what was published
//!    meanwhile arrives, each message once; then a live one.
//!
//! Programs print `ready` before the sixth step and read `killed` then; they print `done` at the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod driver;
mod mosquitto_client;
mod rumqttc_client;
mod rumqttc_peer;

use testkit::{Cluster, ClusterOptions, skip};
use tokio::process::Command;

use crate::driver::{Program, play};

/// The versions that a library for all of them has.
const ALL: [&str; 3] = ["v31", "v311", "v5"];

fn options() -> ClusterOptions {
    ClusterOptions {
        target: "interop",
        ..ClusterOptions::new(env!("CARGO_BIN_EXE_holdfast"))
    }
}

/// A file of this folder.
fn file(name: &str) -> String {
    format!("{}/../../tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Whether a command can be started and succeeds.
async fn succeeds(command: &mut Command) -> bool {
    matches!(command.output().await, Ok(output) if output.status.success())
}

/// A Python that has this module: the one that `scripts/python.sh` prepared, or the system's.
async fn python_with(module: &str) -> Option<String> {
    let prepared = std::env::var("HOLDFAST_PYTHON").ok();
    for python in prepared.into_iter().chain(["python3".to_owned()]) {
        let import = format!("import {module}; import paho.mqtt.client as c; c.CallbackAPIVersion");
        if succeeds(Command::new(&python).args(["-c", import.as_str()])).await {
            return Some(python);
        }
    }
    None
}

#[tokio::test]
async fn paho_python_works_against_a_cluster() {
    let name = "paho_python_works_against_a_cluster";
    let Some(python) = python_with("paho.mqtt.client").await else {
        return skip(name, "no Python with paho-mqtt 2: set HOLDFAST_PYTHON");
    };
    let mut cluster = Cluster::start(name, options()).await;
    let program = Program {
        command: vec![python, file("paho_client.py")],
        environment: Vec::new(),
    };
    play(&mut cluster, "paho-python", &ALL, &program).await;
}

#[tokio::test]
async fn aiomqtt_works_against_a_cluster() {
    let name = "aiomqtt_works_against_a_cluster";
    let Some(python) = python_with("aiomqtt").await else {
        return skip(name, "no Python with aiomqtt: set HOLDFAST_PYTHON");
    };
    let mut cluster = Cluster::start(name, options()).await;
    let program = Program {
        command: vec![python, file("aiomqtt_client.py")],
        environment: Vec::new(),
    };
    play(&mut cluster, "aiomqtt", &ALL, &program).await;
}

#[tokio::test]
async fn mqtt_js_works_against_a_cluster() {
    let name = "mqtt_js_works_against_a_cluster";
    // Where `scripts/interop_node.sh` put it.
    let modules = std::env::var("HOLDFAST_NODE_MODULES").unwrap_or_default();
    let mut command = Command::new("node");
    command
        .env("NODE_PATH", &modules)
        .args(["-e", "require('mqtt')"]);
    if !succeeds(&mut command).await {
        return skip(name, "no Node.js with mqtt.js: set HOLDFAST_NODE_MODULES");
    }
    let mut cluster = Cluster::start(name, options()).await;
    let program = Program {
        command: vec!["node".to_owned(), file("mqttjs_client.js")],
        environment: vec![("NODE_PATH", modules)],
    };
    play(&mut cluster, "mqtt-js", &ALL, &program).await;
}

#[tokio::test]
async fn paho_c_works_against_a_cluster() {
    let name = "paho_c_works_against_a_cluster";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let binary = folder.path().join("paho_client");
    let mut compile = Command::new("gcc");
    compile.args([
        "-std=c11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        "-o",
    ]);
    compile.arg(&binary).arg(file("paho_client.c"));
    compile.args(["-lpaho-mqtt3c", "-lpthread"]);
    if !has_header("MQTTClient.h").await {
        return skip(name, "no gcc with libpaho-mqtt-dev");
    }
    let output = compile.output().await.expect("gcc is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "paho_client.c: {errors}");
    let mut cluster = Cluster::start(name, options()).await;
    let program = Program {
        command: vec![binary.display().to_string()],
        environment: Vec::new(),
    };
    play(&mut cluster, "paho-c", &ALL, &program).await;
}

async fn has_header(header: &str) -> bool {
    let include = format!("#include <{header}>");
    let script = format!("echo '{include}' | gcc -fsyntax-only -x c -");
    succeeds(Command::new("sh").args(["-c", script.as_str()])).await
}
