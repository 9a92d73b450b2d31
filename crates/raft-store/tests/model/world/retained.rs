//! Retained messages: stored, sent live, and read for new subscriptions.

use bytes::Bytes;
use codec::{Message, Qos, TopicFilter};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{Command, Response, RetainedCopy, RetainedLimits, ShardId};

use super::super::action::{CLIENTS, Content, FILTERS, PERSISTENT, Pick};
use super::super::oracle::Kind;
use super::super::records;
use super::{Connection, World};

/// No bounds.
const ANY_NUMBER: RetainedLimits = RetainedLimits {
    messages_max: u64::MAX,
    bytes_max: u64::MAX,
};

impl World {
    fn topic_shard(&self, message: &Message) -> ShardId {
        ShardId::of_topic(message.topic.as_str(), self.shards.len() as u16)
    }

    /// First it is stored, then sent like any other, under the version that it got.
    pub(super) fn retain(
        &mut self,
        pick: Pick,
        mut content: Content,
        (clears, by_will, limits): (bool, bool, RetainedLimits),
        shards: u8,
    ) -> TestCaseResult {
        let Some(connection) = self.publisher(pick) else {
            return Ok(());
        };
        content.retain = true;
        if CLIENTS[..PERSISTENT].contains(&connection.client_id.as_str()) {
            content.qos = Qos::AtLeastOnce;
        }
        let from = (&connection.client_id, connection.epoch);
        let mut message = self.oracle.message(from, content, Kind::Retained);
        if clears {
            message.payload = Bytes::new();
        }
        let shard = self.topic_shard(&message);
        let command = Command::SetRetained {
            client_id: connection.client_id.clone(),
            epoch: (!by_will).then_some(connection.epoch),
            message: message.clone(),
            limits,
        };
        if by_will {
            self.apply_one(shard, command)?;
            return Ok(());
        }
        self.submit_fenced(&connection, shard, command);
        let life = (connection.holder.node, connection.holder.incarnation);
        let applied = self.flush(shard, life)?.unwrap();
        if let Some(Response::RetainedSet { version }) = applied.answers.last() {
            self.publish_to(&connection, &message, Some(*version), shards);
        }
        Ok(())
    }

    /// A retained will is stored before it is published.
    pub(super) fn store_will(&mut self, message: &Message) -> Result<Option<u64>, TestCaseError> {
        let command = Command::SetRetained {
            client_id: codec::ClientId::new("anybody").unwrap(),
            epoch: None,
            message: message.clone(),
            limits: ANY_NUMBER,
        };
        match self.apply_one(self.topic_shard(message), command)? {
            Response::RetainedSet { version } => Ok(Some(version)),
            other => Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }

    /// A node reads for one of its connections, page by page, and finds what the model has.
    pub(super) fn read_retained(
        &mut self,
        pick: &Pick,
        filter: usize,
        page: usize,
    ) -> TestCaseResult {
        let is_reading = |connection: &Connection| {
            let model = &self.shards[usize::from(connection.home.0)].model;
            let client = model.clients.get(&connection.client_id);
            client.is_some_and(|client| client.read.is_some())
        };
        let Some(connection) = self.pick_where(pick, is_reading) else {
            return Ok(());
        };
        let filter = TopicFilter::try_from(FILTERS[filter]).unwrap();
        for shard in self.shard_ids() {
            let tested = self.tested(shard);
            let found = records::read_retained(&tested.machine, &filter, page, 2);
            prop_assert_eq!(&found, &tested.model.read_retained(&filter));
            let now = tested.model.time;
            let copies = found.into_iter().map(|(_, retained)| RetainedCopy {
                message: retained.message,
                version: retained.version,
                qos: Qos::AtLeastOnce,
                identifier: None,
                expires_in_ms: retained
                    .expires_at
                    .map(|at| at.as_millis().saturating_sub(now.as_millis())),
            });
            let copies: Vec<_> = copies.collect();
            self.connection(&connection).read.extend(copies);
        }
        Ok(())
    }

    /// Some of what was read goes to the session.
    pub(super) fn deliver_retained(&mut self, pick: Pick, count: usize, qos: Qos, last: bool) {
        let has_read = |connection: &Connection| !connection.read.is_empty();
        let Some(connection) = self.pick_where(&pick, has_read) else {
            return;
        };
        let read = &mut self.connection(&connection).read;
        let copies = read
            .drain(..count.min(read.len()))
            .map(|copy| RetainedCopy {
                qos: qos.max(Qos::AtLeastOnce),
                ..copy
            });
        let copies = copies.collect();
        let Connection {
            client_id,
            home,
            holder,
            epoch,
            ..
        } = connection;
        let command = Command::DeliverRetained {
            client_id,
            epoch,
            copies,
            last,
        };
        self.submit(home, (holder.node, holder.incarnation), command);
    }

    /// At the end: nothing is retained any more.
    pub(super) fn clear_retained(&mut self) -> TestCaseResult {
        for shard in self.shard_ids() {
            let topics: Vec<_> = self.tested(shard).model.retained.keys().cloned().collect();
            for topic in topics {
                let message = Message {
                    topic,
                    payload: Bytes::new(),
                    qos: Qos::AtLeastOnce,
                    retain: true,
                    properties: codec::MessageProperties::default(),
                };
                self.apply_one(
                    shard,
                    Command::SetRetained {
                        client_id: codec::ClientId::new("anybody").unwrap(),
                        epoch: None,
                        message,
                        limits: ANY_NUMBER,
                    },
                )?;
            }
        }
        Ok(())
    }
}
