//! MQTT over WebSocket, frame by frame (both versions of the standard, section 6).

use bytes::BytesMut;
use codec::{Decoder, Limits, Packet, ProtocolVersion, ReasonCode, encode};
use testkit::ports::Port;
use testkit::{Cluster, VERSIONS};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::rustls::version;

use super::{IN_TIME, expect_rejected, listener, node, tcp, tls, transient};

const BINARY: u8 = 0x2;
const TEXT: u8 = 0x1;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;

/// A client that writes each frame itself.
struct Frames<S>(S);

/// A client's stream of bytes over WebSocket, once it is open.
pub(super) async fn carried(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> DuplexStream {
    let (reader, writer) = tokio::io::split(Frames::open(stream).await.0);
    let (mut reader, mut writer) = (Frames(reader), Frames(writer));
    let (near, far) = tokio::io::duplex(4096);
    let (mut outgoing, mut incoming) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = outgoing.read(&mut bytes).await {
            if (writer.try_send(FINAL | BINARY, &bytes[..length]).await).is_err() {
                break;
            }
        }
        writer.0.shutdown().await.ok();
    });
    tokio::spawn(async move {
        while let Some((BINARY, bytes)) = reader.read_frame().await {
            if incoming.write_all(&bytes).await.is_err() {
                break;
            }
        }
        incoming.shutdown().await.ok();
    });
    near
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Asks for an upgrade; returns the answer's head.
    async fn upgrade(stream: S, path: &str, protocols: &str) -> (Self, String) {
        let mut this = Self(stream);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocols}\r\n"
        );
        this.0.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(this.0.read_u8().await.unwrap());
        }
        (this, String::from_utf8(head).unwrap())
    }

    async fn open(stream: S) -> Self {
        let (this, head) = Self::upgrade(stream, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        this
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.try_send(first, payload).await.unwrap();
    }

    /// Sends a frame that fits into one byte of length, or two.
    async fn try_send(&mut self, first: u8, payload: &[u8]) -> std::io::Result<()> {
        let mask = [0xA5, 0x5A, 0x0F, 0xF0];
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend(mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, key)| byte ^ key));
        self.0.write_all(&frame).await?;
        self.0.flush().await
    }
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// The next frame: opcode and payload; `None`: the connection is closed.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        tokio::time::timeout(IN_TIME, self.read_frame())
            .await
            .expect("a frame comes in time")
    }

    async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await.ok()?;
        let length = self.0.read_u8().await.ok()?;
        assert_eq!(first & 0xF0, FINAL, "the broker sends whole messages");
        let length = match length {
            126 => usize::from(self.0.read_u16().await.ok()?),
            127 => usize::try_from(self.0.read_u64().await.ok()?).unwrap(),
            // A server masks nothing.
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((first & 0x0F, payload))
    }

    /// The next packet, all of whose frames are binary [MQTT-6.0.0-1].
    async fn packet(&mut self, version: ProtocolVersion) -> Packet {
        let mut decoder = Decoder::from_server(version, limits());
        let mut input = BytesMut::new();
        loop {
            let (opcode, payload) = self.next().await.expect("a packet comes");
            assert_eq!(opcode, BINARY);
            input.extend_from_slice(&payload);
            if let Some(packet) = decoder.decode(&mut input).unwrap() {
                assert!(input.is_empty(), "one packet was asked for");
                return packet;
            }
        }
    }

    async fn expect_connack(&mut self, version: ProtocolVersion) {
        match self.packet(version).await {
            Packet::Connack(connack) => assert_eq!(connack.reason_code, ReasonCode::Success),
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    /// A close frame with this code, then the end.
    async fn expect_closed(&mut self, code: u16) {
        let close = self.next().await;
        assert_eq!(close, Some((CLOSE, code.to_be_bytes().to_vec())));
        assert_eq!(self.next().await, None);
    }
}

fn limits() -> Limits {
    Limits {
        packet_bytes_max: 2 << 20,
        ..Limits::default()
    }
}

fn bytes(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).unwrap();
    bytes.to_vec()
}

