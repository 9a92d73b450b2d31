//! PROXY headers: the address counts that they tell, and nobody gets in without one.

use codec::ReasonCode;
use testkit::certificates::Authority;
use testkit::connect::ConnectError;
use testkit::ports::Port;
use testkit::{Client, Cluster};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::rustls::version;

use super::{expect_rejected, listener, node, node_with, tcp, tls, transient};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for IPv4 over TCP, from `source` to 10.0.0.1:1883.
fn version_2(command: u8, source: [u8; 4], fields: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, 0x11]);
    header.extend(u16::try_from(12 + fields.len()).unwrap().to_be_bytes());
    header.extend(source);
    header.extend([10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5B]);
    header.extend(fields);
    header
}

/// The field of a client certificate that the proxy has verified.
fn certificate(common_name: &str) -> Vec<u8> {
    let mut value = vec![0x07, 0, 0, 0, 0];
    value.extend(field(0x22, common_name.as_bytes()));
    field(0x20, &value)
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![kind];
    field.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    field.extend(value);
    field
}

/// Connects behind a header.
async fn connect(cluster: &Cluster, port: &Port, header: &[u8]) -> Result<Client, ConnectError> {
    let mut stream = tcp(port.address()).await;
    stream.write_all(header).await.unwrap();
    let options = transient("proxied");
    let named = ("proxied", options.version);
    Client::over(stream, port.address(), named, cluster.history())
        .introduce(&options)
        .await
}

fn is_refused(result: Result<Client, ConnectError>) -> bool {
    matches!(result, Err(ConnectError::Refused(connack)) if connack.reason_code == ReasonCode::NotAuthorized)
}

/// `anonymous = "loopback"` looks at the client and not at the proxy, which is on this host.
#[tokio::test]
async fn the_announced_address_is_the_clients() {
    let port = Port::reserve();
    let name = "the_announced_address_is_the_clients";
    let lines = "proxy_protocol = \"v1v2\"";
    let cluster = node(name, listener("mqtt", &port, lines)).await;
    for here in [
        b"PROXY TCP4 127.0.0.9 10.0.0.1 12345 1883\r\n".to_vec(),
        b"PROXY TCP6 ::1 ::1 12345 1883\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        version_2(0x21, [127, 0, 0, 9], &[]),
        version_2(0x20, [192, 0, 2, 7], &[]),
    ] {
        let client = connect(&cluster, &port, &here).await;
        client.unwrap_or_else(|error| panic!("{here:02X?}: {error:?}"));
    }
    for elsewhere in [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 1883\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::7 ::1 12345 1883\r\n".to_vec(),
        version_2(0x21, [192, 0, 2, 7], &[]),
        // A name in a certificate counts only where the listener says so.
        version_2(0x21, [192, 0, 2, 7], &certificate("alice")),
    ] {
        assert!(is_refused(connect(&cluster, &port, &elsewhere).await));
    }
    assert!(cluster.node_log(1).contains("192.0.2.7:12345"));
    assert!(cluster.node_log(1).contains("[2001:db8::7]:12345"));
}

#[tokio::test]
async fn without_a_header_nobody_gets_in() {
    let port = Port::reserve();
    let name = "without_a_header_nobody_gets_in";
    let lines = "proxy_protocol = \"v1v2\"";
    let cluster = node(name, listener("mqtt", &port, lines)).await;
    let mut datagram = version_2(0x21, [127, 0, 0, 1], &[]);
    datagram[13] = 0x12;
    let garbage = [
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"PROXY TCP4 localhost localhost 1 2\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'9'; 300]].concat(),
        version_2(0x31, [127, 0, 0, 1], &[]),
        datagram,
    ];
    for (header, times) in garbage.iter().zip(1..) {
        let refused = connect(&cluster, &port, header).await;
        assert!(
            matches!(refused, Err(ConnectError::Closed(_))),
            "{header:02X?}"
        );
        expect_rejected(&cluster, "mqtt", "proxy_protocol", times).await;
    }
}

#[tokio::test]
async fn a_certificate_that_the_proxy_has_verified_says_who_it_is() {
    let port = Port::reserve();
    let name = "a_certificate_that_the_proxy_has_verified_says_who_it_is";
    let lines = "proxy_protocol = \"v1v2\"\nidentity_from = \"cert_cn\"";
    let cluster = node_with(name, listener("mqtt", &port, lines), "anonymous = false").await;
    let header = |fields: &[u8]| version_2(0x21, [192, 0, 2, 7], fields);
    let shown = header(&certificate("alice"));
    connect(&cluster, &port, &shown).await.unwrap();
    let mut unverified = certificate("alice");
    unverified[7] = 1;
    for fields in [Vec::new(), unverified] {
        assert!(is_refused(connect(&cluster, &port, &header(&fields)).await));
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (tls::Files::new(folder.path()), Port::reserve());
    let lines = format!("{}proxy_protocol = \"v1v2\"\n", files.server());
    let name = "the_header_comes_before_tls";
    let cluster = node(name, listener("mqtts", &port, &lines)).await;
    let connect = async |authority: &Authority, header: &[u8]| {
        let mut stream = tcp(port.address()).await;
        stream.write_all(header).await.unwrap();
        let connector = tls::connector(authority, None, &[&version::TLS13]);
        tls::encrypt(&connector, stream, "localhost").await
    };
    let header = version_2(0x21, [127, 0, 0, 1], &[]);
    let stream = connect(&files.authority, &header).await.unwrap();
    let options = transient("both");
    let named = ("both", options.version);
    let client = Client::over(stream, port.address(), named, cluster.history());
    client.introduce(&options).await.unwrap();
    assert!(connect(&files.authority, b"").await.is_err());
    expect_rejected(&cluster, "mqtts", "proxy_protocol", 1).await;
}
