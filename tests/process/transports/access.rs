//! Who may do what, by every way of authentication and every kind of rule, each good and bad, over TCP,
//! TLS, WebSocket and both: the answers are the same over all of them, and in both versions.

use std::net::Ipv4Addr;

use codec::{Connect, Packet, ProtocolVersion, Qos, ReasonCode};
use serde_json::json;
use testkit::certificates::{Authority, Subject};
use testkit::client::Carrier;
use testkit::connect::ConnectError;
use testkit::ports::Port;
use testkit::{Client, Cluster, ConnectOptions, Outgoing, VERSIONS};
use tokio::net::TcpSocket;

use super::tls::{BOTH, connector, encrypt};
use super::{listener, node_with, tls, websocket};
use crate::access::{Files, hash_password, transient, with_user};
use crate::acl::{delivered, denied, publish_each_way, suback, with_will};
use crate::authentication::{self, Scram};
use crate::credentials::{SECRET, now_s, token};

const ALICE: (&str, &str) = ("alice", "pencil");
const RULES: &str = r##"
[[acl]]
who = "all"
deny = ["subscribe"]
topics = ["of/+/secret"]
[[acl]]
who = "user:root"
allow = ["publish", "subscribe"]
topics = ["#"]
[[acl]]
who = "user:*"
allow = ["publish", "subscribe"]
topics = ["of/%u/#"]
"##;

/// A node with a listener of each kind, and one of both TLS kinds that wants certificates.
struct Place {
    cluster: Cluster,
    listeners: Vec<(Port, Over)>,
    authority: Authority,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    kind: &'static str,
    is_encrypted: bool,
    is_websocket: bool,
    wants_certificate: bool,
    place: u8,
}

impl Over {
    fn new(place: u8, kind: &'static str, wants_certificate: bool) -> Self {
        Self {
            place,
            kind,
            is_encrypted: matches!(kind, "mqtts" | "wss"),
            is_websocket: matches!(kind, "ws" | "wss"),
            wants_certificate,
        }
    }
}

impl Place {
    async fn new(name: &'static str, files: &Files) -> Self {
        let folder = files.path(".");
        let certificates = tls::Files::new(&folder);
        let mut lines = String::new();
        let mut listeners = Vec::new();
        for (place, (kind, wants_certificate)) in (1..).zip([
            ("mqtt", false),
            ("mqtts", false),
            ("ws", false),
            ("wss", false),
            ("mqtts", true),
            ("wss", true),
        ]) {
            let over = Over::new(place, kind, wants_certificate);
            let port = Port::reserve();
            let keys = match (over.is_encrypted, wants_certificate) {
                (false, _) => String::new(),
                (true, false) => certificates.server(),
                (true, true) => certificates.mutual("required", "cert_cn"),
            };
            let text = listener(kind, &port, &keys);
            let named = format!("name = \"{kind}-{wants_certificate}\"");
            lines += &text.replace(&format!("name = \"{kind}\""), &named);
            listeners.push((port, over));
        }
        for user in ["alice", "bob", "root"] {
            files.add_password(user, "pencil");
        }
        files.write("secret", SECRET);
        files.write(
            "scram",
            &hash_password(&["--scram", "--user", "sam"], "pencil"),
        );
        let auth = format!(
            "anonymous = false\n{}{}jwt = {{ {} }}\n{RULES}",
            files.key("password_file", "passwd"),
            files.key("scram_file", "scram"),
            files.key("key_file", "secret").trim_end(),
        );
        Self {
            cluster: node_with(name, lines, &auth).await,
            listeners,
            authority: certificates.authority,
        }
    }

    fn listeners(&self, want_certificate: bool) -> impl Iterator<Item = &(Port, Over)> {
        let wanted = move |(_, over): &&(Port, Over)| over.wants_certificate == want_certificate;
        self.listeners.iter().filter(wanted)
    }

    /// Opens a connection, by a client with a certificate for this name, and says nothing on it yet.
    async fn open(
        &self,
        (port, over): &(Port, Over),
        common_name: Option<&str>,
        (client_id, version): (&str, ProtocolVersion),
    ) -> Client {
        // From another address for each: failed logins are counted by it.
        let source = Ipv4Addr::new(127, 0, u8::from(version == ProtocolVersion::V5), over.place);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let tcp = socket.connect(port.address()).await.unwrap();
        let mut carrier: Box<dyn Carrier> = if over.is_encrypted {
            let identity = common_name.map(|name| self.authority.issue(&Subject::new(name)));
            let connector = connector(&self.authority, identity, &BOTH);
            Box::new(encrypt(&connector, tcp, "localhost").await.unwrap())
        } else {
            Box::new(tcp)
        };
        if over.is_websocket {
            carrier = Box::new(websocket::carried(carrier).await);
        }
        let named = (client_id, version);
        Client::over(carrier, port.address(), named, self.cluster.history())
    }

