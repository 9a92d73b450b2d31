//! The Helm chart, and the manifests that are rendered from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::skip;

use crate::tools::{binary, checkout, installed, prepared, printed, python, read, run, succeeded};

const CHART: &str = "deploy/helm/holdfast";
const MANIFESTS: &str = "deploy/kubernetes/holdfast.yaml";
/// Each is `ci/NAME-values.yaml` of the chart.
const VALUES: [&str; 4] = ["default", "single", "production", "names"];
/// The oldest and the newest that the schemas are at hand for, and two between.
const KUBERNETES: [&str; 4] = ["1.28", "1.31", "1.34", "1.37"];
/// What the rendered manifests begin with.
const HEAD: &str = "\
# Rendered from deploy/helm/holdfast; a test compares them. UPDATE=1 in front of the test rewrites this file.
# Needs the Secret holdfast first: deploy/helm/holdfast/README.md says how to make it.
";

fn helm() -> Option<PathBuf> {
    prepared("helm").or_else(|| installed("helm"))
}

/// The chart with further arguments.
pub(crate) fn render(helm: &Path, more: &[&str]) -> String {
    let mut command = Command::new(helm);
    command.args(["template", "holdfast"]).arg(checkout(CHART));
    command.args(["--namespace", "mqtt"]).args(more);
    succeeded("helm template", &command.output().expect("helm runs"))
}

fn render_values(helm: &Path, values: &str) -> String {
    let file = checkout(&format!("{CHART}/ci/{values}-values.yaml"));
    render(helm, &["--values", file.to_str().expect("it is UTF-8")])
}

/// The text in a file of its own; the folder lives as long as the value.
fn in_a_file(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("rendered.yaml");
    std::fs::write(&file, text).expect("it is writable");
    (folder, file)
}

#[test]
fn the_chart_passes_helm_lint() {
    let name = "the_chart_passes_helm_lint";
    let Some(helm) = helm() else {
        return skip(name, "no helm: scripts/deploy_tools.sh prepares it");
    };
    for values in VALUES {
        let file = checkout(&format!("{CHART}/ci/{values}-values.yaml"));
        let arguments = ["lint", "--strict", "--values"].map(PathBuf::from);
        let output = run(&helm, arguments.into_iter().chain([file, checkout(CHART)]));
        succeeded(values, &output);
    }
}

/// The schema of the values.
#[test]
fn values_that_make_no_sense_are_refused() {
    let name = "values_that_make_no_sense_are_refused";
    let Some(helm) = helm() else {
        return skip(name, "no helm: scripts/deploy_tools.sh prepares it");
    };
    for (wrong, names) in [
        ("replicaCount=2", "replicaCount"),
        ("replicaCont=3", "replicaCont"),
        ("podAntiAffinity=maybe", "podAntiAffinity"),
        (
            "terminationGracePeriodSeconds=30",
            "terminationGracePeriodSeconds",
        ),
        ("persistence.size=ten", "size"),
        ("config.cluster.peers={x}", "cluster"),
        ("config.node.id=1", "node"),
        ("config.shutdown.grace=5 s", "grace"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
    ] {
        let chart = checkout(CHART);
        let output = run(
            &helm,
            [
                Path::new("template"),
                &chart,
                Path::new("--set"),
                Path::new(wrong),
            ],
        );
        let text = printed(&output);
        assert!(!output.status.success(), "{wrong} is taken");
        assert!(text.contains(names), "{wrong}: {text}");
    }
}

#[test]
fn rendered_charts_are_valid_in_every_supported_kubernetes() {
    let name = "rendered_charts_are_valid_in_every_supported_kubernetes";
    let (Some(helm), Some(python)) = (helm(), python()) else {
        return skip(
            name,
            "no helm or no schemas: scripts/deploy_tools.sh prepares them",
        );
    };
    let rendered = VALUES.map(|values| in_a_file(&render_values(&helm, values)));
    for version in KUBERNETES {
        let mut command = Command::new(&python);
        command.args(["-m", "kubernetes_validate", "--strict", "-k", version]);
        command.args(rendered.iter().map(|(_, file)| file));
        let output = command.output().expect("Python runs");
        let text = succeeded(version, &output) + &String::from_utf8_lossy(&output.stderr);
        let checked = text.matches("statefulset/").count();
        assert_eq!(
            checked,
            VALUES.len(),
            "{version} checked too little: {text}"
        );
    }
}

/// What must hold of a rendered chart beyond the schema; `None` when it holds.
fn breaches(python: &Path, rendered: &str) -> Option<String> {
    let (_folder, file) = in_a_file(rendered);
    let script = checkout("tests/deploy/chart.py");
    let output = run(python, [script, file]);
    let text = printed(&output);
    (!output.status.success()).then_some(text)
}

#[test]
fn rendered_charts_hang_together() {
    let name = "rendered_charts_hang_together";
    let (Some(helm), Some(python)) = (helm(), python()) else {
        return skip(
            name,
            "no helm or no Python: scripts/deploy_tools.sh prepares them",
        );
    };
    for values in VALUES {
        assert_eq!(
            breaches(&python, &render_values(&helm, values)),
            None,
            "{values}"
        );
    }
    assert_eq!(breaches(&python, &read(MANIFESTS)), None);
}

/// That the test above would notice.
#[test]
fn a_chart_that_does_not_hang_together_is_noticed() {
    let name = "a_chart_that_does_not_hang_together_is_noticed";
    let (Some(helm), Some(python)) = (helm(), python()) else {
        return skip(
            name,
            "no helm or no Python: scripts/deploy_tools.sh prepares them",
        );
    };
    let good = render_values(&helm, "default");
    for (from, to, noticed) in [
        (
            "path: /livez, port: admin",
            "path: /readyz, port: admin",
            "startupProbe",
        ),
        (
            "publishNotReadyAddresses: true",
            "publishNotReadyAddresses: false",
            "names before",
        ),
        ("replicas: 3", "replicas: 5", "3 peers, 5 replicas"),
        (
            "terminationGracePeriodSeconds: 120",
            "terminationGracePeriodSeconds: 60",
            "drain",
        ),
        (
            "maxUnavailable: 1",
            "maxUnavailable: 2",
            "loses the majority",
        ),
        ("runAsUser: 10001", "runAsUser: 0", "root"),
        (
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "can be written",
        ),
        (
            "enableServiceLinks: false",
            "enableServiceLinks: true",
            "service links",
        ),
        (
            "bind = \"0.0.0.0:1883\"",
            "bind = \"0.0.0.0:1884\"",
            "declares",
        ),
        ("2@holdfast-1.", "2@holdfast-2.", "no pod"),
        (
            "mountPath: /etc/holdfast/secret",
            "mountPath: /etc/secret",
            "is not mounted",
        ),
        (
            "podManagementPolicy: Parallel",
            "podManagementPolicy: OrderedReady",
            "wait for",
        ),
    ] {
        assert!(good.contains(from), "the chart has no {from}");
        let found = breaches(&python, &good.replace(from, to));
        assert!(
            found.as_ref().is_some_and(|found| found.contains(noticed)),
            "{to}: {found:?}"
        );
    }
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    let name = "the_manifests_are_what_the_chart_renders";
    let Some(helm) = helm() else {
        return skip(name, "no helm: scripts/deploy_tools.sh prepares it");
    };
    let rendered = format!(
        "{HEAD}{}",
        render(&helm, &["--set", "secret.existingSecret=holdfast"])
    );
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(checkout(MANIFESTS), &rendered).expect("it is writable");
    }
    assert!(
        read(MANIFESTS) == rendered,
        "{MANIFESTS} is out of date: UPDATE=1 rewrites it"
    );
    assert!(!rendered.contains("kind: Secret"), "a secret is checked in");
}

