//! One network connection of an actor.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::History;
use testkit::history::Direction;
use testkit::script::PacketLine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use testkit::lines::compare::Received;
use testkit::lines::decode::Decoder;
use testkit::lines::prefix::Prefix;
use testkit::lines::wire::packet_length;
use testkit::lines::words::Words;

/// A broker that does not read for this long will not read.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// What every connection of a scenario needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) version: ProtocolVersion,
    pub(crate) prefix: Prefix,
    pub(crate) history: History,
}

/// An open connection.
pub(crate) struct Connection {
    stream: TcpStream,
    setting: Setting,
    who: Arc<str>,
    read: Vec<u8>,
    /// What was sent of a packet that is not complete yet.
    sent_partly: Vec<u8>,
    /// CONNACK with success has come.
    pub(crate) is_accepted: bool,
    /// Packets may not be longer.
    pub(crate) max_packet: Option<usize>,
    /// The broker's topic aliases may not be greater.
    pub(crate) alias_max: u64,
    aliases: BTreeMap<u64, Vec<u8>>,
}

impl Connection {
    /// Opens a connection and sends nothing.
    pub(crate) async fn open(
        address: SocketAddr,
        actor: &str,
        setting: &Setting,
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| format!("{actor} can't connect: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let who = Arc::from(format!("{actor}@{}", address.port()));
        Ok(Self {
            stream,
            setting: setting.clone(),
            who,
            read: Vec::new(),
            sent_partly: Vec::new(),
            is_accepted: false,
            max_packet: None,
            alias_max: 0,
            aliases: BTreeMap::new(),
        })
    }

    /// Sends bytes; `what` is for the history. A broker that is gone is noticed when reading.
    pub(crate) async fn send(&mut self, bytes: &[u8], what: String) {
        self.record(Direction::Sent, what);
        self.sent_partly.extend_from_slice(bytes);
        while let Ok(Some((_, length))) = packet_length(&self.sent_partly) {
            self.sent_partly.drain(..length);
        }
        match tokio::time::timeout(WRITE_WITHIN, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.record(Direction::Note, format!("not written: {error}")),
            Err(_) => self.record(Direction::Note, "the broker does not read".to_owned()),
        }
    }

    /// Sends PINGREQ, of which the history tells nothing.
    pub(crate) async fn ping(&mut self) {
        // A broker that is gone is noticed when reading.
        self.stream.write_all(&[0xC0, 0]).await.ok();
    }

    /// Whether a packet may follow: what was sent last is not the beginning of one.
    pub(crate) fn is_between_packets(&self) -> bool {
        self.sent_partly.is_empty()
    }

    /// The next packet, or `CLOSED`; `None`: nothing came in time.
    pub(crate) async fn receive(&mut self, until: Instant) -> Option<Received> {
        loop {
            if let Some(received) = self.take_packet() {
                if self.is_shown(&received.line) {
                    self.record(Direction::Received, received.line.to_string());
                }
                let is_connack = received.line.name == "CONNACK";
                self.is_accepted |= is_connack && received.line.value("reason") == Some("0x00");
                return Some(received);
            }
            match timeout_at(until, self.stream.read_buf(&mut self.read)).await {
                Err(_) => return None,
                Ok(Ok(0) | Err(_)) => {
                    self.record(Direction::Received, "CLOSED".to_owned());
                    return Some(Received {
                        line: PacketLine::new("CLOSED"),
                        bytes: Vec::new(),
                        topic: None,
                    });
                }
                Ok(Ok(_)) => {}
            }
        }
    }

    fn is_shown(&self, line: &PacketLine) -> bool {
        line.name != "PINGRESP"
    }

    /// A packet from what was read. What is no packet is a line that no script expects.
    fn take_packet(&mut self) -> Option<Received> {
        let (line, length) = match packet_length(&self.read) {
            Ok(None) => return None,
            Err(why) => (Err(why), self.read.len()),
            Ok(Some((header, length))) => {
                let decoder = Decoder {
                    version: self.setting.version,
                    prefix: &self.setting.prefix,
                };
                let bytes = self.read.get(..length).unwrap_or_default();
                (decoder.decode(bytes, header), length)
            }
        };
        let bytes: Vec<u8> = self.read.drain(..length).collect();
        let too_long = self.max_packet.is_some_and(|max| bytes.len() > max);
        let mut topic = None;
        let line = match line {
            Ok(_) if too_long => Err(format!("{} bytes are more than allowed", bytes.len())),
            Ok(line) => self.resolve(&line).map(|resolved| {
                topic = resolved;
                line
            }),
            Err(why) => Err(why),
        };
        let line = line.unwrap_or_else(|why| {
            PacketLine::new("MALFORMED")
                .quoted(&why)
                .word(format!("{bytes:02x?}"))
        });
        Some(Received { line, bytes, topic })
    }

    /// The topic that a PUBLISH does not name, by its alias.
    fn resolve(&mut self, line: &PacketLine) -> Result<Option<Vec<u8>>, String> {
        let (Some(alias), "PUBLISH") = (line.number("alias"), line.name.as_str()) else {
            return Ok(None);
        };
        if alias == 0 || alias > self.alias_max {
            return Err(format!("alias {alias} is not up to {}", self.alias_max));
        }
        let words = Words::of(line)?;
        match words.get("topic").filter(|topic| !topic.is_empty()) {
            Some(topic) => {
                self.aliases.insert(alias, topic.to_vec());
                Ok(None)
            }
            None => {
                let topic = self.aliases.get(&alias);
                let topic = topic.ok_or_else(|| format!("alias {alias} stands for nothing"))?;
                Ok(Some(topic.clone()))
            }
        }
    }

    /// Closes our half.
    pub(crate) async fn half_close(&mut self) {
        self.record(Direction::Note, "FIN".to_owned());
        // A peer that is gone needs no FIN.
        self.stream.shutdown().await.ok();
    }

    /// Closes the connection with RST.
    pub(crate) fn reset(self) {
        self.record(Direction::Note, "RST".to_owned());
        // Without linger it would be a FIN; then the test shows less, but nothing wrong.
        #[expect(
            deprecated,
            reason = "the replacement is the same call; it does not block with 0"
        )]
        self.stream.set_linger(Some(Duration::ZERO)).ok();
    }

    fn record(&self, direction: Direction, text: String) {
        self.setting.history.record(&self.who, direction, text);
    }
}
