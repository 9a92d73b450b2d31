//! Every metric: name, type, unit and help in one table; and the exporter that renders them.
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

mod process;

/// Connections open now. Label `listener`.
pub const CONNECTIONS: &str = "holdfast_connections";
/// Connections accepted. Label `listener`.
pub const CONNECTIONS_OPENED_TOTAL: &str = "holdfast_connections_opened_total";
/// Connections ended. Labels `listener`, `reason` (one of [`CLOSE_REASONS`]).
pub const CONNECTIONS_CLOSED_TOTAL: &str = "holdfast_connections_closed_total";
/// Connections that were not admitted. Labels `listener`, `reason`.
pub const CONNECTIONS_REJECTED_TOTAL: &str = "holdfast_connections_rejected_total";
/// Enhanced authentications that are over. Label `result`: `accepted`, `refused`.
pub const AUTH_ATTEMPTS_TOTAL: &str = "holdfast_auth_attempts_total";
/// Rules that clients broke. Label `reason` (one of [`VIOLATION_REASONS`]).
pub const PROTOCOL_VIOLATIONS_TOTAL: &str = "holdfast_protocol_violations_total";
/// In-flight messages sent again on a new connection.
pub const MESSAGES_REDELIVERED_TOTAL: &str = "holdfast_messages_redelivered_total";
/// PUBLISH packets from clients. Label `qos`.
pub const PUBLISH_RECEIVED_TOTAL: &str = "holdfast_publish_received_total";
/// PUBLISH packets to clients. Label `qos`.
pub const PUBLISH_SENT_TOTAL: &str = "holdfast_publish_sent_total";
/// Messages not delivered. Label `reason` (one of [`DROP_REASONS`]).
pub const MESSAGES_DROPPED_TOTAL: &str = "holdfast_messages_dropped_total";
/// Acknowledgements that waited for a slow subscriber.
pub const PUBLISH_DELAYED_TOTAL: &str = "holdfast_publish_delayed_total";
/// Subscribers for which nobody waits any more.
pub const SUBSCRIBERS_STUCK_TOTAL: &str = "holdfast_subscribers_stuck_total";
/// What is on its way to and from clients, in bytes.
pub const BUFFERS_BYTES: &str = "holdfast_buffers_bytes";
/// Pauses in reading from a client that sent more than it may. Label `reason`.
pub const CLIENTS_THROTTLED_TOTAL: &str = "holdfast_clients_throttled_total";
/// Memory of this process from which on new connections are refused; 0: no limit.
pub const MEMORY_LIMIT_BYTES: &str = "holdfast_memory_limit_bytes";
/// 1 while new connections are refused for want of something. Label `resource`.
pub const OVERLOAD_STATE: &str = "holdfast_overload_state";
/// 1 while a peer answers. Label `peer`.
pub const PEER_UP: &str = "holdfast_peer_up";
/// Connections and calls of peers that were refused (raft-store). Label `reason`: `tls`, `secret`,
/// `timeout`, `cluster`, `node`.
pub const PEER_REFUSED_TOTAL: &str = "holdfast_peer_refused_total";
/// Until when a listener's certificate is good. Label `listener`.
pub const TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS: &str =
    "holdfast_tls_certificate_expiry_timestamp_seconds";