/// No upgrade may give other secrets than the install did, and no two installs the same.
#[test]
fn each_rendering_makes_secrets_of_its_own() {
    let name = "each_rendering_makes_secrets_of_its_own";
    let Some(helm) = helm() else {
        return skip(name, "no helm: scripts/deploy_tools.sh prepares it");
    };
    let secret = || {
        let rendered = render(&helm, &["--show-only", "templates/secret.yaml"]);
        let line = rendered
            .lines()
            .find(|line| line.contains("cluster-secret:"));
        line.expect("there is one").to_owned()
    };
    assert_ne!(secret(), secret());
    // `lookup` needs a cluster: this much can be said without one.
    assert!(read(&format!("{CHART}/templates/secret.yaml")).contains("lookup \"v1\" \"Secret\""));
}

/// holdfast.toml of a rendered chart, its files in `folder`.
fn configuration(rendered: &str, folder: &Path) -> String {
    let (_, text) = rendered
        .split_once("holdfast.toml: |\n")
        .expect("a configuration");
    let lines = text
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines: Vec<&str> = lines.map(str::trim_start).collect();
    let folder = folder.to_str().expect("it is UTF-8");
    lines.join("\n").replace("/etc/holdfast", folder)
}

/// Files that configurations name: secrets, passwords, a certificate.
fn make_files(folder: &Path) {
    for (file, text) in [
        (
            "secret/cluster-secret",
            "0123456789abcdef0123456789abcdef\n",
        ),
        (
            "secret/admin-tokens",
            "admin 0123456789abcdef0123456789abcdef first\n",
        ),
        ("secret/scram", ""),
        ("passwords/passwd", ""),
    ] {
        let file = folder.join(file);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("writable");
        std::fs::write(file, text).expect("writable");
    }
    let tls = folder.join("tls");
    std::fs::create_dir_all(&tls).expect("writable");
    let openssl = installed("openssl").expect("openssl is there, setup.sh sees to it");
    let mut command = Command::new(openssl);
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    command.args(["-nodes", "-days", "30", "-subj", "/CN=test", "-keyout"]);
    command
        .arg(tls.join("tls.key"))
        .arg("-out")
        .arg(tls.join("tls.crt"));
    succeeded("openssl", &command.output().expect("openssl runs"));
}

#[test]
fn the_broker_takes_the_rendered_configurations() {
    let name = "the_broker_takes_the_rendered_configurations";
    let Some(helm) = helm() else {
        return skip(name, "no helm: scripts/deploy_tools.sh prepares it");
    };
    let folder = TempDir::new().expect("a temporary folder");
    make_files(folder.path());
    for values in VALUES {
        let text = configuration(&render_values(&helm, values), folder.path());
        check_configuration(values, &text, folder.path());
    }
}

/// `holdfast config check`.
pub(crate) fn check_configuration(what: &str, text: &str, folder: &Path) {
    let file = folder.join("holdfast.toml");
    std::fs::write(&file, text).expect("it is writable");
    let arguments = ["config", "check", "--node-id", "1", "--config"].map(PathBuf::from);
    let output = run(&binary(), arguments.into_iter().chain([file]));
    let text = printed(&output);
    assert!(output.status.success(), "{what}: {text}");
}
