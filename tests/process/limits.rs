//! What an operator sets in `[mqtt]` and `[limits]` is what clients are told and held to, in both
//! versions. The table of all of them: docs/limits.md.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use codec::{
    Connack, Connect, Disconnect, Message, MessageProperties, Packet, PayloadFormat,
    ProtocolVersion, Publish, Qos, ReasonCode, Suback, TopicName, Will,
};
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, Outgoing, VERSIONS, let_pass, wait_until,
};
use tokio::time::Instant;

use crate::scene::{options, tag};

const IN_TIME: Duration = Duration::from_secs(10);
const V5: ProtocolVersion = ProtocolVersion::V5;

/// One node with further lines behind `[limits]`.
async fn node(name: &'static str, limits: &'static str) -> Cluster {
    let options = ClusterOptions {
        nodes: 1,
        limits,
        ..options()
    };
    Cluster::start(name, options).await
}

/// The CONNECT of a session that ends with its connection.
fn transient(client_id: &str, version: ProtocolVersion) -> Connect {
    ConnectOptions::transient(format!("{client_id}-{}", tag(version)), version).packet()
}

/// Sends CONNECT. Gives the client and what came; `None`: closed without CONNACK.
async fn try_connect(cluster: &Cluster, connect: Connect) -> (Client, Option<Connack>) {
    let (name, version) = (connect.client_id.as_str().to_owned(), connect.version);
    let opened = Client::open(cluster.mqtt(1), &name, version, cluster.history()).await;
    let mut client = opened.unwrap();
    client.send(&Packet::Connect(Box::new(connect))).await;
    match client.recv().await {
        Ok(Packet::Connack(connack)) => (client, Some(*connack)),
        Ok(other) => panic!("{other:?} instead of CONNACK"),
        Err(_) => (client, None),
    }
}

/// CONNACK with success.
async fn connect(cluster: &Cluster, connect: Connect) -> (Client, Connack) {
    let (client, connack) = try_connect(cluster, connect).await;
    let connack = connack.expect("a CONNACK");
    assert_eq!(connack.reason_code, ReasonCode::Success, "{connack:?}");
    (client, connack)
}

/// A CONNACK that refuses, then the end of the connection [MQTT-3.2.2-7].
async fn refused(cluster: &Cluster, connect: Connect) -> Connack {
    let (mut client, connack) = try_connect(cluster, connect).await;
    let connack = connack.expect("a CONNACK");
    assert_ne!(connack.reason_code, ReasonCode::Success);
    assert!(client.expect_closed(IN_TIME).await.is_empty());
    connack
}

/// What a client is told before its connection ends: nothing before 5.0.
async fn ended(client: &mut Client, version: ProtocolVersion) -> Option<Disconnect> {
    let mut last = client.expect_closed(IN_TIME).await;
    match (version, last.pop()) {
        (ProtocolVersion::V5, Some(Packet::Disconnect(disconnect))) => Some(disconnect),
        (ProtocolVersion::V31 | ProtocolVersion::V311, None) => None,
        (_, other) => panic!("{other:?}"),
    }
}

fn code(disconnect: Option<&Disconnect>) -> Option<ReasonCode> {
    disconnect.map(|disconnect| disconnect.reason_code)
}

async fn suback(client: &mut Client, filter: &str, qos: Qos) -> Suback {
    client.send_subscribe(filter, qos).await;
    client
        .expect("SUBACK", |packet| match packet {
            Packet::Suback(suback) => Some(suback.clone()),
            _ => None,
        })
        .await
}

/// A PUBLISH on topic "t"; id 1 unless its QoS is 0.
fn publish(qos: Qos, payload: &'static [u8], format: Option<PayloadFormat>) -> Packet {
    let mut publish: Publish = Outgoing {
        id: u16::from(qos > Qos::AtMostOnce),
        dup: false,
        qos,
        topic: "t",
        payload: "",
    }
    .packet();
    publish.payload = Bytes::from_static(payload);
    publish.properties.payload_format_indicator = format;
    Packet::Publish(publish)
}

