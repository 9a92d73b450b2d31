//! The messages that wait behind the window, oldest first; bounded in messages and bytes.
//!
//! Invariants: `bytes` is the sum of the sizes of what waits; positions have no gap, so a position
//! is an index. Only what waits counts; what is in flight is bounded by the window.

use std::collections::VecDeque;

use crate::event::Delivery;
use crate::limits::SessionLimits;

/// Slots that an emptied queue keeps; beyond, its memory is given back.
const CAPACITY_KEPT: usize = 32;

/// FIFO of deliveries without packet id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    waiting: VecDeque<Delivery>,
    bytes: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The delivery `index` places behind the oldest.
    pub(crate) fn get(&self, index: usize) -> Option<&Delivery> {
        self.waiting.get(index)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter()
    }

    /// Whether a further message of this size stays within the limits.
    pub(crate) fn has_room(&self, size_bytes: u64, limits: &SessionLimits) -> bool {
        // Counted as u64, so that neither a 32-bit `usize` nor the sum can wrap.
        let messages = u64::try_from(self.len()).unwrap_or(u64::MAX);
        messages < u64::from(limits.queue_messages_max)
            && self.bytes.saturating_add(size_bytes) <= limits.queue_bytes_max
    }

    /// Whether a message of this size fits an empty queue.
    pub(crate) fn could_fit(size_bytes: u64, limits: &SessionLimits) -> bool {
        Self::default().has_room(size_bytes, limits)
    }

    /// Appends; the caller has asked `has_room`.
    pub(crate) fn push(&mut self, delivery: Delivery) {
        self.bytes = self.bytes.saturating_add(size_bytes(&delivery));
        self.waiting.push_back(delivery);
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(size_bytes(&delivery));
        if self.waiting.is_empty() && self.waiting.capacity() > CAPACITY_KEPT {
            self.waiting = VecDeque::new();
        }
        Some(delivery)
    }
}

/// What a delivery counts towards `queue_bytes_max`.
pub(crate) fn size_bytes(delivery: &Delivery) -> u64 {
    u64::try_from(delivery.body.message.size()).unwrap_or(u64::MAX)
}
