//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A SUBACK leaves when the subscription is committed (or announced) and every node that may start
//! a PUBLISH has seen it (G5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::{
    Packet, PacketId, Qos, ReasonCode, RetainHandling, Suback, Subscribe, TopicFilter, Unsuback,
    Unsubscribe,
};
use raft_store::{Command, Response};
use session::{Input, Subscription};

use crate::acl::Grant;
use crate::clock;
use crate::connection::Connection;
use crate::count::{self, AclAction};
use crate::end::End;
use crate::reason;
use crate::retained::Wanted;
use crate::session_place::SessionPlace;
use crate::visibility::{AwaitingSeen, Change};

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
        /// Filters whose retained messages are to be read; `None`: no read was announced.
        wanted: Option<Vec<Wanted>>,
    },
    Unsubscribe {
        /// `None`: the broker ends the subscriptions itself.
        packet_id: Option<PacketId>,
        filters: Vec<TopicFilter>,
    },
}

/// Room for the subscriptions of one SUBSCRIBE.
struct Room {
    left: usize,
    /// Filters that the session has; looked up only where the room may not do.
    existing: Option<BTreeSet<TopicFilter>>,
}

impl Room {
    /// Whether one more fits. One that replaces another needs no room.
    fn takes(&mut self, filter: &TopicFilter) -> bool {
        let replaces = |existing: &BTreeSet<TopicFilter>| existing.contains(filter);
        if self.existing.as_ref().is_some_and(replaces) {
            return true;
        }
        let fits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        fits
    }
}

impl PendingSubscriptions {
    /// How many are under way.
    fn len(&self) -> usize {
        self.pending.len()
    }

    /// What is unsubscribed before its SUBACK is not read.
    fn read_nothing(&mut self, filter: &TopicFilter) {
        for pending in self.pending.values_mut() {
            if let Pending::Subscribe {
                wanted: Some(wanted),
                ..
            } = pending
            {
                wanted.retain(|wanted| wanted.filter() != filter);
            }
        }
    }

    /// Filters under way that were accepted.
    fn accepted(&self) -> usize {
        let accepted = |pending: &Pending| match pending {
            Pending::Subscribe { accepted, .. } => accepted.len(),
            Pending::Unsubscribe { .. } => 0,
        };
        self.pending.values().map(accepted).sum()
    }
}

impl Connection {
    /// As many SUBSCRIBEs are under way as one connection may have, their retained messages included.
    pub(crate) fn has_many_subscribes(&self) -> bool {
        self.subscriptions.len().saturating_add(self.retained.len()) >= PENDING_MAX
    }