fn will(qos: Qos, payload: &'static [u8], format: Option<PayloadFormat>) -> Will {
    Will {
        message: Message {
            topic: TopicName::try_from("will").unwrap(),
            payload: Bytes::from_static(payload),
            qos,
            retain: false,
            properties: MessageProperties {
                payload_format_indicator: format,
                ..MessageProperties::default()
            },
        },
        delay_interval_s: 0,
    }
}

async fn counted(cluster: &Cluster, metric: &str, reason: &str) -> f64 {
    let name = format!("holdfast_{metric}_total");
    cluster.metric(1, &name, ("reason", reason)).await
}

/// [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-11] [MQTT-3.2.2-12]
#[tokio::test]
async fn max_qos_is_told_granted_and_enforced() {
    let name = "max_qos_is_told_granted_and_enforced";
    for (max, limits) in [
        (Qos::AtMostOnce, "[mqtt]\nmax_qos = 0"),
        (Qos::AtLeastOnce, "[mqtt]\nmax_qos = 1"),
    ] {
        let cluster = node(name, limits).await;
        for version in VERSIONS {
            let (mut client, connack) = connect(&cluster, transient("c", version)).await;
            let told = (version == V5).then_some(max);
            assert_eq!(connack.maximum_qos, told);
            let granted = suback(&mut client, "t", Qos::ExactlyOnce)
                .await
                .reason_codes;
            assert_eq!(granted[0].as_u8(), max.as_u8());
            if max == Qos::AtMostOnce {
                client.send(&publish(max, b"x", None)).await;
                let delivery = client.expect_publish().await;
                assert_eq!((delivery.payload.as_str(), delivery.qos), ("x", max));
            } else {
                client.publish_qos1(1, "elsewhere", "x").await;
            }
            let above = Qos::try_from(max.as_u8() + 1).unwrap();
            client.send(&publish(above, b"y", None)).await;
            let told = ended(&mut client, version).await;
            let expected = (version == V5).then_some(ReasonCode::QosNotSupported);
            assert_eq!(code(told.as_ref()), expected);
            let with_will = Connect {
                will: Some(will(above, b"", None)),
                ..transient("w", version)
            };
            let expected = match version {
                ProtocolVersion::V5 => ReasonCode::QosNotSupported,
                ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::ServerUnavailable,
            };
            assert_eq!(refused(&cluster, with_will).await.reason_code, expected);
        }
        let violations = counted(&cluster, "protocol_violations", "qos_not_supported").await;
        assert!(violations > 1.5 && violations < 2.5, "{violations}");
    }
}

#[tokio::test]
async fn wildcard_subscriptions_can_be_off() {
    let name = "wildcard_subscriptions_can_be_off";
    let cluster = node(name, "[mqtt]\nwildcard_subscriptions = false").await;
    for version in VERSIONS {
        let (mut client, connack) = connect(&cluster, transient("c", version)).await;
        let told = (version == V5).then_some(false);
        assert_eq!(connack.wildcard_subscription_available, told);
        for filter in ["a/+", "#", "$share/g/a/#"] {
            let suback = suback(&mut client, filter, Qos::AtLeastOnce).await;
            let expected = match version {
                ProtocolVersion::V5 => ReasonCode::WildcardSubscriptionsNotSupported,
                ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::UnspecifiedError,
            };
            assert_eq!(suback.reason_codes, [expected], "{filter}");
            let reason = suback.reason_string.map(|text| text.as_str().to_owned());
            let expected = "filter 1: wildcard subscriptions are off";
            assert_eq!(reason.as_deref(), (version == V5).then_some(expected));
        }
        // Others are taken, and the connection goes on.
        client.subscribe("a/b", Qos::AtLeastOnce).await;
        client.subscribe("$share/g/a", Qos::AtLeastOnce).await;
    }
}

