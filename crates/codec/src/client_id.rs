//! Client Identifier.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::DecodeError;
use crate::primitive::check_utf8;

/// The Client Identifier of a session: 1 to 65,535 bytes of MQTT UTF-8 [MQTT-3.1.3-2].
///
/// Owns its text, so that a session that lives for weeks does not pin the buffer its CONNECT was
/// read into. A clone is one atomic increment. Compared byte by byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Copies and checks `text`.
    ///
    /// # Errors
    /// [`DecodeError::ClientIdEmpty`] when there is none, and the errors of a bad string.
    pub fn new(text: &str) -> Result<Self, DecodeError> {
        if text.is_empty() {
            return Err(DecodeError::ClientIdEmpty);
        }
        Ok(Self(Arc::from(check_utf8(text.as_bytes())?)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ClientId {
    type Error = DecodeError;

    fn try_from(text: &str) -> Result<Self, DecodeError> {
        Self::new(text)
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
