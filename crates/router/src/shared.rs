//! Shared subscriptions: who may be chosen for a message (section 4.8.2).
//!
//! A group is a whole filter `$share/ShareName/filter`: two filters under one ShareName are two
//! groups, and each gets every message that matches it, for one of its members. The table finds
//! the groups and lists their members; who of them is chosen is the caller's decision, with
//! [`choose`] to spread the choice.
//!
//! Invariants: `filters` names, for each member, exactly the groups that it is in, and `len` is the
//! number of its entries. A group without a member, and a member without a group, are not there.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::{ShareName, TopicFilter, TopicName};

use crate::compact_map::CompactMap;
use crate::trie::Trie;

/// The members of one group.
#[derive(Clone, Debug)]
struct Group<K, V> {
    /// The whole filter, `$share/…`.
    filter: Arc<TopicFilter>,
    members: CompactMap<K, V>,
}

/// The members of shared subscriptions, each with a value for each of its groups.
///
/// Deterministic: members come in the order of `K`.
#[derive(Clone, Debug)]
pub struct SharedTable<K: Ord + Clone, V> {
    /// By the filter after the ShareName, so that the `$` rule is that of any filter.
    groups: Trie<CompactMap<ShareName, Group<K, V>>>,
    filters: BTreeMap<K, CompactMap<Arc<TopicFilter>, ()>>,
    len: usize,
}

impl<K: Ord + Clone, V> Default for SharedTable<K, V> {
    fn default() -> Self {
        Self {
            groups: Trie::default(),
            filters: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<K: Ord + Clone, V> SharedTable<K, V> {
    /// A table without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `member` one of the group `filter`, or replaces its value there and returns the old
    /// one. A filter that is not shared has no group: nothing happens.
    ///
    /// Keeps no reference to the buffer behind `filter`. O(levels · log members).
    pub fn subscribe(&mut self, member: K, filter: &TopicFilter, value: V) -> Option<V> {
        let (name, inner) = filter.share()?;
        let (group, replaced) = self.groups.upsert(&inner, |groups| {
            if groups.get(&name).is_none() {
                let group = Group {
                    filter: Arc::new(filter.detached()),
                    members: CompactMap::default(),
                };
                groups.insert(name.detached(), group);
            }
            let group = groups.get_mut(&name)?;
            let replaced = group.members.insert(member.clone(), value);
            Some((Arc::clone(&group.filter), replaced))
        })??;
        if replaced.is_none() {
            self.filters.entry(member).or_default().insert(group, ());
            self.len += 1;
        }
        replaced
    }

    /// Takes `member` out of the group `filter`, compared character by character, and returns its
    /// value. O(levels · log members).
    pub fn unsubscribe(&mut self, member: &K, filter: &TopicFilter) -> Option<V> {
        let removed = self.take_from_group(member, filter)?;
        if let Some(filters) = self.filters.get_mut(member) {
            filters.remove(filter);
            if filters.is_empty() {
                self.filters.remove(member);
            }
        }
        self.len -= 1;
        Some(removed)
    }

    /// Takes `member` out of every group. O(its groups).
    pub fn remove(&mut self, member: &K) {
        let Some(filters) = self.filters.remove(member) else {
            return;
        };
        for (filter, ()) in filters.iter() {
            let removed = self.take_from_group(member, filter);
            debug_assert!(removed.is_some(), "a listed group has the member");
        }
        self.len -= filters.len();
    }

    /// Changes the value that `member` has in the group `filter`; `None` if it is not in it.
    /// O(levels · log members).
    pub fn update<R>(
        &mut self,
        member: &K,
        filter: &TopicFilter,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let (name, inner) = filter.share()?;
        let changed = self.groups.update(&inner, |groups| {
            let group = groups.as_mut()?.get_mut(&name)?;
            group.members.get_mut(member).map(change)
        });
        changed.flatten()
    }

    /// The value that `member` has in the group `filter`. O(levels · log members).
    #[must_use]
    pub fn get(&self, member: &K, filter: &TopicFilter) -> Option<&V> {
        self.members(filter).get(member)
    }

    /// Calls `visit` with each group whose filter matches `topic`, in an order that depends on the
    /// groups and the topic alone. A filter that starts with a wildcard after its ShareName matches
    /// no topic that starts with `$` [MQTT-4.7.2-1].
    pub fn for_each_group<'a>(
        &'a self,
        topic: &TopicName,
        mut visit: impl FnMut(&'a Arc<TopicFilter>, Members<'a, K, V>),
    ) {
        self.groups.for_each_match(topic, |groups| {
            for (_, group) in groups.iter() {
                visit(&group.filter, Members(Some(&group.members)));
            }
        });
    }

    /// The members of exactly this group; none if there is no such group. O(levels).
    #[must_use]
    pub fn members(&self, filter: &TopicFilter) -> Members<'_, K, V> {
        let group = filter.share().and_then(|(name, inner)| {
            let groups = self.groups.get(&inner)?;
            groups.get(&name)
        });
        Members(group.map(|group| &group.members))
    }

    /// The groups that `member` is in, in the order of their filters.
    pub fn groups_of(&self, member: &K) -> impl Iterator<Item = &Arc<TopicFilter>> {
        let filters = self.filters.get(member).into_iter();
        filters
            .flat_map(CompactMap::iter)
            .map(|(filter, ())| filter)
    }

    /// Memberships: the sum of the members over all groups. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody is in any group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take_from_group(&mut self, member: &K, filter: &TopicFilter) -> Option<V> {
        let (name, inner) = filter.share()?;
        let removed = self.groups.update(&inner, |slot| {
            let groups = slot.as_mut()?;
            let group = groups.get_mut(&name)?;
            let removed = group.members.remove(member)?;
            if group.members.is_empty() {
                groups.remove(&name);
            }
            slot.take_if(|groups| groups.is_empty());
            Some(removed)
        });
        removed.flatten()
    }
}

