//! `POST /publish`: a message from an administrator, handed on as that of any client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, Utf8};
use raft_store::{Command, Epoch, Response as Answer, encode_message};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::Answers;
use super::problem::{Problem, ok};
use super::request::{BODY_BYTES_MAX, NoParams, Params, read_json};
use super::sessions::ask;
use super::subscriptions::topic_name;
use crate::backlog::LiveLimits;
use crate::broker::Broker;
use crate::clock;
use crate::hold::Hold;
use crate::life::Life;
use crate::mailbox::{Mail, Mailbox};
use crate::proto::LivePublish;
use crate::proto::live_item::Kind as ItemKind;
use crate::registry::LiveMessage;
use crate::shared::{Shared, SharedMessage, SharedWaiter};
use crate::shared_routes::SharedRoute;
use crate::sys_topics;
use crate::waiter::{CommandWaiter, LiveWaiter};

/// Begins the names under which administrators publish.
pub(super) const PUBLISHER: &str = "$admin";
/// Newer than any connection of a client of that name.
const NEVER_FENCED: Epoch = Epoch(u64::MAX);
/// How long everybody concerned may take to have the message.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// All that is waited for has this name: there is one message.
const TAG: u64 = 1;

/// The body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    topic: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    message_expiry_interval_s: Option<u32>,
    content_type: Option<String>,
    #[serde(default)]
    user_properties: Vec<(String, String)>,
}

/// What became of a message.
#[derive(Debug, Default)]
struct Outcome {
    matched: bool,
    refused: bool,
}

/// `POST /publish`
pub(super) async fn publish(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
    request: Request,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let broker = &cluster.broker;
    let packet_bytes_max =
        usize::try_from(broker.config.mqtt.max_packet_size).unwrap_or(usize::MAX);
    // In base64 it is a third larger, and as JSON text up to six times.
    let body_bytes_max = packet_bytes_max
        .saturating_mul(2)
        .saturating_add(BODY_BYTES_MAX);
    let body: Body = read_json(request, body_bytes_max).await?;
    let message = message(body, broker)?;
    if message.size() > packet_bytes_max {
        let detail =
            format!("the message is larger than mqtt.max_packet_size, {packet_bytes_max} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let life = broker.serving().ok_or_else(Problem::no_quorum)?;
    let outcome = hand_on(broker, &life, &message).await?;
    if outcome.refused {
        let detail = "a subscriber's queue is full, and it is configured to refuse; others may have the message";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
    }
    Ok(ok(&json!({ "matched": outcome.matched })))
}

fn message(body: Body, broker: &Broker) -> Result<Message, Problem> {
    let topic = topic_name(&body.topic)?;
    if !sys_topics::is_open(&topic) {
        return Err(Problem::bad_request(
            "only the broker publishes below $SYS/",
        ));
    }
    let mqtt = &broker.config.mqtt;
    if !mqtt.accepts_topic(topic.as_str()) {
        return Err(Problem::bad_request(
            "the topic is longer than mqtt.max_topic_length or has more than mqtt.max_topic_levels",
        ));
    }
    if body.retain && !mqtt.retain_available {
        return Err(Problem::bad_request("mqtt.retain_available is false"));
    }
    let qos = match body.qos {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return Err(Problem::bad_request("qos is 0, 1 or 2")),
    };
    let payload = match (body.payload, body.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request(
                "give payload or payload_base64, not both",
            ));
        }
        (Some(text), None) => Bytes::from(text),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(Bytes::from)
            .map_err(|error| Problem::bad_request(format!("payload_base64: {error}")))?,
        (None, None) => Bytes::new(),
    };
    let text = |text: &str| {
        Utf8::try_from(text)
            .map_err(|error| Problem::bad_request(format!("a text is not valid in MQTT: {error}")))
    };
    let mut properties = MessageProperties {
        message_expiry_interval: body.message_expiry_interval_s,
        content_type: body.content_type.as_deref().map(text).transpose()?,
        ..MessageProperties::default()
    };
    for (name, value) in &body.user_properties {
        properties.user_properties.push((text(name)?, text(value)?));
    }
    Ok(Message {
        topic,
        payload,
        qos,
        retain: body.retain,
        properties,
    })
}

/// Stores a retained message, then hands it to every shard and node that may have a subscriber, and to
/// one member of each shared subscription; waits until all have it.
async fn hand_on(broker: &Broker, life: &Arc<Life>, message: &Message) -> Result<Outcome, Problem> {
    // A name that no client has: fences and take-overs of clients are none of its concern.
    let name = format!("{PUBLISHER}/{:016x}", rand::random::<u64>());
    let publisher = ClientId::new(&name)
        .map_err(|error| Problem::unavailable(format!("no publisher: {error}")))?;
    let retained_version = if message.retain {
        Some(store(broker, life, &publisher, message).await?)
    } else {
        None
    };
    // Its mail is bounded by what is waited for; no message is ever put into it.
    let limits = LiveLimits {
        messages_max: 1,
        bytes_max: 1,
    };
    let mailbox = Arc::new(Mailbox::new(limits, &broker.pressure));
    let mut sending = Sending {
        broker,
        life,
        publisher,
        mailbox,
        awaited: 0,
        outcome: Outcome::default(),
    };
    sending.send(message, retained_version);
    let answered = life
        .ended
        .run_until_cancelled(timeout(TAKEN_WITHIN, sending.settle()))
        .await;
    sending.mailbox.abandon();
    match answered {
        Some(Ok(())) => Ok(sending.outcome),
        Some(Err(_)) | None => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "not every subscriber's shard or node answered; some may have the message",
        )
        .with("code", json!("unknown_outcome"))),
    }
}

