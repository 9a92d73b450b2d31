//! PUBLISH from a client, top to bottom, and its acknowledgement.

use std::sync::Arc;

use codec::{Ack, Message, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, TopicName};
use raft_store::{Command, NodeId, Response, ShardId, encode_message};
use session::{Input, Output};

use crate::clock;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::hold::Hold;
use crate::life::Destination;
use crate::pending::{ParkedPublish, PendingPublish};
use crate::proto::LivePublish;
use crate::proto::live_item::Kind as ItemKind;
use crate::registry::LiveMessage;
use crate::routes::Routes;
use crate::session_place::SessionPlace;
use crate::shared::{SharedMessage, SharedWaiter};
use crate::shared_routes::{Place, SharedRoute};
use crate::sys_topics;
use crate::waiter::LiveWaiter;
use crate::wills;

impl Connection {
    /// One PUBLISH: to every shard and node that may have a subscriber, and to one member of each
    /// shared subscription. Its acknowledgement follows when all have answered, in
    /// `acknowledge_publishes`.
    pub(crate) fn on_publish(&mut self, publish: Publish) -> Result<(), End> {
        self.tally.received(publish.qos);
        let topic = self.topic_of(&publish)?;
        self.check_publish(&publish, &topic)?;
        if self.is_left_to_others(publish.qos) {
            return Ok(());
        }
        // What was taken under other rules was not refused: its repeat is not either, or the client would
        // use an id again that its session still holds.
        let was_taken = publish.qos == Qos::ExactlyOnce
            && (publish.packet_id).is_some_and(|id| self.place.holds_for_pubrel(id));
        if !was_taken && (!sys_topics::is_open(&topic) || !self.may_publish(&topic)) {
            self.refuse_topic(&publish);
            return Ok(());
        }
        let packet_id = publish.packet_id;
        let message = publish.into_message(topic);
        if let (Qos::ExactlyOnce, Some(packet_id)) = (message.qos, packet_id)
            && !self.is_first(packet_id)?
        {
            self.answer_repeat(packet_id, message);
            return Ok(());
        }
        if !self.accepts_payload(&message) {
            return self.refuse_payload(packet_id, message.qos);
        }
        if self.has_no_room_for(message.qos, message.retain) {
            return self.refuse_for_want_of_room(packet_id, message.qos);
        }
        if message.retain {
            self.set_retained(packet_id, message);
        } else {
            self.hand_on(packet_id, message, None);
        }
        Ok(())
    }

    /// The client may not publish there, as nobody may below `$SYS/`: nobody gets the message. 3.1.1 has
    /// no way to say so.
    fn refuse_topic(&mut self, publish: &Publish) {
        count::dropped("acl");
        if let Some(packet_id) = publish.packet_id {
            self.refuse_publish(packet_id, publish.qos, ReasonCode::NotAuthorized);
        }
    }

    /// Stores a retained message in its topic's shard; `hand_on` follows the answer, and until then
    /// nothing more is taken from the client.
    fn set_retained(&mut self, packet_id: Option<PacketId>, message: Message) {
        let tag = self.tag();
        let shard = self.broker.shard_of_topic(&message.topic);
        let command = Command::SetRetained {
            client_id: self.client.client_id.clone(),
            epoch: Some(self.client.epoch),
            message: message.clone(),
            limits: self.broker.retained_limits(),
        };
        self.parked = Some(Box::new(ParkedPublish {
            tag,
            packet_id,
            message,
            since: self.arrived,
        }));
        self.command(shard, tag, &command);
    }

    /// The topic's shard has stored the message, or has no room for it.
    fn on_retained_answer(&mut self, tag: u64, version: Option<u64>) {
        let Some(parked) = self.parked.take_if(|parked| parked.tag == tag) else {
            return;
        };
        let ParkedPublish {
            packet_id,
            message,
            since,
            ..
        } = *parked;
        if version.is_some() {
            let pass = std::mem::replace(&mut self.arrived, since);
            self.hand_on(packet_id, message, version);
            self.arrived = pass;
            return;
        }
        count::dropped("retained_full");
        if let Some(packet_id) = packet_id {
            self.refuse_publish(packet_id, message.qos, ReasonCode::QuotaExceeded);
        }
    }

