//! A packet line as the bytes that a client sends: what it says, legal or not.

use crate::script::PacketLine;
use codec::ProtocolVersion;

use crate::lines::prefix::Prefix;
use crate::lines::wire::{Kind, Property, put_text, put_varint};
use crate::lines::words::{Words, number, pair, text};

/// Encodes lines of one script.
pub struct Encoder<'a> {
    /// The actor's protocol version.
    pub version: ProtocolVersion,
    /// What names begin with on the wire.
    pub prefix: &'a Prefix,
}

impl Encoder<'_> {
    /// The bytes of a packet. `client_id` is CONNECT's unless it names one.
    ///
    /// # Errors
    /// The word that makes no sense.
    pub fn encode(&self, packet: &PacketLine, client_id: &str) -> Result<Vec<u8>, String> {
        let name = packet.name.as_str();
        match name {
            "RAW" => return raw(packet),
            "SUBSCRIBE" => return self.subscribe(packet, 0x82),
            "UNSUBSCRIBE" => return self.subscribe(packet, 0xA2),
            _ => {}
        }
        let words = Words::of(packet)?;
        let (first, body) = match name {
            "CONNECT" => (0x10, self.connect(&words, client_id)?),
            "PUBLISH" => self.publish(&words)?,
            "PUBACK" => (0x40, self.acknowledgement(&words)?),
            "PUBREC" => (0x50, self.acknowledgement(&words)?),
            "PUBREL" => (0x62, self.acknowledgement(&words)?),
            "PUBCOMP" => (0x70, self.acknowledgement(&words)?),
            "PINGREQ" => (0xC0, Vec::new()),
            "DISCONNECT" => (0xE0, self.reasoned(&words, &[])?),
            "AUTH" => (0xF0, self.reasoned(&words, &[])?),
            _ => return Err(format!("{name} is no packet that a client sends")),
        };
        Ok(packet_of(first, &body))
    }

    fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }

    fn connect(&self, words: &Words, client_id: &str) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        let (protocol, level) = match self.version {
            ProtocolVersion::V31 => (&b"MQIsdp"[..], 3),
            ProtocolVersion::V311 => (&b"MQTT"[..], 4),
            ProtocolVersion::V5 => (&b"MQTT"[..], 5),
        };
        put_text(&mut body, protocol)?;
        body.push(level);
        let flag = |is_set: bool, bit: u8| u8::from(is_set) << bit;
        let will_qos = words.number("will_qos")?.unwrap_or(0);
        let flags = flag(words.has("user"), 7)
            | flag(words.has("pass"), 6)
            | flag(words.number("will_retain")?.unwrap_or(0) == 1, 5)
            | u8::try_from(will_qos & 3).unwrap_or(0) << 3
            | flag(words.has("will_topic"), 2)
            | flag(words.number("clean_start")?.unwrap_or(1) == 1, 1);
        body.push(flags);
        let keep_alive = words.number("keep_alive")?.unwrap_or(0);
        put_number(&mut body, keep_alive, 2)?;
        let (will, own): (Vec<_>, Vec<_>) = words
            .0
            .iter()
            .cloned()
            .partition(|(key, _)| key.starts_with("will_"));
        self.put_properties(&mut body, &Words(own))?;
        let client_id = words.get("client_id").unwrap_or(client_id.as_bytes());
        match client_id.strip_prefix(b"assigned:") {
            Some(assigned) => put_text(&mut body, assigned)?,
            None => put_text(&mut body, &self.prefix.id(client_id))?,
        }
        if let Some(topic) = words.get("will_topic") {
            self.put_properties(&mut body, &will_properties(will))?;
            put_text(&mut body, &self.prefix.topic(topic))?;
            put_text(&mut body, words.get("will_payload").unwrap_or(b""))?;
        }
        for key in ["user", "pass"] {
            if let Some(value) = words.get(key) {
                put_text(&mut body, value)?;
            }
        }
        Ok(body)
    }

    fn publish(&self, words: &Words) -> Result<(u8, Vec<u8>), String> {
        let qos = words.qos().ok_or("q0, q1 or q2 is missing")?;
        let first = 0x30 | u8::from(words.has("dup")) << 3 | qos << 1;
        let first = first | u8::from(words.has("retain"));
        let mut body = Vec::new();
        let topic = words.get("topic").unwrap_or(b"");
        put_text(&mut body, &self.prefix.topic(topic))?;
        if qos > 0 {
            put_number(&mut body, words.number("id")?.ok_or("id= is missing")?, 2)?;
        }
        self.put_properties(&mut body, words)?;
        body.extend_from_slice(words.get("payload").unwrap_or(b""));
        Ok((first, body))
    }

    fn acknowledgement(&self, words: &Words) -> Result<Vec<u8>, String> {
        let mut id = Vec::new();
        put_number(&mut id, words.number("id")?.ok_or("id= is missing")?, 2)?;
        self.reasoned(words, &id)
    }

    /// A reason code and properties, as far as they are needed.
    fn reasoned(&self, words: &Words, before: &[u8]) -> Result<Vec<u8>, String> {
        let mut body = before.to_vec();
        if !self.is_v5() {
            return Ok(body);
        }
        let reason = words.number("reason")?;
        let has_properties = words
            .0
            .iter()
            .any(|(key, _)| Property::named(key).is_some());
        if reason.is_some() || has_properties {
            put_number(&mut body, reason.unwrap_or(0), 1)?;
        }
        if has_properties {
            self.put_properties(&mut body, words)?;
        }
        Ok(body)
    }

    /// SUBSCRIBE and UNSUBSCRIBE: filters with their options between commas.
    fn subscribe(&self, packet: &PacketLine, first: u8) -> Result<Vec<u8>, String> {
        let is_subscribe = packet.name == "SUBSCRIBE";
        let mut header = Words::default();
        let mut filters = Vec::new();
        for group in packet.words().split(|word| word == ",") {
            let mut filter = None;
            let mut options = 0;
            for word in group {
                let named = word.split_once('=').map_or("", |(key, _)| key);
                match word.as_str() {
                    word if filter.is_none() && !is_header_key(named) => {
                        filter = Some(self.prefix.filter(&text(word)?)?);
                    }
                    "q0" => {}
                    "q1" => options |= 1,
                    "q2" => options |= 2,
                    "no_local" => options |= 4,
                    "rap" => options |= 8,
                    "rh=0" => {}
                    "rh=1" => options |= 0x10,
                    "rh=2" => options |= 0x20,
                    word if is_header_key(named) => header.0.push(pair(word)?),
                    word => return Err(format!("{word} is no option")),
                }
            }
            filters.extend(filter.map(|filter| (filter, options)));
        }
        let mut body = Vec::new();
        put_number(&mut body, header.number("id")?.ok_or("id= is missing")?, 2)?;
        self.put_properties(&mut body, &header)?;
        for (filter, options) in filters {
            put_text(&mut body, &filter)?;
            if is_subscribe {
                body.push(if self.is_v5() { options } else { options & 3 });
            }
        }
        Ok(packet_of(first, &body))
    }

    /// The properties among `words`, in their order; 3.1.1 has none.
    fn put_properties(&self, body: &mut Vec<u8>, words: &Words) -> Result<(), String> {
        if !self.is_v5() {
            return Ok(());
        }
        let mut out = Vec::new();
        for (key, value) in &words.0 {
            let Some(property) = Property::named(key) else {
                continue;
            };
            put_varint(&mut out, usize::from(property.id));
            match property.kind {
                Kind::Byte => put_number(&mut out, number(value)?, 1)?,
                Kind::Two => put_number(&mut out, number(value)?, 2)?,
                Kind::Four | Kind::Seconds => put_number(&mut out, number(value)?, 4)?,
                Kind::Varint => put_varint(&mut out, usize::try_from(number(value)?).unwrap_or(0)),
                Kind::Text if key == "response" => {
                    put_text(&mut out, &self.prefix.topic(value))?;
                }
                Kind::Text | Kind::Binary => put_text(&mut out, value)?,
                Kind::Pair => {
                    let colon = value.iter().position(|byte| *byte == b':');
                    let (name, value) = value.split_at(colon.ok_or("up=NAME:VALUE")?);
                    put_text(&mut out, name)?;
                    put_text(&mut out, value.strip_prefix(b":").unwrap_or(value))?;
                }
            }
        }
        put_varint(body, out.len());
        body.extend_from_slice(&out);
        Ok(())
    }
}

