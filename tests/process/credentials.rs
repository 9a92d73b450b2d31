//! Passwords, tokens, bans, throttling and what a reload means for them; each with a good and a bad one,
//! for 3.1.1 and 5.0.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use codec::{Message, MessageProperties, ProtocolVersion, Qos, ReasonCode, TopicName, Will};
use ring::hmac;
use serde_json::{Value, json};
use testkit::{Cluster, ClusterOptions, ConnectOptions, VERSIONS};

use crate::access::{
    Files, NOT_RELOADED, RELOADED, cluster, connected, counted, expect_ended, hash_password,
    refused, reload, transient,
};
use crate::scene::options;

const ALICE: (&str, &str) = ("alice", "pencil");
const BAD: Option<ReasonCode> = Some(ReasonCode::BadUserNameOrPassword);
const DENIED: Option<ReasonCode> = Some(ReasonCode::NotAuthorized);
/// From mosquitto_passwd 2.0, of the password `pencil`.
const OF_MOSQUITTO: &str = "sha:$6$3N299DruGz1WC+UW$KpAGep2e9vD9Wpzz7xfh6VjuWo8bze62pQu2Gu0j8oNwtZzAwCSAUd+YDXV8GphEzNzR5ND8gSVg/5dpF3qemg==
pbkdf2:$7$101$s9+n+TFMGHO1Aj1z$Ykkae7Gfqp/odm3H05UqWjHz9XglA2A3zu2iGY0J77q6faWYbQ9bu+JxIvp93UyTVm83PJOA8vw/zCaPyq4T8Q==
";
pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";

#[tokio::test]
async fn the_users_of_the_password_file_are_let_in_with_their_passwords() {
    let files = Files::new();
    files.write("passwd", OF_MOSQUITTO);
    files.add_password("alice", "pencil");
    let auth = files.key("password_file", "passwd") + "anonymous = false";
    let name = "the_users_of_the_password_file_are_let_in_with_their_passwords";
    let cluster = cluster(name, 1, auth).await;
    for version in VERSIONS {
        for user in ["alice", "sha", "pbkdf2"] {
            // The second time it is known.
            for time in 0..2 {
                let id = format!("{user}-{time}");
                let options = transient(&id, version, (user, "pencil"));
                connected(&cluster, 1, &options).await.disconnect().await;
            }
        }
        for credentials in [
            ("alice", "Pencil"),
            ("nobody", "pencil"),
            ("pbkdf2", "pencil "),
            ("sha", ""),
        ] {
            let options = transient("c", version, credentials);
            assert_eq!(refused(&cluster, 1, &options).await, BAD, "{credentials:?}");
        }
        let nothing = ConnectOptions::transient("c", version);
        assert_eq!(refused(&cluster, 1, &nothing).await, DENIED);
    }
    let attempts = "holdfast_auth_attempts_total";
    assert_eq!(
        counted(&cluster, 1, attempts, &[("result", "accepted")]).await,
        12.0
    );
    assert_eq!(
        counted(&cluster, 1, attempts, &[("result", "refused")]).await,
        8.0
    );
}

/// Where nobody has to show anything, who shows something wrong is refused all the same.
#[tokio::test]
async fn who_shows_a_wrong_password_is_not_taken_for_anonymous() {
    let files = Files::new();
    files.passwords(&[ALICE]);
    let auth = files.key("password_file", "passwd") + "anonymous = true";
    let name = "who_shows_a_wrong_password_is_not_taken_for_anonymous";
    let cluster = cluster(name, 1, auth).await;
    for version in VERSIONS {
        let nothing = ConnectOptions::transient("n", version);
        connected(&cluster, 1, &nothing).await.disconnect().await;
        let wrong = transient("c", version, ("alice", "ink"));
        assert_eq!(refused(&cluster, 1, &wrong).await, BAD);
    }
}

