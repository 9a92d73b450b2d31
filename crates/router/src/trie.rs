//! The trie of topic levels: one value per topic filter, found by topic name.
//!
//! Each level of a filter is one step down. `+` has a place of its own in a node, and the value of
//! a filter that ends in `#` lies in the node of its parent level, since it matches that level too.
//! Nodes lie in one list and name each other by position: dropping, pruning and matching are loops,
//! so no topic is too deep for the stack.
//!
//! Invariants:
//! - A `NodeId` in a node names a node in use, and each node but the root is named exactly once.
//! - A node other than the root has a value or a child: branches that hold nothing are pruned.
//! - `filters` is the number of values.

use std::num::NonZeroUsize;

use codec::{TopicFilter, TopicName};

use crate::compact_map::CompactMap;

/// The position of a node, counted from 1, so that an absent one takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeId(NonZeroUsize);

impl NodeId {
    /// The node above the first level.
    const ROOT: Self = Self(NonZeroUsize::MIN);

    /// The id of the node at list position `position`.
    fn at(position: usize) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(position))
    }

    fn position(self) -> usize {
        self.0.get() - 1
    }
}

/// One level of one or more filters.
#[derive(Clone, Debug)]
struct Node<V> {
    /// The next levels that are plain text, by that text.
    children: CompactMap<Box<[u8]>, NodeId>,
    /// The next level `+`.
    plus: Option<NodeId>,
    /// The value of the filter that ends here.
    exact: Option<V>,
    /// The value of the filter that continues with `#`.
    subtree: Option<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self {
            children: CompactMap::default(),
            plus: None,
            exact: None,
            subtree: None,
        }
    }
}

impl<V> Node<V> {
    fn child(&self, level: &[u8]) -> Option<NodeId> {
        match level {
            b"+" => self.plus,
            text => self.children.get(text).copied(),
        }
    }

    fn link(&mut self, level: &[u8], child: NodeId) {
        match level {
            b"+" => self.plus = Some(child),
            text => {
                self.children.insert(text.into(), child);
            }
        }
    }

    fn unlink(&mut self, level: &[u8]) {
        match level {
            b"+" => self.plus = None,
            text => {
                self.children.remove(text);
            }
        }
    }

    fn slot(&mut self, ending: Ending) -> &mut Option<V> {
        match ending {
            Ending::Exact => &mut self.exact,
            Ending::Subtree => &mut self.subtree,
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_none()
            && self.subtree.is_none()
            && self.plus.is_none()
            && self.children.is_empty()
    }
}

/// Which of the two values of its last node a filter has.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Exact,
    Subtree,
}

/// The levels of `filter` before a final `#`, if there are any, and how it ends.
///
/// Only the last level of a filter can be `#`, and then it fills that level [MQTT-4.7.1-1].
fn path(filter: &TopicFilter) -> (Option<&[u8]>, Ending) {
    match filter.as_bytes() {
        b"#" => (None, Ending::Subtree),
        [parent @ .., b'/', b'#'] => (Some(parent), Ending::Subtree),
        levels => (Some(levels), Ending::Exact),
    }
}

/// The first level, and the rest if there is more. An empty rest is one empty level.
pub(crate) fn split_first(levels: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = levels.splitn(2, |byte| *byte == b'/');
    (parts.next().unwrap_or_default(), parts.next())
}

/// A map from topic filters to `V`, searched by topic name.
#[derive(Clone, Debug)]
pub(crate) struct Trie<V> {
    /// The root is first. Nodes in `free` are empty and named by nobody.
    nodes: Vec<Node<V>>,
    free: Vec<NodeId>,
    filters: usize,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            filters: 0,
        }
    }
}

impl<V> Trie<V> {
    /// The value of exactly this filter. O(levels).
    pub(crate) fn get(&self, filter: &TopicFilter) -> Option<&V> {
        let (mut rest, ending) = path(filter);
        let mut id = NodeId::ROOT;
        while let Some(levels) = rest {
            let (level, after) = split_first(levels);
            id = self.node(id)?.child(level)?;
            rest = after;
        }
        let node = self.node(id)?;
        match ending {
            Ending::Exact => node.exact.as_ref(),
            Ending::Subtree => node.subtree.as_ref(),
        }
    }

