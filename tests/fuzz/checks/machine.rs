//! Any committed entries: the machine applies them without a panic, answers each command, and comes
//! back from its tables as it was.
//!
//! Input: entries, each with two bytes in front: the upper one says whether the replica is stopped
//! and started after it (bit 7) and the upper bits of its length, the lower one the lower bits.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use codec::Timestamp;
use raft_store::encoding::decode_batch;
use raft_store::{Machine, ShardId};

const SHARD: ShardId = ShardId(1);

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let mut machine = Machine::new(SHARD);
    let mut store = BTreeMap::new();
    let mut numbered = BTreeSet::new();
    let mut input = input;
    let mut index = 0;
    while let Some((&[upper, lower], rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(upper & 0x7F) << 8 | usize::from(lower);
        let (entry, rest) = rest.split_at(length.min(rest.len()));
        input = rest;
        index += 1;
        let Ok(batch) = decode_batch(Bytes::copy_from_slice(entry)) else {
            continue;
        };
        let time = machine.time();
        let applied = machine.apply(index, &batch);
        // The answers to a repeat are those to the batch that came first.
        if numbered.insert((batch.proposer, batch.sequence)) {
            assert_eq!(applied.answers.len(), batch.commands.len());
        }
        assert_eq!(machine.time(), time.max(batch.leader_time));
        if upper & 0x80 != 0 {
            machine = restart(machine, &mut store);
        }
    }
    restart(machine, &mut store);
}

/// Writes the tables, and starts from them.
fn restart(mut machine: Machine, store: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Machine {
    for (key, value) in machine.take_changes() {
        match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
    }
    assert!(machine.take_changes().is_empty());
    let mut pairs = store
        .iter()
        .map(|(key, value)| (Box::from(&key[..]), Box::from(&value[..])));
    let loaded = Machine::load(SHARD, &mut pairs).expect("what was written can be loaded");
    assert_eq!(loaded.digest(), machine.digest());
    // What is not stored but rebuilt.
    let due = |machine: &Machine| machine.due(Timestamp::MAX, usize::MAX);
    assert_eq!(due(&loaded), due(&machine));
    assert_eq!(loaded.outbox_bytes(), machine.outbox_bytes());
    assert_eq!(loaded.outbox_targets(), machine.outbox_targets());
    assert_eq!(loaded.session_count(), machine.session_count());
    loaded
}
