//! One member gets a shared message, wherever members and nodes go at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use session::{QueueOverflow, StoredMessage};

use super::*;
use crate::command::{OutboxItem, RouteTarget};
use crate::machine::BodyLookup;

const SHARE: &str = "$share/g/t";
const NODE: OutboxTarget = OutboxTarget::Node(NodeId(2), Incarnation(1));

fn publish_shared(tested: &mut Tested, filter: &str, qos: Qos) -> (Response, Vec<Effect>) {
    tested.apply(&Command::PublishShared {
        client_id: client("p"),
        epoch: Some(Epoch(1)),
        filter: self::filter(filter),
        message: message("t", "x", qos),
        expires_in_ms: None,
    })
}

fn published(matched: u32, rejected: bool) -> Response {
    Response::Published { matched, rejected }
}

/// Who has how much in flight or queued.
fn shares(machine: &Machine, members: &[&str]) -> Vec<usize> {
    let count = |member: &&str| {
        machine
            .session(&client(member))
            .unwrap()
            .parts()
            .deliveries
            .len()
    };
    members.iter().map(count).collect()
}

/// A QoS 2 message for the group, with its place picked.
fn receive(tested: &mut Tested, epoch: Epoch, packet_id: u16, place: OutboxTarget) {
    let answer = tested.answer(&Command::ReceiveExactlyOnce {
        client_id: client("p"),
        epoch,
        packet_id: id(packet_id),
        message: message("t", "x", Qos::ExactlyOnce),
        shards: vec![],
        nodes: vec![],
        retained_version: None,
        shared: vec![(filter(SHARE), place)],
    });
    assert_eq!(answer, Response::Received { first: true });
}

fn numbers(tested: &Tested, target: OutboxTarget) -> Vec<u64> {
    let items = tested.waiting(target).into_iter();
    items.map(|(number, _)| number).collect()
}

fn claimed(claimed: bool) -> Response {
    Response::Claimed { claimed }
}

#[test]
fn connected_members_come_first_and_only_members_come_at_all() {
    let mut tested = Tested::new();
    assert_eq!(
        publish_shared(&mut tested, SHARE, Qos::AtLeastOnce).0,
        published(0, false)
    );
    let on = tested.connect("on");
    tested.subscribe("on", on, SHARE, Qos::AtLeastOnce);
    let off = tested.connect("off");
    tested.subscribe("off", off, SHARE, Qos::AtLeastOnce);
    tested.disconnect("off", off, Ending::Abnormal);
    for _ in 0..5 {
        assert_eq!(
            publish_shared(&mut tested, SHARE, Qos::AtLeastOnce).0,
            published(1, false)
        );
    }
    assert_eq!(shares(&tested.machine, &["on", "off"]), [5, 0]);
    tested.disconnect("on", on, Ending::Abnormal);
    for _ in 0..40 {
        publish_shared(&mut tested, SHARE, Qos::AtLeastOnce);
    }
    let [on, off] = shares(&tested.machine, &["on", "off"])[..] else {
        panic!("two members");
    };
    assert!(on + off == 45 && on > 15 && off > 10, "{on} {off}");
    // An ordinary message is not for them.
    let effects = tested.publish(message("t", "y", Qos::AtLeastOnce), None);
    assert_eq!(effects, []);
    assert_eq!(
        publish_shared(&mut tested, "$share/other/t", Qos::AtLeastOnce).0,
        published(0, false)
    );
}

/// One turn counter serves all groups: messages that alternate between two groups must still reach
/// every member of both.
#[test]
fn two_groups_do_not_get_in_step() {
    let mut tested = Tested::new();
    for member in ["a", "b"] {
        let epoch = tested.connect(member);
        tested.subscribe(member, epoch, SHARE, Qos::AtLeastOnce);
        tested.subscribe(member, epoch, "$share/h/t", Qos::ExactlyOnce);
    }
    let mut per_group = BTreeMap::new();
    for _ in 0..50 {
        for share in [SHARE, "$share/h/t"] {
            publish_shared(&mut tested, share, Qos::AtLeastOnce);
        }
    }
    for member in ["a", "b"] {
        let parts = tested.machine.session(&client(member)).unwrap().parts();
        for delivery in parts.deliveries.into_values() {
            let share = delivery.record.share.unwrap();
            *per_group
                .entry((member, share.as_str().to_owned()))
                .or_insert(0) += 1;
        }
    }
    assert_eq!(per_group.len(), 4);
    assert!(per_group.values().all(|count| *count > 10), "{per_group:?}");
}