    /// Changes the value of `filter`, starting from `V::default()` if it has none yet. O(levels).
    ///
    /// Always `Some`: a `None` would mean a broken invariant, which debug builds assert.
    pub(crate) fn upsert<R>(
        &mut self,
        filter: &TopicFilter,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R>
    where
        V: Default,
    {
        let (mut rest, ending) = path(filter);
        let mut id = NodeId::ROOT;
        while let Some(levels) = rest {
            let (level, after) = split_first(levels);
            id = self.child_or_new(id, level);
            rest = after;
        }
        let slot = self.node_mut(id)?.slot(ending);
        let is_new = slot.is_none();
        let result = change(slot.get_or_insert_default());
        self.filters += usize::from(is_new);
        Some(result)
    }

    /// Changes the value of `filter` if it has one; a value that `change` takes away is removed
    /// together with every branch that only led to it. O(levels).
    pub(crate) fn update<R>(
        &mut self,
        filter: &TopicFilter,
        change: impl FnOnce(&mut Option<V>) -> R,
    ) -> Option<R> {
        let (mut rest, ending) = path(filter);
        let mut id = NodeId::ROOT;
        let mut steps = Vec::new();
        while let Some(levels) = rest {
            let (level, after) = split_first(levels);
            steps.push((id, level));
            id = self.node(id)?.child(level)?;
            rest = after;
        }
        let slot = self.node_mut(id)?.slot(ending);
        if slot.is_none() {
            return None;
        }
        let result = change(slot);
        if slot.is_none() {
            self.filters -= 1;
            self.prune(id, &steps);
        }
        Some(result)
    }

    /// Keeps only the values for which `keep` is true. O(size of the trie).
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        let mut removed = 0;
        for node in &mut self.nodes {
            for slot in [&mut node.exact, &mut node.subtree] {
                if slot.as_mut().is_some_and(|value| !keep(value)) {
                    *slot = None;
                    removed += 1;
                }
            }
        }
        self.filters -= removed;
        if removed > 0 {
            self.prune_all();
        }
    }

    /// Calls `visit` with the value of each filter that matches `topic`, in an order that depends
    /// on the filters and the topic alone.
    pub(crate) fn for_each_match<'trie>(
        &'trie self,
        topic: &TopicName,
        mut visit: impl FnMut(&'trie V),
    ) {
        let mut branches = Branches::default();
        let mut next = self.first_step(topic, &mut branches, &mut visit);
        while let Some((id, rest)) = next {
            next = self.step(id, rest, &mut branches, &mut visit);
            if next.is_none() {
                next = branches.pop();
            }
        }
    }

    /// The step from the root, where a topic that starts with `$` passes by the wildcards
    /// [MQTT-4.7.2-1].
    fn first_step<'trie, 'topic>(
        &'trie self,
        topic: &'topic TopicName,
        branches: &mut Branches<'topic>,
        visit: &mut impl FnMut(&'trie V),
    ) -> Option<Branch<'topic>> {
        if !topic.starts_with_dollar() {
            return self.step(NodeId::ROOT, Some(topic.as_bytes()), branches, visit);
        }
        let (level, rest) = split_first(topic.as_bytes());
        let child = self.node(NodeId::ROOT)?.children.get(level)?;
        Some((*child, rest))
    }

    /// Visits what matches at one node and says where to go on; a second way goes to `branches`.
    fn step<'trie, 'topic>(
        &'trie self,
        id: NodeId,
        rest: Option<&'topic [u8]>,
        branches: &mut Branches<'topic>,
        visit: &mut impl FnMut(&'trie V),
    ) -> Option<Branch<'topic>> {
        let node = self.node(id)?;
        // `#` matches whatever is left, also nothing: the parent level itself.
        if let Some(value) = &node.subtree {
            visit(value);
        }
        let Some(levels) = rest else {
            if let Some(value) = &node.exact {
                visit(value);
            }
            return None;
        };
        let (level, after) = split_first(levels);
        let text = node.children.get(level).map(|child| (*child, after));
        let plus = node.plus.map(|child| (child, after));
        match (text, plus) {
            (Some(text), Some(plus)) => {
                branches.push(plus);
                Some(text)
            }
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        }
    }

