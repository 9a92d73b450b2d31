//! Message bodies whose content is on this node's disk only.

use std::sync::Arc;

use bytes::Bytes;
use session::StoredMessage;

use super::Replica;
use crate::encoding::{body_key, decode_body};
use crate::entry::Slot;
use crate::error::StoreError;
use crate::machine::BodyLookup;

impl Replica {
    /// The content of a body, from memory or from the tables. `None`: it is gone, or the disk failed.
    pub(crate) fn message(&self, id: u64) -> Option<Arc<StoredMessage>> {
        // What is deleted from the tables is gone from the machine before; and an installed snapshot
        // changes the slot. So a second look is enough.
        for _ in 0..2 {
            let slot = {
                let state = self.state();
                match state.machine.body(id) {
                    BodyLookup::Here(stored) => return Some(stored),
                    BodyLookup::Gone => return None,
                    BodyLookup::Stored => state.slot,
                }
            };
            match self.stored_message(slot, id) {
                Ok(Some(stored)) => return Some(Arc::new(stored)),
                Ok(None) => {}
                Err(error) => {
                    self.fail(error.to_string());
                    return None;
                }
            }
        }
        self.fail(format!("the content of message {id} is missing"));
        None
    }

    fn stored_message(&self, slot: Slot, id: u64) -> Result<Option<StoredMessage>, StoreError> {
        let Some(bytes) = self.db.get(self.shard, slot, &body_key(id))? else {
            return Ok(None);
        };
        let stored = decode_body(id, Bytes::from(bytes)).map_err(|error| StoreError::State {
            path: self.db.path().to_owned(),
            shard: self.shard,
            reason: error.to_string(),
        });
        stored.map(Some)
    }
}