    async fn connect(
        &self,
        listener: &(Port, Over),
        options: &ConnectOptions,
    ) -> Result<Client, ConnectError> {
        let named = (options.client_id.as_str(), options.version);
        let client = self.open(listener, None, named).await;
        client.introduce(options).await
    }

    async fn connected(&self, listener: &(Port, Over), options: &ConnectOptions) -> Client {
        let connected = self.connect(listener, options).await;
        connected.unwrap_or_else(|error| panic!("{:?}: {error:?}", listener.1))
    }

    async fn refused(&self, listener: &(Port, Over), options: &ConnectOptions) -> ReasonCode {
        let refused = self.connect(listener, options).await.unwrap_err();
        let code = refused.reason_code();
        code.unwrap_or_else(|| panic!("{:?}: {refused:?}", listener.1))
    }
}

impl Place {
    /// By password and by token, as users of whom nobody else is one: failed logins are counted by name.
    async fn log_in(&self, listener: &(Port, Over), version: ProtocolVersion) {
        let name = |of: &str| format!("{of}-{}-{version:?}", listener.1.kind);
        let [user, sub, id, bad_id] = ["user", "sub", "id", "bad"].map(name);
        let signed = |end_s: u64, secret| token(&json!({"sub": sub, "exp": end_s}), secret);
        let good = signed(now_s() + 600, SECRET);
        let forged = signed(now_s() + 600, "another secret of thirty-two bytes!");
        let expired = signed(now_s() - 60, SECRET);
        for credentials in [(user.as_str(), "pencil"), (&sub, &good)] {
            let id = format!("{id}-{}", credentials.0);
            let options = transient(&id, version, credentials);
            self.connected(listener, &options).await.disconnect().await;
        }
        for credentials in [
            (user.as_str(), "ink"),
            ("nobody", "pencil"),
            (&sub, &forged),
            (&sub, &expired),
            (&user, &good),
        ] {
            let options = transient(&bad_id, version, credentials);
            let code = self.refused(listener, &options).await;
            let bad = ReasonCode::BadUserNameOrPassword;
            assert_eq!(code, bad, "{:?} {credentials:?}", listener.1);
        }
        let nothing = ConnectOptions::transient(bad_id.as_str(), version);
        let code = self.refused(listener, &nothing).await;
        assert_eq!(code, ReasonCode::NotAuthorized, "{:?}", listener.1);
    }
}

#[tokio::test]
async fn every_way_to_log_in_is_the_same_over_every_transport() {
    let files = Files::new();
    let name = "every_way_to_log_in_is_the_same_over_every_transport";
    for kind in ["mqtt", "mqtts", "ws", "wss"] {
        for version in VERSIONS {
            files.add_password(&format!("user-{kind}-{version:?}"), "pencil");
        }
    }
    let place = Place::new(name, &files).await;
    for listener in place.listeners(false) {
        for version in VERSIONS {
            place.log_in(listener, version).await;
        }
        for (password, expected) in [
            ("pencil", ReasonCode::Success),
            ("ink", ReasonCode::NotAuthorized),
        ] {
            let mut scram = Scram::new("sam", password);
            let id = format!("sam-{}", listener.1.kind);
            let connect: Connect = authentication::connect(&id, Some(scram.step(None)));
            let mut client = place.open(listener, None, (&id, ProtocolVersion::V5)).await;
            let connack = authentication::exchange(&mut client, connect, scram).await;
            assert_eq!(connack.reason_code, expected, "{:?}", listener.1);
        }
    }
}

#[tokio::test]
async fn a_certificate_names_its_user_over_every_transport() {
    let files = Files::new();
    let name = "a_certificate_names_its_user_over_every_transport";
    let place = Place::new(name, &files).await;
    for listener in place.listeners(true) {
        for version in VERSIONS {
            let id = format!("cert-{}-{version:?}", listener.1.kind);
            // The certificate counts, whatever else is claimed.
            let options = transient(&id, version, ("root", "pencil"));
            let client = place.open(listener, Some("carol"), (&id, version)).await;
            let mut client = client.introduce(&options).await.unwrap();
            assert_eq!(
                suback(&mut client, "of/carol/#").await,
                ReasonCode::GrantedQos1
            );
            assert_eq!(suback(&mut client, "of/root/#").await, denied(version));
            client.disconnect().await;
        }
    }
}