    fn child_or_new(&mut self, parent: NodeId, level: &[u8]) -> NodeId {
        if let Some(child) = self.node(parent).and_then(|node| node.child(level)) {
            return child;
        }
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            NodeId::at(self.nodes.len() - 1)
        });
        if let Some(node) = self.node_mut(parent) {
            node.link(level, child);
        }
        child
    }

    /// Frees the node that `steps` led to, and each node above it, as long as they are empty.
    fn prune(&mut self, last: NodeId, steps: &[(NodeId, &[u8])]) {
        let mut id = last;
        for (parent, level) in steps.iter().rev() {
            if !self.node(id).is_some_and(Node::is_empty) {
                return;
            }
            self.free_node(id);
            if let Some(node) = self.node_mut(*parent) {
                node.unlink(level);
            }
            id = *parent;
        }
    }

    /// Frees every node that leads to no value.
    fn prune_all(&mut self) {
        // Parents come before their children here, so the other way round a node has lost its
        // empty children before it is looked at itself.
        let mut order = vec![NodeId::ROOT];
        let mut at = 0;
        while let Some(node) = order.get(at).and_then(|id| self.node(*id)) {
            order.extend(node.plus);
            order.extend(node.children.iter().map(|(_, child)| *child));
            at += 1;
        }
        for id in order.into_iter().rev() {
            let Some(node) = self.node_mut(id) else {
                continue;
            };
            let mut children = std::mem::take(&mut node.children);
            let mut plus = node.plus;
            children.retain(|_, child| !self.free_if_empty(*child));
            plus.take_if(|child| self.free_if_empty(*child));
            if let Some(node) = self.node_mut(id) {
                node.children = children;
                node.plus = plus;
            }
        }
    }

    fn free_if_empty(&mut self, id: NodeId) -> bool {
        let is_empty = self.node(id).is_some_and(Node::is_empty);
        if is_empty {
            self.free_node(id);
        }
        is_empty
    }

    fn free_node(&mut self, id: NodeId) {
        debug_assert!(id != NodeId::ROOT, "the root is never freed");
        if let Some(node) = self.node_mut(id) {
            // Gives back what an emptied list of children still holds.
            *node = Node::default();
            self.free.push(id);
        }
    }

    /// The node `id`. `None` would mean a broken invariant: then there is nothing to find there.
    fn node(&self, id: NodeId) -> Option<&Node<V>> {
        let node = self.nodes.get(id.position());
        debug_assert!(node.is_some(), "{id:?} names no node");
        node
    }

    /// As [`Trie::node`].
    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node<V>> {
        let node = self.nodes.get_mut(id.position());
        debug_assert!(node.is_some(), "{id:?} names no node");
        node
    }
}

/// A node, and the levels of the topic that are still to be matched below it.
type Branch<'topic> = (NodeId, Option<&'topic [u8]>);

/// Open branches that fit without an allocation: publishing is the hot path, and a topic rarely
/// has a `+` beside a text level more than a few times.
const INLINE_BRANCHES: usize = 16;

/// The ways not gone yet, last in first out. At most one for each level of the topic.
#[derive(Default)]
struct Branches<'topic> {
    inline: [Option<Branch<'topic>>; INLINE_BRANCHES],
    /// How many of `inline` are in use; all of them while `spilled` is not empty.
    len: usize,
    spilled: Vec<Branch<'topic>>,
}

