//! A packet in one line, for the history.

use codec::{Ack, Packet, Publish, Qos, ReasonCode};

/// Characters of a payload shown.
const PAYLOAD_MAX: usize = 40;

/// A packet in one line.
#[must_use]
pub fn summary(packet: &Packet) -> String {
    match packet {
        Packet::Connect(connect) => format!(
            "CONNECT {:?} {:?} clean_start={} expiry={:?} receive_maximum={:?} keep_alive={}",
            connect.version,
            connect.client_id.as_str(),
            u8::from(connect.clean_start),
            connect.session_expiry_interval,
            connect.receive_maximum,
            connect.keep_alive_s
        ),
        Packet::Connack(connack) => {
            let reason = reason(connack.reason_code);
            format!(
                "CONNACK{reason} session_present={}",
                u8::from(connack.session_present)
            )
        }
        Packet::Publish(publish) => publish_summary(publish),
        Packet::Puback(ack) => ack_summary("PUBACK", ack),
        Packet::Pubrec(ack) => ack_summary("PUBREC", ack),
        Packet::Pubrel(ack) => ack_summary("PUBREL", ack),
        Packet::Pubcomp(ack) => ack_summary("PUBCOMP", ack),
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.subscriptions.iter();
            let filters: Vec<String> = filters
                .map(|one| format!("{} q{}", one.filter.as_str(), one.options.qos.as_u8()))
                .collect();
            format!(
                "SUBSCRIBE id={} {}",
                subscribe.packet_id,
                filters.join(", ")
            )
        }
        Packet::Suback(suback) => {
            format!("SUBACK id={} {:?}", suback.packet_id, suback.reason_codes)
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<&str> = unsubscribe
                .filters
                .iter()
                .map(codec::TopicFilter::as_str)
                .collect();
            format!(
                "UNSUBSCRIBE id={} {}",
                unsubscribe.packet_id,
                filters.join(", ")
            )
        }
        Packet::Unsuback(unsuback) => format!(
            "UNSUBACK id={} {:?}",
            unsuback.packet_id, unsuback.reason_codes
        ),
        Packet::Pingreq => "PINGREQ".to_owned(),
        Packet::Pingresp => "PINGRESP".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT{}", reason(disconnect.reason_code)),
        Packet::Auth(auth) => format!("{auth:?}"),
    }
}

fn publish_summary(publish: &Publish) -> String {
    let id = match (publish.qos, publish.packet_id) {
        (Qos::AtMostOnce, _) | (_, None) => String::new(),
        (_, Some(id)) => format!(" id={id}"),
    };
    let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
    let payload: String = String::from_utf8_lossy(&publish.payload)
        .chars()
        .take(PAYLOAD_MAX)
        .collect();
    let dup = if publish.dup { " dup" } else { "" };
    let retain = if publish.retain { " retain" } else { "" };
    format!(
        "PUBLISH{id} q{}{dup}{retain} {topic} {payload:?}",
        publish.qos.as_u8()
    )
}

fn ack_summary(name: &str, ack: &Ack) -> String {
    format!("{name} id={}{}", ack.packet_id, reason(ack.reason_code))
}

fn reason(code: ReasonCode) -> String {
    match code {
        ReasonCode::Success => String::new(),
        code => format!(" 0x{:02X}", code.as_u8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::PacketId;

    #[test]
    fn a_publish_is_one_line() {
        let packet = Packet::Publish(Publish {
            dup: true,
            qos: Qos::ExactlyOnce,
            retain: false,
            packet_id: PacketId::new(7),
            topic: "a/b".try_into().ok(),
            topic_alias: None,
            payload: "one".into(),
            properties: codec::MessageProperties::default(),
            subscription_identifiers: Vec::new(),
        });
        assert_eq!(summary(&packet), "PUBLISH id=7 q2 dup a/b \"one\"");
    }
}
