//! Generated from `proto/peers.proto` and `proto/query.proto`.
#![allow(
    missing_docs,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::missing_errors_doc,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::str_to_string,
    reason = "generated"
)]

tonic::include_proto!("holdfast.peers.v1");

/// What nodes ask each other for operators.
pub(crate) mod query {
    tonic::include_proto!("holdfast.query.v1");
}
