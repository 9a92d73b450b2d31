//! One connection, every packet of which is recorded: before it is written, after it was read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use codec::{Decoder, Packet, ProtocolVersion};
use testkit::NodeId;
use testkit::recording::{End, Recording, Step};
use testkit::wire::{decoder, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A node that is stopped still accepts connections; one that is dead refuses them.
const OPENED_WITHIN: Duration = Duration::from_secs(2);
/// Our writes are small: only a node that does not run lets them wait.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection that was taken over is watched.
const WATCHED_FOR: Duration = Duration::from_secs(40);
/// How long a broker may take to close after DISCONNECT.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Where a node's clients connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) node: NodeId,
    pub(crate) mqtt: SocketAddr,
}

/// Which connection of which client.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) client: Arc<str>,
    pub(crate) connection: u32,
    pub(crate) version: ProtocolVersion,
}

/// An open connection.
pub(crate) struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
    name: Name,
    recording: Recording,
}

impl Wire {
    /// Opens a connection; `None` when nobody accepts.
    pub(crate) async fn open(address: Address, name: Name, recording: &Recording) -> Option<Self> {
        let stream = timeout(OPENED_WITHIN, TcpStream::connect(address.mqtt)).await;
        let stream = stream.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let wire = Self {
            stream,
            decoder: decoder(name.version),
            buffer: BytesMut::new(),
            name,
            recording: recording.clone(),
        };
        wire.record(Step::Opened(address.node));
        Some(wire)
    }

    /// Sends a packet. That the peer is gone is noticed when reading.
    pub(crate) async fn send(&mut self, packet: Packet) {
        let bytes = encode(&packet, self.name.version);
        self.record(Step::Sent(Arc::new(packet)));
        drop(timeout(WRITTEN_WITHIN, self.stream.write_all(&bytes)).await);
    }

    /// The next packet. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn recv(&mut self) -> Result<Arc<Packet>, End> {
        let packet = self.next().await?;
        self.record(Step::Received(Arc::clone(&packet)));
        Ok(packet)
    }

    async fn next(&mut self) -> Result<Arc<Packet>, End> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(packet)) => return Ok(Arc::new(packet)),
                Ok(None) => {}
                Err(_) => return Err(End::Malformed),
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(End::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Closes the connection.
    pub(crate) fn end(self, end: End) {
        self.record(Step::Ended(end));
    }

    /// After DISCONNECT: waits for the broker to close. What it still sends, nobody reads.
    pub(crate) async fn disconnected(mut self) {
        let closed = timeout(CLOSED_WITHIN, async { while self.next().await.is_ok() {} }).await;
        let end = match closed {
            Ok(()) => End::Disconnected,
            Err(_) => End::Dropped,
        };
        self.end(end);
    }

    /// Leaves the connection to the broker, which has to close it once it is taken over.
    pub(crate) fn supersede(mut self) {
        self.record(Step::Ended(End::Superseded));
        drop(tokio::spawn(async move {
            let watch = async {
                while let Ok(packet) = self.next().await {
                    self.record(Step::Leftover(packet));
                }
                self.record(Step::LeftoverClosed);
            };
            // A node that is stopped for long closes nothing; the checker knows.
            drop(timeout(WATCHED_FOR, watch).await);
        }));
    }

    fn record(&self, step: Step) {
        let Name {
            client, connection, ..
        } = &self.name;
        self.recording.step(client, *connection, step);
    }
}
