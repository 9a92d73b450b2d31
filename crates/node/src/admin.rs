//! The HTTP port: health and metrics for programs, `/api/v1` for operators.
//!
//! Any node answers about the whole cluster; a node that it cannot ask is named in the answer. Who may
//! do what is in `guard`, every route in `route`. Bounds: [`CONNECTIONS_MAX`] connections, each closed
//! after [`IDLE_MAX`] of silence; a request may take 30 s, its body and each page have limits.

mod alerts;
mod clients;
mod connection;
mod cursor;
mod guard;
mod members;
mod probes;
mod problem;
mod publish;
mod request;
mod retained;
mod route;
mod sessions;
mod settings;
mod stream;
mod subscriptions;
mod token;
mod walk;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::settings::Reload;
pub use self::token::{TokenFileError, Tokens};

use self::connection::{BoundedListener, Remote};
use self::guard::Guard;
use self::problem::Problem;
use self::settings::Reloads;
use crate::broker::Broker;
use crate::config::{AdminConfig, Entry};
use crate::error::StartError;
use crate::events;
use crate::health::Health;
use crate::metrics::Exporter;
use crate::query::Cluster;

/// Connections served at once; further ones wait in the listen backlog.
const CONNECTIONS_MAX: usize = 64;
/// A connection that sends nothing this long is closed. Longer than the usual scrape interval.
const IDLE_MAX: Duration = Duration::from_secs(75);

/// The bound admin port. Bind it early, so that a taken port stops the start; serve it as soon as
/// there is a [`Health`], so that probes see the start-up.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    guard: Arc<Guard>,
}

/// What the handlers answer from.
struct Answers {
    health: Arc<Health>,
    exporter: Exporter,
    guard: Arc<Guard>,
    /// The configuration that the node was started with.
    entries: Vec<Entry>,
    /// Once the node has started.
    cluster: OnceLock<Cluster>,
    reloads: Reloads,
    /// Room for those who listen to events.
    listeners: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Answers {
    fn cluster(&self) -> Result<&Cluster, Problem> {
        let cluster = self.cluster.get();
        cluster.ok_or_else(|| Problem::unavailable("the node is starting"))
    }
}

/// The port while it is served.
pub struct Serving {
    answers: Arc<Answers>,
    /// Join it after the stop to know that the port is free again.
    pub task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl Admin {
    /// Reads the tokens, binds the port and logs where; port 0 takes any free one.
    ///
    /// # Errors
    /// [`StartError::Bind`] when the address is taken or not ours, [`StartError::Tokens`] when the file
    /// of tokens is wrong.
    pub async fn bind(config: &AdminConfig) -> Result<Self, StartError> {
        let guard = Arc::new(Guard::new(config)?);
        let failed = |source| StartError::bind("admin.bind", config.bind, source);
        let listener = TcpListener::bind(config.bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(listener = "admin", %address, "listening");
        Ok(Self {
            listener,
            address,
            guard,
        })
    }

    /// The address in force, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled; about the cluster from [`Serving::attach`] on.
    pub fn serve(
        self,
        (health, exporter): (Arc<Health>, Exporter),
        entries: Vec<Entry>,
        stop: CancellationToken,
    ) -> Serving {
        let answers = Arc::new(Answers {
            health,
            exporter,
            guard: self.guard,
            entries,
            cluster: OnceLock::new(),
            reloads: Reloads::default(),
            listeners: Arc::new(Semaphore::new(stream::LISTENERS_MAX)),
            stop: stop.clone(),
        });
        let router = route::router(&answers);
        let service = router.into_make_service_with_connect_info::<Remote>();
        let listener = BoundedListener::new(self.listener, CONNECTIONS_MAX, IDLE_MAX);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Accept errors are retried inside; it does not end by itself.
                _ = axum::serve(listener, service).into_future() => {}
            }
        });
        Serving { answers, task }
    }
}

impl Serving {
    /// From now on the port answers about the cluster, too.
    ///
    /// # Errors
    /// [`StartError::Failed`]: a peer's address is not usable.
    pub(crate) fn attach(&self, broker: &Arc<Broker>) -> Result<(), StartError> {
        let cluster = Cluster::new(Arc::clone(broker)).map_err(|error| {
            StartError::failed("an address in cluster.peers is not usable", error)
        })?;
        // Only the first node of a process is shown; there is no second.
        if self.answers.cluster.set(cluster).is_ok() {
            let stop = self.answers.stop.clone();
            let watch = events::watch(Arc::clone(broker));
            tokio::spawn(async move { stop.run_until_cancelled(watch).await });
        }
        Ok(())
    }

    /// What `POST /config/reload` does besides reading the tokens again. Only the first call counts.
    pub fn on_config_reload(&self, reload: Reload) {
        self.answers.reloads.config.set(reload).ok();
    }

    /// What `POST /tls/reload` does. Only the first call counts.
    pub fn on_tls_reload(&self, reload: Reload) {
        self.answers.reloads.tls.set(reload).ok();
    }

    /// Reads `admin.token_file` again; what was in force stays when the file is wrong.
    ///
    /// # Errors
    /// [`TokenFileError`].
    pub fn reload_tokens(&self) -> Result<(), TokenFileError> {
        self.answers.guard.reload()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::health::Check;

    async fn serve(health: &Arc<Health>) -> SocketAddr {
        let config = AdminConfig {
            bind: "127.0.0.1:0".parse().unwrap(),
            token_file: None,
            metrics_auth: false,
        };
        let admin = Admin::bind(&config).await.unwrap();
        let address = admin.local_addr();
        let exporter = Exporter::install().unwrap();
        let stop = CancellationToken::new();
        drop(admin.serve((Arc::clone(health), exporter), Vec::new(), stop));
        address
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_answer_from_the_health_of_the_node() {
        let health = Arc::new(Health::new());
        let address = serve(&health).await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/startupz").await.starts_with("HTTP/1.1 503"));
        let unready = get(address, "/readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains("lease: starting"),
            "{unready}"
        );
        for check in [
            Check::Leaders,
            Check::Lease,
            Check::CaughtUp,
            Check::Listeners,
        ] {
            health.pass(check);
        }
        health.started();
        assert!(get(address, "/startupz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.draining();
        let verbose = get(address, "/readyz?verbose").await;
        assert!(verbose.starts_with("HTTP/1.1 503"), "{verbose}");
        let body: serde_json::Value =
            serde_json::from_str(verbose.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["ready"], false);
        assert_eq!(body["checks"][5]["name"], "draining");
        assert_eq!(body["checks"][5]["reason"], "the node is stopping");
    }

    #[tokio::test]
    async fn metrics_and_version_say_what_runs() {
        let health = Arc::new(Health::new());
        let address = serve(&health).await;
        crate::metrics::set_identity("node-1", "holdfast");
        let exposition = get(address, "/metrics").await;
        for part in [
            "# HELP holdfast_build_info",
            "holdfast_node_info{node=\"node-1\"",
            "process_resident_memory_bytes ",
        ] {
            assert!(
                exposition.contains(part),
                "{part} is missing in {exposition}"
            );
        }
        assert!(get(address, "/version").await.contains("\"version\""));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    }
}
