//! What may happen, and how often.

use codec::{
    PacketId, Qos, ReasonCode, RetainHandling, SubscriptionIdentifier, SubscriptionOptions,
    TopicFilter,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use raft_store::{Acknowledgement, Ending, NodeId, RetainedLimits};
use session::{QueueOverflow, SessionLimits, Subscription};

/// The first three keep their sessions, the fourth never does, the last as it likes.
pub(crate) const CLIENTS: [&str; 5] = ["cara", "carl", "dora", "tess", "vera"];
/// How many of them keep their sessions.
pub(crate) const PERSISTENT: usize = 3;
pub(crate) const TRANSIENT: usize = 3;
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
pub(crate) const TOPICS: [&str; 3] = ["a", "a/b", "b"];
pub(crate) const FILTERS: [&str; 6] = ["a", "a/b", "a/+", "a/#", "#", "+"];
/// Each matches every topic that is published by its way.
pub(crate) const SHARES: [&str; 4] = ["$share/g/#", "$share/h/#", "$share/g/+/#", "$share/g/#"];

/// One of the connections.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) index: Index,
    pub(crate) among: Among,
}

/// Among which connections to pick one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// The newest of each client, if it is open and its node lives.
    Current,
    /// Those with something to say, taken over or not, on ended lives or not.
    Unclosed,
    /// All that ever were.
    All,
}

/// What a client says at CONNECT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) clean_start: bool,
    pub(crate) expiry_interval_s: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) limits: SessionLimits,
    pub(crate) will: Option<WillTerms>,
    /// A user who has shown a name, unlike most.
    pub(crate) has_name: bool,
}

/// A will.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WillTerms {
    pub(crate) delay_interval_s: u32,
    pub(crate) content: Content,
}

/// What a message is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) topic: usize,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) expiry_interval_s: Option<u32>,
}

/// Who is to get a message; sets of bits, and who takes it for each share.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    pub(crate) shards: u8,
    pub(crate) nodes: u8,
    pub(crate) shared: Vec<(usize, Place)>,
}

/// A place for a shared message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Shard(usize),
    Node(usize),
    Nowhere,
}

/// An acknowledgement of something in flight, or of anything.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    kind: Acknowledgement,
    in_flight: Option<Index>,
}

impl Choice {
    pub(crate) fn resolve(&self, ids: &[PacketId]) -> Acknowledgement {
        let id = |any| match &self.in_flight {
            Some(index) if !ids.is_empty() => ids[index.index(ids.len())],
            Some(_) | None => any,
        };
        match self.kind {
            Acknowledgement::Puback(any) => Acknowledgement::Puback(id(any)),
            Acknowledgement::Pubrec(any, code) => Acknowledgement::Pubrec(id(any), code),
            Acknowledgement::Pubcomp(any) => Acknowledgement::Pubcomp(id(any)),
        }
    }
}