/// Section 3.2.2.3: what is configured is told, and what is as the standard has it is not.
#[tokio::test]
async fn connack_tells_what_is_configured_and_nothing_else() {
    let name = "connack_tells_what_is_configured_and_nothing_else";
    let usual = node(
        name,
        "[mqtt]\nreceive_maximum = 65535\ntopic_alias_maximum = 0",
    )
    .await;
    let asks = |version| Connect {
        keep_alive_s: 50,
        session_expiry_interval: (version == V5).then_some(100),
        request_response_information: (version == V5).then_some(true),
        ..transient("c", version)
    };
    let (_, connack) = connect(&usual, asks(V5)).await;
    let expected = Connack {
        maximum_packet_size: NonZeroU32::new(1 << 20),
        ..Connack::default()
    };
    assert_eq!(connack, expected);
    let limits = "[mqtt]\nmax_packet_size = \"2KiB\"\nmax_qos = 1\nreceive_maximum = 7\n\
        topic_alias_maximum = 3\nsession_expiry_max = \"60s\"\nkeep_alive_max = \"20s\"\n\
        retain_available = false\nshared_subscriptions = false\n\
        wildcard_subscriptions = false\nresponse_information = \"answers/%c\"";
    let cluster = node(name, limits).await;
    let (_, connack) = connect(&cluster, asks(V5)).await;
    let expected = Connack {
        session_expiry_interval: Some(60),
        receive_maximum: std::num::NonZeroU16::new(7),
        maximum_qos: Some(Qos::AtLeastOnce),
        retain_available: Some(false),
        maximum_packet_size: NonZeroU32::new(2048),
        topic_alias_maximum: Some(3),
        wildcard_subscription_available: Some(false),
        shared_subscription_available: Some(false),
        server_keep_alive: Some(20),
        response_information: Some("answers/c-v5".try_into().unwrap()),
        ..Connack::default()
    };
    assert_eq!(connack, expected);
    // Response Information is for those that ask [MQTT-3.1.2-28].
    let silent = transient("silent", V5);
    assert_eq!(connect(&cluster, silent).await.1.response_information, None);
    let (_, connack) = connect(&cluster, asks(VERSIONS[0])).await;
    assert_eq!(connack, Connack::default());
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-29] [MQTT-3.2.2-19] [MQTT-3.14.2-3]
#[tokio::test]
async fn reason_strings_are_told_to_whom_they_fit() {
    let name = "reason_strings_are_told_to_whom_they_fit";
    let cluster = node(name, "[mqtt]\nmax_qos = 1").await;
    let with_will = |bytes_max, wants| Connect {
        maximum_packet_size: NonZeroU32::new(bytes_max),
        request_problem_information: Some(wants),
        will: Some(will(Qos::ExactlyOnce, b"", None)),
        ..transient("w", V5)
    };
    let text = refused(&cluster, with_will(200, true)).await.reason_string;
    assert!(text.unwrap().as_str().contains("Maximum QoS"));
    for connect in [with_will(20, true), with_will(200, false)] {
        assert_eq!(refused(&cluster, connect).await.reason_string, None);
    }
    // Not even the shortest CONNACK fits, or not the one that would admit the client.
    let (mut client, connack) = try_connect(&cluster, with_will(4, true)).await;
    assert_eq!(connack, None);
    assert!(client.expect_closed(IN_TIME).await.is_empty());
    let small = Connect {
        maximum_packet_size: NonZeroU32::new(10),
        ..transient("small", V5)
    };
    let code_told = refused(&cluster, small).await.reason_code;
    assert_eq!(code_told, ReasonCode::PacketTooLarge);
    for (bytes_max, wants, told) in [(200, true, true), (40, true, false), (200, false, false)] {
        let limited = Connect {
            maximum_packet_size: NonZeroU32::new(bytes_max),
            request_problem_information: Some(wants),
            ..transient("c", V5)
        };
        let (mut client, _) = connect(&cluster, limited).await;
        client.send(&publish(Qos::ExactlyOnce, b"", None)).await;
        let disconnect = ended(&mut client, V5).await.unwrap();
        assert_eq!(disconnect.reason_code, ReasonCode::QosNotSupported);
        assert_eq!(disconnect.reason_string.is_some(), told, "{disconnect:?}");
    }
}

