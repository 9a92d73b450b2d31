//! PUBLISH from a client, top to bottom, and its acknowledgement.

use std::collections::{BTreeMap, VecDeque};

use codec::{Ack, Message, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, TopicName};
use raft_store::{Command, Incarnation, NodeId, Response, ShardId, encode_message};
use session::{Input, Output};

use crate::clock;
use crate::config::Config;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::life::Destination;
use crate::proto::LivePublish;
use crate::proto::live_item::Kind as ItemKind;
use crate::session_place::SessionPlace;
use crate::waiter::LiveWaiter;

/// PUBLISHes and PUBRELs of one connection that are not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct PendingPublishes {
    /// In the order received: acknowledgements leave in this order [MQTT-4.6.0-2, -3].
    publishes: VecDeque<PendingPublish>,
    /// PUBRELs under way to the shard, by tag.
    releases: BTreeMap<u64, PacketId>,
}

#[derive(Debug)]
struct PendingPublish {
    tag: u64,
    packet_id: PacketId,
    qos: Qos,
    /// Shards and nodes that have not answered.
    awaited: u32,
    matched: bool,
    /// A queue was full, and the policy is to tell the publisher.
    rejected: bool,
}

impl PendingPublishes {
    /// As many are under way as we allow a client.
    pub(crate) fn is_full(&self, config: &Config) -> bool {
        let under_way = self.publishes.len().saturating_add(self.releases.len());
        under_way >= usize::from(config.mqtt.receive_maximum)
    }

    /// A node has received a message, or its life is over.
    pub(crate) fn received(&mut self, tag: u64) {
        if let Some(publish) = self.find(tag) {
            publish.awaited = publish.awaited.saturating_sub(1);
            publish.matched = true;
        }
    }

    fn find(&mut self, tag: u64) -> Option<&mut PendingPublish> {
        let index = self
            .publishes
            .binary_search_by_key(&tag, |publish| publish.tag)
            .ok()?;
        self.publishes.get_mut(index)
    }
}

