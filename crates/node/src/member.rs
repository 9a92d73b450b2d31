//! A connection as a member of shared subscriptions: what it was handed is settled with whoever holds
//! it, when the client has acknowledged it or is gone (section 4.8.2).

use std::collections::BTreeMap;

use session::{Body, Delivery, Input, Output};

use crate::clock;
use crate::connection::Connection;
use crate::end::End;
use crate::life::Life;
use crate::mailbox::{Mail, SharedDelivery};
use crate::proto::SharedOutcomeKind;
use crate::session_place::SessionPlace;
use crate::shared::SharedOrigin;
use std::sync::Arc;

/// What a transient session was handed and has not settled, by the id of the body.
pub(crate) type Handed = BTreeMap<u64, SharedOrigin>;

impl Connection {
    /// A message for this member.
    pub(crate) fn on_live_shared(&mut self, shared: SharedDelivery) -> Result<(), End> {
        let SharedDelivery { delivery, origin } = shared;
        let session = match &mut self.place {
            SessionPlace::Transient(session) => session,
            SessionPlace::Hosted(_) => {
                // Only at QoS 0: the rest comes from its shard.
                self.send_at_most_once(&delivery);
                self.life.report_shared(origin, SharedOutcomeKind::Done);
                return Ok(());
            }
        };
        let id = delivery.body.id();
        let mut outputs = Vec::new();
        session.apply(clock::timestamp(), Input::Deliver(delivery), &mut outputs);
        if is_accepted(&outputs, id) {
            self.handed.insert(id, origin);
            return self.carry_out(outputs);
        }
        // Sent at QoS 0, expired, or without room. In the last case another member may have some.
        let is_full =
            |output: &Output| matches!(output, Output::Rejected | Output::DisconnectQueueFull);
        if outputs.iter().any(is_full) {
            self.life.report_shared(origin, SharedOutcomeKind::Full);
            return Ok(());
        }
        self.life.report_shared(origin, SharedOutcomeKind::Done);
        self.carry_out(outputs)
    }

    /// The session has done with a body.
    pub(crate) fn shared_done(&mut self, body: u64) {
        if let Some(origin) = self.handed.remove(&body) {
            self.life.report_shared(origin, SharedOutcomeKind::Done);
        }
    }

    /// The session ended before its client acknowledged the message.
    pub(crate) fn shared_returned(&mut self, delivery: &Delivery) {
        if let Some(origin) = self.handed.remove(&delivery.body.id()) {
            self.life.report_shared(origin, SharedOutcomeKind::Returned);
        }
    }

    /// The connection is over: what its client did not get goes to others, and what it may have got
    /// at QoS 2 to nobody [MQTT-4.8.2-5].
    pub(crate) fn return_shared(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.take(&mut mail);
        for piece in mail {
            self.outstanding = self.outstanding.saturating_sub(piece.answers());
            return_mail(&self.life, piece);
        }
        if self.handed.is_empty() {
            return;
        }
        let mut outputs = Vec::new();
        if let SessionPlace::Transient(session) = &mut self.place {
            session.apply(clock::timestamp(), Input::End, &mut outputs);
        }
        for output in outputs {
            if let Output::Reassign { delivery, .. } = output {
                self.shared_returned(&delivery);
            }
        }
        for (_, origin) in std::mem::take(&mut self.handed) {
            self.life.report_shared(origin, SharedOutcomeKind::Done);
        }
    }
}

/// Mail that the connection does not take any more.
pub(crate) fn return_mail(life: &Arc<Life>, mail: Mail) {
    if let Mail::LiveShared(shared) = mail {
        life.report_shared(shared.origin, SharedOutcomeKind::Returned);
    }
}

/// The session keeps the delivery until it is acknowledged.
fn is_accepted(outputs: &[Output], id: u64) -> bool {
    outputs.iter().any(|output| match output {
        Output::Queued { .. } => true,
        Output::Send {
            position: Some(_),
            delivery,
            ..
        } => matches!(&delivery.body, Body::Here(stored) if stored.id == id),
        Output::Send { .. }
        | Output::SendPubrel { .. }
        | Output::Completed { .. }
        | Output::Released { .. }
        | Output::Reassign { .. }
        | Output::Dropped { .. }
        | Output::Rejected
        | Output::DisconnectQueueFull
        | Output::Received { .. }
        | Output::ReceiveMaximumExceeded
        | Output::PubrelAnswered { .. }
        | Output::Subscribed { .. }
        | Output::Unsubscribed { .. }
        | Output::Ended => false,
    })
}