    /// A new message to everybody who may have a subscriber.
    fn hand_on(
        &mut self,
        packet_id: Option<PacketId>,
        message: Message,
        retained_version: Option<u64>,
    ) {
        let routes = self
            .broker
            .dispatch
            .routes
            .route(&message.topic, message.qos);
        match (message.qos, packet_id, &self.place) {
            (Qos::ExactlyOnce, Some(packet_id), SessionPlace::Hosted(_)) => {
                self.receive_exactly_once(packet_id, message, routes, retained_version);
            }
            (Qos::AtLeastOnce | Qos::ExactlyOnce, Some(packet_id), _) => {
                self.publish_everywhere(packet_id, &message, routes, retained_version);
            }
            // The decoder gives every other PUBLISH a packet id.
            (Qos::AtMostOnce | Qos::AtLeastOnce | Qos::ExactlyOnce, _, _) => {
                self.send_live(&message, &routes.nodes, None, retained_version);
                self.send_shared(&message, routes.shared, None);
            }
        }
    }

    /// The topic by name, or by an alias of this connection [MQTT-3.3.2-7].
    fn topic_of(&mut self, publish: &Publish) -> Result<TopicName, End> {
        let Some(alias) = publish.topic_alias else {
            return publish.topic.clone().ok_or_else(|| {
                End::violation(
                    ReasonCode::ProtocolError,
                    "no topic and no alias [MQTT-3.3.2-1]",
                )
            });
        };
        let max = self.broker.config.mqtt.topic_alias_maximum;
        if alias.get() > max {
            return Err(End::violation(
                ReasonCode::TopicAliasInvalid,
                "alias above our Topic Alias Maximum [MQTT-3.3.2-9]",
            ));
        }
        if let Some(topic) = &publish.topic {
            self.inbound_aliases.define(alias, topic);
            return Ok(topic.clone());
        }
        self.inbound_aliases.topic(alias).cloned().ok_or_else(|| {
            End::violation(
                ReasonCode::ProtocolError,
                "unknown topic alias (section 3.3.2.3.4)",
            )
        })
    }

    /// At QoS 1, and at QoS 2 from a transient session: to shards and nodes directly.
    fn publish_everywhere(
        &mut self,
        packet_id: PacketId,
        message: &Message,
        routes: Routes,
        retained_version: Option<u64>,
    ) {
        let tag = self.tag();
        self.propose_to_shards(tag, message, &routes.shards, retained_version);
        let (awaited_live, matched_here) =
            self.send_live(message, &routes.nodes, Some(tag), retained_version);
        let groups = self.send_shared(message, routes.shared, Some(tag));
        let asked = u32::try_from(routes.shards.len()).unwrap_or(u32::MAX);
        self.publishes.begin(PendingPublish {
            bytes: message.size(),
            awaited: asked.saturating_add(awaited_live).saturating_add(groups),
            matched: matched_here,
            ..PendingPublish::new(tag, packet_id, message.qos)
        });
    }

    /// One `Publish` per shard concerned; each answers under the same tag.
    fn propose_to_shards(
        &mut self,
        tag: u64,
        message: &Message,
        shards: &[ShardId],
        retained_version: Option<u64>,
    ) {
        for shard in shards {
            let command = Command::Publish {
                client_id: self.client.client_id.clone(),
                epoch: self.client.epoch,
                message: message.clone(),
                retained_version,
            };
            self.command(*shard, tag, &command);
        }
    }

    /// To one member of each shared subscription that matches. Returns how many outcomes follow.
    fn send_shared(
        &mut self,
        message: &Message,
        groups: Vec<SharedRoute>,
        tag: Option<u64>,
    ) -> u32 {
        let mut awaited = 0_u32;
        for SharedRoute { filter, place } in groups {
            let waiter = tag.map(|tag| {
                awaited = awaited.saturating_add(1);
                SharedWaiter {
                    mailbox: Arc::clone(&self.mailbox),
                    tag,
                }
            });
            let publisher = (self.client.client_id.clone(), self.client.epoch);
            let shared = SharedMessage::published(publisher, filter, message, waiter);
            self.life.share(shared, place);
            self.wait_if_full(Destination::Shared);
            match place {
                Some(Place::Shard(shard)) => self.wait_if_full(Destination::Shard(shard)),
                Some(Place::Node(node)) => self.wait_if_full(Destination::Peer(node)),
                None => {}
            }
        }
        self.outstanding = self.outstanding.saturating_add(u64::from(awaited));
        awaited
    }

