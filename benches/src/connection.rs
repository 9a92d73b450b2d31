//! A client's socket: bytes in and out in large pieces, packets by `codec`.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use codec::{Connack, Connect, Decoder, Limits, Packet, ProtocolVersion, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to accept a connection and to answer CONNECT.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_BYTES: usize = 32 * 1_024;
/// What an idle connection keeps room for.
const IDLE_BYTES: usize = 512;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
    /// What is to be sent; goes out with [`poll_flush`](Self::poll_flush).
    pub output: Output,
}

/// Packets that wait to be sent.
#[derive(Debug)]
pub struct Output {
    version: ProtocolVersion,
    /// As they go out.
    pub bytes: BytesMut,
}

impl Output {
    /// Nothing yet.
    #[must_use]
    pub fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            bytes: BytesMut::with_capacity(IDLE_BYTES),
        }
    }

    /// Appends a packet.
    pub fn push(&mut self, packet: &Packet) {
        let encoded = encode(packet, self.version, &mut self.bytes);
        debug_assert!(encoded.is_ok(), "only legal packets are built here");
    }
}

impl Connection {
    /// Connects and waits for the CONNACK.
    ///
    /// # Errors
    /// No connection, no answer in time, or a refusal.
    pub async fn open(endpoint: SocketAddr, connect: &Connect) -> io::Result<(Self, Connack)> {
        timeout(CONNECT_MAX, Self::open_now(endpoint, connect))
            .await
            .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK"))?
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other packet is a mistake of the server"
    )]
    async fn open_now(endpoint: SocketAddr, connect: &Connect) -> io::Result<(Self, Connack)> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let limits = Limits {
            packet_bytes_max: 256 << 20,
            ..Limits::default()
        };
        let mut connection = Self {
            stream,
            decoder: Decoder::from_server(connect.version, limits),
            input: BytesMut::with_capacity(IDLE_BYTES),
            output: Output::new(connect.version),
        };
        connection
            .output
            .push(&Packet::Connect(Box::new(connect.clone())));
        connection.flush().await?;
        match connection.receive().await? {
            Packet::Connack(connack) if connack.reason_code.is_error() => {
                Err(refused(format!("CONNACK {:?}", connack.reason_code)))
            }
            Packet::Connack(connack) => Ok((connection, *connack)),
            other => Err(refused(format!("{} for CONNACK", other.packet_type()))),
        }
    }

    /// Sends all output.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.output.bytes.is_empty() {
            self.stream.write_buf(&mut self.output.bytes).await?;
        }
        Ok(())
    }

    /// The next packet, waiting for it.
    ///
    /// # Errors
    /// The connection is gone, or sent what is no packet.
    pub async fn receive(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next packet of what was read.
    ///
    /// # Errors
    /// Not a packet.
    pub fn next_packet(&mut self) -> io::Result<Option<Packet>> {
        self.decoder
            .decode(&mut self.input)
            .map_err(|error| refused(error.to_string()))
    }

    /// Reads what there is. A read that does not fill the buffer tells the runtime that nothing is
    /// left, so a wake-up costs one system call.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.input.capacity() - self.input.len() < IDLE_BYTES {
            self.input.reserve(READ_BYTES);
        }
        pin!(self.stream.read_buf(&mut self.input))
            .poll(cx)
            .map(|read| match read? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            })
    }

    /// Writes until nothing is left or the socket is full.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.bytes.is_empty() {
            match pin!(self.stream.write_buf(&mut self.output.bytes)).poll(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The server broke the protocol or refused.
pub(crate) fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
