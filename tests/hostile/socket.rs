//! A client without manners: it writes bytes, and tells in words what came back.

use std::net::SocketAddr;
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::let_pass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::notation::Scene;
use crate::received;

/// Until an answer, or the close, must have come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    unread: Vec<u8>,
    version: ProtocolVersion,
}

/// What came next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Came {
    /// A packet, in words.
    Packet(String),
    /// The broker closed the connection.
    Closed,
    /// Nothing, in time.
    Nothing,
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr, version: ProtocolVersion) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the broker listens");
        stream.set_nodelay(true).expect("a socket has this option");
        Self {
            stream,
            unread: Vec::new(),
            version,
        }
    }

    /// Opens and connects with Clean Start, and this Keep Alive.
    pub(crate) async fn connect(
        address: SocketAddr,
        version: ProtocolVersion,
        (client_id, keep_alive_s): (&str, u16),
    ) -> Self {
        let scene = Scene { version, client_id };
        let notation = format!("10 | s'MQTT' LEVEL 02 {keep_alive_s:04X} {{}} ID");
        let connect = scene.bytes(&notation);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut socket = Self::open(address, version).await;
            socket.write(&connect).await;
            match socket.next(PATIENCE).await {
                Came::Packet(words) if words == "CONNACK 0x00" => return socket,
                // A node that cannot reach the others for a moment says so, on a busy machine.
                Came::Packet(words) if is_unavailable(&words) && Instant::now() < deadline => {}
                other => panic!("{client_id}: {other:?} instead of CONNACK"),
            }
            let_pass(RETRY_AFTER).await;
        }
    }

    /// Writes; a broker that has closed, or that does not read, is noticed when reading.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.write_within(bytes, PATIENCE).await
    }

    /// The same with a limit; says whether all was taken.
    pub(crate) async fn write_within(&mut self, bytes: &[u8], limit: Duration) -> bool {
        matches!(
            timeout(limit, self.stream.write_all(bytes)).await,
            Ok(Ok(()))
        )
    }

    /// Closes our half of the connection.
    pub(crate) async fn finish(&mut self) {
        // The broker may have been faster.
        self.stream.shutdown().await.ok();
    }

    /// The next packet, or the end, or nothing within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Came {
        let deadline = Instant::now() + limit;
        let is_v5 = self.version == ProtocolVersion::V5;
        loop {
            if let Some((words, bytes)) = received::packet(&self.unread, is_v5) {
                self.unread.drain(..bytes);
                return Came::Packet(words);
            }
            let read = timeout_at(deadline, self.stream.read_buf(&mut self.unread)).await;
            match read {
                Err(_) => return Came::Nothing,
                Ok(Ok(0) | Err(_)) => return Came::Closed,
                Ok(Ok(_)) => {}
            }
        }
    }

    /// All that comes until the connection is closed: `DISCONNECT 0x81; closed`.
    pub(crate) async fn until_closed(&mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut words = Vec::new();
        loop {
            match self
                .next(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Came::Packet(packet) => words.push(packet),
                Came::Closed => words.push("closed".to_owned()),
                Came::Nothing => words.push(format!("nothing more in {limit:?}")),
            }
            if !words
                .last()
                .is_some_and(|last| last.starts_with(char::is_uppercase))
            {
                return words.join("; ");
            }
        }
    }

    /// All that comes before the answer to a PINGREQ, and at least so many packets:
    /// `PUBCOMP id=7; open`.
    pub(crate) async fn until_ping(&mut self, (pings, packets): (usize, usize)) -> String {
        self.write(&[0xC0, 0x00]).await;
        let (mut words, mut pings_seen) = (Vec::new(), 0);
        while pings_seen <= pings || words.len() < packets + 1 {
            match self.next(PATIENCE).await {
                Came::Packet(packet) => {
                    pings_seen += usize::from(packet == "PINGRESP");
                    words.push(packet);
                }
                Came::Closed => return joined(words, "closed"),
                Came::Nothing => return joined(words, "nothing more"),
            }
        }
        let last = words.iter().rposition(|word| word == "PINGRESP");
        last.map(|at| words.remove(at));
        joined(words, "open")
    }
}

/// CONNACK of a node that does not serve at the moment, in 3.1.1 or in 5.0.
pub(crate) fn is_unavailable(words: &str) -> bool {
    ["CONNACK 0x03", "CONNACK 0x88"].contains(&words)
}

fn joined(mut words: Vec<String>, last: &str) -> String {
    words.push(last.to_owned());
    words.join("; ")
}
