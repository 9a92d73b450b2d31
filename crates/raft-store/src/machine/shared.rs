//! PURE. Shared subscriptions: which sessions of this shard are members, and who gets the next message
//! (section 4.8.2).
//!
//! The publishing node picks the place; this picks the member: a connected one before an offline
//! one, by turns, and the next one if a queue is full. The turn is replicated, so every replica picks
//! the same member. Members granted QoS 0 are not listed: they take part on the live plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::{ClientId, Message, Qos, TopicFilter};
use session::{Body, BodyRef, Delivery, DropCause, effective_qos};

use super::Machine;
use super::publish::Offered;
use crate::command::{Effect, Refusal, Response};
use crate::ids::Epoch;

/// Members asked in vain before a message counts as refused; bounds the work of one message.
const ASKED_MAX: usize = 32;

/// The members of all shared subscriptions in this shard. Derived from the sessions.
#[derive(Debug, Default)]
pub(super) struct SharedMembers {
    groups: BTreeMap<TopicFilter, Group>,
}

/// The members of one; both lists are sorted.
#[derive(Debug, Default)]
struct Group {
    connected: Vec<ClientId>,
    offline: Vec<ClientId>,
}

/// A message for one member of a shared subscription.
pub(super) struct SharedCopy<'a> {
    pub(super) share: &'a Arc<TopicFilter>,
    pub(super) body: BodyRef,
    /// The QoS it was published with.
    pub(super) qos: Qos,
    /// The RETAIN flag it was published with.
    pub(super) retain: bool,
}

/// What became of a shared message.
pub(super) enum SharedReach {
    /// There is no member here.
    NoMember,
    /// One member has it, or it had expired.
    Delivered,
    /// No queue had room.
    Full,
}

impl Group {
    fn list(&mut self, connected: bool) -> &mut Vec<ClientId> {
        if connected {
            &mut self.connected
        } else {
            &mut self.offline
        }
    }
}

impl SharedMembers {
    /// A session is a member, or its state changed.
    pub(super) fn set(&mut self, filter: &TopicFilter, member: &ClientId, connected: bool) {
        if !self.groups.contains_key(filter) {
            self.groups.insert(filter.detached(), Group::default());
        }
        let Some(group) = self.groups.get_mut(filter) else {
            return;
        };
        if let Ok(at) = group.list(!connected).binary_search(member) {
            group.list(!connected).remove(at);
        }
        let list = group.list(connected);
        if let Err(at) = list.binary_search(member) {
            list.insert(at, member.clone());
        }
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, member: &ClientId) {
        let Some(group) = self.groups.get_mut(filter) else {
            return;
        };
        for connected in [true, false] {
            let list = group.list(connected);
            if let Ok(at) = list.binary_search(member) {
                list.remove(at);
            }
        }
        if group.connected.is_empty() && group.offline.is_empty() {
            self.groups.remove(filter);
        }
    }

    /// Memberships, over all groups.
    pub(super) fn len(&self) -> usize {
        let groups = self.groups.values();
        groups
            .map(|group| group.connected.len().saturating_add(group.offline.len()))
            .sum()
    }

    pub(super) fn has_members(&self, filter: &TopicFilter) -> bool {
        self.groups.contains_key(filter)
    }

    /// Whom to ask at this turn after so many others.
    fn candidate(&self, filter: &TopicFilter, turn: u64, asked: usize) -> Option<&ClientId> {
        let group = self.groups.get(filter)?;
        let (list, place) = match asked.checked_sub(group.connected.len()) {
            None => (&group.connected, asked),
            Some(place) => (&group.offline, place),
        };
        if place >= list.len() {
            return None;
        }
        let at = start(list.len(), turn).saturating_add(place);
        list.get(at.checked_rem(list.len())?)
    }
}

/// Where to begin in a list of `count`. The turn is scattered: one counter serves all groups, and two
/// groups that get messages alternately must not always begin at the same member.
fn start(count: usize, turn: u64) -> usize {
    let mut scattered = turn.wrapping_add(0x9E37_79B9_7F4A_7C15);
    scattered = (scattered ^ (scattered >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    scattered = (scattered ^ (scattered >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    scattered ^= scattered >> 31;
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let start = scattered.checked_rem(count).unwrap_or(0);
    usize::try_from(start).unwrap_or(0)
}

impl Machine {
    /// A message for one member here; the publisher's node waits for the answer.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn publish_shared(
        &mut self,
        client_id: &ClientId,
        epoch: Option<Epoch>,
        filter: TopicFilter,
        message: &Message,
        expires_in_ms: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        if epoch.is_some_and(|epoch| self.is_stale_publisher(client_id, epoch)) {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let none = Response::Published {
            matched: 0,
            rejected: false,
        };
        if message.qos == Qos::AtMostOnce || !self.shared.has_members(&filter) {
            return none;
        }
        let expires_at = match expires_in_ms {
            None => self.expiry_of(message),
            left_ms => self.expiry_in(left_ms),
        };
        let body = self.begin_body(message, expires_at, None);
        let copy = SharedCopy {
            share: &Arc::new(filter),
            body: body.reference,
            qos: message.qos,
            retain: message.retain,
        };
        let reach = self.deliver_shared(&copy, effects);
        self.finish_body(&body);
        match reach {
            SharedReach::NoMember => none,
            SharedReach::Delivered => Response::Published {
                matched: 1,
                rejected: false,
            },
            SharedReach::Full => Response::Published {
                matched: 1,
                rejected: true,
            },
        }
    }

    /// To one member here. False: there is none. Where no queue has room the message is lost and
    /// counted, as nobody can be told.
    pub(super) fn deliver_shared_or_drop(
        &mut self,
        copy: &SharedCopy<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        match self.deliver_shared(copy, effects) {
            SharedReach::NoMember => return false,
            SharedReach::Delivered => {}
            SharedReach::Full => {
                let cause = DropCause::QueueFullNewest;
                effects.push(Effect::Dropped { cause });
            }
        }
        true
    }

    fn deliver_shared(&mut self, copy: &SharedCopy<'_>, effects: &mut Vec<Effect>) -> SharedReach {
        let turn = self.next_turn;
        self.next_turn = turn.wrapping_add(1);
        let mut reach = SharedReach::NoMember;
        for asked in 0..ASKED_MAX {
            let Some(member) = self.shared.candidate(copy.share, turn, asked) else {
                break;
            };
            let member = member.clone();
            let Some(delivery) = self.shared_delivery(&member, copy) else {
                continue;
            };
            match self.offer(&member, delivery, true, effects) {
                Offered::NoSession => {}
                Offered::Taken | Offered::Dropped => return SharedReach::Delivered,
                Offered::Full => reach = SharedReach::Full,
            }
        }
        reach
    }

    /// The copy for a member: only its own identifier [MQTT-3.3.4-3], its own granted QoS
    /// [MQTT-4.8.2-3]. `None`: it takes no part on the durable plane.
    fn shared_delivery(&self, member: &ClientId, copy: &SharedCopy<'_>) -> Option<Delivery> {
        let subscription = self.session(member)?.subscription(copy.share)?;
        let qos = effective_qos(copy.qos, subscription.options.qos);
        (qos != Qos::AtMostOnce).then(|| Delivery {
            body: Body::Stored(copy.body),
            qos,
            retain: subscription.options.retain_as_published && copy.retain,
            identifiers: subscription.identifier.into_iter().collect(),
            share: Some(Arc::clone(copy.share)),
        })
    }
}
