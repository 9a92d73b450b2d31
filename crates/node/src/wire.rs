//! A client's socket with its buffers, before and while a connection is served.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use codec::{Decoder, Packet, ProtocolVersion, ReasonCode, encode};
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::budget::{Budget, Share};
use crate::count::{self, PacketCounts};
use crate::transport::{Reader, Transport, Writer};

/// How long a last packet may take to reach the socket before it is closed.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes that one call takes from a socket at most.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a CONNECT that are read although the node's memory for buffers is used up.
const CONNECT_BYTES_FULL_MAX: usize = 4 * 1024;

thread_local! {
    /// Where sockets are read into: one per thread, so that a connection that is silent has no
    /// buffer, and one that is busy takes all that has arrived with one call.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// Appends what has arrived to `input`, at most `max` bytes (above 0); 0 bytes: the client closed the
/// connection. Cancel-safe.
pub(crate) async fn read(
    reader: &mut Reader,
    input: &mut BytesMut,
    max: usize,
) -> io::Result<usize> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            let mut arrived = scratch.take(max);
            match Pin::new(&mut *reader).poll_read(context, &mut arrived) {
                Poll::Ready(Ok(())) => {
                    input.extend_from_slice(arrived.filled());
                    Poll::Ready(Ok(arrived.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
    })
    .await
}

/// Writes what waits. An emptied buffer is given back: it may be large, and nothing may follow for
/// long. Cancel-safe.
pub(crate) async fn write(writer: &mut Writer, output: &mut BytesMut) -> io::Result<usize> {
    let written = writer.write(output).await?;
    if output.is_empty() {
        *output = BytesMut::new();
    }
    Ok(written)
}

/// The socket with its buffers.
#[derive(Debug)]
pub(crate) struct Wire {
    /// From the client.
    pub(crate) reader: Reader,
    /// To the client.
    pub(crate) writer: Writer,
    /// What was read and is not decoded yet.
    pub(crate) input: BytesMut,
    /// What waits for the socket.
    pub(crate) output: BytesMut,
    /// Packets appended by `send` that nobody has counted.
    pub(crate) packets_sent: PacketCounts,
    /// Bytes to packets.
    pub(crate) decoder: Decoder,
    /// What the buffers hold of the node's memory for such.
    share: Share,
}

impl Wire {
    pub(crate) fn new(transport: Transport, decoder: Decoder, budget: &Arc<Budget>) -> Self {
        let (reader, writer) = transport.into_split();
        Self {
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            packets_sent: PacketCounts::default(),
            decoder,
            share: Share::new(budget),
        }
    }

    /// Counts what the buffers hold. Returns how much that is.
    pub(crate) fn count(&mut self) -> usize {
        let bytes = self.input.len().saturating_add(self.output.len());
        self.share.set(bytes);
        bytes
    }

    /// Appends a packet to what waits for the socket.
    pub(crate) fn send(&mut self, packet: &Packet, version: ProtocolVersion) {
        match encode(packet, version, &mut self.output) {
            Ok(()) => {
                self.packets_sent.add(packet.packet_type());
                count_reason_codes(packet);
            }
            Err(error) => {
                tracing::error!(%error, packet = ?packet.packet_type(), "packet not encoded");
            }
        }
    }

    /// Waits for a packet of a client that has no CONNACK yet. `None`: the client closed the connection,
    /// or the node has no memory for more of it.
    ///
    /// # Errors
    /// What it sent is not a packet.
    pub(crate) async fn next_packet(&mut self) -> Result<Option<Packet>, codec::DecodeError> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input)? {
                return Ok(Some(packet));
            }
            match read(&mut self.reader, &mut self.input, READ_BYTES_MAX).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
            if self.has_no_memory() {
                return Ok(None);
            }
        }
    }

    /// Writes what waits, while nothing is read.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all_buf(&mut self.output).await?;
        self.writer.flush().await
    }

    /// Something waits for the socket.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty() || self.writer.is_unflushed()
    }

    /// The node has no memory for more of a first packet.
    pub(crate) fn has_no_memory(&mut self) -> bool {
        self.count() > CONNECT_BYTES_FULL_MAX && self.share.budget().is_full()
    }

    /// The client has closed the connection already. What it sent before is kept.
    pub(crate) fn is_gone(&mut self) -> bool {
        let read = read(&mut self.reader, &mut self.input, READ_BYTES_MAX).now_or_never();
        matches!(read, Some(Ok(0) | Err(_)))
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

/// Reason codes that tell more than that all is well.
fn count_reason_codes(packet: &Packet) {
    let told = |code: ReasonCode| count::reason_code_sent(packet.packet_type(), code);
    let told_if_error = |code: ReasonCode| {
        if code.is_error() {
            told(code);
        }
    };
    match packet {
        Packet::Connack(connack) => told(connack.reason_code),
        Packet::Disconnect(disconnect) => told(disconnect.reason_code),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            told_if_error(ack.reason_code);
        }
        Packet::Suback(suback) => suback.reason_codes.iter().copied().for_each(told_if_error),
        Packet::Unsuback(unsuback) => {
            unsuback
                .reason_codes
                .iter()
                .copied()
                .for_each(told_if_error);
        }
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::Pingreq
        | Packet::Pingresp
        | Packet::Auth(_) => {}
    }
}