impl<'topic> Branches<'topic> {
    fn push(&mut self, branch: Branch<'topic>) {
        match self.inline.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(branch);
                self.len += 1;
            }
            None => self.spilled.push(branch),
        }
    }

    fn pop(&mut self) -> Option<Branch<'topic>> {
        if let Some(branch) = self.spilled.pop() {
            return Some(branch);
        }
        self.len = self.len.checked_sub(1)?;
        self.inline.get_mut(self.len)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    fn matches(filters: &[&str], topic: &str) -> Vec<String> {
        let mut trie = Trie::<String>::default();
        for text in filters {
            trie.upsert(&filter(text), |value| value.push_str(text))
                .unwrap();
        }
        let mut found = Vec::new();
        let topic = TopicName::try_from(topic).unwrap();
        trie.for_each_match(&topic, |value| found.push(value.clone()));
        found.sort();
        found
    }

    fn check(filter: &str, matching: &[&str], others: &[&str]) {
        for topic in matching {
            assert_eq!(
                matches(&[filter], topic),
                [filter],
                "{filter} matches {topic}"
            );
        }
        for topic in others {
            assert!(
                matches(&[filter], topic).is_empty(),
                "{filter} does not match {topic}"
            );
        }
    }

    impl<V> Trie<V> {
        /// The invariants of the module, from scratch.
        fn check_invariants(&self) {
            let mut named = BTreeSet::new();
            let mut todo = vec![NodeId::ROOT];
            let mut filters = 0;
            while let Some(id) = todo.pop() {
                assert!(named.insert(id.position()), "{id:?} is named once");
                let node = &self.nodes[id.position()];
                assert!(
                    id == NodeId::ROOT || !node.is_empty(),
                    "{id:?} leads to a value"
                );
                filters += usize::from(node.exact.is_some()) + usize::from(node.subtree.is_some());
                todo.extend(node.plus);
                todo.extend(node.children.iter().map(|(_, child)| *child));
            }
            for id in &self.free {
                assert!(named.insert(id.position()), "{id:?} is free and named");
                assert!(self.nodes[id.position()].is_empty());
            }
            assert_eq!(named.len(), self.nodes.len(), "each node is in use or free");
            assert_eq!(filters, self.filters);
        }

        fn nodes_in_use(&self) -> usize {
            self.nodes.len() - self.free.len()
        }
    }

    /// [MQTT-4.7.1-1], the examples of section 4.7.1.2.
    #[test]
    fn a_hash_matches_its_parent_level_and_all_below() {
        check(
            "sport/tennis/player1/#",
            &[
                "sport/tennis/player1",
                "sport/tennis/player1/",
                "sport/tennis/player1/ranking",
                "sport/tennis/player1/score/wimbledon",
            ],
            &[
                "sport/tennis",
                "sport/tennis/player2",
                "sport/tennis/player10",
                "sport",
            ],
        );
        check(
            "sport/#",
            &["sport", "sport/", "sport/a/b"],
            &["sports", "/sport", "Sport"],
        );
        check("#", &["a", "/", "a/b/c", "//", " "], &["$SYS", "$SYS/a"]);
        check("/#", &["/", "/a", "//", "/a/b"], &["a", "a/"]);
    }

    /// [MQTT-4.7.1-2], the examples of section 4.7.1.3.
    #[test]
    fn a_plus_matches_exactly_one_level() {
        check(
            "sport/tennis/+",
            &[
                "sport/tennis/player1",
                "sport/tennis/player2",
                "sport/tennis/",
            ],
            &["sport/tennis/player1/ranking", "sport/tennis", "sport"],
        );
        check(
            "sport/+",
            &["sport/", "sport/a"],
            &["sport", "sport/a/", "sport//"],
        );
        check("+", &["finance", " "], &["/finance", "finance/", "/"]);
        check(
            "+/+",
            &["/finance", "/", "a/", "a/b"],
            &["finance", "a/b/c", "//"],
        );
        check("/+", &["/finance", "/"], &["finance", "//"]);
        check(
            "+/tennis/#",
            &["a/tennis", "/tennis/b/c"],
            &["tennis", "a/b/tennis"],
        );
        check("+/#", &["a", "a/b", "/"], &["$a", "$a/b"]);
        check("a/+/+/d", &["a/b/c/d", "a///d"], &["a/b/d", "a/b/c/d/e"]);
    }

    /// [MQTT-4.7.3-4], the rules of section 4.7.3.
    #[test]
    fn levels_are_compared_byte_by_byte() {
        check(
            "ACCOUNTS",
            &["ACCOUNTS"],
            &["Accounts", "ACCOUNTS/", "/ACCOUNTS", "ACCOUNTS "],
        );
        check(
            "Accounts payable",
            &["Accounts payable"],
            &["Accounts  payable"],
        );
        check("a//b", &["a//b"], &["a/b", "a///b", "/a/b"]);
        check("/", &["/"], &["//", "a/", "/a"]);
        // One letter, composed and decomposed.
        check("\u{e9}", &["\u{e9}"], &["e\u{301}"]);
    }

    #[test]
    fn all_filters_that_match_are_visited_once() {
        let filters = [
            "#", "+", "+/#", "+/+", "+/b", "a", "a/#", "a/+", "a/b", "a/b/#", "a/+/#", "b/#",
            "+/+/#",
        ];
        assert_eq!(
            matches(&filters, "a/b"),
            [
                "#", "+/#", "+/+", "+/+/#", "+/b", "a/#", "a/+", "a/+/#", "a/b", "a/b/#"
            ]
        );
        assert_eq!(matches(&filters, "a"), ["#", "+", "+/#", "a", "a/#"]);
    }

    #[test]
    fn the_deepest_topic_needs_no_stack() {
        let deep = "/".repeat(65_535);
        let plus = vec!["+"; 32_768].join("/");
        let topic = TopicName::try_from(deep.as_str()).unwrap();
        let mut trie = Trie::<u32>::default();
        let filters = [
            filter(&deep),
            filter(&"/".repeat(65_534)),
            filter(&plus),
            filter("/#"),
        ];
        for each in &filters {
            trie.upsert(each, |count| *count += 1).unwrap();
        }
        let mut found = 0;
        trie.for_each_match(&topic, |count| found += count);
        assert_eq!(found, 2);
        for each in &filters {
            trie.update(each, |slot| *slot = None).unwrap();
        }
        trie.check_invariants();
        assert_eq!(trie.nodes_in_use(), 1);
        trie.upsert(&filters[0], |count| *count += 1).unwrap();
        trie.retain(|_| false);
        trie.check_invariants();
        assert_eq!(trie.nodes_in_use(), 1);
        trie.upsert(&filters[0], |count| *count += 1).unwrap();
        drop(trie);
    }

    /// Every combination of a text and a `+` at each level: more open branches than fit inline.
    #[test]
    fn more_open_branches_than_fit_inline_are_all_gone() {
        const LEVELS: u32 = 11;
        let mut trie = Trie::<u32>::default();
        for bits in 0..1u32 << LEVELS {
            let level = |at| if bits >> at & 1 == 1 { "+" } else { "a" };
            let text = (0..LEVELS).map(level).collect::<Vec<_>>().join("/");
            trie.upsert(&filter(&text), |count| *count += 1).unwrap();
        }
        // On top, a spine with a `+` beside each of its 40 levels.
        for depth in 0..40usize {
            let text = format!("{}+", "x/".repeat(depth));
            trie.upsert(&filter(&format!("{text}/#")), |count| *count += 1)
                .unwrap();
        }
        let mut found = 0;
        let topic = TopicName::try_from(["a"; 11].join("/").as_str()).unwrap();
        trie.for_each_match(&topic, |_| found += 1);
        assert_eq!(found, (1 << LEVELS) + 1);
        found = 0;
        let topic = TopicName::try_from("x/".repeat(60).as_str()).unwrap();
        trie.for_each_match(&topic, |_| found += 1);
        assert_eq!(found, 40);
    }

    #[test]
    fn branches_come_back_last_in_first_out() {
        let id = NodeId::at;
        let mut branches = Branches::default();
        for round in 1..=3 {
            for position in 0..INLINE_BRANCHES * 2 {
                branches.push((id(position), None));
            }
            for position in (round..INLINE_BRANCHES * 2).rev() {
                assert_eq!(branches.pop(), Some((id(position), None)));
            }
            while branches.pop().is_some() {}
        }
        assert_eq!(branches.pop(), None);
    }

    /// What one filter costs in nodes, as promised at the crate.
    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node<CompactMap<u64, u64>>>() <= 80);
    }

    fn any_filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop::sample::select(vec!["", "a", "b", "$c", "+"]);
        let levels = prop::collection::vec(level, 1..6);
        (levels, any::<bool>()).prop_map(|(mut levels, subtree)| {
            if subtree {
                levels.pop();
                levels.push("#");
            }
            let text = levels.join("/");
            TopicFilter::try_from(text.as_str()).unwrap_or_else(|_| filter("/"))
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(TopicFilter, u8),
        Remove(TopicFilter),
        RetainAbove(u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            9 => (any_filter(), any::<u8>()).prop_map(|(filter, value)| Step::Insert(filter, value)),
            9 => any_filter().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::RetainAbove),
        ]
    }

    proptest! {
        /// The trie is a map, and holds nothing but what leads to a value.
        #[test]
        fn invariants_hold_after_each_change(steps in prop::collection::vec(any_step(), 0..120)) {
            let mut trie = Trie::<u8>::default();
            let mut model = std::collections::BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(filter, value) => {
                        trie.upsert(&filter, |slot| *slot = value).unwrap();
                        model.insert(filter, value);
                    }
                    Step::Remove(filter) => {
                        let removed = trie.update(&filter, |slot| slot.take());
                        prop_assert_eq!(removed.flatten(), model.remove(&filter));
                    }
                    Step::RetainAbove(bound) => {
                        trie.retain(|value| *value > bound);
                        model.retain(|_, value| *value > bound);
                    }
                }
                trie.check_invariants();
                prop_assert_eq!(trie.filters, model.len());
                for (filter, value) in &model {
                    prop_assert_eq!(trie.get(filter), Some(value));
                }
            }
            trie.retain(|_| false);
            prop_assert_eq!(trie.nodes_in_use(), 1);
        }
    }
}