/// `will_delay` is the will's own; the others are those of its message.
fn will_properties(pairs: Vec<(String, Vec<u8>)>) -> Words {
    let renamed = pairs.into_iter().map(|(key, value)| match key.as_str() {
        "will_delay" => (key, value),
        _ => (key.trim_start_matches("will_").to_owned(), value),
    });
    Words(renamed.collect())
}

fn is_header_key(key: &str) -> bool {
    matches!(key, "id" | "sub_id" | "up" | "reason_string")
}

fn put_number(out: &mut Vec<u8>, value: u32, bytes: usize) -> Result<(), String> {
    let all = value.to_be_bytes();
    let (high, low) = all.split_at(all.len() - bytes);
    if high.iter().any(|byte| *byte != 0) {
        return Err(format!("{value} does not fit into {bytes} bytes"));
    }
    out.extend_from_slice(low);
    Ok(())
}

fn packet_of(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// Hexadecimal digits, and text in quotes.
///
/// # Errors
/// The word that is neither bytes nor text.
pub fn raw(packet: &PacketLine) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for word in packet.words() {
        if word.starts_with('"') {
            out.extend(text(word)?);
            continue;
        }
        let digits = word.as_bytes().chunks(2);
        for digits in digits {
            let digits = std::str::from_utf8(digits).unwrap_or("");
            let byte = u8::from_str_radix(digits, 16).ok();
            out.push(
                byte.filter(|_| digits.len() == 2)
                    .ok_or_else(|| format!("{word} is not hexadecimal"))?,
            );
        }
    }
    Ok(out)
}