/// Beyond ten failures nobody looks any more, whatever is shown; but who has logged in from there before
/// is not locked out.
#[tokio::test]
async fn failed_logins_are_throttled() {
    let files = Files::new();
    files.passwords(&[ALICE, ("bob", "pencil")]);
    let auth = files.key("password_file", "passwd") + "anonymous = true";
    let cluster = cluster("failed_logins_are_throttled", 1, auth).await;
    let version = ProtocolVersion::V5;
    connected(&cluster, 1, &transient("c", version, ALICE))
        .await
        .disconnect()
        .await;
    let mut failures = 0;
    loop {
        let guess = format!("guess-{failures}");
        let options = transient("c", version, ("mallory", &guess));
        match refused(&cluster, 1, &options).await {
            BAD => failures += 1,
            Some(ReasonCode::ConnectionRateExceeded) => break,
            other => panic!("{other:?}"),
        }
        assert!(failures < 100, "never throttled");
    }
    // Ten, and what was forgotten of them meanwhile.
    assert!(failures >= 10, "{failures}");
    // Bob was not here before: his password is right, and nobody looks.
    let bob = transient("c", version, ("bob", "pencil"));
    assert_eq!(
        refused(&cluster, 1, &bob).await,
        Some(ReasonCode::ConnectionRateExceeded)
    );
    // An old client is closed without an answer.
    let old = transient("c", ProtocolVersion::V311, ("mallory", "x"));
    assert_eq!(refused(&cluster, 1, &old).await, None);
    connected(&cluster, 1, &transient("c", version, ALICE))
        .await
        .disconnect()
        .await;
    // Who shows nothing does not guess.
    let nothing = ConnectOptions::transient("n", version);
    connected(&cluster, 1, &nothing).await.disconnect().await;
    let throttled = [("result", "throttled")];
    assert!(counted(&cluster, 1, "holdfast_auth_attempts_total", &throttled).await >= 3.0);
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn token(claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "typ": "JWT"})),
        part(claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A node that takes tokens, and passwords besides.
async fn token_cluster(name: &'static str, files: &Files) -> Cluster {
    files.write("secret", SECRET);
    files.passwords(&[("bob", "pencil")]);
    let auth = format!(
        "anonymous = false\n{}jwt = {{ {}, audience = \"holdfast\" }}\n",
        files.key("password_file", "passwd"),
        files.key("key_file", "secret").trim_end()
    );
    cluster(name, 1, auth).await
}

#[tokio::test]
async fn a_token_is_taken_in_the_place_of_a_password() {
    let files = Files::new();
    let name = "a_token_is_taken_in_the_place_of_a_password";
    let cluster = token_cluster(name, &files).await;
    let claims = json!({"sub": "alice", "aud": "holdfast", "exp": now_s() + 600});
    let good = token(&claims, SECRET);
    let other_key = token(&claims, "another secret of thirty-two bytes!");
    let expired = token(
        &json!({"sub": "alice", "aud": "holdfast", "exp": now_s() - 1}),
        SECRET,
    );
    let no_end = token(&json!({"sub": "alice", "aud": "holdfast"}), SECRET);
    let elsewhere = token(
        &json!({"sub": "alice", "aud": "x", "exp": now_s() + 600}),
        SECRET,
    );
    // 5.0 needs no user name; an empty one is none.
    let unnamed = ConnectOptions::transient("c", ProtocolVersion::V5).credentials("", &good);
    connected(&cluster, 1, &unnamed).await.disconnect().await;
    for version in VERSIONS {
        let options = transient("c", version, ("alice", &good));
        connected(&cluster, 1, &options).await.disconnect().await;
        for (user, bad) in [
            ("alice", &other_key),
            ("alice", &expired),
            ("alice", &no_end),
            ("alice", &elsewhere),
            ("bob", &good),
        ] {
            let options = transient("c", version, (user, bad));
            assert_eq!(refused(&cluster, 1, &options).await, BAD, "{user} {bad}");
        }
        // A password that is none stays one.
        let options = transient("bob", version, ("bob", "pencil"));
        connected(&cluster, 1, &options).await.disconnect().await;
    }
}

/// Its end is the connection's, and the will is published.
#[tokio::test]
async fn an_expired_token_ends_the_connection() {
    let files = Files::new();
    let cluster = token_cluster("an_expired_token_ends_the_connection", &files).await;
    let witness = transient("witness", ProtocolVersion::V5, ("bob", "pencil"));
    let mut witness = connected(&cluster, 1, &witness).await;
    witness.subscribe("will/+", Qos::AtMostOnce).await;
    for (version, id) in VERSIONS.into_iter().zip(["old", "new"]) {
        let exp = now_s() + 3;
        let claims = json!({"sub": "alice", "aud": "holdfast", "exp": exp});
        let options = transient(id, version, ("alice", &token(&claims, SECRET)));
        let mut client = connected(&cluster, 1, &options.will(will(&format!("will/{id}")))).await;
        assert!(client.ping_barrier().await.is_empty());
        expect_ended(&mut client, version, ReasonCode::MaximumConnectTime).await;
        assert!(now_s() >= exp, "not before its time");
        assert_eq!(witness.expect_publish().await.topic, format!("will/{id}"));
    }
    let expired = [("reason", "token_expired")];
    assert_eq!(
        counted(&cluster, 1, "holdfast_connections_closed_total", &expired).await,
        2.0
    );
}

fn will(topic: &str) -> Will {
    Will {
        message: Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload: "gone".into(),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: MessageProperties::default(),
        },
        delay_interval_s: 0,
    }
}

