//! DISCONNECT (section 3.14).

use crate::primitive::Utf8;
use crate::reason_code::ReasonCode;

/// The last packet on a connection. Before MQTT 5.0 only a client sends it, and it has no fields.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; `Success` is "Normal disconnection".
    pub reason_code: ReasonCode,
    /// In seconds; only from a client.
    pub session_expiry_interval: Option<u32>,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Another server to use; only from a server.
    pub server_reference: Option<Utf8>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    #[must_use]
    pub const fn new(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            session_expiry_interval: None,
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        }
    }
}