/// The members of one group with their values, in the order of `K`.
#[derive(Debug)]
pub struct Members<'a, K, V>(Option<&'a CompactMap<K, V>>);

impl<K, V> Clone for Members<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Members<'_, K, V> {}

impl<'a, K: Ord, V> Members<'a, K, V> {
    /// How many there are. O(1).
    #[must_use]
    pub fn len(self) -> usize {
        self.0.map_or(0, CompactMap::len)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The value of one member. O(log len).
    #[must_use]
    pub fn get(self, member: &K) -> Option<&'a V> {
        self.0?.get(member)
    }

    /// The member `index` places behind the first. O(1) in a group of up to 16, otherwise
    /// O(`index`).
    #[must_use]
    pub fn nth(self, index: usize) -> Option<(&'a K, &'a V)> {
        self.0?.nth(index)
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.0.into_iter().flat_map(CompactMap::iter)
    }
}

/// The place in a list of `count` that `turn` falls on; `None` if the list is empty.
///
/// A pure function, so that replicas choose alike. Turns are mixed first: each place comes about
/// equally often whatever turns a caller passes. Plain remainders would do so only for a counter
/// of its own per group; with one counter for all, two groups of two members that match the same
/// topics would see only even and only odd turns, and use one member each.
#[must_use]
pub fn choose(count: usize, turn: u64) -> Option<usize> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    usize::try_from(mix(turn) % count).ok()
}

