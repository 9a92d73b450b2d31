//! Messages: into the sessions of this shard, and through the outbox.

use std::sync::Arc;

use codec::{ClientId, Message, PacketId, Qos, Timestamp, TopicFilter};
use raft_store::{Effect, Epoch, Incarnation, NodeId, OutboxTarget, Response, ShardId};
use session::{Body, Delivery, DropCause, StoredMessage, Subscription};

use super::super::naive_session::{Copy, Said};
use super::{NaiveShard, stale};

/// Shards, nodes, and the place that was picked for each share.
pub(super) type Places<'a> = (
    &'a [ShardId],
    &'a [(NodeId, Incarnation)],
    &'a [(TopicFilter, OutboxTarget)],
);

/// What a shard may choose, one number for each choice; what is not said is 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    said: Vec<usize>,
    /// Among how many, for each choice there was.
    asked: Vec<usize>,
}

impl Choices {
    fn choose(&mut self, among: usize) -> usize {
        let at = self.asked.len();
        self.asked.push(among);
        self.said.get(at).copied().unwrap_or(0)
    }

    /// The next ones to try after these; `None`: all were tried.
    pub(crate) fn next(&self) -> Option<Self> {
        let mut said = self.said.clone();
        said.resize(self.asked.len(), 0);
        while let Some(last) = said.pop() {
            if last + 1 < self.asked[said.len()] {
                said.push(last + 1);
                return Some(Self {
                    said,
                    asked: Vec::new(),
                });
            }
        }
        None
    }
}

/// What became of a message for one member of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    Taken,
    /// Every member's queue was full.
    Rejected,
    Nobody,
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]; no topic of these tests begins with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
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

/// The message of a body of the model, which has it always.
pub(super) fn stored(body: &Body) -> Arc<StoredMessage> {
    match body {
        Body::Here(stored) => Arc::clone(stored),
        Body::Stored(name) => panic!("the model knows no names: {name:?}"),
    }
}

impl NaiveShard {
    /// When a message that begins its stay here is too old.
    pub(super) fn expires_at(
        &self,
        message: &Message,
        expires_in_ms: Option<u64>,
    ) -> Option<Timestamp> {
        let whole_s = message.properties.message_expiry_interval;
        let left_ms = expires_in_ms.or_else(|| whole_s.map(|seconds| u64::from(seconds) * 1_000));
        left_ms.map(|left_ms| Timestamp::from_millis(self.time.as_millis().saturating_add(left_ms)))
    }

    pub(super) fn body(
        &self,
        message: Message,
        expires_in_ms: Option<u64>,
        retained_version: Option<u64>,
    ) -> Arc<StoredMessage> {
        let expires_at = self.expires_at(&message, expires_in_ms);
        Arc::new(StoredMessage {
            id: 0,
            message,
            expires_at,
            retained_version,
        })
    }

    pub(super) fn is_stale_publisher(&self, client_id: &ClientId, epoch: Epoch) -> bool {
        let fenced = self
            .fences
            .get(client_id)
            .is_some_and(|fence| epoch < *fence);
        let replaced = self
            .clients
            .get(client_id)
            .is_some_and(|client| client.epoch != epoch);
        fenced || replaced
    }

    pub(super) fn publish(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        message: Message,
        retained_version: Option<u64>,
    ) -> Response {
        if self.is_stale_publisher(client_id, epoch) {
            return stale();
        }
        let body = self.body(message, None, retained_version);
        let (matched, rejected) = self.deliver_here(client_id, &body);
        Response::Published { matched, rejected }
    }

    pub(super) fn publish_shared(
        &mut self,
        client_id: &ClientId,
        epoch: Option<Epoch>,
        filter: &TopicFilter,
        body: &Arc<StoredMessage>,
    ) -> Response {
        if epoch.is_some_and(|epoch| self.is_stale_publisher(client_id, epoch)) {
            return stale();
        }
        let shared = self.deliver_shared(filter, body);
        Response::Published {
            matched: u32::from(shared != Shared::Nobody),
            rejected: shared == Shared::Rejected,
        }
    }

    pub(super) fn receive_exactly_once(
        &mut self,
        (client_id, epoch, packet_id): (&ClientId, Epoch, PacketId),
        body: &Arc<StoredMessage>,
        places: Places<'_>,
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        match session.receive_exactly_once(packet_id) {
            Some(true) => {}
            Some(false) => return Response::Received { first: false },
            None => return Response::ReceiveMaximumExceeded,
        }
        self.hand_on(client_id, body, places);
        Response::Received { first: true }
    }

