//! `[mqtt]`: what the broker grants to clients of the protocol.

use std::time::Duration;

use super::later;
use super::reader::Reader;
use super::value::Table;

/// `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttConfig {
    /// `max_packet_size`, bytes, 1KiB..256MiB: a larger packet ends its connection [MQTT-3.1.2-24].
    /// Default 1MiB: bounds what one client can make us buffer.
    pub max_packet_size: u32,
    /// `receive_maximum`, 1..65535: unacknowledged QoS 1 and 2 publishes that we accept from one
    /// client. Default 100: hides a round trip of 10 ms at 10,000 messages a second.
    pub receive_maximum: u16,
    /// `topic_alias_maximum`, 0..65535: topic aliases that a v5 client may set. Default 16: each
    /// keeps one topic name in memory.
    pub topic_alias_maximum: u16,
    /// `session_expiry_max`, seconds: caps the Session Expiry Interval that a client asks for; also
    /// what a 3.1.1 client with clean session 0 gets. Default 7d: a long weekend plus repair.
    pub session_expiry_max_s: u32,
    /// `keep_alive_max`, seconds: a v5 client that asks for more, or for none, gets this as Server
    /// Keep Alive. `None` (`"0s"`, the default): no cap, since a 3.1.1 client cannot be told one.
    pub keep_alive_max_s: Option<u16>,
}

/// The longest session expiry, seconds: 0xFFFFFFFF would mean "never" [MQTT5 3.1.2.11.2].
const SESSION_EXPIRY_MAX_S: u32 = u32::MAX - 1;

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> MqttConfig {
    let mut section = reader.section(root, "mqtt");
    let second = Duration::from_secs(1);
    let max_packet_size = section.size("max_packet_size", 1 << 20, 1 << 10..=256 << 20);
    let receive_maximum = section.integer("receive_maximum", 100, 1..=u16::MAX);
    let topic_alias_maximum = section.integer("topic_alias_maximum", 16, 0..=u16::MAX);
    let most = Duration::from_secs(u64::from(SESSION_EXPIRY_MAX_S));
    let session_expiry_max =
        section.duration("session_expiry_max", second * 604_800, second..=most);
    let keep_alive_max = section.duration(
        "keep_alive_max",
        Duration::ZERO,
        Duration::ZERO..=second * 65_535,
    );
    later::mqtt(&mut section);
    section.finish();
    for (key, duration) in [
        ("session_expiry_max", session_expiry_max),
        ("keep_alive_max", keep_alive_max),
    ] {
        if duration.subsec_nanos() != 0 {
            reader.conflict(&[&format!("mqtt.{key}")], "MQTT counts whole seconds");
        }
    }
    MqttConfig {
        // The ranges above make both conversions exact.
        max_packet_size: u32::try_from(max_packet_size).unwrap_or(u32::MAX),
        receive_maximum,
        topic_alias_maximum,
        session_expiry_max_s: u32::try_from(session_expiry_max.as_secs())
            .unwrap_or(SESSION_EXPIRY_MAX_S),
        keep_alive_max_s: u16::try_from(keep_alive_max.as_secs())
            .ok()
            .filter(|seconds| *seconds > 0),
    }
}
