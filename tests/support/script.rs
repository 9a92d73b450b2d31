//! Readable scenarios: one packet per line, a comment says why.
//!
//! ```text
//! # A client that stays silent keeps its inflight window. [MQTT-4.4.0-1]
//! a> CONNECT clean_start=0 session_expiry=60s receive_maximum=1
//! a< CONNACK session_present=0
//! p> PUBLISH t q1 "one"
//! a< PUBLISH t q1 "one" id=1
//! a! drop
//! ```
//!
//! `a>` the actor `a` sends a packet, `a<` it receives one, `a!` something happens to it. Actors are
//! client ids, unless CONNECT says `client_id=…`; `broker` is the broker itself. The same files run
//! against a pure driver and over TCP: this parser knows no driver and needs only `codec`.
//!
//! An action (`>` or `!`) and the lines received before the next action form a turn. Within a turn
//! the order counts per actor. After a `PUBLISH` without `id=` the driver carries out the publisher's
//! whole handshake and shows none of it. A line may be for one version only: `[5.0] a< …`.

use std::fmt;

use codec::{PacketId, Qos};

/// A parsed file: turns, and the comments between them.
pub struct Script {
    lines: Vec<Line>,
}

/// One line with a packet or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line number, from 1.
    pub line: usize,
    /// The version that it is for, if only for one: `3.1`, `3.1.1` or `5.0`.
    pub version: Option<String>,
    /// Who.
    pub actor: String,
    /// What was sent, received, or happens.
    pub packet: PacketLine,
}

/// An action and what is received because of it.
pub struct Turn<'a> {
    /// `true`: the actor sends a packet; `false`: an event.
    pub is_send: bool,
    /// The action.
    pub action: &'a Step,
    /// Expected, in order per actor.
    pub expected: Vec<&'a Step>,
}

/// A packet or event in words: `NAME word … "payload" key=value flag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketLine {
    /// Packet type in capitals, or event in small letters.
    pub name: String,
    words: Vec<String>,
}

/// What an actor received in a turn.
pub type Received = (String, PacketLine);

enum Line {
    Text(String),
    Send(Step),
    Event(Step),
    Receive(Step),
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// A sentence with the number of the first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = Vec::new();
        let mut has_action = false;
        for (index, text) in text.lines().enumerate() {
            let number = index + 1;
            let line = Line::parse(number, text).map_err(|why| format!("line {number}: {why}"))?;
            match line {
                Line::Send(_) | Line::Event(_) => has_action = true,
                Line::Receive(_) if !has_action => {
                    return Err(format!(
                        "line {number}: nothing happened yet to receive from"
                    ));
                }
                Line::Receive(_) | Line::Text(_) => {}
            }
            lines.push(line);
        }
        Ok(Self { lines })
    }

    /// The turns in order, for any version.
    #[must_use]
    pub fn turns(&self) -> Vec<Turn<'_>> {
        Self::turns_of(self.lines.iter())
    }

    /// The turns in order, without the lines for other versions. What is for 3.1.1 is for 3.1 too.
    #[must_use]
    pub fn turns_for(&self, version: &str) -> Vec<Turn<'_>> {
        let is_for = |step: &Step| match step.version.as_deref() {
            None => true,
            Some("3.1.1") => version != "5.0",
            Some(other) => other == version,
        };
        Self::turns_of(self.lines.iter().filter(|line| match line {
            Line::Text(_) => false,
            Line::Send(step) | Line::Event(step) | Line::Receive(step) => is_for(step),
        }))
    }

    fn turns_of<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<Turn<'a>> {
        let mut turns: Vec<Turn<'a>> = Vec::new();
        for line in lines {
            match line {
                Line::Text(_) => {}
                Line::Receive(step) => {
                    if let Some(turn) = turns.last_mut() {
                        turn.expected.push(step);
                    }
                }
                Line::Send(action) | Line::Event(action) => turns.push(Turn {
                    is_send: matches!(line, Line::Send(_)),
                    action,
                    expected: Vec::new(),
                }),
            }
        }
        turns
    }

    /// The script with the expectations replaced where they differ from what was received, one
    /// entry per turn (`UPDATE=1`). Comments stay.
    #[must_use]
    pub fn updated(&self, received: &[Vec<Received>]) -> String {
        let differs: Vec<bool> = self
            .turns()
            .iter()
            .zip(received)
            .map(|(turn, actual)| turn.mismatch(actual).is_some())
            .collect();
        let mut out = String::new();
        let mut turn = 0;
        let mut keep = true;
        for line in &self.lines {
            match line {
                Line::Text(_) => {}
                Line::Receive(_) if !keep => continue,
                Line::Receive(_) => {}
                Line::Send(_) | Line::Event(_) => {
                    keep = !differs.get(turn).copied().unwrap_or(false);
                    out.push_str(&format!("{line}\n"));
                    if let (false, Some(actual)) = (keep, received.get(turn)) {
                        for (actor, packet) in actual {
                            out.push_str(&format!("{actor}< {packet}\n"));
                        }
                    }
                    turn += 1;
                    continue;
                }
            }
            out.push_str(&format!("{line}\n"));
        }
        out
    }
}

