//! The binary as an operator meets it before a node serves: messages, exit codes, and that nothing
//! is overwritten.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy takes helpers outside of #[test] for production code"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn holdfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDFAST_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    holdfast(arguments).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must fail with `code` and one line that has all `parts`.
#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = output(arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    let lines: Vec<&str> = message
        .lines()
        .filter(|line| line.starts_with("holdfast: "))
        .collect();
    assert_eq!(lines.len(), 1, "{message}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is missing in {message}");
    }
}

fn path_of(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("a UTF-8 path").to_owned()
}

/// `--set` flags for a node that disturbs nobody.
fn quiet_node(data_dir: &str) -> Vec<String> {
    [
        "listener.0.bind=127.0.0.1:0",
        "admin.bind=127.0.0.1:0",
        "log.format=json",
    ]
    .iter()
    .map(|flag| (*flag).to_owned())
    .chain([format!("node.data_dir={data_dir}")])
    .flat_map(|flag| ["--set".to_owned(), flag])
    .collect()
}

fn run<'a>(flags: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let flags = flags.iter().map(String::as_str);
    std::iter::once("run")
        .chain(flags)
        .chain(more.iter().copied())
        .collect()
}

/// A node in the background, killed when the test ends.
struct Running(Child);

impl Running {
    /// Starts a node and waits until it says that its admin port listens.
    fn start(arguments: &[&str]) -> Self {
        let mut command = holdfast(arguments);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut running = Self(child.expect("the binary runs"));
        let log = running.0.stderr.take().expect("the log is piped");
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let listens = |line: &str| line.contains("\"listening\"") && line.contains("\"admin\"");
        assert!(
            lines.any(|line| listens(&line)),
            "the node ended before it listened"
        );
        // The log goes on being read, so that a full pipe never holds the node.
        std::thread::spawn(move || lines.for_each(drop));
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_right_configuration_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let file = path_of(folder.path(), "holdfast.toml");
    std::fs::write(
        &file,
        "[node]\nid = 2\n[cluster]\npeers = [\"1@a:1\", \"2@b:1\", \"3@c:1\"]\n",
    )
    .unwrap();
    let output = output(&["config", "check", "--config", &file]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "ok: node 2 of 3\n")
    );
}

#[test]
fn the_example_serves_every_member() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/example/node.toml");
    let example = example.to_str().expect("a UTF-8 path");
    for id in ["1", "2", "3"] {
        let checked = output(&["config", "check", "--config", example, "--node-id", id]);
        assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    }
}

#[test]
fn each_mistake_is_one_line_with_file_line_key_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = path_of(folder.path(), "holdfast.toml");
    std::fs::write(&file, "[mqtt]\n\nreceive_maximun = 5\n").unwrap();
    let place = format!("{file}:3: mqtt.receive_maximun = 5");
    refused(
        &["config", "check", "--config", &file],
        2,
        &[&place, "did you mean mqtt.receive_maximum?"],
    );
    refused(&["run", "--config", &file], 2, &[&place]);
    refused(
        &["run", "--config", "/nowhere/holdfast.toml"],
        2,
        &["/nowhere/holdfast.toml", "No such file"],
    );
    refused(
        &["config", "check", "--set", "otlp.sample=1.0"],
        2,
        &["--set otlp.sample=1.0", "not available in this version"],
    );
    refused(
        &["run", "--node-id", "0"],
        2,
        &["--node-id 0", "1 to 65535"],
    );
}

#[test]
fn variables_count_and_flags_stand_above_them() {
    let print = |flags: &[&str]| {
        let mut command = holdfast(&["config", "print"]);
        let output = command
            .args(flags)
            .env("HOLDFAST_MQTT__RECEIVE_MAXIMUM", "7")
            .output()
            .unwrap();
        stdout(&output)
    };
    let from_variable =
        "[mqtt]\nreceive_maximum = 7  # environment variable HOLDFAST_MQTT__RECEIVE_MAXIMUM\n";
    assert_eq!(print(&[]), from_variable);
    assert!(
        print(&["--set", "mqtt.receive_maximum=9"]).contains("receive_maximum = 9  # command line")
    );
    let effective = print(&["--effective"]);
    assert!(effective.contains("shards = 4  # default"), "{effective}");
    let json: serde_json::Value = serde_json::from_str(&print(&["--json"])).unwrap();
    assert_eq!(json[0]["key"], "mqtt.receive_maximum");
}

