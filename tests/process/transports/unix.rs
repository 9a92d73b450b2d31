//! Unix domain sockets.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::{Client, Cluster};
use tokio::net::UnixStream;

use super::{exchange, node, transient};

async fn connect(cluster: &Cluster, path: &Path) -> Client {
    let stream = UnixStream::connect(path).await.unwrap();
    let options = transient("unix");
    let peer = SocketAddr::from(([127, 0, 0, 1], 0));
    let named = ("unix", options.version);
    let client = Client::over(stream, peer, named, cluster.history());
    client.introduce(&options).await.unwrap()
}

fn listener(path: &Path) -> String {
    let path = path.display();
    format!("\n[[listener]]\nname = \"unix\"\nkind = \"unix\"\nbind = \"{path}\"\n")
}

/// A client on it counts as one on this host; its file is not for everybody.
#[tokio::test]
async fn a_client_on_a_unix_socket_is_a_client_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let name = "a_client_on_a_unix_socket_is_a_client_like_any_other";
    let mut cluster = node(name, listener(&path)).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut over_unix = connect(&cluster, &path).await;
    let mut over_tcp = Client::connect(cluster.mqtt(1), &transient("tcp"), cluster.history())
        .await
        .unwrap();
    exchange(&mut over_unix, &mut over_tcp).await;
    exchange(&mut over_tcp, &mut over_unix).await;

    // What a killed node leaves behind is no hindrance; a stopped one leaves nothing.
    cluster.kill(1);
    assert!(path.exists());
    cluster.restart_all().await;
    connect(&cluster, &path).await;
    cluster.terminate_and_wait(1).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_in_use_and_another_file_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let name = "a_socket_in_use_and_another_file_are_left_alone";
    let cluster = node(name, listener(&path)).await;
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    for (path, why) in [
        (&path, "another process listens there"),
        (&file, "no socket"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .current_dir(folder.path())
            .args(["run", "--set", "listener.0.kind=unix", "--set"])
            .arg(format!("listener.0.bind={}", path.display()))
            .args(["--set", "admin.bind=127.0.0.1:0"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    connect(&cluster, &path).await;
}
