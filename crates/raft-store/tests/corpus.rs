//! What fuzzing found worth keeping still holds: see docs/TESTING.md.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test: a panic is its failure"
)]

#[path = "../../../tests/fuzz/corpus.rs"]
mod corpus;
#[path = "../../../tests/fuzz/checks/entry.rs"]
mod entry;
#[path = "../../../tests/fuzz/checks/machine.rs"]
mod machine;

#[test]
fn what_is_in_the_log_and_in_the_tables_is_a_value_or_an_error() {
    corpus::replay("entry", entry::check);
}

#[test]
fn a_machine_answers_whatever_is_committed_and_a_restarted_replica_says_the_same() {
    corpus::replay("machine", machine::check);
}
