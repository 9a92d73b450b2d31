//! The data types of the wire (section 1.5): integers, Variable Byte Integer, UTF-8 string,
//! binary data, with a [`Reader`] and a [`Writer`] for them.
//!
//! Invariants: a [`Reader`] never yields bytes beyond its packet; what it yields are slices of the
//! packet, never copies. A [`Writer`] that counts and a [`Writer`] that writes agree on the length.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{DecodeError, EncodeError};

/// The largest value of a Variable Byte Integer, four bytes.
pub(crate) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// A UTF-8 Encoded String: at most 65,535 bytes, well-formed [MQTT-1.5.4-1], no U+0000
/// [MQTT-1.5.4-2]; U+FEFF is kept [MQTT-1.5.4-3].
///
/// Borrows from the buffer it was read from.
#[derive(Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Utf8(Bytes);

impl Utf8 {
    /// The text. Walks over it once more, since the bytes are stored without their proof.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // `try_from` is the only way to get here and the bytes are immutable since.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text as bytes, at no cost.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text as bytes that share the buffer, at the cost of one atomic increment.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Whether the string has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same text in another buffer, of which `bytes` must be a slice that equals it.
    pub(crate) fn moved_to(&self, bytes: Bytes) -> Self {
        debug_assert_eq!(self.0, bytes);
        Self(bytes)
    }

    /// A copy that does not pin the read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// `part`, which is a slice of this string, sharing the bytes.
    pub(crate) fn subset(&self, part: &str) -> Self {
        Self(self.0.slice_ref(part.as_bytes()))
    }
}

impl TryFrom<Bytes> for Utf8 {
    type Error = DecodeError;

    fn try_from(bytes: Bytes) -> Result<Self, DecodeError> {
        check_utf8(&bytes)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&str> for Utf8 {
    type Error = DecodeError;

    fn try_from(text: &str) -> Result<Self, DecodeError> {
        check_utf8(text.as_bytes())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }
}

impl fmt::Display for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// `bytes` as text if they are a legal UTF-8 Encoded String.
pub(crate) fn check_utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    if bytes.len() > usize::from(u16::MAX) {
        return Err(DecodeError::StringTooLong { bytes: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::StringNotUtf8 {
        valid_up_to: error.valid_up_to(),
    })?;
    if bytes.contains(&0) {
        return Err(DecodeError::StringContainsNull);
    }
    Ok(text)
}

/// A Variable Byte Integer as read: its value, its bytes, and whether fewer would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VariableByteInteger {
    pub(crate) value: u32,
    pub(crate) bytes: usize,
    pub(crate) is_minimal: bool,
}

/// Reads a Variable Byte Integer; `None` when `bytes` end before it does.
pub(crate) fn read_variable_byte_integer(
    bytes: &[u8],
) -> Result<Option<VariableByteInteger>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(VariableByteInteger {
                value,
                bytes: index + 1,
                is_minimal: index == 0 || byte != 0,
            }));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::VariableByteIntegerTooLong);
    }
    Ok(None)
}

/// The rest of one packet, taken field by field.
#[derive(Debug)]
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) const fn new(body: Bytes) -> Self {
        Self(body)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().or(Err(DecodeError::Truncated))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.try_get_u16().or(Err(DecodeError::Truncated))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().or(Err(DecodeError::Truncated))
    }

    /// A Variable Byte Integer of MQTT 5.0, which is as short as it can be [MQTT-1.5.5-1].
    pub(crate) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let Some(integer) = read_variable_byte_integer(&self.0)? else {
            return Err(DecodeError::Truncated);
        };
        if !integer.is_minimal {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        self.0.advance(integer.bytes);
        Ok(integer.value)
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.0.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    /// Two bytes of length and as many bytes of data.
    pub(crate) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    pub(crate) fn utf8(&mut self) -> Result<Utf8, DecodeError> {
        Utf8::try_from(self.binary()?)
    }

    /// All that is left.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }
}

