//! What this node has taken from the live streams of its peers: each item once, over any number of
//! streams.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use raft_store::{Incarnation, NodeId};
use tonic::Status;

/// The last item taken from each peer life by the current life of this node.
#[derive(Debug, Default)]
pub(crate) struct ReceivedItems {
    /// (peer, its life, this node's life) → last sequence. One entry per peer.
    last: Mutex<BTreeMap<NodeId, (Incarnation, Incarnation, u64)>>,
}

impl ReceivedItems {
    /// The last item taken; 0 for a new pair of lives. `None`: a newer life of the peer is known.
    pub(crate) fn begin(&self, peer: NodeId, from: Incarnation, to: Incarnation) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.entry(peer).or_insert((from, to, 0));
        if known.1 == to && known.0 > from {
            return None;
        }
        if (known.0, known.1) != (from, to) {
            *known = (from, to, 0);
        }
        Some(known.2)
    }

    /// Runs `take` for the item unless it was taken before. Items of one peer are taken one at a
    /// time, also while an old stream of it is still being read. `None`: the stream is outdated.
    pub(crate) fn take(
        &self,
        peer: NodeId,
        lives: (Incarnation, Incarnation),
        sequence: u64,
        take: impl FnOnce() -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = last
            .get_mut(&peer)
            .filter(|known| (known.0, known.1) == lives)
        else {
            return Err(Status::failed_precondition(
                "a newer life took over this stream",
            ));
        };
        if sequence <= known.2 {
            return Ok(());
        }
        if sequence != known.2.saturating_add(1) {
            return Err(Status::data_loss("an item is missing"));
        }
        take()?;
        known.2 = sequence;
        Ok(())
    }
}
