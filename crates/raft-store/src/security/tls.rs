//! Mutual TLS between nodes, with certificates that can be replaced while it runs.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A node's certificate and whom it trusts, for connections to come.
#[derive(Clone, Debug)]
pub struct PeerTls(Arc<RwLock<Current>>);

#[derive(Clone, Debug)]
struct Current {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl PeerTls {
    /// `server` must demand a certificate of the client, and `client` must have one.
    #[must_use]
    pub fn new(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Self {
        Self(Arc::new(RwLock::new(Current { server, client })))
    }

    /// Connections from now on use these; open ones stay as they are.
    pub fn replace(&self, server: Arc<ServerConfig>, client: Arc<ClientConfig>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current { server, client };
    }

    fn current(&self) -> Current {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// # Errors
    /// `InvalidData`: the client's certificate is not accepted. Any other: the connection broke.
    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current().server);
        Ok(acceptor.accept(socket).await?.into())
    }

    /// # Errors
    /// `InvalidData`: the certificate of the server at `host` is not accepted. Any other: the
    /// connection broke.
    pub(super) async fn connect(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.current().client);
        Ok(connector.connect(name, socket).await?.into())
    }
}
