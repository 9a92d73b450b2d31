//! `holdfast publish` and `subscribe`: a small MQTT 5.0 client, also to see whether a broker works.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use clap::Args;
use codec::{
    Ack, Connect, Decoder, Disconnect, Limits, MessageProperties, Packet, PacketId,
    ProtocolVersion, Publish, Qos, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    TopicFilter, TopicName, Utf8, encode,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// Until the connection stands, and for each answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Told to the broker; a PINGREQ goes out when half of it has passed in silence.
const KEEP_ALIVE_S: u16 = 60;
/// Bytes of a packet from the broker: all that the protocol allows.
const PACKET_BYTES_MAX: usize = 268_435_460;
/// The one id that this client needs: it waits for each answer.
const PACKET_ID: u16 = 1;

/// Which broker, and as whom.
#[derive(Debug, Clone, Args)]
pub struct BrokerArguments {
    /// Listener of a broker.
    #[arg(
        long,
        value_name = "URL",
        env = "HOLDFAST_MQTT_URL",
        default_value = "mqtt://127.0.0.1:1883"
    )]
    url: String,
    /// User name.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Client identifier; without, the broker chooses one.
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
}

/// Flags of `holdfast publish`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast publish sensors/7/temperature --qos 1 --retain -m 21.5"))]
pub struct PublishArguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// The topic name.
    topic: String,
    /// 0, 1 or 2.
    #[arg(long, short, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// New subscribers get it, too.
    #[arg(long, short)]
    retain: bool,
    /// The payload; without this and -f it is standard input.
    #[arg(long, short, conflicts_with = "file")]
    message: Option<String>,
    /// File with the payload.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Flags of `holdfast subscribe`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast subscribe 'sensors/#' -q 1"))]
pub struct SubscribeArguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// The topic filter.
    filter: String,
    /// 0, 1 or 2.
    #[arg(long, short, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// End after so many messages.
    #[arg(long, short, value_name = "COUNT")]
    count: Option<u64>,
}

/// Carries out `holdfast publish`: ends when the broker has acknowledged the message.
///
/// # Errors
/// The broker cannot be reached, or refuses.
pub async fn publish(arguments: &PublishArguments, format: AnswerFormat) -> Result<(), StartError> {
    let topic = TopicName::try_from(arguments.topic.as_str())
        .map_err(|error| StartError::Usage(format!("this is no topic name: {error}")))?;
    let payload = payload(arguments)?;
    let mut client = Client::connect(&arguments.broker).await?;
    let qos = qos(arguments.qos);
    let packet_id = (qos != Qos::AtMostOnce).then(packet_id).flatten();
    let publish = Packet::Publish(Publish {
        dup: false,
        qos,
        retain: arguments.retain,
        packet_id,
        topic: Some(topic),
        topic_alias: None,
        payload,
        properties: MessageProperties::default(),
        subscription_identifiers: Vec::new(),
    });
    client.send(&publish).await?;
    let matched = client.acknowledged(qos).await?;
    client.leave().await?;
    if format == AnswerFormat::Json {
        say(&json!({ "published": true, "matched": matched }).to_string());
    }
    Ok(())
}

fn payload(arguments: &PublishArguments) -> Result<Bytes, StartError> {
    if let Some(message) = &arguments.message {
        return Ok(Bytes::from(message.clone()));
    }
    let mut payload = Vec::new();
    let (what, read) = match &arguments.file {
        Some(file) => {
            let read =
                std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut payload));
            (format!("cannot read {}", file.display()), read)
        }
        None => {
            let read = std::io::stdin().lock().read_to_end(&mut payload);
            ("cannot read standard input".to_owned(), read)
        }
    };
    read.map_err(|error| StartError::failed(what, error))?;
    Ok(Bytes::from(payload))
}

/// Carries out `holdfast subscribe`: prints messages until it is stopped, or has as many as it wants.
///
/// # Errors
/// The broker cannot be reached, refuses, or ends the connection.
pub async fn subscribe(
    arguments: &SubscribeArguments,
    format: AnswerFormat,
) -> Result<(), StartError> {
    let filter = TopicFilter::try_from(arguments.filter.as_str())
        .map_err(|error| StartError::Usage(format!("this is no topic filter: {error}")))?;
    let mut client = Client::connect(&arguments.broker).await?;
    client.subscribe(filter, qos(arguments.qos)).await?;
    let mut left = arguments.count;
    while left != Some(0) {
        let publish = client.message().await?;
        say(&shown(&publish, format));
        left = left.map(|left| left.saturating_sub(1));
    }
    client.leave().await
}

fn shown(publish: &Publish, format: AnswerFormat) -> String {
    let topic = publish.topic.as_ref().map_or("", TopicName::as_str);
    let text = std::str::from_utf8(&publish.payload).ok();
    match format {
        AnswerFormat::Text => {
            format!("{topic} {}", String::from_utf8_lossy(&publish.payload))
        }
        AnswerFormat::Json => json!({
            "topic": topic,
            "payload": text,
            "payload_base64": text.is_none().then(|| STANDARD.encode(&publish.payload)),
            "qos": publish.qos as u8,
            "retain": publish.retain,
        })
        .to_string(),
    }
}

