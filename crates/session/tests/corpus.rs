//! What fuzzing found worth keeping still holds: see docs/TESTING.md.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is its failure"
)]

#[path = "../../../tests/fuzz/checks/connection.rs"]
mod connection;
#[path = "../../../tests/fuzz/corpus.rs"]
mod corpus;

#[test]
fn a_session_holds_its_contract_whatever_a_client_sends() {
    corpus::replay("connection", connection::check);
}