/// Section 3.3.2.3.2. Before 5.0 there is no such property.
#[tokio::test]
async fn payloads_are_held_against_their_format_where_that_is_asked_for() {
    let name = "payloads_are_held_against_their_format_where_that_is_asked_for";
    let text = Some(PayloadFormat::Utf8);
    let usual = node(name, "").await;
    let (mut client, _) = connect(&usual, transient("c", V5)).await;
    client.send(&publish(Qos::AtLeastOnce, b"\xFF", text)).await;
    let code_told = client.expect_puback(1).await;
    assert_eq!(code_told, ReasonCode::NoMatchingSubscribers);

    let cluster = node(name, "[mqtt]\nvalidate_payload_format = true").await;
    let bad_will = Connect {
        will: Some(will(Qos::AtMostOnce, b"\xFF", text)),
        ..transient("w", V5)
    };
    let connack = refused(&cluster, bad_will).await;
    assert_eq!(connack.reason_code, ReasonCode::PayloadFormatInvalid);
    for persistent in [false, true] {
        let asked = Connect {
            session_expiry_interval: persistent.then_some(100),
            ..transient("p", V5)
        };
        let (mut client, _) = connect(&cluster, asked).await;
        client.subscribe("t", Qos::ExactlyOnce).await;
        client.send(&publish(Qos::AtLeastOnce, b"\xFF", text)).await;
        assert_eq!(
            client.expect_puback(1).await,
            ReasonCode::PayloadFormatInvalid
        );
        client.send(&publish(Qos::ExactlyOnce, b"\xFF", text)).await;
        assert_eq!(
            client.expect_pubrec(1).await,
            ReasonCode::PayloadFormatInvalid
        );
        // The packet id is free again [MQTT-4.3.3-4], and nothing of the bad ones was delivered.
        let (mut witness, _) = connect(&cluster, transient("witness", V5)).await;
        witness.subscribe("elsewhere", Qos::AtMostOnce).await;
        client.publish_qos2(1, "elsewhere", "").await;
        witness.expect_publish().await;
        client
            .send(&publish(Qos::AtMostOnce, "ä".as_bytes(), text))
            .await;
        assert_eq!(client.expect_publish().await.payload, "ä");
        client.send(&publish(Qos::AtMostOnce, b"\xFF", None)).await;
        client.expect_publish().await;
        client.send(&publish(Qos::AtMostOnce, b"\xFF", text)).await;
        let told = ended(&mut client, V5).await;
        assert_eq!(code(told.as_ref()), Some(ReasonCode::PayloadFormatInvalid));
    }
    let (mut old, _) = connect(&cluster, transient("c", VERSIONS[0])).await;
    old.send(&publish(Qos::AtLeastOnce, b"\xFF", text)).await;
    old.expect_puback(1).await;
    assert!(counted(&cluster, "messages_dropped", "payload_format").await > 5.5);
}

/// Lines of the node's log with both texts.
fn lines(cluster: &Cluster, texts: [&str; 2]) -> usize {
    let log = cluster.node_log(1);
    let matching = log
        .lines()
        .filter(|line| texts.iter().all(|text| line.contains(text)));
    matching.count()
}

