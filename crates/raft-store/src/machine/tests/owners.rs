//! A session belongs to the user who created it.

use codec::Utf8;

use super::*;
use crate::command::Refusal;
use crate::state::{StateKey, StateRecord};

const NOT_OWNER: Response = Response::Refused(Refusal::NotOwner);

fn user(name: &str) -> Option<Utf8> {
    (!name.is_empty()).then(|| Utf8::try_from(name).unwrap())
}

/// The whole state.
fn rows(shard: &Tested) -> Vec<(StateKey, Option<StateRecord>)> {
    let keys = shard.machine.keys().into_iter();
    keys.map(|key| (key.clone(), shard.machine.record(&key)))
        .collect()
}

impl Tested {
    /// CONNECT of a user, `""` for none, and its answer.
    fn connect_as(&mut self, name: &str, clean_start: bool, interval_s: u32) -> Response {
        self.connections += 1;
        self.answer(&Command::Connect(Box::new(Connect {
            client_id: client("c"),
            holder: holder(self.connections),
            clean_start,
            session_expiry_interval_s: interval_s,
            receive_maximum: 10,
            limits: SessionLimits::default(),
            will: None,
            owner: user(name),
        })))
    }

    fn connected_as(&mut self, name: &str, interval_s: u32) -> (Epoch, bool) {
        match self.connect_as(name, false, interval_s) {
            Response::Connected {
                epoch,
                session_present,
                ..
            } => (epoch, session_present),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn nobody_else_takes_over_resumes_or_clears_a_session() {
    // Persistent and transient; of somebody and of nobody.
    for interval_s in [3600, 0] {
        for (owner, others) in [("alice", ["bob", ""]), ("", ["bob", "alice"])] {
            let mut shard = Tested::new();
            let (epoch, _) = shard.connected_as(owner, interval_s);
            let before = rows(&shard);
            for other in others {
                for clean_start in [false, true] {
                    let answer = shard.connect_as(other, clean_start, interval_s);
                    assert_eq!(answer, NOT_OWNER, "{other} for {owner}");
                }
            }
            assert_eq!(rows(&shard), before, "nothing was changed");
            shard.machine = shard.reload();
            assert_eq!(shard.connect_as(others[0], true, interval_s), NOT_OWNER);
            shard.disconnect("c", epoch, Ending::Normal);
            let answer = shard.connect_as(others[0], true, interval_s);
            if interval_s > 0 {
                assert_eq!(answer, NOT_OWNER, "it outlives its connection");
                assert!(shard.connected_as(owner, interval_s).1, "and is resumed");
            } else {
                assert!(matches!(answer, Response::Connected { .. }));
            }
        }
    }
}

#[test]
fn a_session_whose_time_is_up_is_nobodys() {
    let mut shard = Tested::new();
    let (epoch, _) = shard.connected_as("alice", 60);
    shard.disconnect("c", epoch, Ending::Normal);
    shard.wait_s(59);
    assert_eq!(shard.connect_as("bob", false, 60), NOT_OWNER);
    shard.wait_s(2);
    let (_, session_present) = shard.connected_as("bob", 60);
    assert!(!session_present);
    assert_eq!(shard.connect_as("alice", false, 60), NOT_OWNER);
}
