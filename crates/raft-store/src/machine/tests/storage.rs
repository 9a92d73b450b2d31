//! The tables: what is written now and then adds up to the state, and what comes and goes in between
//! never reaches them.

use std::collections::BTreeMap;

use super::*;
use crate::encoding::{decode_key, encode_key, encode_record};
use crate::state::StateKey;

type Tables = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes the changes; returns their keys.
fn save(tested: &mut Tested, tables: &mut Tables) -> Vec<StateKey> {
    let changes = tested.machine.take_changes();
    let keys = changes.iter().map(|(key, _)| decode_key(key).unwrap());
    let keys = keys.collect();
    for (key, value) in changes {
        match value {
            Some(value) => tables.insert(key, value),
            None => tables.remove(&key),
        };
    }
    check(tested, tables);
    keys
}

/// Everything but the contents of bodies is in the tables, and nothing else.
fn check(tested: &Tested, tables: &Tables) {
    let mut rows = Tables::new();
    for key in tested.machine.keys() {
        if let Some(record) = tested.machine.record(&key) {
            rows.insert(encode_key(&key), encode_record(&record));
        }
    }
    let contents: Vec<u64> = tables
        .keys()
        .filter_map(|key| match decode_key(key).unwrap() {
            StateKey::Body(id) => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(contents, tested.machine.bodies.ids().collect::<Vec<_>>());
    let mut small = tables.clone();
    small.retain(|key, _| !matches!(decode_key(key).unwrap(), StateKey::Body(_)));
    assert_eq!(small, rows);
}

fn is_delivery(key: &StateKey) -> bool {
    matches!(key, StateKey::Delivery(..))
}

#[test]
fn a_delivery_that_ends_before_a_save_is_never_written() {
    let (mut tested, mut tables) = (Tested::new(), Tables::new());
    let epoch = tested.connect("c");
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    save(&mut tested, &mut tables);
    for packet_id in 1..=3 {
        tested.publish(message("t", "x", Qos::AtLeastOnce), None);
        tested.puback("c", epoch, packet_id);
    }
    assert!(!save(&mut tested, &mut tables).iter().any(is_delivery));
    // One that was saved goes with a write.
    tested.publish(message("t", "x", Qos::AtLeastOnce), None);
    let written = save(&mut tested, &mut tables);
    assert_eq!(written.iter().filter(|key| is_delivery(key)).count(), 1);
    tested.puback("c", epoch, 4);
    let written = save(&mut tested, &mut tables);
    assert_eq!(written.iter().filter(|key| is_delivery(key)).count(), 1);
}

/// The new session counts its positions from 1 again, where the tables still have the old ones.
#[test]
fn a_new_session_of_a_client_leaves_nothing_of_the_old_one() {
    let (mut tested, mut tables) = (Tested::new(), Tables::new());
    let epoch = tested.connect("c");
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    for _ in 0..3 {
        tested.publish(message("t", "x", Qos::AtLeastOnce), None);
    }
    save(&mut tested, &mut tables);
    let (epoch, _) = tested.connect_with(|connect| connect.clean_start = true);
    tested.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    for packet_id in 1..=2 {
        tested.publish(message("t", "y", Qos::AtLeastOnce), None);
        tested.puback("c", epoch, packet_id);
    }
    save(&mut tested, &mut tables);

    // The same across the loss of the connection and a restart.
    tested.publish(message("t", "z", Qos::AtLeastOnce), None);
    save(&mut tested, &mut tables);
    tested.machine = tested.reload();
    let (epoch, _) = tested.connect_with(|_| {});
    tested.puback("c", epoch, 3);
    tested.publish(message("t", "z", Qos::AtLeastOnce), None);
    tested.puback("c", epoch, 4);
    save(&mut tested, &mut tables);
}

#[test]
fn an_outbox_item_that_leaves_before_a_save_is_never_written() {
    let (mut tested, mut tables) = (Tested::new(), Tables::new());
    let epoch = tested.connect("c");
    let receive = |tested: &mut Tested, packet_id| {
        tested.answer(&Command::ReceiveExactlyOnce {
            client_id: client("c"),
            epoch,
            packet_id: id(packet_id),
            message: message("t", "x", Qos::ExactlyOnce),
            shards: vec![OTHER],
            nodes: vec![(NodeId(2), Incarnation(1))],
            retained_version: None,
            shared: vec![],
        });
    };
    let taken = |target, upto| Command::Taken {
        target,
        upto,
        refused: vec![],
    };
    let is_item = |key: &&StateKey| matches!(key, StateKey::OutboxItem(..));
    let other = OutboxTarget::Shard(OTHER);
    receive(&mut tested, 1);
    tested.apply(&taken(other, 1));
    let written = save(&mut tested, &mut tables);
    assert_eq!(written.iter().filter(is_item).count(), 1);
    receive(&mut tested, 2);
    let (node, incarnation) = (NodeId(2), Incarnation(1));
    tested.apply(&Command::NodeDown { node, incarnation });
    tested.machine = {
        save(&mut tested, &mut tables);
        tested.reload()
    };
    receive(&mut tested, 3);
    tested.apply(&taken(other, 3));
    let written = save(&mut tested, &mut tables);
    assert_eq!(written.iter().filter(is_item).count(), 1);
}
