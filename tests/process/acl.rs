//! Rules: what clients may publish, subscribe to, leave as a will and get delivered; each allowed and
//! denied, for 3.1.1 and 5.0; and what a reload of them means for clients that are connected.

use codec::{
    Message, MessageProperties, Packet, ProtocolVersion, Qos, ReasonCode, TopicName, Will,
};
use testkit::{Client, Cluster, ConnectOptions, Outgoing, VERSIONS};

use crate::access::{
    Files, RELOADED, cluster, connected, counted, expect_ended, refused, reload, transient,
    with_user,
};

pub(crate) const ALICE: (&str, &str) = ("alice", "pencil");
const BOB: (&str, &str) = ("bob", "pencil");
/// May do everything; it watches.
pub(crate) const ROOT: (&str, &str) = ("root", "pencil");

const ROOT_RULE: &str = r##"
[[acl]]
who = "user:root"
allow = ["publish", "subscribe"]
topics = ["#"]
"##;

/// A node with these users and rules.
pub(crate) async fn ruled(name: &'static str, files: &Files, rules: &str) -> Cluster {
    files.passwords(&[ALICE, BOB, ROOT]);
    cluster(name, 1, auth(files, rules)).await
}

pub(crate) fn auth(files: &Files, rules: &str) -> String {
    let passwords = files.key("password_file", "passwd");
    format!("{passwords}anonymous = true\n{ROOT_RULE}{rules}")
}

pub(crate) async fn put_in_force(cluster: &mut Cluster, files: &Files, rules: &str) {
    cluster.set_auth(auth(files, rules));
    reload(cluster, 1, RELOADED).await;
}

/// The codes of a SUBACK for one filter.
pub(crate) async fn suback(client: &mut Client, filter: &str) -> ReasonCode {
    let id = client.send_subscribe(filter, Qos::AtLeastOnce).await;
    client
        .expect("SUBACK", |packet| match packet {
            Packet::Suback(suback) if suback.packet_id.get() == id => Some(suback.reason_codes[0]),
            _ => None,
        })
        .await
}

/// Refused with 0x87; 3.1.1 has one code for all reasons.
pub(crate) fn denied(version: ProtocolVersion) -> ReasonCode {
    match version {
        ProtocolVersion::V5 => ReasonCode::NotAuthorized,
        ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::UnspecifiedError,
    }
}

/// Publishes at each QoS; the codes of PUBACK and PUBREC.
pub(crate) async fn publish_each_way(client: &mut Client, topic: &str) -> (ReasonCode, ReasonCode) {
    let outgoing = |id, qos| Outgoing {
        id,
        dup: false,
        qos,
        topic,
        payload: "x",
    };
    client.publish(&outgoing(0, Qos::AtMostOnce)).await;
    client.publish(&outgoing(2, Qos::AtLeastOnce)).await;
    let puback = client.expect_puback(2).await;
    client.publish(&outgoing(3, Qos::ExactlyOnce)).await;
    let pubrec = client.expect_pubrec(3).await;
    if !pubrec.is_error() {
        client.pubrel(3).await;
        client.expect_pubcomp(3).await;
    }
    (puback, pubrec)
}

/// Everything that was delivered up to now, as topics.
pub(crate) async fn delivered(client: &mut Client) -> Vec<String> {
    let packets = client.ping_barrier().await;
    let delivered: Vec<_> = packets
        .iter()
        .filter_map(testkit::client::delivery)
        .collect();
    for delivery in &delivered {
        match delivery.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => client.puback(delivery.id).await,
            Qos::ExactlyOnce => panic!("nobody subscribes at QoS 2"),
        }
    }
    delivered
        .into_iter()
        .map(|delivery| delivery.topic)
        .collect()
}