#[test]
fn a_full_member_is_passed_by_and_full_members_refuse() {
    let mut tested = Tested::new();
    for (member, policy) in [
        ("a", QueueOverflow::Reject),
        ("b", QueueOverflow::DropNewest),
    ] {
        let (epoch, _) = tested.connect_with(|connect| {
            connect.client_id = client(member);
            connect.receive_maximum = 1;
            connect.limits.queue_messages_max = 1;
            connect.limits.queue_overflow = policy;
        });
        tested.subscribe(member, epoch, SHARE, Qos::AtLeastOnce);
    }
    for _ in 0..4 {
        assert_eq!(
            publish_shared(&mut tested, SHARE, Qos::AtLeastOnce).0,
            published(1, false)
        );
    }
    assert_eq!(shares(&tested.machine, &["a", "b"]), [2, 2]);
    let (answer, effects) = publish_shared(&mut tested, SHARE, Qos::AtLeastOnce);
    assert_eq!((answer, effects), (published(1, true), vec![]));
}

#[test]
fn an_item_without_a_member_waits_for_another_place() {
    let mut tested = Tested::new();
    let publisher = tested.connect("p");
    receive(&mut tested, publisher, 1, OutboxTarget::Shard(SHARD));
    receive(&mut tested, publisher, 2, OutboxTarget::Shard(OTHER));
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [1]);
    assert_eq!(numbers(&tested, OutboxTarget::Shard(OTHER)), [1]);

    // Refused there, and said twice.
    let taken = Command::Taken {
        target: OutboxTarget::Shard(OTHER),
        upto: 1,
        refused: vec![1],
    };
    tested.apply(&taken);
    tested.apply(&taken);
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [1, 2]);
    assert_eq!(tested.machine.outbox_settled(OutboxTarget::Shard(OTHER)), 1);

    let place = |number, to| Command::Place { number, to };
    // Nobody here, nowhere, and a life that is over: it stays.
    let (node, incarnation) = (NodeId(3), Incarnation(9));
    tested.apply(&Command::NodeDown { node, incarnation });
    for to in [
        OutboxTarget::Shard(SHARD),
        OutboxTarget::Unplaced,
        OutboxTarget::Node(node, incarnation),
    ] {
        assert_eq!(tested.answer(&place(1, Some(to))), claimed(false));
    }
    tested.machine = tested.reload();
    // A number is never given twice: a late repeat moves nothing else.
    let to_other = place(1, Some(OutboxTarget::Shard(OTHER)));
    assert_eq!(tested.answer(&to_other), claimed(true));
    assert_eq!(tested.answer(&to_other), claimed(false));
    assert_eq!(numbers(&tested, OutboxTarget::Shard(OTHER)), [2]);

    let member = tested.connect("m");
    tested.subscribe("m", member, SHARE, Qos::ExactlyOnce);
    assert_eq!(
        tested.answer(&place(2, Some(OutboxTarget::Shard(SHARD)))),
        claimed(true)
    );
    assert_eq!(shares(&tested.machine, &["m"]), [1]);
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [0; 0]);
}

#[test]
fn an_item_that_nobody_wants_any_more_is_dropped_and_counted() {
    let mut tested = Tested::new();
    let publisher = tested.connect("p");
    receive(&mut tested, publisher, 1, OutboxTarget::Unplaced);
    let (answer, effects) = tested.apply(&Command::Place {
        number: 1,
        to: None,
    });
    assert_eq!(answer, claimed(true));
    let cause = session::DropCause::NoMember;
    assert_eq!(effects, [Effect::Dropped { cause }]);
    assert_eq!(tested.machine.outbox_bytes(), 0);
    assert_eq!(tested.machine.body(1), BodyLookup::Gone);
}

