//! Packet Identifier.

use std::fmt;
use std::num::NonZeroU16;

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::primitive::Reader;

/// A Packet Identifier: 1 to 65,535, never 0 [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The smallest identifier, 1.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The largest identifier, 65,535.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// `None` for 0, which is no legal identifier.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    pub(crate) fn decode(packet: PacketType, reader: &mut Reader) -> Result<Self, DecodeError> {
        Self::new(reader.u16()?).ok_or(DecodeError::PacketIdZero { packet })
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
