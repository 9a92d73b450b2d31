//! What connections publish and acknowledge, and how outboxes reach their targets.

use bytes::Bytes;
use codec::{Message, MessageProperties, PacketId, Qos, TopicName};
use proptest::test_runner::TestCaseResult;
use raft_store::{Acknowledgement, Command, OutboxTarget, ProposerId, ShardId};

use super::super::action::{Among, CLIENTS, Choice, NODES, PERSISTENT, Pick, TOPICS};
use super::{Connection, World};

impl World {
    fn message(&mut self, from: &Connection, topic: &str, qos: Qos, retain: bool) -> Message {
        let number = self
            .oracle
            .published((&from.client_id, from.epoch), topic, qos);
        Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload: Bytes::from(number.to_string()),
            qos,
            retain,
            properties: MessageProperties::default(),
        }
    }

    pub(super) fn publish(
        &mut self,
        mut pick: Pick,
        (topic, qos, retain): (usize, Qos, bool),
        shards: u8,
    ) {
        // A closed connection has nothing to say: its node drops what it reads.
        if pick.among == Among::All {
            pick.among = Among::Unclosed;
        }
        let Some(connection) = self.pick(&pick) else {
            return;
        };
        let Connection {
            client_id,
            home,
            holder,
            epoch,
            ..
        } = connection.clone();
        let life = (holder.node, holder.incarnation);
        // At QoS 2, what a session is kept for goes through its shard.
        let is_persistent = CLIENTS[..PERSISTENT].contains(&client_id.as_str());
        let qos = if is_persistent { Qos::AtLeastOnce } else { qos };
        let message = self.message(&connection, TOPICS[topic], qos, retain);
        for shard in self
            .shard_ids()
            .filter(|shard| shards & (1 << shard.0) != 0)
        {
            if shard != home && self.has_formers(&connection, shard) {
                self.submit(
                    shard,
                    life,
                    Command::Fence {
                        client_id: client_id.clone(),
                        epoch,
                    },
                );
                self.connection(&connection).fenced.insert(shard);
            }
            let (client_id, message) = (client_id.clone(), message.clone());
            self.submit(
                shard,
                life,
                Command::Publish {
                    client_id,
                    epoch,
                    message,
                },
            );
        }
    }

    pub(super) fn receive_exactly_once(
        &mut self,
        pick: Pick,
        packet_id: PacketId,
        (topic, retain): (usize, bool),
        (shards, nodes): (u8, u8),
    ) {
        let Some(connection) = self.pick(&pick) else {
            return;
        };
        let message = self.message(&connection, TOPICS[topic], Qos::ExactlyOnce, retain);
        let shards = self
            .shard_ids()
            .filter(|shard| shards & (1 << shard.0) != 0)
            .collect();
        let nodes = (0..NODES.len())
            .filter(|node| nodes & (1 << node) != 0)
            .map(|node| {
                *self
                    .lives
                    .iter()
                    .rev()
                    .find(|(of, _)| *of == NODES[node])
                    .unwrap()
            });
        let nodes = nodes.collect();
        self.submit_home(pick, |client_id, epoch| Command::ReceiveExactlyOnce {
            client_id,
            epoch,
            packet_id,
            message,
            shards,
            nodes,
        });
    }

    pub(super) fn acknowledgements(
        &self,
        connection: &Connection,
        choices: &[Choice],
    ) -> Vec<Acknowledgement> {
        let ids = self.ids_in_flight(connection);
        choices.iter().map(|choice| choice.resolve(&ids)).collect()
    }

    pub(super) fn ids_in_flight(&self, connection: &Connection) -> Vec<PacketId> {
        let model = &self.shards[usize::from(connection.home.0)].model;
        let session = model
            .clients
            .get(&connection.client_id)
            .and_then(|each| each.session.as_ref());
        session
            .map(|session| session.ids_in_flight())
            .unwrap_or_default()
    }

    // Outboxes.

    /// Items of one shard's outbox go to another, from `skip` places around where it is on.
    pub(super) fn take(
        &mut self,
        source: ShardId,
        target: ShardId,
        skip: i8,
        count: usize,
    ) -> TestCaseResult {
        let taken = self.tested(target).model.taken(source);
        let after = taken.saturating_add_signed(skip.into());
        let machine = &self.tested(source).machine;
        let items = machine.outbox_items(OutboxTarget::Shard(target), after, count, 64);
        let Some((first, _)) = items.front().cloned() else {
            return Ok(());
        };
        let items = items.into_iter().map(|(_, item)| item).collect();
        let command = Command::TakeOutbox {
            source,
            first,
            items,
        };
        self.apply(target, (ProposerId::Outbox { source }, 0), vec![command])?;
        Ok(())
    }

    /// Every target's progress is recorded in the source.
    pub(super) fn trim(&mut self, source: ShardId) -> TestCaseResult {
        for target in self.tested(source).machine.outbox_targets() {
            let upto = match target {
                OutboxTarget::Shard(shard) => self.tested(shard).model.taken(source),
                OutboxTarget::Node(..) => {
                    let machine = &self.tested(source).machine;
                    let items = machine.outbox_items(target, 0, 3, usize::MAX);
                    items.back().map_or(0, |(number, _)| *number)
                }
            };
            self.apply_one(source, Command::Taken { target, upto })?;
        }
        Ok(())
    }
}