/// Changed files of certificates. Label `result`: `reloaded`, `failed`.
pub const TLS_RELOADS_TOTAL: &str = "holdfast_tls_reloads_total";
/// Batches proposed (raft-store). Label `result`.
pub const RAFT_PROPOSALS_TOTAL: &str = "holdfast_raft_proposals_total";
/// Entries per log write (raft-store).
pub const RAFT_APPEND_BATCH_ENTRIES: &str = "holdfast_raft_append_batch_entries";
/// Time of each fsync of the log (raft-store).
pub const STORAGE_FSYNC_DURATION_SECONDS: &str = "holdfast_storage_fsync_duration_seconds";
/// fsyncs of the log that returned (raft-store).
pub const STORAGE_FSYNCS_TOTAL: &str = "holdfast_storage_fsyncs_total";
/// Writes and fsyncs that failed (raft-store): each stops what it was for.
pub const STORAGE_FAILURES_TOTAL: &str = "holdfast_storage_failures_total";
/// Last applied log index (raft-store). Label `shard`.
pub const RAFT_APPLIED_INDEX: &str = "holdfast_raft_applied_index";
/// Last committed log index known here (raft-store). Label `shard`.
pub const RAFT_COMMIT_INDEX: &str = "holdfast_raft_commit_index";
/// Changes of leader seen (raft-store). Label `shard`.
pub const RAFT_LEADER_CHANGES_TOTAL: &str = "holdfast_raft_leader_changes_total";
/// Current term (raft-store). Label `shard`.
pub const RAFT_TERM: &str = "holdfast_raft_term";
/// 1 for the role that this node's replica has, else 0 (raft-store). Labels `shard`, `role`.
pub const RAFT_ROLE: &str = "holdfast_raft_role";
/// 1 while a leader is known here (raft-store). Label `shard`.
pub const RAFT_HAS_LEADER: &str = "holdfast_raft_has_leader";
/// Entries of a shard's log that this node keeps (raft-store). Label `shard`.
pub const RAFT_LOG_ENTRIES: &str = "holdfast_raft_log_entries";
/// Snapshots of a shard's state (raft-store). Label `event`.
pub const RAFT_SNAPSHOTS_TOTAL: &str = "holdfast_raft_snapshots_total";
/// Bytes of snapshots (raft-store). Label `direction`.
pub const RAFT_SNAPSHOT_BYTES_TOTAL: &str = "holdfast_raft_snapshot_bytes_total";
/// Bytes on disk (raft-store). Label `database`.
pub const STORAGE_BYTES: &str = "holdfast_storage_bytes";
/// Always 1. Labels `version`, `revision`, `rustc`.
pub const BUILD_INFO: &str = "holdfast_build_info";
/// Always 1. Labels `node`, `cluster`.
pub const NODE_INFO: &str = "holdfast_node_info";

/// Values of `reason` in [`CONNECTIONS_CLOSED_TOTAL`].
pub const CLOSE_REASONS: [&str; 11] = [
    "client",
    "keepalive",
    "takeover",
    "kicked",
    "protocol",
    "tls",
    "drain",
    "overload",
    "no_quorum",
    "node_down",
    "internal",
];

/// Values of `reason` in [`MESSAGES_DROPPED_TOTAL`].
pub const DROP_REASONS: [&str; 14] = [
    "no_subscriber",
    "queue_full",
    "buffers_full",
    "expired",
    "too_large",
    "no_local",
    "quota",
    "acl",
    "peer_queue_full",
    "offline",
    "session_ended",
    "retained_full",
    "no_member",
    "payload_format",
];