impl Connection {
    /// One PUBLISH: to every shard and node that may have a subscriber. Its acknowledgement follows
    /// when all have answered, in `acknowledge_publishes`.
    pub(crate) fn on_publish(&mut self, publish: Publish) -> Result<(), End> {
        count::publish_received(publish.qos);
        let topic = self.topic_of(&publish)?;
        if publish.retain {
            return Err(End::violation(
                ReasonCode::RetainNotSupported,
                "a retained PUBLISH although CONNACK said Retain Available 0 [MQTT-3.2.2-14]",
            ));
        }
        let packet_id = publish.packet_id;
        let message = publish.into_message(topic);
        let routes = self
            .broker
            .dispatch
            .routes
            .route(&message.topic, message.qos);
        match (message.qos, packet_id) {
            (Qos::AtLeastOnce, Some(packet_id)) => {
                self.publish_everywhere(packet_id, &message, &routes.shards, &routes.nodes);
            }
            (Qos::ExactlyOnce, Some(packet_id)) => match &self.place {
                SessionPlace::Hosted(_) => {
                    self.receive_exactly_once(packet_id, message, routes.shards, &routes.nodes);
                }
                SessionPlace::Transient(_) => {
                    if self.is_first(packet_id)? {
                        self.publish_everywhere(packet_id, &message, &routes.shards, &routes.nodes);
                    } else {
                        self.answer_repeat(packet_id);
                    }
                }
            },
            // The decoder gives every other PUBLISH a packet id.
            (Qos::AtMostOnce | Qos::AtLeastOnce | Qos::ExactlyOnce, _) => {
                self.send_live(&message, &routes.nodes, None);
            }
        }
        Ok(())
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
            self.topic_aliases.insert(alias, topic.detached());
            return Ok(topic.clone());
        }
        self.topic_aliases.get(&alias).cloned().ok_or_else(|| {
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
        shards: &[ShardId],
        nodes: &[NodeId],
    ) {
        let tag = self.tag();
        self.propose_to_shards(tag, message, shards);
        let (remote, matched_here) = self.send_live(message, nodes, Some(tag));
        let asked = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        self.publishes.publishes.push_back(PendingPublish {
            tag,
            packet_id,
            qos: message.qos,
            awaited: asked.saturating_add(remote),
            matched: matched_here,
            rejected: false,
        });
    }

    /// One `Publish` per shard concerned; each answers under the same tag.
    fn propose_to_shards(&mut self, tag: u64, message: &Message, shards: &[ShardId]) {
        for shard in shards {
            let command = Command::Publish {
                client_id: self.client.client_id.clone(),
                epoch: self.client.epoch,
                message: message.clone(),
            };
            self.command(*shard, tag, &command);
        }
    }

    /// To connected sessions on these nodes. Returns how many peers will confirm the receipt, and
    /// whether a session of this node matched.
    fn send_live(&mut self, message: &Message, nodes: &[NodeId], tag: Option<u64>) -> (u32, bool) {
        let mut remote = 0_u32;
        let mut matched_here = false;
        let mut encoded = None;
        for node in nodes {
            if *node == self.broker.node {
                matched_here = self.deliver_here(message);
                continue;
            }
            let Some(link) = self.life.links.get(node) else {
                continue;
            };
            if tag.is_none() && link.is_full() {
                count::dropped("peer_queue_full");
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
        (remote, matched_here)
    }

    fn deliver_here(&self, message: &Message) -> bool {
        let registry = &self.life.registry;
        !registry.is_fenced(&self.client.client_id, self.client.epoch)
            && registry.deliver(&self.client.client_id, message) > 0
    }

    /// At QoS 2 from a hosted session: its shard records the packet id and hands the message on, in
    /// one step.
    fn receive_exactly_once(
        &mut self,
        packet_id: PacketId,
        message: Message,
        shards: Vec<ShardId>,
        nodes: &[NodeId],
    ) {
        let tag = self.tag();
        let nodes: Vec<(NodeId, Incarnation)> = nodes
            .iter()
            .filter_map(|node| Some((*node, self.life.incarnation_of(*node)?)))
            .collect();
        let matched = !shards.is_empty() || !nodes.is_empty();
        let command = Command::ReceiveExactlyOnce {
            client_id: self.client.client_id.clone(),
            epoch: self.client.epoch,
            packet_id,
            message,
            shards,
            nodes,
        };
        self.command(self.client.shard, tag, &command);
        self.publishes.publishes.push_back(PendingPublish {
            tag,
            packet_id,
            qos: Qos::ExactlyOnce,
            awaited: 1,
            matched,
            rejected: false,
        });
    }

    /// A transient session suppresses repeats in memory until PUBREL.
    fn is_first(&mut self, packet_id: PacketId) -> Result<bool, End> {
        let SessionPlace::Transient(session) = &mut self.place else {
            return Ok(true);
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

    /// A repeat gets its PUBREC, after those that are under way.
    fn answer_repeat(&mut self, packet_id: PacketId) {
        let tag = self.tag();
        self.publishes.publishes.push_back(PendingPublish {
            tag,
            packet_id,
            qos: Qos::ExactlyOnce,
            awaited: 0,
            matched: true,
            rejected: false,
        });
    }

    /// Takes the response to a `Publish`, `ReceiveExactlyOnce` or `Release`.
    pub(crate) fn on_publish_answer(&mut self, tag: u64, response: &Response) -> Result<(), End> {
        match response {
            Response::Published { matched, rejected } => {
                if let Some(publish) = self.publishes.find(tag) {
                    publish.awaited = publish.awaited.saturating_sub(1);
                    publish.matched |= *matched > 0;
                    publish.rejected |= *rejected;
                }
                Ok(())
            }
            Response::Received { .. } => {
                if let Some(publish) = self.publishes.find(tag) {
                    publish.awaited = publish.awaited.saturating_sub(1);
                }
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
            | Response::Unsubscribed { .. } => Ok(()),
        }
    }

    /// Sends the PUBACKs and PUBRECs that are due, in the order of the PUBLISHes.
    pub(crate) fn acknowledge_publishes(&mut self) {
        while let Some(publish) = self
            .publishes
            .publishes
            .pop_front_if(|publish| publish.awaited == 0)
        {
            let reason_code = match (publish.qos, publish.rejected, publish.matched) {
                (Qos::AtLeastOnce, true, _) => {
                    count::dropped("queue_full");
                    ReasonCode::QuotaExceeded
                }
                (_, _, true) => ReasonCode::Success,
                (_, _, false) => ReasonCode::NoMatchingSubscribers,
            };
            let ack = Ack::new(publish.packet_id, self.for_version(reason_code));
            let packet = match publish.qos {
                Qos::ExactlyOnce => Packet::Pubrec(ack),
                Qos::AtMostOnce | Qos::AtLeastOnce => Packet::Puback(ack),
            };
            self.wire.send(&packet, self.client.version);
        }
    }

    /// PUBREL: PUBCOMP follows when the id is free [MQTT-4.3.3-11].
    pub(crate) fn on_pubrel(&mut self, ack: &Ack) -> Result<(), End> {
        let packet_id = ack.packet_id;
        let reason_code = match &mut self.place {
            SessionPlace::Hosted(_) => {
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
