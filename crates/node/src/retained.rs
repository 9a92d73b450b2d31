//! Retained messages for a new subscription (section 3.3.1.3).
//!
//! They are read after the subscription is visible everywhere, from this node's replica once it has
//! answered a barrier: whatever was stored before the SUBACK is found. What was stored after the
//! barrier comes live and is not read, or it would come twice. From a little before, live copies of
//! retained messages arrive as well. The reader notes their versions and drops a retained copy that is
//! no newer: a new subscriber never ends on a stale value. Copies at
//! QoS 1 and 2 of a hosted session go through its shard, which notes what it delivered itself.
//!
//! A read goes on page by page as the client takes what it is sent (G9).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use codec::{Qos, RetainHandling, SubscriptionIdentifier, TopicFilter, TopicName};
use raft_store::{Command, RetainedCopy, ShardId};
use session::{Body, Delivery, Input, StoredMessage, Subscription, effective_qos};

use crate::clock;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::session_place::SessionPlace;

/// Messages read at once.
const PAGE_MESSAGES_MAX: usize = 64;
/// Bytes read at once, at most this plus one message.
const PAGE_BYTES_MAX: u64 = 64 * 1024;
/// Pages read before others have their turn.
const PAGES_AT_ONCE_MAX: usize = 8;
/// Live versions noted before those are forgotten that this node's replicas have as well.
const NOTED_MAX: usize = 1024;

/// One filter whose retained messages are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    filter: TopicFilter,
    granted: Qos,
    identifier: Option<SubscriptionIdentifier>,
}

/// The reads of one connection, one after the other.
#[derive(Debug, Default)]
pub(crate) struct RetainedReads {
    reads: VecDeque<Read>,
    /// SUBSCRIBEs that will read, from before their subscription can match.
    expected: usize,
    /// Newest version of each retained message that came live meanwhile.
    noted: BTreeMap<TopicName, u64>,
    /// How many may be noted before this node's replicas are asked; doubled where that did not help.
    noted_max: usize,
    /// Others have their turn before the read goes on.
    paused: bool,
}

/// One read: what one SUBSCRIBE asked for.
#[derive(Debug)]
struct Read {
    tag: u64,
    filters: VecDeque<Wanted>,
    /// Barriers that are not answered, by their names.
    barriers: BTreeMap<u64, ShardId>,
    /// Of each shard, the newest version that is read.
    newest: BTreeMap<ShardId, u64>,
    /// Where the first filter's next page begins.
    cursor: Option<Cursor>,
    /// A page is on its way to the session's shard.
    delivering: bool,
    /// The session's shard takes notes until it hears of the end.
    noted_by_shard: bool,
}

#[derive(Debug)]
struct Cursor {
    shard: ShardId,
    after: Option<TopicName>,
}

impl Wanted {
    /// What a SUBSCRIBE wants to read of one filter before it is known whether it existed; `None`:
    /// nothing in either case.
    pub(crate) fn of(filter: &TopicFilter, subscription: &Subscription) -> Option<Self> {
        let reads = match subscription.options.retain_handling {
            RetainHandling::Send | RetainHandling::SendIfNew => !filter.is_shared(),
            RetainHandling::DoNotSend => false,
        };
        reads.then(|| Self {
            filter: filter.clone(),
            granted: subscription.options.qos,
            identifier: subscription.identifier,
        })
    }

    /// The filter.
    pub(crate) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    fn is_for_one_topic(&self) -> Option<TopicName> {
        TopicName::try_from(self.filter.as_str()).ok()
    }
}

impl RetainedReads {
    /// SUBSCRIBEs that have not read everything.
    pub(crate) fn len(&self) -> usize {
        self.reads.len().max(self.expected)
    }

    /// A read goes on as soon as others had their turn.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// A SUBSCRIBE will read: what comes live from now on is noted.
    pub(crate) fn expect(&mut self) {
        self.expected = self.expected.saturating_add(1);
    }

    /// That SUBSCRIBE has read everything, or reads nothing after all.
    fn done(&mut self) {
        self.expected = self.expected.saturating_sub(1);
        if self.expected == 0 {
            self.noted = BTreeMap::new();
            self.noted_max = 0;
        }
    }

