//! Retained messages of the whole cluster, in the order of their topics.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, TopicFilter, TopicName};
use raft_store::{Command, Response as Answer, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use session::{StoredMessage, remaining_expiry_s};

use super::Answers;
use super::cursor;
use super::problem::{Problem, ok};
use super::publish::PUBLISHER;
use super::request::{Name, NoParams, Params, limit};
use super::sessions::ask;
use super::subscriptions::topic_name;
use crate::broker::Broker;
use crate::query::Cluster;

/// Looks at shards that one request takes, each of which may find nothing.
const LOOKS_MAX: usize = 256;
/// Bytes of messages that one look takes from a shard.
const LOOK_BYTES_MAX: u64 = 1024 * 1024;
/// Topics that one request clears.
const CLEARED_MAX: usize = 10_000;

/// `?filter&limit&cursor`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    filter: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `?filter`; it is needed, since it says what is cleared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClearParams {
    filter: String,
}

/// Behind which topic the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    topic: String,
}

/// A message with the shard that it is in.
type Found = (ShardId, Arc<StoredMessage>);

/// The retained messages that match a filter, merged over all shards.
struct Walk<'a> {
    broker: &'a Broker,
    filter: &'a TopicFilter,
    items_max: usize,
    looks: usize,
    shards: Vec<Ahead>,
}

/// What was read of a shard and not been passed yet.
struct Ahead {
    shard: ShardId,
    page: VecDeque<Arc<StoredMessage>>,
    after: Option<TopicName>,
    at_end: bool,
}

/// What a walk meets next.
enum Step {
    Message(Found),
    /// There may be more behind this topic, but the request has looked enough.
    Enough(Option<TopicName>),
    End,
}

impl<'a> Walk<'a> {
    fn new(
        broker: &'a Broker,
        filter: &'a TopicFilter,
        after: Option<&TopicName>,
        items_max: usize,
    ) -> Self {
        let ahead = |shard| Ahead {
            shard: ShardId(shard),
            page: VecDeque::new(),
            after: after.cloned(),
            at_end: false,
        };
        Self {
            broker,
            filter,
            items_max,
            looks: 0,
            shards: (0..broker.shards.count()).map(ahead).collect(),
        }
    }

    fn next(&mut self) -> Step {
        if !self.fill() {
            // Nothing was passed over: what is behind the least of these was not shown.
            let waiting = self.shards.iter().filter(|ahead| ahead.is_unread());
            let behind = waiting.map(|ahead| ahead.after.as_ref());
            let least = behind.min_by(|a, b| {
                let bytes = |topic: Option<&TopicName>| topic.map(TopicName::to_bytes);
                bytes(*a).cmp(&bytes(*b))
            });
            return Step::Enough(least.flatten().cloned());
        }
        let first = self
            .shards
            .iter_mut()
            .filter(|ahead| !ahead.page.is_empty())
            .min_by(|a, b| {
                let topic = |ahead: &Ahead| {
                    ahead
                        .page
                        .front()
                        .map(|stored| stored.message.topic.to_bytes())
                };
                topic(a).cmp(&topic(b))
            });
        let message = first.and_then(|ahead| Some((ahead.shard, ahead.page.pop_front()?)));
        message.map_or(Step::End, Step::Message)
    }

    /// Reads ahead in every shard. False: the request has looked enough.
    fn fill(&mut self) -> bool {
        for ahead in &mut self.shards {
            while ahead.is_unread() {
                if self.looks >= LOOKS_MAX {
                    return false;
                }
                self.looks = self.looks.saturating_add(1);
                let Some(shard) = self.broker.shards.shard(ahead.shard) else {
                    ahead.at_end = true;
                    continue;
                };
                let page = shard.with_machine(|machine| {
                    let after = ahead.after.as_ref();
                    machine.retained(self.filter, after, self.items_max, LOOK_BYTES_MAX)
                });
                ahead.at_end = page.continue_after.is_none();
                ahead.after = page.continue_after;
                ahead.page = page.messages.into();
            }
        }
        true
    }
}

impl Ahead {
    /// The shard has to be looked at.
    fn is_unread(&self) -> bool {
        self.page.is_empty() && !self.at_end
    }
}

/// `GET /retained`
pub(super) async fn list(
    State(answers): State<Arc<Answers>>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let limit = limit(params.limit)?;
    let filter = topic_filter(params.filter.as_deref().unwrap_or("#"))?;
    let place: Option<Place> = cursor::decode(params.cursor.as_deref())?;
    let after = place.map(|place| topic_name(&place.topic)).transpose()?;
    let mut walk = Walk::new(&cluster.broker, &filter, after.as_ref(), limit);
    let mut items = Vec::new();
    let mut last = after.clone();
    let next = loop {
        match walk.next() {
            Step::End => break None,
            Step::Enough(behind) => break behind.or(last),
            Step::Message(_) if items.len() == limit => break last,
            Step::Message((shard, stored)) => {
                last = Some(stored.message.topic.clone());
                items.push(describe(&cluster.broker, shard, &stored));
            }
        }
    };
    let mut answer = json!({ "retained": items });
    if let (Some(topic), Value::Object(answer)) = (next, &mut answer) {
        let topic = topic.as_str().to_owned();
        let cursor = cursor::encode(&Place { topic });
        answer.insert("next_cursor".to_owned(), json!(cursor));
    }
    Ok(ok(&answer))
}