fn connect(version: ProtocolVersion) -> Vec<u8> {
    let mut options = transient("websocket");
    options.version = version;
    bytes(&Packet::Connect(Box::new(options.packet())), version)
}

async fn ws(name: &'static str) -> (Cluster, Port) {
    let port = Port::reserve();
    let cluster = node(name, listener("ws", &port, "")).await;
    (cluster, port)
}

/// [MQTT-6.0.0-4]
#[tokio::test]
async fn the_subprotocol_is_mqtt() {
    let (cluster, port) = ws("the_subprotocol_is_mqtt").await;
    for (path, protocols) in [
        ("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n"),
        ("/", "Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n"),
        (
            "/mqtt?a=b",
            "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n",
        ),
    ] {
        let (mut frames, head) = Frames::upgrade(tcp(port.address()).await, path, protocols).await;
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
        // The answer to the key in RFC 6455, section 1.3.
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
            "{head}"
        );
        frames.send(FINAL | BINARY, &connect(VERSIONS[1])).await;
        frames.expect_connack(VERSIONS[1]).await;
    }
    // [MQTT-6.0.0-3] binds the client; what it asks for otherwise is not MQTT.
    for ((path, protocols, status), times) in [
        ("/mqtt", "", "400"),
        ("/mqtt", "Sec-WebSocket-Protocol: chat\r\n", "400"),
        ("/chat", "Sec-WebSocket-Protocol: mqtt\r\n", "404"),
        (
            "/mqtt",
            "Connection: close\r\nSec-WebSocket-Key: x\r\n",
            "400",
        ),
    ]
    .into_iter()
    .zip(1..)
    {
        let (_, head) = Frames::upgrade(tcp(port.address()).await, path, protocols).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        expect_rejected(&cluster, "ws", "websocket", times).await;
    }
}

