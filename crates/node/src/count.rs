//! Counts what happens to connections and messages, under the names of `metrics`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use codec::{PacketType, Qos, ReasonCode};
use metrics::{Counter, SharedString, counter, gauge, histogram};
use raft_store::ShardId;
use session::DropCause;
use tokio::time::Instant;

use crate::metrics::{
    ACL_CHECKS_TOTAL, AUTH_ATTEMPTS_TOTAL, BUFFERS_BYTES, BYTES_RECEIVED_TOTAL, BYTES_SENT_TOTAL,
    CLIENTS_THROTTLED_TOTAL, CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS,
    CONNECT_DURATION_SECONDS, CONNECTIONS, CONNECTIONS_CLOSED_TOTAL, CONNECTIONS_OPENED_TOTAL,
    CONNECTIONS_REJECTED_TOTAL, DRAINING, MEMORY_LIMIT_BYTES, MESSAGES_DELIVERED_TOTAL,
    MESSAGES_DROPPED_TOTAL, MESSAGES_REDELIVERED_TOTAL, OVERLOAD_STATE, PACKETS_RECEIVED_TOTAL,
    PACKETS_SENT_TOTAL, PEER_DROPPED_MESSAGES_TOTAL, PEER_RTT_SECONDS, PEER_SENT_BYTES_TOTAL,
    PEER_UP, PROTOCOL_VIOLATIONS_TOTAL, PUBLISH_DELAYED_TOTAL, PUBLISH_RECEIVED_TOTAL,
    PUBLISH_SENT_TOTAL, QUORUM_CRITICAL, RAFT_ROLE, REASON_CODES_SENT_TOTAL,
    SESSIONS_CREATED_TOTAL, SESSIONS_DISCARDED_TOTAL, SESSIONS_EXPIRED_TOTAL,
    SESSIONS_RESUMED_TOTAL, SESSIONS_TAKEN_OVER_TOTAL, STORAGE_FREE_BYTES,
    STORAGE_FREE_LIMIT_BYTES, STORAGE_SIZE_BYTES, SUBSCRIBERS_STUCK_TOTAL,
    TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, TLS_RELOADS_TOTAL, VIOLATION_REASONS,
};
use crate::statistics::SUMS;

mod durations;

pub(crate) use durations::acknowledged;

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
    if reason == "takeover" {
        counter!(SESSIONS_TAKEN_OVER_TOTAL).increment(1);
    }
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

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginResult {
    /// The client is who it says.
    Accepted,
    /// It is not, or left.
    Refused,
    /// Nobody looked: there were too many failures.
    Throttled,
}

/// A client has shown who it is, or failed to.
pub(crate) fn login(result: LoginResult) {
    let result = match result {
        LoginResult::Accepted => "accepted",
        LoginResult::Refused => "refused",
        LoginResult::Throttled => "throttled",
    };
    counter!(AUTH_ATTEMPTS_TOTAL, "result" => result).increment(1);
}

/// What is checked against the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AclAction {
    /// PUBLISH.
    Publish,
    /// A filter of SUBSCRIBE.
    Subscribe,
    /// The will of CONNECT.
    Will,
    /// A message to a client of which something is held back.
    Receive,
}