impl Turn<'_> {
    /// The first difference from what was received, as a sentence; `None` if there is none.
    #[must_use]
    pub fn mismatch(&self, received: &[Received]) -> Option<String> {
        let mut actors: Vec<&str> = received.iter().map(|(actor, _)| actor.as_str()).collect();
        actors.extend(self.expected.iter().map(|step| step.actor.as_str()));
        actors.sort_unstable();
        actors.dedup();
        actors
            .into_iter()
            .find_map(|actor| self.mismatch_of(actor, received))
    }

    fn mismatch_of(&self, actor: &str, received: &[Received]) -> Option<String> {
        let mut actual = received.iter().filter(|(who, _)| who == actor);
        for step in self.expected.iter().filter(|step| step.actor == actor) {
            let (line, expected) = (step.line, &step.packet);
            match actual.next() {
                Some((_, packet)) if packet == expected => {}
                Some((_, packet)) => {
                    return Some(format!(
                        "line {line}: expected {actor}< {expected}\n    but received {packet}"
                    ));
                }
                None => return Some(format!("line {line}: not received: {actor}< {expected}")),
            }
        }
        let (_, packet) = actual.next()?;
        let line = self.action.line;
        Some(format!("after line {line}: unexpected {actor}< {packet}"))
    }
}

impl PacketLine {
    /// A line with a name and no words yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            words: Vec::new(),
        }
    }

    /// Adds a word, e.g. a topic or a flag.
    #[must_use]
    pub fn word(mut self, word: impl fmt::Display) -> Self {
        self.words.push(word.to_string());
        self
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn with(self, key: &str, value: impl fmt::Display) -> Self {
        self.word(format!("{key}={value}"))
    }

    /// Adds a quoted payload.
    #[must_use]
    pub fn quoted(self, payload: &str) -> Self {
        self.word(format!("\"{payload}\""))
    }

    /// The words after the name.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The same name with other words.
    #[must_use]
    pub fn with_words(&self, words: Vec<String>) -> Self {
        Self {
            name: self.name.clone(),
            words,
        }
    }

    /// The `n`th word (from 0) that is neither quoted nor `key=value`.
    #[must_use]
    pub fn positional(&self, n: usize) -> Option<&str> {
        let plain = |word: &&String| !word.starts_with('"') && !word.contains('=');
        self.words.iter().filter(plain).nth(n).map(String::as_str)
    }

    /// Whether the word is there, e.g. `dup`.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.words.iter().any(|word| word == flag)
    }

    /// The value of `key=value`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words.iter().find_map(|word| {
            let (name, value) = word.split_once('=')?;
            (name == key).then_some(value)
        })
    }

    /// The number of `key=number`.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }

    /// The quoted payload without its quotes.
    #[must_use]
    pub fn payload(&self) -> Option<&str> {
        let quoted = |word: &String| word.starts_with('"');
        let word = self.words.iter().find(|word| quoted(word))?;
        Some(word.trim_matches('"'))
    }

    /// The word `q0`, `q1` or `q2`.
    #[must_use]
    pub fn qos(&self) -> Option<Qos> {
        let qos = ["q0", "q1", "q2"];
        let level = qos.iter().position(|word| self.has(word))?;
        Qos::try_from(u8::try_from(level).ok()?).ok()
    }

    /// The packet identifier of `id=`.
    #[must_use]
    pub fn packet_id(&self) -> Option<PacketId> {
        PacketId::new(self.value("id")?.parse().ok()?)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut words = split_words(text)?.into_iter();
        let name = words.next().ok_or("a packet or an event is missing")?;
        Ok(Self {
            name,
            words: words.collect(),
        })
    }
}

/// Seconds in `60s`; `never` is `u32::MAX`, which is what it means in MQTT.
#[must_use]
pub fn parse_seconds(text: &str) -> Option<u32> {
    match text {
        "never" => Some(u32::MAX),
        _ => text.strip_suffix('s')?.parse().ok(),
    }
}

impl Line {
    fn parse(number: usize, text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return Ok(Self::Text(text.to_owned()));
        }
        let (version, trimmed) = split_version(trimmed)?;
        let mark = trimmed
            .find(['>', '<', '!'])
            .ok_or("an actor with >, < or ! is missing")?;
        let (actor, rest) = trimmed.split_at(mark);
        let (mark, rest) = rest.split_at(1);
        if actor.is_empty() || !actor.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("{actor:?} is no actor"));
        }
        let step = Step {
            line: number,
            version,
            actor: actor.to_owned(),
            packet: PacketLine::parse(rest)?,
        };
        Ok(match mark {
            ">" => Self::Send(step),
            "<" => Self::Receive(step),
            _ => Self::Event(step),
        })
    }
}

/// The version of `[5.0] rest`, and the rest.
fn split_version(text: &str) -> Result<(Option<String>, &str), String> {
    let Some(tagged) = text.strip_prefix('[') else {
        return Ok((None, text));
    };
    let (version, rest) = tagged.split_once(']').ok_or("a ] is missing")?;
    if !["3.1", "3.1.1", "5.0"].contains(&version) {
        return Err(format!("{version:?} is no version"));
    }
    Ok((Some(version.to_owned()), rest.trim_start()))
}

/// Words at blanks; what is quoted, as a word or in one, keeps its quotes and may hold blanks.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in text.chars() {
        is_quoted ^= c == '"';
        if c == ' ' && !is_quoted {
            words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        } else {
            word.push(c);
        }
    }
    if is_quoted {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    Ok(words)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, step) = match self {
            Self::Text(text) => return f.write_str(text),
            Self::Send(step) => ('>', step),
            Self::Event(step) => ('!', step),
            Self::Receive(step) => ('<', step),
        };
        if let Some(version) = &step.version {
            write!(f, "[{version}] ")?;
        }
        write!(f, "{}{mark} {}", step.actor, step.packet)
    }
}

impl fmt::Display for PacketLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for word in &self.words {
            write!(f, " {word}")?;
        }
        Ok(())
    }
}
