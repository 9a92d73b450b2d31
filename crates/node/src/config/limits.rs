//! `[limits]`: what clients may make the cluster keep.

use super::mqtt::MqttConfig;
use super::reader::Reader;
use super::units::parse_size;
use super::value::{Kind, Table, Value};

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// `queue_max_messages`, 1..1000000000: messages that wait for one session. Default 100000.
    pub queue_max_messages: u64,
    /// `queue_max_bytes`, bytes, 1KiB..1TiB: the same in bytes. Default 256MiB: with the messages
    /// above, some 2.6 KiB each.
    pub queue_max_bytes: u64,
    /// `queue_overflow`: what happens to a message that finds its queue full. Default `reject`: the
    /// publisher is told, where the protocol can tell it.
    pub queue_overflow: QueueOverflow,
    /// `buffers_max_bytes`, bytes, 1MiB..1TiB: memory of one node for what is on its way to and from
    /// all its clients: live messages that wait, and the buffers of sockets. Default 256MiB: one
    /// subscriber may lag as far behind as `queue_max_bytes` allows, not several.
    pub buffers_max_bytes: u64,
    /// `inflight_max`, 1..65535: unacknowledged QoS 1 and 2 messages that we send to one client;
    /// its own Receive Maximum may be lower. Default 100, as for the other direction.
    pub inflight_max: u16,
    /// `retained_max`, 1..1000000000: retained messages in the whole cluster, divided among the
    /// shards. Default 1000000: with the bytes below, 1 KiB each.
    pub retained_max: u64,
    /// `retained_max_bytes`, bytes, 1KiB..1TiB: the same in bytes. Default 1GiB. They are kept in the
    /// memory of every node.
    pub retained_max_bytes: u64,
    /// `sessions_max`, 0..1000000000: sessions in the whole cluster, connected or not; one more is
    /// refused (0x97). Default 0: no limit, since only the operator knows how many clients there are.
    pub sessions_max: u64,
    /// `connect_rate`, 0..1000000: CONNECTs that one node looks at in a second, and as many at once;
    /// more are refused (0x9F). 0: no limit. Default 1000: each costs an entry of a shard's log.
    pub connect_rate: u32,
    /// `publish_rate`, 0..1000000: PUBLISHes that one client may send in a second, and as many at once;
    /// then it is not read. Default 0: no limit.
    pub publish_rate: u32,
    /// `byte_rate`, bytes, 0..1TiB: the same in bytes of all its packets. Default 0: no limit.
    pub byte_rate: u64,
    /// `memory_high`: resident memory of this process above which new connections are refused (0x89),
    /// until a twentieth less is used. Default 80% of what there is: the rest is for what connected
    /// clients make it keep.
    pub memory_high: MemoryHigh,
}

/// A bound on the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryHigh {
    /// `0`: none.
    Off,
    /// `"80%"`: of the machine's memory, or of the control group's if that is less.
    Percent(u8),
    /// A size.
    Bytes(u64),
}

/// What happens to a message for a queue that is full. Each loss is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueOverflow {
    /// `reject`: v5 QoS 1 publishers get reason code 0x97; otherwise as `DropNewest`.
    Reject,
    /// `drop_newest`: the new message is not queued.
    DropNewest,
    /// `drop_oldest`: the oldest queued message makes room.
    DropOldest,
    /// `disconnect`: the session's client is disconnected and the message not queued.
    Disconnect,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table, mqtt: &MqttConfig) -> LimitsConfig {
    let mut section = reader.section(root, "limits");
    let overflows = [
        ("reject", QueueOverflow::Reject),
        ("drop_newest", QueueOverflow::DropNewest),
        ("drop_oldest", QueueOverflow::DropOldest),
        ("disconnect", QueueOverflow::Disconnect),
    ];
    let config = LimitsConfig {
        queue_max_messages: section.integer("queue_max_messages", 100_000, 1..=1_000_000_000),
        queue_max_bytes: section.size("queue_max_bytes", 256 << 20, 1 << 10..=1 << 40),
        queue_overflow: section.choice(
            "queue_overflow",
            "reject",
            &overflows,
            QueueOverflow::Reject,
        ),
        buffers_max_bytes: section.size("buffers_max_bytes", 256 << 20, 1 << 20..=1 << 40),
        inflight_max: section.integer("inflight_max", 100, 1..=u16::MAX),
        retained_max: section.integer("retained_max", 1_000_000, 1..=1_000_000_000),
        retained_max_bytes: section.size("retained_max_bytes", 1 << 30, 1 << 10..=1 << 40),
        sessions_max: section.integer("sessions_max", 0, 0..=1_000_000_000),
        connect_rate: section.integer("connect_rate", 1_000, 0..=1_000_000),
        publish_rate: section.integer("publish_rate", 0, 0..=1_000_000),
        byte_rate: section.size("byte_rate", 0, 0..=1 << 40),
        memory_high: section.read(
            "memory_high",
            (MemoryHigh::Percent(80), "\"80%\"".to_owned()),
            memory_high,
        ),
    };
    section.finish();
    if config.queue_max_bytes < u64::from(mqtt.max_packet_size) {
        reader.conflict(
            &["mqtt.max_packet_size", "limits.queue_max_bytes"],
            "queue_max_bytes must be at least max_packet_size, or the largest messages never fit",
        );
    }
    if config.buffers_max_bytes < u64::from(mqtt.max_packet_size) {
        reader.conflict(
            &["mqtt.max_packet_size", "limits.buffers_max_bytes"],
            "buffers_max_bytes must be at least max_packet_size, or the largest packets never fit",
        );
    }
    config
}

fn memory_high(value: &Value) -> Result<MemoryHigh, String> {
    let bytes = match &value.kind {
        Kind::Integer(bytes) => u64::try_from(*bytes).ok(),
        Kind::Untyped(text) | Kind::String(text) => {
            if let Some(percent) = text.strip_suffix('%').and_then(|text| text.parse().ok())
                && (1..=100).contains(&percent)
            {
                return Ok(MemoryHigh::Percent(percent));
            }
            parse_size(text)
        }
        Kind::Float(_) | Kind::Boolean(_) | Kind::Datetime(_) | Kind::List(_) | Kind::Table(_) => {
            None
        }
    };
    match bytes {
        Some(0) => Ok(MemoryHigh::Off),
        Some(bytes) => Ok(MemoryHigh::Bytes(bytes)),
        None => {
            Err("expected \"1%\" to \"100%\", a size such as \"4GiB\", or 0 for none".to_owned())
        }
    }
}