/// Values of `reason` in [`PROTOCOL_VIOLATIONS_TOTAL`], each with the reason code that it stands for;
/// "other" for the rest.
pub const VIOLATION_REASONS: [(u8, &str); 15] = [
    (0x81, "malformed_packet"),
    (0x82, "protocol_error"),
    (0x84, "unsupported_protocol_version"),
    (0x85, "client_identifier_not_valid"),
    (0x86, "bad_user_name_or_password"),
    (0x87, "not_authorized"),
    (0x8C, "bad_authentication_method"),
    (0x8F, "topic_filter_invalid"),
    (0x90, "topic_name_invalid"),
    (0x93, "receive_maximum_exceeded"),
    (0x94, "topic_alias_invalid"),
    (0x95, "packet_too_large"),
    (0x99, "payload_format_invalid"),
    (0x9A, "retain_not_supported"),
    (0x9B, "qos_not_supported"),
];

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricType {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by upper bound; its unit is the last word of its name.
    Histogram(&'static [f64]),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Its type.
    pub metric_type: MetricType,
    /// What it tells, for people.
    pub help: &'static str,
}

/// From 50 µs, half an fsync of a fast disk, to 10 s, a disk that is failing.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
/// From 1, nothing was batched, to more than a batch should hold.
const ENTRIES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

/// Every metric of this version; those of the process are in `metrics/process.rs`.
pub const TABLE: [Metric; 37] = [
    gauge(CONNECTIONS, "Client connections open now."),
    counter(CONNECTIONS_OPENED_TOTAL, "Client connections accepted."),
    counter(
        CONNECTIONS_CLOSED_TOTAL,
        "Client connections ended, by reason.",
    ),
    counter(
        PUBLISH_RECEIVED_TOTAL,
        "PUBLISH packets received from clients, by QoS.",
    ),
    counter(
        PUBLISH_SENT_TOTAL,
        "PUBLISH packets sent to clients, by QoS.",
    ),
    counter(
        MESSAGES_DROPPED_TOTAL,
        "Messages not delivered to a subscriber, by reason.",
    ),
    counter(
        PUBLISH_DELAYED_TOTAL,
        "Acknowledgements of QoS 1 and 2 that waited because a subscriber was slow.",
    ),
    counter(
        SUBSCRIBERS_STUCK_TOTAL,
        "Times a slow subscriber took hardly anything for a second, so that publishers no longer waited for it.",
    ),
    gauge(
        BUFFERS_BYTES,
        "Memory for what is on its way to and from clients, as limits.buffers_max_bytes bounds it.",
    ),
    counter(
        CLIENTS_THROTTLED_TOTAL,
        "Pauses in reading from a client that sent more than limits.publish_rate or limits.byte_rate, by reason.",
    ),
    gauge(
        MEMORY_LIMIT_BYTES,
        "Resident memory from which on new connections are refused, as limits.memory_high says; 0: no limit.",
    ),
    gauge(
        OVERLOAD_STATE,
        "1 while new connections are refused because the resource is short, else 0.",
    ),
    gauge(PEER_UP, "1 while the peer answers heartbeats, else 0."),
    counter(
        PEER_REFUSED_TOTAL,
        "Connections and calls between nodes that were refused, by reason: another certificate, secret, cluster or node, or no handshake in time.",
    ),
    gauge(
        TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS,
        "Until when the certificate in use is good, in seconds since 1970; the listener cluster is the cluster port.",
    ),
    counter(
        TLS_RELOADS_TOTAL,
        "Changed files of certificates, by result: taken over, or failed so that the old one stays.",
    ),
    counter(
        RAFT_PROPOSALS_TOTAL,
        "Command batches proposed to shards, by result.",
    ),
    histogram(
        RAFT_APPEND_BATCH_ENTRIES,
        ENTRIES,
        "Raft log entries of all shards that one log write holds.",
    ),
    histogram(
        STORAGE_FSYNC_DURATION_SECONDS,
        SECONDS,
        "Time of each fsync of the Raft log, in seconds.",
    ),
    counter(
        CONNECTIONS_REJECTED_TOTAL,
        "Connections refused before they were admitted.",
    ),
    counter(
        AUTH_ATTEMPTS_TOTAL,
        "Clients that have shown who they are, or failed to.",
    ),
    counter(
        PROTOCOL_VIOLATIONS_TOTAL,
        "Rules of the protocol that clients broke, by reason; each ended its connection.",
    ),
    counter(
        MESSAGES_REDELIVERED_TOTAL,
        "In-flight messages sent again because their client came back on a new connection.",
    ),
    counter(
        STORAGE_FSYNCS_TOTAL,
        "Fsyncs of the Raft log that returned.",
    ),
    counter(
        STORAGE_FAILURES_TOTAL,
        "Writes and fsyncs that failed; a failed fsync is never retried.",
    ),
    gauge(
        RAFT_ROLE,
        "1 for the role of this node's replica of the shard, 0 for the others.",
    ),
    gauge(
        RAFT_APPLIED_INDEX,
        "Index of the last Raft log entry applied on this node.",
    ),
    gauge(
        RAFT_COMMIT_INDEX,
        "Index of the last Raft log entry that this node knows as committed.",
    ),
    counter(
        RAFT_LEADER_CHANGES_TOTAL,
        "Changes of a shard's leader seen by this node.",
    ),
    gauge(RAFT_TERM, "Current Raft term."),
    gauge(
        RAFT_HAS_LEADER,
        "1 while this node knows a leader of the shard, else 0.",
    ),
    gauge(
        RAFT_LOG_ENTRIES,
        "Raft log entries of the shard that this node keeps.",
    ),
    counter(
        RAFT_SNAPSHOTS_TOTAL,
        "Snapshots of a shard's state built, sent, received and installed, by event.",
    ),
    counter(
        RAFT_SNAPSHOT_BYTES_TOTAL,
        "Bytes of snapshots sent to and received from other nodes.",
    ),
    gauge(
        STORAGE_BYTES,
        "Bytes on disk, by database: the Raft log and the state.",
    ),
    gauge(BUILD_INFO, "Always 1; the labels say what was built."),
    gauge(
        NODE_INFO,
        "Always 1; the labels say which node of which cluster this is.",
    ),
];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Counter,
        help,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Gauge,
        help,
    }
}

const fn histogram(name: &'static str, bounds: &'static [f64], help: &'static str) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Histogram(bounds),
        help,
    }
}

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
