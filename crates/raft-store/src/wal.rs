//! Tells a torn end of the log from a corrupt middle, before RocksDB opens it.
//!
//! RocksDB's point-in-time recovery (the only mode that goes with recycled files) drops everything
//! after the first record that it cannot read. That is right for a torn end: the last write never
//! finished, so nothing of it was acknowledged. It would silently lose acknowledged entries if the
//! record was damaged later. The difference can be seen in the files, because each write is synced
//! before the next one begins: **if a whole or first record follows an unreadable one, then the
//! unreadable one was once on disk and acknowledged.**
//!
//! The format is RocksDB's: blocks of 32 KiB, records of `crc32c masked u32 LE | length u16 LE |
//! type u8`, recycled files with `log number u32 LE` behind that; no record crosses a block.
//!
//! Files older than the last successful open were replayed into tables then and may be torn; the
//! file `wal_start` next to them holds the first number that counts, as decimal text.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = 11;
const START_FILE: &str = "wal_start";

/// Where a log goes wrong although later records are intact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Corruption {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
}

/// Reads all log files that count. `Ok(Some(…))` is a corrupt middle; a torn end is `Ok(None)`.
///
/// Cost: reads the write-ahead log once (bounded by the write buffers).
pub(crate) fn find_corruption(folder: &Path) -> io::Result<Option<Corruption>> {
    let first = read_start(folder)?;
    let mut torn: Option<Corruption> = None;
    for (number, file) in log_files(folder)? {
        if number < first {
            continue;
        }
        let bytes = fs::read(&file)?;
        let scan = scan(&bytes, number);
        if scan.begins_records && torn.is_some() {
            // A later file was begun, so the earlier one had been synced to its end.
            return Ok(torn);
        }
        match scan.end {
            End::Clean => {}
            End::Torn { offset } => torn = Some(Corruption { file, offset }),
            End::Corrupt { offset } => return Ok(Some(Corruption { file, offset })),
        }
    }
    Ok(None)
}

/// Notes that everything in older files than the newest is in tables now. Called after each open,
/// before the first write; durable when it returns.
pub(crate) fn note_opened(folder: &Path) -> io::Result<()> {
    let newest = log_files(folder)?.last().map_or(0, |(number, _)| *number);
    let temporary = folder.join("wal_start.new");
    let mut file = File::create(&temporary)?;
    file.write_all(newest.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(START_FILE))?;
    File::open(folder)?.sync_all()
}

