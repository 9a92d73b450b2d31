//! A log entry and Raft's small records as bytes: the same on the wire and on disk
//! (`proto/raft.proto`).
//!
//! A batch is encoded once, by its proposer. Its bytes then travel untouched: to the leader, into an
//! entry with those of other proposers, into the leader's log, to each follower, into their logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use codec::Timestamp;
use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;
use prost::Message;

use crate::batch::{Batch, ProposerId, weight};
use crate::encoding::{decode_batch, encode_batch};
use crate::proto::holdfast::raft::v1 as wire;
use crate::type_config::{Entry, LeaderId, LogId, Membership, PeerAddress, StoredMembership, Vote};

/// The format of entries, messages and records that this version writes. Older ones stay readable.
pub const FORMAT: u32 = 1;

/// Bytes that are no entry or record of a format that this version knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not protobuf, or cut.
    #[error("not decodable: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Written by a newer version.
    #[error("format {found}, this version knows up to {FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// The batch inside is not decodable.
    #[error("batch: {0}")]
    Batch(String),
    /// Voters without addresses, or no voters.
    #[error("membership: {0}")]
    Membership(String),
    /// There are two slots.
    #[error("slot {0}, there are 0 and 1")]
    Slot(u32),
}

/// A batch together with its bytes, which its proposer encoded once.
#[derive(Clone)]
pub struct EncodedBatch {
    batch: Batch,
    bytes: Bytes,
}

impl EncodedBatch {
    /// Encodes a batch.
    #[must_use]
    pub fn new(batch: Batch) -> Self {
        let bytes = encode_batch(&batch);
        Self { batch, bytes }
    }

    /// Decodes a batch; its commands are slices of `bytes`.
    ///
    /// # Errors
    /// [`EntryError::Batch`] when the bytes are no batch.
    pub fn decode(bytes: Bytes) -> Result<Self, EntryError> {
        let batch =
            decode_batch(bytes.clone()).map_err(|error| EntryError::Batch(error.to_string()))?;
        Ok(Self { batch, bytes })
    }

    /// Whether it belongs to a numbered stream, which its sender's own replica answers.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        match self.batch.proposer {
            ProposerId::Node { .. } => true,
            ProposerId::Outbox { .. } | ProposerId::Idempotent => false,
        }
    }

    /// What it counts where batches wait for company.
    pub(crate) fn weight(&self) -> usize {
        weight(self.batch.commands.len(), self.bytes.len())
    }

    /// Bytes in an entry.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// What one entry carries: batches of one proposer or of several, and the leader's time. Clones
/// share it.
#[derive(Clone)]
pub struct Proposal(Arc<Batches>);

struct Batches {
    leader_time: Timestamp,
    batches: Vec<EncodedBatch>,
}

impl Proposal {
    /// All batches take effect at `leader_time`, in this order.
    #[must_use]
    pub fn new(leader_time: Timestamp, mut batches: Vec<EncodedBatch>) -> Self {
        for encoded in &mut batches {
            encoded.batch.leader_time = leader_time;
        }
        Self(Arc::new(Batches {
            leader_time,
            batches,
        }))
    }

    /// The batches, each with the entry's leader time.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = &Batch> {
        self.0.batches.iter().map(|encoded| &encoded.batch)
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.batches.iter().map(EncodedBatch::len_bytes).sum()
    }

    fn to_wire(&self) -> wire::Batches {
        wire::Batches {
            leader_time_ms: self.0.leader_time.as_millis(),
            batches: self
                .0
                .batches
                .iter()
                .map(|encoded| encoded.bytes.clone())
                .collect(),
        }
    }

    fn from_wire(wire: wire::Batches) -> Result<Self, EntryError> {
        let batches = wire.batches.into_iter().map(EncodedBatch::decode);
        Ok(Self::new(
            Timestamp::from_millis(wire.leader_time_ms),
            batches.collect::<Result<_, _>>()?,
        ))
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({self})")
    }
}

impl fmt::Display for Proposal {
    /// Names the batches without their content: message payloads never reach a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for batch in self.batches() {
            let Batch {
                proposer,
                sequence,
                commands,
                ..
            } = batch;
            write!(f, "{proposer:?} #{sequence}, {} commands; ", commands.len())?;
        }
        write!(f, "{} bytes", self.len_bytes())
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |proposal: &Self| {
            let batches = proposal.0.batches.iter();
            batches
                .map(|encoded| encoded.bytes.clone())
                .collect::<Vec<_>>()
        };
        self.0.leader_time == other.0.leader_time && bytes(self) == bytes(other)
    }
}

