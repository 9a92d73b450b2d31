//! What this node does less than the standard allows, because it is configured so: what CONNACK says
//! of it, and what happens to a client that does not listen.

use codec::{Message, PacketId, PayloadFormat, Publish, Qos, ReasonCode, TopicName, Will};

use crate::config::MqttConfig;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::refusal::Refused;

impl MqttConfig {
    /// Whether a will may be set by CONNECT.
    pub(crate) fn check_will(&self, will: &Will) -> Result<(), Refused> {
        let refused = |reason_code, cause| Err(Refused { reason_code, cause });
        let message = &will.message;
        if message.qos > self.max_qos {
            // [MQTT-3.2.2-12]
            return refused(ReasonCode::QosNotSupported, "max_qos");
        }
        if message.retain && !self.retain_available {
            // [MQTT-3.2.2-13]
            return refused(ReasonCode::RetainNotSupported, "retain");
        }
        if !self.accepts_topic(message.topic.as_str()) {
            return refused(ReasonCode::TopicNameInvalid, "topic");
        }
        if !self.accepts_payload(message) {
            return refused(ReasonCode::PayloadFormatInvalid, "payload_format");
        }
        Ok(())
    }

    /// Whether the payload is what its Payload Format Indicator says (section 3.3.2.3.2).
    fn accepts_payload(&self, message: &Message) -> bool {
        let format = message.properties.payload_format_indicator;
        !self.validate_payload_format
            || format != Some(PayloadFormat::Utf8)
            || std::str::from_utf8(&message.payload).is_ok()
    }
}

impl Connection {
    /// Limits of this node that CONNACK told of, and those that are no rules of the standard.
    pub(crate) fn check_publish(&self, publish: &Publish, topic: &TopicName) -> Result<(), End> {
        let mqtt = &self.broker.config.mqtt;
        if publish.qos > mqtt.max_qos {
            return Err(End::violation(
                ReasonCode::QosNotSupported,
                "a PUBLISH above the Maximum QoS of CONNACK [MQTT-3.2.2-11]",
            ));
        }
        if publish.retain && !mqtt.retain_available {
            return Err(End::violation(
                ReasonCode::RetainNotSupported,
                "a retained PUBLISH although CONNACK said Retain Available 0 [MQTT-3.2.2-14]",
            ));
        }
        if !mqtt.accepts_topic(topic.as_str()) {
            return Err(End::violation(
                ReasonCode::TopicNameInvalid,
                "a topic beyond max_topic_levels or max_topic_length",
            ));
        }
        Ok(())
    }

    /// Whether the payload of a new message is what it is said to be.
    pub(crate) fn accepts_payload(&self, message: &Message) -> bool {
        self.broker.config.mqtt.accepts_payload(message)
    }

    /// The payload is not what it is said to be: the message goes to nobody.
    pub(crate) fn refuse_payload(
        &mut self,
        packet_id: Option<PacketId>,
        qos: Qos,
    ) -> Result<(), End> {
        count::dropped("payload_format");
        let Some(packet_id) = packet_id else {
            return Err(End::violation(
                ReasonCode::PayloadFormatInvalid,
                "a payload that is not UTF-8 although it is said to be (section 3.3.2.3.2)",
            ));
        };
        self.refuse_publish(packet_id, qos, ReasonCode::PayloadFormatInvalid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use codec::MessageProperties;

    use super::*;
    use crate::config::Config;

    fn will(qos: Qos, payload: &'static [u8], format: Option<PayloadFormat>) -> Will {
        Will {
            message: Message {
                topic: TopicName::try_from("t").unwrap(),
                payload: Bytes::from_static(payload),
                qos,
                retain: false,
                properties: MessageProperties {
                    payload_format_indicator: format,
                    ..MessageProperties::default()
                },
            },
            delay_interval_s: 0,
        }
    }

    fn code(config: &MqttConfig, will: &Will) -> Option<ReasonCode> {
        config
            .check_will(will)
            .err()
            .map(|refused| refused.reason_code)
    }

    /// [MQTT-3.2.2-12]
    #[test]
    fn a_will_above_the_maximum_qos_is_refused() {
        let mut config = Config::default().mqtt;
        for (max, refused) in [(Qos::AtMostOnce, true), (Qos::AtLeastOnce, false)] {
            config.max_qos = max;
            let found = code(&config, &will(Qos::AtLeastOnce, b"", None));
            assert_eq!(found, refused.then_some(ReasonCode::QosNotSupported));
        }
    }

    #[test]
    fn a_payload_is_looked_at_only_where_that_is_asked_for() {
        let bad = will(Qos::AtMostOnce, b"\xFF", Some(PayloadFormat::Utf8));
        let mut config = Config::default().mqtt;
        assert_eq!(code(&config, &bad), None);
        config.validate_payload_format = true;
        assert_eq!(code(&config, &bad), Some(ReasonCode::PayloadFormatInvalid));
        for fine in [
            will(Qos::AtMostOnce, b"\xFF", None),
            will(Qos::AtMostOnce, b"\xFF", Some(PayloadFormat::Unspecified)),
            will(Qos::AtMostOnce, b"\xC3\xA4", Some(PayloadFormat::Utf8)),
        ] {
            assert_eq!(code(&config, &fine), None);
        }
    }
}
