//! Whether a shard waits for time to pass: then its leader keeps the time in the log.

use super::*;
use crate::command::RetainedLimits;

/// The same after a restart.
fn waits(tested: &Tested) -> bool {
    let waits = tested.machine.waits_for_time();
    assert_eq!(tested.reload().waits_for_time(), waits);
    waits
}

#[test]
fn a_shard_without_deadlines_does_not_wait_for_time() {
    let mut tested = Tested::new();
    assert!(!waits(&tested));
    let epoch = tested.connect("c");
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    tested.publish(message("t", "lives for ever", Qos::AtLeastOnce), None);
    assert!(!waits(&tested));
}

#[test]
fn a_session_without_connection_waits_for_its_end() {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    tested.disconnect("c", epoch, Ending::Normal);
    assert!(waits(&tested));
    tested.connect("c");
    assert!(!waits(&tested));
}

#[test]
fn a_will_waits_from_the_end_of_its_connection_on() {
    let mut tested = Tested::new();
    let (epoch, _) = tested.connect_with(|connect| {
        connect.will = Some(will(30));
        connect.session_expiry_interval_s = u32::MAX;
    });
    assert!(!waits(&tested));
    tested.disconnect("c", epoch, Ending::Abnormal);
    assert!(waits(&tested));
    tested.connect_with(|connect| connect.session_expiry_interval_s = u32::MAX);
    assert!(!waits(&tested));
}

#[test]
fn a_message_that_expires_waits_until_it_is_gone() {
    let mut tested = Tested::new();
    let epoch = tested.connect("c");
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    let mut expires = message("t", "expires", Qos::AtLeastOnce);
    expires.properties.message_expiry_interval = Some(30);
    tested.publish(expires.clone(), None);
    assert!(waits(&tested));
    tested.puback("c", epoch, 1);
    assert!(!waits(&tested));
    // Nobody takes it.
    expires.topic = topic("nobody");
    tested.publish(expires, None);
    assert!(!waits(&tested));
}

#[test]
fn a_retained_message_that_expires_waits_until_it_is_purged() {
    let mut tested = Tested::new();
    let mut expires = message("t", "expires", Qos::AtLeastOnce);
    expires.retain = true;
    expires.properties.message_expiry_interval = Some(30);
    tested.answer(&Command::SetRetained {
        client_id: client("p"),
        epoch: Some(Epoch(1)),
        message: expires,
        limits: RetainedLimits {
            messages_max: 3,
            bytes_max: 100,
        },
    });
    assert!(waits(&tested));
    tested.wait_s(30);
    tested.answer(&Command::Barrier);
    assert!(!waits(&tested));
}
