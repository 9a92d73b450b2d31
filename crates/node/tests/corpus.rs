//! What fuzzing found worth keeping still holds: see docs/TESTING.md.

#![expect(clippy::expect_used, reason = "a test: a panic is its failure")]

#[path = "../../../tests/fuzz/corpus.rs"]
mod corpus;
#[path = "../../../tests/fuzz/checks/peers.rs"]
mod peers;
#[path = "../src/proto.rs"]
mod proto;

#[test]
fn what_nodes_say_to_each_other_is_checked_values_or_an_error() {
    corpus::replay("peers", peers::check);
}
