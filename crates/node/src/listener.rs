//! Accept loops: one per listener.

mod socket;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::client::Origin;
use crate::config::ListenerConfig;
use crate::connect;
use crate::count;
use crate::error::StartError;
use crate::transport::{Accepted, Gate, Refusal};

use socket::Socket;

/// Pause after the system refused a socket (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The address of a client on a Unix socket, which has none: it is on this host.
const UNIX_CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    config: ListenerConfig,
}

impl Listener {
    /// Binds a listener.
    ///
    /// # Errors
    /// The address is taken or not of this host; the file is there and is no socket of a dead node.
    pub(crate) async fn bind(key: String, config: ListenerConfig) -> Result<Self, StartError> {
        let socket = Socket::bind(&config.bind)
            .await
            .map_err(|error| StartError::bind(key, &config.bind, error))?;
        let address = socket.address(&config.bind);
        tracing::info!(listener = config.name, kind = ?config.kind, %address, "listening");
        Ok(Self { socket, config })
    }

    /// How to open it again.
    pub(crate) fn again(&self) -> Reopening {
        Reopening(self.config.clone())
    }

    /// Accepts until `stop`; each connection is a task of `connections`.
    pub(crate) async fn run(
        self,
        broker: Arc<Broker>,
        connections: TaskTracker,
        stop: CancellationToken,
    ) {
        let max = usize::try_from(self.config.max_connections).unwrap_or(usize::MAX);
        let slots = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        let is_local = self.config.bind.is_loopback();
        let gate = Arc::new(Gate::new(&self.config, &broker.tls));
        let name: Arc<str> = self.config.name.as_str().into();
        while let Some(accepted) = stop.run_until_cancelled(self.socket.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = self.config.name, %error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                count::connection_rejected(&name, "max_connections");
                continue;
            };
            let (broker, gate) = (Arc::clone(&broker), Arc::clone(&gate));
            let origin = Origin {
                address: address.unwrap_or(UNIX_CLIENT),
                since: std::time::Instant::now(),
                listener: Arc::clone(&name),
                is_local,
                certificate_identity: None,
            };
            connections.spawn(async move {
                serve(broker, &gate, stream, origin).await;
                drop(slot);
            });
        }
    }
}

/// A listener that is closed for a while.
#[derive(Debug)]
pub(crate) struct Reopening(ListenerConfig);

impl Reopening {
    /// Opens it.
    ///
    /// # Errors
    /// The address is taken by now.
    pub(crate) async fn bind(&self) -> Result<Listener, StartError> {
        let name = format!("the address of listener {}", self.0.name);
        Listener::bind(name, self.0.clone()).await
    }
}

async fn serve(broker: Arc<Broker>, gate: &Gate, socket: Accepted, mut origin: Origin) {
    if let Accepted::Tcp(stream) = &socket {
        set_nodelay(stream, origin.address);
    }
    let deadline = Instant::now() + broker.config.mqtt.connect_timeout;
    match timeout_at(deadline, gate.open(socket, &mut origin)).await {
        Ok(Ok(transport)) => connect::accept(broker, transport, origin, deadline).await,
        Ok(Err(refusal)) => refuse(&origin, refusal),
        Err(_elapsed) => {
            tracing::debug!(address = %origin.address, "no handshake in time");
            count::connection_rejected(&origin.listener, "connect_timeout");
        }
    }
}

fn refuse(origin: &Origin, refusal: Refusal) {
    let Refusal { reason, error } = refusal;
    let (address, listener) = (origin.address, &origin.listener);
    if error.kind() == std::io::ErrorKind::InvalidData {
        tracing::info!(listener = %listener, %address, reason, %error, "connection refused");
    } else {
        // It went away: a port scanner, or a balancer that looks whether the port is open.
        tracing::debug!(listener = %listener, %address, reason, %error, "connection ended early");
    }
    count::connection_rejected(listener, reason);
}

/// Acknowledgements are small and must not wait for more.
fn set_nodelay(stream: &TcpStream, address: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY");
    }
}
