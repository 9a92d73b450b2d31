//! Random inputs against a naive model: equal outputs, equal contents, invariants after each step,
//! and a session that is rebuilt from its parts at random points goes on as if nothing happened.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test: a panic is its failure"
)]

#[path = "model/naive.rs"]
mod naive;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codec::{
    Message, MessageProperties, PacketId, Qos, ReasonCode, SubscriptionIdentifier,
    SubscriptionOptions, Timestamp, TopicFilter, TopicName,
};
use naive::{Model, Phase};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use session::{
    Body, Delivery, DeliveryPhase, DropCause, Input, Output, QueueOverflow, Session, SessionLimits,
    SessionParts, StoredMessage, Subscription,
};

/// One step of a run.
#[derive(Clone, Debug)]
enum Action {
    Apply(Input),
    Deliver(Box<Draft>),
    /// PUBACK, PUBREC or PUBCOMP for one of the ids in flight, or for any.
    Acknowledge(Acknowledgement, Choice),
    Wait(Duration),
    /// Store and load.
    Rebuild,
}

/// A delivery whose deadline counts from when it comes about.
#[derive(Clone, Debug)]
struct Draft {
    stored: StoredMessage,
    lifetime: Option<Duration>,
    /// The session gets a name alone.
    is_named: bool,
    qos: Qos,
    retain: bool,
    identifiers: u32,
    share: Option<Arc<TopicFilter>>,
}

