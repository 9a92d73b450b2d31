//! What rules mean for messages and handshakes that a session has from before: none gets around them,
//! and none is lost to a client that keeps to them.

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::client::is_unsuback;
use testkit::{Client, Cluster, ConnectOptions, Outgoing, VERSIONS};

use crate::access::{
    Files, RELOADED, connected, expect_ended, hash_password, reload, transient, with_user,
};
use crate::acl::{ALICE, ROOT, auth, delivered, put_in_force, ruled, suback, with_will};

const ALL_BUT_SECRET: &str = r##"
[[acl]]
who = "all"
deny = ["subscribe"]
topics = ["a/secret/#"]
[[acl]]
who = "all"
allow = ["publish", "subscribe"]
topics = ["a/#"]
"##;
const EVERYTHING: &str = r##"
[[acl]]
who = "all"
allow = ["publish", "subscribe"]
topics = ["#"]
"##;

async fn root(cluster: &Cluster) -> Client {
    connected(cluster, 1, &transient("root", ProtocolVersion::V5, ROOT)).await
}

/// A subscription that is given up, and a connection, do not open what waits behind them.
#[tokio::test]
async fn what_is_queued_stays_held_back_when_its_subscription_is_gone() {
    let files = Files::new();
    let name = "what_is_queued_stays_held_back_when_its_subscription_is_gone";
    let mut cluster = ruled(name, &files, ALL_BUT_SECRET).await;
    let mut root = root(&cluster).await;
    let options = ConnectOptions::persistent("mallory", ProtocolVersion::V5).receive_maximum(1);
    let options = with_user(options, ALICE);
    for reloads in [false, true] {
        let mut mallory = connected(&cluster, 1, &options).await;
        assert_eq!(suback(&mut mallory, "a/#").await, ReasonCode::GrantedQos1);
        for (id, topic) in (1..).zip(["a/1", "a/secret/1", "a/2"]) {
            root.publish_qos1(id, topic, "x").await;
        }
        // Not acknowledged: the others wait behind it.
        let first = mallory.expect_publish().await;
        assert_eq!(first.topic, "a/1");
        let id = mallory.send_unsubscribe("a/#").await;
        mallory
            .recv_until("UNSUBACK", |packet| is_unsuback(packet, id))
            .await;
        if reloads {
            put_in_force(&mut cluster, &files, ALL_BUT_SECRET).await;
            mallory.ping_barrier().await;
            mallory.puback(first.id).await;
        } else {
            mallory.abandon();
            mallory = connected(&cluster, 1, &options).await;
            assert!(mallory.session_present());
            assert_eq!(mallory.take_message().await.topic, "a/1");
        }
        assert_eq!(mallory.take_message().await.topic, "a/2");
        assert_eq!(delivered(&mut mallory).await, Vec::<String>::new());
        mallory.disconnect().await;
    }
}

/// It may have it, so its id is not given to another message: PUBREL follows instead of the message.
#[tokio::test]
async fn a_message_at_qos_2_that_is_denied_since_ends_with_pubrel() {
    let files = Files::new();
    let name = "a_message_at_qos_2_that_is_denied_since_ends_with_pubrel";
    let mut cluster = ruled(name, &files, EVERYTHING).await;
    let mut root = root(&cluster).await;
    for version in VERSIONS {
        put_in_force(&mut cluster, &files, EVERYTHING).await;
        let id = format!("client-{version:?}");
        let options = with_user(ConnectOptions::persistent(id, version), ALICE);
        let mut client = connected(&cluster, 1, &options).await;
        client.subscribe("a/#", Qos::ExactlyOnce).await;
        root.publish_qos2(1, "a/secret/1", "x").await;
        let first = client.expect_publish().await;
        assert_eq!(
            (first.topic.as_str(), first.qos),
            ("a/secret/1", Qos::ExactlyOnce)
        );
        client.abandon();
        put_in_force(&mut cluster, &files, ALL_BUT_SECRET).await;
        let mut client = connected(&cluster, 1, &options).await;
        assert!(client.session_present());
        client.expect_pubrel(first.id).await;
        client.pubcomp(first.id).await;
        root.publish_qos2(2, "a/2", "x").await;
        assert_eq!(client.take_message().await.topic, "a/2");
        client.disconnect().await;
    }
}

