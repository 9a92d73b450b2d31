//! Between nodes: mutual TLS or a shared secret, and a node that does not belong is refused, counted and
//! logged.

use std::path::Path;

use codec::{ProtocolVersion, Qos, ReasonCode};
use testkit::certificates::{Authority, CertificateFiles, Subject};
use testkit::cluster::READY_WITHIN;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, NodeId, wait_until};

use crate::scene::options;

/// In place of what makes a cluster's port safe.
const OPEN: &str = "# nothing";

async fn cluster(name: &'static str, lines: String) -> Cluster {
    let options = ClusterOptions {
        cluster: lines,
        ..options()
    };
    Cluster::start(name, options).await
}

fn tls(files: &CertificateFiles, ca: &Path) -> String {
    let CertificateFiles { cert, key } = files;
    let (cert, key, ca) = (cert.display(), key.display(), ca.display());
    format!("[cluster.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\nca = \"{ca}\"\n")
}

fn secret(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    format!("secret_file = \"{}\"", path.display())
}

/// QoS 1 from one node to another, both for sessions in shards wherever they are led.
async fn passes(cluster: &Cluster, from: NodeId, to: NodeId, tag: &str) {
    let version = ProtocolVersion::V5;
    let client = async |node, role: &str| {
        let options = ConnectOptions::persistent(format!("{role}-{tag}"), version);
        Client::connect_any(&[cluster.mqtt(node)], &options, cluster.history()).await
    };
    let mut subscriber = client(to, "subscriber").await;
    let mut publisher = client(from, "publisher").await;
    let topic = format!("between/{tag}");
    subscriber.subscribe(&topic, Qos::AtLeastOnce).await;
    assert_eq!(
        publisher.publish_qos1(1, &topic, tag).await,
        ReasonCode::Success
    );
    assert_eq!(subscriber.take_message().await.payload, tag);
}

/// Peers that a node has refused.
async fn refused(cluster: &Cluster, node: NodeId, reason: &str) -> f64 {
    let samples = cluster.metrics(node).await;
    let wanted = samples.iter().filter(|sample| {
        sample.name == "holdfast_peer_refused_total" && sample.labels["reason"] == reason
    });
    wanted.map(|sample| sample.value).sum()
}

/// Node 3 starts again with another configuration: it is refused by the others and not ready, and
/// they go on. With its old configuration it is welcome.
async fn stranger(cluster: &mut Cluster, reason: &str, (old, new): (&str, &str)) {
    let change = |old: &str, new: &str| {
        let (old, new) = (old.to_owned(), new.to_owned());
        move |text: String| {
            assert!(text.contains(&old), "{text}");
            text.replace(&old, &new)
        }
    };
    let before = refused(cluster, 1, reason).await;
    cluster.kill(3);
    cluster.configure(3, change(old, new));
    cluster.restart(3);
    wait_until("node 1 refuses node 3", READY_WITHIN, async || {
        refused(cluster, 1, reason).await > before
    })
    .await;
    let log = std::fs::read_to_string(cluster.log_file(1)).unwrap();
    assert!(log.contains("refused a peer"), "{log}");
    passes(cluster, 1, 2, reason).await;
    assert!(!cluster.is_ready(3).await);
    cluster.kill(3);
    cluster.configure(3, change(new, old));
    cluster.restart(3);
    cluster.wait_node_ready(3).await;
    passes(cluster, 3, 1, &format!("{reason}-again")).await;
}

#[tokio::test]
async fn nodes_with_certificates_of_the_clusters_authority_form_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("cluster");
    let ca = authority.write(folder.path(), "ca");
    let files = authority.issue_files(folder.path(), "node", &Subject::new("node"));
    let good = tls(&files, &ca);
    let name = "nodes_with_certificates_of_the_clusters_authority_form_a_cluster";
    let mut cluster = cluster(name, good.clone()).await;
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        passes(&cluster, from, to, &format!("{from}-{to}")).await;
    }
    // One that trusts the others, but whom they do not trust.
    let other = Authority::new("cluster");
    let other = other.issue_files(folder.path(), "other", &Subject::new("node"));
    stranger(&mut cluster, "tls", (&good, &tls(&other, &ca))).await;
    // One that does not even try.
    stranger(&mut cluster, "tls", (&good, OPEN)).await;
}

#[tokio::test]
async fn nodes_that_know_the_secret_form_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let good = secret(folder.path(), "secret", "correct horse battery staple\n");
    let wrong = secret(folder.path(), "wrong", "correct horse battery stable\n");
    let name = "nodes_that_know_the_secret_form_a_cluster";
    let mut cluster = cluster(name, good.clone()).await;
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        passes(&cluster, from, to, &format!("{from}-{to}")).await;
    }
    stranger(&mut cluster, "secret", (&good, &wrong)).await;
    stranger(&mut cluster, "secret", (&good, OPEN)).await;
    let log = std::fs::read_to_string(cluster.log_file(1)).unwrap();
    assert!(!log.contains("correct horse"), "a secret in the log");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let name = "a_node_of_another_cluster_is_refused";
    let mut cluster = cluster(name, String::new()).await;
    // It is what its data folder says it is; only what it calls its cluster has changed.
    let data_dir = format!("{}", cluster.data_dir(3).display());
    cluster.kill(3);
    std::fs::rename(&data_dir, format!("{data_dir}-kept")).unwrap();
    cluster.configure(3, |text| {
        text.replace("name = \"test\"", "name = \"other\"")
    });
    cluster.restart(3);
    wait_until("node 1 refuses node 3", READY_WITHIN, async || {
        refused(&cluster, 1, "cluster").await > 0.0
    })
    .await;
    let log = std::fs::read_to_string(cluster.log_file(1)).unwrap();
    assert!(log.contains("refused a peer"), "{log}");
    passes(&cluster, 1, 2, "without-it").await;
    assert!(!cluster.is_ready(3).await);
}
