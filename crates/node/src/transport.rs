//! From an accepted socket to bytes of MQTT: PROXY header, TLS, WebSocket.
//!
//! All of it happens in the connection's own task, within `mqtt.connect_timeout` counted from the
//! accept, so that a slow or hostile client delays nobody else.

mod certificate;
mod frames;
mod proxy;
mod stream;
mod tls;
mod websocket;

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::Origin;
use crate::config::{IdentityFrom, ListenerConfig, ListenerKind};

pub(crate) use stream::{Reader, Transport, Writer};
use tls::ListenerCertificate;
pub(crate) use tls::{CheckedCertificates, TlsStore, check_certificates};
use websocket::WebSocket;

/// Encrypted bytes that wait for a socket before no more is taken.
const TLS_BYTES_MAX: usize = 32 * 1024;

/// A socket as the system gave it.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
}

/// What a listener does with a socket before MQTT begins.
#[derive(Debug)]
pub(crate) struct Gate {
    kind: ListenerKind,
    proxied: bool,
    certificate: Option<Arc<ListenerCertificate>>,
    identity_from: IdentityFrom,
}

/// Why a socket did not get as far as MQTT.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// For the metric.
    pub(crate) reason: &'static str,
    /// For the log.
    pub(crate) error: io::Error,
}

impl Gate {
    /// The gate of a listener.
    pub(crate) fn new(config: &ListenerConfig, tls: &TlsStore) -> Self {
        Self {
            kind: config.kind,
            proxied: config.proxy_protocol,
            certificate: tls.listener(&config.name),
            identity_from: config.identity_from,
        }
    }

    /// Takes a client as far as MQTT. `origin` learns who it is.
    ///
    /// # Errors
    /// [`Refusal`]: it did not do what this listener wants.
    pub(crate) async fn open(
        &self,
        socket: Accepted,
        origin: &mut Origin,
    ) -> Result<Transport, Refusal> {
        match socket {
            Accepted::Tcp(stream) if !self.proxied && self.kind == ListenerKind::Mqtt => {
                Ok(Transport::Tcp(stream))
            }
            // Large, and gone when the connection begins.
            Accepted::Tcp(stream) => Box::pin(self.open_tcp(stream, origin)).await,
            Accepted::Unix(mut stream) => {
                self.read_announcement(&mut stream, origin).await?;
                Ok(Transport::Unix(stream))
            }
        }
    }

    async fn open_tcp(
        &self,
        mut stream: TcpStream,
        origin: &mut Origin,
    ) -> Result<Transport, Refusal> {
        self.read_announcement(&mut stream, origin).await?;
        Ok(match self.kind {
            ListenerKind::Mqtt | ListenerKind::Unix => Transport::Tcp(stream),
            ListenerKind::Mqtts => Transport::Tls(Box::new(self.encrypt(stream, origin).await?)),
            ListenerKind::Ws => Transport::Ws(Box::new(self.upgrade(stream, origin).await?)),
            ListenerKind::Wss => {
                let encrypted = self.encrypt(stream, origin).await?;
                Transport::Wss(Box::new(self.upgrade(encrypted, origin).await?))
            }
        })
    }

    /// Reads the header in which a proxy says whom it speaks for.
    async fn read_announcement(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        origin: &mut Origin,
    ) -> Result<(), Refusal> {
        if !self.proxied {
            return Ok(());
        }
        let announced = proxy::read_header(stream)
            .await
            .map_err(|error| refusal("proxy_protocol", error))?;
        if let Some(address) = announced.address {
            origin.address = address;
            origin.is_local &= address.ip().is_loopback();
        }
        if self.identity_from == IdentityFrom::CertificateCn {
            origin.certificate_identity = announced.common_name.map(Into::into);
        }
        Ok(())
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
        origin: &mut Origin,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let failed = |error| refusal("tls", error);
        let Some(certificate) = &self.certificate else {
            return Err(failed(io::Error::other("this listener has no certificate")));
        };
        let mut stream = TlsAcceptor::from(certificate.current())
            .accept(stream)
            .await
            .map_err(failed)?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BYTES_MAX));
        let shown = stream.get_ref().1.peer_certificates();
        if let Some(shown) = shown.and_then(<[_]>::first)
            && self.identity_from != IdentityFrom::Username
        {
            // Without a name it would be free to choose any in CONNECT.
            let identity = certificate::identity(shown, self.identity_from).map_err(failed)?;
            origin.certificate_identity = Some(identity.into());
        }
        Ok(stream)
    }

    async fn upgrade<S>(&self, stream: S, origin: &mut Origin) -> Result<WebSocket<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let upgraded = websocket::accept(stream)
            .await
            .map_err(|error| refusal("websocket", error))?;
        origin.is_local &= !upgraded.is_of_foreign_page();
        Ok(upgraded)
    }
}

fn refusal(reason: &'static str, error: io::Error) -> Refusal {
    Refusal { reason, error }
}
