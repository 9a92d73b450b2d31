//! PURE. What a node does when an installed snapshot replaces its replica: the effects of the entries
//! in between were never handed out here.

use codec::ClientId;

use super::routes::Change;
use super::{Machine, SessionRecord};
use crate::command::{CloseReason, Effect, OutboxTarget};
use crate::ids::Holder;

impl Machine {
    /// Brings a node from the effects of `old` to those of this newer state of the same shard; called
    /// once, before the first apply. In this order:
    /// - the routes of this state, then off with those of `old`: the table misses none meanwhile;
    /// - lives that began or ended;
    /// - `Close` for connections that this state does not have any more;
    /// - `Resumed` for those that `old` did not have, as if everything in flight had been sent before;
    /// - `Resync` for those of hosted sessions that both have;
    /// - `FencesOver` where that may have been missed;
    /// - `LiveOutbox` for everything that waits for nodes. A node passes by the numbers that it has.
    ///
    /// What was `Dropped` meanwhile was counted by those who applied it.
    pub fn catch_up(&mut self, old: &Self) -> Vec<Effect> {
        self.boot_effects = Vec::new();
        let mut effects = self.all_routes(Change::Added);
        // A state that was loaded and has applied nothing has not handed its routes out.
        if old.boot_effects.is_empty() {
            effects.extend(old.all_routes(Change::Removed));
        }
        self.catch_up_lives(old, &mut effects);
        for (client_id, before) in &old.sessions {
            if let Some(holder) = before.holder
                && self.holder(client_id) != Some(holder)
            {
                let reason = CloseReason::TakenOver;
                effects.push(Effect::Close { holder, reason });
            }
        }
        for (client_id, record) in &self.sessions {
            let before = old.sessions.get(client_id);
            self.catch_up_session(client_id, record, before, &mut effects);
        }
        self.catch_up_outbox(&mut effects);
        effects
    }

    fn catch_up_lives(&self, old: &Self, effects: &mut Vec<Effect>) {
        for (&node, record) in &self.nodes {
            let incarnation = record.incarnation;
            let before = old.nodes.get(&node);
            let was_known = before.is_some_and(|before| before.incarnation == incarnation);
            if !was_known {
                if let Some(before) = before {
                    let incarnation = before.incarnation;
                    effects.push(Effect::NodeDown { node, incarnation });
                }
                effects.push(Effect::NodeUp { node, incarnation });
            }
            let was_down = was_known && before.is_some_and(|before| before.down);
            if record.down && !was_down {
                effects.push(Effect::NodeDown { node, incarnation });
            }
        }
    }

    fn holder(&self, client_id: &ClientId) -> Option<Holder> {
        self.sessions.get(client_id)?.holder
    }

    fn catch_up_session(
        &self,
        client_id: &ClientId,
        record: &SessionRecord,
        before: Option<&SessionRecord>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(holder) = record.holder {
            let session = record.session.as_deref();
            if before.and_then(|before| before.holder) != Some(holder) {
                effects.push(self.resumed(holder, session));
            } else if let Some(session) = session {
                let in_flight = self.in_flight(session);
                effects.push(Effect::Resync { holder, in_flight });
            }
        }
        let had_none =
            before.is_some_and(|before| before.formers.is_empty() && before.epoch == record.epoch);
        if record.formers.is_empty() && !had_none {
            effects.push(Effect::FencesOver {
                client_id: client_id.clone(),
                epoch: record.epoch,
            });
        }
    }

    fn catch_up_outbox(&self, effects: &mut Vec<Effect>) {
        for (&target, queue) in self.outbox.targets() {
            let OutboxTarget::Node(node, incarnation) = target else {
                continue;
            };
            for (&number, item) in &queue.items {
                let item = self.waiting_item(item);
                effects.extend(item.map(|item| Effect::LiveOutbox {
                    node,
                    incarnation,
                    number,
                    item,
                }));
            }
        }
    }
}
