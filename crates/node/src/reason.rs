//! Reason Strings: why something was refused, for the person who reads the client's log.
//!
//! Invariants:
//! - Only a 5.0 client gets one, and none that set Request Problem Information to 0 [MQTT-3.1.2-29].
//! - No packet grows beyond the client's Maximum Packet Size by it [MQTT-3.2.2-19, MQTT-3.14.2-3].

use codec::{Connect, Packet, ProtocolVersion, ReasonCode, Utf8, encoded_len};

use crate::client::Client;
use crate::wire::Wire;

/// Whom something is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audience {
    version: ProtocolVersion,
    packet_bytes_max: usize,
    wants_reasons: bool,
}

impl Audience {
    /// The sender of a CONNECT.
    pub(crate) fn of(connect: &Connect) -> Self {
        Self {
            version: connect.version,
            packet_bytes_max: packet_bytes_max(connect),
            wants_reasons: wants_reasons(connect),
        }
    }

    /// Whether a packet is within the client's Maximum Packet Size [MQTT-3.1.2-24].
    pub(crate) fn takes(&self, packet: &Packet) -> bool {
        encoded_len(packet, self.version).is_ok_and(|bytes| bytes <= self.packet_bytes_max)
    }

    /// The packet with a Reason String, if the client may get one and both fit.
    fn explained(&self, packet: Packet, text: &str) -> Packet {
        if self.version != ProtocolVersion::V5 || !self.wants_reasons || text.is_empty() {
            return packet;
        }
        let mut explained = packet.clone();
        set_reason_string(&mut explained, Utf8::try_from(text).ok());
        if self.takes(&explained) {
            explained
        } else {
            packet
        }
    }

    /// Sends a packet that may refuse something. One that is too large even without Reason String is
    /// discarded, as the standard has it (section 3.1.2.11.4).
    pub(crate) fn tell(&self, wire: &mut Wire, packet: Packet, text: &str) {
        let packet = self.explained(packet, text);
        if self.takes(&packet) {
            wire.send(&packet, self.version);
        }
    }
}

impl Client {
    /// Whom this client's connection tells why it refuses something.
    pub(crate) fn audience(&self) -> Audience {
        Audience {
            version: self.version,
            packet_bytes_max: self.packet_bytes_max,
            wants_reasons: self.wants_reasons,
        }
    }
}

/// Maximum Packet Size of the client; absent: what the protocol allows.
pub(crate) fn packet_bytes_max(connect: &Connect) -> usize {
    let told = connect.maximum_packet_size;
    told.and_then(|bytes| usize::try_from(bytes.get()).ok())
        .unwrap_or(usize::MAX)
}

/// Absent means yes.
pub(crate) fn wants_reasons(connect: &Connect) -> bool {
    connect.request_problem_information.unwrap_or(true)
}

fn set_reason_string(packet: &mut Packet, text: Option<Utf8>) {
    match packet {
        Packet::Connack(connack) => connack.reason_string = text,
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.reason_string = text;
        }
        Packet::Suback(suback) => suback.reason_string = text,
        Packet::Unsuback(unsuback) => unsuback.reason_string = text,
        Packet::Disconnect(disconnect) => disconnect.reason_string = text,
        Packet::Auth(auth) => auth.reason_string = text,
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::Pingreq
        | Packet::Pingresp => {}
    }
}

/// What the person should know, by cause as in the logs and metrics. "": nothing beyond the code.
pub(crate) fn of_cause(cause: &str) -> &'static str {
    let found = CAUSES.iter().find(|(known, _)| *known == cause);
    found.map_or("", |(_, text)| text)
}

/// What a person should know, by cause as in the logs and metrics.
const CAUSES: [(&str, &str); 31] = [
    (
        "acl",
        "the rules do not let this client publish what its will says",
    ),
    (
        "anonymous",
        "this listener takes no client without credentials",
    ),
    ("authentication", "user name or password is wrong"),
    (
        "authentication_method",
        "the authentication method is not known here",
    ),
    (
        "banned",
        "the client, its user name or its network is banned",
    ),
    (
        "buffers_full",
        "the memory for buffers of this node is used up",
    ),
    ("certificate", "the client certificate names nobody"),
    ("client_id", "the client identifier is not valid"),
    (
        "connect_rate",
        "too many connections a second, try again later",
    ),
    (
        "credentials_revoked",
        "what this client has shown is not taken any more",
    ),
    ("disk", "the disk of this node is full"),
    ("drain", "this node stops, connect again"),
    (
        "keepalive",
        "no packet within one and a half times the keep alive",
    ),
    ("kicked", "an administrator closed this connection"),
    (
        "login_failures",
        "too many failed logins, try again in a minute",
    ),
    ("login_queue", "too many logins at once, try again later"),
    (
        "max_qos",
        "the QoS of the will is above the Maximum QoS of this server",
    ),
    (
        "maximum_packet_size",
        "CONNACK is larger than the Maximum Packet Size of the client",
    ),
    (
        "memory_high",
        "this node is short of memory, try again later",
    ),
    (
        "no_lease",
        "this node cannot reach a majority of its cluster, try another one",
    ),
    (
        "no_quorum",
        "this node cannot reach a majority of its cluster, try another one",
    ),
    ("owner", "the session belongs to another user"),
    ("overload", "more waited for this client than may wait"),
    ("password", "user name or password is wrong"),
    ("payload_format", NOT_UTF8),
    (
        "retain",
        "the will is retained, and retained messages are off",
    ),
    ("sessions_max", "there are as many sessions as there may be"),
    ("token", "the token is not valid"),
    (
        "token_expired",
        "the token has expired, connect with a new one",
    ),
    ("takeover", "another connection uses this client identifier"),
    (
        "topic",
        "the topic of the will is longer or has more levels than allowed",
    ),
];

