//! `[storage]`: what a node keeps on its disk.

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
    /// `min_free_disk`, bytes, 0..1048576GiB: with less than that free on the disk of `node.data_dir`, clients
    /// publish nothing at QoS 1 or 2 and nothing retained through this node, until a twentieth more is
    /// free. 0: no limit. Default 1GiB: what is under way, and compaction, need room.
    pub min_free_disk: u64,
    /// `disk_max`, bytes, 0..1048576GiB: the same while this node's data take more than that, until they take a
    /// twentieth less. Default 0: no limit.
    pub disk_max: u64,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> StorageConfig {
    let mut section = reader.section(root, "storage");
    let config = StorageConfig {
        block_cache_bytes: section.size("block_cache", 256 << 20, 8 << 20..=1 << 40),
        snapshot_after: section.integer("snapshot_after", 100_000, 10..=1_000_000_000),
        min_free_disk: section.size("min_free_disk", 1 << 30, 0..=1 << 50),
        disk_max: section.size("disk_max", 0, 0..=1 << 50),
    };
    section.finish();
    config
}
