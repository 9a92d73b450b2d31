//! Whether what was received is what a script says.

use crate::script::{PacketLine, Step};
use codec::ProtocolVersion;

use crate::lines::decode::as_v5;
use crate::lines::encode::raw;
use crate::lines::wire::Property;
use crate::lines::words::{Pair, Words, number};

/// What an actor received: the packet, or that the connection was closed.
#[derive(Clone, Debug)]
pub struct Received {
    /// As a line.
    pub line: PacketLine,
    /// As it was on the wire; empty for `CLOSED`.
    pub bytes: Vec<u8>,
    /// The topic that its alias stands for, if it names none itself.
    pub topic: Option<Vec<u8>>,
}

/// What an actor is to receive in a turn, as it is in `version`: in 3.1.1 a server closes without
/// DISCONNECT, and in 5.0 it closes after DISCONNECT.
pub fn expected_in(version: ProtocolVersion, steps: &[&Step]) -> Vec<Step> {
    let mut expected: Vec<Step> = Vec::new();
    for step in steps {
        let is_disconnect = step.packet.name == "DISCONNECT";
        let is_closed = |step: &Step| step.packet.name == "CLOSED";
        if is_closed(step) && expected.last().is_some_and(is_closed) {
            continue;
        }
        if !is_disconnect || version == ProtocolVersion::V5 {
            expected.push((*step).clone());
        }
        if is_disconnect {
            expected.push(Step {
                packet: PacketLine::new("CLOSED"),
                ..(*step).clone()
            });
        }
    }
    expected
}

/// The first difference, as a sentence.
pub fn difference(
    version: ProtocolVersion,
    expected: &[Step],
    received: &[Received],
) -> Option<String> {
    let mut rest = received.to_vec();
    let mut steps = expected.iter().peekable();
    while let Some(step) = steps.next() {
        if !step.packet.name.starts_with('~') {
            if let Err(why) = next_matches(version, step, &mut rest) {
                return Some(why);
            }
            continue;
        }
        let mut any_order = vec![step];
        while let Some(step) = steps.next_if(|step| step.packet.name.starts_with('~')) {
            any_order.push(step);
        }
        if let Err(why) = all_match(version, &any_order, &mut rest) {
            return Some(why);
        }
    }
    let received = rest.first()?;
    Some(format!(
        "  expected nothing more\n  received {}",
        received.line
    ))
}

fn next_matches(
    version: ProtocolVersion,
    step: &Step,
    rest: &mut Vec<Received>,
) -> Result<(), String> {
    let expected = format!(
        "line {}\n  expected {}< {}",
        step.line, step.actor, step.packet
    );
    let Some(received) = rest.first() else {
        return Err(format!("{expected}\n  received nothing"));
    };
    matches(version, &step.packet, received)
        .map_err(|why| format!("{expected}\n  received {}\n  ({why})", received.line))?;
    rest.remove(0);
    Ok(())
}

/// Lines marked with `~` may come in any order.
fn all_match(
    version: ProtocolVersion,
    steps: &[&Step],
    rest: &mut Vec<Received>,
) -> Result<(), String> {
    for step in steps {
        let name = step.packet.name.trim_start_matches('~');
        let wanted = PacketLine::new(name).with_words(step.packet.words().to_vec());
        let among = rest.iter().take(steps.len());
        let found = among
            .enumerate()
            .find(|(_, received)| matches(version, &wanted, received).is_ok());
        let Some((index, _)) = found else {
            let lines: Vec<String> = rest.iter().map(|one| one.line.to_string()).collect();
            return Err(format!(
                "line {}\n  expected {}< {}\n  received {}",
                step.line,
                step.actor,
                step.packet,
                lines.join("\n           ")
            ));
        };
        rest.remove(index);
    }
    Ok(())
}

