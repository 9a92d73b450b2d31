//! PURE. A digest of a shard's state, to compare replicas at the same log index.

use xxhash_rust::xxh3::Xxh3;

use crate::encoding::{encode_key, encode_record};
use crate::machine::Machine;

impl Machine {
    /// The same state gives the same digest on every replica, live or replayed, whatever it has in
    /// memory: the contents of bodies are not in it, which never change and which the tables check
    /// themselves. O(state).
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for key in self.keys() {
            let Some(record) = self.record(&key) else {
                continue;
            };
            for part in [encode_key(&key), encode_record(&record)] {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hasher.update(&part);
            }
        }
        hasher.digest()
    }
}