    pub(crate) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut reason_codes = Vec::with_capacity(subscribe.subscriptions.len());
        let mut accepted = Vec::new();
        let mut room = self.room(subscribe.subscriptions.len());
        for wanted in subscribe.subscriptions {
            let reason_code = self.granted(&wanted, &mut room);
            reason_codes.push(reason_code);
            if !reason_code.is_error() {
                let mut options = wanted.options;
                options.qos = options.qos.min(self.broker.config.mqtt.max_qos);
                let subscription = Subscription {
                    options,
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
        let wanted = self.wanted(&accepted);
        if wanted.is_some() {
            self.retained.expect();
        }
        let reads_retained = wanted.is_some();
        let pending = Pending::Subscribe {
            packet_id,
            reason_codes,
            accepted: accepted.clone(),
            wanted,
        };
        self.subscriptions.pending.insert(tag, pending);
        match &self.place {
            SessionPlace::Hosted(_) => {
                let command = Command::Subscribe {
                    client_id: self.client.client_id.clone(),
                    epoch: self.client.epoch,
                    filters: accepted,
                    reads_retained,
                };
                self.command(self.client.shard, tag, &command);
            }
            SessionPlace::Transient(_) => self.subscribe_here(tag, accepted),
        }
        Ok(())
    }

    /// What is to be read of the retained messages, as far as the packet alone says.
    fn wanted(&self, accepted: &[(TopicFilter, Subscription)]) -> Option<Vec<Wanted>> {
        if !self.broker.config.mqtt.retain_available {
            return None;
        }
        let wanted = accepted
            .iter()
            .filter_map(|(filter, subscription)| Wanted::of(filter, subscription));
        Some(wanted.collect()).filter(|wanted: &Vec<Wanted>| !wanted.is_empty())
    }

    /// How many more subscriptions the session may have.
    fn room(&self, asked: usize) -> Room {
        let known = match &self.place {
            SessionPlace::Hosted(hosted) => hosted
                .subscriptions
                .saturating_add(self.subscriptions.accepted()),
            SessionPlace::Transient(session) => session.subscription_count(),
        };
        let max = self.broker.config.mqtt.subscriptions_max;
        let left = usize::try_from(max)
            .unwrap_or(usize::MAX)
            .saturating_sub(known);
        let registry = &self.life.registry;
        Room {
            left,
            existing: (asked > left).then(|| registry.filters(self.client.holder.connection)),
        }
    }

    /// The code for one filter [MQTT-3.9.3-1].
    fn granted(&mut self, wanted: &codec::Subscription, room: &mut Room) -> ReasonCode {
        let config = &self.broker.config.mqtt;
        if wanted.filter.is_shared() && !config.shared_subscriptions {
            return ReasonCode::SharedSubscriptionsNotSupported;
        }
        if wanted.filter.has_wildcards() && !config.wildcard_subscriptions {
            return ReasonCode::WildcardSubscriptionsNotSupported;
        }
        if !config.accepts_topic(wanted.filter.as_str()) {
            return ReasonCode::TopicFilterInvalid;
        }
        if !self.may_subscribe(&wanted.filter) {
            return ReasonCode::NotAuthorized;
        }
        let config = &self.broker.config.mqtt;
        if !room.takes(&wanted.filter) {
            return ReasonCode::QuotaExceeded;
        }
        // Never refused for its QoS [MQTT-3.2.2-10].
        match wanted.options.qos.min(config.max_qos) {
            Qos::AtMostOnce => ReasonCode::Success,
            Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        }
    }

    /// What the rules say; what they allow only in part is granted, and the rest held back.
    fn may_subscribe(&mut self, filter: &TopicFilter) -> bool {
        let rights = &self.client.rights;
        if !rights.are_limited() {
            return true;
        }
        let grant = rights.grant(filter);
        self.holds_back |= grant == Grant::InPart;
        count::acl_check(AclAction::Subscribe, grant != Grant::Denied)
    }

    /// A transient session's subscriptions live on this node, which announces them.
    fn subscribe_here(&mut self, tag: u64, accepted: Vec<(TopicFilter, Subscription)>) {
        let SessionPlace::Transient(session) = &mut self.place else {
            return;
        };
        let connection = self.client.holder.connection;
        let mut existed = Vec::with_capacity(accepted.len());
        // A filter that existed may still be on its way to the peers.
        let mut newest = self.life.newest_announcement();
        for (filter, subscription) in accepted {
            let replaced = self
                .life
                .registry
                .subscribe(connection, &filter, &subscription);
            if !replaced {
                newest = self.life.announce(&filter);
            }
            existed.push(replaced);
            let mut outputs = Vec::new();
            let input = Input::Subscribe {
                filter,
                subscription,
            };
            session.apply(clock::timestamp(), input, &mut outputs);
        }
        if let Some(Pending::Subscribe {
            accepted, wanted, ..
        }) = self.subscriptions.pending.get_mut(&tag)
        {
            keep_new(wanted, accepted, &existed);
            accepted.clear();
        }
        self.await_visible(tag, Change::Announcement(self.life.id, newest));
    }

    /// Takes the response to `Subscribe` or `Unsubscribe`, which took effect at `index`.
    pub(crate) fn on_subscription_answer(&mut self, tag: u64, index: u64, response: &Response) {
        let connection = self.client.holder.connection;
        let registry = &self.life.registry;
        match (self.subscriptions.pending.get_mut(&tag), response) {
            (
                Some(Pending::Subscribe {
                    accepted, wanted, ..
                }),
                Response::Subscribed { existed },
            ) => {
                keep_new(wanted, accepted, existed);
                let accepted = std::mem::take(accepted);
                for (filter, subscription) in &accepted {
                    registry.subscribe(connection, filter, subscription);
                }
                if let SessionPlace::Hosted(hosted) = &mut self.place {
                    let added = existed.iter().filter(|existed| !**existed).count();
                    hosted.subscriptions = hosted.subscriptions.saturating_add(added);
                }
                self.await_visible(tag, Change::Shard(self.client.shard, index));
                // The rules may have changed since they were accepted.
                self.recheck_subscriptions(accepted.iter().map(|(filter, _)| filter));
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
                if let SessionPlace::Hosted(hosted) = &mut self.place {
                    let removed = existed.iter().filter(|existed| **existed).count();
                    hosted.subscriptions = hosted.subscriptions.saturating_sub(removed);
                }
                if let Some(packet_id) = packet_id {
                    self.send_unsuback(packet_id, existed);
                }
            }
            _ => tracing::error!(tag, "an answer that nothing waits for"),
        }
    }

    fn await_visible(&self, tag: u64, change: Change) {
        let waiter = (Arc::clone(&self.mailbox), tag);
        AwaitingSeen::wait(&self.broker, &self.life, change, waiter);
    }

    /// The change is visible everywhere: SUBACK, then retained messages.
    pub(crate) fn on_visible(&mut self, tag: u64) {
        if let Some(Pending::Subscribe {
            packet_id,
            reason_codes,
            wanted,
            ..
        }) = self.subscriptions.pending.remove(&tag)
        {
            self.send_suback(packet_id, reason_codes);
            if let Some(wanted) = wanted {
                self.begin_retained_read(wanted);
            }
        }
    }

    pub(crate) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        let Unsubscribe {
            packet_id, filters, ..
        } = unsubscribe;
        self.unsubscribe(filters, Some(packet_id));
        Ok(())
    }

    /// Ends subscriptions although the client has not asked for it.
    pub(crate) fn end_subscriptions(&mut self, filters: Vec<TopicFilter>) {
        self.unsubscribe(filters, None);
    }

    fn unsubscribe(&mut self, filters: Vec<TopicFilter>, packet_id: Option<PacketId>) {
        for filter in &filters {
            self.retained.forget(filter);
            self.subscriptions.read_nothing(filter);
        }
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
                        self.life.retract(&filter);
                        let mut outputs = Vec::new();
                        let input = Input::Unsubscribe { filter };
                        session.apply(clock::timestamp(), input, &mut outputs);
                    }
                }
                if let Some(packet_id) = packet_id {
                    self.send_unsuback(packet_id, &existed);
                }
            }
        }
    }

    fn send_suback(&mut self, packet_id: PacketId, reason_codes: Vec<ReasonCode>) {
        let text = reason::of_subscribe(&reason_codes);
        let suback = Suback {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes,
        };
        let suback = Packet::Suback(suback);
        self.client.audience().tell(&mut self.wire, suback, &text);
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
        let unsuback = Packet::Unsuback(unsuback);
        self.client.audience().tell(&mut self.wire, unsuback, "");
    }
}

/// With Retain Handling 1 only a subscription that is new reads [MQTT-3.3.1-10].
fn keep_new(
    wanted: &mut Option<Vec<Wanted>>,
    accepted: &[(TopicFilter, Subscription)],
    existed: &[bool],
) {
    let Some(wanted) = wanted else { return };
    let old: BTreeSet<&TopicFilter> = accepted
        .iter()
        .zip(existed)
        .filter(|((_, subscription), existed)| {
            **existed && subscription.options.retain_handling == RetainHandling::SendIfNew
        })
        .map(|((filter, _), _)| filter)
        .collect();
    wanted.retain(|wanted| !old.contains(wanted.filter()));
}
