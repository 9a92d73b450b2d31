//! The names of all metrics, with their labels, and the values that labels have.

/// Connections open now. Label `listener`.
pub const CONNECTIONS: &str = "holdfast_connections";
/// Connections accepted. Label `listener`.
pub const CONNECTIONS_OPENED_TOTAL: &str = "holdfast_connections_opened_total";
/// Connections ended. Labels `listener`, `reason` (one of [`CLOSE_REASONS`]).
pub const CONNECTIONS_CLOSED_TOTAL: &str = "holdfast_connections_closed_total";
/// Connections that were not admitted. Labels `listener`, `reason`.
pub const CONNECTIONS_REJECTED_TOTAL: &str = "holdfast_connections_rejected_total";
/// Logins that are over. Label `result`: `accepted`, `refused`, `throttled`.
pub const AUTH_ATTEMPTS_TOTAL: &str = "holdfast_auth_attempts_total";
/// Checks against `[[acl]]`. Labels `action` (`publish`, `subscribe`, `will`, `receive`), `result`
/// (`allow`, `deny`).
pub const ACL_CHECKS_TOTAL: &str = "holdfast_acl_checks_total";
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
/// When the configuration was last read, in seconds since 1970.
pub const CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS: &str =
    "holdfast_config_last_reload_success_timestamp_seconds";
