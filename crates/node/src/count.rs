//! Counts what happens to connections and messages, under the names of `metrics`.

use std::sync::{Arc, OnceLock};

use codec::{Qos, ReasonCode};
use metrics::{Counter, SharedString, counter, gauge};
use raft_store::ShardId;
use session::DropCause;

use crate::metrics::{
    AUTH_ATTEMPTS_TOTAL, BUFFERS_BYTES, CLIENTS_THROTTLED_TOTAL, CONNECTIONS,
    CONNECTIONS_CLOSED_TOTAL, CONNECTIONS_OPENED_TOTAL, CONNECTIONS_REJECTED_TOTAL,
    MEMORY_LIMIT_BYTES, MESSAGES_DROPPED_TOTAL, MESSAGES_REDELIVERED_TOTAL, OVERLOAD_STATE,
    PEER_UP, PROTOCOL_VIOLATIONS_TOTAL, PUBLISH_DELAYED_TOTAL, PUBLISH_RECEIVED_TOTAL,
    PUBLISH_SENT_TOTAL, RAFT_ROLE, SUBSCRIBERS_STUCK_TOTAL,
    TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, TLS_RELOADS_TOTAL, VIOLATION_REASONS,
};
use crate::statistics::SUMS;

fn label(qos: Qos) -> &'static str {
    match qos {
        Qos::AtMostOnce => "0",
        Qos::AtLeastOnce => "1",
        Qos::ExactlyOnce => "2",
    }
}

/// A client was admitted.
pub(crate) fn connection_opened(listener: &Arc<str>) {
    SUMS.connections_opened.add(1);
    counter!(CONNECTIONS_OPENED_TOTAL, "listener" => Arc::clone(listener)).increment(1);
    gauge!(CONNECTIONS, "listener" => Arc::clone(listener)).increment(1.0);
}

/// An admitted client's connection ended.
pub(crate) fn connection_closed(listener: &Arc<str>, reason: &'static str) {
    let labels = [
        ("listener", Arc::clone(listener).into()),
        ("reason", SharedString::from(reason)),
    ];
    SUMS.connections_closed.add(1);
    counter!(CONNECTIONS_CLOSED_TOTAL, &labels).increment(1);
    gauge!(CONNECTIONS, "listener" => Arc::clone(listener)).decrement(1.0);
}

/// A client was not admitted.
pub(crate) fn connection_rejected(listener: &Arc<str>, reason: &'static str) {
    let labels = [
        ("listener", Arc::clone(listener).into()),
        ("reason", SharedString::from(reason)),
    ];
    counter!(CONNECTIONS_REJECTED_TOTAL, &labels).increment(1);
}

/// An enhanced authentication is over.
pub(crate) fn auth_attempt(accepted: bool) {
    let result = if accepted { "accepted" } else { "refused" };
    counter!(AUTH_ATTEMPTS_TOTAL, "result" => result).increment(1);
}

/// A client broke a rule.
pub(crate) fn violation(reason_code: ReasonCode) {
    let found = VIOLATION_REASONS
        .iter()
        .find(|(code, _)| *code == reason_code.as_u8());
    let reason = found.map_or("other", |(_, name)| *name);
    counter!(PROTOCOL_VIOLATIONS_TOTAL, "reason" => reason).increment(1);
}

/// What one connection has counted since it last told.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: [u64; 3],
    sent: [u64; 3],
    packets_received: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Tally {
    /// A PUBLISH came in.
    pub(crate) fn received(&mut self, qos: Qos) {
        add_one(&mut self.received, qos);
    }

    /// A PUBLISH went out.
    pub(crate) fn sent(&mut self, qos: Qos) {
        add_one(&mut self.sent, qos);
    }

    /// Bytes came in.
    pub(crate) fn bytes_received(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes_received = self.bytes_received.saturating_add(bytes);
    }

    /// Bytes went out.
    pub(crate) fn bytes_sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes_sent = self.bytes_sent.saturating_add(bytes);
    }

    /// A packet of whatever type came in.
    pub(crate) fn packet_received(&mut self) {
        self.packets_received = self.packets_received.saturating_add(1);
    }

    /// Tells the metrics, and begins anew; `packets_sent` besides PUBLISH went out.
    pub(crate) fn tell(&mut self, packets_sent: &mut u64) {
        let publishes = |counts: &[u64; 3]| counts.iter().sum::<u64>();
        SUMS.publishes_received.add(publishes(&self.received));
        SUMS.publishes_sent.add(publishes(&self.sent));
        SUMS.packets_received
            .add(std::mem::take(&mut self.packets_received));
        let packets_sent = std::mem::take(packets_sent);
        SUMS.packets_sent
            .add(packets_sent.saturating_add(publishes(&self.sent)));
        SUMS.bytes_received
            .add(std::mem::take(&mut self.bytes_received));
        SUMS.bytes_sent.add(std::mem::take(&mut self.bytes_sent));
        static RECEIVED: PerQos = PerQos(OnceLock::new());
        static SENT: PerQos = PerQos(OnceLock::new());
        RECEIVED.add(PUBLISH_RECEIVED_TOTAL, std::mem::take(&mut self.received));
        SENT.add(PUBLISH_SENT_TOTAL, std::mem::take(&mut self.sent));
    }
}

