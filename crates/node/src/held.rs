//! Messages that this life has handed to members of shared subscriptions, until they are settled.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use raft_store::{Incarnation, NodeId};
use tokio::sync::Notify;

use crate::life::LifeId;
use crate::shared::SharedMessage;

/// Messages held at most; then publishers to shared subscriptions are not read (G9).
const HELD_MAX: usize = 65_536;
/// Bytes held at most, as for what waits for a peer.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What this life has handed to connections, here and on peers, and is not settled yet.
#[derive(Debug, Default)]
pub(crate) struct HeldShared {
    held: Mutex<Held>,
    /// Fewer are held than the bound.
    pub(crate) drained: Notify,
}

/// Held messages by number.
#[derive(Debug, Default)]
pub(crate) struct Held {
    last_number: u64,
    items: BTreeMap<u64, HeldItem>,
    bytes: usize,
}

/// One held message.
#[derive(Debug)]
pub(crate) struct HeldItem {
    /// The message.
    pub(crate) shared: SharedMessage,
    /// The life of the node where it is.
    pub(crate) at: LifeId,
}

impl Held {
    /// Keeps a message under a number that `next_number` gave.
    pub(crate) fn insert(&mut self, number: u64, item: HeldItem) {
        self.bytes = self.bytes.saturating_add(item.shared.bytes());
        self.items.insert(number, item);
    }

    /// A number that was never given before.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        self.last_number
    }

    /// The message of a number, if it is at `at`.
    pub(crate) fn get_mut(&mut self, number: u64, at: LifeId) -> Option<&mut SharedMessage> {
        let item = self.items.get_mut(&number).filter(|item| item.at == at)?;
        Some(&mut item.shared)
    }

    /// Takes back what is at `at`.
    fn take(&mut self, number: u64, at: LifeId) -> Option<SharedMessage> {
        self.items.get(&number).filter(|item| item.at == at)?;
        let item = self.items.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(item.shared.bytes());
        Some(item.shared)
    }

    /// Takes back everything that is at a life of a node, or at an earlier one.
    pub(crate) fn take_all(&mut self, node: NodeId, ended: Incarnation) -> Vec<SharedMessage> {
        let at = |item: &HeldItem| item.at.node == node && item.at.incarnation <= ended;
        let numbers: Vec<(u64, LifeId)> = self
            .items
            .iter()
            .filter(|(_, item)| at(item))
            .map(|(number, item)| (*number, item.at))
            .collect();
        numbers
            .into_iter()
            .filter_map(|(number, at)| self.take(number, at))
            .collect()
    }

    fn is_full(&self) -> bool {
        self.items.len() >= HELD_MAX || self.bytes >= HELD_BYTES_MAX
    }
}

impl HeldShared {
    /// More is held than the bound.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Waits while more is held than the bound.
    pub(crate) async fn ready(&self) {
        loop {
            let notified = self.drained.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Takes back what is at `at`.
    pub(crate) fn take(&self, number: u64, at: LifeId) -> Option<SharedMessage> {
        let taken = {
            let mut held = self.lock();
            let was_full = held.is_full();
            held.take(number, at).map(|taken| (taken, was_full))
        };
        let (taken, was_full) = taken?;
        if was_full {
            self.drained.notify_waiters();
        }
        Some(taken)
    }

    /// The table. Nothing may wait for it longer than for a queue.
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codec::{ClientId, Message, MessageProperties, Qos, TopicFilter, TopicName};

    use super::*;

    const HERE: LifeId = LifeId {
        node: NodeId(1),
        incarnation: Incarnation(10),
    };

    fn life(node: u16, incarnation: u64) -> LifeId {
        LifeId {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
        }
    }

    fn shared(payload: usize) -> SharedMessage {
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: vec![0; payload].into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        };
        let filter = Arc::new(TopicFilter::try_from("$share/g/t").unwrap());
        SharedMessage::owned(ClientId::new("p").unwrap(), filter, message, None)
    }

    fn hold(held: &mut Held, at: LifeId, payload: usize) -> u64 {
        let number = held.next_number();
        let shared = shared(payload);
        held.insert(number, HeldItem { shared, at });
        number
    }

    #[test]
    fn what_is_held_is_taken_once_and_only_by_the_life_that_has_it() {
        let mut held = Held::default();
        let number = hold(&mut held, HERE, 10);
        assert!(held.take(number, life(2, 10)).is_none());
        assert!(held.take(number, life(1, 11)).is_none());
        assert!(held.take(number + 1, HERE).is_none());
        assert!(held.take(number, HERE).is_some());
        assert!(held.take(number, HERE).is_none());
        assert_eq!((held.bytes, held.items.len()), (0, 0));
    }

    #[test]
    fn the_end_of_a_life_gives_back_what_it_and_earlier_ones_had() {
        let mut held = Held::default();
        let old = hold(&mut held, life(2, 5), 1);
        let ended = hold(&mut held, life(2, 6), 1);
        let new = hold(&mut held, life(2, 7), 1);
        let other = hold(&mut held, life(3, 5), 1);
        assert_eq!(held.take_all(NodeId(2), Incarnation(6)).len(), 2);
        assert!(!held.items.contains_key(&old) && !held.items.contains_key(&ended));
        assert!(held.items.contains_key(&new) && held.items.contains_key(&other));
    }

    #[test]
    fn numbers_and_bytes_bound_what_is_held() {
        let mut held = Held::default();
        let large = hold(&mut held, HERE, HELD_BYTES_MAX);
        assert!(held.is_full());
        held.take(large, HERE);
        for _ in 0..HELD_MAX - 1 {
            hold(&mut held, HERE, 0);
        }
        assert!(!held.is_full());
        hold(&mut held, HERE, 0);
        assert!(held.is_full());
    }
}