#[tokio::test]
async fn each_violation_is_logged_once_and_counted() {
    let name = "each_violation_is_logged_once_and_counted";
    let cluster = node(name, "").await;
    for (round, version) in (1_u8..).zip(VERSIONS) {
        let (mut client, _) = connect(&cluster, transient("breaks", version)).await;
        // PUBLISH with both QoS bits [MQTT-3.3.1-4].
        client
            .send_raw(&[0x36, 0x05, 0x00, 0x01, b't', 0x00, 0x01])
            .await;
        let told = ended(&mut client, version).await;
        let expected = (version == V5).then_some(ReasonCode::MalformedPacket);
        assert_eq!(code(told.as_ref()), expected);
        let id = format!("breaks-{}", tag(version));
        assert_eq!(lines(&cluster, [&id, "MQTT-3.3.1-4"]), 1);
        assert_eq!(lines(&cluster, [&id, "127.0.0.1:"]), 1);
        // Before CONNACK: something else comes first [MQTT-3.1.0-1].
        let opened = Client::open(cluster.mqtt(1), "first", version, cluster.history()).await;
        let mut early = opened.unwrap();
        early.send(&Packet::Pingreq).await;
        assert!(early.expect_closed(IN_TIME).await.is_empty());
        let early = lines(&cluster, ["before CONNACK", "MQTT-3.1.0-1"]);
        assert_eq!(early, usize::from(round));
        for reason in ["malformed_packet", "protocol_error"] {
            let counted = counted(&cluster, "protocol_violations", reason).await;
            assert!(
                (counted - f64::from(round)).abs() < 0.5,
                "{reason}: {counted}"
            );
        }
        // Who simply vanishes leaves no line: by FIN, or by silence.
        let (vanishes, _) = connect(&cluster, transient("vanishes", version)).await;
        vanishes.abandon();
        let silent = Connect {
            keep_alive_s: 1,
            ..transient("vanishes-silently", version)
        };
        let (mut silent, _) = connect(&cluster, silent).await;
        drop(ended(&mut silent, version).await);
    }
    wait_until("all are gone", IN_TIME, async || {
        cluster
            .metric(1, "holdfast_connections", ("listener", "tcp"))
            .await
            < 0.5
    })
    .await;
    assert_eq!(
        lines(&cluster, ["vanishes", ""]),
        0,
        "{}",
        cluster.node_log(1)
    );
}

/// [MQTT-3.14.0-1]: a refusal is a CONNACK or, before 5.0, the end of the connection.
#[tokio::test]
async fn connections_beyond_the_rate_are_refused() {
    let name = "connections_beyond_the_rate_are_refused";
    let cluster = node(name, "connect_rate = 3").await;
    for version in VERSIONS {
        // A second's worth is there at once, after a second without connections.
        let_pass(Duration::from_millis(1_100)).await;
        let mut open = Vec::new();
        for index in 0..3 {
            let id = format!("first-{index}");
            open.push(connect(&cluster, transient(&id, version)).await.0);
        }
        let mut refusals = 0;
        for index in 0..30 {
            let id = format!("more-{index}");
            let (mut client, connack) = try_connect(&cluster, transient(&id, version)).await;
            match connack.map(|connack| connack.reason_code) {
                Some(ReasonCode::Success) => open.push(client),
                Some(ReasonCode::ConnectionRateExceeded) if version == V5 => refusals += 1,
                None if version != V5 => refusals += 1,
                other => panic!("{other:?}"),
            }
            if open.len() > 3 + refusals {
                client = open.remove(0);
                client.abandon();
            }
        }
        assert!(refusals > 20, "{refusals}");
        // Who is connected goes on.
        open.last_mut().unwrap().ping_barrier().await;
        wait_until("the rate allows another", IN_TIME, async || {
            let (_, connack) = try_connect(&cluster, transient("later", version)).await;
            connack.is_some_and(|connack| connack.reason_code == ReasonCode::Success)
        })
        .await;
    }
    assert!(counted(&cluster, "connections_rejected", "connect_rate").await > 40.5);
}

/// Publishes `count` messages of `bytes` at once, and waits until all are acknowledged.
async fn burst(client: &mut Client, count: u16, bytes: usize) -> Duration {
    let payload = "x".repeat(bytes);
    let began = Instant::now();
    for id in 1..=count {
        let outgoing = Outgoing {
            id,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic: "t",
            payload: &payload,
        };
        client.publish(&outgoing).await;
    }
    for id in 1..=count {
        client.expect_puback(id).await;
    }
    began.elapsed()
}

