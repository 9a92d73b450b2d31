//! Prometheus: its configuration, its rules, a real scrape; and the Grafana dashboard.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use tempfile::TempDir;
use testkit::ports::Port;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, http, skip, wait_until};

use crate::metrics::{AWAITED, documented};
use crate::tools::{binary, checkout, installed, printed, python, read, run, succeeded};

/// For a start of Prometheus and two scrapes on a busy machine.
const SCRAPED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn promtool_takes_configuration_and_rules() {
    let name = "promtool_takes_configuration_and_rules";
    let Some(promtool) = installed("promtool") else {
        return skip(name, "promtool is not installed");
    };
    let configuration = checkout("deploy/prometheus/prometheus.yml");
    let arguments = [
        "check".as_ref(),
        "config".as_ref(),
        configuration.as_os_str(),
    ];
    let text = succeeded("config", &run(&promtool, arguments));
    assert!(text.contains("rules found"), "{text}");
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() {
    let name = "each_alert_fires_when_it_should_and_not_otherwise";
    let Some(promtool) = installed("promtool") else {
        return skip(name, "promtool is not installed");
    };
    let tests = checkout("deploy/prometheus/rules_test.yml");
    let arguments = ["test".as_ref(), "rules".as_ref(), tests.as_os_str()];
    succeeded("rules", &run(&promtool, arguments));
    without_each_rule(&promtool);
}

/// That its tests would notice a missing alert, one by one.
fn without_each_rule(promtool: &Path) {
    const RULE: &str = "      - alert: ";
    const TEST: &str = "  - name: ";
    let (rules, tests) = (
        read("deploy/prometheus/rules.yml"),
        read("deploy/prometheus/rules_test.yml"),
    );
    let rules: Vec<&str> = rules.split(RULE).collect();
    let tests: Vec<&str> = tests.split(TEST).collect();
    for left_out in 1..rules.len() {
        let folder = TempDir::new().expect("a temporary folder");
        let mut fewer = rules.clone();
        let alert = fewer.remove(left_out).lines().next().unwrap_or_default();
        std::fs::write(folder.path().join("rules.yml"), fewer.join(RULE)).expect("writable");
        let own = tests[1..].iter().filter(|test| test.starts_with(alert));
        let own: Vec<&str> = tests[..1].iter().chain(own).copied().collect();
        let file = folder.path().join("rules_test.yml");
        std::fs::write(&file, own.join(TEST)).expect("writable");
        let arguments = ["test".as_ref(), "rules".as_ref(), file.as_os_str()];
        let output = run(promtool, arguments);
        assert!(!output.status.success(), "{alert} is missed by no test");
    }
}

#[test]
fn the_dashboard_is_one_for_grafana() {
    let name = "the_dashboard_is_one_for_grafana";
    let (Some(python), Some(_)) = (python(), installed("promtool")) else {
        return skip(
            name,
            "no Python of scripts/deploy_tools.sh, or promtool is not installed",
        );
    };
    let folder = TempDir::new().expect("a temporary folder");
    let metrics = folder.path().join("metrics.txt");
    // With all suffixes a name may have; which names there are is another test's matter.
    let types = documented()
        .into_iter()
        .chain(AWAITED.map(str::to_owned))
        .map(|name| format!("# TYPE {name} histogram\n"));
    std::fs::write(&metrics, types.collect::<String>()).expect("it is writable");
    let script = checkout("tests/deploy/check_dashboard.py");
    let dashboard = checkout("deploy/grafana/holdfast.json");
    let output = run(&python, [script, dashboard, metrics, "holdfast_".into()]);
    let text = printed(&output);
    assert!(
        output.status.success() && !text.contains("absent"),
        "{text}"
    );
}

/// A Prometheus that ends with the test.
struct Prometheus {
    process: std::process::Child,
    port: Port,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Prometheus {
    /// Our configuration, but for the addresses and the pace.
    fn start(program: &Path, cluster: &Cluster) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut text = read("deploy/prometheus/prometheus.yml");
        for id in cluster.ids() {
            let name = format!("\"holdfast-{id}:8080\"");
            assert!(text.contains(&name), "{name} is no target");
            text = text.replace(&name, &format!("\"{}\"", cluster.admin(id)));
        }
        let text = text.replace(": 15s", ": 1s");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, text).expect("it is writable");
        std::fs::write(
            folder.path().join("rules.yml"),
            read("deploy/prometheus/rules.yml"),
        )
        .expect("writable");
        let port = Port::reserve();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={}", port.address()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().expect("Prometheus starts");
        Self {
            process,
            port,
            _folder: folder,
        }
    }

    async fn get(&self, path: &str) -> String {
        let answer = http::get(self.port.address(), path).await;
        answer.map(|(_, body)| body).unwrap_or_default()
    }

    /// The value of a query that has one.
    async fn value(&self, query: &str) -> Option<f64> {
        let answer = self.get(&format!("/api/v1/query?query={query}")).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
        answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    }
}