/// One step of a run; numbers wrap around what there is.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Connect {
        client: usize,
        node: usize,
        old_life: bool,
        terms: Terms,
    },
    Disconnect {
        pick: Pick,
        interval_s: Option<u32>,
        ending: Ending,
    },
    Subscribe {
        pick: Pick,
        filters: Vec<(TopicFilter, Subscription)>,
        reads_retained: bool,
    },
    Unsubscribe {
        pick: Pick,
        filters: Vec<TopicFilter>,
    },
    /// `shards` is a set of bits.
    Publish {
        pick: Pick,
        content: Content,
        shards: u8,
    },
    /// A message for one member; `handed_on`: a node gives it to another one.
    PublishShared {
        pick: Pick,
        content: Content,
        share: usize,
        shard: usize,
        handed_on: bool,
    },
    ReceiveExactlyOnce {
        pick: Pick,
        packet_id: PacketId,
        content: Content,
        audience: Audience,
    },
    /// A retained publish: stored, and then sent to these shards.
    Retain {
        pick: Pick,
        content: Content,
        clears: bool,
        by_will: bool,
        limits: RetainedLimits,
        shards: u8,
    },
    /// A connection's node reads what is retained, for a filter.
    ReadRetained {
        pick: Pick,
        filter: usize,
        page: usize,
    },
    /// It hands some of what it read to the session.
    DeliverRetained {
        pick: Pick,
        count: usize,
        qos: Qos,
        last: bool,
    },
    /// The leader publishes the wills that are due, and others in vain.
    PublishWills {
        shard: usize,
        audience: Audience,
        all: bool,
    },
    Release {
        pick: Pick,
        packet_id: PacketId,
    },
    Acknowledge {
        pick: Pick,
        acknowledgements: Vec<Choice>,
    },
    EndFences {
        pick: Pick,
    },
    /// Items of an outbox reach their target, `skip` off from the first that it lacks.
    Take {
        source: usize,
        target: usize,
        skip: i8,
        count: usize,
    },
    /// `Taken` for each target.
    Trim {
        source: usize,
    },
    /// A node takes a shared item of its lane, or tries to.
    Claim {
        source: usize,
        item: Index,
    },
    /// An item without a place gets one.
    Place {
        source: usize,
        item: Index,
        to: Place,
    },
    NodeUp {
        node: usize,
    },
    NodeDown {
        life: Index,
        shard: usize,
    },
    Wait {
        ms: u64,
        behind_ms: u64,
    },
    Expire {
        shard: usize,
        all: bool,
    },
    /// An entry comes again.
    Again {
        shard: usize,
        entry: Index,
    },
    Garbage {
        shard: usize,
        bytes: Vec<u8>,
    },
    /// The second replica of a shard writes its tables.
    Save {
        shard: usize,
    },
    /// It starts from them.
    Restart {
        shard: usize,
    },
    /// A replica forgets the content of bodies that is on its disk.
    Evict {
        shard: usize,
        resident_bytes_max: u64,
    },
    /// A third replica gets no more entries, until it installs a snapshot.
    FallBehind {
        shard: usize,
    },
    Install {
        shard: usize,
    },
    Flush {
        stream: Index,
    },
    FlushAll,
}

fn pick() -> impl Strategy<Value = Pick> {
    let among = prop_oneof![
        7 => Just(Among::Current),
        2 => Just(Among::Unclosed),
        1 => Just(Among::All),
    ];
    (any::<Index>(), among).prop_map(|(index, among)| Pick { index, among })
}

fn limits() -> impl Strategy<Value = SessionLimits> {
    let overflow = select(vec![
        QueueOverflow::Reject,
        QueueOverflow::DropNewest,
        QueueOverflow::DropOldest,
        QueueOverflow::Disconnect,
    ]);
    let small = (
        1..4_u16,
        1..4_u16,
        0..5_u32,
        select(vec![2, 8, 1_000_u64]),
        overflow,
    )
        .prop_map(
            |(
                inflight_max,
                receive_maximum,
                queue_messages_max,
                queue_bytes_max,
                queue_overflow,
            )| {
                SessionLimits {
                    inflight_max,
                    receive_maximum,
                    queue_messages_max,
                    queue_bytes_max,
                    queue_overflow,
                }
            },
        );
    prop_oneof![2 => Just(SessionLimits::default()), 1 => small]
}

fn content() -> impl Strategy<Value = Content> {
    let expiry_interval_s = select(vec![
        None,
        None,
        None,
        None,
        Some(0),
        Some(1),
        Some(3),
        Some(40),
    ]);
    (0..TOPICS.len(), qos(), any::<bool>(), expiry_interval_s).prop_map(
        |(topic, qos, retain, expiry_interval_s)| Content {
            topic,
            qos,
            retain,
            expiry_interval_s,
        },
    )
}

fn will() -> impl Strategy<Value = Option<WillTerms>> {
    let delay_interval_s = select(vec![0, 0, 1, 40, u32::MAX]);
    let will = (delay_interval_s, content()).prop_map(|(delay_interval_s, content)| WillTerms {
        delay_interval_s,
        content,
    });
    prop::option::weighted(0.4, will)
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        5 => (0..3_usize).prop_map(Place::Shard),
        3 => (0..NODES.len()).prop_map(Place::Node),
        1 => Just(Place::Nowhere),
    ]
}

fn audience() -> impl Strategy<Value = Audience> {
    let shared = prop::collection::vec((0..SHARES.len(), place()), 0..3);
    (0..8_u8, 0..8_u8, shared).prop_map(|(shards, nodes, shared)| Audience {
        shards,
        nodes,
        shared,
    })
}

fn retained_limits() -> impl Strategy<Value = RetainedLimits> {
    let limits = |messages_max, bytes_max| RetainedLimits {
        messages_max,
        bytes_max,
    };
    prop_oneof![
        4 => Just(limits(1_000_000, 1_000_000)),
        1 => Just(limits(1, 1_000)),
        1 => Just(limits(10, 5)),
        1 => Just(limits(0, 0)),
    ]
}

