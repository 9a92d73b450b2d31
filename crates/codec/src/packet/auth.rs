//! AUTH (section 3.15), MQTT 5.0 only.

use bytes::Bytes;

use crate::primitive::Utf8;
use crate::reason_code::ReasonCode;

/// A step of an extended authentication.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue, or re-authenticate.
    pub reason_code: ReasonCode,
    /// The method; always there unless the reason is success.
    pub authentication_method: Option<Utf8>,
    /// What the method exchanges, at most 65,535 bytes.
    pub authentication_data: Option<Bytes>,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
}
