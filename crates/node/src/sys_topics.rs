//! `$SYS/`: statistics as retained messages, under mosquitto's names where they mean the same.
//!
//! The leader of shard 0 asks all nodes, sums up and publishes what has changed, at QoS 0. Clients must
//! not publish there.

mod load;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, TopicName};
use raft_store::{Command, Epoch, NodeId, Response, ShardId, encode_message};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::load::Loads;
use crate::broker::Broker;
use crate::clock;
use crate::life::Life;
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::{LivePublish, StatisticsReply};
use crate::registry::LiveMessage;
use crate::statistics::{self, Stored};
use crate::version;

/// Only the broker publishes below this.
const PREFIX: &str = "$SYS/";
/// Whose messages they are; no client is told.
const PUBLISHER: &str = "$SYS";
/// Newer than any connection of a client of that name.
const NEVER_FENCED: Epoch = Epoch(u64::MAX);

/// Whether a client may publish to the topic.
pub(crate) fn is_open(topic: &TopicName) -> bool {
    !topic.as_str().starts_with(PREFIX) && topic.as_str() != PUBLISHER
}

/// What is said: payload by topic.
type Texts = BTreeMap<String, String>;

/// Publishes for ever, while this node leads shard 0.
pub(crate) async fn run(broker: Arc<Broker>) {
    let config = &broker.config.sys_topics;
    if !config.enabled {
        return;
    }
    let mut tick = interval(config.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut loads = Loads::default();
    let mut published = Texts::new();
    loop {
        tick.tick().await;
        if !broker.leads(ShardId::ZERO) {
            // Another leader may have published since.
            published.clear();
            loads = Loads::default();
            continue;
        }
        let nodes = ask_all(&broker).await;
        let Some(life) = broker.serving() else {
            continue;
        };
        loads.add(clock::now(), &sum(&nodes));
        let mut texts = Texts::new();
        describe(&broker, &nodes, &mut texts);
        loads.describe(&mut texts);
        let is_news =
            |topic: &str, text: &str| published.get(topic).is_none_or(|last| last != text);
        texts.retain(|topic, text| is_news(topic, text));
        for (topic, text) in publish(&broker, &life, texts).await {
            published.insert(topic, text);
        }
    }
}

/// What each node tells; those that do not answer are missing.
async fn ask_all(broker: &Broker) -> BTreeMap<NodeId, StatisticsReply> {
    let mut nodes = BTreeMap::from([(broker.node, statistics::of_this_node(broker))]);
    let asked = broker
        .visibility
        .clients()
        .map(|(peer, mut client)| async move {
            let request = crate::proto::StatisticsRequest {
                cluster: broker.config.cluster.name.clone(),
            };
            let reply = timeout(broker.lease.duration(), client.statistics(request)).await;
            Some((peer, reply.ok()?.ok()?.into_inner()))
        });
    nodes.extend(futures::future::join_all(asked).await.into_iter().flatten());
    nodes
}

/// The sums over all nodes that answered.
fn sum(nodes: &BTreeMap<NodeId, StatisticsReply>) -> StatisticsReply {
    let mut sum = StatisticsReply::default();
    for node in nodes.values() {
        sum.connections = sum.connections.saturating_add(node.connections);
        sum.connections_opened = sum
            .connections_opened
            .saturating_add(node.connections_opened);
        sum.packets_received = sum.packets_received.saturating_add(node.packets_received);
        sum.packets_sent = sum.packets_sent.saturating_add(node.packets_sent);
        sum.publishes_received = sum
            .publishes_received
            .saturating_add(node.publishes_received);
        sum.publishes_sent = sum.publishes_sent.saturating_add(node.publishes_sent);
        sum.messages_dropped = sum.messages_dropped.saturating_add(node.messages_dropped);
        sum.bytes_received = sum.bytes_received.saturating_add(node.bytes_received);
        sum.bytes_sent = sum.bytes_sent.saturating_add(node.bytes_sent);
        sum.transient_subscriptions = sum
            .transient_subscriptions
            .saturating_add(node.transient_subscriptions);
        sum.uptime_s = sum.uptime_s.max(node.uptime_s);
    }
    sum
}

fn describe(broker: &Broker, nodes: &BTreeMap<NodeId, StatisticsReply>, texts: &mut Texts) {
    let Stored {
        sessions,
        disconnected,
        subscriptions,
        retained,
        leaderless,
    } = statistics::stored(broker);
    let sum = sum(nodes);
    let mut say = |topic: String, text: String| {
        texts.insert(format!("{PREFIX}{topic}"), text);
    };
    say(
        "broker/version".to_owned(),
        format!("holdfast {}", version::VERSION),
    );
    say(
        "broker/clients/disconnected".to_owned(),
        disconnected.to_string(),
    );
    say("broker/clients/total".to_owned(), sessions.to_string());
    let all_subscriptions = subscriptions.saturating_add(sum.transient_subscriptions);
    say(
        "broker/subscriptions/count".to_owned(),
        all_subscriptions.to_string(),
    );
    say(
        "broker/retained messages/count".to_owned(),
        retained.to_string(),
    );
    for (topic, text) in of_nodes(&sum) {
        say(format!("broker/{topic}"), text);
    }
    say(
        "cluster/name".to_owned(),
        broker.config.cluster.name.clone(),
    );
    say("cluster/nodes".to_owned(), nodes.len().to_string());
    say(
        "cluster/leaderless_shards".to_owned(),
        leaderless.to_string(),
    );
    for member in broker.members.keys() {
        let up = u8::from(nodes.contains_key(member));
        say(format!("node/{member}/up"), up.to_string());
    }
    for (node, statistics) in nodes {
        for (topic, text) in of_nodes(statistics) {
            say(format!("node/{node}/{topic}"), text);
        }
    }
}

/// What is told of one node, and of all together.
fn of_nodes(statistics: &StatisticsReply) -> [(&'static str, String); 9] {
    [
        ("uptime", format!("{} seconds", statistics.uptime_s)),
        ("clients/connected", statistics.connections.to_string()),
        ("messages/received", statistics.packets_received.to_string()),
        ("messages/sent", statistics.packets_sent.to_string()),
        (
            "publish/messages/received",
            statistics.publishes_received.to_string(),
        ),
        (
            "publish/messages/sent",
            statistics.publishes_sent.to_string(),
        ),
        (
            "publish/messages/dropped",
            statistics.messages_dropped.to_string(),
        ),
        ("bytes/received", statistics.bytes_received.to_string()),
        ("bytes/sent", statistics.bytes_sent.to_string()),
    ]
}

/// Stores and hands on. Returns what is stored.
async fn publish(broker: &Broker, life: &Life, texts: Texts) -> Vec<(String, String)> {
    let Ok(client_id) = ClientId::new(PUBLISHER) else {
        return Vec::new();
    };
    let mut by_shard: BTreeMap<ShardId, Vec<(String, String, Message)>> = BTreeMap::new();
    for (name, text) in texts {
        let Ok(topic) = TopicName::try_from(name.as_str()) else {
            continue;
        };
        let message = Message {
            payload: Bytes::from(text.clone()),
            topic,
            qos: Qos::AtMostOnce,
            retain: true,
            properties: MessageProperties::default(),
        };
        let shard = broker.shard_of_topic(&message.topic);
        by_shard
            .entry(shard)
            .or_default()
            .push((name, text, message));
    }
    let mut stored = Vec::new();
    for (shard, messages) in by_shard {
        let commands: Vec<Command> = messages
            .iter()
            .map(|(_, _, message)| Command::SetRetained {
                client_id: client_id.clone(),
                epoch: None,
                message: message.clone(),
                limits: broker.retained_limits(),
            })
            .collect();
        let answers = match broker.propose_idempotent(shard, &commands).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%shard, %error, "statistics not stored, trying again later");
                continue;
            }
        };
        for ((name, text, message), answer) in messages.into_iter().zip(answers.iter()) {
            if let Response::RetainedSet { version } = answer {
                hand_on(broker, life, &client_id, (&message, *version));
                stored.push((name, text));
            }
        }
    }
    stored
}

