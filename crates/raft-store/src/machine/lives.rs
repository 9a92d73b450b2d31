//! PURE. Lives of nodes: what begins and ends with them, and the fences between connections.

use std::sync::Arc;

use codec::ClientId;

use super::{Machine, NodeRecord};
use crate::command::{CloseReason, Effect, Ending, Refusal, Response};
use crate::ids::{Epoch, Holder, Incarnation, NodeId};
use crate::state::StateKey;

impl Machine {
    /// A newer life of a node: every earlier one is over. The same again (a repeat within one entry)
    /// changes nothing.
    pub(super) fn begin_life(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.nodes.get(&node).map(|known| known.incarnation);
        if known.is_some_and(|known| known >= incarnation) {
            return;
        }
        // Also lives that this shard knows only as targets of its outbox.
        let earlier = Incarnation(incarnation.0.saturating_sub(1));
        self.end_lives(node, earlier, effects);
        if let Some(incarnation) = known {
            effects.push(Effect::NodeDown { node, incarnation });
        }
        let record = NodeRecord {
            incarnation,
            down: false,
            last_sequence: 0,
            answers: Arc::new([]),
        };
        self.nodes.insert(node, record);
        self.changes.insert(StateKey::Node(node));
        effects.push(Effect::NodeUp { node, incarnation });
    }

    /// Declares one life over, and with it all earlier ones; never a later one.
    pub(super) fn declare_down(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let record = self.nodes.entry(node).or_insert_with(|| NodeRecord {
            incarnation,
            down: false,
            last_sequence: 0,
            answers: Arc::new([]),
        });
        if record.incarnation > incarnation || (record.incarnation == incarnation && record.down) {
            return;
        }
        record.incarnation = incarnation;
        record.down = true;
        record.answers = Arc::new([]);
        self.changes.insert(StateKey::Node(node));
        self.end_lives(node, incarnation, effects);
        effects.push(Effect::NodeDown { node, incarnation });
    }

    /// Nothing that is sent to this life is taken any more.
    pub(super) fn is_life_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.nodes.get(&node).is_some_and(|known| {
            known.incarnation > incarnation || (known.incarnation == incarnation && known.down)
        })
    }

    /// Records every connection of these lives closed, and forgets what only they could take.
    fn end_lives(&mut self, node: NodeId, upto: Incarnation, effects: &mut Vec<Effect>) {
        let held: Vec<ClientId> = self
            .held
            .iter()
            .filter(|(held_node, incarnation, _)| *held_node == node && *incarnation <= upto)
            .map(|(_, _, client_id)| client_id.clone())
            .collect();
        for client_id in held {
            self.end_connections(&client_id, node, upto, effects);
        }
        for target in self.outbox.node_targets(node, upto) {
            self.end_outbox_target(target, effects);
        }
    }

    /// One client's connections on ended lives of a node.
    fn end_connections(
        &mut self,
        client_id: &ClientId,
        node: NodeId,
        upto: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let ended = |holder: &Holder| holder.node == node && holder.incarnation <= upto;
        let Some(record) = self.sessions.get(client_id) else {
            return;
        };
        let former_epochs: Vec<Epoch> = record
            .formers
            .iter()
            .filter(|(_, holder)| ended(holder))
            .map(|(epoch, _)| *epoch)
            .collect();
        let current = record
            .holder
            .filter(ended)
            .map(|holder| (record.epoch, holder));
        for epoch in former_epochs {
            self.former_closed(client_id, epoch, Ending::Abnormal, effects);
        }
        if let Some((epoch, holder)) = current {
            effects.push(Effect::Close {
                holder,
                reason: CloseReason::NodeDown,
            });
            self.disconnect(client_id, epoch, None, Ending::Abnormal, effects);
        }
    }

    /// Refuses commands of older connections of a client whose session lives elsewhere.
    pub(super) fn fence(&mut self, client_id: ClientId, epoch: Epoch) -> Response {
        let fence = self.fences.entry(client_id.clone()).or_insert(epoch);
        if *fence > epoch {
            return Response::Refused(Refusal::StaleEpoch);
        }
        *fence = epoch;
        self.changes.insert(StateKey::Fence(client_id));
        Response::Done
    }

    pub(super) fn fence_end(&mut self, client_id: &ClientId, epoch: Epoch) -> Response {
        if self
            .fences
            .get(client_id)
            .is_some_and(|fence| *fence <= epoch)
        {
            self.fences.remove(client_id);
            self.changes.insert(StateKey::Fence(client_id.clone()));
        }
        Response::Done
    }

    /// A publish from this connection must change nothing any more.
    pub(super) fn is_stale_publisher(&self, client_id: &ClientId, epoch: Epoch) -> bool {
        let fenced = self
            .fences
            .get(client_id)
            .is_some_and(|fence| *fence > epoch);
        let replaced = self
            .sessions
            .get(client_id)
            .is_some_and(|record| record.epoch != epoch);
        fenced || replaced
    }
}
