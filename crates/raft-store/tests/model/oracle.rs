//! What holds from outside, whatever the model says: each message once, in order; a shared one to one
//! member; each will once; no outbox item lost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, TopicFilter, TopicName};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{Epoch, OutboxTarget, ShardId, WaitingItem};
use session::{Body, BodyRef, Delivery};

use super::action::{Content, TOPICS};

/// Messages that keep an order: those of one publisher on one topic at one QoS (G4).
type Publications = (ClientId, String, Qos);
/// A message's place in that order: what an older connection still had to say comes first.
type Place = (Epoch, usize);
/// An outbox item without its content.
type Item = (ClientId, BodyRef, Option<TopicFilter>);

/// By which way a message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Live copies, and copies that are read for new subscriptions.
    Retained,
    Will,
    /// A shared message that a node gave back.
    HandedOn,
}

struct Published {
    publications: Publications,
    epoch: Epoch,
    kind: Kind,
}

#[derive(Default)]
pub(crate) struct Oracle {
    published: Vec<Published>,
    /// Who was sent what: receiver and number.
    sent: BTreeSet<(ClientId, usize)>,
    /// Which QoS 2 message was sent to a member of which share, or claimed by a node.
    shared: BTreeSet<(TopicFilter, usize)>,
    wills: BTreeSet<usize>,
    last: BTreeMap<(ClientId, Publications), Place>,
    /// What was ever in an outbox for another shard: number → message.
    owed: BTreeMap<(ShardId, ShardId), BTreeMap<u64, Item>>,
    taken: BTreeMap<(ShardId, ShardId), u64>,
}

/// The number of a message; `None`: one that clears what is retained.
fn number(message: &Message) -> Option<usize> {
    let text = std::str::from_utf8(&message.payload).unwrap();
    (!text.is_empty()).then(|| text.parse().unwrap())
}

impl Oracle {
    /// A client publishes; the message's payload is its number.
    pub(crate) fn message(
        &mut self,
        (publisher, epoch): (&ClientId, Epoch),
        content: Content,
        kind: Kind,
    ) -> Message {
        let topic = TOPICS[content.topic];
        let publications = (publisher.clone(), topic.to_owned(), content.qos);
        self.published.push(Published {
            publications,
            epoch,
            kind,
        });
        let number = self.published.len() - 1;
        Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload: Bytes::from(number.to_string()),
            qos: content.qos,
            retain: content.retain,
            properties: MessageProperties {
                message_expiry_interval: content.expiry_interval_s,
                ..MessageProperties::default()
            },
        }
    }

    /// A message goes to a client for the first time.
    pub(crate) fn sent(&mut self, receiver: &ClientId, delivery: &Delivery) -> TestCaseResult {
        let Body::Here(stored) = &delivery.body else {
            return Err(TestCaseError::fail("sent without content"));
        };
        let Some(number) = number(&stored.message) else {
            return Ok(());
        };
        if let Some(share) = &delivery.share {
            // At QoS 1 it goes to another member when the first one's session ends.
            return match delivery.qos {
                Qos::ExactlyOnce => self.shared_once(share, number),
                Qos::AtMostOnce | Qos::AtLeastOnce => Ok(()),
            };
        }
        let Published {
            publications,
            epoch,
            kind,
        } = &self.published[number];
        let may_be_read = delivery.retain && stored.retained_version.is_some();
        if *kind == Kind::Retained || may_be_read {
            return Ok(());
        }
        let is_first = self.sent.insert((receiver.clone(), number));
        prop_assert!(is_first, "{receiver} is sent {number} twice");
        // A publisher that switches between session kinds uses two ways, which G4 says nothing about.
        let two_ways = publications.0.as_str() == "vera" && publications.2 == Qos::ExactlyOnce;
        if *kind == Kind::Will || two_ways {
            return Ok(());
        }
        let place = (*epoch, number);
        let last = self
            .last
            .insert((receiver.clone(), publications.clone()), place);
        prop_assert!(
            last.is_none_or(|last| last < place),
            "{receiver} is sent {place:?} after {last:?} of {publications:?}"
        );
        Ok(())
    }

    fn shared_once(&mut self, share: &TopicFilter, number: usize) -> TestCaseResult {
        let is_first = self.shared.insert((share.clone(), number));
        prop_assert!(is_first, "two members of {share} get {number}");
        Ok(())
    }

    /// A node takes a shared message to one of its members.
    pub(crate) fn claimed(&mut self, share: &TopicFilter, message: &Message) -> TestCaseResult {
        match (message.qos, number(message)) {
            (Qos::ExactlyOnce, Some(number)) => self.shared_once(share, number),
            (_, _) => Ok(()),
        }
    }

    pub(crate) fn will_published(&mut self, message: &Message) -> TestCaseResult {
        let number = number(message).unwrap();
        prop_assert_eq!(self.published[number].kind, Kind::Will);
        prop_assert!(
            self.wills.insert(number),
            "will {number} is published twice"
        );
        Ok(())
    }

    /// What waits in a shard's outbox after an entry.
    pub(crate) fn waiting(
        &mut self,
        source: ShardId,
        target: OutboxTarget,
        items: impl IntoIterator<Item = (u64, WaitingItem)>,
    ) -> TestCaseResult {
        let OutboxTarget::Shard(target) = target else {
            return Ok(());
        };
        let owed = self.owed.entry((source, target)).or_default();
        for (number, item) in items {
            let item = (item.publisher, item.body.reference(), item.share);
            let known = owed.entry(number).or_insert_with(|| item.clone());
            prop_assert_eq!(&*known, &item, "item {} of {}", number, source);
        }
        Ok(())
    }

    /// A shard has taken another one's items up to a number.
    pub(crate) fn taken(&mut self, source: ShardId, target: ShardId, upto: u64) -> TestCaseResult {
        let taken = self.taken.entry((source, target)).or_insert(0);
        prop_assert!(
            *taken <= upto,
            "{target} forgets what it took from {source}"
        );
        *taken = upto;
        Ok(())
    }

    /// At the end: items were numbered without gaps, and all are taken.
    pub(crate) fn check_taken(&self) -> TestCaseResult {
        for (stream, owed) in &self.owed {
            let upto = self.taken.get(stream).copied().unwrap_or(0);
            prop_assert!(
                owed.keys().copied().eq(1..=upto),
                "{stream:?}: {upto} of {owed:?}"
            );
        }
        Ok(())
    }
}