    /// A barrier was answered: its shard had this version. False: no read waits for one of this name.
    pub(crate) fn barrier_answered(&mut self, tag: u64, version: u64) -> bool {
        for read in &mut self.reads {
            if let Some(shard) = read.barriers.remove(&tag) {
                read.newest.insert(shard, version);
                return true;
            }
        }
        false
    }

    /// Nothing more is read for a filter.
    pub(crate) fn forget(&mut self, filter: &TopicFilter) {
        for read in &mut self.reads {
            if read
                .filters
                .front()
                .is_some_and(|first| first.filter == *filter)
            {
                read.cursor = None;
            }
            read.filters.retain(|wanted| wanted.filter != *filter);
        }
    }

    fn is_stale(&self, topic: &TopicName, version: u64) -> bool {
        self.noted.get(topic).is_some_and(|noted| *noted >= version)
    }
}

impl Connection {
    /// A live copy passes: a retained one of the same or an older version is not sent after it.
    pub(crate) fn note_version(&mut self, stored: &StoredMessage) {
        let (true, Some(version)) = (self.retained.expected > 0, stored.retained_version) else {
            return;
        };
        if self.retained.noted.len() >= self.retained.noted_max.max(NOTED_MAX) {
            self.forget_known_versions();
        }
        let noted = &mut self.retained.noted;
        match noted.get_mut(&stored.message.topic) {
            Some(noted) => *noted = (*noted).max(version),
            None => {
                noted.insert(stored.message.topic.detached(), version);
            }
        }
    }

    /// What this node's replica has stored is not read in an older version any more.
    fn forget_known_versions(&mut self) {
        let broker = Arc::clone(&self.broker);
        let newest = |shard: &raft_store::Shard| {
            shard.with_machine(raft_store::Machine::newest_retained_version)
        };
        let known: BTreeMap<ShardId, u64> = broker
            .shards
            .iter()
            .map(|shard| (shard.id(), newest(shard)))
            .collect();
        let retained = &mut self.retained;
        retained.noted.retain(|topic, version| {
            let shard = broker.shard_of_topic(topic);
            known.get(&shard).is_none_or(|known| known < version)
        });
        retained.noted_max = retained.noted.len().saturating_mul(2);
    }

    /// The subscription is visible and its SUBACK sent: the read begins with a barrier in each shard
    /// that may have a message.
    pub(crate) fn begin_retained_read(&mut self, wanted: Vec<Wanted>) {
        let hosted = matches!(self.place, SessionPlace::Hosted(_));
        if wanted.is_empty() && !hosted {
            self.retained.done();
            return;
        }
        let tag = self.tag();
        let mut shards: Vec<ShardId> = Vec::new();
        for wanted in &wanted {
            match wanted.is_for_one_topic() {
                Some(topic) => shards.push(self.broker.shard_of_topic(&topic)),
                None => shards.extend(self.life.shards()),
            }
        }
        shards.sort_unstable();
        shards.dedup();
        let barriers: BTreeMap<u64, ShardId> = shards
            .into_iter()
            .map(|shard| (self.tag(), shard))
            .collect();
        self.retained.reads.push_back(Read {
            tag,
            filters: wanted.into(),
            barriers: barriers.clone(),
            newest: BTreeMap::new(),
            cursor: None,
            delivering: false,
            noted_by_shard: hosted,
        });
        for (barrier, shard) in barriers {
            self.command(shard, barrier, &Command::Barrier);
        }
    }

    /// The session's shard has taken a page.
    pub(crate) fn on_retained_delivered(&mut self, tag: u64, dropped: u32) {
        for _ in 0..dropped {
            count::dropped("queue_full");
        }
        let read = self.retained.reads.iter_mut().find(|read| read.tag == tag);
        if let Some(read) = read {
            read.delivering = false;
        }
    }

