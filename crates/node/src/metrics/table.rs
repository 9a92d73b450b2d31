//! Every metric: name, type, unit and help in one table.

use super::metric::{ENTRIES, Metric, SECONDS, counter, gauge, histogram};
#[allow(clippy::wildcard_imports, reason = "every name is in the table")]
use super::names::*;

/// Every metric of this version; those of the process are in `metrics/process.rs`.
pub const TABLE: [Metric; 78] = [
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
    gauge(
        CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS,
        "When the configuration was last read without a mistake, in seconds since 1970.",
    ),
    gauge(
        DRAINING,
        "1 while this node is drained or about to stop, else 0.",
    ),
    gauge(
        QUORUM_CRITICAL,
        "1 while a shard would lose its majority without this node, else 0; always 0 on a single node.",
    ),
    gauge(
        STORAGE_FREE_BYTES,
        "Bytes that are free on the disk of the data folder.",
    ),
    gauge(
        STORAGE_FREE_LIMIT_BYTES,
        "Free bytes below which clients publish nothing at QoS 1 or 2 here.",
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
        ACL_CHECKS_TOTAL,
        "What clients asked for and was checked against the rules, by action and result.",
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
        STORAGE_SIZE_BYTES,
        "Bytes on disk: files of the Raft log database, of the state database, and the write-ahead log of the former.",
    ),
    histogram(
        CONNECT_DURATION_SECONDS,
        SECONDS,
        "Time from accepting a connection to its CONNACK, in seconds.",
    ),
    gauge(
        SESSIONS,
        "Sessions of the shards that this node leads; the sum over the nodes is that of the cluster.",
    ),
    counter(SESSIONS_CREATED_TOTAL, "CONNECTs that began a new session."),
    counter(
        SESSIONS_RESUMED_TOTAL,
        "CONNECTs that went on with a session.",
    ),
    counter(
        SESSIONS_TAKEN_OVER_TOTAL,
        "Connections that ended because their client connected again.",
    ),
    counter(
        SESSIONS_EXPIRED_TOTAL,
        "Sessions that ended because their expiry interval had passed, in shards that this node leads.",
    ),
    counter(
        SESSIONS_DISCARDED_TOTAL,
        "Sessions that ended because their client asked for a clean start.",
    ),
    gauge(
        SUBSCRIPTIONS,
        "Subscriptions of sessions in the shards that this node leads and of transient sessions here; the sum over the nodes is that of the cluster.",
    ),
    gauge(
        SHARED_GROUP_MEMBERS,
        "Members of all shared subscriptions in the shards that this node leads and of transient sessions here.",
    ),
    counter(
        PACKETS_RECEIVED_TOTAL,
        "MQTT packets received from clients after CONNECT, by type.",
    ),
    counter(PACKETS_SENT_TOTAL, "MQTT packets sent to clients, by type."),
    counter(
        BYTES_RECEIVED_TOTAL,
        "Bytes received from clients after CONNECT.",
    ),
    counter(BYTES_SENT_TOTAL, "Bytes sent to clients after CONNECT."),
    counter(
        REASON_CODES_SENT_TOTAL,
        "Reason codes sent: all in CONNACK and DISCONNECT, errors (0x80 and above) in other packets.",
    ),
    counter(
        MESSAGES_DELIVERED_TOTAL,
        "Messages delivered: sent at QoS 0, acknowledged by PUBACK or PUBCOMP at QoS 1 and 2.",
    ),
    histogram(
        PUBLISH_ACK_DURATION_SECONDS,
        SECONDS,
        "Time from a PUBLISH at QoS 1 or 2 to its PUBACK or PUBREC, thus with the quorum's fsync, in seconds.",
    ),
    histogram(
        DELIVERY_DURATION_SECONDS,
        SECONDS,
        "Time from a PUBLISH of a client of this node to writing it to a connected subscriber of this node, by the subscriber's QoS, in seconds. One sample per write and QoS, of the first message in it. Not measured: messages of other nodes, whose clocks differ; those that waited for the subscriber's window, or were handed on by an outbox; shared subscriptions.",
    ),
    gauge(
        INFLIGHT_MESSAGES,
        "Unacknowledged messages at QoS 1 and 2: from clients of this node (in), to sessions of the shards that it leads (out).",
    ),
    gauge(
        QUEUED_MESSAGES,
        "Messages that wait for sessions of the shards that this node leads.",
    ),
    gauge(
        QUEUED_BYTES,
        "Bytes of the messages that wait for sessions of the shards that this node leads.",
    ),
    gauge(
        RETAINED_MESSAGES,
        "Retained messages in the shards that this node leads.",
    ),
    gauge(
        RETAINED_BYTES,
        "Bytes of the retained messages in the shards that this node leads.",
    ),
    gauge(
        QOS2_PENDING,
        "QoS 2 handshakes under way in sessions of the shards that this node leads.",
    ),
    gauge(
        PEER_RTT_SECONDS,
        "Round trip of the last heartbeat that the peer answered, in seconds.",
    ),
    counter(
        PEER_SENT_BYTES_TOTAL,
        "Bytes of messages handed to the peer on the live plane.",
    ),
    counter(
        PEER_DROPPED_MESSAGES_TOTAL,
        "Messages at QoS 0 dropped because the queue to the peer was full.",
    ),
    gauge(
        CLUSTER_MEMBERS,
        "Members of the cluster as this node knows it.",
    ),
    gauge(
        RAFT_SNAPSHOT_INDEX,
        "Index of the last Raft log entry that a snapshot of this node covers.",
    ),
    gauge(
        RAFT_FOLLOWER_LAG_ENTRIES,
        "Raft log entries that the follower lacks, as its leader knows; only on the leader, 0 elsewhere.",
    ),
    counter(RAFT_ELECTIONS_TOTAL, "Elections that this node stood in."),
    histogram(
        RAFT_PROPOSAL_DURATION_SECONDS,
        SECONDS,
        "Time from a batch of commands at its leader to commit and apply, in seconds.",
    ),
    histogram(
        RAFT_SNAPSHOT_DURATION_SECONDS,
        SECONDS,
        "Time to make a shard's state durable (build), or to take over a received one (install), in seconds.",
    ),
    histogram(
        STORAGE_WRITE_DURATION_SECONDS,
        SECONDS,
        "Time of each write of changed state to its database, in seconds; nothing waits for it.",
    ),
    gauge(
        ROCKSDB_PENDING_COMPACTION_BYTES,
        "Bytes that RocksDB estimates it has to rewrite, by database.",
    ),
    gauge(
        ROCKSDB_WRITE_STALL,
        "1 while RocksDB delays or stops writes to the database, else 0.",
    ),
    gauge(BUILD_INFO, "Always 1; the labels say what was built."),
    gauge(
        NODE_INFO,
        "Always 1; the labels say which node of which cluster this is.",
    ),
];