/// Beyond its rate a client is not read: what it sends arrives later, all of it and in order, and a
/// keep alive that is shorter than the pause does not end its connection.
#[tokio::test]
async fn a_client_beyond_its_rate_is_slowed_down_and_loses_nothing() {
    let name = "a_client_beyond_its_rate_is_slowed_down_and_loses_nothing";
    for (limits, reason, count, bytes) in [
        ("publish_rate = 5", "publish_rate", 25, 10),
        ("byte_rate = \"20KiB\"", "byte_rate", 50, 2_000),
    ] {
        let cluster = node(name, limits).await;
        for version in VERSIONS {
            let subscriber = ConnectOptions::transient("subscriber", version);
            let mut subscriber =
                Client::connect_any(&[cluster.mqtt(1)], &subscriber, cluster.history()).await;
            subscriber.subscribe("t", Qos::AtMostOnce).await;
            let hasty = Connect {
                keep_alive_s: 1,
                ..transient("hasty", version)
            };
            let (mut client, _) = connect(&cluster, hasty).await;
            // A second's worth passes at once, four more seconds' worth do not.
            let took = burst(&mut client, count, bytes).await;
            assert!(took > Duration::from_millis(3_300), "{reason}: {took:?}");
            assert!(took < Duration::from_secs(15), "{reason}: {took:?}");
            for _ in 0..count {
                assert_eq!(subscriber.expect_publish().await.payload.len(), bytes);
            }
            client.ping_barrier().await;
        }
        assert!(counted(&cluster, "clients_throttled", reason).await > 1.5);
    }
}

/// A client whose PUBLISHes have to wait still gets messages, and what it acknowledges before them is
/// taken.
#[tokio::test]
async fn a_paused_client_is_served() {
    let name = "a_paused_client_is_served";
    let cluster = node(name, "publish_rate = 1").await;
    for version in VERSIONS {
        let asked = Connect {
            keep_alive_s: 1,
            ..transient("paused", version)
        };
        let (mut paused, _) = connect(&cluster, asked).await;
        paused.subscribe("to/paused", Qos::AtMostOnce).await;
        // What is no PUBLISH waits for none.
        paused.send(&publish(Qos::AtMostOnce, b"x", None)).await;
        let began = Instant::now();
        paused.ping_barrier().await;
        assert!(began.elapsed() < Duration::from_millis(700));
        for _ in 0..4 {
            paused.send(&publish(Qos::AtMostOnce, b"x", None)).await;
        }
        let (mut other, _) = connect(&cluster, transient("other", version)).await;
        let began = Instant::now();
        other
            .publish_acknowledged(Qos::AtLeastOnce, 1, "to/paused", "now")
            .await;
        assert_eq!(paused.expect_publish().await.payload, "now");
        assert!(began.elapsed() < Duration::from_secs(2));
        // Some three seconds in which nothing is read or written end no keep alive.
        paused.ping_barrier().await;
    }
}

#[tokio::test]
async fn without_memory_new_connections_are_refused() {
    let name = "without_memory_new_connections_are_refused";
    let options = ClusterOptions {
        nodes: 1,
        limits: "memory_high = \"1MiB\"",
        unready: true,
        ..options()
    };
    let cluster = Cluster::start(name, options).await;
    wait_until("unready for its memory", IN_TIME, async || {
        matches!(cluster.get(1, "/readyz").await, Some((503, text)) if text == "memory: limits.memory_high: new connections are refused\n")
    })
    .await;
    for version in VERSIONS {
        let connack = refused(&cluster, transient("c", version)).await;
        let expected = match version {
            ProtocolVersion::V5 => ReasonCode::ServerBusy,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::ServerUnavailable,
        };
        assert_eq!(connack.reason_code, expected);
    }
    assert!(counted(&cluster, "connections_rejected", "memory_high").await > 1.5);
    let state = "holdfast_overload_state";
    assert!(cluster.metric(1, state, ("resource", "memory")).await > 0.5);
    let usual = node(name, "").await;
    assert!(usual.metric(1, state, ("resource", "memory")).await < 0.5);
    let limit = "holdfast_memory_limit_bytes";
    let samples = usual.metrics(1).await;
    let limit = samples.iter().find(|sample| sample.name == limit).unwrap();
    assert!(limit.value > 1_000_000.0, "{}", limit.value);
}

