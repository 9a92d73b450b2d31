//! What each payload says about its message.
//!
//! ```text
//! 0..4   publisher, big endian
//! 4..12  sequence: 0, 1, 2, … per publisher
//! 12..20 when it was due, nanoseconds on the clock of the run
//! 20..   filling
//! ```

/// The smallest payload that carries a [`Stamp`], bytes.
pub const STAMP_BYTES: usize = 20;

/// Which message this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Index of the publisher.
    pub publisher: u32,
    /// Number of the message, per publisher.
    pub sequence: u64,
    /// When it was to be sent, whether or not it could be: nanoseconds on the clock of the run.
    pub due_ns: u64,
}

impl Stamp {
    /// The first bytes of the payload.
    #[must_use]
    pub fn encode(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        let (publisher, rest) = bytes.split_at_mut(4);
        let (sequence, due_ns) = rest.split_at_mut(8);
        publisher.copy_from_slice(&self.publisher.to_be_bytes());
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        due_ns.copy_from_slice(&self.due_ns.to_be_bytes());
        bytes
    }

    /// Reads it back; `None` when the payload is too short to be ours.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let due_ns = rest.first_chunk::<8>()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            due_ns: u64::from_be_bytes(*due_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_a_foreign_payload_does_not() {
        let stamp = Stamp {
            publisher: 7,
            sequence: u64::MAX - 1,
            due_ns: 1 << 40,
        };
        let mut payload = stamp.encode().to_vec();
        payload.extend_from_slice(&[0; 9]);
        assert_eq!(Stamp::decode(&payload), Some(stamp));
        assert_eq!(Stamp::decode(&payload[..STAMP_BYTES - 1]), None);
    }
}
