//! What the broker sent, in words. Reads the bytes itself: the codec under test has no say here.

/// One packet off the front of `bytes`, and the bytes it takes; `None` while it is not complete.
pub(crate) fn packet(bytes: &[u8], is_v5: bool) -> Option<(String, usize)> {
    let first = *bytes.first()?;
    let (length, length_bytes) = variable_byte_integer(bytes.get(1..)?)?;
    let end = 1 + length_bytes + length;
    let body = bytes.get(1 + length_bytes..end)?;
    Some((words(first, body, is_v5), end))
}

fn words(first: u8, body: &[u8], is_v5: bool) -> String {
    let code = |at: usize| match body.get(at) {
        None | Some(0) => String::new(),
        Some(code) => format!(" 0x{code:02X}"),
    };
    let id = || format!("id={}", u16::from_be_bytes([byte(body, 0), byte(body, 1)]));
    match first {
        0x20 if byte(body, 0) == 0 => format!("CONNACK 0x{:02X}", byte(body, 1)),
        0x20 => format!(
            "CONNACK 0x{:02X} flags={:02X}",
            byte(body, 1),
            byte(body, 0)
        ),
        0x40 => format!("PUBACK {}{}", id(), code(2)),
        0x50 => format!("PUBREC {}{}", id(), code(2)),
        0x62 => format!("PUBREL {}{}", id(), code(2)),
        0x70 => format!("PUBCOMP {}{}", id(), code(2)),
        0x90 => format!("SUBACK {}{}", id(), codes(body, is_v5)),
        0xB0 => format!("UNSUBACK {}{}", id(), codes(body, is_v5)),
        0xD0 if body.is_empty() => "PINGRESP".to_owned(),
        0xE0 => format!("DISCONNECT 0x{:02X}", byte(body, 0)),
        0x30..=0x3F => "PUBLISH".to_owned(),
        _ => format!("bytes {first:02X} {body:02X?}"),
    }
}

/// The codes after packet id and, in 5.0, properties.
fn codes(body: &[u8], is_v5: bool) -> String {
    let rest = body.get(2..).unwrap_or_default();
    let skipped = match variable_byte_integer(rest) {
        Some((length, bytes)) if is_v5 => length + bytes,
        _ => 0,
    };
    let codes = rest.get(skipped..).unwrap_or_default();
    let codes: Vec<String> = codes.iter().map(|code| format!("0x{code:02X}")).collect();
    let space = if codes.is_empty() { "" } else { " " };
    format!("{space}{}", codes.join(","))
}

fn byte(body: &[u8], at: usize) -> u8 {
    body.get(at).copied().unwrap_or_default()
}

/// Value and length of a Variable Byte Integer that is complete.
fn variable_byte_integer(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

#[test]
fn what_is_received_is_put_into_words() {
    let v5 = |bytes: &[u8]| packet(bytes, true).expect("complete").0;
    assert_eq!(v5(b"\x20\x03\x00\x81\x00"), "CONNACK 0x81");
    assert_eq!(v5(b"\xE0\x02\x8E\x00"), "DISCONNECT 0x8E");
    assert_eq!(v5(b"\x70\x03\x00\x07\x92"), "PUBCOMP id=7 0x92");
    assert_eq!(
        v5(b"\x90\x06\x00\x01\x00\x00\x01\x8F"),
        "SUBACK id=1 0x00,0x01,0x8F"
    );
    assert_eq!(
        packet(b"\x90\x03\x00\x01\x80", false).expect("complete").0,
        "SUBACK id=1 0x80"
    );
    assert_eq!(
        packet(b"\xB0\x02\x00\x01", false).expect("complete").0,
        "UNSUBACK id=1"
    );
    assert_eq!(packet(b"\x20\x02\x00", false), None);
    assert_eq!(
        packet(b"\xD0\x00\x40", false),
        Some(("PINGRESP".to_owned(), 2))
    );
}