#[test]
fn a_node_claims_before_it_delivers_and_what_it_did_not_claim_survives_it() {
    let mut tested = Tested::new();
    let publisher = tested.connect("p");
    for packet_id in [1, 2, 3] {
        receive(&mut tested, publisher, packet_id, NODE);
    }
    let taken = |upto, refused| Command::Taken {
        target: NODE,
        upto,
        refused,
    };
    tested.apply(&taken(3, vec![]));
    assert_eq!(numbers(&tested, NODE), [1, 2, 3]);
    let claim = |number| Command::Claim {
        target: NODE,
        number,
    };
    assert_eq!(tested.answer(&claim(2)), claimed(true));
    assert_eq!(tested.answer(&claim(2)), claimed(false));
    assert_eq!(tested.machine.body(2), BodyLookup::Gone);
    tested.apply(&taken(3, vec![3]));
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [1]);
    let (node, incarnation) = (NodeId(2), Incarnation(1));
    tested.apply(&Command::NodeDown { node, incarnation });
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [1, 2]);
    assert_eq!(tested.answer(&claim(1)), claimed(false));
    for body in [1, 3] {
        assert!(matches!(tested.machine.body(body), BodyLookup::Here(_)));
    }
    receive(&mut tested, publisher, 4, NODE);
    assert_eq!(numbers(&tested, OutboxTarget::Unplaced), [1, 2, 3]);
}

fn item(qos: Qos) -> OutboxItem {
    OutboxItem {
        publisher: client("p"),
        body: Arc::new(StoredMessage {
            id: 9,
            message: message("t", "x", qos),
            expires_at: None,
            retained_version: None,
        }),
        expires_in_ms: None,
        share: Some(filter(SHARE)),
    }
}

/// A new leader of the source may offer what was refused: it is refused again, although there is a
/// member now, until the source has recorded the refusal. Otherwise two would get it.
#[test]
fn a_refusal_is_remembered_until_it_is_settled() {
    let mut tested = Tested::new();
    let take = |settled, first, count| Command::TakeOutbox {
        source: OTHER,
        settled,
        first,
        items: vec![item(Qos::ExactlyOnce); count],
    };
    let took = |refused: &[u64]| Response::TookOutbox {
        refused: refused.to_vec(),
    };
    assert_eq!(tested.answer(&take(0, 1, 2)), took(&[1, 2]));
    let member = tested.connect("m");
    tested.subscribe("m", member, SHARE, Qos::ExactlyOnce);
    tested.machine = tested.reload();
    assert_eq!(tested.answer(&take(0, 1, 3)), took(&[1, 2]));
    assert_eq!(shares(&tested.machine, &["m"]), [1]);
    // Also by later batches, since a cumulative `Taken` must not lose it.
    assert_eq!(tested.answer(&take(0, 4, 1)), took(&[1, 2]));
    assert_eq!(tested.answer(&take(1, 2, 1)), took(&[2]));
    assert_eq!(tested.answer(&take(4, 5, 1)), took(&[]));
    assert_eq!(tested.answer(&take(0, 1, 3)), took(&[]));
    assert_eq!(shares(&tested.machine, &["m"]), [3]);
    let gap = tested.answer(&take(0, 7, 1));
    assert!(matches!(gap, Response::Refused(_)));
}