/// A one-to-one scrambling of 64 bits (the finaliser of SplitMix64).
const fn mix(turn: u64) -> u64 {
    let spread = turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let once = (spread ^ (spread >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    twice ^ (twice >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    fn groups(table: &SharedTable<&str, u32>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        table.for_each_group(&TopicName::try_from(topic).unwrap(), |filter, members| {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| format!("{key}{value}"))
                .collect();
            found.push(format!("{filter} {}", members.join(" ")));
        });
        found.sort();
        found
    }

    /// [MQTT-4.8.2-1]
    #[test]
    fn two_filters_under_one_share_name_are_two_groups() {
        let mut table = SharedTable::new();
        table.subscribe("b", &filter("$share/g/t/+"), 1);
        table.subscribe("a", &filter("$share/g/t/+"), 2);
        table.subscribe("a", &filter("$share/g/t/#"), 3);
        table.subscribe("a", &filter("$share/h/t/+"), 4);
        let found = groups(&table, "t/u");
        assert_eq!(
            found,
            ["$share/g/t/# a3", "$share/g/t/+ a2 b1", "$share/h/t/+ a4"]
        );
        assert_eq!(groups(&table, "t"), ["$share/g/t/# a3"]);
        assert_eq!(table.len(), 4);
    }

    /// [MQTT-4.7.2-1]: the rule applies to what follows the ShareName.
    #[test]
    fn a_wildcard_after_the_share_name_matches_no_dollar_topic() {
        let mut table = SharedTable::new();
        for text in [
            "$share/g/#",
            "$share/g/+/x",
            "$share/g/$SYS/+",
            "$share/g//#",
        ] {
            table.subscribe("a", &filter(text), 0);
        }
        assert_eq!(groups(&table, "$SYS/x"), ["$share/g/$SYS/+ a0"]);
        assert_eq!(
            groups(&table, "/x"),
            ["$share/g/# a0", "$share/g/+/x a0", "$share/g//# a0"]
        );
        // The topic that reads like the filter is nobody's.
        assert!(groups(&table, "$share/g/$SYS/x").is_empty());
    }

    /// [MQTT-3.8.4-3] [MQTT-3.10.4-1]
    #[test]
    fn only_the_identical_filter_is_replaced_or_removed() {
        let mut table = SharedTable::new();
        assert_eq!(table.subscribe("a", &filter("$share/g/t"), 1), None);
        assert_eq!(table.subscribe("a", &filter("$share/g/t"), 2), Some(1));
        for other in ["$share/h/t", "$share/g/+", "$share/g/#", "t", "$share/G/t"] {
            assert_eq!(table.unsubscribe(&"a", &filter(other)), None, "{other}");
            assert_eq!(table.update(&"a", &filter(other), |value| *value), None);
            assert!(table.members(&filter(other)).is_empty());
        }
        assert_eq!(table.unsubscribe(&"b", &filter("$share/g/t")), None);
        assert_eq!(table.unsubscribe(&"a", &filter("$share/g/t")), Some(2));
        assert!(table.is_empty() && table.filters.is_empty());
        assert!(groups(&table, "t").is_empty());
    }

    #[test]
    fn a_filter_that_is_not_shared_has_no_group() {
        let mut table = SharedTable::new();
        assert_eq!(table.subscribe("a", &filter("t"), 1), None);
        assert!(table.is_empty() && groups(&table, "t").is_empty());
    }

    #[test]
    fn a_removed_member_leaves_nothing_and_takes_nobody_along() {
        let mut table = SharedTable::new();
        for text in ["$share/g/t", "$share/g/#", "$share/h/t"] {
            table.subscribe("gone", &filter(text), 1);
            table.subscribe("stays", &filter(text), 2);
        }
        table.remove(&"gone");
        table.remove(&"never there");
        assert_eq!(table.len(), 3);
        assert_eq!(table.groups_of(&"gone").count(), 0);
        assert_eq!(table.groups_of(&"stays").count(), 3);
        assert_eq!(
            groups(&table, "t"),
            [
                "$share/g/# stays2",
                "$share/g/t stays2",
                "$share/h/t stays2"
            ]
        );
        table.remove(&"stays");
        assert!(table.is_empty() && table.filters.is_empty());
        assert!(groups(&table, "t").is_empty());
        // Not even an empty group is kept.
        for inner in ["t", "#"] {
            assert!(table.groups.get(&filter(inner)).is_none());
        }
    }

    #[test]
    fn values_can_be_counted_up_and_down() {
        let mut table = SharedTable::new();
        let group = filter("$share/g/t");
        table.subscribe("node", &group, 1);
        let up = |count: &mut u32| {
            *count += 1;
            *count
        };
        assert_eq!(table.update(&"node", &group, up), Some(2));
        assert_eq!(table.get(&"node", &group), Some(&2));
        assert_eq!(table.update(&"other", &group, up), None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn members_are_found_by_name_and_by_place() {
        let mut table = SharedTable::new();
        let group = filter("$share/g/t");
        for count in 0..40_u32 {
            assert_eq!(table.members(&group).len(), count as usize);
            table.subscribe(count * 7 % 40, &group, count);
        }
        let members = table.members(&group);
        for place in 0..40_u32 {
            let (member, value) = members.nth(place as usize).unwrap();
            assert_eq!((*member, value * 7 % 40), (place, place));
            assert_eq!(members.get(&place), Some(value));
        }
        assert_eq!(members.nth(40), None);
        assert!(members.iter().map(|(member, _)| *member).eq(0..40));
    }

    #[test]
    fn a_group_does_not_pin_the_read_buffer() {
        let mut table = SharedTable::new();
        let read = filter("$share/g/t");
        table.subscribe("a", &read, 0);
        table.for_each_group(&TopicName::try_from("t").unwrap(), |kept, _| {
            assert_eq!(kept.as_ref(), &read);
            assert_ne!(kept.as_bytes().as_ptr(), read.as_bytes().as_ptr());
        });
    }

    /// Whatever turns one group sees of a counter that many use, each member has its share.
    #[test]
    fn each_place_comes_about_equally_often() {
        assert_eq!(choose(0, 5), None);
        for (count, stride) in [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (7, 14), (16, 16)] {
            let mut chosen = vec![0_u32; count];
            for turn in 0..1_000 * count as u64 {
                chosen[choose(count, turn * stride).unwrap()] += 1;
            }
            for times in chosen {
                assert!((850..1_150).contains(&times), "{count} {stride}: {times}");
            }
        }
    }
}
