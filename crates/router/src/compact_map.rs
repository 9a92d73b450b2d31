//! An ordered map for the very many places that hold one or a few entries.
//!
//! A `BTreeMap` allocates room for eleven entries with its first one, and a trie of a million
//! filters has millions of maps with a single entry. A sorted list is a tenth of that, but costs
//! a move of half of it per insertion, so a map that grows becomes a `BTreeMap`.
//!
//! Invariants: entries are in strictly ascending key order; `Few` holds at most [`FEW_MAX`].

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Entries kept as a list; one more turns it into a tree.
const FEW_MAX: usize = 16;
/// A tree with this few entries turns back into a list. Half of `FEW_MAX`, so that a map at the
/// border does not change its shape with each call.
const FEW_AGAIN: usize = FEW_MAX / 2;

/// A map from `K` to `V`, iterated in the order of `K`.
#[derive(Clone, Debug)]
pub(crate) enum CompactMap<K, V> {
    /// A sorted list.
    Few(Vec<(K, V)>),
    /// Boxed, so that the usual small map is not larger for it.
    Many(Box<Tree<K, V>>),
}

/// The shape of a large map.
#[derive(Clone, Debug)]
pub(crate) struct Tree<K, V>(BTreeMap<K, V>);

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Ord, V> CompactMap<K, V> {
    /// How many entries there are. O(1).
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(tree) => tree.0.len(),
        }
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `key`. O(log len).
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => {
                let at = position(list, key).ok()?;
                list.get(at).map(|(_, value)| value)
            }
            Self::Many(tree) => tree.0.get(key),
        }
    }

    /// The value at `key`, to be changed. O(log len).
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => {
                let at = position(list, key).ok()?;
                list.get_mut(at).map(|(_, value)| value)
            }
            Self::Many(tree) => tree.0.get_mut(key),
        }
    }

    /// Puts `value` at `key` and returns the value it replaced. O(log len).
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(&key) {
            return Some(std::mem::replace(present, value));
        }
        self.grow_if_full();
        match self {
            Self::Few(list) => {
                let at = position(list, &key).unwrap_or_else(|vacant| vacant);
                // Doubling from 1, where `Vec` would start with room for 4.
                if list.len() == list.capacity() {
                    list.reserve_exact(list.len().max(1));
                }
                list.insert(at, (key, value));
            }
            Self::Many(tree) => {
                tree.0.insert(key, value);
            }
        }
        None
    }

    /// Takes the entry at `key` out. O(log len).
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => {
                let at = position(list, key).ok()?;
                Some(list.remove(at).1)
            }
            Self::Many(tree) => {
                let removed = tree.0.remove(key);
                self.shrink_if_small();
                removed
            }
        }
    }

    /// Keeps only the entries for which `keep` is true. O(len).
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        match self {
            Self::Few(list) => list.retain_mut(|(key, value)| keep(key, value)),
            Self::Many(tree) => {
                tree.0.retain(keep);
                self.shrink_if_small();
            }
        }
    }

    /// All entries in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (list, tree) = match self {
            Self::Few(list) => (list.as_slice(), None),
            Self::Many(tree) => (Default::default(), Some(&tree.0)),
        };
        let listed = list.iter().map(|(key, value)| (key, value));
        listed.chain(tree.into_iter().flatten())
    }

    /// The entry `index` places behind the first. O(1) in a list, O(`index`) in a tree.
    pub(crate) fn nth(&self, index: usize) -> Option<(&K, &V)> {
        match self {
            Self::Few(list) => list.get(index).map(|(key, value)| (key, value)),
            Self::Many(tree) => tree.0.iter().nth(index),
        }
    }

    fn grow_if_full(&mut self) {
        if let Self::Few(list) = self
            && list.len() >= FEW_MAX
        {
            let tree = std::mem::take(list).into_iter().collect();
            *self = Self::Many(Box::new(Tree(tree)));
        }
    }

    fn shrink_if_small(&mut self) {
        if let Self::Many(tree) = self
            && tree.0.len() <= FEW_AGAIN
        {
            let list = std::mem::take(&mut tree.0).into_iter().collect();
            *self = Self::Few(list);
        }
    }
}

/// Where `key` is in a sorted list, or where it would go.
fn position<K: Borrow<Q>, V, Q: Ord + ?Sized>(list: &[(K, V)], key: &Q) -> Result<usize, usize> {
    list.binary_search_by(|(present, _)| present.borrow().cmp(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32),
        Remove(u8),
        RetainBelow(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..40u8, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            6 => (0..40u8).prop_map(Step::Remove),
            1 => (20..40u8).prop_map(Step::RetainBelow),
        ]
    }

    proptest! {
        /// Growing and shrinking over the border between list and tree changes nothing.
        #[test]
        fn behaves_like_a_btree_map(steps in prop::collection::vec(step(), 0..300)) {
            let mut map = CompactMap::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                    }
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::RetainBelow(bound) => {
                        map.retain(|key, _| *key < bound);
                        model.retain(|key, _| *key < bound);
                    }
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert!((0..40).all(|key| map.get(&key) == model.get(&key)));
                prop_assert!((0..41).all(|at| map.nth(at) == model.iter().nth(at)));
                let few = matches!(&map, CompactMap::Few(list) if list.len() <= FEW_MAX);
                prop_assert!(few || map.len() > FEW_AGAIN);
            }
        }
    }

    #[test]
    fn a_small_map_is_as_large_as_a_list() {
        assert_eq!(size_of::<CompactMap<u64, u64>>(), size_of::<Vec<u64>>());
        assert_eq!(
            size_of::<Option<CompactMap<u64, u64>>>(),
            size_of::<Vec<u64>>()
        );
    }

    #[test]
    fn the_first_entry_allocates_room_for_one() {
        let mut map = CompactMap::default();
        map.insert(1u64, 1u64);
        assert!(matches!(&map, CompactMap::Few(list) if list.capacity() == 1));
    }
}
