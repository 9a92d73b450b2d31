//! What there is to see of a shard.

use std::collections::BTreeMap;

use codec::{ClientId, Qos, Timestamp};
use raft_store::{Epoch, OutboxItem, RouteTarget, ShardId, StateKey, StateRecord};

use super::super::naive_session::NaiveSession;
use super::{Client, Life, NaiveShard, Routes, Target};

impl NaiveShard {
    /// The route entries that this state stands for (DESIGN section 3).
    pub(crate) fn routes(&self) -> Routes {
        let mut routes = Routes::new();
        for client in self.clients.values() {
            let subscriptions = client
                .session
                .iter()
                .flat_map(|session| &session.subscriptions);
            for (filter, subscription) in subscriptions {
                let at_most_once = subscription.options.qos == Qos::AtMostOnce;
                let durable = (!at_most_once).then_some(RouteTarget::Shard(self.shard));
                let live = client.open.map(|holder| match at_most_once {
                    true => RouteTarget::Node(holder.node),
                    false => RouteTarget::NodeAtMostOnce(holder.node),
                });
                for target in durable.into_iter().chain(live) {
                    *routes.entry((filter.clone(), target)).or_insert(0) += 1;
                }
            }
        }
        routes
    }

    /// What is to be stored, without counters and bodies.
    pub(crate) fn records(&self) -> BTreeMap<StateKey, StateRecord> {
        let mut records = BTreeMap::new();
        for (node, life) in &self.lives {
            let Life {
                incarnation,
                down,
                last_sequence,
                ..
            } = *life;
            let answers = life.answers.clone().into();
            let record = StateRecord::Node {
                incarnation,
                down,
                last_sequence,
                answers,
            };
            records.insert(StateKey::Node(*node), record);
        }
        for (source, upto) in &self.taken {
            records.insert(StateKey::Taken(*source), StateRecord::Taken { upto: *upto });
        }
        for (client_id, epoch) in &self.fences {
            let record = StateRecord::Fence { epoch: *epoch };
            records.insert(StateKey::Fence(client_id.clone()), record);
        }
        for (client_id, client) in &self.clients {
            let record = StateRecord::Session {
                epoch: client.epoch,
                holder: client.open,
                formers: client.formers.clone(),
                hosted: client.session.as_ref().map(NaiveSession::meta),
            };
            records.insert(StateKey::Session(client_id.clone()), record);
            let session = client.session.iter();
            records.extend(session.flat_map(|session| session.records(client_id)));
        }
        for (target, Target { given, items }) in &self.outbox {
            let next_number = given + 1;
            records.insert(
                StateKey::Outbox(*target),
                StateRecord::Outbox { next_number },
            );
            for (number, OutboxItem { publisher, .. }) in items {
                let publisher = publisher.clone();
                let record = StateRecord::OutboxItem { publisher, body: 0 };
                records.insert(StateKey::OutboxItem(*target, *number), record);
            }
        }
        records
    }

    /// Disconnected sessions that end by `now`.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<(ClientId, Epoch)> {
        let end = |client: &Client| client.session.as_ref().and_then(|session| session.ends_at);
        let due = self
            .clients
            .iter()
            .filter(|(_, client)| end(client).is_some_and(|end| end <= now));
        due.map(|(client_id, client)| (client_id.clone(), client.epoch))
            .collect()
    }

    pub(crate) fn taken(&self, source: ShardId) -> u64 {
        self.taken.get(&source).copied().unwrap_or(0)
    }

    pub(crate) fn outbox_bytes(&self) -> u64 {
        let items = self
            .outbox
            .values()
            .flat_map(|target| target.items.values());
        items.map(|item| item.body.message.size() as u64).sum()
    }
}
