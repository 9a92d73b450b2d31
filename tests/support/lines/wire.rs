//! MQTT's primitives and properties, written for these tests alone: a codec shared with the broker
//! would agree with its mistakes.

/// How a property's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte.
    Byte,
    /// Two bytes.
    Two,
    /// Four bytes.
    Four,
    /// Four bytes, written as seconds.
    Seconds,
    /// A variable byte integer.
    Varint,
    /// A UTF-8 string.
    Text,
    /// Binary data.
    Binary,
    /// Two UTF-8 strings, written `name:value`.
    Pair,
}

/// A property.
pub struct Property {
    /// Its word in scripts.
    pub name: &'static str,
    /// Its identifier.
    pub id: u8,
    /// How its value is encoded.
    pub kind: Kind,
    /// The packets in which a server may send it.
    from_server: &'static [&'static str],
}

const fn property(
    name: &'static str,
    id: u8,
    kind: Kind,
    from_server: &'static [&'static str],
) -> Property {
    Property {
        name,
        id,
        kind,
        from_server,
    }
}

const CONNACK: &[&str] = &["CONNACK"];
const PUBLISH: &[&str] = &["PUBLISH"];
const REASONED: &[&str] = &[
    "CONNACK",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBACK",
    "UNSUBACK",
    "DISCONNECT",
    "AUTH",
];
const ANY: &[&str] = &[
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBACK",
    "UNSUBACK",
    "DISCONNECT",
    "AUTH",
];

/// Section 2.2.2.2, in the order in which lines show them.
pub const PROPERTIES: [Property; 27] = [
    property("expiry", 0x02, Kind::Seconds, PUBLISH),
    property("format", 0x01, Kind::Byte, PUBLISH),
    property("content_type", 0x03, Kind::Text, PUBLISH),
    property("response", 0x08, Kind::Text, PUBLISH),
    property("correlation", 0x09, Kind::Binary, PUBLISH),
    property("alias", 0x23, Kind::Two, PUBLISH),
    property("sub_id", 0x0B, Kind::Varint, PUBLISH),
    property("session_expiry", 0x11, Kind::Seconds, CONNACK),
    property("receive_maximum", 0x21, Kind::Two, CONNACK),
    property("max_qos", 0x24, Kind::Byte, CONNACK),
    property("retain_available", 0x25, Kind::Byte, CONNACK),
    property("max_packet", 0x27, Kind::Four, CONNACK),
    property("assigned_client_id", 0x12, Kind::Text, CONNACK),
    property("alias_max", 0x22, Kind::Two, CONNACK),
    property("reason_string", 0x1F, Kind::Text, REASONED),
    property("wildcard_available", 0x28, Kind::Byte, CONNACK),
    property("sub_id_available", 0x29, Kind::Byte, CONNACK),
    property("shared_available", 0x2A, Kind::Byte, CONNACK),
    property("server_keep_alive", 0x13, Kind::Two, CONNACK),
    property("response_info", 0x1A, Kind::Text, CONNACK),
    property(
        "server_reference",
        0x1C,
        Kind::Text,
        &["CONNACK", "DISCONNECT"],
    ),
    property("auth_method", 0x15, Kind::Text, &["CONNACK", "AUTH"]),
    property("auth_data", 0x16, Kind::Binary, &["CONNACK", "AUTH"]),
    property("req_prob_info", 0x17, Kind::Byte, &[]),
    property("will_delay", 0x18, Kind::Seconds, &[]),
    property("req_resp_info", 0x19, Kind::Byte, &[]),
    property("up", 0x26, Kind::Pair, ANY),
];

impl Property {
    /// The property that a word names.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROPERTIES.iter().find(|property| property.name == name)
    }

    /// The property with an identifier.
    pub fn numbered(id: u8) -> Option<&'static Self> {
        PROPERTIES.iter().find(|property| property.id == id)
    }

    /// Whether a server may send it in such a packet.
    pub fn is_from_server_in(&self, packet: &str) -> bool {
        self.from_server.contains(&packet)
    }

    /// Whether it may be there more than once: user properties, and identifiers in PUBLISH.
    pub fn may_repeat(&self) -> bool {
        matches!(self.name, "up" | "sub_id")
    }
}

/// A variable byte integer.
pub fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value % 128).unwrap_or(0);
        value /= 128;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

/// A string or binary data: length and bytes.
///
/// # Errors
/// When it is longer than 65,535 bytes.
pub fn put_text(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    let length =
        u16::try_from(bytes.len()).map_err(|_range| "a string is longer than 65535 bytes")?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Where the first packet of `bytes` ends: length of its fixed header, and of all of it. `None`: not
/// all is there yet.
///
/// # Errors
/// When Remaining Length is longer than needed.
pub fn packet_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        value += usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if index > 0 && *byte == 0 {
                return Err("Remaining Length is longer than needed".to_owned());
            }
            let header = 2 + index;
            return Ok((bytes.len() >= header + value).then_some((header, header + value)));
        }
    }
    if bytes.len() > 4 {
        return Err("Remaining Length has five bytes".to_owned());
    }
    Ok(None)
}

/// Reads a packet's body.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether all has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or("the packet ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    /// An unsigned integer of `bytes` bytes.
    ///
    /// # Errors
    /// When the packet ends before.
    pub fn number(&mut self, bytes: usize) -> Result<u32, String> {
        let taken = self.take(bytes)?.iter();
        Ok(taken.fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// Binary data.
    ///
    /// # Errors
    /// When the packet ends before.
    pub fn binary(&mut self) -> Result<&'a [u8], String> {
        let length = usize::try_from(self.number(2)?).map_err(|error| error.to_string())?;
        self.take(length)
    }

    /// A UTF-8 string.
    ///
    /// # Errors
    /// When it is none, holds U+0000, or the packet ends before.
    pub fn text(&mut self) -> Result<&'a [u8], String> {
        let bytes = self.binary()?;
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => Err("a string holds U+0000".to_owned()),
            Ok(_) => Ok(bytes),
            Err(_) => Err("a string is no UTF-8".to_owned()),
        }
    }

    /// A variable byte integer.
    ///
    /// # Errors
    /// When it is longer than needed, or the packet ends before.
    pub fn varint(&mut self) -> Result<u32, String> {
        let mut value = 0_u32;
        for index in 0..4 {
            let byte = self.number(1)?;
            value |= (byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                if index > 0 && byte == 0 {
                    return Err("a variable byte integer is longer than needed".to_owned());
                }
                return Ok(value);
            }
        }
        Err("a variable byte integer has five bytes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_as_written_and_only_in_its_shortest_form() {
        for value in [0_usize, 1, 127, 128, 16_383, 16_384, 2_097_152] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let read = Reader(&bytes).varint();
            assert_eq!(read, Ok(u32::try_from(value).unwrap()));
        }
        assert!(Reader(&[0x80, 0]).varint().is_err());
        assert!(Reader(&[0xFF, 0xFF, 0xFF, 0xFF, 1]).varint().is_err());
        assert!(packet_length(&[0xC0, 0x80, 0]).is_err());
        assert_eq!(packet_length(&[0x30, 2, 0]), Ok(None));
        assert_eq!(packet_length(&[0x30, 1, 0, 9]), Ok(Some((2, 3))));
    }
}
