//! The MQTT vocabulary and wire format, versions 3.1, 3.1.1 and 5.0.
//!
//! Pure: no sockets, no clock, nothing of sessions. Whatever arrives is an error, never a panic.
//! Strings and payloads borrow from the read buffer; what is kept for long is first `detached`.

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
