//! openraft's type declarations, nothing else.

use std::fmt;
use std::sync::Arc;

use openraft::type_config::alias;

use crate::command::Answers;
use crate::entry::Proposal;

openraft::declare_raft_types!(
    /// The types of every shard's Raft group.
    pub TypeConfig:
        D = Proposal,
        R = Arc<[Answers]>,
        NodeId = u64,
        Node = PeerAddress,
);

/// Where a member's Raft service is reached: `host:port`. The host may be a DNS name; it is
/// resolved at each connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAddress(pub String);

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Term, leader and index of an entry.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A leader: term and node.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// A vote, granted or asked for.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type Payload = alias::PayloadOf<TypeConfig>;
/// Voters and members, as an entry sets them.
pub type Membership = openraft::Membership<u64, PeerAddress>;
/// The membership with the entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