/// 1 while this node is drained.
pub const DRAINING: &str = "holdfast_draining";
/// 1 while a shard would lose its majority without this node.
pub const QUORUM_CRITICAL: &str = "holdfast_quorum_critical";
/// Bytes that are free on the disk of the data folder.
pub const STORAGE_FREE_BYTES: &str = "holdfast_storage_free_bytes";
/// `storage.min_free_disk`.
pub const STORAGE_FREE_LIMIT_BYTES: &str = "holdfast_storage_free_limit_bytes";
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
/// Bytes on disk. Label `kind`: `log`, `state`, `wal`.
pub const STORAGE_SIZE_BYTES: &str = "holdfast_storage_size_bytes";
/// Always 1. Labels `version`, `revision`, `rustc`.
pub const BUILD_INFO: &str = "holdfast_build_info";
/// Always 1. Labels `node`, `cluster`.
pub const NODE_INFO: &str = "holdfast_node_info";
/// From accept to CONNACK.
pub const CONNECT_DURATION_SECONDS: &str = "holdfast_connect_duration_seconds";
/// Sessions of the shards that this node leads. Label `state`: `connected`, `disconnected`.
pub const SESSIONS: &str = "holdfast_sessions";
/// Sessions that began with a connection here.
pub const SESSIONS_CREATED_TOTAL: &str = "holdfast_sessions_created_total";
/// Sessions that went on with a connection here.
pub const SESSIONS_RESUMED_TOTAL: &str = "holdfast_sessions_resumed_total";
/// Connections here that another one took the place of.
pub const SESSIONS_TAKEN_OVER_TOTAL: &str = "holdfast_sessions_taken_over_total";
/// Sessions whose time without a connection was over.
pub const SESSIONS_EXPIRED_TOTAL: &str = "holdfast_sessions_expired_total";
/// Sessions that a Clean Start here ended.
pub const SESSIONS_DISCARDED_TOTAL: &str = "holdfast_sessions_discarded_total";
/// Subscriptions of the shards that this node leads, and of transient sessions here. Label `kind`: `exact`, `wildcard`, `shared`.
pub const SUBSCRIPTIONS: &str = "holdfast_subscriptions";
/// Members of shared subscriptions, counted as above.
pub const SHARED_GROUP_MEMBERS: &str = "holdfast_shared_group_members";
/// Packets from admitted clients. Label `type`.
pub const PACKETS_RECEIVED_TOTAL: &str = "holdfast_packets_received_total";
/// Packets to admitted clients. Label `type`.
pub const PACKETS_SENT_TOTAL: &str = "holdfast_packets_sent_total";
/// Bytes from admitted clients.
pub const BYTES_RECEIVED_TOTAL: &str = "holdfast_bytes_received_total";
/// Bytes to admitted clients.
pub const BYTES_SENT_TOTAL: &str = "holdfast_bytes_sent_total";
/// Reason codes of CONNACK and DISCONNECT, and errors in other packets. Labels `packet`, `code`.
pub const REASON_CODES_SENT_TOTAL: &str = "holdfast_reason_codes_sent_total";
/// Messages that a client has. Label `qos`.
pub const MESSAGES_DELIVERED_TOTAL: &str = "holdfast_messages_delivered_total";
/// From PUBLISH to its PUBACK or PUBREC. Label `qos`.
pub const PUBLISH_ACK_DURATION_SECONDS: &str = "holdfast_publish_ack_duration_seconds";
/// From PUBLISH to the PUBLISH for a subscriber. Label `qos`, the subscriber's.
pub const DELIVERY_DURATION_SECONDS: &str = "holdfast_delivery_duration_seconds";
/// Unacknowledged messages. Label `direction`: `in`, `out`.
pub const INFLIGHT_MESSAGES: &str = "holdfast_inflight_messages";
/// Messages behind the windows of sessions of the shards that this node leads.
pub const QUEUED_MESSAGES: &str = "holdfast_queued_messages";
/// The same in bytes.
pub const QUEUED_BYTES: &str = "holdfast_queued_bytes";
/// Retained messages of the shards that this node leads.
pub const RETAINED_MESSAGES: &str = "holdfast_retained_messages";
/// The same in bytes.
pub const RETAINED_BYTES: &str = "holdfast_retained_bytes";
/// QoS 2 handshakes of the shards that this node leads. Label `state`: `awaiting_pubrel`, `awaiting_pubcomp`.
pub const QOS2_PENDING: &str = "holdfast_qos2_pending";
/// Time of the last heartbeat that a peer answered. Label `peer`.
pub const PEER_RTT_SECONDS: &str = "holdfast_peer_rtt_seconds";
/// Bytes of live messages for a peer. Label `peer`.
pub const PEER_SENT_BYTES_TOTAL: &str = "holdfast_peer_sent_bytes_total";
/// Messages at QoS 0 for which the queue to a peer had no room. Label `peer`.
pub const PEER_DROPPED_MESSAGES_TOTAL: &str = "holdfast_peer_dropped_messages_total";
/// Members. Label `state`: `voter`, `learner`.
pub const CLUSTER_MEMBERS: &str = "holdfast_cluster_members";
/// Log index up to which the state is on disk (raft-store). Label `shard`.
pub const RAFT_SNAPSHOT_INDEX: &str = "holdfast_raft_snapshot_index";
/// Entries that a follower lacks, on the leader (raft-store). Labels `shard`, `peer`.
pub const RAFT_FOLLOWER_LAG_ENTRIES: &str = "holdfast_raft_follower_lag_entries";
/// Elections that this node began (raft-store). Label `shard`.
pub const RAFT_ELECTIONS_TOTAL: &str = "holdfast_raft_elections_total";
/// From a batch at the leader to its answer (raft-store).
pub const RAFT_PROPOSAL_DURATION_SECONDS: &str = "holdfast_raft_proposal_duration_seconds";
/// Time of snapshots (raft-store). Label `op`: `build`, `install`.
pub const RAFT_SNAPSHOT_DURATION_SECONDS: &str = "holdfast_raft_snapshot_duration_seconds";
/// Time of writes of the state (raft-store).
pub const STORAGE_WRITE_DURATION_SECONDS: &str = "holdfast_storage_write_duration_seconds";
/// Bytes that RocksDB has to merge (raft-store). Label `database`.
pub const ROCKSDB_PENDING_COMPACTION_BYTES: &str = "holdfast_rocksdb_pending_compaction_bytes";
/// 1 while RocksDB slows or stops writes (raft-store). Labels `database`, `state`: `delayed`, `stopped`.
pub const ROCKSDB_WRITE_STALL: &str = "holdfast_rocksdb_write_stall";

/// Values of `reason` in [`CONNECTIONS_CLOSED_TOTAL`].
pub const CLOSE_REASONS: [&str; 15] = [
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
    "token_expired",
    "credentials_revoked",
    "banned",
    "acl",
];

/// Values of `reason` in [`MESSAGES_DROPPED_TOTAL`].
pub const DROP_REASONS: [&str; 15] = [
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
    "disk",
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