fn read_start(folder: &Path) -> io::Result<u64> {
    match fs::read_to_string(folder.join(START_FILE)) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The log files with their numbers, oldest first.
pub(crate) fn log_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for item in items {
        let path = item?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

struct Scan {
    /// At least one readable record that begins a write.
    begins_records: bool,
    end: End,
}

enum End {
    Clean,
    Torn { offset: u64 },
    Corrupt { offset: u64 },
}

fn scan(bytes: &[u8], number: u64) -> Scan {
    let mut begins_records = false;
    let mut offset = 0;
    loop {
        let left = BLOCK_BYTES - offset % BLOCK_BYTES;
        if left < HEADER_BYTES {
            offset += left;
            continue;
        }
        match read_record(bytes, offset, number) {
            Some(record) => {
                begins_records |= record.begins;
                offset += record.bytes;
            }
            // What is too short for a recyclable header is filled with zeros.
            None if left < RECYCLABLE_HEADER_BYTES
                && is_zero(bytes, offset, left)
                && offset + left < bytes.len() =>
            {
                offset += left;
            }
            None => break,
        }
    }
    let at = u64::try_from(offset).unwrap_or(u64::MAX);
    let end = if offset >= bytes.len() {
        End::Clean
    } else if has_later_start(bytes, offset + 1, number) {
        End::Corrupt { offset: at }
    } else if is_unwritten(bytes, offset) || is_stale(bytes, offset, number) {
        End::Clean
    } else {
        End::Torn { offset: at }
    };
    Scan {
        begins_records,
        end,
    }
}

/// Whether a record that begins a write of this log can be read anywhere at or after `from`.
fn has_later_start(bytes: &[u8], from: usize, number: u64) -> bool {
    let candidates = bytes
        .get(from..)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .skip(HEADER_BYTES - 1);
    candidates
        .filter(|(_, kind)| begins_write(**kind))
        .any(|(at, _)| read_record(bytes, from + at + 1 - HEADER_BYTES, number).is_some())
}

fn is_zero(bytes: &[u8], offset: usize, length: usize) -> bool {
    bytes
        .get(offset..offset + length)
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// Preallocated space that was never written.
fn is_unwritten(bytes: &[u8], offset: usize) -> bool {
    bytes
        .get(offset..)
        .unwrap_or_default()
        .iter()
        .take(HEADER_BYTES)
        .all(|byte| *byte == 0)
}

/// What an earlier use of a recycled file left behind.
fn is_stale(bytes: &[u8], offset: usize, number: u64) -> bool {
    let Some(header) = bytes.get(offset..offset + RECYCLABLE_HEADER_BYTES) else {
        return false;
    };
    let [_, _, _, _, _, _, kind, a, b, c, d] = header else {
        return false;
    };
    is_recyclable(*kind) && u32::from_le_bytes([*a, *b, *c, *d]) != low_bits(number)
}

struct Record {
    begins: bool,
    bytes: usize,
}

/// The record at `offset`, if it is whole, of this log, and its checksum is right.
fn read_record(bytes: &[u8], offset: usize, number: u64) -> Option<Record> {
    let header = bytes.get(offset..offset + HEADER_BYTES)?;
    let [c0, c1, c2, c3, l0, l1, kind] = header else {
        return None;
    };
    if !is_known(*kind) {
        return None;
    }
    let recyclable = is_recyclable(*kind);
    let header_bytes = if recyclable {
        RECYCLABLE_HEADER_BYTES
    } else {
        HEADER_BYTES
    };
    let record_bytes = header_bytes + usize::from(u16::from_le_bytes([*l0, *l1]));
    if record_bytes > BLOCK_BYTES - offset % BLOCK_BYTES {
        return None;
    }
    let record = bytes.get(offset..offset + record_bytes)?;
    if recyclable {
        let stored: [u8; 4] = record
            .get(HEADER_BYTES..RECYCLABLE_HEADER_BYTES)?
            .try_into()
            .ok()?;
        if u32::from_le_bytes(stored) != low_bits(number) {
            return None;
        }
    }
    let expected = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    // The checksum covers all from the type on.
    (mask(crc32c(record.get(HEADER_BYTES - 1..)?)) == expected).then_some(Record {
        begins: begins_write(*kind),
        bytes: record_bytes,
    })
}

fn low_bits(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

/// Full or first record, of either kind.
fn begins_write(kind: u8) -> bool {
    matches!(kind, 1 | 2 | 5 | 6)
}

fn is_known(kind: u8) -> bool {
    matches!(kind, 1..=11 | 130 | 131)
}

fn is_recyclable(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

/// RocksDB masks checksums, so that one of data that holds checksums is not weak.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), a table of bytes: 64 MiB take a fifth of a second.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32c_table();
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or(0)
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "constant, checked at compile time"
)]
const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u64 = 9;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend(9_u32.to_le_bytes());
        checked.extend(payload);
        let mut record = mask(crc32c(&checked)).to_le_bytes().to_vec();
        record.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
        record.extend(checked);
        record
    }

    fn check(bytes: &[u8]) -> &'static str {
        match scan(bytes, NUMBER).end {
            End::Clean => "clean",
            End::Torn { .. } => "torn",
            End::Corrupt { .. } => "corrupt",
        }
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_cut_or_garbled_last_record_is_a_torn_end() {
        let mut log = [record(5, b"first"), record(5, b"second")].concat();
        assert_eq!(check(&log), "clean");
        log.truncate(log.len() - 2);
        assert_eq!(check(&log), "torn");
        log.extend([0; 2]);
        assert_eq!(check(&log), "torn");
    }

    #[test]
    fn a_damaged_record_before_an_intact_one_is_corruption() {
        let mut log = [
            record(5, b"first"),
            record(5, b"second"),
            record(5, b"third"),
        ]
        .concat();
        let middle = record(5, b"first").len() + RECYCLABLE_HEADER_BYTES;
        log[middle] ^= 1;
        assert_eq!(check(&log), "corrupt");
    }

    #[test]
    fn later_fragments_of_the_torn_write_are_no_corruption() {
        let mut log = [record(6, b"begin"), record(7, b"middle"), record(8, b"end")].concat();
        log[RECYCLABLE_HEADER_BYTES] ^= 1;
        assert_eq!(check(&log), "torn");
    }

    #[test]
    fn what_an_earlier_use_of_the_file_left_is_no_corruption() {
        let mut stale = record(5, b"an older and longer record");
        stale[HEADER_BYTES] ^= 1;
        let log = [record(5, b"new"), stale, vec![0; 64]].concat();
        assert_eq!(check(&log), "clean");
    }
}
