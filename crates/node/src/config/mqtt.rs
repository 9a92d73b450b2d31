//! `[mqtt]`: what the broker grants to clients of the protocol.

use std::time::Duration;

use codec::{Qos, TopicName, Utf8};

use super::reader::Reader;
use super::value::Table;

/// `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttConfig {
    /// `max_packet_size`, bytes, 1KiB..256MiB: a larger packet ends its connection [MQTT-3.1.2-24].
    /// Default 1MiB: bounds what one client can make us buffer.
    pub max_packet_size: u32,
    /// `max_qos`, 0..2: the highest QoS of PUBLISHes and wills from clients, and of subscriptions.
    /// Default 2.
    pub max_qos: Qos,
    /// `receive_maximum`, 1..65535: unacknowledged QoS 1 and 2 publishes that we accept from one
    /// client. Default 100: hides a round trip of 10 ms at 10,000 messages a second.
    pub receive_maximum: u16,
    /// `topic_alias_maximum`, 0..65535: topic aliases that a v5 client may set, and the most that we set
    /// for one that takes them. Default 16: each keeps one topic name in memory.
    pub topic_alias_maximum: u16,
    /// `session_expiry_max`, seconds: caps the Session Expiry Interval that a client asks for; also
    /// what a 3.1.1 client with clean session 0 gets. Default 7d: a long weekend plus repair.
    pub session_expiry_max_s: u32,
    /// `keep_alive_max`, seconds: a v5 client that asks for more, or for none, gets this as Server
    /// Keep Alive. `None` (`"0s"`, the default): no cap, since a 3.1.1 client cannot be told one.
    pub keep_alive_max_s: Option<u16>,
    /// `retain_available`. Default true; false: retained PUBLISHes and wills are refused (0x9A).
    pub retain_available: bool,
    /// `shared_subscriptions`. Default true; false: `$share/…` is refused (0x9E).
    pub shared_subscriptions: bool,
    /// `wildcard_subscriptions`. Default true; false: filters with `+` or `#` are refused (0xA2).
    pub wildcard_subscriptions: bool,
    /// `validate_payload_format`: whether a payload that is said to be UTF-8 is looked at; if it is not,
    /// it is refused (0x99). Default false: it costs a pass over each such payload, and whoever reads
    /// the payload finds out anyhow.
    pub validate_payload_format: bool,
    /// `response_information`: what a v5 client is told that asks for Response Information, with `%c`
    /// for its client identifier. `None` (`""`, the default): nothing.
    pub response_information: Option<String>,
    /// `max_topic_levels`, 1..65536: levels of a topic or filter from a client. Default 64: what a
    /// match costs grows with them.
    pub topic_levels_max: u32,
    /// `max_topic_length`, bytes, 1..65535: length of a topic or filter from a client. Default
    /// 65535, the most that the protocol can say.
    pub topic_length_max: u16,
    /// `subscriptions_max`, 1..1000000: subscriptions of one session. Default 10000.
    pub subscriptions_max: u32,
    /// `connect_timeout`, 100ms..5m: how long a client may take to send CONNECT (section 3.1.4), and
    /// the cluster to open its session. Default 10s: an election and a slow network fit in.
    pub connect_timeout: Duration,
}

impl MqttConfig {
    /// Whether a topic or filter of a client is within this node's own limits.
    pub(crate) fn accepts_topic(&self, text: &str) -> bool {
        let levels = text.bytes().filter(|byte| *byte == b'/').count();
        let levels = u32::try_from(levels).unwrap_or(u32::MAX).saturating_add(1);
        text.len() <= usize::from(self.topic_length_max) && levels <= self.topic_levels_max
    }
}

impl MqttConfig {
    /// Basis for the response topics of one client (section 3.2.2.3.15). `None`: it is told none, also
    /// if its identifier makes no topic.
    pub(crate) fn response_information_for(&self, client_id: &str) -> Option<Utf8> {
        let pattern = self.response_information.as_deref()?;
        let text = Utf8::try_from(pattern.replace("%c", client_id).as_str()).ok()?;
        TopicName::try_from(text.clone()).ok().map(|_| text)
    }
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
    let retain_available = section.boolean("retain_available", true);
    let shared_subscriptions = section.boolean("shared_subscriptions", true);
    let topic_levels_max = section.integer("max_topic_levels", 64, 1..=65_536);
    let topic_length_max = section.integer("max_topic_length", u16::MAX, 1..=u16::MAX);
    let subscriptions_max = section.integer("subscriptions_max", 10_000, 1..=1_000_000);
    let connect_timeout =
        section.duration("connect_timeout", second * 10, second / 10..=second * 300);
    let max_qos: u8 = section.integer("max_qos", 2, 0..=2);
    let wildcard_subscriptions = section.boolean("wildcard_subscriptions", true);
    let validate_payload_format = section.boolean("validate_payload_format", false);
    let expected = "a topic without wildcards, %c for the client identifier, or \"\" for none";
    let response_information = section.parsed(
        "response_information",
        (None, ""),
        expected,
        |text| match text {
            "" => Some(None),
            text => TopicName::try_from(text)
                .ok()
                .map(|_| Some(text.to_owned())),
        },
    );
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
        max_qos: Qos::try_from(max_qos).unwrap_or(Qos::ExactlyOnce),
        receive_maximum,
        topic_alias_maximum,
        session_expiry_max_s: u32::try_from(session_expiry_max.as_secs())
            .unwrap_or(SESSION_EXPIRY_MAX_S),
        keep_alive_max_s: u16::try_from(keep_alive_max.as_secs())
            .ok()
            .filter(|seconds| *seconds > 0),
        retain_available,
        shared_subscriptions,
        wildcard_subscriptions,
        validate_payload_format,
        response_information,
        topic_levels_max,
        topic_length_max,
        subscriptions_max,
        connect_timeout,
    }
}