/// Sessions count in the whole cluster, with and without a connection, whichever node has them.
#[tokio::test]
async fn the_session_that_is_one_too_many_is_refused() {
    let name = "the_session_that_is_one_too_many_is_refused";
    let limits = "sessions_max = 3";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            limits,
            ..options()
        },
    )
    .await;
    for version in VERSIONS {
        let persistent =
            |id: &str| ConnectOptions::persistent(format!("{id}-{}", tag(version)), version);
        let transient =
            |id: &str| ConnectOptions::transient(format!("{id}-{}", tag(version)), version);
        let at = async |node, options: &ConnectOptions| {
            Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
        };
        // Without a connection, with one that ends its session, with one that does not.
        at(1, &persistent("a")).await.disconnect().await;
        let transient_one = at(2, &transient("b")).await;
        let persistent_one = at(3, &persistent("c")).await;
        let expected = match version {
            ProtocolVersion::V5 => ReasonCode::QuotaExceeded,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::ServerUnavailable,
        };
        for node in cluster.ids() {
            let code = async |options: ConnectOptions| {
                let opened = Client::connect(cluster.mqtt(node), &options, cluster.history()).await;
                opened.err().and_then(|error| error.reason_code())
            };
            // Until its own replica has applied what the others have taken.
            wait_until("the node knows all three", IN_TIME, async || {
                code(transient("d")).await == Some(expected)
            })
            .await;
            assert_eq!(code(persistent("e")).await, Some(expected), "{node}");
        }
        // One that is there is resumed or taken over, on any node.
        assert!(at(2, &persistent("a")).await.session_present());
        let taken_over = at(1, &transient("b")).await;
        // One that has ended makes room.
        taken_over.disconnect().await;
        let fourth = at(3, &transient("d")).await;
        for client in [transient_one, persistent_one, fourth] {
            client.abandon();
        }
        for id in ["a", "c"] {
            at(1, &transient(id)).await.disconnect().await;
        }
    }
    let rejected = "holdfast_connections_rejected_total";
    let refused = cluster
        .metric(1, rejected, ("reason", "sessions_max"))
        .await;
    assert!(refused > 3.5, "{refused}");
}

const SMALL: &str = "[mqtt]\nmax_packet_size = \"1KiB\"\nreceive_maximum = 2\n\
    topic_alias_maximum = 1\nretain_available = false\nshared_subscriptions = false\n\
    max_topic_levels = 3\nmax_topic_length = 20\nsubscriptions_max = 2\n\
    connect_timeout = \"1s\"\nkeep_alive_max = \"1s\"";

/// A QoS 1 PUBLISH with something about it that is not allowed.
fn bad_publish(change: impl FnOnce(&mut Publish)) -> Packet {
    let Packet::Publish(mut publish) = publish(Qos::AtLeastOnce, b"", None) else {
        unreachable!("it is one")
    };
    change(&mut publish);
    Packet::Publish(publish)
}

fn topic(name: &str) -> Option<TopicName> {
    Some(TopicName::try_from(name).unwrap())
}

