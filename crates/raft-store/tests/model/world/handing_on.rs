//! What leaders and nodes do with outboxes and wills.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use raft_store::{Command, OutboxTarget, ProposerId, Response, ShardId, WaitingItem};

use super::super::action::{Audience, Place};
use super::World;

impl World {
    fn waiting(&self, source: ShardId, target: OutboxTarget) -> Vec<(u64, WaitingItem)> {
        let machine = &self.shards[usize::from(source.0)].machine;
        let items = machine.outbox_items(target, 0, usize::MAX, usize::MAX);
        items.into_iter().collect()
    }

    /// Items of one shard's outbox go to another, from `skip` places around where it is on.
    pub(super) fn take(
        &mut self,
        source: ShardId,
        target: ShardId,
        skip: i8,
        count: usize,
    ) -> TestCaseResult {
        let taken = self.tested(target).model.taken(source);
        let after = taken.saturating_add_signed(skip.into());
        let lane = OutboxTarget::Shard(target);
        let oldest = self
            .waiting(source, lane)
            .first()
            .map(|(number, _)| *number);
        let settled = self.tested(source).machine.outbox_settled(lane);
        prop_assert!(oldest.is_none_or(|oldest| oldest == settled + 1));
        let tested = self.tested(source);
        let items = tested.machine.outbox_items(lane, after, count, 64);
        let Some((first, _)) = items.front().cloned() else {
            return Ok(());
        };
        let now = tested.machine.time();
        let items = items.into_iter().map(|(_, item)| {
            let content = tested.stored(&item.body);
            item.into_item(content, now)
        });
        let command = Command::TakeOutbox {
            source,
            settled,
            first,
            items: items.collect(),
        };
        let applied = self.apply(target, (ProposerId::Outbox { source }, 0), vec![command])?;
        if let Response::TookOutbox { refused } = &applied.answers[0] {
            let known = self.refused.entry((source, target)).or_default();
            known.extend(refused);
            if !refused.is_empty() {
                self.saw("a shared item is refused");
            }
        }
        Ok(())
    }

    /// Every target's progress is recorded in the source.
    pub(super) fn trim(&mut self, source: ShardId) -> TestCaseResult {
        for lane in self.tested(source).machine.outbox_targets() {
            let mut refused = Vec::new();
            let upto = match lane {
                OutboxTarget::Shard(target) => {
                    let known = self.refused.entry((source, target)).or_default();
                    refused = std::mem::take(known).into_iter().collect();
                    let remembered = self.tested(target).model.refused(source);
                    let is_waiting = |number: &u64| {
                        let waiting = self.waiting(source, lane);
                        waiting.iter().any(|(waiting, _)| waiting == number)
                    };
                    let forgotten = remembered
                        .iter()
                        .find(|number| is_waiting(number) && !refused.contains(number));
                    prop_assert_eq!(forgotten, None, "a refusal was never answered");
                    self.tested(target).model.taken(source)
                }
                OutboxTarget::Node(..) => {
                    let items = self.waiting(source, lane);
                    items
                        .get(2)
                        .or_else(|| items.last())
                        .map_or(0, |(number, _)| *number)
                }
                OutboxTarget::Unplaced => continue,
            };
            let command = Command::Taken {
                target: lane,
                upto,
                refused,
            };
            self.apply_one(source, command)?;
        }
        Ok(())
    }

    fn shared_lane_items(&self, source: ShardId) -> Vec<(OutboxTarget, u64, WaitingItem)> {
        let lanes = self.shards[usize::from(source.0)].machine.outbox_targets();
        let nodes = lanes
            .into_iter()
            .filter(|lane| matches!(lane, OutboxTarget::Node(..)));
        let items = nodes.flat_map(|lane| {
            let items = self.waiting(source, lane).into_iter();
            items.map(move |(number, item)| (lane, number, item))
        });
        items.filter(|(_, _, item)| item.share.is_some()).collect()
    }

    /// A node takes a shared item before it hands it to a member.
    pub(super) fn claim(&mut self, source: ShardId, item: Index) -> TestCaseResult {
        let items = self.shared_lane_items(source);
        if items.is_empty() {
            // Nobody's item, of nobody's lane.
            let target = self.target(Place::Node(item.index(3)));
            let answer = self.apply_one(source, Command::Claim { target, number: 1 })?;
            prop_assert_eq!(answer, Response::Claimed { claimed: false });
            return Ok(());
        }
        let (target, number, item) = items[item.index(items.len())].clone();
        self.claim_item(source, target, number, &item)
    }

