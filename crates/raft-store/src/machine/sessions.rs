//! PURE. Sessions of a shard: CONNECT with take-over, disconnect, expiry, subscriptions, and the
//! route entries that follow.

use codec::{ClientId, Qos, TopicFilter};
use session::{Input, Output, Session, Subscription};

use super::{Machine, SessionRecord};
use crate::command::{CloseReason, Connect, Effect, Refusal, Response, RouteTarget};
use crate::ids::{Epoch, Holder, NodeId};
use crate::state::StateKey;

/// The session that a CONNECT finds.
struct Previous {
    /// It had an open connection.
    connected: bool,
    session: Box<Session>,
}

impl Machine {
    /// Takes the session over, resumes or clears it [MQTT-3.1.2-4..6, 3.1.4-3].
    pub(super) fn connect(&mut self, connect: Connect, effects: &mut Vec<Effect>) -> Response {
        let Connect {
            client_id,
            holder,
            clean_start,
            ..
        } = connect;
        let epoch = Epoch(self.next_epoch);
        self.next_epoch = self.next_epoch.saturating_add(1);
        let (formers, previous) = self.take_over(&client_id, effects);
        let resumed = self.keep_or_discard(&client_id, previous, clean_start, effects);
        let session_present = resumed.is_some();
        let hosted = session_present || connect.session_expiry_interval_s > 0;
        let mut session = resumed.or_else(|| hosted.then(|| Box::new(Session::new())));

        // What is in flight is read before the window is filled anew: the rest is sent without DUP.
        let resend = session
            .as_ref()
            .map(|session| session.resume())
            .unwrap_or_default();
        let mut outputs = Vec::new();
        let mut subscriptions = Vec::new();
        if let Some(session) = &mut session {
            let input = Input::Connect {
                receive_maximum: connect.receive_maximum,
                session_expiry_interval_s: connect.session_expiry_interval_s,
                limits: connect.limits,
            };
            session.apply(self.time, input, &mut outputs);
            subscriptions = session
                .subscriptions()
                .map(|(filter, subscription)| (filter.clone(), subscription.clone()))
                .collect();
        }
        for (filter, subscription) in &subscriptions {
            add_route(
                effects,
                filter,
                node_target(holder.node, subscription.options.qos),
            );
        }
        let former_connections = !formers.is_empty();
        self.held
            .insert((holder.node, holder.incarnation, client_id.clone()));
        let record = SessionRecord {
            epoch,
            holder: Some(holder),
            formers,
            session,
        };
        self.sessions.insert(client_id.clone(), record);
        effects.push(Effect::Resumed {
            holder,
            resend,
            subscriptions,
        });
        self.carry_out(&client_id, outputs, effects);
        Response::Connected {
            epoch,
            session_present,
            hosted,
            formers: former_connections,
        }
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
        let connected = record.holder.is_some();
        if let Some(holder) = record.holder {
            formers.push((record.epoch, holder));
            effects.push(Effect::Close {
                holder,
                reason: CloseReason::TakenOver,
            });
            if let Some(session) = &record.session {
                remove_node_routes(session, holder.node, effects);
            }
        }
        (
            formers,
            record
                .session
                .map(|session| Previous { connected, session }),
        )
    }

