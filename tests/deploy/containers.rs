//! The compose cluster as its users run it: started, used, cut off, stopped, started again, tormented.

use std::time::{Duration, Instant};

use codec::{ProtocolVersion, Qos};
use testkit::{
    Client, ConnectOptions, History, Random, chaos, http, report, scale, skip, wait_until,
};

use crate::compose::{Compose, HEALTHY_WITHIN, NODES};
use crate::engine::{Engine, composes, docker_text};
use crate::tools::{printed, succeeded};

/// `stop_grace_period`: a container that needs longer is killed.
const GRACE: Duration = Duration::from_secs(90);
/// Of chaos in the full tests.
const CHAOS: Duration = Duration::from_secs(180);
/// A node that is cut off notices it within its lease and a second; a busy machine is given more.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_compose_cluster_keeps_its_promises() {
    let name = "a_compose_cluster_keeps_its_promises";
    let Some(engine) = Engine::start().await else {
        return skip(
            name,
            "no Docker engine: scripts/engine.sh starts one where that is possible",
        );
    };
    let composes = composes().await;
    if composes.is_empty() {
        return skip(name, "neither compose v2 nor 1.29 is there");
    }
    let count = if scale() > 1 { composes.len() } else { 1 };
    for command in &composes[..count] {
        let started = Instant::now();
        scenario(&Compose::new(&engine, command)).await;
        report(&format!(
            "{name}: {command:?} in {:.0} s",
            started.elapsed().as_secs_f64()
        ));
    }
}

async fn scenario(compose: &Compose<'_>) {
    compose.up().await;
    is_confined(compose).await;
    let history = History::new();
    used_through_published_ports(compose, &history).await;
    cut_off(compose).await;
    stopped(compose).await;
    compose.up().await;
    // The volumes: what was queued for the session is there, once.
    let mut again = Client::connect_any(&[compose.mqtt(3)], &subscriber(), &history).await;
    assert!(again.session_present(), "the session survived");
    assert_eq!(again.take_message().await.payload, "while you were out");
    again.disconnect().await;
}

fn subscriber() -> ConnectOptions {
    ConnectOptions::persistent("subscriber", ProtocolVersion::V5)
}

/// Not root, nothing to write but the volume, no capabilities, ports on loopback only.
async fn is_confined(compose: &Compose<'_>) {
    for node in NODES {
        assert_eq!(
            compose.inspect(node, "{{.Config.User}}").await,
            "10001:10001"
        );
        assert_eq!(
            compose
                .inspect(node, "{{.HostConfig.ReadonlyRootfs}}")
                .await,
            "true"
        );
        assert_eq!(
            compose.inspect(node, "{{.HostConfig.CapDrop}}").await,
            "[ALL]"
        );
        let published = compose
            .inspect(node, "{{json .NetworkSettings.Ports}}")
            .await;
        assert!(
            published.contains("127.0.0.1") && !published.contains("0.0.0.0"),
            "{published}"
        );
        assert!(
            !compose
                .succeeds_inside(node, &["touch", "/etc/holdfast/x"])
                .await
        );
        assert!(
            compose
                .succeeds_inside(node, &["touch", "/var/lib/holdfast/x"])
                .await
        );
    }
}

/// A session on node 3 that goes away, a message for it through node 1.
async fn used_through_published_ports(compose: &Compose<'_>, history: &History) {
    let mut client = Client::connect_any(&[compose.mqtt(3)], &subscriber(), history).await;
    client.subscribe("post/#", Qos::ExactlyOnce).await;
    let publisher = ConnectOptions::persistent("publisher", ProtocolVersion::V311);
    let mut publisher = Client::connect_any(&[compose.mqtt(1)], &publisher, history).await;
    publisher.publish_qos2(1, "post/box", "at once").await;
    assert_eq!(client.take_message().await.payload, "at once");
    client.disconnect().await;
    publisher
        .publish_qos2(2, "post/box", "while you were out")
        .await;
    publisher.disconnect().await;
    for node in NODES {
        let (status, _) = http::get(compose.admin(node), "/readyz")
            .await
            .expect("it answers");
        assert_eq!(status, 200, "node {node}");
    }
}

