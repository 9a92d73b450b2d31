//! PURE. Wills: kept from CONNECT on, published once when their connection is lost
//! [MQTT-3.1.2-8].
//!
//! A will is named by the epoch of the connection that set it, so that a client which connects many
//! times may have several that wait. Its fate is decided by the log:
//!
//! | what happens | the will |
//! |---|---|
//! | DISCONNECT with 0x00 | goes [MQTT-3.14.4-3] |
//! | any other end, also the node's | is due after its delay, or when the session ends if that is sooner |
//! | a connection resumes the session before it is due | goes [MQTT-3.1.3-9] |
//! | it resumes the session of an open connection | goes if it has a delay, else is due when that connection is recorded closed, unless it ended with 0x00 |
//! | the session ends | is due now |
//! | `PublishWill` | goes, with its message on its way |

use std::collections::{BTreeMap, BTreeSet};

use codec::{ClientId, Message, Timestamp, Will};
use session::will::{SessionEnd, due_at};

use super::Machine;
use super::handover::Targets;
use crate::command::{Effect, Ending, Response};
use crate::ids::Epoch;
use crate::state::{StateKey, StateRecord};

/// All wills of a shard.
#[derive(Debug, Default)]
pub(super) struct Wills {
    kept: BTreeMap<Epoch, KeptWill>,
    /// Derived from `kept`.
    due: BTreeSet<(Timestamp, Epoch)>,
}

/// One will.
#[derive(Debug)]
struct KeptWill {
    client_id: ClientId,
    will: Will,
    /// `None`: the connection is open, or not recorded closed.
    due: Option<Timestamp>,
}

/// A will that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueWill {
    /// The connection that set it.
    pub epoch: Epoch,
    /// Its client, the publisher.
    pub client_id: ClientId,
    /// The message.
    pub message: Message,
}

impl Wills {
    fn remove(&mut self, epoch: Epoch) -> Option<KeptWill> {
        let kept = self.kept.remove(&epoch)?;
        if let Some(due) = kept.due {
            self.due.remove(&(due, epoch));
        }
        Some(kept)
    }

    /// Sets when a will is due; an earlier time that was set before stays.
    fn set_due(&mut self, epoch: Epoch, due: Timestamp) -> bool {
        let Some(kept) = self.kept.get_mut(&epoch) else {
            return false;
        };
        if let Some(before) = kept.due {
            if before <= due {
                return false;
            }
            self.due.remove(&(before, epoch));
        }
        kept.due = Some(due);
        self.due.insert((due, epoch));
        true
    }

    pub(super) fn restore(
        &mut self,
        epoch: Epoch,
        client_id: ClientId,
        will: Will,
        due: Option<Timestamp>,
    ) {
        if let Some(due) = due {
            self.due.insert((due, epoch));
        }
        let kept = KeptWill {
            client_id,
            will,
            due,
        };
        self.kept.insert(epoch, kept);
    }

    /// Whether any of them becomes due by itself.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn epochs(&self) -> impl Iterator<Item = Epoch> {
        self.kept.keys().copied()
    }

    pub(super) fn record(&self, epoch: Epoch) -> Option<StateRecord> {
        self.kept.get(&epoch).map(|kept| StateRecord::Will {
            client_id: kept.client_id.clone(),
            will: kept.will.clone(),
            due: kept.due,
        })
    }
}

impl Machine {
    /// Wills that are due at `now`, at most `max`, in the order in which they became due.
    #[must_use]
    pub fn due_wills(&self, now: Timestamp, max: usize) -> Vec<DueWill> {
        self.wills
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(max)
            .filter_map(|(_, epoch)| {
                let kept = self.wills.kept.get(epoch)?;
                Some(DueWill {
                    epoch: *epoch,
                    client_id: kept.client_id.clone(),
                    message: kept.will.message.clone(),
                })
            })
            .collect()
    }

    /// CONNECT had a will.
    pub(super) fn keep_will(&mut self, client_id: &ClientId, epoch: Epoch, will: Will) {
        let will = Will {
            message: will.message.detached(),
            delay_interval_s: will.delay_interval_s,
        };
        self.wills.restore(epoch, client_id.clone(), will, None);
        self.changes.insert(StateKey::Will(epoch));
    }

    /// The client's last connection is closed.
    pub(super) fn close_will(&mut self, epoch: Epoch, ending: Ending, session_ends: SessionEnd) {
        match ending {
            Ending::Normal => self.remove_will(epoch),
            Ending::Abnormal => {
                let Some(kept) = self.wills.kept.get(&epoch) else {
                    return;
                };
                let due = due_at(self.time, kept.will.delay_interval_s, session_ends);
                self.set_will_due(epoch, due);
            }
        }
    }

    /// A former connection is recorded closed, or the session of the last one has ended. What is
    /// still there of its will is not cancelled by the connection that came after it.
    pub(super) fn will_due_now(&mut self, epoch: Epoch) {
        self.set_will_due(epoch, self.time);
    }

    /// A new connection resumes the session.
    pub(super) fn resume_cancels_will(&mut self, epoch: Epoch, was_connected: bool) {
        let Some(kept) = self.wills.kept.get(&epoch) else {
            return;
        };
        let in_time = match kept.due {
            // Of an open connection: with a delay the new one came before its end, always. Without
            // one its fate shows when it is recorded closed: it may have sent a DISCONNECT.
            None => was_connected && kept.will.delay_interval_s > 0,
            Some(due) => due > self.time,
        };
        if in_time {
            self.remove_will(epoch);
        }
    }

    pub(super) fn remove_will(&mut self, epoch: Epoch) {
        if self.wills.remove(epoch).is_some() {
            self.changes.insert(StateKey::Will(epoch));
        }
    }

    fn set_will_due(&mut self, epoch: Epoch, due: Timestamp) {
        if self.wills.set_due(epoch, due) {
            self.changes.insert(StateKey::Will(epoch));
        }
    }

    /// Consumes a due will and hands its message on, in one step: whoever leads, and however often
    /// this is proposed, it is published once [MQTT-3.1.2-10]. Its lifetime begins now.
    pub(super) fn publish_will(
        &mut self,
        epoch: Epoch,
        retained_version: Option<u64>,
        targets: Targets,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let now = self.time;
        let kept = self.wills.kept.get(&epoch);
        if kept.is_none_or(|kept| kept.due.is_none_or(|due| due > now)) {
            return Response::Claimed { claimed: false };
        }
        let Some(kept) = self.wills.remove(epoch) else {
            return Response::Claimed { claimed: false };
        };
        self.changes.insert(StateKey::Will(epoch));
        let KeptWill {
            client_id, will, ..
        } = kept;
        self.hand_on(
            &client_id,
            &will.message,
            retained_version,
            targets,
            effects,
        );
        Response::Claimed { claimed: true }
    }
}
