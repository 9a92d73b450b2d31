//! The messages that wait behind the window, oldest first; bounded in messages and bytes.
//!
//! Invariants: `bytes` is the sum of the sizes of what waits; positions have no gap, so a position
//! is an index. Only what waits counts; what is in flight is bounded by the window.

use std::collections::VecDeque;

use codec::Timestamp;

use crate::delivery::Delivery;
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

    /// Takes the oldest if it has expired.
    pub(crate) fn pop_expired(&mut self, now: Timestamp) -> Option<Delivery> {
        let is_expired = self.waiting.front()?.body.is_expired(now);
        is_expired.then(|| self.pop()).flatten()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter()
    }

    /// Oldest first; sizes must stay as they are.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.waiting.iter_mut()
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

impl IntoIterator for Queue {
    type Item = Delivery;
    type IntoIter = std::collections::vec_deque::IntoIter<Delivery>;

    fn into_iter(self) -> Self::IntoIter {
        self.waiting.into_iter()
    }
}

/// What a delivery counts towards `queue_bytes_max`.
pub(crate) fn size_bytes(delivery: &Delivery) -> u64 {
    u64::from(delivery.body.size_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codec::{Message, MessageProperties, Qos, TopicName};

    use super::*;
    use crate::delivery::{Body, StoredMessage};

    /// Topic and payload are `size` bytes; expires after `id` milliseconds, 0 never.
    fn delivery(id: u64, size: usize) -> Delivery {
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: vec![0; size - 1].into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        };
        let stored = StoredMessage {
            id,
            message,
            expires_at: (id > 0).then(|| Timestamp::from_millis(id)),
            retained_version: None,
        };
        Delivery {
            body: Body::from(Arc::new(stored)),
            qos: Qos::AtLeastOnce,
            retain: false,
            identifiers: Vec::new(),
            share: None,
        }
    }

    fn limits(queue_messages_max: u32, queue_bytes_max: u64) -> SessionLimits {
        SessionLimits {
            queue_messages_max,
            queue_bytes_max,
            ..SessionLimits::default()
        }
    }

    #[test]
    fn both_limits_bound_what_waits() {
        let mut queue = Queue::default();
        queue.push(delivery(1, 4));
        queue.push(delivery(2, 6));
        assert_eq!((queue.len(), queue.bytes()), (2, 10));
        for (messages, bytes, size, has_room) in [
            (3, 11, 1, true),
            (2, 11, 1, false),
            (3, 10, 1, false),
            (3, 10, 0, true),
            (0, 99, 0, false),
            (3, u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(
                queue.has_room(size, &limits(messages, bytes)),
                has_room,
                "{messages}"
            );
        }
        assert!(Queue::could_fit(10, &limits(1, 10)));
        assert!(!Queue::could_fit(11, &limits(1, 10)));
        assert!(!Queue::could_fit(0, &limits(0, 10)));
    }

    #[test]
    fn the_oldest_leaves_first_and_an_emptied_queue_keeps_little_memory() {
        let mut queue = Queue::default();
        for id in 0..1000 {
            queue.push(delivery(id, 2));
        }
        for id in 0..1000 {
            assert_eq!(queue.pop().map(|delivery| delivery.body.id()), Some(id));
        }
        assert_eq!((queue.pop(), queue.bytes()), (None, 0));
        assert!(queue.waiting.capacity() <= CAPACITY_KEPT);
    }
    /// [MQTT-3.3.2-5]
    #[test]
    fn only_what_expired_at_the_front_is_taken_out() {
        let mut queue = Queue::default();
        for id in [2, 3, 9, 1] {
            queue.push(delivery(id, 5));
        }
        let mut expired = |now| {
            let taken = queue.pop_expired(Timestamp::from_millis(now));
            taken.map(|delivery| delivery.body.id())
        };
        assert_eq!(expired(1), None);
        assert_eq!(expired(3), Some(2));
        assert_eq!(expired(3), Some(3));
        assert_eq!(expired(3), None);
        assert_eq!((queue.len(), queue.bytes()), (2, 10));
        assert_eq!(Queue::default().pop_expired(Timestamp::MAX), None);
    }
}