    /// To connected sessions on these nodes. Returns how many receipts of peers and slow subscribers
    /// of this node there are to wait for, and whether a session of this node matched.
    fn send_live(
        &mut self,
        message: &Message,
        nodes: &[NodeId],
        tag: Option<u64>,
        retained_version: Option<u64>,
    ) -> (u32, bool) {
        let mut remote = 0_u32;
        let mut slow_here = 0_u32;
        let mut matched_here = false;
        let mut encoded = None;
        for node in nodes {
            if *node == self.broker.node {
                (slow_here, matched_here) = self.deliver_here(message, tag, retained_version);
                continue;
            }
            let Some(link) = self.life.links.get(node) else {
                continue;
            };
            if tag.is_none() && link.is_full() {
                count::dropped_for_peer(node.0);
                continue;
            }
            let message = encoded
                .get_or_insert_with(|| encode_message(message))
                .clone();
            let bytes = message.len();
            let publish = LivePublish {
                client_id: self.client.client_id.as_str().to_owned(),
                epoch: self.client.epoch.0,
                message,
                retained_version,
            };
            let waiter = tag.map(|tag| {
                remote = remote.saturating_add(1);
                LiveWaiter::new(self.mailbox.clone(), tag)
            });
            link.send(ItemKind::Publish(publish), bytes, waiter);
            self.waits_for = link
                .is_full()
                .then_some(Destination::Peer(*node))
                .or(self.waits_for);
        }
        self.outstanding = self.outstanding.saturating_add(u64::from(remote));
        (remote.saturating_add(slow_here), matched_here)
    }

    /// To connected sessions here. Returns how many slow subscribers the acknowledgement waits for, 0
    /// or 1, and whether a session matched.
    fn deliver_here(
        &self,
        message: &Message,
        tag: Option<u64>,
        retained_version: Option<u64>,
    ) -> (u32, bool) {
        let registry = &self.life.registry;
        if registry.is_fenced(&self.client.client_id, self.client.epoch) {
            return (0, false);
        }
        let live_message = LiveMessage {
            message,
            expires_at: clock::expires_at(message),
            retained_version,
            since: Some(self.arrived),
        };
        let delivered = registry.deliver(&self.client.client_id, &live_message);
        let (Some(tag), Some(lagging)) = (tag, &delivered.lagging) else {
            return (0, delivered.matched > 0);
        };
        let waiter = LiveWaiter::new(Arc::clone(&self.mailbox), tag);
        let is_held = lagging.hold(Hold::Here(waiter)).is_ok();
        (u32::from(is_held), delivered.matched > 0)
    }

    /// At QoS 2 from a hosted session: its shard records the packet id and hands the message on, in
    /// one step.
    fn receive_exactly_once(
        &mut self,
        packet_id: PacketId,
        message: Message,
        routes: Routes,
        retained_version: Option<u64>,
    ) {
        if let SessionPlace::Hosted(hosted) = &mut self.place {
            hosted.awaiting_pubrel.insert(packet_id);
        }
        let tag = self.tag();
        let nodes = wills::lives(&self.life, &routes.nodes);
        let shared = wills::shared_targets(&self.life, routes.shared, Qos::ExactlyOnce);
        let matched = !routes.shards.is_empty() || !nodes.is_empty() || !shared.is_empty();
        let bytes = message.size();
        let command = Command::ReceiveExactlyOnce {
            client_id: self.client.client_id.clone(),
            epoch: self.client.epoch,
            packet_id,
            message,
            shards: routes.shards,
            nodes,
            retained_version,
            shared,
        };
        self.command(self.client.shard, tag, &command);
        self.publishes.begin(PendingPublish {
            bytes,
            awaited: 1,
            matched,
            ..PendingPublish::new(tag, packet_id, Qos::ExactlyOnce)
        });
    }

    /// Whether a QoS 2 PUBLISH is a new message. A transient session remembers the packet id here,
    /// until PUBREL.
    fn is_first(&mut self, packet_id: PacketId) -> Result<bool, End> {
        let session = match &mut self.place {
            SessionPlace::Hosted(_) => return Ok(!self.place.holds_for_pubrel(packet_id)),
            SessionPlace::Transient(session) => session,
        };
        let mut outputs = Vec::new();
        session.apply(
            clock::timestamp(),
            Input::ReceiveExactlyOnce { packet_id },
            &mut outputs,
        );
        match outputs.first() {
            Some(Output::Received { first }) => Ok(*first),
            _ => Err(receive_maximum_exceeded()),
        }
    }

