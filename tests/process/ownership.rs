//! A session belongs to the user who created it: nobody else takes it over, resumes or clears it, on any
//! node, with its owner there or away, and after the death of its shard's leader.

use codec::{ProtocolVersion, Qos, ReasonCode};
use testkit::{Client, Cluster, ConnectOptions, VERSIONS};

use crate::access::{Files, cluster, connected, refused, with_user};
use crate::scene::{client_ids, publisher};

const ALICE: (&str, &str) = ("alice", "pencil");
const BOB: (&str, &str) = ("bob", "pencil");
const NOBODY: (&str, &str) = ("", "");

async fn three_nodes(name: &'static str, files: &Files) -> Cluster {
    files.passwords(&[ALICE, BOB]);
    let auth = files.key("password_file", "passwd") + "anonymous = true";
    cluster(name, 3, auth).await
}

fn persistent(id: &str, version: ProtocolVersion, user: (&str, &str)) -> ConnectOptions {
    with_user(ConnectOptions::persistent(id, version), user)
}

/// Every way to get at a session, on every node.
async fn expect_out_of_reach(cluster: &Cluster, id: &str, users: &[(&str, &str)]) {
    for node in cluster.running() {
        for user in users {
            for version in VERSIONS {
                for options in [
                    ConnectOptions::persistent(id, version),
                    ConnectOptions::transient(id, version),
                ] {
                    let options = with_user(options, *user);
                    let code = refused(cluster, node, &options).await;
                    assert_eq!(code, Some(ReasonCode::NotAuthorized), "{options:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connected_session_is_out_of_reach_for_others() {
    let files = Files::new();
    let name = "a_connected_session_is_out_of_reach_for_others";
    let cluster = three_nodes(name, &files).await;
    for (owner, others) in [(ALICE, [BOB, NOBODY]), (NOBODY, [ALICE, BOB])] {
        for version in VERSIONS {
            // Whoever is not waited for may still be there: each has its own.
            let [stays, goes] = ["stays", "goes"].map(|it| format!("{}-{version:?}-{it}", owner.0));
            for options in [
                ConnectOptions::persistent(stays.as_str(), version),
                ConnectOptions::transient(goes.as_str(), version),
            ] {
                let options = with_user(options, owner);
                let id = options.client_id.clone();
                let mut client = connected(&cluster, 1, &options).await;
                client
                    .subscribe(&format!("to/{id}"), Qos::AtLeastOnce)
                    .await;
                expect_out_of_reach(&cluster, &id, &others).await;
                // It was neither closed nor changed.
                let mut sender = publisher(&cluster, 2, "sender", version).await;
                sender.publish_qos1(1, &format!("to/{id}"), "x").await;
                assert_eq!(client.take_message().await.payload, "x");
                sender.disconnect().await;
                // The owner itself may.
                let mut again = connected(&cluster, 2, &options.clean_start(true)).await;
                assert!(again.ping_barrier().await.is_empty());
                again.disconnect().await;
            }
            // Once it has ended it is free.
            let options = ConnectOptions::transient(stays.as_str(), version);
            let client = connected(&cluster, 3, &with_user(options, owner)).await;
            client.disconnect().await;
            expect_free(&cluster, &stays).await;
        }
    }
}

/// The session is gone once its end is recorded.
async fn expect_free(cluster: &Cluster, id: &str) {
    testkit::wait_until(
        "the session is gone",
        testkit::cluster::READY_WITHIN,
        async || {
            let options =
                ConnectOptions::transient(id, ProtocolVersion::V5).credentials("bob", "pencil");
            match Client::connect(cluster.mqtt(1), &options, cluster.history()).await {
                Ok(client) => {
                    client.disconnect().await;
                    true
                }
                Err(_) => false,
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_session_without_connection_waits_for_its_owner_through_a_failover() {
    let files = Files::new();
    let name = "a_session_without_connection_waits_for_its_owner_through_a_failover";
    let mut cluster = three_nodes(name, &files).await;
    let ids = client_ids("owned", cluster.shards());
    for (version, _, id) in &ids {
        let mut client = connected(&cluster, 1, &persistent(id, *version, ALICE)).await;
        client
            .subscribe(&format!("to/{id}"), Qos::AtLeastOnce)
            .await;
        client.disconnect().await;
    }
    let mut sender = publisher(&cluster, 2, "sender", ProtocolVersion::V5).await;
    for (_, _, id) in &ids {
        sender.publish_qos1(1, &format!("to/{id}"), "kept").await;
        expect_out_of_reach(&cluster, id, &[BOB, NOBODY]).await;
    }
    // Some shards lose their leader, and all of them the node that had the connections.
    cluster.kill(1);
    let options = persistent("probe", ProtocolVersion::V5, BOB);
    drop(Client::connect_any(&cluster.mqtt_of_others(1), &options, cluster.history()).await);
    for (version, _, id) in &ids {
        for options in [
            ConnectOptions::persistent(id, *version),
            ConnectOptions::transient(id, *version),
        ] {
            let code = refused_when_led(&cluster, &with_user(options, BOB)).await;
            assert_eq!(code, Some(ReasonCode::NotAuthorized), "{id}");
        }
        let options = persistent(id, *version, ALICE);
        let mut owner = Client::connect_any(&[cluster.mqtt(2)], &options, cluster.history()).await;
        assert!(owner.session_present());
        assert_eq!(owner.take_message().await.payload, "kept");
        owner.disconnect().await;
    }
    // And through a restart of everything: the owner is on disk.
    cluster.restart(1);
    cluster.restart_all().await;
    cluster.wait_ready().await;
    for (_, _, id) in &ids {
        expect_out_of_reach(&cluster, id, &[BOB]).await;
    }
}

/// The answer to CONNECT once the session's shard has a leader.
async fn refused_when_led(cluster: &Cluster, options: &ConnectOptions) -> Option<ReasonCode> {
    let mut code = None;
    testkit::wait_until(
        "the shard has a leader",
        testkit::cluster::READY_WITHIN,
        async || {
            code = refused(cluster, 2, options).await;
            !matches!(code, None | Some(ReasonCode::ServerUnavailable))
        },
    )
    .await;
    code
}
