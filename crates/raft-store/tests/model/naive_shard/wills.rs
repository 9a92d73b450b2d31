//! Wills (failover.md, section 9).

use codec::{ClientId, Timestamp, Will};
use raft_store::{Ending, Epoch, Response};

use super::NaiveShard;
use super::messages::Places;

/// The will that a connection set.
#[derive(Clone, Debug)]
pub(crate) struct NaiveWill {
    pub(crate) client_id: ClientId,
    pub(crate) will: Will,
    /// `None` while its connection is open.
    pub(crate) due: Option<Timestamp>,
}

impl NaiveShard {
    pub(super) fn arm_will(&mut self, client_id: &ClientId, epoch: Epoch, will: Option<&Will>) {
        if let Some(will) = will {
            let will = NaiveWill {
                client_id: client_id.clone(),
                will: will.clone(),
                due: None,
            };
            self.wills.insert(epoch, will);
        }
    }

    /// A connection is closed, and its session ends at `session_ends_at` (never: `None`)
    /// [MQTT-3.1.2-8] [MQTT-3.14.4-3].
    pub(super) fn will_at_close(
        &mut self,
        epoch: Epoch,
        ending: Ending,
        session_ends_at: Option<Timestamp>,
    ) {
        if ending == Ending::Normal {
            self.wills.remove(&epoch);
        }
        let now = self.time.as_millis();
        if let Some(will) = self.wills.get_mut(&epoch) {
            let delay_ms = u64::from(will.will.delay_interval_s) * 1_000;
            let delayed = Timestamp::from_millis(now + delay_ms);
            will.due = Some(session_ends_at.map_or(delayed, |end| end.min(delayed)));
        }
    }

    /// A connection that was replaced is recorded closed. A will that is still there was not
    /// cancelled by what replaced it.
    pub(super) fn will_of_former(&mut self, epoch: Epoch, ending: Ending) {
        if ending == Ending::Normal {
            self.wills.remove(&epoch);
        }
        let now = self.time;
        if let Some(will) = self.wills.get_mut(&epoch) {
            will.due = Some(will.due.map_or(now, |due| due.min(now)));
        }
    }

    /// A client connects, `former_epoch` being its last connection, open or not; its session goes on
    /// or ends [MQTT-3.1.3-9].
    pub(super) fn will_at_connect(&mut self, former_epoch: Epoch, goes_on: bool) {
        let now = self.time;
        let Some(will) = self.wills.get_mut(&former_epoch) else {
            return;
        };
        match (will.due, goes_on) {
            // It was about to be published before anybody came back.
            (Some(due), _) if due <= now => {}
            (Some(_), false) => will.due = Some(now),
            // Whether that connection ended with DISCONNECT is known once it is recorded closed.
            (None, false) => {}
            (None, true) if will.will.delay_interval_s == 0 => {}
            (Some(_) | None, true) => {
                self.wills.remove(&former_epoch);
            }
        }
    }

    /// Wills that are due, in order.
    pub(crate) fn due_wills(&self, now: Timestamp) -> Vec<(Epoch, ClientId)> {
        let due = self.wills.iter().filter_map(|(epoch, will)| {
            let due = will.due.filter(|due| *due <= now)?;
            Some((due, *epoch, will.client_id.clone()))
        });
        let mut due: Vec<_> = due.collect();
        due.sort();
        due.into_iter()
            .map(|(_, epoch, client_id)| (epoch, client_id))
            .collect()
    }

    /// Consumed and handed on in one step [MQTT-3.1.2-10]. Its expiry counts from here.
    pub(super) fn publish_will(
        &mut self,
        epoch: Epoch,
        retained_version: Option<u64>,
        places: Places<'_>,
    ) -> Response {
        let now = self.time;
        let is_due = |will: &NaiveWill| will.due.is_some_and(|due| due <= now);
        if !self.wills.get(&epoch).is_some_and(is_due) {
            return Response::Claimed { claimed: false };
        }
        let NaiveWill {
            client_id, will, ..
        } = self.wills.remove(&epoch).unwrap();
        let body = self.body(will.message, None, retained_version);
        self.hand_on(&client_id, &body, places);
        Response::Claimed { claimed: true }
    }
}
