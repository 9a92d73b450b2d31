//! PURE. SUBSCRIBE and UNSUBSCRIBE of hosted sessions: the session, the router or the members of shared
//! subscriptions, and the route entries.

use codec::{ClientId, Qos, TopicFilter};
use session::{Input, Output, Session, Subscription};

use super::Machine;
use super::routes::Change;
use crate::command::{Effect, Refusal, Response};
use crate::ids::{Epoch, Holder};
use crate::state::StateKey;

impl Machine {
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn subscribe(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        filters: Vec<(TopicFilter, Subscription)>,
        reads_retained: bool,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Some(holder) = self.current_holder(client_id, epoch) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        if self.session(client_id).is_none() {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let mut existed = Vec::with_capacity(filters.len());
        for (filter, subscription) in filters {
            let filter = filter.detached();
            let qos = subscription.options.qos;
            let replaced = self.granted(client_id, &filter);
            self.index_subscription(client_id, &filter, &subscription, true);
            let input = Input::Subscribe {
                filter: filter.clone(),
                subscription,
            };
            self.apply_to_session(client_id, input);
            // Added before the old one is removed: the route never flickers.
            self.route_subscription(Change::Added, &filter, qos, Some(holder), effects);
            if let Some(replaced) = replaced {
                self.route_subscription(Change::Removed, &filter, replaced, Some(holder), effects);
            }
            existed.push(replaced.is_some());
            self.changes
                .insert(StateKey::Subscription(client_id.clone(), filter));
        }
        if reads_retained {
            self.begin_retained_read(client_id);
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
        if self.session(client_id).is_none() {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let removed = self.granted(client_id, filter);
            if let Some(removed) = removed {
                self.forget_subscription(client_id, filter, removed, Some(holder), effects);
                let filter = filter.clone();
                self.apply_to_session(client_id, Input::Unsubscribe { filter });
            }
            existed.push(removed.is_some());
        }
        Response::Unsubscribed { existed }
    }

    /// Who gets what by a subscription: one way for each kind.
    pub(super) fn index_subscription(
        &mut self,
        client_id: &ClientId,
        filter: &TopicFilter,
        subscription: &Subscription,
        connected: bool,
    ) {
        if !filter.is_shared() {
            let subscription = router::Subscription {
                options: subscription.options,
                identifier: subscription.identifier,
            };
            self.router
                .subscribe(client_id.clone(), filter, subscription);
        } else if subscription.options.qos == Qos::AtMostOnce {
            self.shared.remove(filter, client_id);
        } else {
            self.shared.set(filter, client_id, connected);
        }
    }

    /// `holder`: `None` where the node's entries are gone already.
    #[expect(clippy::too_many_arguments, reason = "what a route consists of")]
    pub(super) fn forget_subscription(
        &mut self,
        client_id: &ClientId,
        filter: &TopicFilter,
        granted: Qos,
        holder: Option<Holder>,
        effects: &mut Vec<Effect>,
    ) {
        if filter.is_shared() {
            self.shared.remove(filter, client_id);
        } else {
            self.router.unsubscribe(client_id, filter);
        }
        self.route_subscription(Change::Removed, filter, granted, holder, effects);
        self.changes
            .insert(StateKey::Subscription(client_id.clone(), filter.clone()));
    }

    /// The members of its shared subscriptions learn whether a session is connected.
    pub(super) fn show_connection(&mut self, client_id: &ClientId, session: &Session, is: bool) {
        for (filter, subscription) in session.subscriptions() {
            if filter.is_shared() && subscription.options.qos != Qos::AtMostOnce {
                self.shared.set(filter, client_id, is);
            }
        }
    }

    fn granted(&self, client_id: &ClientId, filter: &TopicFilter) -> Option<Qos> {
        let subscription = self.session(client_id)?.subscription(filter)?;
        Some(subscription.options.qos)
    }

    /// Applies an input whose outputs are only answers.
    fn apply_to_session(&mut self, client_id: &ClientId, input: Input) {
        let now = self.time;
        let session = self
            .sessions
            .get_mut(client_id)
            .and_then(|record| record.session.as_mut());
        if let Some(session) = session {
            let mut answers: Vec<Output> = Vec::new();
            session.apply(now, input, &mut answers);
        }
    }
}
