//! PURE. A shard's outbox: messages that this shard accepted and other shards, nodes or a single
//! member of a shared subscription must take.
//!
//! Items are numbered per target when they are put in, so every replica names them alike and each
//! target takes each item once, whoever leads. A number is never given twice. Bodies are named, not
//! held: an item that moves from one target to another takes its reference along.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::{ClientId, TopicFilter};

use super::Machine;
use crate::command::OutboxTarget;
use crate::ids::{Incarnation, NodeId};

/// All targets with what waits for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    targets: BTreeMap<OutboxTarget, TargetQueue>,
    bytes: u64,
    /// How many items were put in for shards, since this replica was loaded.
    pushes: u64,
}

/// What waits for one target.
#[derive(Clone, Debug)]
pub(super) struct TargetQueue {
    pub(super) next_number: u64,
    pub(super) items: BTreeMap<u64, Item>,
    /// Items from this number on are in no table: those that leave before the next save are not worth a
    /// write.
    unsaved_from: u64,
}

/// One message that waits.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// For No Local.
    pub(super) publisher: ClientId,
    /// Name of the body; the item holds one reference.
    pub(super) body: u64,
    pub(super) size_bytes: u32,
    /// The shared subscription of which one member must get it.
    pub(super) share: Option<Arc<TopicFilter>>,
}

impl Default for TargetQueue {
    fn default() -> Self {
        Self {
            next_number: 1,
            items: BTreeMap::new(),
            unsaved_from: 1,
        }
    }
}

impl Machine {
    /// Changes with each item that is put into the outbox for a shard.
    #[must_use]
    pub fn outbox_pushes(&self) -> u64 {
        self.outbox.pushes
    }
}

impl Outbox {
    /// Appends an item and returns its number.
    pub(super) fn push(&mut self, target: OutboxTarget, item: Item) -> u64 {
        self.bytes = self.bytes.saturating_add(u64::from(item.size_bytes));
        if matches!(target, OutboxTarget::Shard(_)) {
            self.pushes = self.pushes.wrapping_add(1);
        }
        let queue = self.targets.entry(target).or_default();
        let number = queue.next_number;
        queue.next_number = number.saturating_add(1);
        queue.items.insert(number, item);
        number
    }

    /// Takes one item out.
    pub(super) fn take(&mut self, target: OutboxTarget, number: u64) -> Option<Item> {
        let item = self.targets.get_mut(&target)?.items.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(u64::from(item.size_bytes));
        Some(item)
    }

    /// Takes out the items up to a number; of a node only the unshared ones.
    pub(super) fn trim(&mut self, target: OutboxTarget, upto: u64) -> Vec<(u64, Item)> {
        let Some(queue) = self.targets.get_mut(&target) else {
            return Vec::new();
        };
        let kept = queue.items.split_off(&upto.saturating_add(1));
        let mut trimmed: Vec<(u64, Item)> = std::mem::replace(&mut queue.items, kept)
            .into_iter()
            .collect();
        if matches!(target, OutboxTarget::Node(..)) {
            let shared = trimmed.extract_if(.., |(_, item)| item.share.is_some());
            queue.items.extend(shared);
        }
        self.forget_bytes(&trimmed);
        trimmed
    }

    /// Forgets a target; returns everything that waits for it.
    pub(super) fn remove(&mut self, target: OutboxTarget) -> Vec<(u64, Item)> {
        let Some(queue) = self.targets.remove(&target) else {
            return Vec::new();
        };
        let items: Vec<(u64, Item)> = queue.items.into_iter().collect();
        self.forget_bytes(&items);
        items
    }

    fn forget_bytes(&mut self, items: &[(u64, Item)]) {
        let bytes: u64 = items
            .iter()
            .map(|(_, item)| u64::from(item.size_bytes))
            .sum();
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Restores a target's numbering from storage.
    pub(super) fn restore_target(&mut self, target: OutboxTarget, next_number: u64) {
        let queue = self.targets.entry(target).or_default();
        queue.next_number = next_number;
        queue.unsaved_from = next_number;
    }

    /// The tables have everything of a target up to now.
    pub(super) fn note_saved(&mut self, target: OutboxTarget) {
        if let Some(queue) = self.targets.get_mut(&target) {
            queue.unsaved_from = queue.next_number;
        }
    }

    /// The first number of a target that is in no table.
    pub(super) fn unsaved_from(&self, target: OutboxTarget) -> u64 {
        self.targets
            .get(&target)
            .map_or(0, |queue| queue.unsaved_from)
    }

    /// Restores one item from storage. False: its number was never given.
    pub(super) fn restore_item(&mut self, target: OutboxTarget, number: u64, item: Item) -> bool {
        let Some(queue) = self.targets.get_mut(&target) else {
            return false;
        };
        if number >= queue.next_number {
            return false;
        }
        self.bytes = self.bytes.saturating_add(u64::from(item.size_bytes));
        queue.items.insert(number, item);
        true
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = (&OutboxTarget, &TargetQueue)> {
        self.targets.iter()
    }

    pub(super) fn target(&self, target: OutboxTarget) -> Option<&TargetQueue> {
        self.targets.get(&target)
    }

    pub(super) fn item(&self, target: OutboxTarget, number: u64) -> Option<&Item> {
        self.targets.get(&target)?.items.get(&number)
    }

    /// Targets on the lives of a node up to and including one.
    pub(super) fn node_targets(&self, node: NodeId, upto: Incarnation) -> Vec<OutboxTarget> {
        let belongs = |target: &OutboxTarget| match target {
            OutboxTarget::Node(of, incarnation) => *of == node && *incarnation <= upto,
            OutboxTarget::Shard(_) | OutboxTarget::Unplaced => false,
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

    /// Every item of a target up to this number was taken out.
    pub(super) fn settled(&self, target: OutboxTarget) -> u64 {
        self.targets.get(&target).map_or(0, |queue| {
            let first = queue.items.keys().next().unwrap_or(&queue.next_number);
            first.saturating_sub(1)
        })
    }

    /// Items after a number, at most `max_items` and about `max_bytes`.
    pub(super) fn items(
        &self,
        target: OutboxTarget,
        after: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> impl Iterator<Item = (u64, &Item)> {
        let queue = self.targets.get(&target).into_iter();
        let mut bytes = 0_usize;
        queue
            .flat_map(move |queue| queue.items.range(after.saturating_add(1)..))
            .take(max_items)
            .take_while(move |(_, item)| {
                let fits = bytes < max_bytes;
                let size = usize::try_from(item.size_bytes).unwrap_or(usize::MAX);
                bytes = bytes.saturating_add(size);
                fits
            })
            .map(|(number, item)| (*number, item))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
