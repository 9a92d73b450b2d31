//! The MQTT vocabulary and wire format, versions 3.1, 3.1.1 and 5.0.
//!
//! Pure: no sockets, no clock, nothing of sessions.
//!
//! - In: [`Decoder::decode`] takes one packet at a time off a read buffer, and holds it against
//!   everything that can be judged from this packet, its sender and the version alone. What depends
//!   on the session (aliases above the maximum, quotas, identifiers in use) is left to others.
//! - Out: [`encode`] for any packet; [`encode_publish`] for a message to a subscriber.
//! - Errors: each [`DecodeError`] knows its Reason Code and the statement it breaks.
//!
//! Invariants:
//! - **Whatever arrives is a packet or an error, never a panic.**
//! - **Nothing is allocated for bytes that did not arrive**, and what is allocated for those that did
//!   is bounded by [`Limits`].
//! - **Strings and payloads borrow from the read buffer**; what is kept for long is first `detached`.
//! - One packet model for all versions: what a version cannot say is absent after decoding and left
//!   out in encoding.
//!
//! ```
//! use bytes::BytesMut;
//! use codec::{Decoder, Limits, Packet, ProtocolVersion};
//!
//! let mut decoder = Decoder::from_client(Limits::default());
//! let mut buffer = BytesMut::from(&b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x3C\x00"[..]);
//! assert_eq!(decoder.decode(&mut buffer), Ok(None));
//! buffer.extend_from_slice(b"\x01a");
//! let Ok(Some(Packet::Connect(connect))) = decoder.decode(&mut buffer) else {
//!     panic!("the CONNECT is complete");
//! };
//! assert_eq!(connect.client_id.as_str(), "a");
//! assert_eq!(decoder.version(), Some(ProtocolVersion::V311));
//! ```

mod client_id;
mod decode;
mod encode;
mod error;
mod message;
mod packet;
mod packet_id;
mod primitive;
mod property;
mod qos;
mod reason_code;
mod time;
mod topic;

pub use client_id::ClientId;
pub use decode::{Decoder, Limits};
pub use encode::{
    PublishHeader, TopicForm, encode, encode_publish, encoded_len, encoded_publish_len,
};
pub use error::{DecodeError, EncodeError};
pub use message::{Message, MessageProperties, PayloadFormat};
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, PacketType, ProtocolVersion, Publish,
    RetainHandling, Sender, Suback, Subscribe, Subscription, SubscriptionIdentifier,
    SubscriptionOptions, Unsuback, Unsubscribe, Will,
};
pub use packet_id::PacketId;
pub use primitive::Utf8;
pub use property::PropertyId;
pub use qos::Qos;
pub use reason_code::ReasonCode;
pub use time::Timestamp;
pub use topic::{ShareName, TopicFilter, TopicName};