#[tokio::test]
async fn what_is_not_allowed_to_be_published_reaches_nobody() {
    let files = Files::new();
    let rules = r##"
[[acl]]
who = "user:alice"
deny = ["publish"]
topics = ["of/%u/secret"]
[[acl]]
who = "user:*"
allow = ["publish"]
topics = ["of/%u/#", "clients/%c"]
[[acl]]
who = "client:open-*"
allow = ["publish"]
topics = ["open"]
"##;
    let name = "what_is_not_allowed_to_be_published_reaches_nobody";
    let cluster = ruled(name, &files, rules).await;
    let mut root = connected(&cluster, 1, &transient("root", ProtocolVersion::V5, ROOT)).await;
    root.subscribe("#", Qos::AtMostOnce).await;
    for version in VERSIONS {
        let mut alice = connected(&cluster, 1, &transient("c1", version, ALICE)).await;
        let success = (ReasonCode::Success, ReasonCode::Success);
        // Before 5.0 there is no way to say no: acknowledged, and dropped [MQTT-3.3.5-2 of 3.1.1].
        let refusal = match version {
            ProtocolVersion::V5 => (ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
            ProtocolVersion::V31 | ProtocolVersion::V311 => success,
        };
        for topic in ["of/bob/x", "of/alice/secret", "clients/c2", "other"] {
            assert_eq!(
                publish_each_way(&mut alice, topic).await,
                refusal,
                "{topic}"
            );
        }
        for topic in ["of/alice/x", "clients/c1"] {
            let (puback, pubrec) = publish_each_way(&mut alice, topic).await;
            assert!(!puback.is_error() && !pubrec.is_error(), "{topic}");
            for _ in 0..3 {
                assert_eq!(root.expect_publish().await.topic, topic);
            }
        }
        // By client identifier, without a user.
        let options = ConnectOptions::transient("open-1", version);
        let mut nobody = connected(&cluster, 1, &options).await;
        publish_each_way(&mut nobody, "open").await;
        publish_each_way(&mut nobody, "of//x").await;
        for _ in 0..3 {
            assert_eq!(root.expect_publish().await.topic, "open");
        }
        assert!(delivered(&mut root).await.is_empty());
    }
    let checks = "holdfast_acl_checks_total";
    let publishes = |result| [("action", "publish"), ("result", result)];
    assert_eq!(counted(&cluster, 1, checks, &publishes("deny")).await, 30.0);
    assert_eq!(
        counted(&cluster, 1, checks, &publishes("allow")).await,
        18.0
    );
    let dropped = [("reason", "acl")];
    assert_eq!(
        counted(&cluster, 1, "holdfast_messages_dropped_total", &dropped).await,
        30.0
    );
}

#[tokio::test]
async fn a_filter_is_granted_if_a_rule_covers_it() {
    let files = Files::new();
    let rules = r##"
[[acl]]
who = "all"
deny = ["subscribe"]
topics = ["a/secret/#"]
[[acl]]
who = "user:alice"
allow = ["subscribe"]
topics = ["a/#", "to/%c/+"]
"##;
    let cluster = ruled("a_filter_is_granted_if_a_rule_covers_it", &files, rules).await;
    for version in VERSIONS {
        for (user, persistent) in [(ALICE, false), (ALICE, true), (BOB, false)] {
            let id = format!("{}-{persistent}", user.0);
            let options = if persistent {
                ConnectOptions::persistent(id.as_str(), version)
            } else {
                ConnectOptions::transient(id.as_str(), version)
            };
            let mut client = connected(&cluster, 1, &with_user(options, user)).await;
            for (filter, granted) in [
                ("a/x", true),
                ("a/+/x", true),
                ("a/#", true),
                ("$share/g/a/x", true),
                (&format!("to/{id}/x"), true),
                ("to/+/x", false),
                ("to/other/x", false),
                ("#", false),
                ("+", false),
                ("a/secret/x", false),
                ("a/secret", false),
                ("$share/g/b", false),
                // Something of it is denied, and would be lost for the other members.
                ("$share/g/a/#", false),
                ("$SYS/#", false),
            ] {
                let code = suback(&mut client, filter).await;
                let expected = if granted && user == ALICE {
                    ReasonCode::GrantedQos1
                } else {
                    denied(version)
                };
                assert_eq!(code, expected, "{} {filter}", user.0);
            }
            client.disconnect().await;
            let end = with_user(ConnectOptions::transient(id.as_str(), version), user);
            connected(&cluster, 1, &end).await.disconnect().await;
        }
    }
}

/// Of `a/#`, what an earlier rule denies is neither read from the retained messages nor delivered; and
/// the QoS 1 messages among it do not block those behind them.
#[tokio::test]
async fn what_is_denied_of_a_granted_filter_is_held_back() {
    let files = Files::new();
    let rules = r##"
[[acl]]
who = "all"
deny = ["subscribe"]
topics = ["a/secret/#"]
[[acl]]
who = "all"
allow = ["subscribe"]
topics = ["a/#"]
"##;
    let name = "what_is_denied_of_a_granted_filter_is_held_back";
    let cluster = ruled(name, &files, rules).await;
    let mut root = connected(&cluster, 1, &transient("root", ProtocolVersion::V5, ROOT)).await;
    for topic in ["a/x", "a/secret/x"] {
        let outgoing = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic,
            payload: "kept",
        };
        let mut retained = outgoing.packet();
        retained.retain = true;
        root.send(&Packet::Publish(retained)).await;
        root.expect_puback(1).await;
    }
    for version in VERSIONS {
        for options in [
            ConnectOptions::persistent("held", version).receive_maximum(2),
            ConnectOptions::transient("passing", version).receive_maximum(2),
        ] {
            let mut client = connected(&cluster, 1, &with_user(options.clone(), ALICE)).await;
            assert_eq!(suback(&mut client, "a/#").await, ReasonCode::GrantedQos1);
            let kept = client.take_message().await;
            assert_eq!(
                (kept.topic.as_str(), kept.payload.as_str()),
                ("a/x", "kept")
            );
            for round in 0..5 {
                let secret = format!("a/secret/{round}");
                root.publish_qos1(1, &secret, "x").await;
                root.publish_qos1(2, &format!("a/{round}"), "x").await;
                assert_eq!(client.take_message().await.topic, format!("a/{round}"));
            }
            assert_eq!(delivered(&mut client).await, Vec::<String>::new());
            client.disconnect().await;
            if !options.clean_start {
                // What waits for it meanwhile is held back as well.
                root.publish_qos1(1, "a/secret/late", "x").await;
                root.publish_qos1(2, "a/late", "x").await;
                let mut client = connected(&cluster, 1, &with_user(options.clone(), ALICE)).await;
                assert_eq!(client.take_message().await.topic, "a/late");
                assert_eq!(delivered(&mut client).await, Vec::<String>::new());
                client.disconnect().await;
            }
            let end = ConnectOptions::transient(options.client_id.as_str(), version);
            connected(&cluster, 1, &with_user(end, ALICE))
                .await
                .disconnect()
                .await;
        }
    }
}