/// Something was checked against the rules. Returns whether it is allowed.
pub(crate) fn acl_check(action: AclAction, is_allowed: bool) -> bool {
    static CHECKS: OnceLock<[[Counter; 2]; 4]> = OnceLock::new();
    let [publish, subscribe, will, receive] = CHECKS.get_or_init(|| {
        ["publish", "subscribe", "will", "receive"].map(|action| {
            ["allow", "deny"]
                .map(|result| counter!(ACL_CHECKS_TOTAL, "action" => action, "result" => result))
        })
    });
    let [allowed, denied] = match action {
        AclAction::Publish => publish,
        AclAction::Subscribe => subscribe,
        AclAction::Will => will,
        AclAction::Receive => receive,
    };
    let counter = if is_allowed { allowed } else { denied };
    counter.increment(1);
    is_allowed
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
    packets_received: PacketCounts,
    bytes_received: u64,
    bytes_sent: u64,
    delivered: [u64; 3],
    /// By QoS: when the first of the messages sent came of which that is known.
    timed: [Option<Instant>; 3],
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

    /// A message that came at that time went out. The first of each QoS is measured: to look at the clock
    /// for each would cost more than to send it.
    pub(crate) fn timed(&mut self, qos: Qos, since: Instant) {
        if let Some(first) = self.timed.get_mut(usize::from(qos.as_u8())) {
            first.get_or_insert(since);
        }
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

    /// A packet came in.
    pub(crate) fn packet_received(&mut self, packet_type: PacketType) {
        self.packets_received.add(packet_type);
    }

    /// A client has a message.
    pub(crate) fn delivered(&mut self, qos: Qos) {
        add_one(&mut self.delivered, qos);
    }

    /// Tells the metrics, and begins anew; `packets_sent` besides PUBLISH went out.
    pub(crate) fn tell(&mut self, packets_sent: &mut PacketCounts) {
        let publishes = |counts: &[u64; 3]| counts.iter().sum::<u64>();
        let published = publishes(&self.sent);
        SUMS.publishes_received.add(publishes(&self.received));
        SUMS.publishes_sent.add(published);
        static TYPES_RECEIVED: PerType = PerType(OnceLock::new());
        static TYPES_SENT: PerType = PerType(OnceLock::new());
        let packets = TYPES_RECEIVED.add(PACKETS_RECEIVED_TOTAL, &mut self.packets_received, 0);
        SUMS.packets_received.add(packets);
        let packets = TYPES_SENT.add(PACKETS_SENT_TOTAL, packets_sent, published);
        SUMS.packets_sent.add(packets);
        static BYTES_RECEIVED: OnceLock<Counter> = OnceLock::new();
        static BYTES_SENT: OnceLock<Counter> = OnceLock::new();
        let bytes = std::mem::take(&mut self.bytes_received);
        add(&BYTES_RECEIVED, BYTES_RECEIVED_TOTAL, bytes);
        SUMS.bytes_received.add(bytes);
        let bytes = std::mem::take(&mut self.bytes_sent);
        add(&BYTES_SENT, BYTES_SENT_TOTAL, bytes);
        SUMS.bytes_sent.add(bytes);
        static RECEIVED: PerQos = PerQos(OnceLock::new());
        static SENT: PerQos = PerQos(OnceLock::new());
        static DELIVERED: PerQos = PerQos(OnceLock::new());
        let [at_most_once, _, _] = self.sent;
        let [at_once, _, _] = &mut self.delivered;
        *at_once = at_most_once;
        DELIVERED.add(
            MESSAGES_DELIVERED_TOTAL,
            std::mem::take(&mut self.delivered),
        );
        RECEIVED.add(PUBLISH_RECEIVED_TOTAL, std::mem::take(&mut self.received));
        SENT.add(PUBLISH_SENT_TOTAL, std::mem::take(&mut self.sent));
        durations::deliveries(&mut self.timed);
    }
}

fn add(counter: &OnceLock<Counter>, name: &'static str, count: u64) {
    if count > 0 {
        counter.get_or_init(|| counter!(name)).increment(count);
    }
}

/// Packets by type, since somebody last asked.
#[derive(Debug, Default)]
pub(crate) struct PacketCounts([u16; PACKET_TYPES.len()]);

impl PacketCounts {
    /// One more. A pass of a connection handles far fewer than fit.
    pub(crate) fn add(&mut self, packet_type: PacketType) {
        let place = PACKET_TYPES
            .iter()
            .position(|(known, _)| *known == packet_type);
        if let Some(count) = place.and_then(|place| self.0.get_mut(place)) {
            *count = count.saturating_add(1);
        }
    }
}

/// Types with their label.
const PACKET_TYPES: [(PacketType, &str); 15] = [
    (PacketType::Publish, "publish"),
    (PacketType::Puback, "puback"),
    (PacketType::Pubrec, "pubrec"),
    (PacketType::Pubrel, "pubrel"),
    (PacketType::Pubcomp, "pubcomp"),
    (PacketType::Pingreq, "pingreq"),
    (PacketType::Pingresp, "pingresp"),
    (PacketType::Connect, "connect"),
    (PacketType::Connack, "connack"),
    (PacketType::Subscribe, "subscribe"),
    (PacketType::Suback, "suback"),
    (PacketType::Unsubscribe, "unsubscribe"),
    (PacketType::Unsuback, "unsuback"),
    (PacketType::Disconnect, "disconnect"),
    (PacketType::Auth, "auth"),
];

fn type_label(packet_type: PacketType) -> &'static str {
    let found = PACKET_TYPES.iter().find(|(known, _)| *known == packet_type);
    found.map_or("other", |(_, label)| label)
}

/// One counter per type of packet, looked up once.
struct PerType(OnceLock<[Counter; PACKET_TYPES.len()]>);

