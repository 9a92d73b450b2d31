//! What becomes of batches on their way into a shard's log.

use bytes::Bytes;
use codec::{ClientId, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use raft_store::{Batch, Command, Connect, Holder, ProposerId};
use session::SessionLimits;

/// Batches on their way to a shard's leader, its entries that are not committed yet, and those that are.
#[derive(Default)]
pub(crate) struct Raft {
    pub(crate) network: Vec<Batch>,
    pub(crate) tail: Vec<Batch>,
    pub(crate) log: Vec<Batch>,
}

/// What a network and changes of leader do to batches.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// One arrives, whichever was sent first.
    Deliver(Index),
    /// One arrives and will arrive again.
    Repeat(Index),
    Drop(Index),
    /// The new leader has some of what the old one had appended.
    ChangeLeader(Index),
    /// Some of the leader's entries reach a quorum.
    Commit(usize),
}

pub(crate) fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => any::<Index>().prop_map(Fault::Deliver),
        3 => any::<Index>().prop_map(Fault::Repeat),
        2 => any::<Index>().prop_map(Fault::Drop),
        2 => any::<Index>().prop_map(Fault::ChangeLeader),
        6 => (1..4_usize).prop_map(Fault::Commit),
    ]
}

impl Raft {
    pub(crate) fn suffer(&mut self, fault: &Fault) {
        let pick = |index: &Index, network: &[Batch]| {
            (!network.is_empty()).then(|| index.index(network.len()))
        };
        match fault {
            Fault::Deliver(index) => {
                if let Some(at) = pick(index, &self.network) {
                    let batch = self.network.remove(at);
                    self.append(batch);
                }
            }
            Fault::Repeat(index) => {
                if let Some(at) = pick(index, &self.network) {
                    self.append(self.network[at].clone());
                }
            }
            Fault::Drop(index) => {
                if let Some(at) = pick(index, &self.network) {
                    self.network.remove(at);
                }
            }
            Fault::ChangeLeader(index) => self.tail.truncate(index.index(self.tail.len() + 1)),
            Fault::Commit(count) => {
                let count = (*count).min(self.tail.len());
                self.log.extend(self.tail.drain(..count));
            }
        }
    }

    fn append(&mut self, batch: Batch) {
        let leader_time = Timestamp::from_millis(self.log.len() as u64 * 10);
        self.tail.push(Batch {
            leader_time,
            ..batch
        });
    }

    /// Everything under way arrives and is committed.
    pub(crate) fn heal(&mut self) {
        for batch in std::mem::take(&mut self.network) {
            self.append(batch);
        }
        self.log.append(&mut self.tail);
    }
}

pub(crate) fn client_id(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

pub(crate) fn connect(name: &str, holder: Holder, session_expiry_interval_s: u32) -> Command {
    Command::Connect(Box::new(Connect {
        client_id: client_id(name),
        holder,
        clean_start: false,
        session_expiry_interval_s,
        receive_maximum: 65_535,
        limits: SessionLimits {
            inflight_max: 65_535,
            ..SessionLimits::default()
        },
        will: None,
        owner: None,
    }))
}

pub(crate) fn idempotent(commands: Vec<Bytes>) -> Batch {
    let leader_time = Timestamp::ZERO;
    Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time,
        commands,
    }
}
