//! What the demo tells: every command is there to copy.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use super::layout::{DemoNode, Layout};

/// Before the nodes are ready.
pub(super) fn starting(layout: &Layout) -> String {
    let nodes = layout.nodes.len();
    format!("Starting {nodes} node(s) in {} …", layout.dir.display())
}

/// Once every node is ready.
pub(super) fn ready(nodes: &[DemoNode], process_ids: &[Option<u32>], after: Duration) -> String {
    let mut text = format!("Ready after {:.1} s.\n\n", after.as_secs_f64());
    for (node, process_id) in nodes.iter().zip(process_ids) {
        let process_id = process_id.map_or_else(|| "ended".to_owned(), |id| id.to_string());
        // Writing to a String cannot fail.
        writeln!(
            text,
            "  node {}   MQTT {}   health http://{}/readyz?verbose   process {process_id}   log {}",
            node.id,
            node.mqtt,
            node.admin,
            node.log_file.display(),
        )
        .ok();
    }
    if let ([first, .., last], [Some(first_process), ..]) = (nodes, process_ids) {
        text.push_str(&what_to_try(first, last, *first_process));
    } else if let [only] = nodes {
        text.push_str(&what_to_try_alone(only));
    }
    text.push_str("\nCtrl-C stops all nodes.");
    text
}

fn what_to_try(first: &DemoNode, last: &DemoNode, first_process: u32) -> String {
    let (subscribe_here, subscribe_there) = (subscribe(first), subscribe(last));
    let publish_hello = publish(last, "hello");
    let publish_later = publish(last, "while you were away");
    let (first_id, last_id) = (first.id, last.id);
    format!(
        "\nTry it, each in a terminal of its own:\n\n\
         1. Subscribe through node {first_id}, with a session that outlives the connection:\n\n   {subscribe_here}\n\n\
         2. Publish through node {last_id}; it arrives at the other node:\n\n   {publish_hello}\n\n\
         3. Kill the node that your subscriber is connected to, as a power cut would:\n\n   kill -9 {first_process}\n\n   \
         mosquitto_sub loses its connection; stop it with Ctrl-C. Its session lives on: the other nodes\n   \
         elect new leaders, and go on queueing what is published:\n\n   {publish_later}\n\n\
         4. Subscribe again through node {last_id}, with the same client id: the session continues there, and\n   \
         what was published meanwhile arrives, once.\n\n   {subscribe_there}\n"
    )
}

fn what_to_try_alone(node: &DemoNode) -> String {
    format!(
        "\nTry it, each in a terminal of its own:\n\n   {}\n\n   {}\n",
        subscribe(node),
        publish(node, "hello")
    )
}

fn subscribe(node: &DemoNode) -> String {
    format!(
        "mosquitto_sub -h {} -p {} -i demo-subscriber -c -q 2 -t 'demo/#' -v",
        node.mqtt.ip(),
        node.mqtt.port()
    )
}

fn publish(node: &DemoNode, message: &str) -> String {
    format!(
        "mosquitto_pub -h {} -p {} -i demo-publisher -q 2 -t demo/greeting -m '{message}'",
        node.mqtt.ip(),
        node.mqtt.port()
    )
}

/// When a node has ended that nobody asked to.
pub(super) fn ended(node: &DemoNode, status: ExitStatus) -> String {
    let how = match (status.signal(), status.code()) {
        (Some(9), _) => "was killed (signal 9)".to_owned(),
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    };
    let program = std::env::current_exe()
        .map_or_else(|_| "holdfast".to_owned(), |path| path.display().to_string());
    format!(
        "Node {} {how}. Its clients can go on at any other node. To start it again, in another terminal:\n\n   \
         {program} run --config {}\n",
        node.id,
        node.config_file.display(),
    )
}

/// When a node answers again.
pub(super) fn back(node: &DemoNode) -> String {
    format!(
        "Node {} is back and ready. (Ctrl-C here leaves it running: stop it where you started it.)",
        node.id
    )
}
