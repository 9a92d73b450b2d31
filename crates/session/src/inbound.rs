//! Client → broker: the QoS 2 receiver's packet ids that wait for PUBREL (method B of figure 4.3:
//! the message is handed on at PUBLISH, the id is kept).
//!
//! QoS 1 needs no memory: after PUBACK the id is a new message [MQTT-4.3.2-5].
//!
//! Invariant: at most as many ids as the last `Connect` found plus our Receive Maximum; at most
//! 65,535. Ids of earlier connections are not held against the client, whose quota starts anew with
//! each connection (section 4.9): it may publish before it repeats its PUBRELs.

use std::collections::BTreeSet;

use codec::{PacketId, ReasonCode};

use crate::event::Output;
use crate::limits::SessionLimits;

/// The ids of received QoS 2 messages that are not yet released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    awaiting_pubrel: BTreeSet<PacketId>,
    ids_max: u16,
}

impl Inbound {
    pub(crate) fn new(limits: &SessionLimits) -> Self {
        Self {
            awaiting_pubrel: BTreeSet::new(),
            ids_max: limits.receive_maximum,
        }
    }

    /// As stored; `None` if there are more ids than `ids_max`.
    pub(crate) fn restore(awaiting_pubrel: BTreeSet<PacketId>, ids_max: u16) -> Option<Self> {
        let inbound = Self {
            awaiting_pubrel,
            ids_max,
        };
        (inbound.len() <= ids_max).then_some(inbound)
    }

    pub(crate) fn ids(&self) -> &BTreeSet<PacketId> {
        &self.awaiting_pubrel
    }

    pub(crate) fn ids_max(&self) -> u16 {
        self.ids_max
    }

    /// A new connection: our Receive Maximum counts from what is open now.
    pub(crate) fn on_connect(&mut self, limits: &SessionLimits) {
        self.ids_max = self.len().saturating_add(limits.receive_maximum);
    }

    /// A QoS 2 PUBLISH: remembers its id until PUBREL [MQTT-4.3.3-10].
    pub(crate) fn on_publish(&mut self, packet_id: PacketId) -> Output {
        if self.awaiting_pubrel.contains(&packet_id) {
            return Output::Received { first: false };
        }
        if self.len() >= self.ids_max {
            return Output::ReceiveMaximumExceeded;
        }
        self.awaiting_pubrel.insert(packet_id);
        Output::Received { first: true }
    }

    /// PUBREL: after it the id is a new message [MQTT-4.3.3-12]. An unknown id is normal after a
    /// PUBCOMP was lost [MQTT-4.3.3-11].
    pub(crate) fn on_pubrel(&mut self, packet_id: PacketId) -> Output {
        let reason_code = if self.awaiting_pubrel.remove(&packet_id) {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        Output::PubrelAnswered { reason_code }
    }

    fn len(&self) -> u16 {
        u16::try_from(self.awaiting_pubrel.len()).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        inflight_max: 1,
        receive_maximum: 2,
        queue_messages_max: 0,
        queue_bytes_max: 0,
        queue_overflow: crate::limits::QueueOverflow::Reject,
    };

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    /// [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12]
    #[test]
    fn an_id_is_a_repeat_until_pubrel_and_new_after_it() {
        let mut inbound = Inbound::new(&LIMITS);
        assert_eq!(inbound.on_publish(id(7)), Output::Received { first: true });
        assert_eq!(inbound.on_publish(id(7)), Output::Received { first: false });
        let released = Output::PubrelAnswered {
            reason_code: ReasonCode::Success,
        };
        assert_eq!(inbound.on_pubrel(id(7)), released);
        let unknown = Output::PubrelAnswered {
            reason_code: ReasonCode::PacketIdentifierNotFound,
        };
        assert_eq!(inbound.on_pubrel(id(7)), unknown);
        assert_eq!(inbound.on_publish(id(7)), Output::Received { first: true });
    }

    /// [MQTT-3.3.4-7]
    #[test]
    fn ids_beyond_the_receive_maximum_are_refused_and_not_remembered() {
        let mut inbound = Inbound::new(&LIMITS);
        inbound.on_publish(id(1));
        inbound.on_publish(id(2));
        assert_eq!(inbound.on_publish(id(3)), Output::ReceiveMaximumExceeded);
        assert_eq!(inbound.on_publish(id(2)), Output::Received { first: false });
        inbound.on_pubrel(id(1));
        assert_eq!(inbound.on_publish(id(3)), Output::Received { first: true });
    }

    /// [MQTT-4.9.0-1]
    #[test]
    fn ids_of_an_earlier_connection_are_not_held_against_the_client() {
        let mut inbound = Inbound::new(&LIMITS);
        inbound.on_publish(id(1));
        inbound.on_publish(id(2));
        inbound.on_connect(&LIMITS);
        assert_eq!(inbound.on_publish(id(3)), Output::Received { first: true });
        assert_eq!(inbound.on_publish(id(4)), Output::Received { first: true });
        assert_eq!(inbound.on_publish(id(5)), Output::ReceiveMaximumExceeded);
    }
}
