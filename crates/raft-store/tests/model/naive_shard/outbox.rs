//! The outbox: lanes to shards and nodes, what is refused, and what has no place.

use codec::{ClientId, Qos, TopicFilter};
use raft_store::{
    Effect, Incarnation, NodeId, OutboxItem, OutboxTarget, Refusal, Response, ShardId, WaitingItem,
};
use session::{Body, DropCause};

use super::NaiveShard;
use super::messages::{Shared, stored};

impl NaiveShard {
    pub(super) fn put(&mut self, target: OutboxTarget, item: WaitingItem) -> u64 {
        let target = self.outbox.entry(target).or_default();
        target.given += 1;
        target.items.insert(target.given, item);
        target.given
    }

    /// A shared item without a place waits for another, unless it is of QoS 0: nobody waits for that.
    pub(super) fn unplace(&mut self, item: WaitingItem) {
        if stored(&item.body).message.qos == Qos::AtMostOnce {
            self.effects.push(Effect::Dropped {
                cause: DropCause::NoMember,
            });
        } else {
            self.put(OutboxTarget::Unplaced, item);
        }
    }

    /// An item goes to a node; what no node takes any more is lost, unless it is shared.
    pub(super) fn put_into_lane(&mut self, (node, life): (NodeId, Incarnation), item: WaitingItem) {
        if self.is_over(node, life) {
            if item.share.is_some() {
                self.unplace(item);
            }
            return;
        }
        let number = self.put(OutboxTarget::Node(node, life), item.clone());
        self.effects.push(Effect::LiveOutbox {
            node,
            incarnation: life,
            number,
            item,
        });
    }

    /// A shared item goes where one member is said to be.
    pub(super) fn put_shared(&mut self, to: OutboxTarget, item: WaitingItem) {
        match to {
            OutboxTarget::Shard(shard) if shard == self.shard => {
                let share = item.share.clone().unwrap();
                match self.deliver_shared(&share, &stored(&item.body)) {
                    Shared::Nobody => self.unplace(item),
                    Shared::Rejected => self.effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    }),
                    Shared::Taken => {}
                }
            }
            OutboxTarget::Unplaced => self.unplace(item),
            OutboxTarget::Shard(_) => {
                if stored(&item.body).message.qos == Qos::AtMostOnce {
                    self.unplace(item);
                } else {
                    self.put(to, item);
                }
            }
            OutboxTarget::Node(node, life) => self.put_into_lane((node, life), item),
        }
    }

    /// Each item once, in order; without a member it is refused, and again if it comes again.
    pub(super) fn take_outbox(
        &mut self,
        source: ShardId,
        settled: u64,
        first: u64,
        items: Vec<OutboxItem>,
    ) -> Response {
        if first > self.taken(source).saturating_add(1) {
            return Response::Refused(Refusal::Malformed);
        }
        let known = self.taken.entry(source).or_default();
        known.refused.retain(|number| *number > settled);
        for (item, number) in items.into_iter().zip(first..) {
            if number <= self.taken(source) {
                continue;
            }
            let OutboxItem {
                publisher,
                body,
                expires_in_ms,
                share,
            } = item;
            let body = self.body(body.message.clone(), expires_in_ms, body.retained_version);
            let is_refused = match &share {
                Some(share) => self.take_shared(share, &body),
                None => {
                    self.deliver_here(&publisher, &body);
                    false
                }
            };
            let known = self.taken.get_mut(&source).unwrap();
            known.upto = number;
            if is_refused {
                known.refused.push(number);
            }
        }
        let refused = self.refused(source);
        Response::TookOutbox { refused }
    }

    fn take_shared(
        &mut self,
        share: &TopicFilter,
        body: &std::sync::Arc<session::StoredMessage>,
    ) -> bool {
        match self.deliver_shared(share, body) {
            Shared::Nobody => true,
            Shared::Taken => false,
            Shared::Rejected => {
                self.effects.push(Effect::Dropped {
                    cause: DropCause::QueueFullNewest,
                });
                false
            }
        }
    }

    /// A target is done with its items up to a number, and refused some; what a node is to claim
    /// stays until it is claimed.
    pub(super) fn trim(&mut self, target: OutboxTarget, upto: u64, refused: &[u64]) {
        let (is_node, refused_upto) = match target {
            OutboxTarget::Shard(_) => (false, upto),
            OutboxTarget::Node(..) => (true, u64::MAX),
            OutboxTarget::Unplaced => return,
        };
        let mut homeless = Vec::new();
        if let Some(lane) = self.outbox.get_mut(&target) {
            lane.items.retain(|number, item| {
                let is_shared = item.share.is_some();
                if is_shared && *number <= refused_upto && refused.contains(number) {
                    homeless.push(item.clone());
                    return false;
                }
                *number > upto || (is_node && is_shared)
            });
        }
        for item in homeless {
            self.unplace(item);
        }
    }

    /// What had no place gets one, or is given up. It stays if that place is none.
    pub(super) fn place(&mut self, number: u64, to: Option<OutboxTarget>) -> Response {
        let lane = self.outbox.get(&OutboxTarget::Unplaced);
        let item = lane.and_then(|lane| lane.items.get(&number).cloned());
        let claimed = item.is_some_and(|item| self.is_placed(item, to));
        if claimed {
            let lane = self.outbox.get_mut(&OutboxTarget::Unplaced).unwrap();
            lane.items.remove(&number);
        }
        Response::Claimed { claimed }
    }

    fn is_placed(&mut self, item: WaitingItem, to: Option<OutboxTarget>) -> bool {
        match to {
            None => self.effects.push(Effect::Dropped {
                cause: DropCause::NoMember,
            }),
            Some(OutboxTarget::Unplaced) => return false,
            Some(OutboxTarget::Shard(shard)) if shard == self.shard => {
                let share = item.share.clone().unwrap();
                return !self.take_shared(&share, &stored(&item.body));
            }
            Some(target @ OutboxTarget::Shard(_)) => {
                self.put(target, item);
            }
            Some(OutboxTarget::Node(node, life)) => {
                if self.is_over(node, life) {
                    return false;
                }
                self.put_into_lane((node, life), item);
            }
        }
        true
    }

    /// A node takes a shared item of its lane, once.
    pub(super) fn claim(&mut self, target: OutboxTarget, number: u64) -> Response {
        let lane = self.outbox.get_mut(&target);
        let is_shared = |item: &WaitingItem| item.share.is_some();
        let claimed = lane.is_some_and(|lane| {
            let is_there = lane.items.get(&number).is_some_and(is_shared);
            is_there && lane.items.remove(&number).is_some()
        });
        Response::Claimed { claimed }
    }

    /// Lanes to lives that are over: what is shared goes elsewhere.
    pub(super) fn end_lanes(&mut self, is_over: impl Fn(NodeId, Incarnation) -> bool) {
        let mut homeless = Vec::new();
        self.outbox.retain(|target, lane| match target {
            OutboxTarget::Node(node, life) if is_over(*node, *life) => {
                let shared = lane.items.values().filter(|item| item.share.is_some());
                homeless.extend(shared.cloned());
                false
            }
            OutboxTarget::Node(..) | OutboxTarget::Shard(_) | OutboxTarget::Unplaced => true,
        });
        for item in homeless {
            self.unplace(item);
        }
    }

    pub(super) fn item(
        publisher: &ClientId,
        body: &std::sync::Arc<session::StoredMessage>,
        share: Option<&TopicFilter>,
    ) -> WaitingItem {
        WaitingItem {
            publisher: publisher.clone(),
            body: Body::Here(std::sync::Arc::clone(body)),
            share: share.cloned(),
        }
    }
}