#[tokio::test]
async fn prometheus_scrapes_a_cluster() {
    let name = "prometheus_scrapes_a_cluster";
    let (Some(program), Some(promtool)) = (installed("prometheus"), installed("promtool")) else {
        return skip(name, "prometheus is not installed");
    };
    let cluster = Cluster::start(name, ClusterOptions::new(binary())).await;
    traffic(&cluster).await;
    let prometheus = Prometheus::start(&program, &cluster);
    wait_until("three nodes are scraped", SCRAPED_WITHIN, async || {
        prometheus.value("sum(up)").await == Some(3.0)
    })
    .await;
    for (query, least) in [
        ("sum(holdfast_publish_received_total%7Bqos=%222%22%7D)", 1.0),
        (
            "count(holdfast_raft_has_leader%7Bjob=%22holdfast%22%7D==1)",
            12.0,
        ),
        ("sum(holdfast_storage_fsync_duration_seconds_count)", 1.0),
        ("count(process_start_time_seconds)", 3.0),
    ] {
        wait_until(query, SCRAPED_WITHIN, async || {
            prometheus
                .value(query)
                .await
                .is_some_and(|value| value >= least)
        })
        .await;
    }
    wait_until("all rules are evaluated", SCRAPED_WITHIN, async || {
        let rules = prometheus.get("/api/v1/rules").await;
        rules.contains("HoldfastNodeDown") && !rules.contains("\"health\":\"unknown\"")
    })
    .await;
    let rules = prometheus.get("/api/v1/rules").await;
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
    lint(&promtool, &cluster).await;
}

/// One message to a persistent session.
async fn traffic(cluster: &Cluster) {
    let options = |id: &str| ConnectOptions::persistent(id, ProtocolVersion::V5);
    let history = cluster.history();
    let mut subscriber = Client::connect_any(&[cluster.mqtt(1)], &options("s"), history).await;
    subscriber.subscribe("a/b", Qos::ExactlyOnce).await;
    let mut publisher = Client::connect_any(&[cluster.mqtt(2)], &options("p"), history).await;
    publisher.publish_qos2(1, "a/b", "hello").await;
    assert_eq!(subscriber.take_message().await.payload, "hello");
}

/// `promtool check metrics`, and only names that the page has.
async fn lint(promtool: &Path, cluster: &Cluster) {
    let documented = documented();
    for id in cluster.ids() {
        let (_, text) = http::get(cluster.admin(id), "/metrics")
            .await
            .expect("it answers");
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("metrics.txt");
        std::fs::write(&file, &text).expect("it is writable");
        let mut command = Command::new(promtool);
        command
            .args(["check", "metrics"])
            .stdin(std::fs::File::open(&file).expect("it is there"));
        let output = command.output().expect("promtool runs");
        assert_eq!(printed(&output), "", "node {id}");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(documented.contains(name), "{name} is not on the page");
        }
    }
}