#[tokio::test]
async fn banned_clients_users_and_networks_are_refused() {
    let files = Files::new();
    files.passwords(&[ALICE, ("mallory", "pencil")]);
    files.write("bans", "# nobody yet\nnet:192.0.2.0/24\n");
    let auth = files.key("password_file", "passwd") + &files.key("ban_file", "bans");
    let name = "banned_clients_users_and_networks_are_refused";
    let mut cluster = cluster(name, 1, auth).await;
    for version in VERSIONS {
        let code = match version {
            ProtocolVersion::V5 => ReasonCode::Banned,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::NotAuthorized,
        };
        files.write("bans", "net:192.0.2.0/24\n");
        reload(&mut cluster, 1, RELOADED).await;
        let mut meter = connected(&cluster, 1, &transient("meter", version, ALICE)).await;
        let mallory = transient("c", version, ("mallory", "pencil"));
        let mut mallory_here = connected(&cluster, 1, &mallory).await;
        let mut other = connected(&cluster, 1, &transient("other", version, ALICE)).await;
        files.write("bans", "client:meter\nuser:mallory\n");
        reload(&mut cluster, 1, RELOADED).await;
        expect_ended(&mut meter, version, ReasonCode::AdministrativeAction).await;
        expect_ended(&mut mallory_here, version, ReasonCode::AdministrativeAction).await;
        assert!(other.ping_barrier().await.is_empty());
        let meter = transient("meter", version, ALICE);
        assert_eq!(refused(&cluster, 1, &meter).await, Some(code));
        assert_eq!(refused(&cluster, 1, &mallory).await, Some(code));
        files.write("bans", "net:127.0.0.0/8\n");
        reload(&mut cluster, 1, RELOADED).await;
        expect_ended(&mut other, version, ReasonCode::AdministrativeAction).await;
        let nobody = ConnectOptions::transient("c", version);
        assert_eq!(refused(&cluster, 1, &nobody).await, Some(code));
    }
}