/// [MQTT-3.2.2-14] [MQTT-3.2.2-15] [MQTT-3.2.2-17] [MQTT-3.3.4-7]
#[tokio::test]
async fn who_exceeds_what_it_was_told_is_closed_with_the_code_for_that() {
    let name = "who_exceeds_what_it_was_told_is_closed_with_the_code_for_that";
    let cluster = node(name, SMALL).await;
    let large = Bytes::from(vec![b'x'; 1_100]);
    let alias = std::num::NonZeroU16::new(2);
    for version in VERSIONS {
        let exactly_once = |id| {
            bad_publish(|publish| {
                publish.qos = Qos::ExactlyOnce;
                publish.packet_id = codec::PacketId::new(id);
            })
        };
        let large = bad_publish(|publish| publish.payload = large.clone());
        let retained = bad_publish(|publish| publish.retain = true);
        let deep = bad_publish(|publish| publish.topic = topic("a/b/c/d"));
        let long = bad_publish(|publish| publish.topic = topic("abcdefghijklmnopqrstu"));
        let aliased = bad_publish(|publish| publish.topic_alias = alias);
        let many: Vec<Packet> = (1..=3).map(exactly_once).collect();
        for (packets, expected, only_v5) in [
            (vec![large], ReasonCode::PacketTooLarge, false),
            (vec![retained], ReasonCode::RetainNotSupported, false),
            (vec![deep], ReasonCode::TopicNameInvalid, false),
            (vec![long], ReasonCode::TopicNameInvalid, false),
            (vec![aliased], ReasonCode::TopicAliasInvalid, true),
            (many, ReasonCode::ReceiveMaximumExceeded, true),
            (Vec::new(), ReasonCode::KeepAliveTimeout, true),
        ] {
            if only_v5 && version != V5 {
                continue;
            }
            let (mut client, _) = connect(&cluster, transient("c", version)).await;
            for packet in packets {
                client.send(&packet).await;
            }
            let told = ended(&mut client, version).await;
            let expected = (version == V5).then_some(expected);
            assert_eq!(code(told.as_ref()), expected);
        }
    }
}

#[tokio::test]
async fn what_is_beyond_other_limits_is_refused_and_the_connection_goes_on() {
    let name = "what_is_beyond_other_limits_is_refused_and_the_connection_goes_on";
    let cluster = node(name, SMALL).await;
    for version in VERSIONS {
        let before_v5 = |code, old| if version == V5 { code } else { old };
        let (mut client, _) = connect(&cluster, transient("c", version)).await;
        client.subscribe("a", Qos::AtLeastOnce).await;
        client.subscribe("b", Qos::AtLeastOnce).await;
        for (filter, expected) in [
            ("$share/g/a", ReasonCode::SharedSubscriptionsNotSupported),
            ("a/b/c/d", ReasonCode::TopicFilterInvalid),
            ("c", ReasonCode::QuotaExceeded),
        ] {
            let codes = suback(&mut client, filter, Qos::AtLeastOnce)
                .await
                .reason_codes;
            let expected = before_v5(expected, ReasonCode::UnspecifiedError);
            assert_eq!(codes, [expected], "{filter}");
        }
        // One that replaces another needs no room.
        client.subscribe("b", Qos::AtMostOnce).await;
        let mut retained = will(Qos::AtMostOnce, b"", None);
        retained.message.retain = true;
        let mut deep = will(Qos::AtMostOnce, b"", None);
        deep.message.topic = topic("a/b/c/d").unwrap();
        for (will, expected) in [
            (retained, ReasonCode::RetainNotSupported),
            (deep, ReasonCode::TopicNameInvalid),
        ] {
            let with_will = Connect {
                will: Some(will),
                ..transient("w", version)
            };
            let code = refused(&cluster, with_will).await.reason_code;
            assert_eq!(code, before_v5(expected, ReasonCode::ServerUnavailable));
        }
        // Who sends no CONNECT is closed, without a packet [MQTT-3.14.0-1].
        let opened = Client::open(cluster.mqtt(1), "mute", version, cluster.history()).await;
        assert!(opened.unwrap().expect_closed(IN_TIME).await.is_empty());
    }
    assert!(counted(&cluster, "connections_rejected", "connect_timeout").await > 1.5);
}
