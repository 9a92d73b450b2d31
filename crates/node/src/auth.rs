//! Enhanced authentication (MQTT 5.0, section 4.12): the exchange of AUTH packets, before CONNACK and
//! again on an open connection. One method is built in, SCRAM-SHA-256.

mod exchange;
mod repeated;
pub(crate) mod scram;
mod scram_file;

pub(crate) use exchange::{Failure, Identity, Proof, authenticate};
pub(crate) use repeated::Reauthentication;
pub(crate) use scram::Scram;
pub(crate) use scram_file::ScramUsers;
pub use scram_file::{ScramFileError, ScramUser};