pub(crate) fn with_will(options: ConnectOptions, topic: &str) -> ConnectOptions {
    options.will(Will {
        message: Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload: "gone".into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        },
        delay_interval_s: 0,
    })
}

const WILLS: &str = r##"
[[acl]]
who = "user:alice"
allow = ["publish"]
topics = ["will/%u"]
"##;

#[tokio::test]
async fn a_will_is_checked_at_connect_and_again_at_a_reload() {
    let files = Files::new();
    let name = "a_will_is_checked_at_connect_and_again_at_a_reload";
    let mut cluster = ruled(name, &files, WILLS).await;
    let mut root = connected(&cluster, 1, &transient("root", ProtocolVersion::V5, ROOT)).await;
    root.subscribe("will/+", Qos::AtMostOnce).await;
    for version in VERSIONS {
        put_in_force(&mut cluster, &files, WILLS).await;
        let denied = with_will(transient("c", version, ALICE), "will/bob");
        let code = refused(&cluster, 1, &denied).await;
        assert_eq!(code, Some(ReasonCode::NotAuthorized));
        let allowed = with_will(transient("c", version, ALICE), "will/alice");
        connected(&cluster, 1, &allowed).await.abandon();
        assert_eq!(root.expect_publish().await.topic, "will/alice");
        // Not allowed any more: the connection ends, and nobody hears of it.
        let mut client = connected(&cluster, 1, &allowed).await;
        put_in_force(&mut cluster, &files, "").await;
        expect_ended(&mut client, version, ReasonCode::NotAuthorized).await;
        put_in_force(&mut cluster, &files, WILLS).await;
        // The session's end is recorded before this one's beginning.
        connected(&cluster, 1, &allowed).await.disconnect().await;
        assert_eq!(delivered(&mut root).await, Vec::<String>::new());
    }
}

const READS: &str = r##"
[[acl]]
who = "user:alice"
allow = ["publish", "subscribe"]
topics = ["a/#", "b/#"]
"##;
const READS_LESS: &str = r##"
[[acl]]
who = "user:alice"
allow = ["publish", "subscribe"]
topics = ["a/#"]
"##;

