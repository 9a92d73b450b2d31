//! Each row of the table in `machine/wills.rs`, and what a client may do between two of them.

use super::*;

/// Epochs of the wills that are due now.
fn due(tested: &Tested) -> Vec<Epoch> {
    let due = tested.machine.due_wills(tested.now(), 10);
    due.into_iter().map(|will| will.epoch).collect()
}

fn with_will(tested: &mut Tested, delay_interval_s: u32) -> Epoch {
    tested
        .connect_with(|connect| connect.will = Some(will(delay_interval_s)))
        .0
}

fn take(tested: &mut Tested, epoch: Epoch) -> Response {
    tested.answer(&Command::PublishWill {
        epoch,
        retained_version: None,
        shards: vec![SHARD],
        nodes: vec![],
        shared: vec![],
    })
}

/// [MQTT-3.1.2-8] [MQTT-3.14.4-3]
#[test]
fn a_lost_connection_publishes_after_the_delay_and_a_normal_end_never() {
    let mut tested = Tested::new();
    let epoch = with_will(&mut tested, 30);
    tested.disconnect("c", epoch, Ending::Abnormal);
    assert_eq!(due(&tested), []);
    tested.wait_s(30);
    assert_eq!(due(&tested), [epoch]);

    let mut tested = Tested::new();
    let epoch = with_will(&mut tested, 0);
    tested.disconnect("c", epoch, Ending::Normal);
    tested.wait_s(9999);
    assert_eq!(due(&tested), []);
}

/// [MQTT-3.1.2-8]
#[test]
fn the_end_of_the_session_comes_before_the_delay() {
    for (expiry_s, due_after_s) in [(0, 0), (10, 10), (60, 30)] {
        let mut tested = Tested::new();
        let (epoch, _) = tested.connect_with(|connect| {
            connect.will = Some(will(30));
            connect.session_expiry_interval_s = expiry_s;
        });
        tested.disconnect("c", epoch, Ending::Abnormal);
        if due_after_s > 0 {
            tested.wait_s(due_after_s - 1);
            assert_eq!(due(&tested), []);
            tested.wait_s(1);
        }
        assert_eq!(due(&tested), [epoch], "{expiry_s}");
    }
}

/// [MQTT-3.1.3-9]
#[test]
fn a_connection_in_time_cancels_and_a_late_one_does_not() {
    let mut tested = Tested::new();
    let epoch = with_will(&mut tested, 30);
    tested.disconnect("c", epoch, Ending::Abnormal);
    tested.wait_s(29);
    let epoch = with_will(&mut tested, 30);
    tested.wait_s(60);
    assert_eq!(due(&tested), []);

    tested.disconnect("c", epoch, Ending::Abnormal);
    tested.wait_s(30);
    tested.connect("c");
    assert_eq!(due(&tested), [epoch]);
}

/// Clean Start ends the session, and with it the delay (decision 0015).
#[test]
fn clean_start_during_the_delay_publishes_now() {
    let mut tested = Tested::new();
    let epoch = with_will(&mut tested, 30);
    tested.disconnect("c", epoch, Ending::Abnormal);
    tested.connect_with(|connect| connect.clean_start = true);
    assert_eq!(due(&tested), [epoch]);
}

#[test]
fn a_take_over_cancels_a_delayed_will_alone() {
    for (delay_s, clean_start, is_published) in [
        (0, false, true),
        (5, false, false),
        (0, true, true),
        (5, true, true),
    ] {
        let mut tested = Tested::new();
        let epoch = with_will(&mut tested, delay_s);
        tested.connect_with(|connect| connect.clean_start = clean_start);
        // It may have sent DISCONNECT before: that shows when it is recorded closed.
        assert_eq!(due(&tested), []);
        tested.disconnect("c", epoch, Ending::Abnormal);
        let expected: &[Epoch] = if is_published { &[epoch] } else { &[] };
        assert_eq!(due(&tested), expected, "{delay_s} {clean_start}");
    }
}

/// [MQTT-3.14.4-3] Its DISCONNECT was read before the take-over was known there.
#[test]
fn a_connection_that_ended_normally_before_it_learns_of_its_take_over_has_no_will() {
    let mut tested = Tested::new();
    let epoch = with_will(&mut tested, 0);
    tested.connect("c");
    tested.disconnect("c", epoch, Ending::Normal);
    tested.wait_s(99);
    assert_eq!(due(&tested), []);
}

#[test]
fn the_death_of_a_node_is_the_end_of_its_connections() {
    let mut tested = Tested::new();
    let first = with_will(&mut tested, 0);
    let second = with_will(&mut tested, 7);
    let (node, incarnation) = (NodeId(1), Incarnation(1));
    tested.apply(&Command::NodeDown { node, incarnation });
    assert_eq!(due(&tested), [first]);
    tested.wait_s(7);
    assert_eq!(due(&tested), [first, second]);
}

/// Several batches share an entry, and with it its index.
#[test]
fn a_node_up_that_is_repeated_within_an_entry_ends_no_life() {
    let mut tested = Tested::new();
    let node = NodeId(1);
    let (answer, effects) = tested.apply(&Command::NodeUp { node });
    assert_eq!(effects.len(), 1);
    tested.index -= 1;
    assert_eq!(tested.apply(&Command::NodeUp { node }), (answer, vec![]));
}

/// [MQTT-3.1.2-10]
#[test]
fn each_will_of_a_client_that_connects_often_is_published_once() {
    let mut tested = Tested::new();
    let subscriber = tested.connect("s");
    tested.subscribe("s", subscriber, "will", Qos::AtLeastOnce);
    let epochs: Vec<Epoch> = (0..5).map(|_| with_will(&mut tested, 0)).collect();
    for epoch in &epochs {
        assert_eq!(
            take(&mut tested, *epoch),
            Response::Claimed { claimed: false }
        );
        tested.disconnect("c", *epoch, Ending::Abnormal);
    }
    assert_eq!(due(&tested), epochs);
    tested.machine = tested.reload();
    for epoch in &epochs {
        assert_eq!(
            take(&mut tested, *epoch),
            Response::Claimed { claimed: true }
        );
        assert_eq!(
            take(&mut tested, *epoch),
            Response::Claimed { claimed: false }
        );
    }
    assert_eq!(due(&tested), []);
    let session = tested.machine.session(&client("s")).unwrap();
    assert_eq!(session.resume().len(), 5);
}

/// The lifetime counts from publication, not from CONNECT.
#[test]
fn a_will_does_not_expire_while_it_waits() {
    let mut tested = Tested::new();
    let mut will = will(60);
    will.message.properties.message_expiry_interval = Some(10);
    let (epoch, _) = tested.connect_with(|connect| connect.will = Some(will));
    tested.disconnect("c", epoch, Ending::Abnormal);
    tested.wait_s(60);
    tested.answer(&Command::PublishWill {
        epoch,
        retained_version: None,
        shards: vec![OTHER],
        nodes: vec![],
        shared: vec![],
    });
    let items = tested.waiting(OutboxTarget::Shard(OTHER));
    let expires_at = tested.now().plus(std::time::Duration::from_secs(10));
    assert_eq!(items[0].1.body.expires_at(), Some(expires_at));
}