fn qos(number: u8) -> Qos {
    match number {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

fn packet_id() -> Option<PacketId> {
    PacketId::new(PACKET_ID)
}

/// One connection.
struct Client {
    stream: TcpStream,
    input: BytesMut,
    decoder: Decoder,
    url: String,
    /// Ids of QoS 2 messages that wait for PUBREL: a repeat is not shown again.
    unreleased: std::collections::BTreeSet<PacketId>,
}

impl Client {
    async fn connect(arguments: &BrokerArguments) -> Result<Self, StartError> {
        let url = arguments.url.clone();
        let address = address(&url)?;
        let connected = timeout(ANSWER_WITHIN, TcpStream::connect(&address)).await;
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| {
            let url = url.clone();
            StartError::Unreachable { url, source }
        };
        let stream = connected
            .map_err(|elapsed| unreachable(elapsed.into()))?
            .map_err(|error| unreachable(error.into()))?;
        stream.set_nodelay(true).ok();
        let limits = Limits {
            packet_bytes_max: PACKET_BYTES_MAX,
            ..Limits::default()
        };
        let mut client = Self {
            stream,
            input: BytesMut::new(),
            decoder: Decoder::from_server(ProtocolVersion::V5, limits),
            url,
            unreleased: std::collections::BTreeSet::new(),
        };
        let connect = connect_packet(arguments)?;
        client.send(&Packet::Connect(Box::new(connect))).await?;
        let answer = client.receive().await?;
        let Packet::Connack(connack) = answer else {
            return Err(unexpected(&answer));
        };
        if connack.reason_code == ReasonCode::Success {
            return Ok(client);
        }
        let reason = connack.reason_string.as_ref().map_or("", Utf8::as_str);
        Err(refused("refused CONNECT", connack.reason_code, reason))
    }

    async fn send(&mut self, packet: &Packet) -> Result<(), StartError> {
        let mut output = BytesMut::new();
        encode(packet, ProtocolVersion::V5, &mut output)
            .map_err(|error| StartError::Usage(error.to_string()))?;
        let written = timeout(ANSWER_WITHIN, self.stream.write_all(&output)).await;
        written
            .map_err(|elapsed| self.unreachable(elapsed))?
            .map_err(|error| self.unreachable(error))
    }

    /// The next packet, which must come soon.
    async fn receive(&mut self) -> Result<Packet, StartError> {
        let received = timeout(ANSWER_WITHIN, self.next()).await;
        received.map_err(|elapsed| self.unreachable(elapsed))?
    }

    /// The next packet, whenever it comes. Cancel-safe.
    async fn next(&mut self) -> Result<Packet, StartError> {
        loop {
            let decoded = self.decoder.decode(&mut self.input);
            let decoded = decoded.map_err(|error| {
                StartError::Refused(format!("what the broker sent is malformed: {error}"))
            })?;
            if let Some(Packet::Disconnect(disconnect)) = &decoded {
                let reason = disconnect.reason_string.as_ref().map_or("", Utf8::as_str);
                return Err(refused(
                    "ended the connection",
                    disconnect.reason_code,
                    reason,
                ));
            }
            if let Some(packet) = decoded {
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.input).await;
            if read.map_err(|error| self.unreachable(error))? == 0 {
                return Err(self.unreachable("the broker closed the connection"));
            }
        }
    }

    /// The handshake of the message that was just sent. Whether somebody was subscribed, as far as the
    /// broker says so.
    async fn acknowledged(&mut self, qos: Qos) -> Result<Option<bool>, StartError> {
        if qos == Qos::AtMostOnce {
            return Ok(None);
        }
        let mut matched = None;
        loop {
            let packet = self.receive().await?;
            if let (Packet::Puback(ack), Qos::AtLeastOnce) = (&packet, qos) {
                return has_matched(ack).map(Some);
            }
            if let (Packet::Pubrec(ack), Qos::ExactlyOnce) = (&packet, qos) {
                matched = Some(has_matched(ack)?);
                self.send(&Packet::Pubrel(Ack::success(ack.packet_id)))
                    .await?;
            } else if let (Packet::Pubcomp(_), Some(_)) = (&packet, matched) {
                return Ok(matched);
            } else {
                self.answer(&packet).await?;
            }
        }
    }

    async fn subscribe(&mut self, filter: TopicFilter, qos: Qos) -> Result<(), StartError> {
        let Some(packet_id) = packet_id() else {
            return Ok(());
        };
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription {
                filter,
                options: SubscriptionOptions::new(qos),
            }],
        });
        self.send(&subscribe).await?;
        let answer = self.receive().await?;
        let Packet::Suback(suback) = answer else {
            return Err(unexpected(&answer));
        };
        match suback.reason_codes.first() {
            Some(code) if code.is_error() => {
                let reason = suback.reason_string.as_ref().map_or("", Utf8::as_str);
                Err(refused("refused SUBSCRIBE", *code, reason))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The next message, acknowledged.
    async fn message(&mut self) -> Result<Publish, StartError> {
        loop {
            let silence = Duration::from_secs(u64::from(KEEP_ALIVE_S / 2));
            let Ok(packet) = timeout(silence, self.next()).await else {
                self.send(&Packet::Pingreq).await?;
                continue;
            };
            let packet = packet?;
            let Packet::Publish(publish) = packet else {
                self.answer(&packet).await?;
                continue;
            };
            match (publish.qos, publish.packet_id) {
                (Qos::AtLeastOnce, Some(id)) => {
                    self.send(&Packet::Puback(Ack::success(id))).await?;
                }
                (Qos::ExactlyOnce, Some(id)) => {
                    self.send(&Packet::Pubrec(Ack::success(id))).await?;
                    if !self.unreleased.insert(id) {
                        continue;
                    }
                }
                (Qos::AtMostOnce | Qos::AtLeastOnce | Qos::ExactlyOnce, _) => {}
            }
            return Ok(publish);
        }
    }

    /// What may come at any time.
    async fn answer(&mut self, packet: &Packet) -> Result<(), StartError> {
        if let Packet::Pubrel(ack) = packet {
            self.unreleased.remove(&ack.packet_id);
            return self
                .send(&Packet::Pubcomp(Ack::success(ack.packet_id)))
                .await;
        }
        if *packet == Packet::Pingresp {
            return Ok(());
        }
        Err(unexpected(packet))
    }

    /// Ends what is under way, and the connection.
    async fn leave(mut self) -> Result<(), StartError> {
        while !self.unreleased.is_empty() {
            let packet = self.receive().await?;
            // A message that nobody wants any more is not acknowledged, and its session ends.
            if !matches!(packet, Packet::Publish(_)) {
                self.answer(&packet).await?;
            }
        }
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))
            .await?;
        // The broker closes: until then it may not have read everything.
        self.stream.shutdown().await.ok();
        let rest = async {
            while self
                .stream
                .read_buf(&mut self.input)
                .await
                .is_ok_and(|n| n > 0)
            {}
        };
        timeout(ANSWER_WITHIN, rest).await.ok();
        Ok(())
    }

    fn unreachable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StartError {
        StartError::Unreachable {
            url: self.url.clone(),
            source: source.into(),
        }
    }
}