    fn claim_item(
        &mut self,
        source: ShardId,
        target: OutboxTarget,
        number: u64,
        item: &WaitingItem,
    ) -> TestCaseResult {
        self.saw("a shared item is claimed");
        let content = self.tested(source).stored(&item.body);
        for is_first in [true, false] {
            let answer = self.apply_one(source, Command::Claim { target, number })?;
            prop_assert_eq!(answer, Response::Claimed { claimed: is_first });
        }
        let share = item.share.as_ref().unwrap();
        self.oracle.claimed(share, &content.message)
    }

    pub(super) fn claim_all(&mut self, source: ShardId) -> TestCaseResult {
        for (target, number, item) in self.shared_lane_items(source) {
            self.claim_item(source, target, number, &item)?;
        }
        Ok(())
    }

    pub(super) fn place(&mut self, source: ShardId, item: Index, to: Place) -> TestCaseResult {
        let items = self.waiting(source, OutboxTarget::Unplaced);
        if items.is_empty() {
            let to = Some(self.target(to));
            let answer = self.apply_one(source, Command::Place { number: 1, to })?;
            prop_assert_eq!(answer, Response::Claimed { claimed: false });
            return Ok(());
        }
        let (number, _) = items[item.index(items.len())];
        let to = match to {
            Place::Nowhere => None,
            Place::Shard(_) | Place::Node(_) => Some(self.target(to)),
        };
        let answer = self.apply_one(source, Command::Place { number, to })?;
        let is_given_up = answer == (Response::Claimed { claimed: true });
        prop_assert!(to.is_some() || is_given_up, "{:?}", answer);
        Ok(())
    }

    /// What has no place gets one where there is a member, or is given up.
    pub(super) fn place_all(&mut self, source: ShardId) -> TestCaseResult {
        for (number, item) in self.waiting(source, OutboxTarget::Unplaced) {
            let share = item.share.as_ref().unwrap();
            let is_place = |shard: &ShardId| {
                let clients = self.shards[usize::from(shard.0)].model.clients.values();
                let sessions = clients.filter_map(|client| client.session.as_ref());
                let mut granted = sessions.filter_map(|session| session.subscriptions.get(share));
                granted.any(|subscription| subscription.options.qos > codec::Qos::AtMostOnce)
            };
            let to = self.shard_ids().find(is_place).map(OutboxTarget::Shard);
            self.apply_one(source, Command::Place { number, to })?;
        }
        Ok(())
    }

    /// The leader's timer; `all`: also what is not due, or was published.
    pub(super) fn publish_wills(
        &mut self,
        shard: ShardId,
        audience: &Audience,
        all: bool,
    ) -> TestCaseResult {
        let now = self.leader_time();
        let tested = self.tested(shard);
        let due = tested.machine.due_wills(now, usize::MAX);
        let expected = tested.model.due_wills(now);
        let found: Vec<_> = due
            .iter()
            .map(|will| (will.epoch, will.client_id.clone()))
            .collect();
        prop_assert_eq!(found, expected);
        let few = tested.machine.due_wills(now, 1);
        prop_assert_eq!(few.len(), due.len().min(1));
        let mut epochs: Vec<_> = due
            .iter()
            .map(|will| (will.epoch, will.message.clone()))
            .collect();
        if all {
            let wills = tested.model.wills.iter();
            let undue = wills.map(|(epoch, will)| (*epoch, will.will.message.clone()));
            epochs.extend(undue);
        }
        for (epoch, message) in epochs {
            let retained_version = match message.retain {
                true => self.store_will(&message)?,
                false => None,
            };
            let (shards, nodes, shared) = self.places(audience);
            let command = Command::PublishWill {
                epoch,
                retained_version,
                shards,
                nodes,
                shared,
            };
            let answer = self.apply_one(shard, command)?;
            if answer == (Response::Claimed { claimed: true }) {
                self.saw("a will is published");
                self.oracle.will_published(&message)?;
            }
        }
        Ok(())
    }
}
