//! The small integers that name things in the cluster (DESIGN section 1).

use std::fmt;

/// Declares an ordered integer newtype with its legal meaning.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One broker process; 1..=65535, never reused.
    NodeId(u16)
}
id! {
    /// One Raft group; 0 also holds members and incarnations.
    ShardId(u16)
}
id! {
    /// One life of a node: the log index of its `NodeUp` in shard 0. 0 names none.
    Incarnation(u64)
}
id! {
    /// One connection of one session, given by the session's shard at `Connect`; grows for ever within a shard.
    Epoch(u64)
}
id! {
    /// One network connection, unique within one incarnation of the node that accepted it.
    ConnectionId(u64)
}

/// Where a connection lives: which one, on which life of which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The node that accepted the connection.
    pub node: NodeId,
    /// That node's life at the time.
    pub incarnation: Incarnation,
    /// The connection on that node.
    pub connection: ConnectionId,
}

impl ShardId {
    /// The shard that also holds members, incarnations and cluster settings.
    pub const ZERO: Self = Self(0);

    /// The shard of a client id among `shards` shards (`hash(client_id) % shards`).
    #[must_use]
    pub fn of_client(client_id: &str, shards: u16) -> Self {
        Self::of(client_id.as_bytes(), shards)
    }

    /// The shard of the retained message of a topic among `shards` shards (`hash(topic) % shards`).
    #[must_use]
    pub fn of_topic(topic: &str, shards: u16) -> Self {
        Self::of(topic.as_bytes(), shards)
    }

    fn of(name: &[u8], shards: u16) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(name);
        let shard = hash % u64::from(shards.max(1));
        Self(u16::try_from(shard).unwrap_or(0))
    }
}
