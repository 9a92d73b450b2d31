//! The notation of the tables: bytes that a person can read.
//!
//! | token | bytes |
//! |---|---|
//! | `30`, `0001` | pairs of hexadecimal digits |
//! | `'text'` | the text |
//! | `s'text'` | the text, its length in two bytes before it |
//! | `x50*'a'`, `x3*00` | what follows `*`, so many times |
//! | `\|` | the Remaining Length of all that follows |
//! | `{ … }` | properties, their length before them; nothing at all in 3.1.1 |
//! | `LEVEL` | the protocol level of the version |
//! | `ID` | the row's own client id, with its length |

use codec::ProtocolVersion;

/// What the tokens that depend on the row stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// Version of the row.
    pub(crate) version: ProtocolVersion,
    /// Client id of the row.
    pub(crate) client_id: &'a str,
}

impl Scene<'_> {
    /// The bytes that `notation` stands for.
    pub(crate) fn bytes(self, notation: &str) -> Vec<u8> {
        let (mut lengths, mut out) = (Vec::new(), Vec::new());
        let is_v5 = self.version == ProtocolVersion::V5;
        let mut is_left_out = false;
        for token in notation.split_whitespace() {
            match token {
                "{}" if !is_v5 => {}
                "{" | "}" if !is_v5 => is_left_out = token == "{",
                _ if is_left_out => {}
                "|" => lengths.push(out.len()),
                "{" => lengths.push(out.len()),
                "{}" => out.push(0),
                "}" => insert_length(&mut out, lengths.pop().expect("a { before it")),
                "LEVEL" => out.push(if is_v5 { 5 } else { 4 }),
                "ID" => push_string(&mut out, self.client_id.as_bytes()),
                _ => push_token(&mut out, token),
            }
        }
        if let Some(at) = lengths.pop() {
            insert_length(&mut out, at);
        }
        assert!(lengths.is_empty(), "unbalanced: {notation}");
        out
    }
}

fn push_token(out: &mut Vec<u8>, token: &str) {
    if let Some((times, token)) = token
        .strip_prefix('x')
        .and_then(|rest| rest.split_once('*'))
    {
        let times: usize = times.parse().expect("a number");
        (0..times).for_each(|_| push_token(out, token));
        return;
    }
    if let Some(text) = token.strip_prefix("s'") {
        return push_string(
            out,
            text.strip_suffix('\'').expect("a closing '").as_bytes(),
        );
    }
    if let Some(text) = token.strip_prefix('\'') {
        return out.extend(text.strip_suffix('\'').expect("a closing '").as_bytes());
    }
    assert!(
        token.len().is_multiple_of(2),
        "not pairs of digits: {token}"
    );
    let pairs = (0..token.len()).step_by(2).map(|at| &token[at..at + 2]);
    out.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")));
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(
        u16::try_from(bytes.len())
            .expect("a short text")
            .to_be_bytes(),
    );
    out.extend(bytes);
}

fn insert_length(out: &mut Vec<u8>, at: usize) {
    let length = variable_byte_integer(out.len() - at);
    out.splice(at..at, length);
}

/// The shortest encoding of a length.
pub(crate) fn variable_byte_integer(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(u8::try_from(value & 0x7F).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

#[test]
fn notation_stands_for_bytes() {
    let (version, client_id) = (ProtocolVersion::V5, "me");
    let v5 = Scene { version, client_id };
    let v311 = Scene {
        version: ProtocolVersion::V311,
        client_id,
    };
    let connect = "10 | s'MQTT' LEVEL 02 003C { 21 0001 } ID";
    let expected = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x3C\x03\x21\x00\x01\x00\x02me";
    assert_eq!(v5.bytes(connect), expected);
    assert_eq!(v311.bytes("30 | s't' {} x2*'ab'"), b"\x30\x07\x00\x01tabab");
    assert_eq!(
        v5.bytes("30 | s't' {} x2*0F"),
        b"\x30\x06\x00\x01t\x00\x0F\x0F"
    );
    assert_eq!(v311.bytes("40 | { 1F s'why' } 0001"), b"\x40\x02\x00\x01");
    assert_eq!(variable_byte_integer(128), [0x80, 0x01]);
}
