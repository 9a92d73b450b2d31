//! The compose cluster in a folder of its own, with ports and a project name of its own.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use testkit::ports::Port;
use testkit::wait_until;
use tokio::process::Command;

use crate::engine::{Engine, at_once, docker, docker_text, output};
use crate::tools::{prepared, read, run, succeeded};

pub(crate) const NODES: [u16; 3] = [1, 2, 3];
/// Until three containers have found each other on a busy machine.
pub(crate) const HEALTHY_WITHIN: Duration = Duration::from_secs(90);

/// Three containers that are removed, with volumes and network, when the value is.
pub(crate) struct Compose<'a> {
    engine: &'a Engine,
    command: Vec<String>,
    folder: TempDir,
    pub(crate) project: String,
    mqtt: Vec<Port>,
    admin: Vec<Port>,
}

impl<'a> Compose<'a> {
    /// A copy of deploy/compose, with the secrets made as its README says.
    pub(crate) fn new(engine: &'a Engine, command: &[String]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for file in [
            "docker-compose.yml",
            "docker-compose.monitoring.yml",
            "holdfast.toml",
        ] {
            let text = read(&format!("deploy/compose/{file}"));
            crate::engine::write_for_containers(folder.path(), file, text.as_bytes());
        }
        let readme = read("deploy/compose/README.md");
        let (_, rest) = readme
            .split_once("```sh\n")
            .expect("a first block of commands");
        let (commands, _) = rest.split_once("```").expect("it ends");
        let script = format!("set -e; cd '{}'\n{commands}", folder.path().display());
        succeeded(
            "the README's first step",
            &run("/bin/sh".as_ref(), ["-c", &script]),
        );
        Self {
            engine,
            command: command.to_vec(),
            project: format!("holdfast-test-{}", std::process::id()),
            folder,
            mqtt: NODES.map(|_| Port::reserve()).into(),
            admin: NODES.map(|_| Port::reserve()).into(),
        }
    }

    /// Without secrets: as somebody who skipped that step.
    pub(crate) fn without_secrets(engine: &'a Engine, command: &[String]) -> Self {
        let compose = Self::new(engine, command);
        std::fs::remove_dir_all(compose.folder.path().join("secrets")).expect("they are there");
        compose
    }

    /// One command of compose.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
            .args(["--project-name", &self.project])
            .args(arguments);
        command
            .current_dir(self.folder.path())
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
            .env("HOLDFAST_IMAGE", &self.engine.image)
            .env("GRAFANA_PASSWORD", "x");
        for (place, node) in NODES.into_iter().enumerate() {
            let port = |port: &Port| port.address().port().to_string();
            command.env(
                format!("HOLDFAST_MQTT_PORT_{node}"),
                port(&self.mqtt[place]),
            );
            command.env(
                format!("HOLDFAST_ADMIN_PORT_{node}"),
                port(&self.admin[place]),
            );
        }
        if let Some(folder) = prepared("docker") {
            command.env("DOCKER_CONFIG", folder);
        }
        output(command).await
    }

    /// `up`, and waits until all are healthy.
    pub(crate) async fn up(&self) {
        let up = self.run(&["up", "-d", "--no-build"]).await;
        succeeded("up", &up);
        for node in NODES {
            self.wait_healthy(node).await;
        }
    }

    /// MQTT as it is published.
    pub(crate) fn mqtt(&self, node: u16) -> SocketAddr {
        self.mqtt[usize::from(node) - 1].address()
    }

    /// Health, metrics and API as they are published.
    pub(crate) fn admin(&self, node: u16) -> SocketAddr {
        self.admin[usize::from(node) - 1].address()
    }

    /// The container's id, found by its labels: compose's own `ps -q` hides those that have ended.
    pub(crate) async fn container(&self, node: u16) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service=holdfast-{node}");
        let id = docker_text(&[
            "ps",
            "-aq",
            "--no-trunc",
            "--filter",
            &project,
            "--filter",
            &service,
        ])
        .await;
        assert!(
            !id.is_empty() && !id.contains('\n'),
            "containers of node {node}: {id:?}"
        );
        id
    }

    /// One field of `docker inspect`.
    pub(crate) async fn inspect(&self, node: u16, field: &str) -> String {
        let id = self.container(node).await;
        docker_text(&["inspect", "--format", field, &id]).await
    }

    pub(crate) async fn wait_healthy(&self, node: u16) {
        let what = format!("node {node} is healthy");
        wait_until(&what, HEALTHY_WITHIN, async || {
            self.inspect(node, "{{.State.Health.Status}}").await == "healthy"
        })
        .await;
    }

    /// Whether a command in the container succeeds.
    pub(crate) async fn succeeds_inside(&self, node: u16, command: &[&str]) -> bool {
        let id = self.container(node).await;
        let arguments = [&["exec", &id], command].concat();
        output(docker(&arguments)).await.status.success()
    }

    pub(crate) fn network(&self) -> String {
        format!("{}_holdfast", self.project)
    }
}

impl Drop for Compose<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint_logs(&self.project);
        }
        let label = format!("label=com.docker.compose.project={}", self.project);
        for (kind, list, remove) in [
            ("container", &["ls", "-aq"][..], &["rm", "-f", "-v"][..]),
            ("network", &["ls", "-q"], &["rm"]),
            ("volume", &["ls", "-q"], &["rm", "-f"]),
        ] {
            let mut command = std::process::Command::new("docker");
            command.arg(kind).args(list).args(["--filter", &label]);
            let found = command
                .output()
                .map(|output| output.stdout)
                .unwrap_or_default();
            for id in String::from_utf8_lossy(&found).split_whitespace() {
                at_once(&[&[kind], remove, &[id]].concat());
            }
        }
    }
}

/// The ends of the nodes' logs, for whoever reads the failure.
fn eprint_logs(project: &str) {
    let mut command = std::process::Command::new("docker");
    let label = format!("label=com.docker.compose.project={project}");
    command.args(["ps", "-aq", "--filter", &label]);
    let found = command
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    for id in String::from_utf8_lossy(&found).split_whitespace() {
        let mut logs = std::process::Command::new("docker");
        logs.args(["logs", "--tail", "30", id]);
        if let Ok(output) = logs.output() {
            testkit::report(&format!("log of {id}:\n{}", crate::tools::printed(&output)));
        }
    }
}