/// A container without its network is alive and not ready; the others go on.
async fn cut_off(compose: &Compose<'_>) {
    let (id, network) = (compose.container(2).await, compose.network());
    docker_text(&["network", "disconnect", &network, &id]).await;
    let ready = ["holdfast", "healthcheck", "--ready"];
    wait_until("the lonely node is not ready", NOTICED_WITHIN, async || {
        !compose.succeeds_inside(2, &ready).await
    })
    .await;
    assert!(
        compose
            .succeeds_inside(2, &["holdfast", "healthcheck", "--live"])
            .await
    );
    wait_until("compose shows it", HEALTHY_WITHIN, async || {
        compose.inspect(2, "{{.State.Health.Status}}").await == "unhealthy"
    })
    .await;
    assert_eq!(
        compose.inspect(2, "{{.RestartCount}}").await,
        "0",
        "it was left alone"
    );
    for node in [1, 3] {
        assert!(
            compose.succeeds_inside(node, &ready).await,
            "node {node} is ready"
        );
    }
    docker_text(&["network", "connect", "--alias", "holdfast-2", &network, &id]).await;
    compose.wait_healthy(2).await;
}

/// All drained and ended by themselves, within the grace.
async fn stopped(compose: &Compose<'_>) {
    let started = Instant::now();
    succeeded("stop", &compose.run(&["stop"]).await);
    assert!(started.elapsed() < GRACE, "it took {:?}", started.elapsed());
    for node in NODES {
        let state = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}";
        assert_eq!(
            compose.inspect(node, state).await,
            "exited 0 false",
            "node {node}"
        );
    }
}

/// What `make chaos` does to a user's cluster, done to ours.
#[tokio::test]
async fn chaos_loses_and_repeats_nothing() {
    let name = "chaos_loses_and_repeats_nothing";
    if scale() == 1 {
        return report(&format!("{name}: only with HOLDFAST_TEST_SCALE above 1"));
    }
    let Some(engine) = Engine::start().await else {
        return skip(
            name,
            "no Docker engine: scripts/engine.sh starts one where that is possible",
        );
    };
    let composes = composes().await;
    let Some(command) = composes.first() else {
        return skip(name, "neither compose v2 nor 1.29 is there");
    };
    let compose = Compose::new(&engine, command);
    compose.up().await;
    let options = chaos::Options {
        project: Some(compose.project.clone()),
        length: CHAOS,
        seed: Random::from_environment().seed(),
        credentials: None,
    };
    let verdict = chaos::run(&options, |line| report(&line)).await;
    let verdict = verdict.unwrap_or_else(|error| panic!("seed {}: {error}", options.seed));
    report(&verdict.to_string());
    assert!(
        verdict.reasons().is_empty(),
        "seed {}: {verdict}",
        options.seed
    );
    // Each kind, or the table says nothing of it.
    assert!(
        verdict.rows[1..].iter().all(|row| row.count > 0),
        "{verdict}"
    );
}

#[tokio::test]
async fn compose_does_not_start_without_secrets() {
    let name = "compose_does_not_start_without_secrets";
    let Some(engine) = Engine::start().await else {
        return skip(
            name,
            "no Docker engine: scripts/engine.sh starts one where that is possible",
        );
    };
    for command in composes().await {
        let compose = Compose::without_secrets(&engine, &command);
        let up = compose.run(&["up", "-d", "--no-build"]).await;
        let text = printed(&up);
        assert!(!up.status.success(), "{command:?}: {text}");
        assert!(
            text.contains("secrets/"),
            "{command:?} does not name it: {text}"
        );
    }
}

/// The override with Prometheus and Grafana, as both versions read it. Their images are not run here.
#[tokio::test]
async fn both_versions_of_compose_take_the_files() {
    let name = "both_versions_of_compose_take_the_files";
    let (Some(engine), composes) = (Engine::start().await, composes().await) else {
        return skip(
            name,
            "no Docker engine: scripts/engine.sh starts one where that is possible",
        );
    };
    if composes.len() < 2 {
        return skip(name, "compose v2 and 1.29 are not both there");
    }
    for command in composes {
        let compose = Compose::new(&engine, &command);
        let monitoring = [
            "-f",
            "docker-compose.yml",
            "-f",
            "docker-compose.monitoring.yml",
            "config",
        ];
        for arguments in [&["config"][..], &monitoring] {
            let text = succeeded("config", &compose.run(arguments).await);
            assert!(text.contains("holdfast-3"), "{text}");
        }
    }
}
