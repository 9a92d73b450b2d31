//! Contents come and go; nothing that is replicated notices.

use super::*;
use crate::encoding::{decode_body, decode_key};
use crate::machine::BodyLookup;
use crate::state::StateKey;

/// An offline session with these messages waiting.
fn with_queue(payloads: &[&str]) -> Tested {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    tested.disconnect("c", epoch, Ending::Abnormal);
    for payload in payloads {
        tested.publish(message("t", payload, Qos::AtLeastOnce), None);
    }
    tested
}

fn changed_keys(tested: &mut Tested) -> Vec<StateKey> {
    let changes = tested.machine.take_changes();
    changes
        .iter()
        .map(|(key, _)| decode_key(key).unwrap())
        .collect()
}

#[test]
fn only_what_was_handed_out_to_be_written_leaves_memory_oldest_first() {
    let mut tested = with_queue(&["one", "two"]);
    tested.machine.evict(0);
    assert!(matches!(tested.machine.body(1), BodyLookup::Here(_)));
    tested.machine.take_changes();
    tested.publish(message("t", "three", Qos::AtLeastOnce), None);
    let two = tested.machine.resident_bytes() - 1;
    tested.machine.evict(two);
    assert_eq!(tested.machine.body(1), BodyLookup::Stored);
    assert!(matches!(tested.machine.body(2), BodyLookup::Here(_)));
    tested.machine.evict(0);
    assert_eq!(tested.machine.body(2), BodyLookup::Stored);
    assert!(matches!(tested.machine.body(3), BodyLookup::Here(_)));
    assert_eq!(tested.machine.body(4), BodyLookup::Gone);
}

#[test]
fn an_evicted_message_is_sent_by_name_and_everything_else_is_the_same() {
    let mut here = with_queue(&["one", "two"]);
    let mut evicted = with_queue(&["one", "two"]);
    evicted.machine.take_changes();
    evicted.machine.evict(0);
    assert_eq!(evicted.machine.resident_bytes(), 0);
    assert_eq!(here.machine.digest(), evicted.machine.digest());
    assert_eq!(here.machine.digest(), here.reload().digest());

    let (epoch, effects) = here.connect_with(|_| {});
    assert_eq!(sent(&effects), ["one", "two"]);
    let (_, effects) = evicted.connect_with(|_| {});
    assert_eq!(sent(&effects), ["?", "?"]);
    assert_eq!(here.machine.digest(), evicted.machine.digest());
    for tested in [&mut here, &mut evicted] {
        tested.puback("c", epoch, 1);
        assert_eq!(tested.machine.body(1), BodyLookup::Gone);
    }
    assert_eq!(here.machine.digest(), evicted.machine.digest());
}

#[test]
fn a_content_is_written_once_and_what_comes_and_goes_never() {
    let mut tested = with_queue(&["one"]);
    let changes = tested.machine.take_changes();
    let content = changes
        .iter()
        .find(|(key, _)| decode_key(key).unwrap() == StateKey::Body(1));
    let content = content.unwrap().1.clone().unwrap();
    let stored = decode_body(1, content.into()).unwrap();
    assert_eq!(&stored.message.payload[..], b"one");

    // A second session takes it too: one more reference.
    let epoch = tested.connect("d");
    tested.subscribe("d", epoch, "t", Qos::AtLeastOnce);
    tested.publish(message("t", "two", Qos::AtLeastOnce), None);
    tested.puback("d", epoch, 1);
    let keys = changed_keys(&mut tested);
    assert!(keys.contains(&StateKey::Body(2)));
    assert!(!keys.contains(&StateKey::Body(1)) && !keys.contains(&StateKey::BodyIndex(1)));

    tested.disconnect("c", Epoch(1), Ending::Normal);
    let epoch = tested.connect("c");
    tested.publish(message("t", "three", Qos::AtLeastOnce), None);
    for packet_id in [1, 2, 3] {
        tested.puback("c", epoch, packet_id);
    }
    tested.puback("d", Epoch(2), 2);
    let keys = changed_keys(&mut tested);
    for (id, is_written) in [(1, true), (2, true), (3, false)] {
        assert_eq!(keys.contains(&StateKey::Body(id)), is_written, "{id}");
    }
    assert_eq!(tested.machine.resident_bytes(), 0);
}

#[test]
fn a_message_that_nobody_takes_gets_no_body() {
    let mut tested = Tested::new();
    tested.publish(message("t", "one", Qos::AtLeastOnce), None);
    assert_eq!(tested.machine.resident_bytes(), 0);
    assert_eq!(tested.machine.bodies.next, 1);
}

/// [MQTT-3.3.2-5] The countdown goes on in the target shard with what is left.
#[test]
fn an_item_travels_with_what_is_left_of_its_lifetime() {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    let mut message = message("t", "x", Qos::ExactlyOnce);
    message.properties.message_expiry_interval = Some(10);
    tested.answer(&Command::ReceiveExactlyOnce {
        client_id: client("c"),
        epoch,
        packet_id: id(1),
        message,
        shards: vec![OTHER],
        nodes: vec![],
        retained_version: None,
        shared: vec![],
    });
    tested.wait_s(4);
    let (_, item) = tested.waiting(OutboxTarget::Shard(OTHER)).remove(0);
    let session::Body::Here(content) = item.body.clone() else {
        panic!("evicted");
    };
    let item = item.into_item(content, tested.now());
    assert_eq!(item.expires_in_ms, Some(6000));

    let mut target = with_queue(&[]);
    target.now_ms = 50_000;
    target.answer(&Command::TakeOutbox {
        source: SHARD,
        settled: 0,
        first: 1,
        items: vec![item],
    });
    target.wait_s(6);
    let (_, effects) = target.connect_with(|_| {});
    assert_eq!(sent(&effects), [""; 0]);
}
