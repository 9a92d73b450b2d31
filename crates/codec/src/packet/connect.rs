//! CONNECT with its Will (section 3.1).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::message::Message;
use crate::packet::ProtocolVersion;
use crate::primitive::Utf8;

/// The first packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version spoken on this connection from now on.
    pub version: ProtocolVersion,
    /// Clean Start; Clean Session before MQTT 5.0, which also ends the session with the connection.
    pub clean_start: bool,
    /// In seconds; 0: none.
    pub keep_alive_s: u16,
    /// May be empty, then the server chooses one [MQTT-3.1.3-6].
    pub client_id: Utf8,
    /// What to publish when the client is lost.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<Utf8>,
    /// Password, at most 65,535 bytes; before MQTT 5.0 only with a user name.
    pub password: Option<Bytes>,
    /// In seconds; default 0, `u32::MAX`: never.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 publications the server may have in flight; default 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet the client accepts, in bytes; default none.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The highest alias the server may use; default 0.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the client asks for Response Information; default no.
    pub request_response_information: Option<bool>,
    /// Whether the server may add Reason String and User Properties to all packets; default yes.
    pub request_problem_information: Option<bool>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Asks for extended authentication.
    pub authentication_method: Option<Utf8>,
    /// What the method exchanges, at most 65,535 bytes; only with a method.
    pub authentication_data: Option<Bytes>,
}

/// The Will Message, and how long it waits after the connection is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// What is published. The payload is at most 65,535 bytes.
    pub message: Message,
    /// Will Delay Interval in seconds; 0 is the same as absent.
    pub delay_interval_s: u32,
}

impl Connect {
    /// A CONNECT with Clean Start, a keep alive of 60 seconds, and nothing else.
    #[must_use]
    pub const fn new(version: ProtocolVersion, client_id: Utf8) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive_s: 60,
            client_id,
            will: None,
            username: None,
            password: None,
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: None,
            request_response_information: None,
            request_problem_information: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}