async fn store(
    broker: &Broker,
    life: &Life,
    publisher: &ClientId,
    message: &Message,
) -> Result<u64, Problem> {
    let command = Command::SetRetained {
        client_id: publisher.clone(),
        epoch: None,
        message: message.clone(),
        limits: broker.retained_limits(),
    };
    let answer = ask(life, broker.shard_of_topic(&message.topic), &command).await?;
    if let Answer::RetainedSet { version } = answer {
        return Ok(version);
    }
    if answer == Answer::RetainedFull {
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "limits.retained_max or retained_max_bytes is reached; the message went to nobody",
        ));
    }
    tracing::warn!(?answer, "a retained message was not stored");
    Err(Problem::unavailable(
        "the shard refused to store the message",
    ))
}

/// A message on its way.
struct Sending<'a> {
    broker: &'a Broker,
    life: &'a Arc<Life>,
    publisher: ClientId,
    mailbox: Arc<Mailbox>,
    awaited: usize,
    outcome: Outcome,
}

impl Sending<'_> {
    fn send(&mut self, message: &Message, retained_version: Option<u64>) {
        let routes = self.life.routes.route(&message.topic, message.qos);
        for shard in routes.shards {
            let command = Command::Publish {
                client_id: self.publisher.clone(),
                epoch: NEVER_FENCED,
                message: message.clone(),
                retained_version,
            };
            let waiter = CommandWaiter::Connection {
                mailbox: Arc::clone(&self.mailbox),
                tag: TAG,
                since: None,
            };
            self.awaited = self.awaited.saturating_add(1);
            self.life.propose(shard, &command, waiter);
        }
        for node in routes.nodes {
            if node == self.broker.node {
                self.deliver_here(message, retained_version);
            } else {
                self.send_to(node, message, retained_version);
            }
        }
        self.share(message, routes.shared);
    }

    fn deliver_here(&mut self, message: &Message, retained_version: Option<u64>) {
        let live_message = LiveMessage {
            message,
            expires_at: clock::expires_at(message),
            retained_version,
            since: None,
        };
        let delivered = self.life.registry.deliver(&self.publisher, &live_message);
        self.outcome.matched |= delivered.matched > 0;
        let Some(lagging) = delivered.lagging else {
            return;
        };
        let waiter = LiveWaiter::new(Arc::clone(&self.mailbox), TAG);
        if lagging.hold(Hold::Here(waiter)).is_ok() {
            self.awaited = self.awaited.saturating_add(1);
        }
    }

    fn send_to(
        &mut self,
        node: raft_store::NodeId,
        message: &Message,
        retained_version: Option<u64>,
    ) {
        let Some(link) = self.life.links.get(&node) else {
            return;
        };
        let encoded = encode_message(message);
        let bytes = encoded.len();
        let publish = LivePublish {
            client_id: self.publisher.as_str().to_owned(),
            epoch: NEVER_FENCED.0,
            message: encoded,
            retained_version,
        };
        self.awaited = self.awaited.saturating_add(1);
        self.outcome.matched = true;
        let waiter = LiveWaiter::new(Arc::clone(&self.mailbox), TAG);
        link.send(ItemKind::Publish(publish), bytes, Some(waiter));
    }

    fn share(&mut self, message: &Message, groups: Vec<SharedRoute>) {
        for SharedRoute { filter, place } in groups {
            // Nobody answers for a message at QoS 0.
            let waiter = (message.qos != Qos::AtMostOnce).then(|| SharedWaiter {
                mailbox: Arc::clone(&self.mailbox),
                tag: TAG,
            });
            if waiter.is_some() {
                self.awaited = self.awaited.saturating_add(1);
            } else {
                self.outcome.matched = true;
            }
            let publisher = (self.publisher.clone(), NEVER_FENCED);
            let shared = SharedMessage::published(publisher, filter, message, waiter);
            self.life.share(shared, place);
        }
    }

    /// Waits until all have answered.
    async fn settle(&mut self) {
        let mut mail = VecDeque::new();
        while self.awaited > 0 {
            self.mailbox.arrived().await;
            self.mailbox.take(&mut mail);
            while let Some(piece) = mail.pop_front() {
                self.note(&piece);
            }
        }
    }

    fn note(&mut self, mail: &Mail) {
        match mail {
            Mail::Answer {
                response: Answer::Published { matched, rejected },
                ..
            } => {
                self.outcome.matched |= *matched > 0;
                self.outcome.refused |= *rejected;
            }
            Mail::Shared { outcome, .. } => {
                self.outcome.matched |= *outcome == Shared::Placed;
                self.outcome.refused |= *outcome == Shared::Full;
            }
            // The release follows.
            Mail::Held { .. } => return,
            Mail::Answer { .. }
            | Mail::Received { .. }
            | Mail::Released { .. }
            | Mail::Visible { .. }
            | Mail::Resumed { .. }
            | Mail::Resync { .. }
            | Mail::Send { .. }
            | Mail::SendPubrel { .. }
            | Mail::Live { .. }
            | Mail::LiveShared(_)
            | Mail::Close(_) => {}
        }
        self.awaited = self.awaited.saturating_sub(1);
    }
}
