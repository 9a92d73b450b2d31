//! After an installed snapshot the node stands where it would stand had it applied every entry.

use std::collections::BTreeMap;

use session::Resend;

use super::*;
use crate::command::{CloseReason, RouteTarget};

type Routes = BTreeMap<(TopicFilter, RouteTarget), i64>;

fn follow(routes: &mut Routes, effects: &[Effect]) {
    for effect in effects {
        let (key, change) = match effect {
            Effect::RouteAdded { filter, target } => ((filter.clone(), *target), 1),
            Effect::RouteRemoved { filter, target } => ((filter.clone(), *target), -1),
            _ => continue,
        };
        let count = routes.entry(key.clone()).or_default();
        *count += change;
        assert!(*count >= 0, "{key:?}");
        if *count == 0 {
            routes.remove(&key);
        }
    }
}

/// A session that stays connected, one that is taken over, one that goes, one that comes; a QoS 2
/// message for a node.
struct Story {
    tested: Tested,
    routes: Routes,
    stays: Epoch,
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            tested: Tested::new(),
            routes: Routes::new(),
            stays: Epoch(0),
        };
        story.stays = story.tested.connect("stays");
        let moves = story.tested.connect("moves");
        let goes = story.tested.connect("goes");
        for (client_id, epoch) in [("stays", story.stays), ("moves", moves), ("goes", goes)] {
            story.subscribe(client_id, epoch, "t", Qos::ExactlyOnce);
            story.subscribe(client_id, epoch, "$share/g/t", Qos::AtLeastOnce);
        }
        story.publish("before");
        story
    }

    fn subscribe(&mut self, client_id: &str, epoch: Epoch, filter: &str, qos: Qos) {
        let options = SubscriptionOptions::new(qos);
        let subscription = Subscription {
            options,
            identifier: None,
        };
        let (_, effects) = self.tested.apply(&Command::Subscribe {
            client_id: client(client_id),
            epoch,
            filters: vec![(self::filter(filter), subscription)],
            reads_retained: false,
        });
        follow(&mut self.routes, &effects);
    }

    fn publish(&mut self, payload: &str) {
        self.tested
            .publish(message("t", payload, Qos::ExactlyOnce), None);
    }

    /// What the node misses.
    fn go_on(&mut self) {
        self.publish("after");
        let (_, effects) = self
            .tested
            .connect_with(|connect| connect.client_id = client("moves"));
        follow(&mut self.routes, &effects);
        let effects = self.tested.disconnect("goes", Epoch(3), Ending::Normal);
        follow(&mut self.routes, &effects);
        let comes = self.tested.connect("comes");
        self.subscribe("comes", comes, "u", Qos::AtMostOnce);
        let (node, incarnation) = (NodeId(7), Incarnation(70));
        self.tested.apply(&Command::NodeDown { node, incarnation });
        self.tested.answer(&Command::ReceiveExactlyOnce {
            client_id: client("stays"),
            epoch: self.stays,
            packet_id: id(9),
            message: message("v", "item", Qos::ExactlyOnce),
            shards: vec![],
            nodes: vec![(NodeId(1), Incarnation(1))],
            retained_version: None,
            shared: vec![],
        });
    }
}

#[test]
fn a_node_catches_up_with_everything_that_it_missed() {
    let mut old = Story::new();
    let mut new = Story::new();
    new.go_on();
    let mut machine = new.tested.reload();
    let effects = machine.catch_up(&old.tested.machine);
    follow(&mut old.routes, &effects);
    assert_eq!(old.routes, new.routes);

    let closed: Vec<Holder> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Close { holder, reason } => {
                assert_eq!(*reason, CloseReason::TakenOver);
                Some(*holder)
            }
            _ => None,
        })
        .collect();
    assert_eq!(closed, [holder(3), holder(2)]);

    let mut resumed = Vec::new();
    for effect in &effects {
        match effect {
            Effect::Resync { holder, in_flight } => {
                assert_eq!(*holder, self::holder(1));
                let positions: Vec<u64> = in_flight
                    .iter()
                    .map(|resend| match resend {
                        Resend::Publish { position, .. } | Resend::Pubrel { position, .. } => {
                            *position
                        }
                    })
                    .collect();
                assert_eq!(positions, [1, 2]);
            }
            Effect::Resumed {
                holder,
                resend,
                subscriptions,
                ..
            } => resumed.push((*holder, resend.len(), subscriptions.len())),
            _ => {}
        }
    }
    assert_eq!(resumed, [(holder(5), 0, 1), (holder(4), 2, 2)]);

    let items = |effect: &&Effect| matches!(effect, Effect::LiveOutbox { number: 1, .. });
    assert_eq!(effects.iter().filter(items).count(), 1);
    let down = Effect::NodeDown {
        node: NodeId(7),
        incarnation: Incarnation(70),
    };
    assert!(effects.contains(&down));

    // The routes were handed out: the next entry brings none.
    new.tested.machine = machine;
    let (_, effects) = new.tested.apply(&Command::Barrier);
    assert_eq!(effects, []);
}

#[test]
fn nothing_missed_is_only_a_resync() {
    let mut old = Story::new();
    let mut machine = old.tested.reload();
    let effects = machine.catch_up(&old.tested.machine);
    let before = old.routes.clone();
    follow(&mut old.routes, &effects);
    assert_eq!(old.routes, before);
    let others = effects.iter().filter(|effect| {
        !matches!(
            effect,
            Effect::RouteAdded { .. } | Effect::RouteRemoved { .. } | Effect::Resync { .. }
        )
    });
    assert_eq!(others.count(), 0);
}
