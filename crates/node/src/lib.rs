//! The broker process: listeners, connections, the publish path, health and metrics.
//!
//! [`run`] is one node from configuration to clean stop; everything else is its parts and what an
//! operator touches.

pub mod admin;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod demo;
pub mod error;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod signals;
pub mod version;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::Config;
use crate::data_dir::{DataDir, Identity};
use crate::health::Health;
use crate::metrics::Exporter;
use crate::signals::{Hangup, StopSignals};

pub use crate::error::StartError;

/// Runs one node until SIGTERM or SIGINT stops it.
///
/// # Errors
/// [`StartError`]: why it did not start, or what ended it.
pub async fn run(config: Config) -> Result<(), StartError> {
    let mut signals = StopSignals::install(Hangup::Reloads)?;
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
    let admin = Admin::bind(config.admin.bind).await?;
    let admin = admin.serve(Arc::clone(&health), exporter, stop.clone());
    signals.any().await;
    health.draining();
    stop.cancel();
    admin.await.map_err(|error| StartError::failed("the admin port stopped", error))
}