    /// Reads on as far as the client takes what it is sent.
    pub(crate) fn read_retained(&mut self) -> Result<(), End> {
        self.retained.paused = false;
        for page in 0.. {
            if !self.takes_retained() {
                return Ok(());
            }
            if page >= PAGES_AT_ONCE_MAX {
                self.retained.paused = true;
                return Ok(());
            }
            let Some(read) = self.retained.reads.front_mut() else {
                return Ok(());
            };
            let tag = read.tag;
            let Some(wanted) = read.filters.front().cloned() else {
                self.end_retained_read();
                continue;
            };
            let one_topic = wanted.is_for_one_topic();
            let first_shard = one_topic
                .as_ref()
                .map_or(ShardId::ZERO, |topic| self.broker.shard_of_topic(topic));
            let cursor = read.cursor.take().unwrap_or(Cursor {
                shard: first_shard,
                after: None,
            });
            let newest = read.newest.get(&cursor.shard).copied().unwrap_or(0);
            let (page, continue_after) = self.read_page(&wanted, &cursor, newest);
            let next = match continue_after {
                Some(after) => Some(Cursor {
                    shard: cursor.shard,
                    after: Some(after),
                }),
                None if one_topic.is_some() => None,
                None => self.next_shard(cursor.shard),
            };
            if let Some(read) = self.retained.reads.front_mut() {
                if next.is_none() {
                    read.filters.pop_front();
                }
                read.cursor = next;
            }
            self.send_page(tag, page)?;
        }
        Ok(())
    }

    fn next_shard(&self, shard: ShardId) -> Option<Cursor> {
        let shard = self.life.shards().find(|next| *next > shard)?;
        Some(Cursor { shard, after: None })
    }

    /// The next page may be read: its barriers are answered, and the client has taken what came
    /// before.
    fn takes_retained(&self) -> bool {
        let Some(read) = self.retained.reads.front() else {
            return false;
        };
        let ready = read.barriers.is_empty() && !read.delivering;
        ready && self.has_room_for_output() && self.broker.lease.is_held() && self.is_queue_empty()
    }

    fn is_queue_empty(&self) -> bool {
        match &self.place {
            SessionPlace::Transient(session) => session.queue_len() == 0,
            SessionPlace::Hosted(_) => {
                let shard = self.broker.shards.shard(self.client.shard);
                let client_id = &self.client.client_id;
                shard.is_none_or(|shard| {
                    shard.with_machine(|machine| machine.queue_len(client_id)) == 0
                })
            }
        }
    }

    /// One page of one filter, from this node's replica, and where the next one begins. Versions after
    /// the newest come live.
    fn read_page(
        &self,
        wanted: &Wanted,
        cursor: &Cursor,
        newest: u64,
    ) -> (Vec<RetainedCopy>, Option<TopicName>) {
        let Some(shard) = self.broker.shards.shard(cursor.shard) else {
            return (Vec::new(), None);
        };
        let limits = self.broker.limits();
        let messages_max = usize::try_from(limits.queue_max_messages).unwrap_or(usize::MAX);
        let messages_max = messages_max.min(PAGE_MESSAGES_MAX);
        let bytes_max = limits.queue_max_bytes.min(PAGE_BYTES_MAX);
        let after = cursor.after.as_ref();
        let page = shard.with_machine(|machine| {
            machine.retained(&wanted.filter, after, messages_max, bytes_max)
        });
        let now = shard.leader_time();
        let copy = |stored: Arc<StoredMessage>| RetainedCopy {
            message: stored.message.clone(),
            version: stored.retained_version.unwrap_or(0),
            qos: effective_qos(stored.message.qos, wanted.granted),
            identifier: wanted.identifier,
            expires_in_ms: stored
                .expires_at
                .map(|at| at.as_millis().saturating_sub(now.as_millis())),
        };
        let copies = page.messages.into_iter().map(copy);
        let copies = copies.filter(|copy| copy.version <= newest).collect();
        (copies, page.continue_after)
    }

    /// To the client at once, or through the session's shard.
    fn send_page(&mut self, tag: u64, page: Vec<RetainedCopy>) -> Result<(), End> {
        let mut through_shard = Vec::new();
        for copy in page {
            if self.retained.is_stale(&copy.message.topic, copy.version) {
                continue;
            }
            if !self.may_receive(&copy.message.topic) {
                count::dropped("acl");
                continue;
            }
            let hosted = matches!(self.place, SessionPlace::Hosted(_));
            if hosted && copy.qos != Qos::AtMostOnce {
                through_shard.push(copy);
            } else {
                self.send_retained(copy)?;
            }
        }
        if !through_shard.is_empty() {
            if let Some(read) = self.retained.reads.front_mut() {
                read.delivering = true;
            }
            self.deliver_retained(tag, through_shard, false);
        }
        Ok(())
    }

