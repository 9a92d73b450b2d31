//! The commands of `holdfast` that ask a node, as people and scripts run them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use serde_json::Value;
use testkit::ports::Port;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, wait_until};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::access::{self, Files};
use crate::scene::options;

const IN_TIME: Duration = Duration::from_secs(60);

/// What a command printed, and its exit code.
struct Ran {
    code: i32,
    out: String,
    error: String,
}

fn holdfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(options().binary);
    command.args(arguments);
    for variable in ["HOLDFAST_URL", "HOLDFAST_TOKEN_FILE", "HOLDFAST_MQTT_URL"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Ran {
    let output = timeout(IN_TIME, holdfast(arguments).output()).await;
    let output = output.expect("it ends in time").expect("it starts");
    Ran {
        code: output.status.code().expect("it was not killed"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        error: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command that asks the admin port, and must succeed.
async fn ask(admin: SocketAddr, arguments: &[&str]) -> String {
    let url = format!("http://{admin}");
    let ran = run(&[arguments, &["--url", &url]].concat()).await;
    assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.error);
    ran.out
}

async fn ask_json(admin: SocketAddr, arguments: &[&str]) -> Value {
    let out = ask(admin, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

#[tokio::test]
async fn commands_show_and_change_the_cluster() {
    let name = "commands_show_and_change_the_cluster";
    let cluster = Cluster::start(name, options()).await;
    let admin = cluster.admin(2);
    let options = ConnectOptions::persistent("shown", ProtocolVersion::V5);
    let mut client = Client::connect_any(&[cluster.mqtt(1)], &options, cluster.history()).await;
    client.subscribe("s/+", Qos::AtLeastOnce).await;

    let status = ask(admin, &["status"]).await;
    assert!(status.starts_with("cluster test: healthy\n"), "{status}");
    assert_eq!(
        ask_json(admin, &["status"]).await["nodes"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(ask_json(admin, &["members", "list"]).await[2]["id"], 3);
    assert_eq!(ask(admin, &["healthcheck"]).await, "ok\n");
    assert_eq!(ask(admin, &["healthcheck", "--live"]).await, "ok\n");
    let url = format!("http://{admin}");
    // A node that has just started may not be able to lead yet.
    wait_until("the leaderships are balanced", IN_TIME, async || {
        run(&["leader", "balance", "--url", &url]).await.code == 0
    })
    .await;

    wait_until("the node has applied that", IN_TIME, async || {
        let list = ask_json(admin, &["sessions", "list", "--filter", "client=sho*"]).await;
        list["clients"][0]["client_id"] == "shown"
    })
    .await;
    let shown = ask(admin, &["sessions", "show", "shown"]).await;
    assert!(
        shown.contains("connection.address") && shown.contains("s/+"),
        "{shown}"
    );
    let matching = ask_json(admin, &["topics", "match", "s/1"]).await;
    assert_eq!(matching["subscriptions"][0]["filter"], "s/+");
    let none = ask_json(admin, &["subscriptions", "list", "--topic", "x"]).await;
    assert_eq!(none["subscriptions"], serde_json::json!([]));

    assert!(
        ask(admin, &["sessions", "kick", "shown"])
            .await
            .contains("closed")
    );
    client.expect_closed(IN_TIME).await;
    ask(admin, &["sessions", "kick", "shown", "--purge"]).await;
    let absent = run(&["sessions", "show", "shown", "--url", &url]).await;
    assert_eq!(absent.code, 1, "{}{}", absent.out, absent.error);
}

/// Also as the smoke test of an installation: one node, with the handshake of each QoS.
#[tokio::test]
async fn publish_and_subscribe_are_a_client_of_every_qos() {
    let name = "publish_and_subscribe_are_a_client_of_every_qos";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            nodes: 1,
            ..options()
        },
    )
    .await;
    let url = format!("mqtt://{}", cluster.mqtt(1));
    let mut subscriber = holdfast(&["subscribe", "p/#", "-q", "2", "--count", "3", "--url", &url])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("it is piped")).lines();
    let admin = cluster.admin(1);
    wait_until("it has subscribed", IN_TIME, async || {
        let list = ask_json(admin, &["subscriptions", "list"]).await;
        list["subscriptions"][0]["filter"] == "p/#"
    })
    .await;
    for qos in ["0", "1", "2"] {
        let message = format!("at {qos}");
        let ran = run(&[
            "publish", "p/q", "--qos", qos, "-m", &message, "--retain", "--url", &url,
        ])
        .await;
        assert_eq!(ran.code, 0, "{}", ran.error);
        let line = timeout(IN_TIME, lines.next_line())
            .await
            .expect("in time")
            .unwrap();
        assert_eq!(line.as_deref(), Some(format!("p/q at {qos}").as_str()));
    }
    let ended = timeout(IN_TIME, subscriber.wait())
        .await
        .expect("it ends in time")
        .unwrap();
    assert!(ended.success());

    assert_eq!(ask(admin, &["retained", "get", "p/q"]).await, "at 2\n");
    let list = ask_json(admin, &["retained", "list", "p/#"]).await;
    assert_eq!(list["retained"][0]["payload_bytes"], 4);
    assert_eq!(
        ask(admin, &["retained", "delete", "--filter", "p/#"]).await,
        "1 cleared\n"
    );
    let refused = run(&["publish", "$SYS/x", "--qos", "1", "-m", "x", "--url", &url]).await;
    assert_eq!(refused.code, 1, "{}", refused.error);
    assert!(refused.error.contains("0x87"), "{}", refused.error);
}

#[tokio::test]
async fn exit_codes_tell_usage_from_a_node_that_is_not_there() {
    let free = Port::reserve();
    let nobody = format!("http://{}", free.address());
    let mqtt = format!("mqtt://{}", free.address());
    let cases: [(&[&str], i32); 11] = [
        (&["status", "--url", &nobody], 3),
        (&["healthcheck", "--url", &nobody], 3),
        (&["publish", "t", "-m", "x", "--url", &mqtt], 3),
        (&["publish", "t/#", "-m", "x", "--url", &mqtt], 2),
        (&["subscribe", "t", "--url", "amqp://x"], 2),
        (&["status", "--colour"], 2),
        (&["members", "add", "4@host:7400"], 2),
        (&["backup", "create", "x"], 2),
        (&["check", "/nonexistent"], 2),
        (&["completions", "bash"], 0),
        (&["version", "--json"], 0),
    ];
    for (arguments, code) in cases {
        let ran = run(arguments).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}{}", ran.out, ran.error);
        assert_eq!(
            ran.error.is_empty(),
            code == 0,
            "{arguments:?}: {}",
            ran.error
        );
    }
}

/// A node that has lost the others still answers, and says so with its own exit code.
#[tokio::test]
async fn a_node_without_quorum_has_its_own_exit_code() {
    let name = "a_node_without_quorum_has_its_own_exit_code";
    let mut cluster = Cluster::start(name, options()).await;
    for node in [2, 3] {
        cluster.suspend(node).await;
    }
    let url = format!("http://{}", cluster.admin(1));
    wait_until("it has no quorum", IN_TIME, async || {
        run(&["status", "--url", &url]).await.code == 4
    })
    .await;
    let ready = run(&["healthcheck", "--url", &url]).await;
    assert_eq!(ready.code, 1, "{}", ready.error);
    assert_eq!(run(&["healthcheck", "--live", "--url", &url]).await.code, 0);
    for node in [2, 3] {
        cluster.wake(node);
    }
}

/// Every replica that stands for the same entry has the same digest; a folder in use is left alone, and
/// one with a broken table is refused.
#[tokio::test]
async fn a_data_folder_is_verified_while_no_node_uses_it() {
    let name = "a_data_folder_is_verified_while_no_node_uses_it";
    let mut cluster = Cluster::start(name, options()).await;
    let options = ConnectOptions::persistent("kept", ProtocolVersion::V5);
    let mut client = Client::connect_any(&[cluster.mqtt(1)], &options, cluster.history()).await;
    client.subscribe("k/+", Qos::AtLeastOnce).await;
    client.disconnect().await;
    let folder = cluster.data_dir(1).display().to_string();
    let in_use = run(&["check", &folder]).await;
    assert_eq!(in_use.code, 2, "{}{}", in_use.out, in_use.error);
    cluster.terminate_and_wait(1).await;
    let ran = run(&["check", &folder, "--json"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.error);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let shards = report["shards"].as_array().unwrap();
    assert_eq!(shards.len(), usize::from(cluster.shards()));
    let sessions: u64 = shards
        .iter()
        .map(|shard| shard["sessions"].as_u64().unwrap())
        .sum();
    assert_eq!(sessions, 1, "{report}");
    let again = run(&["check", &folder, "--json"]).await;
    assert_eq!(again.out, ran.out);

    let tables = std::fs::read_dir(cluster.data_dir(1).join("state")).unwrap();
    let table = tables
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .expect("the stop has flushed the state");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[20] ^= 0xff;
    std::fs::write(&table, bytes).unwrap();
    let broken = run(&["check", &folder]).await;
    assert_eq!(broken.code, 1, "{}{}", broken.out, broken.error);
}

/// Whose sessions there are, also of clients that are away.
#[tokio::test]
async fn sessions_are_listed_by_user() {
    let name = "sessions_are_listed_by_user";
    let files = Files::new();
    let (alice, bob) = (("alice", "of alice"), ("bob", "of bob"));
    files.passwords(&[alice, bob]);
    let auth = files.key("password_file", "passwd") + "anonymous = true";
    let cluster = access::cluster(name, 3, auth).await;
    let version = ProtocolVersion::V5;
    for (id, user) in [("one", alice), ("two", bob), ("three", ("", ""))] {
        let options = access::with_user(ConnectOptions::persistent(id, version), user);
        access::connected(&cluster, 1, &options)
            .await
            .disconnect()
            .await;
    }
    let here = access::transient("here", version, alice);
    let _here = access::connected(&cluster, 2, &here).await;
    let listed = async |filter: &str| {
        let admin = cluster.admin(3);
        let list = ask_json(admin, &["sessions", "list", "--filter", filter]).await;
        let clients = list["clients"].as_array().unwrap().clone();
        clients
            .iter()
            .map(|one| format!("{} {}", one["client_id"], one["user"]))
            .collect::<Vec<_>>()
    };
    let expected = [r#""here" "alice""#, r#""one" "alice""#];
    wait_until("node 3 has applied that", IN_TIME, async || {
        listed("user=alice").await == expected
    })
    .await;
    assert_eq!(
        listed("user=alice,connected=false").await,
        [r#""one" "alice""#]
    );
    assert_eq!(listed("user=b*").await, [r#""two" "bob""#]);
    assert_eq!(listed("user=").await, [r#""three" null"#]);
    let shown = ask_json(cluster.admin(3), &["sessions", "show", "two"]).await;
    assert_eq!(shown["client"]["user"], "bob");
}
