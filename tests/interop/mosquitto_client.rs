//! `mosquitto_pub` and `mosquitto_sub` play the scenario.

use std::collections::{BTreeSet, VecDeque};
use std::process::Stdio;
use std::time::Duration;

use testkit::{Cluster, NodeId, skip, wait_until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::{ALL, options, succeeds};

/// Until a line must have come, or a program ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages to a shared subscription.
const SHARED: usize = 40;

#[tokio::test]
async fn mosquitto_clients_play_the_scenario() {
    let name = "mosquitto_clients_play_the_scenario";
    let mut help = Command::new("sh");
    help.args(["-c", "command -v mosquitto_sub mosquitto_pub stdbuf"]);
    if !succeeds(&mut help).await {
        return skip(name, "mosquitto-clients is not installed");
    }
    let mut cluster = Cluster::start(name, options()).await;
    let plays = ALL.map(|version| Play {
        version,
        ports: [1, 2, 3].map(|id: NodeId| cluster.mqtt(id).port()),
    });
    let [v31, v311, v5] = &plays;
    let subscribers = tokio::join!(v31.until_kill(), v311.until_kill(), v5.until_kill());
    cluster.kill(1);
    let (first, second, third) = subscribers;
    tokio::join!(
        v31.after_kill(first),
        v311.after_kill(second),
        v5.after_kill(third)
    );
}

/// One play: the version, and where the nodes are.
#[derive(Debug)]
struct Play {
    version: &'static str,
    ports: [u16; 3],
}

/// A `mosquitto_sub` that runs.
#[derive(Debug)]
struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Came before they were asked for: a session's messages may precede its SUBACK.
    early: VecDeque<String>,
}

impl Play {
    fn topic(&self, name: &str) -> String {
        format!("mosquitto-{}/{name}", self.version)
    }

