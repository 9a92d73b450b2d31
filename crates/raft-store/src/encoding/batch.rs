//! The content of one Raft entry.

use bytes::Bytes;
use codec::Timestamp;

use super::field::{node_life_from_proto, node_life_to_proto, present, shard_from_proto};
use super::proto::batch::Proposer;
use super::{EncodingError, decode_command, from_bytes, proto, to_bytes};
use crate::batch::{Batch, ProposerId};
use crate::command::Command;

/// The newest format of batches that this version writes and reads. It grows when the meaning of a
/// command changes.
pub const BATCH_FORMAT: u32 = 3;
/// What is written where nothing needs the newest one, so that nodes of the version before can follow
/// until the first client has shown a user name.
const FORMAT_WITHOUT_OWNERS: u32 = 2;
/// First byte of an encoded `Command::Connect`: field 3, length-delimited.
const CONNECT_TAG: u8 = 0x1A;

/// `batch` as the bytes of a Raft entry. Copies each command once.
#[must_use]
pub fn encode_batch(batch: &Batch) -> Bytes {
    let proposer = match batch.proposer {
        ProposerId::Node { node, incarnation } => {
            Proposer::Node(node_life_to_proto(node, incarnation))
        }
        ProposerId::Outbox { source } => Proposer::OutboxSource(source.0.into()),
        ProposerId::Idempotent => Proposer::Idempotent(proto::Nothing {}),
    };
    to_bytes(&proto::Batch {
        format: format_of(&batch.commands),
        proposer: Some(proposer),
        sequence: batch.sequence,
        leader_time_ms: batch.leader_time.as_millis(),
        commands: batch.commands.clone(),
    })
}

/// The oldest format that says all that is in these commands.
fn format_of(commands: &[Bytes]) -> u32 {
    let has_owner = |command: &Bytes| {
        command.first() == Some(&CONNECT_TAG)
            && matches!(decode_command(command.clone()), Ok(Command::Connect(connect)) if connect.owner.is_some())
    };
    if commands.iter().any(has_owner) {
        BATCH_FORMAT
    } else {
        FORMAT_WITHOUT_OWNERS
    }
}

/// Reads a Raft entry; its commands are slices of `bytes` and are not looked into.
///
/// # Errors
/// [`EncodingError::BatchFormatNewer`] for the entry of a newer version, else what is broken.
pub fn decode_batch(bytes: Bytes) -> Result<Batch, EncodingError> {
    let batch: proto::Batch = from_bytes("Batch", bytes)?;
    match batch.format {
        0 => {
            return Err(EncodingError::Missing {
                field: "Batch.format",
            });
        }
        1..=BATCH_FORMAT => {}
        format => {
            return Err(EncodingError::BatchFormatNewer {
                format,
                newest: BATCH_FORMAT,
            });
        }
    }
    let proposer = match present("Batch.proposer", batch.proposer)? {
        Proposer::Node(life) => {
            let (node, incarnation) = node_life_from_proto(life)?;
            ProposerId::Node { node, incarnation }
        }
        Proposer::OutboxSource(source) => ProposerId::Outbox {
            source: shard_from_proto("Batch.outbox_source", source)?,
        },
        Proposer::Idempotent(proto::Nothing {}) => ProposerId::Idempotent,
    };
    Ok(Batch {
        proposer,
        sequence: batch.sequence,
        leader_time: Timestamp::from_millis(batch.leader_time_ms),
        commands: batch.commands,
    })
}