    fn send_retained(&mut self, copy: RetainedCopy) -> Result<(), End> {
        let stored = StoredMessage {
            id: 0,
            message: copy.message,
            expires_at: copy.expires_in_ms.map(clock::in_millis),
            retained_version: Some(copy.version),
        };
        let delivery = Delivery {
            body: Body::Here(Arc::new(stored)),
            qos: copy.qos,
            // Whatever Retain As Published says [MQTT-3.3.1-8 of 3.1.1, section 3.3.1.3].
            retain: true,
            identifiers: copy.identifier.into_iter().collect(),
            share: None,
        };
        match &mut self.place {
            SessionPlace::Hosted(_) => {
                self.send_at_most_once(&delivery);
                Ok(())
            }
            SessionPlace::Transient(session) => {
                let mut outputs = Vec::new();
                session.apply(clock::timestamp(), Input::Deliver(delivery), &mut outputs);
                self.carry_out(outputs)
            }
        }
    }

    /// Everything was read.
    fn end_retained_read(&mut self) {
        let Some(read) = self.retained.reads.pop_front() else {
            return;
        };
        if read.noted_by_shard {
            self.deliver_retained(read.tag, Vec::new(), true);
        }
        self.retained.done();
    }

    fn deliver_retained(&mut self, tag: u64, copies: Vec<RetainedCopy>, last: bool) {
        let command = Command::DeliverRetained {
            client_id: self.client.client_id.clone(),
            epoch: self.client.epoch,
            copies,
            last,
        };
        self.command(self.client.shard, tag, &command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::try_from(text).unwrap()
    }

    fn wanted(text: &str) -> Wanted {
        Wanted {
            filter: TopicFilter::try_from(text).unwrap(),
            granted: Qos::AtLeastOnce,
            identifier: None,
        }
    }

    fn read(tag: u64, filters: &[&str], barriers: &[u64]) -> Read {
        Read {
            tag,
            filters: filters.iter().map(|text| wanted(text)).collect(),
            barriers: barriers.iter().map(|tag| (*tag, ShardId(0))).collect(),
            newest: BTreeMap::new(),
            cursor: None,
            delivering: false,
            noted_by_shard: false,
        }
    }

    #[test]
    fn what_came_live_is_not_sent_again_in_the_same_or_an_older_version() {
        let mut reads = RetainedReads::default();
        reads.expect();
        reads.noted.insert(topic("a"), 7);
        assert!(reads.is_stale(&topic("a"), 6) && reads.is_stale(&topic("a"), 7));
        assert!(!reads.is_stale(&topic("a"), 8) && !reads.is_stale(&topic("b"), 1));
        reads.expect();
        reads.done();
        assert!(reads.is_stale(&topic("a"), 7), "another read is under way");
        reads.done();
        assert!(!reads.is_stale(&topic("a"), 7));
    }

    #[test]
    fn a_read_begins_when_every_barrier_is_answered() {
        let mut reads = RetainedReads::default();
        reads.reads.push_back(read(5, &["#"], &[6, 7]));
        assert!(!reads.barrier_answered(5, 0));
        assert!(reads.barrier_answered(7, 3));
        assert!(!reads.reads[0].barriers.is_empty());
        assert!(reads.barrier_answered(6, 9));
        assert!(reads.reads[0].barriers.is_empty());
        assert_eq!(reads.reads[0].newest[&ShardId(0)], 9);
        assert!(!reads.barrier_answered(6, 9));
    }

    #[test]
    fn what_is_unsubscribed_is_not_read_on() {
        let mut reads = RetainedReads::default();
        let mut begun = read(1, &["a/+", "b"], &[]);
        begun.cursor = Some(Cursor {
            shard: ShardId(2),
            after: Some(topic("a/b")),
        });
        reads.reads.extend([begun, read(2, &["a/+"], &[])]);
        reads.forget(wanted("a/+").filter());
        let left: Vec<usize> = reads.reads.iter().map(|read| read.filters.len()).collect();
        assert_eq!(left, [1, 0]);
        assert!(reads.reads.iter().all(|read| read.cursor.is_none()));
    }

    #[test]
    fn a_filter_without_wildcard_is_for_one_topic() {
        assert_eq!(wanted("a/b").is_for_one_topic(), Some(topic("a/b")));
        assert!(wanted("a/+").is_for_one_topic().is_none());
        assert!(wanted("#").is_for_one_topic().is_none());
    }
}
