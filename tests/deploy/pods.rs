//! The chart's pods as containers: the rendered configuration, Secret, arguments, user, mounts and
//! preStop, under the pods' DNS names. What only a cluster can show is not shown.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{report, scale, skip, wait_until};

use crate::chart::render;
use crate::engine::{Engine, at_once, docker, docker_text, output, write_for_containers};
use crate::tools::{installed, prepared, python, run, succeeded};

const READY_WITHIN: Duration = Duration::from_secs(90);

/// A rendered chart as JSON documents.
fn documents(python: &Path, rendered: &str) -> Vec<Value> {
    const TO_JSON: &str =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let text = succeeded("Python", &run(python, ["-c", TO_JSON, rendered]));
    serde_json::from_str(&text).expect("it is JSON")
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found = documents.iter().find(|document| document["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|one| one.as_str().expect("a string").to_owned())
        .collect()
}

/// The pods' containers and their network; removed with the value.
struct Pods {
    names: Vec<String>,
    network: String,
    files: TempDir,
}

impl Drop for Pods {
    fn drop(&mut self) {
        for name in &self.names {
            at_once(&["rm", "--force", "--volumes", name]);
        }
        at_once(&["network", "rm", &self.network]);
    }
}

impl Pods {
    async fn start(engine: &Engine, documents: &[Value]) -> Self {
        let files = TempDir::new().expect("a temporary folder");
        let toml = of_kind(documents, "ConfigMap")["data"]["holdfast.toml"]
            .as_str()
            .expect("text");
        write_for_containers(
            &files.path().join("config"),
            "holdfast.toml",
            toml.as_bytes(),
        );
        for (name, value) in of_kind(documents, "Secret")["data"]
            .as_object()
            .expect("a map")
        {
            let value =
                base64::engine::general_purpose::STANDARD.decode(value.as_str().expect("text"));
            write_for_containers(&files.path().join("secret"), name, &value.expect("base64"));
        }
        let sts = of_kind(documents, "StatefulSet");
        let network = format!("holdfast-pods-{}", std::process::id());
        docker_text(&["network", "create", &network]).await;
        let mut pods = Self {
            names: Vec::new(),
            network,
            files,
        };
        for number in 0..sts["spec"]["replicas"].as_u64().expect("a number") {
            pods.start_one(engine, sts, number).await;
        }
        pods
    }

    async fn start_one(&mut self, engine: &Engine, sts: &Value, number: u64) {
        let name = |key: &str| sts["metadata"][key].as_str().expect("a name").to_owned();
        let pod = format!("{}-{number}", name("name"));
        let service = sts["spec"]["serviceName"].as_str().expect("a name");
        let alias = format!("{pod}.{service}.{}.svc.cluster.local", name("namespace"));
        let spec = &sts["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let user = format!("{0}:{0}", spec["securityContext"]["runAsUser"]);
        let own_name = format!("{}-{number}", self.network);
        let mut arguments = vec!["run", "--detach", "--name", &own_name, "--hostname", &pod];
        arguments.extend([
            "--network",
            &self.network,
            "--network-alias",
            &alias,
            "--user",
            &user,
        ]);
        arguments.extend([
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--tmpfs",
            "/tmp",
        ]);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        arguments.push("--read-only");
        let mounts = container["volumeMounts"].as_array().expect("a list").iter();
        let folder = self.files.path().display().to_string();
        let mounts: Vec<String> = mounts
            .map(|mount| (mount["name"].as_str(), mount["mountPath"].as_str()))
            .filter_map(|(name, path)| match (name?, path?) {
                (name @ ("config" | "secret"), path) => Some(format!("{folder}/{name}:{path}:ro")),
                ("data", path) => Some(path.to_owned()),
                (_, _) => None,
            })
            .collect();
        assert_eq!(mounts.len(), 3, "{mounts:?}");
        arguments.extend(mounts.iter().flat_map(|mount| ["--volume", mount]));
        let own = strings(&container["args"]);
        arguments.push(&engine.image);
        arguments.extend(own.iter().map(String::as_str));
        docker_text(&arguments).await;
        self.names.push(own_name);
    }

    async fn is_ready(&self, name: &str) -> bool {
        let command = docker(&["exec", name, "holdfast", "healthcheck", "--ready"]);
        output(command).await.status.success()
    }
}

#[tokio::test]
async fn the_charts_pods_form_a_cluster_and_drain() {
    let name = "the_charts_pods_form_a_cluster_and_drain";
    if scale() == 1 {
        return report(&format!("{name}: only with HOLDFAST_TEST_SCALE above 1"));
    }
    let helm = prepared("helm").or_else(|| installed("helm"));
    let (Some(helm), Some(python)) = (helm, python()) else {
        return skip(
            name,
            "no helm or no Python: scripts/deploy_tools.sh prepares them",
        );
    };
    let Some(engine) = Engine::start().await else {
        return skip(
            name,
            "no Docker engine: scripts/engine.sh starts one where that is possible",
        );
    };
    let documents = documents(&python, &render(&helm, &[]));
    let pods = Pods::start(&engine, &documents).await;
    for one in &pods.names {
        wait_until(&format!("{one} is ready"), READY_WITHIN, async || {
            pods.is_ready(one).await
        })
        .await;
    }
    let spec = &of_kind(&documents, "StatefulSet")["spec"]["template"]["spec"];
    let grace = spec["terminationGracePeriodSeconds"].to_string();
    let pre_stop = strings(&spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]);
    let first = pods.names[0].as_str();
    let mut arguments = vec!["exec", first];
    arguments.extend(pre_stop.iter().map(String::as_str));
    docker_text(&arguments).await;
    assert!(!pods.is_ready(first).await, "a drained node is not ready");
    docker_text(&["stop", "--time", &grace, first]).await;
    let code = docker_text(&["inspect", "--format", "{{.State.ExitCode}}", first]).await;
    assert_eq!(code, "0", "it ended by itself");
    docker_text(&["start", first]).await;
    wait_until("it is back", READY_WITHIN, async || {
        pods.is_ready(first).await
    })
    .await;
}
