//! Where the members of shared subscriptions are, as far as this node knows: who may be handed one
//! copy of a message for each group.
//!
//! It may name a place that has no member any more; whoever is asked says so, and another place is
//! picked. No place is central to a group, so a busy group grows with its members.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use codec::{Qos, TopicFilter, TopicName};
use raft_store::{NodeId, RouteTarget, ShardId};
use router::{Members, SharedTable, choose};

/// Who can be handed a message for one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A shard, for a persistent session granted QoS 1 or 2.
    Shard(ShardId),
    /// A node, for one of its connections.
    Node(NodeId),
}

/// One group that a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedRoute {
    /// The group: its filter with `$share/`.
    pub(crate) filter: Arc<TopicFilter>,
    /// The place picked; `None`: there is none for this QoS.
    pub(crate) place: Option<Place>,
}

/// The groups, and per place how many members it has.
#[derive(Debug, Default)]
pub(crate) struct SharedRoutes {
    table: SharedTable<RouteTarget, u32>,
    turn: AtomicU64,
}

impl SharedRoutes {
    /// More members of a group at a place.
    pub(crate) fn add(&mut self, filter: &TopicFilter, target: RouteTarget, members: u32) {
        let added = |count: &mut u32| *count = count.saturating_add(members);
        if self.table.update(&target, filter, added).is_none() && members > 0 {
            self.table.subscribe(target, filter, members);
        }
    }

    /// Fewer members of a group at a place.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, target: RouteTarget, members: u32) {
        let left = self.table.update(&target, filter, |count| {
            *count = count.saturating_sub(members);
            *count
        });
        if left == Some(0) {
            self.table.unsubscribe(&target, filter);
        }
    }

    /// The groups that a message is for, each with the place of its turn.
    pub(crate) fn route(&self, topic: &TopicName, qos: Qos) -> Vec<SharedRoute> {
        let mut routes = Vec::new();
        self.table.for_each_group(topic, |filter, members| {
            routes.push(SharedRoute {
                filter: Arc::clone(filter),
                place: pick(&counted(members), qos, &[], self.next_turn()),
            });
        });
        routes
    }

    /// Another place of a group, none of those tried.
    pub(crate) fn place(&self, filter: &TopicFilter, qos: Qos, tried: &[Place]) -> Option<Place> {
        let members = counted(self.table.members(filter));
        pick(&members, qos, tried, self.next_turn())
    }

    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

fn counted(members: Members<'_, RouteTarget, u32>) -> Vec<(RouteTarget, u32)> {
    members
        .iter()
        .map(|(target, count)| (*target, *count))
        .collect()
}

/// The place of this turn. At QoS 0 only connected members count. Above, connected ones come first,
/// each with the same chance; persistent sessions that are offline are asked last (DESIGN section 6).
fn pick(members: &[(RouteTarget, u32)], qos: Qos, tried: &[Place], turn: u64) -> Option<Place> {
    let connected = |target: RouteTarget| match target {
        RouteTarget::Node(node) => Some(Place::Node(node)),
        RouteTarget::NodeAtMostOnce(node) if qos == Qos::AtMostOnce => Some(Place::Node(node)),
        RouteTarget::ConnectedShard(shard) if qos != Qos::AtMostOnce => Some(Place::Shard(shard)),
        RouteTarget::NodeAtMostOnce(_) | RouteTarget::ConnectedShard(_) | RouteTarget::Shard(_) => {
            None
        }
    };
    let persistent = |target: RouteTarget| match target {
        RouteTarget::Shard(shard) if qos != Qos::AtMostOnce => Some(Place::Shard(shard)),
        RouteTarget::Shard(_)
        | RouteTarget::Node(_)
        | RouteTarget::NodeAtMostOnce(_)
        | RouteTarget::ConnectedShard(_) => None,
    };
    pick_weighted(members, connected, tried, turn)
        .or_else(|| pick_weighted(members, persistent, tried, turn))
}

