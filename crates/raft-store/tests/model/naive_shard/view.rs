//! What there is to see of a shard.

use codec::{ClientId, Qos, Timestamp};
use raft_store::{Epoch, OutboxTarget, RouteTarget, ShardId, StateKey, StateRecord, WaitingItem};
use session::StoredMessage;

use super::super::naive_session::{NaiveSession, has_passed};
use super::super::records::Substance;
use super::messages::stored;
use super::{Client, Life, NaiveShard, NaiveWill, Retained, Routes, Source, Target};

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
                let preferred = filter.is_shared() && client.open.is_some() && !at_most_once;
                let preferred = preferred.then_some(RouteTarget::ConnectedShard(self.shard));
                for target in durable.into_iter().chain(live).chain(preferred) {
                    *routes.entry((filter.clone(), target)).or_insert(0) += 1;
                }
            }
        }
        routes
    }

    /// What is to be stored, without counters, bodies by content.
    pub(crate) fn records(&self) -> Substance {
        let mut records = Substance::new();
        let mut insert = |key, record| {
            records.insert(key, (record, None));
        };
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
            insert(StateKey::Node(*node), record);
        }
        for (source, Source { upto, refused }) in &self.taken {
            if *upto > 0 {
                let (upto, refused) = (*upto, refused.clone());
                insert(
                    StateKey::Taken(*source),
                    StateRecord::Taken { upto, refused },
                );
            }
        }
        for (client_id, epoch) in &self.fences {
            let record = StateRecord::Fence { epoch: *epoch };
            insert(StateKey::Fence(client_id.clone()), record);
        }
        for (epoch, will) in &self.wills {
            let NaiveWill {
                client_id,
                will,
                due,
            } = will.clone();
            let record = StateRecord::Will {
                client_id,
                will,
                due,
            };
            insert(StateKey::Will(*epoch), record);
        }
        for (topic, retained) in &self.retained {
            let Retained {
                message,
                version,
                expires_at,
            } = retained.clone();
            let record = StateRecord::Retained {
                message,
                version,
                expires_at,
            };
            if !has_passed(expires_at, self.time) {
                insert(StateKey::Retained(topic.clone()), record);
            }
        }
        for (client_id, client) in &self.clients {
            records.extend(client_records(client_id, client));
        }
        for (target, lane) in &self.outbox {
            records.extend(lane_records(*target, lane));
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
        self.taken.get(&source).map_or(0, |source| source.upto)
    }

    pub(crate) fn refused(&self, source: ShardId) -> Vec<u64> {
        let source = self.taken.get(&source);
        source
            .map(|source| source.refused.clone())
            .unwrap_or_default()
    }

    pub(crate) fn outbox_bytes(&self) -> u64 {
        let items = self
            .outbox
            .values()
            .flat_map(|target| target.items.values());
        items.map(|item| u64::from(item.body.size_bytes())).sum()
    }
}

fn client_records(client_id: &ClientId, client: &Client) -> Substance {
    let record = StateRecord::Session {
        epoch: client.epoch,
        holder: client.open,
        formers: client.formers.clone(),
        hosted: client.session.as_ref().map(NaiveSession::meta),
        owner: client.owner.clone(),
    };
    let mut records = Substance::new();
    records.insert(StateKey::Session(client_id.clone()), (record, None));
    if let Some(session) = &client.session {
        records.extend(session.records(client_id));
    }
    if let Some(read) = &client.read {
        let wanted_from = read.wanted_from.clone().into_iter().collect();
        let open = read.open;
        let record = StateRecord::RetainedRead { open, wanted_from };
        records.insert(StateKey::RetainedRead(client_id.clone()), (record, None));
    }
    records
}

fn lane_records(target: OutboxTarget, Target { given, items }: &Target) -> Substance {
    let mut records = Substance::new();
    let next_number = given + 1;
    let record = StateRecord::Outbox { next_number };
    records.insert(StateKey::Outbox(target), (record, None));
    for (number, item) in items {
        let WaitingItem {
            publisher,
            body,
            share,
        } = item.clone();
        let body = StoredMessage::clone(&stored(&body));
        let record = StateRecord::OutboxItem {
            publisher,
            body: 0,
            share,
        };
        let key = StateKey::OutboxItem(target, *number);
        records.insert(key, (record, Some(body)));
    }
    records
}
