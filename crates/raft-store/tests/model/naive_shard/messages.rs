//! Messages: into the sessions of this shard, and through the outbox.

use std::sync::Arc;

use codec::{ClientId, Message, PacketId, Qos};
use raft_store::{
    Effect, Epoch, Incarnation, NodeId, OutboxItem, OutboxTarget, Refusal, Response, ShardId,
};
use session::{Delivery, DropCause, StoredMessage, Subscription};

use super::{NaiveShard, stale};

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]; no topic of these tests begins with `$`.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, mut topic) = (filter.split('/'), topic.split('/'));
    for level in filter {
        match (level, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, found) if Some(level) == found => {}
            (_, _) => return false,
        }
    }
    topic.next().is_none()
}

impl NaiveShard {
    pub(super) fn publish(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        message: Message,
    ) -> Response {
        let fenced = self
            .fences
            .get(client_id)
            .is_some_and(|fence| epoch < *fence);
        let replaced = self
            .clients
            .get(client_id)
            .is_some_and(|client| client.epoch != epoch);
        if fenced || replaced {
            return stale();
        }
        let (matched, rejected) = self.deliver_here(client_id, &body(message));
        Response::Published { matched, rejected }
    }

    pub(super) fn receive_exactly_once(
        &mut self,
        (client_id, epoch, packet_id): (&ClientId, Epoch, PacketId),
        message: Message,
        shards: &[ShardId],
        nodes: &[(NodeId, Incarnation)],
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        match session.receive_exactly_once(packet_id) {
            Some(true) => {}
            Some(false) => return Response::Received { first: false },
            None => return Response::ReceiveMaximumExceeded,
        }
        let item = OutboxItem {
            publisher: client_id.clone(),
            body: body(message),
        };
        for shard in shards {
            if *shard == self.shard {
                self.deliver_here(client_id, &item.body);
            } else {
                self.put(OutboxTarget::Shard(*shard), item.clone());
            }
        }
        for &(node, incarnation) in nodes {
            if !self.is_over(node, incarnation) {
                let number = self.put(OutboxTarget::Node(node, incarnation), item.clone());
                let item = item.clone();
                self.effects.push(Effect::LiveOutbox {
                    node,
                    incarnation,
                    number,
                    item,
                });
            }
        }
        Response::Received { first: true }
    }

    fn put(&mut self, target: OutboxTarget, item: OutboxItem) -> u64 {
        let target = self.outbox.entry(target).or_default();
        target.given += 1;
        target.items.insert(target.given, item);
        target.given
    }

    pub(super) fn take_outbox(
        &mut self,
        source: ShardId,
        first: u64,
        items: Vec<OutboxItem>,
    ) -> Response {
        for (index, item) in items.into_iter().enumerate() {
            let number = first.saturating_add(index as u64);
            let taken = self.taken.get(&source).copied().unwrap_or(0);
            if number > taken + 1 {
                return Response::Refused(Refusal::Malformed);
            }
            if number == taken + 1 {
                self.deliver_here(&item.publisher, &body(item.body.message.clone()));
                self.taken.insert(source, number);
            }
        }
        Response::Done
    }

    /// Every session with a matching subscription, once [MQTT-3.3.4-2] [MQTT-3.3.4-4].
    fn deliver_here(&mut self, publisher: &ClientId, body: &Arc<StoredMessage>) -> (u32, bool) {
        let (mut matched, mut rejected) = (0, false);
        let ids: Vec<ClientId> = self.clients.keys().cloned().collect();
        for client_id in ids {
            let client = self.clients.get_mut(&client_id).unwrap();
            let Some(session) = &mut client.session else {
                continue;
            };
            let heard: Vec<&Subscription> = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| matches(filter.as_str(), body.message.topic.as_str()))
                .filter(|(_, each)| !(each.options.no_local && client_id == *publisher))
                .map(|(_, subscription)| subscription)
                .collect();
            let Some(granted) = heard.iter().map(|each| each.options.qos).max() else {
                continue;
            };
            let qos = granted.min(body.message.qos);
            if qos == Qos::AtMostOnce {
                continue;
            }
            let retain_as_published = heard.iter().any(|each| each.options.retain_as_published);
            let mut identifiers: Vec<_> = heard.iter().filter_map(|each| each.identifier).collect();
            identifiers.sort();
            let retain = retain_as_published && body.message.retain;
            let delivery = Delivery {
                body: Arc::clone(body),
                qos,
                retain,
                identifiers,
            };
            let mut said = Vec::new();
            session.deliver(delivery, &mut said);
            matched += 1;
            if self.tell(&client_id, said) {
                match body.message.qos {
                    // Its publisher cannot be told: PUBREC is already due.
                    Qos::ExactlyOnce => self.effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    }),
                    Qos::AtMostOnce | Qos::AtLeastOnce => rejected = true,
                }
            }
        }
        (matched, rejected)
    }
}

fn body(message: Message) -> Arc<StoredMessage> {
    Arc::new(StoredMessage { id: 0, message })
}
