//! Quality of Service.

use crate::error::DecodeError;

/// The delivery promise of one message (section 4.3). Ordered by strength.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Qos {
    /// Delivered at most once, no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once, answered by PUBACK.
    AtLeastOnce = 1,
    /// Delivered exactly once, answered by PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl Qos {
    /// The two-bit value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for Qos {
    type Error = DecodeError;

    /// # Errors
    /// [`DecodeError::QosInvalid`] for 3 and above [MQTT-3.3.1-4].
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(DecodeError::QosInvalid),
        }
    }
}
