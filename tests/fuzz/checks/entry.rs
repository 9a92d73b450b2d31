//! What is in the log and in the tables: any bytes are a value or an error, and a value comes back
//! as it was. Keys sort as their bytes do.
//!
//! Input: which format (1 byte), the bytes. Where two things are needed, the first has its length in
//! front (1 byte).

use std::fmt::{Debug, Display};

use bytes::Bytes;
use codec::Timestamp;
use prost::Message;
use raft_store::encoding::{
    decode_answers, decode_batch, decode_command, decode_key, decode_message, decode_record,
    encode_answers, encode_batch, encode_command, encode_key, encode_message, encode_record,
};
use raft_store::entry::{decode_applied, decode_entry, encode_applied, encode_entry};
use raft_store::proto::holdfast::raft::v1 as wire;
use raft_store::snapshot::incoming::{head_from_wire, rows};
use raft_store::{Batch, Command, Machine, NodeId, ProposerId, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&format, rest)) = input.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match format % 11 {
        0 => again(bytes, decode_entry, |entry| encode_entry(entry).into()),
        1 => again(bytes, decode_batch, encode_batch),
        2 => again(bytes, decode_command, encode_command),
        3 => again(bytes, decode_answers, encode_answers),
        4 => again(bytes, decode_message, encode_message),
        5 => again(
            bytes,
            |bytes| decode_applied(&bytes),
            |state| encode_applied(state).into(),
        ),
        6 => check_key(rest),
        7 => check_order(rest),
        8 => check_record(rest),
        9 => check_snapshot_head(bytes),
        _ => check_snapshot_rows(bytes),
    }
}

fn again<T: PartialEq + Debug, E: PartialEq + Debug + Display>(
    bytes: Bytes,
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) {
    match decode(bytes) {
        Ok(value) => {
            let encoded = encode(&value);
            let decoded = decode(encoded.clone());
            assert_eq!(decoded.as_ref(), Ok(&value));
            assert_eq!(encode(&value), encoded);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A key is the only encoding of what it names.
fn check_key(bytes: &[u8]) {
    if let Ok(key) = decode_key(bytes) {
        assert_eq!(encode_key(&key), bytes);
    }
}

fn check_order(bytes: &[u8]) {
    let Some((one, other)) = split(bytes) else {
        return;
    };
    if let (Ok(one_key), Ok(other_key)) = (decode_key(one), decode_key(other)) {
        assert_eq!(one_key.cmp(&other_key), one.cmp(other));
    }
}

/// The key says what the value is.
fn check_record(bytes: &[u8]) {
    let Some((key, record)) = split(bytes) else {
        return;
    };
    if let Ok(key) = decode_key(key) {
        again(
            Bytes::copy_from_slice(record),
            |bytes| decode_record(&key, bytes),
            |record| encode_record(record).into(),
        );
    }
}

fn check_snapshot_head(bytes: Bytes) {
    if let Ok(head) = wire::SnapshotHead::decode(bytes) {
        drop(head_from_wire(head));
    }
}

/// Rows that arrived whole are the tables of a shard, or are refused; what is accepted works.
fn check_snapshot_rows(bytes: Bytes) {
    let chunk = wire::SnapshotChunk {
        checksum: xxh3_64(&bytes),
        rows: bytes,
    };
    let Ok(rows) = rows(&chunk) else {
        return;
    };
    let mut rows = rows
        .into_iter()
        .map(|(key, value)| (Box::from(key), Box::from(value)));
    let Ok(mut machine) = Machine::load(ShardId(1), &mut rows) else {
        return;
    };
    let batch = Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: Timestamp::MAX,
        commands: vec![encode_command(&Command::NodeUp { node: NodeId(1) })],
    };
    assert_eq!(machine.apply(u64::MAX, &batch).answers.len(), 1);
    for due in machine.due(Timestamp::MAX, usize::MAX) {
        let expire = Command::ExpireSession {
            client_id: due.client_id,
            epoch: due.epoch,
        };
        let commands = vec![encode_command(&expire)];
        machine.apply(
            u64::MAX,
            &Batch {
                commands,
                ..batch.clone()
            },
        );
    }
    machine.take_changes();
    assert_eq!(machine.digest(), machine.digest());
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}