impl Eq for Proposal {}

/// An entry's bytes as stored.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry_to_wire(entry).encode_to_vec()
}

/// The entry in stored bytes; a batch in it is a slice of them.
///
/// # Errors
/// What is broken, or a format that only newer versions know.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, EntryError> {
    entry_from_wire(wire::Entry::decode(bytes)?)
}

pub(crate) fn entry_to_wire(entry: &Entry) -> wire::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(wire::Blank {}),
        EntryPayload::Normal(proposal) => wire::entry::Payload::Batches(proposal.to_wire()),
        EntryPayload::Membership(membership) => {
            wire::entry::Payload::Membership(membership_to_wire(membership))
        }
    };
    wire::Entry {
        format: FORMAT,
        log_id: Some(log_id_to_wire(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, EntryError> {
    check_format(entry.format)?;
    let log_id = required_log_id(entry.log_id, "log_id")?;
    let payload = match entry.payload.ok_or(EntryError::Missing("payload"))? {
        wire::entry::Payload::Blank(wire::Blank {}) => EntryPayload::Blank,
        wire::entry::Payload::Batches(batches) => {
            EntryPayload::Normal(Proposal::from_wire(batches)?)
        }
        wire::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_wire(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

/// About how much memory an entry holds: its bytes, and on the leader the commands a second time.
pub(crate) fn entry_memory_bytes(entry: &Entry) -> usize {
    // The entry itself, its place in the tail, and the proposal's own allocation.
    const FIXED: usize = 256;
    let payload = match &entry.payload {
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        EntryPayload::Normal(proposal) => proposal.len_bytes().saturating_mul(2),
    };
    payload.saturating_add(FIXED)
}

pub(crate) fn check_format(found: u32) -> Result<(), EntryError> {
    if found == 0 || found > FORMAT {
        Err(EntryError::Format { found })
    } else {
        Ok(())
    }
}

pub(crate) fn log_id_to_wire(log_id: &LogId) -> wire::LogId {
    let LeaderId {
        term,
        node_id: leader,
    } = log_id.leader_id;
    wire::LogId {
        term,
        leader,
        index: log_id.index,
    }
}

pub(crate) fn log_id_from_wire(log_id: wire::LogId) -> LogId {
    LogId {
        leader_id: LeaderId::new(log_id.term, log_id.leader),
        index: log_id.index,
    }
}

pub(crate) fn required_log_id(
    log_id: Option<wire::LogId>,
    field: &'static str,
) -> Result<LogId, EntryError> {
    log_id
        .map(log_id_from_wire)
        .ok_or(EntryError::Missing(field))
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::BallotVote {
    let LeaderId {
        term,
        node_id: node,
    } = vote.leader_id;
    wire::BallotVote {
        term,
        node,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(vote: Option<wire::BallotVote>) -> Result<Vote, EntryError> {
    let vote = vote.ok_or(EntryError::Missing("vote"))?;
    Ok(Vote {
        leader_id: LeaderId::new(vote.term, vote.node),
        committed: vote.committed,
    })
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    let voters = membership.get_joint_config().iter();
    let voters = voters
        .map(|set| wire::Voters {
            nodes: set.iter().copied().collect(),
        })
        .collect();
    let members = membership.nodes();
    let members = members
        .map(|(node, address)| wire::Member {
            node: *node,
            address: address.0.clone(),
        })
        .collect();
    wire::Membership { voters, members }
}

pub(crate) fn membership_from_wire(membership: wire::Membership) -> Result<Membership, EntryError> {
    let voters = membership.voters.into_iter();
    let voters: Vec<BTreeSet<u64>> = voters.map(|set| set.nodes.into_iter().collect()).collect();
    let members = membership.members.into_iter();
    let members: BTreeMap<u64, PeerAddress> =
        members.map(|m| (m.node, PeerAddress(m.address))).collect();
    if voters.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|error| EntryError::Membership(error.to_string()))
}

/// What goes with the state tables of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedState {
    /// The last entry whose effects are in the tables.
    pub applied: LogId,
    /// The membership at that entry.
    pub membership: StoredMembership,
    /// Where the tables are.
    pub slot: Slot,
    /// The last entry of the snapshot that was installed last, if one ever was.
    pub installed: Option<LogId>,
}

/// One of the two places for a shard's tables: one is live, a snapshot is received into the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// The first one, live until a snapshot is installed.
    #[default]
    A,
    /// The second one.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The record that goes with the state tables of a shard.
#[must_use]
pub fn encode_applied(state: &AppliedState) -> Vec<u8> {
    let record = wire::AppliedState {
        format: FORMAT,
        applied: Some(log_id_to_wire(&state.applied)),
        membership_log_id: state.membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(state.membership.membership())),
        slot: match state.slot {
            Slot::A => 0,
            Slot::B => 1,
        },
        installed: state.installed.as_ref().map(log_id_to_wire),
    };
    record.encode_to_vec()
}

/// How far state tables have come, the membership at that entry, and where they are.
///
/// # Errors
/// As [`decode_entry`].
pub fn decode_applied(bytes: &[u8]) -> Result<AppliedState, EntryError> {
    let record = wire::AppliedState::decode(bytes)?;
    check_format(record.format)?;
    let applied = required_log_id(record.applied, "applied")?;
    let membership = membership_from_wire(record.membership.unwrap_or_default())?;
    let slot = match record.slot {
        0 => Slot::A,
        1 => Slot::B,
        slot => return Err(EntryError::Slot(slot)),
    };
    Ok(AppliedState {
        applied,
        membership: StoredMembership::new(
            record.membership_log_id.map(log_id_from_wire),
            membership,
        ),
        slot,
        installed: record.installed.map(log_id_from_wire),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn log_id(index: u64) -> LogId {
        LogId {
            leader_id: LeaderId::new(3, 2),
            index,
        }
    }

    fn check_round_trip(payload: crate::type_config::Payload) {
        let entry = Entry {
            log_id: log_id(7),
            payload,
        };
        let decoded = decode_entry(Bytes::from(encode_entry(&entry))).unwrap();
        assert_eq!(decoded, entry);
    }

    #[test]
    fn every_payload_survives_a_round_trip() {
        let members = BTreeMap::from([
            (1, PeerAddress("a:1".to_owned())),
            (2, PeerAddress("b:2".to_owned())),
        ]);
        check_round_trip(EntryPayload::Blank);
        check_round_trip(EntryPayload::Membership(
            Membership::new(vec![BTreeSet::from([1, 2])], members).unwrap(),
        ));
        let batch = |proposer, command: &'static str| {
            EncodedBatch::new(Batch {
                proposer,
                sequence: 0,
                leader_time: Timestamp::ZERO,
                commands: vec![Bytes::from_static(b"one"), Bytes::from(command)],
            })
        };
        check_round_trip(EntryPayload::Normal(Proposal::new(
            Timestamp::from_millis(5),
            vec![
                batch(ProposerId::Idempotent, "two"),
                batch(ProposerId::Outbox { source: ShardId(3) }, "three"),
            ],
        )));
    }

    #[test]
    fn every_batch_of_an_entry_has_the_entrys_time() {
        let time = Timestamp::from_millis(7);
        let batch = EncodedBatch::new(Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time: Timestamp::from_millis(99),
            commands: Vec::new(),
        });
        let proposal = Proposal::new(time, vec![batch.clone(), batch]);
        let read = Proposal::from_wire(proposal.to_wire()).unwrap();
        for proposal in [proposal, read] {
            assert_eq!(proposal.batches().len(), 2);
            assert!(proposal.batches().all(|batch| batch.leader_time == time));
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_named() {
        let entry = Entry {
            log_id: log_id(1),
            payload: EntryPayload::Blank,
        };
        let mut newer = entry_to_wire(&entry);
        newer.format = FORMAT + 1;
        assert_eq!(
            entry_from_wire(newer),
            Err(EntryError::Format { found: FORMAT + 1 })
        );
    }

    #[test]
    fn a_cut_entry_is_an_error() {
        let entry = Entry {
            log_id: log_id(9),
            payload: EntryPayload::Blank,
        };
        let bytes = encode_entry(&entry);
        let cut = Bytes::copy_from_slice(bytes.get(..bytes.len() - 1).unwrap());
        assert!(decode_entry(cut).is_err());
    }

    #[test]
    fn the_applied_record_survives_a_round_trip() {
        let membership = StoredMembership::new(
            Some(log_id(1)),
            Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], []),
        );
        for slot in [Slot::A, Slot::B] {
            let state = AppliedState {
                applied: log_id(12),
                membership: membership.clone(),
                slot,
                installed: (slot == Slot::B).then(|| log_id(5)),
            };
            let bytes = encode_applied(&state);
            assert_eq!(decode_applied(&bytes).unwrap(), state);
        }
    }
}