    /// The session to resume, unless it is to be discarded or has ended.
    fn keep_or_discard(
        &mut self,
        client_id: &ClientId,
        previous: Option<Previous>,
        clean_start: bool,
        effects: &mut Vec<Effect>,
    ) -> Option<Box<Session>> {
        let Previous { connected, session } = previous?;
        let deadline = session.next_deadline();
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, client_id.clone()));
        }
        let expired = deadline.is_some_and(|deadline| deadline <= self.time);
        // With an interval of 0 the session ends when the take-over closes its connection.
        let ends_with_connection = connected && session.session_expiry_interval_s() == 0;
        if clean_start || expired || ends_with_connection {
            self.discard(client_id, session, effects);
            return None;
        }
        Some(session)
    }

    /// The connection is closed, and everything that it sent has been answered.
    pub(super) fn disconnect(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        session_expiry_interval_s: Option<u32>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(record) = self.sessions.get_mut(client_id) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        if record.epoch != epoch {
            return self.former_closed(client_id, epoch, effects);
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
            self.forget_if_empty(client_id);
            return Response::Done;
        };
        remove_node_routes(&session, holder.node, effects);
        self.start_expiry(client_id, session, session_expiry_interval_s, effects);
        Response::Done
    }

    /// Keeps the session until its deadline, or ends it now.
    fn start_expiry(
        &mut self,
        client_id: &ClientId,
        mut session: Box<Session>,
        session_expiry_interval_s: Option<u32>,
        effects: &mut Vec<Effect>,
    ) {
        let interval =
            session_expiry_interval_s.unwrap_or_else(|| session.session_expiry_interval_s());
        if interval == 0 {
            self.discard(client_id, session, effects);
            self.forget_if_empty(client_id);
            return;
        }
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
        if let Some(record) = self.sessions.get_mut(client_id) {
            record.session = Some(session);
        }
        self.carry_out(client_id, outputs, effects);
    }

    /// An older connection is recorded closed; with the last one the newest learns it.
    pub(super) fn former_closed(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
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
        self.discard(client_id, session, effects);
        self.forget_if_empty(client_id);
    }

    pub(super) fn subscribe(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        filters: Vec<(TopicFilter, Subscription)>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(holder) = self.current_holder(client_id, epoch) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let mut existed = Vec::with_capacity(filters.len());
        for (filter, subscription) in filters {
            let filter = filter.detached();
            let qos = subscription.options.qos;
            let input = Input::Subscribe {
                filter: filter.clone(),
                subscription: subscription.clone(),
            };
            if !self.apply_to_session(client_id, input) {
                return Response::Refused(Refusal::StaleEpoch);
            }
            let replaced = self.router.subscribe(
                client_id.clone(),
                &filter,
                router::Subscription {
                    options: subscription.options,
                    identifier: subscription.identifier,
                },
            );
            // Added before the old one is removed: the route never flickers.
            self.add_routes(&filter, qos, holder, effects);
            if let Some(replaced) = &replaced {
                self.remove_routes(&filter, replaced.options.qos, Some(holder), effects);
            }
            existed.push(replaced.is_some());
            self.changes
                .insert(StateKey::Subscription(client_id.clone(), filter));
        }
        Response::Subscribed { existed }
    }

    pub(super) fn unsubscribe(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        filters: &[TopicFilter],
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(holder) = self.current_holder(client_id, epoch) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            if !self.apply_to_session(
                client_id,
                Input::Unsubscribe {
                    filter: filter.clone(),
                },
            ) {
                return Response::Refused(Refusal::StaleEpoch);
            }
            let removed = self.router.unsubscribe(client_id, filter);
            if let Some(removed) = &removed {
                self.remove_routes(filter, removed.options.qos, Some(holder), effects);
            }
            existed.push(removed.is_some());
            self.changes
                .insert(StateKey::Subscription(client_id.clone(), filter.clone()));
        }
        Response::Unsubscribed { existed }
    }

    /// Applies an input whose outputs are only answers. False: no session is hosted here.
    fn apply_to_session(&mut self, client_id: &ClientId, input: Input) -> bool {
        let now = self.time;
        let session = self
            .sessions
            .get_mut(client_id)
            .and_then(|record| record.session.as_mut());
        let Some(session) = session else { return false };
        let mut outputs: Vec<Output> = Vec::new();
        session.apply(now, input, &mut outputs);
        true
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

    fn current_holder(&self, client_id: &ClientId, epoch: Epoch) -> Option<Holder> {
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
            self.remove_routes(filter, subscription.options.qos, None, effects);
            self.changes
                .insert(StateKey::Subscription(client_id.clone(), filter.clone()));
        }
        self.router.remove(client_id);
        self.changes.insert(StateKey::Inbound(client_id.clone()));
        let mut outputs = Vec::new();
        session.apply(self.time, Input::End, &mut outputs);
        self.carry_out(client_id, outputs, effects);
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

    fn add_routes(&self, filter: &TopicFilter, qos: Qos, holder: Holder, out: &mut Vec<Effect>) {
        if qos != Qos::AtMostOnce {
            add_route(out, filter, RouteTarget::Shard(self.shard));
        }
        add_route(out, filter, node_target(holder.node, qos));
    }

    /// `holder`: `None` where the node's entries are gone already.
    fn remove_routes(
        &self,
        filter: &TopicFilter,
        qos: Qos,
        holder: Option<Holder>,
        out: &mut Vec<Effect>,
    ) {
        if qos != Qos::AtMostOnce {
            remove_route(out, filter, RouteTarget::Shard(self.shard));
        }
        if let Some(holder) = holder {
            remove_route(out, filter, node_target(holder.node, qos));
        }
    }

    /// Every route entry that this state stands for; a loaded replica starts its node's table with them.
    pub(super) fn all_routes(&self) -> Vec<Effect> {
        let mut out = Vec::new();
        for record in self.sessions.values() {
            let Some(session) = &record.session else {
                continue;
            };
            for (filter, subscription) in session.subscriptions() {
                let qos = subscription.options.qos;
                if qos != Qos::AtMostOnce {
                    add_route(&mut out, filter, RouteTarget::Shard(self.shard));
                }
                if let Some(holder) = record.holder {
                    add_route(&mut out, filter, node_target(holder.node, qos));
                }
            }
        }
        out
    }
}

/// The live-plane entry of a connected persistent session: with QoS 0 granted it takes every
/// message live, else only those published at QoS 0 (DESIGN section 3).
fn node_target(node: NodeId, granted: Qos) -> RouteTarget {
    match granted {
        Qos::AtMostOnce => RouteTarget::Node(node),
        Qos::AtLeastOnce | Qos::ExactlyOnce => RouteTarget::NodeAtMostOnce(node),
    }
}

fn add_route(out: &mut Vec<Effect>, filter: &TopicFilter, target: RouteTarget) {
    out.push(Effect::RouteAdded {
        filter: filter.clone(),
        target,
    });
}

fn remove_route(out: &mut Vec<Effect>, filter: &TopicFilter, target: RouteTarget) {
    out.push(Effect::RouteRemoved {
        filter: filter.clone(),
        target,
    });
}

fn remove_node_routes(session: &Session, node: NodeId, out: &mut Vec<Effect>) {
    for (filter, subscription) in session.subscriptions() {
        remove_route(out, filter, node_target(node, subscription.options.qos));
    }
}
