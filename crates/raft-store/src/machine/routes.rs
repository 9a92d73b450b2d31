//! PURE. What the subscriptions of this shard's sessions add to every node's route table.
//!
//! | subscription | granted 1 or 2 | granted 0 |
//! |---|---|---|
//! | always | `Shard` | |
//! | while connected | `NodeAtMostOnce`, and of a shared one `ConnectedShard` | `Node` |
//!
//! With QoS 0 granted a session takes every message live, else only those published at QoS 0
//! (DESIGN section 3).

use codec::{Qos, TopicFilter};
use session::Session;

use super::Machine;
use crate::command::{Effect, RouteTarget};
use crate::ids::{Holder, NodeId, ShardId};

/// Added or removed.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Added,
    Removed,
}

impl Change {
    fn effect(self, filter: &TopicFilter, target: RouteTarget) -> Effect {
        let filter = filter.clone();
        match self {
            Self::Added => Effect::RouteAdded { filter, target },
            Self::Removed => Effect::RouteRemoved { filter, target },
        }
    }
}

impl Machine {
    /// What a subscription stands for while `holder` is connected.
    #[expect(clippy::too_many_arguments, reason = "what a route consists of")]
    pub(super) fn route_subscription(
        &self,
        change: Change,
        filter: &TopicFilter,
        granted: Qos,
        holder: Option<Holder>,
        out: &mut Vec<Effect>,
    ) {
        if granted != Qos::AtMostOnce {
            out.push(change.effect(filter, RouteTarget::Shard(self.shard)));
        }
        if let Some(holder) = holder {
            route_connected(change, self.shard, filter, granted, holder.node, out);
        }
    }

    /// What all subscriptions of a session stand for only while it is connected.
    pub(super) fn route_connection(
        &self,
        change: Change,
        session: &Session,
        node: NodeId,
        out: &mut Vec<Effect>,
    ) {
        for (filter, subscription) in session.subscriptions() {
            let granted = subscription.options.qos;
            route_connected(change, self.shard, filter, granted, node, out);
        }
    }

    /// Every route entry that this state stands for; a loaded replica starts its node's table with them.
    pub(super) fn all_routes(&self, change: Change) -> Vec<Effect> {
        let mut out = Vec::new();
        for record in self.sessions.values() {
            let Some(session) = &record.session else {
                continue;
            };
            for (filter, subscription) in session.subscriptions() {
                let granted = subscription.options.qos;
                self.route_subscription(change, filter, granted, record.holder, &mut out);
            }
        }
        out
    }
}

#[expect(clippy::too_many_arguments, reason = "what a route consists of")]
fn route_connected(
    change: Change,
    shard: ShardId,
    filter: &TopicFilter,
    granted: Qos,
    node: NodeId,
    out: &mut Vec<Effect>,
) {
    if granted == Qos::AtMostOnce {
        out.push(change.effect(filter, RouteTarget::Node(node)));
        return;
    }
    out.push(change.effect(filter, RouteTarget::NodeAtMostOnce(node)));
    if filter.is_shared() {
        out.push(change.effect(filter, RouteTarget::ConnectedShard(shard)));
    }
}