impl Draft {
    fn delivery(self, now: Timestamp) -> Delivery {
        let mut stored = self.stored;
        stored.expires_at = self.lifetime.map(|lifetime| now.plus(lifetime));
        let body = if self.is_named {
            Body::Stored(stored.reference())
        } else {
            Body::Here(Arc::new(stored))
        };
        let identifiers = (1..=self.identifiers).filter_map(SubscriptionIdentifier::new);
        Delivery {
            body,
            qos: self.qos,
            retain: self.retain,
            identifiers: identifiers.collect(),
            share: self.share,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Acknowledgement {
    Puback,
    Pubrec(ReasonCode),
    Pubcomp,
}

#[derive(Clone, Debug)]
enum Choice {
    InFlight(prop::sample::Index),
    Any(PacketId),
}

/// Session and model side by side.
struct Run {
    session: Session,
    model: Model,
    now: Timestamp,
    /// Body → references that the owner has counted.
    references: BTreeMap<u64, u32>,
    /// How often each kind of output was seen.
    seen: BTreeMap<String, u32>,
}

impl Run {
    fn new(last_packet_id: u16) -> Self {
        let mut parts = Session::new().parts();
        parts.meta.last_packet_id = PacketId::new(last_packet_id);
        Self {
            session: Session::from_parts(parts).unwrap(),
            model: Model::new(last_packet_id),
            now: Timestamp::ZERO,
            references: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn step(&mut self, action: Action) -> Result<(), TestCaseError> {
        match action {
            Action::Apply(input) => self.apply(input)?,
            Action::Deliver(draft) => self.apply(Input::Deliver(draft.delivery(self.now)))?,
            Action::Acknowledge(acknowledgement, choice) => {
                let packet_id = match choice {
                    Choice::Any(packet_id) => packet_id,
                    Choice::InFlight(index) => {
                        let ids = self.model.ids_in_flight();
                        if ids.is_empty() {
                            return Ok(());
                        }
                        *index.get(&ids)
                    }
                };
                self.apply(match acknowledgement {
                    Acknowledgement::Puback => Input::Puback { packet_id },
                    Acknowledgement::Pubrec(reason_code) => Input::Pubrec {
                        packet_id,
                        reason_code,
                    },
                    Acknowledgement::Pubcomp => Input::Pubcomp { packet_id },
                })?;
            }
            Action::Wait(duration) => self.now = self.now.plus(duration),
            Action::Rebuild => {
                let parts = self.session.parts();
                self.session = Session::from_parts(parts.clone()).unwrap();
                prop_assert_eq!(self.session.parts(), parts);
                self.model.forget_contents();
            }
        }
        self.compare()
    }

    fn apply(&mut self, input: Input) -> Result<(), TestCaseError> {
        let expected = self.model.apply(self.now.as_millis(), input.clone());
        let before = self.session.parts();
        let mut out = Vec::new();
        self.session.apply(self.now, input.clone(), &mut out);
        prop_assert_eq!(&out, &expected, "after {:?}", input);
        self.count_references(&input, &out)?;
        self.nothing_expired_is_sent(&out)?;
        self.changed_positions_are_named(&before, &out)?;
        for output in &out {
            *self.seen.entry(kind(output)).or_default() += 1;
        }
        Ok(())
    }

    /// An owner that counts as the contract says has, for each body, the deliveries that have it.
    fn count_references(&mut self, input: &Input, out: &[Output]) -> Result<(), TestCaseError> {
        for output in out {
            match (input, output) {
                (
                    Input::Deliver(delivery),
                    Output::Queued { .. }
                    | Output::Send {
                        position: Some(_), ..
                    },
                ) => *self.references.entry(delivery.body.id()).or_default() += 1,
                (_, Output::Released { body }) => self.release(*body)?,
                (_, Output::Reassign { delivery, .. }) => self.release(delivery.body.id())?,
                _ => {}
            }
        }
        let mut held = BTreeMap::new();
        for delivery in self.session.parts().deliveries.values() {
            if let Some(body) = delivery.body {
                *held.entry(body.id).or_default() += 1;
            }
        }
        prop_assert_eq!(&held, &self.references);
        Ok(())
    }

    fn release(&mut self, body: u64) -> Result<(), TestCaseError> {
        let count = self.references.get_mut(&body);
        prop_assert!(count.is_some(), "body {} has no reference", body);
        *count.unwrap() -= 1;
        self.references.retain(|_, count| *count > 0);
        Ok(())
    }

    /// [MQTT-3.3.2-5]
    fn nothing_expired_is_sent(&self, out: &[Output]) -> Result<(), TestCaseError> {
        for output in out {
            if let Output::Send { delivery, .. } = output {
                prop_assert!(!delivery.body.is_expired(self.now));
            }
        }
        Ok(())
    }

    /// An owner that stores only what the outputs name misses no change.
    fn changed_positions_are_named(
        &self,
        before: &SessionParts,
        out: &[Output],
    ) -> Result<(), TestCaseError> {
        let after = self.session.parts();
        let positions = before.deliveries.keys().chain(after.deliveries.keys());
        for &position in positions {
            let new = after.deliveries.get(&position);
            let is_named = out
                .iter()
                .any(|output| position_of(output) == Some(position));
            prop_assert!(before.deliveries.get(&position) == new || is_named);
            let is_gone = out.iter().any(|output| match output {
                Output::Completed { position: gone } => *gone == position,
                Output::Reassign { position: gone, .. } => *gone == position,
                _ => false,
            });
            prop_assert_eq!(new.is_none(), is_gone);
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let (session, model) = (&self.session, &self.model);
        prop_assert_eq!(session.check_invariants(), Ok(()));
        prop_assert_eq!(session.resume(), model.resume());
        prop_assert_eq!(session.is_connected(), model.connected);
        prop_assert_eq!(
            session.next_deadline(),
            model.ends_at.map(Timestamp::from_millis)
        );
        prop_assert_eq!(session.queue_len(), model.queued().count());
        prop_assert_eq!(session.queue_bytes(), model.queued_bytes());
        prop_assert_eq!(session.inflight_len(), model.ids_in_flight().len());
        prop_assert_eq!(session.parts().deliveries.len(), model.items.len());
        for item in &model.items {
            let record = session.delivery_record(item.position).unwrap();
            let expected = match (item.phase, item.delivery.qos) {
                (Phase::Queued, _) => DeliveryPhase::Queued,
                (Phase::Sent(packet_id), Qos::AtLeastOnce) => {
                    DeliveryPhase::AwaitPuback { packet_id }
                }
                (Phase::Sent(packet_id), _) => DeliveryPhase::AwaitPubrec { packet_id },
                (Phase::Received(packet_id, pubrec_position), _) => DeliveryPhase::AwaitPubcomp {
                    packet_id,
                    pubrec_position,
                },
            };
            prop_assert_eq!(record.phase, expected);
            if !matches!(item.phase, Phase::Received(..)) {
                prop_assert_eq!(record.body, item.delivery.body.id());
                prop_assert_eq!(&record.identifiers, &item.delivery.identifiers);
                prop_assert_eq!(&record.share, &item.delivery.share);
            }
        }
        let mut ids = model.awaiting_pubrel.clone();
        ids.sort_unstable();
        prop_assert_eq!(session.awaiting_pubrel().collect::<Vec<_>>(), ids);
        prop_assert_eq!(session.subscription_count(), model.subscriptions.len());
        for (filter, subscription) in &model.subscriptions {
            prop_assert_eq!(session.subscription(filter), Some(subscription));
        }
        Ok(())
    }
}

fn position_of(output: &Output) -> Option<u64> {
    match output {
        Output::Send { position, .. } | Output::SendPubrel { position, .. } => *position,
        Output::Queued { position }
        | Output::Completed { position }
        | Output::Reassign { position, .. } => Some(*position),
        _ => None,
    }
}

fn kind(output: &Output) -> String {
    match output {
        Output::Send { position, .. } => format!("Send {}", position.is_some()),
        Output::SendPubrel { position, .. } => format!("SendPubrel {}", position.is_some()),
        Output::Queued { .. } => "Queued".to_owned(),
        Output::Completed { .. } => "Completed".to_owned(),
        Output::Released { .. } => "Released".to_owned(),
        Output::Reassign { delivery, .. } => format!("Reassign {:?}", delivery.qos),
        Output::Dropped { cause } => format!("{cause:?}"),
        other => format!("{other:?}"),
    }
}

fn packet_id(max: u16) -> impl Strategy<Value = PacketId> {
    (1..=max).prop_map(|value| PacketId::new(value).unwrap())
}

fn limits() -> impl Strategy<Value = SessionLimits> {
    let policies = vec![
        QueueOverflow::Reject,
        QueueOverflow::DropNewest,
        QueueOverflow::DropOldest,
        QueueOverflow::Disconnect,
    ];
    (0..6_u16, 1..4_u16, 0..5_u32, 0..60_u64, select(policies)).prop_map(
        |(inflight_max, receive_maximum, messages, bytes, queue_overflow)| SessionLimits {
            inflight_max,
            receive_maximum,
            queue_messages_max: messages,
            queue_bytes_max: bytes,
            queue_overflow,
        },
    )
}

fn message(payload: Vec<u8>, retain: bool) -> Message {
    Message {
        topic: TopicName::try_from("t").unwrap(),
        payload: Bytes::from(payload),
        qos: Qos::ExactlyOnce,
        retain,
        properties: MessageProperties::default(),
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let qos = select(&[
        Qos::AtMostOnce,
        Qos::AtLeastOnce,
        Qos::ExactlyOnce,
        Qos::ExactlyOnce,
    ]);
    let lifetime = prop_oneof![
        3 => Just(None),
        // 0 is no legal start for a delivery; the rest runs out while runs wait.
        1 => prop_oneof![1 => Just(0), 3 => 0..6_000_u64]
            .prop_map(|ms| Some(Duration::from_millis(ms))),
    ];
    let share = Arc::new(TopicFilter::try_from("$share/g/t").unwrap());
    let share = prop_oneof![2 => Just(None), 1 => Just(Some(share))];
    let body = (0..1000_u64, 0..30_usize, lifetime, any::<bool>());
    let copy = (qos, any::<bool>(), 0..3_u32, share);
    (body, copy).prop_map(
        |((id, length, lifetime, is_named), (qos, retain, identifiers, share))| Draft {
            stored: StoredMessage {
                id,
                message: message(vec![b'x'; length], retain),
                expires_at: None,
                retained_version: None,
            },
            lifetime,
            is_named,
            qos,
            retain,
            identifiers,
            share,
        },
    )
}

fn input() -> impl Strategy<Value = Input> {
    let interval = || select(&[0, 1, 5, 5, u32::MAX]);
    let filter = || select(&["a", "a/+", "#"]).prop_map(|f| TopicFilter::try_from(f).unwrap());
    let subscription = (0..3_u8, 0..3_u32).prop_map(|(qos, identifier)| Subscription {
        options: SubscriptionOptions::new(Qos::try_from(qos).unwrap()),
        identifier: SubscriptionIdentifier::new(identifier),
    });
    prop_oneof![
        4 => (1..6_u16, interval(), limits()).prop_map(
            |(receive_maximum, session_expiry_interval_s, limits)| Input::Connect {
                receive_maximum,
                session_expiry_interval_s,
                limits,
            }
        ),
        2 => prop::option::of(interval())
            .prop_map(|session_expiry_interval_s| Input::Disconnect { session_expiry_interval_s }),
        1 => (filter(), subscription)
            .prop_map(|(filter, subscription)| Input::Subscribe { filter, subscription }),
        1 => filter().prop_map(|filter| Input::Unsubscribe { filter }),
        3 => packet_id(8).prop_map(|packet_id| Input::ReceiveExactlyOnce { packet_id }),
        2 => packet_id(8).prop_map(|packet_id| Input::Pubrel { packet_id }),
        2 => Just(Input::Deadline),
        1 => Just(Input::End),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let reason = select(&[
        ReasonCode::Success,
        ReasonCode::NoMatchingSubscribers,
        ReasonCode::Success,
        ReasonCode::UnspecifiedError,
    ]);
    let acknowledgement = prop_oneof![
        Just(Acknowledgement::Puback),
        reason.prop_map(Acknowledgement::Pubrec),
        Just(Acknowledgement::Pubcomp),
    ];
    let choice = prop_oneof![
        6 => any::<prop::sample::Index>().prop_map(Choice::InFlight),
        1 => packet_id(12).prop_map(Choice::Any),
    ];
    prop_oneof![
        11 => input().prop_map(Action::Apply),
        9 => draft().prop_map(|draft| Action::Deliver(Box::new(draft))),
        12 => (acknowledgement, choice).prop_map(|(a, choice)| Action::Acknowledge(a, choice)),
        2 => (0..4_000_u64).prop_map(|ms| Action::Wait(Duration::from_millis(ms))),
        3 => Just(Action::Rebuild),
    ]
}

/// Where the packet ids begin: at 1, or just before the circle closes.
fn last_packet_id() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0_u16), 65_530..=65_535_u16]
}

// `PROPTEST_CASES=100000` makes it a night's work.
proptest! {
    #[test]
    fn a_session_does_what_the_model_does(
        last_packet_id in last_packet_id(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut run = Run::new(last_packet_id);
        for action in actions {
            run.step(action)?;
        }
    }

    /// Ids wrap while some stay in flight: 200 messages at a time around the circle.
    #[test]
    fn no_id_is_given_twice_while_it_is_in_flight(
        last_packet_id in last_packet_id(),
        kept in prop::collection::btree_set(0..40_usize, 1..30),
    ) {
        let mut run = Run::new(last_packet_id);
        let limits = SessionLimits::default();
        let session_expiry_interval_s = 60;
        run.apply(Input::Connect { receive_maximum: 40, session_expiry_interval_s, limits })?;
        for (turn, delivery) in (0..200_usize).map(|turn| (turn, sample(turn))) {
            run.apply(Input::Deliver(delivery))?;
            let ids = run.model.ids_in_flight();
            if !kept.contains(&turn) && let Some(&packet_id) = ids.last() {
                run.apply(Input::Puback { packet_id })?;
            }
        }
        run.compare()?;
    }
}

fn sample(turn: usize) -> Delivery {
    let stored = StoredMessage {
        id: turn as u64,
        message: message(Vec::new(), false),
        expires_at: None,
        retained_version: None,
    };
    Delivery {
        body: Body::Here(Arc::new(stored)),
        qos: Qos::AtLeastOnce,
        retain: false,
        identifiers: Vec::new(),
        share: None,
    }
}

/// The inputs are not so tame that an output is never reached.
#[test]
fn the_model_sees_every_output() {
    let mut seen = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    let actions = prop::collection::vec(action(), 100..120);
    for _ in 0..60 {
        let tree = actions.new_tree(&mut runner).unwrap();
        let mut run = Run::new(0);
        for action in tree.current() {
            run.step(action).unwrap();
        }
        for (kind, count) in run.seen {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    let success = ReasonCode::Success;
    let not_found = ReasonCode::PacketIdentifierNotFound;
    let mut expected = vec![
        "Send true".to_owned(),
        "Send false".to_owned(),
        "SendPubrel true".to_owned(),
        "SendPubrel false".to_owned(),
        "Queued".to_owned(),
        "Completed".to_owned(),
        "Released".to_owned(),
        "Reassign AtLeastOnce".to_owned(),
        "Reassign ExactlyOnce".to_owned(),
    ];
    for cause in [
        DropCause::QueueFullNewest,
        DropCause::QueueFullOldest,
        DropCause::Offline,
        DropCause::Expired,
        DropCause::SessionEnded,
    ] {
        expected.push(format!("{cause:?}"));
    }
    for output in [
        Output::Rejected,
        Output::DisconnectQueueFull,
        Output::Received { first: true },
        Output::Received { first: false },
        Output::ReceiveMaximumExceeded,
        Output::PubrelAnswered {
            reason_code: success,
        },
        Output::PubrelAnswered {
            reason_code: not_found,
        },
        Output::Subscribed { existed: true },
        Output::Subscribed { existed: false },
        Output::Unsubscribed { existed: true },
        Output::Unsubscribed { existed: false },
        Output::Ended,
    ] {
        expected.push(format!("{output:?}"));
    }
    for kind in expected {
        let count = seen.get(&kind).copied().unwrap_or(0);
        assert!(count >= 5, "{kind} was seen {count} times: {seen:?}");
    }
}
