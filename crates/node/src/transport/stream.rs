//! What a connection reads and writes, whatever is below. Plain TCP has its own path, without a lock
//! or a further layer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::server::TlsStream;

use super::websocket::WebSocket;

/// A connection's bytes of MQTT.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Kind `mqtt`.
    Tcp(TcpStream),
    /// Kind `unix`.
    Unix(UnixStream),
    /// Kind `mqtts`.
    Tls(Box<TlsStream<TcpStream>>),
    /// Kind `ws`.
    Ws(Box<WebSocket<TcpStream>>),
    /// Kind `wss`.
    Wss(Box<WebSocket<TlsStream<TcpStream>>>),
}

impl Transport {
    /// Both directions.
    pub(crate) fn into_split(self) -> (Reader, Writer) {
        let (reader, half) = match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Half::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Unix(reader), Half::Unix(writer))
            }
            Self::Tls(stream) => layered(Layered::Tls(stream)),
            Self::Ws(stream) => layered(Layered::Ws(stream)),
            Self::Wss(stream) => layered(Layered::Wss(stream)),
        };
        let writer = Writer {
            half,
            is_unflushed: false,
        };
        (reader, writer)
    }
}

fn layered(stream: Layered) -> (Reader, Half) {
    let (reader, writer) = split(stream);
    (Reader::Layered(reader), Half::Layered(writer))
}

/// From the client.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Plain TCP.
    Tcp(tcp::OwnedReadHalf),
    /// A Unix domain socket.
    Unix(unix::OwnedReadHalf),
    /// TLS, WebSocket, or both.
    Layered(ReadHalf<Layered>),
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(context, buffer),
            Self::Unix(half) => Pin::new(half).poll_read(context, buffer),
            Self::Layered(half) => Pin::new(half).poll_read(context, buffer),
        }
    }
}

/// To the client.
#[derive(Debug)]
pub(crate) struct Writer {
    half: Half,
    /// A layer took bytes that the socket may not have taken.
    is_unflushed: bool,
}

#[derive(Debug)]
enum Half {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Layered(WriteHalf<Layered>),
}

impl Writer {
    /// A layer took bytes that the socket may not have taken: to be flushed.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.is_unflushed
    }

    /// Writes some of `output`, or else flushes what was written before. Cancel-safe.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn write(&mut self, output: &mut bytes::BytesMut) -> io::Result<usize> {
        if output.is_empty() {
            self.flush().await?;
            return Ok(0);
        }
        match self.write_buf(output).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &mut this.half {
            Half::Tcp(half) => Pin::new(half).poll_write(context, bytes),
            Half::Unix(half) => Pin::new(half).poll_write(context, bytes),
            Half::Layered(half) => {
                let written = Pin::new(half).poll_write(context, bytes);
                this.is_unflushed |= written.is_ready();
                written
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.half {
            Half::Tcp(half) => Pin::new(half).poll_flush(context),
            Half::Unix(half) => Pin::new(half).poll_flush(context),
            Half::Layered(half) => Pin::new(half).poll_flush(context),
        };
        this.is_unflushed &= flushed.is_pending();
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().half {
            Half::Tcp(half) => Pin::new(half).poll_shutdown(context),
            Half::Unix(half) => Pin::new(half).poll_shutdown(context),
            Half::Layered(half) => Pin::new(half).poll_shutdown(context),
        }
    }
}

/// Layers above a socket.
#[derive(Debug)]
pub(crate) enum Layered {
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket.
    Ws(Box<WebSocket<TcpStream>>),
    /// WebSocket over TLS.
    Wss(Box<WebSocket<TlsStream<TcpStream>>>),
}

impl AsyncRead for Layered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Ws(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Wss(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Layered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Ws(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Wss(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Ws(stream) => Pin::new(stream).poll_flush(context),
            Self::Wss(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Ws(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Wss(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
