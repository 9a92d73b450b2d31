//! What other tasks have handed to a connection, carried out.

use codec::ReasonCode;
use raft_store::{Refusal, Response};

use crate::backlog::Backlog;
use crate::connection::Connection;
use crate::end::End;
use crate::mailbox::Mail;
use crate::member::return_mail;
use crate::session_place::SessionPlace;

/// Room for mail that is kept although it is empty.
const MAIL_KEPT_MAX: usize = 64;

/// Live messages that a connection has taken from its mailbox and not sent.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    /// Not looked at yet.
    in_hand: Backlog,
    /// What the mailbox believes, the session's queue included.
    told: Backlog,
}

impl Unsent {
    /// Taken from the mailbox, which counts it on.
    fn taken(&mut self, taken: Backlog) {
        self.in_hand = self.in_hand.plus(taken);
        self.told = self.told.plus(taken);
    }

    /// Sent, queued by the session or dropped.
    fn passed(&mut self, passed: Backlog) {
        self.in_hand = self.in_hand.minus(passed);
    }

    /// How much there is with what the session has queued, if that is news.
    fn changed(&mut self, queued: Backlog) -> Option<Backlog> {
        let unsent = self.in_hand.plus(queued);
        let is_news = unsent != self.told;
        self.told = unsent;
        is_news.then_some(unsent)
    }
}

impl Connection {
    /// Carries out what waits in the mailbox, as long as the client reads what it is sent.
    pub(crate) fn take_mail(&mut self) -> Result<(), End> {
        // Asked once: mail that was taken is not seen again.
        let held = self.broker.lease.is_held();
        if !held && !self.mailbox.is_closing() {
            return Ok(());
        }
        let mut mail = std::mem::take(&mut self.mail);
        let taken = self.mailbox.take(&mut mail);
        self.unsent.taken(taken);
        let mut result = Ok(());
        while let Some(piece) = mail.pop_front() {
            // Counted also after the end: `drain` waits for the rest.
            self.outstanding = self.outstanding.saturating_sub(piece.answers());
            self.unsent.passed(piece.backlog());
            let has_room = self.has_room_for_output();
            // Without the lease nothing is sent or acknowledged; a closing connection needs nothing.
            let counts = matches!(piece, Mail::Close(_))
                || (held && (has_room || !self.mailbox.is_closing()));
            if result.is_ok() && counts {
                result = self.on_mail(piece);
            } else {
                return_mail(&self.life, piece);
            }
            // The rest keeps until the client has read what it was sent, unless it is not to get it.
            if result.is_ok() && !self.has_room_for_output() && !self.mailbox.is_closing() {
                break;
            }
        }
        if !mail.is_empty() || mail.capacity() <= MAIL_KEPT_MAX {
            self.mail = mail;
        }
        result
    }

    /// Tells the mailbox how many live messages wait for the client here.
    pub(crate) fn settle(&mut self) {
        let queued = match &self.place {
            SessionPlace::Transient(session) => Backlog {
                messages: session.queue_len(),
                bytes: usize::try_from(session.queue_bytes()).unwrap_or(usize::MAX),
            },
            SessionPlace::Hosted(_) => Backlog::default(),
        };
        if let Some(behind) = self.unsent.changed(queued) {
            self.mailbox.settle(behind);
        }
        let buffered = self.wire.count();
        self.mailbox.set_buffered(buffered);
    }

    fn on_mail(&mut self, mail: Mail) -> Result<(), End> {
        match mail {
            Mail::Answer {
                tag,
                index,
                response,
            } => self.on_answer(tag, index, &response),
            Mail::Received { tag } | Mail::Released { tag } => {
                self.publishes.received(tag);
                Ok(())
            }
            Mail::Held { tag } => {
                self.publishes.held(tag);
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
                since,
            } => {
                // The next node sends it, as the session has it in flight.
                if !self.is_finishing() {
                    self.sends_since = since;
                    self.on_send(position, packet_id, &delivery);
                    self.sends_since = None;
                }
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
            Mail::Live { delivery, since } => {
                self.sends_since = since;
                let result = self.on_live(delivery);
                self.sends_since = None;
                result
            }
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
            Response::RetainedSet { version } if self.retained.barrier_answered(tag, *version) => {
                Ok(())
            }
            Response::Done => Ok(()),
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
            // Only CONNECT is answered so.
            Refusal::NotOwner => Err(End::closed(ReasonCode::NotAuthorized, "owner")),
            Refusal::Malformed => Err(End::closed(
                ReasonCode::ImplementationSpecificError,
                "internal",
            )),
        }
    }
}
