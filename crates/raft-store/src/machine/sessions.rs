//! PURE. Sessions of a shard: CONNECT with take-over, disconnect and expiry.

use codec::ClientId;
use session::will::SessionEnd;
use session::{Input, Resend, Session};

use super::routes::Change;
use super::{Machine, SessionRecord};
use crate::command::{CloseReason, Connect, Effect, Ending, Refusal, Response};
use crate::ids::{Epoch, Holder};
use crate::state::StateKey;

/// The session that a CONNECT finds.
struct Previous {
    /// Its last connection.
    epoch: Epoch,
    /// That one is open.
    connected: bool,
    /// `None`: a transient one, which ends here.
    session: Option<Box<Session>>,
    unsaved_from: u64,
}

impl Machine {
    /// Takes the session over, resumes or clears it [MQTT-3.1.2-4..6, 3.1.4-3]. Of another user's it
    /// does none of that.
    pub(super) fn connect(&mut self, connect: Connect, effects: &mut Vec<Effect>) -> Response {
        if self.belongs_to_another(&connect) {
            return Response::Refused(Refusal::NotOwner);
        }
        let Connect {
            client_id,
            holder,
            clean_start,
            ..
        } = connect;
        let epoch = Epoch(self.next_epoch);
        self.next_epoch = self.next_epoch.saturating_add(1);
        let (formers, previous) = self.take_over(&client_id, effects);
        let unsaved_from = previous.as_ref().map(|previous| previous.unsaved_from);
        let resumed = self.keep_or_discard(&client_id, previous, clean_start, effects);
        if let Some(will) = connect.will {
            self.keep_will(&client_id, epoch, will);
        }
        let session_present = resumed.is_some();
        let hosted = session_present || connect.session_expiry_interval_s > 0;
        let mut session = resumed.or_else(|| hosted.then(|| Box::new(Session::new())));
        // What is in flight is read before the window is filled anew: the rest is sent without DUP.
        let resumed = self.resumed(holder, session.as_deref());
        let mut outputs = Vec::new();
        if let Some(session) = &mut session {
            let input = Input::Connect {
                receive_maximum: connect.receive_maximum,
                session_expiry_interval_s: connect.session_expiry_interval_s,
                limits: connect.limits,
            };
            session.apply(self.time, input, &mut outputs);
            self.route_connection(Change::Added, session, holder.node, effects);
            self.show_connection(&client_id, session, true);
        }
        let former_connections = !formers.is_empty();
        self.held
            .insert((holder.node, holder.incarnation, client_id.clone()));
        let record = SessionRecord {
            epoch,
            holder: Some(holder),
            formers,
            owner: connect.owner,
            session,
            unsaved_from: unsaved_from.filter(|_| session_present).unwrap_or(u64::MAX),
            is_changed: false,
        };
        self.sessions.insert(client_id.clone(), record);
        effects.push(resumed);
        self.carry_out(&client_id, &mut outputs, effects);
        Response::Connected {
            epoch,
            session_present,
            hosted,
            formers: former_connections,
        }
    }

    /// Whether there is a session of this client that another user created. One whose time is up is
    /// nobody's, although no timer has ended it yet; what its last connections still have under way is.
    fn belongs_to_another(&self, connect: &Connect) -> bool {
        let Some(record) = self.sessions.get(&connect.client_id) else {
            return false;
        };
        let deadline = record.session.as_ref().and_then(|s| s.next_deadline());
        let is_over = record.formers.is_empty() && deadline.is_some_and(|at| at <= self.time);
        record.owner != connect.owner && !is_over
    }

    /// What a connection must send first.
    pub(super) fn resumed(&self, holder: Holder, session: Option<&Session>) -> Effect {
        let subscriptions = session.map(|session| {
            session
                .subscriptions()
                .map(|(filter, subscription)| (filter.clone(), subscription.clone()))
                .collect()
        });
        let awaiting_pubrel = session.map(|session| session.awaiting_pubrel().collect());
        Effect::Resumed {
            holder,
            resend: session
                .map(|session| self.in_flight(session))
                .unwrap_or_default(),
            subscriptions: subscriptions.unwrap_or_default(),
            awaiting_pubrel: awaiting_pubrel.unwrap_or_default(),
        }
    }

