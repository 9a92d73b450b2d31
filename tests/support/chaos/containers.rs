//! The nodes as containers, found by compose's labels, whichever version of compose made them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use crate::wait::let_pass;

/// What the services of deploy/compose are called.
const SERVICE: &str = "holdfast-";
const MQTT: &str = "1883/tcp";
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One node.
#[derive(Debug)]
struct Container {
    id: String,
    service: String,
    mqtt: SocketAddr,
    network: String,
    aliases: Vec<String>,
}

/// All nodes of one project, in the order of their services.
#[derive(Debug)]
pub(super) struct Containers {
    project: String,
    nodes: Vec<Container>,
}

async fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|error| format!("docker can't be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("docker {}: {}", arguments.join(" "), error.trim()))
}

impl Containers {
    /// The running nodes of `project`, or of the only project that has some.
    pub(super) async fn find(project: Option<&str>) -> Result<Self, String> {
        const FORMAT: &str = "{{.ID}} {{.Label \"com.docker.compose.project\"}} {{.Label \"com.docker.compose.service\"}}";
        let listed = docker(&[
            "ps",
            "--no-trunc",
            "--filter",
            "label=com.docker.compose.service",
            "--format",
            FORMAT,
        ])
        .await?;
        let mut found: Vec<(&str, &str, &str)> = listed
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?, words.next()?, words.next()?))
            })
            .filter(|(_, of, service)| {
                service.starts_with(SERVICE) && project.is_none_or(|project| project == *of)
            })
            .collect();
        found.sort_by_key(|(_, project, service)| (*project, *service));
        let Some((_, first, _)) = found.first().copied() else {
            return Err("no containers of a compose cluster run here: start one as deploy/compose/README.md says".to_owned());
        };
        if found.iter().any(|(_, of, _)| *of != first) {
            return Err(
                "several compose projects have nodes: choose one with --project".to_owned(),
            );
        }
        if found.len() < 3 {
            return Err(format!(
                "{} nodes run; with fewer than 3 every fault stops the cluster",
                found.len()
            ));
        }
        let mut nodes = Vec::new();
        for (id, _, service) in &found {
            nodes.push(Container::inspect(id, service).await?);
        }
        Ok(Self {
            project: first.to_owned(),
            nodes,
        })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.mqtt).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn service(&self, node: usize) -> &str {
        &self.nodes[node].service
    }

    /// Waits until every health check says healthy.
    pub(super) async fn wait_healthy(&self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        for node in &self.nodes {
            loop {
                let health =
                    docker(&["inspect", "--format", "{{.State.Health.Status}}", &node.id]).await?;
                if health == "healthy" {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(format!("{} is {health} after {limit:?}", node.service));
                }
                let_pass(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    pub(super) async fn kill(&self, node: usize) -> Result<(), String> {
        docker(&["kill", &self.nodes[node].id]).await.map(drop)
    }

    /// A kill by hand turns the restart policy off.
    pub(super) async fn start(&self, node: usize) -> Result<(), String> {
        docker(&["start", &self.nodes[node].id]).await.map(drop)
    }

    pub(super) async fn pause(&self, node: usize) -> Result<(), String> {
        docker(&["pause", &self.nodes[node].id]).await.map(drop)
    }

    pub(super) async fn unpause(&self, node: usize) -> Result<(), String> {
        docker(&["unpause", &self.nodes[node].id]).await.map(drop)
    }

    pub(super) async fn disconnect(&self, node: usize) -> Result<(), String> {
        let Container { id, network, .. } = &self.nodes[node];
        docker(&["network", "disconnect", network, id])
            .await
            .map(drop)
    }

    /// Under the names that it had.
    pub(super) async fn connect(&self, node: usize) -> Result<(), String> {
        let Container {
            id,
            network,
            aliases,
            ..
        } = &self.nodes[node];
        let mut arguments = vec!["network", "connect"];
        arguments.extend(aliases.iter().flat_map(|alias| ["--alias", alias]));
        arguments.extend([network.as_str(), id]);
        docker(&arguments).await.map(drop)
    }
}

impl Container {
    async fn inspect(id: &str, service: &str) -> Result<Self, String> {
        const NETWORKS: &str = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}}{{range $network.Aliases}} {{.}}{{end}}\n{{end}}";
        let networks = docker(&["inspect", "--format", NETWORKS, id]).await?;
        let mut words = networks.lines().next().unwrap_or_default().split(' ');
        let network = words.next().filter(|name| !name.is_empty());
        let network = network
            .ok_or_else(|| format!("{service} is in no network"))?
            .to_owned();
        // The short id is one of them; docker gives it again by itself.
        let aliases = words
            .filter(|alias| !id.starts_with(alias))
            .map(str::to_owned)
            .collect();
        let published = docker(&["port", id, MQTT]).await?;
        let mqtt = published
            .lines()
            .find_map(|line| line.replace("0.0.0.0", "127.0.0.1").parse().ok());
        let mqtt = mqtt.ok_or_else(|| format!("{service} does not publish port {MQTT}"))?;
        Ok(Self {
            id: id.to_owned(),
            service: service.to_owned(),
            mqtt,
            network,
            aliases,
        })
    }
}

impl fmt::Display for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "project {}:", self.project)?;
        for node in &self.nodes {
            write!(f, " {} at {}", node.service, node.mqtt)?;
        }
        Ok(())
    }
}
