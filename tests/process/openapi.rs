//! `docs/api/openapi.yaml` against a running cluster.

use std::path::PathBuf;
use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use testkit::{Client, Cluster, ConnectOptions, skip};
use tokio::process::Command;
use tokio::time::timeout;

use crate::scene::options;

const IN_TIME: Duration = Duration::from_secs(300);

/// Operations that are not called: a stream without end, what would take nodes out of the cluster, what
/// is of a later version.
const LEFT_OUT: [&str; 9] = [
    "listen",
    "drainNode",
    "undrainNode",
    "addMember",
    "removeMember",
    "backup",
    "startTrace",
    "getTrace",
    "reloadTls",
];

/// Requests that the file allows, and some that it does not, made up by schemathesis: every answer has a
/// status, a content type and a body that the file names, and none is an error of the server.
#[tokio::test]
async fn the_cluster_answers_as_the_openapi_file_says() {
    let name = "the_cluster_answers_as_the_openapi_file_says";
    let Some(program) = std::env::var_os("HOLDFAST_SCHEMATHESIS").map(PathBuf::from) else {
        return skip(
            name,
            "set HOLDFAST_SCHEMATHESIS, see scripts/schemathesis.sh",
        );
    };
    let cluster = Cluster::start(name, options()).await;
    // There is something to see.
    let stored = ConnectOptions::persistent("stored", ProtocolVersion::V5);
    let mut stored = Client::connect_any(&[cluster.mqtt(1)], &stored, cluster.history()).await;
    stored.subscribe("a/+", Qos::AtLeastOnce).await;
    let passing = ConnectOptions::transient("passing", ProtocolVersion::V5);
    let mut passing = Client::connect_any(&[cluster.mqtt(2)], &passing, cluster.history()).await;
    passing.subscribe("a/b", Qos::AtMostOnce).await;

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/openapi.yaml");
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .args([
            "run",
            file,
            "--url",
            &format!("http://{}", cluster.admin(3)),
        ])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance",
        ])
        .args([
            "--checks",
            "response_headers_conformance,response_schema_conformance",
        ])
        .args(["--checks", "negative_data_rejection,unsupported_method"])
        .args([
            "--max-examples",
            "20",
            "--seed",
            "1",
            "--phases",
            "examples,coverage,fuzzing",
        ])
        .args(["--request-timeout", "20", "--no-color"])
        .current_dir(scratch.path())
        .kill_on_drop(true);
    for operation in LEFT_OUT {
        command.args(["--exclude-operation-id", operation]);
    }
    let output = timeout(IN_TIME, command.output()).await;
    let output = output.expect("it ends in time").expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("passed"), "{text}");
}
