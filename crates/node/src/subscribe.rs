//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A SUBACK leaves when the subscription is committed (or announced) and every node that may start
//! a PUBLISH has seen it (G5).

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::{
    Packet, PacketId, Qos, ReasonCode, Suback, Subscribe, TopicFilter, Unsuback, Unsubscribe,
};
use raft_store::{Command, Response};
use session::{Input, Subscription};

use crate::clock;
use crate::connection::Connection;
use crate::end::End;
use crate::session_place::SessionPlace;
use crate::visibility::Change;

/// SUBSCRIBEs and UNSUBSCRIBEs under way at once; then the connection is not read.
const PENDING_MAX: usize = 64;

/// What waits for a SUBACK or UNSUBACK, by tag.
#[derive(Debug, Default)]
pub(crate) struct PendingSubscriptions {
    pending: BTreeMap<u64, Pending>,
}

#[derive(Debug)]
enum Pending {
    Subscribe {
        packet_id: PacketId,
        reason_codes: Vec<ReasonCode>,
        /// Accepted and not yet in this node's live table.
        accepted: Vec<(TopicFilter, Subscription)>,
    },
    Unsubscribe {
        packet_id: PacketId,
        filters: Vec<TopicFilter>,
    },
}

impl PendingSubscriptions {
    /// As many are under way as one connection may have.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }
}

impl Connection {
    pub(crate) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut reason_codes = Vec::with_capacity(subscribe.subscriptions.len());
        let mut accepted = Vec::new();
        for wanted in subscribe.subscriptions {
            reason_codes.push(granted(&wanted));
            if !wanted.filter.is_shared() {
                let subscription = Subscription {
                    options: wanted.options,
                    identifier: subscribe.subscription_identifier,
                };
                accepted.push((wanted.filter.detached(), subscription));
            }
        }
        let tag = self.tag();
        let packet_id = subscribe.packet_id;
        if accepted.is_empty() {
            self.send_suback(packet_id, reason_codes);
            return Ok(());
        }
        let pending = Pending::Subscribe {
            packet_id,
            reason_codes,
            accepted: accepted.clone(),
        };
        self.subscriptions.pending.insert(tag, pending);
        match &self.place {
            SessionPlace::Hosted(_) => {
                let command = Command::Subscribe {
                    client_id: self.client.client_id.clone(),
                    epoch: self.client.epoch,
                    filters: accepted,
                };
                self.command(self.client.shard, tag, &command);
            }
            SessionPlace::Transient(_) => self.subscribe_here(tag, accepted),
        }
        Ok(())
    }

    /// A transient session's subscriptions live on this node, which announces them.
    fn subscribe_here(&mut self, tag: u64, accepted: Vec<(TopicFilter, Subscription)>) {
        let SessionPlace::Transient(session) = &mut self.place else {
            return;
        };
        let connection = self.client.holder.connection;
        // A filter that existed may still be on its way to the peers.
        let mut newest = self.life.newest_announcement();
        for (filter, subscription) in accepted {
            let existed = self
                .life
                .registry
                .subscribe(connection, &filter, &subscription);
            if !existed {
                newest = self.life.announce(&self.broker.dispatch.routes, &filter);
            }
            let mut outputs = Vec::new();
            let input = Input::Subscribe {
                filter,
                subscription,
            };
            session.apply(clock::timestamp(), input, &mut outputs);
        }
        self.await_visible(tag, Change::Announcement(self.life.id, newest));
    }

    /// Takes the response to `Subscribe` or `Unsubscribe`, which took effect at `index`.
    pub(crate) fn on_subscription_answer(&mut self, tag: u64, index: u64, response: &Response) {
        let connection = self.client.holder.connection;
        let registry = &self.life.registry;
        match (self.subscriptions.pending.get_mut(&tag), response) {
            (Some(Pending::Subscribe { accepted, .. }), Response::Subscribed { .. }) => {
                for (filter, subscription) in std::mem::take(accepted) {
                    registry.subscribe(connection, &filter, &subscription);
                }
                self.await_visible(tag, Change::Shard(self.client.shard, index));
            }
            (Some(Pending::Unsubscribe { .. }), Response::Unsubscribed { existed }) => {
                let Some(Pending::Unsubscribe { packet_id, filters }) =
                    self.subscriptions.pending.remove(&tag)
                else {
                    return;
                };
                for filter in &filters {
                    registry.unsubscribe(connection, filter);
                }
                self.send_unsuback(packet_id, existed);
            }
            _ => tracing::error!(tag, "an answer that nothing waits for"),
        }
    }

    fn await_visible(&self, tag: u64, change: Change) {
        let visibility = Arc::clone(&self.broker.visibility);
        let broker = Arc::clone(&self.broker);
        let mailbox = Arc::clone(&self.mailbox);
        let ended = self.life.ended.clone();
        self.life.tasks.spawn(async move {
            let seen = visibility.announce_when_seen(broker, change, (mailbox, tag));
            ended.run_until_cancelled(seen).await;
        });
    }

    /// The change is visible everywhere: SUBACK.
    pub(crate) fn on_visible(&mut self, tag: u64) {
        if let Some(Pending::Subscribe {
            packet_id,
            reason_codes,
            ..
        }) = self.subscriptions.pending.remove(&tag)
        {
            self.send_suback(packet_id, reason_codes);
        }
    }

    pub(crate) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        let Unsubscribe {
            packet_id, filters, ..
        } = unsubscribe;
        match &mut self.place {
            SessionPlace::Hosted(_) => {
                let tag = self.tag();
                let command = Command::Unsubscribe {
                    client_id: self.client.client_id.clone(),
                    epoch: self.client.epoch,
                    filters: filters.clone(),
                };
                self.subscriptions
                    .pending
                    .insert(tag, Pending::Unsubscribe { packet_id, filters });
                self.command(self.client.shard, tag, &command);
            }
            SessionPlace::Transient(session) => {
                let mut existed = Vec::with_capacity(filters.len());
                for filter in filters {
                    let here = session.subscription(&filter).is_some();
                    existed.push(here);
                    if here {
                        let connection = self.client.holder.connection;
                        self.life.registry.unsubscribe(connection, &filter);
                        self.life.retract(&self.broker.dispatch.routes, &filter);
                        let mut outputs = Vec::new();
                        let input = Input::Unsubscribe { filter };
                        session.apply(clock::timestamp(), input, &mut outputs);
                    }
                }
                self.send_unsuback(packet_id, &existed);
            }
        }
        Ok(())
    }

    fn send_suback(&mut self, packet_id: PacketId, reason_codes: Vec<ReasonCode>) {
        let suback = Suback {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes,
        };
        self.wire.send(&Packet::Suback(suback), self.client.version);
    }

    fn send_unsuback(&mut self, packet_id: PacketId, existed: &[bool]) {
        let code = |existed: &bool| match existed {
            true => ReasonCode::Success,
            false => ReasonCode::NoSubscriptionExisted,
        };
        let unsuback = Unsuback {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: existed.iter().map(code).collect(),
        };
        self.wire
            .send(&Packet::Unsuback(unsuback), self.client.version);
    }
}

/// The code for one filter [MQTT-3.9.3-1].
fn granted(wanted: &codec::Subscription) -> ReasonCode {
    if wanted.filter.is_shared() {
        return ReasonCode::SharedSubscriptionsNotSupported;
    }
    match wanted.options.qos {
        Qos::AtMostOnce => ReasonCode::Success,
        Qos::AtLeastOnce => ReasonCode::GrantedQos1,
        Qos::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}