fn connect_packet(arguments: &BrokerArguments) -> Result<Connect, StartError> {
    let text = |text: &str| {
        Utf8::try_from(text).map_err(|error| StartError::Usage(format!("{text:?}: {error}")))
    };
    let mut connect = Connect::new(ProtocolVersion::V5, text(&arguments.client_id)?);
    connect.keep_alive_s = KEEP_ALIVE_S;
    connect.username = arguments.user.as_deref().map(text).transpose()?;
    if let Some(file) = &arguments.password_file {
        let name = file.display();
        let read = std::fs::read_to_string(file)
            .map_err(|error| StartError::failed(format!("cannot read {name}"), error))?;
        let password = read.lines().next().unwrap_or_default().to_owned();
        connect.password = Some(Bytes::from(password));
    }
    Ok(connect)
}

/// `host:port` of the URL; without a port that of MQTT.
fn address(url: &str) -> Result<String, StartError> {
    let wrong = || {
        StartError::Usage(format!(
            "{url}: expected mqtt:// and then HOST or HOST:PORT"
        ))
    };
    let host = url.strip_prefix("mqtt://").ok_or_else(wrong)?;
    let host = host.trim_end_matches('/');
    if host.is_empty() || host.contains(['/', '@']) {
        return Err(wrong());
    }
    let behind_brackets = host.rsplit(']').next().unwrap_or(host);
    if behind_brackets.contains(':') {
        Ok(host.to_owned())
    } else {
        Ok(format!("{host}:1883"))
    }
}

fn has_matched(ack: &Ack) -> Result<bool, StartError> {
    if ack.reason_code.is_error() {
        let reason = ack.reason_string.as_ref().map_or("", Utf8::as_str);
        return Err(refused("refused PUBLISH", ack.reason_code, reason));
    }
    Ok(ack.reason_code != ReasonCode::NoMatchingSubscribers)
}

fn refused(what: &str, code: ReasonCode, reason: &str) -> StartError {
    let code_number = code.as_u8();
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    let problem = format!("the broker {what}: {code:?} (0x{code_number:02x}){reason}");
    if code == ReasonCode::ServerUnavailable {
        StartError::NoQuorum(problem)
    } else {
        StartError::Refused(problem)
    }
}

fn unexpected(packet: &Packet) -> StartError {
    StartError::Refused(format!(
        "the broker sent {:?} out of turn",
        packet.packet_type()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        for (url, expected) in [
            ("mqtt://localhost", Some("localhost:1883")),
            ("mqtt://localhost:1884/", Some("localhost:1884")),
            ("mqtt://[::1]", Some("[::1]:1883")),
            ("mqtt://[::1]:1884", Some("[::1]:1884")),
            ("localhost:1883", None),
            ("mqtts://localhost", None),
            ("mqtt://x@x", None),
            ("mqtt://", None),
        ] {
            assert_eq!(address(url).ok().as_deref(), expected, "{url}");
        }
    }
}
