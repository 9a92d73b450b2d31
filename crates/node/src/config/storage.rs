//! `[storage]`: what a node keeps on its disk.

use super::later;
use super::reader::Reader;
use super::value::Table;

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// `block_cache`, 8MiB..1TiB: memory for blocks of the database files. Default 256MiB. Whole
    /// tables and the contents of messages are read past it, so it stays far emptier than that on a
    /// node with few sessions.
    pub block_cache_bytes: u64,
    /// `snapshot_after`, 10..1000000000: log entries of a shard after which its log is cut off
    /// behind what its state holds; a node that lacks more than that catches up by snapshot. Default
    /// 100000: minutes of full load, and a restart replays no more.
    pub snapshot_after: u64,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> StorageConfig {
    let mut section = reader.section(root, "storage");
    let config = StorageConfig {
        block_cache_bytes: section.size("block_cache", 256 << 20, 8 << 20..=1 << 40),
        snapshot_after: section.integer("snapshot_after", 100_000, 10..=1_000_000_000),
    };
    later::storage(&mut section);
    section.finish();
    config
}