    /// What a session has in flight, with the contents that are in memory.
    pub(super) fn in_flight(&self, session: &Session) -> Vec<Resend> {
        let mut in_flight = session.resume();
        for resend in &mut in_flight {
            match resend {
                Resend::Publish { delivery, .. } => self.bodies.resolve(&mut delivery.body),
                Resend::Pubrel { .. } => {}
            }
        }
        in_flight
    }

    /// Removes the client's record; its open connection becomes a former one and is told to close.
    fn take_over(
        &mut self,
        client_id: &ClientId,
        effects: &mut Vec<Effect>,
    ) -> (Vec<(Epoch, Holder)>, Option<Previous>) {
        let Some(record) = self.sessions.remove(client_id) else {
            return (Vec::new(), None);
        };
        let mut formers = record.formers;
        let previous = Previous {
            epoch: record.epoch,
            connected: record.holder.is_some(),
            session: record.session,
            unsaved_from: record.unsaved_from,
        };
        if let Some(holder) = record.holder {
            formers.push((record.epoch, holder));
            effects.push(Effect::Close {
                holder,
                reason: CloseReason::TakenOver,
            });
            if let Some(session) = &previous.session {
                self.route_connection(Change::Removed, session, holder.node, effects);
            }
            self.end_retained_reads(client_id);
        }
        (formers, Some(previous))
    }