impl Place {
    /// Bob does not get at the session of Alice that stays; a will is what may be published.
    async fn sessions_and_wills(
        &self,
        listener: &(Port, Over),
        (id, version): (&str, ProtocolVersion),
        root: &mut Client,
    ) {
        let bob = ConnectOptions::transient(id, version).credentials("bob", "pencil");
        let code = self.refused(listener, &bob).await;
        assert_eq!(code, ReasonCode::NotAuthorized);
        let alice = with_user(ConnectOptions::persistent(id, version), ALICE);
        let alice = self.connected(listener, &alice).await;
        assert!(alice.session_present());
        let code = self.refused(listener, &bob).await;
        assert_eq!(code, ReasonCode::NotAuthorized);
        drop(alice);

        let will_id = format!("will-{}-{version:?}", listener.1.kind);
        let options = transient(&will_id, version, ALICE);
        let not_allowed = with_will(options.clone(), "of/bob/will");
        let code = self.refused(listener, &not_allowed).await;
        assert_eq!(code, ReasonCode::NotAuthorized);
        let allowed = with_will(options, "of/alice/will");
        drop(self.connected(listener, &allowed).await);
        assert_eq!(root.expect_publish().await.topic, "of/alice/will");
    }
}

/// Publish, subscribe, will, retained messages, shared subscriptions, and the session of another user.
#[tokio::test]
async fn every_rule_is_the_same_over_every_transport() {
    let files = Files::new();
    let name = "every_rule_is_the_same_over_every_transport";
    let place = Place::new(name, &files).await;
    let root = transient("root", ProtocolVersion::V5, ("root", "pencil"));
    let sender = transient("sender", ProtocolVersion::V5, ("root", "pencil"));
    let mut root = place.connected(&place.listeners[0], &root).await;
    let mut sender = place.connected(&place.listeners[0], &sender).await;
    for topic in ["of/alice/kept", "of/alice/secret"] {
        let outgoing = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic,
            payload: "kept",
        };
        let mut retained = outgoing.packet();
        retained.retain = true;
        sender.send(&Packet::Publish(retained)).await;
        sender.expect_puback(1).await;
    }
    root.subscribe("#", Qos::AtMostOnce).await;
    assert_eq!(root.expect_publish().await.topic, "of/alice/kept");
    assert_eq!(delivered(&mut root).await, Vec::<String>::new());
    for listener in place.listeners(false) {
        for version in VERSIONS {
            let id = format!("alice-{}-{version:?}", listener.1.kind);
            let options = with_user(ConnectOptions::persistent(id.as_str(), version), ALICE);
            let mut alice = place.connected(listener, &options).await;
            for (filter, granted) in [
                ("$share/g/of/alice/x", true),
                ("of/bob/#", false),
                ("of/alice/secret", false),
                ("$share/g/of/bob/x", false),
                ("#", false),
                ("of/alice/#", true),
            ] {
                let expected = if granted {
                    ReasonCode::GrantedQos1
                } else {
                    denied(version)
                };
                let code = suback(&mut alice, filter).await;
                assert_eq!(code, expected, "{:?} {filter}", listener.1);
            }
            assert_eq!(alice.take_message().await.topic, "of/alice/kept");
            assert_eq!(delivered(&mut alice).await, Vec::<String>::new());

            let (puback, pubrec) = publish_each_way(&mut alice, "of/bob/x").await;
            let is_told = version == ProtocolVersion::V5;
            assert_eq!((puback.is_error(), pubrec.is_error()), (is_told, is_told));
            assert_eq!(delivered(&mut root).await, Vec::<String>::new());
            sender.publish_qos1(2, "of/alice/secret", "x").await;
            sender.publish_qos1(3, "of/alice/y", "x").await;
            assert_eq!(alice.take_message().await.topic, "of/alice/y");
            assert_eq!(delivered(&mut alice).await, Vec::<String>::new());
            assert_eq!(delivered(&mut root).await, ["of/alice/y"]);

            alice.disconnect().await;
            place
                .sessions_and_wills(listener, (&id, version), &mut root)
                .await;
        }
    }
}
