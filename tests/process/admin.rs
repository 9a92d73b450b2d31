//! The admin API: any node answers about the whole cluster, who may do what, and what its OpenAPI file
//! says of it.

use std::collections::BTreeMap;
use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use serde_json::{Value, json};
use testkit::certificates::{Authority, Subject};
use testkit::http::{Answer, request};
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, NodeId, VERSIONS, wait_until};

use crate::scene::{options, publisher, tag};

const IN_TIME: Duration = Duration::from_secs(30);
const JSON: (&str, &str) = ("Content-Type", "application/json");

const VIEWER: &str = "viewer-token-0123456789";
const OPERATOR: &str = "operator-token-0123456789";
const ADMIN: &str = "admin-token-0123456789";

async fn get(cluster: &Cluster, node: NodeId, path: &str) -> Value {
    let answer = request(cluster.admin(node), ("GET", path), &[], "").await;
    assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn post(cluster: &Cluster, node: NodeId, path: &str, body: &Value) -> Answer {
    request(
        cluster.admin(node),
        ("POST", path),
        &[JSON],
        &body.to_string(),
    )
    .await
}

async fn delete(cluster: &Cluster, node: NodeId, path: &str) -> Answer {
    request(cluster.admin(node), ("DELETE", path), &[], "").await
}

async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
}

fn persistent(name: &str) -> ConnectOptions {
    ConnectOptions::persistent(name, ProtocolVersion::V5)
}

fn transient(name: &str) -> ConnectOptions {
    ConnectOptions::transient(name, ProtocolVersion::V5)
}

/// All entries of a list, page by page.
async fn all(cluster: &Cluster, node: NodeId, path: &str, key: &str) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(cluster, node, &format!("{path}{cursor}")).await;
        entries.extend(page[key].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return entries,
        }
    }
}

