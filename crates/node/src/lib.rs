//! The broker process: listeners, connections, the publish path, health and metrics.
//!
//! [`run`] is one node from configuration to clean stop; everything else is its parts and what an
//! operator touches.

mod acl;
pub mod admin;
mod admission;
pub mod auth;
mod backlog;
mod broker;
mod budget;
mod calendar;
mod capabilities;
pub mod cli;
mod client;
mod clock;
pub mod config;
mod connect;
mod connection;
mod count;
pub mod data_dir;
mod deadline;
mod deliver;
pub mod demo;
mod disk;
mod dispatch;
mod drain;
mod end;
pub mod error;
mod events;
mod facts;
mod fences;
mod gauges;
pub mod health;
mod heartbeat;
mod held;
mod hold;
mod inbox;
mod lease;
mod leaving;
mod life;
mod link;
mod listener;
pub mod logging;
mod mail;
mod mailbox;
mod member;
mod members;
mod memory;
pub mod metrics;
mod open_files;
mod outbox;
mod overload;
mod pattern;
mod peers;
mod pending;
mod pressure;
mod proto;
mod publish;
mod query;
mod rate;
mod reason;
mod received;
mod refusal;
mod registry;
pub mod reload;
mod retained;
mod routes;
mod server;
mod session_place;
mod shared;
mod shared_routes;
pub mod signals;
mod silence;
mod statistics;
mod subscribe;
mod sys_topics;
mod topic_aliases;
mod transport;
pub mod version;
mod visibility;
mod waiter;
mod wills;
mod wire;

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::Loaded;
use crate::data_dir::{DataDir, Identity};
use crate::health::Health;
use crate::metrics::Exporter;
use crate::reload::{Reloader, Reread};
use crate::server::Server;
use crate::signals::{Asked, Hangup, StopSignals};

pub use crate::error::StartError;

/// Runs one node until SIGTERM or SIGINT stops it. At SIGHUP it reads its configuration with `reread`.
///
/// # Errors
/// [`StartError`]: why it did not start, or what ended it.
pub async fn run(Loaded { config, entries }: Loaded, reread: Reread) -> Result<(), StartError> {
    let mut signals = StopSignals::install(Hangup::Reloads)?;
    open_files::raise_limit(&config);
    let exporter = Exporter::install()?;
    let identity = Identity {
        cluster: config.cluster.name.clone(),
        node: config.node.id,
        shards: config.cluster.shards,
    };
    let _data_dir = DataDir::open(&config.node.data_dir, &identity)?;
    let health = Arc::new(Health::new());
    health.spawn_watchdog();
    exporter.spawn_upkeep();
    metrics::set_identity(&config.node.name, &config.cluster.name);
    let stop = CancellationToken::new();
    let admin = Admin::bind(&config.admin).await?;
    let admin = admin.serve(
        (Arc::clone(&health), exporter),
        entries.clone(),
        stop.clone(),
    );
    let server = Server::start(config, Arc::clone(&health)).await?;
    let reloader = Arc::new(Reloader::new(Arc::clone(server.broker()), reread, entries));
    count::config_reloaded();
    admin.attach(server.broker())?;
    admin.on_config_reload(by_request(&reloader, Reloader::reload));
    admin.on_tls_reload(by_request(&reloader, Reloader::reload_tls));
    tell_systemd(NotifyState::Ready);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => tokio::task::block_in_place(|| {
                    // A mistake is logged, and everything stays as it was.
                    if reloader.reload().is_ok() && let Err(error) = admin.reload_tokens() {
                        tracing::error!(%error, "the tokens of the admin port stay as they were");
                    }
                }),
            },
            failure = server.failed() => return Err(failure),
        }
    }
    tell_systemd(NotifyState::Stopping);
    server.stop(signals.any()).await?;
    stop.cancel();
    admin
        .task
        .await
        .map_err(|error| StartError::failed("the admin port stopped", error))
}

/// What a request to read something again does.
fn by_request<T: serde::Serialize + 'static, E: std::fmt::Display + 'static>(
    reloader: &Arc<Reloader>,
    reload: fn(&Reloader) -> Result<T, E>,
) -> admin::Reload {
    let reloader = Arc::clone(reloader);
    Box::new(move || {
        let reloaded = reload(&reloader).map_err(|error| error.to_string())?;
        serde_json::to_value(reloaded).map_err(|error| error.to_string())
    })
}

/// With `Type=notify`; without systemd it does nothing.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd is not told");
    }
}
