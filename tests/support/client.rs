//! A raw MQTT client: it does nothing by itself, and every packet goes through the test's hands and
//! into its history. It reads from the socket only when asked to.

mod steps;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use codec::{Connack, Decoder, Disconnect, Packet, ProtocolVersion, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use steps::{Delivery, Outgoing, delivery, is_acknowledgement, is_unsuback};

use crate::connect::{ConnectError, ConnectOptions};
use crate::history::{Direction, History};
use crate::summary::summary;
use crate::wire;

/// How long a client waits for a packet that must come. Longer than any election.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client tries to connect: all nodes may be restarting.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
/// How long one attempt to connect waits for CONNACK.
const CONNACK_WITHIN: Duration = Duration::from_secs(10);
/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// A peer that does not read for this long will not read.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecvError {
    /// The connection is closed: by FIN, reset or a dead peer.
    Closed,
    /// Nothing came in time.
    Silent,
    /// What came is not MQTT.
    Malformed(String),
}

/// What a client's packets are carried by.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug> Carrier for T {}

/// One connection of one client.
#[derive(Debug)]
pub struct Client {
    stream: Box<dyn Carrier>,
    peer: SocketAddr,
    read_buffer: BytesMut,
    decoder: Decoder,
    version: ProtocolVersion,
    name: Arc<str>,
    history: History,
    connack: Connack,
    connected_at: std::time::Instant,
    control_packet_id: u16,
}