fn names(entries: &[Value]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry["client_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn every_node_knows_every_client_its_connection_and_what_it_subscribed_to() {
    let name = "every_node_knows_every_client_its_connection_and_what_it_subscribed_to";
    let cluster = Cluster::start(name, options()).await;
    let mut stored = connect(&cluster, 1, &persistent("stored")).await;
    stored.subscribe("a/+", Qos::AtLeastOnce).await;
    let mut passing = connect(&cluster, 2, &transient("passing")).await;
    passing.subscribe("a/b", Qos::AtMostOnce).await;
    passing.subscribe("$share/g/a/#", Qos::AtLeastOnce).await;
    connect(&cluster, 3, &persistent("away"))
        .await
        .disconnect()
        .await;
    for node in cluster.ids() {
        wait_until("the node has applied that", IN_TIME, async || {
            let page = get(&cluster, node, "/api/v1/clients").await;
            let clients = page["clients"].as_array().unwrap();
            clients.len() == 3 && clients[0]["connected"] == false
        })
        .await;
        let page = get(&cluster, node, "/api/v1/clients").await;
        let clients = page["clients"].as_array().unwrap();
        assert_eq!(
            names(clients),
            ["away", "passing", "stored"],
            "asked node {node}"
        );
        assert_eq!(clients[0]["connection"], Value::Null);
        assert_eq!(clients[1]["node"], 2);
        assert_eq!(clients[1]["session"], Value::Null);
        assert_eq!(clients[2]["session"]["subscriptions"], 1);
        let address = clients[2]["connection"]["address"].as_str().unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        assert!(clients[2]["connection"]["bytes_received"].as_u64().unwrap() > 0);
        assert_eq!(page["incomplete"], json!([]));

        let path = "/api/v1/topics/match?topic=a/b";
        let matching = get(&cluster, node, path).await;
        let matching: Vec<(&str, &str, bool)> = matching["subscriptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let text = |member: &str| one[member].as_str().unwrap();
                (
                    text("client_id"),
                    text("filter"),
                    one["stored"].as_bool().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("passing", "$share/g/a/#", false),
            ("passing", "a/b", false),
            ("stored", "a/+", true),
        ];
        assert_eq!(matching, expected, "asked node {node}");
        // One by one, the pages say the same.
        let pages = all(
            &cluster,
            node,
            "/api/v1/subscriptions?limit=1",
            "subscriptions",
        )
        .await;
        let filters: Vec<&str> = pages
            .iter()
            .map(|one| one["filter"].as_str().unwrap())
            .collect();
        assert_eq!(filters, ["$share/g/a/#", "a/b", "a/+"], "asked node {node}");
    }
}

/// What was there throughout is listed exactly once, whatever comes and goes between two pages.
#[tokio::test]
async fn pages_have_each_session_once_while_others_come_and_go() {
    let name = "pages_have_each_session_once_while_others_come_and_go";
    let cluster = Cluster::start(name, options()).await;
    let stays: Vec<String> = (0..40).map(|number| format!("m-{number:02}")).collect();
    for client in &stays {
        connect(&cluster, 1, &persistent(client))
            .await
            .disconnect()
            .await;
    }
    wait_until("the other node has applied that", IN_TIME, async || {
        let page = get(&cluster, 2, "/api/v1/clients").await;
        page["clients"].as_array().unwrap().len() == stays.len()
    })
    .await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut cursor = String::new();
    let mut round = 0_u32;
    loop {
        let path = format!("/api/v1/clients?limit=3{cursor}");
        let page = get(&cluster, 2, &path).await;
        for client in names(page["clients"].as_array().unwrap()) {
            *seen.entry(client.to_owned()).or_default() += 1;
        }
        // Before, in between and behind; and the first that came goes again.
        for place in ["a", "m-1", "z"] {
            let client = format!("{place}-{round}");
            connect(&cluster, 2, &persistent(&client))
                .await
                .disconnect()
                .await;
        }
        if round > 0 {
            let gone = format!("/api/v1/sessions/m-1-{}", round - 1);
            assert_eq!(delete(&cluster, 2, &gone).await.status, 200);
        }
        round += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for client in &stays {
        assert_eq!(seen.get(client), Some(&1), "{client}");
    }
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

/// 0x98 to a 5.0 client; the session stays, and ends when it is purged, from whichever node.
#[tokio::test]
async fn a_client_is_kicked_and_its_session_purged_through_any_node() {
    let name = "a_client_is_kicked_and_its_session_purged_through_any_node";
    let cluster = Cluster::start(name, options()).await;
    for version in VERSIONS {
        for asked in cluster.ids() {
            let client_id = format!("kicked-{}-{asked}", tag(version));
            let options = ConnectOptions::persistent(&client_id, version);
            let mut client = connect(&cluster, 2, &options).await;
            client.subscribe("kick/t", Qos::AtLeastOnce).await;
            let path = format!("/api/v1/clients/{client_id}");
            let kicked = delete(&cluster, asked, &path).await;
            assert_eq!(kicked.status, 200, "{}", kicked.body);
            let last = client.expect_closed(IN_TIME).await;
            if version == ProtocolVersion::V5 {
                let told = last.iter().any(|packet| {
                    matches!(packet, Packet::Disconnect(disconnect)
                        if disconnect.reason_code == ReasonCode::AdministrativeAction)
                });
                assert!(told, "{last:?}");
            }
            let document: Value = serde_json::from_str(&kicked.body).unwrap();
            assert_eq!(document, json!({ "node": 2, "closed": true }));
            assert_eq!(delete(&cluster, asked, &path).await.status, 409);

            let mut client = connect(&cluster, 3, &options).await;
            assert!(client.session_present(), "{client_id}");
            let purged = delete(&cluster, asked, &format!("/api/v1/sessions/{client_id}")).await;
            assert_eq!(purged.status, 200, "{}", purged.body);
            client.expect_closed(IN_TIME).await;
            let absent = request(cluster.admin(asked), ("GET", &path), &[], "").await;
            assert_eq!(absent.status, 404, "{}", absent.body);
            let client = connect(&cluster, 1, &options).await;
            assert!(!client.session_present(), "{client_id}");
            client.disconnect().await;
        }
    }
}

/// To persistent sessions, connected or not, to transient ones, to one member of a group, and stored.
#[tokio::test]
async fn what_an_administrator_publishes_reaches_everybody_once() {
    let name = "what_an_administrator_publishes_reaches_everybody_once";
    let cluster = Cluster::start(name, options()).await;
    let mut away = connect(&cluster, 1, &persistent("away")).await;
    away.subscribe("news", Qos::ExactlyOnce).await;
    away.disconnect().await;
    let mut passing = Vec::new();
    for node in cluster.ids() {
        let mut client = connect(&cluster, node, &transient(&format!("passing-{node}"))).await;
        client.subscribe("news", Qos::AtLeastOnce).await;
        passing.push(client);
    }
    let mut member = connect(&cluster, 3, &transient("member")).await;
    member.subscribe("$share/g/news", Qos::AtLeastOnce).await;
    for (qos, node) in [(0, 1), (1, 2), (2, 3)] {
        let payload = format!("at {qos}");
        let body = json!({ "topic": "news", "payload": payload, "qos": qos, "retain": true });
        let answer = post(&cluster, node, "/api/v1/publish", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        for client in passing.iter_mut().chain([&mut member]) {
            let delivery = client.take_message().await;
            assert_eq!(
                (delivery.topic.as_str(), delivery.payload.as_str()),
                ("news", payload.as_str())
            );
        }
        let stored = get(&cluster, node, "/api/v1/retained/news").await;
        assert_eq!(
            (&stored["payload"], &stored["qos"]),
            (&json!(payload), &json!(qos))
        );
    }
    let queue = get(&cluster, 1, "/api/v1/sessions/away/queue?limit=1").await;
    assert_eq!(queue["queue"][0]["topic"], "news");
    assert!(queue["next_cursor"].is_string(), "{queue}");
    let mut away = connect(&cluster, 2, &persistent("away")).await;
    for payload in ["at 1", "at 2"] {
        assert_eq!(away.take_message().await.payload, payload);
    }
    let nobody = post(
        &cluster,
        1,
        "/api/v1/publish",
        &json!({ "topic": "x", "qos": 1 }),
    )
    .await;
    assert_eq!(nobody.body.trim(), r#"{"matched":false}"#);

    let cleared = delete(&cluster, 2, "/api/v1/retained?filter=new%23").await;
    assert_eq!(cleared.status, 400, "{}", cleared.body);
    let cleared = delete(&cluster, 2, "/api/v1/retained?filter=%2B").await;
    assert_eq!(cleared.body.trim(), r#"{"cleared":1,"more":false}"#);
    let gone = request(cluster.admin(2), ("GET", "/api/v1/retained/news"), &[], "").await;
    assert_eq!(gone.status, 404);
}

/// A page of retained messages is in the order of topics over all shards.
#[tokio::test]
async fn retained_messages_are_listed_in_the_order_of_their_topics() {
    let name = "retained_messages_are_listed_in_the_order_of_their_topics";
    let cluster = Cluster::start(name, options()).await;
    let topics: Vec<String> = (0..25).map(|number| format!("r/{number:02}")).collect();
    for topic in &topics {
        let body = json!({ "topic": topic, "payload": "x", "retain": true });
        assert_eq!(
            post(&cluster, 1, "/api/v1/publish", &body).await.status,
            200
        );
    }
    wait_until("the node has applied them", IN_TIME, async || {
        let listed = all(
            &cluster,
            3,
            "/api/v1/retained?filter=r/%23&limit=4",
            "retained",
        )
        .await;
        let listed: Vec<&str> = listed
            .iter()
            .map(|one| one["topic"].as_str().unwrap())
            .collect();
        listed == topics
    })
    .await;
}

/// What only a node that does not answer knows is missing, and the answer says so.
#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let name = "a_node_that_does_not_answer_is_named";
    let mut cluster = Cluster::start(name, options()).await;
    let _client = connect(&cluster, 2, &transient("on-2")).await;
    wait_until("the node has applied that", IN_TIME, async || {
        let page = get(&cluster, 1, "/api/v1/clients").await;
        names(page["clients"].as_array().unwrap()) == ["on-2"]
    })
    .await;
    cluster.suspend(2).await;
    let page = get(&cluster, 1, "/api/v1/clients").await;
    if names(page["clients"].as_array().unwrap()) == ["on-2"] {
        assert_eq!(page["incomplete"], json!([2]), "{page}");
        assert_eq!(page["clients"][0]["connection"], Value::Null);
    }
    let whole = get(&cluster, 1, "/api/v1/cluster").await;
    assert_eq!(whole["incomplete"], json!([2]), "{whole}");
    assert_eq!(whole["has_quorum"], true);
    wait_until("the others are needed now", IN_TIME, async || {
        let path = "/api/v1/nodes/1/quorum-critical";
        let answer = request(cluster.admin(1), ("GET", path), &[], "").await;
        answer.status == 503 && answer.body.contains("\"code\":\"quorum_critical\"")
    })
    .await;
    let alerts = get(&cluster, 3, "/api/v1/alerts").await;
    let alerts: Vec<&str> = alerts["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alert| alert["name"].as_str().unwrap())
        .collect();
    assert!(
        alerts.contains(&"node_down") && alerts.contains(&"quorum_critical"),
        "{alerts:?}"
    );
    cluster.wake(2);
}

/// The conditions of the Prometheus rules, for a cluster without Prometheus.
#[tokio::test]
async fn alerts_tell_of_certificates_that_expire_and_of_resources_that_are_short() {
    let name = "alerts_tell_of_certificates_that_expire_and_of_resources_that_are_short";
    let folder = tempfile::tempdir().unwrap();
    let mut subject = Subject::new("old.example");
    subject.expired = true;
    let files = Authority::new("test authority").issue_files(folder.path(), "old", &subject);
    let options = ClusterOptions {
        nodes: 1,
        // More memory than this is in use from the start.
        limits: "memory_high = \"1MiB\"",
        listeners: format!(
            "[[listener]]\nname = \"tls\"\nkind = \"mqtts\"\nbind = \"127.0.0.1:0\"\ncert = \"{}\"\nkey = \"{}\"\n",
            files.cert.display(),
            files.key.display()
        ),
        unready: true,
        ..options()
    };
    let cluster = Cluster::start(name, options).await;
    let mut alerts = Vec::new();
    wait_until("memory is short", IN_TIME, async || {
        let answer = get(&cluster, 1, "/api/v1/alerts").await;
        alerts = answer["alerts"].as_array().unwrap().clone();
        alerts.iter().any(|alert| alert["name"] == "overload")
    })
    .await;
    let of = |name: &str| {
        let alert = alerts.iter().find(|alert| alert["name"] == name);
        alert.unwrap_or_else(|| panic!("{name}: {alerts:?}"))
    };
    for (name, detail) in [
        ("overload", "memory: "),
        ("certificate_expires", "listener tls expired"),
    ] {
        let alert = of(name);
        assert_eq!(alert["severity"], "critical", "{alert}");
        assert_eq!(alert["node"], 1, "{alert}");
        assert!(
            alert["detail"].as_str().unwrap().contains(detail),
            "{alert}"
        );
    }
    let node = get(&cluster, 1, "/api/v1/nodes/1").await;
    assert_eq!(node["certificates"][0]["not_after"], "2002-01-01T00:00:00Z");
}

/// The tokens of a cluster, as its file has them.
fn guarded(directory: &std::path::Path) -> ClusterOptions {
    let file = directory.join("tokens");
    let text = format!("viewer {VIEWER} grafana\noperator {OPERATOR} ops\nadmin {ADMIN} root\n");
    std::fs::write(&file, text).unwrap();
    ClusterOptions {
        nodes: 1,
        admin: format!("token_file = \"{}\"\nmetrics_auth = true", file.display()),
        ..options()
    }
}

#[tokio::test]
async fn each_role_may_do_its_own_and_every_change_is_in_the_audit_log() {
    let name = "each_role_may_do_its_own_and_every_change_is_in_the_audit_log";
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(name, guarded(directory.path())).await;
    let status = async |method: &str, path: &str, token: &str, body: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str()), JSON];
        let headers = if token.is_empty() {
            &headers[1..]
        } else {
            &headers[..]
        };
        request(cluster.admin(1), (method, path), headers, body).await
    };
    let publish = r#"{"topic":"t","qos":1}"#;
    let level = r#"{"level":"info"}"#;
    for (method, path, body, [none, viewer, operator, admin]) in [
        ("GET", "/livez", "", [200, 200, 200, 200]),
        ("GET", "/readyz", "", [200, 200, 200, 200]),
        ("GET", "/metrics", "", [401, 200, 200, 200]),
        ("GET", "/api/v1/clients", "", [401, 200, 200, 200]),
        ("GET", "/api/v1/config", "", [401, 403, 403, 200]),
        ("POST", "/api/v1/publish", publish, [401, 403, 200, 200]),
        ("DELETE", "/api/v1/clients/x", "", [401, 403, 404, 404]),
        ("DELETE", "/api/v1/sessions/x", "", [401, 403, 403, 404]),
        ("PUT", "/api/v1/log/level", level, [401, 403, 403, 200]),
        ("POST", "/api/v1/backup", "{}", [401, 403, 403, 501]),
    ] {
        for (token, expected) in [
            ("", none),
            (VIEWER, viewer),
            (OPERATOR, operator),
            (ADMIN, admin),
        ] {
            let answer = status(method, path, token, body).await;
            assert_eq!(
                answer.status, expected,
                "{method} {path} {token}: {}",
                answer.body
            );
            if expected >= 400 {
                let is_problem = answer
                    .head
                    .contains("content-type: application/problem+json");
                assert!(is_problem, "{}", answer.head);
            }
            if expected == 401 {
                assert!(
                    answer.head.contains("www-authenticate: bearer"),
                    "{}",
                    answer.head
                );
            }
        }
    }
    let wrong = status("GET", "/api/v1/clients", "admin-token-0123456780", "").await;
    assert_eq!(wrong.status, 401);
    let forbidden = status("POST", "/api/v1/publish", VIEWER, publish).await;
    let forbidden: Value = serde_json::from_str(&forbidden.body).unwrap();
    assert_eq!(forbidden["required_role"], "operator");

    check_audit(&cluster);
}

/// What `each_role_may_do_its_own…` has done is in the log, without any token.
fn check_audit(cluster: &Cluster) {
    let log = std::fs::read_to_string(cluster.log_file(1)).unwrap();
    let audited = |who: &str, route: &str, result: u16| {
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["target"] == "holdfast::audit")
            .any(|line| line["who"] == who && line["route"] == route && line["result"] == result)
    };
    assert!(audited("ops", "/api/v1/publish", 200), "{log}");
    assert!(audited("grafana", "/api/v1/publish", 403));
    assert!(audited("unknown", "/api/v1/publish", 401));
    assert!(audited("root", "/api/v1/log/level", 200));
    for token in [VIEWER, OPERATOR, ADMIN] {
        assert!(!log.contains(token), "a token is in the log");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_carried_out_is_answered_with_a_problem() {
    let name = "a_request_that_cannot_be_carried_out_is_answered_with_a_problem";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            nodes: 1,
            ..options()
        },
    )
    .await;
    let large = format!(r#"{{"level":"{}"}}"#, "x".repeat(70 * 1024));
    let publish = "/api/v1/publish";
    let text = ("Content-Type", "text/plain");
    let rebound = ("Host", "evil.example.com");
    let page = ("Origin", "http://example.com");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16);
    let cases: [Case<'_>; 21] = [
        ("GET", "/nothing", &[], "", 404),
        ("GET", "/api/v1/clients/nobody", &[], "", 404),
        ("GET", "/api/v1/nodes/7", &[], "", 404),
        ("GET", "/api/v1/nodes/x", &[], "", 404),
        ("PUT", "/api/v1/clients", &[], "", 405),
        ("GET", "/api/v1/clients?limit=0", &[], "", 400),
        ("GET", "/api/v1/clients?limit=1001", &[], "", 400),
        ("GET", "/api/v1/clients?colour=red", &[], "", 400),
        ("GET", "/api/v1/clients?cursor=x", &[], "", 400),
        ("GET", "/api/v1/clients?filter=colour=red", &[], "", 400),
        ("GET", "/api/v1/topics/match?topic=a/%23", &[], "", 400),
        ("GET", "/api/v1/topics/match", &[], "", 400),
        ("POST", publish, &[text], r#"{"topic":"t"}"#, 415),
        ("POST", publish, &[], r#"{"topic":"t"}"#, 415),
        ("POST", publish, &[JSON], r#"{"topic":"t","colour":1}"#, 400),
        ("POST", publish, &[JSON], r#"{"topic":"$SYS/x"}"#, 400),
        ("POST", publish, &[JSON], r#"["t"]"#, 400),
        ("PUT", "/api/v1/log/level", &[JSON], &large, 413),
        (
            "PUT",
            "/api/v1/log/level",
            &[JSON],
            r#"{"level":"loud"}"#,
            400,
        ),
        ("GET", "/api/v1/clients", &[rebound], "", 403),
        ("POST", publish, &[JSON, page], r#"{"topic":"t"}"#, 403),
    ];
    for (method, path, headers, body, expected) in cases {
        let answer = request(cluster.admin(1), (method, path), headers, body).await;
        assert_eq!(
            answer.status, expected,
            "{method} {path} {headers:?}: {}",
            answer.body
        );
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["status"], expected, "{method} {path}");
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
        assert!(
            answer
                .head
                .contains("content-type: application/problem+json"),
            "{}",
            answer.head
        );
        if expected == 405 {
            assert!(answer.head.contains("allow: "), "{}", answer.head);
        }
    }
}

/// A node is emptied and filled again through another node.
#[tokio::test]
async fn a_node_is_drained_and_undrained_through_another_one() {
    let name = "a_node_is_drained_and_undrained_through_another_one";
    let mut cluster = Cluster::start(name, options()).await;
    let mut client = connect(&cluster, 2, &persistent("mover")).await;
    let path = "/api/v1/nodes/2/drain";
    let answer = post(&cluster, 1, path, &json!({ "timeout_s": 5 })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    client.expect_closed(IN_TIME).await;
    wait_until("it is drained", IN_TIME, async || {
        get(&cluster, 3, "/api/v1/nodes/2").await["drain"] == "drained"
    })
    .await;
    assert!(!cluster.is_ready(2).await);
    // The two others are needed now, as they know from the next heartbeat.
    wait_until("node 3 is critical", IN_TIME, async || {
        let path = "/api/v1/nodes/3/quorum-critical";
        request(cluster.admin(1), ("GET", path), &[], "")
            .await
            .status
            == 503
    })
    .await;
    let refused = post(&cluster, 1, "/api/v1/nodes/3/drain", &json!({})).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let answer = post(&cluster, 3, "/api/v1/nodes/2/undrain", &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.wait_node_ready(2).await;
    connect(&cluster, 2, &persistent("mover"))
        .await
        .disconnect()
        .await;
}

/// The leadership of one shard goes where it is told to.
#[tokio::test]
async fn a_leadership_is_handed_over_through_any_node() {
    let name = "a_leadership_is_handed_over_through_any_node";
    let cluster = Cluster::start(name, options()).await;
    let leaders = crate::scene::spread_leaders(&cluster).await;
    let to = cluster.others(leaders[&0])[0];
    let asked = cluster.others(leaders[&0])[1];
    let body = json!({ "shard": 0, "to": to });
    let answer = post(&cluster, asked, "/api/v1/cluster/leaders/transfer", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.body.trim(),
        format!(r#"{{"moved":[{{"shard":0,"to":{to}}}]}}"#)
    );
    let unknown = json!({ "to": 9 });
    let answer = post(
        &cluster,
        asked,
        "/api/v1/cluster/leaders/transfer",
        &unknown,
    )
    .await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

/// A listener on the node that held the older connection.
#[tokio::test]
async fn events_tell_of_take_overs_as_they_happen() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let name = "events_tell_of_take_overs_as_they_happen";
    let cluster = Cluster::start(name, options()).await;
    let mut stream = tokio::net::TcpStream::connect(cluster.admin(1))
        .await
        .unwrap();
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n\r\n",
        cluster.admin(1)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let next = async |lines: &mut tokio::io::Lines<BufReader<tokio::net::TcpStream>>| {
        let line = tokio::time::timeout(IN_TIME, lines.next_line()).await;
        line.expect("an event comes in time")
            .unwrap()
            .expect("the stream has no end")
    };
    while !next(&mut lines).await.contains("text/event-stream") {}
    let mut first = publisher(&cluster, 1, "twice", ProtocolVersion::V5).await;
    let _second = publisher(&cluster, 2, "twice", ProtocolVersion::V5).await;
    first.expect_closed(IN_TIME).await;
    while next(&mut lines).await != "event: client_taken_over" {}
    let data = next(&mut lines).await;
    assert!(data.contains("\"client_id\":\"twice\""), "{data}");
}
