//! Accept loops: one per listener.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::client::Origin;
use crate::config::{AnonymousAccess, ListenerConfig};
use crate::connect;
use crate::count;
use crate::error::StartError;

/// Pause after the system refused a socket (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    config: ListenerConfig,
}

impl Listener {
    /// Binds a listener.
    ///
    /// # Errors
    /// The address is taken or not of this host.
    pub(crate) async fn bind(key: String, config: ListenerConfig) -> Result<Self, StartError> {
        let socket = TcpListener::bind(config.bind)
            .await
            .map_err(|error| StartError::bind(key, config.bind, error))?;
        let address = socket.local_addr().unwrap_or(config.bind);
        tracing::info!(listener = config.name, %address, "listening");
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
        let anonymous = match broker.config.auth.anonymous {
            AnonymousAccess::Loopback => self.config.bind.ip().is_loopback(),
            AnonymousAccess::Always => true,
            AnonymousAccess::Never => false,
        };
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
            let broker = Arc::clone(&broker);
            let origin = Origin {
                address,
                since: Instant::now(),
                listener: Arc::clone(&name),
                anonymous,
            };
            connections.spawn(async move {
                serve(broker, stream, origin).await;
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

async fn serve(broker: Arc<Broker>, stream: TcpStream, origin: Origin) {
    // Acknowledgements are small and must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(address = %origin.address, %error, "TCP_NODELAY");
    }
    connect::accept(broker, stream, origin).await;
}