    fn command(&self, program: &str, node: usize, arguments: &[&str]) -> Command {
        // It would buffer what it prints into a pipe.
        let mut command = Command::new("stdbuf");
        let protocol = format!("mqtt{}", self.version);
        let port = self.ports[node].to_string();
        command.args(["-oL", program, "-h", "127.0.0.1", "-p", port.as_str()]);
        command.args(["-V", protocol.as_str()]).args(arguments);
        command
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    /// `mosquitto_pub` at the second node.
    async fn publish(&self, arguments: &[&str]) {
        wait_until("a node that is available", PATIENCE, async || {
            let mut command = self.command("mosquitto_pub", 1, arguments);
            let status = timeout(PATIENCE, command.status()).await;
            let status = status.expect("it ends in time").expect("it starts");
            let is_refused = status.code().is_some_and(is_unavailable);
            assert!(
                status.success() || is_refused,
                "mosquitto_pub {arguments:?}: {status}"
            );
            status.success()
        })
        .await;
    }

    /// `mosquitto_sub`, once it has its SUBACK; prints RETAIN, QoS and payload of each message.
    async fn subscribe(&self, node: usize, arguments: &[&str]) -> Subscriber {
        let mut subscribed = None;
        wait_until("a node that is available", PATIENCE, async || {
            let mut command = self.command("mosquitto_sub", node, arguments);
            command.args(["-d", "-F", "message %r %q %p"]);
            let mut child = command.spawn().expect("it starts");
            let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
            let early = VecDeque::new();
            subscribed = Subscriber::subscribed(Subscriber {
                child,
                lines,
                early,
            })
            .await;
            subscribed.is_some()
        })
        .await;
        subscribed.expect("it was waited for")
    }

    /// Up to the kill of the first node; returns a subscriber that is connected to it.
    async fn until_kill(&self) -> Subscriber {
        self.qos_matrix().await;
        self.retained().await;
        self.shared().await;
        self.will().await;
        self.persistent(0).await
    }

    /// A session that outlives its connection.
    async fn persistent(&self, node: usize) -> Subscriber {
        let (id, topic) = (format!("mosquitto-{}", self.version), self.topic("queued"));
        let mut arguments = vec!["-c", "-i", &id, "-q", "2", "-t", &topic];
        if self.version == "v5" {
            arguments.extend(["-x", "600"]);
        }
        self.subscribe(node, &arguments).await
    }

    async fn qos_matrix(&self) {
        for granted in ["0", "1", "2"] {
            let topic = self.topic(&format!("matrix/{granted}"));
            let mut subscriber = self.subscribe(0, &["-q", granted, "-t", &topic]).await;
            let mut expected = Vec::new();
            for qos in ["0", "1", "2"] {
                self.publish(&["-q", qos, "-t", &topic, "-m", qos]).await;
                expected.push(format!("0 {} {qos}", qos.min(granted)));
            }
            subscriber.expect(expected).await;
        }
    }

    async fn retained(&self) {
        let topic = self.topic("retained");
        self.publish(&["-r", "-q", "1", "-t", &topic, "-m", "kept"])
            .await;
        let mut subscriber = self.subscribe(2, &["-q", "1", "-t", &topic]).await;
        subscriber.expect(vec!["1 1 kept".to_owned()]).await;
        self.publish(&["-r", "-q", "1", "-t", &topic, "-n"]).await;
        subscriber.expect(vec!["0 1 ".to_owned()]).await;
    }

    async fn shared(&self) {
        let topic = self.topic("shared");
        let (filter, end) = (format!("$share/group/{topic}"), format!("{topic}/end"));
        let arguments = ["-q", "1", "-t", &filter, "-t", &end];
        let mut members = [
            self.subscribe(0, &arguments).await,
            self.subscribe(2, &arguments).await,
        ];
        let expected: BTreeSet<String> = (0..SHARED).map(|number| number.to_string()).collect();
        let lines: String = expected
            .iter()
            .map(|payload| format!("{payload}\n"))
            .collect();
        let mut command = self.command("mosquitto_pub", 1, &["-l", "-q", "1", "-t", &topic]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(lines.as_bytes()).await.expect("it reads");
        drop(input);
        let status = timeout(PATIENCE, child.wait()).await;
        assert!(status.expect("it ends in time").expect("it ends").success());
        self.publish(&["-q", "1", "-t", &end, "-m", "end"]).await;
        let mut found = BTreeSet::new();
        for member in &mut members {
            let before = found.len();
            loop {
                let message = member.take().await;
                let payload = message.rsplit(' ').next().unwrap_or_default().to_owned();
                if payload == "end" {
                    break;
                }
                assert!(found.insert(payload), "{message} came twice");
            }
            assert!(found.len() > before, "a member of the group got nothing");
        }
        assert_eq!(found, expected);
    }

    async fn will(&self) {
        let topic = self.topic("will");
        let mut subscriber = self.subscribe(0, &["-q", "1", "-t", &topic]).await;
        let nothing = self.topic("nothing");
        let will = [
            "--will-topic",
            &topic,
            "--will-payload",
            "the-will",
            "--will-qos",
            "1",
        ];
        let arguments = [&will[..], &["-t", &nothing]].concat();
        let mut mortal = self.subscribe(2, &arguments).await;
        mortal.kill().await;
        subscriber.expect(vec!["0 1 the-will".to_owned()]).await;
    }

    async fn after_kill(&self, mut subscriber: Subscriber) {
        // It would try the dead node for ever.
        subscriber.kill().await;
        let topic = self.topic("queued");
        let mut expected = Vec::new();
        for (number, qos) in ["1", "2", "1", "2", "1", "2"].into_iter().enumerate() {
            let payload = format!("number-{number}");
            self.publish(&["-q", qos, "-t", &topic, "-m", &payload])
                .await;
            expected.push(format!("0 {qos} {payload}"));
        }
        let mut subscriber = self.persistent(2).await;
        subscriber.expect(expected).await;
        self.publish(&["-q", "2", "-t", &topic, "-m", "live"]).await;
        subscriber.expect(vec!["0 2 live".to_owned()]).await;
    }
}

impl Subscriber {
    /// Waits for SUBACK; `None` when the node was not available.
    async fn subscribed(mut self) -> Option<Self> {
        while let Some(line) = self.line().await {
            if line.starts_with("Subscribed") {
                return Some(self);
            }
            self.early.extend(message(&line));
        }
        let status = self.child.wait().await.expect("it has ended");
        let is_refused = status.code().is_some_and(is_unavailable);
        assert!(is_refused, "mosquitto_sub: {status}");
        None
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("it says more in time").expect("text")
    }

    /// RETAIN, QoS and payload of the next message.
    async fn take(&mut self) -> String {
        loop {
            if let Some(message) = self.early.pop_front() {
                return message;
            }
            let line = self.line().await.expect("it does not end by itself");
            self.early.extend(message(&line));
        }
    }

    /// The messages that come next, in any order, as RETAIN, QoS and payload.
    async fn expect(&mut self, mut expected: Vec<String>) {
        let mut found = Vec::new();
        for _ in &expected {
            found.push(self.take().await);
        }
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    /// SIGKILL: no DISCONNECT.
    async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// What a line says, unless it is one of the many that `-d` adds.
fn message(line: &str) -> Option<String> {
    line.strip_prefix("message ").map(str::to_owned)
}

/// Exit codes: a node that cannot reach the others for a moment says so, in 3.1.1 or in 5.0.
fn is_unavailable(code: i32) -> bool {
    code == 3 || code == 0x88
}