/// Why a PUBLISH was answered by an error.
pub(crate) fn of_publish(code: ReasonCode) -> &'static str {
    const TEXTS: [(ReasonCode, &str); 3] = [
        (ReasonCode::NotAuthorized, DENIED),
        (
            ReasonCode::QuotaExceeded,
            "a queue, the store of retained messages or the disk of this node is full",
        ),
        (ReasonCode::PayloadFormatInvalid, NOT_UTF8),
    ];
    of_code(&TEXTS, code)
}

/// Why a SUBSCRIBE was refused: of the first filter that was.
pub(crate) fn of_subscribe(codes: &[ReasonCode]) -> String {
    const TEXTS: [(ReasonCode, &str); 5] = [
        (ReasonCode::NotAuthorized, DENIED),
        (
            ReasonCode::SharedSubscriptionsNotSupported,
            "shared subscriptions are off",
        ),
        (
            ReasonCode::WildcardSubscriptionsNotSupported,
            "wildcard subscriptions are off",
        ),
        (
            ReasonCode::TopicFilterInvalid,
            "longer or more levels than allowed",
        ),
        (
            ReasonCode::QuotaExceeded,
            "the session has as many subscriptions as it may have",
        ),
    ];
    let first = (1_usize..).zip(codes).find(|(_, code)| code.is_error());
    let Some((place, code)) = first else {
        return String::new();
    };
    match of_code(&TEXTS, *code) {
        "" => String::new(),
        text => format!("filter {place}: {text}"),
    }
}

const DENIED: &str = "the rules do not allow it";

const NOT_UTF8: &str = "the Payload Format Indicator says UTF-8, and the payload is not";

fn of_code(texts: &[(ReasonCode, &'static str)], code: ReasonCode) -> &'static str {
    let found = texts.iter().find(|(known, _)| *known == code);
    found.map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use codec::{Ack, Disconnect, PacketId};

    use super::*;

    fn audience(packet_bytes_max: usize) -> Audience {
        Audience {
            version: ProtocolVersion::V5,
            packet_bytes_max,
            wants_reasons: true,
        }
    }

    fn disconnect(reason_string: Option<&str>) -> Packet {
        Packet::Disconnect(Disconnect {
            reason_string: reason_string.map(|text| Utf8::try_from(text).unwrap()),
            ..Disconnect::new(ReasonCode::ProtocolError)
        })
    }

    /// [MQTT-3.14.2-3]
    #[test]
    fn a_reason_string_is_left_out_where_it_does_not_fit() {
        // E0, length, 82, property length, 1F, two bytes of length, "why".
        let with = disconnect(Some("why"));
        assert_eq!(encoded_len(&with, ProtocolVersion::V5), Ok(10));
        assert_eq!(audience(10).explained(disconnect(None), "why"), with);
        let without = disconnect(None);
        assert_eq!(audience(9).explained(disconnect(None), "why"), without);
        assert!(audience(3).takes(&without) && !audience(2).takes(&without));
    }

    /// [MQTT-3.1.2-29]
    #[test]
    fn who_asked_for_no_problem_information_gets_none() {
        let deaf = Audience {
            wants_reasons: false,
            ..audience(usize::MAX)
        };
        let puback = || Packet::Puback(Ack::new(PacketId::MIN, ReasonCode::QuotaExceeded));
        assert_eq!(deaf.explained(puback(), "why"), puback());
        assert_ne!(audience(100).explained(puback(), "why"), puback());
        let old = Audience {
            version: ProtocolVersion::V311,
            ..audience(100)
        };
        assert_eq!(old.explained(puback(), "why"), puback());
    }

    #[test]
    fn a_suback_speaks_of_the_first_filter_that_was_refused() {
        let codes = [
            ReasonCode::GrantedQos1,
            ReasonCode::WildcardSubscriptionsNotSupported,
            ReasonCode::QuotaExceeded,
        ];
        let text = of_subscribe(&codes);
        assert_eq!(text, "filter 2: wildcard subscriptions are off");
        assert_eq!(of_subscribe(&[ReasonCode::Success]), "");
    }
}