fn pick_weighted(
    members: &[(RouteTarget, u32)],
    place_of: impl Fn(RouteTarget) -> Option<Place>,
    tried: &[Place],
    turn: u64,
) -> Option<Place> {
    let candidates = members.iter().filter_map(|(target, count)| {
        let place = place_of(*target).filter(|place| !tried.contains(place))?;
        Some((place, usize::try_from(*count).unwrap_or(usize::MAX)))
    });
    let total = candidates.clone().map(|(_, count)| count).sum();
    let mut left = choose(total, turn)?;
    for (place, count) in candidates {
        if left < count {
            return Some(place);
        }
        left = left.saturating_sub(count);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHARD: RouteTarget = RouteTarget::Shard(ShardId(0));
    const CONNECTED: RouteTarget = RouteTarget::ConnectedShard(ShardId(0));
    const NODE: RouteTarget = RouteTarget::Node(NodeId(1));
    const AT_MOST_ONCE: RouteTarget = RouteTarget::NodeAtMostOnce(NodeId(2));

    /// Shares of 1,200 turns, in twelfths.
    fn picked(members: &[(RouteTarget, u32)], qos: Qos, tried: &[Place]) -> BTreeMap<Place, u32> {
        let mut counts = BTreeMap::new();
        for turn in 0..1200 {
            if let Some(place) = pick(members, qos, tried, turn) {
                *counts.entry(place).or_insert(0) += 1;
            }
        }
        counts
            .values_mut()
            .for_each(|count| *count = (*count + 50) / 100);
        counts
    }

    #[test]
    fn the_connected_come_first_by_their_number_and_the_offline_last() {
        let all = [(SHARD, 9), (CONNECTED, 2), (NODE, 1), (AT_MOST_ONCE, 2)];
        let (shard, node) = (Place::Shard(ShardId(0)), Place::Node(NodeId(1)));
        let counts = picked(&all, Qos::AtLeastOnce, &[]);
        assert_eq!(counts, [(shard, 8), (node, 4)].into());
        let counts = picked(&all, Qos::ExactlyOnce, &[node]);
        assert_eq!(counts, [(shard, 12)].into());
        let counts = picked(&[(SHARD, 1), (NODE, 1)], Qos::AtLeastOnce, &[node]);
        assert_eq!(counts, [(shard, 12)].into());
        assert!(picked(&all, Qos::AtLeastOnce, &[node, shard]).is_empty());
    }

    #[test]
    fn at_qos_0_only_connections_count() {
        let all = [(SHARD, 9), (CONNECTED, 2), (NODE, 1), (AT_MOST_ONCE, 2)];
        let counts = picked(&all, Qos::AtMostOnce, &[]);
        let expected = [(Place::Node(NodeId(1)), 4), (Place::Node(NodeId(2)), 8)];
        assert_eq!(counts, expected.into());
        let offline = [(SHARD, 1), (CONNECTED, 1)];
        assert!(picked(&offline, Qos::AtMostOnce, &[]).is_empty());
    }

    #[test]
    fn members_are_counted_per_place() {
        let filter = TopicFilter::try_from("$share/g/a/+").unwrap();
        let topic = TopicName::try_from("a/b").unwrap();
        let mut routes = SharedRoutes::default();
        assert!(routes.route(&topic, Qos::AtMostOnce).is_empty());
        routes.add(&filter, NODE, 2);
        routes.remove(&filter, NODE, 1);
        let place = Some(Place::Node(NodeId(1)));
        let route = SharedRoute {
            filter: Arc::new(filter.clone()),
            place,
        };
        assert_eq!(routes.route(&topic, Qos::ExactlyOnce), [route]);
        assert_eq!(routes.place(&filter, Qos::AtMostOnce, &[]), place);
        routes.remove(&filter, NODE, 1);
        routes.remove(&filter, NODE, 1);
        assert!(routes.route(&topic, Qos::AtMostOnce).is_empty());
        assert_eq!(routes.place(&filter, Qos::AtMostOnce, &[]), None);
    }
}