impl Client {
    /// Opens a network connection and sends nothing.
    ///
    /// # Errors
    /// When TCP refuses.
    pub async fn open(
        address: SocketAddr,
        name: &str,
        version: ProtocolVersion,
        history: &History,
    ) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| ConnectError::Closed(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| ConnectError::Closed(error.to_string()))?;
        Ok(Self::over(stream, address, (name, version), history))
    }

    /// A client on a connection to `peer` that is open already, over whatever.
    #[must_use]
    pub fn over(
        stream: impl Carrier + 'static,
        peer: SocketAddr,
        (name, version): (&str, ProtocolVersion),
        history: &History,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            peer,
            read_buffer: BytesMut::new(),
            decoder: wire::decoder(version),
            version,
            name: Arc::from(format!("{name}@{}", peer.port())),
            history: history.clone(),
            connack: Connack::default(),
            connected_at: std::time::Instant::now(),
            // Away from the ids that tests give their own publishes.
            control_packet_id: 60_000,
        }
    }

    /// Opens, sends CONNECT, waits for CONNACK.
    ///
    /// # Errors
    /// When there is no CONNACK with success.
    ///
    /// # Panics
    /// When another packet comes.
    pub async fn connect(
        address: SocketAddr,
        options: &ConnectOptions,
        history: &History,
    ) -> Result<Self, ConnectError> {
        let client = Self::open(address, &options.client_id, options.version, history).await?;
        client.introduce(options).await
    }

    /// Sends CONNECT, waits for CONNACK.
    ///
    /// # Errors
    /// When there is no CONNACK with success.
    ///
    /// # Panics
    /// When another packet comes.
    pub async fn introduce(mut self, options: &ConnectOptions) -> Result<Self, ConnectError> {
        self.send(&Packet::Connect(Box::new(options.packet())))
            .await;
        match self.recv_within(CONNACK_WITHIN).await {
            Ok(Packet::Connack(connack)) if connack.reason_code == ReasonCode::Success => {
                self.connack = *connack;
                self.connected_at = std::time::Instant::now();
                Ok(self)
            }
            Ok(Packet::Connack(connack)) => Err(ConnectError::Refused(connack)),
            Ok(other) => panic!("{}: {} instead of CONNACK", self.name, summary(&other)),
            Err(RecvError::Silent) => Err(ConnectError::Silent(CONNACK_WITHIN)),
            Err(error) => Err(ConnectError::Closed(format!("{error:?}"))),
        }
    }

    /// Connects to the first of `addresses` that accepts, trying all in turn.
    ///
    /// # Panics
    /// When none accepts in time.
    pub async fn connect_any(
        addresses: &[SocketAddr],
        options: &ConnectOptions,
        history: &History,
    ) -> Self {
        let deadline = Instant::now() + CONNECTED_WITHIN;
        for address in addresses.iter().cycle() {
            match Self::connect(*address, options, history).await {
                Ok(client) => return client,
                Err(error) => {
                    history.note(format!("{} at {address}: {error:?}", options.client_id));
                    assert!(
                        Instant::now() < deadline,
                        "{} can't connect: {error:?}",
                        options.client_id
                    );
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        panic!("{} was given no address", options.client_id)
    }

    /// CONNACK.
    #[must_use]
    pub fn connack(&self) -> &Connack {
        &self.connack
    }

    /// The port of the node it is connected to.
    #[must_use]
    pub fn peer_port(&self) -> u16 {
        self.peer.port()
    }

    /// When CONNACK was read.
    #[must_use]
    pub fn connected_at(&self) -> std::time::Instant {
        self.connected_at
    }

    /// CONNACK's Session Present.
    #[must_use]
    pub fn session_present(&self) -> bool {
        self.connack.session_present
    }

    /// Sends a packet. A peer that is gone is noticed when reading, as a real client would.
    pub async fn send(&mut self, packet: &Packet) {
        self.history
            .record(&self.name, Direction::Sent, summary(packet));
        self.write(&wire::encode(packet, self.version)).await;
    }

    /// Sends bytes, legal or not.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.history
            .record(&self.name, Direction::Sent, format!("{bytes:02X?}"));
        self.write(bytes).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        match tokio::time::timeout(WRITE_WITHIN, self.write_all(bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.history
                    .record(&self.name, Direction::Note, format!("not written: {error}"))
            }
            Err(_) => self.history.record(
                &self.name,
                Direction::Note,
                "not written: the peer does not read".into(),
            ),
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next packet, within [`PATIENCE`].
    ///
    /// # Errors
    /// When there is none.
    pub async fn recv(&mut self) -> Result<Packet, RecvError> {
        self.recv_within(PATIENCE).await
    }

    /// The next packet, within `limit`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn recv_within(&mut self, limit: Duration) -> Result<Packet, RecvError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(packet);
            }
            let read = timeout_at(deadline, self.stream.read_buf(&mut self.read_buffer)).await;
            match read {
                Err(_) => return Err(RecvError::Silent),
                Ok(Ok(0) | Err(_)) => {
                    self.history
                        .record(&self.name, Direction::Received, "closed".into());
                    return Err(RecvError::Closed);
                }
                Ok(Ok(_)) => {}
            }
        }
    }

    fn take_packet(&mut self) -> Result<Option<Packet>, RecvError> {
        let decoded = self.decoder.decode(&mut self.read_buffer);
        let packet = decoded.map_err(|error| RecvError::Malformed(error.to_string()))?;
        if let Some(packet) = &packet {
            self.history
                .record(&self.name, Direction::Received, summary(packet));
        }
        Ok(packet)
    }

    /// Receives until a packet satisfies `last`; returns those before it.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn recv_until(&mut self, what: &str, last: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let mut before = Vec::new();
        loop {
            match self.recv().await {
                Ok(packet) if last(&packet) => return before,
                Ok(packet) => before.push(packet),
                Err(error) => panic!("{}: {error:?} instead of {what}", self.name),
            }
        }
    }

    /// Receives until the connection is closed; returns what came before.
    ///
    /// # Panics
    /// When it is not closed within `limit`.
    pub async fn expect_closed(&mut self, limit: Duration) -> Vec<Packet> {
        let deadline = Instant::now() + limit;
        let mut before = Vec::new();
        loop {
            match self
                .recv_within(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(packet) => before.push(packet),
                Err(RecvError::Closed) => return before,
                Err(error) => panic!(
                    "{}: {error:?} instead of the close within {limit:?}",
                    self.name
                ),
            }
        }
    }

    /// Sends DISCONNECT and closes.
    pub async fn disconnect(mut self) {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))
            .await;
        self.half_close().await;
    }

    /// Closes our half of the connection (FIN); reading goes on.
    pub async fn half_close(&mut self) {
        self.history
            .record(&self.name, Direction::Note, "FIN".into());
        // A peer that is gone needs no FIN.
        self.stream.shutdown().await.ok();
    }

    /// Closes the connection without DISCONNECT.
    pub fn abandon(self) {
        self.history.record(
            &self.name,
            Direction::Note,
            "closes without DISCONNECT".into(),
        );
    }
}