    /// The session to resume, unless it is to be discarded or has ended. Decides on the will of its
    /// last connection.
    fn keep_or_discard(
        &mut self,
        client_id: &ClientId,
        previous: Option<Previous>,
        clean_start: bool,
        effects: &mut Vec<Effect>,
    ) -> Option<Box<Session>> {
        let Previous {
            epoch,
            connected,
            session,
            ..
        } = previous?;
        let Some(session) = session else {
            self.end_will(epoch, connected);
            return None;
        };
        let deadline = session.next_deadline();
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, client_id.clone()));
        }
        let expired = deadline.is_some_and(|deadline| deadline <= self.time);
        // With an interval of 0 the session ends when the take-over closes its connection.
        let ends_with_connection = connected && session.session_expiry_interval_s() == 0;
        if clean_start || expired || ends_with_connection {
            self.end_will(epoch, connected);
            self.discard(client_id, session, effects);
            return None;
        }
        self.resume_cancels_will(epoch, connected);
        Some(session)
    }

    /// The session has ended. If its connection was open, its will waits until that is recorded closed:
    /// it may have sent DISCONNECT with 0x00 before it learns of the take-over.
    fn end_will(&mut self, epoch: Epoch, connected: bool) {
        if !connected {
            self.will_due_now(epoch);
        }
    }

    /// The connection is closed, and everything that it sent has been answered.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn disconnect(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        session_expiry_interval_s: Option<u32>,
        ending: Ending,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(record) = self.sessions.get_mut(client_id) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        if record.epoch != epoch {
            return self.former_closed(client_id, epoch, ending, effects);
        }
        let Some(holder) = record.holder.take() else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        self.forget_held(client_id, &holder);
        self.changes.insert(StateKey::Session(client_id.clone()));
        let Some(record) = self.sessions.get_mut(client_id) else {
            return Response::Done;
        };
        let Some(session) = record.session.take() else {
            self.close_will(epoch, ending, SessionEnd::WithConnection);
            self.forget_if_empty(client_id);
            return Response::Done;
        };
        let interval_s =
            session_expiry_interval_s.unwrap_or_else(|| session.session_expiry_interval_s());
        self.close_will(epoch, ending, SessionEnd::after(self.time, interval_s));
        self.end_retained_reads(client_id);
        self.route_connection(Change::Removed, &session, holder.node, effects);
        if interval_s == 0 {
            self.discard(client_id, session, effects);
            self.forget_if_empty(client_id);
        } else {
            self.start_expiry(client_id, session, session_expiry_interval_s, effects);
        }
        Response::Done
    }

    /// Keeps the session until its deadline.
    fn start_expiry(
        &mut self,
        client_id: &ClientId,
        mut session: Box<Session>,
        session_expiry_interval_s: Option<u32>,
        effects: &mut Vec<Effect>,
    ) {
        let mut outputs = Vec::new();
        session.apply(
            self.time,
            Input::Disconnect {
                session_expiry_interval_s,
            },
            &mut outputs,
        );
        if let Some(deadline) = session.next_deadline() {
            self.deadlines.insert((deadline, client_id.clone()));
        }
        self.show_connection(client_id, &session, false);
        if let Some(record) = self.sessions.get_mut(client_id) {
            record.session = Some(session);
        }
        self.carry_out(client_id, &mut outputs, effects);
    }

    /// An older connection is recorded closed; with the last one the newest learns it.
    pub(super) fn former_closed(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        ending: Ending,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(record) = self.sessions.get_mut(client_id) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let Some(position) = record
            .formers
            .iter()
            .position(|(former, _)| *former == epoch)
        else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let (_, former) = record.formers.remove(position);
        if record.formers.is_empty() {
            effects.push(Effect::FencesOver {
                client_id: client_id.clone(),
                epoch: record.epoch,
            });
        }
        match ending {
            Ending::Normal => self.remove_will(epoch),
            Ending::Abnormal => self.will_due_now(epoch),
        }
        self.forget_held(client_id, &former);
        self.changes.insert(StateKey::Session(client_id.clone()));
        self.forget_if_empty(client_id);
        Response::Done
    }

    /// Timer: ends the session if it is still without a connection and its deadline has passed.
    pub(super) fn expire(&mut self, client_id: &ClientId, epoch: Epoch, effects: &mut Vec<Effect>) {
        let now = self.time;
        let Some(record) = self.sessions.get_mut(client_id) else {
            return;
        };
        if record.epoch != epoch || record.holder.is_some() {
            return;
        }
        let deadline = record
            .session
            .as_ref()
            .and_then(|session| session.next_deadline());
        if deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let Some(session) = record.session.take() else {
            return;
        };
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, client_id.clone()));
        }
        self.will_due_now(epoch);
        self.discard(client_id, session, effects);
        self.forget_if_empty(client_id);
    }

    /// The hosted session of a client, if this is its open connection.
    pub(super) fn current_session(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
    ) -> Option<&mut Session> {
        let record = self.sessions.get_mut(client_id)?;
        if record.epoch != epoch || record.holder.is_none() {
            return None;
        }
        record.session.as_deref_mut()
    }

    pub(super) fn current_holder(&self, client_id: &ClientId, epoch: Epoch) -> Option<Holder> {
        let record = self.sessions.get(client_id)?;
        if record.epoch == epoch {
            record.holder
        } else {
            None
        }
    }

    /// Ends a session: forgets its subscriptions, deliveries and bodies.
    fn discard(
        &mut self,
        client_id: &ClientId,
        mut session: Box<Session>,
        effects: &mut Vec<Effect>,
    ) {
        for (filter, subscription) in session.subscriptions() {
            let granted = subscription.options.qos;
            self.forget_subscription(client_id, filter, granted, None, effects);
        }
        self.changes.insert(StateKey::Inbound(client_id.clone()));
        let mut outputs = Vec::new();
        session.apply(self.time, Input::End, &mut outputs);
        self.carry_out(client_id, &mut outputs, effects);
    }

    /// A record without connection, session and former connections says nothing.
    fn forget_if_empty(&mut self, client_id: &ClientId) {
        let empty = self.sessions.get(client_id).is_some_and(|record| {
            record.holder.is_none() && record.session.is_none() && record.formers.is_empty()
        });
        if empty {
            self.sessions.remove(client_id);
        }
        self.changes.insert(StateKey::Session(client_id.clone()));
    }

    /// Removes the index entry of a connection unless another one of this client shares it.
    fn forget_held(&mut self, client_id: &ClientId, gone: &Holder) {
        let shared = self.sessions.get(client_id).is_some_and(|record| {
            let mut others = record
                .formers
                .iter()
                .map(|(_, holder)| holder)
                .chain(&record.holder);
            others.any(|holder| holder.node == gone.node && holder.incarnation == gone.incarnation)
        });
        if !shared {
            self.held
                .remove(&(gone.node, gone.incarnation, client_id.clone()));
        }
    }
}
