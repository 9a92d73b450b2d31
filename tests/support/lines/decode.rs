//! The bytes that a broker sends as a packet line, or what is wrong with them.

use crate::script::PacketLine;
use codec::ProtocolVersion;

use crate::lines::prefix::Prefix;
use crate::lines::wire::{Kind, Property, Reader};
use crate::lines::words::{escaped, word};

/// Decodes what the broker sends to one actor.
pub struct Decoder<'a> {
    /// The actor's protocol version.
    pub version: ProtocolVersion,
    /// What names begin with on the wire.
    pub prefix: &'a Prefix,
}

/// The names of packets by type; empty where a server sends none.
const NAMES: [&str; 16] = [
    "",
    "",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "",
    "SUBACK",
    "",
    "UNSUBACK",
    "",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

impl Decoder<'_> {
    /// A whole packet; `header` is the length of its fixed header.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub fn decode(&self, bytes: &[u8], header: usize) -> Result<PacketLine, String> {
        let first = *bytes.first().ok_or("no bytes")?;
        let name = NAMES.get(usize::from(first >> 4)).copied().unwrap_or("");
        let is_known = match name {
            "" => false,
            "DISCONNECT" | "AUTH" => self.is_v5(),
            _ => true,
        };
        if !is_known {
            return Err(format!("no packet that a server sends: {first:#04x}"));
        }
        let flags = first & 0x0F;
        let wanted = u8::from(name == "PUBREL") * 2;
        if name != "PUBLISH" && flags != wanted {
            return Err(format!("{name} with the flags {flags:#x}"));
        }
        let mut body = Reader(bytes.get(header..).unwrap_or_default());
        let line = PacketLine::new(name);
        let line = match name {
            "CONNACK" => self.connack(line, &mut body)?,
            "PUBLISH" => self.publish(line, flags, &mut body)?,
            "SUBACK" | "UNSUBACK" => self.codes(line, &mut body)?,
            "PINGRESP" => line,
            "DISCONNECT" | "AUTH" => self.reasoned(line, &mut body)?,
            _ => {
                let id = packet_id(&mut body)?;
                self.reasoned(line.with("id", id), &mut body)?
            }
        };
        if body.is_empty() {
            Ok(line)
        } else {
            Err(format!("{name} is longer than what it holds"))
        }
    }

    fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }

    /// The return codes of 3.1.1 are shown as the codes of 5.0 that mean the same.
    fn connack(&self, line: PacketLine, body: &mut Reader<'_>) -> Result<PacketLine, String> {
        let flags = body.number(1)?;
        if flags > 1 {
            return Err(format!("CONNACK with the flags {flags:#x}"));
        }
        let reason = body.number(1)?;
        let reason = if self.is_v5() {
            reason
        } else {
            as_v5(reason).ok_or_else(|| format!("CONNACK with the code {reason}"))?
        };
        let line = line
            .with("session_present", flags)
            .with("reason", format!("{reason:#04x}"));
        if self.is_v5() {
            self.properties(line, body)
        } else {
            Ok(line)
        }
    }

    fn publish(
        &self,
        line: PacketLine,
        flags: u8,
        body: &mut Reader<'_>,
    ) -> Result<PacketLine, String> {
        let (qos, dup, retain) = (flags >> 1 & 3, flags & 8 != 0, flags & 1 != 0);
        if qos == 3 || (qos == 0 && dup) {
            return Err(format!("PUBLISH with the flags {flags:#x}"));
        }
        let topic = body.text()?;
        let id = if qos > 0 {
            Some(packet_id(body)?)
        } else {
            None
        };
        let properties = if self.is_v5() {
            self.properties(PacketLine::new(""), body)?
        } else {
            PacketLine::new("")
        };
        if topic.is_empty() && properties.value("alias").is_none() {
            return Err("PUBLISH without a topic".to_owned());
        }
        if topic.iter().any(|byte| matches!(byte, b'#' | b'+')) {
            return Err("PUBLISH with a wildcard in its topic".to_owned());
        }
        let mut line = if topic.is_empty() {
            line.word("-")
        } else {
            line.word(word(self.prefix.off(topic)))
        };
        let payload = std::mem::take(&mut body.0);
        line = line.word(format!("q{qos}")).quoted(&escaped(payload));
        if let Some(id) = id {
            line = line.with("id", id);
        }
        if dup {
            line = line.word("dup");
        }
        if retain {
            line = line.word("retain");
        }
        Ok(properties.words().iter().fold(line, PacketLine::word))
    }

    fn codes(&self, line: PacketLine, body: &mut Reader<'_>) -> Result<PacketLine, String> {
        let mut line = line.with("id", packet_id(body)?);
        let properties = if self.is_v5() {
            self.properties(PacketLine::new(&line.name), body)?
        } else {
            PacketLine::new("")
        };
        let codes = std::mem::take(&mut body.0).iter();
        let codes: Vec<String> = codes.map(|code| format!("{code:#04x}")).collect();
        let has_codes = self.is_v5() || line.name == "SUBACK";
        if codes.is_empty() == has_codes {
            return Err(format!("{} with {} codes", line.name, codes.len()));
        }
        if has_codes {
            line = line.with("reason", codes.join(","));
        }
        Ok(properties.words().iter().fold(line, PacketLine::word))
    }

    /// A reason code, shown unless it is success, and properties.
    fn reasoned(&self, line: PacketLine, body: &mut Reader<'_>) -> Result<PacketLine, String> {
        if body.is_empty() || !self.is_v5() {
            return Ok(line);
        }
        let line = match body.number(1)? {
            0 => line,
            reason => line.with("reason", format!("{reason:#04x}")),
        };
        if body.is_empty() {
            return Ok(line);
        }
        self.properties(line, body)
    }

    fn properties(&self, line: PacketLine, body: &mut Reader<'_>) -> Result<PacketLine, String> {
        let length = usize::try_from(body.varint()?).map_err(|error| error.to_string())?;
        let mut rest = Reader(body.take(length)?);
        let packet = match line.name.as_str() {
            "" => "PUBLISH",
            name => name,
        };
        let mut found: Vec<(&str, String)> = Vec::new();
        while !rest.is_empty() {
            let id = rest.varint()?;
            let property = u8::try_from(id).ok().and_then(Property::numbered);
            let property = property.ok_or_else(|| format!("there is no property {id:#x}"))?;
            let name = property.name;
            if !property.is_from_server_in(packet) {
                return Err(format!("{packet} from a server has no {name}"));
            }
            if !property.may_repeat() && found.iter().any(|(other, _)| *other == name) {
                return Err(format!("{name} twice"));
            }
            found.push((name, self.value(property, &mut rest)?));
        }
        let identifiers = found.iter().filter(|(name, _)| *name == "sub_id");
        let identifiers: Vec<&str> = identifiers.map(|(_, value)| value.as_str()).collect();
        let mut line = line;
        for property in &crate::lines::wire::PROPERTIES {
            let name = property.name;
            if name == "sub_id" {
                if !identifiers.is_empty() {
                    line = line.with(name, identifiers.join(","));
                }
                continue;
            }
            for (_, value) in found.iter().filter(|(other, _)| *other == name) {
                line = line.with(name, value);
            }
        }
        Ok(line)
    }

    fn value(&self, property: &Property, rest: &mut Reader<'_>) -> Result<String, String> {
        Ok(match property.kind {
            Kind::Byte => rest.number(1)?.to_string(),
            Kind::Two => rest.number(2)?.to_string(),
            Kind::Four => rest.number(4)?.to_string(),
            Kind::Seconds => match rest.number(4)? {
                u32::MAX => "never".to_owned(),
                seconds => format!("{seconds}s"),
            },
            Kind::Varint => match rest.varint()? {
                0 => return Err(format!("{} is 0", property.name)),
                value => value.to_string(),
            },
            Kind::Text if property.name == "response" => word(self.prefix.off(rest.text()?)),
            Kind::Text => word(rest.text()?),
            Kind::Binary => format!("\"{}\"", escaped(rest.binary()?)),
            Kind::Pair => {
                let (name, value) = (rest.text()?, rest.text()?);
                word(&[name, b":", value].concat())
            }
        })
    }
}

fn packet_id(body: &mut Reader<'_>) -> Result<u32, String> {
    match body.number(2)? {
        0 => Err("the packet id is 0".to_owned()),
        id => Ok(id),
    }
}

/// The reason code of 5.0 for a return code of 3.1.1.
pub fn as_v5(code: u32) -> Option<u32> {
    match code {
        0 => Some(0x00),
        1 => Some(0x84),
        2 => Some(0x85),
        3 => Some(0x88),
        4 => Some(0x86),
        5 => Some(0x87),
        _ => None,
    }
}
