//! Runs client programs beside each other against one cluster, and kills a node under them.

use std::process::Stdio;
use std::time::Duration;

use testkit::Cluster;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// The part of the scenario before the kill, and the one after it, on a busy machine.
const IN_TIME: Duration = Duration::from_secs(80);

/// A program that plays the scenario once.
#[derive(Debug)]
struct Player {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Plays the scenario with one program per version: `program VERSION PORT PORT PORT PREFIX`.
pub(crate) async fn play(
    cluster: &mut Cluster,
    client: &str,
    versions: &[&str],
    program: &Program,
) {
    let mut players: Vec<Player> = versions
        .iter()
        .map(|version| Player::start(cluster, (client, version), program))
        .collect();
    for player in &mut players {
        player.expect("ready").await;
    }
    cluster.kill(1);
    for player in &mut players {
        player.input.write_all(b"killed\n").await.expect("it reads");
    }
    for player in &mut players {
        player.expect("done").await;
    }
}

/// How to start a client.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Interpreter or binary, and what comes before the scenario's arguments.
    pub(crate) command: Vec<String>,
    /// Set in addition to our own environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Player {
    fn start(cluster: &Cluster, (client, version): (&str, &str), program: &Program) -> Self {
        let mut command = Command::new(&program.command[0]);
        command.args(&program.command[1..]).arg(version);
        let ports = cluster.ids().into_iter().map(|id| cluster.mqtt(id).port());
        command.args(ports.map(|port| port.to_string()));
        let name = format!("{client}-{version}");
        command.arg(&name);
        command.envs(program.environment.iter().cloned());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("it starts");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self {
            name,
            child,
            input,
            output,
        }
    }

    /// Waits for this line; shows what the program says instead.
    async fn expect(&mut self, expected: &str) {
        let mut lines = Vec::new();
        let found = timeout(IN_TIME, async {
            while let Ok(Some(line)) = self.output.next_line().await {
                if line == expected {
                    return true;
                }
                lines.push(line);
            }
            false
        });
        if matches!(found.await, Ok(true)) {
            return;
        }
        self.child.start_kill().ok();
        let mut errors = String::new();
        if let Some(mut stream) = self.child.stderr.take() {
            stream.read_to_string(&mut errors).await.ok();
        }
        let lines = lines.join("\n");
        panic!("{}: no {expected:?}:\n{lines}\n{errors}", self.name);
    }
}