/// Whether one packet is as expected.
fn matches(
    version: ProtocolVersion,
    expected: &PacketLine,
    received: &Received,
) -> Result<(), String> {
    if expected.name == "RAW" {
        let bytes = raw(expected)?;
        let is_same = bytes == received.bytes;
        return is_same
            .then_some(())
            .ok_or_else(|| format!("its bytes are {:02x?}", received.bytes));
    }
    if expected.name != received.line.name {
        return Err("another packet".to_owned());
    }
    let wanted = wanted(version, expected)?;
    let mut found = Words::of(&received.line)?.0;
    let names_topic = wanted.get("topic").is_some_and(|topic| !topic.is_empty());
    if let Some(topic) = received.topic.as_ref().filter(|_| names_topic) {
        // A line may name the topic, and leave open how the broker says it.
        found.retain(|(key, _)| key != "topic");
        found.push(("topic".to_owned(), topic.clone()));
    }
    for pair in &wanted.0 {
        take(pair, &mut found)?;
    }
    let is_named = |key: &str| wanted.0.iter().any(|(name, _)| name == key);
    let left = found.iter().find(|(key, value)| {
        let is_brokers_own = key == "reason_string" || key == "up";
        match expected.name.as_str() {
            "CONNACK" if key == "reason" => number(value) != Ok(0),
            "CONNACK" => false,
            // Which alias it is, is the broker's affair.
            "PUBLISH" => key != "alias",
            "UNSUBACK" if key == "reason" => number(value) != Ok(0),
            _ => !is_brokers_own || is_named(key),
        }
    });
    match left {
        None => up_in_order(&wanted, &Words::of(&received.line)?),
        Some((key, value)) => Err(format!(
            "{key}={} was not expected",
            String::from_utf8_lossy(value)
        )),
    }
}

/// What is expected in this version: before 5.0 there are neither properties nor most codes.
fn wanted(version: ProtocolVersion, expected: &PacketLine) -> Result<Words, String> {
    let words = Words::of(expected)?;
    if version == ProtocolVersion::V5 {
        return Ok(words);
    }
    let is_suback = expected.name == "SUBACK";
    let is_connack = expected.name == "CONNACK";
    let words = words.filtered(|(key, _)| {
        let is_property = Property::named(key.trim_start_matches('-')).is_some();
        let is_code = key == "reason" && !is_suback && !is_connack;
        let is_unknown = key == "session_present" && version == ProtocolVersion::V31;
        !is_property && !is_code && !is_unknown
    });
    let in_311 = |(key, value): Pair| match key.as_str() {
        "reason" if is_suback => (key, suback_codes(&value)),
        "reason" if is_connack => {
            let code = number(&value).ok().and_then(as_v5);
            let value = code.map_or(value, |code| format!("{code:#04x}").into_bytes());
            (key, value)
        }
        _ => (key, value),
    };
    Ok(Words(words.0.into_iter().map(in_311).collect()))
}

/// Every refusal is 0x80 in 3.1.1.
fn suback_codes(value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let codes = text.split(',').map(|code| match number(code.as_bytes()) {
        Ok(0x80..) => "0x80",
        _ => code,
    });
    codes.collect::<Vec<_>>().join(",").into_bytes()
}

/// Takes what `wanted` asks for out of what was found.
fn take((key, value): &Pair, found: &mut Vec<Pair>) -> Result<(), String> {
    if let Some(absent) = key.strip_prefix('-') {
        return match found.iter().find(|(name, _)| name == absent) {
            None => Ok(()),
            Some((_, value)) => Err(format!(
                "{absent}={} is there",
                String::from_utf8_lossy(value)
            )),
        };
    }
    let any_value = value.is_empty() && Property::named(key).is_some();
    // What may be left out: success, and no aliases.
    let is_default = matches!(key.as_str(), "reason" | "alias_max")
        && value
            .split(|byte| *byte == b'|')
            .any(|one| number(one) == Ok(0));
    let place = found
        .iter()
        .position(|(name, other)| name == key && (any_value || is_value(key, value, other)));
    match place {
        Some(place) => {
            found.remove(place);
            Ok(())
        }
        None if is_default && !found.iter().any(|(name, _)| name == key) => Ok(()),
        None => Err(format!(
            "{key}{}{} is missing",
            if value.is_empty() { "" } else { "=" },
            String::from_utf8_lossy(value)
        )),
    }
}

