//! PURE. What operators see of the sessions of a shard, in pages: entries wait while one is read, so
//! each says how much it looks at.

use std::ops::Bound;

use codec::{ClientId, TopicFilter, Utf8};
use session::{DeliveryRecord, Session, Subscription};

use super::{Machine, SessionRecord};
use crate::ids::{Epoch, Holder};

/// One client that is registered in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The client.
    pub client_id: ClientId,
    /// The user name that it belongs to; `None`: an anonymous client's.
    pub owner: Option<Utf8>,
    /// Its last connection.
    pub epoch: Epoch,
    /// Where that connection is; `None`: it is closed.
    pub holder: Option<Holder>,
    /// Its session; `None`: it lives in the memory of the node that holds the connection.
    pub stored: Option<StoredSession>,
}

/// What a shard holds of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// Seconds that it outlives its connection; `u32::MAX`: for ever.
    pub session_expiry_interval_s: u32,
    /// What is left of that in milliseconds, by the time of the shard; `None`: a connection is open, or
    /// it never ends.
    pub expires_in_ms: Option<u64>,
    /// Its subscriptions.
    pub subscriptions: usize,
    /// Deliveries that the client has not acknowledged.
    pub in_flight: usize,
    /// Deliveries behind those.
    pub queued: usize,
    /// Their size.
    pub queued_bytes: u64,
    /// QoS 2 messages of the client that it has not released.
    pub awaiting_pubrel: usize,
}

/// The stored subscriptions of one client, or where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberView {
    /// The client.
    pub client_id: ClientId,
    /// Where its connection is, if it is open.
    pub holder: Option<Holder>,
    /// In the order of their filters; `None`: they are in the memory of the
    /// node that holds the connection.
    pub stored: Option<Vec<(TopicFilter, Subscription)>>,
}

impl Machine {
    /// Clients behind `after`, in the order of their ids, at most `max`. O(log sessions + max).
    #[must_use]
    pub fn sessions_after(&self, after: Option<&ClientId>, max: usize) -> Vec<SessionView> {
        self.records_after(after)
            .take(max)
            .map(|(client_id, record)| self.view(client_id, record))
            .collect()
    }

    /// One client.
    #[must_use]
    pub fn session_view(&self, client_id: &ClientId) -> Option<SessionView> {
        let record = self.sessions.get(client_id)?;
        Some(self.view(client_id, record))
    }

    /// Subscriptions of the clients behind `after`, in the order of their ids: of at most `clients_max`
    /// clients, and of fewer once there are `subscriptions_max`. A client that has none is in the page as
    /// well, so that the next one goes on behind it.
    #[must_use]
    pub fn subscribers_after(
        &self,
        after: Option<&ClientId>,
        clients_max: usize,
        subscriptions_max: usize,
    ) -> Vec<SubscriberView> {
        let mut page = Vec::new();
        let mut subscriptions = 0_usize;
        for (client_id, record) in self.records_after(after).take(clients_max) {
            let stored = self.subscriptions_of(client_id);
            let count = record.session.as_deref().map(Session::subscription_count);
            subscriptions = subscriptions.saturating_add(count.unwrap_or(0));
            page.push(SubscriberView {
                client_id: client_id.clone(),
                holder: record.holder,
                stored,
            });
            if subscriptions >= subscriptions_max {
                break;
            }
        }
        page
    }

    /// The subscriptions of a session, in the order of their filters; they are bounded per session.
    /// `None`: no such session lives here.
    #[must_use]
    pub fn subscriptions_of(
        &self,
        client_id: &ClientId,
    ) -> Option<Vec<(TopicFilter, Subscription)>> {
        let subscriptions = self.session(client_id)?.subscriptions();
        Some(
            subscriptions
                .map(|(filter, subscription)| (filter.clone(), subscription.clone()))
                .collect(),
        )
    }

    /// Deliveries of a session from a position on, in their order, at most `max`: first what is in
    /// flight, then what is queued. `None`: no such session lives here.
    #[must_use]
    pub fn deliveries_from(
        &self,
        client_id: &ClientId,
        from: u64,
        max: usize,
    ) -> Option<Vec<(u64, DeliveryRecord)>> {
        let session = self.session(client_id)?;
        let positions = session.delivery_positions_from(from).take(max);
        Some(
            positions
                .filter_map(|position| Some((position, session.delivery_record(position)?)))
                .collect(),
        )
    }

    fn records_after(
        &self,
        after: Option<&ClientId>,
    ) -> impl Iterator<Item = (&ClientId, &SessionRecord)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.sessions
            .range::<ClientId, _>((start, Bound::Unbounded))
    }

    fn view(&self, client_id: &ClientId, record: &SessionRecord) -> SessionView {
        let stored = record.session.as_deref().map(|session| StoredSession {
            session_expiry_interval_s: session.session_expiry_interval_s(),
            expires_in_ms: session
                .next_deadline()
                .map(|deadline| deadline.as_millis().saturating_sub(self.time.as_millis())),
            subscriptions: session.subscription_count(),
            in_flight: session.inflight_len(),
            queued: session.queue_len(),
            queued_bytes: session.queue_bytes(),
            awaiting_pubrel: session.awaiting_pubrel().len(),
        });
        SessionView {
            owner: record.owner.clone(),
            client_id: client_id.clone(),
            epoch: record.epoch,
            holder: record.holder,
            stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, ProposerId};
    use crate::command::{Command, Connect};
    use crate::encoding::encode_command;
    use crate::ids::{ConnectionId, Incarnation, NodeId, ShardId};
    use session::SessionLimits;

    fn client(name: &str) -> ClientId {
        ClientId::new(name).unwrap()
    }

    fn machine(names: &[&str]) -> Machine {
        let mut machine = Machine::new(ShardId::ZERO);
        for (index, name) in (1..).zip(names) {
            let connect = Connect {
                client_id: client(name),
                holder: Holder {
                    node: NodeId(1),
                    incarnation: Incarnation(1),
                    connection: ConnectionId(index),
                },
                clean_start: false,
                session_expiry_interval_s: 60,
                receive_maximum: 10,
                limits: SessionLimits::default(),
                will: None,
                owner: None,
            };
            machine.apply(
                index,
                &Batch {
                    proposer: ProposerId::Idempotent,
                    sequence: 0,
                    leader_time: codec::Timestamp::ZERO,
                    commands: vec![encode_command(&Command::Connect(Box::new(connect)))],
                },
            );
        }
        machine
    }

    fn names(page: &[SessionView]) -> Vec<&str> {
        page.iter().map(|view| view.client_id.as_str()).collect()
    }

    #[test]
    fn pages_follow_each_other_in_the_order_of_client_ids() {
        let machine = machine(&["b", "a", "d", "c"]);
        let first = machine.sessions_after(None, 3);
        assert_eq!(names(&first), ["a", "b", "c"]);
        let last = machine.sessions_after(Some(&first[2].client_id), 3);
        assert_eq!(names(&last), ["d"]);
        // One that is gone meanwhile is still a place to go on from.
        assert_eq!(
            names(&machine.sessions_after(Some(&client("bb")), 1)),
            ["c"]
        );
        assert!(machine.sessions_after(Some(&client("d")), 3).is_empty());
    }

    #[test]
    fn a_page_of_subscribers_ends_early_rather_than_growing() {
        let machine = machine(&["a", "b", "c"]);
        let page = machine.subscribers_after(None, 2, 100);
        assert_eq!(page.len(), 2);
        let page = machine.subscribers_after(None, 2, 0);
        assert_eq!(page.len(), 1);
    }
}