impl PerType {
    /// Adds the counts, and `publishes` more; returns how many packets that is.
    fn add(&self, name: &'static str, counts: &mut PacketCounts, publishes: u64) -> u64 {
        let counters = self
            .0
            .get_or_init(|| PACKET_TYPES.map(|(_, label)| counter!(name, "type" => label)));
        let mut sum = publishes;
        if let ([counter, ..], true) = (counters, publishes > 0) {
            counter.increment(publishes);
        }
        for (counter, count) in counters.iter().zip(std::mem::take(&mut counts.0)) {
            if count > 0 {
                counter.increment(u64::from(count));
                sum = sum.saturating_add(u64::from(count));
            }
        }
        sum
    }
}

/// A packet that says why went out.
pub(crate) fn reason_code_sent(packet: PacketType, code: ReasonCode) {
    let labels = [
        ("packet", SharedString::from(type_label(packet))),
        ("code", format!("0x{:02X}", code.as_u8()).into()),
    ];
    counter!(REASON_CODES_SENT_TOTAL, &labels).increment(1);
}

/// A CONNECT was accepted, so long after the connection was.
pub(crate) fn connected(after: Duration, outcome: SessionOutcome) {
    histogram!(CONNECT_DURATION_SECONDS).record(after);
    if outcome.is_resumed {
        counter!(SESSIONS_RESUMED_TOTAL).increment(1);
    } else {
        counter!(SESSIONS_CREATED_TOTAL).increment(1);
    }
    if outcome.is_discarded {
        counter!(SESSIONS_DISCARDED_TOTAL).increment(1);
    }
}

/// What a CONNECT did to the client's session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionOutcome {
    /// It goes on.
    pub(crate) is_resumed: bool,
    /// There was one, and it ended.
    pub(crate) is_discarded: bool,
}

/// A session's time without a connection was over.
pub(crate) fn session_expired() {
    counter!(SESSIONS_EXPIRED_TOTAL).increment(1);
}

/// A heartbeat was answered.
pub(crate) fn peer_rtt(peer: u16, rtt: Duration) {
    gauge!(PEER_RTT_SECONDS, "peer" => peer.to_string()).set(rtt.as_secs_f64());
}

/// Bytes of messages for a peer.
pub(crate) fn peer_sent_bytes(peer: u16) -> Counter {
    counter!(PEER_SENT_BYTES_TOTAL, "peer" => peer.to_string())
}

/// A message at QoS 0 found the queue to a peer full.
pub(crate) fn dropped_for_peer(peer: u16) {
    dropped("peer_queue_full");
    counter!(PEER_DROPPED_MESSAGES_TOTAL, "peer" => peer.to_string()).increment(1);
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
#[expect(clippy::cast_precision_loss, reason = "a gauge; exact below 2^53")]
pub(crate) fn certificate_expiry(listener: &str, seconds: i64) {
    gauge!(TLS_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, "listener" => listener.to_owned())
        .set(seconds as f64);
}

/// Files of a certificate have changed.
pub(crate) fn tls_reload(taken_over: bool) {
    let result = if taken_over { "reloaded" } else { "failed" };
    counter!(TLS_RELOADS_TOTAL, "result" => result).increment(1);
}

/// Room on the disk, in bytes, and how much must stay free.
#[expect(clippy::cast_precision_loss, reason = "gauges; exact below 2^53")]
pub(crate) fn disk(free: u64, least: u64) {
    gauge!(STORAGE_FREE_BYTES).set(free as f64);
    gauge!(STORAGE_FREE_LIMIT_BYTES).set(least as f64);
}

/// Bytes on the disk, by what they are for.
#[expect(clippy::cast_precision_loss, reason = "a gauge; exact below 2^53")]
pub(crate) fn storage_size(kind: &'static str, bytes: u64) {
    gauge!(STORAGE_SIZE_BYTES, "kind" => kind).set(bytes as f64);
}

/// The configuration was read again.
pub(crate) fn config_reloaded() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    gauge!(CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS).set(now.unwrap_or_default().as_secs_f64());
}

/// Whether the node is drained.
pub(crate) fn draining(is_draining: bool) {
    gauge!(DRAINING).set(if is_draining { 1.0 } else { 0.0 });
}

/// Whether a shard would lose its majority without this node.
pub(crate) fn quorum_critical(is_critical: bool) {
    gauge!(QUORUM_CRITICAL).set(if is_critical { 1.0 } else { 0.0 });
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
