//! Versions of retained messages, their bounds, and the rule of the last value.

use super::*;
use crate::command::{RetainedCopy, RetainedLimits};

const LIMITS: RetainedLimits = RetainedLimits {
    messages_max: 3,
    bytes_max: 100,
};

fn set(tested: &mut Tested, topic: &str, payload: &str) -> Response {
    set_for(tested, topic, payload, None)
}

fn set_for(tested: &mut Tested, topic: &str, payload: &str, expiry_s: Option<u32>) -> Response {
    let mut message = message(topic, payload, Qos::AtLeastOnce);
    message.retain = true;
    message.properties.message_expiry_interval = expiry_s;
    tested.answer(&Command::SetRetained {
        client_id: client("p"),
        epoch: Some(Epoch(1)),
        message,
        limits: LIMITS,
    })
}

/// Topics and payloads that a reader of everything sees.
fn stored(machine: &Machine) -> Vec<(String, String)> {
    let page = machine.retained(&filter("#"), None, 100, u64::MAX);
    assert_eq!(page.continue_after, None);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let pair = |message: &Message| (text(message.topic.as_bytes()), text(&message.payload));
    page.messages
        .iter()
        .map(|stored| pair(&stored.message))
        .collect()
}

fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6]
#[test]
fn a_topic_keeps_its_place_in_the_order_also_across_its_clearing() {
    let mut tested = Tested::new();
    assert_eq!(
        set(&mut tested, "a", "1"),
        Response::RetainedSet { version: 1 }
    );
    assert_eq!(
        set(&mut tested, "a", "2"),
        Response::RetainedSet { version: 2 }
    );
    assert_eq!(
        set(&mut tested, "a", ""),
        Response::RetainedSet { version: 3 }
    );
    assert_eq!(stored(&tested.machine), []);
    assert_eq!(
        set(&mut tested, "b", ""),
        Response::RetainedSet { version: 4 }
    );
    tested.machine = tested.reload();
    assert_eq!(
        set(&mut tested, "a", "3"),
        Response::RetainedSet { version: 5 }
    );
    assert_eq!(stored(&tested.machine), [pair("a", "3")]);
    assert_eq!(tested.machine.retained_bytes(), 2);
}

#[test]
fn both_bounds_refuse_and_change_nothing() {
    let mut tested = Tested::new();
    for topic in ["a", "b", "c"] {
        set(&mut tested, topic, "1");
    }
    assert_eq!(set(&mut tested, "d", "1"), Response::RetainedFull);
    let long = "x".repeat(96);
    assert_eq!(set(&mut tested, "a", &long), Response::RetainedFull);
    assert_eq!(tested.machine.retained_bytes(), 6);
    let fits = "x".repeat(95);
    assert_eq!(
        set(&mut tested, "a", &fits),
        Response::RetainedSet { version: 4 }
    );
    set(&mut tested, "b", "");
    assert_eq!(
        set(&mut tested, "d", "1"),
        Response::RetainedSet { version: 6 }
    );
}

/// Section 3.3.1.3: an expired retained message is discarded.
#[test]
fn what_expired_is_not_seen_and_makes_room() {
    let mut tested = Tested::new();
    set_for(&mut tested, "a", "1", Some(5));
    set_for(&mut tested, "b", "1", Some(50));
    set_for(&mut tested, "a", "2", Some(10));
    tested.wait_s(10);
    tested.answer(&Command::Barrier);
    assert_eq!(stored(&tested.machine), [pair("b", "1")]);
    assert_eq!(tested.machine.retained_count(), 1);
    assert_eq!(tested.machine.retained_bytes(), 2);
    assert_eq!(tested.machine.digest(), tested.reload().digest());
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let mut tested = Tested::new();
    for topic in ["a", "b", "c"] {
        set(&mut tested, topic, "1");
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        // One byte: a page ends with the message that passes the bound.
        let page = tested.machine.retained(&filter("+"), after.as_ref(), 2, 1);
        let names = page.messages.iter();
        seen.extend(names.map(|stored| stored.message.topic.as_str().to_owned()));
        after = page.continue_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

fn copy(topic: &str, payload: &str, version: u64) -> RetainedCopy {
    RetainedCopy {
        message: message(topic, payload, Qos::AtLeastOnce),
        version,
        qos: Qos::AtLeastOnce,
        identifier: None,
        expires_in_ms: None,
    }
}

fn deliver(
    tested: &mut Tested,
    epoch: Epoch,
    copies: Vec<RetainedCopy>,
    last: bool,
) -> Vec<String> {
    let command = Command::DeliverRetained {
        client_id: client("c"),
        epoch,
        copies,
        last,
    };
    let (answer, effects) = tested.apply(&command);
    assert_eq!(answer, Response::RetainedDelivered { dropped: 0 });
    sent(&effects)
}

#[test]
fn a_new_subscriber_never_ends_on_a_stale_value() {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    tested.subscribe_and_read("c", epoch, "#", Qos::AtLeastOnce, true);
    tested.publish(message("a", "live 5", Qos::AtLeastOnce), Some(5));
    tested.machine = tested.reload();
    let copies = vec![
        copy("a", "read 4", 4),
        copy("a", "read 5", 5),
        copy("a", "read 6", 6),
        copy("b", "read 1", 1),
    ];
    assert_eq!(
        deliver(&mut tested, epoch, copies, false),
        ["read 6", "read 1"]
    );
    // Cleared meanwhile: the clearing has its version too.
    tested.publish(message("b", "", Qos::AtLeastOnce), Some(7));
    assert_eq!(
        deliver(&mut tested, epoch, vec![copy("b", "read 2", 2)], true),
        [""; 0]
    );
    // The read is over, nothing is noted any more.
    tested.publish(message("a", "live 9", Qos::AtLeastOnce), Some(9));
    assert_eq!(
        deliver(&mut tested, epoch, vec![copy("a", "read 8", 8)], true),
        ["read 8"]
    );
}

/// Two SUBSCRIBEs, one behind the other: each gets its own copy, but never back to an older one.
#[test]
fn two_reads_at_once_do_not_go_back() {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    tested.subscribe_and_read("c", epoch, "a", Qos::AtLeastOnce, true);
    tested.subscribe_and_read("c", epoch, "+", Qos::AtLeastOnce, true);
    assert_eq!(
        deliver(&mut tested, epoch, vec![copy("a", "2", 2)], false),
        ["2"]
    );
    assert_eq!(
        deliver(&mut tested, epoch, vec![copy("a", "2", 2)], false),
        ["2"]
    );
    assert_eq!(
        deliver(&mut tested, epoch, vec![copy("a", "1", 1)], false),
        [""; 0]
    );
}

#[test]
fn a_read_ends_with_its_connection() {
    let mut tested = Tested::new();
    let old = tested.connect("c");
    tested.subscribe_and_read("c", old, "a", Qos::AtLeastOnce, true);
    let new = tested.connect("c");
    assert!(tested.machine.reads.is_empty());
    let command = Command::DeliverRetained {
        client_id: client("c"),
        epoch: old,
        copies: vec![copy("a", "1", 1)],
        last: true,
    };
    assert!(matches!(tested.answer(&command), Response::Refused(_)));
    tested.subscribe_and_read("c", new, "a", Qos::AtLeastOnce, true);
    tested.disconnect("c", new, Ending::Abnormal);
    assert!(tested.machine.reads.is_empty());
}
