//! Bytes of what a shard logs, answers and stores, and back: the only place that sees both the
//! types of this crate and the messages of `proto/state.proto`.
//!
//! Invariants:
//! - Equal values give equal bytes, on every node: replicas compare their states byte by byte.
//! - `decode(encode(x)) == x` for every value. For a [`StateKey`](crate::state::StateKey) also
//!   the order is kept, see [`encode_key`].
//! - Decoding takes any bytes: it never panics, and what it returns has been checked by the types
//!   of `codec`. Its memory is bounded by the length of its input, times a small constant (the
//!   size of the largest repeated struct): callers bound the input.
//! - Decoding [`Bytes`] copies neither topics nor payloads: they are slices of the input and pin
//!   it. Client ids and the filters of `Subscribe` and `Unsubscribe`, which are kept for long, are
//!   copied.
//!
//! | file | converts |
//! |---|---|
//! | `batch`, `command`, `answers` | what is in the Raft log, and what comes back to the proposer |
//! | `outbox`, `retained` | parts of commands |
//! | `key`, `record` | the rows of the state tables |
//! | `message`, `session_parts` | the vocabulary of `codec` and of `session` |
//! | `field` | numbers and names, with their checks |
//! | `proto` | the generated messages |

mod answers;
mod batch;
mod command;
mod field;
mod key;
mod message;
mod outbox;
pub mod proto;
mod record;
mod retained;
mod session_parts;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use prost::Message;

pub use answers::{decode_answers, encode_answers};
pub use batch::{BATCH_FORMAT, decode_batch, encode_batch};
pub use command::{decode_command, encode_command};
pub use key::{BODIES_FROM, body_key, decode_key, encode_key};
pub use message::{decode_message, encode_message, message_from_proto, message_to_proto};
pub use record::{decode_body, decode_record, encode_record};

/// Why bytes are not what they should be. A peer of another version, a corrupt one, or a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The frame itself is broken.
    #[error("not an encoded {message}: {source}")]
    Frame {
        /// Name in `state.proto`.
        message: &'static str,
        /// What prost says.
        source: prost::DecodeError,
    },
    /// The entry was written by a newer version.
    #[error(
        "batch format {format} is newer than {newest}, the newest this version reads: upgrade this node"
    )]
    BatchFormatNewer {
        /// Its format.
        format: u32,
        /// Ours.
        newest: u32,
    },
    /// A field that is always written is absent, or is of a kind that only newer versions know.
    #[error("{field} is missing, or of a kind that this version does not know")]
    Missing {
        /// Message and field.
        field: &'static str,
    },
    /// A number has no meaning.
    #[error("{field} is {value}, which has no meaning there")]
    NumberInvalid {
        /// Message and field.
        field: &'static str,
        /// The number.
        value: u64,
    },
    /// Data is longer than MQTT can carry.
    #[error("{field} has {bytes} bytes, at most {bytes_max} are legal")]
    TooLong {
        /// Message and field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A text breaks a rule of MQTT.
    #[error("{field}: {source}")]
    Text {
        /// Message and field.
        field: &'static str,
        /// The rule.
        source: codec::DecodeError,
    },
    /// Packet ids are stored in ascending order, each once.
    #[error("{field} is not in ascending order")]
    NotAscending {
        /// Message and field.
        field: &'static str,
    },
    /// No key begins like this, in this version.
    #[error("key of unknown kind {kind:#04x}")]
    KeyKindUnknown {
        /// Its first byte.
        kind: u8,
    },
    /// The key is cut off.
    #[error("key ends within its {field}")]
    KeyTruncated {
        /// Where.
        field: &'static str,
    },
    /// The key goes on after its last field.
    #[error("key has {bytes} bytes too many")]
    KeyTrailing {
        /// How many.
        bytes: usize,
    },
}

/// `message` as bytes, in one allocation of the exact size.
fn to_bytes(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Reads the message called `name`; its `bytes` fields are slices of `bytes`.
fn from_bytes<M: Message + Default>(name: &'static str, bytes: Bytes) -> Result<M, EncodingError> {
    M::decode(bytes).map_err(|source| EncodingError::Frame {
        message: name,
        source,
    })
}