/// Who would not be let in any more is disconnected; the others do not notice.
#[tokio::test]
async fn a_reload_of_the_password_file_concerns_those_who_are_connected() {
    let files = Files::new();
    let carol = ("carol", "pencil");
    let name = "a_reload_of_the_password_file_concerns_those_who_are_connected";
    files.passwords(&[ALICE]);
    let auth = files.key("password_file", "passwd") + "anonymous = true";
    let mut cluster = cluster(name, 1, auth).await;
    for version in VERSIONS {
        files.passwords(&[ALICE]);
        files.add_password("bob", "pencil");
        files.add_password("carol", "pencil");
        reload(&mut cluster, 1, RELOADED).await;
        let mut alice = connected(&cluster, 1, &transient("a", version, ALICE)).await;
        let mut bob = connected(&cluster, 1, &transient("b", version, ("bob", "pencil"))).await;
        let mut carol_here = connected(&cluster, 1, &transient("c", version, carol)).await;
        let mut nobody = connected(&cluster, 1, &ConnectOptions::transient("n", version)).await;
        // Bob is gone, Carol has another password, Alice's line is as it was.
        let text = std::fs::read_to_string(files.path("passwd")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("bob:"));
        files.write(
            "passwd",
            &lines.map(|line| format!("{line}\n")).collect::<String>(),
        );
        files.add_password("carol", "ink");
        reload(&mut cluster, 1, RELOADED).await;
        expect_ended(&mut bob, version, ReasonCode::NotAuthorized).await;
        expect_ended(&mut carol_here, version, ReasonCode::NotAuthorized).await;
        assert!(alice.ping_barrier().await.is_empty());
        assert!(nobody.ping_barrier().await.is_empty());
        assert_eq!(
            refused(&cluster, 1, &transient("c", version, carol)).await,
            BAD
        );
        let options = transient("c", version, ("carol", "ink"));
        connected(&cluster, 1, &options).await.disconnect().await;
        // A file with a mistake changes nothing, and the log says where it is.
        files.write("passwd", "alice:pencil\n");
        reload(&mut cluster, 1, NOT_RELOADED).await;
        assert!(cluster.node_log(1).contains("passwd:1: expected USER:"));
        assert!(alice.ping_barrier().await.is_empty());
        connected(&cluster, 1, &options).await.disconnect().await;
    }
    let gone = [("reason", "credentials_revoked")];
    assert_eq!(
        counted(&cluster, 1, "holdfast_connections_closed_total", &gone).await,
        4.0
    );
}

/// At the most talkative level, with everything that is secret shown once right and once wrong.
#[tokio::test]
async fn no_secret_is_in_the_log() {
    let files = Files::new();
    files.passwords(&[("alice", "kT9-right-password")]);
    files.write("secret", SECRET);
    let auth = format!(
        "anonymous = false\n{}jwt = {{ {} }}\n",
        files.key("password_file", "passwd"),
        files.key("key_file", "secret").trim_end()
    );
    let options = ClusterOptions {
        nodes: 1,
        auth,
        log: "trace",
        ..options()
    };
    let mut cluster = Cluster::start("no_secret_is_in_the_log", options).await;
    let good = token(&json!({"sub": "alice", "exp": now_s() + 600}), SECRET);
    let bad = token(&json!({"sub": "alice", "exp": now_s() - 600}), SECRET);
    for version in VERSIONS {
        for password in ["kT9-right-password", &good] {
            let options = transient("c", version, ("alice", password));
            let mut client = connected(&cluster, 1, &options).await;
            client.publish_qos1(1, "t", "x").await;
            client.disconnect().await;
        }
        for password in ["kT9-wrong-password", &bad] {
            let options = transient("c", version, ("alice", password));
            assert_eq!(refused(&cluster, 1, &options).await, BAD);
        }
    }
    let line = std::fs::read_to_string(files.path("passwd")).unwrap();
    let hash = line.trim_end().rsplit('$').next().unwrap();
    files.write("passwd", "alice:kT9-plain-password\n");
    reload(&mut cluster, 1, NOT_RELOADED).await;
    cluster.terminate_and_wait(1).await;
    let log = std::fs::read_to_string(cluster.log_file(1)).unwrap();
    assert!(
        log.contains("\"DEBUG\"") && log.contains("token not taken"),
        "it is talkative"
    );
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for secret in ["kT9", SECRET, &signature(&good), &signature(&bad), hash] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn a_line_of_the_password_file_is_replaced() {
    let files = Files::new();
    files.passwords(&[ALICE, ("bob", "pencil"), ("alice", "ink")]);
    let text = std::fs::read_to_string(files.path("passwd")).unwrap();
    let users: Vec<&str> = text
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(users, ["alice", "bob"]);
    let printed = hash_password(&["--user", "carol"], "pencil");
    assert!(
        printed.starts_with("carol:$argon2id$v=19$m=19456,t=2,p=1$"),
        "{printed}"
    );
    assert!(hash_password(&[], "pencil").starts_with("$argon2id$"));
    assert!(hash_password(&["--scram", "--user", "d"], "x").starts_with("d:SCRAM-SHA-256$"));
}