/// To connected sessions on all nodes. Nothing waits for it.
fn hand_on(
    broker: &Broker,
    life: &Life,
    publisher: &ClientId,
    (message, version): (&Message, u64),
) {
    let routes = life.routes.route(&message.topic, message.qos);
    for node in routes.nodes {
        if node == broker.node {
            let live_message = LiveMessage {
                message,
                expires_at: None,
                retained_version: Some(version),
                since: None,
            };
            life.registry.deliver(publisher, &live_message);
            continue;
        }
        let Some(link) = life.links.get(&node).filter(|link| !link.is_full()) else {
            continue;
        };
        let message = encode_message(message);
        let bytes = message.len();
        let publish = LivePublish {
            client_id: publisher.as_str().to_owned(),
            epoch: NEVER_FENCED.0,
            message,
            retained_version: Some(version),
        };
        link.send(ItemKind::Publish(publish), bytes, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_broker_publishes_below_sys() {
        for (topic, open) in [
            ("$SYS/broker/version", false),
            ("$SYS/", false),
            ("$SYS", false),
            ("$SYSTEM/x", true),
            ("a/$SYS/b", true),
            ("$other", true),
        ] {
            assert_eq!(
                is_open(&TopicName::try_from(topic).unwrap()),
                open,
                "{topic}"
            );
        }
    }

    #[test]
    fn sums_are_over_the_nodes_that_answer() {
        let node = |bytes_sent, uptime_s| StatisticsReply {
            bytes_sent,
            uptime_s,
            ..StatisticsReply::default()
        };
        let nodes = BTreeMap::from([(NodeId(1), node(3, 9)), (NodeId(2), node(4, 5))]);
        let sum = sum(&nodes);
        assert_eq!((sum.bytes_sent, sum.uptime_s), (7, 9));
    }
}