/// `*`, `1|2`, `58..60s`, a set of identifiers, codes in either case, or exactly this.
fn is_value(key: &str, wanted: &[u8], found: &[u8]) -> bool {
    let (Ok(wanted_text), Ok(found_text)) =
        (std::str::from_utf8(wanted), std::str::from_utf8(found))
    else {
        return wanted == found;
    };
    let is_one = |wanted: &str| match key {
        _ if wanted == "*" => true,
        "sub_id" => sorted(wanted) == sorted(found_text),
        "reason" => wanted.eq_ignore_ascii_case(found_text),
        _ => match wanted.split_once("..") {
            Some((low, high)) if Property::named(key).is_some() => {
                let (low, high) = (number(low.as_bytes()), number(high.as_bytes()));
                match (low, high, number(found)) {
                    (Ok(low), Ok(high), Ok(found)) => (low..=high).contains(&found),
                    _ => wanted == found_text,
                }
            }
            _ => wanted == found_text,
        },
    };
    match key {
        "payload" | "topic" => wanted == found,
        _ => is_one(wanted_text) || wanted_text.split('|').any(is_one),
    }
}

fn sorted(list: &str) -> Vec<&str> {
    let mut items: Vec<&str> = list.split(',').collect();
    items.sort_unstable();
    items
}