fn add_one(counts: &mut [u64; 3], qos: Qos) {
    let [at_most_once, at_least_once, exactly_once] = counts;
    let count = match qos {
        Qos::AtMostOnce => at_most_once,
        Qos::AtLeastOnce => at_least_once,
        Qos::ExactlyOnce => exactly_once,
    };
    *count = count.saturating_add(1);
}

/// One counter per QoS, looked up once.
struct PerQos(OnceLock<[Counter; 3]>);

impl PerQos {
    fn add(&self, name: &'static str, counts: [u64; 3]) {
        let counters = self.0.get_or_init(|| {
            [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
                .map(|qos| counter!(name, "qos" => label(qos)))
        });
        for (counter, count) in counters.iter().zip(counts) {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}

/// An in-flight message was sent again on a new connection.
pub(crate) fn redelivered() {
    counter!(MESSAGES_REDELIVERED_TOTAL).increment(1);
}

/// A message was lost to a documented limit.
pub(crate) fn dropped(reason: &'static str) {
    SUMS.messages_dropped.add(1);
    counter!(MESSAGES_DROPPED_TOTAL, "reason" => reason).increment(1);
}

/// A session lost a message to a documented limit.
pub(crate) fn dropped_by_session(cause: DropCause) {
    dropped(match cause {
        DropCause::QueueFullNewest | DropCause::QueueFullOldest => "queue_full",
        DropCause::Offline => "offline",
        DropCause::SessionEnded => "session_ended",
        DropCause::Expired => "expired",
        DropCause::NoMember => "no_member",
    });
}

/// An acknowledgement waits for a slow subscriber.
pub(crate) fn delayed() {
    counter!(PUBLISH_DELAYED_TOTAL).increment(1);
}

/// A subscriber took hardly anything while acknowledgements waited for it.
pub(crate) fn stuck() {
    counter!(SUBSCRIBERS_STUCK_TOTAL).increment(1);
}

/// What is on its way to and from clients.
pub(crate) fn buffers(bytes: usize) {
    // Exact up to 2^53, which no memory reaches.
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    gauge!(BUFFERS_BYTES).set(bytes as f64);
}

/// A client sent more than it may, and is not read for a while.
pub(crate) fn throttled(reason: &'static str) {
    counter!(CLIENTS_THROTTLED_TOTAL, "reason" => reason).increment(1);
}

/// The memory beyond which no new connection is taken; `None`: no such limit.
pub(crate) fn memory_limit(bytes: Option<u64>) {
    // Exact up to 2^53, which no memory reaches.
    gauge!(MEMORY_LIMIT_BYTES).set(bytes.unwrap_or(0) as f64);
}

/// Whether new connections are refused for want of something.
pub(crate) fn overload(resource: &'static str, is_short: bool) {
    gauge!(OVERLOAD_STATE, "resource" => resource).set(if is_short { 1.0 } else { 0.0 });
}

/// Until when the certificate of a listener is good, in seconds since 1970.
pub(crate) fn certificate_expiry(listener: &str, seconds: i64) {
    // Exact up to 2^53, which no calendar reaches.
    gauge!(TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, "listener" => listener.to_owned())
        .set(seconds as f64);
}

/// Files of a certificate have changed.
pub(crate) fn tls_reload(taken_over: bool) {
    let result = if taken_over { "reloaded" } else { "failed" };
    counter!(TLS_RELOADS_TOTAL, "result" => result).increment(1);
}

/// Whether a peer answers heartbeats.
pub(crate) fn peer_up(peer: u16, up: bool) {
    gauge!(PEER_UP, "peer" => peer.to_string()).set(if up { 1.0 } else { 0.0 });
}

/// Whether this node leads a shard.
pub(crate) fn raft_role(shard: ShardId, leads: bool) {
    let gauge =
        |role: &'static str| gauge!(RAFT_ROLE, "shard" => shard.to_string(), "role" => role);
    gauge("leader").set(if leads { 1.0 } else { 0.0 });
    gauge("follower").set(if leads { 0.0 } else { 1.0 });
}
