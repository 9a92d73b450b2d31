//! The words of a packet line as keys and values, so that lines can be encoded and compared.
//!
//! ```text
//! PUBLISH t q1 "one" id=1 dup      topic=t  q1  payload=one  id=1  dup
//! ```
//!
//! Odd bytes are written `\x00`, odd characters `\u{FEFF}`; `payload_bytes=300` is 300 times `x`, and
//! the topic or filter `@65` has 65 levels, `@65x` 65 times `x`.

use crate::script::PacketLine;

/// A key and its value; the value of a flag is empty.
pub type Pair = (String, Vec<u8>);

/// A line's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub Vec<Pair>);

impl Words {
    /// The words of a packet, other than SUBSCRIBE and UNSUBSCRIBE.
    ///
    /// # Errors
    /// The word that makes no sense.
    pub fn of(packet: &PacketLine) -> Result<Self, String> {
        let mut words = packet.words().iter();
        let mut pairs = Vec::new();
        if packet.name == "PUBLISH" {
            let topic = words.next().ok_or("PUBLISH needs a topic, or -")?;
            let topic = if topic == "-" {
                Vec::new()
            } else {
                text(topic)?
            };
            pairs.push(("topic".to_owned(), topic));
        }
        for word in words {
            pairs.push(pair(word)?);
        }
        pairs.retain(|(key, value)| key != "payload" || !value.is_empty());
        Ok(Self(pairs))
    }

    /// The value of the first such key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let mut pairs = self.0.iter();
        pairs
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_slice())
    }

    /// Whether there is such a key or flag.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The number of such a key.
    ///
    /// # Errors
    /// It is no number.
    pub fn number(&self, key: &str) -> Result<Option<u32>, String> {
        self.get(key).map(number).transpose()
    }

    /// 0 for `q0` and so on.
    pub fn qos(&self) -> Option<u8> {
        (0_u8..=3).find(|qos| self.has(&format!("q{qos}")))
    }

    /// What satisfies `keep`.
    pub fn filtered(mut self, keep: impl Fn(&Pair) -> bool) -> Self {
        self.0.retain(keep);
        self
    }
}

/// A word as a pair.
///
/// # Errors
/// It has no colon.
pub fn pair(word: &str) -> Result<Pair, String> {
    if word.starts_with('"') {
        return Ok(("payload".to_owned(), text(word)?));
    }
    match word.split_once('=') {
        Some(("payload_bytes", count)) => {
            let count = count
                .parse()
                .map_err(|_range| format!("{word}: no number"))?;
            Ok(("payload".to_owned(), vec![b'x'; count]))
        }
        Some((key, value)) => Ok((key.to_owned(), text(value)?)),
        None => Ok((word.to_owned(), Vec::new())),
    }
}

/// `5`, `0x10`, `60s` or `never`; a flag is 1.
///
/// # Errors
/// When it is none of these.
pub fn number(value: &[u8]) -> Result<u32, String> {
    let text = String::from_utf8_lossy(value);
    if text.is_empty() {
        return Ok(1);
    }
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text == "never" => Some(u32::MAX),
        None => text.trim_end_matches('s').parse().ok(),
    };
    number.ok_or_else(|| format!("{text:?} is no number"))
}

/// The bytes that a word stands for.
///
/// # Errors
/// It is not text in quotes, or has an escape that does not exist.
pub fn text(word: &str) -> Result<Vec<u8>, String> {
    let quoted = word
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    if let (None, Some(count)) = (quoted, word.strip_prefix('@')) {
        let letters = count.strip_suffix('x');
        let count = letters.unwrap_or(count).parse();
        let count: usize = count.map_err(|_range| format!("{word}: no number"))?;
        return Ok(match letters {
            Some(_) => vec![b'x'; count],
            None => vec!["l"; count].join("/").into_bytes(),
        });
    }
    unescaped(quoted.unwrap_or(word))
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        let broken = || format!("{text}: \\xNN and \\u{{N}} are known");
        if let Some(tail) = escape.strip_prefix("\\u{") {
            let (digits, tail) = tail.split_once('}').ok_or_else(broken)?;
            let code = u32::from_str_radix(digits, 16).ok();
            let c = code.and_then(char::from_u32).ok_or_else(broken)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = tail;
        } else {
            let digits = escape.strip_prefix("\\x").and_then(|tail| tail.get(..2));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(broken)?);
            rest = escape.get(4..).unwrap_or("");
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// How bytes are written in a line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() || c == '\u{FEFF}' => {
                    out.push_str(&format!("\\u{{{:04X}}}", u32::from(c)));
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The same, in quotes if it would not be one plain word.
pub fn word(bytes: &[u8]) -> String {
    let text = escaped(bytes);
    let is_plain = !text.is_empty() && !text.contains([' ', '=', '@']) && text != "-";
    if is_plain {
        text
    } else {
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_it_was() {
        for bytes in [
            &b"plain"[..],
            b"with blank",
            b"\0\xff\"\\",
            "é\u{FEFF}".as_bytes(),
            b"",
            b"@3",
            b"a=b",
        ] {
            assert_eq!(text(&word(bytes)).unwrap(), bytes);
        }
        assert_eq!(text("@3").unwrap(), b"l/l/l");
    }
}
