//! PURE. A shard's outbox: QoS 2 messages that this shard accepted and other shards or nodes must take.
//!
//! Items are numbered per target when they are put in, so every replica names them alike and each
//! target takes each item once, whoever leads. Items leave when the target's `Taken` is committed.

use std::collections::{BTreeMap, VecDeque};

use crate::command::{OutboxItem, OutboxTarget};
use crate::ids::{Incarnation, NodeId};

/// All targets with what waits for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    targets: BTreeMap<OutboxTarget, TargetQueue>,
    bytes: u64,
}

/// What waits for one target.
#[derive(Clone, Debug)]
pub(super) struct TargetQueue {
    pub(super) next_number: u64,
    pub(super) items: BTreeMap<u64, OutboxItem>,
}

impl Default for TargetQueue {
    fn default() -> Self {
        Self {
            next_number: 1,
            items: BTreeMap::new(),
        }
    }
}

/// The bytes that an item counts for.
fn item_bytes(item: &OutboxItem) -> u64 {
    u64::try_from(item.body.message.size()).unwrap_or(u64::MAX)
}

impl Outbox {
    /// Appends an item and returns its number.
    pub(super) fn push(&mut self, target: OutboxTarget, item: OutboxItem) -> u64 {
        self.bytes = self.bytes.saturating_add(item_bytes(&item));
        let queue = self.targets.entry(target).or_default();
        let number = queue.next_number;
        queue.next_number = number.saturating_add(1);
        queue.items.insert(number, item);
        number
    }

    /// Removes and returns the items up to a number.
    pub(super) fn trim(&mut self, target: OutboxTarget, upto: u64) -> Vec<(u64, OutboxItem)> {
        let Some(queue) = self.targets.get_mut(&target) else {
            return Vec::new();
        };
        let kept = queue.items.split_off(&upto.saturating_add(1));
        let trimmed = std::mem::replace(&mut queue.items, kept);
        let bytes: u64 = trimmed.values().map(item_bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        trimmed.into_iter().collect()
    }

    /// Forgets a target with everything that waits for it.
    pub(super) fn remove(&mut self, target: OutboxTarget) -> Vec<(u64, OutboxItem)> {
        let trimmed = self.trim(target, u64::MAX - 1);
        self.targets.remove(&target);
        trimmed
    }

    /// Restores a target's numbering from storage.
    pub(super) fn restore_target(&mut self, target: OutboxTarget, next_number: u64) {
        self.targets.entry(target).or_default().next_number = next_number;
    }

    /// Restores one item from storage. False: its number was never given.
    pub(super) fn restore_item(
        &mut self,
        target: OutboxTarget,
        number: u64,
        item: OutboxItem,
    ) -> bool {
        let Some(queue) = self.targets.get_mut(&target) else {
            return false;
        };
        if number >= queue.next_number {
            return false;
        }
        self.bytes = self.bytes.saturating_add(item_bytes(&item));
        queue.items.insert(number, item);
        true
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = (&OutboxTarget, &TargetQueue)> {
        self.targets.iter()
    }

    pub(super) fn target(&self, target: OutboxTarget) -> Option<&TargetQueue> {
        self.targets.get(&target)
    }

    /// Targets on the lives of a node up to and including one.
    pub(super) fn node_targets(&self, node: NodeId, upto: Incarnation) -> Vec<OutboxTarget> {
        let belongs = |target: &OutboxTarget| match target {
            OutboxTarget::Node(of, incarnation) => *of == node && *incarnation <= upto,
            OutboxTarget::Shard(_) => false,
        };
        self.targets
            .keys()
            .filter(|target| belongs(target))
            .copied()
            .collect()
    }

    pub(super) fn waiting_targets(&self) -> Vec<OutboxTarget> {
        self.targets
            .iter()
            .filter(|(_, queue)| !queue.items.is_empty())
            .map(|(target, _)| *target)
            .collect()
    }

    pub(super) fn items(
        &self,
        target: OutboxTarget,
        after: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> VecDeque<(u64, OutboxItem)> {
        let Some(queue) = self.targets.get(&target) else {
            return VecDeque::new();
        };
        let mut bytes = 0_usize;
        queue
            .items
            .range(after.saturating_add(1)..)
            .take(max_items)
            .take_while(|(_, item)| {
                let fits = bytes < max_bytes;
                bytes = bytes.saturating_add(item.body.message.size());
                fits
            })
            .map(|(number, item)| (*number, item.clone()))
            .collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
