//! Open files: a node takes as many as it may have, and says if its listeners may need more.

use std::process::Stdio;
use std::time::Duration;

use testkit::ports::Port;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::scene::options;

const IN_TIME: Duration = Duration::from_secs(60);

/// What a node logs at its start until `last` is in a line, with a soft limit of 300 open files and a hard
/// one of 2,000; and the soft limit that it has then.
async fn started(max_connections: u32, last: &str) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let admin = Port::reserve();
    let lines = format!(
        "[node]\ndata_dir = \"{}/data\"\n[admin]\nbind = \"{}\"\n[log]\nformat = \"json\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nmax_connections = {max_connections}\n",
        folder.path().display(),
        admin.address()
    );
    let file = folder.path().join("holdfast.toml");
    std::fs::write(&file, lines).unwrap();
    let mut node = Command::new("sh")
        .args(["-c", "ulimit -Sn 300; ulimit -Hn 2000; exec \"$0\" \"$@\""])
        .arg(options().binary)
        .args(["run", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut log = BufReader::new(node.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    let read = async {
        while let Some(line) = log.next_line().await.unwrap() {
            let is_last = line.contains(last);
            seen.push(line);
            if is_last {
                return;
            }
        }
        panic!("it ended");
    };
    let read = timeout(IN_TIME, read).await;
    assert!(read.is_ok(), "{last}: {seen:#?}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.id().unwrap())).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = limit.unwrap().split_whitespace().nth(3).unwrap().to_owned();
    node.kill().await.unwrap();
    (seen, limit)
}

#[tokio::test]
async fn a_node_takes_as_many_open_files_as_it_may() {
    let (log, limit) = started(100, "\"listening\"").await;
    assert_eq!(limit, "2000");
    let told = log.iter().find(|line| line.contains("open files")).unwrap();
    assert!(
        told.contains("\"limit\":2000") && told.contains("\"before\":300"),
        "{told}"
    );
    assert!(
        !log.iter().any(|line| line.contains("max_connections need")),
        "{log:#?}"
    );
}

#[tokio::test]
async fn listeners_that_may_need_more_are_a_warning() {
    let (log, limit) = started(1_000, "max_connections need").await;
    assert_eq!(limit, "2000");
    let warning = log.last().unwrap();
    assert!(
        warning.contains("WARN") && warning.contains("\"wanted\":2024"),
        "{warning}"
    );
}
