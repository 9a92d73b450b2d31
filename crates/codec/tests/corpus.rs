//! What fuzzing found worth keeping still holds: see docs/TESTING.md.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test: a panic is its failure"
)]

#[path = "../../../tests/fuzz/corpus.rs"]
mod corpus;
#[path = "../../../tests/fuzz/checks/decode.rs"]
mod decode;
#[path = "../../../tests/fuzz/checks/roundtrip.rs"]
mod roundtrip;

#[test]
fn what_decodes_does_so_in_any_pieces_and_errors_can_be_answered() {
    corpus::replay("decode", decode::check);
}

#[test]
fn what_decodes_encodes_and_decodes_again() {
    corpus::replay("roundtrip", roundtrip::check);
}
