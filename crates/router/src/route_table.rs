//! From topic filters to the targets, shards or nodes, that have a subscription with them.
//!
//! Every node has one and asks it at each PUBLISH who is concerned. It may name a target that no
//! longer has a match, never miss one that does: that is the caller's order of updates.
//!
//! Invariant: a stored count is above 0, and `len` is how many there are.

use codec::{TopicFilter, TopicName};

use crate::compact_map::CompactMap;
use crate::trie::Trie;

/// Map from topic filters to reference-counted targets; what every node uses to decide who is
/// asked.
#[derive(Clone, Debug)]
pub struct RouteTable<T: Ord + Copy> {
    /// Per filter and target, how many additions were not removed yet.
    trie: Trie<CompactMap<T, u64>>,
    len: usize,
}

impl<T: Ord + Copy> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            trie: Trie::default(),
            len: 0,
        }
    }
}

impl<T: Ord + Copy> RouteTable<T> {
    /// A table without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more subscription with `filter` at `target`. True if it is the first one.
    ///
    /// Keeps no reference to the buffer behind `filter`. O(levels).
    pub fn add(&mut self, filter: &TopicFilter, target: T) -> bool {
        let is_new = self.trie.upsert(filter, |targets| {
            if let Some(count) = targets.get_mut(&target) {
                *count += 1;
                return false;
            }
            targets.insert(target, 1);
            true
        });
        let is_new = is_new.unwrap_or(false);
        self.len += usize::from(is_new);
        is_new
    }

    /// Counts one subscription with `filter` at `target` less. True if it was the last one; false
    /// if there are more, or if there was none. O(levels).
    pub fn remove(&mut self, filter: &TopicFilter, target: T) -> bool {
        let gone = self.trie.update(filter, |slot| {
            let targets = slot.as_mut()?;
            let count = targets.get_mut(&target)?;
            *count -= 1;
            if *count > 0 {
                return None;
            }
            targets.remove(&target);
            slot.take_if(|targets| targets.is_empty());
            Some(())
        });
        let gone = gone.flatten().is_some();
        self.len -= usize::from(gone);
        gone
    }

    /// Forgets all routes to `target`, whatever their counts. O(size of the table): there is no
    /// list of filters per target, because a target goes rarely and the list would double the
    /// table.
    pub fn remove_target(&mut self, target: T) {
        let mut gone = 0;
        self.trie.retain(|targets| {
            gone += usize::from(targets.remove(&target).is_some());
            !targets.is_empty()
        });
        self.len -= gone;
    }

    /// Replaces the content of `out` by the targets that have a filter matching `topic`, ascending
    /// and each once.
    pub fn route(&self, topic: &TopicName, out: &mut Vec<T>) {
        out.clear();
        self.trie.for_each_match(topic, |targets| {
            out.extend(targets.iter().map(|(target, _)| *target));
        });
        if !out.is_sorted_by(|a, b| a < b) {
            out.sort_unstable();
            out.dedup();
        }
    }

    /// How many different pairs of filter and target there are. O(1).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    fn route(table: &RouteTable<u32>, topic: &str) -> Vec<u32> {
        // The old content must not survive.
        let mut out = vec![99];
        table.route(&TopicName::try_from(topic).unwrap(), &mut out);
        out
    }

    #[test]
    fn a_target_stays_until_its_last_subscription_goes() {
        let mut table = RouteTable::new();
        assert!(table.add(&filter("a/+"), 1));
        assert!(!table.add(&filter("a/+"), 1));
        assert!(table.add(&filter("a/+"), 2));
        assert_eq!(table.len(), 2);
        assert!(!table.remove(&filter("a/+"), 1));
        assert_eq!(route(&table, "a/b"), [1, 2]);
        assert!(table.remove(&filter("a/+"), 1));
        assert_eq!(route(&table, "a/b"), [2]);
        assert!(!table.remove(&filter("a/+"), 1), "it is gone already");
        assert!(table.remove(&filter("a/+"), 2));
        assert!(table.is_empty());
    }

    #[test]
    fn counts_of_different_filters_are_apart() {
        let mut table = RouteTable::new();
        table.add(&filter("a"), 1);
        table.add(&filter("+"), 1);
        assert!(!table.remove(&filter("#"), 1));
        assert!(table.remove(&filter("a"), 1));
        assert_eq!(route(&table, "a"), [1]);
    }

    #[test]
    fn targets_come_ascending_and_once() {
        let mut table = RouteTable::new();
        for (text, target) in [("a", 9), ("a", 3), ("#", 4), ("+", 3), ("a/#", 1), ("b", 7)] {
            table.add(&filter(text), target);
        }
        assert_eq!(route(&table, "a"), [1, 3, 4, 9]);
        assert_eq!(route(&table, "$a"), [0u32; 0]);
    }

    #[test]
    fn a_removed_target_is_forgotten_whatever_its_counts() {
        let mut table = RouteTable::new();
        for text in ["a", "a", "a/#", "+/b", "deep/only/mine"] {
            table.add(&filter(text), 1);
        }
        table.add(&filter("a"), 2);
        table.remove_target(1);
        table.remove_target(3);
        assert_eq!(table.len(), 1);
        assert_eq!(route(&table, "a"), [2]);
        assert!(route(&table, "deep/only/mine").is_empty());
        assert!(table.add(&filter("a"), 1), "its count starts anew");
    }
}