/// User properties are passed on in their order.
fn up_in_order(wanted: &Words, found: &Words) -> Result<(), String> {
    let ups = |words: &Words| {
        let ups = words
            .0
            .iter()
            .filter(|(key, value)| key == "up" && !value.is_empty());
        ups.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let (wanted, found) = (ups(wanted), ups(found));
    let is_in_order = wanted.is_empty() || {
        let mut found = found.iter();
        wanted.iter().all(|one| found.any(|other| other == one))
    };
    is_in_order
        .then_some(())
        .ok_or_else(|| "user properties in another order".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    fn compare(version: ProtocolVersion, expected: &str, received: &[&str]) -> Option<String> {
        let parse = |lines: &str| Script::parse(&format!("a> PINGREQ\n{lines}")).unwrap();
        let script = parse(expected);
        let steps = expected_in(version, &script.turns()[0].expected);
        let received = parse(&received.join("\n"));
        let received: Vec<Received> = received.turns()[0]
            .expected
            .iter()
            .map(|step| Received {
                line: step.packet.clone(),
                bytes: vec![0x20, 2, 0, 0],
                topic: Some(b"resolved".to_vec()).filter(|_| step.packet.has("-")),
            })
            .collect();
        difference(version, &steps, &received)
    }

    #[test]
    fn what_is_as_written_is_accepted() {
        for (expected, received) in [
            (
                "a< CONNACK session_present=0",
                vec!["a< CONNACK session_present=0 reason=0x00 max_qos=1"],
            ),
            (
                "a< CONNACK reason=0x8A -up max_qos",
                vec!["a< CONNACK session_present=0 reason=0x8a max_qos=1"],
            ),
            (
                "a< RAW 2002 0000",
                vec!["a< CONNACK session_present=0 reason=0x00"],
            ),
            (
                "a< PUBLISH t q1 \"x\" sub_id=2,1 id=* expiry=58..60s",
                vec!["a< PUBLISH t q1 \"x\" id=1 expiry=59s sub_id=1,2"],
            ),
            ("a< PUBLISH t q0", vec!["a< PUBLISH t q0 \"\""]),
            (
                "a< PUBLISH resolved q0 \"x\"",
                vec!["a< PUBLISH - q0 \"x\" alias=1"],
            ),
            (
                "a< PUBLISH - q0 \"x\" alias=1",
                vec!["a< PUBLISH - q0 \"x\" alias=1"],
            ),
            (
                "a< ~PUBLISH t q0 \"x\"\na< ~PUBLISH u q0 \"y\"",
                vec!["a< PUBLISH u q0 \"y\"", "a< PUBLISH t q0 \"x\""],
            ),
            (
                "a< DISCONNECT reason=0x81|0x82",
                vec!["a< DISCONNECT reason=0x82 reason_string=why", "a< CLOSED"],
            ),
            (
                "a< SUBACK id=1 reason=0x00,0x80",
                vec!["a< SUBACK id=1 reason=0x00,0x80"],
            ),
            ("a< PUBACK id=1 reason=0x00", vec!["a< PUBACK id=1"]),
            ("a< PUBREC id=1 reason=0x00|0x10", vec!["a< PUBREC id=1"]),
            (
                "a< CONNACK alias_max=0",
                vec!["a< CONNACK session_present=0 reason=0x00"],
            ),
        ] {
            assert_eq!(
                compare(ProtocolVersion::V5, expected, &received),
                None,
                "{expected}"
            );
        }
    }

    #[test]
    fn what_differs_is_not() {
        for (expected, received) in [
            (
                "a< CONNACK",
                vec!["a< CONNACK session_present=0 reason=0x87"],
            ),
            (
                "a< CONNACK -max_qos",
                vec!["a< CONNACK session_present=0 reason=0x00 max_qos=1"],
            ),
            (
                "a< RAW 2003",
                vec!["a< CONNACK session_present=0 reason=0x00"],
            ),
            (
                "a< PUBLISH t q1 \"x\" id=1",
                vec!["a< PUBLISH t q1 \"x\" id=1 dup"],
            ),
            (
                "a< PUBLISH t q1 \"x\" id=1 dup",
                vec!["a< PUBLISH t q1 \"x\" id=1"],
            ),
            (
                "a< PUBLISH t q0 \"x\" expiry=58..60s",
                vec!["a< PUBLISH t q0 \"x\" expiry=57s"],
            ),
            (
                "a< PUBLISH t q0 \"x\" up=a:1 up=b:2",
                vec!["a< PUBLISH t q0 \"x\" up=b:2 up=a:1"],
            ),
            (
                "a< PUBLISH t q0 \"x\" up=a:1",
                vec!["a< PUBLISH t q0 \"x\" up=a:1 up=a:1"],
            ),
            ("a< PUBACK id=1", vec!["a< PUBACK id=1 reason=0x10"]),
            (
                "a< CONNACK alias_max=0",
                vec!["a< CONNACK session_present=0 reason=0x00 alias_max=9"],
            ),
            (
                "a< PUBACK id=1 -reason_string",
                vec!["a< PUBACK id=1 reason_string=x"],
            ),
            (
                "a< DISCONNECT reason=0x82",
                vec!["a< DISCONNECT reason=0x82"],
            ),
            ("a< DISCONNECT reason=0x82", vec!["a< CLOSED"]),
            ("a< PUBLISH t q0 \"x\"", vec![]),
            ("", vec!["a< PUBLISH t q0 \"x\""]),
            ("a< ~PUBLISH t q0 \"x\"", vec!["a< PUBLISH t q0 \"y\""]),
        ] {
            assert!(
                compare(ProtocolVersion::V5, expected, &received).is_some(),
                "{expected}"
            );
        }
    }

    #[test]
    fn in_311_there_is_less() {
        for (expected, received) in [
            ("a< PUBACK id=1 reason=0x10", vec!["a< PUBACK id=1"]),
            (
                "a< SUBACK id=1 reason=0x01,0x87",
                vec!["a< SUBACK id=1 reason=0x01,0x80"],
            ),
            ("a< DISCONNECT reason=0x8e\na< CLOSED", vec!["a< CLOSED"]),
            ("a< UNSUBACK id=1 reason=0x11", vec!["a< UNSUBACK id=1"]),
            (
                "a< PUBLISH t q0 \"x\" up=a:1",
                vec!["a< PUBLISH t q0 \"x\""],
            ),
            (
                "a< CONNACK reason=0x05 max_qos=1",
                vec!["a< CONNACK session_present=0 reason=0x87"],
            ),
        ] {
            assert_eq!(
                compare(ProtocolVersion::V311, expected, &received),
                None,
                "{expected}"
            );
        }
    }
}