/// Without a new connection: what is not allowed any more is neither taken nor delivered, and once it is
/// allowed again, it is.
#[tokio::test]
async fn a_reload_takes_effect_on_connected_clients() {
    let files = Files::new();
    let name = "a_reload_takes_effect_on_connected_clients";
    let mut cluster = ruled(name, &files, READS).await;
    let mut root = connected(&cluster, 1, &transient("root", ProtocolVersion::V5, ROOT)).await;
    for version in VERSIONS {
        let persistent = ConnectOptions::persistent("persistent", version);
        let mut clients = Vec::new();
        for options in [
            persistent.clone(),
            ConnectOptions::transient("transient", version),
        ] {
            let mut client = connected(&cluster, 1, &with_user(options, ALICE)).await;
            for filter in ["a/#", "b/#", "$share/g/b/#"] {
                assert_eq!(suback(&mut client, filter).await, ReasonCode::GrantedQos1);
            }
            clients.push(client);
        }
        put_in_force(&mut cluster, &files, READS_LESS).await;
        for client in &mut clients {
            // A round trip: the new rules are seen by then.
            client.ping_barrier().await;
            let (puback, _) = publish_each_way(client, "b/x").await;
            assert_eq!(puback.is_error(), version == ProtocolVersion::V5);
            assert_eq!(suback(client, "b/y").await, denied(version));
        }
        root.publish_qos1(1, "b/1", "x").await;
        root.publish_qos1(2, "a/1", "x").await;
        for client in &mut clients {
            assert_eq!(client.take_message().await.topic, "a/1");
            assert_eq!(delivered(client).await, Vec::<String>::new());
        }
        put_in_force(&mut cluster, &files, READS).await;
        for client in &mut clients {
            client.ping_barrier().await;
        }
        root.publish_qos1(1, "b/2", "x").await;
        for client in &mut clients {
            // Once: the shared subscription has ended, it would be lost for others otherwise.
            assert_eq!(client.take_message().await.topic, "b/2");
            assert_eq!(delivered(client).await, Vec::<String>::new());
        }
        // Resumed under narrower rules.
        let mut client = clients.remove(0);
        root.publish_qos1(1, "a/2", "x").await;
        assert_eq!(client.take_message().await.topic, "a/2");
        client.disconnect().await;
        root.publish_qos1(1, "b/3", "x").await;
        root.publish_qos1(2, "a/3", "x").await;
        put_in_force(&mut cluster, &files, READS_LESS).await;
        let mut client = connected(&cluster, 1, &with_user(persistent, ALICE)).await;
        assert!(client.session_present());
        assert_eq!(client.take_message().await.topic, "a/3");
        assert_eq!(delivered(&mut client).await, Vec::<String>::new());
        client.disconnect().await;
        put_in_force(&mut cluster, &files, READS).await;
        let end = with_user(ConnectOptions::transient("persistent", version), ALICE);
        connected(&cluster, 1, &end).await.disconnect().await;
    }
}

/// Without rules everything is as if there were none; with the first one, nothing is allowed but what it
/// says.
#[tokio::test]
async fn the_first_rule_closes_what_was_open() {
    let files = Files::new();
    files.passwords(&[ALICE]);
    let open = files.key("password_file", "passwd") + "anonymous = true\n";
    let mut cluster = cluster("the_first_rule_closes_what_was_open", 1, open.clone()).await;
    for version in VERSIONS {
        cluster.set_auth(open.clone());
        reload(&mut cluster, 1, RELOADED).await;
        let mut client = connected(&cluster, 1, &transient("c", version, ALICE)).await;
        assert_eq!(suback(&mut client, "#").await, ReasonCode::GrantedQos1);
        client
            .publish(&Outgoing {
                id: 0,
                dup: false,
                qos: Qos::AtMostOnce,
                topic: "x",
                payload: "x",
            })
            .await;
        assert_eq!(client.take_message().await.topic, "x");
        cluster.set_auth(format!("{open}{ROOT_RULE}"));
        reload(&mut cluster, 1, RELOADED).await;
        client.ping_barrier().await;
        assert_eq!(suback(&mut client, "y").await, denied(version));
        publish_each_way(&mut client, "x").await;
        assert_eq!(delivered(&mut client).await, Vec::<String>::new());
        client.disconnect().await;
    }
}