/// Writes fields, or only counts the bytes they would take.
///
/// Each packet is walked twice by the same code, first to learn its length, then to write it, so
/// length fields are never patched afterwards and nothing is written when the packet is refused.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: Option<&'a mut BytesMut>,
    length: usize,
    error: Option<EncodeError>,
}

impl<'a> Writer<'a> {
    pub(crate) const fn counting() -> Self {
        Self {
            out: None,
            length: 0,
            error: None,
        }
    }

    pub(crate) const fn writing(out: &'a mut BytesMut) -> Self {
        Self {
            out: Some(out),
            length: 0,
            error: None,
        }
    }

    /// Bytes so far.
    ///
    /// # Errors
    /// The first error met on the way.
    pub(crate) fn finish(self) -> Result<usize, EncodeError> {
        self.error.map_or(Ok(self.length), Err)
    }

    /// Bytes so far, whether legal or not.
    pub(crate) const fn written(&self) -> usize {
        self.length
    }

    /// Notes that the packet cannot be encoded; the first note wins.
    pub(crate) fn refuse(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        if let Some(out) = &mut self.out {
            out.put_slice(bytes);
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// As few bytes as possible [MQTT-1.5.5-1].
    pub(crate) fn variable_byte_integer(&mut self, value: usize) {
        if value > VARIABLE_BYTE_INTEGER_MAX as usize {
            return self.refuse(EncodeError::PacketTooLarge { bytes: value });
        }
        let mut rest = value;
        loop {
            let [low, ..] = rest.to_le_bytes();
            rest >>= 7;
            if rest == 0 {
                return self.u8(low & 0x7F);
            }
            self.u8(low | 0x80);
        }
    }

    pub(crate) fn binary(&mut self, data: &[u8]) {
        match u16::try_from(data.len()) {
            Ok(length) => {
                self.u16(length);
                self.bytes(data);
            }
            Err(_) => self.refuse(EncodeError::DataTooLong { bytes: data.len() }),
        }
    }

    pub(crate) fn utf8(&mut self, text: &Utf8) {
        self.binary(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT-1.5.5-1]
    #[test]
    fn a_variable_byte_integer_takes_as_few_bytes_as_its_value_needs() {
        for (value, bytes) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (2_097_151, 3),
            (2_097_152, 4),
            (268_435_455, 4),
        ] {
            let mut out = BytesMut::new();
            let mut writer = Writer::writing(&mut out);
            writer.variable_byte_integer(value as usize);
            assert_eq!(writer.finish(), Ok(bytes));
            assert_eq!(
                read_variable_byte_integer(&out),
                Ok(Some(VariableByteInteger {
                    value,
                    bytes,
                    is_minimal: true
                }))
            );
            for cut in 0..out.len() {
                assert_eq!(read_variable_byte_integer(&out[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_fifth_length_byte_is_refused_as_soon_as_the_fourth_announces_it() {
        assert_eq!(
            read_variable_byte_integer(&[0x80, 0x80, 0x80, 0x80]),
            Err(DecodeError::VariableByteIntegerTooLong)
        );
        let mut writer = Writer::counting();
        writer.variable_byte_integer(268_435_456);
        assert!(writer.finish().is_err());
    }

    /// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.4-3]
    #[test]
    fn strings_are_checked_and_never_changed() {
        let string = |bytes: &'static [u8]| Utf8::try_from(Bytes::from_static(bytes));
        assert_eq!(
            string(b"\xEF\xBB\xBFx").unwrap().as_bytes(),
            b"\xEF\xBB\xBFx"
        );
        assert_eq!(string(b"a\0b"), Err(DecodeError::StringContainsNull));
        for bad in [&b"\xC0\x80"[..], b"\xED\xA0\x80", b"\xFF", b"\xE2\x82"] {
            assert_eq!(
                string(bad),
                Err(DecodeError::StringNotUtf8 { valid_up_to: 0 })
            );
        }
        assert!(Utf8::try_from("x".repeat(65_535).as_str()).is_ok());
        assert_eq!(
            Utf8::try_from("x".repeat(65_536).as_str()),
            Err(DecodeError::StringTooLong { bytes: 65_536 })
        );
    }
}