fn terms(client: usize) -> impl Strategy<Value = Terms> {
    let kept = vec![2, 60, u32::MAX];
    let intervals = match client {
        0..PERSISTENT => kept,
        TRANSIENT => vec![0],
        _ => vec![0, 60, 0, u32::MAX],
    };
    let receive_maximum = select(vec![1, 2, 5, 65_535]);
    (
        prop::bool::weighted(0.1),
        select(intervals),
        receive_maximum,
        limits(),
        will(),
    )
        .prop_map(
            |(clean_start, expiry_interval_s, receive_maximum, limits, will)| Terms {
                clean_start,
                expiry_interval_s,
                receive_maximum,
                limits,
                will,
                // Now and then, without a random number of its own.
                has_name: receive_maximum == 5 && expiry_interval_s == 60,
            },
        )
}

fn connect() -> impl Strategy<Value = Action> {
    (0..CLIENTS.len(), 0..NODES.len(), prop::bool::weighted(0.1)).prop_flat_map(
        |(client, node, old_life)| {
            let action = move |terms| Action::Connect {
                client,
                node,
                old_life,
                terms,
            };
            terms(client).prop_map(action)
        },
    )
}

fn qos() -> impl Strategy<Value = Qos> {
    select(vec![
        Qos::AtMostOnce,
        Qos::AtLeastOnce,
        Qos::ExactlyOnce,
        Qos::ExactlyOnce,
    ])
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let texts = prop_oneof![3 => select(FILTERS.to_vec()), 2 => select(SHARES.to_vec())];
    texts.prop_map(|text| TopicFilter::try_from(text).unwrap())
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let rare = || prop::bool::weighted(0.25);
    (qos(), rare(), rare(), 0..4_u32).prop_map(
        |(qos, no_local, retain_as_published, identifier)| {
            let retain_handling = RetainHandling::Send;
            Subscription {
                options: SubscriptionOptions {
                    qos,
                    no_local,
                    retain_as_published,
                    retain_handling,
                },
                identifier: SubscriptionIdentifier::new(identifier),
            }
        },
    )
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..6_u16).prop_map(|id| PacketId::new(id).unwrap())
}

fn choice() -> impl Strategy<Value = Choice> {
    let codes = select(vec![
        ReasonCode::Success,
        ReasonCode::Success,
        ReasonCode::Success,
        ReasonCode::NoMatchingSubscribers,
        ReasonCode::UnspecifiedError,
    ]);
    let kind = prop_oneof![
        packet_id().prop_map(Acknowledgement::Puback),
        (packet_id(), codes).prop_map(|(id, code)| Acknowledgement::Pubrec(id, code)),
        packet_id().prop_map(Acknowledgement::Pubcomp),
    ];
    let in_flight = prop::option::weighted(0.9, any::<Index>());
    (kind, in_flight).prop_map(|(kind, in_flight)| Choice { kind, in_flight })
}

/// What connections say.
fn client_action() -> impl Strategy<Value = Action> {
    let interval_s = select(vec![None, None, Some(0), Some(2), Some(60), Some(u32::MAX)]);
    let ending = select(vec![Ending::Normal, Ending::Abnormal, Ending::Abnormal]);
    let acknowledgements = prop::collection::vec(choice(), 1..5);
    prop_oneof![
        5 => connect(),
        2 => (pick(), interval_s, ending)
            .prop_map(|(pick, interval_s, ending)| Action::Disconnect { pick, interval_s, ending }),
        8 => subscribe(),
        1 => (pick(), prop::collection::vec(filter(), 1..3))
            .prop_map(|(pick, filters)| Action::Unsubscribe { pick, filters }),
        4 => (pick(), packet_id()).prop_map(|(pick, packet_id)| Action::Release { pick, packet_id }),
        6 => (pick(), acknowledgements).prop_map(|(pick, acknowledgements)| {
            Action::Acknowledge { pick, acknowledgements }
        }),
        2 => pick().prop_map(|pick| Action::EndFences { pick }),
        24 => publish_action(),
    ]
}

fn subscribe() -> impl Strategy<Value = Action> {
    let filters = prop::collection::vec((filter(), subscription()), 1..4);
    (pick(), filters, prop::bool::weighted(0.7)).prop_map(|(pick, filters, reads_retained)| {
        Action::Subscribe {
            pick,
            filters,
            reads_retained,
        }
    })
}

