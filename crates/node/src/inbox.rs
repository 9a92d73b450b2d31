//! What other tasks have handed to a connection, carried out.

use codec::ReasonCode;
use raft_store::{Refusal, Response};

use crate::connection::Connection;
use crate::end::End;
use crate::mailbox::Mail;
use crate::member::return_mail;

/// Room for mail that is kept although it is empty.
const MAIL_KEPT_MAX: usize = 64;

impl Connection {
    /// Carries out everything that waits in the mailbox.
    pub(crate) fn take_mail(&mut self) -> Result<(), End> {
        // Asked once: mail that was taken is not seen again.
        let held = self.broker.lease.is_held();
        if !held && !self.mailbox.is_closing() {
            return Ok(());
        }
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.take(&mut mail);
        let mut result = Ok(());
        for piece in mail.drain(..) {
            // Counted also after the end: `drain` waits for the rest.
            self.outstanding = self.outstanding.saturating_sub(piece.answers());
            // Without the lease nothing is sent or acknowledged; a closing connection needs nothing.
            let counts = held || matches!(piece, Mail::Close(_));
            if result.is_ok() && counts {
                result = self.on_mail(piece);
            } else {
                return_mail(&self.life, piece);
            }
        }
        if mail.capacity() <= MAIL_KEPT_MAX {
            self.mail = mail;
        }
        result
    }

    fn on_mail(&mut self, mail: Mail) -> Result<(), End> {
        match mail {
            Mail::Answer {
                tag,
                index,
                response,
            } => self.on_answer(tag, index, &response),
            Mail::Received { tag } => {
                self.publishes.received(tag);
                Ok(())
            }
            Mail::Visible { tag } => {
                self.on_visible(tag);
                Ok(())
            }
            Mail::Resumed {
                resend,
                subscriptions,
                awaiting_pubrel,
            } => {
                self.on_resumed(resend, &subscriptions, awaiting_pubrel);
                Ok(())
            }
            Mail::Resync { in_flight } => {
                self.on_resync(in_flight);
                Ok(())
            }
            Mail::Send {
                position,
                packet_id,
                delivery,
            } => {
                self.on_send(position, packet_id, &delivery);
                Ok(())
            }
            Mail::SendPubrel {
                packet_id,
                reason_code,
                pubrec_position,
            } => {
                self.on_send_pubrel(packet_id, reason_code, pubrec_position);
                Ok(())
            }
            Mail::Live(delivery) => self.on_live(delivery),
            Mail::LiveShared(shared) => self.on_live_shared(*shared),
            Mail::Shared { tag, outcome } => self
                .publishes
                .shared(tag, outcome)
                .or_else(|refusal| self.on_refused(refusal)),
            Mail::Close(reason) => Err(End::by(reason)),
        }
    }

    fn on_answer(&mut self, tag: u64, index: u64, response: &Response) -> Result<(), End> {
        match response {
            Response::Refused(refusal) => {
                if *refusal == Refusal::Malformed {
                    tracing::error!(tag, index, "a shard could not read a command of this node");
                }
                self.on_refused(*refusal)
            }
            Response::Subscribed { .. } | Response::Unsubscribed { .. } => {
                self.on_subscription_answer(tag, index, response);
                Ok(())
            }
            Response::RetainedDelivered { dropped } => {
                self.on_retained_delivered(tag, *dropped);
                Ok(())
            }
            Response::Done => {
                self.on_done(tag);
                Ok(())
            }
            Response::NodeUp { .. }
            | Response::Connected { .. }
            | Response::Published { .. }
            | Response::Received { .. }
            | Response::ReceiveMaximumExceeded
            | Response::RetainedSet { .. }
            | Response::RetainedFull
            | Response::Claimed { .. }
            | Response::TookOutbox { .. }
            | Response::Released { .. } => self.on_publish_answer(tag, response),
        }
    }

    /// What this connection sends has no effect any more.
    fn on_refused(&self, refusal: Refusal) -> Result<(), End> {
        match refusal {
            Refusal::StaleEpoch => Err(End::closed(ReasonCode::SessionTakenOver, "takeover")),
            Refusal::StaleIncarnation => {
                self.life.ended.cancel();
                Err(End::LifeOver)
            }
            Refusal::Malformed => Err(End::closed(
                ReasonCode::ImplementationSpecificError,
                "internal",
            )),
        }
    }
}