/// Any page may open a WebSocket to this host: its author is no client on loopback.
#[tokio::test]
async fn a_page_from_elsewhere_is_not_let_in_as_a_client_on_this_host() {
    let (_cluster, port) = ws("a_page_from_elsewhere_is_not_let_in_as_a_client_on_this_host").await;
    let version = ProtocolVersion::V5;
    for (host, expected) in [
        ("localhost:3000", ReasonCode::Success),
        ("127.0.0.1", ReasonCode::Success),
        ("[::1]:80", ReasonCode::Success),
        ("example.com", ReasonCode::NotAuthorized),
        ("localhost.example.com", ReasonCode::NotAuthorized),
    ] {
        let headers = format!("Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://{host}\r\n");
        let stream = tcp(port.address()).await;
        let (mut frames, head) = Frames::upgrade(stream, "/mqtt", &headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        frames.send(FINAL | BINARY, &connect(version)).await;
        match frames.packet(version).await {
            Packet::Connack(connack) => assert_eq!(connack.reason_code, expected, "{host}"),
            other => panic!("{other:?} instead of CONNACK"),
        }
    }
}

/// [MQTT-6.0.0-1]
#[tokio::test]
async fn a_frame_that_is_not_binary_closes_the_connection() {
    let (_cluster, port) = ws("a_frame_that_is_not_binary_closes_the_connection").await;
    for version in VERSIONS {
        let mut first = Frames::open(tcp(port.address()).await).await;
        first.send(FINAL | TEXT, &connect(version)).await;
        first.expect_closed(1003).await;

        let mut later = Frames::open(tcp(port.address()).await).await;
        later.send(FINAL | BINARY, &connect(version)).await;
        later.expect_connack(version).await;
        later
            .send(FINAL | TEXT, &bytes(&Packet::Pingreq, version))
            .await;
        later.expect_closed(1003).await;
    }
}

/// [MQTT-6.0.0-2]
#[tokio::test]
async fn packets_need_not_align_with_frames() {
    let (_cluster, port) = ws("packets_need_not_align_with_frames").await;
    for version in VERSIONS {
        let mut frames = Frames::open(tcp(port.address()).await).await;
        // One packet over three messages, the second of which is fragmented, with a ping within.
        let connect = connect(version);
        let (first, rest) = connect.split_at(3);
        let (second, third) = rest.split_at(rest.len() / 2);
        frames.send(FINAL | BINARY, first).await;
        frames.send(BINARY, &second[..1]).await;
        frames.send(FINAL | PING, b"between").await;
        frames.send(CONTINUATION, b"").await;
        frames.send(FINAL | CONTINUATION, &second[1..]).await;
        frames.send(FINAL | BINARY, third).await;
        assert_eq!(frames.next().await, Some((PONG, b"between".to_vec())));
        frames.expect_connack(version).await;
        // Two packets and a part of the third in one message.
        let ping = bytes(&Packet::Pingreq, version);
        let three = [ping.as_slice(), &ping, &ping[..1]].concat();
        frames.send(FINAL | BINARY, &three).await;
        let mut answers = Vec::new();
        while answers.len() < 4 {
            let (opcode, payload) = frames.next().await.unwrap();
            assert_eq!(opcode, BINARY);
            answers.extend(payload);
        }
        assert_eq!(answers, [0xD0, 0, 0xD0, 0]);
        frames.send(FINAL | BINARY, &ping[1..]).await;
        assert_eq!(frames.packet(version).await, Packet::Pingresp);
        // The client's close is answered by one.
        frames.send(FINAL | CLOSE, &1000_u16.to_be_bytes()).await;
        frames.expect_closed(1000).await;
    }
}

/// A message larger than every buffer passes, in both directions, over TLS as well.
#[tokio::test]
async fn large_messages_pass_over_websockets() {
    let folder = tempfile::tempdir().unwrap();
    let (files, ports) = (
        tls::Files::new(folder.path()),
        [Port::reserve(), Port::reserve()],
    );
    let [ws, wss] = &ports;
    let lines = [
        listener("ws", ws, ""),
        listener("wss", wss, &files.server()),
    ];
    let name = "large_messages_pass_over_websockets";
    let _cluster = node(name, lines.concat()).await;
    let connector = tls::connector(&files.authority, None, &[&version::TLS13]);
    let encrypted = tls::encrypt(&connector, tcp(wss.address()).await, "localhost").await;
    let mut subscriber = Frames::open(encrypted.unwrap()).await;
    let mut publisher = Frames::open(tcp(ws.address()).await).await;
    let version = ProtocolVersion::V311;
    let connect = |client_id: &str| {
        let mut options = transient(client_id);
        options.version = version;
        bytes(&Packet::Connect(Box::new(options.packet())), version)
    };
    subscriber
        .send(FINAL | BINARY, &connect("subscriber"))
        .await;
    subscriber.expect_connack(version).await;
    publisher.send(FINAL | BINARY, &connect("publisher")).await;
    publisher.expect_connack(version).await;
    // SUBSCRIBE to `t` at QoS 1 with id 1.
    subscriber
        .send(FINAL | BINARY, &[0x82, 6, 0, 1, 0, 1, b't', 1])
        .await;
    assert!(matches!(
        subscriber.packet(version).await,
        Packet::Suback(_)
    ));
    // PUBLISH to `t` at QoS 1 with id 7 and 900,000 bytes of payload, in frames of 60,000.
    let payload: Vec<u8> = (0..900_000_u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    let length = payload.len() + 5;
    let low = |shift: usize| u8::try_from((length >> shift) & 0x7F).unwrap();
    let head = [
        0x32,
        low(0) | 0x80,
        low(7) | 0x80,
        low(14),
        0,
        1,
        b't',
        0,
        7,
    ];
    let publish = [head.as_slice(), &payload].concat();
    for piece in publish.chunks(60_000) {
        publisher.send(FINAL | BINARY, piece).await;
    }
    match subscriber.packet(version).await {
        Packet::Publish(publish) => assert!(publish.payload == payload),
        other => panic!("{:?} instead of PUBLISH", other.packet_type()),
    }
    assert!(
        matches!(publisher.packet(version).await, Packet::Puback(ack) if ack.packet_id.get() == 7)
    );
}
