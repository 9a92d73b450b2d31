//! What may happen, and how often.

use codec::{
    PacketId, Qos, ReasonCode, RetainHandling, SubscriptionIdentifier, SubscriptionOptions,
    TopicFilter,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use raft_store::{Acknowledgement, NodeId};
use session::{QueueOverflow, SessionLimits, Subscription};

/// The first three keep their sessions, the fourth never does, the last as it likes.
pub(crate) const CLIENTS: [&str; 5] = ["cara", "carl", "dora", "tess", "vera"];
/// How many of them keep their sessions.
pub(crate) const PERSISTENT: usize = 3;
pub(crate) const TRANSIENT: usize = 3;
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
pub(crate) const TOPICS: [&str; 3] = ["a", "a/b", "b"];
const FILTERS: [&str; 6] = ["a", "a/b", "a/+", "a/#", "#", "+"];

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
    },
    Subscribe {
        pick: Pick,
        filters: Vec<(TopicFilter, Subscription)>,
    },
    Unsubscribe {
        pick: Pick,
        filters: Vec<TopicFilter>,
    },
    /// `shards` and `nodes` are sets of bits.
    Publish {
        pick: Pick,
        topic: usize,
        qos: Qos,
        retain: bool,
        shards: u8,
    },
    ReceiveExactlyOnce {
        pick: Pick,
        packet_id: PacketId,
        topic: usize,
        retain: bool,
        shards: u8,
        nodes: u8,
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
    )
        .prop_map(
            |(clean_start, expiry_interval_s, receive_maximum, limits)| Terms {
                clean_start,
                expiry_interval_s,
                receive_maximum,
                limits,
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
    select(FILTERS.to_vec()).prop_map(|text| TopicFilter::try_from(text).unwrap())
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
    let shards = || 0..8_u8;
    let interval_s = select(vec![None, None, Some(0), Some(2), Some(60), Some(u32::MAX)]);
    let acknowledgements = prop::collection::vec(choice(), 1..5);
    prop_oneof![
        7 => connect(),
        2 => (pick(), interval_s)
            .prop_map(|(pick, interval_s)| Action::Disconnect { pick, interval_s }),
        8 => (pick(), prop::collection::vec((filter(), subscription()), 1..4))
            .prop_map(|(pick, filters)| Action::Subscribe { pick, filters }),
        1 => (pick(), prop::collection::vec(filter(), 1..3))
            .prop_map(|(pick, filters)| Action::Unsubscribe { pick, filters }),
        8 => (pick(), 0..TOPICS.len(), qos(), any::<bool>(), shards())
            .prop_map(|(pick, topic, qos, retain, shards)| {
                Action::Publish { pick, topic, qos, retain, shards }
            }),
        10 => (pick(), packet_id(), 0..TOPICS.len(), any::<bool>(), shards(), 0..8_u8)
            .prop_map(|(pick, packet_id, topic, retain, shards, nodes)| {
                Action::ReceiveExactlyOnce { pick, packet_id, topic, retain, shards, nodes }
            }),
        4 => (pick(), packet_id()).prop_map(|(pick, packet_id)| Action::Release { pick, packet_id }),
        6 => (pick(), acknowledgements).prop_map(|(pick, acknowledgements)| {
            Action::Acknowledge { pick, acknowledgements }
        }),
        2 => pick().prop_map(|pick| Action::EndFences { pick }),
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
        1 => (0..NODES.len()).prop_map(|node| Action::NodeUp { node }),
        1 => (any::<Index>(), shard()).prop_map(|(life, shard)| Action::NodeDown { life, shard }),
        3 => (select(vec![0, 500, 2_000, 30_000]), select(vec![0, 0, 700]))
            .prop_map(|(ms, behind_ms)| Action::Wait { ms, behind_ms }),
        3 => (shard(), any::<bool>()).prop_map(|(shard, all)| Action::Expire { shard, all }),
        4 => (shard(), any::<Index>()).prop_map(|(shard, entry)| Action::Again { shard, entry }),
        1 => (shard(), bytes).prop_map(|(shard, bytes)| Action::Garbage { shard, bytes }),
        3 => shard().prop_map(|shard| Action::Save { shard }),
        3 => shard().prop_map(|shard| Action::Restart { shard }),
        8 => any::<Index>().prop_map(|stream| Action::Flush { stream }),
        8 => Just(Action::FlushAll),
    ]
}

pub(crate) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![3 => client_action(), 2 => cluster_action()]
}