/// `GET /retained/{topic}`
pub(super) async fn one(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (shard, stored) = find(cluster, &name)?;
    let Value::Object(mut document) = describe(&cluster.broker, shard, &stored) else {
        return Err(Problem::not_found(
            "there is no retained message on this topic",
        ));
    };
    document.extend(payload(&stored.message.payload));
    document.insert(
        "properties".to_owned(),
        properties(&stored.message.properties),
    );
    Ok(ok(&Value::Object(document)))
}

/// `DELETE /retained/{topic}`: new subscribers do not get it any more; connected ones are told nothing.
pub(super) async fn clear_one(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (shard, stored) = find(cluster, &name)?;
    clear(cluster, shard, stored.message.topic.clone()).await?;
    Ok(ok(&json!({ "cleared": 1, "more": false })))
}

/// `DELETE /retained?filter=`
pub(super) async fn clear_matching(
    State(answers): State<Arc<Answers>>,
    Params(params): Params<ClearParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let filter = topic_filter(&params.filter)?;
    let mut cleared = 0_usize;
    let mut walk = Walk::new(&cluster.broker, &filter, None, CLEARED_MAX.min(1_000));
    let more = loop {
        match walk.next() {
            Step::End => break false,
            Step::Enough(_) => break true,
            Step::Message(_) if cleared == CLEARED_MAX => break true,
            Step::Message((shard, stored)) => {
                clear(cluster, shard, stored.message.topic.clone()).await?;
                cleared = cleared.saturating_add(1);
            }
        }
    };
    Ok(ok(&json!({ "cleared": cleared, "more": more })))
}

async fn clear(cluster: &Cluster, shard: ShardId, topic: TopicName) -> Result<(), Problem> {
    let broker = &cluster.broker;
    let life = broker.serving().ok_or_else(Problem::no_quorum)?;
    let publisher = ClientId::new(PUBLISHER)
        .map_err(|error| Problem::unavailable(format!("no publisher: {error}")))?;
    let command = Command::SetRetained {
        client_id: publisher,
        epoch: None,
        message: Message {
            topic,
            payload: Bytes::new(),
            qos: Qos::AtMostOnce,
            retain: true,
            properties: MessageProperties::default(),
        },
        limits: broker.retained_limits(),
    };
    let answer = ask(&life, shard, &command).await?;
    if matches!(answer, Answer::RetainedSet { .. }) {
        return Ok(());
    }
    tracing::warn!(?answer, "a retained message was not cleared");
    Err(Problem::unavailable(
        "the shard refused to clear the message",
    ))
}

fn find(cluster: &Cluster, name: &Name) -> Result<Found, Problem> {
    let absent = || Problem::not_found("there is no retained message on this topic");
    let no_topic = |error| Problem::not_found(format!("this is no topic name: {error}"));
    let topic = TopicName::try_from(name.0.as_str()).map_err(no_topic)?;
    let filter = TopicFilter::try_from(name.0.as_str()).map_err(no_topic)?;
    let shard = cluster.broker.shard_of_topic(&topic);
    let local = cluster.broker.shards.shard(shard).ok_or_else(absent)?;
    let page = local.with_machine(|machine| machine.retained(&filter, None, 1, u64::MAX));
    let stored = page.messages.into_iter().next().ok_or_else(absent)?;
    Ok((shard, stored))
}

fn topic_filter(text: &str) -> Result<TopicFilter, Problem> {
    let filter = TopicFilter::try_from(text)
        .map_err(|error| Problem::bad_request(format!("this is no topic filter: {error}")))?;
    if filter.is_shared() {
        return Err(Problem::bad_request(
            "a shared subscription has no retained messages: leave $share/NAME/ out",
        ));
    }
    Ok(filter)
}

fn describe(broker: &Broker, shard: ShardId, stored: &StoredMessage) -> Value {
    let now = broker.shards.shard(shard).map(|shard| shard.leader_time());
    let message = &stored.message;
    json!({
        "topic": message.topic.as_str(),
        "qos": qos_number(message.qos),
        "payload_bytes": message.payload.len(),
        "expires_in_s": now.and_then(|now| remaining_expiry_s(stored.expires_at, now)),
        "version": stored.retained_version,
        "shard": shard.0,
    })
}

/// A payload that is text as such, any other in base64.
fn payload(payload: &Bytes) -> Map<String, Value> {
    let mut members = Map::new();
    match std::str::from_utf8(payload) {
        Ok(text) => members.insert("payload".to_owned(), json!(text)),
        Err(_) => members.insert("payload_base64".to_owned(), json!(STANDARD.encode(payload))),
    };
    members
}

fn properties(properties: &MessageProperties) -> Value {
    let user: Vec<[&str; 2]> = properties
        .user_properties
        .iter()
        .map(|(name, value)| [name.as_str(), value.as_str()])
        .collect();
    json!({
        "message_expiry_interval_s": properties.message_expiry_interval,
        "content_type": properties.content_type.as_ref().map(codec::Utf8::as_str),
        "response_topic": properties.response_topic.as_ref().map(TopicName::as_str),
        "correlation_data_base64": properties.correlation_data.as_ref().map(|data| STANDARD.encode(data)),
        "user_properties": user,
    })
}

/// 0, 1 or 2.
pub(super) fn qos_number(qos: Qos) -> u8 {
    qos as u8
}
