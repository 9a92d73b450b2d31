//! Which shard a client id lives in, computed apart from the broker: `xxh3_64(client_id) % shards`.

use xxhash_rust::xxh3::xxh3_64;

/// The shard of a client id.
#[must_use]
pub fn shard_of(client_id: &str, shards: u16) -> u16 {
    let shard = xxh3_64(client_id.as_bytes()) % u64::from(shards.max(1));
    u16::try_from(shard).unwrap_or(0)
}

/// A client id that begins with `prefix` and lives in `shard`.
///
/// # Panics
/// When `shard` is not below `shards`.
#[must_use]
pub fn client_id_in_shard(prefix: &str, shard: u16, shards: u16) -> String {
    assert!(
        shard < shards,
        "there are {shards} shards, {shard} is none of them"
    );
    (0_u32..)
        .map(|number| format!("{prefix}-{number}"))
        .find(|client_id| shard_of(client_id, shards) == shard)
        .expect("some number hashes there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_found_for_every_shard() {
        for shard in 0..7 {
            let client_id = client_id_in_shard("sub", shard, 7);
            assert_eq!(shard_of(&client_id, 7), shard);
            assert!(client_id.starts_with("sub-"));
        }
    }
}
