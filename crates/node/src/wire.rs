//! A client's socket with its buffers, before and while a connection is served.

use std::time::Duration;

use bytes::BytesMut;
use codec::{Decoder, Packet, ProtocolVersion, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a last packet may take to reach the socket before it is closed.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// The socket with its buffers.
#[derive(Debug)]
pub(crate) struct Wire {
    /// From the client.
    pub(crate) reader: OwnedReadHalf,
    /// To the client.
    pub(crate) writer: OwnedWriteHalf,
    /// What was read and is not decoded yet.
    pub(crate) input: BytesMut,
    /// What waits for the socket.
    pub(crate) output: BytesMut,
    /// Bytes to packets.
    pub(crate) decoder: Decoder,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, decoder: Decoder) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            decoder,
        }
    }

    /// Appends a packet to what waits for the socket.
    pub(crate) fn send(&mut self, packet: &Packet, version: ProtocolVersion) {
        if let Err(error) = encode(packet, version, &mut self.output) {
            tracing::error!(%error, packet = ?packet.packet_type(), "packet not encoded");
        }
    }

    /// Waits for the first packet. `None`: the client closed the connection.
    ///
    /// # Errors
    /// What it sent is not a packet.
    pub(crate) async fn first_packet(&mut self) -> Result<Option<Packet>, codec::DecodeError> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input)? {
                return Ok(Some(packet));
            }
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// The client has closed the connection already. What it sent before is kept.
    pub(crate) fn is_gone(&mut self) -> bool {
        match self.reader.try_read_buf(&mut self.input) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Writes what waits and closes the socket, within a bounded time.
    pub(crate) async fn farewell(mut self) {
        let write = async {
            self.writer.write_all_buf(&mut self.output).await?;
            self.writer.shutdown().await
        };
        // The client may be gone; then there is nobody to tell.
        drop(timeout(FAREWELL_TIMEOUT, write).await);
    }
}