/// What connections publish, and what of it is retained.
fn publish_action() -> impl Strategy<Value = Action> {
    let shards = || 0..8_u8;
    let rare = || prop::bool::weighted(0.25);
    let nearly_all = prop_oneof![3 => Just(7), 1 => shards()];
    let retain = (
        pick(),
        content(),
        rare(),
        rare(),
        retained_limits(),
        nearly_all,
    );
    prop_oneof![
        8 => (pick(), content(), shards())
            .prop_map(|(pick, content, shards)| Action::Publish { pick, content, shards }),
        5 => (pick(), content(), 0..SHARES.len(), 0..3_usize, rare()).prop_map(
            |(pick, content, share, shard, handed_on)| {
                Action::PublishShared { pick, content, share, shard, handed_on }
            }
        ),
        12 => (pick(), packet_id(), content(), audience()).prop_map(
            |(pick, packet_id, content, audience)| {
                Action::ReceiveExactlyOnce { pick, packet_id, content, audience }
            }
        ),
        6 => retain.prop_map(|(pick, content, clears, by_will, limits, shards)| {
            Action::Retain { pick, content, clears, by_will, limits, shards }
        }),
        3 => (pick(), 0..FILTERS.len(), 1..4_usize)
            .prop_map(|(pick, filter, page)| Action::ReadRetained { pick, filter, page }),
        6 => (pick(), 0..4_usize, qos(), prop::bool::weighted(0.3)).prop_map(|(pick, count, qos, last)| {
            Action::DeliverRetained { pick, count, qos, last }
        }),
    ]
}

/// What nodes, leaders and the network do.
fn cluster_action() -> impl Strategy<Value = Action> {
    let shard = || 0..3_usize;
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        6 => (shard(), shard(), select(vec![0, 0, 0, -1, -2, 1]), 1..4_usize)
            .prop_map(|(source, target, skip, count)| Action::Take { source, target, skip, count }),
        3 => shard().prop_map(|source| Action::Trim { source }),
        3 => (shard(), any::<Index>()).prop_map(|(source, item)| Action::Claim { source, item }),
        6 => (shard(), any::<Index>(), place())
            .prop_map(|(source, item, to)| Action::Place { source, item, to }),
        4 => (shard(), audience(), prop::bool::weighted(0.2))
            .prop_map(|(shard, audience, all)| Action::PublishWills { shard, audience, all }),
        1 => (0..NODES.len()).prop_map(|node| Action::NodeUp { node }),
        1 => (any::<Index>(), shard()).prop_map(|(life, shard)| Action::NodeDown { life, shard }),
        3 => (select(vec![0, 500, 2_000, 30_000]), select(vec![0, 0, 700]))
            .prop_map(|(ms, behind_ms)| Action::Wait { ms, behind_ms }),
        3 => (shard(), any::<bool>()).prop_map(|(shard, all)| Action::Expire { shard, all }),
        4 => (shard(), any::<Index>()).prop_map(|(shard, entry)| Action::Again { shard, entry }),
        1 => (shard(), bytes).prop_map(|(shard, bytes)| Action::Garbage { shard, bytes }),
        3 => shard().prop_map(|shard| Action::Save { shard }),
        3 => shard().prop_map(|shard| Action::Restart { shard }),
        5 => (shard(), select(vec![0, 0, 20, 1_000])).prop_map(|(shard, resident_bytes_max)| {
            Action::Evict { shard, resident_bytes_max }
        }),
        2 => shard().prop_map(|shard| Action::FallBehind { shard }),
        3 => shard().prop_map(|shard| Action::Install { shard }),
        8 => any::<Index>().prop_map(|stream| Action::Flush { stream }),
        8 => Just(Action::FlushAll),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![5 => client_action(), 4 => cluster_action()]
}

/// A run: some clients are there and subscribed when it begins.
pub(crate) fn actions(max: usize) -> impl Strategy<Value = Vec<Action>> {
    let connects = prop::collection::vec(connect(), 0..7);
    let subscribes = prop::collection::vec(subscribe(), 0..7);
    let run = prop::collection::vec(action(), 1..max);
    (connects, subscribes, run).prop_map(|(connects, subscribes, run)| {
        let flush = vec![Action::FlushAll];
        [connects, subscribes, flush, run].concat()
    })
}
