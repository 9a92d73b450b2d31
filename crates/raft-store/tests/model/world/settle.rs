//! The end of a run.

use codec::{ClientId, ReasonCode, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{Acknowledgement, Command, Ending, OutboxTarget, StateKey};
use session::SessionLimits;

use super::super::action::{Audience, CLIENTS, NODES, Terms};
use super::{Connection, World};

/// Wills that come in the end go to every shard.
const EVERY_SHARD: Audience = Audience {
    shards: 7,
    nodes: 0,
    shared: Vec::new(),
};

impl World {
    /// Everything under way arrives and is acknowledged, all clients leave: nothing must be left.
    pub(crate) fn settle(&mut self) -> TestCaseResult {
        self.behind_ms = 0;
        self.flush_all(|_, _| true)?;
        self.settle_wills_and_outboxes()?;
        self.oracle.check_taken()?;
        self.node_up(NODES[0])?;
        for client in 0..CLIENTS.len() {
            self.drain_client(client)?;
        }
        // The ends of sessions make wills due, and messages of their shares go to other members.
        self.settle_wills_and_outboxes()?;
        self.end_everything()?;
        self.settle_wills_and_outboxes()?;
        self.clear_retained()?;
        for tested in &mut self.shards {
            tested.install()?;
        }
        for tested in &self.shards {
            let is_numbering = |key: &&StateKey| {
                let outbox = matches!(
                    key,
                    StateKey::Outbox(OutboxTarget::Shard(_) | OutboxTarget::Unplaced)
                );
                let known = matches!(
                    key,
                    StateKey::Counters | StateKey::Node(_) | StateKey::Taken(_)
                );
                known || outbox
            };
            let left: Vec<_> = tested
                .records
                .keys()
                .filter(|key| !is_numbering(key))
                .collect();
            prop_assert!(left.is_empty(), "left over: {left:?}");
            prop_assert!(tested.routes().is_empty(), "{:?}", tested.routes());
            prop_assert_eq!(tested.machine.session_count(), 0);
            prop_assert_eq!(tested.machine.outbox_bytes(), 0);
            prop_assert!(tested.machine.due(Timestamp::MAX, 1).is_empty());
            prop_assert!(tested.machine.due_wills(Timestamp::MAX, 1).is_empty());
        }
        Ok(())
    }

    /// Wills that are due are published, and every outbox is emptied.
    fn settle_wills_and_outboxes(&mut self) -> TestCaseResult {
        for shard in self.shard_ids() {
            self.publish_wills(shard, &EVERY_SHARD, false)?;
        }
        let mut rounds = 0;
        while self.has_outbox_items() {
            rounds += 1;
            prop_assert!(rounds < 1_000, "the outboxes stand still");
            for source in self.shard_ids() {
                for target in self.shard_ids() {
                    self.take(source, target, 0, 3)?;
                }
                self.trim(source)?;
                self.claim_all(source)?;
                self.place_all(source)?;
            }
        }
        Ok(())
    }

    fn has_outbox_items(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.any(|tested| !tested.machine.outbox_targets().is_empty())
    }

    /// A client connects once more, takes all that waits, and ends its session.
    fn drain_client(&mut self, client: usize) -> TestCaseResult {
        let client_id = ClientId::new(CLIENTS[client]).unwrap();
        let mut shards = self.shards.iter();
        let has_name = shards.any(|tested| {
            let client = tested.model.clients.get(&client_id);
            client.is_some_and(|client| client.owner.is_some())
        });
        let terms = Terms {
            clean_start: false,
            expiry_interval_s: 60,
            receive_maximum: 7,
            limits: SessionLimits::default(),
            will: None,
            has_name,
        };
        self.connect(client, 0, false, terms)?;
        let connection = self.connections.last().unwrap().clone();
        loop {
            let ids = self.ids_in_flight(&connection);
            if ids.is_empty() {
                break;
            }
            // What does not fit changes nothing.
            let acknowledgements = ids.into_iter().flat_map(|id| {
                [
                    Acknowledgement::Puback(id),
                    Acknowledgement::Pubrec(id, ReasonCode::Success),
                    Acknowledgement::Pubcomp(id),
                ]
            });
            let Connection {
                client_id,
                home,
                holder,
                epoch,
                ..
            } = connection.clone();
            let acknowledgements = acknowledgements.collect();
            let command = Command::Acknowledge {
                client_id,
                epoch,
                acknowledgements,
            };
            self.submit(home, (holder.node, holder.incarnation), command);
            self.flush_all(|_, _| true)?;
        }
        self.close(connection, Some(0), Ending::Abnormal)?;
        self.flush_all(|_, _| true)
    }

    /// Former connections and fences go.
    fn end_everything(&mut self) -> TestCaseResult {
        for shard in self.shard_ids() {
            for (node, incarnation) in self.lives.clone() {
                self.apply_one(shard, Command::NodeDown { node, incarnation })?;
            }
            for Connection {
                client_id, epoch, ..
            } in self.connections.clone()
            {
                self.apply_one(shard, Command::FenceEnd { client_id, epoch })?;
            }
        }
        Ok(())
    }
}