/// A PUBLISH that was taken under other rules is not refused when it comes again: its id is still held.
#[tokio::test]
async fn a_repeat_of_what_was_taken_is_answered_as_before() {
    let files = Files::new();
    let name = "a_repeat_of_what_was_taken_is_answered_as_before";
    let mut cluster = ruled(name, &files, EVERYTHING).await;
    let mut root = root(&cluster).await;
    root.subscribe("a/#", Qos::AtMostOnce).await;
    for version in VERSIONS {
        put_in_force(&mut cluster, &files, EVERYTHING).await;
        let id = format!("client-{version:?}");
        let options = with_user(ConnectOptions::persistent(id, version), ALICE);
        let mut client = connected(&cluster, 1, &options).await;
        let taken = Outgoing {
            id: 5,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic: "a/1",
            payload: "x",
        };
        client.publish(&taken).await;
        assert_eq!(client.expect_pubrec(5).await, ReasonCode::Success);
        assert_eq!(root.expect_publish().await.topic, "a/1");
        client.abandon();
        put_in_force(&mut cluster, &files, "").await;
        let mut client = connected(&cluster, 1, &options).await;
        let again = Outgoing { dup: true, ..taken };
        client.publish(&again).await;
        assert_eq!(client.expect_pubrec(5).await, ReasonCode::Success);
        client.pubrel(5).await;
        assert_eq!(client.expect_pubcomp(5).await, ReasonCode::Success);
        put_in_force(&mut cluster, &files, EVERYTHING).await;
        client.ping_barrier().await;
        client.publish_qos2(5, "a/2", "x").await;
        assert_eq!(root.expect_publish().await.topic, "a/2");
        assert_eq!(delivered(&mut root).await, Vec::<String>::new());
        client.disconnect().await;
    }
}

/// Neither of who is banned, nor of who loses its credentials together with the right to publish it.
#[tokio::test]
async fn a_will_that_is_not_allowed_any_more_is_not_published_whatever_ends_the_connection() {
    let files = Files::new();
    let name = "a_will_that_is_not_allowed_any_more_is_not_published_whatever_ends_the_connection";
    files.write("bans", "");
    let bans = files.key("ban_file", "bans");
    let mut cluster = ruled(name, &files, EVERYTHING).await;
    let mut root = root(&cluster).await;
    root.subscribe("will/#", Qos::AtMostOnce).await;
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let id = |name: &str| format!("{name}-{version:?}");
        cluster.set_auth(format!("{bans}{}", auth(&files, EVERYTHING)));
        files.write("bans", "");
        let user = format!("user-{round}");
        files.add_password(&user, "pencil");
        reload(&mut cluster, 1, RELOADED).await;
        let mallory = transient(&id("mallory"), version, ALICE);
        let mallory = with_will(mallory, "will/banned");
        let mut banned = connected(&cluster, 1, &mallory).await;
        let other = transient(&id("other"), version, (&user, "pencil"));
        let other = with_will(other, "will/revoked");
        let mut revoked = connected(&cluster, 1, &other).await;

        files.write("bans", &format!("client:{}\n", id("mallory")));
        let line = hash_password(&["--user", &user], "another");
        let text = std::fs::read_to_string(files.path("passwd")).unwrap();
        let others = text.lines().filter(|line| !line.starts_with(&user));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        files.write("passwd", &format!("{others}{line}"));
        cluster.set_auth(format!("{bans}{}", auth(&files, "")));
        reload(&mut cluster, 1, RELOADED).await;
        expect_ended(&mut banned, version, ReasonCode::AdministrativeAction).await;
        expect_ended(&mut revoked, version, ReasonCode::NotAuthorized).await;
        // Their sessions have ended by the time that others of the same name are let in.
        files.write("bans", "");
        cluster.set_auth(format!("{bans}{}", auth(&files, EVERYTHING)));
        reload(&mut cluster, 1, RELOADED).await;
        let next = transient(&id("mallory"), version, ALICE);
        connected(&cluster, 1, &next).await.disconnect().await;
        let next = transient(&id("other"), version, (&user, "another"));
        connected(&cluster, 1, &next).await.disconnect().await;
        let packets = root.commit_barrier().await;
        let published = packets
            .iter()
            .any(|packet| matches!(packet, Packet::Publish(_)));
        assert!(!published, "{packets:?}");
    }
}
