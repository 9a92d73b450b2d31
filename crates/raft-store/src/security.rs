//! How nodes make sure of each other: in the clear, by a shared secret, or by mutual TLS.
//!
//! All of it happens once per connection, before its first call, on both sides: a stranger never
//! gets as far as gRPC. The calls name cluster and node besides, and are refused by that
//! ([`crate::RaftService`]).
//!
//! Invariants:
//! - A handshake has [`HANDSHAKE_TIMEOUT`], and at most [`HANDSHAKES_MAX`] are under way.
//! - Whoever is refused is counted, and logged once a minute.

mod refusals;
mod secret;
mod tls;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint};

pub use refusals::refuse_peer;
pub use secret::PeerSecret;
pub use tls::PeerTls;

/// How long a peer may take to show who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes under way at once; further connections wait to be accepted.
const HANDSHAKES_MAX: usize = 64;
/// Pause after the system refused a socket (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection to a peer may take, its handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a node and its peers make sure of each other.
#[derive(Clone, Debug, Default)]
pub enum PeerSecurity {
    /// Not at all: only for a network that nobody else reaches.
    #[default]
    Open,
    /// Both know the secret. What follows is neither encrypted nor signed.
    Secret(PeerSecret),
    /// Both have a certificate of the cluster's authority.
    Tls(PeerTls),
}

impl PeerSecurity {
    /// A channel that connects when first used, and again when broken.
    pub(crate) fn channel(&self, endpoint: Endpoint) -> Channel {
        match self {
            Self::Open => endpoint.connect_lazy(),
            Self::Secret(_) | Self::Tls(_) => endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .connect_with_connector_lazy(Connector(self.clone())),
        }
    }

    async fn accept(&self, socket: TcpStream) -> io::Result<PeerIo> {
        match self {
            Self::Open => Ok(PeerIo::Tcp(socket)),
            Self::Secret(secret) => secret.accept(socket).await.map(PeerIo::Tcp),
            Self::Tls(tls) => Ok(PeerIo::Tls(Box::new(tls.accept(socket).await?))),
        }
    }

    async fn connect(&self, uri: &Uri) -> io::Result<PeerIo> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
        socket.set_nodelay(true)?;
        let secured = match self {
            Self::Open => return Ok(PeerIo::Tcp(socket)),
            Self::Secret(secret) => secret.connect(socket).await.map(PeerIo::Tcp),
            Self::Tls(tls) => tls
                .connect(host, socket)
                .await
                .map(|stream| PeerIo::Tls(Box::new(stream))),
        };
        secured.inspect_err(|error| self.report(host, error))
    }

    /// Counts and logs whoever failed to show who it is. One that went away has not: it may have
    /// been stopped.
    fn report(&self, peer: &str, error: &io::Error) {
        if error.kind() != io::ErrorKind::InvalidData {
            tracing::debug!(peer, %error, "a peer went away during the handshake");
            return;
        }
        let reason = match self {
            Self::Open => return,
            Self::Secret(_) => "secret",
            Self::Tls(_) => "tls",
        };
        refuse_peer(peer, reason, &error.to_string());
    }
}

/// The connections of a listening socket whose other side has shown who it is, for a server from
/// [`crate::server_builder`].
pub fn incoming(
    listener: TcpListener,
    security: PeerSecurity,
) -> impl Stream<Item = io::Result<PeerIo>> + Send {
    let sockets = stream::unfold(listener, |listener| async move {
        Some((listener.accept().await, listener))
    });
    let secured = sockets.map(move |accepted| {
        let security = security.clone();
        async move {
            match accepted {
                Ok((socket, address)) => secured(&security, socket, address.ip()).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        }
    });
    secured
        .buffer_unordered(HANDSHAKES_MAX)
        .filter_map(|stream| std::future::ready(stream.map(Ok)))
}

async fn secured(
    security: &PeerSecurity,
    socket: TcpStream,
    address: std::net::IpAddr,
) -> Option<PeerIo> {
    // tonic sets no option on sockets that it did not open: without this, small messages wait up to
    // 40 ms for the delayed acknowledgement of the ones before.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY");
    }
    match timeout(HANDSHAKE_TIMEOUT, security.accept(socket)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            security.report(&address.to_string(), &error);
            None
        }
        Err(_elapsed) => {
            refuse_peer(&address.to_string(), "timeout", "no handshake in time");
            None
        }
    }
}

/// Opens connections for tonic.
#[derive(Clone)]
struct Connector(PeerSecurity);

impl Service<Uri> for Connector {
    type Response = TokioIo<PeerIo>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let security = self.0.clone();
        Box::pin(async move { security.connect(&uri).await.map(TokioIo::new) })
    }
}

/// A connection between nodes.
#[derive(Debug)]
pub enum PeerIo {
    /// In the clear.
    Tcp(TcpStream),
    /// Encrypted.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Connected for PeerIo {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Self::Tcp(socket) => socket.connect_info(),
            Self::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
