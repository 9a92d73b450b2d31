//! The exporter that renders every metric of `metrics/table.rs`.
//!
//! Record with the `metrics` macros and the names below, and keep the handle where a message
//! passes: `let sent = counter!(PUBLISH_SENT_TOTAL, "qos" => "1");` once, `sent.increment(1)` per
//! message. The crate raft-store cannot see this module: it uses the same names as text, and
//! the rows marked (raft-store) are its contract. No label ever holds a client id or a topic.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::StartError;
use crate::version;

mod metric;
mod names;
mod process;
mod table;

pub use self::metric::{Metric, MetricType};
pub use self::names::*;
pub use self::table::TABLE;

/// How often recorded samples are folded into their histograms; bounds the memory they wait in.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Renders all metrics of this process as text.
#[derive(Debug, Clone)]
pub struct Exporter {
    prometheus: PrometheusHandle,
}

static EXPORTER: OnceLock<Result<Exporter, String>> = OnceLock::new();

impl Exporter {
    /// Makes the `metrics` macros record from now on, for the whole process. A second call gives
    /// the same exporter, so that tests may start several nodes in one process.
    ///
    /// # Errors
    /// [`StartError::Failed`] when something else records metrics already.
    pub fn install() -> Result<Self, StartError> {
        let installed = EXPORTER.get_or_init(|| Self::new().map_err(|error| error.to_string()));
        installed
            .clone()
            .map_err(|reason| StartError::failed("cannot start the metrics", reason))
    }

    fn new() -> Result<Self, metrics_exporter_prometheus::BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in TABLE {
            if let MetricType::Histogram(bounds) = metric.metric_type {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
            }
        }
        let prometheus = builder.install_recorder()?;
        for metric in TABLE {
            match metric.metric_type {
                MetricType::Counter => ::metrics::describe_counter!(metric.name, metric.help),
                MetricType::Gauge => ::metrics::describe_gauge!(metric.name, metric.help),
                MetricType::Histogram(_) => {
                    ::metrics::describe_histogram!(metric.name, metric.help)
                }
            }
        }
        let labels = [
            ("version", version::VERSION),
            ("revision", version::REVISION),
            ("rustc", version::RUSTC),
        ];
        ::metrics::gauge!(BUILD_INFO, &labels).set(1.0);
        Ok(Self { prometheus })
    }

    /// The text that Prometheus scrapes. Reads `/proc`.
    pub fn render(&self) -> String {
        let mut text = self.prometheus.render();
        text.push_str(&process::render());
        text
    }

    /// Starts the task that keeps the memory of histograms bounded.
    pub fn spawn_upkeep(&self) -> tokio::task::JoinHandle<()> {
        let prometheus = self.prometheus.clone();
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(UPKEEP_EVERY);
            loop {
                interval.tick().await;
                prometheus.run_upkeep();
            }
        })
    }
}

/// Memory of this process that is in RAM. Reads `/proc`.
pub(crate) fn resident_bytes() -> Option<u64> {
    process::resident_bytes()
}

/// Records who this node is.
pub fn set_identity(node: &str, cluster: &str) {
    let labels = [("node", node.to_owned()), ("cluster", cluster.to_owned())];
    ::metrics::gauge!(NODE_INFO, &labels).set(1.0);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_in_the_house_style_and_a_help() {
        let mut names = BTreeSet::new();
        for metric in TABLE {
            assert!(names.insert(metric.name), "{} is there twice", metric.name);
            assert!(metric.name.starts_with("holdfast_"), "{}", metric.name);
            let is_counter = metric.metric_type == MetricType::Counter;
            assert_eq!(
                metric.name.ends_with("_total"),
                is_counter,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.help);
        }
    }

    /// The crate raft-store writes names as text, since it cannot see this table.
    #[test]
    fn every_name_that_raft_store_records_is_in_the_table() {
        let mut recorded = 0;
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft-store/src");
        for entry in std::fs::read_dir(sources).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for piece in text.split("\"holdfast_").skip(1) {
                let name = format!("holdfast_{}", piece.split('"').next().unwrap());
                recorded += 1;
                let is_listed = TABLE.iter().any(|metric| metric.name == name);
                assert!(is_listed, "{name} in {}", path.display());
            }
        }
        assert!(recorded > 0, "{sources} records nothing");
    }

    #[test]
    fn histograms_render_with_their_buckets() {
        let exporter = Exporter::install().unwrap();
        ::metrics::histogram!(STORAGE_FSYNC_DURATION_SECONDS).record(0.002);
        ::metrics::counter!(PUBLISH_RECEIVED_TOTAL, "qos" => "2").increment(3);
        let text = exporter.render();
        assert!(
            text.contains("holdfast_storage_fsync_duration_seconds_bucket{le=\"0.0025\"}"),
            "{text}"
        );
        assert!(
            text.contains("holdfast_storage_fsync_duration_seconds_count 1"),
            "{text}"
        );
        assert!(
            text.contains("holdfast_publish_received_total{qos=\"2\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("# HELP holdfast_publish_received_total PUBLISH packets"),
            "{text}"
        );
    }
}
