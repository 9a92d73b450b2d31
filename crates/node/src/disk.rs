//! Room on the disk of the data folder: while it is short, clients publish nothing here that would have
//! to be stored. Everything else goes on, so that queues can be emptied.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codec::{ProtocolVersion, Qos, ReasonCode};
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::Broker;
use crate::config::StorageConfig;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::health::Check;

/// How often it is looked at: at a gigabyte a second, the default of `storage.min_free_disk` lasts.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// It is short until a twentieth more is free, or a twentieth less used.
const RELIEF: u64 = 20;

/// Whether there is room.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    is_short: AtomicBool,
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    /// Free for this process.
    free: u64,
    /// Taken by the data folder.
    used: u64,
    /// Of this, by the write-ahead log of the Raft log.
    wal: u64,
    /// By the rest of the Raft log.
    log: u64,
    /// By the state.
    state: u64,
}

impl Disk {
    /// Nothing may be stored for clients.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }
}

/// Why there is not enough room, if so.
fn shortage(config: &StorageConfig, room: Room, was_short: bool) -> Option<String> {
    let relief = |limit: u64| if was_short { limit / RELIEF } else { 0 };
    let (least, most) = (config.min_free_disk, config.disk_max);
    if room.free < least.saturating_add(relief(least)) {
        let free = room.free;
        return Some(format!(
            "{free} bytes are free, storage.min_free_disk is {least}"
        ));
    }
    if most > 0 && room.used > most.saturating_sub(relief(most)) {
        let used = room.used;
        return Some(format!(
            "the data take {used} bytes, storage.disk_max is {most}"
        ));
    }
    None
}

/// Looks at the disk for as long as the node runs.
pub(crate) async fn watch(broker: Arc<Broker>) {
    let mut tick = interval(LOOK_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let data_dir = broker.config.node.data_dir.clone();
        let looked = tokio::task::spawn_blocking(move || look(&data_dir)).await;
        match looked {
            Ok(Ok(room)) => broker.judge_disk(room),
            // What cannot be looked at is not judged: the writes themselves say what is wrong.
            Ok(Err(error)) => tracing::warn!(%error, "the room on the disk is not known"),
            Err(_) => return,
        }
    }
}

fn look(data_dir: &Path) -> io::Result<Room> {
    let disk = rustix::fs::statvfs(data_dir)?;
    let (log, wal) = size_of(&data_dir.join("log")).unwrap_or_default();
    let (state, _) = size_of(&data_dir.join("state")).unwrap_or_default();
    Ok(Room {
        free: disk.f_bavail.saturating_mul(disk.f_frsize),
        used: size_of(data_dir)?.0,
        wal,
        log: log.saturating_sub(wal),
        state,
    })
}

/// Bytes of the files below a folder, and of those of them that RocksDB writes ahead. One that
/// vanishes meanwhile counts for nothing.
fn size_of(folder: &Path) -> io::Result<(u64, u64)> {
    let (mut bytes, mut ahead) = (0_u64, 0_u64);
    for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let path = entry.path();
        let (size, of_it_ahead) = if metadata.is_dir() {
            size_of(&path).unwrap_or_default()
        } else if path.extension().is_some_and(|extension| extension == "log") {
            (metadata.len(), metadata.len())
        } else {
            (metadata.len(), 0)
        };
        bytes = bytes.saturating_add(size);
        ahead = ahead.saturating_add(of_it_ahead);
    }
    Ok((bytes, ahead))
}

impl Broker {
    fn judge_disk(&self, room: Room) {
        let was_short = self.disk.is_short();
        let shortage = shortage(&self.config.storage, room, was_short);
        count::disk(room.free, self.config.storage.min_free_disk);
        for (kind, bytes) in [("log", room.log), ("wal", room.wal), ("state", room.state)] {
            count::storage_size(kind, bytes);
        }
        count::overload("disk", shortage.is_some());
        self.disk
            .is_short
            .store(shortage.is_some(), Ordering::Relaxed);
        match shortage {
            Some(reason) => {
                if !was_short {
                    tracing::error!(
                        reason,
                        "the disk is short: clients publish nothing at QoS 1 or 2 here"
                    );
                }
                self.health.fail(Check::Disk, &reason);
            }
            None => {
                if was_short {
                    tracing::info!("the disk has room again");
                }
                self.health.pass(Check::Disk);
            }
        }
    }
}

impl Connection {
    /// Whether a message cannot be taken because it would have to be stored.
    pub(crate) fn has_no_room_for(&self, qos: Qos, retain: bool) -> bool {
        (qos != Qos::AtMostOnce || retain) && self.broker.disk.is_short()
    }

    /// A client of 5.0 is told so; before that there is no way but to close (DESIGN section 7).
    pub(crate) fn refuse_for_want_of_room(
        &mut self,
        packet_id: Option<codec::PacketId>,
        qos: Qos,
    ) -> Result<(), End> {
        count::dropped("disk");
        match packet_id {
            Some(packet_id) if self.client.version == ProtocolVersion::V5 => {
                self.refuse_publish(packet_id, qos, ReasonCode::QuotaExceeded);
                Ok(())
            }
            Some(_) => Err(End::closed(ReasonCode::QuotaExceeded, "disk")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(min_free_disk: u64, disk_max: u64) -> StorageConfig {
        StorageConfig {
            block_cache_bytes: 0,
            snapshot_after: 10,
            min_free_disk,
            disk_max,
        }
    }

    #[test]
    fn a_short_disk_is_short_until_a_twentieth_more_is_there() {
        let room = |free, used| Room {
            free,
            used,
            ..Room::default()
        };
        let least = config(1_000, 0);
        assert!(shortage(&least, room(1_000, 0), false).is_none());
        let reason = shortage(&least, room(999, 0), false).unwrap();
        assert!(reason.contains("min_free_disk is 1000"), "{reason}");
        assert!(shortage(&least, room(1_049, 0), true).is_some());
        assert!(shortage(&least, room(1_050, 0), true).is_none());
        let most = config(0, 1_000);
        assert!(shortage(&most, room(0, 1_000), false).is_none());
        assert!(shortage(&most, room(0, 1_001), false).is_some());
        assert!(shortage(&most, room(0, 951), true).is_some());
        assert!(shortage(&most, room(0, 950), true).is_none());
        assert!(shortage(&config(0, 0), room(0, u64::MAX), true).is_none());
    }

    #[test]
    fn a_folder_is_as_large_as_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("a"), [0; 10]).unwrap();
        fs::write(folder.path().join("inner/1.log"), [0; 5]).unwrap();
        assert_eq!(size_of(folder.path()).unwrap(), (15, 5));
        assert_eq!(look(folder.path()).unwrap().used, 15);
        assert!(look(folder.path()).unwrap().free > 0);
    }
}