    /// A repeat gets its PUBREC, after those that are under way, and changes nothing: neither is it
    /// handed on again, nor stored again over a newer retained message. Of a hosted session its shard
    /// has the last word.
    fn answer_repeat(&mut self, packet_id: PacketId, message: Message) {
        if matches!(self.place, SessionPlace::Hosted(_)) {
            self.receive_exactly_once(packet_id, message, Routes::default(), None);
            // Who got the message is not known any more: no "no matching subscribers".
            self.publishes.last_matched();
            return;
        }
        let tag = self.tag();
        self.publishes.begin(PendingPublish {
            matched: true,
            ..PendingPublish::new(tag, packet_id, Qos::ExactlyOnce)
        });
    }

    /// Takes the response to a `Publish`, `ReceiveExactlyOnce`, `SetRetained` or `Release`.
    pub(crate) fn on_publish_answer(&mut self, tag: u64, response: &Response) -> Result<(), End> {
        match response {
            Response::Published { matched, rejected } => {
                if let Some(publish) = self.publishes.find(tag) {
                    publish.answered();
                    publish.matched |= *matched > 0;
                    if *rejected {
                        count::dropped("queue_full");
                        publish.refused = Some(ReasonCode::QuotaExceeded);
                    }
                }
                Ok(())
            }
            Response::Received { .. } => {
                if let Some(publish) = self.publishes.find(tag) {
                    publish.answered();
                }
                Ok(())
            }
            Response::RetainedSet { version } => {
                self.on_retained_answer(tag, Some(*version));
                Ok(())
            }
            Response::RetainedFull => {
                self.on_retained_answer(tag, None);
                Ok(())
            }
            Response::ReceiveMaximumExceeded => Err(receive_maximum_exceeded()),
            Response::Released { reason_code } => {
                if let Some(packet_id) = self.publishes.releases.remove(&tag) {
                    self.send_pubcomp(packet_id, *reason_code);
                }
                Ok(())
            }
            Response::Done
            | Response::Refused(_)
            | Response::NodeUp { .. }
            | Response::Connected { .. }
            | Response::Subscribed { .. }
            | Response::Unsubscribed { .. }
            | Response::RetainedDelivered { .. }
            | Response::Claimed { .. }
            | Response::TookOutbox { .. } => Ok(()),
        }
    }

    /// PUBREL: PUBCOMP follows when the id is free [MQTT-4.3.3-11].
    pub(crate) fn on_pubrel(&mut self, ack: &Ack) -> Result<(), End> {
        let packet_id = ack.packet_id;
        let reason_code = match &mut self.place {
            SessionPlace::Hosted(hosted) => {
                hosted.awaiting_pubrel.remove(&packet_id);
                let tag = self.tag();
                self.publishes.releases.insert(tag, packet_id);
                let command = Command::Release {
                    client_id: self.client.client_id.clone(),
                    epoch: self.client.epoch,
                    packet_id,
                };
                self.command(self.client.shard, tag, &command);
                return Ok(());
            }
            SessionPlace::Transient(session) => {
                let mut outputs = Vec::new();
                session.apply(
                    clock::timestamp(),
                    Input::Pubrel { packet_id },
                    &mut outputs,
                );
                match outputs.first() {
                    Some(Output::PubrelAnswered { reason_code }) => *reason_code,
                    _ => ReasonCode::PacketIdentifierNotFound,
                }
            }
        };
        self.send_pubcomp(packet_id, reason_code);
        Ok(())
    }

    fn send_pubcomp(&mut self, packet_id: PacketId, reason_code: ReasonCode) {
        let ack = Ack::new(packet_id, self.for_version(reason_code));
        self.wire.send(&Packet::Pubcomp(ack), self.client.version);
    }

    /// Before 5.0 acknowledgements have no reason code.
    pub(crate) fn for_version(&self, reason_code: ReasonCode) -> ReasonCode {
        match self.client.version {
            ProtocolVersion::V5 => reason_code,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::Success,
        }
    }
}

fn receive_maximum_exceeded() -> End {
    End::violation(
        ReasonCode::ReceiveMaximumExceeded,
        "more QoS 2 messages than our Receive Maximum allows [MQTT-3.3.4-7]",
    )
}