/// [MQTT-4.8.2-4] [MQTT-4.8.2-5] QoS 2 that was sent goes to nobody else, QoS 1 does.
#[test]
fn what_a_member_did_not_get_goes_to_another_when_its_session_ends() {
    for (qos, unplaced) in [(Qos::AtLeastOnce, 3), (Qos::ExactlyOnce, 2)] {
        let mut tested = Tested::new();
        let (member, _) = tested.connect_with(|connect| {
            connect.client_id = client("m");
            connect.receive_maximum = 1;
            connect.session_expiry_interval_s = 5;
        });
        tested.subscribe("m", member, SHARE, qos);
        for _ in 0..3 {
            publish_shared(&mut tested, SHARE, qos);
        }
        // The loss of the connection alone moves nothing.
        tested.disconnect("m", member, Ending::Abnormal);
        assert_eq!(numbers(&tested, OutboxTarget::Unplaced).len(), 0);
        tested.wait_s(5);
        tested.apply(&Command::ExpireSession {
            client_id: client("m"),
            epoch: member,
        });
        assert_eq!(numbers(&tested, OutboxTarget::Unplaced).len(), unplaced);
        // Evicted meanwhile: the place in this shard needs only the name.
        tested.machine.take_changes();
        tested.machine.evict(0);
        let other = tested.connect("n");
        tested.subscribe("n", other, SHARE, qos);
        for number in numbers(&tested, OutboxTarget::Unplaced) {
            let to = Some(OutboxTarget::Shard(SHARD));
            assert_eq!(tested.answer(&Command::Place { number, to }), claimed(true));
        }
        assert_eq!(shares(&tested.machine, &["n"]), [unplaced]);
        assert_eq!(tested.machine.outbox_bytes(), 0);
        let digest = tested.machine.digest();
        assert_eq!(tested.reload().digest(), digest);
    }
}

/// At QoS 0 nobody takes it on the durable plane: it would be placed for ever.
#[test]
fn a_qos_0_will_waits_for_no_place() {
    let mut tested = Tested::new();
    let (epoch, _) = tested.connect_with(|connect| {
        let mut will = will(0);
        will.message.qos = Qos::AtMostOnce;
        connect.will = Some(will);
    });
    tested.disconnect("c", epoch, Ending::Abnormal);
    let share = || filter(SHARE);
    let (_, effects) = tested.apply(&Command::PublishWill {
        epoch,
        retained_version: None,
        shards: vec![],
        nodes: vec![],
        shared: vec![
            (share(), OutboxTarget::Shard(SHARD)),
            (share(), OutboxTarget::Shard(OTHER)),
            (share(), OutboxTarget::Unplaced),
            (share(), NODE),
        ],
    });
    let lost = |effect: &&Effect| matches!(effect, Effect::Dropped { .. });
    assert_eq!(effects.iter().filter(lost).count(), 3);
    assert_eq!(tested.machine.outbox_targets(), [NODE]);
    let (node, incarnation) = (NodeId(2), Incarnation(1));
    tested.apply(&Command::NodeDown { node, incarnation });
    assert_eq!(tested.machine.outbox_targets(), []);
    assert_eq!(tested.machine.resident_bytes(), 0);
}

#[test]
fn a_connected_member_is_shown_as_one() {
    let mut tested = Tested::new();
    let epoch = tested.connect("m");
    let subscribe = |qos| {
        let options = SubscriptionOptions::new(qos);
        let subscription = Subscription {
            options,
            identifier: None,
        };
        Command::Subscribe {
            client_id: client("m"),
            epoch,
            filters: vec![(filter(SHARE), subscription)],
            reads_retained: false,
        }
    };
    let route = |target| Effect::RouteAdded {
        filter: filter(SHARE),
        target,
    };
    let gone = |target| Effect::RouteRemoved {
        filter: filter(SHARE),
        target,
    };
    let (_, effects) = tested.apply(&subscribe(Qos::AtLeastOnce));
    let connected = [
        RouteTarget::NodeAtMostOnce(NodeId(1)),
        RouteTarget::ConnectedShard(SHARD),
    ];
    let [live, shard] = connected;
    assert_eq!(
        effects,
        [route(RouteTarget::Shard(SHARD)), route(live), route(shard)]
    );
    let (_, effects) = tested.apply(&subscribe(Qos::AtMostOnce));
    assert_eq!(
        effects,
        [
            route(RouteTarget::Node(NodeId(1))),
            gone(RouteTarget::Shard(SHARD)),
            gone(live),
            gone(shard),
        ]
    );
    assert_eq!(
        publish_shared(&mut tested, SHARE, Qos::AtLeastOnce).0,
        published(0, false)
    );
    tested.apply(&subscribe(Qos::ExactlyOnce));
    let effects = tested.disconnect("m", epoch, Ending::Abnormal);
    assert_eq!(effects, [gone(live), gone(shard)]);
}