    /// A message that this shard has accepted goes to everyone concerned.
    pub(super) fn hand_on(
        &mut self,
        publisher: &ClientId,
        body: &Arc<StoredMessage>,
        (shards, nodes, shared): Places<'_>,
    ) {
        for shard in shards {
            if *shard == self.shard {
                self.deliver_here(publisher, body);
            } else {
                let item = Self::item(publisher, body, None);
                self.put(OutboxTarget::Shard(*shard), item);
            }
        }
        for life in nodes {
            self.put_into_lane(*life, Self::item(publisher, body, None));
        }
        for (share, target) in shared {
            self.put_shared(*target, Self::item(publisher, body, Some(share)));
        }
    }

    /// Every session with a matching subscription, once [MQTT-3.3.4-2] [MQTT-3.3.4-4].
    pub(super) fn deliver_here(
        &mut self,
        publisher: &ClientId,
        body: &Arc<StoredMessage>,
    ) -> (u32, bool) {
        let now = self.time;
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
                .filter(|(filter, _)| !filter.is_shared())
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
            let delivery = Delivery {
                body: Body::Here(Arc::clone(body)),
                qos,
                retain: retain_as_published && body.message.retain,
                identifiers,
                share: None,
            };
            let mut said = Vec::new();
            let copy = session.deliver(now, delivery, &mut said);
            matched += 1;
            self.tell(&client_id, said);
            if copy == Copy::Rejected {
                match body.message.qos {
                    // Its publisher cannot be told: PUBREC is already due.
                    Qos::ExactlyOnce => self.effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    }),
                    Qos::AtMostOnce | Qos::AtLeastOnce => rejected = true,
                }
            }
            if let Some(version) = body.retained_version.filter(|_| copy == Copy::Taken) {
                self.note_live(&client_id, &body.message.topic, version);
            }
        }
        (matched, rejected)
    }

    /// Members of a share that a shard may give a message to, in the order in which they are asked:
    /// connected ones first, in each half from any of them on.
    fn candidates(&mut self, share: &TopicFilter) -> Vec<ClientId> {
        let members = |connected: bool| -> Vec<ClientId> {
            let granted = self.clients.iter().filter(|(_, client)| {
                let session = client.session.as_ref();
                let subscription = session.and_then(|each| each.subscriptions.get(share));
                client.open.is_some() == connected
                    && subscription.is_some_and(|each| each.options.qos > Qos::AtMostOnce)
            });
            granted.map(|(client_id, _)| client_id.clone()).collect()
        };
        let (mut connected, mut offline) = (members(true), members(false));
        for half in [&mut connected, &mut offline] {
            let first = self.choices.choose(half.len());
            half.rotate_left(first);
        }
        [connected, offline].concat()
    }

    /// A copy for a session that says nothing where it has no room: somebody else may have some.
    pub(super) fn offer(&mut self, client_id: &ClientId, delivery: Delivery) -> Copy {
        let now = self.time;
        let session = self.clients.get_mut(client_id).unwrap().session.as_mut();
        let mut said = Vec::new();
        let copy = session.unwrap().deliver(now, delivery, &mut said);
        if copy == Copy::Lost {
            said.retain(|said| match said {
                Said::Dropped(cause) => *cause != DropCause::QueueFullNewest,
                Said::QueueFull => false,
                Said::Publish(..) | Said::Pubrel(..) => true,
            });
        }
        self.tell(client_id, said);
        copy
    }

    /// One member gets it [MQTT-4.8.2-3]; the next one if a queue is full.
    pub(super) fn deliver_shared(
        &mut self,
        share: &TopicFilter,
        body: &Arc<StoredMessage>,
    ) -> Shared {
        let candidates = self.candidates(share);
        if candidates.is_empty() || body.message.qos == Qos::AtMostOnce {
            return Shared::Nobody;
        }
        for client_id in candidates {
            let session = self.clients[&client_id].session.as_ref().unwrap();
            let subscription = session.subscriptions[share].clone();
            let delivery = Delivery {
                body: Body::Here(Arc::clone(body)),
                qos: body.message.qos.min(subscription.options.qos),
                retain: subscription.options.retain_as_published && body.message.retain,
                identifiers: subscription.identifier.into_iter().collect(),
                share: Some(Arc::new(share.clone())),
            };
            match self.offer(&client_id, delivery) {
                Copy::Taken | Copy::Expired => return Shared::Taken,
                Copy::Lost | Copy::Rejected => {}
            }
        }
        Shared::Rejected
    }
}