#[test]
fn usage_errors_exit_with_2_and_the_version_is_printed() {
    assert_eq!(output(&["jump"]).status.code(), Some(2));
    assert_eq!(
        output(&["run", "--node-id", "1", "--node-id-from-hostname"])
            .status
            .code(),
        Some(2)
    );
    assert!(stdout(&output(&["version"])).starts_with("holdfast 0."));
    let json = stdout(&output(&["version", "--json"]));
    assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["version"].is_string());
}

#[test]
fn a_foreign_data_folder_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thesis.txt");
    std::fs::write(&file, "precious").unwrap();
    let flags = quiet_node(folder.path().to_str().unwrap());
    refused(&run(&flags, &[]), 2, &["thesis.txt", "node.data_dir"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = path_of(folder.path(), "file");
    std::fs::write(&file, "").unwrap();
    let flags = quiet_node(&format!("{file}/data"));
    refused(&run(&flags, &[]), 2, &["cannot create it", &file]);
}

#[test]
fn a_folder_in_use_and_one_of_another_node_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = path_of(folder.path(), "data");
    let flags = quiet_node(&data_dir);
    let running = Running::start(&run(&flags, &[]));
    let process = format!("(process {})", running.0.id());
    refused(
        &run(&flags, &[]),
        2,
        &["already in use by another process", &process, &data_dir],
    );
    drop(running);
    refused(
        &run(&flags, &["--node-id", "2"]),
        2,
        &["node.id = 1", "says 2"],
    );
    refused(
        &run(&flags, &["--set", "cluster.shards=8"]),
        2,
        &["cluster.shards = 4", "says 8"],
    );
}

#[test]
fn a_port_in_use_is_refused_with_the_place_where_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = path_of(folder.path(), "holdfast.toml");
    let mut content = std::fs::File::create(&file).unwrap();
    writeln!(content, "[admin]\nbind = \"{address}\"").unwrap();
    let data_dir = format!("node.data_dir={}", path_of(folder.path(), "data"));
    let arguments = [
        "run",
        "--config",
        &file,
        "--set",
        &data_dir,
        "--set",
        "listener.0.bind=127.0.0.1:0",
    ];
    let place = format!("{file}:2: admin.bind = \"{address}\"");
    refused(&arguments, 2, &[&place, "cannot listen there"]);
}

#[test]
fn a_node_tied_to_its_parent_stops_when_standard_input_ends() {
    let folder = tempfile::tempdir().unwrap();
    let flags = quiet_node(&path_of(folder.path(), "data"));
    let mut running = Running::start(&run(&flags, &["--exit-with-stdin"]));
    drop(running.0.stdin.take());
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_demo_names_the_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = path_of(folder.path(), "demo");
    let arguments = ["demo", "--nodes", "1", "--dir", &dir, "--mqtt-port", &port];
    if port.parse::<u16>().unwrap() <= 65_000 {
        refused(&arguments, 2, &[&port, "MQTT of node 1", "--mqtt-port"]);
    }
}

/// SIGHUP will reload; a node that has nothing to reload must not die of it.
#[test]
fn a_hangup_does_not_stop_a_node_but_a_termination_does() {
    let folder = tempfile::tempdir().unwrap();
    let flags = quiet_node(&path_of(folder.path(), "data"));
    let mut running = Running::start(&run(&flags, &[]));
    let process = Pid::from_raw(running.0.id().try_into().unwrap()).unwrap();
    kill_process(process, Signal::HUP).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}
