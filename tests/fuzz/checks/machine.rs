//! Any committed entries: the machine applies them without a panic and answers each command; a
//! replica that is stopped, has its contents on disk or got a snapshot says the same as one that
//! does and has not.
//!
//! Input: entries, each with one byte in front: bit 7 stops and starts the replica after the entry,
//! bit 6 takes the contents out of its memory, bit 5 catches up with its last start, as after an
//! installed snapshot. With bit 0 the entry is a batch as it is logged, its length in front; else it
//! is composed of commands, see `commands`.

#[path = "machine/commands.rs"]
mod commands;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use codec::Timestamp;
use raft_store::encoding::{body_key, decode_batch, decode_body};
use raft_store::machine::BodyLookup;
use raft_store::{Applied, Batch, Machine, ShardId};

use commands::Commands;

const SHARD: ShardId = ShardId(1);

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let mut steady = Machine::new(SHARD);
    let mut replica = Replica::new();
    let mut numbered = BTreeSet::new();
    let mut commands = Commands::new(input);
    let mut index = 0;
    while !commands.is_empty() {
        let flags = commands.byte();
        let batch = match flags & 1 {
            0 => Ok(commands.batch()),
            _ => decode_batch(commands.bytes()),
        };
        let Ok(batch) = batch else {
            continue;
        };
        index += 1;
        let applied = steady.apply(index, &batch);
        // The answers to a repeat are those to the batch that came first.
        if numbered.insert((batch.proposer, batch.sequence)) {
            assert_eq!(applied.answers.len(), batch.commands.len());
        }
        replica.follow(index, &batch, &applied);
        if flags & 0x40 != 0 {
            replica.evict();
        }
        if flags & 0x80 != 0 {
            replica.restart(flags & 0x20 != 0);
            replica.compare(&steady);
        }
    }
    replica.restart(false);
    replica.compare(&steady);
}

struct Replica {
    machine: Machine,
    tables: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The tables at the last start.
    before: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Its effects are those of a machine that was never stopped.
    is_steady: bool,
}

impl Replica {
    fn new() -> Self {
        Self {
            machine: Machine::new(SHARD),
            tables: BTreeMap::new(),
            before: BTreeMap::new(),
            is_steady: true,
        }
    }

    fn follow(&mut self, index: u64, batch: &Batch, expected: &Applied) {
        let applied = self.machine.apply(index, batch);
        assert_eq!(applied.answers, expected.answers);
        if self.is_steady {
            assert_eq!(applied.effects, expected.effects);
        }
    }

    fn save(&mut self) {
        for (key, value) in self.machine.take_changes() {
            match value {
                Some(value) => self.tables.insert(key, value),
                None => self.tables.remove(&key),
            };
        }
        assert!(self.machine.take_changes().is_empty());
    }

    /// What is not in memory can be read from the tables.
    fn evict(&mut self) {
        self.save();
        self.machine.evict(0);
        self.is_steady = false;
        for target in self.machine.outbox_targets() {
            let items = self.machine.outbox_items(target, 0, usize::MAX, usize::MAX);
            assert!(!items.is_empty());
            for (_, item) in items {
                let id = item.body.id();
                assert_eq!(self.machine.body(id), BodyLookup::Stored);
                let stored = Bytes::copy_from_slice(&self.tables[&body_key(id)]);
                let content = decode_body(id, stored).expect("it was written here");
                assert_eq!(content.reference(), item.body.reference());
            }
        }
    }

    /// Writes the tables, and starts from them.
    fn restart(&mut self, catches_up: bool) {
        self.save();
        let mut loaded = load(&self.tables);
        if catches_up {
            drop(loaded.catch_up(&load(&self.before)));
        }
        assert_eq!(loaded.digest(), self.machine.digest());
        self.machine = loaded;
        self.before = self.tables.clone();
        self.is_steady = false;
    }

    /// Also in what is not stored but rebuilt.
    fn compare(&self, steady: &Machine) {
        let (one, other) = (&self.machine, steady);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.time(), other.time());
        assert_eq!(one.session_count(), other.session_count());
        assert_eq!(one.outbox_targets(), other.outbox_targets());
        assert_eq!(one.outbox_bytes(), other.outbox_bytes());
        assert_eq!(one.retained_count(), other.retained_count());
        assert_eq!(one.retained_bytes(), other.retained_bytes());
        let due = |machine: &Machine| {
            let sessions = machine.due(Timestamp::MAX, usize::MAX);
            (sessions, machine.due_wills(Timestamp::MAX, usize::MAX))
        };
        assert_eq!(due(one), due(other));
    }
}

fn load(tables: &BTreeMap<Vec<u8>, Vec<u8>>) -> Machine {
    let mut pairs = tables
        .iter()
        .map(|(key, value)| (Box::from(&key[..]), Box::from(&value[..])));
    Machine::load(SHARD, &mut pairs).expect("what was written can be loaded")
}
